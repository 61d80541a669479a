//! What a caller costs, and where a partition without a group goes on.

use super::{Desk, Handed};
use crate::handler::Context;
use crate::lane::{Chunk, LaneHandle, LaneLimits, LaneSetup, Progress};
use crate::listener::SeekTo;
use crate::output::Outputs;
use crate::status::MemberBoard;
use crate::work::Work;
use ottla_record_batch::RecordSetBuilder;
use ottla_types::{Headers, Offset, TimestampType, TopicPartition};
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll, Waker};
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

/// What a member does when it knows the position.
fn open(desk: &Arc<Desk>, position: Offset) -> (LaneHandle, Arc<Progress>) {
    let progress = Arc::new(Progress::asked(false, desk.wake()));
    progress.located(position, None);
    let second = Duration::from_secs(1);
    let (lane, _) = desk.open(LaneSetup {
        partition: partition(),
        incarnation: 1,
        position,
        work: Work::Pull(desk.clone()),
        context: Context::new("", "m"),
        outputs: Outputs::Plain,
        progress: progress.clone(),
        board: Arc::new(MemberBoard::new("m".into())),
        limits: LaneLimits {
            processing: second,
            backoff: second,
            backoff_max: second,
            part_bytes: 1 << 20,
        },
    });
    (lane, progress)
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
    let mut cx = TaskContext::from_waker(Waker::noop());
    match desk.poll_take(&mut cx) {
        Poll::Ready(Ok(handed)) => handed,
        other => panic!("{other:?}"),
    }
}

#[test]
fn records_are_handed_out_without_an_allocation_each() {
    let desk = desk(None);
    let (lane, progress) = open(&desk, 0);
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
    let mut cx = TaskContext::from_waker(Waker::noop());
    assert!(desk.poll_take(&mut cx).is_pending());
    assert_eq!(progress.buffered(), 0);
    // A list a batch, and what little the turns need.
    assert!(cost.count_total <= 5 * 10_000 / MAX as u64, "{cost:?}");
}

#[test]
fn a_member_that_begins_anew_goes_on_where_the_caller_is() {
    let desk = desk(Some(SeekTo::End));
    assert_eq!(desk.place(&partition()), Some(SeekTo::End));
    let (lane, progress) = open(&desk, 40);
    // What the end was is not looked up again: records came meanwhile.
    assert_eq!(desk.place(&partition()), Some(SeekTo::Offset(40)));
    send(&lane, &progress, 40..50);
    let handed = take(&desk);
    progress.mark_handled(handed.next_offset);
    assert_eq!(desk.place(&partition()), Some(SeekTo::Offset(50)));
    let (reply, _sought) = tokio::sync::oneshot::channel();
    desk.seek(&partition(), SeekTo::Beginning, reply);
    assert_eq!(desk.place(&partition()), Some(SeekTo::Beginning));
}
