//! What only a database can show: one transaction for the business and us, restarts, damage.

use ottla_store::{Claim, DedupStore, OutboxId, OutboxStore, Settled, StoreError, StoreErrorKind};
use ottla_store_redb::{RedbDedup, RedbOutbox};
use ottla_types::{ManualClock, Record};
use redb::{Durability, ReadableDatabase, ReadableTable, ReadableTableMetadata, TableDefinition};
use std::sync::Arc;
use std::time::Duration;

const ORDERS: TableDefinition<'_, u64, &str> = TableDefinition::new("orders");
const PENDING: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("ottla_outbox_pending");

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a folder")
}

fn orders(outbox: &RedbOutbox) -> u64 {
    let read = outbox.database().begin_read().expect("a snapshot");
    read.open_table(ORDERS)
        .map_or(0, |t| t.len().expect("a count"))
}

#[tokio::test]
async fn the_business_row_and_the_outbox_row_commit_or_roll_back_together() {
    let folder = folder();
    let outbox = RedbOutbox::open(folder.path().join("app.redb")).unwrap();
    let place = outbox.clone();
    let id = outbox
        .transaction(move |tx| -> Result<OutboxId, StoreError> {
            tx.open_table(ORDERS).unwrap().insert(1, "new").unwrap();
            place.enqueue(tx, Record::new("orders").key("1"))
        })
        .await
        .unwrap();
    assert_eq!(id, OutboxId(1));

    let place = outbox.clone();
    let refused: Result<(), StoreError> = outbox
        .transaction(move |tx| {
            tx.open_table(ORDERS).unwrap().insert(2, "new").unwrap();
            place.enqueue(tx, Record::new("orders").key("2"))?;
            Err(StoreError::new(StoreErrorKind::Refused, "check the order"))
        })
        .await;
    assert!(refused.is_err());
    assert_eq!(orders(&outbox), 1);
    assert_eq!(outbox.pending(None, 10).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_restart_keeps_rows_marks_ids_and_tokens() {
    let folder = folder();
    let path = folder.path().join("app.redb");
    let first_token = {
        let outbox = RedbOutbox::open(&path).unwrap();
        let tx = outbox.begin().unwrap();
        for key in ["a", "b"] {
            outbox.enqueue(&tx, Record::new("t").key(key)).unwrap();
        }
        outbox.commit(tx).unwrap();
        let lease = outbox.acquire("one", 1000, 100).await.unwrap().unwrap();
        outbox
            .mark_sent(&lease, 1000, &[OutboxId(1)])
            .await
            .unwrap();
        lease.token
    };
    let outbox = RedbOutbox::open(&path).unwrap();
    let rows = outbox.pending(None, 10).await.unwrap();
    assert_eq!(rows.iter().map(|r| r.id.0).collect::<Vec<_>>(), [2]);
    let tx = outbox.begin().unwrap();
    let next = outbox.enqueue(&tx, Record::new("t")).unwrap();
    outbox.commit(tx).unwrap();
    assert_eq!(next, OutboxId(3));
    assert_eq!(outbox.acquire("two", 1050, 100).await.unwrap(), None);
    let lease = outbox.acquire("two", 1100, 100).await.unwrap().unwrap();
    assert!(lease.token > first_token);
}

#[tokio::test]
async fn a_damaged_row_is_a_corrupt_error() {
    let folder = folder();
    let outbox = RedbOutbox::open(folder.path().join("app.redb")).unwrap();
    let tx = outbox.begin().unwrap();
    tx.open_table(PENDING)
        .unwrap()
        .insert(1, &b"\x09nonsense"[..])
        .unwrap();
    outbox.commit(tx).unwrap();
    let error = outbox.pending(None, 10).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Corrupt);
}

#[tokio::test]
async fn bounds_on_pending_and_on_sent_rows_hold() {
    let folder = folder();
    let outbox = RedbOutbox::open(folder.path().join("app.redb"))
        .unwrap()
        .durability(Durability::None)
        .max_pending(3)
        .sent_kept(2);
    let tx = outbox.begin().unwrap();
    for _ in 0..3 {
        outbox.enqueue(&tx, Record::new("t")).unwrap();
    }
    let error = outbox.enqueue(&tx, Record::new("t")).unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Full);
    outbox.commit(tx).unwrap();
    let lease = outbox.acquire("one", 0, 100).await.unwrap().unwrap();
    let ids = [OutboxId(1), OutboxId(2), OutboxId(3)];
    outbox.mark_sent(&lease, 1, &ids).await.unwrap();
    let sent = outbox.settled(Settled::Sent, None, 10).await.unwrap();
    assert_eq!(sent.iter().map(|r| r.row.id.0).collect::<Vec<_>>(), [2, 3]);
}

#[tokio::test]
async fn effect_and_mark_commit_in_one_transaction() {
    let folder = folder();
    let outbox = RedbOutbox::open(folder.path().join("app.redb")).unwrap();
    let clock = ManualClock::new(1000);
    let inbox = RedbDedup::new(outbox.database().clone())
        .unwrap()
        .with_clock(Arc::new(clock));
    let claim = inbox.claim("g", "m", "one", 1000, 100).await.unwrap();
    assert_eq!(claim, Claim::Acquired);

    // Rolled back: neither the effect nor the mark.
    let tx = outbox.begin().unwrap();
    tx.open_table(ORDERS).unwrap().insert(1, "paid").unwrap();
    inbox.done_in(&tx, "g", "m", "one").unwrap();
    tx.abort().unwrap();
    let claim = inbox.claim("g", "m", "one", 1001, 100).await.unwrap();
    assert_eq!((claim, orders(&outbox)), (Claim::Acquired, 0));

    let tx = outbox.begin().unwrap();
    tx.open_table(ORDERS).unwrap().insert(1, "paid").unwrap();
    inbox.done_in(&tx, "g", "m", "one").unwrap();
    outbox.commit(tx).unwrap();
    inbox.done("g", "m", "one", 1002).await.unwrap();
    let claim = inbox.claim("g", "m", "two", 1003, 100).await.unwrap();
    assert_eq!((claim, orders(&outbox)), (Claim::AlreadyDone, 1));

    // Neither another owner nor a second attempt of the same one may apply the effect again.
    for owner in ["two", "one"] {
        let tx = outbox.begin().unwrap();
        let error = inbox.done_in(&tx, "g", "m", owner).unwrap_err();
        assert_eq!(error.kind(), StoreErrorKind::Fenced);
    }
}

#[tokio::test]
async fn claims_remove_what_retention_has_let_go() {
    let folder = folder();
    let inbox = RedbDedup::open(folder.path().join("app.redb"))
        .unwrap()
        .retention(Duration::from_millis(1000));
    for id in ["a", "b", "c"] {
        inbox.claim("g", id, "one", 1000, 100).await.unwrap();
        inbox.done("g", id, "one", 1000).await.unwrap();
    }
    inbox.claim("g", "d", "one", 5000, 100).await.unwrap();
    assert_eq!(inbox.purge(5000).await.unwrap(), 0);
    let claim = inbox.claim("g", "a", "two", 5000, 100).await.unwrap();
    assert_eq!(claim, Claim::Acquired);
}

#[tokio::test]
async fn a_second_process_would_be_told_that_the_database_is_open() {
    let folder = folder();
    let path = folder.path().join("app.redb");
    let outbox = RedbOutbox::open(&path).unwrap();
    let error = RedbDedup::open(&path).unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Unavailable);
    let tx = outbox.begin().unwrap();
    assert!(tx.open_table(ORDERS).unwrap().is_empty().unwrap());
    assert!(tx.open_table(ORDERS).unwrap().first().unwrap().is_none());
}
