//! Produce, Fetch and ListOffsets: what is checked, what is stored, what is read.
#![allow(clippy::unwrap_used, reason = "a helper of a test may end it")]

mod support;

use bytes::{Bytes, BytesMut};
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::fetch_response::PartitionData;
use kafka_protocol::messages::{FetchRequest, ProduceRequest};
use ottla_mock_cluster::{ApiKey, MockCluster};
use support::{LIMIT, Peer, TestBatch, eventually, produce_request, reseal, topic};

async fn one_broker() -> (MockCluster, Peer) {
    let cluster = MockCluster::builder().start().await.unwrap();
    cluster.create_topic("t", 2).unwrap();
    let peer = Peer::connect(&cluster, 1).await;
    (cluster, peer)
}

fn fetch(partition: i32, offset: i64, wait_ms: i32, min_bytes: i32) -> FetchRequest {
    let partition = FetchPartition::default()
        .with_partition(partition)
        .with_fetch_offset(offset)
        .with_partition_max_bytes(1 << 20);
    let asked = FetchTopic::default()
        .with_topic(topic("t"))
        .with_partitions(vec![partition]);
    FetchRequest::default()
        .with_max_wait_ms(wait_ms)
        .with_min_bytes(min_bytes)
        .with_max_bytes(1 << 20)
        .with_session_epoch(-1)
        .with_topics(vec![asked])
}

async fn fetched(peer: &mut Peer, request: &FetchRequest) -> PartitionData {
    let mut answer = peer.call(11, request).await;
    answer.responses.remove(0).partitions.remove(0)
}

#[tokio::test]
async fn a_record_keeps_its_key_value_headers_and_time() {
    let (cluster, mut peer) = one_broker().await;
    let mut batch = TestBatch::of(&[]);
    batch.base_timestamp = 5000;
    batch.records = vec![
        (0, Some(b"k".to_vec()), Some(b"v".to_vec())),
        (7, None, None),
        (-3, Some(Vec::new()), Some(Vec::new())),
    ];
    batch.headers = vec![
        (b"h".to_vec(), Some(b"1".to_vec())),
        (b"h".to_vec(), Some(b"2".to_vec())),
        (b"null".to_vec(), None),
    ];
    assert_eq!(peer.produce("t", 1, batch.encode()).await, (0, 0));
    assert_eq!(peer.produce("t", 1, batch.encode()).await, (0, 3));
    let records = cluster.records("t");
    assert_eq!(records.len(), 6);
    let times: Vec<_> = records.iter().map(|record| record.timestamp_ms).collect();
    assert_eq!(times[..3], [5000, 5007, 4997]);
    assert_eq!(records[3].offset, 3);
    assert_eq!(records[0].partition, 1);
    assert_eq!(
        (records[0].key_text(), records[0].value_text()),
        (Some("k".into()), Some("v".into()))
    );
    assert_eq!((&records[1].key, &records[1].value), (&None, &None));
    assert_eq!(records[2].value, Some(Bytes::new()));
    assert_eq!(records[0].headers.len(), 3);
    assert_eq!(records[0].header("h"), Some(&b"2"[..]));
    assert_eq!(records[0].headers[2], ("null".to_owned(), None));
}

#[tokio::test]
async fn what_is_fetched_is_what_was_produced_at_its_new_offset() {
    let (cluster, mut peer) = one_broker().await;
    let batch = TestBatch::of(&["a", "b"]).encode();
    peer.produce("t", 0, batch.clone()).await;
    peer.produce("t", 0, batch.clone()).await;
    // Offset 3 lies inside the second batch, which comes whole.
    let data = fetched(&mut peer, &fetch(0, 3, 100, 1)).await;
    let records = data.records.unwrap();
    assert_eq!(records.len(), batch.len());
    assert_eq!(records[..8], 2_i64.to_be_bytes());
    assert_eq!(records[12..16], 0_i32.to_be_bytes());
    assert_eq!(records[16..], batch[16..]);
    assert_eq!((data.high_watermark, data.log_start_offset), (4, 0));
    assert_eq!(cluster.batches("t", 0)[1].bytes, records);
}

#[tokio::test]
async fn bad_batches_are_refused_with_their_codes() {
    let cluster = MockCluster::builder()
        .max_message_bytes(200)
        .start()
        .await
        .unwrap();
    cluster.create_topic("t", 1).unwrap();
    cluster
        .create_topic_with("small", 1, &[("max.message.bytes", "70")])
        .unwrap();
    let mut peer = Peer::connect(&cluster, 1).await;
    let good = TestBatch::of(&["value"]).encode();
    let patched = |at: usize, byte: u8, sealed: bool| {
        let mut bytes = BytesMut::from(&good[..]);
        bytes[at] = byte;
        if sealed {
            reseal(&mut bytes);
        }
        bytes.freeze()
    };
    let transactional = TestBatch {
        attributes: 1 << 4,
        ..TestBatch::of(&["v"])
    };
    let two = Bytes::from([&good[..], &good[..]].concat());
    let huge = TestBatch::of(&["x".repeat(300).as_str()]).encode();
    let cases = [
        (patched(good.len() - 2, b'?', false), 2, "crc"),
        (patched(16, 1, true), 87, "magic"),
        (patched(60, 9, true), 87, "count"),
        (patched(26, 9, true), 87, "last offset delta"),
        (patched(22, 1 << 5, true), 87, "control"),
        (transactional.encode(), 53, "transactional"),
        (two, 87, "two batches"),
        (good.slice(..good.len() - 1), 2, "cut"),
        (good.slice(..30), 2, "cut header"),
        (Bytes::new(), 87, "nothing"),
        (huge, 10, "too large"),
    ];
    for (records, code, what) in cases {
        assert_eq!(peer.produce("t", 0, records).await, (code, -1), "{what}");
    }
    assert_eq!(peer.produce("small", 0, good.clone()).await, (10, -1));
    assert_eq!(peer.produce("t", 5, good.clone()).await.0, 3);
    assert_eq!(peer.produce("nowhere", 0, good.clone()).await.0, 3);
    let acks = produce_request("t", 0, good.clone()).with_acks(2);
    assert_eq!(support::first_result(&peer.call(7, &acks).await).0, 21);
    assert_eq!(cluster.high_watermark("t", 0), Some(0));
    assert_eq!(peer.produce("t", 0, good).await, (0, 0));
}

#[tokio::test]
async fn compressed_batches_are_kept_as_they_came() {
    let (cluster, mut peer) = one_broker().await;
    let gzip = TestBatch {
        attributes: 1,
        ..TestBatch::of(&["opaque"])
    };
    assert_eq!(peer.produce("t", 0, gzip.encode()).await, (0, 0));
    assert!(cluster.records("t").is_empty());
    let batches = cluster.batches("t", 0);
    assert_eq!((batches[0].codec, batches[0].record_count), (1, 1));
}

#[tokio::test]
async fn log_append_time_replaces_the_producers() {
    let (cluster, mut peer) = one_broker().await;
    let config = [("message.timestamp.type", "LogAppendTime")];
    cluster.create_topic_with("stamped", 1, &config).unwrap();
    let request = produce_request("stamped", 0, TestBatch::of(&["v"]).encode());
    let answer = peer.call(7, &request).await;
    let told = answer.responses[0].partition_responses[0].log_append_time_ms;
    assert!(told > 1_600_000_000_000);
    assert_eq!(cluster.records("stamped")[0].timestamp_ms, told);
    let stored = cluster.batches("stamped", 0).remove(0).bytes;
    assert_eq!(stored[17..21], crc32c::crc32c(&stored[21..]).to_be_bytes());
}

#[tokio::test]
async fn acks_0_has_no_answer_and_closes_on_an_error() {
    let (cluster, mut peer) = one_broker().await;
    let records = TestBatch::of(&["v"]).encode();
    let silent: ProduceRequest = produce_request("t", 0, records.clone()).with_acks(0);
    peer.send(7, &silent).await;
    peer.send(7, &silent).await;
    // The answer to this one is the first on the wire.
    assert_eq!(peer.produce("t", 0, records.clone()).await, (0, 2));
    peer.send(7, &produce_request("t", 9, records).with_acks(0))
        .await;
    assert!(peer.is_closed().await);
    assert_eq!(cluster.requests(ApiKey::Produce), 4);
}

#[tokio::test]
async fn an_idempotent_producer_is_held_to_its_sequence() {
    let (cluster, mut peer) = one_broker().await;
    let batch = |epoch, sequence| {
        TestBatch::of(&["a", "b"])
            .producer(7, epoch, sequence)
            .encode()
    };
    for round in 0..6 {
        assert_eq!(
            peer.produce("t", 0, batch(0, round * 2)).await,
            (0, i64::from(round) * 2)
        );
    }
    // Replays of the last five batches answer what they had; an older one is out of order.
    assert_eq!(peer.produce("t", 0, batch(0, 10)).await, (0, 10));
    assert_eq!(peer.produce("t", 0, batch(0, 2)).await, (0, 2));
    assert_eq!(peer.produce("t", 0, batch(0, 0)).await.0, 45);
    assert_eq!(peer.produce("t", 0, batch(0, 14)).await.0, 45);
    // A new epoch starts at 0; then the old one is fenced.
    assert_eq!(peer.produce("t", 0, batch(1, 12)).await.0, 45);
    assert_eq!(peer.produce("t", 0, batch(1, 0)).await, (0, 12));
    assert_eq!(peer.produce("t", 0, batch(0, 12)).await.0, 47);
    // An unknown producer may start anywhere; sequences wrap.
    let other = |sequence| TestBatch::of(&["a", "b"]).producer(8, 0, sequence).encode();
    assert_eq!(peer.produce("t", 0, other(i32::MAX - 1)).await, (0, 14));
    assert_eq!(peer.produce("t", 0, other(0)).await, (0, 16));
    assert_eq!(cluster.high_watermark("t", 0), Some(18));
}

#[tokio::test]
async fn a_fetch_waits_for_bytes_and_an_append_wakes_it() {
    let (cluster, mut consumer) = one_broker().await;
    let mut producer = Peer::connect(&cluster, 1).await;
    let id = consumer.send(11, &fetch(0, 0, 60_000, 100)).await;
    eventually("the fetch", || cluster.requests(ApiKey::Fetch) == 1).await;
    let small = TestBatch::of(&["v"]).encode();
    assert!(small.len() < 100);
    producer.produce("t", 0, small.clone()).await;
    producer.produce("t", 1, small.clone()).await;
    producer.produce("t", 0, small.clone()).await;
    let (answered, answer) = consumer.receive::<FetchRequest>(11).await.unwrap();
    assert_eq!(answered, id);
    let records = answer.responses[0].partitions[0].records.clone().unwrap();
    assert_eq!(records.len(), 2 * small.len());
}

#[tokio::test]
async fn a_fetch_at_the_end_comes_back_empty_after_its_wait() {
    let (_cluster, mut peer) = one_broker().await;
    let started = std::time::Instant::now();
    let data = fetched(&mut peer, &fetch(0, 0, 60, 1)).await;
    assert_eq!((data.error_code, data.records), (0, Some(Bytes::new())));
    assert!(started.elapsed().as_millis() >= 60 && started.elapsed() < LIMIT);
}

#[tokio::test]
async fn fetch_errors_come_at_once() {
    let cluster = MockCluster::builder().brokers(2).start().await.unwrap();
    cluster.create_topic("t", 2).unwrap();
    cluster.move_leader("t", 0, 2).unwrap();
    cluster.move_leader("t", 0, 1).unwrap();
    cluster.move_leader("t", 1, 2).unwrap();
    let mut peer = Peer::connect(&cluster, 1).await;
    peer.produce("t", 0, TestBatch::of(&["a", "b", "c"]).encode())
        .await;
    cluster.delete_records("t", 0, 2).unwrap();
    for (partition, offset, code) in [(0, 4, 1), (0, 1, 1), (1, 0, 6), (9, 0, 3)] {
        let data = fetched(&mut peer, &fetch(partition, offset, 60_000, 1)).await;
        assert_eq!(data.error_code, code);
    }
    for (epoch, code) in [(-1, 0), (0, 74), (2, 0), (3, 75)] {
        let mut request = fetch(0, 2, 60_000, 1);
        request.topics[0].partitions[0].current_leader_epoch = epoch;
        assert_eq!(
            fetched(&mut peer, &request).await.error_code,
            code,
            "epoch {epoch}"
        );
    }
    let session = fetch(0, 2, 60_000, 1)
        .with_session_id(5)
        .with_session_epoch(1);
    assert_eq!(peer.call(11, &session).await.error_code, 70);
    assert_eq!(cluster.log_start("t", 0), Some(2));
    assert_eq!(cluster.records("t").len(), 1);
}

#[tokio::test]
async fn fetch_limits_cut_between_batches_but_never_starve() {
    let (_cluster, mut peer) = one_broker().await;
    let batch = TestBatch::of(&["v"]).encode();
    for _ in 0..3 {
        peer.produce("t", 0, batch.clone()).await;
        peer.produce("t", 1, batch.clone()).await;
    }
    let mut request = fetch(0, 0, 100, 1);
    request.topics[0].partitions[0].partition_max_bytes = 2 * batch.len() as i32 + 5;
    let data = fetched(&mut peer, &request).await;
    assert_eq!(data.records.unwrap().len(), 2 * batch.len());
    // A limit below the first batch lets that one through, and nothing of the next partition.
    request.max_bytes = 1;
    let second = request.topics[0].partitions[0].clone().with_partition(1);
    request.topics[0].partitions.push(second);
    let answer = peer.call(11, &request).await;
    let sizes: Vec<usize> = answer.responses[0]
        .partitions
        .iter()
        .map(|partition| partition.records.as_ref().unwrap().len())
        .collect();
    assert_eq!(sizes, [batch.len(), 0]);
}

#[tokio::test]
async fn logs_are_bounded() {
    let cluster = MockCluster::builder()
        .max_log_bytes(150)
        .start()
        .await
        .unwrap();
    cluster.create_topic("t", 1).unwrap();
    let mut peer = Peer::connect(&cluster, 1).await;
    let batch = TestBatch::of(&["v"]).encode();
    assert_eq!(peer.produce("t", 0, batch.clone()).await.0, 0);
    assert_eq!(peer.produce("t", 0, batch.clone()).await.0, 0);
    assert_eq!(peer.produce("t", 0, batch.clone()).await.0, 56);
    cluster.delete_records("t", 0, -1).unwrap();
    assert_eq!(peer.produce("t", 0, batch).await, (0, 2));
}
