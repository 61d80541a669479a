//! ListOffsets: the offset of a timestamp; -1 is the end, which for a reader of committed data is the
//! last stable offset, -2 the start, -3 the record with the
//! highest timestamp (KIP-734), -4 the local start (KIP-405, the same as the start here).

use kafka_protocol::messages::list_offsets_response::{
    ListOffsetsPartitionResponse, ListOffsetsTopicResponse,
};
use kafka_protocol::messages::{ListOffsetsRequest, ListOffsetsResponse};

use super::shape::{Field, I8, I32, I64, TEXT, structs};
use super::{Api, Call, Names, Outcome, Range};
use crate::topics::Partition;
use crate::{ApiKey, codes};

const LATEST: i64 = -1;
const EARLIEST: i64 = -2;
const MAX_TIMESTAMP: i64 = -3;
const EARLIEST_LOCAL: i64 = -4;

pub(super) struct ListOffsets;

impl Api for ListOffsets {
    const KEY: ApiKey = ApiKey::ListOffsets;
    const VERSIONS: Range = Range { min: 1, max: 10 };
    const FLEXIBLE: i16 = 6;
    const SHAPE: &'static [Field] = &[
        I32,
        I8.from(2),
        structs(&[TEXT, structs(&[I32, I32.from(4), I64])]),
        I32.from(10),
    ];
    type Request = ListOffsetsRequest;
    type Response = ListOffsetsResponse;

    fn names(request: &Self::Request) -> Names {
        Names::topics(request.topics.iter().map(|topic| topic.name.as_str()))
    }

    fn refuse(request: &Self::Request, version: i16, code: i16) -> Option<Self::Response> {
        Some(answer_each(request, version, |_, _, _, _| Err(code)))
    }

    async fn handle(call: &Call<'_>, request: Self::Request) -> Outcome<Self::Response> {
        let mut data = call.shared.data();
        let read_committed = request.isolation_level == 1;
        let response = answer_each(
            &request,
            call.version,
            |topic, partition, epoch, timestamp| {
                let partition = data.topics.led_at(call.broker, topic, partition, epoch)?;
                let end = partition.log.readable_end(read_committed);
                Ok(look_up(partition, timestamp, end))
            },
        );
        Outcome::Answer(response)
    }
}

/// Offset, timestamp and leader epoch; all -1 when no record below `end` is that young.
fn look_up(partition: &Partition, timestamp: i64, end: i64) -> (i64, i64, i32) {
    let (log, epoch) = (&partition.log, partition.leader_epoch);
    let found = match timestamp {
        LATEST => Some((end, -1, epoch)),
        EARLIEST | EARLIEST_LOCAL => Some((log.start(), -1, epoch)),
        MAX_TIMESTAMP => log.find_max_timestamp(end),
        negative if negative < 0 => None,
        timestamp => log.find_timestamp(timestamp, end),
    };
    found.unwrap_or((-1, -1, -1))
}

fn answer_each(
    request: &ListOffsetsRequest,
    version: i16,
    mut look_up: impl FnMut(&str, i32, i32, i64) -> Result<(i64, i64, i32), i16>,
) -> ListOffsetsResponse {
    let topics = request.topics.iter().map(|topic| {
        let partitions = topic.partitions.iter().map(|asked| {
            let index = asked.partition_index;
            let epoch = if version >= 4 {
                asked.current_leader_epoch
            } else {
                -1
            };
            let found = look_up(&topic.name, index, epoch, asked.timestamp);
            let (code, (offset, timestamp, epoch)) = match found {
                Ok(found) => (codes::NONE, found),
                Err(code) => (code, (-1, -1, -1)),
            };
            let answer = ListOffsetsPartitionResponse::default()
                .with_partition_index(index)
                .with_error_code(code)
                .with_timestamp(timestamp)
                .with_offset(offset);
            if version >= 4 {
                answer.with_leader_epoch(epoch)
            } else {
                answer
            }
        });
        ListOffsetsTopicResponse::default()
            .with_name(topic.name.clone())
            .with_partitions(partitions.collect())
    });
    ListOffsetsResponse::default().with_topics(topics.collect())
}
