//! A batch comes back from the transport: settled, sent again, split, or given up.

use super::Accumulator;
use super::batch::ReadyBatch;
use super::sequence::Verdict;
use super::topic::Topic;
use crate::handle::Outcome;
use crate::telemetry::Meters;
use ottla_client::transport::Produced;
use ottla_client::{Backoff, Error, ErrorKind};
use ottla_types::{ErrorCode, Fate, PublishError, PublishErrorKind, TopicPartition};
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

type Cause = Box<dyn std::error::Error + Send + Sync>;

/// What became of a batch, for the sender.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Completed {
    /// It was written, and its records have their result.
    Written(Written),
    /// Its records have failed, here or before.
    Failed,
    /// It is sent again, perhaps in two halves.
    Again {
        partition: TopicPartition,
        /// How often it was sent.
        attempts: u32,
        cause: String,
        /// Whether the topic's partitions or leaders may have changed.
        refresh: bool,
    },
}

/// A batch that was acknowledged.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Written {
    pub(crate) partition: TopicPartition,
    pub(crate) meters: Arc<Meters>,
    pub(crate) records: u32,
    pub(crate) bytes: usize,
    /// Since its first record was enqueued.
    pub(crate) age: Duration,
    /// Since it was sent last.
    pub(crate) request: Duration,
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

/// What the broker's code says about a batch's sequence.
fn sequence_code(error: &Error) -> Option<ErrorCode> {
    error.code().filter(|code| {
        matches!(
            *code,
            ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER
                | ErrorCode::UNKNOWN_PRODUCER_ID
                | ErrorCode::INVALID_PRODUCER_EPOCH
        )
    })
}

impl Accumulator {
    /// Takes the result of a batch that [`drain`](Self::drain) gave out.
    pub(crate) fn complete(
        &mut self,
        token: u64,
        result: Result<Produced, Error>,
        leader_known: bool,
        now: Instant,
    ) -> Completed {
        let (at, serial) = super::dispatch::read_token(token);
        let landed = self.queues.get_mut(at).and_then(|q| q.land(serial));
        let Some(batch) = landed else {
            // Closed meanwhile: its records have their result.
            return Completed::Failed;
        };
        self.in_flight -= 1;
        let completed = self.completed(at, batch, result, leader_known, now);
        let queue = &mut self.queues[at];
        if !queue.is_empty() {
            self.schedule.touch(queue, at);
        }
        if let Completed::Again {
            partition,
            refresh: true,
            ..
        } = &completed
        {
            self.wanted.push(Arc::clone(&partition.topic));
            self.effects.work = true;
        }
        completed
    }

    fn completed(
        &mut self,
        at: usize,
        batch: ReadyBatch,
        result: Result<Produced, Error>,
        leader_known: bool,
        now: Instant,
    ) -> Completed {
        match result.and_then(|produced| checked(produced, &batch)) {
            Ok(produced) => {
                let queue = &mut self.queues[at];
                queue.backoff = None;
                if let Some(base) = batch.sequence {
                    queue.sequences.written(base);
                }
                let written = Written {
                    partition: queue.partition.clone(),
                    meters: Arc::clone(&queue.meters),
                    records: batch.count(),
                    bytes: batch.size(),
                    age: now.saturating_duration_since(batch.opened),
                    request: now.saturating_duration_since(batch.sent.unwrap_or(now)),
                };
                let (group, sealed) = batch.into_parts();
                self.settle(group, Outcome::Written(produced));
                self.keep_buffers(sealed);
                Completed::Written(written)
            }
            Err(error) => self.failed_attempt(at, batch, error, leader_known, now),
        }
    }

    fn failed_attempt(
        &mut self,
        at: usize,
        mut batch: ReadyBatch,
        error: Error,
        leader_known: bool,
        now: Instant,
    ) -> Completed {
        if fate_of(&error) == Fate::MaybeWritten {
            batch.fate = Fate::MaybeWritten;
        }
        let code = sequence_code(&error).filter(|_| self.rules.is_idempotent);
        if let (Some(code), Some(base)) = (code, batch.sequence) {
            return self.misnumbered(at, batch, base, code, error, now);
        }
        if batch.count() > 1 && blames_a_record(&error) {
            return self.split(at, batch, error);
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
            self.give_up(at, batch, kind, Some(Box::new(error)));
            return Completed::Failed;
        }
        if let Some(base) = batch.sequence {
            self.queues[at].sequences.failed(base);
        }
        if !leader_known {
            self.back_off(at, now);
        }
        self.send_again(at, batch, error, true)
    }

    /// The broker refuses the batch's number (codes 45, 47 and 59).
    fn misnumbered(
        &mut self,
        at: usize,
        mut batch: ReadyBatch,
        base: i32,
        code: ErrorCode,
        error: Error,
        now: Instant,
    ) -> Completed {
        if self.rules.transactional {
            // Nothing mends it but an abort.
            self.give_up(at, batch, kind_of(&error), Some(Box::new(error)));
            return Completed::Failed;
        }
        let sequences = &mut self.queues[at].sequences;
        let verdict = if code == ErrorCode::INVALID_PRODUCER_EPOCH {
            sequences.fenced(base);
            let producer = sequences.producer();
            self.abandon_producer(producer);
            Verdict::Again
        } else {
            sequences.refused(base)
        };
        match verdict {
            Verdict::Again => {}
            Verdict::Renumber => {
                batch.fate = Fate::NotWritten;
                self.back_off(at, now);
            }
            Verdict::GiveUp => {
                self.give_up(at, batch, PublishErrorKind::Refused, Some(Box::new(error)));
                return Completed::Failed;
            }
        }
        if now >= batch.deadline {
            self.give_up(at, batch, PublishErrorKind::TimedOut, Some(Box::new(error)));
            return Completed::Failed;
        }
        self.send_again(at, batch, error, false)
    }

    /// One record may be to blame: the halves are sent on their own.
    fn split(&mut self, at: usize, batch: ReadyBatch, error: Error) -> Completed {
        // What may be written under its number cannot be written again in other pieces.
        if self.rules.is_idempotent && batch.fate == Fate::MaybeWritten {
            self.give_up(at, batch, kind_of(&error), Some(Box::new(error)));
            return Completed::Failed;
        }
        let (base, attempts) = (batch.sequence, batch.attempts);
        match batch.split() {
            Ok((mut left, mut right)) => {
                let queue = &mut self.queues[at];
                if let Some(base) = base {
                    left.sequence = Some(base);
                    right.sequence = queue.sequences.split(base, left.count());
                }
                let partition = queue.partition.clone();
                queue.put_back(right);
                queue.put_back(left);
                Completed::Again {
                    partition,
                    attempts,
                    cause: error.to_string(),
                    refresh: false,
                }
            }
            Err(failed) => {
                let (batch, why) = *failed;
                self.give_up(at, batch, PublishErrorKind::Refused, Some(why));
                Completed::Failed
            }
        }
    }

    /// Several failures of the same moment are one reason to wait.
    fn back_off(&mut self, at: usize, now: Instant) {
        let (first, most) = (self.config.retry_backoff, self.config.retry_backoff_max);
        let seed = self.rng.u64(..);
        let queue = &mut self.queues[at];
        if queue.retry_at.is_none() {
            let backoff = queue
                .backoff
                .get_or_insert_with(|| Backoff::with_seed(first, most, seed));
            queue.retry_at = Some(now + backoff.next_delay());
        }
    }

    fn send_again(
        &mut self,
        at: usize,
        mut batch: ReadyBatch,
        error: Error,
        refresh: bool,
    ) -> Completed {
        let (attempts, cause) = (batch.attempts, error.to_string());
        batch.last_error = Some(error);
        let queue = &mut self.queues[at];
        queue.put_back(batch);
        Completed::Again {
            partition: queue.partition.clone(),
            attempts,
            cause,
            refresh,
        }
    }

    /// Gives up the records that wait for their topic and are past their deadline.
    pub(crate) fn expire(&mut self, now: Instant) {
        if self.waiting > 0 {
            self.expire_waiting(now);
        }
    }

    /// Gives up a partition's batches that are past their deadline and not in flight.
    pub(super) fn expire_queue(&mut self, at: usize, now: Instant) {
        let timeout = self.config.delivery_timeout;
        while self.queues[at].deadline(timeout).is_some_and(|d| d <= now) {
            if self.queues[at].ready.is_empty() {
                self.close_open(at);
            }
            if let Some(mut batch) = self.queues[at].ready.pop_front() {
                let cause = match batch.last_error.take() {
                    Some(error) => Some(Box::new(error) as Cause),
                    // It may have waited for the producer's id.
                    None => self.numbering.last_error.as_ref().map(|error| {
                        let error = Shared(Arc::clone(error));
                        Box::new(error) as Cause
                    }),
                };
                self.give_up(at, batch, PublishErrorKind::TimedOut, cause);
            }
        }
    }

    pub(super) fn expire_waiting(&mut self, now: Instant) {
        let (delivery, unknown) = self.waiting_limits();
        let late = |topic: &Topic| topic.deadline(delivery, unknown).is_some_and(|d| d <= now);
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

    /// Fails a batch for good.
    pub(super) fn give_up(
        &mut self,
        at: usize,
        batch: ReadyBatch,
        kind: PublishErrorKind,
        cause: Option<Cause>,
    ) {
        if let Some(base) = batch.sequence {
            self.queues[at].sequences.given_up(base, batch.fate);
        }
        let error = PublishError::new(kind, batch.fate, Arc::clone(&batch.result.topic));
        let error = match cause {
            Some(cause) => error.with_source(cause),
            None => error,
        };
        self.fail(batch.into_group(), error);
    }
}
