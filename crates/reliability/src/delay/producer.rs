//! Sending a record later.

use super::levels::{DelayLevel, DelayLevels};
use crate::durations::millis;
use ottla_store::{SystemClock, ensure_message_id};
use ottla_types::{Clock, Publish, PublishError, Record, RecordMetadata, names};
use std::sync::Arc;
use std::time::Duration;

/// Writes records to delay topics. The service that forwards them
/// ([`DelayForwarder`](super::DelayForwarder)) must have the same levels.
#[derive(Clone)]
pub struct DelayProducer {
    publish: Arc<dyn Publish>,
    levels: DelayLevels,
    clock: Arc<dyn Clock>,
}

/// A record that was written to a delay topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delayed {
    /// The message's identity, kept on its way to the target.
    pub message_id: String,
    /// When it is due, in milliseconds since the epoch.
    pub due_ms: i64,
    /// Where it stands now.
    pub metadata: RecordMetadata,
}

/// Why a record was not delayed.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum DelayError {
    /// There is no level with this number.
    #[error("no delay level {0}")]
    UnknownLevel(usize),
    /// The record names a partition of its target, which a delay topic cannot keep.
    #[error("a delayed record cannot choose its partition")]
    PartitionChosen,
    /// The delay topic did not take it.
    #[error("the record was not delayed")]
    Publish(#[from] PublishError),
}

impl DelayError {
    /// Whether trying again later can succeed.
    pub fn is_retriable(&self) -> bool {
        matches!(self, Self::Publish(error) if error.is_retriable())
    }
}

impl DelayProducer {
    /// Delays through `publish`, which should be set to `acks=all`.
    pub fn new(publish: Arc<dyn Publish>, levels: DelayLevels) -> Self {
        Self {
            publish,
            levels,
            clock: Arc::new(SystemClock),
        }
    }

    /// Takes the time from `clock`.
    #[must_use]
    pub fn with_clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Sends `record` to its topic after the delay of the level with this number, from 1.
    ///
    /// # Errors
    /// See [`DelayError`].
    pub async fn send(&self, record: Record, level: usize) -> Result<Delayed, DelayError> {
        let found = self.levels.get(level);
        let level = found.ok_or(DelayError::UnknownLevel(level))?;
        self.write(record, level, level.delay()).await
    }

    /// Sends `record` to its topic after `delay`, any time up to the forwarder's limit.
    ///
    /// # Errors
    /// See [`DelayError`].
    pub async fn send_after(&self, record: Record, delay: Duration) -> Result<Delayed, DelayError> {
        let level = self.levels.within(delay);
        let level = level.unwrap_or_else(|| self.levels.shortest());
        self.write(record, level, delay).await
    }

    async fn write(
        &self,
        record: Record,
        level: &DelayLevel,
        delay: Duration,
    ) -> Result<Delayed, DelayError> {
        let now_ms = self.clock.now_ms();
        let due_ms = now_ms.saturating_add(millis(delay));
        let record = address(record, level, delay, now_ms)?;
        let id = record.headers.last_str(names::MESSAGE_ID);
        let message_id = id.unwrap_or_default().to_owned();
        Ok(Delayed {
            message_id,
            due_ms,
            metadata: self.publish.publish(record).await?,
        })
    }
}

/// Turns `record` into one for `level`'s topic, due `delay` after `now_ms`.
pub(super) fn address(
    mut record: Record,
    level: &DelayLevel,
    delay: Duration,
    now_ms: i64,
) -> Result<Record, DelayError> {
    if record.partition.is_some() {
        return Err(DelayError::PartitionChosen);
    }
    let due_ms = now_ms.saturating_add(millis(delay));
    ensure_message_id(&mut record.headers);
    let target = std::mem::replace(&mut record.topic, level.topic().into());
    record.headers.set(names::TARGET_TOPIC, target.to_string());
    record.headers.set(names::NOT_BEFORE, due_ms.to_string());
    record.timestamp_ms = Some(now_ms);
    Ok(record)
}

impl std::fmt::Debug for DelayProducer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DelayProducer")
            .field("levels", &self.levels)
            .finish_non_exhaustive()
    }
}
