//! The batches of one partition, in order, at most one of them in flight.

use super::batch::{Group, OpenBatch, ReadyBatch};
use ottla_client::Backoff;
use ottla_types::TopicPartition;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// One partition's batches. The order is: in flight, ready from front to back, open.
#[derive(Debug)]
pub(super) struct Queue {
    pub(super) partition: TopicPartition,
    pub(super) open: Option<OpenBatch>,
    pub(super) ready: VecDeque<ReadyBatch>,
    pub(super) in_flight: Option<Group>,
    /// Nothing is sent before this.
    pub(super) retry_at: Option<Instant>,
    /// Set while the last attempt failed.
    pub(super) backoff: Option<Backoff>,
    /// Whether the accumulator's list of active queues has it.
    pub(super) listed: bool,
}

/// When a queue wants to be looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Due {
    /// A batch can be sent.
    Now,
    /// Not before this.
    At(Instant),
    /// Only when the batch in flight comes back.
    Never,
}

impl Queue {
    pub(super) fn new(partition: TopicPartition) -> Self {
        Self {
            partition,
            open: None,
            ready: VecDeque::new(),
            in_flight: None,
            retry_at: None,
            backoff: None,
            listed: false,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.open.is_none() && self.ready.is_empty() && self.in_flight.is_none()
    }

    /// Closes the open batch. Returns whether there was one.
    pub(super) fn close_open(&mut self, delivery_timeout: Duration) -> bool {
        let Some(open) = self.open.take() else {
            return false;
        };
        let deadline = open.opened + delivery_timeout;
        self.ready.push_back(open.close(deadline));
        true
    }

    /// When the next batch can be sent.
    pub(super) fn due(&self, linger: Duration, now: Instant) -> Due {
        if self.in_flight.is_some() {
            return Due::Never;
        }
        let at = if self.ready.is_empty() {
            match &self.open {
                Some(open) => Some(open.opened + linger),
                None => return Due::Never,
            }
        } else {
            None
        };
        match at.max(self.retry_at) {
            Some(at) if at > now => Due::At(at),
            _ => Due::Now,
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
