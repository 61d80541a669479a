//! [`EncodedBatch`]: one batch, ready to be sent as often as needed.

use crate::codec::Compressor;
use crate::compression::Compression;
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

    /// How the records are compressed.
    pub fn compression(&self) -> Compression {
        // The header is of our making.
        Compression::from_attributes(self.header.attributes).unwrap_or_default()
    }

    /// The same batch with its records compressed, for a caller that learns the codec after the
    /// batch was finished; [`BatchBuilder::finish_with`](crate::BatchBuilder::finish_with) sums the
    /// records up only once. A batch that is compressed already, or would not get smaller, stays as
    /// it is. The records are copied first if the bytes are shared.
    #[must_use]
    pub fn compressed(self, compressor: &mut Compressor) -> Self {
        if self.compression() != Compression::None || compressor.compression() == Compression::None
        {
            return self;
        }
        let mut buf = into_mut(self.bytes);
        let compression = compressor.compress_records(&mut buf);
        if compression == Compression::None {
            return Self {
                bytes: buf.freeze(),
                ..self
            };
        }
        let mut header = self.header;
        header.attributes |= compression.bits();
        let records_crc = header.write(&mut buf);
        Self::new(buf.freeze(), header, records_crc)
    }

    /// The batch as a record set, to be read.
    pub fn into_record_set(self) -> RecordSet {
        RecordSet::from(self.bytes)
    }

    /// The same batch with an idempotent producer's id, epoch and first sequence (KIP-98). The
    /// records are neither copied (unless the bytes are shared) nor summed up again.
    #[must_use]
    pub fn with_producer(self, id: i64, epoch: i16, base_sequence: i32) -> Self {
        let mut buf = into_mut(self.bytes);
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

/// The bytes to be changed: themselves if nobody shares them, else a copy.
fn into_mut(bytes: Bytes) -> BytesMut {
    bytes
        .try_into_mut()
        .unwrap_or_else(|shared| BytesMut::from(&shared[..]))
}
