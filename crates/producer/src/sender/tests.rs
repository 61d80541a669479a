//! The producer on a transport that fails, delays and loses replies, on tokio's paused clock.

use crate::producer::Parts;
use crate::{Producer, ProducerConfig, cluster::Cluster};
use ottla_client::transport::{
    Acks, Capabilities, Compression, FetchLimits, Fetched, OffsetSpec, ProduceOptions, Produced,
    Transport,
};
use ottla_client::{Error, ErrorKind, PartitionMetadata, TopicMetadata};
use ottla_record_batch::EncodedBatch;
use ottla_types::{
    BoxFuture, Envelope, ErrorCode, Fate, Offset, Publish, PublishErrorKind, Record, TopicPartition,
};
use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time::Instant;

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// What becomes of one produce call.
#[derive(Debug, Clone, Copy)]
enum Reply {
    Write,
    /// Written, but the answer is lost.
    Lose,
    Refuse(ErrorCode),
    /// Neither written nor answered.
    Hang,
    Panic,
}

type Plan =
    dyn Fn(&TopicPartition, &EncodedBatch, &mut fastrand::Rng) -> (Duration, Reply) + Send + Sync;

struct Fake {
    plan: Box<Plan>,
    rng: Mutex<fastrand::Rng>,
    logs: Mutex<HashMap<TopicPartition, Vec<String>>>,
    capabilities: Capabilities,
    partitions: i32,
    asked: Mutex<u32>,
}

impl Fake {
    fn new(
        plan: impl Fn(&TopicPartition, &EncodedBatch, &mut fastrand::Rng) -> (Duration, Reply)
        + Send
        + Sync
        + 'static,
    ) -> Self {
        Self {
            plan: Box::new(plan),
            rng: Mutex::new(fastrand::Rng::with_seed(7)),
            logs: Mutex::default(),
            capabilities: Capabilities::minimal(),
            partitions: 4,
            asked: Mutex::default(),
        }
    }

    fn start(self, config: ProducerConfig) -> (Producer, Arc<Self>) {
        let fake = Arc::new(self);
        let producer = Arc::clone(&fake).try_start(config).expect("a producer");
        (producer, fake)
    }

    fn try_start(self: Arc<Self>, config: ProducerConfig) -> Result<Producer, Error> {
        let parts = Parts {
            transport: Arc::clone(&self) as Arc<dyn Transport>,
            cluster: Arc::new(FakeCluster(self)),
            request_timeout: ms(2_000),
            metadata_max_age: ms(60_000),
        };
        Producer::start(parts, config, None)
    }

    fn log(&self, partition: i32) -> Vec<String> {
        let logs = self.logs.lock().expect("no panic");
        let log = logs.get(&TopicPartition::new("t", partition));
        log.cloned().unwrap_or_default()
    }

    fn append(&self, partition: &TopicPartition, batch: &EncodedBatch) -> Offset {
        let mut logs = self.logs.lock().expect("no panic");
        let log = logs.entry(partition.clone()).or_default();
        let base = log.len() as Offset;
        for view in batch.clone().into_record_set().batches() {
            for record in view.expect("a batch").records() {
                let value = record.expect("a record").value.unwrap_or_default();
                log.push(String::from_utf8_lossy(&value).into_owned());
            }
        }
        base
    }

    async fn produce_one(
        &self,
        options: ProduceOptions,
        partition: &TopicPartition,
        batch: &EncodedBatch,
    ) -> Result<Produced, Error> {
        let (delay, reply) = {
            let mut rng = self.rng.lock().expect("no panic");
            (self.plan)(partition, batch, &mut rng)
        };
        tokio::time::sleep(delay).await;
        let error = |kind| Error::new(kind, "Produce").with_partition(partition.clone());
        match reply {
            Reply::Write => Ok(Produced {
                base_offset: Some(self.append(partition, batch)),
                log_append_time_ms: None,
            }),
            Reply::Lose => {
                self.append(partition, batch);
                Err(error(ErrorKind::ConnectionLost).with_fate(Fate::MaybeWritten))
            }
            Reply::Refuse(code) => Err(Error::from_code(code, "Produce")),
            Reply::Hang => {
                tokio::time::sleep(options.timeout).await;
                Err(error(ErrorKind::TimedOut).with_fate(Fate::MaybeWritten))
            }
            Reply::Panic => panic!("a mistake in the transport"),
        }
    }
}

impl Transport for Fake {
    fn name(&self) -> &'static str {
        "fake"
    }

    fn capabilities(&self) -> Capabilities {
        self.capabilities
    }

    fn produce(
        &self,
        options: ProduceOptions,
        batches: Vec<(TopicPartition, EncodedBatch)>,
    ) -> BoxFuture<'_, Vec<(TopicPartition, Result<Produced, Error>)>> {
        Box::pin(async move {
            let mut answers = Vec::new();
            for (partition, batch) in batches {
                let answer = self.produce_one(options, &partition, &batch).await;
                answers.push((partition, answer));
            }
            answers
        })
    }

    fn fetch(
        &self,
        _limits: FetchLimits,
        _positions: Vec<(TopicPartition, Offset)>,
    ) -> BoxFuture<'_, Vec<(TopicPartition, Result<Fetched, Error>)>> {
        Box::pin(async { Vec::new() })
    }

    fn list_offsets(
        &self,
        _timeout: Duration,
        _wanted: Vec<(TopicPartition, OffsetSpec)>,
    ) -> BoxFuture<'_, Vec<(TopicPartition, Result<Offset, Error>)>> {
        Box::pin(async { Vec::new() })
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {})
    }
}

/// Knows the topic `t` alone; `silent` is never answered for.
struct FakeCluster(Arc<Fake>);

impl Cluster for FakeCluster {
    fn topic(
        &self,
        name: Arc<str>,
        _refresh: bool,
    ) -> BoxFuture<'static, Result<Arc<TopicMetadata>, Error>> {
        *self.0.asked.lock().expect("no panic") += 1;
        let partitions = 0..self.0.partitions;
        Box::pin(async move {
            tokio::time::sleep(ms(2)).await;
            match &*name {
                "t" => {}
                "silent" => std::future::pending().await,
                _ => return Err(Error::new(ErrorKind::UnknownTopic, "Metadata")),
            }
            let partition = |id| PartitionMetadata {
                id,
                leader: Some(1),
                leader_epoch: None,
                replicas: vec![1],
                isr: vec![1],
            };
            Ok(Arc::new(TopicMetadata {
                name,
                topic_id: None,
                partitions: partitions.map(partition).collect(),
                is_internal: false,
            }))
        })
    }
}

fn written() -> Fake {
    Fake::new(|_, _, _| (ms(1), Reply::Write))
}

fn small_batches() -> ProducerConfig {
    ProducerConfig {
        batch_records: NonZeroU32::new(3),
        ..ProducerConfig::default()
    }
}

fn to(partition: i32, value: impl Into<String>) -> Record {
    Record::new("t").partition(partition).value(value.into())
}

/// The values without those that stood there before: what a consumer that drops duplicates sees.
fn first_occurrences(log: &[String]) -> Vec<String> {
    let mut seen = std::collections::HashSet::new();
    log.iter().filter(|v| seen.insert(*v)).cloned().collect()
}

#[tokio::test(start_paused = true)]
async fn order_is_kept_and_nothing_is_lost_through_lost_replies_and_refusals() {
    let fake = Fake::new(|_, _, rng| {
        let reply = match rng.u32(..10) {
            0..=2 => Reply::Lose,
            3 => Reply::Refuse(ErrorCode::NOT_LEADER_OR_FOLLOWER),
            4 => Reply::Refuse(ErrorCode::NOT_ENOUGH_REPLICAS),
            _ => Reply::Write,
        };
        (ms(rng.u64(0..40)), reply)
    });
    let (producer, fake) = fake.start(small_batches());
    let mut handles = Vec::new();
    for i in 0..600 {
        handles.push(producer.enqueue(to(i % 4, format!("{i:04}"))));
        if i % 50 == 0 {
            tokio::time::sleep(ms(7)).await;
        }
    }
    for (i, handle) in handles.into_iter().enumerate() {
        let written = handle.await.expect("written in the end");
        assert_eq!(written.partition, i as i32 % 4);
    }
    let mut repeated = 0;
    for partition in 0..4 {
        let log = fake.log(partition);
        let expected: Vec<_> = (0..600)
            .filter(|i| i % 4 == partition)
            .map(|i| format!("{i:04}"))
            .collect();
        assert_eq!(first_occurrences(&log), expected);
        repeated += log.len() - expected.len();
    }
    assert!(repeated > 0, "replies were lost");
    assert!(producer.close(ms(100)).await.is_clean());
}

#[tokio::test(start_paused = true)]
async fn a_slow_partition_does_not_hold_the_others() {
    let fake = Fake::new(|partition, _, _| {
        let slow = partition.partition == 0;
        (if slow { ms(1_500) } else { ms(1) }, Reply::Write)
    });
    let (producer, fake) = fake.start(ProducerConfig::default());
    let slow = producer.enqueue(to(0, "slow"));
    let started = Instant::now();
    for i in 0..20 {
        producer.send(to(1, i.to_string())).await.expect("written");
    }
    assert!(started.elapsed() < ms(1_000));
    assert!(fake.log(0).is_empty());
    slow.await.expect("written");
}

#[tokio::test(start_paused = true)]
async fn an_unknown_topic_is_an_error_within_its_limit() {
    let (producer, fake) = written().start(ProducerConfig::default());
    let started = Instant::now();
    let error = producer
        .send(Record::new("nope"))
        .await
        .expect_err("unknown");
    assert_eq!(error.kind(), PublishErrorKind::UnknownTopic);
    assert_eq!((error.topic(), error.fate()), ("nope", Fate::NotWritten));
    assert!(std::error::Error::source(&error).is_some());
    assert!(started.elapsed() >= ms(5_000) && started.elapsed() < ms(6_500));
    let asked = *fake.asked.lock().expect("no panic");
    assert!((5..40).contains(&asked), "{asked}");
    // It is known by then: the next record is asked for anew.
    producer.send(to(0, "x")).await.expect("written");
}

#[tokio::test(start_paused = true)]
async fn a_cluster_that_is_silent_costs_the_delivery_timeout_and_no_more() {
    let config = ProducerConfig {
        delivery_timeout: ms(3_000),
        ..ProducerConfig::default()
    };
    let (producer, _fake) = Fake::new(|_, _, _| (ms(0), Reply::Hang)).start(config);
    let started = Instant::now();
    let (unknown, hanging) = tokio::join!(
        producer.send(Record::new("silent")),
        producer.send(to(0, "x"))
    );
    let unknown = unknown.expect_err("no answer");
    assert_eq!(
        (unknown.kind(), unknown.fate()),
        (PublishErrorKind::TimedOut, Fate::NotWritten)
    );
    let hanging = hanging.expect_err("no answer");
    assert_eq!(
        (hanging.kind(), hanging.fate()),
        (PublishErrorKind::TimedOut, Fate::MaybeWritten)
    );
    assert!(started.elapsed() < ms(3_200), "{:?}", started.elapsed());
}

#[tokio::test(start_paused = true)]
async fn the_record_above_the_brokers_limit_fails_alone() {
    let fake = Fake::new(|_, batch, _| {
        let reply = if batch.bytes().len() > 5_000 {
            Reply::Refuse(ErrorCode::MESSAGE_TOO_LARGE)
        } else {
            Reply::Write
        };
        (ms(1), reply)
    });
    let (producer, fake) = fake.start(ProducerConfig::default());
    let large = "x".repeat(6_000);
    let records = (0..10)
        .map(|i| to(0, if i == 3 { large.clone() } else { i.to_string() }))
        .collect();
    let results = producer.send_all(records).await;
    for (i, result) in results.into_iter().enumerate() {
        match result {
            Ok(written) => assert_eq!(written.offset, Some(i as i64 - i64::from(i > 3))),
            Err(e) => assert_eq!((i, e.kind()), (3, PublishErrorKind::RecordTooLarge)),
        }
    }
    assert_eq!(fake.log(0), ["0", "1", "2", "4", "5", "6", "7", "8", "9"]);
}

#[tokio::test(start_paused = true)]
async fn send_waits_for_room_and_enqueue_says_that_there_is_none() {
    let config = ProducerConfig {
        buffer_memory: 4_000,
        max_request_size: 4_000,
        batch_size: 1_000,
        ..ProducerConfig::default()
    };
    let (producer, _fake) = Fake::new(|_, _, _| (ms(20), Reply::Write)).start(config);
    let value = "x".repeat(900);
    let mut handles = Vec::new();
    let full = loop {
        let handle = producer.enqueue(to(0, value.clone()));
        match handle.refused() {
            Some(error) => break error.kind(),
            None => handles.push(handle),
        }
    };
    assert_eq!((handles.len(), full), (4, PublishErrorKind::BufferFull));
    let many: Vec<_> = (0..30).map(|_| to(0, value.clone())).collect();
    assert!(producer.send_all(many).await.iter().all(Result::is_ok));
    let port: &dyn Publish = &producer;
    port.ready(900).await.expect("room");
    let error = port.ready(4_000).await.expect_err("never");
    assert_eq!(error.kind(), PublishErrorKind::RecordTooLarge);
    port.publish(to(1, "x")).await.expect("written");
    for handle in handles {
        handle.await.expect("written");
    }
}

#[tokio::test(start_paused = true)]
async fn send_gives_up_when_no_room_comes_in_time() {
    let config = ProducerConfig {
        buffer_memory: 2_000,
        max_request_size: 2_000,
        batch_size: 1_000,
        delivery_timeout: ms(500),
        ..ProducerConfig::default()
    };
    let (producer, _fake) = written().start(config);
    let mut reports = producer.reports().expect("not taken yet");
    assert!(producer.reports().is_none());
    for _ in 0..2 {
        producer
            .send(to(0, "x".repeat(900)))
            .await
            .expect("written");
    }
    // Nobody reads the reports.
    let started = Instant::now();
    let error = producer
        .send(to(0, "x".repeat(900)))
        .await
        .expect_err("no room");
    assert_eq!(
        (error.kind(), error.fate()),
        (PublishErrorKind::TimedOut, Fate::NotWritten)
    );
    assert_eq!(started.elapsed().as_millis() / 100, 5);
    assert!(reports.recv().await.is_some_and(|r| r.result.is_ok()));
    producer.send(to(0, "x")).await.expect("written");
    drop(reports);
    assert!(producer.reports().is_some());
}

#[tokio::test(start_paused = true)]
async fn reports_tell_every_outcome_and_end_with_the_producer() {
    let fake = Fake::new(|_, batch, _| {
        let large = batch.bytes().len() > 2_000;
        let code = ErrorCode::MESSAGE_TOO_LARGE;
        (
            ms(1),
            if large {
                Reply::Refuse(code)
            } else {
                Reply::Write
            },
        )
    });
    let (producer, _fake) = fake.start(ProducerConfig::default());
    let mut reports = producer.reports().expect("not taken yet");
    let mut ids = Vec::new();
    for i in 0..20 {
        let size = if i % 5 == 0 { 3_000 } else { 10 };
        ids.push(producer.enqueue(to(i % 2, "x".repeat(size))).id());
    }
    ids.push(producer.enqueue(Record::new("bad name")).id());
    producer.flush(ms(5_000)).await.expect("flushed");
    drop(producer);
    let (mut seen, mut failed) = (Vec::new(), 0);
    while let Some(report) = reports.recv().await {
        failed += i32::from(report.result.is_err());
        seen.push(report.id);
    }
    seen.sort_unstable();
    assert_eq!((seen, failed), (ids, 5));
}

#[tokio::test(start_paused = true)]
async fn a_close_delivers_what_it_can_and_reports_the_rest() {
    let fake = Fake::new(|partition, _, _| match partition.partition {
        0 => (ms(50), Reply::Write),
        _ => (ms(0), Reply::Hang),
    });
    let config = ProducerConfig {
        linger: ms(60_000),
        ..ProducerConfig::default()
    };
    let (producer, fake) = fake.start(config);
    let good: Vec<_> = (0..5)
        .map(|i| producer.enqueue(to(0, i.to_string())))
        .collect();
    let stuck = producer.enqueue(to(1, "stuck"));
    let clone = producer.clone();
    let started = Instant::now();
    let report = producer.close(ms(400)).await;
    assert!(started.elapsed() < ms(450), "{:?}", started.elapsed());
    assert_eq!(report.delivered, 5);
    let left = &report.undelivered[..];
    assert_eq!(
        (left.len(), left[0].records, left[0].partition),
        (1, 1, Some(1))
    );
    assert_eq!(left[0].fate, Fate::MaybeWritten);
    for handle in good {
        handle.await.expect("acknowledged before the deadline");
    }
    assert_eq!(
        stuck.await.expect_err("closed").kind(),
        PublishErrorKind::Closed
    );
    assert_eq!(fake.log(0).len(), 5);
    let late = clone.send(to(0, "late")).await.expect_err("closed");
    assert_eq!(
        (late.kind(), late.fate()),
        (PublishErrorKind::Closed, Fate::NotWritten)
    );
    let ready = clone.ready(1).await.expect_err("closed");
    assert_eq!(ready.kind(), PublishErrorKind::Closed);
    assert_eq!(clone.close(ms(400)).await, report);
}

#[tokio::test(start_paused = true)]
async fn trap_c25_dropping_the_last_clone_fails_the_rest_and_ends_the_task() {
    let (producer, fake) = Fake::new(|_, _, _| (ms(0), Reply::Hang)).start(small_batches());
    let clone = producer.clone();
    let handles: Vec<_> = (0..7)
        .map(|i| producer.enqueue(to(0, i.to_string())))
        .collect();
    tokio::time::sleep(ms(20)).await;
    drop(producer);
    tokio::time::sleep(ms(20)).await;
    drop(clone);
    let mut fates = Vec::new();
    for handle in handles {
        let error = handle.await.expect_err("closed");
        assert_eq!(error.kind(), PublishErrorKind::Closed);
        fates.push(error.fate());
    }
    assert_eq!(
        fates.iter().filter(|f| **f == Fate::MaybeWritten).count(),
        3
    );
    // The task and its calls are gone when nobody else holds the transport.
    let gone = async {
        while Arc::strong_count(&fake) > 1 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(ms(1_000), gone)
        .await
        .expect("the task ended");
}

#[tokio::test(start_paused = true)]
async fn a_transport_that_panics_fails_its_batch_alone() {
    let fake = Fake::new(|partition, _, _| {
        let panics = partition.partition == 0;
        (ms(1), if panics { Reply::Panic } else { Reply::Write })
    });
    let (producer, _fake) = fake.start(ProducerConfig::default());
    let (lost, good) = tokio::join!(producer.send(to(0, "x")), producer.send(to(1, "x")));
    let lost = lost.expect_err("panicked");
    assert_eq!(
        (lost.kind(), lost.fate()),
        (PublishErrorKind::Unavailable, Fate::MaybeWritten)
    );
    good.expect("written");
    assert!(producer.close(ms(100)).await.is_clean());
}

#[tokio::test(start_paused = true)]
async fn flush_waits_for_what_came_before_it() {
    let config = ProducerConfig {
        linger: ms(60_000),
        ..ProducerConfig::default()
    };
    let (producer, fake) = Fake::new(|_, _, _| (ms(30), Reply::Write)).start(config);
    for i in 0..100 {
        let _ = producer.enqueue(to(i % 4, i.to_string()));
    }
    let early = producer.flush(ms(1)).await.expect_err("too early");
    assert_eq!(early.outstanding, 100);
    producer.flush(ms(1_000)).await.expect("flushed");
    assert_eq!((0..4).map(|p| fake.log(p).len()).sum::<usize>(), 100);
    producer.flush(ms(0)).await.expect("nothing to do");
}

#[tokio::test]
async fn the_rate_limit_spreads_records_over_time() {
    let config = ProducerConfig {
        rate_limit: NonZeroU32::new(200),
        linger: ms(0),
        ..ProducerConfig::default()
    };
    let (producer, _fake) = Fake::new(|_, _, _| (ms(0), Reply::Write)).start(config);
    let started = std::time::Instant::now();
    let records = (0..300).map(|i| to(i % 4, i.to_string())).collect();
    assert!(producer.send_all(records).await.iter().all(Result::is_ok));
    // The first 200 may go at once; the other 100 take half a second.
    let took = started.elapsed();
    assert!(took >= ms(400) && took < ms(5_000), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn typed_sends_write_what_they_say() {
    #[derive(serde::Serialize)]
    struct Order {
        id: u32,
    }
    let (producer, fake) = written().start(ProducerConfig::default());
    let json = producer.send_json("t", "k", &Order { id: 7 }).await;
    let partition = json.expect("written").partition;
    let envelope = Envelope::new("OrderPaid", &b"{}"[..]);
    producer
        .send_envelope("t", "k", &envelope)
        .await
        .expect("written");
    let expected = [r#"{"id":7}"#, r#"{"type":"OrderPaid","data":"e30="}"#];
    assert_eq!(fake.log(partition), expected);
    let no_json = HashMap::from([(vec![1], 1)]);
    let error = producer
        .send_json("t", "k", &no_json)
        .await
        .expect_err("no JSON");
    assert_eq!(error.kind(), PublishErrorKind::InvalidRecord);
}

#[tokio::test(start_paused = true)]
async fn trap_d_what_cannot_work_is_refused_when_the_producer_is_built() {
    let refused = |config: ProducerConfig| {
        let error = Arc::new(written()).try_start(config).expect_err("refused");
        assert_eq!(error.kind(), ErrorKind::Config);
        std::error::Error::source(&error)
            .expect("a cause")
            .to_string()
    };
    let text = refused(ProducerConfig {
        linger: ms(10_000_000),
        ..ProducerConfig::default()
    });
    assert!(
        text.contains("linger.ms") && text.contains("120000"),
        "{text}"
    );
    let text = refused(ProducerConfig {
        compression: Compression::Lz4,
        ..ProducerConfig::default()
    });
    assert!(text.contains("codecs") && text.contains("fake"), "{text}");
    let text = refused(ProducerConfig {
        acks: Acks::Leader,
        ..ProducerConfig::default()
    });
    assert!(text.contains("capability `acks`"), "{text}");

    let spread = ProducerConfig {
        partitioner: "round_robin".parse().expect("a name"),
        ..ProducerConfig::default()
    };
    let (producer, _fake) = written().start(spread);
    let error = producer.require_key_order().expect_err("no order");
    assert_eq!((error.key, &*error.value), ("partitioner", "round_robin"));
    let (producer, _fake) = written().start(ProducerConfig::default());
    assert!(producer.require_key_order().is_ok());
}
