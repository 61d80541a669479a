//! What a test sees of the logs: decoded records and whole batches.

use bytes::Bytes;

/// One record as it stands in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MockRecord {
    /// The partition.
    pub partition: i32,
    /// The offset.
    pub offset: i64,
    /// Milliseconds since 1970: the producer's, or the broker's under `LogAppendTime`.
    pub timestamp_ms: i64,
    /// The key.
    pub key: Option<Bytes>,
    /// The value.
    pub value: Option<Bytes>,
    /// The headers in their order; a key that is no UTF-8 has its bad bytes replaced.
    pub headers: Vec<(String, Option<Bytes>)>,
}

impl MockRecord {
    /// The value of the last header of this name; `None` when there is none or it is null.
    pub fn header(&self, name: &str) -> Option<&[u8]> {
        self.headers
            .iter()
            .rev()
            .find(|(key, _)| key == name)?
            .1
            .as_deref()
    }

    /// The key as text, bad bytes replaced; `None` when it is null.
    pub fn key_text(&self) -> Option<String> {
        self.key
            .as_deref()
            .map(|key| String::from_utf8_lossy(key).into_owned())
    }

    /// The value as text, bad bytes replaced; `None` when it is null.
    pub fn value_text(&self) -> Option<String> {
        self.value
            .as_deref()
            .map(|value| String::from_utf8_lossy(value).into_owned())
    }
}

/// One batch as it stands in the log, compressed or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MockBatch {
    /// The offset of its first record.
    pub base_offset: i64,
    /// The offset of its last record.
    pub last_offset: i64,
    /// How many records it holds, as its header says.
    pub record_count: i32,
    /// The codec bits: 0 none, 1 gzip, 2 snappy, 3 lz4, 4 zstd.
    pub codec: u8,
    /// The idempotent producer, or -1.
    pub producer_id: i64,
    /// The producer's epoch, or -1.
    pub producer_epoch: i16,
    /// The sequence of the first record, or -1.
    pub base_sequence: i32,
    /// The leader epoch under which it was appended.
    pub leader_epoch: i32,
    /// Whether it belongs to a transaction.
    pub is_transactional: bool,
    /// For a transaction's marker, whether it commits; `None` for data.
    pub marker: Option<bool>,
    /// The whole batch.
    pub bytes: Bytes,
}
