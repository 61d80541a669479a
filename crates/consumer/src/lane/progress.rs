//! What a lane and its member share about one partition: the offsets handled and the bytes waiting.

use crate::status::PartitionState;
use ottla_group::{OffsetTracker, Ticket};
use ottla_types::{ConsumedRecord, Offset};
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

/// One partition's progress in one assignment. The lane marks, the member commits.
#[derive(Debug)]
pub(crate) struct Progress {
    inner: Mutex<Inner>,
    /// Bytes that were fetched and are not handled.
    buffered: AtomicUsize,
    /// At this many buffered bytes or fewer the member fetches more.
    low_water: AtomicUsize,
    high_watermark: AtomicI64,
    /// Wakes the member when the buffer has sunk to the low water mark, or the inbox has room again.
    wake: Arc<Notify>,
}

#[derive(Debug)]
struct Inner {
    tracker: OffsetTracker,
    leader_epoch: Option<i32>,
    state: PartitionState,
}

/// An offset that is worth a commit.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Commit {
    pub(crate) offset: Offset,
    pub(crate) leader_epoch: Option<i32>,
}

impl Progress {
    /// Progress of a partition whose position is not known yet. At most `in_flight` records are with
    /// the handler at once.
    pub(crate) fn new(in_flight: usize, wake: Arc<Notify>) -> Self {
        Self {
            inner: Mutex::new(Inner {
                tracker: OffsetTracker::new(in_flight),
                leader_epoch: None,
                state: PartitionState::Locating,
            }),
            buffered: AtomicUsize::new(0),
            low_water: AtomicUsize::new(0),
            high_watermark: AtomicI64::new(-1),
            wake,
        }
    }

    /// The position was found. Where nothing was committed, the position itself is worth a commit, so
    /// that a later reset cannot skip records (C14).
    pub(crate) fn located(&self, position: Offset, committed: Option<Offset>) {
        let mut inner = self.lock();
        inner.tracker.assign(position, committed);
        inner.state = PartitionState::Active;
    }

    /// The partition is not owned any more: nothing of it can be committed.
    pub(crate) fn unassign(&self) {
        self.lock().tracker.unassign();
    }

    /// Hands records to the handler. Empty when the partition is not assigned any more.
    pub(crate) fn dispatch(&self, records: &[ConsumedRecord]) -> Vec<Ticket> {
        let mut inner = self.lock();
        let tickets = records.iter().map(|r| inner.tracker.dispatched(r.offset));
        tickets.collect::<Result<_, _>>().unwrap_or_default()
    }

    /// Everything up to `record` is handled.
    pub(crate) fn done_through(&self, ticket: Ticket, record: &ConsumedRecord) {
        let mut inner = self.lock();
        if inner.tracker.done_through(ticket) && record.leader_epoch.is_some() {
            inner.leader_epoch = record.leader_epoch;
        }
    }

    /// The log holds nothing more to handle below `position`.
    pub(crate) fn advance_to(&self, position: Offset) {
        self.lock().tracker.advance_to(position);
    }

    /// Begins a commit, if there is something to commit.
    pub(crate) fn start_commit(&self) -> Option<Commit> {
        let mut inner = self.lock();
        let offset = inner.tracker.start_commit()?;
        let leader_epoch = inner.leader_epoch;
        Some(Commit {
            offset,
            leader_epoch,
        })
    }

    pub(crate) fn committed(&self, offset: Offset) {
        self.lock().tracker.committed(offset);
    }

    pub(crate) fn commit_failed(&self) {
        self.lock().tracker.commit_failed();
    }

    /// What is handled and not committed, if there is any.
    pub(crate) fn uncommitted(&self) -> Option<Offset> {
        let inner = self.lock();
        let committable = inner.tracker.committable()?;
        (inner.tracker.last_committed() != Some(committable)).then_some(committable)
    }

    /// Everything below is handled.
    pub(crate) fn handled(&self) -> Option<Offset> {
        self.lock().tracker.committable()
    }

    pub(crate) fn last_committed(&self) -> Option<Offset> {
        self.lock().tracker.last_committed()
    }

    pub(crate) fn state(&self) -> PartitionState {
        self.lock().state.clone()
    }

    pub(crate) fn set_state(&self, state: PartitionState) {
        self.lock().state = state;
    }

    pub(crate) fn set_high_watermark(&self, offset: Offset) {
        self.high_watermark.store(offset, Ordering::Relaxed);
    }

    pub(crate) fn high_watermark(&self) -> Option<Offset> {
        let offset = self.high_watermark.load(Ordering::Relaxed);
        (offset >= 0).then_some(offset)
    }

    pub(crate) fn set_low_water(&self, bytes: usize) {
        self.low_water.store(bytes, Ordering::Relaxed);
    }

    /// Whether the member may fetch more.
    pub(crate) fn has_room(&self) -> bool {
        self.buffered.load(Ordering::Acquire) <= self.low_water.load(Ordering::Relaxed)
    }

    pub(crate) fn buffered(&self) -> usize {
        self.buffered.load(Ordering::Relaxed)
    }

    pub(crate) fn add_buffered(&self, bytes: usize) {
        self.buffered.fetch_add(bytes, Ordering::AcqRel);
    }

    /// Lets the member look whether there is room.
    pub(crate) fn wake(&self) {
        self.wake.notify_one();
    }

    /// Gives bytes back, and wakes the member when this made room.
    pub(crate) fn release(&self, bytes: usize) {
        let before = self.buffered.fetch_sub(bytes, Ordering::AcqRel);
        let low = self.low_water.load(Ordering::Relaxed);
        if before > low && before - bytes <= low {
            self.wake.notify_one();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // The tracker is whole between its calls, and none of them runs foreign code.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
