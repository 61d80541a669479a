//! Consume, transform, produce by the runner, exactly once, on real brokers: processes are killed with
//! -9, handlers fail after they have published, members join, a broker of three is killed. The judge is
//! a reader of committed records: one output an input, in the order of each key.

use super::transactions::{reader, settled};
use super::{Context, Outcome};
use crate::Failure;
use crate::harness::{Worker, own_program};
use crate::read_back::read_topic;
use ottla::client::{Client, IsolationLevel, NewTopic};
use ottla::types::coordinator::OffsetFetchRequest;
use ottla::types::{Record, TopicPartition};
use ottla::{Producer, ProducerConfig};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;
use tokio::process::Command;
use tokio::time::{Instant, sleep};

const PARTITIONS: i32 = 6;
const INPUTS: u32 = 6_000;
const KEYS: u32 = 50;
const WITHIN: Duration = Duration::from_secs(40);

/// Two processes transform, a third joins; two are killed in the middle and come back.
pub(super) async fn run(context: &mut Context) -> Outcome {
    let client = context.client().await?;
    let setting = Setting::of(context);
    let of = |name: &str| NewTopic::new(name, PARTITIONS).replication(context.replication());
    let topics = vec![of(&setting.input), of(&setting.output)];
    client.ensure_topics(topics).await?;
    let producer = Producer::new(&client, ProducerConfig::default())?;
    let records = (0..INPUTS).map(|n| {
        let key = format!("k{}", n % KEYS);
        let record = Record::new(setting.input.as_str());
        record.key(key).value(format!("v-{n}"))
    });
    for written in producer.send_all(records.collect()).await {
        written?;
    }
    let _ = producer.close(WITHIN).await;

    let mut first = setting.spawn(1)?;
    let mut second = setting.spawn(2)?;
    killed_at(&mut first, 300).await?;
    first = setting.spawn(1)?;
    let third = setting.spawn(3)?;
    killed_at(&mut second, 200).await?;
    second = setting.spawn(2)?;
    kill_a_broker(context, &client, &setting, &first).await?;
    let before_end = Instant::now();
    all_committed(&client, &setting).await?;
    println!(
        "everything was committed {:.1} s later",
        before_end.elapsed().as_secs_f32()
    );
    for mut process in [first, second, third] {
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

/// Kills a process with -9 once it has handled so many records.
async fn killed_at(process: &mut Worker, least: u64) -> Outcome {
    let begun = Instant::now();
    let line = process.wait_line(|line| has_handled(line, least), WITHIN);
    let line = line.await?;
    process.kill9().await?;
    println!(
        "killed: a process that had {line} records, {:.1} s after the last step",
        begun.elapsed().as_secs_f32()
    );
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
        command.args(["--transactional-id", &id, "--fail-every", "701"]);
        let name = format!("transform-{number}");
        Ok(Worker::spawn_logged(name, command, &self.folder)?)
    }
}

fn has_handled(line: &str, least: u64) -> bool {
    let count = line.strip_prefix("handled ").and_then(|n| n.parse().ok());
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
    let begun = process.wait_line(|line| has_handled(line, 1), WITHIN);
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
    // By the order of each partition.
    let mut counts = BTreeMap::new();
    let mut last: BTreeMap<u32, u32> = BTreeMap::new();
    let mut overtaken = 0;
    for record in read_topic(client, &setting.output, WITHIN).await? {
        let text = String::from_utf8_lossy(record.value.as_deref().unwrap_or_default());
        let number = text.strip_prefix("V-").and_then(|n| n.parse::<u32>().ok());
        let number = number.ok_or_else(|| format!("{text} was never written"))?;
        *counts.entry(number).or_insert(0) += 1;
        let before = last.insert(number % KEYS, number);
        overtaken += u32::from(before.is_some_and(|before| before > number));
    }
    let missing = (0..INPUTS).filter(|n| !counts.contains_key(n)).count();
    let twice = counts.values().filter(|count| **count > 1).count();
    let written = read_topic(&everything, &setting.output, WITHIN)
        .await?
        .len();
    everything.close().await;
    println!(
        "{INPUTS} records transformed: {missing} lost, {twice} more than once, {overtaken} out of \
         order; {} were aborted",
        written.saturating_sub(INPUTS as usize)
    );
    if missing > 0 || twice > 0 || overtaken > 0 || counts.len() != INPUTS as usize {
        return Err("not exactly once".into());
    }
    Ok(())
}
