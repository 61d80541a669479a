//! Time limits, back pressure and rate.

use super::*;

#[tokio::test(start_paused = true)]
async fn an_unknown_topic_is_an_error_within_its_limit() {
    let (producer, fake) = written().start(ProducerConfig::default());
    let started = Instant::now();
    let error = producer
        .send(Record::new("nope"))
        .await
        .expect_err("unknown");
    assert_eq!(error.kind(), PublishErrorKind::UnknownTopic);
    assert_eq!((error.topic(), error.fate()), ("nope", Fate::NotWritten));
    assert!(std::error::Error::source(&error).is_some());
    assert!(started.elapsed() >= ms(5_000) && started.elapsed() < ms(6_500));
    let asked = *fake.asked.lock().expect("no panic");
    assert!((5..40).contains(&asked), "{asked}");
    // It is known by then: the next record is asked for anew.
    producer.send(to(0, "x")).await.expect("written");
}

#[tokio::test(start_paused = true)]
async fn a_cluster_that_is_silent_costs_the_delivery_timeout_and_no_more() {
    let config = ProducerConfig {
        delivery_timeout: ms(3_000),
        ..ProducerConfig::default()
    };
    let (producer, _fake) = Fake::new(|_, _, _| (ms(0), Reply::Hang)).start(config);
    let started = Instant::now();
    let (unknown, hanging) = tokio::join!(
        producer.send(Record::new("silent")),
        producer.send(to(0, "x"))
    );
    let unknown = unknown.expect_err("no answer");
    assert_eq!(
        (unknown.kind(), unknown.fate()),
        (PublishErrorKind::TimedOut, Fate::NotWritten)
    );
    let hanging = hanging.expect_err("no answer");
    assert_eq!(
        (hanging.kind(), hanging.fate()),
        (PublishErrorKind::TimedOut, Fate::MaybeWritten)
    );
    assert!(started.elapsed() < ms(3_200), "{:?}", started.elapsed());
}

#[tokio::test(start_paused = true)]
async fn send_waits_for_room_and_enqueue_says_that_there_is_none() {
    let config = ProducerConfig {
        buffer_memory: 4_000,
        max_request_size: 4_000,
        batch_size: 1_000,
        ..ProducerConfig::default()
    };
    let (producer, _fake) = Fake::new(|_, _, _| (ms(20), Reply::Write)).start(config);
    let value = "x".repeat(900);
    let mut handles = Vec::new();
    let full = loop {
        let handle = producer.enqueue(to(0, value.clone()));
        match handle.refused() {
            Some(error) => break error.kind(),
            None => handles.push(handle),
        }
    };
    assert_eq!((handles.len(), full), (4, PublishErrorKind::BufferFull));
    let many: Vec<_> = (0..30).map(|_| to(0, value.clone())).collect();
    assert!(producer.send_all(many).await.iter().all(Result::is_ok));
    let port: &dyn Publish = &producer;
    port.ready(900).await.expect("room");
    let error = port.ready(4_000).await.expect_err("never");
    assert_eq!(error.kind(), PublishErrorKind::RecordTooLarge);
    port.publish(to(1, "x")).await.expect("written");
    for handle in handles {
        handle.await.expect("written");
    }
}

#[tokio::test(start_paused = true)]
async fn send_gives_up_when_no_room_comes_in_time() {
    let config = ProducerConfig {
        buffer_memory: 2_000,
        max_request_size: 2_000,
        batch_size: 1_000,
        delivery_timeout: ms(500),
        ..ProducerConfig::default()
    };
    let (producer, _fake) = written().start(config);
    let mut reports = producer.reports().expect("not taken yet");
    assert!(producer.reports().is_none());
    for _ in 0..2 {
        producer
            .send(to(0, "x".repeat(900)))
            .await
            .expect("written");
    }
    // Nobody reads the reports.
    let started = Instant::now();
    let error = producer
        .send(to(0, "x".repeat(900)))
        .await
        .expect_err("no room");
    assert_eq!(
        (error.kind(), error.fate()),
        (PublishErrorKind::TimedOut, Fate::NotWritten)
    );
    assert_eq!(started.elapsed().as_millis() / 100, 5);
    assert!(reports.recv().await.is_some_and(|r| r.result.is_ok()));
    producer.send(to(0, "x")).await.expect("written");
    drop(reports);
    assert!(producer.reports().is_some());
}

#[tokio::test]
async fn the_rate_limit_spreads_records_over_time() {
    let config = ProducerConfig {
        rate_limit: NonZeroU32::new(200),
        linger: ms(0),
        ..ProducerConfig::default()
    };
    let (producer, _fake) = Fake::new(|_, _, _| (ms(0), Reply::Write)).start(config);
    let started = std::time::Instant::now();
    let records = (0..300).map(|i| to(i % 4, i.to_string())).collect();
    assert!(producer.send_all(records).await.iter().all(Result::is_ok));
    // The first 200 may go at once; the other 100 take half a second.
    let took = started.elapsed();
    assert!(took >= ms(400) && took < ms(5_000), "{took:?}");
}
