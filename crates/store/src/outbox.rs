//! The outbox port: rows that were written with a business transaction and wait to be published.

use crate::{Lease, StoreError};
use ottla_types::{BoxFuture, Record};

/// A row's place in its outbox: ids grow in the order in which rows *commit* for each key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OutboxId(pub u64);

/// A row that waits to be published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutboxRow {
    /// The row's id.
    pub id: OutboxId,
    /// What to publish. It carries a `message_id` header.
    pub record: Record,
    /// When it was enqueued, in milliseconds since the epoch.
    pub enqueued_at_ms: i64,
}

/// How a row left the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Settled {
    /// It was published and acknowledged.
    Sent,
    /// It was set aside with an error.
    Parked,
}

/// A row that left the queue and is still kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SettledRow {
    /// The row.
    pub row: OutboxRow,
    /// When it was marked, in milliseconds since the epoch.
    pub settled_at_ms: i64,
    /// Why it was parked; `None` when it was sent.
    pub error: Option<String>,
}

/// How many rows there are in each state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct OutboxCounts {
    /// Waiting to be published.
    pub pending: u64,
    /// Published and acknowledged (those that retention has not removed).
    pub sent: u64,
    /// Set aside with an error.
    pub parked: u64,
    /// When the oldest pending row was enqueued, in milliseconds since the epoch.
    pub oldest_pending_ms: Option<i64>,
}

/// What the relay needs of a database. Enqueueing is not here: each store crate offers it on its own
/// database's transaction type.
pub trait OutboxStore: Send + Sync + 'static {
    /// Takes or renews the lease for `owner` until `now_ms + ttl_ms`; `None` while another owner
    /// holds it.
    fn acquire<'a>(
        &'a self,
        owner: &'a str,
        now_ms: i64,
        ttl_ms: i64,
    ) -> BoxFuture<'a, Result<Option<Lease>, StoreError>>;

    /// Gives the lease back, so that another relay takes over at once. A lease that is no longer the
    /// current one is left alone.
    fn release<'a>(&'a self, lease: &'a Lease) -> BoxFuture<'a, Result<(), StoreError>>;

    /// At most `limit` pending rows with ids above `after`, in commit order.
    ///
    /// `after` pages through one sweep over the table. It is no cursor to keep: in a database where
    /// transactions overlap, a row with a lower id may become visible later, so each sweep starts
    /// from `None` again.
    fn pending(
        &self,
        after: Option<OutboxId>,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<OutboxRow>, StoreError>>;

    /// Marks rows as sent. Refused with [`StoreErrorKind::Fenced`](crate::StoreErrorKind::Fenced)
    /// when `lease` is not the current one. Marking a row twice is harmless.
    fn mark_sent<'a>(
        &'a self,
        lease: &'a Lease,
        now_ms: i64,
        ids: &'a [OutboxId],
    ) -> BoxFuture<'a, Result<(), StoreError>>;

    /// Sets a row aside with the error that it can never be published for. Fenced like `mark_sent`.
    fn park<'a>(
        &'a self,
        lease: &'a Lease,
        now_ms: i64,
        id: OutboxId,
        error: &'a str,
    ) -> BoxFuture<'a, Result<(), StoreError>>;

    /// Resolves when a row was committed since it last resolved, as far as the store can tell; a
    /// store that cannot tell never resolves, and the relay polls. One caller at a time: the holder
    /// of the lease. Dropping the future loses no change.
    fn changed(&self) -> BoxFuture<'_, ()>;

    /// How many rows there are in each state.
    fn counts(&self) -> BoxFuture<'_, Result<OutboxCounts, StoreError>>;

    /// At most `limit` rows that were sent or parked and are still kept, with ids above `after`, by
    /// id.
    fn settled(
        &self,
        settled: Settled,
        after: Option<OutboxId>,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<SettledRow>, StoreError>>;

    /// Removes at most `limit` sent rows that were marked before `before_ms`, oldest ids first, and
    /// says how many. Pending and parked rows are never removed.
    fn purge_sent(&self, before_ms: i64, limit: usize) -> BoxFuture<'_, Result<u64, StoreError>>;
}
