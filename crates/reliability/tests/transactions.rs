//! Retries and dead letters in the transactions of a registration that handles exactly once (R6).

use ottla_client::{Client, ClientConfig};
use ottla_consumer::{
    App, AutoOffsetReset, ConsumedRecord, ConsumerConfig, Context, Handler, HandlerError, Outcome,
    ProcessingGuarantee, RunningApp, handler_fn, json_batch,
};
use ottla_mock_cluster::MockCluster;
use ottla_producer::{Producer, ProducerConfig, TransactionalProducers};
use ottla_reliability::{
    Backoff, CLASS_IN_TRANSACTION, DeadLettered, DedupConfig, Deduplicated, Reliable, RetryPolicy,
};
use ottla_store::MemoryDedup;
use ottla_types::{Publish, Record};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

const INPUTS: usize = 90;
const LIMIT: Duration = Duration::from_secs(30);

struct Bed {
    cluster: MockCluster,
    client: Client,
    producer: Producer,
}

impl Bed {
    async fn start() -> Self {
        let cluster = MockCluster::builder().start().await.expect("a cluster");
        for topic in ["in", "out"] {
            cluster.create_topic(topic, 3).expect("a topic");
        }
        let config = ClientConfig::new(&cluster.bootstrap());
        let client = Client::connect(config).await.expect("connected");
        let producer = Producer::new(&client, ProducerConfig::default()).expect("a producer");
        let bed = Self {
            cluster,
            client,
            producer,
        };
        for n in 0..INPUTS {
            let record = Record::new("in").key(format!("{n}")).value(format!("{n}"));
            bed.producer.send(record).await.expect("written");
        }
        bed
    }

    fn app(&self) -> App {
        let config = ConsumerConfig {
            auto_offset_reset: AutoOffsetReset::Earliest,
            processing_guarantee: ProcessingGuarantee::ExactlyOnce,
            transactional_id_prefix: Some("tx".to_owned()),
            transaction_interval: Duration::from_millis(20),
            handler_backoff: Duration::from_millis(5),
            commit_interval: Duration::from_millis(20),
            session_timeout: Duration::from_millis(1500),
            heartbeat_interval: Duration::from_millis(100),
            ..ConsumerConfig::default()
        };
        let producers = TransactionalProducers::new(&self.client, ProducerConfig::default());
        App::new(&self.client, config).transactions(Arc::new(producers))
    }

    /// Starts `handler` with three attempts for each record.
    async fn reliable(&self, handler: impl Handler) -> RunningApp {
        // One that is never used: all copies are to go through the transactions.
        let own: Arc<dyn Publish> = Arc::new(Refusing);
        let delay = Backoff::constant(Duration::from_millis(50));
        let policy = RetryPolicy {
            outage_wait: Duration::from_millis(20),
            ..RetryPolicy::new(3, delay).jitter(0.0)
        };
        let reliable = Reliable::builder("g", handler, own)
            .topic("in")
            .policy(policy)
            .build()
            .expect("a valid policy");
        reliable.ensure_topics(&self.client).await.expect("topics");
        let mut app = self.app();
        app.register(reliable.into_registration());
        app.start().await.expect("started")
    }

    /// How often each number stands in the committed part of a topic.
    fn counts(&self, topic: &str) -> BTreeMap<usize, usize> {
        let mut counts = BTreeMap::new();
        for record in self.cluster.committed_records(topic) {
            let number = record.value_text().and_then(|t| t.parse().ok());
            *counts.entry(number.expect("a number")).or_default() += 1;
        }
        counts
    }

    async fn wait_for(&self, topic: &str, records: usize) {
        let begun = std::time::Instant::now();
        while self.cluster.committed_records(topic).len() < records {
            assert!(
                begun.elapsed() < LIMIT,
                "{topic} has {:?}",
                self.counts(topic)
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

struct Refusing;

impl Publish for Refusing {
    fn enqueue(&self, record: Record) -> ottla_types::Delivery {
        panic!("{record:?} goes around the transaction")
    }

    fn ready(
        &self,
        _size: usize,
    ) -> ottla_types::BoxFuture<'_, Result<(), ottla_types::PublishError>> {
        Box::pin(std::future::ready(Ok(())))
    }
}

fn each(numbers: impl Iterator<Item = usize>, times: usize) -> BTreeMap<usize, usize> {
    numbers.map(|n| (n, times)).collect()
}

async fn publish(context: &Context, record: &ConsumedRecord) {
    let mut output = Record::new("out");
    output.value.clone_from(&record.value);
    context.publish(output).await.expect("written");
}

fn number(record: &ConsumedRecord) -> usize {
    let text = std::str::from_utf8(record.value.as_deref().unwrap_or_default());
    text.ok().and_then(|t| t.parse().ok()).expect("a number")
}

#[tokio::test]
async fn copies_and_outputs_count_once_though_attempts_published_before_they_failed() {
    let bed = Bed::start().await;
    let attempts = Arc::new(Mutex::new(BTreeMap::new()));
    let counted = attempts.clone();
    // A third is handled at once, a third at the second attempt, a third never.
    let handler = handler_fn(move |context: Context, record: ConsumedRecord| {
        let counted = counted.clone();
        async move {
            publish(&context, &record).await;
            let n = number(&record);
            let is_first = !record.topic.contains("_retry_");
            *counted
                .lock()
                .expect("no panic")
                .entry((n, is_first))
                .or_insert(0) += 1;
            match n % 3 {
                1 if is_first => Outcome::Failed(HandlerError::transient("Later", "not yet")),
                2 => Outcome::Failed(HandlerError::permanent("Never", "no")),
                _ => Outcome::Done,
            }
        }
    });
    let running = bed.reliable(handler).await;
    bed.wait_for("in_dlq", INPUTS / 3).await;
    bed.wait_for("out", INPUTS / 3 * 2).await;
    assert!(running.shutdown(LIMIT).await.clean);
    let third = |rest| (0..INPUTS).filter(move |n| n % 3 == rest);
    assert_eq!(bed.counts("in_retry_g_50ms"), each(third(1), 1));
    assert_eq!(bed.counts("in_dlq"), each(third(2), 1));
    assert_eq!(bed.counts("out"), each(third(0).chain(third(1)), 1));
    // The outputs of failed attempts were written, and do not count.
    assert!(bed.cluster.records("out").len() > INPUTS / 3 * 2);
}

#[tokio::test]
async fn an_attempt_that_published_before_an_outage_is_made_again() {
    let bed = Bed::start().await;
    let failed = Arc::new(Mutex::new(BTreeMap::new()));
    let handler = handler_fn(move |context: Context, record: ConsumedRecord| {
        let failed = failed.clone();
        async move {
            publish(&context, &record).await;
            let is_first = failed.lock().expect("no panic").insert(number(&record), ());
            match number(&record) % 30 {
                0 if is_first.is_none() => Outcome::Failed(HandlerError::outage("Down", "no shop")),
                _ => Outcome::Done,
            }
        }
    });
    let running = bed.reliable(handler).await;
    bed.wait_for("out", INPUTS).await;
    assert!(running.shutdown(LIMIT).await.clean);
    assert_eq!(bed.counts("out"), each(0..INPUTS, 1));
    assert_eq!(bed.counts("in_dlq"), BTreeMap::new());
}

#[tokio::test]
async fn a_crash_leaves_no_second_copy() {
    let bed = Bed::start().await;
    let failing =
        || handler_fn(|_, _| async { Outcome::Failed(HandlerError::permanent("Never", "no")) });
    let first = bed.reliable(failing()).await;
    bed.wait_for("in_dlq", 1).await;
    drop(first);
    let second = bed.reliable(failing()).await;
    bed.wait_for("in_dlq", INPUTS).await;
    assert!(second.shutdown(LIMIT).await.clean);
    assert_eq!(bed.counts("in_dlq"), each(0..INPUTS, 1));
}

#[tokio::test]
async fn trap_d_a_dead_letter_that_the_broker_has_no_room_for_goes_with_fewer_headers() {
    let bed = Bed::start().await;
    let small = [("max.message.bytes", "900")];
    let made = bed.cluster.create_topic_with("in_dlq", 3, &small);
    made.expect("a topic");
    let handler = handler_fn(|_, record: ConsumedRecord| async move {
        match number(&record) % 9 {
            0 => Outcome::Failed(HandlerError::permanent("Never", "x".repeat(5_000))),
            _ => Outcome::Done,
        }
    });
    let running = bed.reliable(handler).await;
    bed.wait_for("in_dlq", INPUTS / 9).await;
    assert!(running.shutdown(LIMIT).await.clean);
    let every_ninth = (0..INPUTS).filter(|n| n % 9 == 0);
    assert_eq!(bed.counts("in_dlq"), each(every_ninth, 1));
}

#[tokio::test]
async fn dead_letters_of_batches_are_in_the_transaction() {
    let bed = Bed::start().await;
    let odd = json_batch(|_, _: Vec<bool>| async { ottla_consumer::BatchOutcome::Done });
    let handler = DeadLettered::new(odd, Arc::new(Refusing));
    handler
        .ensure_topics(&bed.client, &["in"])
        .await
        .expect("topics");
    let mut app = bed.app();
    app.topic("in")
        .batch(10, Duration::from_millis(1))
        .listen_batch("g", handler);
    let running = app.start().await.expect("started");
    bed.wait_for("in_dlq", INPUTS).await;
    assert!(running.shutdown(LIMIT).await.clean);
    assert_eq!(bed.counts("in_dlq"), each(0..INPUTS, 1));
}

#[tokio::test]
async fn marks_that_an_abort_would_not_take_back_are_refused() {
    let bed = Bed::start().await;
    let done = handler_fn(|_, _| async { Outcome::Done });
    let store = Arc::new(MemoryDedup::new(1_000, Duration::from_secs(48 * 3600)));
    let handler = Deduplicated::new(done, store, DedupConfig::default()).expect("allowed");
    let mut app = bed.app();
    app.topic("in").listen("g", handler);
    let running = app.start().await.expect("started");
    let begun = std::time::Instant::now();
    let said = || {
        running.status().registrations[0].members[0]
            .last_error
            .clone()
    };
    while !said().is_some_and(|e| e.starts_with(CLASS_IN_TRANSACTION)) {
        assert!(begun.elapsed() < LIMIT, "{:?}", said());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let _ = running.shutdown(Duration::from_secs(1)).await;
}
