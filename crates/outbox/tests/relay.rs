//! The relay over the memory store and a producer with faults.

mod support;

use ottla_outbox::{Relay, RelayConfig, RelayError, RelayRole, RunningRelay};
use ottla_store::{MemoryOutbox, OutboxStore, Settled};
use ottla_types::{ManualClock, PublishErrorKind, Record, names};
use proptest::prelude::*;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;
use support::{FakeProducer, Fault, add, value, wait_for_pending};

const LIMIT: Duration = Duration::from_secs(10);

fn quick() -> RelayConfig {
    RelayConfig {
        poll_interval: Duration::from_millis(5),
        retry_backoff: Duration::from_millis(1),
        retry_backoff_max: Duration::from_millis(4),
        park_after_attempts: 3,
        ..RelayConfig::default()
    }
}

fn relay(outbox: &MemoryOutbox, producer: &FakeProducer, config: RelayConfig) -> Relay {
    let store = Arc::new(outbox.clone());
    Relay::new(store, Arc::new(producer.clone()), config).expect("a valid config")
}

async fn wait_for_role(relay: &RunningRelay, role: RelayRole) {
    let wait = async {
        while relay.role() != role {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(LIMIT, wait)
        .await
        .expect("the role comes");
}

#[tokio::test]
async fn committed_rows_are_published_and_rolled_back_ones_are_not() {
    let outbox = MemoryOutbox::new(100);
    let producer = FakeProducer::default();
    // Woken by the commit alone: the poll would come too late for the limit.
    let config = RelayConfig {
        poll_interval: Duration::from_secs(60),
        ..quick()
    };
    let running = relay(&outbox, &producer, config).start();
    wait_for_role(&running, RelayRole::Active).await;
    add(&outbox, "orders", "k", "1");
    producer.wait_for_written(1).await;
    let mut rolled_back = outbox.begin();
    outbox.enqueue(&mut rolled_back, Record::new("orders").value("never"));
    rolled_back.rollback();
    add(&outbox, "orders", "k", "2");
    wait_for_pending(&outbox, 0).await;
    let status = running.status().await.unwrap();
    assert_eq!((status.counts.sent, status.role), (2, RelayRole::Active));
    let report = running.stop(Duration::MAX).await;
    assert_eq!((report.published, report.unsettled), (2, 0));
    assert!(report.error.is_none());
    assert_eq!(producer.values(), ["1", "2"]);
}

#[tokio::test]
async fn a_lost_answer_is_sent_again_with_the_same_message_id() {
    let outbox = MemoryOutbox::new(100);
    let producer = FakeProducer::scripted([Fault::MaybeWritten]);
    add(&outbox, "orders", "k", "1");
    let running = relay(&outbox, &producer, quick()).start();
    wait_for_pending(&outbox, 0).await;
    running.stop(LIMIT).await;
    let log = producer.log();
    assert_eq!(log.len(), 2);
    assert_eq!(log[0], log[1]);
    assert!(log[0].headers.last_str(names::MESSAGE_ID).is_some());
}

#[tokio::test]
async fn poison_rows_are_parked_with_their_error_and_the_rest_goes_on() {
    let outbox = MemoryOutbox::new(100);
    let producer = FakeProducer::default();
    producer.topic_fault("large", Fault::Fails(PublishErrorKind::RecordTooLarge));
    producer.topic_fault("none", Fault::Fails(PublishErrorKind::UnknownTopic));
    add(&outbox, "large", "k", "1");
    add(&outbox, "none", "k", "2");
    add(&outbox, "orders", "k", "3");
    let running = relay(&outbox, &producer, quick()).start();
    wait_for_pending(&outbox, 0).await;
    let status = running.status().await.unwrap();
    assert_eq!(
        (status.parked, status.counts.parked, status.retried),
        (2, 2, 2)
    );
    let parked = outbox.settled(Settled::Parked, None, 10).await.unwrap();
    let error = parked[0].error.as_deref().unwrap();
    assert_eq!(error, "topic large: the record is too large");
    assert_eq!(producer.values(), ["3"]);
    running.stop(LIMIT).await;
}

#[tokio::test]
async fn an_outage_parks_nothing_and_passes() {
    let outbox = MemoryOutbox::new(100);
    let outage = [Fault::Fails(PublishErrorKind::Unavailable); 20];
    let producer = FakeProducer::scripted(outage);
    for number in 0..5 {
        add(&outbox, "orders", "k", &number.to_string());
    }
    let running = relay(&outbox, &producer, quick()).start();
    wait_for_pending(&outbox, 0).await;
    assert_eq!(running.status().await.unwrap().retried, 20);
    assert_eq!(producer.values(), ["0", "1", "2", "3", "4"]);
}

#[tokio::test]
async fn a_full_buffer_is_waited_for_without_counting_as_a_failure() {
    let outbox = MemoryOutbox::new(100);
    let full = [Fault::Fails(PublishErrorKind::BufferFull); 5];
    let producer = FakeProducer::scripted(full);
    for number in 0..3 {
        add(&outbox, "orders", &number.to_string(), &number.to_string());
    }
    let running = relay(&outbox, &producer, quick()).start();
    wait_for_pending(&outbox, 0).await;
    assert_eq!(running.status().await.unwrap().retried, 0);
    assert_eq!(producer.values(), ["0", "1", "2"]);
}

#[tokio::test]
async fn a_backlog_above_the_window_is_worked_off() {
    let outbox = MemoryOutbox::new(1000);
    let producer = FakeProducer::scripted((0..500).map(|n| Fault::Slow(n as u8 % 3)));
    for number in 0..500 {
        add(
            &outbox,
            "orders",
            &(number % 7).to_string(),
            &number.to_string(),
        );
    }
    let config = RelayConfig {
        batch_rows: 10,
        max_in_flight_rows: 25,
        ..quick()
    };
    let running = relay(&outbox, &producer, config).start();
    wait_for_pending(&outbox, 0).await;
    assert_eq!(running.stop(LIMIT).await.published, 500);
    assert_eq!(producer.log().len(), 500);
}

#[tokio::test]
async fn a_lane_that_stands_still_holds_up_no_other() {
    let outbox = MemoryOutbox::new(2000);
    let producer = FakeProducer::default();
    producer.topic_fault("stuck", Fault::Hangs);
    for number in 0..500 {
        add(&outbox, "stuck", "k", &number.to_string());
    }
    for number in 0..50 {
        add(&outbox, "orders", "hot", &number.to_string());
    }
    let config = RelayConfig {
        batch_rows: 10,
        max_in_flight_rows: 24,
        ..quick()
    };
    let running = relay(&outbox, &producer, config).start();
    wait_for_pending(&outbox, 500).await;
    let expected: Vec<String> = (0..50).map(|n| n.to_string()).collect();
    assert_eq!(producer.values(), expected);
    let report = running.stop(Duration::from_millis(10)).await;
    assert_eq!((report.published, report.unsettled), (50, 1));
}

#[tokio::test]
async fn a_closed_producer_ends_the_relay_with_an_error() {
    let outbox = MemoryOutbox::new(100);
    let producer = FakeProducer::default();
    producer.topic_fault("orders", Fault::Fails(PublishErrorKind::Closed));
    add(&outbox, "orders", "k", "1");
    let mut running = relay(&outbox, &producer, quick()).start();
    let error = tokio::time::timeout(LIMIT, running.ended()).await.unwrap();
    assert!(matches!(error, RelayError::ProducerClosed(_)));
    assert_eq!(outbox.counts().await.unwrap().pending, 1);
}

#[tokio::test]
async fn a_stop_ends_at_its_deadline_and_says_what_is_left() {
    let outbox = MemoryOutbox::new(100);
    let producer = FakeProducer::default();
    producer.topic_fault("stuck", Fault::Hangs);
    add(&outbox, "stuck", "k", "1");
    add(&outbox, "orders", "k", "2");
    let running = relay(&outbox, &producer, quick()).start();
    wait_for_pending(&outbox, 1).await;
    let report = running.stop(Duration::from_millis(20)).await;
    assert_eq!((report.published, report.unsettled), (1, 1));
    assert_eq!(outbox.counts().await.unwrap().pending, 1);
}

#[tokio::test]
async fn another_relay_takes_over_at_once_after_a_stop_and_after_the_lease_after_a_crash() {
    let outbox = MemoryOutbox::new(100);
    let (first, second) = (FakeProducer::default(), FakeProducer::default());
    let clock = ManualClock::new(1_000_000);
    let start = |producer| {
        let relay = relay(&outbox, producer, quick()).with_clock(Arc::new(clock.clone()));
        relay.start()
    };
    let one = start(&first);
    wait_for_role(&one, RelayRole::Active).await;
    let two = start(&second);
    add(&outbox, "orders", "k", "1");
    first.wait_for_written(1).await;
    wait_for_pending(&outbox, 0).await;
    assert_eq!(two.role(), RelayRole::Standby);
    one.stop(LIMIT).await;
    wait_for_role(&two, RelayRole::Active).await;
    add(&outbox, "orders", "k", "2");
    second.wait_for_written(1).await;
    wait_for_pending(&outbox, 0).await;

    drop(two); // a crash: the lease is not given back
    let three = start(&first);
    add(&outbox, "orders", "k", "3");
    clock.advance(9_000);
    assert_eq!(three.role(), RelayRole::Standby);
    clock.advance(1_001);
    wait_for_pending(&outbox, 0).await;
    assert_eq!(first.values(), ["1", "3"]);
    assert_eq!(second.values(), ["2"]);
}

#[tokio::test]
async fn trap_c29_two_relays_of_the_same_name_do_not_both_publish() {
    let outbox = MemoryOutbox::new(100);
    let producer = FakeProducer::default();
    let config = RelayConfig {
        owner: Some("relay".into()),
        ..quick()
    };
    let one = relay(&outbox, &producer, config);
    let two = one.clone();
    let one = one.start();
    wait_for_role(&one, RelayRole::Active).await;
    let two = two.start();
    assert!(one.owner().starts_with("relay-") && one.owner() != two.owner());
    for number in 0..20 {
        add(&outbox, "orders", "k", &number.to_string());
        wait_for_pending(&outbox, 0).await;
    }
    assert_eq!(
        (one.role(), two.role()),
        (RelayRole::Active, RelayRole::Standby)
    );
    let (one, two) = (one.stop(LIMIT).await, two.stop(LIMIT).await);
    assert_eq!((one.published, two.published), (20, 0));
}

#[tokio::test]
async fn trap_c29_a_relay_whose_lease_was_taken_marks_nothing_more() {
    let outbox = MemoryOutbox::new(100);
    let clock = ManualClock::new(1_000_000);
    let stuck = FakeProducer::default();
    stuck.topic_fault("orders", Fault::Hangs);
    add(&outbox, "orders", "k", "1");
    let one = relay(&outbox, &stuck, quick())
        .with_clock(Arc::new(clock.clone()))
        .start();
    wait_for_role(&one, RelayRole::Active).await;
    // Another owner takes the lease as if the first relay had been paused beyond its end.
    let taken = outbox.acquire("two", 2_000_000, 10_000).await.unwrap();
    let lease = taken.expect("the lease has run out by then");
    clock.advance(500_000);
    wait_for_role(&one, RelayRole::Standby).await;
    let ids: Vec<_> = outbox.pending(None, 10).await.unwrap();
    outbox.mark_sent(&lease, 0, &[ids[0].id]).await.unwrap();
    assert_eq!(one.stop(LIMIT).await.published, 0);
}

fn fault() -> impl Strategy<Value = Fault> {
    prop_oneof![
        3 => Just(Fault::None),
        2 => (1u8..6).prop_map(Fault::Slow),
        2 => Just(Fault::Fails(PublishErrorKind::Unavailable)),
        2 => Just(Fault::MaybeWritten),
        1 => Just(Fault::Fails(PublishErrorKind::BufferFull)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Every row is written, and the first copies of each key's rows are in commit order, whatever
    /// fails and however often the relay crashes.
    #[test]
    fn each_key_keeps_its_order_through_faults_and_crashes(
        keys in proptest::collection::vec(0u8..4, 1..40),
        faults in proptest::collection::vec(fault(), 0..60),
        crashes in proptest::collection::vec(0u32..40, 0..4),
        has_small_window in prop::bool::weighted(0.2),
    ) {
        let mut config = quick();
        if has_small_window {
            // Two rows of a lane at a time: rows are skipped, and found again.
            (config.batch_rows, config.max_in_flight_rows) = (4, 16);
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (outbox, producer) = (MemoryOutbox::new(100), FakeProducer::scripted(faults));
        for (number, key) in keys.iter().enumerate() {
            add(&outbox, "orders", &key.to_string(), &number.to_string());
        }
        runtime.block_on(async {
            let clock = ManualClock::new(1_000_000);
            for turns in crashes {
                let relay = relay(&outbox, &producer, config.clone()).with_clock(Arc::new(clock.clone()));
                let running = relay.start();
                for _ in 0..turns {
                    tokio::task::yield_now().await;
                }
                drop(running);
                clock.advance(20_000);
            }
            // On the real clock, which is later: every old lease has ended.
            let relay = relay(&outbox, &producer, config.clone()).start();
            wait_for_pending(&outbox, 0).await;
            relay.stop(LIMIT).await;
        });
        let mut seen = HashSet::new();
        let mut next: HashMap<u8, usize> = HashMap::new();
        for record in producer.log() {
            let number: usize = value(&record).parse().unwrap();
            if seen.insert(number) {
                let earlier = next.insert(keys[number], number);
                prop_assert!(earlier.is_none_or(|e| e < number), "{number} came late");
            }
        }
        prop_assert_eq!(seen.len(), keys.len());
    }
}
