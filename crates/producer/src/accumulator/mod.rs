//! Gathers records in batches. Pure: it does no IO, and the time, or the clocks that it
//! is read from, are passed in.
//!
//! It owns a queue of batches for each partition ([`queue`]), the records whose topic is not known
//! yet ([`topic`]), the bound on memory, and who gets which result. Its calls, in the order of a
//! record's life: [`enqueue`](Accumulator::enqueue), [`apply_topic`](Accumulator::apply_topic) where
//! the topic was not known, [`drain`](Accumulator::drain), [`complete`](Accumulator::complete);
//! [`expire`](Accumulator::expire) at the times that [`next_wake`](Accumulator::next_wake) names.
//! Every call may leave [`Effects`], which the caller takes and applies without the lock.
//!
//! What must hold: a record that was taken is in exactly one place (waiting, open, ready, in
//! flight) until it is settled, once; a batch that comes back to be sent again goes to where it stood
//! before, and what may be sent beside it is [`sequence`]'s to say; `used` is the sum of the charges
//! of what is held.

mod batch;
mod close;
mod dispatch;
mod effects;
mod fill;
mod intake;
mod moment;
mod outcome;
mod queue;
mod schedule;
mod sequence;
mod spares;
mod topic;
mod undo;

#[cfg(test)]
mod tests;

pub(crate) use dispatch::Dispatch;
pub(crate) use effects::Effects;
pub(crate) use intake::Caller;
pub(crate) use moment::Clocks;
pub(crate) use outcome::{Completed, Written};

use crate::ProducerConfig;
use crate::handle::Outcome;
use crate::partition::Partitioner;
use crate::report::{CloseReport, ReportItem, ReportQueue};
use batch::Group;
use dispatch::Numbering;
use ottla_client::transport::Capabilities;
use ottla_client::{Error, ErrorKind, TopicMetadata};
use ottla_types::{PublishError, TopicPartition};
use queue::{Queue, Rules};
use schedule::Schedule;
use spares::Spares;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;
use topic::{Topics, View};

/// What to do about a topic after the cluster's answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TopicNext {
    /// Ask again when the metadata is old.
    Known,
    /// Ask again soon: records wait for it.
    Retry,
    /// It was forgotten.
    Gone,
}

/// Whether records are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Open,
    /// What was taken is still sent.
    Closing,
    Closed,
}

pub(crate) struct Accumulator {
    config: ProducerConfig,
    rules: Rules,
    numbering: Numbering,
    header_fidelity: bool,
    partitioner: Box<dyn Partitioner>,
    rng: fastrand::Rng,
    topics: Topics,
    waiting: usize,
    queues: Vec<Queue>,
    free: Vec<usize>,
    /// Batches that the transport has.
    in_flight: usize,
    schedule: Schedule,
    rate_gate: Option<Instant>,
    spares: Spares,
    /// The charges of the records that are held.
    used: usize,
    /// What the metric has heard of it.
    told: usize,
    /// The buffers that they are in.
    reserved: usize,
    next_id: u64,
    /// Calls that brought many records.
    calls: u64,
    next_serial: u32,
    /// Records enqueued before and after a flush differ in it.
    epoch: u64,
    /// Records without a result, of the current epoch and of the earlier ones.
    outstanding: u64,
    outstanding_before: BTreeMap<u64, u64>,
    delivered: u64,
    phase: Phase,
    close_report: Option<CloseReport>,
    /// Of a record that was taken.
    first_failure: Option<PublishError>,
    reports: Option<ReportQueue>,
    wanted: Vec<Arc<str>>,
    effects: Effects,
}

impl std::fmt::Debug for Accumulator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Accumulator")
            .field("topics", &self.topics.len())
            .field("used", &self.used)
            .field("phase", &self.phase)
            .finish_non_exhaustive()
    }
}

impl Accumulator {
    pub(crate) fn new(
        config: ProducerConfig,
        capabilities: &Capabilities,
        partitioner: Box<dyn Partitioner>,
        seed: u64,
    ) -> Self {
        let is_idempotent = config.is_idempotent(capabilities);
        Self {
            rules: Rules {
                linger: config.linger,
                in_flight_max: config.in_flight_max(is_idempotent),
                is_idempotent,
                transactional: false,
                producer: None,
            },
            numbering: Numbering::default(),
            config,
            header_fidelity: capabilities.header_fidelity,
            partitioner,
            rng: fastrand::Rng::with_seed(seed),
            topics: Topics::default(),
            waiting: 0,
            queues: Vec::new(),
            free: Vec::new(),
            in_flight: 0,
            schedule: Schedule::default(),
            rate_gate: None,
            spares: Spares::default(),
            used: 0,
            told: 0,
            reserved: 0,
            next_id: 0,
            calls: 0,
            next_serial: 0,
            epoch: 0,
            outstanding: 0,
            outstanding_before: BTreeMap::new(),
            delivered: 0,
            phase: Phase::Open,
            close_report: None,
            first_failure: None,
            reports: None,
            wanted: Vec::new(),
            effects: Effects::default(),
        }
    }

    /// What the steps since the last call have caused; nothing if that is nothing.
    pub(crate) fn take_effects(&mut self) -> Option<Effects> {
        (!self.effects.is_empty()).then(|| std::mem::take(&mut self.effects))
    }

    /// The topics that the cluster is to be asked for now.
    pub(crate) fn take_wanted(&mut self) -> Vec<Arc<str>> {
        std::mem::take(&mut self.wanted)
    }

    /// The bytes of the records that are held.
    #[cfg(test)]
    pub(crate) fn used(&self) -> usize {
        self.used
    }

    /// By how much the bytes of the records that are held have changed since the last call.
    pub(crate) fn take_change(&mut self) -> isize {
        let told = std::mem::replace(&mut self.told, self.used);
        self.used.wrapping_sub(told).cast_signed()
    }

    pub(crate) fn keeps_keys_together(&self) -> bool {
        self.partitioner.keeps_keys_together()
    }

    /// Takes the cluster's word on a topic and places the records that waited for it.
    pub(crate) fn apply_topic(
        &mut self,
        name: &Arc<str>,
        answer: Result<Arc<TopicMetadata>, Error>,
        now: Instant,
    ) -> TopicNext {
        let Some(topic) = self.topics.get_mut(name) else {
            return TopicNext::Gone;
        };
        topic.refresh_wanted = false;
        let described = answer.and_then(|described| {
            if described.partitions.is_empty() {
                return Err(Error::new(ErrorKind::UnknownTopic, "Metadata").with_topic(&**name));
            }
            Ok(described)
        });
        match described {
            Ok(described) => {
                let meters = &topic.meters;
                let view = topic.view.get_or_insert_with(View::default);
                let (queues, free) = (&mut self.queues, &mut self.free);
                let retired = &mut self.numbering.retired;
                view.update(&described, |partition| {
                    let partition = TopicPartition::new(Arc::clone(name), partition);
                    let sequences = retired.remove(&partition).unwrap_or_default();
                    let queue = Queue::new(partition, Arc::clone(meters), sequences);
                    match free.pop() {
                        Some(at) => {
                            queues[at] = queue;
                            at
                        }
                        None => {
                            queues.push(queue);
                            queues.len() - 1
                        }
                    }
                });
                topic.last_error = None;
                let waiting = std::mem::take(&mut topic.waiting);
                // Who waited behind them may go on.
                self.effects.progress |= !waiting.is_empty();
                self.place_waiting(name, waiting);
                TopicNext::Known
            }
            // What was known still holds; where it does not, the writes will say so.
            Err(_) if topic.view.is_some() => TopicNext::Known,
            Err(error) if error.is_retriable() => {
                topic.last_error = Some(Arc::new(error));
                self.expire_waiting(now);
                self.forget_unless_waiting(name)
            }
            Err(error) => {
                topic.last_error = Some(Arc::new(error));
                let waiting = std::mem::take(&mut topic.waiting);
                for record in waiting {
                    self.fail_waiting(name, record, None);
                }
                self.forget_unless_waiting(name)
            }
        }
    }

    fn forget_unless_waiting(&mut self, name: &Arc<str>) -> TopicNext {
        match self.topics.get(name) {
            Some(topic) if !topic.waiting.is_empty() => TopicNext::Retry,
            _ => {
                self.topics.remove(name);
                TopicNext::Gone
            }
        }
    }

    /// Forgets a topic that was not used since `since` and holds nothing. Returns whether it is
    /// gone.
    pub(crate) fn forget_idle(&mut self, name: &str, since: Instant) -> bool {
        let Some(topic) = self.topics.get(name) else {
            return true;
        };
        let view = topic.view.as_ref();
        let queues: Vec<_> = view.map_or_else(Vec::new, |view| {
            view.queues.iter().map(|(_, queue)| *queue).collect()
        });
        let idle = |queue: &usize| {
            let queue = &self.queues[*queue];
            queue.is_empty() && !queue.is_due
        };
        if topic.last_used > since || !topic.waiting.is_empty() || !queues.iter().all(idle) {
            return false;
        }
        self.topics.remove(name);
        for at in queues {
            self.retire(at);
            self.free.push(at);
        }
        true
    }

    /// Closes the open batch of a queue, and tells the partitioner.
    fn close_open(&mut self, at: usize) {
        let queue = &mut self.queues[at];
        if queue.close_open(self.config.delivery_timeout)
            && let Some(topic) = self.topics.get_mut(&queue.partition.topic)
        {
            let (partitioner, partition) = (&mut topic.partitioner, queue.partition.partition);
            // The user's code: its panic must not end the sender, or hit the one that closes.
            let told = catch_unwind(AssertUnwindSafe(|| partitioner.batch_closed(partition)));
            if told.is_err() {
                tracing::error!(partition = %queue.partition, "the partitioner panicked");
            }
        }
    }

    /// Gives records their result and frees what they weigh, unless a report of them is wanted.
    fn settle(&mut self, group: Group, outcome: Outcome) {
        self.count_down(group.epoch, u64::from(group.count));
        self.reserved -= group.reserved;
        if matches!(outcome, Outcome::Written(_)) {
            self.delivered += u64::from(group.count);
        }
        match &mut self.reports {
            Some(reports) if !group.records.is_empty() => {
                let item = ReportItem {
                    batch: Some(Arc::clone(&group.result)),
                    records: group.records,
                    read: 0,
                    outcome: outcome.clone(),
                    charge: group.charge,
                };
                self.effects.report(reports, item);
            }
            _ => self.used -= group.charge,
        }
        self.effects
            .settle(&group.result, group.first, group.count, outcome);
    }

    fn fail(&mut self, group: Group, error: PublishError) {
        let error = error.with_partition(group.result.partition);
        crate::telemetry::failed(&error, group.count);
        self.first_failure.get_or_insert_with(|| error.clone());
        self.settle(group, Outcome::Failed(error));
    }

    fn count_down(&mut self, epoch: u64, count: u64) {
        if epoch == self.epoch {
            self.outstanding -= count;
        } else if let Some(left) = self.outstanding_before.get_mut(&epoch) {
            *left -= count;
            if *left == 0 {
                self.outstanding_before.remove(&epoch);
            }
        }
    }
}
