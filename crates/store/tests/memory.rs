//! The in-memory stores pass the suite, and keep their bounds.

use ottla_store::conformance::outbox::OutboxHarness;
use ottla_store::{Claim, DedupStore, MemoryDedup, MemoryOutbox, OutboxStore, StoreErrorKind};
use ottla_types::{BoxFuture, Record};
use std::time::Duration;

struct Harness(MemoryOutbox);

impl OutboxHarness for Harness {
    fn store(&self) -> &dyn OutboxStore {
        &self.0
    }

    fn enqueue(&self, records: Vec<Record>, commit: bool) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            let mut transaction = self.0.begin();
            for record in records {
                self.0.enqueue(&mut transaction, record);
            }
            if commit {
                self.0.commit(transaction).expect("there is room");
            } else {
                transaction.rollback();
            }
        })
    }
}

mod outbox {
    use super::*;
    ottla_store::outbox_conformance!(async { Harness(MemoryOutbox::new(100)) });
}

mod dedup {
    use super::*;
    ottla_store::dedup_conformance!(async { MemoryDedup::new(100, Duration::from_secs(60)) });
}

#[tokio::test]
async fn a_full_outbox_refuses_the_whole_transaction() {
    let outbox = MemoryOutbox::new(2);
    let mut transaction = outbox.begin();
    for _ in 0..3 {
        outbox.enqueue(&mut transaction, Record::new("t"));
    }
    let error = outbox.commit(transaction).unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Full);
    assert_eq!(outbox.counts().await.unwrap().pending, 0);
}

#[tokio::test]
async fn a_full_dedup_refuses_until_retention_makes_room() {
    let dedup = MemoryDedup::new(2, Duration::from_millis(1000));
    for id in ["a", "b"] {
        let claim = dedup.claim("g", id, "o", 5000, 10).await.unwrap();
        assert_eq!(claim, Claim::Acquired);
        dedup.done("g", id, "o", 5000).await.unwrap();
    }
    let error = dedup.claim("g", "c", "o", 5500, 10).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Full);
    let later = dedup.claim("g", "c", "o", 6001, 10).await.unwrap();
    assert_eq!(later, Claim::Acquired);
    assert_eq!(dedup.len(), 1);
}
