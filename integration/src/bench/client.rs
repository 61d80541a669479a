//! Our own contender: does one [`Task`] with ottla, prints its line, and keeps its client open until
//! standard input ends.

use super::parallel::Plan;
use super::reader::Reader;
use super::workload::Workload;
use super::{Mode, Task};
use crate::Failure;
use ottla::client::{Client, ClientConfig};
use ottla::producer::{Deliveries, DeliveryHandle};
use ottla::types::{AsRecord, RecordRef};
use ottla::{Producer, ProducerConfig};
use ottla_client::TransportKind;
use serde_json::json;
use std::collections::VecDeque;
use std::io::{Read, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Handles that are not looked at yet: so many that a batch of each partition fills while others are on
/// their way, and not so many that they leave the processor's caches.
fn unseen_max(partitions: i32) -> usize {
    let partitions = usize::try_from(partitions).unwrap_or(0);
    (partitions * 64).max(8_192)
}
const CLOSE_WITHIN: Duration = Duration::from_secs(10);

/// What differs between contenders of ours.
#[derive(Debug, Clone, Copy, Default)]
pub struct Way {
    /// The transport.
    pub transport: TransportKind,
    /// Records are handed over so many at a time; `None` is one by one.
    pub slices: Option<usize>,
}

/// Does `task` in one of our ways.
///
/// # Errors
/// The client's, or a record that was not written.
pub async fn run(way: Way, task: &Task) -> Result<(), Failure> {
    let workload = Workload::new(task.value_bytes);
    let client = connect(way.transport, task).await?;
    match task.mode {
        Mode::Produce | Mode::Partitions => {
            let producer = Producer::new(&client, producer_config(task))?;
            let seconds = match way.slices {
                None => send_all(&producer, task, &workload).await?,
                Some(records) => send_slices(&producer, task, &workload, records).await?,
            };
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
        Mode::Consume | Mode::Runner | Mode::Parallel => {
            let reader = Reader::start(&client, task).await?;
            tell(reader.finished().await?)?;
            input_ended().await?;
            reader.close(CLOSE_WITHIN).await?;
        }
    }
    client.close().await;
    Ok(())
}

/// Writes the records of `task`, for the readers of it.
pub(super) async fn fill(client: &Client, task: &Task) -> Result<(), Failure> {
    let producer = Producer::new(client, producer_config(task))?;
    if task.mode == Mode::Parallel {
        let topic: Arc<str> = task.topic.as_str().into();
        let plan = Plan::new(task.records);
        send(&producer, task, |i| plan.record(&topic, i)).await?;
    } else {
        send_all(&producer, task, &Workload::new(task.value_bytes)).await?;
    }
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

pub(super) async fn connect(transport: TransportKind, task: &Task) -> Result<Client, Failure> {
    let mut config = ClientConfig::new(&task.bootstrap);
    config.transport = transport;
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

fn record<'a>(topic: &'a Arc<str>, workload: &'a Workload, i: u64) -> RecordRef<'a> {
    let (key, value) = workload.record(i);
    RecordRef::new(topic).key(key).value(value)
}

async fn send_all(producer: &Producer, task: &Task, workload: &Workload) -> Result<f64, Failure> {
    let topic: Arc<str> = task.topic.as_str().into();
    send(producer, task, |i| record(&topic, workload, i)).await
}

async fn send<R: AsRecord>(
    producer: &Producer,
    task: &Task,
    record: impl Fn(u64) -> R,
) -> Result<f64, Failure> {
    let unseen_max = unseen_max(task.partitions);
    let mut unseen: VecDeque<DeliveryHandle> = VecDeque::with_capacity(unseen_max);
    let started = Instant::now();
    for i in 0..task.records {
        if unseen.len() == unseen_max
            && let Some(oldest) = unseen.pop_front()
        {
            oldest.written().await?;
        }
        unseen.push_back(producer.enqueue_when_room(record(i)).await);
    }
    for handle in unseen {
        handle.written().await?;
    }
    Ok(started.elapsed().as_secs_f64())
}

/// The same, so many records with each call.
async fn send_slices(
    producer: &Producer,
    task: &Task,
    workload: &Workload,
    records: usize,
) -> Result<f64, Failure> {
    let topic: Arc<str> = task.topic.as_str().into();
    let slices_max = unseen_max(task.partitions).div_ceil(records);
    let mut unseen: VecDeque<Deliveries> = VecDeque::with_capacity(slices_max);
    let mut slice = Vec::with_capacity(records);
    let started = Instant::now();
    for first in (0..task.records).step_by(records) {
        if unseen.len() == slices_max
            && let Some(oldest) = unseen.pop_front()
        {
            oldest.written().await?;
        }
        slice.clear();
        let end = task.records.min(first + records as u64);
        slice.extend((first..end).map(|i| record(&topic, workload, i)));
        unseen.push_back(producer.enqueue_all(&slice).await);
    }
    for deliveries in unseen {
        deliveries.written().await?;
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
    async fn latency_is_told_in_microseconds() {
        let cluster = MockCluster::builder().brokers(1).start().await.unwrap();
        cluster.create_topic("t", 8).unwrap();
        let mut task = Task::new(Mode::Latency, cluster.bootstrap(), "t");
        (task.records, task.warm_up) = (40, 5);
        let client = connect(TransportKind::default(), &task).await.unwrap();
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
