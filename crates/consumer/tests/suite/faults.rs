//! Coordinators that move, brokers that die, offsets that are gone.

use crate::bed::{Bed, Seen, config, numbers, owned, short_session, stop, wait_for};
use ottla_client::TransportKind;
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
    let mut app = App::new(&bed.client, short_session());
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

#[tokio::test]
async fn trap_c1_a_refused_commit_keeps_the_assignment_and_is_repeated() {
    for code in [22, 27] {
        let bed = Bed::start().await;
        bed.cluster.create_topic("t", 2).unwrap();
        let refused = Fault::on(ApiKey::OffsetCommit)
            .skip(1)
            .action(Action::Refuse(code));
        let refused = bed.cluster.faults().add(refused);
        let seen = Seen::default();
        let mut app = App::new(&bed.client, short_session());
        app.topic("t").listen("g", seen.handler());
        let running = app.start().await.unwrap();
        wait_for("the assignment", || owned(&running) == [2]).await;
        bed.write("t", 1, numbers(0..10)).await;
        wait_for("a commit", || bed.committed("g", "t", 1) == Some(10)).await;
        bed.write("t", 0, numbers(0..10)).await;
        let both = || {
            [0, 1]
                .iter()
                .all(|p| bed.committed("g", "t", *p) == Some(10))
        };
        wait_for("both commits", both).await;
        assert_eq!(refused.hits(), 1);
        bed.write("t", 0, ["later"]).await;
        wait_for("the next commit", || bed.committed("g", "t", 0) == Some(11)).await;
        assert_eq!(owned(&running), [2]);
        stop(running).await;
    }
}

#[tokio::test]
async fn trap_c7_an_answer_for_a_position_that_was_reset_is_dropped() {
    let bed = three_brokers().await;
    bed.cluster.create_topic("t", 1).unwrap();
    bed.write("t", 0, numbers(0..10)).await;
    // Answers come late, and every second request fails: asked again, nothing may come twice.
    for n in 0..5 {
        let delay = std::time::Duration::from_millis(60);
        let fetch = || Fault::on(ApiKey::Fetch).topic("t");
        bed.cluster
            .faults()
            .add(fetch().skip(2 * n).action(Action::DelayReply(delay)));
        bed.cluster
            .faults()
            .add(fetch().skip(2 * n).action(Action::Refuse(6)));
    }
    let seen = Seen::default();
    let mut app = bed.app();
    app.topic("t").listen("g", seen.handler());
    let running = app.start().await.unwrap();
    seen.wait_len(10).await;
    bed.write("t", 0, numbers(10..20)).await;
    seen.wait_len(20).await;
    assert_eq!(seen.offsets(0), (0..20).collect::<Vec<_>>());
    stop(running).await;
}

#[tokio::test]
async fn new_partitions_are_found() {
    let bed = Bed::start().await;
    bed.cluster.create_topic("t", 1).unwrap();
    let mut config = ottla_client::ClientConfig::new(&bed.cluster.bootstrap());
    config.metadata_max_age = std::time::Duration::from_millis(100);
    let client = ottla_client::Client::connect(config).await.unwrap();
    let seen = Seen::default();
    let mut app = App::new(&client, crate::bed::config());
    app.topic("t").listen("g", seen.handler());
    let running = app.start().await.unwrap();
    wait_for("the assignment", || owned(&running) == [1]).await;
    bed.cluster.delete_topic("t").unwrap();
    bed.cluster.create_topic("t", 3).unwrap();
    wait_for("the new partitions", || owned(&running) == [3]).await;
    for partition in 0..3 {
        bed.write("t", partition, ["a"]).await;
    }
    seen.wait_len(3).await;
    stop(running).await;
}

#[tokio::test]
async fn what_cannot_be_read_stops_its_partition_or_is_skipped_as_told() {
    unreadable_records(TransportKind::Rskafka).await;
}

#[tokio::test]
async fn what_cannot_be_read_stops_its_partition_or_is_skipped_as_told_native() {
    unreadable_records(TransportKind::Native).await;
}

async fn unreadable_records(transport: TransportKind) {
    let bed = Bed::over(transport).await;
    bed.cluster.create_topic("t", 2).unwrap();
    bed.write("t", 0, numbers(0..2)).await;
    bed.write("t", 1, ["fine"]).await;
    bed.write_unreadable("t", 0).await;
    bed.write("t", 0, ["behind"]).await;
    let seen = Seen::default();
    let mut app = bed.app();
    app.topic("t").listen("g", seen.handler());
    let running = app.start().await.unwrap();
    seen.wait_len(3).await;
    wait_for("the stop", || !running.status().is_healthy()).await;
    let error = running.status().registrations[0].members[0]
        .last_error
        .clone()
        .unwrap();
    assert!(
        error.contains("partition t-0: offset 2: the records cannot be read"),
        "{error}"
    );
    wait_for("the commit", || bed.committed("g", "t", 0) == Some(2)).await;
    stop(running).await;

    let skipping = ConsumerConfig {
        on_unreadable: ottla_consumer::OnUnreadable::Skip,
        ..config()
    };
    let mut app = App::new(&bed.client, skipping);
    app.topic("t").listen("g", seen.handler());
    let running = app.start().await.unwrap();
    seen.wait_len(4).await;
    assert_eq!(seen.values()[3], "behind");
    wait_for("the commit", || bed.committed("g", "t", 0) == Some(4)).await;
    stop(running).await;
}

#[tokio::test]
async fn a_coordinator_that_is_not_reached_is_seen_in_the_status() {
    let bed = Bed::start().await;
    bed.cluster.create_topic("t", 1).unwrap();
    let gone = Fault::on(ApiKey::JoinGroup).forever();
    let gone = bed.cluster.faults().add(gone.action(Action::Disconnect));
    let seen = Seen::default();
    let mut app = bed.app();
    app.topic("t").listen("g", seen.handler());
    let running = app.start().await.unwrap();
    let said = |word: &str| {
        let status = running.status();
        let error = status.registrations[0].members[0].last_error.clone();
        error.is_some_and(|e| e.contains(word))
    };
    wait_for("the error", || said("JoinGroup")).await;
    gone.remove();
    bed.write("t", 0, ["a"]).await;
    seen.wait_len(1).await;
    stop(running).await;
}

#[tokio::test]
async fn a_join_at_a_broker_that_is_no_coordinator_any_more_is_given_up() {
    for is_dumb in [false, true] {
        let bed = three_brokers().await;
        bed.cluster.create_topic("t", 1).unwrap();
        let seen = Seen::default();
        let mut app = bed.app();
        app.topic("t").listen("g", seen.handler());
        let running = app.start().await.unwrap();
        wait_for("the assignment", || owned(&running) == [1]).await;
        let old = bed.cluster.coordinator("g").unwrap();
        let hang = |api| {
            let fault = Fault::on(api).at_broker(old).forever();
            bed.cluster.faults().add(fault.action(Action::Hang))
        };
        let join = hang(ApiKey::JoinGroup);
        let rejoin = Fault::on(ApiKey::Heartbeat).action(Action::Refuse(27));
        bed.cluster.faults().add(rejoin);
        wait_for("the join", || join.hits() == 1).await;
        // It says who the coordinator is now, or nothing at all.
        let _silent = is_dumb.then(|| hang(ApiKey::FindCoordinator));
        bed.cluster.move_coordinator("g", old % 3 + 1).unwrap();
        // Far sooner than the join's own limit, which is above that of the wait.
        let generations = || running.status().registrations[0].members[0].rebalances;
        wait_for("another generation", || generations() == 2).await;
        bed.write("t", 0, ["a"]).await;
        wait_for("the commit", || bed.committed("g", "t", 0) == Some(1)).await;
        stop(running).await;
    }
}
