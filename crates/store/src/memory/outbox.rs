//! An outbox in memory, with transactions that commit or roll back.

use super::lock;
use crate::{
    Lease, LeaseState, OutboxCounts, OutboxId, OutboxRow, OutboxStore, Settled, SettledRow,
    StoreError, StoreErrorKind, SystemClock, ensure_message_id,
};
use ottla_types::{BoxFuture, Clock, Record};
use std::collections::{BTreeMap, btree_map};
use std::ops::Bound;
use std::sync::{Arc, Mutex};
use tokio::sync::Notify;

/// An [`OutboxStore`] in memory. Clones share the rows. Nothing survives the process.
///
/// At most `max_rows` rows are pending or parked, and the newest `max_rows` sent ones are kept.
///
/// ```
/// use ottla_store::MemoryOutbox;
/// use ottla_types::Record;
///
/// let outbox = MemoryOutbox::new(1000);
/// let mut transaction = outbox.begin();
/// outbox.enqueue(&mut transaction, Record::new("orders").key("1"));
/// let ids = outbox.commit(transaction)?;
/// assert_eq!(ids.len(), 1);
/// # Ok::<(), ottla_store::StoreError>(())
/// ```
#[derive(Clone)]
pub struct MemoryOutbox {
    shared: Arc<Shared>,
    clock: Arc<dyn Clock>,
}

struct Shared {
    tables: Mutex<Tables>,
    changed: Notify,
    max_rows: usize,
}

#[derive(Default)]
struct Tables {
    last_id: u64,
    pending: BTreeMap<OutboxId, OutboxRow>,
    sent: BTreeMap<OutboxId, SettledRow>,
    parked: BTreeMap<OutboxId, SettledRow>,
    lease: LeaseState,
}

/// Rows that are not committed yet. Dropping it rolls back.
#[derive(Debug, Default)]
#[must_use = "a transaction that is not committed is rolled back"]
pub struct MemoryTransaction {
    rows: Vec<(Record, i64)>,
}

impl MemoryTransaction {
    /// Forgets the rows, as dropping does.
    pub fn rollback(self) {}
}

impl MemoryOutbox {
    /// An empty outbox that holds at most `max_rows` pending and parked rows (at least 1).
    pub fn new(max_rows: usize) -> Self {
        Self {
            shared: Arc::new(Shared {
                tables: Mutex::default(),
                changed: Notify::new(),
                max_rows: max_rows.max(1),
            }),
            clock: Arc::new(SystemClock),
        }
    }

    /// Takes the time of enqueueing from `clock`.
    #[must_use]
    pub fn with_clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Opens a transaction.
    pub fn begin(&self) -> MemoryTransaction {
        MemoryTransaction::default()
    }

    /// Adds a row to the transaction. A record without a `message_id` header gets one.
    pub fn enqueue(&self, transaction: &mut MemoryTransaction, mut record: Record) {
        ensure_message_id(&mut record.headers);
        transaction.rows.push((record, self.clock.now_ms()));
    }

    /// Commits: all rows become pending, with ids in the order of the commits, and the relay wakes.
    ///
    /// # Errors
    /// [`StoreErrorKind::Full`] when the rows do not all fit; then none is added.
    pub fn commit(&self, transaction: MemoryTransaction) -> Result<Vec<OutboxId>, StoreError> {
        let mut tables = lock(&self.shared.tables);
        let held = tables.pending.len() + tables.parked.len();
        if held + transaction.rows.len() > self.shared.max_rows {
            return Err(StoreError::new(StoreErrorKind::Full, "commit outbox rows"));
        }
        let mut ids = Vec::with_capacity(transaction.rows.len());
        for (record, enqueued_at_ms) in transaction.rows {
            tables.last_id += 1;
            let id = OutboxId(tables.last_id);
            let row = OutboxRow {
                id,
                record,
                enqueued_at_ms,
            };
            tables.pending.insert(id, row);
            ids.push(id);
        }
        drop(tables);
        if !ids.is_empty() {
            self.shared.changed.notify_one();
        }
        Ok(ids)
    }

    fn fenced<T>(
        &self,
        lease: &Lease,
        operation: &'static str,
        change: impl FnOnce(&mut Tables, usize) -> T,
    ) -> Result<T, StoreError> {
        let mut tables = lock(&self.shared.tables);
        if !tables.lease.is_current(lease) {
            return Err(StoreError::new(StoreErrorKind::Fenced, operation));
        }
        Ok(change(&mut tables, self.shared.max_rows))
    }
}

fn page<T: Clone>(rows: &BTreeMap<OutboxId, T>, after: Option<OutboxId>, limit: usize) -> Vec<T> {
    let from = after.map_or(Bound::Unbounded, Bound::Excluded);
    rows.range((from, Bound::Unbounded))
        .take(limit)
        .map(|(_, row)| row.clone())
        .collect()
}

fn ready<'a, T: Send + 'a>(value: T) -> BoxFuture<'a, T> {
    Box::pin(std::future::ready(value))
}

impl OutboxStore for MemoryOutbox {
    fn acquire<'a>(
        &'a self,
        owner: &'a str,
        now_ms: i64,
        ttl_ms: i64,
    ) -> BoxFuture<'a, Result<Option<Lease>, StoreError>> {
        let mut tables = lock(&self.shared.tables);
        ready(Ok(tables.lease.acquire(owner, now_ms, ttl_ms)))
    }

    fn release<'a>(&'a self, lease: &'a Lease) -> BoxFuture<'a, Result<(), StoreError>> {
        lock(&self.shared.tables).lease.release(lease);
        ready(Ok(()))
    }

    fn pending(
        &self,
        after: Option<OutboxId>,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<OutboxRow>, StoreError>> {
        ready(Ok(page(&lock(&self.shared.tables).pending, after, limit)))
    }

    fn mark_sent<'a>(
        &'a self,
        lease: &'a Lease,
        now_ms: i64,
        ids: &'a [OutboxId],
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        ready(
            self.fenced(lease, "mark outbox rows as sent", |tables, keep| {
                for id in ids {
                    if let Some(row) = tables.pending.remove(id) {
                        let row = SettledRow {
                            row,
                            settled_at_ms: now_ms,
                            error: None,
                        };
                        tables.sent.insert(*id, row);
                    }
                }
                while tables.sent.len() > keep {
                    tables.sent.pop_first();
                }
            }),
        )
    }

    fn park<'a>(
        &'a self,
        lease: &'a Lease,
        now_ms: i64,
        id: OutboxId,
        error: &'a str,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        ready(self.fenced(lease, "park an outbox row", |tables, _| {
            if let Some(row) = tables.pending.remove(&id) {
                let row = SettledRow {
                    row,
                    settled_at_ms: now_ms,
                    error: Some(error.to_owned()),
                };
                tables.parked.insert(id, row);
            }
        }))
    }

    fn changed(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.shared.changed.notified())
    }

    fn counts(&self) -> BoxFuture<'_, Result<OutboxCounts, StoreError>> {
        let tables = lock(&self.shared.tables);
        ready(Ok(OutboxCounts {
            pending: tables.pending.len() as u64,
            sent: tables.sent.len() as u64,
            parked: tables.parked.len() as u64,
            oldest_pending_ms: tables.pending.values().next().map(|row| row.enqueued_at_ms),
        }))
    }

    fn settled(
        &self,
        settled: Settled,
        after: Option<OutboxId>,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<SettledRow>, StoreError>> {
        let tables = lock(&self.shared.tables);
        let rows = match settled {
            Settled::Sent => &tables.sent,
            Settled::Parked => &tables.parked,
        };
        ready(Ok(page(rows, after, limit)))
    }

    fn purge_sent(&self, before_ms: i64, limit: usize) -> BoxFuture<'_, Result<u64, StoreError>> {
        let mut tables = lock(&self.shared.tables);
        let mut removed = 0;
        while let Some(first) = tables.sent.first_entry()
            && (removed as usize) < limit
            && first.get().settled_at_ms < before_ms
        {
            btree_map::OccupiedEntry::remove(first);
            removed += 1;
        }
        ready(Ok(removed))
    }
}

impl std::fmt::Debug for MemoryOutbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let tables = lock(&self.shared.tables);
        f.debug_struct("MemoryOutbox")
            .field("pending", &tables.pending.len())
            .field("sent", &tables.sent.len())
            .field("parked", &tables.parked.len())
            .finish_non_exhaustive()
    }
}
