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
