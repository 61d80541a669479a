//! Transactions by their coordinator calls alone: offsets of a group, committed and aborted.

use super::fresh;
use ottla_client::{Client, NewTopic, TransactionClient};
use ottla_types::coordinator::{CommitOffset, OffsetFetchRequest};
use ottla_types::transactions::{
    AddOffsetsRequest, AddPartitionsRequest, EndTxnRequest, GroupMetadata, InitProducerIdRequest,
    TransactionVersion, TxnOffsetCommitRequest,
};
use ottla_types::{ErrorCode, ProducerId, TopicPartition};
use std::time::{Duration, Instant};

/// Asks until the answer is something else than a code that passes: a coordinator that is not there
/// yet, a transaction before that is still being ended.
macro_rules! insist {
    ($ask:expr, $code:expr) => {{
        let limit = Instant::now() + Duration::from_secs(20);
        loop {
            let answer = $ask.await.unwrap();
            let code: ErrorCode = $code(&answer);
            if !code.is_retriable() {
                break answer;
            }
            assert!(Instant::now() < limit, "{code}");
        }
    }};
}

fn code<T>(answer: &Result<T, ErrorCode>) -> ErrorCode {
    answer.as_ref().err().copied().unwrap_or(ErrorCode::NONE)
}

fn of_each(answer: &[(TopicPartition, ErrorCode)]) -> ErrorCode {
    answer[0].1
}

pub(crate) async fn init(
    coordinator: &TransactionClient,
    current: Option<ProducerId>,
) -> Result<ProducerId, ErrorCode> {
    let request = InitProducerIdRequest {
        transaction_timeout_ms: 60_000,
        current,
    };
    insist!(coordinator.init(request), code)
}

pub(crate) async fn end(
    coordinator: &TransactionClient,
    producer: ProducerId,
    commit: bool,
    version: TransactionVersion,
) -> Result<ProducerId, ErrorCode> {
    let request = EndTxnRequest { producer, commit };
    insist!(coordinator.end(request, version), code)
}

/// Puts an offset of the group into the transaction, which it opens if need be.
pub(crate) async fn commit_offset(
    coordinator: &TransactionClient,
    producer: ProducerId,
    (group, partition, offset): (&str, &TopicPartition, i64),
    version: TransactionVersion,
) -> ErrorCode {
    if version == TransactionVersion::V1 {
        let partitions = vec![partition.clone()];
        let add = AddPartitionsRequest {
            producer,
            partitions,
        };
        let added = insist!(coordinator.add_partitions(add.clone()), |a: &Vec<_>| {
            of_each(a)
        });
        assert_eq!(added, [(partition.clone(), ErrorCode::NONE)]);
        let add = AddOffsetsRequest {
            producer,
            group_id: group.to_owned(),
        };
        let added = insist!(coordinator.add_offsets(add.clone()), |a: &ErrorCode| *a);
        assert_eq!(added, ErrorCode::NONE);
    }
    let request = TxnOffsetCommitRequest {
        producer,
        group: GroupMetadata::outside_of_membership(group),
        offsets: vec![CommitOffset {
            partition: partition.clone(),
            offset,
            leader_epoch: None,
            metadata: "in a transaction".to_owned(),
        }],
    };
    let codes = insist!(
        coordinator.commit_offsets(request.clone(), version),
        |a: &Vec<_>| of_each(a)
    );
    of_each(&codes)
}

/// The committed offset, once no transaction holds it any more.
pub(crate) async fn stable_offset(
    client: &Client,
    group: &str,
    partition: &TopicPartition,
) -> Option<i64> {
    let request = OffsetFetchRequest {
        partitions: vec![partition.clone()],
        require_stable: true,
    };
    let group = client.group(group);
    let found = insist!(
        group.fetch_offsets(request.clone()),
        |a: &ottla_types::coordinator::OffsetFetchResponse| {
            let of_partition = a.offsets.first().map_or(ErrorCode::NONE, |o| o.error);
            if a.error.is_ok() {
                of_partition
            } else {
                a.error
            }
        }
    );
    found.offsets[0].offset
}

/// Commits, aborts, and is fenced by another one with the same transactional id.
pub(crate) async fn offsets_are_committed_aborted_and_fenced(
    client: &Client,
    version: TransactionVersion,
) {
    let (topic, group, id) = (fresh("topic"), fresh("group"), fresh("txn"));
    let created = client.ensure_topics(vec![NewTopic::new(&topic, 1)]).await;
    created.unwrap();
    let partition = TopicPartition::new(&*topic, 0);
    let at = |offset| (&*group, &partition, offset);
    let coordinator = client.transactions(&*id);
    assert_eq!(coordinator.version().await.unwrap(), version);

    let first = init(&coordinator, None).await.unwrap();
    let code = commit_offset(&coordinator, first, at(10), version).await;
    assert_eq!(code, ErrorCode::NONE);
    let second = end(&coordinator, first, true, version).await.unwrap();
    assert_eq!(second != first, version == TransactionVersion::V2);
    assert_eq!(stable_offset(client, &group, &partition).await, Some(10));

    let code = commit_offset(&coordinator, second, at(20), version).await;
    assert_eq!(code, ErrorCode::NONE);
    let third = end(&coordinator, second, false, version).await.unwrap();
    assert_eq!(stable_offset(client, &group, &partition).await, Some(10));

    // The same producer goes on with the next epoch; its older epochs are over.
    let code = commit_offset(&coordinator, third, at(30), version).await;
    assert_eq!(code, ErrorCode::NONE);
    let third = end(&coordinator, third, true, version).await.unwrap();
    let fourth = init(&coordinator, Some(third)).await.unwrap();
    assert!(fourth.id != third.id || fourth.epoch > third.epoch);
    assert_eq!(stable_offset(client, &group, &partition).await, Some(30));

    // Another one takes the transactional id: what the first one left open is aborted.
    let code = commit_offset(&coordinator, fourth, at(40), version).await;
    assert_eq!(code, ErrorCode::NONE);
    let heir = client.transactions(&*id);
    let fifth = init(&heir, None).await.unwrap();
    let is_fenced = |code: ErrorCode| {
        matches!(
            code,
            ErrorCode::PRODUCER_FENCED | ErrorCode::INVALID_PRODUCER_EPOCH
        )
    };
    let zombie = end(&coordinator, fourth, true, version).await.unwrap_err();
    assert!(is_fenced(zombie), "{zombie}");
    let zombie = init(&coordinator, Some(fourth)).await.unwrap_err();
    assert!(is_fenced(zombie), "{zombie}");
    assert_eq!(stable_offset(client, &group, &partition).await, Some(30));
    let code = commit_offset(&heir, fifth, at(50), version).await;
    assert_eq!(code, ErrorCode::NONE);
    end(&heir, fifth, true, version).await.unwrap();
    assert_eq!(stable_offset(client, &group, &partition).await, Some(50));
}
