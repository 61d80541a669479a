//! Every API answers in every version that it advertises, and nothing else.
#![allow(clippy::unwrap_used, reason = "a helper of a test may end it")]

mod support;

use kafka_protocol::messages::add_partitions_to_txn_request::AddPartitionsToTxnTopic;
use kafka_protocol::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig};
use kafka_protocol::messages::delete_records_request::{
    DeleteRecordsPartition, DeleteRecordsTopic,
};
use kafka_protocol::messages::delete_topics_request::DeleteTopicState;
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use kafka_protocol::messages::offset_for_leader_epoch_request::{
    OffsetForLeaderPartition, OffsetForLeaderTopic,
};
use kafka_protocol::messages::txn_offset_commit_request::{
    TxnOffsetCommitRequestPartition, TxnOffsetCommitRequestTopic,
};
use kafka_protocol::messages::*;
use ottla_mock_cluster::{Action, ApiKey as Api, Fault, MockCluster};
use support::{Peer, TestBatch, join_request, produce_request, text, topic};

async fn cluster() -> (MockCluster, Peer) {
    let cluster = MockCluster::builder().start().await.unwrap();
    cluster.create_topic("t", 2).unwrap();
    let peer = Peer::connect(&cluster, 1).await;
    (cluster, peer)
}

#[tokio::test]
async fn api_versions_tells_every_api_and_what_is_too_new_gets_version_0() {
    let (cluster, mut peer) = cluster().await;
    for version in 0..=4 {
        let answer = peer.call(version, &ApiVersionsRequest::default()).await;
        assert_eq!(answer.error_code, 0);
        assert_eq!(answer.api_keys.len(), Api::ALL.len());
        let fetch = answer.api_keys.iter().find(|key| key.api_key == 1).unwrap();
        assert_eq!((fetch.min_version, fetch.max_version), (4, 18));
    }
    // A version from the future: the header is one that we know, the answer is version 0.
    let mut frame = vec![0, 18, 0, 99, 0, 0, 0, 7, 0xff, 0xff, 0];
    let mut with_length = (frame.len() as i32).to_be_bytes().to_vec();
    with_length.append(&mut frame);
    tokio::io::AsyncWriteExt::write_all(&mut peer.stream, &with_length)
        .await
        .unwrap();
    let (id, answer) = peer.receive::<ApiVersionsRequest>(0).await.unwrap();
    assert_eq!((id, answer.error_code), (7, 35));
    assert_eq!(answer.api_keys[0].max_version, 4);
    assert_eq!(cluster.requests(Api::ApiVersions), 6);
    cluster.shutdown().await;
    assert_eq!(cluster.failed_tasks(), 0);
}

#[tokio::test]
async fn other_unsupported_versions_close_the_connection() {
    let (cluster, mut peer) = cluster().await;
    // A Fetch and a Produce from the future.
    for (key, version) in [(1, 19), (0, 14)] {
        let frame = [0, 0, 0, 11, 0, key, 0, version, 0, 0, 0, 7, 0xff, 0xff, 0];
        tokio::io::AsyncWriteExt::write_all(&mut peer.stream, &frame)
            .await
            .unwrap();
        assert!(peer.is_closed().await);
        peer = Peer::connect(&cluster, 1).await;
    }
    assert!(
        peer.try_call(1, &DescribeAclsRequest::default())
            .await
            .is_none()
    );
}

#[tokio::test]
async fn metadata_in_every_version() {
    let (cluster, mut peer) = cluster().await;
    for version in 0..=13 {
        let named = MetadataRequestTopic::default().with_name(Some(topic("t")));
        let request = MetadataRequest::default().with_topics(Some(vec![named]));
        let answer = peer.call(version, &request).await;
        assert_eq!(answer.brokers.len(), 1, "version {version}");
        assert_eq!(answer.topics[0].partitions.len(), 2);
        assert_eq!(answer.topics[0].partitions[0].leader_id, BrokerId(1));
        let all = if version == 0 { Some(Vec::new()) } else { None };
        let answer = peer
            .call(version, &MetadataRequest::default().with_topics(all))
            .await;
        assert_eq!(answer.topics.len(), 1);
        if version >= 10 {
            let id = answer.topics[0].topic_id;
            assert!(!id.is_nil());
            if version >= 12 {
                let by_id = MetadataRequestTopic::default()
                    .with_name(None)
                    .with_topic_id(id);
                let request = MetadataRequest::default().with_topics(Some(vec![by_id]));
                let answer = peer.call(version, &request).await;
                assert_eq!(answer.topics[0].name, Some(topic("t")));
            }
        }
    }
    cluster.shutdown().await;
}

#[tokio::test]
async fn produce_and_fetch_in_every_version() {
    let (cluster, mut peer) = cluster().await;
    let named = MetadataRequestTopic::default().with_name(Some(topic("t")));
    let request = MetadataRequest::default().with_topics(Some(vec![named]));
    let id = peer.call(12, &request).await.topics[0].topic_id;
    for version in 3..=13 {
        let mut request = produce_request("t", 0, TestBatch::of(&["v"]).encode());
        if version >= 13 {
            request.topic_data[0].name = topic("");
            request.topic_data[0].topic_id = id;
        }
        let answer = peer.call(version, &request).await;
        assert_eq!(support::first_result(&answer), (0, i64::from(version) - 3));
        assert_eq!(answer.responses[0].topic_id.is_nil(), version < 13);
    }
    for version in 4..=18 {
        let partition = FetchPartition::default()
            .with_partition(0)
            .with_fetch_offset(3);
        let partition = partition.with_partition_max_bytes(1 << 20);
        let partition = if version >= 9 {
            partition.with_current_leader_epoch(0)
        } else {
            partition
        };
        let asked = FetchTopic::default().with_partitions(vec![partition]);
        let asked = if version >= 13 {
            asked.with_topic_id(id)
        } else {
            asked.with_topic(topic("t"))
        };
        let request = FetchRequest::default()
            .with_max_wait_ms(1000)
            .with_min_bytes(1)
            .with_max_bytes(1 << 20)
            .with_session_epoch(-1)
            .with_topics(vec![asked]);
        let answer = peer.call(version, &request).await;
        let partition = &answer.responses[0].partitions[0];
        assert_eq!(
            (partition.error_code, partition.high_watermark),
            (0, 11),
            "v{version}"
        );
        assert_eq!(partition.records.as_ref().unwrap().len(), 8 * 69);
    }
    cluster.shutdown().await;
    assert_eq!(cluster.failed_tasks(), 0);
}

#[tokio::test]
async fn an_unknown_topic_id_is_an_error_of_its_partitions() {
    let (_cluster, mut peer) = cluster().await;
    let mut request = produce_request("", 0, TestBatch::of(&["v"]).encode());
    request.topic_data[0].topic_id = uuid::Uuid::from_u128(7);
    let answer = peer.call(13, &request).await;
    assert_eq!(support::first_result(&answer).0, 100);
    let asked = FetchTopic::default()
        .with_topic_id(uuid::Uuid::from_u128(7))
        .with_partitions(vec![FetchPartition::default()]);
    let request = FetchRequest::default().with_topics(vec![asked]);
    let answer = peer.call(13, &request).await;
    assert_eq!(answer.responses[0].partitions[0].error_code, 100);
    assert_eq!(answer.responses[0].topic_id, uuid::Uuid::from_u128(7));
}

#[tokio::test]
async fn topic_apis_in_every_version() {
    let (cluster, mut peer) = cluster().await;
    for version in 2..=7 {
        let config = CreatableTopicConfig::default()
            .with_name(text("cleanup.policy"))
            .with_value(Some(text("compact")));
        let new = |name: &str| {
            CreatableTopic::default()
                .with_name(topic(name))
                .with_num_partitions(3)
                .with_replication_factor(1)
                .with_configs(vec![config.clone()])
        };
        let name = format!("new-{version}");
        let request = CreateTopicsRequest::default().with_topics(vec![new(&name), new("a b")]);
        let answer = peer.call(version, &request).await;
        assert_eq!(
            (answer.topics[0].error_code, answer.topics[1].error_code),
            (0, 17)
        );
        let again = CreateTopicsRequest::default().with_topics(vec![new(&name)]);
        assert_eq!(peer.call(version, &again).await.topics[0].error_code, 36);
        assert_eq!(cluster.partitions(&name), Some(3));
    }
    for version in 1..=6 {
        let name = format!("new-{}", version + 1);
        let request = if version == 6 {
            let state = DeleteTopicState::default().with_name(Some(topic(&name)));
            DeleteTopicsRequest::default().with_topics(vec![state])
        } else {
            DeleteTopicsRequest::default().with_topic_names(vec![topic(&name)])
        };
        assert_eq!(
            peer.call(version, &request).await.responses[0].error_code,
            0
        );
        assert_eq!(
            peer.call(version, &request).await.responses[0].error_code,
            3
        );
    }
    assert_eq!(cluster.topics(), ["t"]);
    peer.produce("t", 0, TestBatch::of(&["a", "b", "c"]).encode())
        .await;
    for version in 0..=2 {
        let partition = DeleteRecordsPartition::default().with_offset(i64::from(version));
        let asked = DeleteRecordsTopic::default()
            .with_name(topic("t"))
            .with_partitions(vec![partition]);
        let request = DeleteRecordsRequest::default().with_topics(vec![asked]);
        let answer = peer.call(version, &request).await;
        assert_eq!(
            answer.topics[0].partitions[0].low_watermark,
            i64::from(version)
        );
    }
    for version in 1..=10 {
        for (timestamp, offset) in [(-1, 3), (-2, 2), (1000, 2), (1001, -1)] {
            let partition = ListOffsetsPartition::default().with_timestamp(timestamp);
            let asked = ListOffsetsTopic::default()
                .with_name(topic("t"))
                .with_partitions(vec![partition]);
            let request = ListOffsetsRequest::default().with_topics(vec![asked]);
            let answer = peer.call(version, &request).await;
            let partition = &answer.topics[0].partitions[0];
            assert_eq!((partition.error_code, partition.offset), (0, offset));
        }
    }
    for version in 0..=5 {
        let request = InitProducerIdRequest::default().with_transactional_id(None);
        let answer = peer.call(version, &request).await;
        assert_eq!((answer.error_code, answer.producer_epoch), (0, 0));
        assert_eq!(answer.producer_id.0, 1000 + i64::from(version));
    }
    cluster.shutdown().await;
}

/// A refusal can be encoded in every version of every API that a fault can name.
#[tokio::test]
async fn refusals_in_every_version() {
    let (cluster, mut peer) = cluster().await;
    for api in Api::ALL {
        cluster
            .faults()
            .add(Fault::on(api).forever().action(Action::Refuse(56)));
    }
    for version in 0..=13 {
        let named = MetadataRequestTopic::default().with_name(Some(topic("t")));
        let request = MetadataRequest::default().with_topics(Some(vec![named]));
        assert_eq!(peer.call(version, &request).await.topics[0].error_code, 56);
        if (3..=12).contains(&version) {
            let request = produce_request("t", 0, TestBatch::of(&["v"]).encode());
            let answer = peer.call(version, &request).await;
            assert_eq!(support::first_result(&answer), (56, -1));
        }
        if (4..=13).contains(&version) {
            let name = if version < 13 { topic("t") } else { topic("") };
            let asked = FetchTopic::default()
                .with_topic(name)
                .with_partitions(vec![FetchPartition::default()]);
            let request = FetchRequest::default().with_topics(vec![asked]);
            let answer = peer.call(version, &request).await;
            assert_eq!(answer.responses[0].partitions[0].error_code, 56);
        }
        if version <= 9 {
            assert_eq!(
                peer.call(version, &join_request("g", "")).await.error_code,
                56
            );
        }
        if version <= 4 {
            assert_eq!(
                peer.call(version, &HeartbeatRequest::default())
                    .await
                    .error_code,
                56
            );
            assert_eq!(
                peer.call(version, &ApiVersionsRequest::default())
                    .await
                    .error_code,
                56
            );
        }
        if version <= 5 {
            assert_eq!(
                peer.call(version, &SyncGroupRequest::default())
                    .await
                    .error_code,
                56
            );
            assert_eq!(
                peer.call(version, &LeaveGroupRequest::default())
                    .await
                    .error_code,
                56
            );
            assert_eq!(
                peer.call(version, &ListGroupsRequest::default())
                    .await
                    .error_code,
                56
            );
            assert_eq!(
                peer.call(version, &InitProducerIdRequest::default())
                    .await
                    .error_code,
                56
            );
            let end = EndTxnRequest::default();
            assert_eq!(peer.call(version, &end).await.error_code, 56);
            let partition = TxnOffsetCommitRequestPartition::default();
            let asked = TxnOffsetCommitRequestTopic::default().with_partitions(vec![partition]);
            let commit = TxnOffsetCommitRequest::default().with_topics(vec![asked]);
            let answer = peer.call(version, &commit).await;
            assert_eq!(answer.topics[0].partitions[0].error_code, 56);
            let add = AddPartitionsToTxnRequest::default();
            let add = if version <= 3 {
                let asked = AddPartitionsToTxnTopic::default().with_partitions(vec![0]);
                add.with_v3_and_below_topics(vec![asked])
            } else {
                add
            };
            let answer = peer.call(version, &add).await;
            let code = answer.results_by_topic_v3_and_below.first();
            let code = code.map(|topic| topic.results_by_partition[0].partition_error_code);
            assert_eq!(code.unwrap_or(answer.error_code), 56);
        }
        if version <= 4 {
            let add = AddOffsetsToTxnRequest::default();
            assert_eq!(peer.call(version, &add).await.error_code, 56);
        }
        if (2..=4).contains(&version) {
            let asked = OffsetForLeaderTopic::default()
                .with_partitions(vec![OffsetForLeaderPartition::default()]);
            let request = OffsetForLeaderEpochRequest::default().with_topics(vec![asked]);
            let answer = peer.call(version, &request).await;
            assert_eq!(answer.topics[0].partitions[0].error_code, 56);
        }
        if (2..=9).contains(&version) {
            let partition = OffsetCommitRequestPartition::default();
            let asked = OffsetCommitRequestTopic::default().with_partitions(vec![partition]);
            let request = OffsetCommitRequest::default().with_topics(vec![asked]);
            let answer = peer.call(version, &request).await;
            assert_eq!(answer.topics[0].partitions[0].error_code, 56);
        }
        if (2..=7).contains(&version) {
            let request = OffsetFetchRequest::default();
            assert_eq!(peer.call(version, &request).await.error_code, 56);
        }
    }
    assert_eq!(cluster.high_watermark("t", 0), Some(0));
    assert_eq!(cluster.faults().pending(), Api::ALL.len());
}

#[tokio::test]
async fn garbage_in_every_version_of_every_api_ends_in_an_answer_or_a_close() {
    let (cluster, _) = cluster().await;
    for api in Api::ALL {
        for version in 0..=18 {
            for (fill, length) in [(0x00, 60), (0x7f, 60), (0x80, 9), (0xff, 60)] {
                let mut frame = vec![0, 0, 0, 10 + length];
                frame.extend([0, api.key() as u8, 0, version, 0, 0, 0, 7, 0xff, 0xff]);
                frame.extend(std::iter::repeat_n(fill, usize::from(length)));
                let mut peer = Peer::connect(&cluster, 1).await;
                let stream = &mut peer.stream;
                tokio::io::AsyncWriteExt::write_all(stream, &frame)
                    .await
                    .unwrap();
                tokio::io::AsyncWriteExt::shutdown(stream).await.unwrap();
                let mut rest = Vec::new();
                let read = tokio::io::AsyncReadExt::read_to_end(stream, &mut rest);
                let end = tokio::time::timeout(support::LIMIT, read).await;
                assert!(end.is_ok(), "{api:?} {version} {fill:#x}");
            }
        }
    }
    cluster.shutdown().await;
    assert_eq!(cluster.failed_tasks(), 0);
}
