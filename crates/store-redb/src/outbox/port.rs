//! What the relay uses: the lease, the pages of rows, and the marks, each in one transaction.

use super::{LEASES, PARKED, PENDING, RedbOutbox, SENT, SettledTable};
use crate::database::Failure;
use crate::row;
use ottla_store::{
    Lease, LeaseState, OutboxCounts, OutboxId, OutboxRow, OutboxStore, Settled, SettledRow,
    StoreError, StoreErrorKind,
};
use ottla_types::BoxFuture;
use redb::{ReadTransaction, ReadableTable, ReadableTableMetadata, WriteTransaction};
use std::ops::Bound;

/// The one shard there is.
const SHARD: &str = "all";

fn after_bound(after: Option<OutboxId>) -> (Bound<u64>, Bound<u64>) {
    let from = after.map_or(Bound::Unbounded, |id| Bound::Excluded(id.0));
    (from, Bound::Unbounded)
}

fn lease_state(
    table: &impl ReadableTable<&'static str, (u64, i64, Option<&'static str>)>,
) -> Result<LeaseState, Failure> {
    Ok(table
        .get(SHARD)?
        .map(|found| {
            let (token, until_ms, owner) = found.value();
            LeaseState {
                owner: owner.map(str::to_owned),
                token,
                until_ms,
            }
        })
        .unwrap_or_default())
}

fn put_lease(transaction: &WriteTransaction, state: &LeaseState) -> Result<(), Failure> {
    let value = (state.token, state.until_ms, state.owner.as_deref());
    transaction.open_table(LEASES)?.insert(SHARD, value)?;
    Ok(())
}

fn check_lease(
    transaction: &WriteTransaction,
    lease: &Lease,
    operation: &'static str,
) -> Result<(), Failure> {
    if lease_state(&transaction.open_table(LEASES)?)?.is_current(lease) {
        Ok(())
    } else {
        Err(StoreError::new(StoreErrorKind::Fenced, operation).into())
    }
}

/// Moves a pending row to `table`; a row that is not pending is left alone.
fn settle(
    transaction: &WriteTransaction,
    table: SettledTable,
    ids: &[OutboxId],
    now_ms: i64,
    error: &str,
) -> Result<(), Failure> {
    let mut pending = transaction.open_table(PENDING)?;
    let mut settled = transaction.open_table(table)?;
    for id in ids {
        if let Some(row) = pending.remove(id.0)? {
            settled.insert(id.0, (now_ms, error, row.value()))?;
        }
    }
    Ok(())
}

fn trim(transaction: &WriteTransaction, keep: u64) -> Result<(), Failure> {
    let mut sent = transaction.open_table(SENT)?;
    while sent.len()? > keep {
        sent.pop_first()?;
    }
    Ok(())
}

fn settled_page(
    transaction: &ReadTransaction,
    settled: Settled,
    after: Option<OutboxId>,
    limit: usize,
) -> Result<Vec<SettledRow>, Failure> {
    let table = transaction.open_table(match settled {
        Settled::Sent => SENT,
        Settled::Parked => PARKED,
    })?;
    let mut rows = Vec::new();
    for entry in table.range(after_bound(after))?.take(limit) {
        let (id, value) = entry?;
        let (settled_at_ms, error, bytes) = value.value();
        rows.push(SettledRow {
            row: row::decode(OutboxId(id.value()), bytes)?,
            settled_at_ms,
            error: (settled == Settled::Parked).then(|| error.to_owned()),
        });
    }
    Ok(rows)
}

impl OutboxStore for RedbOutbox {
    fn acquire<'a>(
        &'a self,
        owner: &'a str,
        now_ms: i64,
        ttl_ms: i64,
    ) -> BoxFuture<'a, Result<Option<Lease>, StoreError>> {
        const OPERATION: &str = "acquire the outbox lease";
        let owner = owner.to_owned();
        Box::pin(async move {
            // A relay in waiting asks often: it must not take the writer's place each time.
            let state = self.shared.read(OPERATION, |transaction| {
                lease_state(&transaction.open_table(LEASES)?)
            });
            if state.await?.is_held_by_another(&owner, now_ms) {
                return Ok(None);
            }
            let take = move |transaction: &WriteTransaction| {
                let mut state = lease_state(&transaction.open_table(LEASES)?)?;
                let lease = state.acquire(&owner, now_ms, ttl_ms);
                if lease.is_some() {
                    put_lease(transaction, &state)?;
                }
                Ok(lease)
            };
            self.shared.write(OPERATION, take).await
        })
    }

    fn release<'a>(&'a self, lease: &'a Lease) -> BoxFuture<'a, Result<(), StoreError>> {
        let lease = lease.clone();
        Box::pin(self.shared.write("release the outbox lease", move |tx| {
            let mut state = lease_state(&tx.open_table(LEASES)?)?;
            if state.release(&lease) {
                put_lease(tx, &state)?;
            }
            Ok(())
        }))
    }

    fn pending(
        &self,
        after: Option<OutboxId>,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<OutboxRow>, StoreError>> {
        Box::pin(self.shared.read("read pending outbox rows", move |tx| {
            let table = tx.open_table(PENDING)?;
            let mut rows = Vec::new();
            for entry in table.range(after_bound(after))?.take(limit) {
                let (id, bytes) = entry?;
                rows.push(row::decode(OutboxId(id.value()), bytes.value())?);
            }
            Ok(rows)
        }))
    }

    fn mark_sent<'a>(
        &'a self,
        lease: &'a Lease,
        now_ms: i64,
        ids: &'a [OutboxId],
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        const OPERATION: &str = "mark outbox rows as sent";
        let (lease, ids, keep) = (lease.clone(), ids.to_vec(), self.sent_kept);
        Box::pin(self.shared.write(OPERATION, move |tx| {
            check_lease(tx, &lease, OPERATION)?;
            settle(tx, SENT, &ids, now_ms, "")?;
            trim(tx, keep)
        }))
    }

    fn park<'a>(
        &'a self,
        lease: &'a Lease,
        now_ms: i64,
        id: OutboxId,
        error: &'a str,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        const OPERATION: &str = "park an outbox row";
        let (lease, error) = (lease.clone(), error.to_owned());
        Box::pin(self.shared.write(OPERATION, move |tx| {
            check_lease(tx, &lease, OPERATION)?;
            settle(tx, PARKED, &[id], now_ms, &error)
        }))
    }

    fn changed(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.changed.notified())
    }

    fn counts(&self) -> BoxFuture<'_, Result<OutboxCounts, StoreError>> {
        Box::pin(self.shared.read("count outbox rows", |tx| {
            let pending = tx.open_table(PENDING)?;
            let oldest_pending_ms = match pending.first()? {
                Some((id, bytes)) => {
                    let row = row::decode(OutboxId(id.value()), bytes.value())?;
                    Some(row.enqueued_at_ms)
                }
                None => None,
            };
            Ok(OutboxCounts {
                pending: pending.len()?,
                sent: tx.open_table(SENT)?.len()?,
                parked: tx.open_table(PARKED)?.len()?,
                oldest_pending_ms,
            })
        }))
    }

    fn settled(
        &self,
        settled: Settled,
        after: Option<OutboxId>,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<SettledRow>, StoreError>> {
        Box::pin(self.shared.read("read settled outbox rows", move |tx| {
            settled_page(tx, settled, after, limit)
        }))
    }

    fn purge_sent(&self, before_ms: i64, limit: usize) -> BoxFuture<'_, Result<u64, StoreError>> {
        Box::pin(self.shared.write("purge sent outbox rows", move |tx| {
            let mut sent = tx.open_table(SENT)?;
            let mut removed = 0;
            while (removed as usize) < limit {
                let is_old = sent
                    .first()?
                    .is_some_and(|(_, value)| value.value().0 < before_ms);
                if !is_old {
                    break;
                }
                sent.pop_first()?;
                removed += 1;
            }
            Ok(removed)
        }))
    }
}
