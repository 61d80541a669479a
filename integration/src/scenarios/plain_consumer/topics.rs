//! Topics by an expression: those that come are read, those that go are given back; and a consumer
//! that subscribes to something else.

use super::{Failure, Outcome, SOON};
use futures_util::future::try_join_all;
use ottla::Producer;
use ottla::client::{Client, NewTopic};
use ottla::consumer::{AutoOffsetReset, Consumer, ConsumerConfig, ErrorKind, GroupProtocol};
use ottla::types::{Record, TopicPartition};
use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::time::{Instant, timeout};

const PARTITIONS: i32 = 2;
/// Records of a topic that are written at a time.
const RECORDS: usize = 20;
/// A broker looks at new topics for its expressions every ten seconds (KIP-848).
const FOUND_WITHIN: Duration = Duration::from_secs(30);

const HOUR_MS: i64 = 3_600_000;

/// What was read: records of each topic, by the end of its name.
type Read = BTreeMap<String, usize>;

pub(super) struct Bed<'a> {
    /// Looks for new topics every second or so.
    pub(super) client: &'a Client,
    pub(super) producer: &'a Producer,
    /// What all names begin with.
    pub(super) base: String,
    pub(super) protocol: GroupProtocol,
    pub(super) replication: i16,
}

impl Bed<'_> {
    pub(super) async fn run(&self) -> Outcome {
        self.refuse_a_bad_expression().await?;
        self.make(&["eu-1", "eu-x", "other"]).await?;
        let pattern = format!("{}-eu-[0-9]+", self.base);
        let builder = Consumer::builder(self.client, self.config("readers"));
        let mut consumer = builder.subscribe_pattern(pattern).await?;
        self.expect(&mut consumer, &["eu-1"], RECORDS).await?;
        consumer.commit_sync().await?;
        self.look_up(&consumer).await?;

        let begun = Instant::now();
        self.make(&["us-1", "eu-2"]).await?;
        self.expect(&mut consumer, &["eu-2"], RECORDS).await?;
        let found = begun.elapsed();
        self.delete("eu-1").await?;
        self.owns(&mut consumer, &["eu-2"]).await?;
        let gone = begun.elapsed() - found;
        println!(
            "{:?}: a new topic was found and read in {:.1} s, a deleted one given back in {:.1} s",
            self.protocol,
            found.as_secs_f64(),
            gone.as_secs_f64()
        );

        // Another subscription: what was read and committed is not read again.
        consumer.commit_sync().await?;
        consumer.resubscribe([self.name("eu-2"), self.name("us-1")])?;
        self.expect(&mut consumer, &["us-1"], RECORDS).await?;
        consumer.unsubscribe()?;
        match consumer.recv().await {
            Err(error) if error.kind() == ErrorKind::NotSubscribed => {}
            other => return Err(format!("without a subscription came {other:?}").into()),
        }
        self.owns(&mut consumer, &[]).await?;
        // Nobody has committed what was read of it.
        consumer.resubscribe([self.name("us-1")])?;
        self.expect(&mut consumer, &["us-1"], RECORDS).await?;
        consumer.commit_sync().await?;
        let report = consumer.close(SOON).await;
        if !report.clean {
            return Err(format!("the consumer left {report:?}").into());
        }
        Ok(())
    }

    /// The ends of the first topic's log, and the offsets of an hour ago and of one to come.
    async fn look_up(&self, consumer: &Consumer) -> Outcome {
        let all = || (0..PARTITIONS).map(|p| TopicPartition::new(self.name("eu-1"), p));
        let first = consumer.beginning_offsets(all()).await?;
        let ends = consumer.end_offsets(all()).await?;
        if first.values().any(|o| *o != 0) || ends.values().sum::<i64>() != RECORDS as i64 {
            return Err(format!("the log goes from {first:?} to {ends:?}").into());
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis();
        let now = i64::try_from(now)?;
        for (time, is_there) in [(now - HOUR_MS, true), (now + HOUR_MS, false)] {
            let found = consumer.offsets_for_times(all().map(|p| (p, time))).await?;
            let wanted = ends.iter().map(|(p, end)| {
                let offset = (is_there && *end > 0).then_some(0);
                (p.clone(), offset)
            });
            if !wanted.eq(found.clone()) {
                return Err(format!("at {time} are {found:?}").into());
            }
        }
        Ok(())
    }

    async fn refuse_a_bad_expression(&self) -> Outcome {
        let builder = Consumer::builder(self.client, self.config("bad"));
        let error = match builder.subscribe_pattern("eu-(").await {
            Err(error) => error,
            Ok(mut consumer) => match timeout(SOON, consumer.recv()).await? {
                Err(error) => error,
                Ok(batch) => return Err(format!("a bad expression read {batch:?}").into()),
            },
        };
        let why = ottla::types::with_causes(&error);
        if error.kind() != ErrorKind::Config || !why.contains("`eu-(`") {
            return Err(format!("a bad expression is told as: {why}").into());
        }
        println!("{:?}: {why}", self.protocol);
        Ok(())
    }

    fn config(&self, group: &str) -> ConsumerConfig {
        ConsumerConfig {
            session_timeout: super::SESSION,
            heartbeat_interval: Duration::from_millis(500),
            auto_offset_reset: AutoOffsetReset::Earliest,
            group_protocol: self.protocol,
            ..ConsumerConfig::new(format!("{}-{group}", self.base))
        }
    }

    fn name(&self, end: &str) -> String {
        format!("{}-{end}", self.base)
    }

    /// Topics with records.
    async fn make(&self, ends: &[&str]) -> Outcome {
        let topics = ends.iter().map(|end| {
            let topic = NewTopic::new(self.name(end), PARTITIONS);
            topic.replication(self.replication)
        });
        self.client.ensure_topics(topics.collect()).await?;
        let sends = ends.iter().flat_map(|end| {
            let record = move |n: usize| Record::new(self.name(end)).value(n.to_string());
            (0..RECORDS).map(move |n| self.producer.enqueue(record(n)))
        });
        let sends: Vec<_> = sends.collect();
        try_join_all(sends).await?;
        Ok(())
    }

    async fn delete(&self, end: &str) -> Outcome {
        for (_, deleted) in self.client.delete_topics(vec![self.name(end)]).await? {
            deleted?;
        }
        Ok(())
    }

    /// Reads as many records of each of these, and nothing else.
    async fn expect(&self, consumer: &mut Consumer, ends: &[&str], each: usize) -> Outcome {
        let mut read = Read::new();
        let all = each * ends.len();
        let limit = Instant::now() + FOUND_WITHIN;
        while read.values().sum::<usize>() < all && Instant::now() < limit {
            self.read_some(consumer, &mut read).await?;
        }
        // What should not come has a moment to come.
        self.read_some(consumer, &mut read).await?;
        let wanted: Read = ends.iter().map(|end| (self.name(end), each)).collect();
        if read != wanted {
            return Err(format!("{read:?} was read, not {wanted:?}").into());
        }
        Ok(())
    }

    async fn read_some(&self, consumer: &mut Consumer, read: &mut Read) -> Result<(), Failure> {
        if let Some(batch) = consumer.poll(Duration::from_millis(500)).await? {
            let topic = batch.partition().topic.to_string();
            *read.entry(topic).or_default() += batch.records().len();
        }
        Ok(())
    }

    /// Waits until the consumer owns these topics and no others; asks for records as a program would,
    /// unless there is nothing to ask for.
    async fn owns(&self, consumer: &mut Consumer, ends: &[&str]) -> Outcome {
        let wanted: Vec<_> = ends.iter().map(|end| self.name(end)).collect();
        let limit = Instant::now() + FOUND_WITHIN;
        loop {
            let mut owned: Vec<_> = consumer.assignment();
            owned.dedup_by(|a, b| a.topic == b.topic);
            if owned.iter().map(|p| &*p.topic).eq(&wanted) {
                return Ok(());
            }
            if Instant::now() > limit {
                return Err(format!("{owned:?} is owned, not {wanted:?}").into());
            }
            match consumer.poll(Duration::from_millis(100)).await {
                Ok(None) => {}
                Ok(Some(batch)) => return Err(format!("{batch:?} was read").into()),
                Err(error) if error.kind() == ErrorKind::NotSubscribed => {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
}
