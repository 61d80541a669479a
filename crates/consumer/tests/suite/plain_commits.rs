//! What a plain consumer commits, and what who asked for it hears.

use crate::bed::{Bed, SHUTDOWN, short_session, wait_for};
use crate::plain::{bed, close, in_group, recv, t, values};
use ottla_consumer::{
    AutoOffsetReset, CommitHandle, Consumer, ConsumerConfig, ErrorKind, OffsetAndMetadata, SeekTo,
};
use ottla_mock_cluster::{Action, ApiKey, Fault};
use ottla_types::coordinator::CommitOffset;
use ottla_types::transactions::{
    EndTxnRequest, GroupMetadata, InitProducerIdRequest, TxnOffsetCommitRequest,
};
use ottla_types::{ErrorCode, TopicPartition};
use std::time::Duration;
use tokio::time::timeout;

const SOON: Duration = Duration::from_secs(20);

async fn subscribe(bed: &Bed, config: ConsumerConfig) -> Consumer {
    Consumer::subscribe(&bed.client, config, ["t"])
        .await
        .unwrap()
}

fn evict(bed: &Bed) {
    let evicted = Fault::on(ApiKey::Heartbeat).action(Action::Refuse(25));
    bed.cluster.faults().add(evicted);
}

#[tokio::test]
async fn a_commit_names_what_was_handed_out_and_nothing_more() {
    let bed = bed(2, 5).await;
    let limited = ConsumerConfig {
        max_poll_records: 2,
        ..in_group("g")
    };
    let mut consumer = subscribe(&bed, limited.clone()).await;
    let batch = recv(&mut consumer).await;
    let (read, other) = (batch.partition().partition, 1 - batch.partition().partition);
    consumer.commit_sync().await.unwrap();
    assert_eq!(bed.committed("g", "t", read), Some(2));
    assert_eq!(
        bed.committed("g", "t", other),
        None,
        "nothing of it was handed out"
    );
    let committed = consumer.committed([t(0), t(1)]).await.unwrap();
    assert_eq!((committed[&t(read)], committed[&t(other)]), (Some(2), None));
    // Handed out, and not asked for.
    recv(&mut consumer).await;
    recv(&mut consumer).await;
    close(consumer).await;
    assert_eq!(bed.committed("g", "t", read), Some(2));

    let mut again = subscribe(&bed, limited).await;
    let mut firsts = [None, None];
    while firsts.contains(&None) {
        let batch = recv(&mut again).await;
        let first = &mut firsts[usize::try_from(batch.partition().partition).unwrap()];
        first.get_or_insert(batch.records()[0].offset);
    }
    assert_eq!(firsts[usize::try_from(read).unwrap()], Some(2));
    assert_eq!(firsts[usize::try_from(other).unwrap()], Some(0));
    close(again).await;
}

#[tokio::test]
async fn a_text_is_committed_with_its_offset_and_read_back() {
    let bed = bed(1, 5).await;
    let mut consumer = subscribe(&bed, in_group("g")).await;
    recv(&mut consumer).await;
    let said = |offset, text: &str| [(t(0), OffsetAndMetadata::new(offset, text))];
    let kept = || bed.cluster.committed("g", "t", 0);
    let some = |offset, text: &str| Some((offset, text.to_owned()));

    consumer
        .commit_with_metadata(said(3, "host-7"))
        .await
        .unwrap();
    assert_eq!(kept(), some(3, "host-7"));
    let read = consumer.committed_with_metadata([t(0)]).await.unwrap();
    assert_eq!(read[&t(0)], Some(OffsetAndMetadata::new(3, "host-7")));
    assert_eq!(consumer.committed([t(0)]).await.unwrap()[&t(0)], Some(3));
    consumer.commit_offsets([(t(0), 3)]).await.unwrap();
    assert_eq!(kept(), some(3, "host-7"), "the same offset leaves it");
    consumer.commit_with_metadata(said(3, "é")).await.unwrap();
    assert_eq!(kept(), some(3, "é"), "another text for the same offset");
    // Two at once: the latest counts, and both hear of it.
    let first = consumer.commit_with_metadata(said(4, "first"));
    let second = consumer.commit_with_metadata(said(4, "second"));
    assert!(first.await.is_ok() && second.await.is_ok());
    assert_eq!(kept(), some(4, "second"));

    let refused = consumer.commit_with_metadata(said(4, &"x".repeat(5_000)));
    let refused = refused.await.unwrap_err();
    assert_eq!(refused.code(), Some(ErrorCode::OFFSET_METADATA_TOO_LARGE));
    let refused = consumer.commit_with_metadata(said(4, &"x".repeat(40_000)));
    assert_eq!(refused.await.unwrap_err().kind(), ErrorKind::Config);
    assert_eq!(kept(), some(4, "second"));
    consumer.commit_sync().await.unwrap();
    assert_eq!(kept(), some(5, ""), "another offset has none");
    close(consumer).await;
}

#[tokio::test]
async fn trap_c14_where_latest_led_is_committed_before_anything_is_read() {
    let bed = bed(1, 10).await;
    let auto = ConsumerConfig {
        enable_auto_commit: true,
        auto_offset_reset: AutoOffsetReset::Latest,
        ..in_group("g")
    };
    let consumer = subscribe(&bed, auto.clone()).await;
    wait_for("the place", || bed.committed("g", "t", 0) == Some(10)).await;
    close(consumer).await;
    bed.write("t", 0, ["in between"]).await;
    let mut again = subscribe(&bed, auto.clone()).await;
    assert_eq!(values(&recv(&mut again).await), ["in between"]);
    close(again).await;
    assert_eq!(bed.committed("g", "t", 0), Some(11));

    let by_hand = ConsumerConfig {
        enable_auto_commit: false,
        ..auto
    };
    let consumer = Consumer::subscribe(
        &bed.client,
        ConsumerConfig {
            group_id: "h".to_owned(),
            ..by_hand
        },
        ["t"],
    );
    let consumer = consumer.await.unwrap();
    wait_for("the place", || consumer.position(&t(0)) == Some(11)).await;
    close(consumer).await;
    assert_eq!(bed.committed("h", "t", 0), None, "nobody asked for it");
}

#[tokio::test]
async fn a_place_that_was_sought_is_committed_as_any_position() {
    let bed = bed(2, 10).await;
    let by_hand = ConsumerConfig {
        commit_interval: Duration::from_secs(3600),
        ..in_group("g")
    };
    let mut consumer = subscribe(&bed, by_hand).await;
    recv(&mut consumer).await;
    recv(&mut consumer).await;
    consumer.commit_sync().await.unwrap();
    // At once, and after somebody has looked for records in vain.
    for at in [3, 10] {
        consumer.seek(&t(0), SeekTo::Offset(at)).await.unwrap();
        consumer.commit_sync().await.unwrap();
        assert_eq!(bed.committed("g", "t", 0), Some(at));
        consumer.seek(&t(0), SeekTo::End).await.unwrap();
        let nothing = consumer.poll(Duration::from_millis(50)).await.unwrap();
        assert!(nothing.is_none(), "{nothing:?}");
    }
    assert_eq!(bed.committed("g", "t", 1), Some(10));
    close(consumer).await;

    let auto = ConsumerConfig {
        enable_auto_commit: true,
        ..in_group("h")
    };
    let mut consumer = subscribe(&bed, auto).await;
    wait_for("the assignment", || consumer.assignment().len() == 2).await;
    let places = [(t(0), SeekTo::Offset(7)), (t(1), SeekTo::End)];
    consumer.seek_all(places).await.unwrap();
    close(consumer).await;
    assert_eq!(bed.committed("h", "t", 0), Some(7));
    assert_eq!(bed.committed("h", "t", 1), Some(10));
}

#[tokio::test]
async fn any_offset_can_be_committed() {
    let bed = bed(1, 5).await;
    let mut consumer = subscribe(&bed, in_group("g")).await;
    recv(&mut consumer).await;
    consumer.commit_sync().await.unwrap();
    for offset in [5, 2, 0, 4] {
        consumer.commit_offsets([(t(0), offset)]).await.unwrap();
        assert_eq!(bed.committed("g", "t", 0), Some(offset));
    }
    // One that is not owned is told, and the others are committed all the same.
    let error = consumer
        .commit_offsets([(t(9), 1), (t(0), 3)])
        .await
        .unwrap_err();
    assert_eq!(
        (error.kind(), error.partition()),
        (ErrorKind::NotOwner, Some(&t(9)))
    );
    assert_eq!(bed.committed("g", "t", 0), Some(3));
    let error = consumer.commit_offsets([(t(0), -1)]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    close(consumer).await;
}

#[tokio::test]
async fn trap_c17_commits_are_sent_in_order_one_at_a_time() {
    let bed = bed(1, 5).await;
    let mut consumer = subscribe(&bed, in_group("g")).await;
    recv(&mut consumer).await;
    let slow = Fault::on(ApiKey::OffsetCommit).action(Action::Delay(Duration::from_millis(200)));
    bed.cluster.faults().add(slow);
    let handles: Vec<_> = (1..=5)
        .map(|at| consumer.commit_offsets([(t(0), at)]))
        .collect();
    for handle in handles {
        handle.await.unwrap();
    }
    assert_eq!(bed.committed("g", "t", 0), Some(5));
    // The first one, and the others together; or all together.
    assert!(bed.cluster.requests(ApiKey::OffsetCommit) <= 2);
    close(consumer).await;
}

#[tokio::test]
async fn trap_c13_a_commit_that_was_asked_for_is_sent_before_the_end() {
    let bed = bed(1, 5).await;
    let slowly = ConsumerConfig {
        commit_interval: Duration::from_secs(3600),
        ..in_group("g")
    };
    let mut consumer = subscribe(&bed, slowly).await;
    recv(&mut consumer).await;
    let lost = Fault::on(ApiKey::OffsetCommit).action(Action::Refuse(14));
    bed.cluster.faults().add(lost);
    let commit = consumer.commit_async();
    close(consumer).await;
    commit.await.unwrap();
    assert_eq!(bed.committed("g", "t", 0), Some(5));
}

#[tokio::test]
async fn the_answer_of_a_commit_always_comes() {
    let kind_of = async |handle: CommitHandle| {
        let answer = timeout(SOON, handle).await.unwrap();
        answer.map_err(|e| (e.kind(), e.code()))
    };
    let bed = bed(1, 5).await;
    let limited = ConsumerConfig {
        default_api_timeout: Duration::from_millis(300),
        ..in_group("g")
    };
    // Refused: OFFSET_METADATA_TOO_LARGE.
    let mut consumer = subscribe(&bed, limited).await;
    recv(&mut consumer).await;
    let refused = Fault::on(ApiKey::OffsetCommit).action(Action::Refuse(12));
    bed.cluster.faults().add(refused);
    let handle = consumer.commit_async();
    let code = Some(ErrorCode::OFFSET_METADATA_TOO_LARGE);
    assert_eq!(kind_of(handle).await, Err((ErrorKind::Coordinator, code)));
    // Not answered in time; it is made all the same.
    let silent = Fault::on(ApiKey::OffsetCommit)
        .action(Action::Refuse(14))
        .forever();
    let silent = bed.cluster.faults().add(silent);
    let handle = consumer.commit_async();
    assert_eq!(kind_of(handle).await, Err((ErrorKind::TimedOut, None)));
    silent.remove();
    wait_for("the commit", || bed.committed("g", "t", 0) == Some(5)).await;
    // Dropped.
    let hangs = Fault::on(ApiKey::OffsetCommit)
        .action(Action::Hang)
        .forever();
    let hangs = bed.cluster.faults().add(hangs);
    let out = consumer.commit_offsets([(t(0), 1)]);
    wait_for("the request", || hangs.hits() == 1).await;
    let waiting = consumer.commit_offsets([(t(0), 2)]);
    drop(consumer);
    for handle in [out, waiting] {
        assert_eq!(kind_of(handle).await, Err((ErrorKind::Closed, None)));
    }
}

#[tokio::test]
async fn a_close_that_cannot_commit_says_so_to_all() {
    let bed = bed(1, 5).await;
    let mut consumer = subscribe(&bed, in_group("g")).await;
    recv(&mut consumer).await;
    let hangs = Fault::on(ApiKey::OffsetCommit)
        .action(Action::Hang)
        .forever();
    bed.cluster.faults().add(hangs);
    let handle = consumer.commit_async();
    let report = consumer.close(Duration::from_millis(100)).await;
    assert_eq!(report.uncommitted, [("g".to_owned(), t(0), 5)]);
    let error = timeout(SOON, handle).await.unwrap().unwrap_err();
    assert_eq!(
        (error.kind(), error.group()),
        (ErrorKind::Closed, Some("g"))
    );
}

#[tokio::test]
async fn trap_c3_a_lost_partition_is_told_by_its_commits_and_never_committed() {
    let bed = bed(1, 5).await;
    let config = ConsumerConfig {
        max_poll_records: 2,
        group_id: "g".to_owned(),
        ..short_session()
    };
    let mut consumer = subscribe(&bed, config).await;
    let batch = recv(&mut consumer).await;
    let held = Fault::on(ApiKey::OffsetCommit)
        .action(Action::Refuse(14))
        .forever();
    let held = bed.cluster.faults().add(held);
    let handle = consumer.commit_async();
    wait_for("the commit", || held.hits() > 0).await;
    // Nobody else may have it before what happens next.
    let joins = Fault::on(ApiKey::JoinGroup)
        .action(Action::Refuse(14))
        .forever();
    let joins = bed.cluster.faults().add(joins);
    evict(&bed);
    let error = timeout(SOON, handle).await.unwrap().unwrap_err();
    assert_eq!(
        (error.kind(), error.partition()),
        (ErrorKind::NotOwner, Some(&t(0)))
    );
    assert!(!batch.lease().is_held());
    // The caller has had records that are not committed: told once, by the next commit.
    let error = consumer.commit_sync().await.unwrap_err();
    assert_eq!(
        (error.kind(), error.offset()),
        (ErrorKind::NotOwner, Some(2))
    );
    consumer.commit_sync().await.unwrap();
    assert_eq!(bed.committed("g", "t", 0), None);
    joins.remove();
    assert_eq!(recv(&mut consumer).await.records()[0].offset, 0);
    // One that was out when the partition was lost cannot come late.
    held.remove();
    consumer.commit_sync().await.unwrap();
    assert_eq!(bed.committed("g", "t", 0), Some(2));
    close(consumer).await;
}

#[tokio::test]
async fn with_auto_commit_what_the_caller_is_done_with_is_committed() {
    let bed = bed(1, 6).await;
    let auto = ConsumerConfig {
        enable_auto_commit: true,
        max_poll_records: 2,
        ..in_group("g")
    };
    let mut consumer = subscribe(&bed, auto).await;
    recv(&mut consumer).await;
    recv(&mut consumer).await;
    wait_for("the first batch's commit", || {
        bed.committed("g", "t", 0) == Some(2)
    })
    .await;
    // The second one is in the caller's hands, whatever time passes.
    let before = bed.cluster.requests(ApiKey::Heartbeat);
    wait_for("heartbeats", || {
        bed.cluster.requests(ApiKey::Heartbeat) > before + 2
    })
    .await;
    assert_eq!(bed.committed("g", "t", 0), Some(2));
    {
        use futures_util::StreamExt;
        let mut records = consumer.records();
        records.next().await.unwrap().unwrap();
        wait_for("the second's", || bed.committed("g", "t", 0) == Some(4)).await;
        records.next().await.unwrap().unwrap();
        wait_for("one record's", || bed.committed("g", "t", 0) == Some(5)).await;
    }
    close(consumer).await;
    assert_eq!(bed.committed("g", "t", 0), Some(6));
}

#[tokio::test]
async fn a_group_without_members_takes_commits_of_assigned_partitions() {
    let bed = bed(1, 5).await;
    let assign = || Consumer::assign(&bed.client, in_group("g"), [t(0)]);
    let mut consumer = assign().await.unwrap();
    assert_eq!(values(&recv(&mut consumer).await).len(), 5);
    consumer.commit_offsets([(t(0), 3)]).await.unwrap();
    close(consumer).await;
    assert_eq!(bed.committed("g", "t", 0), Some(3));
    let mut consumer = assign().await.unwrap();
    assert_eq!(recv(&mut consumer).await.records()[0].offset, 3);
    // A group with members refuses, and the consumer goes on.
    let member = subscribe(&bed, in_group("g")).await;
    wait_for("the member", || member.assignment() == [t(0)]).await;
    let error = consumer.commit_sync().await.unwrap_err();
    let code = Some(ErrorCode::UNKNOWN_MEMBER_ID);
    assert_eq!((error.kind(), error.code()), (ErrorKind::Coordinator, code));
    bed.write("t", 0, ["more"]).await;
    assert_eq!(values(&recv(&mut consumer).await), ["more"]);
    close(member).await;
    consumer.commit_sync().await.unwrap();
    assert_eq!(bed.committed("g", "t", 0), Some(6));
    close(consumer).await;
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
    let bed = bed(1, 2).await;
    let config = ConsumerConfig {
        group_id: "g".to_owned(),
        max_poll_records: 1,
        ..short_session()
    };
    let mut consumer = subscribe(&bed, config).await;
    let first = recv(&mut consumer).await;
    let group = first.group_metadata().unwrap();
    assert_eq!(group.group_id, "g");
    let code = commit_in_transaction(&bed, group.clone(), 1).await;
    assert_eq!(
        (code, bed.committed("g", "t", 0)),
        (ErrorCode::NONE, Some(1))
    );

    evict(&bed);
    wait_for("the loss", || !first.lease().is_held()).await;
    assert!(first.group_metadata().is_err());
    let second = recv(&mut consumer).await;
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
    let _ = consumer.close(SHUTDOWN).await;
    assert_eq!(bed.committed("g", "t", 0), Some(2));
}
