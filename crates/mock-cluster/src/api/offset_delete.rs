//! OffsetDelete (KIP-496): single offsets of a group, but not of topics that its members read.

use kafka_protocol::messages::offset_delete_response::{
    OffsetDeleteResponsePartition, OffsetDeleteResponseTopic,
};
use kafka_protocol::messages::{OffsetDeleteRequest, OffsetDeleteResponse};

use super::shape::{Field, I32, TEXT, structs};
use super::{Api, Call, Names, Outcome, Range};
use crate::shared::Data;
use crate::{ApiKey, codes};

pub(super) struct OffsetDelete;

impl Api for OffsetDelete {
    const KEY: ApiKey = ApiKey::OffsetDelete;
    const VERSIONS: Range = Range { min: 0, max: 0 };
    const FLEXIBLE: i16 = i16::MAX;
    const SHAPE: &'static [Field] = &[TEXT, structs(&[TEXT, structs(&[I32])])];
    type Request = OffsetDeleteRequest;
    type Response = OffsetDeleteResponse;

    fn names(request: &Self::Request) -> Names {
        let topics = request.topics.iter().map(|topic| topic.name.as_str());
        Names::group(&request.group_id).and_topics(topics)
    }

    fn refuse(_: &Self::Request, _: i16, code: i16) -> Option<Self::Response> {
        Some(OffsetDeleteResponse::default().with_error_code(code))
    }

    async fn handle(call: &Call<'_>, request: Self::Request) -> Outcome<Self::Response> {
        let mut data = call.shared.data();
        let Data {
            topics,
            coordinators,
            ..
        } = &mut *data;
        let exists = coordinators.get(&request.group_id).is_some();
        let group = match coordinators.at(call.broker, &request.group_id, topics) {
            Ok(_) if !exists => Err(codes::GROUP_ID_NOT_FOUND),
            Ok(group) if !group.may_lose_offsets() => Err(codes::NON_EMPTY_GROUP),
            answer => answer,
        };
        let group = match group {
            Ok(group) => group,
            Err(code) => {
                return Outcome::Answer(OffsetDeleteResponse::default().with_error_code(code));
            }
        };
        let answered = request.topics.iter().map(|asked| {
            let topic = topics.by_name.get(asked.name.as_str());
            let is_read = group.reads(&asked.name);
            let partitions = asked.partitions.iter().map(|partition| {
                let index = partition.partition_index;
                let code = if is_read {
                    codes::GROUP_SUBSCRIBED_TO_TOPIC
                } else if topic.and_then(|topic| topic.partition(index)).is_none() {
                    codes::UNKNOWN_TOPIC_OR_PARTITION
                } else {
                    group.forget_offset(&asked.name, index);
                    codes::NONE
                };
                OffsetDeleteResponsePartition::default()
                    .with_partition_index(index)
                    .with_error_code(code)
            });
            OffsetDeleteResponseTopic::default()
                .with_name(asked.name.clone())
                .with_partitions(partitions.collect())
        });
        let answered = answered.collect();
        Outcome::Answer(OffsetDeleteResponse::default().with_topics(answered))
    }
}
