//! The relay over redb: a crash between the acknowledgement and the mark.

mod support;

use ottla_outbox::{Relay, RelayConfig};
use ottla_store::{Claim, DedupStore, OutboxStore, StoreError};
use ottla_store_redb::{RedbDedup, RedbOutbox};
use ottla_types::{Record, names};
use std::sync::Arc;
use std::time::Duration;
use support::{FakeProducer, Fault, wait_for_pending};

fn start(outbox: &RedbOutbox, producer: &FakeProducer) -> ottla_outbox::RunningRelay {
    let config = RelayConfig {
        lease: Duration::from_millis(300),
        poll_interval: Duration::from_millis(10),
        ..RelayConfig::default()
    };
    let store = Arc::new(outbox.clone());
    let relay = Relay::new(store, Arc::new(producer.clone()), config);
    relay.expect("a valid config").start()
}

async fn add(outbox: &RedbOutbox, key: &'static str, value: String) {
    let place = outbox.clone();
    let added: Result<_, StoreError> = outbox
        .transaction(move |tx| place.enqueue(tx, Record::new("orders").key(key).value(value)))
        .await;
    added.expect("committed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_written_while_the_relay_runs_are_all_published_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let outbox = RedbOutbox::open(folder.path().join("app.redb"))
        .unwrap()
        .durability(ottla_store_redb::redb::Durability::None);
    let producer = FakeProducer::default();
    let running = start(&outbox, &producer);
    for number in 0..100 {
        add(&outbox, "k", number.to_string()).await;
    }
    wait_for_pending(&outbox, 0).await;
    let report = running.stop(Duration::from_secs(5)).await;
    assert_eq!((report.published, report.unsettled), (100, 0));
    let expected: Vec<String> = (0..100).map(|n| n.to_string()).collect();
    assert_eq!(producer.values(), expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_that_was_sent_and_not_marked_before_a_crash_is_sent_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.redb");
    let outbox = RedbOutbox::open(&path).unwrap();
    add(&outbox, "k", "1".into()).await;
    // Written in truth, but the relay dies before the answer.
    let first = FakeProducer::default();
    first.topic_fault("orders", Fault::MaybeWritten);
    let running = start(&outbox, &first);
    first.wait_for_written(1).await;
    drop(running);
    let written = first.log();
    let id = written[0].headers.last_str(names::MESSAGE_ID);

    wait_until_free(&outbox).await;
    let second = FakeProducer::default();
    let running = start(&outbox, &second);
    wait_for_pending(&outbox, 0).await;
    running.stop(Duration::from_secs(5)).await;
    assert_eq!(second.values(), ["1"]);
    assert_eq!(second.log()[0].headers.last_str(names::MESSAGE_ID), id);

    // What the consumer sees twice has one effect.
    let inbox = RedbDedup::new(outbox.database().clone()).unwrap();
    let id = id.expect("each row has an id");
    let claim = inbox.claim("g", id, "one", 0, 100).await.unwrap();
    assert_eq!(claim, Claim::Acquired);
    inbox.done("g", id, "one", 1).await.unwrap();
    let claim = inbox.claim("g", id, "two", 2, 100).await.unwrap();
    assert_eq!(claim, Claim::AlreadyDone);
}

/// The dead relay's lease ends by itself.
async fn wait_until_free(outbox: &RedbOutbox) {
    let wait = async {
        loop {
            let now_ms = ottla_types::Clock::now_ms(&ottla_store::SystemClock);
            if let Some(lease) = outbox.acquire("probe", now_ms, 1).await.expect("an answer") {
                outbox.release(&lease).await.expect("given back");
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let waited = tokio::time::timeout(Duration::from_secs(5), wait).await;
    waited.expect("the lease ends");
}
