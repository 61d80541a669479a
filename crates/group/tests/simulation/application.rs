//! What the processes do with their partitions, and what must hold of it.

use crate::broker::Stored;
use crate::mutant::Mutant;
use crate::process::{Commit, Entry, Part, Retiring};
use crate::world::{Event, World};
use ottla_group::{Admission, CommitVerdict, Input, RevocationId};
use ottla_types::{ErrorCode, Offset, TopicPartition};

/// Between two records of the log.
const RECORD_EVERY: i64 = 900;

impl World {
    /// The end of every partition's log; it grows until the unrest ends. Every seventh offset is
    /// missing, as after compaction.
    fn log_end(&self) -> Offset {
        self.now.min(self.unrest) / RECORD_EVERY
    }

    fn exists(offset: Offset) -> bool {
        offset % 7 != 3
    }

    pub(crate) fn on_assigned(&mut self, at: usize, added: Vec<TopicPartition>) {
        for tp in added {
            self.forget(at, &tp);
            if let Some(other) = self.owners.insert(tp.clone(), at) {
                self.violate(format!("{tp} of {other} is given to {at}"));
            }
            self.order += 1;
            let incarnation = self.order;
            let past = self.processes[at].past.remove(&tp);
            if let (Some(past), true) = (past, self.is(Mutant::KeepsTracker)) {
                self.processes[at].parts.insert(tp, past);
                continue;
            }
            self.processes[at]
                .parts
                .insert(tp.clone(), Part::new(incarnation));
            let ms = 2 * self.trip();
            self.after(ms, Event::Located(at, tp, incarnation));
        }
    }

    pub(crate) fn on_lost(&mut self, at: usize, partitions: &[TopicPartition]) {
        if self.is(Mutant::KeepsLost) {
            return;
        }
        for tp in partitions {
            self.forget(at, tp);
        }
        self.processes[at].retiring = None;
    }

    pub(crate) fn on_revoked(
        &mut self,
        at: usize,
        id: RevocationId,
        partitions: Vec<TopicPartition>,
    ) {
        for tp in &partitions {
            if let Some(part) = self.processes[at].parts.get_mut(tp) {
                part.retiring = true;
                self.gaps.stop(at, tp, self.now);
            }
        }
        let tries = None;
        let retiring = Retiring {
            id,
            partitions,
            tries,
        };
        self.processes[at].retiring = Some(retiring);
        let slow = self.chance(4);
        let ms = self.rng.i64(if slow { 1_000..14_000 } else { 1..200 });
        self.after(ms, Event::GivenUp(at, id));
        if self.is(Mutant::AcknowledgesAtOnce) {
            self.tell(at, Input::RevokeCompleted { id });
        }
    }

    /// The handlers of what is revoked have stopped: what they did is committed, then the revocation
    /// acknowledged.
    pub(crate) fn on_given_up(&mut self, at: usize, id: RevocationId) {
        let retiring = self.processes[at].retiring.as_mut();
        if let Some(retiring) = retiring.filter(|r| r.id == id) {
            retiring.tries = Some(if self.calm { 100 } else { 3 });
            self.retire(at);
        }
    }

    fn retire(&mut self, at: usize) {
        let in_doubt = !self.processes[at].commits.is_empty();
        let Some(retiring) = &mut self.processes[at].retiring else {
            return;
        };
        let Some(tries) = &mut retiring.tries else {
            return;
        };
        let tries_again = *tries > 0;
        *tries = tries.saturating_sub(1);
        let (id, partitions) = (retiring.id, retiring.partitions.clone());
        if in_doubt || tries_again && self.commit(at) {
            return;
        }
        self.processes[at].retiring = None;
        for tp in &partitions {
            if self.is(Mutant::HandlesAfterRevoke) {
                self.handle_late(at, tp);
            }
            self.forget(at, tp);
            if self.is(Mutant::HandlesAfterRevoke) {
                self.handle_late(at, tp);
            }
        }
        self.tell(at, Input::RevokeCompleted { id });
    }

    /// Handles what was read of a partition, without a look at who owns it.
    fn handle_late(&mut self, at: usize, tp: &TopicPartition) {
        let part = self.processes[at].parts.get(tp);
        let out = part.and_then(|part| part.out.first()).map(|t| t.offset());
        let late = out.or_else(|| self.late.take());
        if let Some(offset) = late {
            if self.owners.get(tp) == Some(&at) {
                self.late = Some(offset);
            } else {
                self.handled(at, tp, offset);
            }
        }
    }

    /// Nothing of a partition is left with a process.
    pub(crate) fn forget(&mut self, at: usize, tp: &TopicPartition) {
        if let Some(part) = self.processes[at].parts.remove(tp) {
            if !part.retiring {
                self.gaps.stop(at, tp, self.now);
            }
            self.processes[at].past.insert(tp.clone(), part);
        }
        if self.owners.get(tp) == Some(&at) {
            self.owners.remove(tp);
        }
    }

    /// The committed offset of a new partition is known.
    pub(crate) fn on_located(&mut self, at: usize, tp: &TopicPartition, incarnation: u64) {
        let Some(part) = self.processes[at]
            .parts
            .get(tp)
            .filter(|p| p.incarnation == incarnation)
        else {
            return;
        };
        if part.next.is_some() || part.retiring {
            return;
        }
        if self.is_cut(at) || self.chance(10) {
            let ms = self.rng.i64(100..1_000);
            return self.after(ms, Event::Located(at, tp.clone(), incarnation));
        }
        let stored = self.broker.offsets.get(tp).cloned();
        let end = self.log_end();
        let skips = self.is(Mutant::SkipsFirst);
        let (begins_at_end, ignores) = (self.is(Mutant::BeginsAtEnd), self.is(Mutant::IgnoresGaps));
        let Some(part) = self.processes[at].parts.get_mut(tp) else {
            return;
        };
        let position = match stored {
            Some(Stored { offset, metadata }) => {
                let metadata = if ignores { "" } else { &metadata };
                part.tracker.assign_with_gaps(offset, metadata);
                offset
            }
            None if begins_at_end => {
                part.tracker.assign(end, None);
                end
            }
            None => {
                part.tracker.assign(0, None);
                0
            }
        };
        part.next = Some(position + i64::from(skips));
        self.gaps.go_on(at, tp, self.now);
    }

    /// A process looks after its partitions: reads, lets handlers finish, commits.
    pub(crate) fn work(&mut self, at: usize) {
        let ms = self.rng.i64(150..600);
        self.after(ms, Event::Work(at));
        let end = self.log_end();
        let all: Vec<_> = self.processes[at].parts.keys().cloned().collect();
        for tp in all {
            self.read(at, &tp, end);
            self.finish(at, &tp);
        }
        if self.rng.u32(0..100) < 40 {
            self.commit(at);
        }
        if self.is(Mutant::SpeaksAfterEnd) {
            self.listen(at);
        }
    }

    fn read(&mut self, at: usize, tp: &TopicPartition, end: Offset) {
        let Some(part) = self.processes[at].parts.get_mut(tp) else {
            return;
        };
        let Some(mut next) = part.next.filter(|_| !part.retiring) else {
            return;
        };
        while next < end {
            if !Self::exists(next) {
                next += 1;
                part.tracker.advance_to(next);
                continue;
            }
            match part.tracker.admit(next) {
                Ok(Admission::Handle(ticket)) => part.out.push(ticket),
                Ok(Admission::HandledBefore) => {}
                Err(_) => break,
            }
            next += 1;
        }
        part.next = Some(next);
    }

    fn finish(&mut self, at: usize, tp: &TopicPartition) {
        let fails = self.is(Mutant::TakesFailureForDone);
        let mut handled = Vec::new();
        if let Some(part) = self.processes[at].parts.get_mut(tp) {
            for _ in 0..part.out.len() {
                if self.rng.u32(0..100) < 55 {
                    let ticket = part.out.swap_remove(self.rng.usize(0..part.out.len()));
                    part.tracker.done(ticket);
                    handled.push(ticket.offset());
                }
            }
        }
        for offset in handled {
            if !(fails && self.rng.u32(0..20) == 0) {
                self.handled(at, tp, offset);
            }
        }
    }

    /// A record was handled: by the owner, and never after it was committed as handled.
    fn handled(&mut self, at: usize, tp: &TopicPartition, offset: Offset) {
        self.note(|| format!("{at} handles {tp} {offset}"));
        if self.owners.get(tp) != Some(&at) {
            self.violate(format!("{at} handles {tp} {offset} of another"));
        }
        if self
            .broker
            .offsets
            .get(tp)
            .is_some_and(|stored| stored.covers(offset))
        {
            self.violate(format!("{at} handles {tp} {offset} again"));
        }
        self.handled.entry(tp.clone()).or_default().insert(offset);
    }

    /// Sends a commit, if there is something to commit and none is out. Whether one was sent.
    fn commit(&mut self, at: usize) -> bool {
        let old = self.processes[at]
            .refused
            .take()
            .filter(|_| self.is(Mutant::RepeatsOldCommit));
        let Some(identity) = self.processes[at].member.commit_identity() else {
            return false;
        };
        if let Some(old) = old {
            let entries = old.entries;
            self.send_commit(at, Commit { identity, entries });
            return true;
        }
        if !self.processes[at].commits.is_empty() && !self.is(Mutant::TwoCommits) {
            return false;
        }
        let [position, more, less] = [
            Mutant::CommitsPosition,
            Mutant::CommitsOneMore,
            Mutant::CommitsOneLess,
        ]
        .map(|mutant| self.is(mutant));
        let two = self.is(Mutant::TwoCommits);
        let mut entries = Vec::new();
        for (tp, part) in &mut self.processes[at].parts {
            if two {
                part.tracker.commit_failed();
            }
            if let Some((started, metadata)) = part.tracker.start_commit_with_gaps() {
                let offset = match part.next {
                    Some(next) if position => next,
                    _ => started + i64::from(more) - i64::from(less && started > 0),
                };
                entries.push(Entry {
                    tp: tp.clone(),
                    incarnation: part.incarnation,
                    started,
                    offset,
                    metadata,
                });
            }
        }
        let some = !entries.is_empty();
        if some {
            self.send_commit(at, Commit { identity, entries });
        }
        some
    }

    fn send_commit(&mut self, at: usize, commit: Commit) {
        self.order += 1;
        let number = self.order;
        self.note(|| format!("{at} commits {commit:?}"));
        let ms = match self.is(Mutant::TwoCommits) {
            true => self.rng.i64(1..1_500),
            false => self.in_order(at),
        };
        self.processes[at].commits.insert(number, commit);
        if self.is_cut(at) || self.chance(4) {
            // Lost on the way there, or on the way back.
            if self.rng.bool() && !self.is_cut(at) {
                self.after(ms, Event::CommitArrives(at, number, false));
            }
            let ms = self.rng.i64(1_600..3_000);
            self.after(ms, Event::CommitAnswered(at, number, None));
        } else {
            self.after(ms, Event::CommitArrives(at, number, true));
        }
    }

    pub(crate) fn on_commit_arrives(&mut self, at: usize, number: u64, answered: bool) {
        let Some(commit) = self.processes[at].commits.get(&number).cloned() else {
            return;
        };
        let code = self.broker.check(&commit.identity);
        if code.is_ok() {
            for entry in commit.entries {
                self.store(at, entry);
            }
        }
        if answered {
            let ms = self.trip();
            self.after(ms, Event::CommitAnswered(at, number, Some(code)));
        }
    }

    /// A commit was taken: it is of the owner, goes forward, and covers handled records only.
    fn store(&mut self, at: usize, entry: Entry) {
        self.commits += 1;
        let tp = entry.tp;
        if let Some(other) = self.owners.get(&tp).copied().filter(|owner| *owner != at) {
            self.violate(format!("a commit of {at} for {tp} of {other} is taken"));
        }
        let stored = Stored {
            offset: entry.offset,
            metadata: entry.metadata,
        };
        let before = self
            .broker
            .offsets
            .get(&tp)
            .map_or(0, |before| before.offset);
        if stored.offset < before {
            self.violate(format!(
                "{at} rewinds {tp} from {before} to {}",
                stored.offset
            ));
        }
        let handled = self.handled.get(&tp);
        let is_open = |o: &Offset| {
            stored.covers(*o) && Self::exists(*o) && handled.is_none_or(|all| !all.contains(o))
        };
        let highest = self.log_end().max(stored.offset);
        if let Some(open) = (0..highest).find(is_open) {
            self.violate(format!("{at} commits {tp} {open}, which is not handled"));
        }
        self.broker.offsets.insert(tp, stored);
    }

    pub(crate) fn on_commit_answered(&mut self, at: usize, number: u64, code: Option<ErrorCode>) {
        if self.is(Mutant::SwallowsCommits) {
            return;
        }
        let Some(commit) = self.processes[at].commits.remove(&number) else {
            return;
        };
        let now = self.now;
        let member = &mut self.processes[at].member;
        let verdict = code.map(|code| member.commit_result(&commit.identity, code, now));
        self.note(|| format!("{at} commit {number}: {code:?}, {verdict:?}"));
        if verdict == Some(CommitVerdict::Rejected) {
            self.violate(format!("a commit of {at} is rejected with {code:?}"));
        }
        let good = verdict == Some(CommitVerdict::Committed);
        for entry in &commit.entries {
            let part = self.processes[at].parts.get_mut(&entry.tp);
            if let Some(part) = part.filter(|p| p.incarnation == entry.incarnation) {
                match good {
                    true => part.tracker.committed(entry.started),
                    false => part.tracker.commit_failed(),
                }
            }
        }
        if !good {
            self.processes[at].refused = Some(commit);
        }
        self.listen(at);
        self.retire(at);
    }

    /// In the end everything that the log has is handled and committed.
    pub(crate) fn check_progress(&mut self) {
        let end = self.log_end();
        for (topic, count) in self.counts.clone() {
            for partition in 0..count {
                let tp = TopicPartition::new(topic.clone(), partition);
                let stored = self.broker.offsets.get(&tp).map(|s| s.offset);
                if stored != Some(end) {
                    self.violate(format!("{tp} is committed up to {stored:?}, not {end}"));
                }
            }
        }
    }
}
