//! Transactions with real brokers as the judge: committed, aborted and fenced ones, and a process
//! that consumes, transforms and produces, killed with -9 in the middle.

use super::{Context, Outcome};
use crate::harness::{Worker, own_program};
use crate::read_back::{bounds, read_topic};
use ottla::client::{Client, ClientConfig, IsolationLevel, NewTopic};
use ottla::producer::{TransactionalConfig, TransactionalProducer};
use ottla::types::coordinator::OffsetFetchRequest;
use ottla::types::{Record, TopicPartition, TransactErrorKind};
use ottla::{Producer, ProducerConfig};
use std::collections::BTreeMap;
use std::error::Error;
use std::path::PathBuf;
use std::time::Duration;
use tokio::process::Command;
use tokio::time::{Instant, sleep};

type Failure = Box<dyn Error + Send + Sync>;

const PARTITIONS: i32 = 6;
const INPUTS: u32 = 12_000;
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

    let everything = reader(context, IsolationLevel::ReadUncommitted).await?;
    settled(&client, &everything, &topic).await?;
    let seen = values(&client, &topic).await?;
    expected.sort();
    if seen != expected {
        return Err(format!("{} records instead of {}", seen.len(), expected.len()).into());
    }
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

/// Waits until the end of each transaction is in the topic: a commit is answered before its markers
/// are written everywhere.
async fn settled(committed: &Client, everything: &Client, topic: &str) -> Outcome {
    let deadline = Instant::now() + WITHIN;
    loop {
        let stable = bounds(committed, topic, WITHIN).await?;
        if stable == bounds(everything, topic, WITHIN).await? {
            return Ok(());
        }
        if Instant::now() >= deadline {
            return Err(format!("a transaction in {topic} stays open: {stable:?}").into());
        }
        sleep(Duration::from_millis(100)).await;
    }
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

/// Two processes transform; one is killed twice in the middle and comes back, and a broker of three
/// is killed too.
async fn exactly_once(context: &mut Context) -> Outcome {
    let client = context.client().await?;
    let setting = Setting::of(context);
    let of = |name: &str| NewTopic::new(name, PARTITIONS).replication(context.replication());
    let topics = vec![of(&setting.input), of(&setting.output)];
    client.ensure_topics(topics).await?;
    let producer = Producer::new(&client, ProducerConfig::default())?;
    let records = (0..INPUTS).map(|n| {
        let key = format!("k{}", n % 50);
        let record = Record::new(setting.input.as_str());
        record.key(key).value(format!("v-{n}"))
    });
    for written in producer.send_all(records.collect()).await {
        written?;
    }
    let _ = producer.close(WITHIN).await;

    let mut first = setting.spawn(1)?;
    let second = setting.spawn(2)?;
    for kill in 1..=2 {
        let line = first.wait_line(|line| has_committed(line, 300), WITHIN);
        let line = line.await?;
        first.kill9().await?;
        println!("kill {kill}: a process that had {line} records is gone");
        first = setting.spawn(1)?;
    }
    kill_a_broker(context, &client, &setting, &first).await?;
    all_committed(&client, &setting).await?;
    for mut process in [first, second] {
        process.terminate()?;
        let status = process.wait(WITHIN).await?;
        if !status.success() {
            return Err(format!("{status}\n{}", process.tail(20)).into());
        }
    }
    judge(context, &client, &setting).await?;
    client.close().await;
    Ok(())
}

/// Names of a run.
struct Setting {
    bootstrap: String,
    group: String,
    input: String,
    output: String,
    folder: PathBuf,
}

impl Setting {
    fn of(context: &Context) -> Self {
        Self {
            bootstrap: context.bootstrap(),
            group: context.unique("transform"),
            input: context.unique("lower"),
            output: context.unique("upper"),
            folder: context.folder().to_owned(),
        }
    }

    fn spawn(&self, number: u32) -> Result<Worker, Failure> {
        let mut command = Command::new(own_program("transform")?);
        command.args(["--bootstrap", &self.bootstrap, "--group", &self.group]);
        command.args(["--input", &self.input, "--output", &self.output]);
        let id = format!("{}-{number}", self.group);
        command.args(["--transactional-id", &id]);
        let name = format!("transform-{number}");
        Ok(Worker::spawn_logged(name, command, &self.folder)?)
    }
}

fn has_committed(line: &str, least: u64) -> bool {
    let count = line.strip_prefix("committed ").and_then(|n| n.parse().ok());
    count.is_some_and(|count: u64| count >= least)
}

/// Kills the leader of an output partition while records are transformed, where others take over. Not
/// on a single node: when it comes back, Kafka 4.3.1 may call a decided transaction complete without
/// its markers, because it does not know the partitions yet ("likely deleted already").
async fn kill_a_broker(
    context: &mut Context,
    client: &Client,
    setting: &Setting,
    process: &Worker,
) -> Outcome {
    let Some(kafka) = context.kafka().filter(|kafka| kafka.len() > 1) else {
        return Ok(());
    };
    let begun = process.wait_line(|line| has_committed(line, 1), WITHIN);
    begun.await?;
    let output = client.refresh_topic(&setting.output).await?;
    let leader = output.partitions.first().and_then(|p| p.leader);
    let node = leader
        .and_then(|id| kafka.node_of_id(id))
        .ok_or("partition 0 has no leader")?;
    kafka.kill9(node).await?;
    println!("broker {node} is killed");
    kafka.restart(node).await?;
    Ok(())
}

/// How many records the group has committed.
async fn committed(client: &Client, setting: &Setting) -> Result<i64, Failure> {
    let partitions = (0..PARTITIONS).map(|n| TopicPartition::new(setting.input.as_str(), n));
    let request = OffsetFetchRequest {
        partitions: partitions.collect(),
        require_stable: false,
    };
    let answer = client.group(setting.group.as_str());
    let answer = answer.fetch_offsets(request).await?;
    Ok(answer.offsets.iter().filter_map(|o| o.offset).sum())
}

/// Waits until the group has committed everything that the topic holds.
async fn all_committed(client: &Client, setting: &Setting) -> Outcome {
    let deadline = Instant::now() + WITHIN;
    loop {
        // A coordinator that has died is found again.
        let seen = committed(client, setting).await;
        if seen.as_ref().is_ok_and(|count| *count == i64::from(INPUTS)) {
            return Ok(());
        }
        if Instant::now() >= deadline {
            return Err(format!("{seen:?} of {INPUTS} are committed").into());
        }
        sleep(Duration::from_millis(200)).await;
    }
}

async fn judge(context: &Context, client: &Client, setting: &Setting) -> Outcome {
    let everything = reader(context, IsolationLevel::ReadUncommitted).await?;
    settled(client, &everything, &setting.output).await?;
    let mut counts = BTreeMap::new();
    for value in values(client, &setting.output).await? {
        *counts.entry(value).or_insert(0) += 1;
    }
    let missing = (0..INPUTS).filter(|n| !counts.contains_key(&format!("V-{n}")));
    let missing = missing.count();
    let twice = counts.values().filter(|count| **count > 1).count();
    let written = values(&everything, &setting.output).await?.len();
    everything.close().await;
    println!(
        "{INPUTS} records transformed: {missing} lost, {twice} more than once; {} were aborted",
        written.saturating_sub(INPUTS as usize)
    );
    if missing > 0 || twice > 0 || counts.len() != INPUTS as usize {
        return Err("not exactly once".into());
    }
    Ok(())
}
