//! The APIs that this crate speaks itself: for each its key, the versions that we speak, and the
//! layout of its answer.

use super::layout::{Field, Kind, Layout, Struct, always, array, between, since, until};
use kafka_protocol::messages as m;
use kafka_protocol::protocol::{Decodable, Encodable, HeaderVersion};
use std::ops::RangeInclusive;

/// A request with its answer.
pub(crate) trait Api: Encodable + HeaderVersion + Send + Sync {
    /// The answer's message.
    type Answer: Decodable + HeaderVersion + Send;
    /// The API key.
    const KEY: i16;
    /// The protocol's name of the API, for errors, spans and metrics.
    const NAME: &'static str;
    /// The versions that we speak.
    const VERSIONS: RangeInclusive<i16>;
    /// What an answer looks like.
    const LAYOUT: Layout;
}

macro_rules! api {
    ($name:ident, $request:ident -> $answer:ident, $key:literal, $versions:expr, $layout:expr) => {
        impl Api for m::$request {
            type Answer = m::$answer;
            const KEY: i16 = $key;
            const NAME: &'static str = stringify!($name);
            const VERSIONS: RangeInclusive<i16> = $versions;
            const LAYOUT: Layout = $layout;
        }
    };
}

const fn flexible_from(version: i16, fields: &'static [Field]) -> Layout {
    let body = Struct { fields, tags: &[] };
    Layout {
        flexible_from: version,
        body,
    }
}

mod admin;

use Kind::{Blob, Fixed, Ints, Text, Texts};

// v4 only adds features with a minimum of 0 (KIP-1022); v3 is the last that every broker knows.
api!(
    ApiVersions, ApiVersionsRequest -> ApiVersionsResponse, 18, 0..=3,
    Layout {
        flexible_from: 3,
        body: Struct {
            fields: &[
                always(Fixed(2)),
                always(array(&[always(Fixed(6))])),
                since(1, Fixed(4)),
            ],
            tags: &[
                (0, always(array(&[always(Text), always(Fixed(4))]))),
                (1, always(Fixed(8))),
                (2, always(array(&[always(Text), always(Fixed(4))]))),
                (3, always(Fixed(1))),
            ],
        },
    }
);

// v8 is for tiered storage only.
api!(
    ListOffsets, ListOffsetsRequest -> ListOffsetsResponse, 2, 1..=7,
    flexible_from(6, &[
        since(2, Fixed(4)),
        always(array(&[
            always(Text),
            always(array(&[always(Fixed(22)), since(4, Fixed(4))])),
        ])),
    ])
);

// From v3, which needs no right on the cluster.
api!(
    OffsetForLeaderEpoch, OffsetForLeaderEpochRequest -> OffsetForLeaderEpochResponse, 23, 3..=4,
    flexible_from(4, &[
        always(Fixed(4)),
        always(array(&[always(Text), always(array(&[always(Fixed(18))]))])),
    ])
);

// From v4, so that asking about a topic does not create it (KIP-361).
api!(
    Metadata, MetadataRequest -> MetadataResponse, 3, 4..=12,
    flexible_from(9, &[
        always(Fixed(4)),
        always(array(&[always(Fixed(4)), always(Text), always(Fixed(4)), always(Text)])),
        always(Text),
        always(Fixed(4)),
        always(array(&[
            always(Fixed(2)),
            always(Text),
            since(10, Fixed(16)),
            always(Fixed(1)),
            always(array(&[
                always(Fixed(10)),
                since(7, Fixed(4)),
                always(Ints),
                always(Ints),
                since(5, Ints),
            ])),
            since(8, Fixed(4)),
        ])),
        between(8, 10, Fixed(4)),
    ])
);

api!(
    FindCoordinator, FindCoordinatorRequest -> FindCoordinatorResponse, 10, 0..=4,
    flexible_from(3, &[
        since(1, Fixed(4)),
        until(3, Fixed(2)),
        between(1, 3, Text),
        until(3, Fixed(4)),
        until(3, Text),
        until(3, Fixed(4)),
        since(4, array(&[
            always(Text),
            always(Fixed(4)),
            always(Text),
            always(Fixed(6)),
            always(Text),
        ])),
    ])
);

api!(
    JoinGroup, JoinGroupRequest -> JoinGroupResponse, 11, 1..=9,
    flexible_from(6, &[
        since(2, Fixed(4)),
        always(Fixed(6)),
        since(7, Text),
        always(Text),
        always(Text),
        since(9, Fixed(1)),
        always(Text),
        always(array(&[always(Text), since(5, Text), always(Blob)])),
    ])
);

api!(
    SyncGroup, SyncGroupRequest -> SyncGroupResponse, 14, 0..=5,
    flexible_from(4, &[since(1, Fixed(4)), always(Fixed(2)), since(5, Text), since(5, Text), always(Blob)])
);

api!(
    Heartbeat, HeartbeatRequest -> HeartbeatResponse, 12, 0..=4,
    flexible_from(4, &[since(1, Fixed(4)), always(Fixed(2))])
);

api!(
    LeaveGroup, LeaveGroupRequest -> LeaveGroupResponse, 13, 0..=5,
    flexible_from(4, &[
        since(1, Fixed(4)),
        always(Fixed(2)),
        since(3, array(&[always(Text), always(Text), always(Fixed(2))])),
    ])
);

api!(
    ConsumerGroupHeartbeat, ConsumerGroupHeartbeatRequest -> ConsumerGroupHeartbeatResponse,
    68, 0..=1,
    flexible_from(0, &[
        always(Fixed(6)),
        always(Text),
        always(Text),
        always(Fixed(8)),
        always(Kind::Nullable(Struct {
            fields: &[always(array(&[always(Fixed(16)), always(Ints)]))],
            tags: &[],
        })),
    ])
);

// v10 names topics by id.
api!(
    OffsetCommit, OffsetCommitRequest -> OffsetCommitResponse, 8, 2..=9,
    flexible_from(8, &[
        since(3, Fixed(4)),
        always(array(&[always(Text), always(array(&[always(Fixed(6))]))])),
    ])
);

// v10 names topics by id.
api!(
    OffsetFetch, OffsetFetchRequest -> OffsetFetchResponse, 9, 1..=9,
    flexible_from(6, &[
        since(3, Fixed(4)),
        until(7, array(&[
            always(Text),
            always(array(&[always(Fixed(12)), since(5, Fixed(4)), always(Text), always(Fixed(2))])),
        ])),
        between(2, 7, Fixed(2)),
        since(8, array(&[
            always(Text),
            always(array(&[
                always(Text),
                always(array(&[always(Fixed(16)), always(Text), always(Fixed(2))])),
            ])),
            always(Fixed(2)),
        ])),
    ])
);

api!(
    CreateTopics, CreateTopicsRequest -> CreateTopicsResponse, 19, 2..=7,
    flexible_from(5, &[
        always(Fixed(4)),
        always(Kind::Array(Struct {
            fields: &[
                always(Text),
                since(7, Fixed(16)),
                always(Fixed(2)),
                always(Text),
                since(5, Fixed(6)),
                since(5, array(&[always(Text), always(Text), always(Fixed(3))])),
            ],
            tags: &[(0, always(Fixed(2)))],
        })),
    ])
);

// v6 may name topics by id.
api!(
    DeleteTopics, DeleteTopicsRequest -> DeleteTopicsResponse, 20, 1..=5,
    flexible_from(4, &[
        always(Fixed(4)),
        always(array(&[always(Text), always(Fixed(2)), since(5, Text)])),
    ])
);

// v6 is for two-phase commit (KIP-939).
api!(
    InitProducerId, InitProducerIdRequest -> InitProducerIdResponse, 22, 0..=5,
    flexible_from(2, &[always(Fixed(16))])
);

// v4 and above are between brokers.
api!(
    AddPartitionsToTxn, AddPartitionsToTxnRequest -> AddPartitionsToTxnResponse, 24, 0..=3,
    flexible_from(3, &[
        always(Fixed(4)),
        always(array(&[always(Text), always(array(&[always(Fixed(6))]))])),
    ])
);

api!(
    AddOffsetsToTxn, AddOffsetsToTxnRequest -> AddOffsetsToTxnResponse, 25, 0..=4,
    flexible_from(3, &[always(Fixed(6))])
);

api!(
    EndTxn, EndTxnRequest -> EndTxnResponse, 26, 0..=5,
    flexible_from(3, &[always(Fixed(6)), since(5, Fixed(10))])
);

// From v3, so that the member's generation stands guard over the offsets (KIP-447); v6 names topics
// by id.
api!(
    TxnOffsetCommit, TxnOffsetCommitRequest -> TxnOffsetCommitResponse, 28, 3..=5,
    flexible_from(3, &[
        always(Fixed(4)),
        always(array(&[always(Text), always(array(&[always(Fixed(6))]))])),
    ])
);

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::{Bytes, BytesMut};
    use kafka_protocol::messages::{BrokerId, GroupId, TopicName};
    use kafka_protocol::protocol::StrBytes;

    pub(super) fn text() -> StrBytes {
        StrBytes::from_static_str("some text")
    }

    pub(super) fn topic() -> TopicName {
        TopicName(text())
    }

    /// Every version of an answer is walked to its last byte, and no cut of it passes.
    pub(super) fn check<A: Api>(answer: impl Fn(i16) -> A::Answer)
    where
        A::Answer: Encodable,
    {
        for version in A::VERSIONS {
            let mut body = BytesMut::new();
            answer(version).encode(&mut body, version).unwrap();
            assert_eq!(
                A::LAYOUT.check(&body, version, usize::MAX),
                Ok(()),
                "{} v{version}",
                A::NAME
            );
            for end in 0..body.len() {
                let cut = A::LAYOUT.check(&body[..end], version, usize::MAX);
                assert!(cut.is_err(), "{} v{version} cut at {end}", A::NAME);
            }
            let mut flexible = BytesMut::from(&b"\x01\x63\x02xy"[..]);
            flexible.extend_from_slice(&body);
            let has_tags = A::Answer::header_version(version) >= 1;
            if has_tags {
                assert_eq!(
                    A::LAYOUT.check_with_tags(&flexible, version, usize::MAX),
                    Ok(())
                );
            }
            let is_flexible = version >= A::LAYOUT.flexible_from;
            assert_eq!(
                has_tags,
                is_flexible && A::KEY != 18,
                "{} v{version}",
                A::NAME
            );
        }
    }

    #[test]
    fn the_layout_of_api_versions_fits_every_version() {
        use m::api_versions_response::{ApiVersion, FinalizedFeatureKey, SupportedFeatureKey};
        check::<m::ApiVersionsRequest>(|version| {
            let answer =
                m::ApiVersionsResponse::default().with_api_keys(vec![ApiVersion::default(); 3]);
            if version < 3 {
                return answer;
            }
            answer
                .with_supported_features(vec![SupportedFeatureKey::default().with_name(text()); 2])
                .with_finalized_features_epoch(7)
                .with_finalized_features(vec![FinalizedFeatureKey::default().with_name(text()); 2])
                .with_zk_migration_ready(true)
        });
    }

    #[test]
    fn the_layout_of_metadata_fits_every_version() {
        use m::metadata_response::{
            MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
        };
        check::<m::MetadataRequest>(|version| {
            let ids = vec![BrokerId(1), BrokerId(2)];
            let partition = MetadataResponsePartition::default()
                .with_replica_nodes(ids.clone())
                .with_isr_nodes(ids.clone())
                .with_offline_replicas(if version >= 5 { ids } else { Vec::new() });
            let topic = MetadataResponseTopic::default()
                .with_name(Some(topic()))
                .with_partitions(vec![partition; 2]);
            let broker = MetadataResponseBroker::default()
                .with_host(text())
                .with_rack(Some(text()));
            m::MetadataResponse::default()
                .with_brokers(vec![broker; 2])
                .with_cluster_id(Some(text()))
                .with_topics(vec![topic; 2])
        });
    }

    #[test]
    fn the_layout_of_find_coordinator_fits_every_version() {
        use m::find_coordinator_response::Coordinator;
        check::<m::FindCoordinatorRequest>(|version| {
            let answer = m::FindCoordinatorResponse::default();
            if version >= 4 {
                let found = Coordinator::default()
                    .with_key(text())
                    .with_host(text())
                    .with_error_message(None);
                answer.with_coordinators(vec![found; 2])
            } else {
                answer.with_error_message(Some(text())).with_host(text())
            }
        });
    }

    #[test]
    fn the_layouts_of_membership_fit_every_version() {
        use m::join_group_response::JoinGroupResponseMember;
        use m::leave_group_response::MemberResponse;
        check::<m::JoinGroupRequest>(|version| {
            let member = JoinGroupResponseMember::default()
                .with_member_id(text())
                .with_group_instance_id((version >= 5).then(text))
                .with_metadata(Bytes::from_static(b"blob"));
            m::JoinGroupResponse::default()
                .with_protocol_type((version >= 7).then(text))
                .with_protocol_name(Some(text()))
                .with_skip_assignment(version >= 9)
                .with_leader(text())
                .with_member_id(text())
                .with_members(vec![member; 2])
        });
        check::<m::SyncGroupRequest>(|version| {
            m::SyncGroupResponse::default()
                .with_protocol_type((version >= 5).then(text))
                .with_protocol_name((version >= 5).then(text))
                .with_assignment(Bytes::from_static(b"blob"))
        });
        check::<m::HeartbeatRequest>(|_| m::HeartbeatResponse::default());
        check::<m::LeaveGroupRequest>(|version| {
            let member = MemberResponse::default()
                .with_member_id(text())
                .with_group_instance_id(Some(text()));
            let members = if version >= 3 {
                vec![member; 2]
            } else {
                Vec::new()
            };
            m::LeaveGroupResponse::default().with_members(members)
        });
    }

    #[test]
    fn the_layout_of_the_consumer_group_heartbeat_fits_every_version() {
        use m::consumer_group_heartbeat_response::{Assignment, TopicPartitions};
        let assignments = [0, 2].map(|topics| {
            let topic = TopicPartitions::default().with_partitions(vec![1, 2]);
            Some(Assignment::default().with_topic_partitions(vec![topic; topics]))
        });
        for assignment in assignments.into_iter().chain([None]) {
            check::<m::ConsumerGroupHeartbeatRequest>(|_| {
                m::ConsumerGroupHeartbeatResponse::default()
                    .with_error_message(Some(text()))
                    .with_member_id(Some(text()))
                    .with_assignment(assignment.clone())
            });
        }
    }

    #[test]
    fn the_layouts_of_offsets_fit_every_version() {
        use m::offset_commit_response::{OffsetCommitResponsePartition, OffsetCommitResponseTopic};
        use m::offset_fetch_response::{
            OffsetFetchResponseGroup, OffsetFetchResponsePartition, OffsetFetchResponsePartitions,
            OffsetFetchResponseTopic, OffsetFetchResponseTopics,
        };
        check::<m::OffsetCommitRequest>(|_| {
            let topic = OffsetCommitResponseTopic::default()
                .with_name(topic())
                .with_partitions(vec![OffsetCommitResponsePartition::default(); 2]);
            m::OffsetCommitResponse::default().with_topics(vec![topic; 2])
        });
        check::<m::OffsetFetchRequest>(|version| {
            if version >= 8 {
                let partition =
                    OffsetFetchResponsePartitions::default().with_metadata(Some(text()));
                let topic = OffsetFetchResponseTopics::default()
                    .with_name(topic())
                    .with_partitions(vec![partition; 2]);
                let group = OffsetFetchResponseGroup::default()
                    .with_group_id(GroupId(text()))
                    .with_topics(vec![topic; 2]);
                return m::OffsetFetchResponse::default().with_groups(vec![group; 2]);
            }
            let partition = OffsetFetchResponsePartition::default().with_metadata(Some(text()));
            let topic = OffsetFetchResponseTopic::default()
                .with_name(topic())
                .with_partitions(vec![partition; 2]);
            m::OffsetFetchResponse::default().with_topics(vec![topic; 2])
        });
    }

    #[test]
    fn the_layout_of_list_offsets_fits_every_version() {
        use m::list_offsets_response::{ListOffsetsPartitionResponse, ListOffsetsTopicResponse};
        check::<m::ListOffsetsRequest>(|_| {
            let topic = ListOffsetsTopicResponse::default()
                .with_name(topic())
                .with_partitions(vec![ListOffsetsPartitionResponse::default(); 2]);
            m::ListOffsetsResponse::default().with_topics(vec![topic; 2])
        });
    }

    #[test]
    fn the_layouts_of_transactions_fit_every_version() {
        use m::add_partitions_to_txn_response as added;
        use m::txn_offset_commit_response as committed;
        check::<m::InitProducerIdRequest>(|_| m::InitProducerIdResponse::default());
        check::<m::AddOffsetsToTxnRequest>(|_| m::AddOffsetsToTxnResponse::default());
        check::<m::EndTxnRequest>(|version| {
            let raised = m::EndTxnResponse::default();
            if version < 5 {
                return raised;
            }
            raised
                .with_producer_id(m::ProducerId(7))
                .with_producer_epoch(3)
        });
        check::<m::AddPartitionsToTxnRequest>(|_| {
            let partition = added::AddPartitionsToTxnPartitionResult::default();
            let topic = added::AddPartitionsToTxnTopicResult::default()
                .with_name(topic())
                .with_results_by_partition(vec![partition; 2]);
            m::AddPartitionsToTxnResponse::default()
                .with_results_by_topic_v3_and_below(vec![topic; 2])
        });
        check::<m::TxnOffsetCommitRequest>(|_| {
            let partition = committed::TxnOffsetCommitResponsePartition::default();
            let topic = committed::TxnOffsetCommitResponseTopic::default()
                .with_name(topic())
                .with_partitions(vec![partition; 2]);
            m::TxnOffsetCommitResponse::default().with_topics(vec![topic; 2])
        });
    }

    #[test]
    fn the_layouts_of_administration_fit_every_version() {
        use m::create_topics_response::{CreatableTopicConfigs, CreatableTopicResult};
        use m::delete_topics_response::DeletableTopicResult;
        check::<m::CreateTopicsRequest>(|version| {
            let mut topic = CreatableTopicResult::default()
                .with_name(topic())
                .with_error_message(Some(text()));
            if version >= 5 {
                let config = CreatableTopicConfigs::default()
                    .with_name(text())
                    .with_value(None);
                topic = topic
                    .with_configs(Some(vec![config; 2]))
                    .with_topic_config_error_code(29);
            }
            m::CreateTopicsResponse::default().with_topics(vec![topic; 2])
        });
        check::<m::DeleteTopicsRequest>(|version| {
            let topic = DeletableTopicResult::default()
                .with_name(Some(topic()))
                .with_error_message((version >= 5).then(text));
            m::DeleteTopicsResponse::default().with_responses(vec![topic; 2])
        });
    }
}
