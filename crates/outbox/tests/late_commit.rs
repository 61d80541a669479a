//! In a database where transactions overlap, a lower id can become visible after a higher one.

mod support;

use ottla_outbox::{Relay, RelayConfig};
use ottla_store::{
    Lease, MemoryOutbox, OutboxCounts, OutboxId, OutboxRow, OutboxStore, Settled, SettledRow,
    StoreError,
};
use ottla_types::BoxFuture;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use support::{FakeProducer, add, wait_for_pending};

/// Row 1 is in a transaction that has not committed yet.
#[derive(Clone)]
struct Overlapping {
    outbox: MemoryOutbox,
    is_committed: Arc<AtomicBool>,
}

type Answer<'a, T> = BoxFuture<'a, Result<T, StoreError>>;

impl OutboxStore for Overlapping {
    fn pending(&self, after: Option<OutboxId>, limit: usize) -> Answer<'_, Vec<OutboxRow>> {
        Box::pin(async move {
            let mut rows = self.outbox.pending(after, limit).await?;
            if !self.is_committed.load(Ordering::SeqCst) {
                rows.retain(|row| row.id != OutboxId(1));
            }
            Ok(rows)
        })
    }

    fn acquire<'a>(&'a self, owner: &'a str, now: i64, ttl: i64) -> Answer<'a, Option<Lease>> {
        self.outbox.acquire(owner, now, ttl)
    }

    fn release<'a>(&'a self, lease: &'a Lease) -> Answer<'a, ()> {
        self.outbox.release(lease)
    }

    fn mark_sent<'a>(&'a self, lease: &'a Lease, now: i64, ids: &'a [OutboxId]) -> Answer<'a, ()> {
        self.outbox.mark_sent(lease, now, ids)
    }

    fn park<'a>(
        &'a self,
        lease: &'a Lease,
        now: i64,
        id: OutboxId,
        error: &'a str,
    ) -> Answer<'a, ()> {
        self.outbox.park(lease, now, id, error)
    }

    fn changed(&self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::pending())
    }

    fn counts(&self) -> Answer<'_, OutboxCounts> {
        self.outbox.counts()
    }

    fn settled(
        &self,
        settled: Settled,
        after: Option<OutboxId>,
        limit: usize,
    ) -> Answer<'_, Vec<SettledRow>> {
        self.outbox.settled(settled, after, limit)
    }

    fn purge_sent(&self, before_ms: i64, limit: usize) -> Answer<'_, u64> {
        self.outbox.purge_sent(before_ms, limit)
    }
}

#[tokio::test]
async fn trap_c29_a_row_that_commits_late_under_a_lower_id_is_not_skipped() {
    let store = Overlapping {
        outbox: MemoryOutbox::new(100),
        is_committed: Arc::default(),
    };
    add(&store.outbox, "orders", "a", "late");
    add(&store.outbox, "orders", "b", "early");
    let producer = FakeProducer::default();
    let config = RelayConfig {
        poll_interval: Duration::from_millis(5),
        ..RelayConfig::default()
    };
    let relay = Relay::new(Arc::new(store.clone()), Arc::new(producer.clone()), config).unwrap();
    let running = relay.start();
    producer.wait_for_written(1).await;
    wait_for_pending(&store, 1).await;
    store.is_committed.store(true, Ordering::SeqCst);
    wait_for_pending(&store, 0).await;
    running.stop(Duration::from_secs(5)).await;
    assert_eq!(producer.values(), ["early", "late"]);
}
