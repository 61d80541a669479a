//! Batches: collected, handed over together, marked by their last record.

use crate::bed::{Bed, numbers, stop, wait_for};
use ottla_consumer::{BatchOutcome, HandlerError, batch_fn};
use std::sync::{Arc, Mutex};
use std::time::Duration;

#[tokio::test]
async fn a_batch_is_handed_over_together_and_its_last_record_is_marked() {
    let bed = Bed::start().await;
    bed.cluster.create_topic("t", 1).unwrap();
    bed.write("t", 0, numbers(0..25)).await;
    let batches = Arc::new(Mutex::new(Vec::new()));
    let log = batches.clone();
    let handler = batch_fn(move |_, records| {
        let offsets: Vec<_> = records.iter().map(|r| r.offset).collect();
        log.lock().unwrap().push(offsets);
        async { BatchOutcome::Done }
    });
    let mut app = bed.app();
    app.topic("t")
        .batch(10, Duration::from_millis(300))
        .listen_batch("g", handler);
    let running = app.start().await.unwrap();
    wait_for("25 records", || {
        batches.lock().unwrap().iter().map(Vec::len).sum::<usize>() == 25
    })
    .await;
    let offsets = |range: std::ops::Range<i64>| range.collect::<Vec<_>>();
    assert_eq!(
        *batches.lock().unwrap(),
        [offsets(0..10), offsets(10..20), offsets(20..25)]
    );
    wait_for("the commit", || bed.committed("g", "t", 0) == Some(25)).await;
    stop(running).await;
}

#[tokio::test]
async fn a_batch_that_fails_in_the_middle_goes_on_from_there() {
    let bed = Bed::start().await;
    bed.cluster.create_topic("t", 1).unwrap();
    bed.write("t", 0, numbers(0..6)).await;
    let calls = Arc::new(Mutex::new(Vec::new()));
    let log = calls.clone();
    let handler = batch_fn(move |_, records| {
        let mut log = log.lock().unwrap();
        log.push(records.iter().map(|r| r.offset).collect::<Vec<_>>());
        let outcome = match log.len() {
            1 => BatchOutcome::FailedAt {
                index: 4,
                error: HandlerError::transient("Busy", "fifth"),
            },
            2 => BatchOutcome::Failed(HandlerError::transient("Busy", "all")),
            _ => BatchOutcome::Done,
        };
        async { outcome }
    });
    let mut app = bed.app();
    app.topic("t")
        .batch(6, Duration::from_millis(500))
        .listen_batch("g", handler);
    let running = app.start().await.unwrap();
    wait_for("the commit", || bed.committed("g", "t", 0) == Some(6)).await;
    assert_eq!(
        *calls.lock().unwrap(),
        [vec![0, 1, 2, 3, 4, 5], vec![4, 5], vec![4, 5]]
    );
    stop(running).await;
}
