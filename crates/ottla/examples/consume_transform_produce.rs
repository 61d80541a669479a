//! Consume, transform, produce, exactly once: a record's offset is committed in the transaction of
//! the records that were made from it.
//!
//! ```text
//! cargo run --example consume_transform_produce [HOST:PORT]
//! ```
//! Without an address it runs on a mock cluster in this process.

use ottla::client::{IsolationLevel, NewTopic, TransportKind};
use ottla::consumer::{AutoOffsetReset, ConsumedBatch, Consumer, SeekTo};
use ottla::mock_cluster::MockCluster;
use ottla::producer::{TransactionalConfig, TransactionalProducer};
use ottla::types::coordinator::CommitOffset;
use ottla::{Client, ClientConfig, ConsumerConfig, Producer, ProducerConfig, Record};
use std::error::Error;
use std::time::Duration;

const INPUTS: usize = 1_000;

type Failure = Box<dyn Error + Send + Sync>;

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let mock = MockCluster::builder().start().await?;
    let bootstrap = std::env::args().nth(1).unwrap_or_else(|| mock.bootstrap());
    let config = ClientConfig {
        transport: TransportKind::Native,
        isolation_level: IsolationLevel::ReadCommitted,
        ..ClientConfig::new(&bootstrap)
    };
    let client = Client::connect(config).await?;
    let run = std::process::id();
    let (lower, upper) = (format!("lower-{run}"), format!("upper-{run}"));
    let topics = [&lower, &upper].map(|name| NewTopic::new(name, 3));
    client.ensure_topics(topics.to_vec()).await?;
    let producer = Producer::new(&client, ProducerConfig::default())?;
    let records = (0..INPUTS).map(|n| Record::new(&*lower).key(format!("{n}")).value("text"));
    for written in producer.send_all(records.collect()).await {
        written?;
    }

    transform(&client, &lower, &upper).await?;

    // Whoever reads the output reads each record once.
    let config = from_the_start(format!("reader-{run}"));
    let mut reader = Consumer::subscribe(&client, config, [&upper]).await?;
    let mut seen = 0;
    while seen < INPUTS {
        seen += reader.recv().await?.records().len();
    }
    reader.commit_sync().await?;
    println!("{INPUTS} records in, {seen} records out");
    assert_eq!(seen, INPUTS);
    let _ = reader.close(Duration::from_secs(5)).await;
    let _ = producer.close(Duration::from_secs(5)).await;
    client.close().await;
    mock.shutdown().await;
    Ok(())
}

/// A member that reads what was there before its group, too.
fn from_the_start(group: String) -> ConsumerConfig {
    ConsumerConfig {
        auto_offset_reset: AutoOffsetReset::Earliest,
        max_poll_records: 100,
        ..ConsumerConfig::new(group)
    }
}

/// Turns every record of `from` into one of `to`.
async fn transform(client: &Client, from: &str, to: &str) -> Result<(), Failure> {
    let config = TransactionalConfig::new(format!("transform-{from}"));
    let producer = TransactionalProducer::new(client, config)?;
    // Shuts out an earlier run of this program, and aborts what it left open.
    producer.init().await?;
    let config = from_the_start(format!("transform-{from}"));
    let mut consumer = Consumer::subscribe(client, config, [from]).await?;
    let mut transformed = 0;
    while transformed < INPUTS {
        let batch = consumer.recv().await?;
        let count = batch.records().len();
        match in_transaction(&producer, &batch, to).await {
            // The group's offset is a part of the transaction: nothing else is to be committed.
            Ok(()) => transformed += count,
            Err(error) => {
                // Nothing of the batch counts: it is read again. A service would look at the error:
                // after an unknown outcome the group's offset tells whether it was committed.
                eprintln!("aborting: {error}");
                producer.abort().await?;
                let first = SeekTo::Offset(batch.records()[0].offset);
                consumer.seek(batch.partition(), first).await?;
            }
        }
    }
    producer.close(Duration::from_secs(5)).await?;
    let _ = consumer.close(Duration::from_secs(5)).await;
    Ok(())
}

async fn in_transaction(
    producer: &TransactionalProducer,
    batch: &ConsumedBatch,
    to: &str,
) -> Result<(), Failure> {
    producer.begin().await?;
    let mut deliveries = Vec::new();
    for record in batch.records() {
        let value = record
            .value
            .as_deref()
            .unwrap_or_default()
            .to_ascii_uppercase();
        let mut transformed = Record::new(to).value(value);
        transformed.key = record.key.clone();
        deliveries.push(producer.enqueue(transformed));
    }
    for delivery in deliveries {
        delivery.await?;
    }
    let offset = CommitOffset {
        partition: batch.partition().clone(),
        offset: batch.next_offset(),
        leader_epoch: None,
        metadata: String::new(),
    };
    // The group takes the offset only while this member owns the partition.
    let group = batch.group_metadata()?;
    producer.send_offsets(group, vec![offset]).await?;
    Ok(producer.commit().await?)
}
