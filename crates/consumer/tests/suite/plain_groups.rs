//! Plain consumers that share a group: what a rebalance does to what is handed out and committed.

use crate::bed::{Bed, config, numbers, short_session, wait_for};
use crate::plain::{bed, close, in_group, recv, t, values};
use futures_util::StreamExt;
use futures_util::future::join_all;
use ottla_consumer::{
    Assigned, Consumer, ConsumerConfig, ErrorKind, GroupProtocol, HandlerError, PartitionState,
    PartitionStatus, RebalanceListener, Revoked,
};
use ottla_mock_cluster::{Action, ApiKey, Fault, MockCluster};
use ottla_types::TopicPartition;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::timeout;

async fn subscribe(bed: &Bed, config: ConsumerConfig) -> Consumer {
    Consumer::subscribe(&bed.client, config, ["t"])
        .await
        .unwrap()
}

/// The partitions that are being given up.
fn retiring(consumer: &Consumer) -> Vec<TopicPartition> {
    let status = consumer.status();
    let partitions = status.registrations[0].partitions();
    let retires = |p: &&PartitionStatus| matches!(p.state, PartitionState::Retiring);
    partitions
        .filter(retires)
        .map(|p| p.partition.clone())
        .collect()
}

/// What each of these has got by now.
async fn read_all(consumers: &mut [&mut Consumer], records: usize) -> Vec<(i32, i64)> {
    let mut seen = Vec::new();
    while seen.len() < records {
        for consumer in &mut *consumers {
            let batch = consumer.poll(Duration::from_millis(20)).await.unwrap();
            for record in batch.into_iter().flatten() {
                seen.push((record.partition, record.offset));
            }
        }
    }
    seen
}

async fn a_rebalance_waits_for_the_batch_in_hand(protocol: GroupProtocol) {
    let heartbeat = Duration::from_millis(100);
    let builder = MockCluster::builder().consumer_session(Duration::from_secs(10), heartbeat);
    let bed = Bed::start_with(builder).await;
    bed.cluster.create_topic("t", 2).unwrap();
    let config = || ConsumerConfig {
        group_protocol: protocol,
        commit_interval: Duration::from_secs(3600),
        ..in_group("g")
    };
    let mut first = subscribe(&bed, config()).await;
    for partition in 0..2 {
        bed.write("t", partition, numbers(0..10)).await;
    }
    let mut seen = read_all(&mut [&mut first], 20).await;
    let mut second = subscribe(&bed, config()).await;
    // The caller has something of both; and more of both comes in.
    wait_for("the rebalance", || !retiring(&first).is_empty()).await;
    for partition in 0..2 {
        bed.write("t", partition, numbers(10..20)).await;
    }
    assert!(
        second
            .poll(Duration::from_millis(300))
            .await
            .unwrap()
            .is_none()
    );
    assert_eq!(first.assignment().len(), 2, "it waits for the caller");
    first.commit_sync().await.unwrap();
    wait_for("half each", || {
        (first.assignment().len(), second.assignment().len()) == (1, 1)
    })
    .await;
    seen.extend(read_all(&mut [&mut first, &mut second], 20).await);
    seen.sort_unstable();
    let each_once: Vec<_> = (0..2).flat_map(|p| (0..20).map(move |o| (p, o))).collect();
    assert_eq!(seen, each_once);
    close(first).await;
    close(second).await;
}

#[tokio::test]
async fn trap_c13_a_rebalance_waits_for_the_batch_in_hand_classic() {
    a_rebalance_waits_for_the_batch_in_hand(GroupProtocol::Classic).await;
}

#[tokio::test]
async fn trap_c13_a_rebalance_waits_for_the_batch_in_hand_kip848() {
    a_rebalance_waits_for_the_batch_in_hand(GroupProtocol::Consumer).await;
}

#[tokio::test]
async fn trap_c13_a_caller_that_waits_for_records_holds_up_no_rebalance() {
    let bed = bed(2, 10).await;
    let config = || ConsumerConfig {
        revoke_timeout: Duration::from_secs(19),
        ..in_group("g")
    };
    let mut first = subscribe(&bed, config()).await;
    read_all(&mut [&mut first], 20).await;
    let second = subscribe(&bed, config()).await;
    // A task of its own, which nothing else wakes.
    let mut waiting = JoinSet::new();
    waiting.spawn(async move { first.recv().await.map(drop) });
    let half = wait_for("half of it", || second.assignment().len() == 1);
    // Far below `revoke.timeout.ms`.
    timeout(Duration::from_secs(9), half).await.unwrap();
    assert!(
        waiting.try_join_next().is_none(),
        "there was nothing to read"
    );
    close(second).await;
}

#[tokio::test]
async fn trap_c24_what_is_left_of_a_batch_is_not_handed_out_after_a_revocation() {
    let bed = bed(2, 10).await;
    let mut first = subscribe(&bed, in_group("g")).await;
    // Three records of a batch of each.
    let record = first.records().next().await.unwrap().unwrap();
    let begun = t(record.partition);
    for _ in 0..2 {
        first.records().next().await.unwrap().unwrap();
    }
    first.pause([&begun]).unwrap();
    for _ in 0..3 {
        let record = first.records().next().await.unwrap().unwrap();
        assert_ne!(record.partition, begun.partition);
    }
    first.resume([&begun]).unwrap();
    let mut second = subscribe(&bed, in_group("g")).await;
    // What was given out is done with; what is left is nobody's until the partition has its owner.
    first.commit_sync().await.unwrap();
    wait_for("half each", || {
        (first.assignment().len(), second.assignment().len()) == (1, 1)
    })
    .await;
    for consumer in [&mut first, &mut second] {
        let partition = consumer.assignment()[0].partition;
        let seen = read_all(&mut [consumer], 7).await;
        assert_eq!(seen, (3..10).map(|o| (partition, o)).collect::<Vec<_>>());
        let more = consumer.poll(Duration::from_millis(100)).await.unwrap();
        assert!(more.is_none(), "{more:?}");
    }
    close(first).await;
    close(second).await;
}

#[tokio::test]
async fn trap_c24_what_was_fetched_is_not_handed_out_once_its_partition_is_revoked() {
    let bed = bed(2, 10).await;
    let auto = ConsumerConfig {
        enable_auto_commit: true,
        commit_interval: Duration::from_secs(3600),
        max_poll_records: 4,
        ..in_group("g")
    };
    let mut first = subscribe(&bed, auto.clone()).await;
    let mut seen = read_all(&mut [&mut first], 8).await;
    let mut second = subscribe(&bed, auto).await;
    wait_for("the rebalance", || !retiring(&first).is_empty()).await;
    // It was fetched with the others, and the caller asks for more.
    let given_up = retiring(&first);
    for _ in 0..2 {
        for record in recv(&mut first).await {
            assert_ne!(given_up, [t(record.partition)]);
            seen.push((record.partition, record.offset));
        }
    }
    seen.extend(read_all(&mut [&mut second], 20 - seen.len()).await);
    seen.sort_unstable();
    let each_once: Vec<_> = (0..2).flat_map(|p| (0..10).map(move |o| (p, o))).collect();
    assert_eq!(seen, each_once);
    close(first).await;
    close(second).await;
}

#[tokio::test]
async fn trap_c24_what_was_fetched_of_a_lost_partition_is_not_handed_out() {
    let bed = bed(1, 10).await;
    let config = ConsumerConfig {
        group_id: "g".to_owned(),
        max_poll_records: 4,
        ..short_session()
    };
    let mut consumer = subscribe(&bed, config).await;
    assert_eq!(values(&recv(&mut consumer).await), numbers(0..4));
    consumer.records().next().await.unwrap().unwrap();
    // The coordinator forgets the member, and takes it back a while later.
    let joins = Fault::on(ApiKey::JoinGroup)
        .action(Action::Refuse(14))
        .forever();
    let joins = bed.cluster.faults().add(joins);
    let evicted = Fault::on(ApiKey::Heartbeat).action(Action::Refuse(25));
    bed.cluster.faults().add(evicted);
    wait_for("the loss", || consumer.assignment().is_empty()).await;
    let nothing = consumer.poll(Duration::from_millis(200)).await.unwrap();
    assert!(nothing.is_none(), "{nothing:?}");
    assert_eq!(consumer.position(&t(0)), None);
    joins.remove();
    assert_eq!(
        values(&recv(&mut consumer).await),
        numbers(0..4),
        "from the committed offset on"
    );
    close(consumer).await;
}

#[tokio::test]
async fn a_caller_that_stays_away_loses_its_partition() {
    let bed = bed(2, 4).await;
    let config = || ConsumerConfig {
        revoke_timeout: Duration::from_millis(300),
        ..in_group("g")
    };
    let mut first = subscribe(&bed, config()).await;
    let mut batches = [recv(&mut first).await, recv(&mut first).await];
    batches.sort_by_key(|batch| batch.partition().partition);
    let mut second = subscribe(&bed, config()).await;
    wait_for("half each", || {
        (first.assignment().len(), second.assignment().len()) == (1, 1)
    })
    .await;
    let kept = first.assignment();
    let gone = second.assignment();
    let lease = |of: &[TopicPartition]| {
        let batch = batches.iter().find(|b| b.partition() == &of[0]);
        batch.unwrap().lease().is_held()
    };
    assert_eq!((lease(&kept), lease(&gone)), (true, false));
    let error = first.commit_sync().await.unwrap_err();
    assert_eq!(
        (error.kind(), error.partition()),
        (ErrorKind::NotOwner, Some(&gone[0]))
    );
    assert_eq!(bed.committed("g", "t", kept[0].partition), Some(4));
    assert_eq!(bed.committed("g", "t", gone[0].partition), None);
    assert_eq!(
        values(&recv(&mut second).await),
        numbers(0..4),
        "it comes again, elsewhere"
    );
    close(second).await;
    close(first).await;
}

/// Commits what was handed out when partitions go.
struct CommitPositions;

impl RebalanceListener for CommitPositions {
    async fn on_revoked(&self, revoked: &Revoked) -> Result<(), HandlerError> {
        for partition in revoked.partitions() {
            if let Some(position) = revoked.position(partition) {
                revoked.commit(partition, position).unwrap();
                assert!(revoked.commit(&t(9), 1).is_err());
                assert!(revoked.commit(partition, -1).is_err());
            }
        }
        Ok(())
    }
}

#[tokio::test]
async fn a_listener_may_commit_before_the_partition_goes() {
    let bed = bed(1, 10).await;
    let limited = ConsumerConfig {
        max_poll_records: 4,
        ..in_group("g")
    };
    let builder = Consumer::builder(&bed.client, limited).listener(CommitPositions);
    let mut consumer = builder.subscribe(["t"]).await.unwrap();
    recv(&mut consumer).await;
    consumer.records().next().await.unwrap().unwrap();
    close(consumer).await;
    assert_eq!(bed.committed("g", "t", 0), Some(5));
}

/// Begins with everything paused.
struct Paused;

impl RebalanceListener for Paused {
    async fn on_assigned(&self, assigned: &Assigned) -> Result<(), HandlerError> {
        for partition in assigned.partitions() {
            assigned.pause(partition).unwrap();
        }
        assert!(assigned.pause(&t(9)).is_err());
        Ok(())
    }
}

#[tokio::test]
async fn a_listener_may_let_partitions_begin_paused() {
    let bed = bed(1, 10).await;
    let builder = Consumer::builder(&bed.client, in_group("g")).listener(Paused);
    let mut consumer = builder.subscribe(["t"]).await.unwrap();
    wait_for("the place", || consumer.position(&t(0)) == Some(0)).await;
    assert_eq!(consumer.paused(), [t(0)]);
    let nothing = consumer.poll(Duration::from_millis(200)).await.unwrap();
    assert!(nothing.is_none(), "{nothing:?}");
    assert_eq!(bed.cluster.requests(ApiKey::Fetch), 0);
    consumer.resume([&t(0)]).unwrap();
    assert_eq!(values(&recv(&mut consumer).await), numbers(0..10));
    close(consumer).await;
}

/// What all members of a group know about it.
#[derive(Default)]
struct Book {
    /// What an answered commit said, for each partition.
    committed: BTreeMap<i32, i64>,
    seen: BTreeSet<(i32, i64)>,
    repeats: usize,
}

/// Reads and commits in one way or another until everything was read; comes and goes meanwhile.
async fn come_and_go(bed: &Bed, config: ConsumerConfig, seed: u64, all: usize, book: &Mutex<Book>) {
    let mut random = fastrand::Rng::with_seed(seed);
    let is_over = || book.lock().unwrap().seen.len() == all;
    while !is_over() {
        let mut consumer = subscribe(bed, config.clone()).await;
        for _ in 0..random.usize(5..60) {
            let wait = Duration::from_millis(random.u64(1..20));
            let Some(batch) = consumer.poll(wait).await.unwrap() else {
                continue;
            };
            let partition = batch.partition().clone();
            {
                let mut book = book.lock().unwrap();
                let floor = book.committed.get(&partition.partition).copied();
                for record in &batch {
                    assert!(
                        Some(record.offset) >= floor,
                        "{partition} {}: {floor:?}",
                        record.offset
                    );
                    let is_new = book.seen.insert((record.partition, record.offset));
                    book.repeats += usize::from(!is_new);
                }
            }
            // Of this batch's partition alone, so that it is known what a good answer says.
            let next = batch.next_offset();
            let commit = consumer.commit_offsets([(partition.clone(), next)]);
            let is_committed = match random.u8(0..4) {
                0 => continue,
                1 => {
                    drop(commit);
                    continue;
                }
                2 => consumer.commit_sync().await.is_ok() && commit.await.is_ok(),
                _ => commit.await.is_ok(),
            };
            if is_committed {
                let mut book = book.lock().unwrap();
                let floor = book.committed.entry(partition.partition).or_default();
                *floor = next.max(*floor);
            }
        }
        match random.u8(0..4) {
            0 => drop(consumer),
            _ => {
                let _ = consumer.close(Duration::from_secs(5)).await;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_that_come_and_go_lose_nothing_and_repeat_nothing_committed() {
    let seed = std::env::var("SEED").map_or_else(|_| fastrand::u64(..), |s| s.parse().unwrap());
    println!("SEED={seed}");
    let bed = bed(5, 200).await;
    let config = ConsumerConfig {
        group_id: "g".to_owned(),
        max_poll_records: 7,
        session_timeout: Duration::from_millis(600),
        heartbeat_interval: Duration::from_millis(50),
        ..config()
    };
    let book = Mutex::new(Book::default());
    let members =
        (0..3).map(|n| come_and_go(&bed, config.clone(), seed.wrapping_add(n), 1_000, &book));
    timeout(Duration::from_secs(120), join_all(members))
        .await
        .unwrap();
    let book = book.into_inner().unwrap();
    println!(
        "{} records were read again, committed {:?}",
        book.repeats, book.committed
    );
    for (partition, floor) in book.committed {
        assert!(bed.committed("g", "t", partition) >= Some(floor));
    }
}
