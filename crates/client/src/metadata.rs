//! What the cluster says about a topic, in our own words.

use kafka_protocol::messages::BrokerId;
use kafka_protocol::messages::metadata_response::MetadataResponseTopic;
use ottla_types::ErrorCode;
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

    /// The same, with what is known of partitions whose leader's epoch is newer there: a broker that
    /// lags does not lead back to a leader that has stepped down. Epochs of a topic with another id
    /// say nothing.
    pub(crate) fn with_newer_of(mut self, known: &Self) -> Self {
        if self.topic_id.is_none() || self.topic_id != known.topic_id {
            return self;
        }
        for partition in &mut self.partitions {
            let at = known
                .partitions
                .binary_search_by_key(&partition.id, |p| p.id);
            if let Some(known) = at.ok().and_then(|at| known.partitions.get(at))
                && known.leader_epoch > partition.leader_epoch
            {
                *partition = known.clone();
            }
        }
        self
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

/// Reads the topics of a Metadata answer: each with its description, or the error that the broker
/// gave for it.
///
/// # Errors
/// Says what about the answer cannot be.
pub(crate) fn read_topics(topics: Vec<MetadataResponseTopic>) -> Result<Vec<ReadTopic>, BadTopic> {
    topics.into_iter().map(read_topic).collect()
}

/// A topic's name with its description, or with the broker's error for it.
pub(crate) type ReadTopic = (Arc<str>, Result<Arc<TopicMetadata>, ErrorCode>);

/// A topic in a Metadata answer that cannot be.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadTopic {
    #[error("a topic without a name")]
    NoName,
    #[error("topic {topic} has partition number {id} twice or below 0")]
    Partition { topic: Arc<str>, id: i32 },
}

fn read_topic(topic: MetadataResponseTopic) -> Result<ReadTopic, BadTopic> {
    let name: Arc<str> = topic
        .name
        .as_deref()
        .ok_or(BadTopic::NoName)?
        .as_str()
        .into();
    if let Err(code) = ErrorCode(topic.error_code).into_result() {
        return Ok((name, Err(code)));
    }
    let numbers = |ids: &[BrokerId]| ids.iter().map(|id| id.0).collect();
    let at_least_0 = |number: i32| (number >= 0).then_some(number);
    let mut partitions: Vec<_> = topic
        .partitions
        .iter()
        .map(|partition| PartitionMetadata {
            id: partition.partition_index,
            leader: at_least_0(partition.leader_id.0),
            leader_epoch: at_least_0(partition.leader_epoch),
            replicas: numbers(&partition.replica_nodes),
            isr: numbers(&partition.isr_nodes),
        })
        .collect();
    partitions.sort_unstable_by_key(|partition| partition.id);
    let mut previous = -1;
    for partition in &partitions {
        let id = partition.id;
        if id <= previous {
            return Err(BadTopic::Partition { topic: name, id });
        }
        previous = id;
    }
    let topic_id = (!topic.topic_id.is_nil()).then(|| topic.topic_id.into_bytes());
    let metadata = TopicMetadata {
        name: name.clone(),
        topic_id,
        partitions,
        is_internal: topic.is_internal,
    };
    Ok((name, Ok(Arc::new(metadata))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use kafka_protocol::messages::TopicName;
    use kafka_protocol::messages::metadata_response::MetadataResponsePartition;
    use kafka_protocol::protocol::StrBytes;

    fn topic(partitions: &[(i32, i32)]) -> MetadataResponseTopic {
        let partitions = partitions.iter().map(|&(id, leader)| {
            MetadataResponsePartition::default()
                .with_partition_index(id)
                .with_leader_id(BrokerId(leader))
        });
        MetadataResponseTopic::default()
            .with_name(Some(TopicName(StrBytes::from_static_str("orders"))))
            .with_partitions(partitions.collect())
    }

    #[test]
    fn partitions_are_ordered_and_minus_one_is_no_leader() {
        let (name, read) = read_topic(topic(&[(1, -1), (0, 7)])).unwrap();
        let read = read.unwrap();
        assert_eq!((&*name, read.topic_id), ("orders", None));
        let leaders: Vec<_> = read.partitions.iter().map(|p| (p.id, p.leader)).collect();
        assert_eq!(leaders, [(0, Some(7)), (1, None)]);
        assert_eq!(read.partitions[0].leader_epoch, None);
        assert!(!read.has_leaders());
        assert_eq!(read.partition(1).unwrap().id, 1);
        assert!(read.partition(2).is_none());
    }

    #[test]
    fn a_newer_epoch_wins_within_one_topic_alone() {
        let described = |id: u8, epochs: &[i32]| {
            let partition = |(n, epoch): (i32, &i32)| PartitionMetadata {
                id: n,
                leader: Some(*epoch),
                leader_epoch: Some(*epoch),
                replicas: Vec::new(),
                isr: Vec::new(),
            };
            TopicMetadata {
                name: "t".into(),
                topic_id: (id > 0).then_some([id; 16]),
                partitions: (0..).zip(epochs).map(partition).collect(),
                is_internal: false,
            }
        };
        let leaders = |topic: TopicMetadata| -> Vec<_> {
            topic.partitions.iter().map(|p| p.leader.unwrap()).collect()
        };
        let known = described(1, &[5, 3]);
        let read = described(1, &[4, 4, 1]);
        assert_eq!(leaders(read.with_newer_of(&known)), [5, 4, 1]);
        let anew = described(2, &[0, 0]);
        assert_eq!(leaders(anew.with_newer_of(&known)), [0, 0]);
        let without = described(0, &[0, 0]);
        assert_eq!(
            leaders(without.with_newer_of(&described(0, &[7, 7]))),
            [0, 0]
        );
    }

    #[test]
    fn trap_d_impossible_topics_are_refused() {
        assert_eq!(
            read_topic(MetadataResponseTopic::default().with_name(None)),
            Err(BadTopic::NoName)
        );
        for (partitions, id) in [([(0, 1), (0, 2)], 0), ([(-3, 1), (0, 2)], -3)] {
            let refused = BadTopic::Partition {
                topic: "orders".into(),
                id,
            };
            assert_eq!(read_topic(topic(&partitions)), Err(refused));
        }
    }

    #[test]
    fn a_topics_error_is_kept() {
        let (_, read) = read_topic(topic(&[]).with_error_code(3)).unwrap();
        assert_eq!(read, Err(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION));
    }
}
