//! Who leads a partition: the metadata, and what brokers themselves have said since (KIP-951).
//!
//! What must hold: a newer epoch wins over an older one, wherever it comes from, so that metadata
//! from a broker that lags does not lead back to a leader that has stepped down.

use super::produce_message::Endpoint;
use crate::cluster::Cluster;
use crate::{Error, TopicMetadata};
use ottla_types::{ErrorCode, TopicPartition};
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::time::{Instant, timeout_at};

/// Leaders that brokers have told and the metadata does not show yet; beyond this all are forgotten
/// and looked up.
const HINTS_MAX: usize = 10_000;

/// A partition's leader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Leader {
    pub(super) broker: i32,
    /// -1 if it is not known.
    pub(super) epoch: i32,
    /// The topic that it leads a partition of, where the cluster has ids (KIP-516).
    pub(super) topic_id: Option<[u8; 16]>,
}

pub(super) struct Leaders {
    pub(super) cluster: Arc<Cluster>,
    hints: Mutex<HashMap<TopicPartition, Leader>>,
    /// Partitions whose leader was not where it was thought to be.
    doubts: Mutex<HashSet<TopicPartition>>,
}

impl Leaders {
    pub(super) fn new(cluster: Arc<Cluster>) -> Self {
        Self {
            cluster,
            hints: Mutex::default(),
            doubts: Mutex::default(),
        }
    }

    /// The leader as it is known here; `None` if the topic has to be asked for.
    pub(super) fn cached(&self, partition: &TopicPartition) -> Option<Leader> {
        let topic = self.cluster.cached_topic(&partition.topic)?;
        self.of(&topic, partition, "").ok()
    }

    /// The leader, with a look at the cluster if the topic is not known here.
    pub(super) async fn find(
        &self,
        partition: &TopicPartition,
        operation: &'static str,
        deadline: Instant,
    ) -> Result<Leader, Error> {
        let lookup = self.cluster.topic(&partition.topic);
        match timeout_at(deadline, lookup).await {
            Ok(topic) => self.of(&*topic?, partition, operation),
            Err(_) => Err(Error::new(crate::ErrorKind::TimedOut, operation)),
        }
    }

    /// The leader that a description of the topic, or a later word of a broker, names.
    pub(super) fn of(
        &self,
        topic: &TopicMetadata,
        partition: &TopicPartition,
        operation: &'static str,
    ) -> Result<Leader, Error> {
        let error = |code| Error::from_code(code, operation).with_partition(partition.clone());
        // Partitions are ordered by number, mostly without a gap.
        let at = usize::try_from(partition.partition).unwrap_or(usize::MAX);
        let described = topic.partitions.get(at);
        let described = described
            .filter(|described| described.id == partition.partition)
            .or_else(|| topic.partition(partition.partition))
            .ok_or_else(|| error(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION))?;
        let epoch = described.leader_epoch.unwrap_or(-1);
        let topic_id = topic.topic_id;
        let mut hints = self.hints();
        match hints.get(partition) {
            // Epochs of another topic of the same name begin anew.
            Some(hint) if hint.epoch > epoch && hint.topic_id == topic_id => return Ok(*hint),
            Some(_) => drop(hints.remove(partition)),
            None => {}
        }
        match described.leader {
            Some(broker) => Ok(Leader {
                broker,
                epoch,
                topic_id,
            }),
            None => Err(error(ErrorCode::LEADER_NOT_AVAILABLE)),
        }
    }

    /// Takes a broker's word on who leads; `true` if it is news and that broker's address is known.
    pub(super) fn hint(
        &self,
        partition: &TopicPartition,
        (broker, epoch): (i32, i32),
        endpoints: &[Endpoint],
    ) -> bool {
        let endpoint = endpoints.iter().find(|endpoint| endpoint.id == broker);
        if let Some(endpoint) = endpoint {
            let host = endpoint.host.as_str();
            self.cluster.broker_at(broker, host, endpoint.port);
        } else if self.cluster.broker(broker).is_none() {
            return false;
        }
        let known = self.cached(partition);
        if known.is_some_and(|known| known.epoch >= epoch) {
            return false;
        }
        let topic_id = match known {
            Some(known) => known.topic_id,
            None => self
                .cluster
                .cached_topic(&partition.topic)
                .and_then(|topic| topic.topic_id),
        };
        let mut hints = self.hints();
        if hints.len() >= HINTS_MAX {
            hints.clear();
        }
        let leader = Leader {
            broker,
            epoch,
            topic_id,
        };
        hints.insert(partition.clone(), leader);
        true
    }

    /// Remembers that the partition's leader has to be asked for before the next attempt.
    pub(super) fn doubt(&self, partition: TopicPartition) {
        let mut doubts = self.doubts();
        if doubts.len() >= HINTS_MAX {
            doubts.clear();
        }
        doubts.insert(partition);
    }

    /// Whether the partition's leader has to be asked for, which the caller then does.
    pub(super) fn take_doubt(&self, partition: &TopicPartition) -> bool {
        let mut doubts = self.doubts();
        // Mostly there is none, and nothing is hashed.
        !doubts.is_empty() && doubts.remove(partition)
    }

    fn doubts(&self) -> MutexGuard<'_, HashSet<TopicPartition>> {
        self.doubts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hints(&self) -> MutexGuard<'_, HashMap<TopicPartition, Leader>> {
        self.hints.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
