//! A plain consumer whose caller does anything in any order, and gives up waiting at any time, against
//! a model of what it may be handed out next.

use crate::bed::{Bed, config, numbers, wait_for};
use crate::plain::close;
use futures_util::{FutureExt, StreamExt};
use ottla_consumer::{ConsumedRecord, Consumer, ConsumerConfig, ErrorKind, GroupProtocol, SeekTo};
use ottla_mock_cluster::{ApiKey, GroupState, MockCluster};
use ottla_types::TopicPartition;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::time::timeout;

const TOPICS: [&str; 3] = ["a", "b", "c"];
const PARTITIONS: i32 = 2;
const RECORDS: i64 = 300;
const STEPS: usize = 400;

/// What may come next of a partition.
#[derive(Debug, Clone, Default)]
struct Next {
    /// One of these offsets.
    at: BTreeSet<i64>,
    /// What may be committed: where it begins when it is assigned anew.
    committed: BTreeSet<i64>,
    /// Whether it came so far by records that were handed out, or by a seek: a commit names it then.
    is_read: bool,
    is_paused: bool,
    /// Whether the consumer knows its position: a seek that was not waited for may go on.
    is_known: bool,
    /// It was dropped since the group was settled: it may be given up at any time, though it is wanted
    /// again.
    may_go: bool,
}

fn partitions(topics: &BTreeSet<&'static str>) -> impl Iterator<Item = TopicPartition> + use<> {
    let topics = topics.clone().into_iter();
    topics.flat_map(|topic| (0..PARTITIONS).map(move |p| TopicPartition::new(topic, p)))
}

struct Model {
    /// Else the consumer names its partitions.
    has_group: bool,
    random: fastrand::Rng,
    wanted: BTreeSet<&'static str>,
    next: BTreeMap<TopicPartition, Next>,
}

impl Model {
    fn new(seed: u64, has_group: bool) -> Self {
        let all = partitions(&TOPICS.into());
        let begins = |p| {
            let (at, committed) = (BTreeSet::from([0]), BTreeSet::from([0]));
            let next = Next {
                at,
                committed,
                ..Next::default()
            };
            (p, next)
        };
        Self {
            random: fastrand::Rng::with_seed(seed),
            wanted: TOPICS.into(),
            has_group,
            next: all.map(begins).collect(),
        }
    }

    fn any(&mut self) -> TopicPartition {
        let all: Vec<_> = self.next.keys().cloned().collect();
        self.random.choice(all).unwrap()
    }

    fn topics(&mut self) -> BTreeSet<&'static str> {
        let amount = self.random.usize(1..=TOPICS.len());
        self.random
            .choose_multiple(TOPICS, amount)
            .into_iter()
            .collect()
    }

    fn wait(&mut self) -> Duration {
        Duration::from_micros(self.random.u64(0..3_000))
    }

    fn take(&mut self, records: &[ConsumedRecord]) {
        for record in records {
            assert!(self.wanted.contains(&*record.topic), "{}", record.topic);
            let partition = TopicPartition::new(&*record.topic, record.partition);
            let next = self.next.get_mut(&partition).unwrap();
            let offset = record.offset;
            assert!(!next.is_paused, "{partition} {offset} is paused");
            assert!(next.at.contains(&offset), "{partition} {offset}: {next:?}");
            next.at = BTreeSet::from([offset + 1]);
            (next.is_read, next.is_known) = (true, true);
            if next.may_go {
                next.at.extend(&next.committed);
            }
        }
    }

    /// Other topics: what is dropped may be gone or not when it is wanted again.
    fn change(&mut self, wanted: BTreeSet<&'static str>) {
        for (partition, next) in &mut self.next {
            if !wanted.contains(&*partition.topic) {
                next.at.extend(&next.committed);
                next.may_go = true;
            }
        }
        self.wanted = wanted;
    }

    /// The positions were asked to be committed; for certain, if that was answered well.
    fn commit(&mut self, is_certain: bool) {
        for next in self.next.values_mut().filter(|next| next.is_read) {
            if is_certain && next.is_known && !next.may_go && next.at.len() == 1 {
                next.committed.clear();
            }
            next.committed.extend(&next.at);
        }
    }
}

/// Waits until the group has heard of everything.
async fn settle(bed: &Bed, consumer: &mut Consumer, model: &mut Model) {
    let is_certain = consumer.commit_sync().await.is_ok();
    model.commit(is_certain);
    let beats = || {
        let apis = [ApiKey::Heartbeat, ApiKey::ConsumerGroupHeartbeat];
        apis.map(|api| bed.cluster.requests(api))
            .iter()
            .sum::<u64>()
    };
    let enough = beats() + 3;
    let is_owned = |consumer: &Consumer| {
        let owned = consumer.assignment().into_iter().map(|p| p.topic);
        let owned: BTreeSet<_> = owned.collect();
        owned
            .iter()
            .map(|topic| &**topic)
            .eq(model.wanted.iter().copied())
    };
    wait_for("what is wanted", || {
        let is_heard = beats() >= enough || model.wanted.is_empty() || !model.has_group;
        is_heard
            && is_owned(consumer)
            && bed.cluster.group_state("g") != GroupState::PreparingRebalance
    })
    .await;
    model.next.values_mut().for_each(|next| next.may_go = false);
}

async fn step(consumer: &mut Consumer, model: &mut Model) {
    let wait = model.wait();
    match model.random.u8(0..24) {
        0..=7 => match consumer.poll(wait).await {
            Ok(batch) => model.take(batch.as_ref().map_or(&[], |batch| batch.records())),
            Err(error) => assert!(
                error.kind() == ErrorKind::NotSubscribed && model.wanted.is_empty(),
                "{error}"
            ),
        },
        8..=13 => {
            if let Ok(Some(Ok(record))) = timeout(wait, consumer.records().next()).await {
                model.take(&[record]);
            }
        }
        14..=16 => {
            let partition = model.any();
            let to = model.random.i64(0..RECORDS);
            let (place, at) = match model.random.u8(0..3) {
                0 => (SeekTo::Beginning, 0),
                1 => (SeekTo::End, RECORDS),
                _ => (SeekTo::Offset(to), to),
            };
            if !consumer.assignment().contains(&partition) {
                return;
            }
            let sought = match model.random.bool() {
                true => timeout(wait, consumer.seek(&partition, place)).await.ok(),
                false => consumer.seek(&partition, place).now_or_never(),
            };
            let next = model.next.get_mut(&partition).unwrap();
            match sought {
                Some(Ok(found)) => {
                    assert_eq!(found, at);
                    next.at = BTreeSet::from([at]);
                    (next.is_read, next.is_known) = (true, true);
                    if next.may_go {
                        next.at.extend(&next.committed);
                    }
                }
                // Given up in between: it begins at the committed offset when it comes back.
                Some(Err(error)) => {
                    assert_eq!(error.kind(), ErrorKind::NotOwner);
                    next.at.extend(&next.committed);
                }
                // Whether it was too late is not known.
                None if next.may_go => {
                    next.at.insert(at);
                }
                None => {
                    // A commit names what was read before, or this place.
                    next.committed.append(&mut next.at);
                    next.at.insert(at);
                    (next.is_read, next.is_known) = (true, false);
                }
            }
        }
        17..=18 => {
            let partition = model.any();
            let is_paused = model.random.bool();
            let done = match is_paused {
                true => consumer.pause([&partition]),
                false => consumer.resume([&partition]),
            };
            let next = model.next.get_mut(&partition).unwrap();
            // It ends with the assignment, which may end at any time while it is not wanted.
            next.is_paused = is_paused && done.is_ok() && !next.may_go;
        }
        19 => {
            let wanted = model.topics();
            match model.has_group {
                true => consumer.resubscribe(wanted.iter().copied()).unwrap(),
                false => consumer.reassign(partitions(&wanted)).unwrap(),
            }
            for (partition, next) in &mut model.next {
                next.is_paused &= wanted.contains(&*partition.topic);
            }
            model.change(wanted);
        }
        20 if model.random.u8(0..4) == 0 => {
            consumer.unsubscribe().unwrap();
            model.next.values_mut().for_each(|n| n.is_paused = false);
            model.change(BTreeSet::new());
        }
        21 => {
            drop(consumer.commit_async());
            model.commit(false);
        }
        _ => {
            let is_certain = consumer.commit_sync().await.is_ok();
            model.commit(is_certain);
        }
    }
}

async fn anything_in_any_order(protocol: Option<GroupProtocol>) {
    let seed = std::env::var("SEED").map_or_else(|_| fastrand::u64(..), |s| s.parse().unwrap());
    println!("SEED={seed}");
    let heartbeat = Duration::from_millis(20);
    let builder = MockCluster::builder().consumer_session(Duration::from_secs(10), heartbeat);
    let bed = Bed::start_with(builder).await;
    for topic in TOPICS {
        bed.cluster.create_topic(topic, PARTITIONS).unwrap();
        for partition in 0..PARTITIONS {
            for _ in 0..10 {
                let some = numbers(0..usize::try_from(RECORDS / 10).unwrap());
                bed.write(topic, partition, some).await;
            }
        }
    }
    let config = ConsumerConfig {
        group_id: "g".to_owned(),
        group_protocol: protocol.unwrap_or_default(),
        max_poll_records: 7,
        ..config()
    };
    let mut model = Model::new(seed, protocol.is_some());
    let builder = Consumer::builder(&bed.client, config);
    let consumer = match protocol {
        Some(_) => builder.subscribe(TOPICS).await,
        None => builder.assign(partitions(&TOPICS.into())).await,
    };
    let mut consumer = consumer.unwrap();
    for n in 0..STEPS {
        match n % 40 {
            0 => settle(&bed, &mut consumer, &mut model).await,
            _ => step(&mut consumer, &mut model).await,
        }
    }
    close(consumer).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn anything_in_any_order_classic() {
    anything_in_any_order(Some(GroupProtocol::Classic)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn anything_in_any_order_kip848() {
    anything_in_any_order(Some(GroupProtocol::Consumer)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn anything_in_any_order_without_a_membership() {
    anything_in_any_order(None).await;
}
