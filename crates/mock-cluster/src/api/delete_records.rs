//! DeleteRecords: raises the start of a log; -1 empties it.

use kafka_protocol::messages::delete_records_response::{
    DeleteRecordsPartitionResult, DeleteRecordsTopicResult,
};
use kafka_protocol::messages::{DeleteRecordsRequest, DeleteRecordsResponse};

use super::shape::{Field, I32, I64, TEXT, structs};
use super::{Api, Call, Names, Outcome, Range};
use crate::shared::Data;
use crate::{ApiKey, codes};

pub(super) struct DeleteRecords;

impl Api for DeleteRecords {
    const KEY: ApiKey = ApiKey::DeleteRecords;
    const VERSIONS: Range = Range { min: 0, max: 2 };
    const FLEXIBLE: i16 = 2;
    const SHAPE: &'static [Field] = &[structs(&[TEXT, structs(&[I32, I64])]), I32];
    type Request = DeleteRecordsRequest;
    type Response = DeleteRecordsResponse;

    fn names(request: &Self::Request) -> Names {
        Names::topics(request.topics.iter().map(|topic| topic.name.as_str()))
    }

    fn refuse(request: &Self::Request, _: i16, code: i16) -> Option<Self::Response> {
        Some(answer_each(request, |_, _, _| Err(code)))
    }

    async fn handle(call: &Call<'_>, request: Self::Request) -> Outcome<Self::Response> {
        let mut data = call.shared.data();
        let response = answer_each(&request, |topic, partition, offset| {
            delete(&mut data, call.broker, topic, partition, offset)
        });
        Outcome::Answer(response)
    }
}

fn delete(
    data: &mut Data,
    broker: i32,
    topic: &str,
    partition: i32,
    offset: i64,
) -> Result<i64, i16> {
    let log = &mut data.topics.led_by(broker, topic, partition)?.log;
    let before = log.bytes();
    let deleted = log.delete_before(offset);
    data.log_bytes -= before - log.bytes();
    deleted
}

fn answer_each(
    request: &DeleteRecordsRequest,
    mut delete: impl FnMut(&str, i32, i64) -> Result<i64, i16>,
) -> DeleteRecordsResponse {
    let topics = request.topics.iter().map(|topic| {
        let partitions = topic.partitions.iter().map(|asked| {
            let deleted = delete(&topic.name, asked.partition_index, asked.offset);
            DeleteRecordsPartitionResult::default()
                .with_partition_index(asked.partition_index)
                .with_low_watermark(deleted.unwrap_or(-1))
                .with_error_code(deleted.err().unwrap_or(codes::NONE))
        });
        DeleteRecordsTopicResult::default()
            .with_name(topic.name.clone())
            .with_partitions(partitions.collect())
    });
    DeleteRecordsResponse::default().with_topics(topics.collect())
}
