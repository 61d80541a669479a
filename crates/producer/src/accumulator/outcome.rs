//! A batch comes back from the transport: settled, sent again, split, or given up.

use super::Accumulator;
use super::batch::ReadyBatch;
use crate::handle::Outcome;
use ottla_client::transport::Produced;
use ottla_client::{Backoff, Error, ErrorKind};
use ottla_types::{ErrorCode, Fate, PublishError, PublishErrorKind, TopicPartition};
use std::fmt;
use std::sync::Arc;
use std::time::Instant;

/// What became of a batch, for the sender.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Completed {
    /// Its records have their result.
    Settled,
    /// It is sent again, perhaps in two halves.
    Again {
        /// Whether the topic's partitions or leaders may have changed.
        refresh: bool,
    },
}

/// The broker's answer gives records offsets that cannot be.
#[derive(Debug, thiserror::Error)]
#[error("{count} records were given the offsets from {base} on")]
struct BadOffsets {
    base: i64,
    count: u32,
}

/// The answer, or an error in place of one whose offsets cannot be: the batch was acknowledged, but
/// by whom and where is not to be believed.
fn checked(produced: Produced, batch: &ReadyBatch) -> Result<Produced, Error> {
    let (count, partition) = (batch.count(), batch.result.partition);
    match produced.base_offset {
        Some(base) if base < 0 || base.checked_add(i64::from(count)).is_none() => {
            let partition = TopicPartition::new(Arc::clone(&batch.result.topic), partition);
            Err(Error::new(ErrorKind::Protocol, "Produce")
                .with_partition(partition)
                .with_fate(Fate::MaybeWritten)
                .with_source(BadOffsets { base, count }))
        }
        _ => Ok(produced),
    }
}

/// A client error as the cause of several records' errors.
#[derive(Debug)]
pub(super) struct Shared(pub(super) Arc<Error>);

impl fmt::Display for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for Shared {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source()
    }
}

/// What a record is told about an error that ends it.
pub(super) fn kind_of(error: &Error) -> PublishErrorKind {
    match error.kind() {
        ErrorKind::UnknownTopic => PublishErrorKind::UnknownTopic,
        ErrorKind::RecordTooLarge => PublishErrorKind::RecordTooLarge,
        ErrorKind::InvalidRecord => PublishErrorKind::InvalidRecord,
        ErrorKind::Closed => PublishErrorKind::Closed,
        ErrorKind::TimedOut => PublishErrorKind::TimedOut,
        ErrorKind::Connect | ErrorKind::ConnectionLost => PublishErrorKind::Unavailable,
        ErrorKind::Broker => match error.code() {
            Some(ErrorCode::INVALID_RECORD | ErrorCode::INVALID_TIMESTAMP) => {
                PublishErrorKind::InvalidRecord
            }
            Some(ErrorCode::INVALID_PRODUCER_EPOCH | ErrorCode::PRODUCER_FENCED) => {
                PublishErrorKind::Fenced
            }
            _ => PublishErrorKind::Refused,
        },
        _ => PublishErrorKind::Refused,
    }
}

/// Whether one record may be to blame, so that the others of its batch can be written without it.
fn blames_a_record(error: &Error) -> bool {
    matches!(
        kind_of(error),
        PublishErrorKind::RecordTooLarge | PublishErrorKind::InvalidRecord
    )
}

/// Whether the attempt may have written the batch. A leader that timed out waiting for its
/// followers, or lost them, has the batch in its own log.
fn fate_of(error: &Error) -> Fate {
    match error.code() {
        Some(ErrorCode::REQUEST_TIMED_OUT | ErrorCode::NOT_ENOUGH_REPLICAS_AFTER_APPEND) => {
            Fate::MaybeWritten
        }
        _ => error.fate(),
    }
}

impl Accumulator {
    /// Takes the result of a batch that [`drain`](Self::drain) gave out.
    pub(crate) fn complete(
        &mut self,
        at: usize,
        batch: ReadyBatch,
        result: Result<Produced, Error>,
        now: Instant,
    ) -> Completed {
        if self.queues[at].in_flight.take().is_none() {
            // Closed meanwhile: its records have their result.
            return Completed::Settled;
        }
        self.effects.work = true;
        match result.and_then(|produced| checked(produced, &batch)) {
            Ok(produced) => {
                self.queues[at].backoff = None;
                self.settle(batch.group(), Outcome::Written(produced));
                Completed::Settled
            }
            Err(error) => self.failed_attempt(at, batch, error, now),
        }
    }

    fn failed_attempt(
        &mut self,
        at: usize,
        mut batch: ReadyBatch,
        error: Error,
        now: Instant,
    ) -> Completed {
        if fate_of(&error) == Fate::MaybeWritten {
            batch.fate = Fate::MaybeWritten;
        }
        if batch.count() > 1 && blames_a_record(&error) {
            return match batch.split() {
                Ok((left, right)) => {
                    let ready = &mut self.queues[at].ready;
                    ready.push_front(right);
                    ready.push_front(left);
                    Completed::Again { refresh: false }
                }
                Err(why) => {
                    self.give_up(&batch, PublishErrorKind::Refused, Some(why));
                    Completed::Settled
                }
            };
        }
        let unknown = error.kind() == ErrorKind::UnknownTopic;
        let sent = batch.sent.unwrap_or(now);
        let since = unknown.then(|| batch.unknown_since.unwrap_or(sent));
        batch.unknown_since = since;
        let gone = since.is_some_and(|since| now >= since + self.config.topic_unknown_timeout);
        if !error.is_retriable() || gone || now >= batch.deadline {
            let kind = if error.is_retriable() && !gone {
                PublishErrorKind::TimedOut
            } else {
                kind_of(&error)
            };
            self.give_up(&batch, kind, Some(Box::new(error)));
            return Completed::Settled;
        }
        let (first, most) = (self.config.retry_backoff, self.config.retry_backoff_max);
        let seed = self.rng.u64(..);
        let queue = &mut self.queues[at];
        let backoff = queue
            .backoff
            .get_or_insert_with(|| Backoff::with_seed(first, most, seed));
        queue.retry_at = Some(now + backoff.next_delay());
        batch.last_error = Some(error);
        queue.ready.push_front(batch);
        Completed::Again { refresh: true }
    }

    /// Gives up what is past its deadline and not in flight.
    pub(crate) fn expire(&mut self, now: Instant) {
        for i in 0..self.active.len() {
            let at = self.active[i];
            let timeout = self.config.delivery_timeout;
            while self.queues[at].deadline(timeout).is_some_and(|d| d <= now) {
                if self.queues[at].ready.is_empty() {
                    self.close_open(at);
                }
                if let Some(mut batch) = self.queues[at].ready.pop_front() {
                    let cause = batch.last_error.take().map(|e| Box::new(e) as _);
                    self.give_up(&batch, PublishErrorKind::TimedOut, cause);
                }
            }
        }
        if self.waiting > 0 {
            self.expire_waiting(now);
        }
    }

    fn expire_waiting(&mut self, now: Instant) {
        let (delivery, unknown) = self.waiting_limits();
        let late =
            |topic: &super::Topic| topic.deadline(delivery, unknown).is_some_and(|d| d <= now);
        let names: Vec<_> = self
            .topics
            .iter()
            .filter(|(_, topic)| late(topic))
            .map(|(name, _)| Arc::clone(name))
            .collect();
        for name in names {
            while let Some(topic) = self.topics.get_mut(&name)
                && late(topic)
                && let Some(held) = topic.waiting.pop_front()
            {
                self.fail_waiting(&name, held, None);
            }
        }
    }

    fn give_up(
        &mut self,
        batch: &ReadyBatch,
        kind: PublishErrorKind,
        cause: Option<Box<dyn std::error::Error + Send + Sync>>,
    ) {
        let error = PublishError::new(kind, batch.fate, Arc::clone(&batch.result.topic));
        let error = match cause {
            Some(cause) => error.with_source(cause),
            None => error,
        };
        self.fail(batch.group(), error);
    }
}
