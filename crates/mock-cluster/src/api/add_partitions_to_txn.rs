//! AddPartitionsToTxn: what a transaction of version 1 is about to write to. From version 4 on it is
//! a call between brokers, which a client is not allowed.

use kafka_protocol::messages::add_partitions_to_txn_response::{
    AddPartitionsToTxnPartitionResult, AddPartitionsToTxnTopicResult,
};
use kafka_protocol::messages::{AddPartitionsToTxnRequest, AddPartitionsToTxnResponse};

use super::shape::{BOOL, Field, I16, I32S, I64, TEXT, structs};
use super::{Api, Call, Names, Outcome, Range};
use crate::shared::Data;
use crate::txn::{Part, ProducerAt};
use crate::{ApiKey, codes};

const FIRST_BETWEEN_BROKERS: i16 = 4;
const SAYS_FENCED_FROM: i16 = 2;

pub(super) struct AddPartitionsToTxn;

impl Api for AddPartitionsToTxn {
    const KEY: ApiKey = ApiKey::AddPartitionsToTxn;
    const VERSIONS: Range = Range { min: 0, max: 5 };
    const FLEXIBLE: i16 = 3;
    const SHAPE: &'static [Field] = &[
        structs(&[TEXT, I64, I16, BOOL, structs(&[TEXT, I32S])]).from(4),
        TEXT.to(3),
        I64.to(3),
        I16.to(3),
        structs(&[TEXT, I32S]).to(3),
    ];
    type Request = AddPartitionsToTxnRequest;
    type Response = AddPartitionsToTxnResponse;

    fn names(request: &Self::Request) -> Names {
        let topics = request.v3_and_below_topics.iter();
        Names::topics(topics.map(|topic| topic.name.as_str()))
            .and_transaction(Some(&request.v3_and_below_transactional_id))
    }

    fn refuse(request: &Self::Request, version: i16, code: i16) -> Option<Self::Response> {
        if version >= FIRST_BETWEEN_BROKERS {
            return Some(AddPartitionsToTxnResponse::default().with_error_code(code));
        }
        Some(answer_each(request, |_, _| code))
    }

    async fn handle(call: &Call<'_>, request: Self::Request) -> Outcome<Self::Response> {
        if call.version >= FIRST_BETWEEN_BROKERS {
            let code = codes::CLUSTER_AUTHORIZATION_FAILED;
            return Outcome::Answer(AddPartitionsToTxnResponse::default().with_error_code(code));
        }
        let mut data = call.shared.data();
        let exists = |topic: &str, index: i32| {
            let topic = data.topics.by_name.get(topic);
            topic.is_some_and(|topic| topic.partition(index).is_some())
        };
        // All or nothing: with one unknown partition, the others are not tried.
        let all_exist = request.v3_and_below_topics.iter().all(|topic| {
            let mut partitions = topic.partitions.iter();
            partitions.all(|index| exists(&topic.name, *index))
        });
        let response = if all_exist {
            let code = add(&mut data, call, &request).err().unwrap_or(codes::NONE);
            let code = call.fenced(code, SAYS_FENCED_FROM);
            answer_each(&request, |_, _| code)
        } else {
            answer_each(&request, |topic, index| {
                if exists(topic, index) {
                    codes::OPERATION_NOT_ATTEMPTED
                } else {
                    codes::UNKNOWN_TOPIC_OR_PARTITION
                }
            })
        };
        drop(data);
        call.shared.timer.notify_one();
        Outcome::Answer(response)
    }
}

fn add(data: &mut Data, call: &Call<'_>, request: &AddPartitionsToTxnRequest) -> Result<(), i16> {
    let name = &request.v3_and_below_transactional_id;
    let transaction = data.transactions.at(call.broker, name, &data.topics)?;
    let producer = ProducerAt {
        id: request.v3_and_below_producer_id.0,
        epoch: request.v3_and_below_producer_epoch,
    };
    let now = call.shared.now_ms();
    for topic in &request.v3_and_below_topics {
        for index in &topic.partitions {
            transaction.add(producer, Part::Partition(&topic.name, *index), false, now)?;
        }
    }
    Ok(())
}

fn answer_each(
    request: &AddPartitionsToTxnRequest,
    mut code: impl FnMut(&str, i32) -> i16,
) -> AddPartitionsToTxnResponse {
    let topics = request.v3_and_below_topics.iter().map(|topic| {
        let partitions = topic.partitions.iter().map(|index| {
            AddPartitionsToTxnPartitionResult::default()
                .with_partition_index(*index)
                .with_partition_error_code(code(&topic.name, *index))
        });
        AddPartitionsToTxnTopicResult::default()
            .with_name(topic.name.clone())
            .with_results_by_partition(partitions.collect())
    });
    AddPartitionsToTxnResponse::default().with_results_by_topic_v3_and_below(topics.collect())
}
