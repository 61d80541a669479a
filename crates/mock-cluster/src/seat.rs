//! Where a coordinator sits: which broker answers for a group or a transactional id. Pure.

use crate::topics::Topics;

/// The broker of one coordinator.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seat {
    /// `None` while its broker is down and the cluster is not replicated.
    broker: Option<i32>,
    /// The last broker that had it: where it waits while it has none.
    home: i32,
}

impl Seat {
    /// Settled by the name's bytes, among the brokers that are up when data is replicated.
    pub(crate) fn of(name: &str, topics: &Topics, replicated: bool) -> Self {
        let ids: Vec<i32> = topics.brokers.keys().copied().collect();
        let hash = crc32c::crc32c(name.as_bytes()) as usize;
        let mut home = ids[hash % ids.len()];
        if !topics.is_up(home) && replicated {
            home = topics.next_live(home).unwrap_or(home);
        }
        let broker = topics.is_up(home).then_some(home);
        Self { broker, home }
    }

    pub(crate) fn broker(self) -> Option<i32> {
        self.broker
    }

    /// Gives whether that was a move.
    pub(crate) fn relocate(&mut self, broker: Option<i32>) -> bool {
        let moved = self.broker != broker;
        self.broker = broker;
        self.home = broker.unwrap_or(self.home);
        moved
    }

    /// Whether it waits for this broker, which has come back.
    pub(crate) fn waits_for(self, broker: i32, replicated: bool) -> bool {
        self.broker.is_none() && (replicated || self.home == broker)
    }
}
