//! The messages of transactions.

use super::{BadAnswer, group, protocol_error, text};
use crate::connection::Api;
use crate::{Error, ErrorKind};
use kafka_protocol::messages as m;
use kafka_protocol::messages::add_partitions_to_txn_request::AddPartitionsToTxnTopic;
use kafka_protocol::messages::txn_offset_commit_request::{
    TxnOffsetCommitRequestPartition, TxnOffsetCommitRequestTopic,
};
use kafka_protocol::messages::{TopicName, TransactionalId};
use ottla_types::transactions::{
    AddOffsetsRequest, AddPartitionsRequest, AddPartitionsResponse, EndTxnRequest, EndTxnResponse,
    InitProducerIdRequest, TxnOffsetCommitRequest, TxnOffsetCommitResponse,
};
use ottla_types::{ErrorCode, ProducerId, TopicPartition};
use std::collections::HashMap;

fn transactional(id: &str) -> TransactionalId {
    TransactionalId(text(id))
}

fn wire_id(producer: ProducerId) -> m::ProducerId {
    m::ProducerId(producer.id)
}

pub(crate) fn init_request(id: &str, request: InitProducerIdRequest) -> m::InitProducerIdRequest {
    let message = m::InitProducerIdRequest::default()
        .with_transactional_id(Some(transactional(id)))
        .with_transaction_timeout_ms(request.transaction_timeout_ms);
    match request.current {
        Some(current) => message
            .with_producer_id(wire_id(current))
            .with_producer_epoch(current.epoch),
        None => message,
    }
}

/// An id and an epoch as an answer of `A` grants them.
pub(crate) fn granted<A: Api>(id: m::ProducerId, epoch: i16) -> Result<ProducerId, Error> {
    if id.0 < 0 || epoch < 0 {
        let cause = BadAnswer::BadProducerId { id: id.0, epoch };
        return Err(protocol_error::<A>(cause));
    }
    Ok(ProducerId { id: id.0, epoch })
}

/// What InitProducerId granted, or the code that it was refused with.
pub(crate) fn init_answer(
    answer: &m::InitProducerIdResponse,
) -> Result<Result<ProducerId, ErrorCode>, Error> {
    if let Err(code) = ErrorCode(answer.error_code).into_result() {
        return Ok(Err(code));
    }
    granted::<m::InitProducerIdRequest>(answer.producer_id, answer.producer_epoch).map(Ok)
}

/// The partitions by topic, in the order in which the topics first come.
fn by_topic<T>(items: Vec<T>, topic: impl Fn(&T) -> &str) -> Vec<(TopicName, Vec<T>)> {
    let mut topics: Vec<(TopicName, Vec<T>)> = Vec::new();
    let mut places: HashMap<TopicName, usize> = HashMap::new();
    for item in items {
        let name = TopicName(text(topic(&item)));
        let place = *places.entry(name.clone()).or_insert_with(|| {
            topics.push((name, Vec::new()));
            topics.len() - 1
        });
        topics[place].1.push(item);
    }
    topics
}

pub(crate) fn add_partitions_request(
    id: &str,
    request: AddPartitionsRequest,
) -> m::AddPartitionsToTxnRequest {
    let topics = by_topic(request.partitions, |partition| &partition.topic);
    let topics = topics.into_iter().map(|(name, partitions)| {
        let partitions = partitions.into_iter().map(|p| p.partition);
        AddPartitionsToTxnTopic::default()
            .with_name(name)
            .with_partitions(partitions.collect())
    });
    m::AddPartitionsToTxnRequest::default()
        .with_v3_and_below_transactional_id(transactional(id))
        .with_v3_and_below_producer_id(wire_id(request.producer))
        .with_v3_and_below_producer_epoch(request.producer.epoch)
        .with_v3_and_below_topics(topics.collect())
}

pub(crate) fn add_partitions_answer(
    answer: &m::AddPartitionsToTxnResponse,
    wanted: Vec<TopicPartition>,
) -> Result<AddPartitionsResponse, Error> {
    let topics = answer.results_by_topic_v3_and_below.iter();
    let codes = topics.flat_map(|topic| {
        let partitions = topic.results_by_partition.iter();
        partitions.map(|p| {
            let key = (topic.name.as_str(), p.partition_index);
            (key, p.partition_error_code)
        })
    });
    in_order::<m::AddPartitionsToTxnRequest>(&codes.collect(), wanted)
}

/// The codes in the order of `wanted`. A partition that the answer leaves out is never taken for
/// done.
fn in_order<A: Api>(
    codes: &HashMap<(&str, i32), i16>,
    wanted: Vec<TopicPartition>,
) -> Result<Vec<(TopicPartition, ErrorCode)>, Error> {
    let code =
        |partition: TopicPartition| match codes.get(&(&*partition.topic, partition.partition)) {
            Some(&code) => Ok((partition, ErrorCode(code))),
            None => Err(protocol_error::<A>(BadAnswer::NoPartition(partition))),
        };
    wanted.into_iter().map(code).collect()
}

pub(crate) fn add_offsets_request(
    id: &str,
    request: &AddOffsetsRequest,
) -> m::AddOffsetsToTxnRequest {
    m::AddOffsetsToTxnRequest::default()
        .with_transactional_id(transactional(id))
        .with_producer_id(wire_id(request.producer))
        .with_producer_epoch(request.producer.epoch)
        .with_group_id(group(&request.group_id))
}

pub(crate) fn commit_request(
    id: &str,
    request: TxnOffsetCommitRequest,
) -> m::TxnOffsetCommitRequest {
    let topics = by_topic(request.offsets, |offset| &offset.partition.topic);
    let topics = topics.into_iter().map(|(name, offsets)| {
        let partitions = offsets.into_iter().map(|offset| {
            TxnOffsetCommitRequestPartition::default()
                .with_partition_index(offset.partition.partition)
                .with_committed_offset(offset.offset)
                .with_committed_leader_epoch(offset.leader_epoch.unwrap_or(-1))
                .with_committed_metadata(Some(text(&offset.metadata)))
        });
        TxnOffsetCommitRequestTopic::default()
            .with_name(name)
            .with_partitions(partitions.collect())
    });
    m::TxnOffsetCommitRequest::default()
        .with_transactional_id(transactional(id))
        .with_group_id(group(&request.group.group_id))
        .with_producer_id(wire_id(request.producer))
        .with_producer_epoch(request.producer.epoch)
        .with_generation_id(request.group.generation)
        .with_member_id(text(&request.group.member_id))
        .with_group_instance_id(request.group.instance_id.as_deref().map(text))
        .with_topics(topics.collect())
}

pub(crate) fn commit_answer(
    answer: &m::TxnOffsetCommitResponse,
    wanted: Vec<TopicPartition>,
) -> Result<TxnOffsetCommitResponse, Error> {
    let codes = answer.topics.iter().flat_map(|topic| {
        let partitions = topic.partitions.iter();
        partitions.map(|p| ((topic.name.as_str(), p.partition_index), p.error_code))
    });
    in_order::<m::TxnOffsetCommitRequest>(&codes.collect(), wanted)
}

pub(crate) fn end_request(id: &str, request: EndTxnRequest) -> m::EndTxnRequest {
    m::EndTxnRequest::default()
        .with_transactional_id(transactional(id))
        .with_producer_id(wire_id(request.producer))
        .with_producer_epoch(request.producer.epoch)
        .with_committed(request.commit)
}

/// What the producer goes on with: from version 5 on the answer says it.
pub(crate) fn end_answer(
    answer: &m::EndTxnResponse,
    version: i16,
    had: ProducerId,
) -> Result<EndTxnResponse, Error> {
    if let Err(code) = ErrorCode(answer.error_code).into_result() {
        return Ok(Err(code));
    }
    if version < 5 {
        return Ok(Ok(had));
    }
    let new = granted::<m::EndTxnRequest>(answer.producer_id, answer.producer_epoch)?;
    if new == had {
        let cause = BadAnswer::SameEpoch(new);
        return Err(Error::new(ErrorKind::Protocol, m::EndTxnRequest::NAME).with_source(cause));
    }
    Ok(Ok(new))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_that_cannot_be_is_refused() {
        for (id, epoch) in [(-1, 0), (5, -1), (i64::MIN, i16::MIN)] {
            let answer = m::InitProducerIdResponse::default()
                .with_producer_id(m::ProducerId(id))
                .with_producer_epoch(epoch);
            let error = init_answer(&answer).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Protocol, "{id} {epoch}");
            let answer = m::EndTxnResponse::default()
                .with_producer_id(m::ProducerId(id))
                .with_producer_epoch(epoch);
            let had = ProducerId { id: 7, epoch: 3 };
            let error = end_answer(&answer, 5, had).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Protocol, "{id} {epoch}");
            assert_eq!(end_answer(&answer, 4, had).unwrap(), Ok(had));
        }
        let refused = m::InitProducerIdResponse::default().with_error_code(51);
        let code = init_answer(&refused).unwrap();
        assert_eq!(code, Err(ErrorCode::CONCURRENT_TRANSACTIONS));
    }

    #[test]
    fn an_end_of_version_2_without_a_new_epoch_is_no_answer() {
        let had = ProducerId { id: 7, epoch: 3 };
        let answer = m::EndTxnResponse::default()
            .with_producer_id(m::ProducerId(7))
            .with_producer_epoch(3);
        let error = end_answer(&answer, 5, had).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Protocol);
    }

    #[test]
    fn a_partition_without_an_answer_is_not_taken_for_added_or_committed() {
        let wanted = || vec![TopicPartition::new("orders", 0)];
        let nothing = m::AddPartitionsToTxnResponse::default();
        let error = add_partitions_answer(&nothing, wanted()).unwrap_err();
        assert_eq!(
            (error.kind(), error.operation()),
            (ErrorKind::Protocol, "AddPartitionsToTxn")
        );
        let nothing = m::TxnOffsetCommitResponse::default();
        let error = commit_answer(&nothing, wanted()).unwrap_err();
        assert_eq!(
            (error.kind(), error.operation()),
            (ErrorKind::Protocol, "TxnOffsetCommit")
        );
    }
}
