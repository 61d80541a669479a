//! Retries and dead letters, without a broker.

mod support;

use ottla_consumer::{
    ConsumedRecord, Context, Failure, Handler, HandlerError, Outcome, PartitionLease, handler_fn,
};
use ottla_reliability::{
    Backoff, CLASS_PUBLISH_FAILED, ClassPolicy, InPlace, Reliable, RetryPolicy,
};
use ottla_types::{Bytes, ManualClock, PublishErrorKind, names};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use support::{FakeProducer, context, failed, header, is_done, read_back, record};

const NOW: i64 = 1_700_000_000_000;

fn failing(failure: Failure) -> impl Handler {
    handler_fn(move |_, _| async move {
        Outcome::Failed(HandlerError::new(failure, "Gateway", "no answer"))
    })
}

fn policy() -> RetryPolicy {
    let delays = [1, 5].map(Duration::from_secs);
    RetryPolicy::new(3, Backoff::levels(delays)).jitter(0.0)
}

fn reliable<H: Handler>(
    handler: H,
    policy: RetryPolicy,
    producer: &FakeProducer,
    clock: &ManualClock,
) -> Reliable<H> {
    Reliable::builder("sms", handler, producer.arc())
        .topic("orders")
        .policy(policy)
        .clock(Arc::new(clock.clone()))
        .seed(7)
        .build()
        .expect("a valid policy")
}

#[tokio::test]
async fn a_failing_record_goes_through_the_tiers_to_the_dead_letters() {
    let (producer, clock) = (FakeProducer::default(), ManualClock::new(NOW));
    let reliable = reliable(failing(Failure::Transient), policy(), &producer, &clock);
    assert_eq!(
        reliable.subscriptions(),
        ["orders", "orders_retry_sms_1s", "orders_retry_sms_5s"]
    );
    let source = record("orders", 42, NOW - 10);
    assert!(is_done(&reliable.handle(&context(), &source).await));

    let first = producer.only();
    assert_eq!(&*first.topic, "orders_retry_sms_1s");
    assert_eq!((&first.key, &first.value), (&source.key, &source.value));
    assert_eq!((first.partition, header(&first, "h")), (None, Some("1")));
    assert_eq!(header(&first, names::RETRY_COUNT), Some("1"));
    assert_eq!(header(&first, names::ORIGINAL_TOPIC), Some("orders"));
    assert_eq!(header(&first, names::ORIGINAL_PARTITION), Some("3"));
    assert_eq!(header(&first, names::ORIGINAL_OFFSET), Some("42"));
    let timestamp = (NOW - 10).to_string();
    assert_eq!(header(&first, names::ORIGINAL_TIMESTAMP), Some(&*timestamp));
    assert_eq!(header(&first, names::CONSUMER_GROUP), Some("sms"));
    assert_eq!(header(&first, names::ERROR_CLASS), Some("Gateway"));
    assert_eq!(header(&first, names::ERROR_MESSAGE), Some("no answer"));
    assert_eq!(header(&first, names::MESSAGE_ID), Some("orders-3-42"));
    let due = (NOW + 1000).to_string();
    assert_eq!(header(&first, names::NOT_BEFORE), Some(&*due));

    // Not due: the partition waits, and nothing is published.
    let copy = read_back(&first, 0, NOW);
    let early = reliable.handle(&context(), &copy).await;
    assert!(matches!(early, Outcome::NotBefore(ms) if ms == NOW + 1000));
    clock.advance(1000);
    assert!(is_done(&reliable.handle(&context(), &copy).await));
    let second = producer.only();
    assert_eq!(&*second.topic, "orders_retry_sms_5s");
    assert_eq!(header(&second, names::RETRY_COUNT), Some("2"));
    assert_eq!(header(&second, names::ORIGINAL_OFFSET), Some("42"));
    assert_eq!(header(&second, names::MESSAGE_ID), Some("orders-3-42"));

    clock.advance(5000);
    let copy = read_back(&second, 9, NOW + 1000);
    assert!(is_done(&reliable.handle(&context(), &copy).await));
    let dead = producer.only();
    assert_eq!(&*dead.topic, "orders_dlq");
    assert_eq!((&dead.key, &dead.value), (&source.key, &source.value));
    assert_eq!(header(&dead, names::RETRY_COUNT), Some("3"));
    assert_eq!(header(&dead, names::ORIGINAL_TOPIC), Some("orders"));
    assert_eq!(header(&dead, names::NOT_BEFORE), None);
    let failed_at = (NOW + 6000).to_string();
    assert_eq!(header(&dead, names::FAILED_AT), Some(&*failed_at));
}

#[tokio::test]
async fn a_permanent_failure_is_dead_lettered_at_once_with_its_raw_bytes() {
    let (producer, clock) = (FakeProducer::default(), ManualClock::new(NOW));
    let reliable = reliable(failing(Failure::Permanent), policy(), &producer, &clock);
    let mut source = record("orders", 1, -1);
    source.key = None;
    source.value = Some(Bytes::from_static(&[0xff, 0, 0xfe]));
    assert!(is_done(&reliable.handle(&context(), &source).await));
    let dead = producer.only();
    assert_eq!(&*dead.topic, "orders_dlq");
    assert_eq!((&dead.key, &dead.value), (&source.key, &source.value));
    assert_eq!(header(&dead, names::RETRY_COUNT), Some("1"));
}

#[tokio::test]
async fn an_outage_makes_the_partition_wait_and_counts_as_no_attempt() {
    let (producer, clock) = (FakeProducer::default(), ManualClock::new(NOW));
    let reliable = reliable(failing(Failure::Outage), policy(), &producer, &clock);
    for _ in 0..10 {
        let outcome = reliable.handle(&context(), &record("orders", 1, NOW)).await;
        assert!(matches!(outcome, Outcome::NotBefore(ms) if ms == NOW + 5000));
    }
    assert!(producer.take().is_empty());
}

#[tokio::test]
async fn a_source_is_not_done_while_its_copy_cannot_be_published() {
    let (producer, clock) = (FakeProducer::default(), ManualClock::new(NOW));
    for failure in [Failure::Transient, Failure::Permanent] {
        let reliable = reliable(failing(failure), policy(), &producer, &clock);
        for kind in [
            PublishErrorKind::Unavailable,
            PublishErrorKind::UnknownTopic,
        ] {
            producer.breaks("orders_", kind);
            let outcome = reliable.handle(&context(), &record("orders", 1, NOW)).await;
            assert_eq!(failed(outcome).class(), CLASS_PUBLISH_FAILED);
            producer.heals();
        }
        assert!(is_done(
            &reliable.handle(&context(), &record("orders", 1, NOW)).await
        ));
        producer.only();
    }
}

#[tokio::test]
async fn a_lost_partition_publishes_nothing() {
    let (producer, clock) = (FakeProducer::default(), ManualClock::new(NOW));
    let reliable = reliable(failing(Failure::Transient), policy(), &producer, &clock);
    let lease = PartitionLease::new();
    lease.revoke();
    let context = context().with_lease(lease);
    failed(reliable.handle(&context, &record("orders", 1, NOW)).await);
    assert!(producer.take().is_empty());
}

#[tokio::test]
async fn counts_of_other_groups_and_forms_are_read_right() {
    let (producer, clock) = (FakeProducer::default(), ManualClock::new(NOW));
    let reliable = reliable(failing(Failure::Transient), policy(), &producer, &clock);
    let topic_after = async |count: &'static [u8], group: Option<&'static str>| {
        let mut source = record("orders_retry_sms_1s", 1, NOW);
        source.headers.push(names::RETRY_COUNT, Some(count.into()));
        if let Some(group) = group {
            source.headers.set(names::CONSUMER_GROUP, group);
        }
        assert!(is_done(&reliable.handle(&context(), &source).await));
        let copy = producer.only();
        let count = header(&copy, names::RETRY_COUNT).map(str::to_owned);
        (copy.topic.to_string(), count.expect("a count"))
    };
    let tier = |n, count: &str| (format!("orders_retry_sms_{n}s"), count.to_owned());
    assert_eq!(topic_after(&[1], None).await, tier(5, "2"));
    assert_eq!(topic_after(b"1", Some("sms")).await, tier(5, "2"));
    assert_eq!(topic_after(b"1", Some("another")).await, tier(1, "1"));
    assert_eq!(topic_after(b"junk", None).await, tier(1, "1"));
    let dead = ("orders_dlq".to_owned(), "4294967295".to_owned());
    assert_eq!(topic_after(b"4294967295", None).await, dead);
}

#[tokio::test]
async fn a_main_topic_cannot_tell_of_attempts_or_another_place() {
    let (producer, clock) = (FakeProducer::default(), ManualClock::new(NOW));
    let reliable = reliable(failing(Failure::Transient), policy(), &producer, &clock);
    let mut forged = record("orders", 42, NOW);
    for (name, value) in [
        (names::RETRY_COUNT, "2"),
        (names::RETRY_COUNT, "3"),
        (names::CONSUMER_GROUP, "sms"),
        (names::ORIGINAL_TOPIC, "elsewhere"),
        (names::ORIGINAL_OFFSET, "7"),
    ] {
        forged.headers.push(name, Some(value.into()));
    }
    assert!(is_done(&reliable.handle(&context(), &forged).await));
    let copy = producer.only();
    assert_eq!(&*copy.topic, "orders_retry_sms_1s");
    assert_eq!(header(&copy, names::RETRY_COUNT), Some("1"));
    assert_eq!(header(&copy, names::ORIGINAL_TOPIC), Some("orders"));
    assert_eq!(header(&copy, names::ORIGINAL_PARTITION), Some("3"));
    assert_eq!(header(&copy, names::ORIGINAL_OFFSET), Some("42"));
}

#[tokio::test]
async fn a_due_time_from_elsewhere_holds_nothing_up() {
    let (producer, clock) = (FakeProducer::default(), ManualClock::new(NOW));
    let reliable = reliable(failing(Failure::Transient), policy(), &producer, &clock);
    let outcome = async |due: &'static str, timestamp_ms| {
        let mut copy = record("orders_retry_sms_1s", 1, timestamp_ms);
        copy.headers.set(names::NOT_BEFORE, due);
        reliable.handle(&context(), &copy).await
    };
    let far = "9223372036854775807";
    assert!(matches!(outcome(far, NOW).await, Outcome::NotBefore(ms) if ms == NOW + 1000));
    assert!(is_done(&outcome(far, i64::MAX).await));
    assert!(is_done(&outcome("soon", NOW).await));
    assert!(is_done(&outcome("-5", -1).await));
    // On the main topic the header means nothing.
    let mut main = record("orders", 1, NOW);
    main.headers.set(names::NOT_BEFORE, far);
    assert!(is_done(&reliable.handle(&context(), &main).await));
}

#[tokio::test]
async fn classes_of_errors_follow_their_own_rule() {
    let (producer, clock) = (FakeProducer::default(), ManualClock::new(NOW));
    let once = ClassPolicy {
        attempts: Some(1),
        backoff: None,
    };
    let policy = policy().class("Gateway", once);
    let reliable = reliable(failing(Failure::Transient), policy, &producer, &clock);
    assert!(is_done(
        &reliable.handle(&context(), &record("orders", 1, NOW)).await
    ));
    assert_eq!(&*producer.only().topic, "orders_dlq");
}

#[tokio::test]
async fn jitter_only_adds() {
    let (producer, clock) = (FakeProducer::default(), ManualClock::new(NOW));
    let policy = policy().jitter(0.5);
    let reliable = reliable(failing(Failure::Transient), policy, &producer, &clock);
    let mut due = Vec::new();
    for offset in 0..20 {
        reliable
            .handle(&context(), &record("orders", offset, NOW))
            .await;
        due.push(producer.only().headers.last_i64(names::NOT_BEFORE).unwrap() - NOW);
    }
    assert!(due.iter().all(|ms| (1000..=1500).contains(ms)), "{due:?}");
    assert!(due.iter().any(|ms| *ms != due[0]));
}

#[tokio::test]
async fn a_panic_and_an_overlong_call_are_retried_too() {
    let (producer, clock) = (FakeProducer::default(), ManualClock::new(NOW));
    let stuck = handler_fn(|_, record: ConsumedRecord| async move {
        assert!(record.offset != 1, "the handler panics");
        std::future::pending().await
    });
    let reliable = reliable(stuck, policy(), &producer, &clock);
    let class_of = async |offset| {
        let deadline = tokio::time::Instant::now() + Duration::from_millis(40);
        let context = context().with_deadline(deadline);
        assert!(is_done(
            &reliable
                .handle(&context, &record("orders", offset, NOW))
                .await
        ));
        let copy = producer.only();
        header(&copy, names::ERROR_CLASS).map(str::to_owned)
    };
    assert_eq!(class_of(1).await.as_deref(), Some("panic"));
    assert_eq!(class_of(2).await.as_deref(), Some("timeout"));
}

#[tokio::test]
async fn tries_in_place_are_bounded_and_count_as_one_attempt() {
    let (producer, clock) = (FakeProducer::default(), ManualClock::new(NOW));
    let calls = Arc::new(AtomicU32::new(0));
    let counter = calls.clone();
    let handler = handler_fn(move |_, record: ConsumedRecord| {
        let call = counter.fetch_add(1, Ordering::SeqCst) + 1;
        async move {
            // Offset 7 succeeds at the third call.
            if record.offset == 7 && call == 3 {
                return Outcome::Done;
            }
            Outcome::Failed(HandlerError::transient("Gateway", "no answer"))
        }
    });
    let policy = policy().in_place(InPlace {
        tries: 3,
        delay: Duration::from_millis(1),
        max_time: Duration::from_secs(60),
    });
    let reliable = reliable(handler, policy, &producer, &clock);
    assert!(is_done(
        &reliable.handle(&context(), &record("orders", 7, NOW)).await
    ));
    assert!(producer.take().is_empty());
    assert_eq!(calls.swap(0, Ordering::SeqCst), 3);
    assert!(is_done(
        &reliable.handle(&context(), &record("orders", 8, NOW)).await
    ));
    assert_eq!(calls.load(Ordering::SeqCst), 4);
    assert_eq!(header(&producer.only(), names::RETRY_COUNT), Some("1"));
}

#[tokio::test]
async fn a_record_that_its_headers_make_too_large_is_still_dead_lettered() {
    let (producer, clock) = (FakeProducer::default(), ManualClock::new(NOW));
    let long = handler_fn(|_, _| async {
        Outcome::Failed(HandlerError::transient("Gateway", "x".repeat(5000)))
    });
    let reliable = reliable(long, policy(), &producer, &clock);
    producer.max_bytes(700);
    assert!(is_done(
        &reliable.handle(&context(), &record("orders", 1, NOW)).await
    ));
    let dead = producer.only();
    assert_eq!(&*dead.topic, "orders_dlq");
    assert_eq!(header(&dead, names::ERROR_MESSAGE), None);
    assert_eq!(header(&dead, names::ERROR_CLASS), Some("Gateway"));

    // No room for any header of ours: the record itself, as it came.
    let source = record("orders", 1, NOW);
    producer.max_bytes(source.to_record("orders_dlq").size());
    assert!(is_done(&reliable.handle(&context(), &source).await));
    assert_eq!(producer.only(), source.to_record("orders_dlq"));
    // Not even that: it waits, and is not lost.
    producer.max_bytes(1);
    let error = failed(reliable.handle(&context(), &source).await);
    assert_eq!(error.class(), CLASS_PUBLISH_FAILED);
}

#[test]
fn names_that_no_retry_topic_can_have_are_refused() {
    let producer = FakeProducer::default();
    let build = |group: &str, topics: &[&str]| {
        let mut builder = Reliable::builder(group, failing(Failure::Transient), producer.arc());
        for topic in topics {
            builder = builder.topic(*topic);
        }
        builder.build().map(|r| r.derived_topics())
    };
    assert!(build("sms", &[]).is_err());
    assert!(build("sms", &["a b"]).is_err());
    assert!(build("order pay", &["orders"]).is_err());
    assert!(build("sms", &["orders", "orders"]).is_err());
    assert!(build("sms", &[&"x".repeat(240)]).is_err());
    let topics = build("sms", &["a", "b"]).unwrap();
    let of = |topic| {
        [
            format!("{topic}_dlq"),
            format!("{topic}_retry_sms_1s"),
            format!("{topic}_retry_sms_5s"),
            format!("{topic}_retry_sms_30s"),
        ]
    };
    assert_eq!(topics, [of("a"), of("b")].concat());
}

#[tokio::test]
async fn what_the_handler_answers_passes_through() {
    let (producer, clock) = (FakeProducer::default(), ManualClock::new(NOW));
    let later = handler_fn(|_: Context, _| async { Outcome::NotBefore(5) });
    let reliable = reliable(later, policy(), &producer, &clock);
    let outcome = reliable.handle(&context(), &record("orders", 1, NOW)).await;
    assert!(matches!(outcome, Outcome::NotBefore(5)));
    let stranger = reliable.handle(&context(), &record("other", 1, NOW)).await;
    assert_eq!(failed(stranger).class(), "unknown_topic");
    assert!(producer.take().is_empty());
}
