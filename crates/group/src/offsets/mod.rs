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
//! With [`OffsetTracker::with_gaps`] what is handled above the committable offset is remembered, too:
//! [`OffsetTracker::start_commit_with_gaps`] gives it as text for the commit's metadata,
//! [`OffsetTracker::assign_with_gaps`] takes it back, and [`OffsetTracker::admit`] then says which
//! records were handled before. No record is admitted whose handling might leave gaps that do not
//! fit the text any more, so after a clean restart nothing is handled twice.
//!
//! A [`Ticket`] carries the assignment it was made in, so a handler of an earlier assignment cannot
//! mark a record of the present one.

mod gaps;

pub use gaps::{Gaps, METADATA_MAX};

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
    /// Another record might leave more gaps than a commit can remember: wait for the lowest ones.
    #[error("the gaps between handled records fill the {limit} bytes of a commit's metadata")]
    GapsFull {
        /// The bound, in bytes.
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

/// What is to be done with a record, from [`OffsetTracker::admit`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// It goes to a handler.
    Handle(Ticket),
    /// It was handled before the restart, and must not be again.
    HandledBefore,
}

/// One partition's progress. See the [module](self) for the order of the calls.
#[derive(Debug, Clone)]
pub struct OffsetTracker {
    limit: usize,
    /// How long the text for the gaps may be, in bytes; `None` when they are not remembered.
    gaps_limit: Option<usize>,
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
    /// How many runs of `Done` there are among the records.
    done_runs: usize,
    /// What was handled before the restart, as far as it is not among the records yet.
    before: Gaps,
    committed_gaps: String,
    committing_gaps: String,
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
            gaps_limit: None,
            epoch: 0,
            state: State::Unassigned,
        }
    }

    /// As [`Self::new`], and remembers gaps as text of at most `metadata_max` bytes, which is what
    /// the broker takes as a commit's metadata: [`METADATA_MAX`] by default.
    pub fn with_gaps(limit: usize, metadata_max: usize) -> Self {
        Self {
            gaps_limit: Some(metadata_max),
            ..Self::new(limit)
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
            done_runs: 0,
            before: Gaps::default(),
            committed_gaps: String::new(),
            committing_gaps: String::new(),
        });
    }

    /// As [`Self::assign`] at the `committed` offset, with the metadata of that commit. Text that is
    /// not ours, or that is of another offset, is no news: everything is handled again then.
    pub fn assign_with_gaps(&mut self, committed: Offset, metadata: &str) {
        self.assign(committed, Some(committed));
        if let (Some(gaps), State::Assigned(progress)) =
            (Gaps::decode(metadata, committed), &mut self.state)
        {
            progress.before = gaps;
            metadata.clone_into(&mut progress.committed_gaps);
        }
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
    /// consecutive: compaction and transactions leave gaps. Does not look at what a commit can
    /// remember, as [`Self::admit`] does.
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

    /// As [`Self::dispatched`], for a tracker that remembers gaps: a record that was handled before
    /// the restart is noted as done.
    ///
    /// # Errors
    /// As [`Self::dispatched`]. The bound counts records that were handled before, too.
    pub fn admit(&mut self, offset: Offset) -> Result<Admission, TrackError> {
        let State::Assigned(progress) = &mut self.state else {
            return Err(TrackError::NotAssigned);
        };
        let Some(run) = progress.before.run_at(offset) else {
            if let Some(limit) = self.gaps_limit
                && progress.may_outgrow(offset, limit)
            {
                return Err(TrackError::GapsFull { limit });
            }
            return self.dispatched(offset).map(Admission::Handle);
        };
        if offset < progress.position {
            return Err(TrackError::OutOfOrder {
                offset,
                expected: progress.position,
            });
        }
        if progress.records.is_empty() {
            progress.committable = progress.committable.max(run.end);
        } else if progress.records.len() >= self.limit {
            return Err(TrackError::Full { limit: self.limit });
        } else {
            let joins = matches!(progress.records.back(), Some((_, Handling::Done)));
            progress.done_runs += usize::from(!joins);
            progress.records.push_back((offset, Handling::Done));
        }
        progress.position = offset.saturating_add(1);
        Ok(Admission::HandledBefore)
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

    /// As [`Self::start_commit`], with the text for the commit's metadata. News above the committable
    /// offset are worth a commit, too. The text holds every gap, if each record was [admitted](Self::admit).
    pub fn start_commit_with_gaps(&mut self) -> Option<(Offset, String)> {
        let limit = self.gaps_limit.unwrap_or(0);
        let State::Assigned(progress) = &mut self.state else {
            return None;
        };
        if progress.committing.is_some() {
            return None;
        }
        let offset = progress.committable;
        let text = progress.gaps().encode(offset, limit);
        if progress.committed == Some(offset) && progress.committed_gaps == text {
            return None;
        }
        progress.committing = Some(offset);
        progress.committing_gaps.clone_from(&text);
        Some((offset, text))
    }

    /// Whether [`Self::start_commit_with_gaps`] would give something if no commit were in flight.
    pub fn has_uncommitted(&self) -> bool {
        let limit = self.gaps_limit.unwrap_or(0);
        self.progress().is_some_and(|progress| {
            let offset = progress.committable;
            progress.committed != Some(offset)
                || progress.committed_gaps != progress.gaps().encode(offset, limit)
        })
    }

    /// What is handled above the committable offset; `None` when the partition is not assigned.
    pub fn gaps(&self) -> Option<Gaps> {
        self.progress().map(Progress::gaps)
    }

    /// Whether the next record at `offset` must wait, because its gaps might not fit.
    pub fn is_gaps_full(&self, offset: Offset) -> bool {
        let limit = self.gaps_limit.unwrap_or(usize::MAX);
        self.progress()
            .is_some_and(|progress| progress.may_outgrow(offset, limit))
    }

    /// The commit of `offset` was answered with success. Ignored unless it is the one in flight.
    pub fn committed(&mut self, offset: Offset) {
        if let State::Assigned(progress) = &mut self.state
            && progress.committing == Some(offset)
        {
            progress.committing = None;
            progress.committed = Some(offset);
            progress.committed_gaps = std::mem::take(&mut progress.committing_gaps);
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
            Some((_, handling @ Handling::Out)) => *handling = Handling::Done,
            _ => return false,
        }
        self.out -= 1;
        // A run begins, grows, or closes the hole between two.
        match usize::from(self.is_done(at.wrapping_sub(1))) + usize::from(self.is_done(at + 1)) {
            0 => self.done_runs += 1,
            1 => {}
            _ => self.done_runs -= 1,
        }
        true
    }

    fn is_done(&self, at: usize) -> bool {
        matches!(self.records.get(at), Some((_, Handling::Done)))
    }

    /// Handled runs above the committable offset. What the log does not have between two handled
    /// records counts as handled.
    fn gaps(&self) -> Gaps {
        let mut previous_end = None;
        let runs = self.records.iter().filter_map(|(offset, handling)| {
            let end = offset.saturating_add(1);
            match handling {
                Handling::Out => {
                    previous_end = None;
                    None
                }
                Handling::Done => Some(previous_end.replace(end).unwrap_or(*offset)..end),
            }
        });
        let later = self.before.handled().iter();
        let later = later.map(|run| run.start.max(self.position).max(self.committable)..run.end);
        Gaps::from_runs(runs.chain(later))
    }

    /// Whether the text for the gaps may come to need more than `limit`. Never while nothing is out or
    /// waits: the lowest record alone adds no gap, however full the text was that a restart found.
    fn may_outgrow(&self, offset: Offset, limit: usize) -> bool {
        !self.records.is_empty() && self.longest_gaps(offset) > limit
    }

    /// The longest text that the gaps can come to need, in whatever order the handlers finish, once
    /// the record at `offset` is with one. O(1), but for what was handled before the restart.
    fn longest_gaps(&self, offset: Offset) -> usize {
        let later = self.before.handled();
        let later = &later[later.partition_point(|run| run.end <= self.position)..];
        let end = later.last().map_or(offset, |run| run.end.max(offset));
        // Between two runs there is a record that is not handled.
        let runs = (self.done_runs + self.out + 1).min(self.records.len().div_ceil(2) + 1);
        gaps::longest_text(runs + later.len(), end - self.committable + 1)
    }

    /// Drops what is handled from the front.
    fn settle(&mut self) {
        let settles = self.is_done(0);
        while let Some(&(offset, Handling::Done)) = self.records.front() {
            self.records.pop_front();
            self.committable = self.committable.max(offset.saturating_add(1));
        }
        self.done_runs -= usize::from(settles);
        if self.records.is_empty() {
            self.committable = self.committable.max(self.position);
            // What was handled before the restart need not be read for this.
            if let Some(run) = self.before.run_at(self.committable) {
                self.committable = run.end;
            }
        }
    }
}

#[cfg(test)]
mod tests;
