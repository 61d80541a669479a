//! [`TakenBack`]: failures whose attempt had published into its transaction.
//!
//! What the attempt published must not count, so the transaction is aborted and the record comes
//! again. Its failure is known by then: it is not tried a second time, but copied to its retry or
//! dead letter topic at once, in whichever transaction is committed in the end.
//!
//! A failure is needed until the transaction with the copy is committed. Nobody tells when that is,
//! so failures go when nobody has asked for them for [`KEPT_FOR`], and the one that was asked for
//! least recently when there are too many. Nothing is lost by that: the record is handed over all the
//! same, and a failure that is forgotten (also by a crash, or with another owner) means another
//! attempt, whose outputs count in place of those that were taken back. What must not be is that a
//! record is taken for another one: after its topic was made anew an offset stands for another
//! record, hence the timestamp.

use ottla_consumer::HandlerError;
use ottla_types::{ConsumedRecord, Offset, TopicPartition};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// Failures that are kept at most. An aborted transaction is followed by one of a single record, so
/// even with fewer than an open transaction has records each of them gets on.
const KEPT_MAX: usize = 1024;
/// More than a transaction can last (brokers allow 15 minutes) with the back-off after it.
const KEPT_FOR: Duration = Duration::from_secs(20 * 60);

#[derive(Debug, Default)]
pub(super) struct TakenBack(Mutex<HashMap<Key, Kept>>);

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    partition: TopicPartition,
    offset: Offset,
    timestamp_ms: i64,
}

impl Key {
    fn of(record: &ConsumedRecord) -> Self {
        Self {
            partition: record.topic_partition(),
            offset: record.offset,
            timestamp_ms: record.timestamp_ms,
        }
    }
}

#[derive(Debug)]
struct Kept {
    error: Arc<HandlerError>,
    asked_for: Instant,
}

impl TakenBack {
    /// Keeps the failure for when the record comes again.
    pub(super) fn keep(&self, record: &ConsumedRecord, error: HandlerError) {
        let now = Instant::now();
        let mut all = self.lock();
        all.retain(|_, kept| now.duration_since(kept.asked_for) < KEPT_FOR);
        if all.len() >= KEPT_MAX {
            let oldest = all.iter().min_by_key(|(_, kept)| kept.asked_for);
            if let Some(oldest) = oldest.map(|(key, _)| key.clone()) {
                all.remove(&oldest);
            }
        }
        let kept = Kept {
            error: Arc::new(error),
            asked_for: now,
        };
        all.insert(Key::of(record), kept);
    }

    /// The failure that the record had.
    pub(super) fn of(&self, record: &ConsumedRecord) -> Option<Arc<HandlerError>> {
        let mut all = self.lock();
        if all.is_empty() {
            return None;
        }
        let kept = all.get_mut(&Key::of(record))?;
        kept.asked_for = Instant::now();
        Some(kept.error.clone())
    }

    /// The record is to be tried again.
    pub(super) fn forget(&self, record: &ConsumedRecord) {
        self.lock().remove(&Key::of(record));
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Kept>> {
        // Changed by single calls.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ottla_types::{Headers, TimestampType};

    fn record(offset: Offset, timestamp_ms: i64) -> ConsumedRecord {
        ConsumedRecord {
            topic: "t".into(),
            partition: 0,
            offset,
            leader_epoch: None,
            timestamp_ms,
            timestamp_type: TimestampType::CreateTime,
            key: None,
            value: None,
            headers: Headers::new(),
        }
    }

    fn failure() -> HandlerError {
        HandlerError::transient("Down", "not now")
    }

    #[test]
    fn a_failure_is_that_of_one_record_also_when_its_topic_is_made_anew() {
        let kept = TakenBack::default();
        kept.keep(&record(5, 1), failure());
        assert_eq!(kept.of(&record(5, 1)).unwrap().class(), "Down");
        assert!(kept.of(&record(5, 2)).is_none() && kept.of(&record(6, 1)).is_none());
        kept.forget(&record(5, 1));
        assert!(kept.of(&record(5, 1)).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn what_nobody_asks_for_any_more_goes() {
        let kept = TakenBack::default();
        kept.keep(&record(1, 0), failure());
        kept.keep(&record(2, 0), failure());
        tokio::time::advance(KEPT_FOR / 2).await;
        assert!(kept.of(&record(2, 0)).is_some());
        tokio::time::advance(KEPT_FOR / 2).await;
        kept.keep(&record(3, 0), failure());
        assert!(kept.of(&record(1, 0)).is_none() && kept.of(&record(2, 0)).is_some());
        assert_eq!(kept.lock().len(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn of_too_many_the_one_that_was_asked_for_least_recently_goes() {
        let kept = TakenBack::default();
        for offset in 0..KEPT_MAX as Offset {
            kept.keep(&record(offset, 0), failure());
            tokio::time::advance(Duration::from_millis(1)).await;
        }
        assert!(kept.of(&record(0, 0)).is_some());
        kept.keep(&record(-1, 0), failure());
        assert_eq!(kept.lock().len(), KEPT_MAX);
        assert!(kept.of(&record(1, 0)).is_none());
        assert!(
            [0, 2, -1]
                .iter()
                .all(|at| kept.of(&record(*at, 0)).is_some())
        );
    }
}
