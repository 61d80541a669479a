//! Throttling as a client quota does it (KIP-219): answered at once, then muted.
#![allow(clippy::unwrap_used, reason = "a helper of a test may end it")]

mod support;

use std::time::{Duration, Instant};

use kafka_protocol::messages::*;
use ottla_mock_cluster::{Action, ApiKey, Fault, MockCluster};
use support::{Peer, TestBatch, produce_request};

const THROTTLE: Duration = Duration::from_millis(600);

#[tokio::test]
async fn trap_a1_a_throttled_produce_is_written_once_and_its_connection_muted() {
    let cluster = MockCluster::builder().start().await.unwrap();
    cluster.create_topic("t", 1).unwrap();
    let mut peer = Peer::connect(&cluster, 1).await;
    cluster
        .faults()
        .add(Fault::on(ApiKey::Produce).action(Action::Throttle(THROTTLE)));
    let request = produce_request("t", 0, TestBatch::of(&["v"]).encode());
    let started = Instant::now();
    let answer = peer.call(7, &request).await;
    assert!(started.elapsed() < THROTTLE, "answered at once");
    assert_eq!(answer.throttle_time_ms, 600);
    assert_eq!(support::first_result(&answer), (0, 0));
    // Another connection is not held back; this one is.
    let mut other = Peer::connect(&cluster, 1).await;
    other.call(1, &MetadataRequest::default()).await;
    assert!(started.elapsed() < THROTTLE);
    let next = peer.call(7, &request).await;
    assert!(started.elapsed() >= THROTTLE);
    assert_eq!(
        (next.throttle_time_ms, support::first_result(&next)),
        (0, (0, 1))
    );
    assert_eq!(cluster.high_watermark("t", 0), Some(2));
}

#[tokio::test]
async fn acks_0_is_muted_too_and_old_versions_have_no_room_to_say_so() {
    let cluster = MockCluster::builder().start().await.unwrap();
    cluster.create_topic("t", 1).unwrap();
    let mut peer = Peer::connect(&cluster, 1).await;
    let throttle = || Action::Throttle(THROTTLE);
    cluster
        .faults()
        .add(Fault::on(ApiKey::Produce).action(throttle()));
    let started = Instant::now();
    let request = produce_request("t", 0, TestBatch::of(&["v"]).encode());
    peer.send(7, &request.clone().with_acks(0)).await;
    assert_eq!(support::first_result(&peer.call(7, &request).await), (0, 1));
    assert!(started.elapsed() >= THROTTLE);
    cluster
        .faults()
        .add(Fault::on(ApiKey::Metadata).action(throttle()));
    let answer = peer.call(1, &MetadataRequest::default()).await;
    assert_eq!((answer.throttle_time_ms, answer.brokers.len()), (0, 1));
    cluster
        .faults()
        .add(Fault::on(ApiKey::Metadata).action(throttle()));
    let answer = peer.call(3, &MetadataRequest::default()).await;
    assert_eq!(answer.throttle_time_ms, 600);
}
