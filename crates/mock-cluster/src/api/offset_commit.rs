//! OffsetCommit: keeps offsets for a member of this generation, or for a consumer outside the group
//! protocol when the group is empty.

use kafka_protocol::messages::offset_commit_response::{
    OffsetCommitResponsePartition, OffsetCommitResponseTopic,
};
use kafka_protocol::messages::{OffsetCommitRequest, OffsetCommitResponse};

use super::shape::{Field, I32, I64, TEXT, structs};
use super::{Api, Call, Names, Outcome, Range, owned};
use crate::group::{Committed, MemberCall};
use crate::shared::Data;
use crate::{ApiKey, codes};

/// `offset.metadata.max.bytes`, Kafka's default.
pub(super) const MAX_METADATA_BYTES: usize = 4096;

pub(super) struct OffsetCommit;

impl Api for OffsetCommit {
    const KEY: ApiKey = ApiKey::OffsetCommit;
    const VERSIONS: Range = Range { min: 2, max: 9 };
    const FLEXIBLE: i16 = 8;
    const SHAPE: &'static [Field] = &[
        TEXT,
        I32,
        TEXT,
        TEXT.from(7),
        I64.to(4),
        structs(&[TEXT, structs(&[I32, I64, I32.from(6), TEXT])]),
    ];
    type Request = OffsetCommitRequest;
    type Response = OffsetCommitResponse;

    fn names(request: &Self::Request) -> Names {
        let topics = request.topics.iter().map(|topic| topic.name.as_str());
        Names::group(&request.group_id).and_topics(topics)
    }

    fn refuse(request: &Self::Request, _: i16, code: i16) -> Option<Self::Response> {
        Some(answer_each(request, |_, _, _| code))
    }

    async fn handle(call: &Call<'_>, request: Self::Request) -> Outcome<Self::Response> {
        let caller = MemberCall {
            member_id: request.member_id.to_string(),
            instance_id: owned(request.group_instance_id.as_ref()),
            generation: request.generation_id_or_member_epoch,
        };
        let now = call.shared.now_ms();
        let mut data = call.shared.data();
        let Data {
            topics,
            coordinators,
            ..
        } = &mut *data;
        let group = match coordinators.at(call.broker, &request.group_id, topics) {
            Ok(group) => group,
            Err(code) => return Outcome::Answer(answer_each(&request, |_, _, _| code)),
        };
        let allowed = match group.check_commit(&caller, now) {
            // The code came with version 9.
            codes::STALE_MEMBER_EPOCH if call.version < 9 => codes::UNSUPPORTED_VERSION,
            code => code,
        };
        let response = answer_each(&request, |topic, partition, committed| {
            let known = topics
                .by_name
                .get(topic)
                .and_then(|topic| topic.partition(partition));
            if allowed != codes::NONE {
                allowed
            } else if committed.metadata.len() > MAX_METADATA_BYTES {
                codes::OFFSET_METADATA_TOO_LARGE
            } else if known.is_none() {
                codes::UNKNOWN_TOPIC_OR_PARTITION
            } else {
                group.commit(topic, partition, committed);
                codes::NONE
            }
        });
        Outcome::Answer(response)
    }
}

fn answer_each(
    request: &OffsetCommitRequest,
    mut commit: impl FnMut(&str, i32, Committed) -> i16,
) -> OffsetCommitResponse {
    let topics = request.topics.iter().map(|topic| {
        let partitions = topic.partitions.iter().map(|asked| {
            let committed = Committed {
                offset: asked.committed_offset,
                leader_epoch: asked.committed_leader_epoch,
                metadata: owned(asked.committed_metadata.as_ref()).unwrap_or_default(),
            };
            OffsetCommitResponsePartition::default()
                .with_partition_index(asked.partition_index)
                .with_error_code(commit(&topic.name, asked.partition_index, committed))
        });
        OffsetCommitResponseTopic::default()
            .with_name(topic.name.clone())
            .with_partitions(partitions.collect())
    });
    OffsetCommitResponse::default().with_topics(topics.collect())
}
