//! kcat (librdkafka), franz-go and sarama on the mock cluster: clients that share nothing with us are
//! the judges of whether the mock speaks Kafka.

use super::{Context, Outcome};
use crate::Failure;
use crate::bench::peers::{self, Peer};
use crate::harness::Worker;
use ottla_mock_cluster::MockCluster;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;
use tokio::process::Command;

const WITHIN: Duration = Duration::from_secs(30);
const BROKERS: i32 = 3;
const PARTITIONS: i32 = 4;
const RECORDS: usize = 100;

fn kcat(cluster: &MockCluster, arguments: &[&str]) -> Command {
    let mut command = Command::new("kcat");
    command.arg("-b").arg(cluster.bootstrap()).args(arguments);
    command
}

/// Writes `key-N:value-N` lines with a header; kcat fails when a delivery fails.
async fn produce(context: &Context, cluster: &MockCluster, topic: &str) -> Outcome {
    let mut text = String::new();
    for number in 0..RECORDS {
        writeln!(text, "key-{number}:value-{number}")?;
    }
    let file = context.folder().join("lines");
    std::fs::write(&file, text)?;
    let mut command = kcat(
        cluster,
        &["-P", "-t", topic, "-K:", "-H", "origin=kcat", "-l"],
    );
    command.arg(file);
    finish(Worker::spawn("kcat -P", command)?).await.map(drop)
}

async fn finish(mut worker: Worker) -> Result<Vec<String>, Failure> {
    let status = worker.wait(WITHIN).await?;
    if !status.success() {
        return Err(format!("{}: {status}\n{}", worker.name(), worker.tail(30)).into());
    }
    Ok(worker
        .lines()
        .into_iter()
        .filter(|line| !line.starts_with("! "))
        .collect())
}

fn expected() -> BTreeMap<String, usize> {
    (0..RECORDS)
        .map(|number| (format!("key-{number}=value-{number} origin=kcat"), 1))
        .collect()
}

fn counted(lines: impl IntoIterator<Item = String>) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for line in lines {
        *counts.entry(line).or_default() += 1;
    }
    counts
}

pub(super) async fn produce_and_consume(context: &mut Context) -> Outcome {
    let cluster = MockCluster::builder().brokers(BROKERS).start().await?;
    cluster.create_topic("plain", PARTITIONS)?;
    produce(context, &cluster, "plain").await?;
    let stored = cluster.records("plain");
    if stored.len() != RECORDS
        || stored
            .iter()
            .any(|record| record.header("origin") != Some(b"kcat"))
    {
        return Err(format!(
            "the mock cluster stored {} records: {stored:?}",
            stored.len()
        )
        .into());
    }
    let consume = kcat(
        &cluster,
        &[
            "-C",
            "-t",
            "plain",
            "-o",
            "beginning",
            "-e",
            "-q",
            "-f",
            "%k=%s %h\n",
        ],
    );
    let lines = finish(Worker::spawn("kcat -C", consume)?).await?;
    cluster.shutdown().await;
    if counted(lines) == expected() {
        Ok(())
    } else {
        Err("kcat read something else".into())
    }
}

pub(super) async fn group(context: &mut Context) -> Outcome {
    in_a_group(context, |cluster| {
        let format = ["-f", "%k=%s %h\n", "-u"];
        let reset = [
            "-X",
            "auto.offset.reset=earliest",
            "-X",
            "session.timeout.ms=6000",
        ];
        let mut command = kcat(cluster, &reset);
        command.args(format).args(["-G", "workers", "shared"]);
        command
    })
    .await
}

/// Clients in Go, in groups of both protocols, as far as they speak them.
pub(super) async fn go_groups(context: &mut Context) -> Outcome {
    let peer = Peer::Go("group");
    let jars = Err("not needed".to_owned());
    let program = match peers::build(&[peer], &jars).await(peer) {
        Ok(program) => program,
        Err(why) => {
            println!("SKIPPED: {why}");
            return Ok(());
        }
    };
    let ways = [
        ("franz-go", "classic"),
        ("franz-go", "consumer"),
        ("sarama", "classic"),
    ];
    for (client, protocol) in ways {
        println!("{client}, {protocol}:");
        let outcome = in_a_group(context, |cluster| {
            let mut command = Command::new(&program.path);
            command.args(["-client", client, "-protocol", protocol]);
            command.args(["-bootstrap", &cluster.bootstrap()]);
            command.args(["-group", "workers", "-topic", "shared"]);
            command
        });
        let outcome = outcome.await;
        outcome.map_err(|error| format!("{client}, {protocol}: {error}"))?;
    }
    Ok(())
}

/// Two members share a topic, read all of it once, commit and leave.
async fn in_a_group(context: &Context, member: impl Fn(&MockCluster) -> Command) -> Outcome {
    let cluster = MockCluster::builder().brokers(BROKERS).start().await?;
    cluster.create_topic("shared", PARTITIONS)?;
    let member = || Worker::spawn("a member", member(&cluster));
    let (first, second) = (member()?, member()?);
    // Both must have partitions before the first record, or one could take them all.
    let assigned = |line: &str| line.contains("assigned: shared");
    for worker in [&first, &second] {
        worker.wait_line(assigned, WITHIN).await?;
    }
    wait_until(
        || cluster.group_members("workers").len() == 2,
        "two members",
    )
    .await?;
    produce(context, &cluster, "shared").await?;

    let read = || {
        let lines = first.lines().into_iter().chain(second.lines());
        counted(lines.filter(|line| line.starts_with("key-")))
    };
    wait_until(
        || read().len() == RECORDS,
        "every record at one of the members",
    )
    .await?;
    let mut ends = Vec::new();
    for worker in [first, second] {
        worker.terminate()?;
        ends.push(finish(worker).await?);
    }
    // Stopped in good order, they have committed all that they read.
    for partition in 0..PARTITIONS {
        let end = cluster.high_watermark("shared", partition).unwrap_or(0);
        let committed = cluster
            .committed("workers", "shared", partition)
            .map(|(offset, _)| offset);
        if end > 0 && committed != Some(end) {
            return Err(format!("partition {partition}: {committed:?} of {end} committed").into());
        }
    }
    let shares = ends
        .iter()
        .map(|lines| lines.iter().filter(|line| line.starts_with("key-")));
    let shares: Vec<usize> = shares.map(Iterator::count).collect();
    let all = counted(
        ends.concat()
            .into_iter()
            .filter(|line| line.starts_with("key-")),
    );
    cluster.shutdown().await;
    println!("the members read {shares:?}");
    if all != expected() {
        return Err("the members read something else".into());
    }
    if shares.contains(&0) {
        Err("one member read nothing".into())
    } else {
        Ok(())
    }
}

async fn wait_until(holds: impl Fn() -> bool, what: &str) -> Outcome {
    let deadline = tokio::time::Instant::now() + WITHIN;
    while !holds() {
        if tokio::time::Instant::now() > deadline {
            return Err(format!("{what}: not within {} s", WITHIN.as_secs()).into());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}
