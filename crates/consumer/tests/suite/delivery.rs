//! What handlers get, in which order, and what their outcomes do.

use crate::bed::{Bed, Seen, config, numbers, stop, text, wait_for};
use ottla_consumer::{
    BatchOutcome, CLASS_PANIC, CLASS_TIMEOUT, ConsumerConfig, Context, HandlerError, MemberState,
    Outcome, Registration, Undecodable, handler_fn, json_batch, json_handler,
};
use ottla_types::{
    BoxFuture, Delivery, Publish, PublishError, PublishErrorKind, Record, RecordMetadata,
};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

#[tokio::test]
async fn every_record_of_three_partitions_is_handled_in_order() {
    let bed = Bed::start_with(ottla_mock_cluster::MockCluster::builder().brokers(3)).await;
    bed.cluster.create_topic("orders", 3).unwrap();
    for partition in 0..3 {
        bed.write("orders", partition, numbers(0..200)).await;
        bed.write("orders", partition, numbers(200..300)).await;
    }
    let seen = Seen::default();
    let mut app = bed.app();
    app.topic("orders").listen("sms", seen.handler());
    let running = app.start().await.unwrap();
    seen.wait_len(900).await;
    for partition in 0..3 {
        bed.write("orders", partition, ["late"]).await;
    }
    seen.wait_len(903).await;
    for partition in 0..3 {
        assert_eq!(seen.offsets(partition), (0..301).collect::<Vec<_>>());
    }
    let status = running.status();
    assert!(status.is_healthy());
    assert_eq!(
        status.registrations[0].members[0].state,
        MemberState::Stable
    );
    assert_eq!(status.registrations[0].handled(), 903);
    stop(running).await;
    for partition in 0..3 {
        assert_eq!(bed.committed("sms", "orders", partition), Some(301));
    }
}

#[tokio::test]
async fn two_groups_each_get_every_record() {
    let bed = Bed::start().await;
    bed.cluster.create_topic("orders", 1).unwrap();
    bed.write("orders", 0, numbers(0..10)).await;
    let (sms, wx) = (Seen::default(), Seen::default());
    let mut app = bed.app();
    app.topic("orders").listen("sms", sms.handler());
    app.topic("orders").listen("wx", wx.handler());
    let running = app.start().await.unwrap();
    sms.wait_len(10).await;
    wx.wait_len(10).await;
    stop(running).await;
}

#[tokio::test]
async fn a_registration_may_bring_several_topics() {
    let bed = Bed::start().await;
    bed.cluster.create_topic("orders", 1).unwrap();
    bed.cluster.create_topic("orders_retry", 2).unwrap();
    bed.write("orders", 0, ["main"]).await;
    bed.write("orders_retry", 1, ["again"]).await;
    let seen = Seen::default();
    let mut app = bed.app();
    app.register(Registration::new(
        "sms",
        ["orders", "orders_retry"],
        seen.handler(),
    ));
    let running = app.start().await.unwrap();
    seen.wait_len(2).await;
    stop(running).await;
    assert_eq!(bed.committed("sms", "orders_retry", 1), Some(1));
}

#[tokio::test]
async fn a_failing_record_blocks_only_its_partition_and_is_not_lost() {
    let bed = Bed::start().await;
    bed.cluster.create_topic("t", 2).unwrap();
    bed.write("t", 0, ["bad", "after"]).await;
    bed.write("t", 1, numbers(0..50)).await;
    let (seen, broken) = (Seen::default(), Arc::new(AtomicBool::new(true)));
    let (log, gate) = (seen.clone(), broken.clone());
    let handler = handler_fn(move |context, record| {
        let fails = text(&record) == "bad" && gate.load(Ordering::SeqCst);
        if !fails {
            log.push(context.member(), &record);
        }
        async move {
            if fails {
                Outcome::Failed(HandlerError::transient("Down", "not now"))
            } else {
                Outcome::Done
            }
        }
    });
    let mut app = bed.app();
    app.topic("t").listen("g", handler);
    let running = app.start().await.unwrap();
    seen.wait_len(50).await;
    wait_for("three failures", || {
        running.status().registrations[0].failed() >= 3
    })
    .await;
    assert!(seen.offsets(0).is_empty());
    let error = running.status().registrations[0].members[0]
        .last_error
        .clone();
    assert_eq!(error.as_deref(), Some("Down: not now"));
    broken.store(false, Ordering::SeqCst);
    seen.wait_len(52).await;
    assert_eq!(seen.offsets(0), [0, 1]);
    stop(running).await;
}

#[tokio::test]
async fn a_record_that_is_not_due_waits_and_others_do_not() {
    let bed = Bed::start().await;
    bed.cluster.create_topic("t", 2).unwrap();
    bed.write("t", 0, ["later", "after"]).await;
    let now_ms = || {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        i64::try_from(since.as_millis()).unwrap()
    };
    let (seen, early) = (Seen::default(), Arc::new(Mutex::new(Vec::new())));
    let (log, calls) = (seen.clone(), early.clone());
    let handler = handler_fn(move |context, record| {
        let mut calls = calls.lock().unwrap();
        let outcome = match calls.first().copied() {
            None if text(&record) == "later" => {
                calls.push(now_ms() + 2000);
                Outcome::NotBefore(calls[0])
            }
            Some(due) if record.partition == 0 && now_ms() < due => {
                calls.push(now_ms());
                Outcome::NotBefore(due)
            }
            _ => {
                log.push(context.member(), &record);
                Outcome::Done
            }
        };
        async { outcome }
    });
    let mut app = bed.app();
    app.topic("t").listen("g", handler);
    let running = app.start().await.unwrap();
    wait_for("the early call", || !early.lock().unwrap().is_empty()).await;
    bed.write("t", 1, ["now"]).await;
    seen.wait_len(3).await;
    assert_eq!(seen.values(), ["now", "later", "after"]);
    assert_eq!(
        early.lock().unwrap().len(),
        1,
        "the wait is no polling of the handler"
    );
    stop(running).await;
}

#[tokio::test]
async fn outputs_are_published_while_the_partition_is_owned() {
    let bed = Bed::start().await;
    bed.cluster.create_topic("t", 1).unwrap();
    bed.write("t", 0, ["a"]).await;
    let outputs = Arc::new(Outputs::default());
    let context = Arc::new(Mutex::new(None));
    let kept = context.clone();
    let handler = handler_fn(move |context, record| {
        *kept.lock().unwrap() = Some(context.clone());
        async move {
            let told = context.publish(record.to_record("told"));
            told.await.map_or_else(
                |e| Outcome::Failed(HandlerError::transient("Publish", e.to_string())),
                |_| Outcome::Done,
            )
        }
    });
    let mut app = bed.app().outputs(outputs.clone());
    app.topic("t").listen("g", handler);
    let running = app.start().await.unwrap();
    wait_for("the commit", || bed.committed("g", "t", 0) == Some(1)).await;
    assert_eq!(outputs.0.lock().unwrap().len(), 1);
    let context: Context = context.lock().unwrap().take().unwrap();
    assert!(context.check_lease().is_ok() && context.deadline().is_some());
    stop(running).await;
    assert!(context.check_lease().is_err());
    let late = context.publish(Record::new("told")).await.unwrap_err();
    assert_eq!(late.kind(), PublishErrorKind::NotOwner);
    assert_eq!(outputs.0.lock().unwrap().len(), 1);
}

/// A publisher that keeps what it gets.
#[derive(Default)]
struct Outputs(Mutex<Vec<Record>>);

impl Publish for Outputs {
    fn enqueue(&self, record: Record) -> Delivery {
        let written = RecordMetadata {
            topic: record.topic.clone(),
            partition: 0,
            offset: None,
            timestamp_ms: 0,
        };
        self.0.lock().unwrap().push(record);
        Delivery::new(async { Ok(written) })
    }

    fn ready(&self, _: usize) -> BoxFuture<'_, Result<(), PublishError>> {
        Box::pin(async { Ok(()) })
    }
}

#[tokio::test]
async fn a_waiting_record_does_not_hold_up_the_shutdown() {
    let bed = Bed::start().await;
    bed.cluster.create_topic("t", 1).unwrap();
    bed.write("t", 0, ["a"]).await;
    let called = Arc::new(AtomicUsize::new(0));
    let calls = called.clone();
    let handler = handler_fn(move |_, _| {
        calls.fetch_add(1, Ordering::SeqCst);
        async { Outcome::NotBefore(i64::MAX) }
    });
    let mut app = bed.app();
    app.topic("t").listen("g", handler);
    let running = app.start().await.unwrap();
    wait_for("the call", || called.load(Ordering::SeqCst) == 1).await;
    let begun = tokio::time::Instant::now();
    stop(running).await;
    assert!(begun.elapsed() < Duration::from_secs(5));
    assert_eq!(
        bed.committed("g", "t", 0),
        Some(0),
        "only the position that was found"
    );
}

#[tokio::test]
async fn a_panic_and_an_overlong_call_count_as_failures_and_are_repeated() {
    let bed = Bed::start().await;
    bed.cluster.create_topic("t", 1).unwrap();
    bed.write("t", 0, ["panic", "hang", "fine"]).await;
    let (seen, tries) = (Seen::default(), Arc::new(AtomicUsize::new(0)));
    let log = seen.clone();
    let handler = handler_fn(move |context, record| {
        let (log, try_) = (log.clone(), tries.fetch_add(1, Ordering::SeqCst));
        async move {
            match (text(&record).as_str(), try_) {
                ("panic", 0) => panic!("on purpose"),
                ("hang", 2) => std::future::pending().await,
                _ => log.push(context.member(), &record),
            }
            Outcome::Done
        }
    });
    let mut app = bed.app();
    let registration = Registration::new("g", ["t"], handler);
    app.register(registration.max_processing_time(Duration::from_millis(50)));
    let running = app.start().await.unwrap();
    let mut classes = Vec::new();
    wait_for("all three", || {
        let last = running.status().registrations[0].members[0]
            .last_error
            .clone();
        classes.extend(last.filter(|l| classes.last() != Some(l)));
        seen.len() == 3
    })
    .await;
    assert_eq!(seen.values(), ["panic", "hang", "fine"]);
    assert!(
        classes.iter().any(|c| c.starts_with(CLASS_PANIC)),
        "{classes:?}"
    );
    assert!(
        classes.iter().any(|c| c.starts_with(CLASS_TIMEOUT)),
        "{classes:?}"
    );
    stop(running).await;
}

#[tokio::test]
async fn undecodable_json_waits_or_is_skipped_as_told() {
    let bed = Bed::start().await;
    bed.cluster.create_topic("t", 1).unwrap();
    bed.write("t", 0, ["1", "no json", "3"]).await;
    let sum = |seen: &Arc<AtomicUsize>| {
        let seen = seen.clone();
        json_handler(move |_, n: usize| {
            seen.fetch_add(n, Ordering::SeqCst);
            async { Ok::<_, HandlerError>(()) }
        })
    };
    let (strict, lax, batched) =
        <(Arc<AtomicUsize>, Arc<AtomicUsize>, Arc<AtomicUsize>)>::default();
    let in_batch = batched.clone();
    let batch = json_batch(move |_, numbers: Vec<usize>| {
        in_batch.fetch_add(numbers.iter().sum(), Ordering::SeqCst);
        async { BatchOutcome::Done }
    });
    let mut app = bed.app();
    app.topic("t").listen("strict", sum(&strict));
    app.topic("t")
        .listen("lax", sum(&lax).on_undecodable(Undecodable::Skip));
    app.topic("t")
        .batch(10, Duration::from_millis(50))
        .listen_batch("batch", batch.on_undecodable(Undecodable::Skip));
    let running = app.start().await.unwrap();
    wait_for("the skip", || bed.committed("lax", "t", 0) == Some(3)).await;
    wait_for("the batch", || bed.committed("batch", "t", 0) == Some(3)).await;
    wait_for("the strict one's commit", || {
        bed.committed("strict", "t", 0) == Some(1)
    })
    .await;
    wait_for("its failure", || {
        running.status().registrations[0].failed() > 0
    })
    .await;
    assert_eq!(strict.load(Ordering::SeqCst), 1);
    assert_eq!(lax.load(Ordering::SeqCst), 4);
    assert_eq!(batched.load(Ordering::SeqCst), 4);
    let error = running.status().registrations[0].members[0]
        .last_error
        .clone()
        .unwrap();
    assert!(
        error.starts_with("Undecodable: the value is not the JSON expected"),
        "{error}"
    );
    stop(running).await;
}

#[tokio::test]
async fn memory_stays_bounded_while_a_handler_is_slow() {
    let bed = Bed::start().await;
    bed.cluster.create_topic("t", 1).unwrap();
    let value = "x".repeat(10_000);
    for _ in 0..40 {
        bed.write("t", 0, vec![&value; 10]).await;
    }
    let (seen, open) = (Seen::default(), Arc::new(tokio::sync::Semaphore::new(0)));
    let (log, gate) = (seen.clone(), open.clone());
    let handler = handler_fn(move |context, record| {
        let (log, gate) = (log.clone(), gate.clone());
        async move {
            gate.acquire().await.unwrap().forget();
            log.push(context.member(), &record);
            Outcome::Done
        }
    });
    let mut app = bed.app();
    app.register(
        Registration::new("g", ["t"], handler).config(ConsumerConfig {
            max_partition_fetch_bytes: 100_000,
            queued_max_bytes: 200_000,
            ..config()
        }),
    );
    let running = app.start().await.unwrap();
    open.add_permits(1);
    seen.wait_len(1).await;
    // A group of its own shows that the cluster has served everything meanwhile.
    let other = Seen::default();
    let mut second = bed.app();
    second.topic("t").listen("other", other.handler());
    let second = second.start().await.unwrap();
    other.wait_len(400).await;
    stop(second).await;
    let fetched = running.status().registrations[0].members[0].buffered_bytes;
    assert!(fetched > 0 && fetched <= 200_000, "{fetched}");
    open.add_permits(1000);
    seen.wait_len(400).await;
    assert_eq!(seen.offsets(0), (0..400).collect::<Vec<_>>());
    stop(running).await;
}

#[tokio::test]
async fn reading_goes_on_as_soon_as_a_full_inbox_has_room() {
    let bed = Bed::start().await;
    bed.cluster.create_topic("t", 1).unwrap();
    let value = "x".repeat(1000);
    for _ in 0..60 {
        bed.write("t", 0, [&value]).await;
    }
    let (seen, open) = (Seen::default(), Arc::new(tokio::sync::Semaphore::new(0)));
    let (log, gate) = (seen.clone(), open.clone());
    let handler = handler_fn(move |context, record| {
        let (log, gate) = (log.clone(), gate.clone());
        async move {
            gate.acquire().await.unwrap().forget();
            log.push(context.member(), &record);
            Outcome::Done
        }
    });
    let mut app = bed.app();
    app.register(
        // Each fetch brings one record, and nothing else wakes the member for a long time.
        Registration::new("g", ["t"], handler).config(ConsumerConfig {
            max_partition_fetch_bytes: 1024,
            session_timeout: Duration::from_secs(120),
            heartbeat_interval: Duration::from_secs(40),
            commit_interval: Duration::from_secs(3600),
            ..config()
        }),
    );
    let running = app.start().await.unwrap();
    let buffered = || running.status().registrations[0].members[0].buffered_bytes;
    // One with the handler, sixteen in the inbox.
    wait_for("a full inbox", || buffered() >= 17 * 1000).await;
    open.add_permits(60);
    seen.wait_len(60).await;
    stop(running).await;
}
