//! Which versions of which APIs a broker speaks: tables of real brokers.
//!
//! What a broker tells in ApiVersions, and takes, is what is both in its table and known to the
//! mock.

use crate::ApiKey;

/// Lowest and highest version, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Range {
    pub(crate) min: i16,
    pub(crate) max: i16,
}

impl Range {
    pub(crate) fn contains(self, version: i16) -> bool {
        (self.min..=self.max).contains(&version)
    }

    pub(crate) fn and(self, other: Self) -> Option<Self> {
        let both = Self {
            min: self.min.max(other.min),
            max: self.max.min(other.max),
        };
        (both.min <= both.max).then_some(both)
    }
}

/// The APIs and versions of a kind of broker, and what goes with them.
#[derive(Clone, Debug)]
pub struct Versions {
    table: Vec<(ApiKey, Range)>,
    pub(crate) transaction_version: i16,
    /// Whether PRODUCER_FENCED is known; where not, INVALID_PRODUCER_EPOCH stands for it.
    pub(crate) says_producer_fenced: bool,
    /// Whether a producer may go on whose transaction the coordinator has ended.
    pub(crate) remembers_ended: bool,
    /// Whether KIP-848 is switched on; where not, its heartbeat is told, and refused.
    pub(crate) has_consumer_groups: bool,
}

/// API, lowest, highest.
type Row = (ApiKey, i16, i16);

const KAFKA_3_9: &[Row] = &[
    (ApiKey::Produce, 0, 11),
    (ApiKey::Fetch, 0, 17),
    (ApiKey::ListOffsets, 0, 9),
    (ApiKey::Metadata, 0, 12),
    (ApiKey::OffsetCommit, 0, 9),
    (ApiKey::OffsetFetch, 0, 9),
    (ApiKey::FindCoordinator, 0, 6),
    (ApiKey::JoinGroup, 0, 9),
    (ApiKey::Heartbeat, 0, 4),
    (ApiKey::LeaveGroup, 0, 5),
    (ApiKey::SyncGroup, 0, 5),
    (ApiKey::DescribeGroups, 0, 5),
    (ApiKey::ListGroups, 0, 5),
    (ApiKey::SaslHandshake, 0, 1),
    (ApiKey::ApiVersions, 0, 4),
    (ApiKey::CreateTopics, 0, 7),
    (ApiKey::DeleteTopics, 0, 6),
    (ApiKey::DeleteRecords, 0, 2),
    (ApiKey::InitProducerId, 0, 5),
    (ApiKey::OffsetForLeaderEpoch, 0, 4),
    (ApiKey::AddPartitionsToTxn, 0, 5),
    (ApiKey::AddOffsetsToTxn, 0, 4),
    (ApiKey::EndTxn, 0, 4),
    (ApiKey::TxnOffsetCommit, 0, 4),
    (ApiKey::DescribeConfigs, 0, 4),
    (ApiKey::SaslAuthenticate, 0, 2),
    (ApiKey::CreatePartitions, 0, 3),
    (ApiKey::DeleteGroups, 0, 2),
    (ApiKey::IncrementalAlterConfigs, 0, 1),
    (ApiKey::OffsetDelete, 0, 0),
    (ApiKey::DescribeCluster, 0, 1),
    (ApiKey::ConsumerGroupHeartbeat, 0, 0),
    (ApiKey::ConsumerGroupDescribe, 0, 0),
];

/// Where 4.0 differs from 3.9.
const KAFKA_4_0: &[Row] = &[
    (ApiKey::Produce, 0, 12),
    (ApiKey::Fetch, 4, 17),
    (ApiKey::ListOffsets, 1, 10),
    (ApiKey::Metadata, 0, 13),
    (ApiKey::OffsetCommit, 2, 9),
    (ApiKey::OffsetFetch, 1, 9),
    (ApiKey::JoinGroup, 2, 9),
    (ApiKey::DescribeGroups, 0, 6),
    (ApiKey::CreateTopics, 2, 7),
    (ApiKey::DeleteTopics, 1, 6),
    (ApiKey::OffsetForLeaderEpoch, 2, 4),
    (ApiKey::EndTxn, 0, 5),
    (ApiKey::TxnOffsetCommit, 0, 5),
    (ApiKey::DescribeConfigs, 1, 4),
    (ApiKey::DescribeCluster, 0, 2),
    (ApiKey::ConsumerGroupHeartbeat, 0, 1),
    (ApiKey::ConsumerGroupDescribe, 0, 1),
];

/// Where 4.3 differs from 4.0.
const KAFKA_4_3: &[Row] = &[
    (ApiKey::Produce, 0, 13),
    (ApiKey::Fetch, 4, 18),
    (ApiKey::ListOffsets, 1, 11),
    (ApiKey::OffsetCommit, 2, 10),
    (ApiKey::OffsetFetch, 1, 10),
    (ApiKey::JoinGroup, 0, 9),
];

const REDPANDA: &[Row] = &[
    (ApiKey::Produce, 0, 7),
    (ApiKey::Fetch, 4, 11),
    (ApiKey::ListOffsets, 0, 4),
    (ApiKey::Metadata, 0, 8),
    (ApiKey::OffsetCommit, 1, 8),
    (ApiKey::OffsetFetch, 1, 7),
    (ApiKey::FindCoordinator, 0, 3),
    (ApiKey::JoinGroup, 0, 6),
    (ApiKey::Heartbeat, 0, 4),
    (ApiKey::LeaveGroup, 0, 4),
    (ApiKey::SyncGroup, 0, 4),
    (ApiKey::DescribeGroups, 0, 5),
    (ApiKey::ListGroups, 0, 4),
    (ApiKey::SaslHandshake, 0, 1),
    (ApiKey::ApiVersions, 0, 3),
    (ApiKey::CreateTopics, 0, 6),
    (ApiKey::DeleteTopics, 0, 5),
    (ApiKey::DeleteRecords, 0, 2),
    (ApiKey::InitProducerId, 0, 3),
    (ApiKey::OffsetForLeaderEpoch, 0, 4),
    (ApiKey::AddPartitionsToTxn, 0, 3),
    (ApiKey::AddOffsetsToTxn, 0, 1),
    (ApiKey::EndTxn, 0, 3),
    (ApiKey::TxnOffsetCommit, 0, 3),
    (ApiKey::DescribeConfigs, 0, 4),
    (ApiKey::SaslAuthenticate, 0, 2),
    (ApiKey::CreatePartitions, 0, 3),
    (ApiKey::DeleteGroups, 0, 2),
    (ApiKey::IncrementalAlterConfigs, 0, 1),
    (ApiKey::OffsetDelete, 0, 0),
];

impl Versions {
    fn of(tables: &[&[Row]], transaction_version: i16) -> Self {
        let none = Self {
            table: Vec::new(),
            transaction_version,
            says_producer_fenced: true,
            remembers_ended: true,
            has_consumer_groups: true,
        };
        let rows = tables.iter().copied().flatten();
        rows.fold(none, |all, (api, min, max)| all.with(*api, *min, *max))
    }

    /// Apache Kafka 3.9: transaction version 1, and KIP-848 switched off, as it is there by default.
    /// A coordinator that ends a transaction, because its time is over or because an InitProducerId
    /// finds it open, forgets its epoch: the producer's InitProducerId with its own id and epoch is
    /// refused with PRODUCER_FENCED. 4.3 lets it go on.
    pub fn kafka_3_9() -> Self {
        Self {
            has_consumer_groups: false,
            remembers_ended: false,
            ..Self::of(&[KAFKA_3_9], 1)
        }
    }

    /// Apache Kafka 4.0: transaction version 2.
    pub fn kafka_4_0() -> Self {
        Self::of(&[KAFKA_3_9, KAFKA_4_0], 2)
    }

    /// Apache Kafka 4.2 and 4.3: transaction version 2.
    pub fn kafka_4_3() -> Self {
        Self::of(&[KAFKA_3_9, KAFKA_4_0, KAFKA_4_3], 2)
    }

    /// Redpanda as of the end of 2024: transaction version 1, and fenced producers are told so
    /// with INVALID_PRODUCER_EPOCH alone. Its other differences are not imitated.
    pub fn redpanda() -> Self {
        Self {
            says_producer_fenced: false,
            ..Self::of(&[REDPANDA], 1)
        }
    }

    /// The same with another range for one API.
    pub fn with(mut self, api: ApiKey, min: i16, max: i16) -> Self {
        self = self.without(api);
        self.table.push((api, Range { min, max }));
        self
    }

    /// The same without one API: its requests close the connection.
    pub fn without(mut self, api: ApiKey) -> Self {
        self.table.retain(|(known, _)| *known != api);
        self
    }

    /// The range of an API in this table.
    pub(crate) fn range(&self, api: ApiKey) -> Option<Range> {
        let row = self.table.iter().find(|(known, _)| *known == api);
        row.map(|(_, range)| *range)
    }
}
