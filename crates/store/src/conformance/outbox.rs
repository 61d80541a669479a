//! The cases for an outbox.

use crate::{Lease, OutboxId, OutboxRow, OutboxStore, Settled, StoreErrorKind};
use ottla_types::{BoxFuture, Record, names};
use std::time::Duration;

/// How the suite enqueues: each store has a transaction type of its own.
pub trait OutboxHarness: Sync {
    /// The store under test.
    fn store(&self) -> &dyn OutboxStore;

    /// Enqueues the records in one transaction and commits or rolls it back.
    fn enqueue(&self, records: Vec<Record>, commit: bool) -> BoxFuture<'_, ()>;
}

fn record(key: &str) -> Record {
    Record::new("orders").key(key.to_owned()).value("v")
}

async fn add(harness: &impl OutboxHarness, keys: &[&str]) {
    let records = keys.iter().map(|key| record(key)).collect();
    harness.enqueue(records, true).await;
}

async fn pending(harness: &impl OutboxHarness) -> Vec<OutboxRow> {
    let rows = harness.store().pending(None, 1000).await;
    rows.expect("pending rows are read")
}

async fn ids(harness: &impl OutboxHarness) -> Vec<OutboxId> {
    pending(harness).await.iter().map(|row| row.id).collect()
}

fn keys(rows: &[OutboxRow]) -> Vec<String> {
    rows.iter()
        .map(|row| {
            let key = row.record.key.as_deref().unwrap_or_default();
            String::from_utf8_lossy(key).into_owned()
        })
        .collect()
}

async fn lease(harness: &impl OutboxHarness, owner: &str, now_ms: i64, ttl_ms: i64) -> Lease {
    let lease = harness.store().acquire(owner, now_ms, ttl_ms).await;
    lease
        .expect("the store answers")
        .expect("the lease is free")
}

fn is_fenced<T: std::fmt::Debug>(result: Result<T, crate::StoreError>) {
    let error = result.expect_err("a fenced owner is refused");
    assert_eq!(error.kind(), StoreErrorKind::Fenced);
}

/// Ids grow in the order of the commits.
pub async fn rows_are_pending_in_commit_order(harness: &impl OutboxHarness) {
    add(harness, &["a", "b"]).await;
    add(harness, &["c"]).await;
    add(harness, &["d"]).await;
    let rows = pending(harness).await;
    assert_eq!(keys(&rows), ["a", "b", "c", "d"]);
    assert!(rows.windows(2).all(|pair| pair[0].id < pair[1].id));
}

/// Null and empty, headers, partition and timestamp come back as they were.
pub async fn what_was_enqueued_is_read_back_whole(harness: &impl OutboxHarness) {
    let mut full = Record::new("orders")
        .key("")
        .value(vec![0, 255, 10])
        .partition(7)
        .timestamp_ms(-1)
        .header("h", "1")
        .header("h", "")
        .header(names::MESSAGE_ID, "id-1");
    full.headers.push("null", None);
    let empty = Record::new("t").header(names::MESSAGE_ID, "id-2");
    harness
        .enqueue(vec![full.clone(), empty.clone()], true)
        .await;
    let rows = pending(harness).await;
    assert_eq!(rows.len(), 2);
    assert_eq!(rows[0].record, full);
    assert_eq!(rows[1].record, empty);
    assert!(rows.iter().all(|row| row.enqueued_at_ms > 0));
}

/// A row exists only if its transaction committed.
pub async fn a_rolled_back_row_is_not_visible(harness: &impl OutboxHarness) {
    harness.enqueue(vec![record("gone")], false).await;
    assert_eq!(pending(harness).await, []);
    add(harness, &["kept"]).await;
    assert_eq!(keys(&pending(harness).await), ["kept"]);
}

/// Each row has an identity before it is first sent.
pub async fn a_missing_message_id_is_made_and_a_given_one_stays(harness: &impl OutboxHarness) {
    let given = record("a").header(names::MESSAGE_ID, "mine");
    harness.enqueue(vec![given, record("b")], true).await;
    let rows = pending(harness).await;
    let id = |row: &OutboxRow| {
        row.record
            .headers
            .last_str(names::MESSAGE_ID)
            .map(str::to_owned)
    };
    assert_eq!(id(&rows[0]).as_deref(), Some("mine"));
    assert!(id(&rows[1]).is_some_and(|made| made.len() == 36));
}

/// `after` and `limit` page through the rows.
pub async fn pages_go_on_after_an_id(harness: &impl OutboxHarness) {
    add(harness, &["a", "b", "c"]).await;
    let store = harness.store();
    let first = store.pending(None, 2).await.expect("first page");
    assert_eq!(keys(&first), ["a", "b"]);
    let rest = store
        .pending(Some(first[1].id), 2)
        .await
        .expect("second page");
    assert_eq!(keys(&rest), ["c"]);
    let end = store.pending(Some(rest[0].id), 2).await.expect("the end");
    assert_eq!(end, []);
}

/// A lease is exclusive until it ends; its holder renews it with the same token.
pub async fn one_lease_at_a_time(harness: &impl OutboxHarness) {
    let first = lease(harness, "one", 1000, 100).await;
    assert_eq!(first.until_ms, 1100);
    let store = harness.store();
    assert_eq!(
        store.acquire("two", 1099, 100).await.expect("an answer"),
        None
    );
    let renewed = lease(harness, "one", 1050, 100).await;
    assert_eq!((renewed.token, renewed.until_ms), (first.token, 1150));
    assert_eq!(
        store.acquire("two", 1149, 100).await.expect("an answer"),
        None
    );
    let second = lease(harness, "two", 1150, 100).await;
    assert!(second.token > first.token);
}

/// TRAPS C29: an expired lease must not overwrite its new owner.
pub async fn trap_c29_a_fenced_owner_changes_nothing(harness: &impl OutboxHarness) {
    add(harness, &["a"]).await;
    let id = ids(harness).await[0];
    let old = lease(harness, "one", 1000, 100).await;
    let new = lease(harness, "two", 2000, 100).await;
    let store = harness.store();
    is_fenced(store.mark_sent(&old, 2000, &[id]).await);
    is_fenced(store.park(&old, 2000, id, "late").await);
    assert_eq!(ids(harness).await, [id]);
    store
        .release(&old)
        .await
        .expect("a late release is ignored");
    assert_eq!(
        store.acquire("three", 2001, 100).await.expect("an answer"),
        None
    );
    store
        .mark_sent(&new, 2000, &[id])
        .await
        .expect("the owner may");
    assert_eq!(ids(harness).await, []);
}

/// Release lets the next owner in before the lease ends, with a new token.
pub async fn a_released_lease_is_free_at_once(harness: &impl OutboxHarness) {
    let first = lease(harness, "one", 1000, 100_000).await;
    harness.store().release(&first).await.expect("released");
    let second = lease(harness, "two", 1001, 100).await;
    assert!(second.token > first.token);
    is_fenced(harness.store().mark_sent(&first, 1001, &[]).await);
}

/// Marks are idempotent, and count once.
pub async fn marking_twice_is_harmless(harness: &impl OutboxHarness) {
    add(harness, &["a", "b"]).await;
    let all = ids(harness).await;
    let lease = lease(harness, "one", 1000, 100).await;
    let store = harness.store();
    store
        .mark_sent(&lease, 1000, &all[1..])
        .await
        .expect("marked");
    store
        .mark_sent(&lease, 1001, &all[1..])
        .await
        .expect("again");
    assert_eq!(ids(harness).await, all[..1]);
    let unknown = OutboxId(u64::from(u32::MAX));
    store
        .mark_sent(&lease, 1001, &[unknown])
        .await
        .expect("no such row");
    let counts = store.counts().await.expect("counts");
    assert_eq!((counts.pending, counts.sent, counts.parked), (1, 1, 0));
    let sent = store
        .settled(Settled::Sent, None, 10)
        .await
        .expect("sent rows");
    assert_eq!((sent[0].row.id, sent[0].settled_at_ms), (all[1], 1000));
}

/// A parked row leaves the queue and keeps its error.
pub async fn a_parked_row_is_set_aside_with_its_error(harness: &impl OutboxHarness) {
    add(harness, &["bad", "good"]).await;
    let rows = pending(harness).await;
    let lease = lease(harness, "one", 1000, 100).await;
    let store = harness.store();
    store
        .park(&lease, 1000, rows[0].id, "too large")
        .await
        .expect("parked");
    store
        .park(&lease, 1001, rows[0].id, "again")
        .await
        .expect("twice is harmless");
    assert_eq!(keys(&pending(harness).await), ["good"]);
    let parked = store
        .settled(Settled::Parked, None, 10)
        .await
        .expect("parked rows");
    assert_eq!(parked.len(), 1);
    assert_eq!(parked[0].row, rows[0]);
    assert_eq!(parked[0].error.as_deref(), Some("too large"));
    let counts = store.counts().await.expect("counts");
    assert_eq!((counts.pending, counts.parked), (1, 1));
    assert_eq!(counts.oldest_pending_ms, Some(rows[1].enqueued_at_ms));
}

/// Purging takes old sent rows, and no others.
pub async fn only_old_sent_rows_are_purged(harness: &impl OutboxHarness) {
    add(harness, &["a", "b", "c", "d", "e"]).await;
    let all = ids(harness).await;
    let lease = lease(harness, "one", 1000, 100_000).await;
    let store = harness.store();
    store
        .mark_sent(&lease, 1000, &all[..2])
        .await
        .expect("marked");
    store
        .mark_sent(&lease, 2000, &all[2..3])
        .await
        .expect("marked");
    store
        .park(&lease, 1000, all[3], "bad")
        .await
        .expect("parked");
    assert_eq!(store.purge_sent(2000, 1).await.expect("one at most"), 1);
    assert_eq!(store.purge_sent(2000, 100).await.expect("the other"), 1);
    let counts = store.counts().await.expect("counts");
    assert_eq!((counts.pending, counts.sent, counts.parked), (1, 1, 1));
}

/// `changed` resolves after a commit, also one that came before the call.
pub async fn a_commit_wakes_the_relay(harness: &impl OutboxHarness) {
    let limit = Duration::from_secs(5);
    add(harness, &["a"]).await;
    let before = tokio::time::timeout(limit, harness.store().changed()).await;
    before.expect("a commit before the call is seen");
    let both = async { tokio::join!(harness.store().changed(), add(harness, &["b"])) };
    let during = tokio::time::timeout(limit, both).await;
    during.expect("a commit during the call is seen");
}
