//! Records on their way out ([`Record`]) and as they were read ([`ConsumedRecord`]).

use crate::{Headers, Offset, TopicPartition};
use bytes::Bytes;
use serde::Serialize;
use std::sync::Arc;

/// A record to be written. Null and empty keys and values are different things.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The topic to write to.
    pub topic: Arc<str>,
    /// The partition, if the caller chooses it; otherwise the partitioner does.
    pub partition: Option<i32>,
    /// The key; `None` is null.
    pub key: Option<Bytes>,
    /// The value; `None` is null, a tombstone in a compacted topic.
    pub value: Option<Bytes>,
    /// The headers, in order.
    pub headers: Headers,
    /// Milliseconds since the Unix epoch; `None` lets the producer take the time of the call.
    pub timestamp_ms: Option<i64>,
}

impl Record {
    /// An empty record for `topic`: null key, null value, no headers.
    pub fn new(topic: impl Into<Arc<str>>) -> Self {
        Self {
            topic: topic.into(),
            partition: None,
            key: None,
            value: None,
            headers: Headers::new(),
            timestamp_ms: None,
        }
    }

    /// Sets the key.
    #[must_use]
    pub fn key(mut self, key: impl Into<Bytes>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// Sets the value.
    #[must_use]
    pub fn value(mut self, value: impl Into<Bytes>) -> Self {
        self.value = Some(value.into());
        self
    }

    /// Sets the value to `value` as JSON.
    ///
    /// # Errors
    /// Where `value` has no JSON form, such as a map whose keys are no text.
    pub fn json<T: Serialize + ?Sized>(self, value: &T) -> Result<Self, serde_json::Error> {
        Ok(self.value(serde_json::to_vec(value)?))
    }

    /// Adds a header.
    #[must_use]
    pub fn header(mut self, key: impl Into<String>, value: impl Into<Bytes>) -> Self {
        self.headers.push(key, Some(value.into()));
        self
    }

    /// Chooses the partition.
    #[must_use]
    pub fn partition(mut self, partition: i32) -> Self {
        self.partition = Some(partition);
        self
    }

    /// Sets the timestamp, in milliseconds since the Unix epoch.
    #[must_use]
    pub fn timestamp_ms(mut self, timestamp_ms: i64) -> Self {
        self.timestamp_ms = Some(timestamp_ms);
        self
    }

    /// The bytes of key, value and headers together: what the record weighs in a buffer.
    pub fn size(&self) -> usize {
        self.key.as_ref().map_or(0, Bytes::len)
            + self.value.as_ref().map_or(0, Bytes::len)
            + self.headers.size()
    }
}

/// A record to be written that borrows what it carries. The producer copies keys, values and headers
/// into a batch within the call, so nothing has to be owned or counted for it; only a record whose
/// topic's partitions are not known yet is copied to wait for them.
///
/// ```
/// use ottla_types::{AsRecord, RecordRef};
/// use std::sync::Arc;
///
/// let topic: Arc<str> = "orders".into();
/// let line = b"order-1;paid".as_slice();
/// let record = RecordRef::new(&topic).key(&line[..7]).value(&line[8..]);
/// assert_eq!(record.to_record().key.unwrap(), "order-1");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordRef<'a> {
    /// The topic to write to. Shared, because results name it.
    pub topic: &'a Arc<str>,
    /// The partition, if the caller chooses it; otherwise the partitioner does.
    pub partition: Option<i32>,
    /// The key; `None` is null.
    pub key: Option<&'a [u8]>,
    /// The value; `None` is null, a tombstone in a compacted topic.
    pub value: Option<&'a [u8]>,
    /// The headers, in order.
    pub headers: &'a Headers,
    /// Milliseconds since the Unix epoch; `None` lets the producer take the time of the call.
    pub timestamp_ms: Option<i64>,
}

impl<'a> RecordRef<'a> {
    /// An empty record for `topic`: null key, null value, no headers.
    #[inline]
    pub fn new(topic: &'a Arc<str>) -> Self {
        Self {
            topic,
            partition: None,
            key: None,
            value: None,
            headers: const { &Headers::new() },
            timestamp_ms: None,
        }
    }

    /// Sets the key.
    #[inline]
    #[must_use]
    pub fn key(mut self, key: &'a (impl AsRef<[u8]> + ?Sized)) -> Self {
        self.key = Some(key.as_ref());
        self
    }

    /// Sets the value.
    #[inline]
    #[must_use]
    pub fn value(mut self, value: &'a (impl AsRef<[u8]> + ?Sized)) -> Self {
        self.value = Some(value.as_ref());
        self
    }

    /// Sets the headers.
    #[inline]
    #[must_use]
    pub fn headers(mut self, headers: &'a Headers) -> Self {
        self.headers = headers;
        self
    }

    /// Chooses the partition.
    #[inline]
    #[must_use]
    pub fn partition(mut self, partition: i32) -> Self {
        self.partition = Some(partition);
        self
    }

    /// Sets the timestamp, in milliseconds since the Unix epoch.
    #[inline]
    #[must_use]
    pub fn timestamp_ms(mut self, timestamp_ms: i64) -> Self {
        self.timestamp_ms = Some(timestamp_ms);
        self
    }

    /// The bytes of key, value and headers together, as [`Record::size`].
    pub fn size(&self) -> usize {
        self.key.map_or(0, <[u8]>::len) + self.value.map_or(0, <[u8]>::len) + self.headers.size()
    }
}

/// What a producer takes: a [`Record`] or a [`RecordRef`], or a reference to one.
///
/// Producers call it under their lock, so it cannot be implemented elsewhere.
pub trait AsRecord: sealed::Sealed + Send + Sync {
    /// What is to be written.
    fn as_record(&self) -> RecordRef<'_>;

    /// The same, to be kept.
    fn to_record(&self) -> Record;
}

mod sealed {
    pub trait Sealed {}

    impl Sealed for super::Record {}
    impl Sealed for super::RecordRef<'_> {}
    impl<R: Sealed> Sealed for &R {}
}

impl AsRecord for Record {
    #[inline]
    fn as_record(&self) -> RecordRef<'_> {
        RecordRef {
            topic: &self.topic,
            partition: self.partition,
            key: self.key.as_deref(),
            value: self.value.as_deref(),
            headers: &self.headers,
            timestamp_ms: self.timestamp_ms,
        }
    }

    fn to_record(&self) -> Record {
        self.clone()
    }
}

impl AsRecord for RecordRef<'_> {
    #[inline]
    fn as_record(&self) -> RecordRef<'_> {
        *self
    }

    /// Copies key and value.
    fn to_record(&self) -> Record {
        Record {
            topic: Arc::clone(self.topic),
            partition: self.partition,
            key: self.key.map(Bytes::copy_from_slice),
            value: self.value.map(Bytes::copy_from_slice),
            headers: self.headers.clone(),
            timestamp_ms: self.timestamp_ms,
        }
    }
}

impl<R: AsRecord> AsRecord for &R {
    #[inline]
    fn as_record(&self) -> RecordRef<'_> {
        (**self).as_record()
    }

    fn to_record(&self) -> Record {
        (**self).to_record()
    }
}

/// Where a record was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordMetadata {
    /// The topic.
    pub topic: Arc<str>,
    /// The partition.
    pub partition: i32,
    /// The offset; `None` when the broker does not tell it (`acks=none`, or a duplicate of a batch
    /// that it already had).
    pub offset: Option<Offset>,
    /// The record's timestamp in milliseconds: the broker's if the topic uses `LogAppendTime`.
    pub timestamp_ms: i64,
}

/// Who set a record's timestamp (`message.timestamp.type`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum TimestampType {
    /// The producer.
    #[default]
    CreateTime,
    /// The broker, when it appended the record.
    LogAppendTime,
}

/// A record as it was read from a partition. Cloning shares key, value and headers' bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsumedRecord {
    /// The topic.
    pub topic: Arc<str>,
    /// The partition.
    pub partition: i32,
    /// The offset within the partition.
    pub offset: Offset,
    /// The epoch of the leader that wrote the batch, if the transport knows it (KIP-320).
    pub leader_epoch: Option<i32>,
    /// Milliseconds since the Unix epoch; -1 where the producer set none.
    pub timestamp_ms: i64,
    /// Who set the timestamp.
    pub timestamp_type: TimestampType,
    /// The key; `None` is null.
    pub key: Option<Bytes>,
    /// The value; `None` is null.
    pub value: Option<Bytes>,
    /// The headers, in order.
    pub headers: Headers,
}

impl ConsumedRecord {
    /// The partition that the record came from.
    pub fn topic_partition(&self) -> TopicPartition {
        TopicPartition {
            topic: self.topic.clone(),
            partition: self.partition,
        }
    }

    /// The bytes of key, value and headers together.
    pub fn size(&self) -> usize {
        self.key.as_ref().map_or(0, Bytes::len)
            + self.value.as_ref().map_or(0, Bytes::len)
            + self.headers.size()
    }

    /// The same key, value and headers as a new record for `topic`; the timestamp and partition are
    /// left for the producer to set.
    pub fn to_record(&self, topic: impl Into<Arc<str>>) -> Record {
        Record {
            topic: topic.into(),
            partition: None,
            key: self.key.clone(),
            value: self.value.clone(),
            headers: self.headers.clone(),
            timestamp_ms: None,
        }
    }
}
