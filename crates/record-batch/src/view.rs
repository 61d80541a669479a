//! [`BatchView`]: a batch whose header and checksum were checked, and its records.

use crate::codec::{self, DEFAULT_MAX_DECOMPRESSED, Failure};
use crate::compression::Compression;
use crate::error::{DecodeError, Problem};
use crate::header::{
    ATTRIBUTE_CONTROL, ATTRIBUTE_LOG_APPEND_TIME, ATTRIBUTE_TRANSACTIONAL, BATCH_OVERHEAD, Header,
    MIN_RECORD,
};
use crate::parts::Parts;
use crate::record::{Fields, RecordView};
use crate::varint::Reader;
use bytes::Bytes;
use ottla_types::{ConsumedRecord, TimestampType};

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
        match self.plain_records(max_decompressed) {
            Ok(plain) => Records::new(self.header, plain, self.record_count(), -1),
            Err(e) => Records::failed(self.header, e),
        }
    }

    /// The records in [`Parts`]: compressed records are decompressed about `part_bytes` at a time, as
    /// the parts are asked for. So a batch takes no more memory than a part, however large it is; only
    /// what cannot be divided (a record, a raw snappy block, zstd that refers to what lies more than
    /// 2 MiB back, or that has several frames with windows above that) may take more, up to `limit`
    /// bytes.
    pub fn parts(&self, part_bytes: usize, limit: usize) -> Parts {
        Parts::new(self, part_bytes, limit)
    }

    pub(crate) fn header(&self) -> &Header {
        &self.header
    }

    /// The records as they came.
    pub(crate) fn encoded_records(&self) -> &Bytes {
        &self.records
    }

    /// The bytes that the batch takes in its record set.
    pub fn size(&self) -> usize {
        BATCH_OVERHEAD + self.records.len()
    }

    fn plain_records(&self, limit: usize) -> Result<Bytes, DecodeError> {
        let compression = self.compression()?;
        // Compaction leaves batches that have a codec and no bytes.
        if compression == Compression::None || self.records.is_empty() {
            return Ok(self.records.clone());
        }
        let records = codec::decompress(compression, &self.records, limit);
        let records = records.map_err(|failure| self.failure(compression, failure, limit))?;
        self.check_count(records.len())?;
        Ok(records.into())
    }

    /// What the header's check could not see before.
    pub(crate) fn check_count(&self, decompressed: usize) -> Result<(), DecodeError> {
        if self.record_count() as usize > decompressed / MIN_RECORD {
            let problem = Problem::RecordCount;
            return Err(DecodeError::malformed(self.base_offset(), problem));
        }
        Ok(())
    }

    pub(crate) fn failure(
        &self,
        codec: Compression,
        failure: Failure,
        limit: usize,
    ) -> DecodeError {
        let (base_offset, last_offset) = (self.base_offset(), self.last_offset());
        match failure {
            Failure::Unsupported => self.unsupported(codec.bits() as u8),
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
                codec,
            },
        }
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
    plain: Bytes,
    /// Where the next record begins.
    at: usize,
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
    /// `left` records from `plain`, which holds nothing else, with offsets above `above`.
    pub(crate) fn new(header: Header, plain: Bytes, left: u32, above: i64) -> Self {
        Self {
            header,
            plain,
            at: 0,
            state: State::Next { left, above },
        }
    }

    pub(crate) fn failed(header: Header, error: DecodeError) -> Self {
        Self {
            header,
            plain: Bytes::new(),
            at: 0,
            state: State::Failed(error),
        }
    }

    /// Decodes the next record into `record`, whose topic and partition stay as they are; `None` at
    /// the end. It is what [`Iterator::next`] gives, for those who read many records and have room
    /// for them.
    ///
    /// # Errors
    /// Those of the iteration, and of [`RecordView::headers`].
    #[inline]
    pub fn next_into(&mut self, record: &mut ConsumedRecord) -> Option<Result<(), DecodeError>> {
        let fields = match self.advance()? {
            Ok(fields) => fields,
            Err(e) => return Some(Err(e)),
        };
        Some(fields.write_to(&self.plain, &self.header, record))
    }

    /// Finds the next record.
    #[inline]
    fn advance(&mut self) -> Option<Result<Fields, DecodeError>> {
        let (left, above) = match self.state {
            State::Next { left, above } if left > 0 => (left, above),
            State::Next { .. } if self.at == self.plain.len() => return None,
            _ => return self.fail(),
        };
        match self.find(above) {
            Ok(fields) => {
                self.state = State::Next {
                    left: left - 1,
                    above: fields.offset,
                };
                Some(Ok(fields))
            }
            Err(e) => {
                self.state = State::Done;
                Some(Err(e))
            }
        }
    }

    /// The error that nothing is read for.
    #[cold]
    fn fail(&mut self) -> Option<Result<Fields, DecodeError>> {
        match std::mem::replace(&mut self.state, State::Done) {
            State::Done => None,
            State::Failed(e) => Some(Err(e)),
            State::Next { .. } => {
                let problem = Problem::TrailingBytes;
                let base_offset = self.header.base_offset;
                Some(Err(DecodeError::malformed(base_offset, problem)))
            }
        }
    }

    #[inline]
    fn find(&mut self, above: i64) -> Result<Fields, DecodeError> {
        let plain = &self.plain[..];
        let mut reader = Reader(plain.get(self.at..).unwrap_or_default());
        let problem = || DecodeError::malformed(self.header.base_offset, Problem::RecordLength);
        let body = reader.record().ok_or_else(problem)?;
        let end = plain.len() - reader.len();
        let fields = Fields::find(plain, end - body.len()..end, &self.header)?;
        if fields.offset <= above {
            return Err(DecodeError::malformed(fields.offset, Problem::RecordOffset));
        }
        self.at = end;
        Ok(fields)
    }
}

impl Iterator for Records {
    type Item = Result<RecordView, DecodeError>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        match self.advance()? {
            Ok(fields) => Some(Ok(RecordView::new(fields, &self.plain, &self.header))),
            Err(e) => Some(Err(e)),
        }
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
