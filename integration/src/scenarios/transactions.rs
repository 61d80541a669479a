//! Transactions with real brokers as the judge: committed, aborted and fenced ones.

use super::{Context, Outcome};
use crate::Failure;
use crate::read_back::{bounds, read_topic};
use ottla::client::{Client, ClientConfig, IsolationLevel, NewTopic};
use ottla::producer::{TransactionalConfig, TransactionalProducer};
use ottla::types::{Record, TransactErrorKind, with_causes};
use std::time::Duration;
use tokio::time::{Instant, sleep};

const PARTITIONS: i32 = 6;
const WITHIN: Duration = Duration::from_secs(40);

/// Commits, aborts and is fenced: only what was committed is read.
pub(super) async fn run(context: &mut Context) -> Outcome {
    let client = context.client().await?;
    let topic = context.unique("ends");
    let new = NewTopic::new(&topic, PARTITIONS).replication(context.replication());
    client.ensure_topics(vec![new]).await?;
    let id = context.unique("ends");
    let start = async || {
        let producer = TransactionalProducer::new(&client, TransactionalConfig::new(&id))?;
        producer.init().await?;
        Ok::<_, Failure>(producer)
    };
    let first = start().await?;
    let mut expected = Vec::new();
    for (round, commit) in [(1, true), (2, false), (3, true), (4, false), (5, true)] {
        let values = write(&first, &topic, round).await?;
        if commit {
            first.commit().await?;
            expected.extend(values);
        } else {
            first.abort().await?;
        }
    }
    // Another one takes the id in the middle of a transaction.
    write(&first, &topic, 6).await?;
    let second = start().await?;
    let fenced = first.commit().await.err().map(|error| error.kind());
    if fenced != Some(TransactErrorKind::Fenced) {
        return Err(format!("a producer that was replaced hears {fenced:?}").into());
    }
    expected.extend(write(&second, &topic, 7).await?);
    second.commit().await?;

    let everything = reader(context, IsolationLevel::ReadUncommitted).await?;
    let committed = expected.len();
    counts(&client, &everything, &topic, expected).await?;
    let written = values(&everything, &topic).await?.len();
    let aborted = written.saturating_sub(committed);
    println!("{committed} records committed and read, {aborted} aborted; a zombie was fenced");
    if aborted == 0 {
        return Err("nothing was aborted after it was written".into());
    }
    takes_too_long(context, &client, &everything).await?;
    if context.nodes() == 1 {
        unclear(context, &client, &everything).await?;
    }
    everything.close().await;
    client.close().await;
    Ok(())
}

/// The coordinator ends a transaction that stays open for too long: nothing of it counts. Its producer
/// goes on; a Kafka 3 shuts it out, and the next one goes on.
async fn takes_too_long(context: &Context, client: &Client, everything: &Client) -> Outcome {
    let topic = context.unique("late");
    let new = NewTopic::new(&topic, PARTITIONS).replication(context.replication());
    client.ensure_topics(vec![new]).await?;
    let config = TransactionalConfig {
        transaction_timeout: Duration::from_secs(1),
        ..TransactionalConfig::new(&topic)
    };
    let mut producer = TransactionalProducer::new(client, config.clone())?;
    producer.init().await?;
    write(&producer, &topic, 1).await?;
    settled(client, everything, &topic).await?;
    let late = producer.commit().await.err();
    let late = late.ok_or("a transaction was committed that took too long")?;
    println!("a transaction that took too long: {}", with_causes(&late));
    match late.kind() {
        TransactErrorKind::Abortable => producer.abort().await?,
        TransactErrorKind::Fenced if context.is_kafka_3() => {
            producer = TransactionalProducer::new(client, config)?;
            producer.init().await?;
        }
        _ => return Err(late.into()),
    }
    let expected = write(&producer, &topic, 2).await?;
    producer.commit().await?;
    counts(client, everything, &topic, expected).await
}

/// A commit that the coordinator has in its socket when it is killed: nobody can know whether it was
/// done. An abort makes an end of the transaction, and the same producer goes on.
async fn unclear(context: &mut Context, client: &Client, everything: &Client) -> Outcome {
    let topic = context.unique("unclear");
    let Some(kafka) = context.kafka() else {
        return Ok(());
    };
    let new = NewTopic::new(&topic, PARTITIONS);
    client.ensure_topics(vec![new]).await?;
    let config = TransactionalConfig {
        max_block: Duration::from_secs(3),
        ..TransactionalConfig::new(&topic)
    };
    let producer = TransactionalProducer::new(client, config)?;
    producer.init().await?;
    write(&producer, &topic, 1).await?;
    kafka.freeze(0)?;
    let error = producer.commit().await.err();
    kafka.kill9(0).await?;
    kafka.restart(0).await?;
    let kind = error.as_ref().map(|error| error.kind());
    if kind != Some(TransactErrorKind::UnknownOutcome) {
        return Err(format!("a commit without an answer ended with {error:?}").into());
    }
    let deadline = Instant::now() + WITHIN;
    while let Err(error) = producer.abort().await {
        let may_pass = error.kind() == TransactErrorKind::Unavailable && Instant::now() < deadline;
        if !may_pass {
            return Err(error.into());
        }
    }
    let expected = write(&producer, &topic, 2).await?;
    producer.commit().await?;
    counts(client, everything, &topic, expected).await?;
    println!("a commit was unclear, its transaction was aborted, and the next one counts");
    Ok(())
}

/// Ten records on each partition, acknowledged.
async fn write(
    producer: &TransactionalProducer,
    topic: &str,
    round: u32,
) -> Result<Vec<String>, Failure> {
    producer.begin().await?;
    let mut written = Vec::new();
    for number in 0..10 * PARTITIONS {
        let value = format!("{round}-{number}");
        let record = Record::new(topic)
            .partition(number % PARTITIONS)
            .value(value.clone());
        written.push((value, producer.enqueue(record)));
    }
    let mut values = Vec::new();
    for (value, delivery) in written {
        delivery.await?;
        values.push(value);
    }
    Ok(values)
}

/// Fails unless `expected`, and nothing else, counts in the topic once each transaction has ended.
async fn counts(
    committed: &Client,
    everything: &Client,
    topic: &str,
    mut expected: Vec<String>,
) -> Outcome {
    settled(committed, everything, topic).await?;
    let seen = values(committed, topic).await?;
    expected.sort();
    match seen == expected {
        true => Ok(()),
        false => Err(format!("{} records instead of {}", seen.len(), expected.len()).into()),
    }
}

pub(super) async fn reader(
    context: &Context,
    isolation: IsolationLevel,
) -> Result<Client, Failure> {
    let config = ClientConfig {
        isolation_level: isolation,
        ..context.client_config()
    };
    Ok(Client::connect(config).await?)
}

/// Waits until the end of each transaction is in the topic: a commit is answered before its markers
/// are written everywhere.
pub(super) async fn settled(committed: &Client, everything: &Client, topic: &str) -> Outcome {
    let deadline = Instant::now() + WITHIN;
    while !is_settled(committed, everything, topic).await? {
        if Instant::now() >= deadline {
            return Err(format!("a transaction in {topic} stays open").into());
        }
        sleep(Duration::from_millis(100)).await;
    }
    Ok(())
}

/// Whether no transaction in the topic is open.
pub(super) async fn is_settled(
    committed: &Client,
    everything: &Client,
    topic: &str,
) -> Result<bool, Failure> {
    let stable = bounds(committed, topic, WITHIN).await?;
    Ok(stable == bounds(everything, topic, WITHIN).await?)
}

pub(super) async fn values(client: &Client, topic: &str) -> Result<Vec<String>, Failure> {
    let records = read_topic(client, topic, WITHIN).await?;
    let values = records.iter().map(|record| {
        let value = record.value.as_deref().unwrap_or_default();
        String::from_utf8_lossy(value).into_owned()
    });
    let mut values: Vec<_> = values.collect();
    values.sort();
    Ok(values)
}
