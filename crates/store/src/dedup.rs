//! The deduplication port: claim, then done, with a lease.
//!
//! *Check, then handle, then set* lets two members handle the same message, and loses the message
//! when a crash comes between set and handle. Here a claim is exclusive for a lease, and only `done`
//! makes it final: a crash in between lets the lease run out, and the next member handles it.

use crate::StoreError;
use ottla_types::BoxFuture;

/// What a claim found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claim {
    /// The message is this owner's until the lease ends.
    Acquired,
    /// The message was handled before.
    AlreadyDone,
    /// Another owner is at it; its lease ends at this time (ms since the epoch).
    Busy {
        /// When the other lease ends.
        until_ms: i64,
    },
}

/// Remembers which messages were handled. `scope` keeps groups apart (usually the group id): the
/// same message is handled once by each.
///
/// An `owner` is one attempt at one record, not a whole process: two attempts that share an owner
/// would renew each other's claim.
pub trait DedupStore: Send + Sync + 'static {
    /// Claims `id` for `owner` until `now_ms + lease_ms`. The same owner may claim again, which
    /// renews the lease.
    fn claim<'a>(
        &'a self,
        scope: &'a str,
        id: &'a str,
        owner: &'a str,
        now_ms: i64,
        lease_ms: i64,
    ) -> BoxFuture<'a, Result<Claim, StoreError>>;

    /// Marks `id` as handled. Refused with
    /// [`StoreErrorKind::Fenced`](crate::StoreErrorKind::Fenced) when another owner has claimed it
    /// or finished it since; marking one's own message twice is harmless.
    fn done<'a>(
        &'a self,
        scope: &'a str,
        id: &'a str,
        owner: &'a str,
        now_ms: i64,
    ) -> BoxFuture<'a, Result<(), StoreError>>;

    /// Gives a claim back after a failed attempt, so that the next attempt need not wait for the
    /// lease. A claim of another owner, or one that is done, is left alone.
    fn release<'a>(
        &'a self,
        scope: &'a str,
        id: &'a str,
        owner: &'a str,
    ) -> BoxFuture<'a, Result<(), StoreError>>;

    /// Forgets messages that were done before `before_ms` and claims that ran out before it; gives
    /// back how many.
    fn purge(&self, before_ms: i64) -> BoxFuture<'_, Result<u64, StoreError>>;

    /// How long a done message is remembered, in milliseconds; `None` is for ever.
    fn retention_ms(&self) -> Option<i64>;
}

/// How far a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DedupState {
    /// An owner is at it, until this time (ms since the epoch).
    Claimed {
        /// When the claim runs out.
        until_ms: i64,
    },
    /// It was handled at this time (ms since the epoch).
    Done {
        /// When it was marked.
        at_ms: i64,
    },
}

/// What a store keeps about one message. Stores read it, apply these rules and write it back in one
/// transaction, so that every store decides alike.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DedupEntry {
    /// Who claimed or finished it.
    pub owner: String,
    /// How far it is.
    pub state: DedupState,
}

impl DedupEntry {
    /// The answer to a claim, and the entry to write when it was acquired.
    pub fn claim(
        existing: Option<&Self>,
        owner: &str,
        now_ms: i64,
        lease_ms: i64,
    ) -> (Claim, Option<Self>) {
        match existing {
            Some(Self {
                state: DedupState::Done { .. },
                ..
            }) => (Claim::AlreadyDone, None),
            Some(Self {
                owner: holder,
                state: DedupState::Claimed { until_ms },
            }) if holder != owner && *until_ms > now_ms => (
                Claim::Busy {
                    until_ms: *until_ms,
                },
                None,
            ),
            _ => {
                let entry = Self {
                    owner: owner.to_owned(),
                    state: DedupState::Claimed {
                        until_ms: now_ms.saturating_add(lease_ms),
                    },
                };
                (Claim::Acquired, Some(entry))
            }
        }
    }

    /// The entry to write when `owner` has handled the message, `None` if it is marked already, or
    /// fenced. A message that the store has forgotten may be marked.
    ///
    /// # Errors
    /// [`StoreErrorKind::Fenced`](crate::StoreErrorKind::Fenced) when another owner has it.
    pub fn done(
        existing: Option<&Self>,
        owner: &str,
        now_ms: i64,
    ) -> Result<Option<Self>, StoreError> {
        match existing {
            Some(entry) if entry.owner != owner => Err(StoreError::new(
                crate::StoreErrorKind::Fenced,
                "mark a message as done",
            )),
            Some(Self {
                state: DedupState::Done { .. },
                ..
            }) => Ok(None),
            _ => Ok(Some(Self {
                owner: owner.to_owned(),
                state: DedupState::Done { at_ms: now_ms },
            })),
        }
    }

    /// Whether a release by `owner` removes the entry.
    pub fn is_released_by(&self, owner: &str) -> bool {
        self.owner == owner && matches!(self.state, DedupState::Claimed { .. })
    }

    /// The time that retention counts from: the end of the claim, or when it was done.
    pub fn time_ms(&self) -> i64 {
        match self.state {
            DedupState::Claimed { until_ms } => until_ms,
            DedupState::Done { at_ms } => at_ms,
        }
    }
}
