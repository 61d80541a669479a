//! The consumer for callers that ask for records themselves.

use crate::bed::{Bed, SHUTDOWN, config, numbers, short_session, text, wait_for};
use futures_util::StreamExt;
use ottla_consumer::{ConsumerConfig, GroupConsumer, HandlerError};
use ottla_mock_cluster::{Action, ApiKey, Fault};
use ottla_types::coordinator::CommitOffset;
use ottla_types::transactions::{
    EndTxnRequest, GroupMetadata, InitProducerIdRequest, TxnOffsetCommitRequest,
};
use ottla_types::{ErrorCode, TopicPartition};
use std::time::Duration;

fn in_group(group: &str) -> ConsumerConfig {
    ConsumerConfig {
        group_id: group.to_owned(),
        ..config()
    }
}

#[tokio::test]
async fn batches_come_in_order_and_what_is_done_is_committed() {
    let bed = Bed::start().await;
    bed.cluster.create_topic("t", 2).unwrap();
    bed.write("t", 0, numbers(0..25)).await;
    let mut consumer = GroupConsumer::start(&bed.client, in_group("g"), ["t"], 10)
        .await
        .unwrap();
    let mut values = Vec::new();
    while values.len() < 25 {
        let batch = consumer.next_batch().await.unwrap();
        assert_eq!(batch.partition().to_string(), "t-0");
        assert!(batch.records().len() <= 10);
        values.extend(batch.records().iter().map(text));
        batch.done().unwrap();
    }
    assert_eq!(values, numbers(0..25));
    wait_for("the commit", || bed.committed("g", "t", 0) == Some(25)).await;
    bed.write("t", 1, ["streamed"]).await;
    let mut batch = consumer.next().await.unwrap();
    assert_eq!(text(&batch.take_records()[0]), "streamed");
    batch.done().unwrap();
    let report = consumer.close(SHUTDOWN).await;
    assert!(report.clean, "{report:?}");
    assert_eq!(bed.committed("g", "t", 1), Some(1));
}

#[tokio::test]
async fn what_is_dropped_or_failed_comes_again() {
    let bed = Bed::start().await;
    bed.cluster.create_topic("t", 1).unwrap();
    bed.write("t", 0, numbers(0..4)).await;
    let mut consumer = GroupConsumer::start(&bed.client, in_group("g"), ["t"], 10)
        .await
        .unwrap();
    drop(consumer.next_batch().await.unwrap());
    let again = consumer.next_batch().await.unwrap();
    assert_eq!(again.records().len(), 4);
    again
        .failed_at(3, HandlerError::transient("Busy", "later"))
        .unwrap();
    let rest = consumer.next_batch().await.unwrap();
    assert_eq!(rest.records().iter().map(text).collect::<Vec<_>>(), ["3"]);
    wait_for("the commit", || bed.committed("g", "t", 0) == Some(3)).await;
    let report = consumer.close(Duration::from_millis(100)).await;
    assert_eq!(report.in_flight.len(), 1, "the last batch was never done");
    assert!(rest.done().is_err(), "its partition is given up");
}

#[tokio::test]
async fn a_close_waits_for_batches_that_are_out() {
    let bed = Bed::start().await;
    bed.cluster.create_topic("t", 1).unwrap();
    bed.write("t", 0, ["a"]).await;
    let mut consumer = GroupConsumer::start(&bed.client, in_group("g"), ["t"], 10)
        .await
        .unwrap();
    let batch = consumer.next_batch().await.unwrap();
    let done = async {
        tokio::task::yield_now().await;
        batch.done().unwrap();
    };
    let (report, ()) = tokio::join!(consumer.close(SHUTDOWN), done);
    assert!(report.clean, "{report:?}");
    assert_eq!(bed.committed("g", "t", 0), Some(1));
}

#[tokio::test]
async fn trap_c24_a_batch_of_a_lost_partition_is_not_given_out() {
    let bed = Bed::start().await;
    bed.cluster.create_topic("t", 1).unwrap();
    bed.write("t", 0, ["a"]).await;
    // The coordinator keeps the member that thinks it is forgotten for a session.
    let config = ConsumerConfig {
        group_id: "g".to_owned(),
        ..short_session()
    };
    let mut consumer = GroupConsumer::start(&bed.client, config, ["t"], 10)
        .await
        .unwrap();
    let member = |consumer: &GroupConsumer| {
        let status = consumer.status();
        let member = &status.registrations[0].members[0];
        (member.rebalances, member.buffered_bytes > 0)
    };
    wait_for("a batch", || member(&consumer) == (1, true)).await;
    for streamed in [false, true] {
        let evicted = Fault::on(ApiKey::Heartbeat).action(Action::Refuse(25));
        bed.cluster.faults().add(evicted);
        let generation = if streamed { 3 } else { 2 };
        wait_for("a batch", || member(&consumer) == (generation, true)).await;
        let batch = if streamed {
            consumer.next().await.unwrap()
        } else {
            consumer.next_batch().await.unwrap()
        };
        assert!(batch.lease().is_held());
        if streamed {
            batch.done().unwrap();
        }
    }
    let report = consumer.close(SHUTDOWN).await;
    assert!(report.clean, "{report:?}");
    assert_eq!(bed.committed("g", "t", 0), Some(1));
}

/// Puts the offset of the group into a transaction and commits it; the coordinator's word on it.
async fn commit_in_transaction(bed: &Bed, group: GroupMetadata, offset: i64) -> ErrorCode {
    let coordinator = bed.client.transactions("t");
    let version = coordinator.version().await.unwrap();
    let request = InitProducerIdRequest {
        transaction_timeout_ms: 60_000,
        current: None,
    };
    // What a refusal left open is aborted first.
    let producer = loop {
        match coordinator.init(request).await.unwrap() {
            Ok(producer) => break producer,
            Err(code) => assert_eq!(code, ErrorCode::CONCURRENT_TRANSACTIONS),
        }
    };
    let request = TxnOffsetCommitRequest {
        producer,
        group,
        offsets: vec![CommitOffset {
            partition: TopicPartition::new("t", 0),
            offset,
            leader_epoch: None,
            metadata: String::new(),
        }],
    };
    let codes = coordinator.commit_offsets(request, version).await.unwrap();
    if codes[0].1.is_ok() {
        let end = EndTxnRequest {
            producer,
            commit: true,
        };
        coordinator.end(end, version).await.unwrap().unwrap();
    }
    codes[0].1
}

#[tokio::test]
async fn a_batch_names_the_member_for_transactions_while_its_partition_is_owned() {
    let bed = Bed::start().await;
    bed.cluster.create_topic("t", 1).unwrap();
    bed.write("t", 0, ["a", "b"]).await;
    let config = ConsumerConfig {
        group_id: "g".to_owned(),
        ..short_session()
    };
    let mut consumer = GroupConsumer::start(&bed.client, config, ["t"], 1)
        .await
        .unwrap();
    let first = consumer.next_batch().await.unwrap();
    let group = first.group_metadata().unwrap();
    assert_eq!(group.group_id, "g");
    let code = commit_in_transaction(&bed, group.clone(), 1).await;
    assert_eq!(
        (code, bed.committed("g", "t", 0)),
        (ErrorCode::NONE, Some(1))
    );

    let evicted = Fault::on(ApiKey::Heartbeat).action(Action::Refuse(25));
    bed.cluster.faults().add(evicted);
    wait_for("the loss", || !first.lease().is_held()).await;
    assert!(first.group_metadata().is_err());
    let second = consumer.next_batch().await.unwrap();
    let renewed = second.group_metadata().unwrap();
    assert_ne!(renewed.generation, group.generation);
    // What the zombie remembers is not taken.
    let refused = commit_in_transaction(&bed, group, 2).await;
    assert!(
        matches!(
            refused,
            ErrorCode::ILLEGAL_GENERATION | ErrorCode::UNKNOWN_MEMBER_ID
        ),
        "{refused}"
    );
    assert_eq!(bed.committed("g", "t", 0), Some(1));
    let code = commit_in_transaction(&bed, renewed, 2).await;
    assert_eq!(code, ErrorCode::NONE);
    second.done().unwrap();
    let _ = consumer.close(SHUTDOWN).await;
    assert_eq!(bed.committed("g", "t", 0), Some(2));
}
