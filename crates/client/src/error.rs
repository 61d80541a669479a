//! placeholder
/// Placeholder.
#[derive(Debug)]
pub struct Error;
