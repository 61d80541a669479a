//! Administration over sockets: settings, partitions, groups and their offsets, in every version.
#![allow(clippy::unwrap_used, reason = "a helper of a test may end it")]

mod support;

use bytes::Bytes;
use kafka_protocol::messages::create_partitions_request::CreatePartitionsTopic;
use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::incremental_alter_configs_request::{
    AlterConfigsResource, AlterableConfig,
};
use kafka_protocol::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use kafka_protocol::messages::offset_delete_request::{
    OffsetDeleteRequestPartition, OffsetDeleteRequestTopic,
};
use kafka_protocol::messages::*;
use ottla_mock_cluster::{Action, ApiKey as Api, Fault, MockCluster};
use support::{Peer, join_request, text, topic};

const TOPIC: i8 = 2;
const BROKER: i8 = 4;

async fn cluster() -> (MockCluster, Peer) {
    let cluster = MockCluster::builder().brokers(2).start().await.unwrap();
    cluster.create_topic("t", 2).unwrap();
    cluster.move_coordinator("g", 1).unwrap();
    let peer = Peer::connect(&cluster, 1).await;
    (cluster, peer)
}

fn set(kind: i8, name: &str, key: &str, value: &str) -> IncrementalAlterConfigsRequest {
    let config = AlterableConfig::default()
        .with_name(text(key))
        .with_value(Some(text(value)));
    let resource = AlterConfigsResource::default()
        .with_resource_type(kind)
        .with_resource_name(text(name))
        .with_configs(vec![config]);
    IncrementalAlterConfigsRequest::default().with_resources(vec![resource])
}

/// Error code, and value and source of one setting.
async fn value(peer: &mut Peer, version: i16, kind: i8, name: &str, key: &str) -> (i16, Told) {
    let resource = DescribeConfigsResource::default()
        .with_resource_type(kind)
        .with_resource_name(text(name))
        .with_configuration_keys(Some(vec![text(key)]));
    let request = DescribeConfigsRequest::default()
        .with_include_synonyms(true)
        .with_resources(vec![resource]);
    let answer = peer.call(version, &request).await;
    let result = &answer.results[0];
    let told = result.configs.first().map(|config| {
        assert_eq!(config.value, config.synonyms[0].value);
        (
            config.value.as_ref().unwrap().to_string(),
            config.config_source,
        )
    });
    (result.error_code, told)
}

type Told = Option<(String, i8)>;

fn told(value: &str, source: i8) -> (i16, Told) {
    (0, Some((value.to_owned(), source)))
}

#[tokio::test]
async fn settings_are_altered_and_described_in_every_version() {
    let (cluster, mut peer) = cluster().await;
    let key = "min.insync.replicas";
    for version in 1..=4 {
        assert_eq!(
            value(&mut peer, version, TOPIC, "t", key).await,
            told("1", 5)
        );
        assert_eq!(value(&mut peer, version, TOPIC, "no", key).await, (3, None));
        assert_eq!(
            value(&mut peer, version, BROKER, "2", key).await,
            (42, None)
        );
    }
    for (request, code) in [
        (set(BROKER, "", key, "3"), 0),
        (set(BROKER, "1", key, "4"), 0),
        (set(BROKER, "2", key, "4"), 42),
        (set(TOPIC, "t", key, "2"), 0),
        (set(TOPIC, "t", key, "0"), 40),
        (set(TOPIC, "t", "no.such.key", "0"), 40),
        (set(TOPIC, "no", key, "2"), 3),
    ] {
        for version in 0..=1 {
            let answer = peer.call(version, &request).await;
            assert_eq!(answer.responses[0].error_code, code, "{request:?}");
        }
    }
    assert_eq!(value(&mut peer, 4, TOPIC, "t", key).await, told("2", 1));
    assert_eq!(value(&mut peer, 4, BROKER, "1", key).await, told("4", 2));
    assert_eq!(value(&mut peer, 4, BROKER, "", key).await, told("3", 3));
    cluster.create_topic("u", 1).unwrap();
    assert_eq!(value(&mut peer, 4, TOPIC, "u", key).await, told("4", 2));
    let mut checked = set(TOPIC, "u", key, "1");
    checked.validate_only = true;
    assert_eq!(peer.call(1, &checked).await.responses[0].error_code, 0);
    assert_eq!(value(&mut peer, 4, TOPIC, "u", key).await, told("4", 2));
    cluster.shutdown().await;
    assert_eq!(cluster.failed_tasks(), 0);
}

#[tokio::test]
async fn a_changed_size_limit_counts_at_once() {
    let (cluster, mut peer) = cluster().await;
    cluster.move_leader("t", 0, 1).unwrap();
    let batch = support::TestBatch::of(&["a value"]).encode();
    assert_eq!(peer.produce("t", 0, batch.clone()).await.0, 0);
    peer.call(1, &set(TOPIC, "t", "max.message.bytes", "20"))
        .await;
    assert_eq!(peer.produce("t", 0, batch).await.0, 10);
    cluster.shutdown().await;
}

#[tokio::test]
async fn partitions_only_grow() {
    let (cluster, mut peer) = cluster().await;
    for version in 0..=3 {
        let now = cluster.partitions("t").unwrap();
        for (count, name, code) in [(now, "t", 37), (now + 1, "t", 0), (9, "no", 3)] {
            let asked = CreatePartitionsTopic::default()
                .with_name(topic(name))
                .with_count(count)
                .with_assignments(None);
            let request = CreatePartitionsRequest::default()
                .with_topics(vec![asked])
                .with_timeout_ms(1000);
            let answer = peer.call(version, &request).await;
            assert_eq!(answer.results[0].error_code, code, "{count} {name}");
        }
        assert_eq!(cluster.partitions("t"), Some(now + 1));
    }
    cluster.shutdown().await;
}

#[tokio::test]
async fn the_cluster_is_described_in_every_version() {
    let (cluster, mut peer) = cluster().await;
    for version in 0..=2 {
        let answer = peer.call(version, &DescribeClusterRequest::default()).await;
        assert_eq!((answer.error_code, answer.brokers.len()), (0, 2));
        assert_eq!(answer.controller_id, BrokerId(1));
    }
    let controllers = DescribeClusterRequest::default().with_endpoint_type(2);
    assert_eq!(peer.call(1, &controllers).await.error_code, 114);
    cluster.shutdown().await;
}

fn commit(group: &str) -> OffsetCommitRequest {
    let partition = OffsetCommitRequestPartition::default().with_committed_offset(5);
    let asked = OffsetCommitRequestTopic::default()
        .with_name(topic("t"))
        .with_partitions(vec![partition]);
    OffsetCommitRequest::default()
        .with_group_id(text(group).into())
        .with_generation_id_or_member_epoch(-1)
        .with_topics(vec![asked])
}

async fn delete_group(peer: &mut Peer, version: i16, group: &str) -> i16 {
    let request = DeleteGroupsRequest::default().with_groups_names(vec![text(group).into()]);
    peer.call(version, &request).await.results[0].error_code
}

/// The code of the request and that of the partition.
async fn delete_offset(peer: &mut Peer, group: &str, partition: i32) -> (i16, Option<i16>) {
    let asked = OffsetDeleteRequestPartition::default().with_partition_index(partition);
    let asked = OffsetDeleteRequestTopic::default()
        .with_name(topic("t"))
        .with_partitions(vec![asked]);
    let request = OffsetDeleteRequest::default()
        .with_group_id(text(group).into())
        .with_topics(vec![asked]);
    let answer = peer.call(0, &request).await;
    let of_partition = answer.topics.first().map(|t| t.partitions[0].error_code);
    (answer.error_code, of_partition)
}

#[tokio::test]
async fn groups_and_offsets_are_deleted() {
    let (cluster, mut peer) = cluster().await;
    for version in 0..=2 {
        assert_eq!(delete_group(&mut peer, version, "g").await, 69);
        peer.call(2, &commit("g")).await;
        assert_eq!(cluster.committed("g", "t", 0).unwrap().0, 5);
        assert_eq!(delete_group(&mut peer, version, "g").await, 0);
        assert_eq!(cluster.committed("g", "t", 0), None);
    }
    assert_eq!(delete_offset(&mut peer, "g", 0).await, (69, None));
    peer.call(2, &commit("g")).await;
    assert_eq!(delete_offset(&mut peer, "g", 7).await, (0, Some(3)));
    assert_eq!(delete_offset(&mut peer, "g", 0).await, (0, Some(0)));
    assert_eq!(cluster.committed("g", "t", 0), None);
    cluster.move_coordinator("g", 2).unwrap();
    assert_eq!(delete_group(&mut peer, 2, "g").await, 16);
    assert_eq!(delete_offset(&mut peer, "g", 0).await, (16, None));
    cluster.shutdown().await;
}

#[tokio::test]
async fn what_members_read_is_not_deleted() {
    let (cluster, mut peer) = cluster().await;
    peer.call(2, &commit("g")).await;
    let mut join = join_request("g", "");
    // Version 0 of a subscription to `t`.
    join.protocols[0].metadata = Bytes::from_static(b"\0\0\0\0\0\x01\0\x01t\xff\xff\xff\xff");
    assert_eq!(peer.call(2, &join).await.error_code, 0);
    assert_eq!(delete_group(&mut peer, 2, "g").await, 68);
    assert_eq!(delete_offset(&mut peer, "g", 0).await, (0, Some(86)));
    assert_eq!(cluster.committed("g", "t", 0).unwrap().0, 5);
    cluster.shutdown().await;
}

#[tokio::test]
async fn refusals_in_every_version() {
    let (cluster, mut peer) = cluster().await;
    for api in Api::ALL {
        let refused = Fault::on(api).forever().action(Action::Refuse(56));
        cluster.faults().add(refused);
    }
    for version in 0..=4 {
        if version >= 1 {
            assert_eq!(value(&mut peer, version, TOPIC, "t", "a").await, (56, None));
        }
        if version <= 1 {
            let answer = peer.call(version, &set(TOPIC, "t", "a", "b")).await;
            assert_eq!(answer.responses[0].error_code, 56);
        }
        if version <= 2 {
            assert_eq!(delete_group(&mut peer, version, "g").await, 56);
            let answer = peer.call(version, &DescribeClusterRequest::default()).await;
            assert_eq!(answer.error_code, 56);
        }
        if version <= 3 {
            let asked = CreatePartitionsTopic::default().with_name(topic("t"));
            let request = CreatePartitionsRequest::default().with_topics(vec![asked]);
            assert_eq!(peer.call(version, &request).await.results[0].error_code, 56);
        }
    }
    assert_eq!(delete_offset(&mut peer, "g", 0).await, (56, None));
    cluster.shutdown().await;
}
