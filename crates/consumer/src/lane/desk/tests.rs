//! What a caller costs, where a partition without a group goes on, and what comes too late for the
//! caller.

use super::{Desk, Handed, Order};
use crate::handler::{Context, PartitionLease};
use crate::lane::{Chunk, LaneEnd, LaneHandle, LaneLimits, LaneSetup, Progress};
use crate::listener::SeekTo;
use crate::output::Outputs;
use crate::status::MemberBoard;
use crate::work::Work;
use crate::{Consumer, Error, ErrorKind};
use futures_util::FutureExt;
use ottla_client::{Client, ClientConfig};
use ottla_mock_cluster::MockCluster;
use ottla_record_batch::RecordSetBuilder;
use ottla_types::{BoxFuture, Headers, Offset, TimestampType, TopicPartition};
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::task::{Context as TaskContext, Poll, Wake, Waker};
use std::time::Duration;

const MAX: usize = 500;

fn partition() -> TopicPartition {
    TopicPartition::new("t", 0)
}

/// A desk of partition 0, which is assigned without a group.
fn desk(told: Option<SeekTo>) -> Arc<Desk> {
    let places = BTreeMap::from([(partition(), told)]);
    Arc::new(Desk::new(MAX, false, Some(places)))
}

/// A partition as its member sees it.
struct Lane {
    handle: LaneHandle,
    progress: Arc<Progress>,
    lease: PartitionLease,
    /// The lane's task.
    run: BoxFuture<'static, LaneEnd>,
}

/// What a member does when it knows the position.
fn open(desk: &Arc<Desk>, position: Offset) -> Lane {
    let progress = Arc::new(Progress::asked(false, desk.wake()));
    progress.located(position, None);
    let lease = PartitionLease::new();
    let (handle, run) = reopen(desk, position, &progress, &lease);
    Lane {
        handle,
        progress,
        lease,
        run: run.expect("a new tray"),
    }
}

/// The same, also after a seek.
fn reopen(
    desk: &Arc<Desk>,
    position: Offset,
    progress: &Arc<Progress>,
    lease: &PartitionLease,
) -> (LaneHandle, Option<BoxFuture<'static, LaneEnd>>) {
    let second = Duration::from_secs(1);
    let board = Arc::new(MemberBoard::new("m".into()));
    let (handle, run) = desk.open(LaneSetup {
        partition: partition(),
        incarnation: 1,
        position,
        work: Work::Pull(desk.clone()),
        context: Context::of_member("".into(), board.clone(), lease.clone()),
        outputs: Outputs::Plain,
        progress: progress.clone(),
        board,
        limits: LaneLimits {
            processing: second,
            backoff: second,
            backoff_max: second,
            part_bytes: 1 << 20,
        },
    });
    let run = run.map(|run| -> BoxFuture<'static, LaneEnd> { Box::pin(run) });
    (handle, run)
}

fn send(lane: &LaneHandle, progress: &Progress, offsets: Range<Offset>) {
    let mut set = RecordSetBuilder::new();
    let next_offset = offsets.end;
    for offset in offsets {
        let create = TimestampType::CreateTime;
        let (key, value) = (Some(&b"key"[..]), Some(&b"value"[..]));
        set.push(offset, 1, create, key, value, &Headers::new())
            .unwrap();
    }
    let chunk = Chunk {
        records: set.finish(),
        next_offset,
        reading: 0,
    };
    progress.add_buffered(chunk.bytes());
    assert!(lane.send(chunk));
}

fn take(desk: &Desk) -> Handed {
    match poll(desk) {
        Poll::Ready(Ok(handed)) => handed,
        other => panic!("{other:?}"),
    }
}

fn poll(desk: &Desk) -> Poll<Result<Handed, Error>> {
    desk.poll_take(&mut TaskContext::from_waker(Waker::noop()))
}

/// Orders a seek that nobody waits for.
fn seek(desk: &Desk, place: SeekTo) {
    let (reply, _sought) = tokio::sync::oneshot::channel();
    desk.seek(&partition(), place, reply);
}

#[test]
fn records_are_handed_out_without_an_allocation_each() {
    let desk = desk(None);
    let Lane {
        handle: lane,
        progress,
        run: _run,
        ..
    } = open(&desk, 0);
    send(&lane, &progress, 0..10_000);
    let mut taken = take(&desk).records.len();
    let cost = allocation_counter::measure(|| {
        while taken < 10_000 {
            let handed = take(&desk);
            assert!(handed.records.len() <= MAX);
            taken += handed
                .records
                .map(|record| usize::from(record.key.is_some()))
                .sum::<usize>();
        }
    });
    assert!(poll(&desk).is_pending());
    assert_eq!(progress.buffered(), 0);
    // A list a batch, and what little the turns need.
    assert!(cost.count_total <= 5 * 10_000 / MAX as u64, "{cost:?}");
}

#[test]
fn a_member_that_begins_anew_goes_on_where_the_caller_is() {
    let desk = desk(Some(SeekTo::End));
    assert_eq!(desk.place(&partition()), Some(SeekTo::End));
    let Lane {
        handle: lane,
        progress,
        run: _run,
        ..
    } = open(&desk, 40);
    // What the end was is not looked up again: records came meanwhile.
    assert_eq!(desk.place(&partition()), Some(SeekTo::Offset(40)));
    send(&lane, &progress, 40..50);
    let handed = take(&desk);
    progress.mark_handled(handed.next_offset);
    assert_eq!(desk.place(&partition()), Some(SeekTo::Offset(50)));
    seek(&desk, SeekTo::Beginning);
    assert_eq!(desk.place(&partition()), Some(SeekTo::Beginning));
}

#[test]
fn trap_c21_what_was_found_for_an_earlier_seek_is_not_handed_out_after_a_later_one() {
    let desk = desk(None);
    let lane = open(&desk, 0);
    seek(&desk, SeekTo::Offset(10));
    assert_eq!(desk.take_orders().len(), 1);
    // The member finds the first place when the second is asked for already.
    seek(&desk, SeekTo::Offset(50));
    let (first, _) = reopen(&desk, 10, &lane.progress, &lane.lease);
    assert!(!first.send(Chunk::end(11)), "nobody will look at it");
    assert!(poll(&desk).is_pending());
    let told = SeekTo::Offset(50);
    assert_eq!(desk.place(&partition()), Some(told), "of a restart, too");
    assert_eq!(desk.take_orders().len(), 1);
    let (second, _) = reopen(&desk, 50, &lane.progress, &lane.lease);
    send(&second, &lane.progress, 50..53);
    assert_eq!(take(&desk).next_offset, 53);
}

#[test]
fn what_stopped_a_partition_is_not_told_to_a_caller_that_went_on_elsewhere() {
    let desk = desk(None);
    let _lane = open(&desk, 0);
    let stopped = || Error::new(ErrorKind::Unreadable).with_partition(partition());
    seek(&desk, SeekTo::End);
    // The member has not taken the order yet.
    desk.report(stopped());
    assert!(poll(&desk).is_pending());
    desk.take_orders();
    desk.report(stopped());
    assert!(matches!(poll(&desk), Poll::Ready(Err(e)) if e.kind() == ErrorKind::Unreadable));
}

#[test]
fn trap_c24_nothing_of_a_member_that_failed_is_left() {
    for is_noticed in [false, true] {
        let desk = desk(None);
        let lane = open(&desk, 0);
        send(&lane.handle, &lane.progress, 0..5);
        let handed = take(&desk);
        lane.progress.mark_handled(handed.next_offset);
        desk.put_back(handed);
        send(&lane.handle, &lane.progress, 5..9);
        assert_eq!(desk.handed_out().len(), 1);
        // The lease ends with the member's partitions, the lane with its tasks.
        lane.lease.revoke();
        if is_noticed {
            drop(lane.run);
            assert_eq!(desk.take_gone(), BTreeMap::from([(partition(), 5)]));
        }
        assert!(poll(&desk).is_pending());
        assert!(desk.handed_out().is_empty());
    }
}

#[test]
fn a_partition_that_is_dropped_and_named_again_at_once_goes_on_or_moves() {
    let again = |told| {
        let desk = desk(None);
        let lane = open(&desk, 0);
        send(&lane.handle, &lane.progress, 0..MAX as Offset + 9);
        let handed = take(&desk);
        lane.progress.mark_handled(handed.next_offset);
        desk.reassign(BTreeMap::new());
        assert!(poll(&desk).is_pending() && desk.is_unsubscribed());
        // The member has not heard of it.
        desk.reassign(BTreeMap::from([(partition(), told)]));
        (desk, lane, handed.next_offset)
    };
    let (desk, _lane, next) = again(None);
    assert_eq!(desk.place(&partition()), Some(SeekTo::Offset(next)));
    assert_eq!(take(&desk).next_offset, next + 9);
    let (desk, _lane, _) = again(Some(SeekTo::Beginning));
    assert_eq!(desk.place(&partition()), Some(SeekTo::Beginning));
    assert!(poll(&desk).is_pending());
    let orders = desk.take_orders();
    assert!(
        matches!(
            orders[..],
            [Order::Seek(_, SeekTo::Beginning, _), Order::Assign(_)]
        ),
        "{orders:?}"
    );
}

/// What waits for a commit when it is woken.
struct Looks {
    progress: Arc<Progress>,
    seen: Mutex<Vec<Option<Offset>>>,
}

impl Wake for Looks {
    fn wake(self: Arc<Self>) {
        let uncommitted = self.progress.uncommitted();
        self.seen.lock().unwrap().push(uncommitted);
    }
}

#[tokio::test]
async fn trap_c13_a_partition_that_waits_for_its_caller_goes_with_the_commit_that_lets_it_go() {
    let desk = desk(None);
    let mut lane = open(&desk, 0);
    send(&lane.handle, &lane.progress, 0..5);
    let cluster = MockCluster::builder().start().await.unwrap();
    let client = ClientConfig::new(&cluster.bootstrap());
    let client = Client::connect(client).await.unwrap();
    let mut consumer = Consumer::at_desk(client, desk.clone());
    assert!(consumer.recv().now_or_never().unwrap().is_ok());
    lane.handle.drain();
    // The member's side runs at once when the caller lets it, as on another thread.
    let looks = Arc::new(Looks {
        progress: lane.progress.clone(),
        seen: Mutex::default(),
    });
    let waker = looks.clone().into();
    let mut cx = TaskContext::from_waker(&waker);
    assert!(lane.run.as_mut().poll(&mut cx).is_pending());
    drop(consumer.commit_async());
    assert_eq!(*looks.seen.lock().unwrap(), [Some(5)]);
    assert!(lane.run.as_mut().poll(&mut cx).is_ready());
}
