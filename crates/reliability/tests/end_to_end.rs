//! Everything together: mock cluster, producer, consumer app, retries, deduplication, delays.

use ottla_client::{Client, ClientConfig, TransportKind};
use ottla_consumer::{
    App, AutoOffsetReset, ConsumedRecord, ConsumerConfig, Handler, HandlerError, Outcome,
    handler_fn,
};
use ottla_mock_cluster::{Action, ApiKey, Fault, MockCluster, MockRecord};
use ottla_producer::{Producer, ProducerConfig};
use ottla_reliability::{
    Backoff, DedupConfig, Deduplicated, DelayForwarder, DelayLevels, DelayProducer, Reliable,
    RetryPolicy, message_id,
};
use ottla_store::MemoryDedup;
use ottla_types::{Publish, Record, names};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const LIMIT: Duration = Duration::from_secs(30);
const GROUP: &str = "order-pay-sms";

struct Bed {
    cluster: MockCluster,
    client: Client,
    producer: Producer,
}

async fn bed(topics: &[(&str, i32)]) -> Bed {
    bed_on(TransportKind::default(), topics).await
}

async fn bed_on(transport: TransportKind, topics: &[(&str, i32)]) -> Bed {
    let cluster = MockCluster::builder().brokers(2).start().await;
    let cluster = cluster.expect("a cluster");
    for (topic, partitions) in topics {
        cluster.create_topic(topic, *partitions).expect("a topic");
    }
    let mut config = ClientConfig::new(&cluster.bootstrap());
    config.transport = transport;
    let client = Client::connect(config).await.expect("connected");
    let producer = Producer::new(&client, ProducerConfig::default()).expect("a producer");
    Bed {
        cluster,
        client,
        producer,
    }
}

impl Bed {
    fn publish(&self) -> Arc<dyn Publish> {
        Arc::new(self.producer.clone())
    }

    async fn wait_for_records(&self, topic: &str, records: usize) -> Vec<MockRecord> {
        wait_until(&format!("{records} records in {topic}"), || {
            self.cluster.records(topic).len() >= records
        })
        .await;
        self.cluster.records(topic)
    }

    /// Waits until the group has committed the end of every partition of the topic.
    async fn wait_until_committed(&self, topic: &str, partitions: i32) {
        wait_until(&format!("{topic} committed"), || {
            (0..partitions).all(|partition| {
                let end = self.cluster.high_watermark(topic, partition);
                let committed = self.cluster.committed(GROUP, topic, partition);
                end == Some(0) || committed.map(|(offset, _)| offset) == end
            })
        })
        .await;
    }
}

async fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    let wait = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let waited = tokio::time::timeout(LIMIT, wait).await;
    assert!(waited.is_ok(), "waited too long for: {what}");
}

fn consumer() -> ConsumerConfig {
    ConsumerConfig {
        auto_offset_reset: AutoOffsetReset::Earliest,
        ..ConsumerConfig::default()
    }
}

fn policy() -> RetryPolicy {
    RetryPolicy::new(3, Backoff::constant(Duration::from_millis(100)))
}

fn number(record: &ConsumedRecord) -> u32 {
    let text = std::str::from_utf8(record.value.as_deref().unwrap_or_default());
    text.ok().and_then(|t| t.parse().ok()).expect("a number")
}

/// What the handler did: attempts and effects for each number.
#[derive(Clone, Default)]
struct Ledger(Arc<Mutex<BTreeMap<u32, (u32, u32)>>>);

impl Ledger {
    fn attempt(&self, number: u32) -> u32 {
        let mut entries = self.0.lock().expect("no panic");
        let entry = entries.entry(number).or_default();
        entry.0 += 1;
        entry.0
    }

    fn effect(&self, number: u32) {
        self.0
            .lock()
            .expect("no panic")
            .entry(number)
            .or_default()
            .1 += 1;
    }

    fn effects(&self) -> BTreeMap<u32, u32> {
        let entries = self.0.lock().expect("no panic");
        let happened = entries.iter().filter(|(_, entry)| entry.1 > 0);
        happened.map(|(number, entry)| (*number, entry.1)).collect()
    }
}

/// Numbers ending in 3 fail twice, in 5 always, in 7 for good.
fn handler(ledger: &Ledger) -> impl Handler + use<> {
    let ledger = ledger.clone();
    handler_fn(move |_, record: ConsumedRecord| {
        let ledger = ledger.clone();
        async move {
            let number = number(&record);
            let attempt = ledger.attempt(number);
            let error = match (number % 10, attempt) {
                (3, 1 | 2) | (5, _) => HandlerError::transient("Gateway", "no answer"),
                (7, _) => HandlerError::permanent("Decode", "no order"),
                _ => {
                    ledger.effect(number);
                    return Outcome::Done;
                }
            };
            Outcome::Failed(error)
        }
    })
}

fn reliable(bed: &Bed, ledger: &Ledger) -> Reliable<impl Handler + use<>> {
    let store = Arc::new(MemoryDedup::new(10_000, Duration::from_secs(48 * 3600)));
    let dedup = Deduplicated::new(handler(ledger), store, DedupConfig::default());
    Reliable::builder(GROUP, dedup.expect("a valid config"), bed.publish())
        .topic("orders")
        .policy(policy())
        .build()
        .expect("a valid policy")
}

async fn send_orders(bed: &Bed, numbers: std::ops::Range<u32>) {
    let records = numbers.map(|n| {
        let key = format!("order-{}", n % 8);
        Record::new("orders").key(key).value(n.to_string())
    });
    for sent in bed.producer.send_all(records.collect()).await {
        sent.expect("written");
    }
}

fn values(records: &[MockRecord]) -> BTreeSet<u32> {
    let texts = records.iter().filter_map(MockRecord::value_text);
    texts.filter_map(|text| text.parse().ok()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_order_has_one_effect_or_one_dead_letter() {
    let bed = bed(&[("orders", 3)]).await;
    let ledger = Ledger::default();
    let reliable = reliable(&bed, &ledger);
    reliable.ensure_topics(&bed.client).await.expect("created");
    let tier = format!("orders_retry_{GROUP}_100ms");
    assert_eq!(bed.cluster.partitions(&tier), Some(3));
    assert_eq!(bed.cluster.partitions("orders_dlq"), Some(3));
    let mut app = App::new(&bed.client, consumer());
    app.register(reliable.into_registration().instances(2));
    let running = app.start().await.expect("started");
    send_orders(&bed, 0..100).await;

    let dead = bed.wait_for_records("orders_dlq", 20).await;
    wait_until("80 effects", || ledger.effects().len() >= 80).await;
    bed.wait_until_committed("orders", 3).await;
    bed.wait_until_committed(&tier, 3).await;
    assert!(running.shutdown(LIMIT).await.clean);

    assert!(ledger.effects().values().all(|effects| *effects == 1));
    let failing: BTreeSet<u32> = (0..100).filter(|n| matches!(n % 10, 5 | 7)).collect();
    assert_eq!((dead.len(), values(&dead)), (20, failing));
    for letter in &dead {
        let header = |name| letter.header(name).map(String::from_utf8_lossy);
        assert_eq!(header(names::ORIGINAL_TOPIC).as_deref(), Some("orders"));
        assert_eq!(header(names::CONSUMER_GROUP).as_deref(), Some(GROUP));
        let offset = header(names::ORIGINAL_OFFSET).expect("an offset");
        let partition = header(names::ORIGINAL_PARTITION).expect("a partition");
        let source = bed.cluster.records("orders").into_iter().find(|record| {
            record.offset.to_string() == offset && record.partition.to_string() == partition
        });
        let source = source.expect("the original is there");
        assert_eq!((&letter.key, &letter.value), (&source.key, &source.value));
        let ends_in_5 = letter.value_text().is_some_and(|v| v.ends_with('5'));
        let attempts = if ends_in_5 { "3" } else { "1" };
        assert_eq!(header(names::RETRY_COUNT).as_deref(), Some(attempts));
    }
    // Nothing came back to the main topic; 3 and 5 were copied twice each.
    assert_eq!(bed.cluster.records("orders").len(), 100);
    assert_eq!(bed.cluster.records(&tier).len(), 40);
    bed.cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn copies_that_are_written_twice_have_one_effect() {
    // The transport whose resends are not recognised.
    let bed = bed_on(TransportKind::Rskafka, &[("orders", 1)]).await;
    let ledger = Ledger::default();
    let reliable = reliable(&bed, &ledger);
    reliable.ensure_topics(&bed.client).await.expect("created");
    let tier = format!("orders_retry_{GROUP}_100ms");
    for topic in [tier.as_str(), "orders_dlq"] {
        let lost = Fault::on(ApiKey::Produce).topic(topic).times(3);
        bed.cluster.faults().add(lost.action(Action::DropReply));
    }
    let mut app = App::new(&bed.client, consumer());
    app.register(reliable.into_registration());
    let running = app.start().await.expect("started");
    send_orders(&bed, 0..30).await;
    wait_until("24 effects", || ledger.effects().len() >= 24).await;
    let expected: BTreeSet<u32> = (0..30).filter(|n| matches!(n % 10, 5 | 7)).collect();
    wait_until("6 dead letters", || {
        values(&bed.cluster.records("orders_dlq")) == expected
    })
    .await;
    bed.wait_until_committed(&tier, 1).await;
    assert!(running.shutdown(LIMIT).await.clean);
    assert!(
        bed.cluster.records(&tier).len() > 12,
        "some were written twice"
    );
    assert!(ledger.effects().values().all(|effects| *effects == 1));
    bed.cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_committed_while_the_dead_letter_topic_is_away() {
    let bed = bed(&[("orders", 1)]).await;
    let ledger = Ledger::default();
    let reliable = reliable(&bed, &ledger);
    reliable.ensure_topics(&bed.client).await.expect("created");
    let away = Fault::on(ApiKey::Produce).topic("orders_dlq").forever();
    let away = bed.cluster.faults().add(away);
    let mut app = App::new(&bed.client, consumer());
    app.register(reliable.into_registration());
    let running = app.start().await.expect("started");
    // 7 is rejected for good, 8 waits behind it.
    send_orders(&bed, 7..9).await;
    wait_until("tries", || away.hits() >= 3).await;
    assert_eq!(
        bed.cluster
            .committed(GROUP, "orders", 0)
            .map(|c| c.0)
            .unwrap_or(0),
        0
    );
    assert!(ledger.effects().is_empty());
    away.remove();
    bed.wait_for_records("orders_dlq", 1).await;
    bed.wait_until_committed("orders", 1).await;
    assert_eq!(ledger.effects().into_iter().collect::<Vec<_>>(), [(8, 1)]);
    assert!(running.shutdown(LIMIT).await.clean);
    bed.cluster.shutdown().await;
}

fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    i64::try_from(since.expect("after 1970").as_millis()).expect("in range")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn delayed_messages_arrive_when_due_and_not_before() {
    let bed = bed(&[("closings", 1)]).await;
    let levels: DelayLevels = "200ms 500ms".parse().expect("levels");
    let forwarder = DelayForwarder::new(levels.clone(), bed.publish());
    forwarder
        .ensure_topics(&bed.client, 2, 1)
        .await
        .expect("created");
    let arrived: Arc<Mutex<BTreeMap<String, i64>>> = Arc::default();
    let seen = arrived.clone();
    let note = handler_fn(move |_, record: ConsumedRecord| {
        seen.lock()
            .expect("no panic")
            .insert(message_id(&record), now_ms());
        async { Outcome::Done }
    });
    let mut app = App::new(&bed.client, consumer());
    app.register(
        forwarder
            .into_registration("delay-service")
            .expect("a group"),
    );
    app.topic("closings").listen("closer", note);
    let running = app.start().await.expect("started");

    let delay = DelayProducer::new(bed.publish(), levels);
    let mut due = BTreeMap::new();
    for number in 0..10u32 {
        let record = Record::new("closings")
            .key(number.to_string())
            .value("close");
        // By level, and a time between the levels that takes hops.
        let sent = match number % 2 {
            0 => delay.send(record, 2).await,
            _ => delay.send_after(record, Duration::from_millis(850)).await,
        };
        let sent = sent.expect("delayed");
        due.insert(sent.message_id, sent.due_ms);
    }
    wait_until("10 arrivals", || {
        arrived.lock().expect("no panic").len() == 10
    })
    .await;
    assert!(running.shutdown(LIMIT).await.clean);
    let arrived = arrived.lock().expect("no panic").clone();
    for (id, due_ms) in due {
        assert!(
            arrived[&id] >= due_ms,
            "early by {} ms",
            due_ms - arrived[&id]
        );
    }
    let keys: BTreeSet<_> = bed
        .cluster
        .records("closings")
        .iter()
        .map(MockRecord::key_text)
        .collect();
    assert_eq!(keys.len(), 10);
    bed.cluster.shutdown().await;
}
