//! Every version that we speak of every coordinator and topic API, used for real: a broker that
//! speaks no higher version is played by a cap on what this client believes.

use crate::admin::{
    Admin, AlterConfigs, ConfigResource, ConfigSource, DeleteUpTo, GroupFilter, GroupState,
    GroupType, topics,
};
use crate::cluster::Cluster;
use crate::connection::Api;
use crate::{ClientConfig, ErrorKind, GroupClient, NewTopic, TransactionClient, producer_id};
use kafka_protocol::messages as m;
use ottla_mock_cluster::MockCluster;
use ottla_types::coordinator::{
    CommitOffset, HeartbeatRequest, JoinGroupRequest, LeaveGroupRequest, OffsetCommitRequest,
    OffsetFetchRequest, SyncGroupRequest,
};
use ottla_types::transactions::{
    AddOffsetsRequest, AddPartitionsRequest, EndTxnRequest, GroupMetadata, InitProducerIdRequest,
    TransactionVersion, TxnOffsetCommitRequest,
};
use ottla_types::{Bytes, ErrorCode, TopicPartition};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Each API with each of its versions but the highest.
fn all_caps() -> Vec<(i16, i16)> {
    fn caps<A: Api>() -> impl Iterator<Item = (i16, i16)> {
        let (min, max) = A::VERSIONS.into_inner();
        (min..max).map(|version| (A::KEY, version))
    }
    caps::<m::MetadataRequest>()
        .chain(caps::<m::FindCoordinatorRequest>())
        .chain(caps::<m::JoinGroupRequest>())
        .chain(caps::<m::SyncGroupRequest>())
        .chain(caps::<m::HeartbeatRequest>())
        .chain(caps::<m::LeaveGroupRequest>())
        .chain(caps::<m::OffsetCommitRequest>())
        .chain(caps::<m::OffsetFetchRequest>())
        .chain(caps::<m::CreateTopicsRequest>())
        .chain(caps::<m::DeleteTopicsRequest>())
        .chain(caps::<m::DescribeConfigsRequest>())
        .chain(caps::<m::IncrementalAlterConfigsRequest>())
        .chain(caps::<m::CreatePartitionsRequest>())
        .chain(caps::<m::DeleteRecordsRequest>())
        .chain(caps::<m::DescribeGroupsRequest>())
        .chain(caps::<m::ConsumerGroupDescribeRequest>())
        .chain(caps::<m::ListGroupsRequest>())
        .chain(caps::<m::DeleteGroupsRequest>())
        .chain(caps::<m::DescribeClusterRequest>())
        .chain(caps::<m::InitProducerIdRequest>())
        .chain(caps::<m::AddPartitionsToTxnRequest>())
        .chain(caps::<m::AddOffsetsToTxnRequest>())
        .chain(caps::<m::EndTxnRequest>())
        .chain(caps::<m::TxnOffsetCommitRequest>())
        .collect()
}

/// What a Redpanda of 2024 speaks.
const REDPANDA: [(i16, i16); 17] = [
    (3, 8),
    (8, 8),
    (9, 7),
    (10, 3),
    (11, 6),
    (12, 4),
    (13, 4),
    (14, 4),
    (15, 5),
    (16, 4),
    (19, 6),
    (20, 5),
    (22, 3),
    (24, 3),
    (25, 1),
    (26, 3),
    (28, 3),
];

async fn connect(bootstrap: &str, caps: &[(i16, i16)]) -> Arc<Cluster> {
    let caps: HashMap<_, _> = caps.iter().copied().collect();
    Arc::new(
        Cluster::connect_capped(ClientConfig::new(bootstrap), caps)
            .await
            .unwrap(),
    )
}

async fn use_everything(bootstrap: &str, caps: &[(i16, i16)]) {
    let cluster = connect(bootstrap, caps).await;
    let topic = format!("topic-{:08x}", fastrand::u32(..));
    let deadline = cluster.request_deadline();
    let new = NewTopic::new(&topic, 2).replication(1);
    topics::ensure_topics(&cluster, &[new], deadline)
        .await
        .unwrap();
    assert_eq!(
        cluster
            .refresh_topic(&topic)
            .await
            .unwrap()
            .partitions
            .len(),
        2
    );

    let group = GroupClient::new(cluster.clone(), format!("group-{topic}").into());
    let (generation, member_id) = enter(&group).await;
    let beat = HeartbeatRequest {
        generation,
        member_id: member_id.clone(),
        instance_id: None,
    };
    assert_eq!(group.heartbeat(beat).await.unwrap(), ErrorCode::NONE);

    let partitions: Vec<_> = (0..2).map(|n| TopicPartition::new(&*topic, n)).collect();
    let commit = OffsetCommitRequest {
        generation,
        member_id: member_id.clone(),
        instance_id: None,
        offsets: vec![CommitOffset {
            partition: partitions[1].clone(),
            offset: 77,
            leader_epoch: Some(0),
            metadata: "text".to_owned(),
        }],
    };
    let codes = group.commit(commit).await.unwrap();
    assert_eq!(codes, [(partitions[1].clone(), ErrorCode::NONE)]);
    let fetch = OffsetFetchRequest {
        partitions,
        require_stable: false,
    };
    let fetched = group.fetch_offsets(fetch).await.unwrap();
    let offsets: Vec<_> = fetched
        .offsets
        .iter()
        .map(|o| (o.offset, &*o.metadata))
        .collect();
    assert_eq!(
        (fetched.error, &*offsets),
        (ErrorCode::NONE, &[(None, ""), (Some(77), "text")][..])
    );

    administer(&cluster, &topic, &group, caps).await;

    let leave = LeaveGroupRequest {
        member_id,
        instance_id: None,
        reason: Some("done".to_owned()),
    };
    assert_eq!(group.leave(leave.clone()).await.unwrap(), ErrorCode::NONE);
    assert_eq!(
        group.leave(leave).await.unwrap(),
        ErrorCode::UNKNOWN_MEMBER_ID
    );
    use_a_transaction(&cluster, &topic, caps).await;
    if !caps.contains(&(9, 1)) {
        // Version 1 of OffsetFetch cannot ask for everything.
        let admin = Admin::new(cluster.clone());
        let offsets = admin.group_offsets(group.group_id(), None).await.unwrap();
        assert_eq!(offsets.len(), 1);
        let gone = admin
            .delete_groups(vec![group.group_id().to_string()])
            .await;
        gone[0].1.as_ref().unwrap();
    }
    let deleted = topics::delete_topics(&cluster, vec![topic], deadline)
        .await
        .unwrap();
    deleted[0].1.as_ref().unwrap();
    let id = producer_id::init_producer_id(&cluster, deadline).await;
    assert_eq!(id.unwrap().epoch, 0);
    cluster.close().await;
}

/// Commits an offset in a transaction.
async fn use_a_transaction(cluster: &Arc<Cluster>, topic: &str, caps: &[(i16, i16)]) {
    let coordinator = TransactionClient::new(cluster.clone(), format!("txn-{topic}").into());
    let limit = Instant::now() + Duration::from_secs(20);
    let passes = |code: ErrorCode| {
        assert!(code.is_ok() || Instant::now() < limit, "{code}");
        assert!(code.is_ok() || code.is_retriable(), "{code}");
        !code.is_ok()
    };
    let version = coordinator.version().await;
    // FindCoordinator v0 finds groups only.
    if caps.contains(&(10, 0)) {
        return assert_eq!(version.unwrap_err().kind(), ErrorKind::Unsupported);
    }
    let version = version.unwrap();
    let init = InitProducerIdRequest {
        transaction_timeout_ms: 60_000,
        current: None,
    };
    let producer = loop {
        match coordinator.init(init).await.unwrap() {
            Ok(producer) => break producer,
            Err(code) => assert!(passes(code)),
        }
    };
    let (group_id, partition) = (format!("of-{topic}"), TopicPartition::new(topic, 1));
    if version == TransactionVersion::V1 {
        let partitions = vec![partition.clone(), TopicPartition::new(topic, 0)];
        let add = AddPartitionsRequest {
            producer,
            partitions,
        };
        while passes(coordinator.add_partitions(add.clone()).await.unwrap()[1].1) {}
        let add = AddOffsetsRequest {
            producer,
            group_id: group_id.clone(),
        };
        while passes(coordinator.add_offsets(add.clone()).await.unwrap()) {}
    }
    let commit = TxnOffsetCommitRequest {
        producer,
        group: GroupMetadata::outside_of_membership(&*group_id),
        offsets: vec![CommitOffset {
            partition: partition.clone(),
            offset: 7,
            leader_epoch: Some(0),
            metadata: "text".to_owned(),
        }],
    };
    while passes(
        coordinator
            .commit_offsets(commit.clone(), version)
            .await
            .unwrap()[0]
            .1,
    ) {}
    let end = EndTxnRequest {
        producer,
        commit: true,
    };
    while passes(
        coordinator
            .end(end, version)
            .await
            .unwrap()
            .err()
            .unwrap_or(ErrorCode::NONE),
    ) {}
}

/// Administration of the topic, and of the group that has a member.
async fn administer(cluster: &Arc<Cluster>, topic: &str, group: &GroupClient, caps: &[(i16, i16)]) {
    let admin = Admin::new(cluster.clone());
    assert!(!admin.describe_cluster().await.unwrap().brokers.is_empty());
    let resource = ConfigResource::Topic(topic.to_owned());
    let change = AlterConfigs::new(resource.clone()).set("retention.ms", "4711000");
    admin.alter_configs(vec![change]).await[0]
        .1
        .as_ref()
        .unwrap();
    // A broker hears of what the controller has decided a moment later.
    let limit = Instant::now() + Duration::from_secs(15);
    let entry = loop {
        let described = admin.describe_configs(vec![resource.clone()]).await;
        let entries = described.into_iter().next().unwrap().1.unwrap();
        let mut named = entries.into_iter().filter(|e| e.name == "retention.ms");
        let entry = named.next().unwrap();
        if entry.source == ConfigSource::Topic {
            break entry;
        }
        assert!(Instant::now() < limit, "{entry:?}");
    };
    assert_eq!(entry.value.as_deref(), Some("4711000"));
    assert_eq!(entry.synonyms[0].1.as_deref(), Some("4711000"));
    let made = admin.create_partitions(vec![(topic.to_owned(), 3)]).await;
    made[0].1.as_ref().unwrap();
    let all = (TopicPartition::new(topic, 0), DeleteUpTo::End);
    let deleted = admin.delete_records(vec![all]).await;
    assert_eq!(deleted[0].1.as_ref().unwrap(), &0);

    let id = group.group_id().to_string();
    let described = admin
        .describe_groups(vec![id.clone(), "no-such-group".to_owned()])
        .await;
    let members = &described[0].1.as_ref().unwrap().members;
    // The assignment is no blob of the consumer protocol.
    assert!(
        members.len() == 1 && members[0].unreadable.is_some(),
        "{members:?}"
    );
    let missing = described[1].1.as_ref().unwrap_err();
    assert_eq!(missing.code(), Some(ErrorCode::GROUP_ID_NOT_FOUND));
    let listed = admin.list_groups(GroupFilter::default()).await.unwrap();
    assert!(listed.groups.iter().any(|group| group.group_id == id));
    let stable = GroupFilter {
        states: vec![GroupState::Stable],
        types: vec![GroupType::Classic],
    };
    let listed = admin.list_groups(stable).await.unwrap();
    if caps.iter().any(|(key, version)| *key == 16 && *version < 4) {
        assert!(
            listed
                .failures
                .iter()
                .all(|(_, error)| error.kind() == ErrorKind::Unsupported)
        );
    } else {
        assert!(listed.groups.iter().any(|group| group.group_id == id));
    }
}

/// Joins and syncs; the generation and the member id.
async fn enter(group: &GroupClient) -> (i32, String) {
    let mut join = JoinGroupRequest {
        session_timeout_ms: 10_000,
        rebalance_timeout_ms: 10_000,
        member_id: String::new(),
        instance_id: None,
        protocol_type: "consumer".to_owned(),
        protocols: vec![(
            "range".to_owned(),
            Bytes::from_static(b"\0\0\0\0\0\0\0\0\0\0"),
        )],
        reason: Some("new".to_owned()),
    };
    let limit = Instant::now() + Duration::from_secs(20);
    let joined = loop {
        let answer = group.join(join.clone()).await.unwrap();
        match answer.error {
            ErrorCode::NONE => break answer,
            ErrorCode::MEMBER_ID_REQUIRED => join.member_id = answer.member_id,
            error => assert!(error.is_retriable() && Instant::now() < limit, "{error}"),
        }
    };
    assert_eq!(
        (&*joined.leader, joined.members.len()),
        (&*joined.member_id, 1)
    );
    assert_eq!(joined.members[0].metadata, join.protocols[0].1);
    let sync = SyncGroupRequest {
        generation: joined.generation,
        member_id: joined.member_id.clone(),
        instance_id: None,
        protocol_type: "consumer".to_owned(),
        protocol: joined.protocol.unwrap(),
        assignments: vec![(joined.member_id.clone(), Bytes::from_static(b"mine"))],
    };
    let synced = group.sync(sync).await.unwrap();
    assert_eq!(
        (synced.error, &*synced.assignment),
        (ErrorCode::NONE, &b"mine"[..])
    );
    (joined.generation, joined.member_id)
}

async fn use_every_version(bootstrap: &str) {
    use_everything(bootstrap, &[]).await;
    use_everything(bootstrap, &REDPANDA).await;
    for cap in all_caps() {
        eprintln!("key {} capped at v{}", cap.0, cap.1);
        use_everything(bootstrap, &[cap]).await;
    }
}

#[tokio::test]
async fn every_version_works_on_the_mock_cluster() {
    let mock = MockCluster::builder().brokers(2).start().await.unwrap();
    use_every_version(&mock.bootstrap()).await;
    mock.shutdown().await;
}

#[tokio::test]
#[ignore = "needs a broker at OTTLA_TEST_BOOTSTRAP: cargo xtask e2e --scenario client-conformance"]
async fn every_version_works_on_a_real_broker() {
    let bootstrap = std::env::var("OTTLA_TEST_BOOTSTRAP").expect("OTTLA_TEST_BOOTSTRAP=host:port");
    use_every_version(&bootstrap).await;
}

#[tokio::test]
async fn what_an_old_version_cannot_carry_is_refused() {
    let mock = MockCluster::builder().start().await.unwrap();
    let cluster = connect(&mock.bootstrap(), &[(9, 6), (12, 2), (8, 1)]).await;
    let group = GroupClient::new(cluster.clone(), "g".into());
    let partitions = vec![TopicPartition::new("t", 0)];
    let stable = OffsetFetchRequest {
        partitions,
        require_stable: true,
    };
    let error = group.fetch_offsets(stable).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.operation()),
        (ErrorKind::Unsupported, "OffsetFetch")
    );
    let of_static = HeartbeatRequest {
        generation: 1,
        member_id: "m".to_owned(),
        instance_id: Some("i".to_owned()),
    };
    assert_eq!(
        group.heartbeat(of_static).await.unwrap_err().kind(),
        ErrorKind::Unsupported
    );
    let commit = OffsetCommitRequest {
        generation: -1,
        member_id: String::new(),
        instance_id: None,
        offsets: vec![CommitOffset {
            partition: TopicPartition::new("t", 0),
            offset: 1,
            leader_epoch: None,
            metadata: String::new(),
        }],
    };
    assert_eq!(
        group.commit(commit).await.unwrap_err().kind(),
        ErrorKind::Unsupported
    );
    cluster.close().await;
    mock.shutdown().await;
}
