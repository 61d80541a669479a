//! The plain consumer: what is handed out, and where it goes on.

use crate::bed::{Bed, SHUTDOWN, config, numbers, text, wait_for};
use futures_util::{FutureExt, StreamExt, TryStreamExt};
use ottla_consumer::{AutoOffsetReset, ConsumedBatch, Consumer, ConsumerConfig, ErrorKind, SeekTo};
use ottla_mock_cluster::{Action, ApiKey, Fault};
use ottla_types::TopicPartition;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::timeout;

const SOON: Duration = Duration::from_secs(20);

pub fn in_group(group: &str) -> ConsumerConfig {
    ConsumerConfig {
        group_id: group.to_owned(),
        ..config()
    }
}

pub fn t(partition: i32) -> TopicPartition {
    TopicPartition::new("t", partition)
}

pub async fn recv(consumer: &mut Consumer) -> ConsumedBatch {
    timeout(SOON, consumer.recv()).await.unwrap().unwrap()
}

pub fn values(batch: &ConsumedBatch) -> Vec<String> {
    batch.records().iter().map(text).collect()
}

pub async fn close(consumer: Consumer) {
    let report = consumer.close(SHUTDOWN).await;
    assert!(report.clean, "{report:?}");
}

/// A cluster with a topic `t` that has these records in each partition.
pub async fn bed(partitions: i32, records: usize) -> Bed {
    let bed = Bed::start().await;
    bed.cluster.create_topic("t", partitions).unwrap();
    for partition in (0..partitions).filter(|_| records > 0) {
        bed.write("t", partition, numbers(0..records)).await;
    }
    bed
}

#[tokio::test]
async fn batches_come_in_order_by_turns() {
    let bed = bed(2, 25).await;
    let limited = ConsumerConfig {
        max_poll_records: 10,
        ..in_group("g")
    };
    let mut consumer = Consumer::subscribe(&bed.client, limited, ["t"])
        .await
        .unwrap();
    let mut seen = [Vec::new(), Vec::new()];
    while seen[0].len() + seen[1].len() < 50 {
        let batch = recv(&mut consumer).await;
        assert!((1..=10).contains(&batch.records().len()));
        let partition = batch.partition().partition;
        assert_eq!(consumer.position(&t(partition)), Some(batch.next_offset()));
        seen[usize::try_from(partition).unwrap()].extend(values(&batch));
    }
    assert_eq!(seen, [numbers(0..25), numbers(0..25)]);
    assert_eq!(consumer.assignment(), [t(0), t(1)]);
    assert_eq!(consumer.lag(&t(0)), Some(0));
    close(consumer).await;
    assert_eq!(bed.committed("g", "t", 0), None, "nobody asked for it");
}

#[tokio::test]
async fn a_stream_of_records_moves_the_position_one_by_one() {
    let bed = bed(1, 10).await;
    let mut consumer = Consumer::subscribe(&bed.client, in_group("g"), ["t"])
        .await
        .unwrap();
    let first: Vec<_> = consumer.records().take(3).try_collect().await.unwrap();
    assert_eq!(first.iter().map(text).collect::<Vec<_>>(), numbers(0..3));
    assert_eq!(consumer.position(&t(0)), Some(3));
    consumer.commit_sync().await.unwrap();
    assert_eq!(bed.committed("g", "t", 0), Some(3));
    let rest = consumer.batches().next().await.unwrap().unwrap();
    assert_eq!(
        values(&rest),
        numbers(3..10),
        "nothing is lost with the stream"
    );
    close(consumer).await;
}

#[tokio::test]
async fn a_poll_that_is_cancelled_loses_nothing() {
    let bed = bed(1, 0).await;
    let mut consumer = Consumer::subscribe(&bed.client, in_group("g"), ["t"])
        .await
        .unwrap();
    assert!(
        consumer
            .poll(Duration::from_millis(10))
            .await
            .unwrap()
            .is_none()
    );
    let mut seen = Vec::new();
    for n in 0..20 {
        bed.write("t", 0, [n.to_string()]).await;
        // Dropped after one look, or after a short while.
        if let Some(batch) = consumer.recv().now_or_never() {
            seen.extend(values(&batch.unwrap()));
        }
        let wait = Duration::from_micros(n * 100);
        if let Some(batch) = consumer.poll(wait).await.unwrap() {
            seen.extend(values(&batch));
        }
    }
    while seen.len() < 20 {
        let waiting = timeout(SOON, consumer.poll(Duration::MAX));
        seen.extend(values(&waiting.await.unwrap().unwrap().unwrap()));
    }
    assert_eq!(seen, numbers(0..20));
    assert!(consumer.close(Duration::MAX).await.clean);
}

#[tokio::test]
async fn a_seek_discards_what_was_fetched() {
    let bed = bed(1, 10).await;
    let limited = ConsumerConfig {
        max_poll_records: 2,
        ..in_group("g")
    };
    let mut consumer = Consumer::subscribe(&bed.client, limited, ["t"])
        .await
        .unwrap();
    for (place, at) in [
        (SeekTo::Offset(7), 7),
        (SeekTo::Beginning, 0),
        (SeekTo::Timestamp(0), 0),
        (SeekTo::Offset(8), 8),
    ] {
        // The rest of what was fetched, and a part of a batch.
        recv(&mut consumer).await;
        consumer.records().next().await.unwrap().unwrap();
        assert_eq!(consumer.seek(&t(0), place).await.unwrap(), at);
        assert_eq!(consumer.position(&t(0)), Some(at));
        let batch = recv(&mut consumer).await;
        assert_eq!(batch.records()[0].offset, at, "{place:?}");
        consumer.seek(&t(0), SeekTo::Beginning).await.unwrap();
    }
    // What was put back because of a pause; and a caller that does not wait for the seek.
    consumer.records().next().await.unwrap().unwrap();
    consumer.pause([&t(0)]).unwrap();
    assert!(consumer.recv().now_or_never().is_none());
    assert!(
        consumer
            .seek(&t(0), SeekTo::Offset(5))
            .now_or_never()
            .is_none()
    );
    consumer.resume([&t(0)]).unwrap();
    assert_eq!(recv(&mut consumer).await.records()[0].offset, 5);
    // The end is where it is when the seek is over.
    assert_eq!(consumer.seek(&t(0), SeekTo::End).await.unwrap(), 10);
    bed.write("t", 0, ["new"]).await;
    assert_eq!(values(&recv(&mut consumer).await), ["new"]);
    // Outside of the log the policy decides.
    assert_eq!(consumer.seek(&t(0), SeekTo::Offset(99)).await.unwrap(), 99);
    assert_eq!(recv(&mut consumer).await.records()[0].offset, 0);
    let refused = consumer.seek(&t(0), SeekTo::Offset(-1)).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Config);
    let refused = consumer.seek(&t(1), SeekTo::End).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::NotOwner);
    close(consumer).await;
}

#[tokio::test]
async fn many_partitions_go_elsewhere_together() {
    let bed = bed(3, 10).await;
    let mut consumer = Consumer::subscribe(&bed.client, in_group("g"), ["t"])
        .await
        .unwrap();
    for _ in 0..3 {
        recv(&mut consumer).await;
    }
    let before = bed.cluster.requests(ApiKey::ListOffsets);
    let places = [
        (t(0), SeekTo::Beginning),
        (t(1), SeekTo::End),
        (t(2), SeekTo::Offset(7)),
    ];
    let found = consumer.seek_all(places).await.unwrap();
    assert_eq!(found, BTreeMap::from([(t(0), 0), (t(1), 10), (t(2), 7)]));
    let asked = bed.cluster.requests(ApiKey::ListOffsets) - before;
    assert_eq!(asked, 1, "in one request");
    let mut seen = Vec::new();
    while seen.len() < 13 {
        seen.extend(recv(&mut consumer).await.into_iter().map(|r| r.partition));
    }
    seen.sort_unstable();
    assert_eq!(seen, [vec![0; 10], vec![2; 3]].concat());
    // One that is not owned is told, and the others go.
    let places = [(t(0), SeekTo::Offset(8)), (t(9), SeekTo::End)];
    let error = consumer.seek_all(places).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.partition()),
        (ErrorKind::NotOwner, Some(&t(9)))
    );
    assert_eq!(recv(&mut consumer).await.records()[0].offset, 8);
    let places = [(t(0), SeekTo::Offset(1)), (t(1), SeekTo::Offset(-1))];
    let error = consumer.seek_all(places).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    assert_eq!(consumer.position(&t(0)), Some(10), "none has moved");
    close(consumer).await;
}

#[tokio::test]
async fn a_reset_may_lead_to_a_time() {
    let bed = bed(1, 10).await;
    let first = |reset: AutoOffsetReset| {
        let config = ConsumerConfig {
            auto_offset_reset: reset,
            ..config()
        };
        let client = bed.client.clone();
        async move {
            let builder = Consumer::builder(&client, config);
            // Outside of the log, too.
            let mut consumer = builder
                .assign_at([(t(0), SeekTo::Offset(99))])
                .await
                .unwrap();
            let batch = consumer.poll(Duration::from_secs(2)).await.unwrap();
            close(consumer).await;
            batch.map(|batch| batch.records()[0].offset)
        }
    };
    // All records were written at 1, half a century ago.
    let century = Duration::from_secs(100 * 365 * 86_400);
    for (reset, offset) in [
        (AutoOffsetReset::Timestamp(1), Some(0)),
        (AutoOffsetReset::ByDuration(century), Some(0)),
        (AutoOffsetReset::ByDuration(Duration::from_secs(1)), None),
    ] {
        assert_eq!(first(reset).await, offset, "{reset}");
    }
    let recent = ConsumerConfig {
        auto_offset_reset: AutoOffsetReset::Timestamp(2),
        ..in_group("g")
    };
    let mut consumer = Consumer::subscribe(&bed.client, recent, ["t"])
        .await
        .unwrap();
    wait_for("the place", || consumer.position(&t(0)) == Some(10)).await;
    bed.write("t", 0, ["new"]).await;
    assert_eq!(values(&recv(&mut consumer).await), ["new"]);
    close(consumer).await;
}

#[tokio::test]
async fn the_ends_of_the_log_and_a_time_are_looked_up() {
    let bed = bed(2, 10).await;
    bed.cluster.delete_records("t", 0, 4).unwrap();
    let consumer = Consumer::assign(&bed.client, config(), [t(0)])
        .await
        .unwrap();
    let both = || [t(0), t(1)];
    let first = consumer.beginning_offsets(both()).await.unwrap();
    assert_eq!(first, BTreeMap::from([(t(0), 4), (t(1), 0)]));
    let end = consumer.end_offsets(both()).await.unwrap();
    assert_eq!(end, BTreeMap::from([(t(0), 10), (t(1), 10)]));
    // All records were written at 1.
    let times = [(t(0), 1), (t(1), 2)];
    let found = consumer.offsets_for_times(times).await.unwrap();
    assert_eq!(found, BTreeMap::from([(t(0), Some(4)), (t(1), None)]));
    // What passes is asked again.
    let refused = Fault::on(ApiKey::ListOffsets).action(Action::Refuse(6));
    bed.cluster.faults().add(refused);
    assert_eq!(consumer.end_offsets(both()).await.unwrap(), end);
    close(consumer).await;
}

#[tokio::test]
async fn offsets_of_a_partition_that_is_not_there_are_an_error_in_time() {
    let bed = bed(1, 1).await;
    let hasty = ConsumerConfig {
        default_api_timeout: Duration::from_millis(300),
        ..config()
    };
    let consumer = Consumer::assign(&bed.client, hasty, [t(0)]).await.unwrap();
    let error = consumer.end_offsets([t(0), t(7)]).await.unwrap_err();
    assert_eq!(error.partition(), Some(&t(7)), "{error}");
    close(consumer).await;
}

#[tokio::test]
async fn trap_c21_a_second_seek_to_the_end_is_not_answered_by_the_first() {
    let bed = bed(1, 10).await;
    let mut consumer = Consumer::subscribe(&bed.client, in_group("g"), ["t"])
        .await
        .unwrap();
    recv(&mut consumer).await;
    let late = Action::DelayReply(Duration::from_millis(300));
    bed.cluster
        .faults()
        .add(Fault::on(ApiKey::ListOffsets).action(late));
    let before = bed.cluster.requests(ApiKey::ListOffsets);
    let first = consumer.seek(&t(0), SeekTo::End).now_or_never();
    assert!(first.is_none());
    wait_for("the question", || {
        bed.cluster.requests(ApiKey::ListOffsets) > before
    })
    .await;
    bed.write("t", 0, ["between"]).await;
    assert_eq!(consumer.seek(&t(0), SeekTo::End).await.unwrap(), 11);
    close(consumer).await;
}

#[tokio::test]
async fn what_lies_behind_something_unreadable_is_not_handed_out_after_a_seek_either() {
    let bed = bed(1, 0).await;
    let long = "x".repeat(2 << 10);
    bed.write("t", 0, [&long]).await;
    bed.write_unreadable("t", 0).await;
    bed.write("t", 0, [&long]).await;
    // Each batch comes by itself.
    let small = ConsumerConfig {
        max_partition_fetch_bytes: 1 << 10,
        ..in_group("g")
    };
    let mut consumer = Consumer::subscribe(&bed.client, small, ["t"])
        .await
        .unwrap();
    let buffered =
        |consumer: &Consumer| consumer.status().registrations[0].members[0].buffered_bytes;
    for _ in 0..3 {
        wait_for("all three", || buffered(&consumer) > 4 << 10).await;
        assert_eq!(recv(&mut consumer).await.next_offset(), 1);
        let error = timeout(SOON, consumer.recv()).await.unwrap().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unreadable);
        let behind = consumer.poll(Duration::from_millis(100)).await.unwrap();
        assert!(behind.is_none(), "{behind:?}");
        consumer.seek(&t(0), SeekTo::Beginning).await.unwrap();
    }
    close(consumer).await;
}

#[tokio::test]
async fn trap_c7_an_answer_for_the_position_before_a_seek_is_dropped() {
    let bed = bed(1, 10).await;
    let mut consumer = Consumer::subscribe(&bed.client, in_group("g"), ["t"])
        .await
        .unwrap();
    recv(&mut consumer).await;
    // A fetch is out at the end; the records come in while the seek is on its way.
    let late = Fault::on(ApiKey::ListOffsets).action(Action::Delay(Duration::from_millis(300)));
    bed.cluster.faults().add(late);
    let partition = t(0);
    let (place, ()) = tokio::join!(
        consumer.seek(&partition, SeekTo::Beginning),
        bed.write("t", 0, ["later"]),
    );
    assert_eq!(place.unwrap(), 0);
    let mut seen = Vec::new();
    while seen.len() < 11 {
        seen.extend(recv(&mut consumer).await.records().iter().map(|r| r.offset));
    }
    assert_eq!(seen, (0..11).collect::<Vec<_>>());
    close(consumer).await;
}

#[tokio::test]
async fn a_paused_partition_is_not_handed_out() {
    let bed = bed(2, 10).await;
    let limited = ConsumerConfig {
        max_poll_records: 4,
        ..in_group("g")
    };
    let mut consumer = Consumer::subscribe(&bed.client, limited, ["t"])
        .await
        .unwrap();
    let record = consumer.records().next().await.unwrap().unwrap();
    let paused = t(record.partition);
    let other = t(1 - record.partition);
    // In the midst of a batch, with more of it fetched already.
    consumer.pause([&paused]).unwrap();
    let mut seen = Vec::new();
    while seen.len() < 10 {
        let batch = recv(&mut consumer).await;
        assert_eq!(*batch.partition(), other);
        seen.extend(values(&batch));
    }
    bed.write("t", paused.partition, ["new"]).await;
    let nothing = consumer.poll(Duration::from_millis(200)).await.unwrap();
    assert!(nothing.is_none(), "{nothing:?}");
    assert_eq!(consumer.position(&paused), Some(1));
    assert_eq!(consumer.paused(), std::slice::from_ref(&paused));
    consumer.resume([&paused]).unwrap();
    assert_eq!(consumer.paused(), []);
    let mut seen = Vec::new();
    while seen.len() < 10 {
        seen.extend(values(&recv(&mut consumer).await));
    }
    let mut rest = numbers(1..10);
    rest.push("new".to_owned());
    assert_eq!(seen, rest);
    let unknown = consumer.pause([&paused, &t(7)]).unwrap_err();
    assert_eq!(
        (unknown.kind(), unknown.partition()),
        (ErrorKind::NotOwner, Some(&t(7)))
    );
    close(consumer).await;
}

#[tokio::test]
async fn partitions_are_read_without_a_group() {
    let bed = bed(2, 5).await;
    let mut consumer = Consumer::assign(&bed.client, config(), [t(1)])
        .await
        .unwrap();
    assert_eq!(values(&recv(&mut consumer).await), numbers(0..5));
    assert_eq!(consumer.assignment(), [t(1)]);
    let no_group = consumer.commit_sync().await.unwrap_err();
    assert_eq!(no_group.kind(), ErrorKind::Config);
    let no_group = consumer.committed([t(1)]).await.unwrap_err();
    assert!(no_group.to_string().contains("configuration"), "{no_group}");
    close(consumer).await;
    for api in [ApiKey::JoinGroup, ApiKey::OffsetCommit, ApiKey::OffsetFetch] {
        assert_eq!(bed.cluster.requests(api), 0, "{api:?}");
    }

    let places = [(t(0), SeekTo::Offset(3)), (t(1), SeekTo::End)];
    let builder = Consumer::builder(&bed.client, config());
    let mut consumer = builder.assign_at(places).await.unwrap();
    assert_eq!(values(&recv(&mut consumer).await), numbers(3..5));
    wait_for("the end", || consumer.position(&t(1)) == Some(5)).await;
    bed.write("t", 1, ["new"]).await;
    assert_eq!(values(&recv(&mut consumer).await), ["new"]);
    close(consumer).await;
    let no_partitions = Consumer::assign(&bed.client, config(), [])
        .await
        .unwrap_err();
    assert_eq!(no_partitions.kind(), ErrorKind::Config);
    let auto = ConsumerConfig {
        enable_auto_commit: true,
        ..config()
    };
    let nowhere = Consumer::assign(&bed.client, auto, [t(0)])
        .await
        .unwrap_err();
    assert_eq!(nowhere.kind(), ErrorKind::Config);
    let no_group = Consumer::subscribe(&bed.client, config(), ["t"])
        .await
        .unwrap_err();
    assert_eq!(no_group.kind(), ErrorKind::Config);
}

#[tokio::test]
async fn a_stopped_partition_is_told_once_and_goes_on_after_a_seek() {
    let bed = bed(2, 3).await;
    let strict = ConsumerConfig {
        auto_offset_reset: AutoOffsetReset::Error,
        ..in_group("g")
    };
    let builder = Consumer::builder(&bed.client, strict);
    let places = [(t(0), SeekTo::Offset(99)), (t(1), SeekTo::Offset(1))];
    let mut consumer = builder.assign_at(places).await.unwrap();
    let (mut stopped, mut seen) = (Vec::new(), Vec::new());
    while stopped.is_empty() || seen.len() < 2 {
        match timeout(SOON, consumer.recv()).await.unwrap() {
            Ok(batch) => seen.extend(values(&batch)),
            Err(error) => stopped.push((error.kind(), error.partition().cloned())),
        }
    }
    assert_eq!(stopped, [(ErrorKind::NoOffset, Some(t(0)))]);
    assert_eq!(seen, numbers(1..3));
    assert!(
        consumer
            .poll(Duration::from_millis(100))
            .await
            .unwrap()
            .is_none()
    );
    consumer.seek(&t(0), SeekTo::Beginning).await.unwrap();
    assert_eq!(values(&recv(&mut consumer).await), numbers(0..3));
    close(consumer).await;
}

#[tokio::test]
async fn what_cannot_be_read_is_told_behind_what_can() {
    let bed = bed(1, 3).await;
    bed.write_unreadable("t", 0).await;
    bed.write("t", 0, ["behind"]).await;
    let mut consumer = Consumer::assign(&bed.client, config(), [t(0)])
        .await
        .unwrap();
    let mut items = Vec::new();
    for _ in 0..4 {
        let item = timeout(SOON, consumer.records().next())
            .await
            .unwrap()
            .unwrap();
        items.push(
            item.map(|record| record.offset)
                .map_err(|e| (e.kind(), e.offset())),
        );
    }
    let unreadable = Err((ErrorKind::Unreadable, Some(3)));
    assert_eq!(items, [Ok(0), Ok(1), Ok(2), unreadable]);
    consumer.seek(&t(0), SeekTo::Offset(4)).await.unwrap();
    assert_eq!(values(&recv(&mut consumer).await), ["behind"]);
    close(consumer).await;
}

#[tokio::test]
async fn trap_c23_what_ends_the_consumer_is_told_and_ends_its_streams() {
    let bed = bed(1, 1).await;
    let mut consumer = Consumer::subscribe(&bed.client, in_group("g"), ["t"])
        .await
        .unwrap();
    recv(&mut consumer).await;
    let fenced = Fault::on(ApiKey::Heartbeat).action(Action::Refuse(82));
    bed.cluster.faults().add(fenced);
    let commit = consumer.commit_offsets([(t(0), 1)]);
    let items: Vec<_> = timeout(SOON, consumer.batches().collect()).await.unwrap();
    assert_eq!(items.len(), 1);
    assert_eq!(items[0].as_ref().unwrap_err().kind(), ErrorKind::Fenced);
    assert_eq!(consumer.recv().await.unwrap_err().kind(), ErrorKind::Fenced);
    let sought = consumer.seek(&t(0), SeekTo::End).await.unwrap_err();
    assert_eq!(sought.kind(), ErrorKind::Fenced);
    // It was made before, or says what happened.
    let commit = timeout(SOON, commit).await.unwrap().map_err(|e| e.kind());
    assert!(
        [Ok(()), Err(ErrorKind::Fenced)].contains(&commit),
        "{commit:?}"
    );
}

#[tokio::test]
async fn memory_stays_bounded_while_the_caller_is_away() {
    let bed = bed(1, 0).await;
    let value = "x".repeat(1 << 10);
    for _ in 0..40 {
        bed.write("t", 0, vec![&value; 50]).await;
    }
    let bounded = ConsumerConfig {
        queued_max_bytes: 256 << 10,
        ..in_group("g")
    };
    let mut consumer = Consumer::subscribe(&bed.client, bounded, ["t"])
        .await
        .unwrap();
    let buffered =
        |consumer: &Consumer| consumer.status().registrations[0].members[0].buffered_bytes;
    let mut seen = 0;
    while seen < 2_000 {
        // Time to fetch more than is allowed, if nothing held it back.
        wait_for("records", || buffered(&consumer) > 0).await;
        assert!(buffered(&consumer) < 256 << 10);
        seen += recv(&mut consumer).await.records().len();
    }
    assert_eq!(seen, 2_000);
    close(consumer).await;
}
