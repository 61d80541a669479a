//! A producer with faults, and waiting with a limit.

#![allow(dead_code, reason = "each test file uses a part")]

use ottla_store::{MemoryOutbox, OutboxStore};
use ottla_types::{
    BoxFuture, Delivery, Fate, Publish, PublishError, PublishErrorKind, Record, RecordMetadata,
};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::watch;

/// What happens to one record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It is written and acknowledged.
    None,
    /// It is not written, and the error says so.
    Fails(PublishErrorKind),
    /// It is written, and the answer is lost.
    MaybeWritten,
    /// It is neither written nor answered.
    Hangs,
    /// It is acknowledged some turns of the runtime later.
    Slow(u8),
}

/// Writes to a list; takes a fault from a script for each record, and one for each topic.
#[derive(Clone, Default)]
pub(crate) struct FakeProducer(Arc<Inner>);

#[derive(Default)]
struct Inner {
    log: Mutex<Vec<Record>>,
    script: Mutex<VecDeque<Fault>>,
    by_topic: Mutex<Vec<(String, Fault)>>,
    written: watch::Sender<usize>,
}

impl FakeProducer {
    pub(crate) fn scripted(faults: impl IntoIterator<Item = Fault>) -> Self {
        let producer = Self::default();
        producer.0.script.lock().expect("no panic").extend(faults);
        producer
    }

    /// From now on, records for `topic` meet `fault`.
    pub(crate) fn topic_fault(&self, topic: &str, fault: Fault) {
        let mut by_topic = self.0.by_topic.lock().expect("no panic");
        by_topic.retain(|(t, _)| t != topic);
        by_topic.push((topic.to_owned(), fault));
    }

    pub(crate) fn log(&self) -> Vec<Record> {
        self.0.log.lock().expect("no panic").clone()
    }

    /// The values in the order in which they were written.
    pub(crate) fn values(&self) -> Vec<String> {
        self.log().iter().map(value).collect()
    }

    pub(crate) async fn wait_for_written(&self, records: usize) {
        let mut written = self.0.written.subscribe();
        let wait = written.wait_for(|count| *count >= records);
        let waited = tokio::time::timeout(Duration::from_secs(10), wait).await;
        waited.expect("written in time").expect("the sender lives");
    }

    fn write(&self, record: &Record) {
        let mut log = self.0.log.lock().expect("no panic");
        log.push(record.clone());
        self.0.written.send_replace(log.len());
    }
}

impl Publish for FakeProducer {
    fn enqueue(&self, record: Record) -> Delivery {
        let by_topic = self.0.by_topic.lock().expect("no panic");
        let of_topic = by_topic.iter().find(|(topic, _)| **topic == *record.topic);
        let fault = match of_topic {
            Some((_, fault)) => *fault,
            None => self
                .0
                .script
                .lock()
                .expect("no panic")
                .pop_front()
                .unwrap_or(Fault::None),
        };
        drop(by_topic);
        let topic = record.topic.clone();
        let failed = |kind, fate| Delivery::failed(PublishError::new(kind, fate, topic.clone()));
        let turns = match fault {
            Fault::None => 0,
            Fault::Slow(turns) => turns,
            Fault::Fails(kind) => return failed(kind, Fate::NotWritten),
            Fault::MaybeWritten => {
                self.write(&record);
                return failed(PublishErrorKind::TimedOut, Fate::MaybeWritten);
            }
            Fault::Hangs => return Delivery::new(std::future::pending()),
        };
        self.write(&record);
        let metadata = RecordMetadata {
            topic: record.topic,
            partition: 0,
            offset: None,
            timestamp_ms: record.timestamp_ms.unwrap_or(-1),
        };
        Delivery::new(async move {
            for _ in 0..turns {
                tokio::task::yield_now().await;
            }
            Ok(metadata)
        })
    }

    fn ready(&self, _size: usize) -> BoxFuture<'_, Result<(), PublishError>> {
        Box::pin(std::future::ready(Ok(())))
    }
}

pub(crate) fn value(record: &Record) -> String {
    String::from_utf8_lossy(record.value.as_deref().unwrap_or_default()).into_owned()
}

/// Commits one row.
pub(crate) fn add(outbox: &MemoryOutbox, topic: &str, key: &str, value: &str) {
    let mut transaction = outbox.begin();
    let record = Record::new(topic)
        .key(key.to_owned())
        .value(value.to_owned());
    outbox.enqueue(&mut transaction, record);
    outbox.commit(transaction).expect("there is room");
}

/// Waits until the outbox has `pending` pending rows.
pub(crate) async fn wait_for_pending(store: &dyn OutboxStore, pending: u64) {
    let wait = async {
        while store.counts().await.expect("counts").pending != pending {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    let waited = tokio::time::timeout(Duration::from_secs(10), wait).await;
    waited.expect("the backlog comes to what was expected");
}
