//! Which offset of one partition may be committed while its records are handled out of order.
//!
//! [`OffsetTracker`] owns the set of records that are out with handlers. The committable offset is
//! the next one to read once everything below it is handled, so a restart repeats records but never
//! skips one. It moves by [`OffsetTracker::done`] alone, or by [`OffsetTracker::advance_to`] while
//! nothing is out, and never backwards. One tracker lives as long as its consumer:
//!
//! 1. [`OffsetTracker::assign`] when the partition is assigned (forgets everything before),
//! 2. [`OffsetTracker::dispatched`] for each record, in log order, when it goes to a handler,
//! 3. [`OffsetTracker::done`] (or [`done_through`](OffsetTracker::done_through)) in any order,
//! 4. [`OffsetTracker::start_commit`], then [`committed`](OffsetTracker::committed) or
//!    [`commit_failed`](OffsetTracker::commit_failed) with the answer,
//! 5. [`OffsetTracker::unassign`] when the partition is revoked or lost.
//!
//! A [`Ticket`] carries the assignment it was made in, so a handler of an earlier assignment cannot
//! mark a record of the present one.

use ottla_types::Offset;
use std::collections::VecDeque;

/// Why a record was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TrackError {
    /// The partition is not assigned.
    #[error("the partition is not assigned")]
    NotAssigned,
    /// As many records as allowed are out, or wait for one below them.
    #[error("{limit} records are in flight already")]
    Full {
        /// The bound.
        limit: usize,
    },
    /// The offset is below one that was seen already.
    #[error("offset {offset} comes after {expected} was expected")]
    OutOfOrder {
        /// What was given.
        offset: Offset,
        /// The lowest offset that would have been taken.
        expected: Offset,
    },
}

/// A record that is out, for [`OffsetTracker::done`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Ticket {
    offset: Offset,
    epoch: u64,
}

impl Ticket {
    /// The record's offset.
    pub fn offset(self) -> Offset {
        self.offset
    }
}

/// One partition's progress. See the [module](self) for the order of the calls.
#[derive(Debug, Clone)]
pub struct OffsetTracker {
    limit: usize,
    epoch: u64,
    state: State,
}

#[derive(Debug, Clone)]
enum State {
    Unassigned,
    Assigned(Progress),
}

#[derive(Debug, Clone)]
struct Progress {
    /// Records that are out or wait for a lower one, ascending.
    records: VecDeque<(Offset, Handling)>,
    out: usize,
    /// The next offset that may be dispatched.
    position: Offset,
    /// Everything below is handled.
    committable: Offset,
    /// What the coordinator has, as far as known.
    committed: Option<Offset>,
    committing: Option<Offset>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Handling {
    Out,
    Done,
}

impl OffsetTracker {
    /// A tracker for a partition that is not assigned yet. At most `limit` (at least 1) records
    /// are in flight.
    pub fn new(limit: usize) -> Self {
        Self {
            limit: limit.max(1),
            epoch: 0,
            state: State::Unassigned,
        }
    }

    /// Begins an assignment at `position`, the next offset to read. `committed` is what the
    /// coordinator has; `None` when nothing was committed, and then `position` itself is worth a
    /// commit. Everything of an earlier assignment is forgotten.
    pub fn assign(&mut self, position: Offset, committed: Option<Offset>) {
        self.epoch += 1;
        self.state = State::Assigned(Progress {
            records: VecDeque::new(),
            out: 0,
            position,
            committable: position,
            committed,
            committing: None,
        });
    }

    /// Ends the assignment: nothing can be committed any more.
    pub fn unassign(&mut self) {
        self.epoch += 1;
        self.state = State::Unassigned;
    }

    /// Whether the partition is assigned.
    pub fn is_assigned(&self) -> bool {
        matches!(self.state, State::Assigned(_))
    }

    /// Notes that the record at `offset` goes to a handler. Offsets ascend, but need not be
    /// consecutive: compaction and transactions leave gaps.
    ///
    /// # Errors
    /// Nothing is noted when the partition is not assigned, the bound is reached, or the offset is
    /// below one seen before.
    pub fn dispatched(&mut self, offset: Offset) -> Result<Ticket, TrackError> {
        let State::Assigned(progress) = &mut self.state else {
            return Err(TrackError::NotAssigned);
        };
        if progress.records.len() >= self.limit {
            return Err(TrackError::Full { limit: self.limit });
        }
        if offset < progress.position {
            return Err(TrackError::OutOfOrder {
                offset,
                expected: progress.position,
            });
        }
        progress.records.push_back((offset, Handling::Out));
        progress.out += 1;
        progress.position = offset.saturating_add(1);
        Ok(Ticket {
            offset,
            epoch: self.epoch,
        })
    }

    /// Notes that the log has nothing to dispatch below `position`, for example after a batch that
    /// was empty, aborted or only control records.
    pub fn advance_to(&mut self, position: Offset) {
        if let State::Assigned(progress) = &mut self.state {
            progress.position = progress.position.max(position);
            progress.settle();
        }
    }

    /// Notes that a record is handled. False when it was not out in this assignment.
    pub fn done(&mut self, ticket: Ticket) -> bool {
        let Some(progress) = self.progress_of(ticket) else {
            return false;
        };
        let Ok(at) = progress.find(ticket.offset) else {
            return false;
        };
        let newly = progress.mark(at);
        progress.settle();
        newly
    }

    /// Notes that a record and everything dispatched before it is handled. False when the ticket
    /// is of an earlier assignment.
    pub fn done_through(&mut self, ticket: Ticket) -> bool {
        let Some(progress) = self.progress_of(ticket) else {
            return false;
        };
        let end = match progress.find(ticket.offset) {
            Ok(at) => at + 1,
            Err(at) => at,
        };
        for at in 0..end {
            progress.mark(at);
        }
        progress.settle();
        true
    }

    /// The next offset to read after everything that is handled without a hole; `None` when the
    /// partition is not assigned.
    pub fn committable(&self) -> Option<Offset> {
        self.progress().map(|p| p.committable)
    }

    /// What the coordinator has, as far as known.
    pub fn last_committed(&self) -> Option<Offset> {
        self.progress().and_then(|p| p.committed)
    }

    /// Records that are with handlers now.
    pub fn in_flight(&self) -> usize {
        self.progress().map_or(0, |p| p.out)
    }

    /// How many more records [`Self::dispatched`] takes. Records that are done still count while
    /// one below them is out.
    pub fn room(&self) -> usize {
        self.progress()
            .map_or(0, |p| self.limit.saturating_sub(p.records.len()))
    }

    /// Begins a commit: the offset to send, or `None` when there is nothing new, a commit is in
    /// flight already, or the partition is not assigned.
    pub fn start_commit(&mut self) -> Option<Offset> {
        let State::Assigned(progress) = &mut self.state else {
            return None;
        };
        if progress.committing.is_some() || progress.committed == Some(progress.committable) {
            return None;
        }
        progress.committing = Some(progress.committable);
        progress.committing
    }

    /// The commit of `offset` was answered with success. Ignored unless it is the one in flight.
    pub fn committed(&mut self, offset: Offset) {
        if let State::Assigned(progress) = &mut self.state
            && progress.committing == Some(offset)
        {
            progress.committing = None;
            progress.committed = Some(offset);
        }
    }

    /// The commit in flight failed; the next [`Self::start_commit`] covers it again.
    pub fn commit_failed(&mut self) {
        if let State::Assigned(progress) = &mut self.state {
            progress.committing = None;
        }
    }

    fn progress(&self) -> Option<&Progress> {
        match &self.state {
            State::Assigned(progress) => Some(progress),
            State::Unassigned => None,
        }
    }

    fn progress_of(&mut self, ticket: Ticket) -> Option<&mut Progress> {
        match &mut self.state {
            State::Assigned(progress) if ticket.epoch == self.epoch => Some(progress),
            _ => None,
        }
    }
}

impl Progress {
    fn find(&self, offset: Offset) -> Result<usize, usize> {
        self.records.binary_search_by_key(&offset, |(o, _)| *o)
    }

    /// Whether the record at this place was out.
    fn mark(&mut self, at: usize) -> bool {
        match self.records.get_mut(at) {
            Some((_, handling @ Handling::Out)) => {
                *handling = Handling::Done;
                self.out -= 1;
                true
            }
            _ => false,
        }
    }

    /// Drops what is handled from the front.
    fn settle(&mut self) {
        while let Some(&(offset, Handling::Done)) = self.records.front() {
            self.records.pop_front();
            self.committable = self.committable.max(offset.saturating_add(1));
        }
        if self.records.is_empty() {
            self.committable = self.committable.max(self.position);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn assigned(position: Offset, limit: usize) -> OffsetTracker {
        let mut tracker = OffsetTracker::new(limit);
        tracker.assign(position, Some(position));
        tracker
    }

    #[test]
    fn what_is_done_out_of_order_waits_for_what_is_below() {
        let mut tracker = assigned(10, 8);
        let tickets: Vec<_> = (10..14).map(|o| tracker.dispatched(o).unwrap()).collect();
        assert!(tracker.done(tickets[2]) && tracker.done(tickets[1]));
        assert_eq!((tracker.committable(), tracker.in_flight()), (Some(10), 2));
        assert!(tracker.done(tickets[0]));
        assert_eq!(tracker.committable(), Some(13));
        assert!(!tracker.done(tickets[0]), "done twice");
        assert!(tracker.done_through(tickets[3]));
        assert_eq!((tracker.committable(), tracker.in_flight()), (Some(14), 0));
    }

    #[test]
    fn done_through_covers_everything_before() {
        let mut tracker = assigned(0, 8);
        let tickets: Vec<_> = [0, 4, 9].map(|o| tracker.dispatched(o).unwrap()).to_vec();
        assert!(tracker.done_through(tickets[1]));
        assert_eq!(tracker.committable(), Some(5));
        assert!(tracker.done_through(tickets[0]), "of no effect");
        assert_eq!((tracker.committable(), tracker.in_flight()), (Some(5), 1));
    }

    #[test]
    fn gaps_in_the_log_are_no_holes() {
        let mut tracker = assigned(0, 8);
        let a = tracker.dispatched(3).unwrap();
        let b = tracker.dispatched(7).unwrap();
        tracker.done(a);
        assert_eq!(tracker.committable(), Some(4));
        tracker.done(b);
        assert_eq!(tracker.committable(), Some(8));
    }

    #[test]
    fn the_bound_holds_while_the_lowest_record_is_out() {
        let mut tracker = assigned(0, 2);
        let low = tracker.dispatched(0).unwrap();
        let high = tracker.dispatched(1).unwrap();
        assert_eq!(tracker.dispatched(2), Err(TrackError::Full { limit: 2 }));
        tracker.done(high);
        assert_eq!((tracker.room(), tracker.in_flight()), (0, 1));
        tracker.done(low);
        assert_eq!(tracker.room(), 2);
        tracker.dispatched(2).unwrap();
    }

    #[test]
    fn offsets_must_ascend() {
        let mut tracker = assigned(5, 4);
        let refused = |offset, expected| Err(TrackError::OutOfOrder { offset, expected });
        assert_eq!(tracker.dispatched(4), refused(4, 5));
        tracker.dispatched(5).unwrap();
        assert_eq!(tracker.dispatched(5), refused(5, 6));
    }

    #[test]
    fn trap_c3_a_new_assignment_forgets_the_old_one_and_refuses_its_handlers() {
        let mut tracker = assigned(100, 4);
        let old = tracker.dispatched(100).unwrap();
        tracker.unassign();
        assert!(!tracker.done(old) && !tracker.done_through(old));
        assert_eq!(tracker.committable(), None);
        assert_eq!(tracker.start_commit(), None);
        assert_eq!(tracker.dispatched(101), Err(TrackError::NotAssigned));
        tracker.assign(100, Some(100));
        let new = tracker.dispatched(100).unwrap();
        assert!(!tracker.done(old), "the handler of the earlier assignment");
        assert_eq!(tracker.committable(), Some(100));
        assert!(tracker.done(new));
        assert_eq!(tracker.start_commit(), Some(101));
    }

    #[test]
    fn trap_c4_only_handled_or_absent_records_move_the_committable_offset() {
        let mut tracker = assigned(0, 4);
        let first = tracker.dispatched(0).unwrap();
        tracker.advance_to(50);
        assert_eq!(tracker.committable(), Some(0));
        tracker.advance_to(3);
        tracker.done(first);
        assert_eq!(tracker.committable(), Some(50));
        tracker.advance_to(10);
        assert_eq!(tracker.committable(), Some(50), "never backwards");
    }

    #[test]
    fn trap_c17_one_commit_is_in_flight() {
        let mut tracker = assigned(0, 4);
        let a = tracker.dispatched(0).unwrap();
        assert_eq!(tracker.start_commit(), None, "nothing new");
        tracker.done(a);
        assert_eq!(tracker.start_commit(), Some(1));
        let b = tracker.dispatched(1).unwrap();
        tracker.done(b);
        assert_eq!(tracker.start_commit(), None, "one is in flight");
        tracker.committed(7);
        assert_eq!(tracker.last_committed(), Some(0), "not the one in flight");
        tracker.commit_failed();
        assert_eq!(tracker.start_commit(), Some(2));
        tracker.committed(2);
        assert_eq!(tracker.last_committed(), Some(2));
        assert_eq!(tracker.start_commit(), None);
    }

    #[test]
    fn trap_c26_the_committed_offset_is_the_next_one_to_read() {
        let mut tracker = assigned(41, 4);
        let only = tracker.dispatched(41).unwrap();
        tracker.done(only);
        assert_eq!(tracker.start_commit(), Some(42));
    }

    #[test]
    fn trap_c14_a_resolved_start_without_a_commit_is_worth_one() {
        let mut tracker = OffsetTracker::new(4);
        tracker.assign(77, None);
        assert_eq!(tracker.start_commit(), Some(77));
        tracker.committed(77);
        assert_eq!(tracker.start_commit(), None);
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn nothing_below_the_committable_offset_is_unhandled(
            steps in proptest::collection::vec((0..4u8, 0..5i64, any::<prop::sample::Index>()), 0..120),
        ) {
            let mut tracker = assigned(0, 6);
            let (mut next, mut last) = (0, 0);
            let mut out: Vec<Ticket> = Vec::new();
            let mut done = BTreeSet::new();
            let mut all = BTreeSet::new();
            for (kind, gap, which) in steps {
                match kind {
                    0 | 1 => if let Ok(ticket) = tracker.dispatched(next + gap) {
                        next = ticket.offset() + 1;
                        all.insert(ticket.offset());
                        out.push(ticket);
                    },
                    2 if !out.is_empty() => {
                        let ticket = out.swap_remove(which.index(out.len()));
                        prop_assert!(tracker.done(ticket));
                        done.insert(ticket.offset());
                    }
                    _ => { next += gap; tracker.advance_to(next); }
                }
                let committable = tracker.committable().unwrap();
                prop_assert!(committable >= last);
                last = committable;
                prop_assert!(all.iter().all(|o| *o >= committable || done.contains(o)));
                prop_assert_eq!(tracker.in_flight(), out.len());
                if out.is_empty() {
                    prop_assert_eq!(committable, next);
                }
            }
        }
    }
}
