//! Produce: checks each batch and appends it. Every acks but 0 is answered when the append is
//! done; acks 0 is not answered, and closes the connection when something went wrong, as Kafka
//! does.

use bytes::Bytes;
use kafka_protocol::messages::produce_response::{
    LeaderIdAndEpoch, NodeEndpoint, PartitionProduceResponse, TopicProduceResponse,
};
use kafka_protocol::messages::{BrokerId, ProduceRequest, ProduceResponse};

use super::shape::{BLOB, Field, I16, I32, TEXT, structs};
use super::{Api, Call, Names, Outcome, Versions, text};
use crate::batch::Batch;
use crate::builder::Config;
use crate::log::Appended;
use crate::shared::{Data, HOST, wall_clock_ms};
use crate::{ApiKey, codes};

pub(super) struct Produce;

impl Api for Produce {
    const KEY: ApiKey = ApiKey::Produce;
    const VERSIONS: Versions = Versions { min: 3, max: 12 };
    const FLEXIBLE: i16 = 9;
    const SHAPE: &'static [Field] = &[TEXT, I16, I32, structs(&[TEXT, structs(&[I32, BLOB])])];
    type Request = ProduceRequest;
    type Response = ProduceResponse;

    fn names(request: &Self::Request) -> Names {
        Names::topics(request.topic_data.iter().map(|topic| topic.name.as_str()))
    }

    fn refuse(request: &Self::Request, _: i16, code: i16) -> Option<Self::Response> {
        (request.acks != 0).then(|| answer_each(request, |_, _, _| refused(code)))
    }

    async fn handle(call: &Call<'_>, request: Self::Request) -> Outcome<Self::Response> {
        let mut data = call.shared.data();
        let config = &call.shared.config;
        let mut all_done = true;
        let mut moved = Vec::new();
        let response = answer_each(&request, |topic, partition, records| {
            let appended = match request.acks {
                -1..=1 => append(&mut data, call.broker, config, topic, partition, records),
                _ => Err(codes::INVALID_REQUIRED_ACKS),
            };
            all_done &= appended.is_ok();
            let mut answer = match appended {
                Ok(appended) => PartitionProduceResponse::default()
                    .with_base_offset(appended.base_offset)
                    .with_log_append_time_ms(appended.log_append_time_ms)
                    .with_log_start_offset(log_start(&data, topic, partition)),
                Err(code) => refused(code),
            };
            if answer.error_code == codes::NOT_LEADER_OR_FOLLOWER
                && call.version >= 10
                && let Some((leader, epoch)) = leader(&data, topic, partition)
            {
                moved.push(leader);
                let hint = LeaderIdAndEpoch::default()
                    .with_leader_id(BrokerId(leader))
                    .with_leader_epoch(epoch);
                answer = answer.with_current_leader(hint);
            }
            answer
        });
        match (request.acks, all_done) {
            (0, true) => Outcome::Silence,
            (0, false) => Outcome::Close,
            _ => Outcome::Answer(response.with_node_endpoints(endpoints(&data, moved))),
        }
    }
}

fn append(
    data: &mut Data,
    broker: i32,
    config: &Config,
    topic: &str,
    partition: i32,
    records: &Bytes,
) -> Result<Appended, i16> {
    data.topics.led_by(broker, topic, partition)?;
    let settings = data
        .topics
        .by_name
        .get(topic)
        .ok_or(codes::UNKNOWN_TOPIC_OR_PARTITION)?;
    let max_bytes = settings
        .max_message_bytes()
        .unwrap_or(config.max_message_bytes);
    let append_time = settings.wants_append_time().then(wall_clock_ms);
    let batch = Batch::from_produce(records, max_bytes)?;
    if data.log_bytes + records.len() > config.max_log_bytes {
        return Err(codes::KAFKA_STORAGE_ERROR);
    }
    let partition = data.topics.led_by(broker, topic, partition)?;
    let appended = partition
        .log
        .append(batch, partition.leader_epoch, append_time)?;
    if appended.is_new {
        partition.wake();
        data.log_bytes += records.len();
    }
    Ok(appended)
}

/// KIP-467: version 8 and up may say more than a code; the code says enough here.
fn refused(code: i16) -> PartitionProduceResponse {
    PartitionProduceResponse::default()
        .with_error_code(code)
        .with_base_offset(-1)
        .with_log_append_time_ms(-1)
        .with_log_start_offset(-1)
}

fn answer_each(
    request: &ProduceRequest,
    mut answer: impl FnMut(&str, i32, &Bytes) -> PartitionProduceResponse,
) -> ProduceResponse {
    let none = Bytes::new();
    let topics = request.topic_data.iter().map(|topic| {
        let partitions = topic.partition_data.iter().map(|partition| {
            let records = partition.records.as_ref().unwrap_or(&none);
            answer(&topic.name, partition.index, records).with_index(partition.index)
        });
        TopicProduceResponse::default()
            .with_name(topic.name.clone())
            .with_partition_responses(partitions.collect())
    });
    ProduceResponse::default().with_responses(topics.collect())
}

fn log_start(data: &Data, topic: &str, partition: i32) -> i64 {
    let topic = data.topics.by_name.get(topic);
    let partition = topic.and_then(|topic| topic.partition(partition));
    partition.map_or(-1, |partition| partition.log.start())
}

fn leader(data: &Data, topic: &str, partition: i32) -> Option<(i32, i32)> {
    let partition = data.topics.by_name.get(topic)?.partition(partition)?;
    Some((partition.leader?, partition.leader_epoch))
}

/// KIP-951: where the leaders that the answer names are.
fn endpoints(data: &Data, mut leaders: Vec<i32>) -> Vec<NodeEndpoint> {
    leaders.sort_unstable();
    leaders.dedup();
    let named = leaders.into_iter().map(|leader| {
        NodeEndpoint::default()
            .with_node_id(BrokerId(leader))
            .with_host(text(HOST))
            .with_port(data.port(leader))
    });
    named.collect()
}
