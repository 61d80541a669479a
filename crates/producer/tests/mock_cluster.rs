//! The producer against brokers in this process: leaders move, brokers die, replies are lost.

use ottla_client::transport::Compression;
use ottla_client::{Client, ClientConfig, TransportKind};
use ottla_mock_cluster::{Action, ApiKey, Fault, MockCluster};
use ottla_producer::{DeliveryHandle, Producer, ProducerConfig};
use ottla_types::{Fate, Headers, PublishErrorKind, Record, RecordRef};
use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(60);

struct Bed {
    cluster: MockCluster,
    client: Client,
}

impl Bed {
    async fn new(partitions: i32) -> Self {
        Self::on(partitions, TransportKind::default()).await
    }

    async fn on(partitions: i32, transport: TransportKind) -> Self {
        let cluster = MockCluster::builder()
            .brokers(3)
            .auto_create_topics(false)
            .start()
            .await
            .expect("a cluster");
        cluster.create_topic("t", partitions).expect("a topic");
        let mut config = ClientConfig::new(&cluster.bootstrap());
        config.transport = transport;
        let client = Client::connect(config).await.expect("a client");
        Self { cluster, client }
    }

    fn producer(&self, config: ProducerConfig) -> Producer {
        Producer::new(&self.client, config).expect("a producer")
    }

    /// The values in the log by partition, without those that stood there before.
    fn first_occurrences(&self) -> BTreeMap<i32, Vec<String>> {
        let mut seen = BTreeSet::new();
        let mut logs: BTreeMap<i32, Vec<String>> = BTreeMap::new();
        for record in self.cluster.records("t") {
            let value = record.value_text().expect("text");
            if seen.insert((record.partition, value.clone())) {
                logs.entry(record.partition).or_default().push(value);
            }
        }
        logs
    }

    async fn end(self, producer: Producer) {
        assert!(producer.close(Duration::from_secs(10)).await.is_clean());
        self.client.close().await;
        self.cluster.shutdown().await;
    }
}

fn config() -> ProducerConfig {
    ProducerConfig {
        batch_records: NonZeroU32::new(5),
        linger: Duration::from_millis(1),
        ..ProducerConfig::default()
    }
}

fn keyed(i: usize) -> Record {
    let key = format!("key-{}", i % 20);
    Record::new("t").key(key).value(format!("{i:05}"))
}

/// Every record is written, where its handle says, and each partition's first occurrences stand in
/// the order of the calls.
async fn check(bed: &Bed, handles: Vec<DeliveryHandle>) {
    let mut expected: BTreeMap<i32, Vec<String>> = BTreeMap::new();
    for (i, handle) in handles.into_iter().enumerate() {
        let written = tokio::time::timeout(LIMIT, handle).await;
        let written = written.expect("in time").expect("written");
        assert!(written.offset.is_some());
        let log = expected.entry(written.partition).or_default();
        log.push(format!("{i:05}"));
    }
    assert_eq!(bed.first_occurrences(), expected);
}

#[tokio::test]
async fn records_of_a_key_go_to_one_partition_of_three_brokers() {
    let bed = Bed::new(6).await;
    let producer = bed.producer(config());
    let written = producer
        .send(keyed(0).header("a", "1").header("b", ""))
        .await
        .expect("written");
    // Where Java puts `key-0` among six.
    assert_eq!(
        (written.partition, written.offset),
        (java_partition("key-0", 6), Some(0))
    );
    let records = bed.cluster.records("t");
    assert_eq!(records[0].key_text().as_deref(), Some("key-0"));
    assert_eq!(records[0].timestamp_ms, written.timestamp_ms);
    assert_eq!(records[0].header("a"), Some(&b"1"[..]));

    // One that is borrowed arrives as whole as one that is owned.
    let (topic, headers) = (Arc::from("t"), Headers::new().with("a", "2").with("a", "3"));
    let record = RecordRef::new(&topic)
        .key("key-0")
        .headers(&headers)
        .timestamp_ms(7);
    let borrowed = producer.enqueue(record).await.expect("written");
    let records = bed.cluster.records("t");
    let stored = records.iter().find(|r| r.timestamp_ms == 7).expect("it");
    assert_eq!(
        (stored.partition, borrowed.timestamp_ms),
        (borrowed.partition, 7)
    );
    assert_eq!(
        (stored.key.as_deref(), &stored.value),
        (Some(&b"key-0"[..]), &None)
    );
    let values: Vec<_> = stored
        .headers
        .iter()
        .map(|(_, value)| value.clone())
        .collect();
    assert_eq!(values, [Some("2".into()), Some("3".into())]);

    let results = producer.send_all((1..200).map(keyed).collect()).await;
    assert!(results.iter().all(Result::is_ok));
    let mut homes: BTreeMap<String, BTreeSet<i32>> = BTreeMap::new();
    for record in bed.cluster.records("t") {
        let key = record.key_text().expect("text");
        homes.entry(key).or_default().insert(record.partition);
    }
    assert_eq!(homes.len(), 20);
    assert!(homes.values().all(|partitions| partitions.len() == 1));
    bed.end(producer).await;
}

fn java_partition(key: &str, count: usize) -> i32 {
    use ottla_producer::partition::{Hasher, SignRule};
    SignRule::Mask.index(Hasher::Murmur2.hash(key.as_bytes()), count) as i32
}

#[tokio::test]
async fn leaders_that_move_lose_and_reorder_nothing() {
    let bed = Bed::new(3).await;
    let producer = bed.producer(config());
    let mut handles = Vec::new();
    for i in 0..300 {
        handles.push(producer.enqueue_when_room(keyed(i)).await);
        if i % 60 == 30 {
            for partition in 0..3 {
                let (leader, _) = bed.cluster.leader("t", partition).expect("a partition");
                let next = leader.expect("a leader") % 3 + 1;
                bed.cluster
                    .move_leader("t", partition, next)
                    .expect("moved");
            }
            let _ = producer.flush(Duration::from_millis(20)).await;
        }
    }
    check(&bed, handles).await;
    bed.end(producer).await;
}

#[tokio::test]
async fn a_broker_that_dies_and_comes_back_loses_and_reorders_nothing() {
    let bed = Bed::new(6).await;
    let producer = bed.producer(config());
    let mut handles = Vec::new();
    for i in 0..300 {
        handles.push(producer.enqueue_when_room(keyed(i)).await);
        match i {
            100 => bed.cluster.kill(2).await.expect("killed"),
            200 => bed.cluster.restart(2).await.expect("restarted"),
            _ => {}
        }
        if i % 20 == 0 {
            let _ = producer.flush(Duration::from_millis(10)).await;
        }
    }
    check(&bed, handles).await;
    bed.end(producer).await;
}

#[tokio::test]
async fn lost_replies_may_repeat_records_but_lose_and_reorder_none() {
    let bed = Bed::new(2).await;
    let producer = bed.producer(config());
    producer
        .send(Record::new("t").partition(0).value("warm"))
        .await
        .expect("written");
    let lost = Fault::on(ApiKey::Produce)
        .action(Action::DropReply)
        .skip(3)
        .times(4);
    let lost = bed.cluster.faults().add(lost);
    let handles: Vec<_> = (0..200).map(|i| producer.enqueue(keyed(i))).collect();
    let mut expected: BTreeMap<i32, Vec<String>> = BTreeMap::from([(0, vec!["warm".to_owned()])]);
    for (i, handle) in handles.into_iter().enumerate() {
        let written = handle.await.expect("written");
        let log = expected.entry(written.partition).or_default();
        log.push(format!("{i:05}"));
    }
    assert_eq!(lost.hits(), 4);
    assert_eq!(bed.first_occurrences(), expected);
    let repeated = bed.cluster.records("t").len() - 201;
    let is_idempotent = bed.client.transport().capabilities().idempotence;
    assert_eq!(repeated == 0, is_idempotent, "{repeated} were sent again");
    bed.end(producer).await;
}

impl Bed {
    /// Deletes the topic and makes it again, with an empty log that knows no producer.
    async fn renew_topic(&self, partitions: i32) {
        let (leader, _) = self.cluster.leader("t", 0).expect("it is there");
        self.cluster.delete_topic("t").expect("it is there");
        self.cluster.create_topic("t", partitions).expect("a topic");
        let moved = self.cluster.move_leader("t", 0, leader.expect("a leader"));
        moved.expect("the same leader");
    }
}

/// Produce names topics by their names up to version 12, so a writer does not notice; nor has it to: a
/// log that does not know a producer takes any number of it (KIP-360), and from there on has them in
/// order.
#[tokio::test]
async fn trap_c15_a_topic_made_anew_takes_what_is_written_once_and_in_order() {
    let bed = Bed::new(1).await;
    let producer = bed.producer(config());
    for round in 0..3 {
        let handles: Vec<_> = (0..40).map(|i| producer.enqueue(keyed(i))).collect();
        check(&bed, handles).await;
        let batches = bed.cluster.batches("t", 0);
        assert_eq!(batches[0].base_sequence, 40 * round, "the numbers go on");
        let records: i32 = batches.iter().map(|batch| batch.record_count).sum();
        assert_eq!(records, 40, "nothing stands there twice");
        bed.renew_topic(1).await;
    }
    bed.end(producer).await;
}

/// A batch may come while the topic is away, and the next ones when it is there again. The log takes
/// them, and from then on would take the first one for an old one: its records fail, and are not lost
/// without a word.
#[tokio::test]
async fn trap_c15_a_batch_that_a_topic_made_anew_has_missed_is_an_error() {
    let bed = Bed::new(1).await;
    let producer = bed.producer(config());
    producer.send(keyed(0)).await.expect("written");
    bed.renew_topic(1).await;
    let away = Fault::on(ApiKey::Produce).action(Action::Refuse(3));
    let away = bed.cluster.faults().add(away);
    let handles: Vec<_> = (0..25).map(|i| producer.enqueue(keyed(i))).collect();
    let (mut written, mut failed) = (Vec::new(), 0);
    for (i, handle) in handles.into_iter().enumerate() {
        match tokio::time::timeout(LIMIT, handle).await.expect("in time") {
            Ok(_) => written.push(format!("{i:05}")),
            Err(error) => {
                assert_eq!(error.kind(), PublishErrorKind::Refused);
                failed += 1;
            }
        }
    }
    assert_eq!((away.hits(), failed), (1, 5));
    let log = bed.cluster.records("t");
    let log: Vec<_> = log
        .iter()
        .filter_map(|record| record.value_text())
        .collect();
    assert_eq!(log, written);
    // And the writer goes on.
    producer.send(keyed(99)).await.expect("written");
    assert_eq!(bed.cluster.records("t").len(), written.len() + 1);
    bed.end(producer).await;
}

#[tokio::test]
async fn a_refusal_that_passes_is_tried_again() {
    let bed = Bed::new(1).await;
    let producer = bed.producer(config());
    // NOT_ENOUGH_REPLICAS, which rskafka gives up on.
    let refusal = Fault::on(ApiKey::Produce)
        .action(Action::Refuse(19))
        .times(3);
    let refusal = bed.cluster.faults().add(refusal);
    let written = producer.send(keyed(0)).await.expect("written");
    assert_eq!((written.offset, refusal.hits()), (Some(0), 3));
    bed.end(producer).await;
}

#[tokio::test]
async fn a_topic_that_does_not_exist_is_an_error_within_its_limit() {
    let bed = Bed::new(1).await;
    let producer = bed.producer(ProducerConfig {
        topic_unknown_timeout: Duration::from_millis(500),
        ..config()
    });
    let started = Instant::now();
    let error = producer
        .send(Record::new("nope"))
        .await
        .expect_err("unknown");
    assert_eq!(
        (error.kind(), error.fate()),
        (PublishErrorKind::UnknownTopic, Fate::NotWritten)
    );
    assert!(
        started.elapsed() < Duration::from_secs(5),
        "{:?}",
        started.elapsed()
    );
    // One that is created while its records wait is found.
    let handle = producer.enqueue(Record::new("late").value("x"));
    bed.cluster.create_topic("late", 2).expect("a topic");
    handle.await.expect("written");
    let error = producer
        .send(keyed(0).partition(9))
        .await
        .expect_err("no such partition");
    assert_eq!(error.kind(), PublishErrorKind::UnknownTopic);
    assert_eq!(error.partition(), Some(9));
    bed.end(producer).await;
}

#[tokio::test]
async fn a_record_above_the_brokers_limit_fails_alone() {
    let cluster = MockCluster::builder()
        .brokers(1)
        .max_message_bytes(4_096)
        .start()
        .await
        .expect("a cluster");
    cluster.create_topic("t", 1).expect("a topic");
    let client = Client::connect(ClientConfig::new(&cluster.bootstrap()))
        .await
        .expect("a client");
    let bed = Bed { cluster, client };
    let producer = bed.producer(ProducerConfig {
        linger: Duration::from_millis(50),
        ..ProducerConfig::default()
    });
    let records = (0..40)
        .map(|i| {
            let size = if i == 17 { 8_000 } else { 300 };
            Record::new("t").value(format!("{i:05}{}", "x".repeat(size)))
        })
        .collect();
    let results = producer.send_all(records).await;
    for (i, result) in results.iter().enumerate() {
        match result {
            Ok(_) => assert_ne!(i, 17),
            Err(e) => {
                assert_eq!((i, e.kind()), (17, PublishErrorKind::RecordTooLarge));
                assert_eq!(e.fate(), Fate::NotWritten);
            }
        }
    }
    let values = bed.first_occurrences().remove(&0).expect("records");
    assert_eq!(values.len(), 39);
    assert!(values.is_sorted());
    // And one above the producer's own limit never leaves.
    let error = producer
        .send(Record::new("t").value(vec![0; 2 << 20]))
        .await;
    assert_eq!(
        error.expect_err("too large").kind(),
        PublishErrorKind::RecordTooLarge
    );
    bed.end(producer).await;
}

#[tokio::test]
async fn trap_a11_headers_that_the_transport_would_spoil_fail_their_record_alone() {
    let bed = Bed::new(1).await;
    let producer = bed.producer(config());
    let mut null = keyed(1);
    null.headers.push("h", None);
    let results = producer
        .send_all(vec![
            keyed(0),
            null,
            keyed(2).header("h", "1").header("h", "2"),
            keyed(3),
        ])
        .await;
    let kinds: Vec<_> = results
        .iter()
        .map(|r| r.as_ref().err().map(|e| e.kind()))
        .collect();
    if bed.client.transport().capabilities().header_fidelity {
        assert_eq!(kinds, [None; 4]);
    } else {
        let invalid = Some(PublishErrorKind::InvalidRecord);
        assert_eq!(kinds, [None, invalid, invalid, None]);
    }
    bed.end(producer).await;
}

#[tokio::test]
async fn a_cluster_that_is_gone_costs_the_delivery_timeout_and_close_says_what_is_left() {
    let bed = Bed::new(1).await;
    let producer = bed.producer(ProducerConfig {
        delivery_timeout: Duration::from_secs(2),
        ..config()
    });
    producer.send(keyed(0)).await.expect("written");
    for broker in bed.cluster.broker_ids() {
        bed.cluster.kill(broker).await.expect("killed");
    }
    let started = Instant::now();
    let error = producer.send(keyed(1)).await.expect_err("nobody there");
    assert_eq!(error.kind(), PublishErrorKind::TimedOut);
    assert!(
        started.elapsed() < Duration::from_secs(5),
        "{:?}",
        started.elapsed()
    );
    let left = producer.enqueue(keyed(2));
    let report = producer.close(Duration::from_millis(300)).await;
    assert_eq!((report.delivered, report.undelivered.len()), (1, 1));
    assert_eq!(
        left.await.expect_err("closed").kind(),
        PublishErrorKind::Closed
    );
    bed.client.close().await;
    bed.cluster.shutdown().await;
}

#[tokio::test]
async fn every_codec_is_carried_or_refused_by_name() {
    for kind in TransportKind::ALL {
        let bed = Bed::on(1, *kind).await;
        let carried = bed.client.transport().capabilities().codecs;
        for codec in Compression::ALL {
            let config = ProducerConfig {
                compression: codec,
                ..ProducerConfig::default()
            };
            match Producer::new(&bed.client, config) {
                Ok(producer) => {
                    assert!(carried.contains(&codec));
                    let record = keyed(0).value("the same again ".repeat(50));
                    producer.send(record).await.expect("written");
                }
                Err(error) => {
                    assert!(!carried.contains(&codec));
                    let cause = std::error::Error::source(&error);
                    let cause = cause.expect("a cause").to_string();
                    assert!(cause.contains("`codecs`"), "{cause}");
                }
            }
        }
        let written = bed.cluster.batches("t", 0).into_iter();
        assert_eq!(
            written.map(|b| b.codec).collect::<BTreeSet<_>>().len(),
            carried.len()
        );
        bed.client.close().await;
        bed.cluster.shutdown().await;
    }
}

#[tokio::test]
async fn a_broker_that_hangs_up_at_once_is_tried_again_after_a_wait_each_time() {
    const REFUSALS: u32 = 4;
    for action in [Action::Disconnect, Action::LastReply] {
        let bed = Bed::new(2).await;
        let wait = Duration::from_millis(80);
        let producer = bed.producer(ProducerConfig {
            retry_backoff: wait,
            retry_backoff_max: wait,
            ..config()
        });
        // The producer has its id, and partition 1 a broker of its own.
        let ready = producer.send(Record::new("t").partition(0).value("ready"));
        ready.await.expect("written");
        for (partition, broker) in [(0, 1), (1, 2)] {
            let moved = bed.cluster.move_leader("t", partition, broker);
            moved.expect("a partition");
        }
        bed.client.refresh_topic("t").await.expect("a topic");
        let fault = Fault::on(ApiKey::ApiVersions).at_broker(2);
        let fault = fault.times(REFUSALS).action(action);
        let fault = bed.cluster.faults().add(fault);
        let started = Instant::now();
        let record = |i: usize| Record::new("t").partition(1).value(format!("{i:05}"));
        let handles: Vec<_> = (0..12).map(|i| producer.enqueue(record(i))).collect();
        for handle in handles {
            let written = tokio::time::timeout(LIMIT, handle).await;
            written.expect("in time").expect("written");
        }
        // Each wait is at least an eighth of its bound.
        assert!(started.elapsed() >= wait * REFUSALS / 8);
        assert_eq!(fault.hits(), REFUSALS);
        let expected: Vec<_> = (0..12).map(|i| format!("{i:05}")).collect();
        let log = bed.cluster.records("t");
        let log = log.iter().filter(|record| record.partition == 1);
        let log: Vec<_> = log.filter_map(|record| record.value_text()).collect();
        assert_eq!(log, expected, "once each, in order");
        bed.end(producer).await;
    }
}
