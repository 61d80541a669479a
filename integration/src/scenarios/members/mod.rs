//! Groups whose members are processes of their own, under a steady load: replaced, killed, frozen,
//! or slow, while brokers restart. Each scenario has a group a protocol on the same topic.

mod gone;
mod rolling;
mod slow;
mod verdict;

pub(super) use gone::{member_kill, zombie};
pub(super) use rolling::{deploy, restart};
pub(super) use slow::slow_handler;

use super::Context;
use crate::Failure;
use crate::harness::{Worker, own_program};
use crate::history::Acknowledged;
use crate::member::{MemberOptions, STANDING, Standing, TAKES_MS};
use crate::read_back::bounds;
use ottla::client::{Client, NewTopic};
use ottla::consumer::GroupProtocol;
use ottla::producer::DeliveryHandle;
use ottla::types::coordinator::OffsetFetchRequest;
use ottla::types::{Offset, Record, TopicPartition, names};
use ottla::{Producer, ProducerConfig};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::process::Command;
use tokio::time::{Instant, interval};

const PARTITIONS: i32 = 9;
/// The keys of each partition.
const KEYS_EACH: u64 = 4;
/// A record for each partition.
const SEND_EVERY: Duration = Duration::from_millis(25);
const MEMBERS: usize = 3;
/// That of the brokers' own setting for KIP-848 too.
const SESSION: Duration = Duration::from_secs(6);
const HEARTBEAT: Duration = Duration::from_secs(1);
const WITHIN: Duration = Duration::from_secs(40);
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// How a group works.
#[derive(Debug, Clone, Copy)]
struct Way {
    name: &'static str,
    protocol: GroupProtocol,
}

fn ways(context: &Context) -> [Way; 2] {
    let protocol = context.other_groups();
    let classic = Way {
        name: "cooperative",
        protocol: GroupProtocol::Classic,
    };
    let name = match protocol {
        GroupProtocol::Consumer => "kip-848",
        _ => "auto",
    };
    [classic, Way { name, protocol }]
}

/// A topic, and the names of a run.
struct Bed {
    client: Client,
    bootstrap: String,
    topic: String,
    folder: PathBuf,
    ways: [Way; 2],
    /// Members so far, so that each has a name of its own.
    started: AtomicUsize,
}

/// A member's process.
struct Member {
    way: Way,
    name: String,
    group: String,
    worker: Worker,
    journal: PathBuf,
}

impl Member {
    /// How it told last that it stands.
    fn standing(&self) -> Result<Standing, Failure> {
        let lines = self.worker.lines();
        let mut told = lines.iter().rev().filter_map(|l| l.strip_prefix(STANDING));
        match told.next() {
            Some(text) => Ok(serde_json::from_str(text)?),
            None => Ok(Standing::default()),
        }
    }

    async fn ends_well(&mut self) -> Result<(), Failure> {
        let status = self.worker.wait(WITHIN).await?;
        if status.success() {
            return Ok(());
        }
        Err(format!("{}: {status}\n{}", self.name, self.worker.tail(20)).into())
    }
}

impl Bed {
    async fn new(context: &Context) -> Result<Self, Failure> {
        let client = context.client().await?;
        let topic = context.unique("members");
        let new = NewTopic::new(&topic, PARTITIONS).replication(context.replication());
        client.ensure_topics(vec![new]).await?;
        Ok(Self {
            client,
            bootstrap: context.bootstrap(),
            topic,
            folder: context.folder().to_owned(),
            ways: ways(context),
            started: AtomicUsize::new(0),
        })
    }

    fn group(&self, way: Way) -> String {
        format!("{}-{}", self.topic, way.name)
    }

    /// Starts a member, whose options `change` may alter.
    fn member(&self, way: Way, change: impl FnOnce(&mut MemberOptions)) -> Result<Member, Failure> {
        let number = self.started.fetch_add(1, Ordering::Relaxed);
        let name = format!("{}-{number}", way.name);
        let mut options = MemberOptions {
            bootstrap: self.bootstrap.clone(),
            group: self.group(way),
            topic: self.topic.clone(),
            output: None,
            instance: None,
            protocol: way.protocol,
            session_ms: millis(SESSION),
            processing_ms: millis(WITHIN),
            journal: self.folder.join(format!("{name}.journal")),
        };
        change(&mut options);
        let mut command = Command::new(own_program("member")?);
        command.arg(serde_json::to_string(&options)?);
        Ok(Member {
            way,
            group: options.group,
            worker: Worker::spawn_logged(&*name, command, &self.folder)?,
            journal: options.journal,
            name,
        })
    }

    /// So many members for each way, each with its number; they share all partitions.
    async fn members(
        &self,
        count: usize,
        change: impl Fn(&mut MemberOptions, usize),
    ) -> Result<Vec<Member>, Failure> {
        let mut members = Vec::new();
        for way in self.ways {
            for number in 0..count {
                members.push(self.member(way, |options| change(options, number))?);
            }
        }
        self.settled(&members).await?;
        Ok(members)
    }

    /// Waits until each group's members share all partitions.
    async fn settled<'a>(
        &self,
        members: impl IntoIterator<Item = &'a Member> + Clone,
    ) -> Result<(), Failure> {
        let all: Vec<i32> = (0..PARTITIONS).collect();
        until(WITHIN, async || {
            let mut shared: BTreeMap<&str, Vec<i32>> = BTreeMap::new();
            let (mut standings, mut is_idle) = (Vec::new(), false);
            for member in members.clone() {
                let standing = member.standing()?;
                is_idle |= standing.partitions.is_empty();
                let shares = shared.entry(&member.group).or_default();
                shares.extend(&standing.partitions);
                shares.sort_unstable();
                standings.push((&member.name, standing));
            }
            let is_settled = !is_idle && shared.values().all(|shares| *shares == all);
            Ok((!is_settled).then(|| format!("not all is shared: {standings:?}")))
        })
        .await
    }

    /// Does `work` while records are sent; with what came of it the records that were written.
    async fn under_load<T>(
        &self,
        work: impl Future<Output = Result<T, Failure>>,
    ) -> Result<(T, Vec<Acknowledged>), Failure> {
        let done = AtomicBool::new(false);
        let work = async {
            let outcome = work.await;
            done.store(true, Ordering::Relaxed);
            outcome
        };
        let (sent, outcome) = tokio::join!(Box::pin(self.send_until(&done)), Box::pin(work));
        Ok((outcome?, sent?))
    }

    async fn send_until(&self, done: &AtomicBool) -> Result<Vec<Acknowledged>, Failure> {
        let producer = Producer::new(&self.client, ProducerConfig::default())?;
        let mut pace = interval(SEND_EVERY);
        let mut sent = Vec::new();
        for round in 0_u64.. {
            if done.load(Ordering::Relaxed) {
                break;
            }
            pace.tick().await;
            let seq = round / KEYS_EACH;
            for partition in 0..PARTITIONS {
                let key = format!("key-{partition}-{}", round % KEYS_EACH);
                let record = self.record(&key, seq, partition);
                let delivery = producer.enqueue_when_room(record).await;
                sent.push((key, seq, delivery));
            }
        }
        let mut acknowledged = Vec::with_capacity(sent.len());
        for (key, seq, delivery) in sent {
            acknowledged.push(acknowledge(key, seq, delivery).await?);
        }
        let left = producer.close(WITHIN).await;
        match left.is_clean() {
            true => Ok(acknowledged),
            false => Err(format!("the sender left {left:?}").into()),
        }
    }

    fn record(&self, key: &str, seq: u64, partition: i32) -> Record {
        let record = Record::new(self.topic.as_str()).key(key.to_owned());
        let record = record.value(seq.to_string()).partition(partition);
        record.header(names::MESSAGE_ID, format!("{key}-{seq}"))
    }

    /// Sends one record that takes a handler so long; no other one has its name.
    async fn send_slow(
        &self,
        name: &str,
        partition: i32,
        takes: Duration,
    ) -> Result<Acknowledged, Failure> {
        let producer = Producer::new(&self.client, ProducerConfig::default())?;
        let key = format!("slow-{name}");
        let record = self.record(&key, 0, partition);
        let record = record.header(TAKES_MS, takes.as_millis().to_string());
        let sent = acknowledge(key, 0, producer.enqueue_when_room(record).await).await;
        let _ = producer.close(WITHIN).await;
        sent
    }

    /// What a group has committed, by partition.
    async fn committed(&self, group: &str) -> Result<BTreeMap<i32, Offset>, Failure> {
        let partitions = (0..PARTITIONS).map(|n| TopicPartition::new(self.topic.as_str(), n));
        let request = OffsetFetchRequest {
            partitions: partitions.collect(),
            require_stable: false,
        };
        let answer = self.client.group(group).fetch_offsets(request).await?;
        let offsets = answer.offsets.into_iter();
        let offsets = offsets.filter_map(|o| Some((o.partition.partition, o.offset?)));
        Ok(offsets.collect())
    }

    /// Waits until each group has committed at least so much of these partitions.
    async fn committed_at_least(
        &self,
        wanted: BTreeMap<i32, Offset>,
        within: Duration,
    ) -> Result<(), Failure> {
        for way in self.ways {
            let group = self.group(way);
            until(within, async || {
                let committed = self.committed(&group).await?;
                let of = |partition| committed.get(partition).copied().unwrap_or(0);
                let lags = wanted
                    .iter()
                    .any(|(partition, least)| of(partition) < *least);
                Ok(lags.then(|| format!("{group} committed {committed:?} of {wanted:?}")))
            })
            .await?;
        }
        Ok(())
    }

    /// Takes one member of each way away.
    fn take_one_each(&self, members: &mut Vec<Member>) -> Vec<Member> {
        let mut taken = Vec::new();
        for way in self.ways {
            let at = members.iter().position(|m| m.way.name == way.name);
            taken.extend(at.map(|at| members.remove(at)));
        }
        taken
    }

    /// Waits until each group is at work on each partition.
    async fn all_at_work(&self) -> Result<(), Failure> {
        let some = (0..PARTITIONS).map(|partition| (partition, 1));
        self.committed_at_least(some.collect(), WITHIN).await
    }

    /// Waits until each group has committed everything, and ends its members.
    async fn finish(&self, members: &mut [Member]) -> Result<(), Failure> {
        let ends = bounds(&self.client, &self.topic, WITHIN).await?;
        let ends = ends.into_iter().map(|(p, _, end)| (p.partition, end));
        self.committed_at_least(ends.collect(), WITHIN).await?;
        for member in members.iter() {
            member.worker.terminate()?;
        }
        for member in members {
            member.ends_well().await?;
        }
        Ok(())
    }
}

/// Asks again and again until nothing is wrong.
async fn until(
    within: Duration,
    mut wrong: impl AsyncFnMut() -> Result<Option<String>, Failure>,
) -> Result<(), Failure> {
    let deadline = Instant::now() + within;
    let mut pace = interval(LOOK_EVERY);
    loop {
        pace.tick().await;
        match wrong().await? {
            None => return Ok(()),
            Some(wrong) if Instant::now() > deadline => return Err(wrong.into()),
            Some(_) => {}
        }
    }
}

async fn acknowledge(
    key: String,
    seq: u64,
    delivery: DeliveryHandle,
) -> Result<Acknowledged, Failure> {
    let written = delivery.await?;
    Ok(Acknowledged {
        topic: written.topic.to_string(),
        partition: written.partition,
        offset: written.offset,
        id: format!("{key}-{seq}"),
        key: Some(key),
        seq,
    })
}

/// How many rebalances each member has seen.
fn rebalances(members: &[Member]) -> Result<Vec<u64>, Failure> {
    let standings = members.iter().map(Member::standing);
    standings.map(|standing| Ok(standing?.rebalances)).collect()
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
