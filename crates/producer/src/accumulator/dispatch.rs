//! Batches go out: which are sent now, under which number, and when to look again.

use super::queue::{Due, Flight};
use super::sequence::Turn;
use super::{Accumulator, outcome};
use ottla_client::Error;
use ottla_record_batch::{EncodedBatch, Stamp};
use ottla_types::{Fate, ProducerId, PublishErrorKind, TopicPartition};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

/// Sequences of partitions whose topics were forgotten; beyond this all begin anew, under an epoch of
/// their own.
const RETIRED_MAX: usize = 10_000;

/// A batch that is to be sent now.
#[derive(Debug)]
pub(crate) struct Dispatch {
    /// To be given back with the answer.
    pub(crate) token: u64,
    pub(crate) partition: TopicPartition,
    pub(crate) batch: EncodedBatch,
    /// When it is given up.
    pub(crate) deadline: Instant,
}

/// Who numbers the batches.
#[derive(Debug, Default)]
pub(super) struct Numbering {
    /// An id, or another one, is to be asked for.
    pub(super) is_wanted: bool,
    /// Why there is none yet.
    pub(super) last_error: Option<Arc<Error>>,
    /// What partitions that are not known any more go on with, should they come back: a sequence
    /// that is used twice makes a broker take new records for old ones.
    pub(super) retired: HashMap<TopicPartition, super::sequence::Sequences>,
}

pub(super) fn token(queue: usize, serial: u32) -> u64 {
    (queue as u64) << 32 | u64::from(serial)
}

/// Queue and serial number.
pub(super) fn read_token(token: u64) -> (usize, u32) {
    ((token >> 32) as usize, token as u32)
}

impl Accumulator {
    /// Takes the batches that can be sent now. `admit` is asked once for each batch, with its number
    /// of records; an instant means: not before then.
    pub(crate) fn drain(
        &mut self,
        now: Instant,
        admit: &mut dyn FnMut(u32) -> Option<Instant>,
    ) -> Vec<Dispatch> {
        let mut dispatches = Vec::new();
        self.rate_gate = None;
        self.schedule.advance(&mut self.queues, now);
        for _ in 0..self.schedule.len() {
            let Some(at) = self.schedule.pop(&mut self.queues) else {
                break;
            };
            self.expire_queue(at, now);
            let before = dispatches.len();
            let waits = self.drain_queue(at, now, admit, &mut dispatches);
            let queue = &mut self.queues[at];
            if let Some(until) = waits {
                // One that has had something of the rate lets the others go first.
                if dispatches.len() > before {
                    self.schedule.touch(queue, at);
                } else {
                    self.schedule.touch_first(queue, at);
                }
                self.rate_gate = Some(until);
                break;
            }
            let next = queue.next_event(&self.rules, self.config.delivery_timeout, now);
            if let Some(next) = next {
                self.schedule.set_timer(queue, at, next);
            }
            if !queue.is_empty() {
                self.want_producer();
            }
        }
        dispatches
    }

    /// Takes one partition's batches; says until when if the rate limit stops it.
    fn drain_queue(
        &mut self,
        at: usize,
        now: Instant,
        admit: &mut dyn FnMut(u32) -> Option<Instant>,
        dispatches: &mut Vec<Dispatch>,
    ) -> Option<Instant> {
        while self.queues[at].due(&self.rules, now) == Due::Now {
            if self.queues[at].turn(&self.rules) == Turn::Restart {
                self.restart(at);
                continue;
            }
            if self.queues[at].ready.is_empty() {
                self.close_open(at);
            }
            let queue = &mut self.queues[at];
            let Some(mut batch) = queue.ready.pop_front() else {
                break;
            };
            if !batch.admitted
                && let Some(until) = admit(batch.count())
            {
                queue.ready.push_front(batch);
                return Some(until);
            }
            let base = match batch.sequence {
                Some(base) => {
                    queue.sequences.resend(base);
                    base
                }
                None => queue.sequences.assign(batch.count()),
            };
            batch.sequence = Some(base);
            batch.admitted = true;
            batch.attempts += 1;
            batch.sent = Some(now);
            queue.retry_at = None;
            let stamp = queue.sequences.producer().map(|producer| Stamp {
                producer,
                base_sequence: base,
                transactional: self.rules.transactional,
            });
            let serial = self.next_serial;
            self.next_serial = serial.wrapping_add(1);
            dispatches.push(Dispatch {
                token: token(at, serial),
                partition: queue.partition.clone(),
                batch: batch.encode(stamp),
                deadline: batch.deadline,
            });
            queue.in_flight.push(Flight { serial, batch });
            self.in_flight += 1;
        }
        None
    }

    /// Numbers a partition's batches anew, under the current id and epoch, or under the next epoch
    /// where its numbers lead nowhere under the current one (KIP-360).
    fn restart(&mut self, at: usize) {
        let sequences = &self.queues[at].sequences;
        let is_absent = sequences.is_absent();
        if self.rules.is_idempotent
            && sequences.is_broken()
            && sequences.producer() == self.rules.producer
        {
            self.bump_epoch();
            if self.rules.producer.is_none() {
                return;
            }
        }
        let queue = &mut self.queues[at];
        queue.sequences.restart(self.rules.producer);
        let mut doubtful = Vec::new();
        for mut batch in std::mem::take(&mut queue.ready) {
            batch.sequence = None;
            if is_absent {
                batch.fate = Fate::NotWritten;
            }
            // Under another number it might stand in the log a second time.
            if batch.fate == Fate::MaybeWritten && self.rules.is_idempotent {
                doubtful.push(batch);
            } else {
                queue.ready.push_back(batch);
            }
        }
        for batch in doubtful {
            self.give_up(at, batch, PublishErrorKind::Refused, None);
        }
    }

    /// Goes on with the next epoch, or asks for another id at the end of the range.
    fn bump_epoch(&mut self) {
        self.rules.producer = self.rules.producer.and_then(|producer| {
            if self.rules.transactional {
                // The coordinator's to raise, once the transaction is aborted.
                return None;
            }
            let epoch = producer.epoch.checked_add(1)?;
            Some(ProducerId { epoch, ..producer })
        });
        match self.rules.producer {
            Some(producer) => tracing::info!(%producer, "the producer's epoch was raised"),
            None => self.want_producer(),
        }
    }

    /// Asks for an id if there is none.
    pub(super) fn want_producer(&mut self) {
        let is_missing = self.rules.is_idempotent && self.rules.producer.is_none();
        if is_missing && !self.numbering.is_wanted {
            self.numbering.is_wanted = true;
            self.effects.work = true;
        }
    }

    /// Nothing is numbered under this id any more.
    pub(super) fn abandon_producer(&mut self, producer: Option<ProducerId>) {
        if self.rules.producer == producer {
            self.rules.producer = None;
            self.want_producer();
        }
    }

    /// Whether an id has to be asked for.
    pub(crate) fn wants_producer(&self) -> bool {
        self.numbering.is_wanted
    }

    /// Takes the id and epoch that batches are numbered under from now on. A partition's sequences
    /// begin at 0 again when what it has in flight has come back.
    pub(crate) fn set_producer(&mut self, producer: ProducerId) {
        self.rules.producer = Some(producer);
        self.numbering.is_wanted = false;
        self.numbering.last_error = None;
        self.effects.work = true;
        for (at, queue) in self.queues.iter_mut().enumerate() {
            if !queue.is_empty() {
                self.schedule.touch(queue, at);
            }
        }
    }

    /// No id was given. Where it makes no sense to ask again, what waits for it fails.
    pub(crate) fn no_producer(&mut self, error: Error) {
        let error = Arc::new(error);
        self.numbering.last_error = Some(Arc::clone(&error));
        if error.is_retriable() {
            return;
        }
        self.numbering.is_wanted = false;
        for at in 0..self.queues.len() {
            self.close_open(at);
            for batch in std::mem::take(&mut self.queues[at].ready) {
                let kind = outcome::kind_of(&error);
                let cause = outcome::Shared(Arc::clone(&error));
                self.give_up(at, batch, kind, Some(Box::new(cause)));
            }
        }
    }

    /// Keeps what a partition's sequences go on with when it comes back.
    pub(super) fn retire(&mut self, at: usize) {
        let queue = &mut self.queues[at];
        let sequences = std::mem::take(&mut queue.sequences);
        if sequences.producer().is_none() || sequences.producer() != self.rules.producer {
            return;
        }
        let partition = queue.partition.clone();
        self.numbering.retired.insert(partition, sequences);
        if self.numbering.retired.len() > RETIRED_MAX {
            self.numbering.retired.clear();
            self.bump_epoch();
        }
    }

    /// Whether batches wait for their answers.
    pub(crate) fn is_under_way(&self) -> bool {
        self.in_flight > 0
    }

    /// Whether there is nothing that the sender has to be told of.
    pub(crate) fn is_quiet(&mut self) -> bool {
        let asks = !self.wanted.is_empty() || self.numbering.is_wanted;
        !asks && self.waiting == 0 && self.schedule.is_quiet(&self.queues)
    }

    /// The sender is told if something can be sent.
    pub(crate) fn look_again(&mut self) {
        self.effects.work |= self.schedule.len() > 0;
    }

    /// When to call [`expire`](Self::expire) and [`drain`](Self::drain) next, if nothing happens
    /// before. May be in the past.
    pub(crate) fn next_wake(&mut self, now: Instant) -> Option<Instant> {
        let due = (self.schedule.len() > 0).then(|| self.rate_gate.unwrap_or(now));
        let timer = self.schedule.next(&self.queues);
        let waiting = (self.waiting > 0).then(|| {
            let (delivery, unknown) = self.waiting_limits();
            let topics = self.topics.iter();
            topics
                .filter_map(|(_, t)| t.deadline(delivery, unknown))
                .min()
        });
        let next = [due, timer, waiting.flatten()].into_iter().flatten().min();
        self.schedule.plan(next);
        next
    }
}
