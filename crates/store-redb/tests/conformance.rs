//! The redb stores pass the suite that all stores pass.

use ottla_store::OutboxStore;
use ottla_store::conformance::outbox::OutboxHarness;
use ottla_store_redb::{RedbDedup, RedbOutbox};
use ottla_types::{BoxFuture, Record};
use redb::Database;
use redb::backends::InMemoryBackend;
use std::sync::Arc;

fn database() -> Arc<Database> {
    let builder = Database::builder();
    let database = builder.create_with_backend(InMemoryBackend::new());
    Arc::new(database.expect("a database in memory"))
}

struct Harness(RedbOutbox);

impl OutboxHarness for Harness {
    fn store(&self) -> &dyn OutboxStore {
        &self.0
    }

    fn enqueue(&self, records: Vec<Record>, commit: bool) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            let transaction = self.0.begin().expect("begun");
            for record in records {
                self.0.enqueue(&transaction, record).expect("enqueued");
            }
            if commit {
                self.0.commit(transaction).expect("committed");
            } else {
                transaction.abort().expect("rolled back");
            }
        })
    }
}

mod outbox {
    use super::*;
    ottla_store::outbox_conformance!(async { Harness(RedbOutbox::new(database()).unwrap()) });
}

mod dedup {
    use super::*;
    ottla_store::dedup_conformance!(async { RedbDedup::new(database()).unwrap() });
}
