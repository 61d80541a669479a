//! Topics, their partitions and who leads them. Pure.
//!
//! The data of a partition belongs to the cluster, not to a broker, so it survives every kill;
//! what moves is the leadership. Each move raises the leader epoch by one.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Weak};

use tokio::sync::Notify;
use uuid::Uuid;

use crate::codes;
use crate::log::Log;
use crate::settings::MAX_SETTINGS;

/// Partitions that one topic may have.
pub(crate) const MAX_PARTITIONS: i32 = 10_000;
/// Partitions that all topics together may have.
const MAX_TOTAL_PARTITIONS: usize = 100_000;

/// One partition.
#[derive(Debug, Default)]
pub(crate) struct Partition {
    pub(crate) leader: Option<i32>,
    pub(crate) leader_epoch: i32,
    /// The last broker that led it: where it waits while it has no leader.
    pub(crate) home: i32,
    pub(crate) log: Log,
    waiters: Vec<Weak<Notify>>,
}

impl Partition {
    /// Has `waiter` woken by the next append or change of leader.
    pub(crate) fn wake_on_change(&mut self, waiter: &Arc<Notify>) {
        self.waiters.retain(|waiter| waiter.strong_count() > 0);
        self.waiters.push(Arc::downgrade(waiter));
    }

    pub(crate) fn wake(&mut self) {
        for waiter in self.waiters.drain(..).filter_map(|waiter| waiter.upgrade()) {
            waiter.notify_one();
        }
    }

    /// Cuts the log as an unclean election does: a new epoch, though the leader stays.
    pub(crate) fn truncate(&mut self, offset: i64) {
        self.log.truncate(offset);
        self.leader_epoch += 1;
        self.log.begin_epoch(self.leader_epoch);
        self.wake();
    }

    fn lead(&mut self, leader: Option<i32>) {
        if self.leader != leader {
            self.leader = leader;
            self.leader_epoch += 1;
            self.log.begin_epoch(self.leader_epoch);
            self.home = leader.unwrap_or(self.home);
            self.wake();
        }
    }
}

/// One topic.
#[derive(Debug)]
pub(crate) struct Topic {
    pub(crate) id: Uuid,
    pub(crate) replication: i32,
    pub(crate) configs: BTreeMap<String, String>,
    pub(crate) partitions: Vec<Partition>,
}

impl Topic {
    pub(crate) fn partition(&self, index: i32) -> Option<&Partition> {
        self.partitions.get(usize::try_from(index).ok()?)
    }

    pub(crate) fn partition_mut(&mut self, index: i32) -> Option<&mut Partition> {
        self.partitions.get_mut(usize::try_from(index).ok()?)
    }

    pub(crate) fn wants_append_time(&self) -> bool {
        self.configs
            .get("message.timestamp.type")
            .is_some_and(|kind| kind == "LogAppendTime")
    }

    pub(crate) fn max_message_bytes(&self) -> Option<usize> {
        self.configs.get("max.message.bytes")?.parse().ok()
    }
}

/// What a new topic is made from; negative numbers stand for the defaults.
#[derive(Clone, Debug)]
pub(crate) struct NewTopic {
    pub(crate) name: String,
    pub(crate) partitions: i32,
    pub(crate) replication: i32,
    pub(crate) configs: BTreeMap<String, String>,
}

/// All topics, and which brokers are up.
#[derive(Debug)]
pub(crate) struct Topics {
    pub(crate) by_name: BTreeMap<String, Topic>,
    names: HashMap<Uuid, String>,
    /// Broker id to whether it is up.
    pub(crate) brokers: BTreeMap<i32, bool>,
    replicated: bool,
    default_partitions: i32,
    next_home: usize,
}

impl Topics {
    pub(crate) fn new(brokers: i32, default_partitions: i32, replicated: bool) -> Self {
        Self {
            by_name: BTreeMap::new(),
            names: HashMap::new(),
            brokers: (1..=brokers).map(|id| (id, true)).collect(),
            replicated,
            default_partitions,
            next_home: 0,
        }
    }

    pub(crate) fn is_up(&self, broker: i32) -> bool {
        self.brokers.get(&broker).copied().unwrap_or(false)
    }

    /// The lowest broker that is up.
    pub(crate) fn controller(&self) -> i32 {
        self.brokers
            .iter()
            .find(|(_, up)| **up)
            .map_or(-1, |(id, _)| *id)
    }

    /// The live broker that follows `broker` in the order of ids.
    pub(crate) fn next_live(&self, broker: i32) -> Option<i32> {
        let after = self
            .brokers
            .range(broker + 1..)
            .chain(self.brokers.range(..=broker));
        after.filter(|(_, up)| **up).map(|(id, _)| *id).next()
    }

    /// The brokers that metadata names as replicas, the leader or home first.
    pub(crate) fn replicas(&self, topic: &Topic, partition: &Partition) -> Vec<i32> {
        let ids = || self.brokers.keys().copied();
        let from_home = ids().filter(|id| *id >= partition.home);
        let before = ids().filter(|id| *id < partition.home);
        let count = usize::try_from(topic.replication).unwrap_or(1);
        from_home.chain(before).take(count.max(1)).collect()
    }

    /// Checks and creates; with `validate_only`, only checks. Gives Kafka's error code.
    pub(crate) fn create(&mut self, new: NewTopic, validate_only: bool) -> Result<(), i16> {
        if !is_legal_name(&new.name) {
            return Err(codes::INVALID_TOPIC_EXCEPTION);
        }
        if self.by_name.contains_key(&new.name) {
            return Err(codes::TOPIC_ALREADY_EXISTS);
        }
        let count = if new.partitions == -1 {
            self.default_partitions
        } else {
            new.partitions
        };
        if !(1..=MAX_PARTITIONS).contains(&count) {
            return Err(codes::INVALID_PARTITIONS);
        }
        let brokers = i32::try_from(self.brokers.len()).unwrap_or(i32::MAX);
        let default_replication = if self.replicated { brokers.min(3) } else { 1 };
        let replication = if new.replication == -1 {
            default_replication
        } else {
            new.replication
        };
        if !(1..=brokers).contains(&replication) {
            return Err(codes::INVALID_REPLICATION_FACTOR);
        }
        check_configs(&new.configs)?;
        self.check_total(count)?;
        if validate_only {
            return Ok(());
        }
        let partitions = self.new_partitions(count);
        let topic = Topic {
            id: Uuid::now_v7(),
            replication,
            configs: new.configs,
            partitions,
        };
        self.names.insert(topic.id, new.name.clone());
        self.by_name.insert(new.name, topic);
        Ok(())
    }

    fn check_total(&self, more: i32) -> Result<(), i16> {
        let topics = self.by_name.values();
        let total: usize = topics.map(|topic| topic.partitions.len()).sum();
        if total + more as usize > MAX_TOTAL_PARTITIONS {
            return Err(codes::POLICY_VIOLATION);
        }
        Ok(())
    }

    fn new_partitions(&mut self, count: i32) -> Vec<Partition> {
        let homes: Vec<i32> = self.live_or_all();
        let mut partitions = Vec::new();
        for _ in 0..count {
            let home = homes[self.next_home % homes.len()];
            self.next_home = self.next_home.wrapping_add(1);
            let leader = self.is_up(home).then_some(home);
            let mut partition = Partition {
                leader,
                home,
                ..Partition::default()
            };
            partition.log.begin_epoch(0);
            partitions.push(partition);
        }
        partitions
    }

    /// Raises the number of partitions to `count`; a manual assignment must be for the new ones.
    pub(crate) fn add_partitions(
        &mut self,
        name: &str,
        count: i32,
        assigned: Option<usize>,
        validate_only: bool,
    ) -> Result<(), i16> {
        let topic = self.by_name.get(name);
        let topic = topic.ok_or(codes::UNKNOWN_TOPIC_OR_PARTITION)?;
        let now = i32::try_from(topic.partitions.len()).unwrap_or(i32::MAX);
        if !(now + 1..=MAX_PARTITIONS).contains(&count) {
            return Err(codes::INVALID_PARTITIONS);
        }
        let more = count - now;
        if assigned.is_some_and(|assigned| assigned != more as usize) {
            return Err(codes::INVALID_REPLICA_ASSIGNMENT);
        }
        self.check_total(more)?;
        if validate_only {
            return Ok(());
        }
        let new = self.new_partitions(more);
        if let Some(topic) = self.by_name.get_mut(name) {
            topic.partitions.extend(new);
        }
        Ok(())
    }

    fn live_or_all(&self) -> Vec<i32> {
        let live: Vec<i32> = self
            .brokers
            .iter()
            .filter(|(_, up)| **up)
            .map(|(id, _)| *id)
            .collect();
        if live.is_empty() {
            self.brokers.keys().copied().collect()
        } else {
            live
        }
    }

    /// Gives the deleted topic's bytes.
    pub(crate) fn delete(&mut self, name: &str) -> Result<usize, i16> {
        let mut topic = self
            .by_name
            .remove(name)
            .ok_or(codes::UNKNOWN_TOPIC_OR_PARTITION)?;
        self.names.remove(&topic.id);
        topic.partitions.iter_mut().for_each(Partition::wake);
        Ok(topic
            .partitions
            .iter()
            .map(|partition| partition.log.bytes())
            .sum())
    }

    pub(crate) fn name_of(&self, id: Uuid) -> Option<&str> {
        self.names.get(&id).map(String::as_str)
    }

    pub(crate) fn partition_mut(&mut self, topic: &str, index: i32) -> Option<&mut Partition> {
        self.by_name.get_mut(topic)?.partition_mut(index)
    }

    /// Looks a partition up for a request at `broker`: the codes are those of a wrong broker and
    /// an unknown partition.
    pub(crate) fn led_by(
        &mut self,
        broker: i32,
        topic: &str,
        partition: i32,
    ) -> Result<&mut Partition, i16> {
        let topic = self
            .by_name
            .get_mut(topic)
            .ok_or(codes::UNKNOWN_TOPIC_OR_PARTITION)?;
        let partition = topic
            .partition_mut(partition)
            .ok_or(codes::UNKNOWN_TOPIC_OR_PARTITION)?;
        if partition.leader != Some(broker) {
            return Err(codes::NOT_LEADER_OR_FOLLOWER);
        }
        Ok(partition)
    }

    /// As [`Topics::led_by`], the epoch checked before the leader, as Kafka does.
    pub(crate) fn led_at(
        &mut self,
        broker: i32,
        topic: &str,
        partition: i32,
        epoch: i32,
    ) -> Result<&mut Partition, i16> {
        if let Some(known) = self.partition_mut(topic, partition) {
            Self::check_epoch(known, epoch)?;
        }
        self.led_by(broker, topic, partition)
    }

    /// KIP-320: what a client's idea of the leader epoch is worth; -1 is no idea.
    pub(crate) fn check_epoch(partition: &Partition, given: i32) -> Result<(), i16> {
        match given {
            -1 => Ok(()),
            older if older < partition.leader_epoch => Err(codes::FENCED_LEADER_EPOCH),
            newer if newer > partition.leader_epoch => Err(codes::UNKNOWN_LEADER_EPOCH),
            _ => Ok(()),
        }
    }

    pub(crate) fn move_leader(&mut self, topic: &str, index: i32, broker: i32) -> bool {
        let Some(partition) = self.partition_mut(topic, index) else {
            return false;
        };
        partition.lead(Some(broker));
        true
    }

    pub(crate) fn broker_down(&mut self, broker: i32) {
        self.brokers.insert(broker, false);
        let heir = if self.replicated {
            self.next_live(broker)
        } else {
            None
        };
        for partition in self
            .by_name
            .values_mut()
            .flat_map(|topic| &mut topic.partitions)
        {
            if partition.leader == Some(broker) {
                partition.lead(heir);
            }
        }
    }

    pub(crate) fn broker_up(&mut self, broker: i32) {
        self.brokers.insert(broker, true);
        for partition in self
            .by_name
            .values_mut()
            .flat_map(|topic| &mut topic.partitions)
        {
            let returns = self.replicated || partition.home == broker;
            if partition.leader.is_none() && returns {
                partition.lead(Some(broker));
            }
        }
    }
}

/// Kafka's rule for topic names.
fn is_legal_name(name: &str) -> bool {
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    !name.is_empty() && name.len() <= 249 && name != "." && name != ".." && name.chars().all(legal)
}

/// Settings that the mock gives a meaning must be valid; others are kept as they are.
fn check_configs(configs: &BTreeMap<String, String>) -> Result<(), i16> {
    let timestamp = configs.get("message.timestamp.type").map(String::as_str);
    let timestamp_valid = matches!(timestamp, None | Some("CreateTime" | "LogAppendTime"));
    let size = configs
        .get("max.message.bytes")
        .map(|size| size.parse::<i32>());
    let size_valid = size.is_none_or(|size| size.is_ok_and(|size| size >= 0));
    if configs.len() > MAX_SETTINGS || !timestamp_valid || !size_valid {
        return Err(codes::INVALID_CONFIG);
    }
    Ok(())
}
