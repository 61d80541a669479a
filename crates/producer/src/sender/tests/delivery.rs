//! Order, retries, and failures that stay with their record.

use super::*;
use futures_util::FutureExt as _;
use std::pin::pin;

#[tokio::test(start_paused = true)]
async fn order_is_kept_and_nothing_is_lost_through_lost_replies_and_refusals() {
    let fake = Fake::new(|_, _, rng| {
        let reply = match rng.u32(..10) {
            0..=2 => Reply::Lose,
            3 => Reply::Refuse(ErrorCode::NOT_LEADER_OR_FOLLOWER),
            4 => Reply::Refuse(ErrorCode::NOT_ENOUGH_REPLICAS),
            _ => Reply::Write,
        };
        (ms(rng.u64(0..40)), reply)
    });
    let (producer, fake) = fake.start(small_batches());
    let mut handles = Vec::new();
    for i in 0..600 {
        handles.push(producer.enqueue(to(i % 4, format!("{i:04}"))));
        if i % 50 == 0 {
            tokio::time::sleep(ms(7)).await;
        }
    }
    for (i, handle) in handles.into_iter().enumerate() {
        let written = handle.await.expect("written in the end");
        assert_eq!(written.partition, i as i32 % 4);
    }
    let mut repeated = 0;
    for partition in 0..4 {
        let log = fake.log(partition);
        let expected: Vec<_> = (0..600)
            .filter(|i| i % 4 == partition)
            .map(|i| format!("{i:04}"))
            .collect();
        assert_eq!(first_occurrences(&log), expected);
        repeated += log.len() - expected.len();
    }
    assert!(repeated > 0, "replies were lost");
    assert!(producer.close(ms(100)).await.is_clean());
}

#[tokio::test(start_paused = true)]
async fn a_slow_partition_does_not_hold_the_others() {
    let fake = Fake::new(|partition, _, _| {
        let slow = partition.partition == 0;
        (if slow { ms(1_500) } else { ms(1) }, Reply::Write)
    });
    let (producer, fake) = fake.start(ProducerConfig::default());
    let slow = producer.enqueue(to(0, "slow"));
    let started = Instant::now();
    for i in 0..20 {
        producer.send(to(1, i.to_string())).await.expect("written");
    }
    assert!(started.elapsed() < ms(1_000));
    assert!(fake.log(0).is_empty());
    slow.await.expect("written");
}

#[tokio::test(start_paused = true)]
async fn the_record_above_the_brokers_limit_fails_alone() {
    let fake = Fake::new(|_, batch, _| {
        let reply = if batch.bytes().len() > 5_000 {
            Reply::Refuse(ErrorCode::MESSAGE_TOO_LARGE)
        } else {
            Reply::Write
        };
        (ms(1), reply)
    });
    let (producer, fake) = fake.start(ProducerConfig::default());
    let large = "x".repeat(6_000);
    let records = (0..10)
        .map(|i| to(0, if i == 3 { large.clone() } else { i.to_string() }))
        .collect();
    let results = producer.send_all(records).await;
    for (i, result) in results.into_iter().enumerate() {
        match result {
            Ok(written) => assert_eq!(written.offset, Some(i as i64 - i64::from(i > 3))),
            Err(e) => assert_eq!((i, e.kind()), (3, PublishErrorKind::RecordTooLarge)),
        }
    }
    assert_eq!(fake.log(0), ["0", "1", "2", "4", "5", "6", "7", "8", "9"]);
}

#[tokio::test(start_paused = true)]
async fn a_transport_that_panics_fails_its_batch_alone() {
    let fake = Fake::new(|partition, _, _| {
        let panics = partition.partition == 0;
        (ms(1), if panics { Reply::Panic } else { Reply::Write })
    });
    let (producer, _fake) = fake.start(ProducerConfig::default());
    let (lost, good) = tokio::join!(producer.send(to(0, "x")), producer.send(to(1, "x")));
    let lost = lost.expect_err("panicked");
    assert_eq!(
        (lost.kind(), lost.fate()),
        (PublishErrorKind::Closed, Fate::MaybeWritten)
    );
    good.expect("written");
    assert!(producer.close(ms(100)).await.is_clean());
}

/// The batches that reached the transport so far.
fn calls(fake: &Fake) -> usize {
    fake.calls.lock().expect("no panic").len()
}

#[tokio::test(start_paused = true)]
async fn what_is_sent_alone_reaches_the_transport_before_anything_else_runs() {
    let (producer, fake) = written().start(ProducerConfig {
        linger: ms(0),
        ..ProducerConfig::default()
    });
    producer.send(to(0, "first")).await.expect("written");
    let before = calls(&fake);
    let mut alone = pin!(producer.send(to(0, "a")));
    assert!(alone.as_mut().now_or_never().is_none());
    assert_eq!(calls(&fake), before + 1);
    // Beside another it goes the usual way, with what comes together with it.
    let mut beside = pin!(producer.send(to(1, "b")));
    assert!(beside.as_mut().now_or_never().is_none());
    assert_eq!(calls(&fake), before + 1);
    beside.await.expect("written");
    alone.await.expect("written");
    // The sender hears of what nobody else sends.
    let started = Instant::now();
    for round in 0..3 {
        producer
            .send(to(0, format!("{round}")))
            .await
            .expect("written");
        producer.enqueue(to(0, "enqueued")).await.expect("written");
    }
    assert!(started.elapsed() < ms(100), "{:?}", started.elapsed());
    assert_eq!(fake.log(0).len(), 8);
}

#[tokio::test(start_paused = true)]
async fn what_lingers_is_not_sent_by_its_caller() {
    let (producer, fake) = written().start(ProducerConfig {
        linger: ms(50),
        ..ProducerConfig::default()
    });
    producer.send(to(0, "first")).await.expect("written");
    let (before, started) = (calls(&fake), Instant::now());
    let mut alone = pin!(producer.send(to(0, "a")));
    assert!(alone.as_mut().now_or_never().is_none());
    assert_eq!(calls(&fake), before);
    alone.await.expect("written");
    assert!(started.elapsed() >= ms(50));
}
