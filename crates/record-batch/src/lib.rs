//! placeholder
/// Placeholder.
#[derive(Debug, Clone)]
pub struct EncodedBatch;
/// Placeholder.
#[derive(Debug, Clone)]
pub struct RecordSet;
