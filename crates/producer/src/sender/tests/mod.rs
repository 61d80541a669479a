//! The producer on a transport that fails, delays and loses replies, on tokio's paused clock.

mod delivery;
mod ending;
mod gauge;
mod interface;
mod limits;
mod many;

use crate::producer::Parts;
use crate::{Producer, ProducerConfig, cluster::Cluster};
use ottla_client::transport::{
    Acks, AnswerSink, Capabilities, Compression, FetchLimits, FetchPosition, Fetched, OffsetSpec,
    Outgoing, ProduceOptions, Produced, Reply as Duty, Transport,
};
use ottla_client::{Error, ErrorKind, PartitionMetadata, TopicMetadata};
use ottla_record_batch::EncodedBatch;
use ottla_types::{
    BoxFuture, Envelope, ErrorCode, Fate, Offset, ProducerId, Publish, PublishErrorKind, Record,
    TopicPartition,
};
use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::task::JoinSet;
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
    logs: Arc<Mutex<HashMap<TopicPartition, Vec<String>>>>,
    calls: Mutex<JoinSet<()>>,
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
            logs: Arc::default(),
            calls: Mutex::default(),
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
            admin: None,
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
}

type Logs = Mutex<HashMap<TopicPartition, Vec<String>>>;

fn append(logs: &Logs, partition: &TopicPartition, batch: &EncodedBatch) -> Offset {
    let mut logs = logs.lock().expect("no panic");
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

/// Plays one attempt through.
async fn play(
    (delay, reply): (Duration, Reply),
    logs: Arc<Logs>,
    timeout: Duration,
    outgoing: Outgoing,
    duty: Duty,
) {
    let Outgoing {
        partition, batch, ..
    } = &outgoing;
    tokio::time::sleep(delay).await;
    let error = |kind| Error::new(kind, "Produce").with_partition(partition.clone());
    duty.send(match reply {
        Reply::Write => Ok(Produced {
            base_offset: Some(append(&logs, partition, batch)),
            log_append_time_ms: None,
        }),
        Reply::Lose => {
            append(&logs, partition, batch);
            Err(error(ErrorKind::ConnectionLost).with_fate(Fate::MaybeWritten))
        }
        Reply::Refuse(code) => Err(Error::from_code(code, "Produce")),
        Reply::Hang => {
            tokio::time::sleep(timeout).await;
            Err(error(ErrorKind::TimedOut).with_fate(Fate::MaybeWritten))
        }
        Reply::Panic => panic!("a mistake in the transport"),
    });
}

impl Transport for Fake {
    fn name(&self) -> &'static str {
        "fake"
    }

    fn capabilities(&self) -> Capabilities {
        self.capabilities
    }

    fn produce(&self, options: &ProduceOptions, batches: Vec<Outgoing>, answers: &AnswerSink) {
        for outgoing in batches {
            let mut duty = answers.reply(outgoing.token, outgoing.partition.clone());
            duty.sent();
            let plan = {
                let mut rng = self.rng.lock().expect("no panic");
                (self.plan)(&outgoing.partition, &outgoing.batch, &mut rng)
            };
            let playing = play(plan, self.logs.clone(), options.timeout, outgoing, duty);
            self.calls.lock().expect("no panic").spawn(playing);
        }
    }

    fn fetch(
        &self,
        _limits: FetchLimits,
        _positions: Vec<(TopicPartition, FetchPosition)>,
    ) -> BoxFuture<'_, Vec<(TopicPartition, Result<Fetched, Error>)>> {
        Box::pin(async { Vec::new() })
    }

    fn list_offsets(
        &self,
        _timeout: Duration,
        _wanted: Vec<(TopicPartition, OffsetSpec)>,
    ) -> BoxFuture<'_, Vec<(TopicPartition, Result<FetchPosition, Error>)>> {
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

    fn producer_id(&self) -> BoxFuture<'static, Result<ProducerId, Error>> {
        Box::pin(async { Ok(ProducerId { id: 7, epoch: 0 }) })
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
