//! What a broker does to a log while clients use it: it throttles them, compacts, and deletes what is
//! old. Nothing is written twice (A1), nothing that is still there is missed, and no position stands
//! still (A5).

use super::{Context, Outcome};
use crate::Failure;
use crate::harness::{Jars, KafkaCluster, KafkaOptions, Worker};
use crate::read_back::{bounds, read_topic};
use futures_util::future::try_join_all;
use ottla::client::transport::FetchLimits;
use ottla::client::{Client, ClientConfig, ErrorKind, NewTopic};
use ottla::consumer::{AutoOffsetReset, Consumer, ConsumerConfig};
use ottla::types::{Record, TopicPartition};
use ottla::{Producer, ProducerConfig};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};
use tokio::time::{interval, timeout};

const WITHIN: Duration = Duration::from_secs(60);
const SOON: Duration = Duration::from_secs(10);
/// Bytes a second that the quota allows; the records are six seconds' worth.
const QUOTA: usize = 100_000;
const VALUE: usize = 1000;
const RECORDS: usize = 600;
const KEYS: usize = 10;

pub(super) async fn run(context: &mut Context) -> Outcome {
    let jars = context.jars().await?;
    // Quotas look back over two windows of a second, and cleaning is done at once.
    let options = KafkaOptions::new(jars.clone())
        .property("quota.window.num", "2")
        .property("log.cleaner.backoff.ms", "100")
        .property("log.retention.check.interval.ms", "200")
        .property("log.initial.task.delay.ms", "100");
    let cluster = KafkaCluster::start(1, options).await?;
    let mut config = ClientConfig::new(&cluster.bootstrap());
    config.transport = context.transport();
    let client = Client::connect(config).await?;
    let producer = Producer::new(&client, ProducerConfig::default())?;
    let outcome = async {
        compaction(&client, &producer).await?;
        retention(&client, &producer).await?;
        quota(&client, &producer, &cluster.bootstrap(), &jars).await
    }
    .await;
    if outcome.is_err() {
        eprintln!("{}", cluster.log_tail(0, 40));
    }
    let left = producer.close(SOON).await;
    client.close().await;
    cluster.stop().await?;
    outcome?;
    if !left.is_clean() {
        return Err(format!("the producer left {left:?}").into());
    }
    Ok(())
}

/// A throttled producer writes each record once, a throttled reader gets each once.
async fn quota(client: &Client, producer: &Producer, bootstrap: &str, jars: &Jars) -> Outcome {
    let mut command = jars.java(
        &["-Xmx128m", "-XX:TieredStopAtLevel=1"],
        "kafka.admin.ConfigCommand",
    );
    command.args([
        "--bootstrap-server",
        bootstrap,
        "--alter",
        "--entity-type",
        "clients",
    ]);
    let both = format!("producer_byte_rate={QUOTA},consumer_byte_rate={QUOTA}");
    command.args(["--entity-default", "--add-config", &both]);
    let mut setting = Worker::spawn("ConfigCommand", command)?;
    let status = setting.wait(WITHIN).await?;
    if !status.success() {
        return Err(format!("the quota is not set: {status}\n{}", setting.tail(20)).into());
    }
    create(client, "throttled", &[]).await?;
    let started = Instant::now();
    let written = write(producer, "throttled", 0..RECORDS, RECORDS, VALUE);
    timeout(WITHIN, written).await??;
    let writing = started.elapsed();
    let started = Instant::now();
    let ids = values(client, "throttled").await?;
    let reading = started.elapsed();
    println!("under a quota: {RECORDS} records written in {writing:.1?}, read in {reading:.1?}");
    let distinct: BTreeSet<&String> = ids.iter().collect();
    if ids.len() != RECORDS || distinct.len() != RECORDS {
        return Err(format!(
            "{} records, {} of them different",
            ids.len(),
            distinct.len()
        )
        .into());
    }
    // Two windows may go at once; what is above them is held up.
    let least = Duration::from_secs((RECORDS * VALUE / QUOTA) as u64 / 2);
    if writing < least || reading < least {
        return Err("nothing was throttled".into());
    }
    Ok(())
}

/// A reader gets the last value of every key, wherever it begins, and comes to the end.
async fn compaction(client: &Client, producer: &Producer) -> Outcome {
    let settings = [
        ("cleanup.policy", "compact"),
        ("min.cleanable.dirty.ratio", "0.0001"),
        ("segment.ms", "100"),
    ];
    create(client, "compacted", &settings).await?;
    let (left, number) = write_until(producer, "compacted", async |number| {
        let left = values(client, "compacted").await?;
        Ok((left.len() < number / 3).then_some(left))
    })
    .await?;
    println!("compaction: {} of {number} records are left", left.len());
    let newest: BTreeSet<String> = (number - KEYS..number).map(|n| n.to_string()).collect();
    let end = number as i64;
    for from in 0..end {
        let seen = walk(client, "compacted", from, end).await?;
        let expected = newest
            .iter()
            .filter(|n| n.parse().is_ok_and(|n: i64| n >= from));
        if let Some(missed) = expected.into_iter().find(|value| !seen.contains(*value)) {
            return Err(format!("from offset {from} on, {missed} is missed").into());
        }
    }
    let mut last = BTreeMap::new();
    for value in group(client, "compacted", &newest).await? {
        let number: usize = value.parse()?;
        last.insert(number % KEYS, value);
    }
    if last.into_values().collect::<BTreeSet<_>>() != newest {
        return Err("a group did not get the last value of each key".into());
    }
    Ok(())
}

/// A reader whose position was deleted hears of it; a group goes on where its config says.
async fn retention(client: &Client, producer: &Producer) -> Outcome {
    let settings = [("segment.ms", "100"), ("retention.ms", "1000")];
    create(client, "deleted", &settings).await?;
    let (start, number) = write_until(producer, "deleted", async |_| {
        let start = bounds(client, "deleted", SOON).await?[0].1;
        Ok((start > 0).then_some(start))
    })
    .await?;
    println!("retention: the log begins at {start} of {number}");
    match walk(client, "deleted", 0, 1).await {
        Err(error) if error.kind() == ErrorKind::OffsetOutOfRange && error.offset() == Some(0) => {}
        other => return Err(format!("offset 0 is deleted, and reading it gave {other:?}").into()),
    }
    let newest = [(number - 1).to_string()].into();
    let seen = group(client, "deleted", &newest).await?;
    let first: usize = seen.first().ok_or("nothing was read")?.parse()?;
    // What was still there when the group began, without a gap up to the end.
    let expected: Vec<String> = (first..number).map(|n| n.to_string()).collect();
    if seen != expected || (first as i64) < start {
        return Err(format!("from {start} on a group read {seen:?}").into());
    }
    Ok(())
}

async fn create(client: &Client, topic: &str, settings: &[(&str, &str)]) -> Outcome {
    let mut new = NewTopic::new(topic, 1).replication(1);
    for (name, value) in settings {
        new = new.config(*name, *value);
    }
    Ok(client.ensure_topics(vec![new]).await?)
}

/// Writes a record of each key now and then, until `look`, which is told how many there are, has
/// found something; gives that and the number of records. A segment is closed by the first record
/// after its time, and cleaned afterwards.
async fn write_until<T>(
    producer: &Producer,
    topic: &str,
    mut look: impl AsyncFnMut(usize) -> Result<Option<T>, Failure>,
) -> Result<(T, usize), Failure> {
    let mut pace = interval(Duration::from_millis(150));
    let mut number = 0;
    let writing = async {
        loop {
            pace.tick().await;
            write(producer, topic, number..number + KEYS, KEYS, 0).await?;
            number += KEYS;
            if let Some(found) = look(number).await? {
                return Ok((found, number));
            }
        }
    };
    timeout(WITHIN, writing).await?
}

/// Writes the numbers as values, padded by so many bytes, with as many keys as are asked for.
async fn write(
    producer: &Producer,
    topic: &str,
    numbers: std::ops::Range<usize>,
    keys: usize,
    padding: usize,
) -> Outcome {
    let sends = numbers.map(|n| {
        let record = Record::new(topic).key(format!("key-{}", n % keys));
        producer.send(record.value(format!("{n}{}", " ".repeat(padding))))
    });
    try_join_all(sends).await?;
    Ok(())
}

/// All values that the topic holds now.
async fn values(client: &Client, topic: &str) -> Result<Vec<String>, ottla::client::Error> {
    let records = read_topic(client, topic, WITHIN).await?;
    Ok(records
        .iter()
        .map(|record| text(record.value.as_deref()))
        .collect())
}

fn text(value: Option<&[u8]>) -> String {
    String::from_utf8_lossy(value.unwrap_or_default())
        .trim()
        .to_owned()
}

/// The values from `from` on, until the position has come to `end`.
async fn walk(
    client: &Client,
    topic: &str,
    from: i64,
    end: i64,
) -> Result<BTreeSet<String>, ottla::client::Error> {
    let limits = FetchLimits {
        max_wait: Duration::from_millis(100),
        min_bytes: 1,
        max_partition_bytes: 1 << 20,
        max_bytes: 1 << 20,
        read_ahead_bytes: 1 << 20,
    };
    let (partition, mut position) = (TopicPartition::new(topic, 0), from);
    let mut seen = BTreeSet::new();
    let started = Instant::now();
    while position < end {
        if started.elapsed() > SOON {
            let error = ottla::client::Error::new(ErrorKind::TimedOut, "reach the end");
            return Err(error.with_partition(partition).with_offset(position));
        }
        let wanted = vec![(partition.clone(), position.into())];
        for (_, fetched) in client.transport().fetch(limits, wanted).await {
            let fetched = fetched?;
            for record in fetched
                .records
                .batches()
                .flatten()
                .flat_map(|b| b.records())
            {
                let record = record.map_err(|e| {
                    ottla::client::Error::new(ErrorKind::Protocol, "Fetch").with_source(e)
                })?;
                if record.offset >= position {
                    seen.insert(text(record.value.as_deref()));
                }
            }
            position = fetched.next_offset;
        }
    }
    Ok(seen)
}

/// What a new group reads from the beginning until it has got all of `newest`.
async fn group(
    client: &Client,
    topic: &str,
    newest: &BTreeSet<String>,
) -> Result<Vec<String>, Failure> {
    let config = ConsumerConfig {
        group_id: format!("{topic}-readers"),
        auto_offset_reset: AutoOffsetReset::Earliest,
        ..ConsumerConfig::default()
    };
    let mut consumer = Consumer::subscribe(client, config, [topic]).await?;
    let mut seen = Vec::new();
    let reading = timeout(WITHIN, async {
        while !newest.iter().all(|value| seen.contains(value)) {
            let batch = consumer.recv().await?;
            seen.extend(batch.records().iter().map(|r| text(r.value.as_deref())));
        }
        Ok(consumer.commit_sync().await?)
    });
    let read: Outcome = reading.await?;
    let report = consumer.close(SOON).await;
    read?;
    if !report.clean {
        return Err(format!("the group left {report:?}").into());
    }
    Ok(seen)
}
