//! Transactions with real brokers as the judge: committed, aborted and fenced ones, and a process
//! that consumes, transforms and produces, killed with -9 in the middle.

use super::{Context, Outcome};
use crate::harness::{Worker, own_program};
use crate::read_back::read_topic;
use ottla::client::{Client, ClientConfig, IsolationLevel, NewTopic};
use ottla::producer::{TransactionalConfig, TransactionalProducer};
use ottla::types::coordinator::OffsetFetchRequest;
use ottla::types::{Record, TopicPartition, TransactErrorKind};
use ottla::{Producer, ProducerConfig};
use std::collections::BTreeMap;
use std::error::Error;
use std::time::Duration;
use tokio::process::Command;
use tokio::time::{Instant, sleep};

type Failure = Box<dyn Error + Send + Sync>;

const PARTITIONS: i32 = 6;
const INPUTS: u32 = 6_000;
const WITHIN: Duration = Duration::from_secs(40);

pub(super) async fn run(context: &mut Context) -> Outcome {
    ends(context).await?;
    exactly_once(context).await
}

/// Commits, aborts and is fenced: only what was committed is read.
async fn ends(context: &Context) -> Outcome {
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

    let seen = values(&client, &topic).await?;
    expected.sort();
    if seen != expected {
        return Err(format!("{} records instead of {}", seen.len(), expected.len()).into());
    }
    let everything = reader(context, IsolationLevel::ReadUncommitted).await?;
    let written = values(&everything, &topic).await?.len();
    println!(
        "{} records committed and read, {} aborted; a zombie was fenced",
        seen.len(),
        written - seen.len()
    );
    if written <= seen.len() {
        return Err("nothing was aborted after it was written".into());
    }
    everything.close().await;
    client.close().await;
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

async fn reader(context: &Context, isolation: IsolationLevel) -> Result<Client, Failure> {
    let config = ClientConfig {
        isolation_level: isolation,
        ..context.client_config()
    };
    Ok(Client::connect(config).await?)
}

async fn values(client: &Client, topic: &str) -> Result<Vec<String>, Failure> {
    let records = read_topic(client, topic, WITHIN).await?;
    let values = records.iter().map(|record| {
        let value = record.value.as_deref().unwrap_or_default();
        String::from_utf8_lossy(value).into_owned()
    });
    let mut values: Vec<_> = values.collect();
    values.sort();
    Ok(values)
}

/// Two processes transform; one is killed twice in the middle and comes back.
async fn exactly_once(context: &Context) -> Outcome {
    let client = context.client().await?;
    let (input, output) = (context.unique("lower"), context.unique("upper"));
    let of = |name| NewTopic::new(name, PARTITIONS).replication(context.replication());
    client.ensure_topics(vec![of(&input), of(&output)]).await?;
    let producer = Producer::new(&client, ProducerConfig::default())?;
    let records = (0..INPUTS).map(|n| {
        let key = format!("k{}", n % 50);
        Record::new(input.as_str()).key(key).value(format!("v-{n}"))
    });
    for written in producer.send_all(records.collect()).await {
        written?;
    }
    let _ = producer.close(WITHIN).await;

    let spawn = |number: u32| spawn(context, &input, &output, number);
    let mut first = spawn(1)?;
    let second = spawn(2)?;
    for kill in 1..=2 {
        let line = first
            .wait_line(|line| has_committed(line, 300), WITHIN)
            .await?;
        first.kill9().await?;
        println!("kill {kill}: a process that had {line} records is gone");
        first = spawn(1)?;
    }
    all_committed(&client, context, &input).await?;
    for mut process in [first, second] {
        process.terminate()?;
        let status = process.wait(WITHIN).await?;
        if !status.success() {
            return Err(format!("{status}\n{}", process.tail(20)).into());
        }
    }

    let mut counts = BTreeMap::new();
    for value in values(&client, &output).await? {
        *counts.entry(value).or_insert(0) += 1;
    }
    let missing = (0..INPUTS).filter(|n| !counts.contains_key(&format!("V-{n}")));
    let missing = missing.count();
    let twice = counts.values().filter(|count| **count > 1).count();
    println!("{INPUTS} records transformed: {missing} lost, {twice} more than once");
    client.close().await;
    if missing > 0 || twice > 0 || counts.len() != INPUTS as usize {
        return Err("not exactly once".into());
    }
    Ok(())
}

fn has_committed(line: &str, least: u64) -> bool {
    let count = line.strip_prefix("committed ").and_then(|n| n.parse().ok());
    count.is_some_and(|count: u64| count >= least)
}

fn spawn(context: &Context, input: &str, output: &str, number: u32) -> Result<Worker, Failure> {
    let mut command = Command::new(own_program("transform")?);
    command.args(["--bootstrap", &context.bootstrap()]);
    command.args(["--group", &context.unique("transform")]);
    command.args(["--input", input, "--output", output]);
    let id = context.unique(&format!("transform-{number}"));
    command.args(["--transactional-id", &id]);
    let name = format!("transform-{number}");
    Ok(Worker::spawn_logged(name, command, context.folder())?)
}

/// Waits until the group has committed everything that the topic holds.
async fn all_committed(client: &Client, context: &Context, input: &str) -> Outcome {
    let group = client.group(context.unique("transform"));
    let partitions: Vec<_> = (0..PARTITIONS)
        .map(|number| TopicPartition::new(input, number))
        .collect();
    let deadline = Instant::now() + WITHIN;
    loop {
        let request = OffsetFetchRequest {
            partitions: partitions.clone(),
            require_stable: false,
        };
        let answer = group.fetch_offsets(request).await?;
        let committed: i64 = answer.offsets.iter().filter_map(|o| o.offset).sum();
        if committed == i64::from(INPUTS) {
            return Ok(());
        }
        if Instant::now() >= deadline {
            return Err(format!("only {committed} of {INPUTS} are committed").into());
        }
        sleep(Duration::from_millis(200)).await;
    }
}
