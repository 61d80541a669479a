//! What a lane and its member share about one partition: the offsets handled, the bytes waiting, and
//! the place that cannot be read.
//!
//! A lane that calls its handler for one record after the other stores the next offset and nothing
//! else; the tracker hears of it when somebody asks.

use super::asked::{Asked, Round};
use crate::Error;
use crate::status::PartitionState;
use ottla_group::{Admission, Gaps, METADATA_MAX, OffsetTracker, Ticket, TrackError};
use ottla_record_batch::DecodeError;
use ottla_types::{ConsumedRecord, Offset};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

/// Leader epochs that are kept for commits to come; one a change of the leader.
const EPOCHS_MAX: usize = 64;

/// One partition's progress in one assignment. The lane marks, the member commits.
#[derive(Debug)]
pub(crate) struct Progress {
    inner: Mutex<Inner>,
    /// Everything below is handled, unless the tracker knows better; -1 until the lane says so.
    handled: AtomicI64,
    /// Bytes that were fetched and are not handled.
    buffered: AtomicUsize,
    /// At this many buffered bytes or fewer the member fetches more.
    low_water: AtomicUsize,
    high_watermark: AtomicI64,
    /// What a plain consumer's caller is done with; -1 for nothing yet.
    done_with: AtomicI64,
    /// Nothing more is to be fetched for now.
    is_paused: AtomicBool,
    has_trouble: AtomicBool,
    /// Wakes the member when the buffer has sunk to the low water mark, the inbox has room again, or
    /// there is trouble.
    wake: Arc<Notify>,
}

#[derive(Debug)]
struct Inner {
    tracker: OffsetTracker,
    /// The first offset of each leader epoch that a commit may still name, ascending.
    epochs: VecDeque<(Offset, i32)>,
    state: PartitionState,
    trouble: Option<Trouble>,
    /// With a plain consumer: only what is asked for is committed.
    asked: Option<Asked>,
}

/// A place that the lane could not read. Everything below is handled, or is no record.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Trouble {
    /// Where reading would have gone on.
    pub(crate) offset: Offset,
    /// The leader epoch of the record before it, if the lane saw one.
    pub(crate) leader_epoch: Option<i32>,
    pub(crate) error: DecodeError,
}

/// An offset that is worth a commit.
#[derive(Debug, Clone)]
pub(crate) struct Commit {
    pub(crate) offset: Offset,
    pub(crate) leader_epoch: Option<i32>,
    /// What is handled above the offset (C9), or what a plain consumer's caller says of it.
    pub(crate) metadata: String,
}

impl Progress {
    /// Progress of a partition whose position is not known yet. At most `in_flight` records are with
    /// the handler at once. Commits remember what is handled above their offset (C9).
    pub(crate) fn new(in_flight: usize, wake: Arc<Notify>) -> Self {
        Self::tracked_by(
            OffsetTracker::with_gaps(in_flight, METADATA_MAX),
            None,
            wake,
        )
    }

    /// That of a plain consumer, where the caller says what is committed; `auto`: what it is done
    /// with is committed unasked.
    pub(crate) fn asked(auto: bool, wake: Arc<Notify>) -> Self {
        Self::tracked_by(OffsetTracker::new(1), Some(Asked::new(auto)), wake)
    }

    fn tracked_by(tracker: OffsetTracker, asked: Option<Asked>, wake: Arc<Notify>) -> Self {
        Self {
            inner: Mutex::new(Inner {
                tracker,
                epochs: VecDeque::new(),
                state: PartitionState::Locating,
                trouble: None,
                asked,
            }),
            handled: AtomicI64::new(-1),
            buffered: AtomicUsize::new(0),
            low_water: AtomicUsize::new(0),
            high_watermark: AtomicI64::new(-1),
            done_with: AtomicI64::new(-1),
            is_paused: AtomicBool::new(false),
            has_trouble: AtomicBool::new(false),
            wake,
        }
    }

    /// The position was found. Where nothing was committed, the position itself is worth a commit, so
    /// that a later reset cannot skip records (C14).
    pub(crate) fn located(&self, position: Offset, committed: Option<Offset>) {
        let mut inner = self.lock();
        inner.tracker.assign(position, committed);
        if let Some(asked) = &mut inner.asked {
            asked.located(committed);
        }
        inner.state = PartitionState::Active;
    }

    /// The position was found: the committed one, with the text that was committed with it.
    pub(crate) fn located_with(&self, committed: Offset, metadata: &str) {
        let mut inner = self.lock();
        inner.tracker.assign_with_gaps(committed, metadata);
        if let Some(asked) = &mut inner.asked {
            asked.located(Some(committed));
        }
        inner.state = PartitionState::Active;
    }

    /// The partition is not owned any more: nothing of it can be committed. `error` is for those who
    /// asked for a commit; the first one counts.
    pub(crate) fn unassign(&self, error: &Error) {
        let mut inner = self.lock();
        inner.tracker.unassign();
        if let Some(asked) = &mut inner.asked {
            asked.end(error);
        }
    }

    /// The application chose another position: what was fetched and not handed out is forgotten.
    pub(crate) fn reposition(&self) {
        let mut inner = self.lock();
        inner.tracker.unassign();
        inner.state = PartitionState::Locating;
        inner.trouble = None;
        self.has_trouble.store(false, Ordering::Release);
        self.handled.store(-1, Ordering::Release);
        self.done_with.store(-1, Ordering::Release);
        self.buffered.store(0, Ordering::Release);
    }

    /// Asks for a commit of `offset`, with a text beside it; `None` when it is committed already, and in
    /// a runner, which commits by itself.
    pub(crate) fn ask(&self, offset: Offset, metadata: Option<String>) -> Option<Arc<Round>> {
        self.lock().asked.as_mut()?.ask(offset, metadata)
    }

    /// Whether a caller says what is committed.
    pub(crate) fn is_asked(&self) -> bool {
        self.lock().asked.is_some()
    }

    /// The caller is done with what was handed out. To be called where
    /// [`mark_handled`](Self::mark_handled) is.
    pub(crate) fn mark_done_with(&self) {
        let handled = self.handled.load(Ordering::Relaxed);
        self.done_with.store(handled, Ordering::Release);
    }

    /// There was no committed offset, and a reset or the listener led here: nothing before it is for
    /// this group. That is worth a commit even if nobody reads on before the next start, which else
    /// would be led to a later end (C14). To be called before records can be taken.
    pub(crate) fn mark_reset(&self, position: Offset) {
        if self.is_asked() {
            self.done_with.store(position, Ordering::Release);
        }
    }

    /// The caller chose to go on here: it is the position, as if everything below had been handed out.
    /// To be called before records can be taken.
    pub(crate) fn mark_sought(&self, position: Offset) {
        self.mark_handled(position);
        self.mark_done_with();
    }

    /// What was [marked](Self::mark_handled), also when the partition is not owned any more.
    pub(crate) fn last_marked(&self) -> Option<Offset> {
        Some(self.handled.load(Ordering::Acquire)).filter(|offset| *offset >= 0)
    }

    pub(crate) fn set_paused(&self, is_paused: bool) {
        self.is_paused.store(is_paused, Ordering::Release);
        if !is_paused {
            self.wake();
        }
    }

    pub(crate) fn is_paused(&self) -> bool {
        self.is_paused.load(Ordering::Acquire)
    }

    fn done_with(&self) -> Option<Offset> {
        Some(self.done_with.load(Ordering::Acquire)).filter(|offset| *offset >= 0)
    }

    /// Everything below `next` is handled, was [dispatched](Self::dispatch), or is no record. The
    /// lane's alone.
    pub(crate) fn mark_handled(&self, next: Offset) {
        self.handled.store(next, Ordering::Release);
    }

    /// What was handled above the position before a restart.
    pub(crate) fn handled_before(&self) -> Gaps {
        self.lock().tracker.gaps().unwrap_or_default()
    }

    /// Notes that records go to handlers that may end in any order: a ticket for each, none for one
    /// that was handled before a restart. Fewer tickets than records when a commit could not remember
    /// what is handled among them: the others go when more is handled. `None` when the partition is
    /// not assigned any more.
    pub(crate) fn dispatch(&self, records: &[ConsumedRecord]) -> Option<Vec<Option<Ticket>>> {
        let mut inner = self.lock();
        let mut tickets = Vec::with_capacity(records.len());
        for record in records {
            match inner.tracker.admit(record.offset) {
                Ok(Admission::Handle(ticket)) => tickets.push(Some(ticket)),
                Ok(Admission::HandledBefore) => tickets.push(None),
                Err(TrackError::GapsFull { .. } | TrackError::Full { .. }) => break,
                Err(_) => return None,
            }
        }
        Some(tickets)
    }

    /// How many more records may be dispatched from `next` on; none while a commit could not remember
    /// what is handled among them.
    pub(crate) fn room(&self, next: Offset) -> usize {
        let inner = self.lock();
        match inner.tracker.is_gaps_full(next) {
            true => 0,
            false => inner.tracker.room(),
        }
    }

    /// The record is handled.
    pub(crate) fn done(&self, ticket: Ticket) {
        self.lock().tracker.done(ticket);
    }

    /// The records from `first` on were written in this leader epoch.
    pub(crate) fn epoch_begins(&self, first: Offset, epoch: i32) {
        let mut inner = self.lock();
        if inner.epochs.len() == EPOCHS_MAX {
            inner.epochs.pop_front();
        }
        inner.epochs.push_back((first, epoch));
    }

    /// Begins a commit, if there is something to commit.
    pub(crate) fn start_commit(&self) -> Option<Commit> {
        let mut inner = self.up_to_date();
        let (offset, metadata) = match &mut inner.asked {
            Some(asked) => asked.start(self.done_with())?,
            None => inner.tracker.start_commit_with_gaps()?,
        };
        // The epoch is that of the last record below the offset.
        while inner
            .epochs
            .get(1)
            .is_some_and(|(first, _)| *first < offset)
        {
            inner.epochs.pop_front();
        }
        // Below an offset that nobody has read up to there may be a later epoch.
        let is_read = offset <= self.handled.load(Ordering::Acquire);
        let of_record = inner.epochs.front();
        let of_record = of_record.filter(|(first, _)| is_read && *first < offset);
        Some(Commit {
            offset,
            leader_epoch: of_record.map(|(_, epoch)| *epoch),
            metadata,
        })
    }

    pub(crate) fn committed(&self, offset: Offset) {
        let mut inner = self.lock();
        match &mut inner.asked {
            Some(asked) => asked.committed(offset),
            None => inner.tracker.committed(offset),
        }
    }

    /// The commit that is out is to be tried again.
    pub(crate) fn commit_failed(&self) {
        let mut inner = self.lock();
        match &mut inner.asked {
            Some(asked) => asked.failed(),
            None => inner.tracker.commit_failed(),
        }
    }

    /// The commit that is out was refused for good. A runner tries what is handled by then again.
    pub(crate) fn commit_refused(&self, error: Error) {
        let mut inner = self.lock();
        match &mut inner.asked {
            Some(asked) => asked.refused(error),
            None => inner.tracker.commit_failed(),
        }
    }

    /// What is handled and not committed, if there is any.
    pub(crate) fn uncommitted(&self) -> Option<Offset> {
        let inner = self.up_to_date();
        if let Some(asked) = &inner.asked {
            return asked.uncommitted(self.done_with());
        }
        let committable = inner.tracker.committable()?;
        inner.tracker.has_uncommitted().then_some(committable)
    }

    /// Everything below is handled.
    pub(crate) fn handled(&self) -> Option<Offset> {
        self.up_to_date().tracker.committable()
    }

    pub(crate) fn last_committed(&self) -> Option<Offset> {
        let inner = self.lock();
        match &inner.asked {
            Some(asked) => asked.last_committed(),
            None => inner.tracker.last_committed(),
        }
    }

    pub(crate) fn state(&self) -> PartitionState {
        self.lock().state.clone()
    }

    pub(crate) fn set_state(&self, state: PartitionState) {
        self.lock().state = state;
    }

    /// Tells the member of a place that cannot be read.
    pub(crate) fn tell_trouble(&self, trouble: Trouble) {
        self.lock().trouble = Some(trouble);
        self.has_trouble.store(true, Ordering::Release);
        self.wake();
    }

    pub(crate) fn take_trouble(&self) -> Option<Trouble> {
        if !self.has_trouble.load(Ordering::Acquire) {
            return None;
        }
        let mut inner = self.lock();
        self.has_trouble.store(false, Ordering::Release);
        inner.trouble.take()
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
            && !self.is_paused()
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
        if bytes == 0 {
            return;
        }
        let before = self.buffered.fetch_sub(bytes, Ordering::AcqRel);
        let low = self.low_water.load(Ordering::Relaxed);
        if before > low && before - bytes <= low {
            self.wake.notify_one();
        }
    }

    /// With what the lane has handled since the last look.
    fn up_to_date(&self) -> MutexGuard<'_, Inner> {
        let mut inner = self.lock();
        inner
            .tracker
            .advance_to(self.handled.load(Ordering::Acquire));
        inner
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // The tracker is whole between its calls, and none of them runs foreign code.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
