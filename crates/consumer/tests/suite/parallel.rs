//! Several calls for one partition at a time, and batches that are larger than the budget.

use crate::bed::{Bed, Seen, config, stop, wait_for};
use ottla_client::TransportKind;
use ottla_consumer::{
    App, ConsumedRecord, ConsumerConfig, Context, Outcome, Registration, handler_fn,
};
use ottla_group::Gaps;
use ottla_record_batch::{BatchBuilder, Compression, Compressor};
use ottla_types::Headers;
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::Semaphore;

#[tokio::test]
async fn keys_go_side_by_side_and_a_slow_one_holds_back_only_the_commit() {
    const RECORDS: i64 = 300;
    let bed = Bed::over(TransportKind::Native).await;
    bed.cluster.create_topic("t", 1).unwrap();
    let key = |offset: i64| format!("key-{}", offset % 10);
    let mut batch = BatchBuilder::new(1 << 20);
    for offset in 0..RECORDS {
        let headers = Headers::new();
        batch
            .try_append(1, Some(key(offset).as_bytes()), None, &headers)
            .unwrap();
    }
    bed.write_raw("t", 0, &batch.finish().bytes()).await;

    let (seen, gate) = (Seen::default(), Arc::new(Semaphore::new(0)));
    let (log, pass) = (seen.clone(), gate.clone());
    let handler = handler_fn(move |context, record| {
        let (log, pass) = (log.clone(), pass.clone());
        async move {
            if record.offset == 23 {
                pass.acquire().await.unwrap().forget();
            }
            tokio::task::yield_now().await;
            log.push(context.member(), &record);
            Outcome::Done
        }
    });
    let mut app = bed.app();
    app.topic("t").concurrency(8).listen("g", handler);
    let running = app.start().await.unwrap();
    // All but the slow key's from the slow record on, as far as the window goes.
    let behind = |offset: i64| offset >= 23 && offset % 10 == 3;
    let free = (0..23 + 256).filter(|offset| !behind(*offset)).count();
    seen.wait_len(free).await;
    wait_for("the commit", || bed.committed("g", "t", 0) == Some(23)).await;
    gate.add_permits(1);
    seen.wait_len(RECORDS as usize).await;
    wait_for("the last commit", || {
        bed.committed("g", "t", 0) == Some(RECORDS)
    })
    .await;
    stop(running).await;
    let mut of_key: HashMap<String, Vec<i64>> = HashMap::new();
    for offset in seen.offsets(0) {
        of_key.entry(key(offset)).or_default().push(offset);
    }
    assert_eq!(seen.len(), RECORDS as usize, "each once");
    for (key, offsets) in of_key {
        assert!(offsets.is_sorted(), "{key}: {offsets:?}");
    }
}

/// What is handled above the committed offset is not handled again by the next process (C9), however
/// that hands its records over.
#[tokio::test]
async fn trap_c9_a_restart_handles_only_what_was_not_handled() {
    const RECORDS: i64 = 200;
    const STUCK: [i64; 3] = [23, 100, 150];
    let bed = Bed::over(TransportKind::Native).await;
    bed.cluster.create_topic("t", 1).unwrap();
    // No keys, so that nothing waits behind a stuck record.
    bed.write("t", 0, (0..RECORDS).map(|n| n.to_string())).await;
    let seen = Seen::default();
    let handles = |stuck: &[i64]| {
        let (log, stuck) = (seen.clone(), stuck.to_vec());
        handler_fn(move |context: Context, record: ConsumedRecord| {
            let (log, is_stuck) = (log.clone(), stuck.contains(&record.offset));
            async move {
                if is_stuck {
                    std::future::pending::<()>().await;
                }
                log.push(context.member(), &record);
                Outcome::Done
            }
        })
    };
    // Runs a process until its commit says that all but `stuck` is handled.
    let run = async |registration: Registration, stuck: &[i64]| {
        let mut app = bed.app();
        app.register(registration);
        let running = app.start().await.unwrap();
        let first = stuck.first().copied().unwrap_or(RECORDS);
        let ends = stuck.iter().skip(1).copied().chain([RECORDS]);
        let runs = stuck.iter().zip(ends).map(|(at, end)| at + 1..end);
        let handled: Vec<_> = runs.collect();
        wait_for("a commit that remembers all that is handled", || {
            let committed = bed.cluster.committed("g", "t", 0);
            committed.is_some_and(|(offset, text)| {
                let gaps = Gaps::decode(&text, offset).unwrap_or_default();
                offset == first && gaps.handled() == handled
            })
        })
        .await;
        let report = running.shutdown(Duration::from_millis(100)).await;
        assert_eq!(report.clean, stuck.is_empty());
    };
    let one_by_one = |stuck: &[i64]| Registration::new("g", ["t"], handles(stuck));
    run(one_by_one(&STUCK).concurrency(8), &STUCK).await;
    run(one_by_one(&STUCK[1..]), &STUCK[1..]).await;
    let parallel = one_by_one(&STUCK[2..]).concurrency(2);
    run(parallel, &STUCK[2..]).await;
    let log = seen.clone();
    let handler = ottla_consumer::batch_fn(move |context: Context, records: Vec<_>| {
        records.iter().for_each(|r| log.push(context.member(), r));
        async { ottla_consumer::BatchOutcome::Done }
    });
    let batch = Registration::batch("g", ["t"], 50, Duration::ZERO, handler);
    run(batch, &[]).await;
    let mut offsets = seen.offsets(0);
    assert_eq!(offsets.split_off(offsets.len() - 3), STUCK);
    assert_eq!(offsets.len() as i64, RECORDS - 3, "each once");
}

#[tokio::test]
async fn a_batch_handler_cannot_be_called_side_by_side() {
    let bed = Bed::start().await;
    let handler = ottla_consumer::batch_fn(|_, _| async { ottla_consumer::BatchOutcome::Done });
    let registration =
        Registration::batch("g", ["t"], 10, std::time::Duration::ZERO, handler).concurrency(2);
    let mut app = bed.app();
    app.register(registration);
    let error = app.start().await.unwrap_err();
    let error = ottla_types::with_causes(&error);
    assert!(error.contains("concurrency"), "{error}");
}

/// 64 MiB of zeros, a few kilobytes as they are fetched.
#[tokio::test]
async fn trap_d_a_batch_that_grows_is_worked_off_within_the_budget() {
    const BUDGET: usize = 2 << 20;
    const RECORDS: i64 = 4096;
    let bed = Bed::over(TransportKind::Native).await;
    bed.cluster.create_topic("t", 1).unwrap();
    let mut batch = BatchBuilder::new(80 << 20);
    for _ in 0..RECORDS {
        let zeros = Some(&[0; 16 << 10][..]);
        batch.try_append(1, None, zeros, &Headers::new()).unwrap();
    }
    let mut zstd = Compressor::new(Compression::Zstd).unwrap();
    let batch = batch.finish_with(&mut zstd);
    bed.write_raw("t", 0, &batch.bytes()).await;
    bed.write("t", 0, ["behind"]).await;

    let offsets = Arc::new(Mutex::new(Vec::new()));
    let log = offsets.clone();
    let handler = handler_fn(move |_, record| {
        log.lock().unwrap().push(record.offset);
        async { Outcome::Done }
    });
    let small = ConsumerConfig {
        queued_max_bytes: BUDGET,
        ..config()
    };
    let mut app = App::new(&bed.client, small);
    app.topic("t").listen("g", handler);
    let running = app.start().await.unwrap();
    let mut most = 0;
    wait_for("all records", || {
        let member = &running.status().registrations[0].members[0];
        most = most.max(member.buffered_bytes);
        offsets.lock().unwrap().len() > RECORDS as usize
    })
    .await;
    stop(running).await;
    assert_eq!(*offsets.lock().unwrap(), (0..=RECORDS).collect::<Vec<_>>());
    assert!(most <= BUDGET, "{most}");
    assert_eq!(bed.committed("g", "t", 0), Some(RECORDS + 1));
}
