//! Incremental fetch sessions over the wire (KIP-227).
#![allow(clippy::unwrap_used, reason = "a helper of a test may end it")]

mod support;

use std::time::Duration;

use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic, ForgottenTopic};
use kafka_protocol::messages::*;
use ottla_mock_cluster::{Action, ApiKey, Fault, MockCluster};
use support::{Peer, TestBatch, eventually, topic};

async fn cluster() -> (MockCluster, Peer) {
    let cluster = MockCluster::builder().brokers(2).start().await.unwrap();
    cluster.create_topic("t", 3).unwrap();
    for partition in 0..3 {
        cluster.move_leader("t", partition, 1).unwrap();
    }
    let peer = Peer::connect(&cluster, 1).await;
    (cluster, peer)
}

/// A step of a session: id, epoch, partitions with their offsets.
fn step(id: i32, epoch: i32, wanted: &[(i32, i64)]) -> FetchRequest {
    let partitions = wanted.iter().map(|(index, offset)| {
        FetchPartition::default()
            .with_partition(*index)
            .with_fetch_offset(*offset)
            .with_partition_max_bytes(1 << 20)
    });
    let asked = FetchTopic::default()
        .with_topic(topic("t"))
        .with_partitions(partitions.collect());
    let topics = if wanted.is_empty() {
        Vec::new()
    } else {
        vec![asked]
    };
    FetchRequest::default()
        .with_max_bytes(1 << 20)
        .with_session_id(id)
        .with_session_epoch(epoch)
        .with_topics(topics)
}

/// Partition and size of its records.
fn told(answer: &FetchResponse) -> Vec<(i32, usize)> {
    let partitions = answer.responses.iter().flat_map(|topic| &topic.partitions);
    partitions
        .map(|one| {
            (
                one.partition_index,
                one.records.as_ref().map_or(0, |all| all.len()),
            )
        })
        .collect()
}

#[tokio::test]
async fn a_session_tells_only_what_changed() {
    let (cluster, mut peer) = cluster().await;
    let batch = TestBatch::of(&["v"]).encode();
    let first = peer.call(11, &step(0, 0, &[(0, 0), (1, 0), (2, 0)])).await;
    let id = first.session_id;
    assert_ne!(id, 0);
    assert_eq!(told(&first), [(0, 0), (1, 0), (2, 0)]);
    assert_eq!(cluster.fetch_sessions(1), 1);
    let quiet = peer.call(11, &step(id, 1, &[])).await;
    assert_eq!((quiet.session_id, told(&quiet)), (id, Vec::new()));
    peer.produce("t", 1, batch.clone()).await;
    let news = peer.call(11, &step(id, 2, &[])).await;
    assert_eq!(told(&news), [(1, batch.len())]);
    // Nothing was acknowledged by a new offset, so it comes again.
    let again = peer.call(11, &step(id, 3, &[])).await;
    assert_eq!(told(&again), [(1, batch.len())]);
    let moved = peer.call(11, &step(id, 4, &[(1, 1)])).await;
    assert_eq!(told(&moved), []);
}

#[tokio::test]
async fn partitions_come_and_go_and_an_empty_session_ends() {
    let (cluster, mut peer) = cluster().await;
    let id = peer.call(12, &step(0, 0, &[(0, 0)])).await.session_id;
    let forget = |partitions: Vec<i32>| {
        ForgottenTopic::default()
            .with_topic(topic("t"))
            .with_partitions(partitions)
    };
    let swap = step(id, 1, &[(2, 0)]).with_forgotten_topics_data(vec![forget(vec![0])]);
    assert_eq!(told(&peer.call(12, &swap).await), [(2, 0)]);
    for partition in 0..3 {
        peer.produce("t", partition, TestBatch::of(&["v"]).encode())
            .await;
    }
    let news = peer.call(12, &step(id, 2, &[])).await;
    assert_eq!(told(&news), [(2, 69)]);
    let last = step(id, 3, &[]).with_forgotten_topics_data(vec![forget(vec![2])]);
    assert_eq!(peer.call(12, &last).await.session_id, 0);
    assert_eq!(cluster.fetch_sessions(1), 0);
}

#[tokio::test]
async fn a_wrong_step_and_an_evicted_session_are_told() {
    let (cluster, mut peer) = cluster().await;
    let id = peer.call(11, &step(0, 0, &[(0, 0)])).await.session_id;
    assert_eq!(peer.call(11, &step(id, 2, &[])).await.error_code, 71);
    assert_eq!(peer.call(11, &step(id, 1, &[])).await.error_code, 0);
    assert_eq!(peer.call(11, &step(id, 1, &[])).await.error_code, 71);
    assert_eq!(peer.call(13, &step(id, 2, &[])).await.error_code, 106);
    cluster.evict_fetch_sessions(1);
    let lost = peer.call(11, &step(id, 2, &[])).await;
    assert_eq!((lost.error_code, lost.session_id), (70, 0));
    // Begin anew, then close with epoch -1, which still reads.
    let id = peer.call(11, &step(0, 0, &[(0, 0)])).await.session_id;
    let closing = peer.call(11, &step(id, -1, &[(0, 0)])).await;
    assert_eq!((closing.session_id, told(&closing)), (0, vec![(0, 0)]));
    assert_eq!(cluster.fetch_sessions(1), 0);
}

#[tokio::test]
async fn an_error_is_told_in_every_step_until_it_is_over() {
    let (cluster, mut peer) = cluster().await;
    let id = peer
        .call(12, &step(0, 0, &[(0, 0), (1, 0)]))
        .await
        .session_id;
    cluster.move_leader("t", 0, 2).unwrap();
    for epoch in 1..3 {
        let answer = peer.call(12, &step(id, epoch, &[])).await;
        assert_eq!(told(&answer), [(0, 0)]);
        assert_eq!(answer.responses[0].partitions[0].error_code, 6);
    }
    cluster.move_leader("t", 0, 1).unwrap();
    let healed = peer.call(12, &step(id, 3, &[])).await;
    assert_eq!(told(&healed), [(0, 0)]);
    assert_eq!(healed.responses[0].partitions[0].error_code, 0);
    assert_eq!(told(&peer.call(12, &step(id, 4, &[])).await), []);
}

#[tokio::test]
async fn a_waiting_step_is_woken_by_a_partition_of_its_session() {
    let (cluster, mut peer) = cluster().await;
    let id = peer.call(12, &step(0, 0, &[(0, 0)])).await.session_id;
    let wait = step(id, 1, &[]).with_max_wait_ms(60_000).with_min_bytes(1);
    peer.send(12, &wait).await;
    eventually("the fetch", || cluster.requests(ApiKey::Fetch) == 2).await;
    let mut producer = Peer::connect(&cluster, 1).await;
    producer
        .produce("t", 0, TestBatch::of(&["v"]).encode())
        .await;
    let (_, answer) = peer.receive::<FetchRequest>(12).await.unwrap();
    assert_eq!(told(&answer), [(0, 69)]);
}

#[tokio::test]
async fn a_refused_or_throttled_step_says_so_without_partitions() {
    let (cluster, mut peer) = cluster().await;
    peer.produce("t", 0, TestBatch::of(&["v"]).encode()).await;
    let id = peer.call(12, &step(0, 0, &[(0, 0)])).await.session_id;
    let faults = cluster.faults();
    faults.add(Fault::on(ApiKey::Fetch).action(Action::Refuse(56)));
    assert_eq!(peer.call(12, &step(id, 1, &[])).await.error_code, 56);
    let throttle = Duration::from_millis(30);
    faults.add(Fault::on(ApiKey::Fetch).action(Action::Throttle(throttle)));
    let throttled = peer.call(12, &step(id, 1, &[])).await;
    assert_eq!((throttled.throttle_time_ms, throttled.session_id), (30, id));
    assert!(throttled.responses.is_empty());
    // The throttled step counts; what it left out comes now.
    assert_eq!(told(&peer.call(12, &step(id, 2, &[])).await), [(0, 69)]);
}

#[tokio::test]
async fn a_fault_by_topic_hits_the_steps_of_its_sessions() {
    let (cluster, mut peer) = cluster().await;
    cluster.create_topic("other", 1).unwrap();
    let id = peer.call(12, &step(0, 0, &[(0, 0)])).await.session_id;
    let fault = |name| {
        Fault::on(ApiKey::Fetch)
            .topic(name)
            .action(Action::Refuse(56))
    };
    let misses = cluster.faults().add(fault("other"));
    let hits = cluster.faults().add(fault("t"));
    assert_eq!(peer.call(12, &step(id, 1, &[])).await.error_code, 56);
    assert_eq!((misses.hits(), hits.hits()), (0, 1));
    assert_eq!(peer.call(12, &step(id, 1, &[])).await.error_code, 0);
}

#[tokio::test]
async fn a_killed_broker_forgets_its_sessions() {
    let (cluster, mut peer) = cluster().await;
    let id = peer.call(12, &step(0, 0, &[(0, 0)])).await.session_id;
    cluster.kill(1).await.unwrap();
    cluster.restart(1).await.unwrap();
    let mut peer = Peer::connect(&cluster, 1).await;
    assert_eq!(peer.call(12, &step(id, 1, &[])).await.error_code, 70);
    cluster.shutdown().await;
    assert_eq!(cluster.failed_tasks(), 0);
}
