//! Consume, transform, produce by the runner, exactly once, on real brokers: processes are killed with
//! -9, handlers fail after they have published, members join, a broker of three is killed. The judge is
//! a reader of committed records: one output an input, in the order of each key.

use super::transactions::{is_settled, reader, settled};
use super::{Context, Outcome};
use crate::Failure;
use crate::harness::{Worker, own_program};
use crate::member::{BEGUN, REFUSED, TAKES_MS};
use crate::read_back::read_topic;
use crate::transform::SESSION;
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
/// Where a process is frozen.
const FROZEN_INPUTS: u32 = 1_200;
const FROZEN_AT: u32 = 400;
const KEYS: u32 = 50;
const WITHIN: Duration = Duration::from_secs(40);

/// Two processes transform, a third joins; two are killed in the middle and come back.
pub(super) async fn run(context: &mut Context) -> Outcome {
    let client = context.client().await?;
    let setting = Setting::of(context, INPUTS);
    setting.write(context, &client, |record, _| record).await?;
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
    end([first, second, third]).await?;
    judge(context, &client, &setting).await?;
    client.close().await;
    Ok(())
}

/// A process is frozen in the middle of a transaction with outputs, for twice the session's time-out:
/// another one does its work; when it goes on, its context refuses to publish and its transaction is
/// aborted.
pub(super) async fn frozen(context: &mut Context) -> Outcome {
    let client = context.client().await?;
    let everything = reader(context, IsolationLevel::ReadUncommitted).await?;
    let setting = Setting::of(context, FROZEN_INPUTS);
    let slow = |record: Record, n| match n {
        FROZEN_AT => record.header(TAKES_MS, "3000"),
        _ => record,
    };
    setting.write(context, &client, slow).await?;
    let zombie = setting.spawn(1)?;
    let begun = zombie.wait_line(|line| line.starts_with(BEGUN), WITHIN);
    begun.await?;
    // Its transaction waits for that call. The second count after it is one of records in the same
    // transaction, whose outputs are written.
    while counted_in_call(&zombie) < 2 {
        sleep(Duration::from_millis(5)).await;
    }
    zombie.freeze()?;
    let at = Instant::now();
    let before = committed(&client, &setting).await?;
    if is_settled(&client, &everything, &setting.output).await? {
        return Err("it was not in a transaction when it was frozen".into());
    }
    let other = setting.spawn(2)?;
    let taken = async {
        all_committed(&client, &setting).await?;
        tokio::time::sleep_until(at + 2 * SESSION).await;
        match is_settled(&client, &everything, &setting.output).await? {
            true => Err("the zombie's transaction ended without it".into()),
            false => Ok(()),
        }
    };
    let taken: Outcome = taken.await;
    zombie.thaw()?;
    taken?;
    println!(
        "frozen with {before} of {FROZEN_INPUTS} committed; {:.1} s later all are, and it goes on",
        at.elapsed().as_secs_f32()
    );
    let refused = zombie.wait_line(|line| line.starts_with(REFUSED), WITHIN);
    println!("its context {}", refused.await?);
    // Before its time is over, so by itself.
    let aborted = Instant::now();
    settled(&client, &everything, &setting.output).await?;
    println!(
        "its transaction was over {:.1} s later",
        aborted.elapsed().as_secs_f32()
    );
    end([zombie, other]).await?;
    let written = judge(context, &client, &setting).await?;
    everything.close().await;
    client.close().await;
    match written > FROZEN_INPUTS as usize {
        true => Ok(()),
        false => Err("nothing was aborted".into()),
    }
}

/// How often a process has told how many records it has handled since its slow call has begun.
fn counted_in_call(process: &Worker) -> usize {
    let lines = process.lines();
    let since = lines.iter().skip_while(|line| !line.starts_with(BEGUN));
    since.filter(|line| has_handled(line, 0)).count()
}

/// Ends processes gracefully.
async fn end(processes: impl IntoIterator<Item = Worker>) -> Outcome {
    for mut process in processes {
        process.terminate()?;
        let status = process.wait(WITHIN).await?;
        if !status.success() {
            return Err(format!("{status}\n{}", process.tail(20)).into());
        }
    }
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
    /// How many records there are to transform.
    inputs: u32,
    folder: PathBuf,
}

impl Setting {
    fn of(context: &Context, inputs: u32) -> Self {
        Self {
            inputs,
            bootstrap: context.bootstrap(),
            group: context.unique("transform"),
            input: context.unique("lower"),
            output: context.unique("upper"),
            folder: context.folder().to_owned(),
        }
    }

    /// Makes the topics and writes the inputs; `change` has the last word about each.
    async fn write(
        &self,
        context: &Context,
        client: &Client,
        change: impl Fn(Record, u32) -> Record,
    ) -> Outcome {
        let of = |name: &str| NewTopic::new(name, PARTITIONS).replication(context.replication());
        let topics = vec![of(&self.input), of(&self.output)];
        client.ensure_topics(topics).await?;
        let producer = Producer::new(client, ProducerConfig::default())?;
        let records = (0..self.inputs).map(|n| {
            let record = Record::new(self.input.as_str()).key(format!("k{}", n % KEYS));
            change(record.value(format!("v-{n}")), n)
        });
        for written in producer.send_all(records.collect()).await {
            written?;
        }
        let _ = producer.close(WITHIN).await;
        Ok(())
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
        if seen
            .as_ref()
            .is_ok_and(|count| *count == i64::from(setting.inputs))
        {
            return Ok(());
        }
        if Instant::now() >= deadline {
            return Err(format!("{seen:?} of {} are committed", setting.inputs).into());
        }
        sleep(Duration::from_millis(200)).await;
    }
}

/// Each input has its output once, in the order of its key. How many records were written for that.
async fn judge(context: &Context, client: &Client, setting: &Setting) -> Result<usize, Failure> {
    let inputs = setting.inputs;
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
    let missing = (0..inputs).filter(|n| !counts.contains_key(n)).count();
    let twice = counts.values().filter(|count| **count > 1).count();
    let written = read_topic(&everything, &setting.output, WITHIN)
        .await?
        .len();
    everything.close().await;
    println!(
        "{inputs} records transformed: {missing} lost, {twice} more than once, {overtaken} out of \
         order; {} were aborted",
        written.saturating_sub(inputs as usize)
    );
    if missing > 0 || twice > 0 || overtaken > 0 || counts.len() != inputs as usize {
        return Err("not exactly once".into());
    }
    Ok(written)
}
