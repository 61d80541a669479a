//! Members of a group in one process and in two apps.

use crate::bed::{Bed, Seen, config, numbers, owned, short_session, stop, wait_for};
use ottla_consumer::{
    App, Assignor, ConsumerConfig, GroupProtocol, Handler, Outcome, RunningApp, handler_fn,
};
use ottla_mock_cluster::{ApiKey, MockCluster, MockClusterBuilder, Versions};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::Semaphore;

#[tokio::test]
async fn two_instances_share_the_partitions() {
    let bed = Bed::start().await;
    bed.cluster.create_topic("t", 4).unwrap();
    let seen = Seen::default();
    let mut app = bed.app();
    app.topic("t").instances(2).listen("g", seen.handler());
    let running = app.start().await.unwrap();
    wait_for("two partitions each", || owned(&running) == [2, 2]).await;
    for partition in 0..4 {
        bed.write("t", partition, numbers(0..20)).await;
    }
    seen.wait_len(80).await;
    let members: BTreeSet<_> = seen.all().into_iter().map(|e| e.member).collect();
    assert_eq!(members.len(), 2);
    stop(running).await;
    assert_eq!(seen.len(), 80);
    assert!(bed.cluster.group_members("g").is_empty(), "both have left");
}

async fn second_app_joins(assignor: Assignor) {
    second_app_joins_with(|config| config.assignors = vec![assignor]).await;
}

async fn second_app_joins_with(set: impl Fn(&mut ConsumerConfig)) {
    let bed = Bed::start_with(quick_kip848()).await;
    bed.cluster.create_topic("t", 4).unwrap();
    let seen = Seen::default();
    let start = async || -> RunningApp {
        let mut config = config();
        set(&mut config);
        let mut app = App::new(&bed.client, config);
        app.topic("t").listen("g", seen.handler());
        app.start().await.unwrap()
    };
    let first = start().await;
    wait_for("all of it", || owned(&first) == [4]).await;
    for partition in 0..4 {
        bed.write("t", partition, numbers(0..50)).await;
    }
    seen.wait_len(120).await;
    let second = start().await;
    wait_for("half each", || {
        owned(&first) == [2] && owned(&second) == [2]
    })
    .await;
    for partition in 0..4 {
        bed.write("t", partition, numbers(50..100)).await;
    }
    seen.wait_len(400).await;
    stop(first).await;
    wait_for("the rest", || owned(&second) == [4]).await;
    for partition in 0..4 {
        bed.write("t", partition, numbers(100..110)).await;
    }
    seen.wait_len(440).await;
    stop(second).await;
    // A revocation commits first (C13), so nothing is handled twice.
    for partition in 0..4 {
        assert_eq!(seen.offsets(partition), (0..110).collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn trap_c13_a_second_app_takes_its_share_range() {
    second_app_joins(Assignor::Range).await;
}

#[tokio::test]
async fn trap_c13_a_second_app_takes_its_share_round_robin() {
    second_app_joins(Assignor::RoundRobin).await;
}

#[tokio::test]
async fn trap_c13_a_second_app_takes_its_share_cooperative() {
    second_app_joins(Assignor::CooperativeSticky).await;
}

#[tokio::test]
async fn trap_c13_a_second_app_takes_its_share_sticky() {
    second_app_joins(Assignor::Sticky).await;
}

#[tokio::test]
async fn trap_c13_a_second_app_takes_its_share_kip848() {
    second_app_joins_with(|config| config.group_protocol = GroupProtocol::Consumer).await;
}

#[tokio::test]
async fn trap_c13_a_second_app_takes_its_share_kip848_range() {
    second_app_joins_with(|config| {
        config.group_protocol = GroupProtocol::Auto;
        config.group_remote_assignor = Some("range".to_owned());
    })
    .await;
}

/// A mock cluster whose KIP-848 heartbeats come often.
fn quick_kip848() -> MockClusterBuilder {
    let session = Duration::from_secs(10);
    MockCluster::builder().consumer_session(session, Duration::from_millis(100))
}

#[tokio::test]
async fn auto_takes_kip848_where_it_is_and_the_classic_protocol_where_not() {
    let kinds = [
        (Versions::kafka_4_3(), true),
        (Versions::kafka_3_9(), false),
        (Versions::redpanda(), false),
    ];
    for (versions, has_kip848) in kinds {
        let bed = Bed::start_with(quick_kip848().versions(versions)).await;
        bed.cluster.create_topic("t", 2).unwrap();
        let seen = Seen::default();
        let config = ConsumerConfig {
            group_protocol: GroupProtocol::Auto,
            ..config()
        };
        let mut app = App::new(&bed.client, config);
        app.topic("t").listen("g", seen.handler());
        let running = app.start().await.unwrap();
        wait_for("both partitions", || owned(&running) == [2]).await;
        bed.write("t", 0, numbers(0..10)).await;
        seen.wait_len(10).await;
        stop(running).await;
        assert_eq!(bed.committed("g", "t", 0), Some(10));
        assert_eq!(bed.cluster.requests(ApiKey::JoinGroup) == 0, has_kip848);
    }
}

#[tokio::test]
async fn static_members_come_back_without_a_rebalance() {
    for protocol in [GroupProtocol::Classic, GroupProtocol::Consumer] {
        let bed = Bed::start_with(quick_kip848()).await;
        bed.cluster.create_topic("t", 4).unwrap();
        let seen = Seen::default();
        let start = async |instance: &str| -> RunningApp {
            let config = ConsumerConfig {
                group_protocol: protocol,
                group_instance_id: Some(instance.to_owned()),
                ..config()
            };
            let mut app = App::new(&bed.client, config);
            app.topic("t").listen("g", seen.handler());
            app.start().await.unwrap()
        };
        let (one, two) = (start("one").await, start("two").await);
        wait_for("half each", || owned(&one) == [2] && owned(&two) == [2]).await;
        let generation = bed.cluster.group_generation("g");
        stop(two).await;
        let two = start("two").await;
        wait_for("its half again", || owned(&two) == [2]).await;
        assert_eq!(
            bed.cluster.group_generation("g"),
            generation,
            "{protocol:?}"
        );
        for partition in 0..4 {
            bed.write("t", partition, numbers(0..10)).await;
        }
        seen.wait_len(40).await;
        stop(one).await;
        stop(two).await;
        assert_eq!(seen.len(), 40);
    }
}

/// A handler that waits for a permit with each record.
fn gated(seen: &Seen, gate: &Arc<Semaphore>) -> impl Handler + use<> {
    let (log, gate) = (seen.clone(), gate.clone());
    handler_fn(move |context, record| {
        let (log, gate) = (log.clone(), gate.clone());
        async move {
            gate.acquire().await.unwrap().forget();
            context.check_lease().unwrap();
            log.push(context.member(), &record);
            Outcome::Done
        }
    })
}

/// Waits for as many heartbeats of `members` as come in two sessions of [`short_session`].
async fn two_sessions_of_heartbeats(bed: &Bed, members: usize) {
    let config = short_session();
    let beats = 2 * config.session_timeout.as_millis() / config.heartbeat_interval.as_millis();
    let before = bed.cluster.requests(ApiKey::Heartbeat);
    let beats = u64::try_from(beats).unwrap() * members as u64;
    wait_for("heartbeats", || {
        bed.cluster.requests(ApiKey::Heartbeat) - before >= beats
    })
    .await;
}

#[tokio::test]
async fn trap_c16_heartbeats_go_on_while_a_handler_is_slow() {
    let bed = Bed::start().await;
    bed.cluster.create_topic("t", 1).unwrap();
    bed.write("t", 0, ["slow", "next"]).await;
    let (seen, gate) = (Seen::default(), Arc::new(Semaphore::new(0)));
    let mut app = App::new(&bed.client, short_session());
    app.topic("t").listen("g", gated(&seen, &gate));
    let running = app.start().await.unwrap();
    two_sessions_of_heartbeats(&bed, 1).await;
    assert_eq!(seen.len(), 0);
    gate.add_permits(2);
    seen.wait_len(2).await;
    assert_eq!(seen.values(), ["slow", "next"]);
    assert_eq!(running.status().registrations[0].members[0].rebalances, 1);
    stop(running).await;
}

#[tokio::test]
async fn trap_c16_heartbeats_go_on_while_a_revocation_waits_for_a_call() {
    let bed = Bed::start().await;
    bed.cluster.create_topic("t", 2).unwrap();
    bed.write("t", 0, ["slow"]).await;
    bed.write("t", 1, ["slow"]).await;
    let (seen, begun) = (Seen::default(), Arc::new(AtomicUsize::new(0)));
    let gate = Arc::new(Semaphore::new(0));
    let (inner, calls) = (gated(&seen, &gate), begun.clone());
    let inner = Arc::new(inner);
    let handler = handler_fn(move |context, record| {
        let inner = inner.clone();
        calls.fetch_add(1, Ordering::SeqCst);
        async move { inner.handle(&context, &record).await }
    });
    let eager = ConsumerConfig {
        assignors: vec![Assignor::Range],
        ..short_session()
    };
    let mut app = App::new(&bed.client, eager.clone());
    app.topic("t").listen("g", handler);
    let first = app.start().await.unwrap();
    wait_for("both calls", || begun.load(Ordering::SeqCst) == 2).await;
    let mut app = App::new(&bed.client, eager);
    app.topic("t").listen("g", seen.handler());
    let joins = bed.cluster.requests(ApiKey::JoinGroup);
    let second = app.start().await.unwrap();
    wait_for("the second's join", || {
        bed.cluster.requests(ApiKey::JoinGroup) > joins
    })
    .await;
    two_sessions_of_heartbeats(&bed, 1).await;
    assert_eq!(seen.len(), 0, "the calls are still in progress");
    gate.add_permits(2);
    wait_for("one each", || owned(&first) == [1] && owned(&second) == [1]).await;
    assert_eq!(seen.len(), 2, "the calls were allowed to finish");
    assert_eq!(bed.committed("g", "t", 0), Some(1));
    assert_eq!(bed.committed("g", "t", 1), Some(1));
    stop(first).await;
    stop(second).await;
    assert_eq!(seen.len(), 2, "nothing is handled again");
}

#[tokio::test]
async fn trap_c24_what_is_buffered_at_a_revocation_is_not_handled_after_it() {
    let bed = Bed::start().await;
    bed.cluster.create_topic("t", 2).unwrap();
    bed.write("t", 0, numbers(0..100)).await;
    bed.write("t", 1, numbers(0..100)).await;
    let seen = Seen::default();
    let gate = Arc::new(Semaphore::new(10));
    let mut app = bed.app();
    app.topic("t").listen("g", gated(&seen, &gate));
    let first = app.start().await.unwrap();
    seen.wait_len(10).await;
    let mut app = bed.app();
    app.topic("t").listen("g", gated(&seen, &gate));
    let second = app.start().await.unwrap();
    wait_for("one each", || {
        // What is in progress goes on, a record at a time, while the partition moves.
        gate.add_permits(1);
        owned(&first) == [1] && owned(&second) == [1]
    })
    .await;
    assert!(seen.len() < 200, "something was buffered");
    gate.add_permits(200);
    seen.wait_len(200).await;
    stop(first).await;
    stop(second).await;
    for partition in 0..2 {
        assert_eq!(seen.offsets(partition), (0..100).collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn a_member_that_vanishes_is_replaced_after_its_session() {
    let bed = Bed::start().await;
    bed.cluster.create_topic("t", 2).unwrap();
    let (lost, kept) = (Seen::default(), Seen::default());
    let mut app = App::new(&bed.client, short_session());
    app.topic("t").listen("g", lost.handler());
    let first = app.start().await.unwrap();
    let mut app = App::new(&bed.client, short_session());
    app.topic("t").listen("g", kept.handler());
    let second = app.start().await.unwrap();
    wait_for("one each", || owned(&first) == [1] && owned(&second) == [1]).await;
    drop(first);
    wait_for("all of it", || owned(&second) == [2]).await;
    bed.write("t", 0, ["a"]).await;
    bed.write("t", 1, ["b"]).await;
    kept.wait_len(2).await;
    stop(second).await;
}
