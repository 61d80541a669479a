//! Leader epochs, cut logs, where the leader is, and the closest replica.
#![allow(clippy::unwrap_used, reason = "a helper of a test may end it")]

mod support;

use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::offset_for_leader_epoch_request::{
    OffsetForLeaderPartition, OffsetForLeaderTopic,
};
use kafka_protocol::messages::*;
use ottla_mock_cluster::MockCluster;
use support::{Peer, TestBatch, produce_request, topic};

fn fetch(partition: FetchPartition) -> FetchRequest {
    let asked = FetchTopic::default()
        .with_topic(topic("t"))
        .with_partitions(vec![partition.with_partition_max_bytes(1 << 20)]);
    FetchRequest::default()
        .with_max_bytes(1 << 20)
        .with_session_epoch(-1)
        .with_topics(vec![asked])
}

fn at(offset: i64) -> FetchPartition {
    FetchPartition::default().with_fetch_offset(offset)
}

async fn send(peer: &mut Peer, values: &[&str]) {
    assert_eq!(
        peer.produce("t", 0, TestBatch::of(values).encode()).await.0,
        0
    );
}

/// Epoch and end offset.
async fn end_of(peer: &mut Peer, version: i16, current: i32, epoch: i32) -> (i16, i32, i64) {
    let partition = OffsetForLeaderPartition::default()
        .with_current_leader_epoch(current)
        .with_leader_epoch(epoch);
    let asked = OffsetForLeaderTopic::default()
        .with_topic(topic("t"))
        .with_partitions(vec![partition]);
    let request = OffsetForLeaderEpochRequest::default()
        .with_replica_id(BrokerId(-1))
        .with_topics(vec![asked]);
    let answer = peer.call(version, &request).await;
    let found = &answer.topics[0].partitions[0];
    (found.error_code, found.leader_epoch, found.end_offset)
}

#[tokio::test]
async fn a_reader_learns_where_an_epoch_ended_and_that_the_log_was_cut() {
    let cluster = MockCluster::builder().start().await.unwrap();
    cluster.create_topic("t", 1).unwrap();
    let mut peer = Peer::connect(&cluster, 1).await;
    for value in ["a", "b", "c"] {
        send(&mut peer, &[value]).await;
    }
    for version in 2..=4 {
        assert_eq!(end_of(&mut peer, version, 0, 0).await, (0, 0, 3));
    }
    cluster.truncate("t", 0, 1).unwrap();
    assert_eq!(cluster.high_watermark("t", 0), Some(1));
    assert_eq!(cluster.leader_epoch("t", 0), Some(1));
    send(&mut peer, &["d"]).await;
    assert_eq!(end_of(&mut peer, 4, 1, 0).await, (0, 0, 1));
    assert_eq!(end_of(&mut peer, 4, 1, 1).await, (0, 1, 2));
    assert_eq!(end_of(&mut peer, 4, 1, 2).await, (0, -1, -1));
    assert_eq!(end_of(&mut peer, 4, 0, 0).await, (74, -1, -1));
    assert_eq!(end_of(&mut peer, 4, 2, 0).await, (75, -1, -1));

    // Who read up to 3 in epoch 0 is told that the logs part at 1.
    let stale = at(3)
        .with_last_fetched_epoch(0)
        .with_current_leader_epoch(1);
    let answer = peer.call(12, &fetch(stale)).await;
    let data = &answer.responses[0].partitions[0];
    assert_eq!(data.error_code, 0);
    assert_eq!(
        (data.diverging_epoch.epoch, data.diverging_epoch.end_offset),
        (0, 1)
    );
    assert!(data.records.as_ref().unwrap().is_empty());
    let fine = at(1)
        .with_last_fetched_epoch(0)
        .with_current_leader_epoch(1);
    let answer = peer.call(12, &fetch(fine)).await;
    let data = &answer.responses[0].partitions[0];
    assert_eq!(
        (data.diverging_epoch.epoch, data.diverging_epoch.end_offset),
        (-1, -1)
    );
    assert_eq!(data.records.as_ref().unwrap()[12..16], 1_i32.to_be_bytes());
    let future = at(1).with_last_fetched_epoch(9);
    let answer = peer.call(12, &fetch(future)).await;
    assert_eq!(answer.responses[0].partitions[0].error_code, 1);
    // Without the epoch, an offset beyond the cut log is only out of range.
    let answer = peer.call(11, &fetch(at(3))).await;
    assert_eq!(answer.responses[0].partitions[0].error_code, 1);
}

#[tokio::test]
async fn a_cut_takes_whole_batches_and_the_sequences_with_them() {
    let cluster = MockCluster::builder().start().await.unwrap();
    cluster.create_topic("t", 1).unwrap();
    let mut peer = Peer::connect(&cluster, 1).await;
    let batch = |sequence| TestBatch::of(&["a", "b"]).producer(7, 0, sequence).encode();
    for sequence in [0, 2, 4] {
        assert_eq!(peer.produce("t", 0, batch(sequence)).await.0, 0);
    }
    cluster.truncate("t", 0, 3).unwrap();
    assert_eq!(cluster.high_watermark("t", 0), Some(2));
    assert_eq!(peer.produce("t", 0, batch(6)).await.0, 45);
    assert_eq!(peer.produce("t", 0, batch(0)).await, (0, 0), "a replay");
    assert_eq!(peer.produce("t", 0, batch(2)).await, (0, 2), "written anew");
    cluster.truncate("t", 0, 99).unwrap();
    assert_eq!(cluster.high_watermark("t", 0), Some(4));
    assert!(cluster.truncate("t", 9, 0).is_err());
}

#[tokio::test]
async fn stale_requests_are_told_the_new_leader() {
    let cluster = MockCluster::builder().brokers(2).start().await.unwrap();
    cluster.create_topic("t", 1).unwrap();
    cluster.move_leader("t", 0, 1).unwrap();
    cluster.move_leader("t", 0, 2).unwrap();
    let epoch = cluster.leader_epoch("t", 0).unwrap();
    let mut peer = Peer::connect(&cluster, 1).await;
    let named = MetadataRequestTopic::default().with_name(Some(topic("t")));
    let request = MetadataRequest::default().with_topics(Some(vec![named]));
    let id = peer.call(12, &request).await.topics[0].topic_id;
    let by_id = |partition: FetchPartition| {
        let mut request = fetch(partition);
        request.topics[0].topic = topic("");
        request.topics[0].topic_id = id;
        request
    };
    for (given, code) in [(-1, 6), (epoch, 6), (epoch - 1, 74)] {
        let request = by_id(at(0).with_current_leader_epoch(given));
        let answer = peer.call(16, &request).await;
        let data = &answer.responses[0].partitions[0];
        assert_eq!(data.error_code, code);
        let leader = &data.current_leader;
        assert_eq!((leader.leader_id.0, leader.leader_epoch), (2, epoch));
        let endpoint = &answer.node_endpoints[0];
        let addr = format!("{}:{}", &*endpoint.host, endpoint.port);
        assert_eq!(Some(addr), cluster.broker_addr(2));
    }
    let answer = peer.call(12, &fetch(at(0))).await;
    assert_eq!(
        answer.responses[0].partitions[0].current_leader.leader_id.0,
        -1
    );
    let request = produce_request("t", 0, TestBatch::of(&["v"]).encode());
    let answer = peer.call(10, &request).await;
    let leader = &answer.responses[0].partition_responses[0].current_leader;
    assert_eq!((leader.leader_id.0, leader.leader_epoch), (2, epoch));
    assert_eq!(answer.node_endpoints.len(), 1);
}

#[tokio::test]
async fn a_reader_with_a_rack_is_sent_to_the_replica_there() {
    let cluster = MockCluster::builder()
        .brokers(2)
        .racks(&["a", "b"])
        .start()
        .await
        .unwrap();
    cluster.create_topic("t", 1).unwrap();
    cluster.move_leader("t", 0, 1).unwrap();
    let mut leader = Peer::connect(&cluster, 1).await;
    let mut follower = Peer::connect(&cluster, 2).await;
    send(&mut leader, &["v"]).await;
    let answer = leader.call(5, &MetadataRequest::default()).await;
    let racks: Vec<_> = answer.brokers.iter().map(|b| b.rack.as_deref()).collect();
    assert_eq!(format!("{racks:?}"), r#"[Some("a"), Some("b")]"#);
    let from = |rack: &str| fetch(at(0)).with_rack_id(support::text(rack));
    for (rack, replica, size) in [("", -1, 69), ("a", -1, 69), ("c", -1, 69), ("b", 2, 0)] {
        let answer = leader.call(11, &from(rack)).await;
        let data = &answer.responses[0].partitions[0];
        assert_eq!(data.preferred_read_replica.0, replica, "{rack}");
        assert_eq!(data.records.as_ref().unwrap().len(), size, "{rack}");
    }
    let answer = follower.call(11, &from("b")).await;
    assert_eq!(
        answer.responses[0].partitions[0]
            .records
            .as_ref()
            .unwrap()
            .len(),
        69
    );
    let old = follower.call(10, &fetch(at(0))).await;
    assert_eq!(old.responses[0].partitions[0].error_code, 6);
    cluster.kill(2).await.unwrap();
    let answer = leader.call(11, &from("b")).await;
    assert_eq!(
        answer.responses[0].partitions[0].preferred_read_replica.0,
        -1
    );
}
