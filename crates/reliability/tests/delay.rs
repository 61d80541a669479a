//! Delay levels, without a broker: a small simulation in the place of Kafka.

mod support;

use ottla_consumer::{Handler, Outcome};
use ottla_reliability::{
    CLASS_FORWARD_REFUSED, CLASS_INVALID_DELAY, DelayError, DelayForwarder, DelayLevels,
    DelayProducer,
};
use ottla_types::{Clock, ManualClock, PublishErrorKind, Record, names};
use proptest::prelude::*;
use std::sync::Arc;
use std::time::Duration;
use support::{FakeProducer, context, failed, header, is_done, read_back, record};

const NOW: i64 = 1_700_000_000_000;

fn parts(clock: &ManualClock) -> (FakeProducer, DelayProducer, DelayForwarder) {
    let producer = FakeProducer::default();
    let clock = Arc::new(clock.clone());
    let levels = DelayLevels::rocketmq();
    let delay = DelayProducer::new(producer.arc(), levels.clone()).with_clock(clock.clone());
    let forwarder = DelayForwarder::new(levels, producer.arc()).with_clock(clock);
    (producer, delay, forwarder)
}

fn message() -> Record {
    Record::new("closings")
        .key("order-1")
        .value("close")
        .header("h", "1")
}

#[tokio::test]
async fn a_level_is_forwarded_when_due_with_key_and_headers() {
    let clock = ManualClock::new(NOW);
    let (producer, delay, forwarder) = parts(&clock);
    let delayed = delay.send(message(), 2).await.unwrap();
    assert_eq!(delayed.due_ms, NOW + 5000);
    let stored = producer.only();
    assert_eq!(&*stored.topic, "delay_5s");
    let copy = read_back(&stored, 4, NOW);
    clock.advance(4999);
    let early = forwarder.handle(&context(), &copy).await;
    assert!(matches!(early, Outcome::NotBefore(ms) if ms == NOW + 5000));
    assert!(producer.take().is_empty());
    clock.advance(1);
    assert!(is_done(&forwarder.handle(&context(), &copy).await));
    let mut expected = message().header(names::MESSAGE_ID, delayed.message_id);
    expected.timestamp_ms = None;
    assert_eq!(producer.only(), expected);
}

#[tokio::test]
async fn nothing_is_done_while_the_target_cannot_be_reached() {
    let clock = ManualClock::new(NOW);
    let (producer, delay, forwarder) = parts(&clock);
    delay.send(message(), 1).await.unwrap();
    let copy = read_back(&producer.only(), 4, NOW);
    clock.advance(1000);
    producer.breaks("closings", PublishErrorKind::Unavailable);
    failed(forwarder.handle(&context(), &copy).await);
    producer.heals();
    assert!(is_done(&forwarder.handle(&context(), &copy).await));
    assert_eq!(&*producer.only().topic, "closings");
}

#[tokio::test]
async fn what_cannot_be_forwarded_is_dead_lettered_with_all_it_had() {
    let clock = ManualClock::new(NOW);
    let (producer, delay, forwarder) = parts(&clock);
    let broken = record("delay_5s", 7, NOW);
    assert!(is_done(&forwarder.handle(&context(), &broken).await));
    let dead = producer.only();
    assert_eq!(&*dead.topic, "delay_5s_dlq");
    assert_eq!(header(&dead, names::ERROR_CLASS), Some(CLASS_INVALID_DELAY));
    assert_eq!(header(&dead, names::ORIGINAL_TOPIC), Some("delay_5s"));
    assert_eq!((&dead.key, &dead.value), (&broken.key, &broken.value));

    delay.send(message(), 1).await.unwrap();
    let copy = read_back(&producer.only(), 4, NOW);
    clock.advance(1000);
    producer.breaks("closings", PublishErrorKind::UnknownTopic);
    assert!(is_done(&forwarder.handle(&context(), &copy).await));
    let dead = producer.only();
    assert_eq!(&*dead.topic, "delay_1s_dlq");
    assert_eq!(
        header(&dead, names::ERROR_CLASS),
        Some(CLASS_FORWARD_REFUSED)
    );
    assert_eq!(header(&dead, names::TARGET_TOPIC), Some("closings"));
    let due = (NOW + 1000).to_string();
    assert_eq!(header(&dead, names::NOT_BEFORE), Some(&*due));

    producer.breaks("_dlq", PublishErrorKind::Unavailable);
    failed(forwarder.handle(&context(), &copy).await);
    assert!(producer.take().is_empty());
}

#[tokio::test]
async fn a_forwarded_copy_of_a_strangers_record_has_an_identity() {
    let clock = ManualClock::new(NOW);
    let (producer, _, forwarder) = parts(&clock);
    let mut stranger = record("delay_5s", 7, NOW - 5000);
    stranger.headers.set(names::TARGET_TOPIC, "closings");
    for _ in 0..2 {
        assert!(is_done(&forwarder.handle(&context(), &stranger).await));
        let copy = producer.only();
        assert_eq!(header(&copy, names::MESSAGE_ID), Some("delay_5s-3-7"));
    }
}

#[tokio::test]
async fn a_level_that_is_not_there_and_a_chosen_partition_are_refused() {
    let clock = ManualClock::new(NOW);
    let (producer, delay, _) = parts(&clock);
    let error = delay.send(message(), 19).await.unwrap_err();
    assert!(matches!(error, DelayError::UnknownLevel(19)));
    let error = delay.send(message().partition(1), 1).await.unwrap_err();
    assert!(matches!(error, DelayError::PartitionChosen));
    producer.breaks("delay_", PublishErrorKind::Unavailable);
    let error = delay.send(message(), 1).await.unwrap_err();
    assert!(error.is_retriable());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_delay_arrives_on_time(delay_ms in 0i64..10_000_000, lag_ms in 0i64..300) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let clock = ManualClock::new(NOW);
        let (producer, delay, forwarder) = parts(&clock);
        let (late_ms, hops) = runtime.block_on(async {
            let wait = Duration::from_millis(delay_ms.unsigned_abs());
            delay.send_after(message(), wait).await.unwrap();
            let mut hops = 0;
            loop {
                let stored = producer.only();
                if &*stored.topic == "closings" {
                    assert_eq!(header(&stored, "delay_hops"), None);
                    assert_eq!(header(&stored, "h"), Some("1"));
                    return (clock.now_ms() - NOW - delay_ms, hops);
                }
                let copy = read_back(&stored, hops, clock.now_ms());
                hops += 1;
                // The consumer is a little behind each time.
                clock.advance(lag_ms);
                while let Outcome::NotBefore(ms) = forwarder.handle(&context(), &copy).await {
                    clock.advance((ms - clock.now_ms()).max(1));
                }
            }
        });
        prop_assert!(late_ms >= 0, "early by {} ms", -late_ms);
        prop_assert!(late_ms <= lag_ms, "late by {late_ms} ms");
        prop_assert!(hops <= 20, "{hops} hops");
    }
}
