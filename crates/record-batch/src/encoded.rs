//! [`EncodedBatch`]: one batch, ready to be sent as often as needed.

use crate::header::{self, Header};
use crate::set::RecordSet;
use bytes::{Bytes, BytesMut};

/// One batch on its way out: base offset 0, checksum valid. Cloning shares the bytes.
#[derive(Debug, Clone)]
pub struct EncodedBatch {
    bytes: Bytes,
    header: Header,
    records_crc: u32,
}

impl EncodedBatch {
    pub(crate) fn new(bytes: Bytes, header: Header, records_crc: u32) -> Self {
        Self {
            bytes,
            header,
            records_crc,
        }
    }

    /// The batch as it goes on the wire.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// How many records the batch holds.
    pub fn record_count(&self) -> u32 {
        self.header.count as u32
    }

    /// The highest timestamp of its records, in milliseconds; -1 if they have none.
    pub fn max_timestamp_ms(&self) -> i64 {
        self.header.max_timestamp
    }

    /// The batch as a record set, to be read.
    pub fn into_record_set(self) -> RecordSet {
        RecordSet::from(self.bytes)
    }

    /// The same batch with an idempotent producer's id, epoch and first sequence (KIP-98). The
    /// records are neither copied (unless the bytes are shared) nor summed up again.
    #[must_use]
    pub fn with_producer(self, id: i64, epoch: i16, base_sequence: i32) -> Self {
        let mut buf = self
            .bytes
            .try_into_mut()
            .unwrap_or_else(|shared| BytesMut::from(&shared[..]));
        header::put_producer(&mut buf, id, epoch, base_sequence);
        header::put_crc(&mut buf, self.records_crc);
        Self {
            bytes: buf.freeze(),
            header: Header {
                producer_id: id,
                producer_epoch: epoch,
                base_sequence,
                ..self.header
            },
            records_crc: self.records_crc,
        }
    }
}
