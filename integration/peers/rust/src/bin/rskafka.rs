//! rskafka, used as its users do: batches are put together by hand, a task for each partition writes
//! them one after the other. It has no idempotence and no groups.

use chrono::Utc;
use peers::{Failure, Task, Workload, input_ended, percentiles, tell, touch};
use rskafka::client::partition::{Compression, PartitionClient, UnknownTopicHandling};
use rskafka::client::{Client, ClientBuilder};
use rskafka::record::Record;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;

const VERSION: &str = "0.6.0";
/// What a record adds to its key and value in a batch, about.
const OVERHEAD: usize = 10;

#[tokio::main]
async fn main() -> Result<(), Failure> {
    // As a task, which is what services do.
    tokio::spawn(run()).await?
}

async fn run() -> Result<(), Failure> {
    let task = Task::from_arguments()?;
    let client = ClientBuilder::new(vec![task.bootstrap.clone()])
        .build()
        .await?;
    let partitions = partitions(&client, &task).await?;
    match task.mode.as_str() {
        "consume" => consume(&partitions, &task).await?,
        "latency" => latency(&partitions, &task).await?,
        _ => produce(&partitions, &task).await?,
    }
    input_ended().await
}

async fn partitions(client: &Client, task: &Task) -> Result<Vec<Arc<PartitionClient>>, Failure> {
    let mut clients = Vec::new();
    for partition in 0..task.partitions {
        let unknown = UnknownTopicHandling::Retry;
        let client = client
            .partition_client(task.topic.as_str(), partition, unknown)
            .await?;
        clients.push(Arc::new(client));
    }
    Ok(clients)
}

/// The Java client's hash, which spreads keys as the others do.
fn partition_of(key: &[u8], partitions: i32) -> usize {
    const M: u32 = 0x5bd1_e995;
    let mut h = 0x9747_b28c ^ key.len() as u32;
    let mut chunks = key.chunks_exact(4);
    for chunk in &mut chunks {
        let mut k = u32::from_le_bytes([chunk[0], chunk[1], chunk[2], chunk[3]]).wrapping_mul(M);
        k = (k ^ (k >> 24)).wrapping_mul(M);
        h = h.wrapping_mul(M) ^ k;
    }
    let rest = chunks.remainder();
    if !rest.is_empty() {
        for (at, byte) in rest.iter().enumerate() {
            h ^= u32::from(*byte) << (8 * at);
        }
        h = h.wrapping_mul(M);
    }
    h = (h ^ (h >> 13)).wrapping_mul(M);
    ((h ^ (h >> 15)) & 0x7fff_ffff) as usize % partitions as usize
}

fn record(workload: &Workload<Vec<u8>>, i: u64) -> Record {
    let (key, value) = workload.record(i);
    Record {
        key: Some(key.clone()),
        value: Some(value.clone()),
        headers: BTreeMap::new(),
        timestamp: Utc::now(),
    }
}

#[derive(Default)]
struct Open {
    records: Vec<Record>,
    bytes: usize,
    since: Option<Instant>,
}

async fn produce(partitions: &[Arc<PartitionClient>], task: &Task) -> Result<(), Failure> {
    let workload = Workload::<Vec<u8>>::new(task);
    let room = Arc::new(Semaphore::new(task.buffer_bytes));
    let mut writers = JoinSet::new();
    let mut queues = Vec::new();
    for client in partitions {
        let (queue, batches) = mpsc::channel(4);
        writers.spawn(write(client.clone(), batches, room.clone()));
        queues.push(queue);
    }
    let linger = Duration::from_millis(task.linger_ms);
    let mut open: Vec<Open> = partitions.iter().map(|_| Open::default()).collect();
    let started = Instant::now();
    for i in 0..task.records {
        let record = record(&workload, i);
        let size = record.approximate_size() + OVERHEAD;
        let at = partition_of(record.key.as_deref().unwrap_or_default(), task.partitions);
        if room.available_permits() < size {
            // Nothing may wait for room while it lingers.
            flush(&mut open, &queues, |_| true).await?;
        }
        room.acquire_many(size as u32).await?.forget();
        let batch = &mut open[at];
        batch.since.get_or_insert_with(Instant::now);
        batch.records.push(record);
        batch.bytes += size;
        if batch.bytes >= task.batch_bytes {
            let full = std::mem::take(batch);
            queues[at].send((full.records, full.bytes)).await?;
        }
        if i % 1024 == 0 {
            let late = |open: &Open| open.since.is_some_and(|since| since.elapsed() >= linger);
            flush(&mut open, &queues, late).await?;
        }
    }
    flush(&mut open, &queues, |_| true).await?;
    drop(queues);
    let mut written = 0;
    while let Some(count) = writers.join_next().await {
        written += count??;
    }
    let seconds = started.elapsed().as_secs_f64();
    let note = "batches put together by hand, one in flight a partition";
    tell(
        VERSION,
        Some(note),
        &[("records", &written), ("seconds", &seconds)],
    )
}

type Batch = (Vec<Record>, usize);

async fn flush(
    open: &mut [Open],
    queues: &[mpsc::Sender<Batch>],
    due: impl Fn(&Open) -> bool,
) -> Result<(), Failure> {
    for (batch, queue) in open.iter_mut().zip(queues) {
        if !batch.records.is_empty() && due(batch) {
            let full = std::mem::take(batch);
            queue.send((full.records, full.bytes)).await?;
        }
    }
    Ok(())
}

async fn write(
    client: Arc<PartitionClient>,
    mut batches: mpsc::Receiver<Batch>,
    room: Arc<Semaphore>,
) -> Result<u64, Failure> {
    let mut written = 0;
    while let Some((records, bytes)) = batches.recv().await {
        let offsets = client.produce(records, Compression::NoCompression).await?;
        written += offsets.iter().filter(|offset| **offset >= 0).count() as u64;
        room.add_permits(bytes);
    }
    Ok(written)
}

async fn latency(partitions: &[Arc<PartitionClient>], task: &Task) -> Result<(), Failure> {
    let workload = Workload::<Vec<u8>>::new(task);
    let send = async |i: u64| {
        let record = record(&workload, i);
        let at = partition_of(record.key.as_deref().unwrap_or_default(), task.partitions);
        let sent = Instant::now();
        partitions[at]
            .produce(vec![record], Compression::NoCompression)
            .await?;
        Ok::<_, Failure>(sent.elapsed().as_nanos() as f64 / 1e3)
    };
    for i in 0..task.warm_up {
        send(i).await?;
    }
    let mut micros = Vec::with_capacity(task.records as usize);
    let started = Instant::now();
    for i in 0..task.records {
        micros.push(send(i).await?);
    }
    let seconds = started.elapsed().as_secs_f64();
    let (p50, p99) = percentiles(micros);
    tell(
        VERSION,
        None,
        &[
            ("records", &task.records),
            ("seconds", &seconds),
            ("p50_us", &p50),
            ("p99_us", &p99),
        ],
    )
}

async fn consume(partitions: &[Arc<PartitionClient>], task: &Task) -> Result<(), Failure> {
    // As much is read ahead as the others may read ahead: a batch each.
    let (found, mut all) = mpsc::channel(1);
    let mut readers = JoinSet::new();
    for client in partitions {
        readers.spawn(read(client.clone(), found.clone()));
    }
    let (mut count, mut sum, mut first) = (0, 0, None);
    while count < task.records {
        let records: Vec<rskafka::record::RecordAndOffset> = tokio::select! {
            records = all.recv() => records.ok_or("the readers have ended")?,
            Some(ended) = readers.join_next() => return ended?,
        };
        first.get_or_insert_with(Instant::now);
        for record in &records {
            let key = record.record.key.as_deref().unwrap_or_default();
            sum += touch(key, record.record.value.as_deref().unwrap_or_default());
        }
        count += records.len() as u64;
    }
    let seconds = first.map_or(0.0, |first: Instant| first.elapsed().as_secs_f64());
    let note = "has no groups: reads the partitions without one and commits nothing";
    tell(
        VERSION,
        Some(note),
        &[("records", &count), ("seconds", &seconds), ("sum", &sum)],
    )
}

async fn read(
    client: Arc<PartitionClient>,
    found: mpsc::Sender<Vec<rskafka::record::RecordAndOffset>>,
) -> Result<(), Failure> {
    let mut offset = 0;
    loop {
        let (records, _) = client.fetch_records(offset, 1..1 << 20, 500).await?;
        if let Some(last) = records.last() {
            offset = last.offset + 1;
            found.send(records).await?;
        }
    }
}
