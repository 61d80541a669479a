//! Compaction and retention: offsets stay, gaps and empty batches appear.
#![allow(clippy::unwrap_used, reason = "a helper of a test may end it")]

mod support;

use bytes::Bytes;
use kafka_protocol::messages::FetchRequest;
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use ottla_mock_cluster::MockCluster;
use support::txn::{Producer, V2};
use support::{Peer, TestBatch, topic};

async fn cluster() -> (MockCluster, Peer) {
    let cluster = MockCluster::builder().start().await.unwrap();
    cluster.create_topic("t", 1).unwrap();
    let peer = Peer::connect(&cluster, 1).await;
    (cluster, peer)
}

fn keyed(records: &[(Option<&str>, &str)]) -> TestBatch {
    let bytes = |text: &str| text.as_bytes().to_vec();
    TestBatch {
        records: records
            .iter()
            .map(|(key, value)| (0, key.map(bytes), Some(bytes(value))))
            .collect(),
        ..TestBatch::of(&[])
    }
}

async fn send(peer: &mut Peer, batch: TestBatch) {
    assert_eq!(peer.produce("t", 0, batch.encode()).await.0, 0);
}

fn kept(cluster: &MockCluster) -> Vec<(i64, String)> {
    let records = cluster.records("t").into_iter();
    records
        .map(|record| (record.offset, record.value_text().unwrap()))
        .collect()
}

async fn fetch(peer: &mut Peer, offset: i64) -> Bytes {
    let partition = FetchPartition::default()
        .with_fetch_offset(offset)
        .with_partition_max_bytes(1 << 20);
    let asked = FetchTopic::default()
        .with_topic(topic("t"))
        .with_partitions(vec![partition]);
    let request = FetchRequest::default()
        .with_max_bytes(1 << 20)
        .with_session_epoch(-1)
        .with_topics(vec![asked]);
    let mut answer = peer.call(11, &request).await;
    let data = answer.responses.remove(0).partitions.remove(0);
    assert_eq!(data.error_code, 0);
    data.records.unwrap()
}

#[tokio::test]
async fn trap_a5_of_each_key_the_last_record_stays_at_its_offset() {
    let (cluster, mut peer) = cluster().await;
    send(
        &mut peer,
        keyed(&[(Some("k"), "0"), (Some("l"), "1"), (None, "2")]),
    )
    .await;
    send(&mut peer, keyed(&[(Some("k"), "3")])).await;
    send(&mut peer, keyed(&[(Some("k"), "4"), (Some("m"), "5")])).await;
    send(&mut peer, keyed(&[(Some("m"), "6"), (None, "7")])).await;
    cluster.compact("t", 0).unwrap();
    let expected = [(1, "1"), (4, "4"), (6, "6"), (7, "7")];
    assert_eq!(
        kept(&cluster),
        expected.map(|(at, value)| (at, value.to_owned()))
    );
    let batches = cluster.batches("t", 0);
    let spans: Vec<_> = batches
        .iter()
        .map(|batch| (batch.base_offset, batch.last_offset, batch.record_count))
        .collect();
    assert_eq!(spans, [(0, 2, 1), (4, 5, 1), (6, 7, 2)]);
    for batch in &batches {
        let crc = crc32c::crc32c(&batch.bytes[21..]).to_be_bytes();
        assert_eq!(batch.bytes[17..21], crc);
    }
    // An offset in the gap is answered with what follows.
    assert_eq!(fetch(&mut peer, 3).await[..8], 4_i64.to_be_bytes());
    assert_eq!(cluster.high_watermark("t", 0), Some(8));
    cluster.compact("t", 0).unwrap();
    assert_eq!(cluster.batches("t", 0), batches, "nothing more to do");
}

#[tokio::test]
async fn the_last_batch_of_a_producer_stays_as_an_empty_one() {
    let (cluster, mut peer) = cluster().await;
    let old = |sequence| keyed(&[(Some("k"), "old")]).producer(7, 0, sequence);
    send(&mut peer, old(0)).await;
    send(&mut peer, old(1)).await;
    send(&mut peer, keyed(&[(Some("k"), "new")])).await;
    cluster.compact("t", 0).unwrap();
    let batches = cluster.batches("t", 0);
    assert_eq!((batches.len(), batches[0].record_count), (2, 0));
    assert_eq!((batches[0].base_offset, batches[0].bytes.len()), (1, 61));
    assert_eq!(fetch(&mut peer, 0).await[..8], 1_i64.to_be_bytes());
    let replay = peer.produce("t", 0, old(1).encode()).await;
    assert_eq!(replay, (0, 1), "its sequence is not lost");
    // The space is free again, and what is left can be deleted.
    cluster.delete_records("t", 0, -1).unwrap();
    assert!(cluster.batches("t", 0).is_empty());
}

#[tokio::test]
async fn aborted_data_goes_markers_stay_and_open_transactions_are_left_alone() {
    let (cluster, mut peer) = cluster().await;
    let mut one = Producer::start(&cluster, "one", V2).await;
    assert_eq!(one.send("t", 0, &["aborted"]).await.0, 0);
    one.end(false).await;
    send(&mut peer, keyed(&[(Some("k"), "2")])).await;
    assert_eq!(one.send("t", 0, &["open"]).await.0, 0);
    send(&mut peer, keyed(&[(Some("k"), "4")])).await;
    cluster.compact("t", 0).unwrap();
    let spans: Vec<_> = cluster
        .batches("t", 0)
        .iter()
        .map(|batch| (batch.base_offset, batch.record_count, batch.marker))
        .collect();
    // The log is clean below 3; the later value of the key lies above, and does not count.
    assert_eq!(
        spans,
        [
            (1, 1, Some(false)),
            (2, 1, None),
            (3, 1, None),
            (4, 1, None)
        ]
    );
}
