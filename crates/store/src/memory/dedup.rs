//! Deduplication in memory, bounded in entries and in time.

use super::lock;
use crate::{Claim, DedupEntry, DedupStore, StoreError, StoreErrorKind};
use ottla_types::BoxFuture;
use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// A [`DedupStore`] in memory. Clones share the entries. Nothing survives the process, so it finds
/// duplicates of the running process alone.
///
/// Messages older than the retention are forgotten as new ones come. When `max_entries` messages
/// are younger than that, further claims are refused with [`StoreErrorKind::Full`]: forgetting a
/// message early would let its duplicate through.
#[derive(Debug, Clone)]
pub struct MemoryDedup {
    tables: Arc<Mutex<Tables>>,
    max_entries: usize,
    retention_ms: i64,
}

/// Scope and id.
type Key = (Arc<str>, Arc<str>);

#[derive(Debug, Default)]
struct Tables {
    entries: HashMap<Key, DedupEntry>,
    by_time: BTreeSet<(i64, Key)>,
}

impl Tables {
    fn put(&mut self, key: Key, entry: DedupEntry) {
        let time_ms = entry.time_ms();
        if let Some(old) = self.entries.insert(key.clone(), entry) {
            self.by_time.remove(&(old.time_ms(), key.clone()));
        }
        self.by_time.insert((time_ms, key));
    }

    fn remove(&mut self, key: &Key) {
        if let Some(old) = self.entries.remove(key) {
            self.by_time.remove(&(old.time_ms(), key.clone()));
        }
    }

    fn purge(&mut self, before_ms: i64) -> u64 {
        let mut removed = 0;
        while self
            .by_time
            .first()
            .is_some_and(|(time, _)| *time < before_ms)
        {
            if let Some((_, key)) = self.by_time.pop_first() {
                self.entries.remove(&key);
                removed += 1;
            }
        }
        removed
    }
}

fn key(scope: &str, id: &str) -> Key {
    (scope.into(), id.into())
}

impl MemoryDedup {
    /// An empty store of at most `max_entries` messages (at least 1), each remembered for
    /// `retention` after it was done.
    pub fn new(max_entries: usize, retention: Duration) -> Self {
        Self {
            tables: Arc::default(),
            max_entries: max_entries.max(1),
            retention_ms: i64::try_from(retention.as_millis()).unwrap_or(i64::MAX),
        }
    }

    /// How many messages are remembered, claimed ones included.
    pub fn len(&self) -> usize {
        lock(&self.tables).entries.len()
    }

    /// Whether no message is remembered.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn claim_now(
        &self,
        key: Key,
        owner: &str,
        now_ms: i64,
        lease_ms: i64,
    ) -> Result<Claim, StoreError> {
        let mut tables = lock(&self.tables);
        tables.purge(now_ms.saturating_sub(self.retention_ms));
        let existing = tables.entries.get(&key);
        let is_new = existing.is_none();
        let (claim, entry) = DedupEntry::claim(existing, owner, now_ms, lease_ms);
        if let Some(entry) = entry {
            if is_new && tables.entries.len() >= self.max_entries {
                return Err(StoreError::new(StoreErrorKind::Full, "claim a message"));
            }
            tables.put(key, entry);
        }
        Ok(claim)
    }
}

impl DedupStore for MemoryDedup {
    fn claim<'a>(
        &'a self,
        scope: &'a str,
        id: &'a str,
        owner: &'a str,
        now_ms: i64,
        lease_ms: i64,
    ) -> BoxFuture<'a, Result<Claim, StoreError>> {
        let result = self.claim_now(key(scope, id), owner, now_ms, lease_ms);
        Box::pin(std::future::ready(result))
    }

    fn done<'a>(
        &'a self,
        scope: &'a str,
        id: &'a str,
        owner: &'a str,
        now_ms: i64,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        let key = key(scope, id);
        let mut tables = lock(&self.tables);
        // A message that was forgotten meanwhile may go over the bound by one for each attempt that
        // runs, and those are bounded by the handlers.
        let result = DedupEntry::done(tables.entries.get(&key), owner, now_ms).map(|entry| {
            if let Some(entry) = entry {
                tables.put(key, entry);
            }
        });
        Box::pin(std::future::ready(result))
    }

    fn release<'a>(
        &'a self,
        scope: &'a str,
        id: &'a str,
        owner: &'a str,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        let key = key(scope, id);
        let mut tables = lock(&self.tables);
        if tables
            .entries
            .get(&key)
            .is_some_and(|e| e.is_released_by(owner))
        {
            tables.remove(&key);
        }
        Box::pin(std::future::ready(Ok(())))
    }

    fn purge(&self, before_ms: i64) -> BoxFuture<'_, Result<u64, StoreError>> {
        let removed = lock(&self.tables).purge(before_ms);
        Box::pin(std::future::ready(Ok(removed)))
    }

    fn retention_ms(&self) -> Option<i64> {
        Some(self.retention_ms)
    }
}
