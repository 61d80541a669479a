//! [`RecordSet`]: what a fetch brings for one partition.

use crate::encoded::EncodedBatch;
use crate::error::DecodeError;
use crate::header;
use crate::view::BatchView;
use bytes::Bytes;

/// Any number of batches, one after the other; the last one may be cut off. Cloning shares the
/// bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RecordSet(Bytes);

impl RecordSet {
    /// The batches, in order. A last batch that is cut off ends the iteration without an error, as
    /// brokers cut their answers at a number of bytes. The first error ends the iteration.
    pub fn batches(&self) -> Batches {
        Batches {
            rest: self.0.clone(),
        }
    }

    /// The bytes as they came.
    pub fn bytes(&self) -> &Bytes {
        &self.0
    }

    /// Whether there are no bytes at all.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many bytes there are.
    pub fn size(&self) -> usize {
        self.0.len()
    }
}

impl From<Bytes> for RecordSet {
    fn from(bytes: Bytes) -> Self {
        Self(bytes)
    }
}

impl From<EncodedBatch> for RecordSet {
    fn from(batch: EncodedBatch) -> Self {
        batch.into_record_set()
    }
}

/// The batches of a [`RecordSet`].
#[derive(Debug, Clone)]
pub struct Batches {
    rest: Bytes,
}

impl Iterator for Batches {
    type Item = Result<BatchView, DecodeError>;

    fn next(&mut self) -> Option<Self::Item> {
        match header::split(&mut self.rest) {
            Ok(Some((header, records))) => Some(Ok(BatchView::new(header, records))),
            Ok(None) => {
                self.rest = Bytes::new();
                None
            }
            Err(e) => {
                self.rest = Bytes::new();
                Some(Err(e))
            }
        }
    }
}

impl std::iter::FusedIterator for Batches {}
