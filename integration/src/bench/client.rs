//! Our own contender: does one [`Task`] with ottla, prints its line, and keeps its client open until
//! standard input ends.

use super::workload::{Workload, touch};
use super::{Mode, Task};
use ottla::client::{Client, ClientConfig};
use ottla::consumer::{App, AutoOffsetReset, BatchHandler, BatchOutcome, Registration, RunningApp};
use ottla::producer::DeliveryHandle;
use ottla::types::{ConsumedRecord, Record};
use ottla::{ConsumerConfig, Context, Producer, ProducerConfig};
use ottla_client::TransportKind;
use serde_json::json;
use std::collections::VecDeque;
use std::error::Error;
use std::io::{Read, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// Handles that are not looked at yet.
const UNSEEN_MAX: usize = 32_768;
/// Records of one call of the batch handler.
const BATCH_RECORDS_MAX: usize = 5_000;
const CLOSE_WITHIN: Duration = Duration::from_secs(10);

type Failure = Box<dyn Error + Send + Sync>;

/// Does `task` over `transport`, or over the default one.
///
/// # Errors
/// The client's, or a record that was not written.
pub async fn run(transport: Option<TransportKind>, task: &Task) -> Result<(), Failure> {
    let workload = Workload::new(task.value_bytes);
    let client = connect(transport, task).await?;
    match task.mode {
        Mode::Produce | Mode::Partitions => {
            let producer = Producer::new(&client, producer_config(task))?;
            let seconds = send_all(&producer, task, &workload).await?;
            tell(json!({"records": task.records, "seconds": seconds}))?;
            input_ended().await?;
            close(&producer).await?;
        }
        Mode::Latency => {
            let producer = Producer::new(&client, producer_config(task))?;
            let line = send_each(&producer, task, &workload).await?;
            tell(line)?;
            input_ended().await?;
            close(&producer).await?;
        }
        Mode::Consume => {
            let counter = Arc::new(Counter::new(task.records));
            let app = consume(&client, task, &counter).await?;
            let (seconds, sum) = counter.finished(&app).await?;
            tell(json!({"records": task.records, "seconds": seconds, "sum": sum}))?;
            input_ended().await?;
            let report = app.shutdown(CLOSE_WITHIN).await;
            if !report.clean {
                return Err(format!("the shutdown was not clean: {report:?}").into());
            }
        }
    }
    client.close().await;
    Ok(())
}

/// Writes the records of `task`, for the readers of it.
pub(super) async fn fill(client: &Client, task: &Task) -> Result<(), Failure> {
    let producer = Producer::new(client, producer_config(task))?;
    send_all(&producer, task, &Workload::new(task.value_bytes)).await?;
    close(&producer).await
}

async fn close(producer: &Producer) -> Result<(), Failure> {
    let report = producer.close(CLOSE_WITHIN).await;
    if report.is_clean() {
        Ok(())
    } else {
        Err(format!("records are left over: {report:?}").into())
    }
}

async fn connect(transport: Option<TransportKind>, task: &Task) -> Result<Client, Failure> {
    let mut config = ClientConfig::new(&task.bootstrap);
    config.transport = transport.unwrap_or_default();
    Ok(Client::connect(config).await?)
}

fn producer_config(task: &Task) -> ProducerConfig {
    ProducerConfig {
        linger: Duration::from_millis(task.linger_ms.into()),
        batch_size: task.batch_bytes,
        buffer_memory: task.buffer_bytes,
        ..ProducerConfig::default()
    }
}

fn record(topic: &Arc<str>, workload: &Workload, i: u64) -> Record {
    let (key, value) = workload.record(i);
    Record::new(topic.clone())
        .key(key.clone())
        .value(value.clone())
}

async fn send_all(producer: &Producer, task: &Task, workload: &Workload) -> Result<f64, Failure> {
    let topic: Arc<str> = task.topic.as_str().into();
    let mut unseen: VecDeque<DeliveryHandle> = VecDeque::with_capacity(UNSEEN_MAX);
    let started = Instant::now();
    for i in 0..task.records {
        if unseen.len() == UNSEEN_MAX
            && let Some(oldest) = unseen.pop_front()
        {
            oldest.await?;
        }
        let handle = producer
            .enqueue_when_room(record(&topic, workload, i))
            .await;
        unseen.push_back(handle);
    }
    for handle in unseen {
        handle.await?;
    }
    Ok(started.elapsed().as_secs_f64())
}

async fn send_each(
    producer: &Producer,
    task: &Task,
    workload: &Workload,
) -> Result<serde_json::Value, Failure> {
    let topic: Arc<str> = task.topic.as_str().into();
    for i in 0..task.warm_up {
        producer.send(record(&topic, workload, i)).await?;
    }
    let mut micros = Vec::with_capacity(task.records as usize);
    let started = Instant::now();
    for i in 0..task.records {
        let record = record(&topic, workload, i);
        let sent = Instant::now();
        producer.send(record).await?;
        micros.push(sent.elapsed().as_nanos() as f64 / 1e3);
    }
    let seconds = started.elapsed().as_secs_f64();
    micros.sort_unstable_by(f64::total_cmp);
    Ok(json!({
        "records": task.records,
        "seconds": seconds,
        "p50_us": nearest_rank(&micros, 0.50),
        "p99_us": nearest_rank(&micros, 0.99),
    }))
}

/// The smallest value that at least this share of the sorted values does not exceed.
fn nearest_rank(sorted: &[f64], share: f64) -> f64 {
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or(0.0)
}

async fn consume(
    client: &Client,
    task: &Task,
    counter: &Arc<Counter>,
) -> Result<RunningApp, Failure> {
    let config = ConsumerConfig {
        auto_offset_reset: AutoOffsetReset::Earliest,
        queued_max_bytes: task.buffer_bytes,
        ..ConsumerConfig::default()
    };
    let topics = [task.topic.as_str()];
    let handler = Touch(counter.clone());
    let group = task.group.as_str();
    let registration =
        Registration::batch(group, topics, BATCH_RECORDS_MAX, Duration::ZERO, handler);
    let mut app = App::new(client, config);
    app.register(registration);
    Ok(app.start().await?)
}

struct Counter {
    wanted: u64,
    first: OnceLock<Instant>,
    last: OnceLock<Instant>,
    records: AtomicU64,
    sum: AtomicU64,
    done: Notify,
}

impl Counter {
    fn new(wanted: u64) -> Self {
        Self {
            wanted,
            first: OnceLock::new(),
            last: OnceLock::new(),
            records: AtomicU64::new(0),
            sum: AtomicU64::new(0),
            done: Notify::new(),
        }
    }

    async fn finished(&self, app: &RunningApp) -> Result<(f64, u64), Failure> {
        tokio::select! {
            () = self.done.notified() => {}
            error = app.failed() => return Err(error.into()),
        }
        let (Some(first), Some(last)) = (self.first.get(), self.last.get()) else {
            return Err("the end came before the beginning".into());
        };
        let read = self.records.load(Ordering::Acquire);
        if read != self.wanted {
            return Err(format!("{read} records were read, not {}", self.wanted).into());
        }
        let seconds = last.duration_since(*first).as_secs_f64();
        Ok((seconds, self.sum.load(Ordering::Acquire)))
    }
}

struct Touch(Arc<Counter>);

impl BatchHandler for Touch {
    async fn handle_batch(&self, _context: &Context, records: &[ConsumedRecord]) -> BatchOutcome {
        let counter = &*self.0;
        counter.first.get_or_init(Instant::now);
        let touched = records.iter().map(|record| {
            let key = record.key.as_deref().unwrap_or_default();
            touch(key, record.value.as_deref().unwrap_or_default())
        });
        counter.sum.fetch_add(touched.sum(), Ordering::AcqRel);
        let count = records.len() as u64;
        if counter.records.fetch_add(count, Ordering::AcqRel) + count >= counter.wanted {
            counter.last.get_or_init(Instant::now);
            counter.done.notify_one();
        }
        BatchOutcome::Done
    }
}

fn tell(mut line: serde_json::Value) -> Result<(), Failure> {
    line["version"] = json!(env!("CARGO_PKG_VERSION"));
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()?;
    Ok(())
}

/// The bench closes our input when it has measured us.
async fn input_ended() -> Result<(), Failure> {
    let read = tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new()));
    read.await??;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use ottla::mock_cluster::MockCluster;

    #[test]
    fn percentiles_are_values_that_occurred() {
        let sorted: Vec<f64> = (1..=200).map(f64::from).collect();
        assert_eq!(nearest_rank(&sorted, 0.50), 100.0);
        assert_eq!(nearest_rank(&sorted, 0.99), 198.0);
        assert_eq!(nearest_rank(&[7.0], 0.50), 7.0);
        assert_eq!(nearest_rank(&[], 0.99), 0.0);
    }

    #[tokio::test]
    async fn what_is_written_is_read_and_adds_up() {
        let cluster = MockCluster::builder().brokers(1).start().await.unwrap();
        cluster.create_topic("t", 8).unwrap();
        let mut task = Task::new(Mode::Consume, cluster.bootstrap(), "t");
        task.records = 2_500;
        let client = connect(None, &task).await.unwrap();
        fill(&client, &task).await.unwrap();
        assert_eq!(cluster.records("t").len(), 2_500);

        let counter = Arc::new(Counter::new(task.records));
        let app = consume(&client, &task, &counter).await.unwrap();
        let read = tokio::time::timeout(Duration::from_secs(30), counter.finished(&app));
        let (_, sum) = read.await.unwrap().unwrap();
        assert_eq!(sum, Workload::new(task.value_bytes).sum(task.records));
        assert!(app.shutdown(CLOSE_WITHIN).await.clean);
        client.close().await;
        cluster.shutdown().await;
    }

    #[tokio::test]
    async fn latency_is_told_in_microseconds() {
        let cluster = MockCluster::builder().brokers(1).start().await.unwrap();
        cluster.create_topic("t", 8).unwrap();
        let mut task = Task::new(Mode::Latency, cluster.bootstrap(), "t");
        (task.records, task.warm_up) = (40, 5);
        let client = connect(None, &task).await.unwrap();
        let producer = Producer::new(&client, producer_config(&task)).unwrap();
        let line = send_each(&producer, &task, &Workload::new(200))
            .await
            .unwrap();
        let of = |name: &str| line[name].as_f64().unwrap();
        assert!(of("p50_us") > 1.0 && of("p50_us") <= of("p99_us"), "{line}");
        assert!(of("p99_us") <= of("seconds") * 1e6, "{line}");
        assert_eq!(cluster.records("t").len(), 45);
        close(&producer).await.unwrap();
        client.close().await;
        cluster.shutdown().await;
    }
}
