//! What the cluster says about a topic, in our own words.

use std::sync::Arc;

/// A topic as the cluster described it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicMetadata {
    /// The topic's name.
    pub name: Arc<str>,
    /// The topic's id (KIP-516), where the broker knows one.
    pub topic_id: Option<[u8; 16]>,
    /// The partitions, ordered by number.
    pub partitions: Vec<PartitionMetadata>,
    /// Whether the cluster keeps the topic for itself, such as `__consumer_offsets`.
    pub is_internal: bool,
}

impl TopicMetadata {
    /// The partition with this number.
    pub fn partition(&self, id: i32) -> Option<&PartitionMetadata> {
        self.partitions.iter().find(|partition| partition.id == id)
    }

    /// Whether every partition has a leader.
    pub fn has_leaders(&self) -> bool {
        !self.partitions.is_empty() && self.partitions.iter().all(|p| p.leader.is_some())
    }
}

/// A partition as the cluster described it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionMetadata {
    /// The partition's number, from 0.
    pub id: i32,
    /// The leader's broker id; `None` while there is none.
    pub leader: Option<i32>,
    /// The leader's epoch (KIP-320), where the broker tells it.
    pub leader_epoch: Option<i32>,
    /// The brokers that hold a copy.
    pub replicas: Vec<i32>,
    /// The brokers whose copy is in sync.
    pub isr: Vec<i32>,
}
