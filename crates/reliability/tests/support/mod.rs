//! A producer that keeps what it is given, and records as a consumer sees them.

#![allow(dead_code, reason = "each test file uses a part")]

use ottla_consumer::{Context, HandlerError, Outcome};
use ottla_types::{
    BoxFuture, ConsumedRecord, Delivery, Fate, Headers, Publish, PublishError, PublishErrorKind,
    Record, RecordMetadata, TimestampType,
};
use std::sync::{Arc, Mutex};

/// Keeps records, unless their topic is broken or they are too large.
#[derive(Clone, Default)]
pub(crate) struct FakeProducer(Arc<Inner>);

#[derive(Default)]
struct Inner {
    log: Mutex<Vec<Record>>,
    broken: Mutex<Vec<(String, PublishErrorKind)>>,
    max_bytes: Mutex<Option<usize>>,
}

impl FakeProducer {
    pub(crate) fn arc(&self) -> Arc<dyn Publish> {
        Arc::new(self.clone())
    }

    /// Records for topics that contain `part` fail with `kind`.
    pub(crate) fn breaks(&self, part: &str, kind: PublishErrorKind) {
        let mut broken = self.0.broken.lock().expect("no panic");
        broken.push((part.to_owned(), kind));
    }

    pub(crate) fn heals(&self) {
        self.0.broken.lock().expect("no panic").clear();
    }

    pub(crate) fn max_bytes(&self, bytes: usize) {
        *self.0.max_bytes.lock().expect("no panic") = Some(bytes);
    }

    pub(crate) fn take(&self) -> Vec<Record> {
        std::mem::take(&mut *self.0.log.lock().expect("no panic"))
    }

    /// The one record that was published since the last look.
    pub(crate) fn only(&self) -> Record {
        let mut records = self.take();
        assert_eq!(records.len(), 1, "{records:?}");
        records.remove(0)
    }

    fn refusal(&self, record: &Record) -> Option<PublishErrorKind> {
        let max_bytes = *self.0.max_bytes.lock().expect("no panic");
        if max_bytes.is_some_and(|max| record.size() > max) {
            return Some(PublishErrorKind::RecordTooLarge);
        }
        let broken = self.0.broken.lock().expect("no panic");
        let found = broken.iter().find(|(part, _)| record.topic.contains(part));
        found.map(|(_, kind)| *kind)
    }
}

impl Publish for FakeProducer {
    fn enqueue(&self, record: Record) -> Delivery {
        if let Some(kind) = self.refusal(&record) {
            return Delivery::failed(PublishError::new(kind, Fate::NotWritten, record.topic));
        }
        let metadata = RecordMetadata {
            topic: record.topic.clone(),
            partition: 0,
            offset: Some(0),
            timestamp_ms: record.timestamp_ms.unwrap_or(0),
        };
        self.0.log.lock().expect("no panic").push(record);
        Delivery::new(async move { Ok(metadata) })
    }

    fn ready(&self, _size: usize) -> BoxFuture<'_, Result<(), PublishError>> {
        Box::pin(std::future::ready(Ok(())))
    }
}

pub(crate) fn context() -> Context {
    Context::new("sms", "member-1")
}

/// A record with key `k`, value `v` and header `h`.
pub(crate) fn record(topic: &str, offset: i64, timestamp_ms: i64) -> ConsumedRecord {
    ConsumedRecord {
        topic: topic.into(),
        partition: 3,
        offset,
        leader_epoch: None,
        timestamp_ms,
        timestamp_type: TimestampType::CreateTime,
        key: Some("k".into()),
        value: Some("v".into()),
        headers: Headers::new().with("h", "1"),
    }
}

/// What was published, as it is read back at `timestamp_ms`.
pub(crate) fn read_back(record: &Record, offset: i64, timestamp_ms: i64) -> ConsumedRecord {
    ConsumedRecord {
        topic: record.topic.clone(),
        partition: 0,
        offset,
        leader_epoch: None,
        timestamp_ms: record.timestamp_ms.unwrap_or(timestamp_ms),
        timestamp_type: TimestampType::CreateTime,
        key: record.key.clone(),
        value: record.value.clone(),
        headers: record.headers.clone(),
    }
}

pub(crate) fn header<'a>(record: &'a Record, name: &str) -> Option<&'a str> {
    let named = record.headers.iter().filter(|h| h.key == name.as_bytes());
    assert!(named.count() <= 1, "{name} occurs twice");
    record.headers.last_str(name)
}

pub(crate) fn is_done(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Done)
}

pub(crate) fn failed(outcome: Outcome) -> HandlerError {
    match outcome {
        Outcome::Failed(error) => error,
        other => panic!("expected a failure, found {other:?}"),
    }
}
