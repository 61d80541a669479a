//! What is committed, when, and what a restart handles again.

use crate::bed::{
    Bed, SHUTDOWN, Seen, config, numbers, owned, short_session, stop, text, wait_for,
};
use ottla_consumer::{App, AutoOffsetReset, ConsumerConfig, Outcome, handler_fn};
use ottla_mock_cluster::{Action, ApiKey, Fault};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::Semaphore;

#[tokio::test]
async fn trap_c26_the_committed_offset_is_the_next_to_read() {
    let bed = Bed::start().await;
    bed.cluster.create_topic("t", 1).unwrap();
    bed.write("t", 0, numbers(0..5)).await;
    let seen = Seen::default();
    let mut app = bed.app();
    app.topic("t").listen("g", seen.handler());
    let running = app.start().await.unwrap();
    wait_for("the commit", || bed.committed("g", "t", 0) == Some(5)).await;
    stop(running).await;

    let mut app = bed.app();
    app.topic("t").listen("g", seen.handler());
    let running = app.start().await.unwrap();
    wait_for("the assignment", || owned(&running) == [1]).await;
    bed.write("t", 0, ["new"]).await;
    seen.wait_len(6).await;
    assert_eq!(
        seen.offsets(0),
        [0, 1, 2, 3, 4, 5],
        "each once over a clean restart"
    );
    stop(running).await;
}

#[tokio::test]
async fn nothing_is_committed_before_it_is_done_and_a_kill_repeats_it() {
    let bed = Bed::start().await;
    bed.cluster.create_topic("t", 1).unwrap();
    bed.write("t", 0, ["done", "never", "behind"]).await;
    let (seen, begun) = (Seen::default(), Arc::new(AtomicUsize::new(0)));
    let (log, calls) = (seen.clone(), begun.clone());
    let handler = handler_fn(move |context, record| {
        let (log, calls) = (log.clone(), calls.clone());
        async move {
            if text(&record) == "never" {
                calls.fetch_add(1, Ordering::SeqCst);
                std::future::pending::<()>().await;
            }
            log.push(context.member(), &record);
            Outcome::Done
        }
    });
    let mut app = App::new(&bed.client, short_session());
    app.topic("t").listen("g", handler);
    let running = app.start().await.unwrap();
    wait_for("the call", || begun.load(Ordering::SeqCst) == 1).await;
    wait_for("the first commit", || bed.committed("g", "t", 0) == Some(1)).await;
    drop(running);

    let mut app = App::new(&bed.client, short_session());
    app.topic("t").listen("g", seen.handler());
    let running = app.start().await.unwrap();
    seen.wait_len(3).await;
    assert_eq!(seen.values(), ["done", "never", "behind"]);
    stop(running).await;
    assert_eq!(bed.committed("g", "t", 0), Some(3));
}

#[tokio::test]
async fn a_shutdown_commits_everything_handled_and_lets_the_call_finish() {
    let bed = Bed::start().await;
    bed.cluster.create_topic("t", 1).unwrap();
    bed.write("t", 0, numbers(0..1000)).await;
    let (seen, gate) = (Seen::default(), Arc::new(Semaphore::new(20)));
    let (log, pass) = (seen.clone(), gate.clone());
    let handler = handler_fn(move |context, record| {
        let (log, pass) = (log.clone(), pass.clone());
        async move {
            pass.acquire().await.unwrap().forget();
            log.push(context.member(), &record);
            Outcome::Done
        }
    });
    // Only the shutdown commits.
    let rarely = ConsumerConfig {
        commit_interval: Duration::from_secs(3600),
        ..config()
    };
    let mut app = App::new(&bed.client, rarely);
    app.topic("t").listen("g", handler);
    let running = app.start().await.unwrap();
    seen.wait_len(20).await;
    let stopped = AtomicBool::new(false);
    let stopping = async {
        stop(running).await;
        stopped.store(true, Ordering::SeqCst);
    };
    // The call in progress ends after the shutdown has begun.
    let working = wait_for("the end", || {
        gate.add_permits(1);
        stopped.load(Ordering::SeqCst)
    });
    tokio::join!(stopping, working);
    let handled = i64::try_from(seen.len()).unwrap();
    assert!((20..1000).contains(&handled));
    assert_eq!(bed.committed("g", "t", 0), Some(handled));
    assert!(bed.cluster.group_members("g").is_empty());
}

#[tokio::test]
async fn trap_c25_a_shutdown_ends_at_its_deadline_and_says_what_it_left() {
    let bed = Bed::start().await;
    bed.cluster.create_topic("t", 1).unwrap();
    bed.write("t", 0, ["stuck"]).await;
    let begun = Arc::new(AtomicUsize::new(0));
    let calls = begun.clone();
    let handler = handler_fn(move |_, _| {
        calls.fetch_add(1, Ordering::SeqCst);
        std::future::pending()
    });
    let mut app = bed.app();
    app.topic("t").listen("g", handler);
    let running = app.start().await.unwrap();
    wait_for("the call", || begun.load(Ordering::SeqCst) == 1).await;
    let started = tokio::time::Instant::now();
    let report = running.shutdown(Duration::from_millis(200)).await;
    assert!(started.elapsed() < Duration::from_secs(3));
    assert!(!report.clean);
    assert_eq!(report.in_flight.len(), 1);
    assert_eq!(report.in_flight[0].1.to_string(), "t-0");
    assert!(report.failed_members.is_empty(), "{report:?}");
}

#[tokio::test]
async fn trap_c25_a_shutdown_without_a_cluster_ends_and_says_what_is_not_committed() {
    let bed = Bed::start().await;
    bed.cluster.create_topic("t", 1).unwrap();
    bed.write("t", 0, numbers(0..3)).await;
    let seen = Seen::default();
    let rarely = ConsumerConfig {
        commit_interval: Duration::from_secs(3600),
        ..config()
    };
    let mut app = App::new(&bed.client, rarely);
    app.topic("t").listen("g", seen.handler());
    let running = app.start().await.unwrap();
    seen.wait_len(3).await;
    wait_for("the first position's commit", || {
        bed.committed("g", "t", 0) == Some(0)
    })
    .await;
    bed.cluster.kill(1).await.unwrap();
    let started = tokio::time::Instant::now();
    let report = running.shutdown(Duration::from_millis(300)).await;
    assert!(started.elapsed() < Duration::from_secs(3));
    let left: Vec<_> = report
        .uncommitted
        .iter()
        .map(|(g, p, o)| format!("{g} {p} {o}"))
        .collect();
    assert_eq!(left, ["g t-0 3"]);
}

#[tokio::test]
async fn trap_c14_the_offset_that_latest_found_is_kept() {
    let bed = Bed::start().await;
    bed.cluster.create_topic("t", 1).unwrap();
    bed.write("t", 0, ["old"]).await;
    let latest = ConsumerConfig {
        auto_offset_reset: AutoOffsetReset::Latest,
        ..short_session()
    };
    let seen = Seen::default();
    let mut app = App::new(&bed.client, latest.clone());
    app.topic("t").listen("g", seen.handler());
    let running = app.start().await.unwrap();
    wait_for("the pin", || bed.committed("g", "t", 0) == Some(1)).await;
    drop(running);
    bed.write("t", 0, ["while away"]).await;

    let mut app = App::new(&bed.client, latest);
    app.topic("t").listen("g", seen.handler());
    let running = app.start().await.unwrap();
    seen.wait_len(1).await;
    assert_eq!(seen.values(), ["while away"]);
    stop(running).await;
}

#[tokio::test]
async fn without_a_reset_policy_a_new_partition_stops_with_a_clear_error() {
    let bed = Bed::start().await;
    bed.cluster.create_topic("t", 1).unwrap();
    bed.write("t", 0, ["a"]).await;
    let strict = ConsumerConfig {
        auto_offset_reset: AutoOffsetReset::Error,
        ..config()
    };
    let seen = Seen::default();
    let mut app = App::new(&bed.client, strict);
    app.topic("t").listen("g", seen.handler());
    let running = app.start().await.unwrap();
    wait_for("the stop", || !running.status().is_healthy()).await;
    let error = running.status().registrations[0].members[0]
        .last_error
        .clone()
        .unwrap();
    assert!(
        error.contains("t-0") && error.contains("auto.offset.reset"),
        "{error}"
    );
    assert_eq!(seen.len(), 0);
    stop(running).await;
    assert_eq!(bed.committed("g", "t", 0), None);
}

#[tokio::test]
async fn trap_c17_one_commit_is_out_at_a_time_and_a_failed_one_is_repeated() {
    let bed = Bed::start().await;
    bed.cluster.create_topic("t", 1).unwrap();
    let commit = || Fault::on(ApiKey::OffsetCommit).group("g");
    let delay = Duration::from_millis(200);
    bed.cluster
        .faults()
        .add(commit().action(Action::Delay(delay)).times(1));
    let refused = bed
        .cluster
        .faults()
        .add(commit().action(Action::Refuse(14)).times(2));
    let dropped = bed
        .cluster
        .faults()
        .add(commit().action(Action::DropReply).times(1));
    let seen = Seen::default();
    let mut app = bed.app();
    app.topic("t").listen("g", seen.handler());
    let running = app.start().await.unwrap();
    for round in 1..=5 {
        bed.write("t", 0, numbers(0..10)).await;
        wait_for("the commit", || {
            bed.committed("g", "t", 0) == Some(10 * round)
        })
        .await;
    }
    assert_eq!((refused.hits(), dropped.hits()), (2, 1));
    let report = running.shutdown(SHUTDOWN).await;
    assert!(report.clean, "{report:?}");
    assert_eq!(bed.committed("g", "t", 0), Some(50));
}

#[tokio::test]
async fn trap_c1_a_commit_whose_refusal_comes_after_the_new_assignment_is_repeated() {
    let bed = Bed::start().await;
    bed.cluster.create_topic("t", 1).unwrap();
    let seen = Seen::default();
    let mut app = bed.app();
    app.topic("t").listen("g", seen.handler());
    let running = app.start().await.unwrap();
    wait_for("the assignment", || bed.committed("g", "t", 0) == Some(0)).await;
    // The member joins again. Before its join arrives it commits, and that arrives after the new
    // generation has begun.
    let fault = |api, action| {
        bed.cluster
            .faults()
            .add(Fault::on(api).group("g").action(action))
    };
    let second = Duration::from_secs(1);
    let join = fault(ApiKey::JoinGroup, Action::Delay(second));
    let commit = fault(ApiKey::OffsetCommit, Action::Delay(2 * second));
    fault(ApiKey::Heartbeat, Action::Refuse(27));
    wait_for("the join", || join.hits() == 1).await;
    bed.write("t", 0, ["a"]).await;
    let refused = || {
        let member = &running.status().registrations[0].members[0];
        let error = member.last_error.as_deref().unwrap_or_default();
        (member.rebalances, error.contains("ILLEGAL_GENERATION"))
    };
    wait_for("the refusal", || refused() == (2, true)).await;
    assert_eq!(commit.hits(), 1);
    wait_for("the commit", || bed.committed("g", "t", 0) == Some(1)).await;
    assert_eq!(refused(), (2, true), "no third generation was needed");
    stop(running).await;
    assert_eq!(seen.values(), ["a"]);
}

#[tokio::test]
async fn a_slow_commit_does_not_hold_up_heartbeats() {
    let bed = Bed::start().await;
    bed.cluster.create_topic("t", 1).unwrap();
    bed.write("t", 0, numbers(0..3)).await;
    // Longer than a heartbeat may take, which is a third of the session.
    let slow = Action::Delay(Duration::from_millis(800));
    let slow = Fault::on(ApiKey::OffsetCommit).action(slow).forever();
    let slow = bed.cluster.faults().add(slow);
    let seen = Seen::default();
    let mut app = App::new(&bed.client, short_session());
    app.topic("t").listen("g", seen.handler());
    let running = app.start().await.unwrap();
    wait_for("the commit", || bed.committed("g", "t", 0) == Some(3)).await;
    bed.write("t", 0, ["more"]).await;
    wait_for("the commit", || bed.committed("g", "t", 0) == Some(4)).await;
    assert_eq!(running.status().registrations[0].members[0].rebalances, 1);
    slow.remove();
    stop(running).await;
    assert_eq!(seen.values(), ["0", "1", "2", "more"]);
}
