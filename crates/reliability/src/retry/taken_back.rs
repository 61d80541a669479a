//! [`TakenBack`]: failures whose attempt had published into its transaction.
//!
//! What the attempt published must not count, so the transaction is aborted and the record comes
//! again. Its failure is known by then: it is not tried a second time, but copied to its retry or
//! dead letter topic at once, in whichever transaction is committed in the end. A failure that is
//! forgotten (a crash, another owner) only means another attempt.

use ottla_consumer::HandlerError;
use ottla_types::{ConsumedRecord, Offset, TopicPartition};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Failures that are kept: those of records that may be part of an open transaction.
const KEPT_MAX: usize = 1024;

#[derive(Debug, Default)]
pub(super) struct TakenBack(Mutex<HashMap<(TopicPartition, Offset), Arc<HandlerError>>>);

impl TakenBack {
    /// Keeps the failure for when the record comes again.
    pub(super) fn keep(&self, record: &ConsumedRecord, error: HandlerError) {
        let mut kept = self.lock();
        if kept.len() >= KEPT_MAX {
            // Of records that have gone their way, most of them.
            kept.clear();
        }
        kept.insert((record.topic_partition(), record.offset), Arc::new(error));
    }

    /// The failure that the record had.
    pub(super) fn of(&self, record: &ConsumedRecord) -> Option<Arc<HandlerError>> {
        let kept = self.lock();
        if kept.is_empty() {
            return None;
        }
        kept.get(&(record.topic_partition(), record.offset))
            .cloned()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<(TopicPartition, Offset), Arc<HandlerError>>> {
        // Changed by single calls.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
