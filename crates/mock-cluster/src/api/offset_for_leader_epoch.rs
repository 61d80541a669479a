//! OffsetForLeaderEpoch (KIP-320): where a leader epoch ended, so that a client learns of a cut log.

use kafka_protocol::messages::offset_for_leader_epoch_response::{
    EpochEndOffset, OffsetForLeaderTopicResult,
};
use kafka_protocol::messages::{OffsetForLeaderEpochRequest, OffsetForLeaderEpochResponse};

use super::shape::{Field, I32, TEXT, structs};
use super::{Api, Call, Names, Outcome, Range};
use crate::{ApiKey, codes};

pub(super) struct OffsetForLeaderEpoch;

impl Api for OffsetForLeaderEpoch {
    const KEY: ApiKey = ApiKey::OffsetForLeaderEpoch;
    const VERSIONS: Range = Range { min: 2, max: 4 };
    const FLEXIBLE: i16 = 4;
    const SHAPE: &'static [Field] = &[I32.from(3), structs(&[TEXT, structs(&[I32, I32, I32])])];
    type Request = OffsetForLeaderEpochRequest;
    type Response = OffsetForLeaderEpochResponse;

    fn names(request: &Self::Request) -> Names {
        Names::topics(request.topics.iter().map(|topic| topic.topic.as_str()))
    }

    fn refuse(request: &Self::Request, _: i16, code: i16) -> Option<Self::Response> {
        Some(answer_each(request, |_, _, _, _| Err(code)))
    }

    async fn handle(call: &Call<'_>, request: Self::Request) -> Outcome<Self::Response> {
        let mut data = call.shared.data();
        let response = answer_each(&request, |topic, partition, current, asked| {
            let partition = data.topics.led_at(call.broker, topic, partition, current)?;
            Ok(partition.log.end_of_epoch(asked).unwrap_or((-1, -1)))
        });
        Outcome::Answer(response)
    }
}

fn answer_each(
    request: &OffsetForLeaderEpochRequest,
    mut look_up: impl FnMut(&str, i32, i32, i32) -> Result<(i32, i64), i16>,
) -> OffsetForLeaderEpochResponse {
    let topics = request.topics.iter().map(|topic| {
        let partitions = topic.partitions.iter().map(|asked| {
            let (current, epoch) = (asked.current_leader_epoch, asked.leader_epoch);
            let found = look_up(&topic.topic, asked.partition, current, epoch);
            let (code, (epoch, end)) = match found {
                Ok(found) => (codes::NONE, found),
                Err(code) => (code, (-1, -1)),
            };
            EpochEndOffset::default()
                .with_error_code(code)
                .with_partition(asked.partition)
                .with_leader_epoch(epoch)
                .with_end_offset(end)
        });
        OffsetForLeaderTopicResult::default()
            .with_topic(topic.topic.clone())
            .with_partitions(partitions.collect())
    });
    OffsetForLeaderEpochResponse::default().with_topics(topics.collect())
}
