//! Who a partition is read from: the replica in the reader's rack (KIP-392), and a leader that has less
//! than its predecessor had (KIP-320), on brokers that do it for real.

use super::{Context, Outcome};
use crate::Failure;
use crate::harness::{KafkaCluster, KafkaOptions, Proxies};
use crate::read_back::read_topic;
use futures_util::future::try_join_all;
use ottla::client::transport::{FetchLimits, FetchPosition};
use ottla::client::{Client, ClientConfig, Error, ErrorKind, NewTopic};
use ottla::consumer::{AutoOffsetReset, Consumer, ConsumerConfig};
use ottla::types::{Record, TopicPartition};
use ottla::{Producer, ProducerConfig};
use ottla_client::PartitionMetadata;
use std::ops::Range;
use std::time::Duration;
use tokio::time::{interval, timeout};

const WITHIN: Duration = Duration::from_secs(60);
const SOON: Duration = Duration::from_secs(10);
/// Bytes that a value is padded to.
const VALUE: usize = 5_000;
const LIMITS: FetchLimits = FetchLimits {
    max_wait: Duration::from_millis(200),
    min_bytes: 1,
    max_partition_bytes: 1 << 20,
    max_bytes: 1 << 20,
    read_ahead_bytes: 1 << 20,
};

pub(super) async fn run(context: &mut Context) -> Outcome {
    let jars = context.jars().await?;
    let selector = "org.apache.kafka.common.replica.RackAwareReplicaSelector";
    let options = KafkaOptions::new(jars)
        .behind_proxies()
        .property("broker.rack", "rack-{node.id}")
        .property("replica.selector.class", selector);
    let cluster = KafkaCluster::start(context.nodes(), options).await?;
    let proxies = Proxies::start(cluster.proxy_routes()).await?;
    let mut config = ClientConfig::new(&cluster.bootstrap());
    config.transport = context.transport();
    let client = Client::connect(config.clone()).await?;
    let producer = Producer::new(&client, ProducerConfig::default())?;
    let mut bed = Bed {
        cluster,
        proxies,
        config,
        client,
        producer,
    };
    let outcome = async {
        bed.rack().await?;
        bed.truncation().await
    }
    .await;
    if outcome.is_err() {
        for node in 0..bed.cluster.len() {
            eprintln!("node {node}:\n{}", bed.cluster.log_tail(node, 25));
        }
    }
    let left = bed.producer.close(SOON).await;
    bed.client.close().await;
    bed.cluster.stop().await?;
    outcome?;
    if !left.is_clean() {
        return Err(format!("the producer left {left:?}").into());
    }
    Ok(())
}

/// The cluster, and who writes to it. Its nodes stand in racks of their own.
struct Bed {
    cluster: KafkaCluster,
    /// Only readers come through them.
    proxies: Proxies,
    config: ClientConfig,
    client: Client,
    producer: Producer,
}

impl Bed {
    /// A reader in the rack of a follower gets its records from there, from the leader while the
    /// follower is down, and from the follower again.
    async fn rack(&mut self) -> Outcome {
        let partition = self.create("near", 3, &[]).await?;
        let leader = self.node(partition.leader)?;
        let follower = (leader + 1) % self.cluster.len();
        let mut config = self.config.clone();
        config.bootstrap = ClientConfig::new(&self.cluster.proxied_bootstrap()).bootstrap;
        config.client_rack = format!("rack-{}", self.cluster.node_id(follower)?);
        let reader = Client::connect(config).await?;

        let bytes = |bed: &Self| [leader, follower].map(|node| bed.proxies.sent_by(node));
        self.write("near", 0..400).await?;
        let mut position = follow(&reader, "near", 0.into(), 0..400).await?;
        let [by_leader, by_follower] = bytes(self);
        println!(
            "in the follower's rack: {by_leader} bytes from the leader, {by_follower} from it"
        );
        let written = 400 * VALUE as u64;
        if by_follower < written || by_leader > written / 10 {
            return Err("the records did not come from the reader's rack".into());
        }

        self.cluster.kill9(follower).await?;
        self.write("near", 400..500).await?;
        position = follow(&reader, "near", position, 400..500).await?;
        let [by_leader, _] = bytes(self);
        if by_leader < 100 * VALUE as u64 {
            return Err("the leader has not taken over".into());
        }

        self.cluster.restart(follower).await?;
        let [_, before] = bytes(self);
        let again = async {
            let mut next = 500;
            while bytes(self)[1] < before + VALUE as u64 {
                self.write("near", next..next + 1).await?;
                position = follow(&reader, "near", position, next..next + 1).await?;
                next += 1;
            }
            Ok::<_, Failure>(next)
        };
        let read = timeout(WITHIN, again).await??;
        println!(
            "the follower came back and serves again, {} records later",
            read - 500
        );
        reader.close().await;
        Ok(())
    }

    /// A leader that lost what was acknowledged: readers who have read on hear where the logs part,
    /// a group goes on from there, and the old leader cuts its log too.
    async fn truncation(&mut self) -> Outcome {
        let settings = [
            ("min.insync.replicas", "1"),
            ("unclean.leader.election.enable", "true"),
        ];
        let partition = self.create("cut", 2, &settings).await?;
        let old = self.node(partition.leader)?;
        let other = partition
            .replicas
            .iter()
            .find(|id| Some(**id) != partition.leader);
        let new = self.node(other.copied())?;
        let mut group = self.group("cut").await?;

        self.write("cut", 0..10).await?;
        self.cluster.kill9(new).await?;
        self.write("cut", 10..20).await?;
        let position = follow(&self.client, "cut", 0.into(), 0..20).await?;
        group.expect(0..20).await?;

        self.cluster.kill9(old).await?;
        self.cluster.restart(new).await?;
        self.wait_for("cut", |now| now.leader == Some(new as i32 + 1))
            .await?;
        self.write("cut", 100..105).await?;
        let error = refused(&self.client, "cut", position).await?;
        let part = (error.kind(), error.diverging_offset());
        println!("after an unclean election: {error}");
        if part != (ErrorKind::Truncated, Some(10)) || error.offset() != Some(20) {
            return Err(format!("the log was cut at 10, and the reader was told {part:?}").into());
        }
        group.expect(100..105).await?;
        let position = follow(&self.client, "cut", 10.into(), 100..105).await?;

        // The old leader follows, and leads again with the same log: nothing is cut this time.
        self.cluster.restart(old).await?;
        self.wait_for("cut", |now| now.isr.len() == 2).await?;
        self.cluster.terminate(new).await?;
        self.wait_for("cut", |now| now.leader == Some(old as i32 + 1))
            .await?;
        self.write("cut", 105..110).await?;
        follow(&self.client, "cut", position, 105..110).await?;
        group.expect(105..110).await?;
        let log = read_topic(&self.client, "cut", WITHIN).await?;
        let log: Vec<usize> = log.iter().map(|r| number(r.value.as_deref())).collect();
        if !log.iter().copied().eq((0..10).chain(100..110)) {
            return Err(format!("the log is {log:?}").into());
        }
        group.close().await
    }

    async fn create(
        &self,
        topic: &str,
        copies: i16,
        settings: &[(&str, &str)],
    ) -> Result<PartitionMetadata, Failure> {
        let mut new = NewTopic::new(topic, 1).replication(copies);
        for (name, value) in settings {
            new = new.config(*name, *value);
        }
        self.client.ensure_topics(vec![new]).await?;
        let is_whole = |now: &PartitionMetadata| now.isr.len() == copies as usize;
        self.wait_for(topic, is_whole).await
    }

    fn node(&self, id: Option<i32>) -> Result<usize, Failure> {
        let node = id.and_then(|id| self.cluster.node_of_id(id));
        node.ok_or_else(|| format!("no node has id {id:?}").into())
    }

    /// Waits until the cluster describes the topic's partition in this way.
    async fn wait_for(
        &self,
        topic: &str,
        is_there: impl Fn(&PartitionMetadata) -> bool,
    ) -> Result<PartitionMetadata, Failure> {
        let mut pace = interval(Duration::from_millis(200));
        let mut last = None;
        let waiting = async {
            loop {
                pace.tick().await;
                // There may be no leader for a while, nor a broker that says so.
                if let Ok(described) = self.client.refresh_topic(topic).await
                    && let Some(now) = described.partition(0)
                {
                    last = Some(now.clone());
                    if now.leader.is_some() && is_there(now) {
                        return now.clone();
                    }
                }
            }
        };
        let found = timeout(WITHIN, waiting).await;
        found.map_err(|_| format!("the cluster stays at {last:?}").into())
    }

    /// Writes the numbers as values, in this order.
    async fn write(&self, topic: &str, numbers: Range<usize>) -> Outcome {
        let sends = numbers.map(|n| {
            let record = Record::new(topic).partition(0);
            self.producer.enqueue(record.value(format!("{n:<VALUE$}")))
        });
        let handles: Vec<_> = sends.collect();
        timeout(WITHIN, try_join_all(handles)).await??;
        Ok(())
    }

    async fn group(&self, topic: &str) -> Result<Group, Failure> {
        let config = ConsumerConfig {
            group_id: format!("{topic}-readers"),
            auto_offset_reset: AutoOffsetReset::Earliest,
            ..ConsumerConfig::default()
        };
        Ok(Group(
            Consumer::subscribe(&self.client, config, [topic]).await?,
        ))
    }
}

/// A group of one member.
struct Group(Consumer);

impl Group {
    /// Exactly these come next.
    async fn expect(&mut self, numbers: Range<usize>) -> Outcome {
        let mut wanted = numbers.clone();
        let reading = async {
            while !wanted.is_empty() {
                let batch = self.0.recv().await?;
                for record in batch.records() {
                    let read = number(record.value.as_deref());
                    if wanted.next() != Some(read) {
                        return Err(format!("a group read {read} of {numbers:?}").into());
                    }
                }
                self.0.commit_sync().await?;
            }
            Ok(())
        };
        timeout(WITHIN, reading).await?
    }

    async fn close(self) -> Outcome {
        let report = self.0.close(SOON).await;
        if report.clean {
            return Ok(());
        }
        Err(format!("the group left {report:?}").into())
    }
}

/// Reads exactly these numbers from `position` on; the position behind them.
async fn follow(
    client: &Client,
    topic: &str,
    mut position: FetchPosition,
    numbers: Range<usize>,
) -> Result<FetchPosition, Failure> {
    let mut wanted = numbers.clone();
    let reading = async {
        while !wanted.is_empty() {
            let Some(fetched) = fetch(client, topic, position).await? else {
                continue;
            };
            for batch in fetched.records.batches() {
                for record in batch?.records() {
                    let record = record?;
                    if record.offset < position.offset {
                        continue;
                    }
                    let read = number(record.value.as_deref());
                    if wanted.next() != Some(read) {
                        return Err(format!("{read} was read of {numbers:?}").into());
                    }
                }
            }
            position = fetched.next_position();
        }
        Ok(position)
    };
    timeout(WITHIN, reading).await?
}

/// One answer for the position; nothing when none came in time, or an error that passes.
async fn fetch(
    client: &Client,
    topic: &str,
    position: FetchPosition,
) -> Result<Option<ottla::client::transport::Fetched>, Error> {
    let wanted = vec![(TopicPartition::new(topic, 0), position)];
    let mut answers = client.transport().fetch(LIMITS, wanted).await;
    match answers.pop() {
        None => Ok(None),
        Some((_, Ok(fetched))) => Ok(Some(fetched)),
        Some((_, Err(error))) if error.is_retriable() => Ok(None),
        Some((_, Err(error))) => Err(error),
    }
}

/// What reading on ends in.
async fn refused(client: &Client, topic: &str, position: FetchPosition) -> Result<Error, Failure> {
    let reading = async {
        loop {
            match fetch(client, topic, position).await {
                Ok(None) => {}
                Ok(Some(fetched)) => {
                    return Err(format!("it was read on to {}", fetched.next_offset).into());
                }
                Err(error) => return Ok(error),
            }
        }
    };
    timeout(WITHIN, reading).await?
}

fn number(value: Option<&[u8]>) -> usize {
    let text = String::from_utf8_lossy(value.unwrap_or_default());
    text.trim().parse().unwrap_or(usize::MAX)
}
