//! Deduplication and inbox: one entry a message, and an index by time for purging.

use crate::database::{Failure, Shared};
use ottla_store::{
    Claim, DedupEntry, DedupState, DedupStore, StoreError, StoreErrorKind, SystemClock,
};
use ottla_types::{BoxFuture, Clock};
use redb::{Database, Durability, ReadableTable, TableDefinition, WriteTransaction};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// Scope and id to state, time (end of the claim, or when done) and owner.
const ENTRIES: TableDefinition<'_, (&str, &str), (u8, i64, &str)> =
    TableDefinition::new("ottla_dedup_entries");
/// The same by time.
const BY_TIME: TableDefinition<'_, (i64, &str, &str), ()> =
    TableDefinition::new("ottla_dedup_by_time");
const CLAIMED: u8 = 1;
const DONE: u8 = 2;
/// Each claim removes up to so many old entries, so the tables shrink faster than they grow and no
/// claim takes long.
const PURGED_PER_CLAIM: u64 = 4;

/// A [`DedupStore`] in a redb database. Clones share everything.
///
/// Messages are remembered for the retention after they were done (default 7 days); each claim
/// removes a few older ones.
#[derive(Clone)]
pub struct RedbDedup {
    shared: Shared,
    clock: Arc<dyn Clock>,
    retention_ms: i64,
}

impl RedbDedup {
    /// Opens or creates the database at `path`.
    ///
    /// # Errors
    /// [`StoreErrorKind::Unavailable`] when it cannot be opened or another process has it open,
    /// [`StoreErrorKind::Corrupt`] when it cannot be read.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, StoreError> {
        Self::create(Shared::open(path.as_ref())?)
    }

    /// Uses a database that the application has opened, and makes its tables there if need be.
    /// Waits for a write transaction.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn new(database: Arc<Database>) -> Result<Self, StoreError> {
        Self::create(Shared::new(database))
    }

    fn create(shared: Shared) -> Result<Self, StoreError> {
        shared
            .write_here(|transaction| {
                transaction.open_table(ENTRIES)?;
                transaction.open_table(BY_TIME)?;
                Ok(())
            })
            .map_err(|e| e.in_operation("create the deduplication tables"))?;
        Ok(Self {
            shared,
            clock: Arc::new(SystemClock),
            retention_ms: 7 * 24 * 3600 * 1000,
        })
    }

    /// Takes the time of [`done_in`](Self::done_in) from `clock`.
    #[must_use]
    pub fn with_clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// How long a done message is remembered.
    #[must_use]
    pub fn retention(mut self, retention: Duration) -> Self {
        self.retention_ms = i64::try_from(retention.as_millis()).unwrap_or(i64::MAX);
        self
    }

    /// Whether done marks wait for the disk (default: [`Durability::Immediate`]). Claims never do: a
    /// crash that loses a claim has ended its owner too.
    #[must_use]
    pub fn durability(mut self, durability: Durability) -> Self {
        self.shared.durability = durability;
        self
    }

    /// Marks a message as handled in the transaction of its effect, so that both commit or neither
    /// does (an inbox). A later [`done`](DedupStore::done) by the same owner is harmless.
    ///
    /// A message that is done already is refused for its own owner too: an attempt whose call was
    /// dropped may still have committed its transaction, and this one would be a second effect.
    ///
    /// # Errors
    /// [`StoreErrorKind::Fenced`] when another owner has claimed it or it is done: abort the
    /// transaction. The next attempt finds out which.
    pub fn done_in(
        &self,
        transaction: &WriteTransaction,
        scope: &str,
        id: &str,
        owner: &str,
    ) -> Result<(), StoreError> {
        const OPERATION: &str = "mark a message as done";
        let marked = mark(transaction, scope, id, owner, self.clock.now_ms());
        if marked.map_err(|e| e.in_operation(OPERATION))? {
            Ok(())
        } else {
            Err(StoreError::new(StoreErrorKind::Fenced, OPERATION))
        }
    }

    /// A claim's transaction does not wait for the disk.
    fn fleeting(&self) -> Shared {
        Shared {
            durability: Durability::None,
            ..self.shared.clone()
        }
    }
}

fn entry(
    table: &impl ReadableTable<(&'static str, &'static str), (u8, i64, &'static str)>,
    scope: &str,
    id: &str,
) -> Result<Option<DedupEntry>, Failure> {
    let Some(found) = table.get((scope, id))? else {
        return Ok(None);
    };
    let (state, time_ms, owner) = found.value();
    let state = match state {
        CLAIMED => DedupState::Claimed { until_ms: time_ms },
        DONE => DedupState::Done { at_ms: time_ms },
        other => {
            let error = StoreError::new(StoreErrorKind::Corrupt, "read a deduplication entry");
            return Err(error.with_source(format!("unknown state {other}")).into());
        }
    };
    Ok(Some(DedupEntry {
        owner: owner.to_owned(),
        state,
    }))
}

fn put(
    transaction: &WriteTransaction,
    scope: &str,
    id: &str,
    old: Option<&DedupEntry>,
    new: &DedupEntry,
) -> Result<(), Failure> {
    let state = match new.state {
        DedupState::Claimed { .. } => CLAIMED,
        DedupState::Done { .. } => DONE,
    };
    let value = (state, new.time_ms(), new.owner.as_str());
    transaction
        .open_table(ENTRIES)?
        .insert((scope, id), value)?;
    let mut by_time = transaction.open_table(BY_TIME)?;
    if let Some(old) = old {
        by_time.remove((old.time_ms(), scope, id))?;
    }
    by_time.insert((new.time_ms(), scope, id), ())?;
    Ok(())
}

/// Marks the message; false if the owner had marked it before.
fn mark(
    transaction: &WriteTransaction,
    scope: &str,
    id: &str,
    owner: &str,
    now_ms: i64,
) -> Result<bool, Failure> {
    let existing = entry(&transaction.open_table(ENTRIES)?, scope, id)?;
    let new = DedupEntry::done(existing.as_ref(), owner, now_ms)?;
    if let Some(new) = &new {
        put(transaction, scope, id, existing.as_ref(), new)?;
    }
    Ok(new.is_some())
}

fn purge(transaction: &WriteTransaction, before_ms: i64, limit: u64) -> Result<u64, Failure> {
    let mut entries = transaction.open_table(ENTRIES)?;
    let mut by_time = transaction.open_table(BY_TIME)?;
    let mut removed = 0;
    while removed < limit {
        let is_old = by_time
            .first()?
            .is_some_and(|(key, _)| key.value().0 < before_ms);
        let Some((key, _)) = is_old.then(|| by_time.pop_first()).transpose()?.flatten() else {
            break;
        };
        let (_, scope, id) = key.value();
        entries.remove((scope, id))?;
        removed += 1;
    }
    Ok(removed)
}

impl DedupStore for RedbDedup {
    fn claim<'a>(
        &'a self,
        scope: &'a str,
        id: &'a str,
        owner: &'a str,
        now_ms: i64,
        lease_ms: i64,
    ) -> BoxFuture<'a, Result<Claim, StoreError>> {
        const OPERATION: &str = "claim a message";
        let key: Arc<(String, String, String)> = Arc::new((scope.into(), id.into(), owner.into()));
        let before_ms = now_ms.saturating_sub(self.retention_ms);
        Box::pin(async move {
            // Duplicates, the usual reason for a refusal, need no write.
            let key_of_read = key.clone();
            let seen = self.shared.read(OPERATION, move |tx| {
                let (scope, id, owner) = &*key_of_read;
                let existing = entry(&tx.open_table(ENTRIES)?, scope, id)?;
                Ok(DedupEntry::claim(existing.as_ref(), owner, now_ms, lease_ms).0)
            });
            match seen.await? {
                Claim::Acquired => {}
                refused => return Ok(refused),
            }
            let take = move |tx: &WriteTransaction| {
                let (scope, id, owner) = &*key;
                purge(tx, before_ms, PURGED_PER_CLAIM)?;
                let existing = entry(&tx.open_table(ENTRIES)?, scope, id)?;
                let (claim, new) = DedupEntry::claim(existing.as_ref(), owner, now_ms, lease_ms);
                if let Some(new) = new {
                    put(tx, scope, id, existing.as_ref(), &new)?;
                }
                Ok(claim)
            };
            self.fleeting().write(OPERATION, take).await
        })
    }

    fn done<'a>(
        &'a self,
        scope: &'a str,
        id: &'a str,
        owner: &'a str,
        now_ms: i64,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        const OPERATION: &str = "mark a message as done";
        let key: Arc<(String, String, String)> = Arc::new((scope.into(), id.into(), owner.into()));
        Box::pin(async move {
            // After `done_in` there is nothing to write, and nothing to wait for.
            let key_of_read = key.clone();
            let is_marked = self.shared.read(OPERATION, move |tx| {
                let (scope, id, owner) = &*key_of_read;
                let existing = entry(&tx.open_table(ENTRIES)?, scope, id)?;
                Ok(DedupEntry::done(existing.as_ref(), owner, now_ms)?.is_none())
            });
            if is_marked.await? {
                return Ok(());
            }
            let write = move |tx: &WriteTransaction| mark(tx, &key.0, &key.1, &key.2, now_ms);
            self.shared.write(OPERATION, write).await.map(drop)
        })
    }

    fn release<'a>(
        &'a self,
        scope: &'a str,
        id: &'a str,
        owner: &'a str,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        let (scope, id, owner) = (scope.to_owned(), id.to_owned(), owner.to_owned());
        Box::pin(async move {
            let release = move |tx: &WriteTransaction| {
                let mut entries = tx.open_table(ENTRIES)?;
                if let Some(existing) = entry(&entries, &scope, &id)?
                    && existing.is_released_by(&owner)
                {
                    entries.remove((scope.as_str(), id.as_str()))?;
                    let key = (existing.time_ms(), scope.as_str(), id.as_str());
                    tx.open_table(BY_TIME)?.remove(key)?;
                }
                Ok(())
            };
            self.fleeting().write("release a claim", release).await
        })
    }

    fn purge(&self, before_ms: i64) -> BoxFuture<'_, Result<u64, StoreError>> {
        Box::pin(self.shared.write("purge deduplication entries", move |tx| {
            purge(tx, before_ms, u64::MAX)
        }))
    }

    fn retention_ms(&self) -> Option<i64> {
        Some(self.retention_ms)
    }
}

impl std::fmt::Debug for RedbDedup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RedbDedup")
            .field("retention_ms", &self.retention_ms)
            .finish_non_exhaustive()
    }
}
