//! The parts a [`Membership`](super::Membership) is made of: its states with their data and legal
//! transitions, its timers, its slots for requests, and the back-off.

use super::types::{Phase, RequestId, RevocationId};
use crate::assign::{Assignor, Member, TopicCounts};
use ottla_types::TopicPartition;
use ottla_types::coordinator::SyncGroupRequest;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Where the member stands, with what only that state needs.
#[derive(Debug)]
pub(super) enum State {
    Unsubscribed,
    Joining,
    AwaitingMetadata(Lead),
    Syncing(SyncGroupRequest),
    Stable,
    Revoking(Revocation),
    Stale,
    Leaving,
    Left,
    Fatal,
}

impl State {
    pub(super) fn phase(&self) -> Phase {
        match self {
            Self::Unsubscribed => Phase::Unsubscribed,
            Self::Joining => Phase::Joining,
            Self::AwaitingMetadata(_) => Phase::AwaitingMetadata,
            Self::Syncing(_) => Phase::Syncing,
            Self::Stable => Phase::Stable,
            Self::Revoking(_) => Phase::Revoking,
            Self::Stale => Phase::Stale,
            Self::Leaving => Phase::Leaving,
            Self::Left => Phase::Left,
            Self::Fatal => Phase::Fatal,
        }
    }
}

impl Phase {
    /// The legal transitions. Every state may fail, and every live one may close or go stale.
    pub(super) fn may_become(self, next: Phase) -> bool {
        use Phase::{
            AwaitingMetadata, Fatal, Joining, Leaving, Left, Revoking, Stable, Stale, Syncing,
            Unsubscribed,
        };
        match (self, next) {
            (Left | Fatal, _) => false,
            (_, Fatal) => true,
            (Leaving, next) => next == Left,
            (_, Leaving | Left) => true,
            (Unsubscribed, next) => next == Joining,
            (Stale, next) => matches!(next, Joining | Unsubscribed),
            (_, Joining | Revoking | Stale | Unsubscribed) => true,
            (Joining, next) => matches!(next, AwaitingMetadata | Syncing),
            (AwaitingMetadata, next) => next == Syncing,
            (Syncing, next) => next == Stable,
            (Stable | Revoking, _) => false,
        }
    }
}

/// What the leader knows while it waits for partition counts.
#[derive(Debug)]
pub(super) struct Lead {
    pub(super) members: Vec<Member>,
    pub(super) topics: BTreeSet<Arc<str>>,
    pub(super) counts: TopicCounts,
}

impl Lead {
    pub(super) fn is_answered(&self) -> bool {
        self.topics.iter().all(|t| self.counts.contains_key(t))
    }
}

/// A revocation that the application has not acknowledged yet.
#[derive(Debug)]
pub(super) struct Revocation {
    pub(super) id: RevocationId,
    pub(super) partitions: BTreeSet<TopicPartition>,
    pub(super) then: AfterRevocation,
}

/// What a revocation is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AfterRevocation {
    Rejoin,
    Unsubscribe,
    Close,
}

/// The generation that the last join gave.
#[derive(Debug, Clone, Copy)]
pub(super) struct Joined {
    pub(super) generation: i32,
    pub(super) assignor: Assignor,
    pub(super) leads: bool,
}

/// A slot for one request at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Slot {
    Idle,
    /// To be sent by the next poll.
    Due,
    /// Waits for its timer.
    Waiting,
    Out {
        id: RequestId,
        sent_ms: i64,
    },
}

impl Slot {
    pub(crate) fn is_out(self) -> bool {
        matches!(self, Self::Out { .. })
    }

    /// When the request `id` was sent, if it is the one that is out.
    pub(crate) fn sent_ms(self, wanted: RequestId) -> Option<i64> {
        match self {
            Self::Out { id, sent_ms } if id == wanted => Some(sent_ms),
            _ => None,
        }
    }
}

/// When the coordinator is known to have counted this member in.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Proof {
    /// It cannot expire the session before this plus the session timeout.
    pub(crate) alive_ms: i64,
    /// It was not rebalancing then: it cannot drop a member that does not rejoin before this plus
    /// the rebalance timeout.
    pub(crate) settled_ms: i64,
}

/// Everything that happens because time passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Timer {
    /// The join, sync or metadata question may be tried again.
    Backoff,
    /// The next heartbeat is due.
    Heartbeat,
    /// The coordinator may have given the partitions to somebody else.
    Ownership,
}

impl Timer {
    /// Ownership first: what is lost must not be renewed by what fires at the same time.
    pub(super) const ALL: [Timer; 3] = [Timer::Ownership, Timer::Backoff, Timer::Heartbeat];
}

/// Exponential back-off with a fifth of jitter either way (KIP-580), from a seed (splitmix64).
#[derive(Debug)]
pub(crate) struct Backoff {
    state: u64,
    base_ms: i64,
    max_ms: i64,
    failures: u32,
}

impl Backoff {
    pub(crate) fn new(seed: u64, base_ms: i32, max_ms: i32) -> Self {
        Self {
            state: seed,
            base_ms: base_ms.into(),
            max_ms: max_ms.into(),
            failures: 0,
        }
    }

    pub(crate) fn reset(&mut self) {
        self.failures = 0;
    }

    /// The wait after one more failure.
    pub(crate) fn next_ms(&mut self) -> i64 {
        let doubled = self.base_ms << self.failures.min(20);
        self.failures = self.failures.saturating_add(1);
        self.jittered(doubled.min(self.max_ms))
    }

    /// The first wait, for failures that are not counted.
    pub(crate) fn first_ms(&mut self) -> i64 {
        self.jittered(self.base_ms)
    }

    fn jittered(&mut self, ms: i64) -> i64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let percent = 80 + ((z ^ (z >> 31)) % 41) as i64;
        (ms * percent / 100).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn back_off_grows_to_its_bound_and_differs_by_seed() {
        let waits = |seed| {
            let mut backoff = Backoff::new(seed, 100, 1_000);
            (0..40).map(|_| backoff.next_ms()).collect::<Vec<_>>()
        };
        let a = waits(1);
        assert!((80..=120).contains(&a[0]) && (160..=240).contains(&a[1]));
        assert!(a[5..].iter().all(|w| (800..=1_200).contains(w)));
        assert_eq!(a, waits(1));
        assert_ne!(a, waits(2));
    }

    #[test]
    fn ended_states_are_final() {
        for next in [Phase::Joining, Phase::Stable, Phase::Fatal, Phase::Left] {
            assert!(!Phase::Fatal.may_become(next) && !Phase::Left.may_become(next));
        }
        assert!(!Phase::Unsubscribed.may_become(Phase::Stable));
        assert!(!Phase::Joining.may_become(Phase::Stable));
        assert!(Phase::Syncing.may_become(Phase::Stable));
    }
}
