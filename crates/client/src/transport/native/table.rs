//! What callers want to read and what was read ahead for them: the cursors of all partitions.
//!
//! What must hold: a request holds a partition at most once, and what is read ahead for nobody is
//! bounded in bytes and forgotten after a while.

use super::cursor::{Answered, Cursor, Outcome, Picked, State, Times};
use super::fetch_message::NAME;
use super::leaders::Leader;
use crate::transport::{FetchLimits, FetchPosition, Fetched};
use crate::{Backoff, Error, ErrorKind};
use ottla_types::TopicPartition;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

/// Cursors of one partition that nobody waits for; the oldest one goes first.
const MAX_UNWATCHED: usize = 8;

/// The source of an error of what nobody looks after any more.
#[derive(Debug, thiserror::Error)]
#[error("the task that read the answer panicked")]
struct Panicked;

/// A caller that waits; dropped with its call.
pub(super) type Caller = Arc<Notify>;

pub(super) type Answers = Vec<(TopicPartition, Result<Fetched, Error>)>;

/// What a request is made of.
#[derive(Debug)]
pub(super) struct Job {
    /// No other request has it.
    pub(super) number: u64,
    /// Ordered by partition.
    pub(super) cursors: Vec<Picked>,
    pub(super) max_wait: Duration,
    pub(super) min_bytes: u32,
    pub(super) max_bytes: u32,
}

impl Job {
    /// The cursors as the request names them, topic by topic: those that had nothing for longest come
    /// first, because brokers fill their answer from the front.
    pub(super) fn in_turn(&self) -> Vec<&Picked> {
        let mut topics: Vec<Vec<&Picked>> = self
            .cursors
            .chunk_by(|a, b| a.partition.topic == b.partition.topic)
            .map(|of_topic| of_topic.iter().collect())
            .collect();
        for of_topic in &mut topics {
            of_topic.sort_by_key(|picked| picked.turn);
        }
        topics.sort_by_key(|of_topic| of_topic.first().map(|picked| picked.turn));
        topics.concat()
    }
}

/// Whether all lost cursors got their leader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Placed {
    All,
    Some,
}

#[derive(Debug)]
pub(super) struct Table {
    next_id: u64,
    turns: u64,
    pub(super) cursors: HashMap<TopicPartition, Vec<Cursor>>,
    backoff: Backoff,
    /// How long a replica is read from before the leader is asked again.
    replica_age: Duration,
}

impl Table {
    pub(super) fn new(backoff: Backoff, replica_age: Duration) -> Self {
        Self {
            next_id: 0,
            turns: 0,
            cursors: HashMap::new(),
            backoff,
            replica_age,
        }
    }

    /// Takes what is there for a caller, and sees to it that a cursor stands at each position that
    /// has nothing yet; `true` with it if there are new ones, which have no leader.
    pub(super) fn collect(
        &mut self,
        wanted: &[(TopicPartition, FetchPosition)],
        limits: FetchLimits,
        caller: &Caller,
        now: Instant,
    ) -> (Answers, bool) {
        let (mut answers, mut has_new) = (Vec::new(), false);
        for (partition, position) in wanted {
            if !self.cursors.contains_key(partition) {
                self.cursors
                    .insert(partition.clone(), Vec::with_capacity(1));
            }
            let Some(cursors) = self.cursors.get_mut(partition) else {
                continue;
            };
            let Some(at) = cursors.iter().position(|c| c.is_at(position)) else {
                make_room(cursors);
                let (id, backoff) = (self.next_id, self.backoff.clone());
                cursors.push(Cursor::new(id, *position, limits, caller, backoff, now));
                self.next_id += 1;
                has_new = true;
                continue;
            };
            let cursor = &mut cursors[at];
            (cursor.limits, cursor.asked) = (limits, now);
            let between = State::Lost {
                not_before: now,
                refresh: false,
            };
            match std::mem::replace(&mut cursor.state, between) {
                State::Done(result) => {
                    // Another caller at the same position has to ask anew.
                    cursor.watchers.wake();
                    match &result {
                        Ok(fetched) => cursor.advance(fetched, now),
                        Err(_) => drop(cursors.swap_remove(at)),
                    }
                    answers.push((partition.clone(), result));
                }
                other => {
                    cursor.state = other;
                    cursor.watchers.add(caller);
                }
            }
        }
        (answers, has_new)
    }

    /// Gives lost cursors the leader that `known` names, where the cluster has not to be asked.
    pub(super) fn place(
        &mut self,
        known: impl Fn(&TopicPartition) -> Option<Leader>,
        now: Instant,
    ) -> Placed {
        let mut placed = Placed::All;
        for (partition, cursors) in &mut self.cursors {
            for cursor in cursors {
                let State::Lost {
                    not_before,
                    refresh,
                } = cursor.state
                else {
                    continue;
                };
                match known(partition) {
                    Some(leader) if !refresh && not_before <= now => {
                        cursor.follow(partition, leader);
                    }
                    _ => placed = Placed::Some,
                }
            }
        }
        placed
    }

    /// Why there is nothing for a caller whose time is over.
    pub(super) fn reasons(&mut self, wanted: &[(TopicPartition, FetchPosition)]) -> Answers {
        let mut reasons = Vec::new();
        for (partition, position) in wanted {
            let cursors = self.cursors.get_mut(partition);
            let cursor = cursors.and_then(|list| list.iter_mut().find(|c| c.is_at(position)));
            if let Some(why) = cursor.and_then(|cursor| cursor.why.take()) {
                reasons.push((partition.clone(), Err(why.with_offset(position.offset))));
            }
        }
        reasons
    }

    /// The next request to the broker; `None` if there is nothing to ask it for. A caller that waits
    /// gets its records even if there is no room for what is read ahead.
    ///
    /// `in_use` is what the answers take that anybody still reads. With as much again in the callers'
    /// hands as may wait here, nothing is read in advance: they have enough to do.
    pub(super) fn pick(&mut self, broker: i32, now: Instant, in_use: usize) -> Option<Job> {
        self.forget(now);
        let ahead = self.held().max(in_use / 2);
        let left =
            |cursor: &Cursor| (cursor.limits.read_ahead_bytes as usize).saturating_sub(ahead);
        let may_read_ahead = |cursor: &Cursor| left(cursor) > 0;
        let mut ready: Vec<(&TopicPartition, &mut Cursor, Leader)> = Vec::new();
        for (partition, cursors) in &mut self.cursors {
            // At most one of a partition: of those that somebody waits for, or else of the others,
            // the one that waited longest.
            let of_broker = cursors.iter_mut().filter_map(|cursor| match cursor.state {
                State::Ready(leader) if cursor.broker(now) == Some(broker) => {
                    Some((cursor, leader))
                }
                _ => None,
            });
            let first = of_broker
                .filter(|(cursor, _)| cursor.watchers.any() || may_read_ahead(cursor))
                .min_by_key(|(cursor, _)| (!cursor.watchers.any(), cursor.picked));
            if let Some((cursor, leader)) = first {
                ready.push((partition, cursor, leader));
            }
        }
        ready.sort_unstable_by_key(|(partition, _, _)| *partition);
        if let Some(alone) = ready.iter().position(|(_, cursor, _)| cursor.is_suspect) {
            ready.swap(0, alone);
            ready.truncate(1);
        }
        let limits = || ready.iter().map(|(_, cursor, _)| cursor.limits);
        let max_bytes = ready.iter().map(|(_, cursor, _)| {
            let bytes = cursor.limits.max_bytes;
            if cursor.watchers.any() {
                bytes
            } else {
                bytes.min(u32::try_from(left(cursor)).unwrap_or(u32::MAX))
            }
        });
        let max_bytes = max_bytes.max()?;
        let job = Job {
            number: self.turns + 1,
            max_wait: limits().map(|limits| limits.max_wait).min()?,
            min_bytes: limits()
                .map(|limits| limits.min_bytes)
                .min()?
                .min(max_bytes),
            max_bytes,
            cursors: Vec::new(),
        };
        self.turns += 1;
        let cursors = ready.into_iter();
        let cursors = cursors.map(|(partition, cursor, leader)| {
            cursor.picked = self.turns;
            cursor.pick(partition, leader, now)
        });
        Some(Job {
            cursors: cursors.collect(),
            ..job
        })
    }

    /// Takes what came of a cursor's place in a request; `true` if somebody waits for it.
    pub(super) fn settle(
        &mut self,
        picked: &Picked,
        outcome: Outcome,
        of: &Answered,
        now: Instant,
    ) -> bool {
        let cursors = self.cursors.get_mut(&picked.partition);
        let cursor = cursors.and_then(|list| list.iter_mut().find(|c| c.id == picked.id));
        // It was forgotten meanwhile.
        let Some(cursor) = cursor else { return false };
        let is_watched = cursor.watchers.any();
        let times = Times {
            turn: self.turns,
            now,
            replica_until: now + self.replica_age,
        };
        cursor.settle(picked, outcome, of, times);
        is_watched
    }

    /// The task that had the request is gone before all of its cursors were settled: the others are asked
    /// for alone, and one that was alone has an error.
    pub(super) fn give_up(&mut self, job: &Job, now: Instant) {
        let of = Answered {
            was_alone: job.cursors.len() == 1,
            frame_bytes: 0,
        };
        for picked in &job.cursors {
            let cursors = self.cursors.get(&picked.partition).into_iter().flatten();
            let is_held = |cursor: &Cursor| {
                let is_in_flight = matches!(cursor.state, State::InFlight);
                cursor.id == picked.id && cursor.picked == job.number && is_in_flight
            };
            if cursors.into_iter().any(is_held) {
                let error = Error::new(ErrorKind::Protocol, NAME)
                    .with_partition(picked.partition.clone())
                    .with_offset(picked.position.offset)
                    .with_source(Panicked);
                self.settle(picked, Outcome::Unreadable(error), &of, now);
            }
        }
    }

    /// The task that looked for leaders is gone: they are looked for again, after a while.
    pub(super) fn forget_resolving(&mut self, now: Instant) {
        let gone = Arc::new(Error::new(ErrorKind::Protocol, NAME).with_source(Panicked));
        for (partition, cursors) in &mut self.cursors {
            for cursor in cursors {
                if matches!(cursor.state, State::Resolving) {
                    cursor.fail(partition, &gone, true, now);
                }
            }
        }
    }

    /// What waits here for callers: the whole frames, of which one partition's records may be a small
    /// part.
    fn held(&self) -> usize {
        let mut of_requests: HashMap<u64, (usize, usize)> = HashMap::new();
        for cursor in self.cursors.values().flatten() {
            let (frame, records) = cursor.holds();
            let held = of_requests.entry(cursor.picked).or_default();
            *held = (held.0.max(frame), held.1 + records);
        }
        of_requests
            .values()
            .map(|(frame, records)| (*frame).max(*records))
            .sum()
    }

    /// The lost cursors whose leader is to be looked for now, which are then resolving, and when the
    /// next one is due.
    pub(super) fn due(&mut self, now: Instant) -> (Vec<(TopicPartition, bool)>, Option<Instant>) {
        self.forget(now);
        let (mut due, mut next) = (Vec::new(), None);
        for (partition, cursors) in &mut self.cursors {
            let mut of_partition = None;
            for cursor in cursors {
                let State::Lost {
                    not_before,
                    refresh,
                } = cursor.state
                else {
                    continue;
                };
                if not_before <= now {
                    cursor.state = State::Resolving;
                    of_partition = Some(of_partition.unwrap_or(false) || refresh);
                } else {
                    next = Some(next.map_or(not_before, |next: Instant| next.min(not_before)));
                }
            }
            if let Some(refresh) = of_partition {
                due.push((partition.clone(), refresh));
            }
        }
        (due, next)
    }

    /// Takes what the resolver found for a partition: its leader, or an error and whether it passes.
    pub(super) fn resolved(
        &mut self,
        partition: &TopicPartition,
        found: &Result<Leader, (Arc<Error>, bool)>,
        now: Instant,
    ) {
        let cursors = self.cursors.get_mut(partition).into_iter().flatten();
        for cursor in cursors.filter(|cursor| matches!(cursor.state, State::Resolving)) {
            match found {
                Ok(leader) => cursor.follow(partition, *leader),
                Err((error, passes)) => cursor.fail(partition, error, *passes, now),
            }
        }
    }

    /// The brokers that can be asked for something.
    pub(super) fn ready_brokers(&self, now: Instant) -> Vec<i32> {
        let cursors = self.cursors.values().flatten();
        let mut brokers: Vec<_> = cursors.filter_map(|cursor| cursor.broker(now)).collect();
        brokers.sort_unstable();
        brokers.dedup();
        brokers
    }

    fn forget(&mut self, now: Instant) {
        self.cursors.retain(|_, cursors| {
            cursors.retain(|cursor| cursor.is_wanted(now));
            !cursors.is_empty()
        });
    }
}

fn make_room(cursors: &mut Vec<Cursor>) {
    let unwatched = cursors
        .iter()
        .filter(|cursor| !cursor.watchers.any())
        .count();
    if unwatched >= MAX_UNWATCHED
        && let Some(oldest) = cursors
            .iter()
            .enumerate()
            .filter(|(_, cursor)| !cursor.watchers.any())
            .min_by_key(|(_, cursor)| cursor.asked)
            .map(|(at, _)| at)
    {
        cursors.swap_remove(oldest);
    }
}

/// The error of a call on a transport that was closed.
pub(super) fn closed(partition: &TopicPartition) -> Error {
    Error::new(ErrorKind::Closed, NAME).with_partition(partition.clone())
}
