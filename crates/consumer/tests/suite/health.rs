//! What a web server in the same process is told.

use crate::bed::{Bed, Seen, config, stop, wait_for};
use ottla_consumer::{App, AppPhase, AutoOffsetReset, ConsumerConfig, ProblemKind};
use ottla_mock_cluster::{Action, ApiKey, Fault};
use std::time::Duration;

#[tokio::test]
async fn an_app_gets_ready_and_ends() {
    let bed = Bed::start().await;
    let mut app = bed.app();
    app.topic("t").listen("g", Seen::default().handler());
    let health = app.health();
    let report = health.report();
    assert_eq!((report.ready, report.live), (false, true));
    assert_eq!(report.phase, AppPhase::Starting);
    bed.cluster.create_topic("t", 2).unwrap();
    bed.write("t", 0, ["a"]).await;
    let held = bed.cluster.faults().add(
        Fault::on(ApiKey::JoinGroup).action(Action::Refuse(15)), // COORDINATOR_NOT_AVAILABLE
    );
    let running = app.start().await.unwrap();
    let report = health.report();
    assert!(report.live && !report.ready, "{report:?}");
    assert_eq!(report.problems[0].kind, ProblemKind::Joining);
    held.remove();
    wait_for("readiness", || health.is_ready()).await;
    wait_for("the record", || health.report().groups[0].handled == 1).await;
    let json = serde_json::to_value(health.report()).unwrap();
    assert_eq!(json["phase"], "running");
    assert_eq!(json["groups"][0]["group"], "g");
    assert_eq!(json["groups"][0]["members"], 1);
    stop(running).await;
    let report = health.report();
    assert!(!report.ready && !report.live, "{report:?}");
    assert_eq!(report.phase, AppPhase::Stopped);
}

#[tokio::test]
async fn a_start_that_fails_is_not_live() {
    let bed = Bed::start().await;
    let hasty = ConsumerConfig {
        start_timeout: Duration::from_millis(100),
        ..config()
    };
    let mut app = App::new(&bed.client, hasty);
    app.topic("none").listen("g", Seen::default().handler());
    let health = app.health();
    app.start().await.unwrap_err();
    assert!(!health.is_live());
}

#[tokio::test]
async fn a_stopped_partition_is_a_problem_that_says_why() {
    let bed = Bed::start().await;
    bed.cluster.create_topic("t", 1).unwrap();
    let strict = ConsumerConfig {
        auto_offset_reset: AutoOffsetReset::Error,
        ..config()
    };
    let mut app = App::new(&bed.client, strict);
    app.topic("t").listen("g", Seen::default().handler());
    let running = app.start().await.unwrap();
    let health = running.health();
    wait_for("the problem", || {
        let problems = health.report().problems;
        problems
            .iter()
            .any(|p| matches!(p.kind, ProblemKind::PartitionStopped { .. }))
    })
    .await;
    let report = health.report();
    assert_eq!((report.ready, report.live), (false, true));
    let json = serde_json::to_value(&report.problems[0]).unwrap();
    assert_eq!(
        (&json["problem"], &json["topic"]),
        (&"partition_stopped".into(), &"t".into())
    );
    assert!(json["error"].as_str().unwrap().contains("offset"), "{json}");
    stop(running).await;
}

#[tokio::test]
async fn a_member_that_failed_for_good_is_not_live() {
    let bed = Bed::start().await;
    bed.cluster.create_topic("t", 1).unwrap();
    let fixed = ConsumerConfig {
        group_instance_id: Some("one".to_owned()),
        ..config()
    };
    let mut app = App::new(&bed.client, fixed);
    app.topic("t").listen("g", Seen::default().handler());
    let running = app.start().await.unwrap();
    let health = running.health();
    wait_for("readiness", || health.is_ready()).await;
    let fenced = Fault::on(ApiKey::Heartbeat).action(Action::Refuse(82));
    bed.cluster.faults().add(fenced);
    running.failed().await;
    assert!(!health.is_live());
    assert_eq!(health.report().problems[0].kind, ProblemKind::Failed);
}

#[tokio::test]
async fn an_app_ends_with_what_it_shares_its_stop_with() {
    let bed = Bed::start().await;
    bed.cluster.create_topic("t", 1).unwrap();
    bed.write("t", 0, ["a"]).await;
    let seen = Seen::default();
    let mut app = bed.app();
    app.topic("t").listen("g", seen.handler());
    let report = app.run_until(seen.wait_len(1), crate::bed::SHUTDOWN).await;
    assert!(report.unwrap().clean);
    assert_eq!(bed.committed("g", "t", 0), Some(1));
}
