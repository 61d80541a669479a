//! Records that are handed over together, and records that are borrowed.

use super::*;
use ottla_types::{Headers, PublishError, RecordRef};
use std::task::Poll;

fn values(range: std::ops::Range<usize>) -> Vec<String> {
    range.map(|i| format!("{i:04}")).collect()
}

fn refs<'a>(topic: &'a Arc<str>, values: &'a [String]) -> Vec<RecordRef<'a>> {
    let record = |(i, value)| RecordRef::new(topic).partition(i as i32 % 4).value(value);
    values.iter().enumerate().map(record).collect()
}

#[tokio::test(start_paused = true)]
async fn each_record_has_its_result_in_the_order_of_the_call() {
    let config = ProducerConfig {
        max_request_size: 8_000,
        batch_size: 4_000,
        ..small_batches()
    };
    let (producer, fake) = written().start(config);
    let topic = Arc::from("t");
    // The first time they wait for the topic's partitions, the second time they go into batches.
    for round in 0..2_usize {
        let mut values = values(round * 1_000..round * 1_000 + 1_000);
        values[333] = "x".repeat(9_000);
        let deliveries = producer.enqueue_all(&refs(&topic, &values)).await;
        assert_eq!(deliveries.len(), 1_000);
        let ids: Vec<_> = deliveries.ids().collect();
        assert!(ids.is_sorted() && ids[0] == round as u64 * 1_000, "{ids:?}");
        let outcomes = deliveries.all().await;
        for (i, outcome) in outcomes.into_iter().enumerate() {
            match outcome {
                Ok(at) => {
                    let log = fake.log(at.partition);
                    let offset = at.offset.expect("an offset");
                    assert_eq!((&*at.topic, at.partition), ("t", i as i32 % 4));
                    assert_eq!(log[offset as usize], values[i]);
                }
                Err(error) => {
                    let kind = PublishErrorKind::RecordTooLarge;
                    assert_eq!((i, error.kind()), (333, kind), "{error}");
                }
            }
        }
    }
    for partition in 0..4 {
        let log = fake.log(partition);
        assert!(
            log.is_sorted() && log.len() == if partition == 1 { 498 } else { 500 },
            "{partition}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn the_next_outcome_can_be_waited_for_again_and_all_can_be_checked_at_once() {
    let (producer, fake) = Fake::new(|_, batch, _| {
        let values = batch.record_count();
        (
            ms(20),
            if values == 2 {
                Reply::Refuse(ErrorCode::MESSAGE_TOO_LARGE)
            } else {
                Reply::Write
            },
        )
    })
    .start(ProducerConfig::default());
    producer.send(to(0, "first")).await.expect("written");
    let (topic, values) = (Arc::from("t"), values(0..8));
    let mut deliveries = producer.enqueue_all(&refs(&topic, &values)).await;
    let given_up = tokio::time::timeout(ms(1), deliveries.next()).await;
    assert!(given_up.is_err(), "{given_up:?}");
    // All are in batches of two, which are split: what was one batch is settled in parts.
    let offset = deliveries.next().await.expect("one").expect("written");
    assert_eq!(offset.offset, Some(1));
    assert_eq!(deliveries.len(), 7);
    deliveries.written().await.expect("all are written");
    assert_eq!(fake.log(3), ["0003", "0007"]);

    let bad = [to(0, "good"), to(-1, "bad"), to(0, "good")];
    let error = producer.enqueue_all(&bad).await.written().await;
    let error = error.expect_err("one is bad");
    assert_eq!(error.kind(), PublishErrorKind::InvalidRecord);
    let none: [Record; 0] = [];
    let mut deliveries = producer.enqueue_all(&none).await;
    assert!(deliveries.is_empty() && deliveries.next().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn many_records_wait_for_room_and_fail_together_when_none_comes() {
    let config = ProducerConfig {
        buffer_memory: 4_000,
        max_request_size: 4_000,
        batch_size: 1_000,
        delivery_timeout: ms(500),
        ..ProducerConfig::default()
    };
    let (producer, fake) = written().start(config);
    let topic = Arc::from("t");
    let mut values = values(0..300);
    for value in &mut values {
        value.push_str(&"x".repeat(400));
    }
    let records = refs(&topic, &values);
    let deliveries = producer.enqueue_all(&records).await;
    assert_eq!(deliveries.len(), 300);
    deliveries.written().await.expect("all are written");
    assert_eq!((0..4).map(|p| fake.log(p).len()).sum::<usize>(), 300);
    // Nobody reads the reports, so the room does not come back.
    let reports = producer.reports().expect("not taken yet");
    let started = Instant::now();
    let outcomes = producer.enqueue_all(&records).await.all().await;
    let written = outcomes.iter().take_while(|o| o.is_ok()).count();
    assert!((4..12).contains(&written), "{written}");
    let timed_out = |o: &Result<_, PublishError>| {
        let error = o.as_ref().expect_err("no room");
        (error.kind(), error.fate()) == (PublishErrorKind::TimedOut, Fate::NotWritten)
    };
    assert!(outcomes[written..].iter().all(timed_out));
    assert!(started.elapsed() < ms(600), "{:?}", started.elapsed());
    drop(reports);
}

#[tokio::test(start_paused = true)]
async fn deliveries_resolve_when_the_producer_is_closed_and_may_be_dropped() {
    let (producer, _fake) = Fake::new(|_, _, _| (ms(0), Reply::Hang)).start(small_batches());
    let (topic, values) = (Arc::from("t"), values(0..50));
    drop(producer.enqueue_all(&refs(&topic, &values)).await);
    let mut deliveries = producer.enqueue_all(&refs(&topic, &values)).await;
    {
        let mut next = std::pin::pin!(deliveries.next());
        assert!(matches!(futures_util::poll!(&mut next), Poll::Pending));
    }
    let report = producer.close(ms(10)).await;
    let undelivered: u64 = report.undelivered.iter().map(|u| u.records).sum();
    assert_eq!(undelivered, 100);
    let outcomes = deliveries.all().await;
    assert_eq!(outcomes.len(), 50);
    for outcome in outcomes {
        assert_eq!(
            outcome.expect_err("closed").kind(),
            PublishErrorKind::Closed
        );
    }
    let refused = producer.enqueue_all(&refs(&topic, &values)).await;
    let error = refused.written().await.expect_err("closed");
    assert_eq!(error.kind(), PublishErrorKind::Closed);
}

#[tokio::test(start_paused = true)]
async fn a_topic_that_is_not_known_does_not_hold_up_others() {
    let config = ProducerConfig {
        buffer_memory: 400_000,
        batch_size: 1_000,
        max_request_size: 100_000,
        ..ProducerConfig::default()
    };
    let (producer, _fake) = Fake::new(|_, _, _| (ms(20), Reply::Write)).start(config);
    producer.send(to(0, "first")).await.expect("written");
    let waits = producer.clone();
    let mut silent = JoinSet::new();
    silent.spawn(async move {
        let headers = Headers::new();
        let topic = Arc::from("silent");
        let record = RecordRef::new(&topic).headers(&headers);
        waits.enqueue_all(&[record; 1_001]).await.all().await
    });
    // More than the buffer takes, so that it has to be waited for.
    let many: Vec<_> = (0..100).map(|_| to(0, "x".repeat(9_000))).collect();
    tokio::task::yield_now().await;
    let started = Instant::now();
    assert!(producer.send_all(many).await.iter().all(Result::is_ok));
    assert!(started.elapsed() < ms(5_000), "{:?}", started.elapsed());
    let report = producer.close(ms(10)).await;
    assert!(!report.is_clean());
    let outcomes = silent.join_next().await.expect("a task");
    assert_eq!(outcomes.expect("no panic").len(), 1_001);
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_a_topic_hears_that_the_producer_is_closed() {
    let (producer, _fake) = written().start(ProducerConfig::default());
    let topic = Arc::from("silent");
    let waiting = vec![RecordRef::new(&topic); 1_000];
    let waiting = producer.enqueue_all(&waiting).await;
    let mut more = std::pin::pin!(producer.enqueue_when_room(RecordRef::new(&topic)));
    assert!(matches!(futures_util::poll!(&mut more), Poll::Pending));
    let mut closing = std::pin::pin!(producer.close(ms(3_000)));
    let refused = tokio::select! {
        report = &mut closing => panic!("it was not told: {report:?}"),
        handle = more => handle.refused().expect("closed").kind(),
    };
    assert_eq!(refused, PublishErrorKind::Closed);
    assert!(!closing.await.is_clean());
    assert_eq!(waiting.all().await.len(), 1_000);
}

#[tokio::test(start_paused = true)]
async fn a_record_that_found_no_place_does_not_fail_those_of_other_topics() {
    let config = ProducerConfig {
        delivery_timeout: ms(500),
        topic_unknown_timeout: ms(500),
        ..ProducerConfig::default()
    };
    let (producer, fake) = written().start(config);
    producer.send(to(0, "known")).await.expect("written");
    let silent = Arc::from("silent");
    let known = Arc::from("t");
    // They take every place of their topic, and others come as soon as these are given up.
    let first = producer
        .enqueue_all(&vec![RecordRef::new(&silent); 1_000])
        .await;
    tokio::time::advance(ms(100)).await;
    let mixed = [
        RecordRef::new(&silent).value("a"),
        RecordRef::new(&known).partition(1).value("b1"),
    ];
    let mut fill = JoinSet::new();
    let filler = producer.clone();
    fill.spawn(async move {
        let silent = Arc::from("silent");
        filler
            .enqueue_all(&vec![RecordRef::new(&silent); 3_000])
            .await
            .all()
            .await
    });
    tokio::task::yield_now().await;
    let outcomes = producer.send_all(mixed.to_vec()).await;
    assert!(outcomes[0].is_err(), "{outcomes:?}");
    assert!(outcomes[1].is_ok(), "{outcomes:?}");
    assert_eq!(fake.log(1), ["b1"]);
    assert_eq!(first.all().await.len(), 1_000);
    fill.shutdown().await;
}
