//! TxnOffsetCommit: offsets that count when the transaction commits. From version 5 on (KIP-890) the
//! group joins the transaction by itself.

use kafka_protocol::messages::txn_offset_commit_response::{
    TxnOffsetCommitResponsePartition, TxnOffsetCommitResponseTopic,
};
use kafka_protocol::messages::{TxnOffsetCommitRequest, TxnOffsetCommitResponse};

use super::offset_commit::MAX_METADATA_BYTES;
use super::shape::{Field, I16, I32, I64, TEXT, structs};
use super::{Api, Call, Names, Outcome, Range, owned};
use crate::group::{Committed, Group, MemberCall};
use crate::shared::Data;
use crate::txn::{Part, ProducerAt, Transactions};
use crate::{ApiKey, codes};

const ADDS_FROM: i16 = 5;
const SAYS_ABORTABLE_FROM: i16 = 4;

pub(super) struct TxnOffsetCommit;

impl Api for TxnOffsetCommit {
    const KEY: ApiKey = ApiKey::TxnOffsetCommit;
    const VERSIONS: Range = Range { min: 0, max: 5 };
    const FLEXIBLE: i16 = 3;
    const SHAPE: &'static [Field] = &[
        TEXT,
        TEXT,
        I64,
        I16,
        I32.from(3),
        TEXT.from(3),
        TEXT.from(3),
        structs(&[TEXT, structs(&[I32, I64, I32.from(2), TEXT])]),
    ];
    type Request = TxnOffsetCommitRequest;
    type Response = TxnOffsetCommitResponse;

    fn names(request: &Self::Request) -> Names {
        Names::group(&request.group_id)
            .and_topics(request.topics.iter().map(|topic| topic.name.as_str()))
            .and_transaction(Some(&request.transactional_id))
    }

    fn refuse(request: &Self::Request, _: i16, code: i16) -> Option<Self::Response> {
        Some(answer_each(request, |_, _, _| code))
    }

    async fn handle(call: &Call<'_>, request: Self::Request) -> Outcome<Self::Response> {
        let mut data = call.shared.data();
        let Data {
            topics,
            coordinators,
            transactions,
            ..
        } = &mut *data;
        let found = coordinators.at(call.broker, &request.group_id, topics);
        let group = match found.and_then(|group| check(group, transactions, call, &request)) {
            Ok(group) => group,
            Err(code) => return Outcome::Answer(answer_each(&request, |_, _, _| code)),
        };
        let response = answer_each(&request, |topic, partition, committed| {
            let known = topics.by_name.get(topic);
            if committed.metadata.len() > MAX_METADATA_BYTES {
                codes::OFFSET_METADATA_TOO_LARGE
            } else if known.is_none_or(|topic| topic.partition(partition).is_none()) {
                codes::UNKNOWN_TOPIC_OR_PARTITION
            } else {
                group.commit_pending(request.producer_id.0, topic, partition, committed);
                codes::NONE
            }
        });
        call.shared.timer.notify_one();
        Outcome::Answer(response)
    }
}

/// Gives the group back when the producer and the member may commit there.
fn check<'a>(
    group: &'a mut Group,
    transactions: &mut Transactions,
    call: &Call<'_>,
    request: &TxnOffsetCommitRequest,
) -> Result<&'a mut Group, i16> {
    let producer = ProducerAt {
        id: request.producer_id.0,
        epoch: request.producer_epoch,
    };
    let now = call.shared.now_ms();
    let part = Part::Group(&request.group_id);
    let transaction = transactions.known(&request.transactional_id)?;
    let joined = if call.version >= ADDS_FROM {
        transaction.add(producer, part, true, now)
    } else {
        transaction.verify(producer, part)
    };
    joined.map_err(|code| match code {
        codes::PRODUCER_FENCED => codes::INVALID_PRODUCER_EPOCH,
        codes::TRANSACTION_ABORTABLE if call.version < SAYS_ABORTABLE_FROM => {
            codes::INVALID_TXN_STATE
        }
        codes::CONCURRENT_TRANSACTIONS if call.version < ADDS_FROM => {
            codes::COORDINATOR_NOT_AVAILABLE
        }
        code => code,
    })?;
    let (generation, member_id) = if call.version >= 3 {
        (request.generation_id, request.member_id.to_string())
    } else {
        (-1, String::new())
    };
    let caller = MemberCall {
        member_id,
        instance_id: owned(request.group_instance_id.as_ref()),
        generation,
    };
    match group.check_transactional_commit(&caller, now) {
        codes::NONE => Ok(group),
        code => Err(code),
    }
}

fn answer_each(
    request: &TxnOffsetCommitRequest,
    mut commit: impl FnMut(&str, i32, Committed) -> i16,
) -> TxnOffsetCommitResponse {
    let topics = request.topics.iter().map(|topic| {
        let partitions = topic.partitions.iter().map(|asked| {
            let committed = Committed {
                offset: asked.committed_offset,
                leader_epoch: asked.committed_leader_epoch,
                metadata: owned(asked.committed_metadata.as_ref()).unwrap_or_default(),
            };
            TxnOffsetCommitResponsePartition::default()
                .with_partition_index(asked.partition_index)
                .with_error_code(commit(&topic.name, asked.partition_index, committed))
        });
        TxnOffsetCommitResponseTopic::default()
            .with_name(topic.name.clone())
            .with_partitions(partitions.collect())
    });
    TxnOffsetCommitResponse::default().with_topics(topics.collect())
}
