//! Consume, transform, produce, exactly once: records of one topic become records of another, and
//! their offsets are committed in the same transaction. A process of its own in the scenarios, so
//! that it can be killed.

use futures_util::future::try_join_all;
use ottla::client::{Client, ClientConfig, TransportKind};
use ottla::consumer::{
    AutoOffsetReset, ConsumedBatch, Consumer, ConsumerConfig, ErrorKind, SeekTo,
};
use ottla::producer::{TransactionalConfig, TransactionalProducer};
use ottla::types::coordinator::{CommitOffset, OffsetFetchRequest};
use ottla::types::{Record, TransactError};
use std::error::Error;
use std::time::Duration;

type Failure = Box<dyn Error + Send + Sync>;

/// One transforming process.
#[derive(Debug, Clone)]
pub struct Transform {
    /// The cluster.
    pub bootstrap: String,
    /// The consumer group.
    pub group: String,
    /// What is read.
    pub input: String,
    /// What is written.
    pub output: String,
    /// `transactional.id`, the same for each start of this process.
    pub transactional_id: String,
}

/// Why a batch is not through.
enum Broken {
    /// Its partition belongs to another member now.
    Lost,
    Transaction(TransactError),
}

impl From<TransactError> for Broken {
    fn from(error: TransactError) -> Self {
        Self::Transaction(error)
    }
}

/// Transforms until `stop` resolves; `progress` hears the number of records after each commit.
///
/// # Errors
/// What cannot be helped: the producer is fenced, or the member has failed for good.
pub async fn run(
    transform: &Transform,
    stop: impl Future<Output = ()>,
    mut progress: impl FnMut(u64),
) -> Result<(), Failure> {
    let config = ClientConfig {
        transport: TransportKind::Native,
        ..ClientConfig::new(&transform.bootstrap)
    };
    let client = Client::connect(config).await?;
    let config = TransactionalConfig::new(&transform.transactional_id);
    let producer = TransactionalProducer::new(&client, config)?;
    // What an earlier run left open is aborted, before its offsets are asked for.
    producer.init().await?;
    let config = ConsumerConfig {
        session_timeout: Duration::from_secs(6),
        heartbeat_interval: Duration::from_millis(500),
        auto_offset_reset: AutoOffsetReset::Earliest,
        max_poll_records: 100,
        ..ConsumerConfig::new(&transform.group)
    };
    let mut consumer = Consumer::subscribe(&client, config, [&transform.input]).await?;
    tokio::pin!(stop);
    loop {
        let batch = tokio::select! {
            batch = consumer.recv() => batch?,
            () = &mut stop => break,
        };
        let count = batch.records().len() as u64;
        if handle(transform, &client, &producer, &batch).await? {
            progress(count);
        } else {
            read_again(&mut consumer, &batch).await?;
        }
    }
    producer.close(Duration::from_secs(5)).await?;
    let _ = consumer.close(Duration::from_secs(5)).await;
    client.close().await;
    Ok(())
}

/// Whether the batch is committed.
async fn handle(
    transform: &Transform,
    client: &Client,
    producer: &TransactionalProducer,
    batch: &ConsumedBatch,
) -> Result<bool, Failure> {
    match in_transaction(transform, producer, batch).await {
        Ok(()) => Ok(true),
        Err(Broken::Lost) => {
            producer.abort().await?;
            Ok(false)
        }
        Err(Broken::Transaction(error)) if error.is_abortable() => {
            eprintln!("aborting: {}", ottla::types::with_causes(&error));
            producer.abort().await?;
            // The offset was a part of it: it tells what became of the rest.
            Ok(error.may_be_committed() && is_committed(transform, client, batch).await?)
        }
        Err(Broken::Transaction(error)) => Err(error.into()),
    }
}

/// Nothing of the batch counts.
async fn read_again(consumer: &mut Consumer, batch: &ConsumedBatch) -> Result<(), Failure> {
    let first = SeekTo::Offset(batch.records()[0].offset);
    match consumer.seek(batch.partition(), first).await {
        Ok(_) => Ok(()),
        // One that was lost meanwhile is its next owner's.
        Err(error) if error.kind() == ErrorKind::NotOwner => Ok(()),
        Err(error) => Err(error.into()),
    }
}

async fn in_transaction(
    transform: &Transform,
    producer: &TransactionalProducer,
    batch: &ConsumedBatch,
) -> Result<(), Broken> {
    producer.begin().await?;
    let deliveries = batch.records().iter().map(|record| {
        let mut transformed = Record::new(transform.output.as_str());
        transformed.key = record.key.clone();
        transformed.value = record
            .value
            .as_deref()
            .map(|v| v.to_ascii_uppercase().into());
        producer.enqueue(transformed)
    });
    // A record that fails makes the commit fail; what was not even taken is seen here alone.
    let deliveries: Vec<_> = deliveries.collect();
    let written = try_join_all(deliveries);
    let group = batch.group_metadata().map_err(|_| Broken::Lost)?;
    let offsets = vec![CommitOffset {
        partition: batch.partition().clone(),
        offset: batch.next_offset(),
        leader_epoch: None,
        metadata: String::new(),
    }];
    let (written, sent) = tokio::join!(written, producer.send_offsets(group, offsets));
    sent?;
    if written.is_err() {
        return Err(Broken::Lost);
    }
    producer.commit().await?;
    Ok(())
}

/// Whether the group's offset is behind the batch, once nothing is open any more.
async fn is_committed(
    transform: &Transform,
    client: &Client,
    batch: &ConsumedBatch,
) -> Result<bool, Failure> {
    let group = client.group(transform.group.as_str());
    loop {
        let request = OffsetFetchRequest {
            partitions: vec![batch.partition().clone()],
            require_stable: true,
        };
        let answer = group.fetch_offsets(request).await?;
        match answer.offsets.first() {
            Some(found) if answer.error.is_ok() && found.error.is_ok() => {
                return Ok(found.offset.is_some_and(|at| at >= batch.next_offset()));
            }
            _ => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}
