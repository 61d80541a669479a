//! Flush, close, drop and reports.

use super::*;

#[tokio::test(start_paused = true)]
async fn reports_tell_every_outcome_and_end_with_the_producer() {
    let fake = Fake::new(|_, batch, _| {
        let large = batch.bytes().len() > 2_000;
        let code = ErrorCode::MESSAGE_TOO_LARGE;
        (
            ms(1),
            if large {
                Reply::Refuse(code)
            } else {
                Reply::Write
            },
        )
    });
    let (producer, _fake) = fake.start(ProducerConfig::default());
    let mut reports = producer.reports().expect("not taken yet");
    let mut ids = Vec::new();
    for i in 0..20 {
        let size = if i % 5 == 0 { 3_000 } else { 10 };
        ids.push(producer.enqueue(to(i % 2, "x".repeat(size))).id());
    }
    ids.push(producer.enqueue(Record::new("bad name")).id());
    producer.flush(ms(5_000)).await.expect("flushed");
    drop(producer);
    let (mut seen, mut failed) = (Vec::new(), 0);
    while let Some(report) = reports.recv().await {
        failed += i32::from(report.result.is_err());
        seen.push(report.id);
    }
    seen.sort_unstable();
    assert_eq!((seen, failed), (ids, 5));
}

#[tokio::test(start_paused = true)]
async fn a_close_delivers_what_it_can_and_reports_the_rest() {
    let fake = Fake::new(|partition, _, _| match partition.partition {
        0 => (ms(50), Reply::Write),
        _ => (ms(0), Reply::Hang),
    });
    let config = ProducerConfig {
        linger: ms(60_000),
        ..ProducerConfig::default()
    };
    let (producer, fake) = fake.start(config);
    let good: Vec<_> = (0..5)
        .map(|i| producer.enqueue(to(0, i.to_string())))
        .collect();
    let stuck = producer.enqueue(to(1, "stuck"));
    let clone = producer.clone();
    let started = Instant::now();
    let report = producer.close(ms(400)).await;
    assert!(started.elapsed() < ms(450), "{:?}", started.elapsed());
    assert_eq!(report.delivered, 5);
    let left = &report.undelivered[..];
    assert_eq!(
        (left.len(), left[0].records, left[0].partition),
        (1, 1, Some(1))
    );
    assert_eq!(left[0].fate, Fate::MaybeWritten);
    for handle in good {
        handle.await.expect("acknowledged before the deadline");
    }
    assert_eq!(
        stuck.await.expect_err("closed").kind(),
        PublishErrorKind::Closed
    );
    assert_eq!(fake.log(0).len(), 5);
    let late = clone.send(to(0, "late")).await.expect_err("closed");
    assert_eq!(
        (late.kind(), late.fate()),
        (PublishErrorKind::Closed, Fate::NotWritten)
    );
    let ready = clone.ready(1).await.expect_err("closed");
    assert_eq!(ready.kind(), PublishErrorKind::Closed);
    assert_eq!(clone.close(ms(400)).await, report);
}

#[tokio::test(start_paused = true)]
async fn trap_c25_dropping_the_last_clone_fails_the_rest_and_ends_the_task() {
    let (producer, fake) = Fake::new(|_, _, _| (ms(0), Reply::Hang)).start(small_batches());
    let clone = producer.clone();
    let handles: Vec<_> = (0..7)
        .map(|i| producer.enqueue(to(0, i.to_string())))
        .collect();
    tokio::time::sleep(ms(20)).await;
    drop(producer);
    tokio::time::sleep(ms(20)).await;
    drop(clone);
    let mut fates = Vec::new();
    for handle in handles {
        let error = handle.await.expect_err("closed");
        assert_eq!(error.kind(), PublishErrorKind::Closed);
        fates.push(error.fate());
    }
    assert_eq!(
        fates.iter().filter(|f| **f == Fate::MaybeWritten).count(),
        3
    );
    // The task and its calls are gone when nobody else holds the transport.
    let gone = async {
        while Arc::strong_count(&fake) > 1 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(ms(1_000), gone)
        .await
        .expect("the task ended");
}

#[tokio::test(start_paused = true)]
async fn flush_waits_for_what_came_before_it() {
    let config = ProducerConfig {
        linger: ms(60_000),
        ..ProducerConfig::default()
    };
    let (producer, fake) = Fake::new(|_, _, _| (ms(30), Reply::Write)).start(config);
    for i in 0..100 {
        drop(producer.enqueue(to(i % 4, i.to_string())));
    }
    let early = producer.flush(ms(1)).await.expect_err("too early");
    assert_eq!(early.outstanding, 100);
    producer.flush(ms(1_000)).await.expect("flushed");
    assert_eq!((0..4).map(|p| fake.log(p).len()).sum::<usize>(), 100);
    producer.flush(ms(0)).await.expect("nothing to do");
}
