//! The version tables: what each kind of broker tells is what it takes.
#![allow(clippy::unwrap_used, reason = "a helper of a test may end it")]

mod support;

use std::collections::BTreeMap;

use kafka_protocol::messages::*;
use ottla_mock_cluster::{ApiKey as Api, MockCluster, MockClusterBuilder, Versions};
use support::{Peer, TestBatch, produce_request};

async fn told(builder: MockClusterBuilder, version: i16) -> (ApiVersionsResponse, MockCluster) {
    let cluster = builder.start().await.unwrap();
    cluster.create_topic("t", 1).unwrap();
    let mut peer = Peer::connect(&cluster, 1).await;
    let answer = peer.call(version, &ApiVersionsRequest::default()).await;
    (answer, cluster)
}

fn ranges(answer: &ApiVersionsResponse) -> BTreeMap<i16, (i16, i16)> {
    let keys = answer.api_keys.iter();
    keys.map(|key| (key.api_key, (key.min_version, key.max_version)))
        .collect()
}

fn transaction_version(answer: &ApiVersionsResponse) -> Option<i16> {
    let finalized = answer.finalized_features.first()?;
    assert_eq!(&*finalized.name, "transaction.version");
    Some(finalized.max_version_level)
}

#[tokio::test]
async fn each_kind_of_broker_tells_its_versions() {
    let kinds = [
        (Versions::kafka_3_9(), 11, 17, 4, None),
        (Versions::kafka_4_0(), 12, 17, 5, Some(2)),
        (Versions::kafka_4_3(), 13, 18, 5, Some(2)),
        (Versions::redpanda(), 7, 11, 3, None),
    ];
    for (versions, produce, fetch, end_txn, transactions) in kinds {
        let (answer, _cluster) = told(MockCluster::builder().versions(versions), 3).await;
        let ranges = ranges(&answer);
        // Redpanda of that time has no DescribeCluster and nothing of KIP-848.
        let is_redpanda = produce == 7;
        let missing = if is_redpanda { 3 } else { 0 };
        assert_eq!(ranges.len() + missing, Api::ALL.len());
        assert_eq!(ranges.contains_key(&60), !is_redpanda);
        assert_eq!(ranges.contains_key(&68), !is_redpanda);
        assert_eq!(ranges.contains_key(&69), !is_redpanda);
        assert_eq!(ranges[&0], (0, produce));
        assert_eq!(ranges[&1], (4, fetch));
        assert_eq!(ranges[&26], (0, end_txn));
        assert_eq!(transaction_version(&answer), transactions);
    }
}

#[tokio::test]
async fn what_is_not_told_is_not_taken() {
    let redpanda = Versions::redpanda().without(Api::ListGroups);
    let (answer, cluster) = told(MockCluster::builder().versions(redpanda), 3).await;
    assert!(!ranges(&answer).contains_key(&16));
    let mut peer = Peer::connect(&cluster, 1).await;
    let request = produce_request("t", 0, TestBatch::of(&["v"]).encode());
    assert_eq!(support::first_result(&peer.call(7, &request).await).0, 0);
    assert!(peer.try_call(8, &request).await.is_none());
    let mut peer = Peer::connect(&cluster, 1).await;
    assert!(
        peer.try_call(0, &ListGroupsRequest::default())
            .await
            .is_none()
    );
    // ApiVersions alone says what it would have taken.
    let mut peer = Peer::connect(&cluster, 1).await;
    peer.send(4, &ApiVersionsRequest::default()).await;
    let (_, answer) = peer.receive::<ApiVersionsRequest>(0).await.unwrap();
    assert_eq!((answer.error_code, answer.api_keys[0].max_version), (35, 3));
}

#[tokio::test]
async fn the_transaction_version_can_be_set_apart() {
    let builder = || MockCluster::builder().versions(Versions::kafka_4_3());
    let (answer, _cluster) = told(builder().transaction_version(1), 3).await;
    assert_eq!(transaction_version(&answer), None);
    let (answer, _cluster) = told(builder(), 2).await;
    assert_eq!(
        transaction_version(&answer),
        None,
        "no room before version 3"
    );
    assert!(builder().transaction_version(3).start().await.is_err());
}

#[tokio::test]
async fn redpanda_says_invalid_producer_epoch_for_fenced() {
    let versions = Versions::redpanda();
    let cluster = MockCluster::builder()
        .versions(versions)
        .start()
        .await
        .unwrap();
    let mut peer = Peer::connect(&cluster, 1).await;
    let request = support::txn::init_request("one");
    let first = peer.call(3, &request).await;
    peer.call(3, &request).await;
    let end = EndTxnRequest::default()
        .with_transactional_id(support::text("one").into())
        .with_producer_id(first.producer_id)
        .with_producer_epoch(first.producer_epoch);
    assert_eq!(peer.call(3, &end).await.error_code, 47);
}
