//! krafka.

use bytes::Bytes;
use krafka::consumer::AutoOffsetReset;
use krafka::producer::{Acks, DeliveryHandle, Producer};
use krafka::{Kafka, Record};
use peers::{Failure, Task, Workload, input_ended, percentiles, tell, touch};
use std::collections::VecDeque;
use std::time::{Duration, Instant};

const VERSION: &str = "0.28.1";
const UNSEEN_MAX: usize = 32_768;

#[tokio::main]
async fn main() -> Result<(), Failure> {
    // As a task, which is what services do.
    tokio::spawn(run()).await?
}

async fn run() -> Result<(), Failure> {
    let task = Task::from_arguments()?;
    let workload = Workload::<Bytes>::new(&task);
    let kafka = Kafka::builder(task.bootstrap.clone()).connect().await?;
    if task.mode == "consume" {
        return consume(&kafka, &task).await;
    }
    let producer = kafka
        .producer()
        .acks(Acks::All)
        .idempotent(true)
        .linger(Duration::from_millis(task.linger_ms))
        .batch_size(task.batch_bytes)
        .buffer_memory(task.buffer_bytes)
        .build()
        .await?;
    if task.mode == "latency" {
        latency(&producer, &task, &workload).await?;
    } else {
        produce(&producer, &task, &workload).await?;
    }
    input_ended().await?;
    producer.close().await?;
    Ok(())
}

fn record(task: &Task, workload: &Workload<Bytes>, i: u64) -> Record {
    let (key, value) = workload.record(i);
    Record::new(task.topic.as_str(), value.clone()).key(key.clone())
}

async fn produce(
    producer: &Producer,
    task: &Task,
    workload: &Workload<Bytes>,
) -> Result<(), Failure> {
    let mut unseen = VecDeque::with_capacity(UNSEEN_MAX);
    let started = Instant::now();
    for i in 0..task.records {
        if unseen.len() == UNSEEN_MAX
            && let Some(oldest) = unseen.pop_front()
        {
            let handle: DeliveryHandle = oldest;
            let _written = handle.await?;
        }
        unseen.push_back(producer.enqueue(record(task, workload, i)).await?);
    }
    for handle in unseen {
        let _written = handle.await?;
    }
    let seconds = started.elapsed().as_secs_f64();
    tell(
        VERSION,
        None,
        &[("records", &task.records), ("seconds", &seconds)],
    )
}

async fn latency(
    producer: &Producer,
    task: &Task,
    workload: &Workload<Bytes>,
) -> Result<(), Failure> {
    for i in 0..task.warm_up {
        let _written = producer.send(record(task, workload, i)).await?;
    }
    let mut micros = Vec::with_capacity(task.records as usize);
    let started = Instant::now();
    for i in 0..task.records {
        let record = record(task, workload, i);
        let sent = Instant::now();
        let _written = producer.send(record).await?;
        micros.push(sent.elapsed().as_nanos() as f64 / 1e3);
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

async fn consume(kafka: &Kafka, task: &Task) -> Result<(), Failure> {
    let consumer = kafka
        .consumer(task.group.as_str())
        .auto_offset_reset(AutoOffsetReset::Earliest)
        .build()
        .await?;
    consumer.subscribe([task.topic.as_str()]).await?;
    let (mut count, mut sum, mut first) = (0, 0, None);
    while count < task.records {
        for record in consumer.poll(Duration::from_millis(500)).await? {
            first.get_or_insert_with(Instant::now);
            sum += touch(
                record.key.as_deref().unwrap_or_default(),
                record.value.as_deref().unwrap_or_default(),
            );
            count += 1;
        }
    }
    let seconds = first.map_or(0.0, |first: Instant| first.elapsed().as_secs_f64());
    tell(
        VERSION,
        None,
        &[("records", &count), ("seconds", &seconds), ("sum", &sum)],
    )?;
    input_ended().await?;
    consumer.close().await?;
    Ok(())
}
