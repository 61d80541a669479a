//! [`RecordSetBuilder`]: writes record sets with offsets of the caller's choice.

use crate::error::AppendError;
use crate::header::{self, ATTRIBUTE_LOG_APPEND_TIME, BATCH_OVERHEAD, Header};
use crate::record::{self, Content};
use crate::set::RecordSet;
use bytes::BytesMut;
use ottla_types::{Headers, TimestampType};

/// A batch is closed before it would grow above this.
const MAX_BATCH: usize = i32::MAX as usize;

/// Builds a [`RecordSet`] of records that have their offsets already; gaps are allowed. It is for
/// transports that get records decoded, and for tests. The caller bounds how much is pushed.
#[derive(Debug, Default)]
pub struct RecordSetBuilder {
    buf: BytesMut,
    open: Option<Open>,
    last_offset: Option<i64>,
}

/// The batch that takes records now.
#[derive(Debug)]
struct Open {
    start: usize,
    base_offset: i64,
    base_timestamp: i64,
    max_timestamp: i64,
    timestamp_type: TimestampType,
    count: i32,
}

impl RecordSetBuilder {
    /// An empty set.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a record. A new batch begins where the batch before cannot express its offset or
    /// timestamp.
    ///
    /// # Errors
    /// [`AppendError::OffsetOrder`] if `offset` is negative or not above the one before it,
    /// [`AppendError::Overflow`] if the record is too large for the format. The set is unchanged.
    pub fn push(
        &mut self,
        offset: i64,
        timestamp_ms: i64,
        timestamp_type: TimestampType,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &Headers,
    ) -> Result<(), AppendError> {
        if offset < 0 || self.last_offset.is_some_and(|last| offset <= last) {
            return Err(AppendError::OffsetOrder);
        }
        let content = Content {
            key,
            value,
            headers,
        };
        let content_len = content.encoded_len();
        let (largest, _) = record::sizes(content_len, i64::MIN, i64::from(i32::MAX));
        if BATCH_OVERHEAD + largest > MAX_BATCH {
            return Err(AppendError::Overflow);
        }
        let fits = self.open.as_ref().is_some_and(|open| {
            self.buf.len() - open.start + largest <= MAX_BATCH
                && open.timestamp_type == timestamp_type
                && i32::try_from(offset - open.base_offset).is_ok()
                && match timestamp_type {
                    TimestampType::CreateTime => {
                        timestamp_ms.checked_sub(open.base_timestamp).is_some()
                    }
                    TimestampType::LogAppendTime => open.max_timestamp == timestamp_ms,
                }
        });
        if !fits {
            self.seal();
        }
        let open = self.open.get_or_insert_with(|| {
            let start = self.buf.len();
            header::reserve(&mut self.buf);
            Open {
                start,
                base_offset: offset,
                base_timestamp: timestamp_ms,
                max_timestamp: timestamp_ms,
                timestamp_type,
                count: 0,
            }
        });
        open.max_timestamp = open.max_timestamp.max(timestamp_ms);
        open.count += 1;
        let timestamp_delta = timestamp_ms - open.base_timestamp;
        let offset_delta = offset - open.base_offset;
        let (size, body_len) = record::sizes(content_len, timestamp_delta, offset_delta);
        self.buf.reserve(size);
        record::put(
            &mut self.buf,
            content,
            timestamp_delta,
            offset_delta,
            body_len,
        );
        self.last_offset = Some(offset);
        Ok(())
    }

    /// Whether nothing was pushed.
    pub fn is_empty(&self) -> bool {
        self.buf.is_empty()
    }

    /// The bytes so far.
    pub fn size(&self) -> usize {
        self.buf.len()
    }

    /// The set; empty if nothing was pushed.
    pub fn finish(mut self) -> RecordSet {
        self.seal();
        RecordSet::from(self.buf.freeze())
    }

    fn seal(&mut self) {
        let (Some(open), Some(last_offset)) = (self.open.take(), self.last_offset) else {
            return;
        };
        let mut header = Header::plain(
            open.base_offset,
            (last_offset - open.base_offset) as i32,
            open.base_timestamp,
            open.max_timestamp,
            open.count,
        );
        if open.timestamp_type == TimestampType::LogAppendTime {
            header.attributes = ATTRIBUTE_LOG_APPEND_TIME;
        }
        header.write(&mut self.buf[open.start..]);
    }
}
