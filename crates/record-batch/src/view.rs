//! [`BatchView`]: a batch whose header and checksum were checked, and its records.

use crate::codec::{self, DEFAULT_MAX_DECOMPRESSED, Failure};
use crate::compression::Compression;
use crate::error::{DecodeError, Problem};
use crate::header::{
    ATTRIBUTE_CONTROL, ATTRIBUTE_LOG_APPEND_TIME, ATTRIBUTE_TRANSACTIONAL, Header, MIN_RECORD,
};
use crate::record::RecordView;
use crate::varint::Reader;
use bytes::{Buf, Bytes};
use ottla_types::TimestampType;

impl Header {
    pub(crate) fn timestamp_type(&self) -> TimestampType {
        if self.attributes & ATTRIBUTE_LOG_APPEND_TIME == 0 {
            TimestampType::CreateTime
        } else {
            TimestampType::LogAppendTime
        }
    }

    pub(crate) fn leader_epoch(&self) -> Option<i32> {
        (self.leader_epoch >= 0).then_some(self.leader_epoch)
    }
}

/// One batch. Its checksum is right and its header is in itself consistent.
#[derive(Debug, Clone)]
pub struct BatchView {
    header: Header,
    records: Bytes,
}

impl BatchView {
    pub(crate) fn new(header: Header, records: Bytes) -> Self {
        Self { header, records }
    }

    /// The offset that the batch starts with; compaction may have removed the record.
    pub fn base_offset(&self) -> i64 {
        self.header.base_offset
    }

    /// The last offset that the batch covers: reading goes on after it, also when the batch holds
    /// no record.
    pub fn last_offset(&self) -> i64 {
        // Checked when the header was read.
        self.header.base_offset + i64::from(self.header.last_offset_delta)
    }

    /// The epoch of the leader that wrote the batch, if the batch names one.
    pub fn leader_epoch(&self) -> Option<i32> {
        self.header.leader_epoch()
    }

    /// The idempotent producer's id, if the batch has one.
    pub fn producer_id(&self) -> Option<i64> {
        (self.header.producer_id >= 0).then_some(self.header.producer_id)
    }

    /// The idempotent producer's epoch; -1 if the batch has none.
    pub fn producer_epoch(&self) -> i16 {
        self.header.producer_epoch
    }

    /// The first record's sequence; -1 if the batch has none.
    pub fn base_sequence(&self) -> i32 {
        self.header.base_sequence
    }

    /// Whether the batch holds a transaction's marker in place of records.
    pub fn is_control(&self) -> bool {
        self.header.attributes & ATTRIBUTE_CONTROL != 0
    }

    /// Whether the batch is part of a transaction.
    pub fn is_transactional(&self) -> bool {
        self.header.attributes & ATTRIBUTE_TRANSACTIONAL != 0
    }

    /// Who set the records' timestamps.
    pub fn timestamp_type(&self) -> TimestampType {
        self.header.timestamp_type()
    }

    /// The highest timestamp, in milliseconds; with `LogAppendTime` that of every record.
    pub fn max_timestamp_ms(&self) -> i64 {
        self.header.max_timestamp
    }

    /// How many records the header announces; 0 where compaction left none.
    pub fn record_count(&self) -> u32 {
        self.header.count as u32
    }

    /// How the records are compressed.
    ///
    /// # Errors
    /// [`DecodeError::UnsupportedCodec`] if the format does not define the batch's codec.
    pub fn compression(&self) -> Result<Compression, DecodeError> {
        Compression::from_attributes(self.header.attributes)
            .map_err(|codec| self.unsupported(codec))
    }

    /// The records, in order. The first error ends the iteration. Compressed records are
    /// decompressed now, into at most [`DEFAULT_MAX_DECOMPRESSED`] bytes.
    pub fn records(&self) -> Records {
        self.records_within(DEFAULT_MAX_DECOMPRESSED)
    }

    /// The records, in order. The first error ends the iteration. Compressed records are
    /// decompressed now; if they take more than `max_decompressed` bytes, the only item is
    /// [`DecodeError::TooLarge`].
    pub fn records_within(&self, max_decompressed: usize) -> Records {
        let (rest, state) = match self.plain_records(max_decompressed) {
            Ok(rest) => {
                let left = self.record_count();
                (rest, State::Next { left, above: -1 })
            }
            Err(e) => (Bytes::new(), State::Failed(e)),
        };
        Records {
            header: self.header,
            rest,
            state,
        }
    }

    fn plain_records(&self, limit: usize) -> Result<Bytes, DecodeError> {
        let compression = self.compression()?;
        // Compaction leaves batches that have a codec and no bytes.
        if compression == Compression::None || self.records.is_empty() {
            return Ok(self.records.clone());
        }
        let (base_offset, last_offset) = (self.base_offset(), self.last_offset());
        let records = codec::decompress(compression, &self.records, limit);
        let records = records.map_err(|failure| match failure {
            Failure::Unsupported => self.unsupported(compression.bits() as u8),
            Failure::TooLarge => DecodeError::TooLarge {
                base_offset,
                last_offset,
                limit,
            },
            Failure::WindowTooLarge(window) => DecodeError::WindowTooLarge {
                base_offset,
                last_offset,
                window,
            },
            Failure::Corrupt => DecodeError::BadCompression {
                base_offset,
                last_offset,
                codec: compression,
            },
        })?;
        // What the header's check could not see before.
        if self.record_count() as usize > records.len() / MIN_RECORD {
            return Err(DecodeError::malformed(base_offset, Problem::RecordCount));
        }
        Ok(records.into())
    }

    fn unsupported(&self, codec: u8) -> DecodeError {
        DecodeError::UnsupportedCodec {
            base_offset: self.base_offset(),
            last_offset: self.last_offset(),
            codec,
        }
    }
}

/// The records of a [`BatchView`].
#[derive(Debug, Clone)]
pub struct Records {
    header: Header,
    rest: Bytes,
    state: State,
}

#[derive(Debug, Clone, Copy)]
enum State {
    /// So many records are to come, the next one with an offset above this.
    Next {
        left: u32,
        above: i64,
    },
    /// Nothing can be read, and this is why.
    Failed(DecodeError),
    Done,
}

impl Records {
    fn decode(&mut self, above: i64) -> Result<RecordView, DecodeError> {
        let error = |problem| DecodeError::malformed(self.header.base_offset, problem);
        let mut reader = Reader(&self.rest);
        let length = reader
            .varint()
            .and_then(|length| usize::try_from(length).ok())
            .filter(|length| *length <= reader.len())
            .ok_or_else(|| error(Problem::RecordLength))?;
        let prefix = self.rest.len() - reader.len();
        self.rest.advance(prefix);
        let body = self.rest.split_to(length);
        let record = RecordView::decode(&body, &self.header)?;
        if record.offset <= above {
            return Err(DecodeError::malformed(record.offset, Problem::RecordOffset));
        }
        Ok(record)
    }
}

impl Iterator for Records {
    type Item = Result<RecordView, DecodeError>;

    fn next(&mut self) -> Option<Self::Item> {
        let (result, state) = match self.state {
            State::Done => return None,
            State::Failed(e) => (Err(e), State::Done),
            State::Next { left: 0, .. } if self.rest.is_empty() => return None,
            State::Next { left: 0, .. } => (
                Err(DecodeError::malformed(
                    self.header.base_offset,
                    Problem::TrailingBytes,
                )),
                State::Done,
            ),
            State::Next { left, above } => match self.decode(above) {
                Ok(record) => {
                    let above = record.offset;
                    let left = left - 1;
                    (Ok(record), State::Next { left, above })
                }
                Err(e) => (Err(e), State::Done),
            },
        };
        self.state = state;
        Some(result)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        match self.state {
            // One more item where bytes are left over.
            State::Next { left, .. } => (0, Some(left as usize + 1)),
            State::Failed(_) => (1, Some(1)),
            State::Done => (0, Some(0)),
        }
    }
}

impl std::iter::FusedIterator for Records {}
