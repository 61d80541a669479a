//! The scenarios on the mock cluster, and what only faults can show.

#![allow(clippy::unwrap_used, reason = "a test's helpers fail by panicking")]

mod admin;
mod connections;
mod endless;
#[path = "../scenarios/mod.rs"]
mod scenarios;

use ottla_client::{Client, ClientConfig, ErrorKind, NewTopic};
use ottla_mock_cluster::{Action, ApiKey, Fault, MockCluster, MockClusterBuilder, Versions};
use ottla_types::coordinator::{CommitOffset, HeartbeatRequest, OffsetCommitRequest};
use ottla_types::transactions::{EndTxnRequest, TransactionVersion};
use ottla_types::{ErrorCode, Fate, TopicPartition};
use scenarios::transactions;
use std::time::{Duration, Instant};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

async fn cluster() -> (MockCluster, Client) {
    let cluster = MockCluster::builder().brokers(3).start().await.unwrap();
    let client = scenarios::connect(&cluster.bootstrap()).await;
    (cluster, client)
}

async fn end(cluster: MockCluster, client: Client) {
    client.close().await;
    assert_eq!(cluster.failed_tasks(), 0);
    cluster.shutdown().await;
}

/// Waits until `holds`, and fails after five seconds.
async fn until(what: &str, holds: impl Fn() -> bool) {
    let limit = Instant::now() + Duration::from_secs(5);
    while !holds() {
        assert!(Instant::now() < limit, "{what}");
        tokio::task::yield_now().await;
    }
}

/// Outside of a generation, as tools commit.
fn commit_alone(topic: &str, offset: i64) -> OffsetCommitRequest {
    OffsetCommitRequest {
        generation: -1,
        member_id: String::new(),
        instance_id: None,
        offsets: vec![CommitOffset {
            partition: TopicPartition::new(topic, 0),
            offset,
            leader_epoch: None,
            metadata: String::new(),
        }],
    }
}

#[tokio::test]
async fn topics_are_created_listed_and_deleted() {
    let (cluster, client) = cluster().await;
    scenarios::topics_are_created_listed_and_deleted(&client).await;
    end(cluster, client).await;
}

#[tokio::test]
async fn a_member_joins_commits_and_leaves() {
    let (cluster, client) = cluster().await;
    scenarios::a_member_joins_commits_and_leaves(&client).await;
    end(cluster, client).await;
}

#[tokio::test]
async fn joins_and_heartbeats_do_not_wait_for_each_other() {
    let (cluster, client) = cluster().await;
    scenarios::joins_and_heartbeats_do_not_wait_for_each_other(&client).await;
    end(cluster, client).await;
}

#[tokio::test]
async fn a_static_member_comes_back() {
    let (cluster, client) = cluster().await;
    scenarios::a_static_member_comes_back(&client).await;
    end(cluster, client).await;
}

#[tokio::test]
async fn every_producer_gets_an_id_of_its_own() {
    let (cluster, client) = cluster().await;
    scenarios::every_producer_gets_an_id_of_its_own(&client).await;
    end(cluster, client).await;
}

#[tokio::test]
async fn an_id_is_asked_for_until_it_is_given_or_refused_for_good() {
    let (cluster, client) = cluster().await;
    let on = |action| Fault::on(ApiKey::InitProducerId).action(action);
    let passing = [
        Action::Refuse(ErrorCode::COORDINATOR_LOAD_IN_PROGRESS.0),
        Action::Refuse(ErrorCode::COORDINATOR_NOT_AVAILABLE.0),
        Action::DropReply,
        Action::Disconnect,
    ];
    let faults = passing.map(|action| cluster.faults().add(on(action)));
    client.init_producer_id().await.unwrap();
    assert_eq!(faults.map(|fault| fault.hits()), [1; 4]);

    let code = ErrorCode::CLUSTER_AUTHORIZATION_FAILED;
    let denied = cluster.faults().add(on(Action::Refuse(code.0)).forever());
    let error = client.init_producer_id().await.unwrap_err();
    assert_eq!(
        (error.kind(), error.code(), denied.hits()),
        (ErrorKind::Authorization, Some(code), 1)
    );
    end(cluster, client).await;
}

#[tokio::test]
async fn an_id_that_nobody_gives_is_given_up_in_time() {
    let cluster = MockCluster::builder().start().await.unwrap();
    let config = ClientConfig {
        request_timeout: Duration::from_millis(500),
        ..ClientConfig::new(&cluster.bootstrap())
    };
    let client = Client::connect(config).await.unwrap();
    let code = ErrorCode::COORDINATOR_NOT_AVAILABLE;
    let refuse = Fault::on(ApiKey::InitProducerId).action(Action::Refuse(code.0));
    cluster.faults().add(refuse.forever());
    let start = Instant::now();
    let error = client.init_producer_id().await.unwrap_err();
    assert_eq!((error.is_retriable(), error.code()), (true, Some(code)));
    assert!(start.elapsed() < Duration::from_secs(3));
    end(cluster, client).await;
}

/// A cluster that speaks this version of transactions, and none that is newer.
async fn transactional_cluster(version: TransactionVersion) -> (MockCluster, Client) {
    let versions = match version {
        TransactionVersion::V1 => Versions::kafka_3_9(),
        TransactionVersion::V2 => Versions::kafka_4_3(),
    };
    let builder = MockCluster::builder().brokers(3).versions(versions);
    let cluster = builder.start().await.unwrap();
    let client = scenarios::connect(&cluster.bootstrap()).await;
    (cluster, client)
}

#[tokio::test]
async fn offsets_are_committed_aborted_and_fenced_in_both_versions() {
    for version in [TransactionVersion::V1, TransactionVersion::V2] {
        let (cluster, client) = transactional_cluster(version).await;
        transactions::offsets_are_committed_aborted_and_fenced(&client, version).await;
        end(cluster, client).await;
    }
}

#[tokio::test]
async fn version_2_needs_the_feature_and_all_its_apis() {
    let of = async |builder: MockClusterBuilder| {
        let cluster = builder.start().await.unwrap();
        let client = scenarios::connect(&cluster.bootstrap()).await;
        let version = client.transactions("t").version().await.unwrap();
        end(cluster, client).await;
        version
    };
    let all = MockCluster::builder;
    assert_eq!(of(all()).await, TransactionVersion::V2);
    let unfinalised = all().transaction_version(1);
    assert_eq!(of(unfinalised).await, TransactionVersion::V1);
    let lacking = [
        (ApiKey::Produce, 3, 11),
        (ApiKey::TxnOffsetCommit, 0, 4),
        (ApiKey::EndTxn, 0, 4),
    ];
    for (api, min, max) in lacking {
        let versions = Versions::kafka_4_3().with(api, min, max);
        let version = of(all().versions(versions)).await;
        assert_eq!(version, TransactionVersion::V1, "{api:?} up to {max}");
    }
}

#[tokio::test]
async fn trap_c28_an_end_that_was_not_answered_tells_when_it_is_asked_again() {
    for version in [TransactionVersion::V1, TransactionVersion::V2] {
        for (commit, action) in [(true, Action::DropReply), (false, Action::Disconnect)] {
            let (cluster, client) = transactional_cluster(version).await;
            cluster.create_topic("orders", 1).unwrap();
            let orders = TopicPartition::new("orders", 0);
            let coordinator = client.transactions("t");
            let producer = transactions::init(&coordinator, None).await.unwrap();
            let offset = ("g", &orders, 5);
            transactions::commit_offset(&coordinator, producer, offset, version).await;
            let lost = Fault::on(ApiKey::EndTxn).transaction("t").action(action);
            cluster.faults().add(lost);
            let request = EndTxnRequest { producer, commit };
            let error = coordinator.end(request, version).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ConnectionLost, "{error}");
            let next = transactions::end(&coordinator, producer, commit, version).await;
            // What was late cannot reach the transaction that comes next.
            let next = transactions::init(&coordinator, next.ok()).await.unwrap();
            let offset = ("g", &orders, 6);
            transactions::commit_offset(&coordinator, next, offset, version).await;
            transactions::end(&coordinator, producer, true, version)
                .await
                .unwrap_err();
            transactions::end(&coordinator, next, false, version)
                .await
                .unwrap();
            let committed = cluster.committed("g", "orders", 0).map(|(at, _)| at);
            assert_eq!(committed, commit.then_some(5), "{version:?} {commit}");
            end(cluster, client).await;
        }
    }
}

#[tokio::test]
async fn a_moved_transaction_coordinator_is_found_again() {
    let (cluster, client) = transactional_cluster(TransactionVersion::V2).await;
    let coordinator = client.transactions("t");
    let mut producer = transactions::init(&coordinator, None).await.unwrap();
    for broker in [1, 2, 3] {
        cluster.move_transaction_coordinator("t", broker).unwrap();
        let had = producer;
        producer = transactions::init(&coordinator, Some(had)).await.unwrap();
        assert!(producer.epoch > had.epoch);
    }
    let illegal = client.transactions("").version().await.unwrap_err();
    assert_eq!(illegal.kind(), ErrorKind::Config);
    end(cluster, client).await;
}

#[tokio::test]
async fn a_closed_client_refuses_everything_and_leaves_no_connection() {
    let (cluster, client) = cluster().await;
    scenarios::a_closed_client_refuses_everything(client).await;
    until("connections are left", || cluster.connections() == 0).await;
    cluster.shutdown().await;
}

#[tokio::test]
async fn trap_a7_bad_addresses_do_not_hide_a_good_one() {
    let cluster = MockCluster::builder().start().await.unwrap();
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let refusing = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addresses = [&silent, &refusing].map(|l| l.local_addr().unwrap().to_string());
    drop(refusing);
    let bootstrap = format!(
        "{},no-such-host.invalid:1,{}",
        addresses.join(","),
        cluster.bootstrap()
    );
    let start = Instant::now();
    let client = scenarios::connect(&bootstrap).await;
    assert!(
        start.elapsed() < Duration::from_secs(8),
        "{:?}",
        start.elapsed()
    );
    end(cluster, client).await;
}

#[tokio::test]
async fn asking_about_a_topic_does_not_create_it() {
    let (cluster, client) = cluster().await;
    let error = client.topic("nowhere").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::UnknownTopic);
    assert!(error.to_string().contains("nowhere"));
    assert_eq!(
        client.topic("not/legal").await.unwrap_err().kind(),
        ErrorKind::Config
    );
    assert_eq!(cluster.topics(), Vec::<String>::new());
    end(cluster, client).await;
}

#[tokio::test]
async fn metadata_is_cached_and_refreshes_are_shared() {
    let (cluster, client) = cluster().await;
    cluster.create_topic("orders", 2).unwrap();
    client.topic("orders").await.unwrap();
    let before = cluster.requests(ApiKey::Metadata);
    client.topic("orders").await.unwrap();
    assert_eq!(cluster.requests(ApiKey::Metadata), before);

    let delay = Action::Delay(Duration::from_millis(200));
    cluster
        .faults()
        .add(Fault::on(ApiKey::Metadata).action(delay));
    let mut calls = JoinSet::new();
    for _ in 0..50 {
        let client = client.clone();
        calls.spawn(async move { client.refresh_topic("orders").await });
    }
    while let Some(topic) = calls.join_next().await {
        assert_eq!(topic.unwrap().unwrap().partitions.len(), 2);
    }
    let asked = cluster.requests(ApiKey::Metadata) - before;
    assert!((1..=2).contains(&asked), "{asked} requests for 50 calls");
    end(cluster, client).await;
}

#[tokio::test]
async fn a_refresh_sees_a_moved_leader() {
    let (cluster, client) = cluster().await;
    cluster.create_topic("orders", 1).unwrap();
    for broker in [1, 2, 3] {
        cluster.move_leader("orders", 0, broker).unwrap();
        let topic = client.refresh_topic("orders").await.unwrap();
        assert_eq!(topic.partition(0).unwrap().leader, Some(broker));
        assert!(topic.partition(0).unwrap().leader_epoch.is_some());
    }
    end(cluster, client).await;
}

#[tokio::test]
async fn the_client_outlives_every_broker() {
    let cluster = MockCluster::builder().brokers(3).start().await.unwrap();
    let config = ClientConfig {
        request_timeout: Duration::from_secs(1),
        ..ClientConfig::new(&cluster.bootstrap())
    };
    let client = Client::connect(config).await.unwrap();
    cluster.create_topic("orders", 3).unwrap();
    cluster.kill(1).await.unwrap();
    client.refresh_topic("orders").await.unwrap();
    cluster.kill(2).await.unwrap();
    cluster.kill(3).await.unwrap();
    let start = Instant::now();
    let error = client.refresh_topic("orders").await.unwrap_err();
    assert!(error.is_retriable(), "{error}");
    assert!(
        start.elapsed() < Duration::from_secs(5),
        "{:?}",
        start.elapsed()
    );
    cluster.restart(3).await.unwrap();
    client.refresh_topic("orders").await.unwrap();
    end(cluster, client).await;
}

#[tokio::test]
async fn a_moved_controller_is_found_again() {
    let (cluster, client) = cluster().await;
    let moved = Action::Refuse(ErrorCode::NOT_CONTROLLER.0);
    let fault = cluster
        .faults()
        .add(Fault::on(ApiKey::CreateTopics).times(2).action(moved));
    let outcomes = client
        .create_topics(vec![NewTopic::new("orders", 1)])
        .await
        .unwrap();
    outcomes[0].1.as_ref().unwrap();
    assert_eq!((fault.hits(), cluster.partitions("orders")), (2, Some(1)));
    end(cluster, client).await;
}

#[tokio::test]
async fn a_lost_reply_to_create_topics_is_told_and_ensure_topics_gets_over_it() {
    let (cluster, client) = cluster().await;
    let lost = Fault::on(ApiKey::CreateTopics).action(Action::DropReply);
    cluster.faults().add(lost.clone());
    let error = client
        .create_topics(vec![NewTopic::new("a", 1)])
        .await
        .unwrap_err();
    assert_eq!(
        (error.kind(), error.fate()),
        (ErrorKind::ConnectionLost, Fate::MaybeWritten)
    );
    cluster.faults().add(lost);
    let both = vec![NewTopic::new("a", 1), NewTopic::new("b", 4)];
    client.ensure_topics(both).await.unwrap();
    assert_eq!(cluster.partitions("b"), Some(4));
    end(cluster, client).await;
}

#[tokio::test]
async fn ensure_topics_waits_for_leaders_and_gives_up_in_time() {
    let cluster = MockCluster::builder()
        .brokers(2)
        .replicated(false)
        .start()
        .await
        .unwrap();
    let config = ClientConfig {
        request_timeout: Duration::from_secs(1),
        ..ClientConfig::new(&cluster.bootstrap())
    };
    let client = Client::connect(config).await.unwrap();
    cluster.create_topic("orders", 2).unwrap();
    cluster.kill(2).await.unwrap();
    let orders = || vec![NewTopic::new("orders", 2)];
    let error = client.ensure_topics(orders()).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.topic()),
        (ErrorKind::TimedOut, Some("orders"))
    );
    let (ensured, restarted) = tokio::join!(client.ensure_topics(orders()), cluster.restart(2));
    restarted.unwrap();
    ensured.unwrap();
    end(cluster, client).await;
}

#[tokio::test]
async fn a_coordinator_that_is_not_there_yet_is_waited_for() {
    let (cluster, client) = cluster().await;
    cluster.create_topic("orders", 1).unwrap();
    for code in [
        ErrorCode::COORDINATOR_NOT_AVAILABLE,
        ErrorCode::COORDINATOR_LOAD_IN_PROGRESS,
    ] {
        let action = Action::Refuse(code.0);
        cluster
            .faults()
            .add(Fault::on(ApiKey::FindCoordinator).times(2).action(action));
    }
    let codes = client
        .group("g")
        .commit(commit_alone("orders", 5))
        .await
        .unwrap();
    assert_eq!(codes[0].1, ErrorCode::NONE);
    assert_eq!(cluster.faults().pending(), 0);
    assert_eq!(cluster.committed("g", "orders", 0).unwrap().0, 5);
    let illegal = client.group("").commit(commit_alone("orders", 5)).await;
    assert_eq!(illegal.unwrap_err().kind(), ErrorKind::Config);
    end(cluster, client).await;
}

#[tokio::test]
async fn a_moved_coordinator_is_found_again() {
    let (cluster, client) = cluster().await;
    cluster.create_topic("orders", 1).unwrap();
    let group = client.group("g");
    for broker in [1, 2, 3] {
        cluster.move_coordinator("g", broker).unwrap();
        let offset = i64::from(broker);
        let mut refused = 0;
        while group.commit(commit_alone("orders", offset)).await.unwrap()[0].1 != ErrorCode::NONE {
            refused += 1;
            assert!(refused < 2, "the coordinator was not looked for again");
        }
        assert_eq!(cluster.committed("g", "orders", 0).unwrap().0, offset);
    }
    end(cluster, client).await;
}

#[tokio::test]
async fn a_dead_coordinator_is_an_error_and_the_next_call_finds_another() {
    let (cluster, client) = cluster().await;
    cluster.create_topic("orders", 1).unwrap();
    let group = client.group("g");
    group.commit(commit_alone("orders", 1)).await.unwrap();
    cluster
        .kill(cluster.coordinator("g").unwrap())
        .await
        .unwrap();
    let error = group.commit(commit_alone("orders", 2)).await.unwrap_err();
    let lost = [ErrorKind::Connect, ErrorKind::ConnectionLost];
    assert!(lost.contains(&error.kind()), "{error}");
    let codes = group.commit(commit_alone("orders", 2)).await.unwrap();
    assert_eq!(codes[0].1, ErrorCode::NONE);
    end(cluster, client).await;
}

#[tokio::test]
async fn trap_a7_a_request_without_an_answer_fails_and_its_connection_is_replaced() {
    let cluster = MockCluster::builder().start().await.unwrap();
    let config = ClientConfig {
        request_timeout: Duration::from_millis(500),
        ..ClientConfig::new(&cluster.bootstrap())
    };
    let client = Client::connect(config).await.unwrap();
    let group = client.group("g");
    let beat = HeartbeatRequest {
        generation: 1,
        member_id: "m".to_owned(),
        instance_id: None,
    };
    group.heartbeat(beat.clone()).await.unwrap();
    let connections = cluster.connections();
    cluster
        .faults()
        .add(Fault::on(ApiKey::Heartbeat).action(Action::Hang));
    let start = Instant::now();
    let error = group.heartbeat(beat.clone()).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.operation()),
        (ErrorKind::TimedOut, "Heartbeat")
    );
    assert!(
        start.elapsed() < Duration::from_secs(5),
        "{:?}",
        start.elapsed()
    );
    until("the silent connection stays", || {
        cluster.connections() < connections
    })
    .await;
    let code = group.heartbeat(beat).await.unwrap();
    assert_eq!(code, ErrorCode::UNKNOWN_MEMBER_ID);
    end(cluster, client).await;
}

#[tokio::test]
async fn many_requests_share_a_connection() {
    let (cluster, client) = cluster().await;
    cluster.create_topic("orders", 1).unwrap();
    let group = client.group("g");
    group.commit(commit_alone("orders", 0)).await.unwrap();
    let connections = cluster.connections();
    let mut calls = JoinSet::new();
    for offset in 0..500 {
        let group = group.clone();
        calls.spawn(async move { group.commit(commit_alone("orders", offset)).await });
    }
    while let Some(codes) = calls.join_next().await {
        assert_eq!(codes.unwrap().unwrap()[0].1, ErrorCode::NONE);
    }
    assert_eq!(cluster.connections(), connections);
    end(cluster, client).await;
}

#[tokio::test]
async fn a_dropped_join_takes_its_connection_with_it() {
    let (cluster, client) = cluster().await;
    let group = client.group("g");
    let first = scenarios::join(&group, "").await;
    let connections = cluster.connections();
    let second = scenarios::join(&group, "");
    let told = async {
        while scenarios::heartbeat(&group, &first).await != ErrorCode::REBALANCE_IN_PROGRESS {}
    };
    tokio::select! {
        _ = second => panic!("the first member did not join again"),
        () = told => {}
    }
    // The heartbeats opened one; the join had taken the idle one of the first join.
    until("the join's connection stays", || {
        cluster.connections() <= connections
    })
    .await;
    end(cluster, client).await;
}
