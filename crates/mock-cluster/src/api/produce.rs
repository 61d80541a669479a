//! Produce: checks each batch and appends it. Every acks but 0 is answered when the append is
//! done; acks 0 is not answered, and closes the connection when something went wrong, as Kafka
//! does.
//!
//! The first batch of a transaction in a partition is checked against its coordinator; from
//! version 12 on (KIP-890) the partition joins the transaction by that.

use bytes::Bytes;
use kafka_protocol::messages::produce_request::TopicProduceData;
use kafka_protocol::messages::produce_response::{
    LeaderIdAndEpoch, NodeEndpoint, PartitionProduceResponse, TopicProduceResponse,
};
use kafka_protocol::messages::{BrokerId, ProduceRequest, ProduceResponse};

use super::shape::{BLOB, Field, I16, I32, TEXT, UUID, structs};
use super::{Api, Call, Names, Outcome, Range, text};
use crate::batch::Batch;
use crate::log::Appended;
use crate::shared::{Data, HOST, wall_clock_ms};
use crate::txn::{Part, ProducerAt};
use crate::{ApiKey, codes};

pub(super) struct Produce;

impl Api for Produce {
    const KEY: ApiKey = ApiKey::Produce;
    const VERSIONS: Range = Range { min: 3, max: 13 };
    const FLEXIBLE: i16 = 9;
    const SHAPE: &'static [Field] = &[
        TEXT,
        I16,
        I32,
        structs(&[TEXT.to(12), UUID.from(13), structs(&[I32, BLOB])]),
    ];
    type Request = ProduceRequest;
    type Response = ProduceResponse;

    fn names(request: &Self::Request) -> Names {
        Names::topics(request.topic_data.iter().map(|topic| topic.name.as_str()))
            .and_topic_ids(request.topic_data.iter().map(|topic| topic.topic_id))
            .and_transaction(request.transactional_id.as_ref().map(|id| id.as_str()))
    }

    fn refuse(request: &Self::Request, _: i16, code: i16) -> Option<Self::Response> {
        (request.acks != 0).then(|| answer_each(request, |_, _, _| refused(code)))
    }

    async fn handle(call: &Call<'_>, request: Self::Request) -> Outcome<Self::Response> {
        let mut data = call.shared.data();
        let mut all_done = true;
        let mut moved = Vec::new();
        let writer = Writer {
            call,
            transactional_id: request.transactional_id.as_ref().map(|id| id.as_str()),
        };
        let response = answer_each(&request, |topic, partition, records| {
            let name = name_of(&data, call.version, topic);
            let appended = match (&name, request.acks) {
                (Ok(name), -1..=1) => writer.append(&mut data, name, partition, records),
                (Ok(_), _) => Err(codes::INVALID_REQUIRED_ACKS),
                (Err(code), _) => Err(*code),
            };
            let name = name.unwrap_or_default();
            all_done &= appended.is_ok();
            let mut answer = match appended {
                Ok(appended) => PartitionProduceResponse::default()
                    .with_base_offset(appended.base_offset)
                    .with_log_append_time_ms(appended.log_append_time_ms)
                    .with_log_start_offset(log_start(&data, &name, partition)),
                Err(code) => refused(code),
            };
            if answer.error_code == codes::NOT_LEADER_OR_FOLLOWER
                && call.version >= 10
                && let Some((leader, epoch)) = leader(&data, &name, partition)
            {
                moved.push(leader);
                let hint = LeaderIdAndEpoch::default()
                    .with_leader_id(BrokerId(leader))
                    .with_leader_epoch(epoch);
                answer = answer.with_current_leader(hint);
            }
            answer
        });
        call.shared.timer.notify_one();
        match (request.acks, all_done) {
            (0, true) => Outcome::Silence,
            (0, false) => Outcome::Close,
            _ => Outcome::Answer(response.with_node_endpoints(endpoints(&data, moved))),
        }
    }
}

/// The first version that names topics by id (KIP-516).
const IDS_FROM: i16 = 13;
/// The first version that adds the partition to the transaction.
const ADDS_FROM: i16 = 12;
/// The first version that knows TRANSACTION_ABORTABLE.
const SAYS_ABORTABLE_FROM: i16 = 11;

fn name_of(data: &Data, version: i16, topic: &TopicProduceData) -> Result<String, i16> {
    if version < IDS_FROM {
        return Ok(topic.name.to_string());
    }
    let name = data.topics.name_of(topic.topic_id);
    name.map(str::to_owned).ok_or(codes::UNKNOWN_TOPIC_ID)
}

/// Appends what one request carries.
struct Writer<'a> {
    call: &'a Call<'a>,
    transactional_id: Option<&'a str>,
}

impl Writer<'_> {
    fn append(
        &self,
        data: &mut Data,
        topic: &str,
        index: i32,
        records: &Bytes,
    ) -> Result<Appended, i16> {
        let broker = self.call.broker;
        let config = &self.call.shared.config;
        data.topics.led_by(broker, topic, index)?;
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
        if batch.is_transactional() {
            self.check_transaction(data, topic, index, &batch)?;
        }
        let partition = data.topics.led_by(broker, topic, index)?;
        let epoch = partition.leader_epoch;
        let appended = partition.log.append(batch, epoch, append_time)?;
        if appended.is_new {
            partition.wake();
            data.log_bytes += records.len();
        }
        Ok(appended)
    }

    /// KIP-890: without an open transaction in this log, the coordinator must know of one.
    fn check_transaction(
        &self,
        data: &mut Data,
        topic: &str,
        index: i32,
        batch: &Batch,
    ) -> Result<(), i16> {
        let name = self
            .transactional_id
            .ok_or(codes::TRANSACTIONAL_ID_AUTHORIZATION_FAILED)?;
        let producer = ProducerAt {
            id: batch.producer_id,
            epoch: batch.producer_epoch,
        };
        let log = &data.topics.led_by(self.call.broker, topic, index)?.log;
        if log.has_open_transaction(producer.id, producer.epoch) {
            return Ok(());
        }
        let version = self.call.version;
        let part = Part::Partition(topic, index);
        let transaction = data.transactions.known(name)?;
        let joined = if version >= ADDS_FROM {
            transaction.add(producer, part, true, self.call.shared.now_ms())
        } else {
            transaction.verify(producer, part)
        };
        joined.map_err(|code| match code {
            codes::PRODUCER_FENCED => codes::INVALID_PRODUCER_EPOCH,
            codes::CONCURRENT_TRANSACTIONS if version < ADDS_FROM => codes::NOT_ENOUGH_REPLICAS,
            codes::TRANSACTION_ABORTABLE if version < SAYS_ABORTABLE_FROM => {
                codes::INVALID_TXN_STATE
            }
            code => code,
        })
    }
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
    mut answer: impl FnMut(&TopicProduceData, i32, &Bytes) -> PartitionProduceResponse,
) -> ProduceResponse {
    let none = Bytes::new();
    let topics = request.topic_data.iter().map(|topic| {
        let partitions = topic.partition_data.iter().map(|partition| {
            let records = partition.records.as_ref().unwrap_or(&none);
            answer(topic, partition.index, records).with_index(partition.index)
        });
        TopicProduceResponse::default()
            .with_name(topic.name.clone())
            .with_topic_id(topic.topic_id)
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
