//! The batches of one partition, in order, a few of them in flight.

use super::batch::{OpenBatch, ReadyBatch};
use super::sequence::{Sequences, Turn};
use crate::telemetry::Meters;
use ottla_client::Backoff;
use ottla_types::{ProducerId, TopicPartition};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// One partition's batches. The order is: in flight and ready by their positions, open.
#[derive(Debug)]
pub(super) struct Queue {
    pub(super) partition: TopicPartition,
    pub(super) meters: Arc<Meters>,
    pub(super) open: Option<OpenBatch>,
    /// Ordered by position. Those that have a sequence stand first.
    pub(super) ready: VecDeque<ReadyBatch>,
    pub(super) in_flight: Vec<Flight>,
    pub(super) sequences: Sequences,
    /// Nothing is sent before this.
    pub(super) retry_at: Option<Instant>,
    /// Set while the last attempt failed.
    pub(super) backoff: Option<Backoff>,
    /// Whether the schedule has it among those that are to be looked at.
    pub(super) is_due: bool,
    /// When it is to be looked at; the schedule has an entry for it.
    pub(super) timer: Option<Instant>,
    /// The size of the batch that was closed last.
    pub(super) last_size: usize,
    /// How many batches were closed.
    closed: u64,
}

/// A batch that the transport has.
#[derive(Debug)]
pub(super) struct Flight {
    pub(super) serial: u32,
    pub(super) batch: ReadyBatch,
}

/// What decides when batches are sent.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rules {
    pub(super) linger: Duration,
    pub(super) in_flight_max: usize,
    pub(super) is_idempotent: bool,
    /// Whether batches belong to transactions, whose end alone brings another id or epoch.
    pub(super) transactional: bool,
    /// The id and epoch that batches are numbered under; `None` while there is none.
    pub(super) producer: Option<ProducerId>,
}

/// When a queue wants to be looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Due {
    /// A batch can be sent, or the sequences have to be restarted first.
    Now,
    /// Not before this.
    At(Instant),
    /// Only when an answer has come.
    Never,
}

impl Queue {
    pub(super) fn new(
        partition: TopicPartition,
        meters: Arc<Meters>,
        sequences: Sequences,
    ) -> Self {
        Self {
            partition,
            meters,
            open: None,
            ready: VecDeque::new(),
            in_flight: Vec::new(),
            sequences,
            retry_at: None,
            backoff: None,
            is_due: false,
            timer: None,
            last_size: 0,
            closed: 0,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.open.is_none() && self.ready.is_empty() && self.in_flight.is_empty()
    }

    /// Closes the open batch. Returns whether there was one.
    pub(super) fn close_open(&mut self, delivery_timeout: Duration) -> bool {
        let Some(open) = self.open.take() else {
            return false;
        };
        let deadline = open.opened + delivery_timeout;
        self.last_size = open.builder.size();
        self.ready.push_back(open.close(deadline, self.closed));
        self.closed += 1;
        true
    }

    /// Puts a batch that was in flight where it stood before.
    pub(super) fn put_back(&mut self, batch: ReadyBatch) {
        let place = batch.place();
        let at = self.ready.partition_point(|other| other.place() < place);
        self.ready.insert(at, batch);
    }

    /// Takes the batch with this number out of those in flight.
    pub(super) fn land(&mut self, serial: u32) -> Option<ReadyBatch> {
        let at = self.in_flight.iter().position(|f| f.serial == serial)?;
        Some(self.in_flight.remove(at).batch)
    }

    pub(super) fn turn(&self, rules: &Rules) -> Turn {
        if rules.is_idempotent && rules.producer.is_none() {
            return Turn::Wait;
        }
        self.sequences.turn(rules.producer, rules.in_flight_max)
    }

    /// When the next batch can be sent.
    pub(super) fn due(&self, rules: &Rules, now: Instant) -> Due {
        let lingers = match (self.ready.is_empty(), &self.open) {
            (false, _) => None,
            // One that is not full gathers records while others are on their way: a broker that is
            // slow gets larger batches, not more of them.
            (true, Some(_)) if !self.in_flight.is_empty() => return Due::Never,
            (true, Some(open)) => Some(open.opened + rules.linger),
            (true, None) => return Due::Never,
        };
        if self.turn(rules) == Turn::Wait {
            return Due::Never;
        }
        match lingers.max(self.retry_at) {
            Some(at) if at > now => Due::At(at),
            _ => Due::Now,
        }
    }

    /// When it has to be looked at although nothing happens: what is not in flight is sent or given up.
    pub(super) fn next_event(
        &self,
        rules: &Rules,
        delivery_timeout: Duration,
        now: Instant,
    ) -> Option<Instant> {
        let deadline = self.deadline(delivery_timeout);
        match self.due(rules, now) {
            Due::Now => Some(now),
            Due::At(at) => Some(deadline.map_or(at, |deadline| at.min(deadline))),
            Due::Never => deadline,
        }
    }

    /// When the oldest batch that is not in flight is given up.
    pub(super) fn deadline(&self, delivery_timeout: Duration) -> Option<Instant> {
        let open = self
            .open
            .as_ref()
            .map(|open| open.opened + delivery_timeout);
        self.ready.front().map(|ready| ready.deadline).or(open)
    }
}
