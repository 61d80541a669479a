//! Transactions over the wire: what readers see, who is fenced, what groups keep.
#![allow(clippy::unwrap_used, reason = "a helper of a test may end it")]

mod support;

use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::fetch_response::PartitionData;
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::offset_fetch_request::{
    OffsetFetchRequestGroup, OffsetFetchRequestTopics,
};
use kafka_protocol::messages::*;
use ottla_mock_cluster::{MockCluster, TransactionState};
use support::txn::{Producer, V1, V2, init_request};
use support::{Peer, TestBatch, eventually, join_request, produce_request, text, topic};

async fn cluster() -> MockCluster {
    let cluster = MockCluster::builder().start().await.unwrap();
    cluster.create_topic("t", 2).unwrap();
    cluster
}

async fn fetch(peer: &mut Peer, offset: i64, isolation: i8) -> PartitionData {
    let partition = FetchPartition::default()
        .with_fetch_offset(offset)
        .with_partition_max_bytes(1 << 20);
    let asked = FetchTopic::default()
        .with_topic(topic("t"))
        .with_partitions(vec![partition]);
    let request = FetchRequest::default()
        .with_max_bytes(1 << 20)
        .with_session_epoch(-1)
        .with_isolation_level(isolation)
        .with_topics(vec![asked]);
    let mut answer = peer.call(12, &request).await;
    answer.responses.remove(0).partitions.remove(0)
}

async fn latest(peer: &mut Peer, isolation: i8) -> i64 {
    let partition = ListOffsetsPartition::default().with_timestamp(-1);
    let asked = ListOffsetsTopic::default()
        .with_name(topic("t"))
        .with_partitions(vec![partition]);
    let request = ListOffsetsRequest::default()
        .with_isolation_level(isolation)
        .with_topics(vec![asked]);
    peer.call(7, &request).await.topics[0].partitions[0].offset
}

async fn stable_offset(peer: &mut Peer, group: &str, require_stable: bool) -> (i16, i64) {
    let asked = OffsetFetchRequestTopics::default()
        .with_name(topic("t"))
        .with_partition_indexes(vec![0]);
    let group = OffsetFetchRequestGroup::default()
        .with_group_id(text(group).into())
        .with_topics(Some(vec![asked]));
    let request = OffsetFetchRequest::default()
        .with_groups(vec![group])
        .with_require_stable(require_stable);
    let answer = peer.call(9, &request).await;
    let found = &answer.groups[0].topics[0].partitions[0];
    (found.error_code, found.committed_offset)
}

fn values(cluster: &MockCluster) -> Vec<String> {
    let records = cluster.committed_records("t");
    records.iter().filter_map(|r| r.value_text()).collect()
}

#[tokio::test]
async fn readers_of_committed_data_stop_at_the_first_open_transaction() {
    let cluster = cluster().await;
    let mut peer = Peer::connect(&cluster, 1).await;
    peer.produce("t", 0, TestBatch::of(&["plain"]).encode())
        .await;
    let mut one = Producer::start(&cluster, "one", V1).await;
    assert_eq!(one.add("t", 0).await, 0);
    assert_eq!(one.send("t", 0, &["a", "b"]).await, (0, 1));
    peer.produce("t", 0, TestBatch::of(&["later"]).encode())
        .await;
    assert_eq!(cluster.last_stable_offset("t", 0), Some(1));
    assert_eq!(
        (latest(&mut peer, 0).await, latest(&mut peer, 1).await),
        (4, 1)
    );
    let all = fetch(&mut peer, 0, 0).await;
    let committed = fetch(&mut peer, 0, 1).await;
    assert_eq!((all.last_stable_offset, all.high_watermark), (1, 4));
    assert_eq!(all.aborted_transactions, None);
    assert_eq!(committed.aborted_transactions, Some(Vec::new()));
    let whole: usize = cluster.batches("t", 0).iter().map(|b| b.bytes.len()).sum();
    assert_eq!(all.records.unwrap().len(), whole);
    assert_eq!(committed.records.unwrap(), cluster.batches("t", 0)[0].bytes);
    assert_eq!(values(&cluster), ["plain"]);

    assert_eq!(one.end(true).await, 0);
    assert_eq!(values(&cluster), ["plain", "a", "b", "later"]);
    assert_eq!(
        (latest(&mut peer, 0).await, latest(&mut peer, 1).await),
        (5, 5)
    );
    let marker = cluster.batches("t", 0).remove(3);
    assert_eq!((marker.marker, marker.base_offset), (Some(true), 4));
    assert_eq!(marker.bytes[61 + 5..61 + 9], [0, 0, 0, 1], "version, type");
}

#[tokio::test]
async fn trap_a3_aborted_data_is_listed_where_it_was_read() {
    let cluster = cluster().await;
    let mut one = Producer::start(&cluster, "one", V1).await;
    let mut two = Producer::start(&cluster, "two", V1).await;
    for (producer, value) in [(&mut one, "a"), (&mut two, "b")] {
        producer.add("t", 0).await;
        assert_eq!(producer.send("t", 0, &[value]).await.0, 0);
    }
    assert_eq!(two.end(false).await, 0);
    assert_eq!(one.end(true).await, 0);
    assert_eq!(values(&cluster), ["a"]);
    assert_eq!(cluster.records("t").len(), 2, "markers are no records");
    let mut peer = Peer::connect(&cluster, 1).await;
    let aborted = |data: PartitionData| {
        let all = data.aborted_transactions.unwrap().into_iter();
        all.map(|one| (one.producer_id.0, one.first_offset))
            .collect::<Vec<_>>()
    };
    let listed = aborted(fetch(&mut peer, 0, 1).await);
    assert_eq!(listed, [(two.producer, 1)]);
    assert_eq!(aborted(fetch(&mut peer, 2, 1).await), listed);
    assert_eq!(aborted(fetch(&mut peer, 3, 1).await), []);
}

#[tokio::test]
async fn version_1_wants_partitions_added_and_version_2_adds_them() {
    let cluster = cluster().await;
    let mut one = Producer::start(&cluster, "one", V1).await;
    assert_eq!(one.send("t", 0, &["a"]).await.0, 120);
    one.kind.produce = 10;
    assert_eq!(one.send("t", 0, &["a"]).await.0, 48);
    assert_eq!(one.add("nowhere", 0).await, 3);
    assert_eq!(one.end(true).await, 48, "nothing to commit");
    let mut two = Producer::start(&cluster, "two", V2).await;
    assert_eq!(two.send("t", 0, &["b"]).await, (0, 0));
    let state = cluster.transaction_state("two");
    assert_eq!(state, Some(TransactionState::Ongoing));
    let before = (two.producer, two.epoch);
    assert_eq!(two.end(true).await, 0);
    assert_eq!((two.producer, two.epoch), (before.0, before.1 + 1));
    assert_eq!(cluster.batches("t", 0)[1].producer_epoch, two.epoch);
    assert_eq!(two.send("t", 0, &["c"]).await, (0, 2));
    assert_eq!(two.end(false).await, 0);
    assert_eq!(values(&cluster), ["b"]);
}

#[tokio::test]
async fn after_the_epoch_was_raised_old_and_misnumbered_batches_are_refused() {
    let cluster = cluster().await;
    let mut one = Producer::start(&cluster, "one", V2).await;
    assert_eq!(one.send("t", 0, &["a"]).await.0, 0);
    let late = produce_request("t", 0, one.batch(&["late"]))
        .with_transactional_id(Some(text("one").into()));
    assert_eq!(one.end(true).await, 0);
    let answer = one.peer.call(12, &late).await;
    assert_eq!(support::first_result(&answer).0, 47);
    one.sequence = 1;
    assert_eq!(one.send("t", 0, &["gap"]).await.0, 45);
    one.sequence = 0;
    assert_eq!(one.send("t", 0, &["b"]).await.0, 0);
    assert_eq!(cluster.records("t").len(), 2);
}

#[tokio::test]
async fn a_second_producer_fences_the_first_and_aborts_what_it_left() {
    let cluster = cluster().await;
    let mut zombie = Producer::start(&cluster, "one", V1).await;
    zombie.add("t", 0).await;
    zombie.send("t", 0, &["lost"]).await;
    let mut next = Producer::connect(&cluster, "one", V1).await;
    assert_eq!(next.init().await, 51, "aborts first");
    assert_eq!(next.init().await, 0);
    assert_eq!((next.producer, next.epoch), (zombie.producer, 2));
    assert_eq!(values(&cluster), [""; 0]);
    assert_eq!(zombie.add("t", 0).await, 90);
    assert_eq!(zombie.end(true).await, 90);
    assert_eq!(zombie.send("t", 0, &["again"]).await.0, 47);
    zombie.kind.end = 1;
    assert_eq!(zombie.end(true).await, 47, "an older version");
    let stale = init_request("one")
        .with_producer_id(ProducerId(zombie.producer))
        .with_producer_epoch(zombie.epoch);
    assert_eq!(zombie.peer.call(4, &stale).await.error_code, 90);
    assert_eq!(zombie.peer.call(3, &stale).await.error_code, 47);
    let foreign = stale.with_producer_id(ProducerId(1));
    assert_eq!(zombie.peer.call(4, &foreign).await.error_code, 90);
}

#[tokio::test]
async fn a_transaction_out_of_time_is_aborted_and_readers_go_on() {
    let cluster = cluster().await;
    let mut one = Producer::connect(&cluster, "one", V1).await;
    let bad = init_request("one").with_transaction_timeout_ms(900_001);
    assert_eq!(one.peer.call(5, &bad).await.error_code, 50);
    let short = init_request("one").with_transaction_timeout_ms(30);
    let answer = one.peer.call(5, &short).await;
    (one.producer, one.epoch) = (answer.producer_id.0, answer.producer_epoch);
    one.add("t", 0).await;
    assert_eq!(one.send("t", 0, &["slow"]).await.0, 0);
    eventually("the abort", || {
        cluster.transaction_state("one") == Some(TransactionState::CompleteAbort)
    })
    .await;
    assert_eq!(one.end(true).await, 90);
    assert_eq!(cluster.last_stable_offset("t", 0), Some(2));
    assert_eq!(cluster.batches("t", 0)[1].marker, Some(false));
}

#[tokio::test]
async fn offsets_count_when_the_transaction_commits() {
    let cluster = cluster().await;
    let mut peer = Peer::connect(&cluster, 1).await;
    for kind in [V1, V2] {
        let mut one = Producer::start(&cluster, "one", kind).await;
        if kind.end < 5 {
            assert_eq!(one.commit_offset("g", "t", 7).await, 120, "not added");
            assert_eq!(one.add_group("g").await, 0);
        }
        assert_eq!(one.commit_offset("g", "t", 7).await, 0);
        assert_eq!(stable_offset(&mut peer, "g", true).await, (88, -1));
        let old = cluster.committed("g", "t", 0).map_or(-1, |kept| kept.0);
        assert_eq!(stable_offset(&mut peer, "g", false).await, (0, old));
        assert_eq!(one.end(false).await, 0);
        assert_eq!(stable_offset(&mut peer, "g", true).await, (0, old));
        if kind.end < 5 {
            assert_eq!(one.add_group("g").await, 0);
        }
        let offset = old + 10;
        assert_eq!(one.commit_offset("g", "t", offset).await, 0);
        assert_eq!(one.commit_offset("g", "nowhere", offset).await, 3);
        assert_eq!(one.end(true).await, 0);
        assert_eq!(stable_offset(&mut peer, "g", true).await, (0, offset));
    }
}

#[tokio::test]
async fn offsets_of_a_transaction_are_refused_to_a_member_of_the_past() {
    let cluster = cluster().await;
    let mut peer = Peer::connect(&cluster, 1).await;
    let join = join_request("g", "");
    let id = peer.call(4, &join).await.member_id;
    let joined = peer.call(4, &join.with_member_id(id.clone())).await;
    assert_eq!(joined.error_code, 0);
    let mut one = Producer::start(&cluster, "one", V2).await;
    let commit = |member: &str, generation: i32, one: &Producer| {
        use kafka_protocol::messages::txn_offset_commit_request::*;
        let asked = TxnOffsetCommitRequestTopic::default()
            .with_name(topic("t"))
            .with_partitions(vec![TxnOffsetCommitRequestPartition::default()]);
        TxnOffsetCommitRequest::default()
            .with_transactional_id(text("one").into())
            .with_group_id(text("g").into())
            .with_producer_id(ProducerId(one.producer))
            .with_producer_epoch(one.epoch)
            .with_member_id(text(member))
            .with_generation_id(generation)
            .with_topics(vec![asked])
    };
    let current = joined.generation_id;
    for (member, generation, code) in [
        ("x", current, 25),
        (&*id, current + 1, 22),
        (&*id, current, 0),
    ] {
        let request = commit(member, generation, &one);
        let answer = one.peer.call(5, &request).await;
        assert_eq!(answer.topics[0].partitions[0].error_code, code);
    }
}

#[tokio::test]
async fn held_markers_keep_readers_and_the_next_transaction_waiting() {
    let cluster = cluster().await;
    let mut one = Producer::start(&cluster, "one", V1).await;
    one.add("t", 0).await;
    one.send("t", 0, &["a"]).await;
    cluster.hold_markers(true);
    assert_eq!(one.end(true).await, 0);
    assert_eq!(cluster.last_stable_offset("t", 0), Some(0));
    assert_eq!(one.add("t", 1).await, 51);
    assert_eq!(one.init().await, 51);
    let mut peer = Peer::connect(&cluster, 1).await;
    assert!(fetch(&mut peer, 0, 1).await.records.unwrap().is_empty());
    cluster.hold_markers(false);
    assert_eq!(one.add("t", 1).await, 0);
    assert_eq!(values(&cluster), ["a"]);
}

#[tokio::test]
async fn a_transaction_outlives_its_coordinator_and_its_leaders() {
    let cluster = MockCluster::builder().brokers(3).start().await.unwrap();
    cluster.create_topic("t", 1).unwrap();
    let home = cluster.transaction_coordinator("one").unwrap();
    cluster.move_leader("t", 0, home).unwrap();
    let mut one = Producer::start(&cluster, "one", V2).await;
    assert_eq!(one.send("t", 0, &["a"]).await.0, 0);
    cluster.kill(home).await.unwrap();
    let heir = cluster.transaction_coordinator("one").unwrap();
    assert_ne!(heir, home);
    let other = cluster
        .broker_ids()
        .into_iter()
        .find(|id| ![home, heir].contains(id));
    one.peer = Peer::connect(&cluster, other.unwrap()).await;
    assert_eq!(one.end(true).await, 16);
    one.peer = Peer::connect(&cluster, heir).await;
    assert_eq!(one.end(true).await, 0);
    assert_eq!(values(&cluster), ["a"]);
    cluster
        .move_transaction_coordinator("one", other.unwrap())
        .unwrap();
    assert_eq!(one.init().await, 16);
    let request = FindCoordinatorRequest::default()
        .with_key_type(1)
        .with_coordinator_keys(vec![text("one")]);
    let found = one.peer.call(4, &request).await;
    assert_eq!(Some(found.coordinators[0].node_id.0), other);
    cluster.shutdown().await;
    assert_eq!(cluster.failed_tasks(), 0);
}

#[tokio::test]
async fn what_does_not_belong_to_a_transaction_is_refused() {
    let cluster = cluster().await;
    let mut one = Producer::start(&cluster, "one", V2).await;
    assert_eq!(one.send("t", 0, &["a"]).await.0, 0);
    // The same producer, outside its open transaction.
    let plain = TestBatch::of(&["x"]).producer(one.producer, one.epoch, 1);
    assert_eq!(one.peer.produce("t", 0, plain.encode()).await.0, 48);
    let mut ghost = Producer::connect(&cluster, "ghost", V2).await;
    assert_eq!(ghost.end(true).await, 49);
    assert_eq!(ghost.add("t", 0).await, 49);
    (ghost.producer, ghost.epoch) = (77, 0);
    assert_eq!(ghost.send("t", 1, &["x"]).await.0, 49);
    let empty = ghost.peer.call(5, &init_request("")).await;
    assert_eq!(empty.error_code, 42);
    let between_brokers = AddPartitionsToTxnRequest::default();
    assert_eq!(ghost.peer.call(4, &between_brokers).await.error_code, 31);
}

#[tokio::test]
async fn a_deleted_topic_leaves_the_transaction() {
    let cluster = cluster().await;
    let mut one = Producer::start(&cluster, "one", V2).await;
    one.send("t", 0, &["a"]).await;
    cluster.delete_topic("t").unwrap();
    cluster.create_topic("t", 1).unwrap();
    assert_eq!(one.end(true).await, 0);
    assert_eq!(cluster.high_watermark("t", 0), Some(0));
}
