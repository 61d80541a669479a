//! Coordinators that move, brokers that die, offsets that are gone.

use crate::bed::{Bed, Seen, config, numbers, owned, stop, wait_for};
use ottla_consumer::{App, AutoOffsetReset, ConsumerConfig};
use ottla_mock_cluster::{Action, ApiKey, Fault, MockCluster};

async fn three_brokers() -> Bed {
    Bed::start_with(MockCluster::builder().brokers(3)).await
}

#[tokio::test]
async fn consumption_goes_on_when_the_coordinator_moves() {
    let bed = three_brokers().await;
    bed.cluster.create_topic("t", 3).unwrap();
    let seen = Seen::default();
    let mut app = bed.app();
    app.topic("t").listen("g", seen.handler());
    let running = app.start().await.unwrap();
    wait_for("the assignment", || owned(&running) == [3]).await;
    let now_at = bed.cluster.coordinator("g").unwrap();
    bed.cluster.move_coordinator("g", now_at % 3 + 1).unwrap();
    for partition in 0..3 {
        bed.write("t", partition, numbers(0..10)).await;
    }
    wait_for("all commits", || {
        (0..3).all(|p| bed.committed("g", "t", p) == Some(10))
    })
    .await;
    stop(running).await;
}

#[tokio::test]
async fn consumption_goes_on_when_a_broker_dies_and_comes_back() {
    let bed = three_brokers().await;
    bed.cluster.create_topic("t", 3).unwrap();
    let seen = Seen::default();
    let mut app = bed.app();
    app.topic("t").instances(2).listen("g", seen.handler());
    let running = app.start().await.unwrap();
    wait_for("the assignment", || {
        owned(&running).iter().sum::<usize>() == 3
    })
    .await;
    for partition in 0..3 {
        bed.write("t", partition, numbers(0..10)).await;
    }
    seen.wait_len(30).await;
    let coordinator = bed.cluster.coordinator("g").unwrap();
    bed.cluster.kill(coordinator).await.unwrap();
    for partition in 0..3 {
        bed.write("t", partition, numbers(10..20)).await;
    }
    bed.cluster.restart(coordinator).await.unwrap();
    for partition in 0..3 {
        bed.write("t", partition, numbers(20..30)).await;
    }
    wait_for("all commits", || {
        (0..3).all(|p| bed.committed("g", "t", p) == Some(30))
    })
    .await;
    stop(running).await;
    for partition in 0..3 {
        let mut offsets = seen.offsets(partition);
        offsets.sort_unstable();
        offsets.dedup();
        assert_eq!(offsets, (0..30).collect::<Vec<_>>(), "none is missing");
    }
}

#[tokio::test]
async fn consumption_goes_on_when_a_leader_moves() {
    let bed = three_brokers().await;
    bed.cluster.create_topic("t", 1).unwrap();
    bed.write("t", 0, numbers(0..10)).await;
    let seen = Seen::default();
    let mut app = bed.app();
    app.topic("t").listen("g", seen.handler());
    let running = app.start().await.unwrap();
    seen.wait_len(10).await;
    let (leader, _) = bed.cluster.leader("t", 0).unwrap();
    bed.cluster
        .move_leader("t", 0, leader.unwrap() % 3 + 1)
        .unwrap();
    bed.write("t", 0, numbers(10..20)).await;
    seen.wait_len(20).await;
    assert_eq!(seen.offsets(0), (0..20).collect::<Vec<_>>());
    stop(running).await;
}

#[tokio::test]
async fn trap_c11_a_failed_offset_fetch_never_becomes_a_reset() {
    let bed = Bed::start().await;
    bed.cluster.create_topic("t", 1).unwrap();
    bed.write("t", 0, numbers(0..10)).await;
    let seen = Seen::default();
    let mut app = bed.app();
    app.topic("t").listen("g", seen.handler());
    let running = app.start().await.unwrap();
    seen.wait_len(10).await;
    stop(running).await;
    bed.write("t", 0, ["new"]).await;

    let faults = [
        Action::Refuse(14),
        Action::Refuse(88),
        Action::Refuse(-1),
        Action::Disconnect,
    ];
    let hits: Vec<_> = faults
        .map(|action| {
            bed.cluster
                .faults()
                .add(Fault::on(ApiKey::OffsetFetch).action(action))
        })
        .into();
    for reset in [AutoOffsetReset::Latest, AutoOffsetReset::Earliest] {
        let config = ConsumerConfig {
            auto_offset_reset: reset,
            ..config()
        };
        let mut app = App::new(&bed.client, config);
        app.topic("t").listen("g", seen.handler());
        let running = app.start().await.unwrap();
        seen.wait_len(11).await;
        stop(running).await;
    }
    assert!(hits.iter().all(|h| h.hits() == 1));
    assert_eq!(seen.offsets(0), (0..=10).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_position_that_retention_removed_is_reset_as_told() {
    let bed = Bed::start().await;
    bed.cluster.create_topic("t", 1).unwrap();
    bed.write("t", 0, numbers(0..10)).await;
    let seen = Seen::default();
    let mut app = bed.app();
    app.topic("t").listen("g", seen.handler());
    let running = app.start().await.unwrap();
    wait_for("the commit", || bed.committed("g", "t", 0) == Some(10)).await;
    stop(running).await;
    bed.write("t", 0, numbers(10..30)).await;
    bed.cluster.delete_records("t", 0, 20).unwrap();

    // The transport may keep what it fetched before the records went.
    let mut app = App::new(&bed.connect().await, config());
    app.topic("t").listen("g", seen.handler());
    let running = app.start().await.unwrap();
    seen.wait_len(20).await;
    assert_eq!(seen.offsets(0)[10..], (20..30).collect::<Vec<_>>());
    wait_for("the commit", || bed.committed("g", "t", 0) == Some(30)).await;
    stop(running).await;

    bed.write("t", 0, ["gone", "kept"]).await;
    bed.cluster.delete_records("t", 0, 31).unwrap();
    let strict = ConsumerConfig {
        auto_offset_reset: AutoOffsetReset::Error,
        ..config()
    };
    let mut app = App::new(&bed.connect().await, strict);
    app.topic("t").listen("g", seen.handler());
    let running = app.start().await.unwrap();
    wait_for("the stop", || !running.status().is_healthy()).await;
    stop(running).await;
    assert_eq!(seen.len(), 20);
    assert_eq!(
        bed.committed("g", "t", 0),
        Some(30),
        "the error commits nothing"
    );
}

#[tokio::test]
async fn trap_c15_a_topic_made_anew_is_read_from_its_start() {
    let bed = Bed::start().await;
    bed.cluster.create_topic("t", 1).unwrap();
    bed.write("t", 0, numbers(0..10)).await;
    let seen = Seen::default();
    let mut app = bed.app();
    app.topic("t").listen("g", seen.handler());
    let running = app.start().await.unwrap();
    wait_for("the commit", || bed.committed("g", "t", 0) == Some(10)).await;
    bed.cluster.delete_topic("t").unwrap();
    bed.cluster.create_topic("t", 1).unwrap();
    bed.write("t", 0, ["a", "b"]).await;
    seen.wait_len(12).await;
    assert_eq!(seen.values()[10..], ["a", "b"]);
    wait_for("the commit", || bed.committed("g", "t", 0) == Some(2)).await;
    stop(running).await;
}

#[tokio::test]
async fn trap_c18_an_unknown_member_joins_again_and_goes_on() {
    let bed = Bed::start().await;
    bed.cluster.create_topic("t", 1).unwrap();
    let seen = Seen::default();
    let mut app = bed.app();
    app.topic("t").listen("g", seen.handler());
    let running = app.start().await.unwrap();
    bed.write("t", 0, ["a"]).await;
    wait_for("the commit", || bed.committed("g", "t", 0) == Some(1)).await;
    let evicted = bed
        .cluster
        .faults()
        .add(Fault::on(ApiKey::Heartbeat).action(Action::Refuse(25)));
    wait_for("the eviction", || evicted.hits() == 1).await;
    bed.write("t", 0, ["b"]).await;
    wait_for("the commit", || bed.committed("g", "t", 0) == Some(2)).await;
    assert_eq!(seen.values(), ["a", "b"]);
    stop(running).await;
}

#[tokio::test]
async fn trap_c23_a_fenced_static_member_ends_the_wait_with_its_error() {
    let bed = Bed::start().await;
    bed.cluster.create_topic("t", 1).unwrap();
    let fixed = ConsumerConfig {
        group_instance_id: Some("one".to_owned()),
        ..config()
    };
    let seen = Seen::default();
    let mut app = App::new(&bed.client, fixed);
    app.topic("t").listen("g", seen.handler());
    let running = app.start().await.unwrap();
    wait_for("the assignment", || owned(&running) == [1]).await;
    bed.cluster
        .faults()
        .add(Fault::on(ApiKey::Heartbeat).action(Action::Refuse(82)));
    let error = running.wait().await.unwrap_err();
    assert_eq!(error.kind(), ottla_consumer::ErrorKind::Fenced);
    assert!(error.to_string().contains("group g"), "{error}");
    let report = running.shutdown(crate::bed::SHUTDOWN).await;
    assert_eq!(report.failed_members.len(), 1);
}
