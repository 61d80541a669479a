//! The parts of a [`ConsumerMembership`](super::ConsumerMembership): its states, and what the
//! coordinator was told.

use crate::membership::{Phase, RevocationId};
use ottla_types::TopicPartition;
use ottla_types::coordinator::TopicIdPartitions;
use std::collections::BTreeSet;
use std::sync::Arc;

#[derive(Debug)]
pub(super) enum State {
    Unsubscribed,
    /// A heartbeat with epoch 0 is out or due; a static member may have to release its place first.
    Joining,
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
            Self::Stable => Phase::Stable,
            Self::Revoking(_) => Phase::Revoking,
            Self::Stale => Phase::Stale,
            Self::Leaving => Phase::Leaving,
            Self::Left => Phase::Left,
            Self::Fatal => Phase::Fatal,
        }
    }

    /// The legal transitions.
    pub(super) fn may_become(&self, next: &State) -> bool {
        use State::{Fatal, Joining, Leaving, Left, Revoking, Stable, Stale, Unsubscribed};
        match (self, next) {
            (Left | Fatal, _) => false,
            (_, Fatal) => true,
            (Leaving, next) => matches!(next, Left),
            (_, Leaving | Left) => true,
            (Unsubscribed, next) => matches!(next, Joining),
            (Stale, next) => matches!(next, Joining | Unsubscribed),
            (Joining, Revoking(_)) => false,
            (Joining | Stable | Revoking(_), _) => true,
        }
    }
}

/// Partitions that the application has not given up yet.
#[derive(Debug)]
pub(super) struct Revocation {
    pub(super) id: RevocationId,
    pub(super) partitions: BTreeSet<TopicPartition>,
    pub(super) then: AfterRevocation,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AfterRevocation {
    /// The coordinator asked for it: tell it at once.
    Acknowledge,
    Unsubscribe,
    Close,
}

/// What a heartbeat said; after its good answer, what need not be said again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Told {
    pub(super) topics: Vec<Arc<str>>,
    pub(super) pattern: String,
    /// `None` when an assignment came since, which has to be acknowledged.
    pub(super) owned: Option<TopicIdPartitions>,
}

/// The question for the names of topic ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asking {
    Idle,
    Out,
    /// Asked again at this time.
    Again(i64),
}

/// Everything that happens because time passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Timer {
    /// The coordinator may have given the partitions to somebody else.
    Ownership,
    /// The next heartbeat, or another try of it, is due.
    Heartbeat,
    /// Names of topics are asked for again.
    Names,
}

impl Timer {
    /// Ownership first: what is lost must not be renewed by what fires at the same time.
    pub(super) const ALL: [Timer; 3] = [Timer::Ownership, Timer::Heartbeat, Timer::Names];
}
