//! What callers want to read and what was read ahead for them.
//!
//! A [`Cursor`] is a partition at a position. It is asked for by a caller, waits for its leader, is
//! put into a request, has a result, and when that was taken it goes on behind it by itself: so the
//! next fetch is in flight while the caller works on the last one. What must hold: a cursor is in one
//! request at most, a request holds a partition at most once, and what is read ahead for nobody is
//! bounded in bytes and forgotten after [`KEEP`].

use super::failure::share;
use super::fetch_message::NAME;
use super::leaders::Leader;
use crate::transport::watchers::Watchers;
use crate::transport::{FetchLimits, Fetched};
use crate::{Backoff, Error};
use ottla_types::{Offset, TopicPartition};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

/// How long a cursor goes on without anybody who asks for it.
const KEEP: Duration = Duration::from_secs(10);
/// Cursors of one partition that nobody waits for; the oldest one goes first.
const MAX_UNWATCHED: usize = 8;
/// What is read ahead, over all partitions. A caller that waits gets its records all the same.
const AHEAD_BYTES_MAX: usize = 16 << 20;

/// A caller that waits; dropped with its call.
pub(super) type Caller = Arc<Notify>;

pub(super) type Answers = Vec<(TopicPartition, Result<Fetched, Error>)>;

#[derive(Debug)]
pub(super) enum State {
    /// Its leader is not known. The second value says that the cluster has to be asked.
    Lost {
        not_before: Instant,
        refresh: bool,
    },
    /// The resolver looks for its leader.
    Resolving,
    /// To be put into the next request to this leader.
    Ready(Leader),
    /// In a request.
    InFlight,
    Done(Result<Fetched, Error>),
}

#[derive(Debug)]
pub(super) struct Cursor {
    pub(super) id: u64,
    pub(super) position: Offset,
    pub(super) state: State,
    limits: FetchLimits,
    watchers: Watchers,
    asked: Instant,
    /// The leader of its last request.
    leader: Option<Leader>,
    /// When it had its last turn: a number that grows.
    turn: u64,
    /// When it was last put into a request, whatever came of it: a number that grows.
    picked: u64,
    /// It was in a request whose answer could not be read, and is asked for alone.
    is_suspect: bool,
    backoff: Backoff,
    /// Why it is lost, for a caller whose time is over.
    why: Option<Error>,
}

impl Cursor {
    fn bytes(&self) -> usize {
        match &self.state {
            State::Done(Ok(fetched)) => fetched.records.size(),
            _ => 0,
        }
    }
}

/// A cursor's place in a request.
#[derive(Debug, Clone)]
pub(super) struct Picked {
    pub(super) partition: TopicPartition,
    pub(super) id: u64,
    pub(super) position: Offset,
    pub(super) leader: Leader,
    pub(super) max_bytes: u32,
    turn: u64,
}

/// What a request is made of.
#[derive(Debug)]
pub(super) struct Job {
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

/// What came of a cursor's place in a request.
#[derive(Debug)]
pub(super) enum Outcome {
    /// Records, or at least a later position; or an error for the caller.
    Done(Result<Fetched, Error>),
    /// Nothing new.
    Nothing,
    /// The request has to be made again, though nothing is wrong with the cursor.
    Again,
    /// The answer could not be read. If the cursor was alone in the request it gets the error.
    Unreadable(Error),
    /// An error that passes, and with `refresh` a leader to be looked for.
    Lost { why: Error, refresh: bool },
    /// Another leader, told by the broker.
    Moved,
}

#[derive(Debug)]
pub(super) struct Table {
    next_id: u64,
    turns: u64,
    pub(super) cursors: HashMap<TopicPartition, Vec<Cursor>>,
    backoff: Backoff,
}

impl Table {
    pub(super) fn new(backoff: Backoff) -> Self {
        Self {
            next_id: 0,
            turns: 0,
            cursors: HashMap::new(),
            backoff,
        }
    }

    /// Takes what is there for a caller, and sees to it that a cursor stands at each position that
    /// has nothing yet; `true` with it if there are new ones, which have no leader.
    pub(super) fn collect(
        &mut self,
        wanted: &[(TopicPartition, Offset)],
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
            let at = cursors.iter().position(|c| c.position == *position);
            let Some(at) = at else {
                make_room(cursors);
                cursors.push(Cursor {
                    id: self.next_id,
                    position: *position,
                    state: State::Lost {
                        not_before: now,
                        refresh: false,
                    },
                    limits,
                    watchers: Watchers::of(caller),
                    asked: now,
                    leader: None,
                    turn: 0,
                    picked: 0,
                    is_suspect: false,
                    backoff: self.backoff.clone(),
                    why: None,
                });
                self.next_id += 1;
                has_new = true;
                continue;
            };
            let cursor = &mut cursors[at];
            (cursor.limits, cursor.asked) = (limits, now);
            match std::mem::replace(&mut cursor.state, State::InFlight) {
                State::Done(result) => {
                    // Another caller at the same position has to ask anew.
                    cursor.watchers.wake();
                    match &result {
                        Ok(fetched) => {
                            cursor.position = fetched.next_offset;
                            cursor.state = after(cursor.leader, now);
                        }
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
                        cursor.state = State::Ready(leader);
                    }
                    _ => placed = Placed::Some,
                }
            }
        }
        placed
    }

    /// Why there is nothing for a caller whose time is over.
    pub(super) fn reasons(&mut self, wanted: &[(TopicPartition, Offset)]) -> Answers {
        let mut reasons = Vec::new();
        for (partition, position) in wanted {
            let cursors = self.cursors.get_mut(partition);
            let cursor = cursors.and_then(|list| list.iter_mut().find(|c| c.position == *position));
            if let Some(why) = cursor.and_then(|cursor| cursor.why.take()) {
                reasons.push((partition.clone(), Err(why.with_offset(*position))));
            }
        }
        reasons
    }

    /// The next request to the broker; `None` if there is nothing to ask it for.
    pub(super) fn pick(&mut self, broker: i32, now: Instant) -> Option<Job> {
        self.forget(now);
        let ahead: usize = self.cursors.values().flatten().map(Cursor::bytes).sum();
        let may_read_ahead = ahead < AHEAD_BYTES_MAX;
        let mut ready: Vec<(&TopicPartition, &mut Cursor, Leader)> = Vec::new();
        for (partition, cursors) in &mut self.cursors {
            // At most one of a partition: of those that somebody waits for, or else of the others,
            // the one that waited longest.
            let of_broker = cursors.iter_mut().filter_map(|cursor| match cursor.state {
                State::Ready(leader) if leader.broker == broker => Some((cursor, leader)),
                _ => None,
            });
            let first = of_broker
                .filter(|(cursor, _)| may_read_ahead || cursor.watchers.any())
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
        let job = Job {
            max_wait: limits().map(|limits| limits.max_wait).min()?,
            min_bytes: limits().map(|limits| limits.min_bytes).min()?,
            max_bytes: limits().map(|limits| limits.max_bytes).max()?,
            cursors: Vec::new(),
        };
        self.turns += 1;
        let cursors = ready.into_iter().map(|(partition, cursor, leader)| {
            cursor.state = State::InFlight;
            cursor.leader = Some(leader);
            cursor.picked = self.turns;
            Picked {
                partition: partition.clone(),
                id: cursor.id,
                position: cursor.position,
                leader,
                max_bytes: cursor.limits.max_partition_bytes,
                turn: cursor.turn,
            }
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
        was_alone: bool,
        outcome: Outcome,
        now: Instant,
    ) -> bool {
        let turn = self.turns;
        let cursors = self.cursors.get_mut(&picked.partition);
        let cursor = cursors.and_then(|list| list.iter_mut().find(|c| c.id == picked.id));
        // It was forgotten meanwhile.
        let Some(cursor) = cursor else { return false };
        let lost = |not_before, refresh| State::Lost {
            not_before,
            refresh,
        };
        if !matches!(outcome, Outcome::Lost { .. }) {
            cursor.backoff.reset();
            cursor.why = None;
        }
        cursor.state = match outcome {
            Outcome::Done(result) => {
                cursor.turn = turn;
                cursor.is_suspect = false;
                State::Done(result)
            }
            Outcome::Nothing => {
                cursor.is_suspect = false;
                State::Ready(picked.leader)
            }
            Outcome::Again => State::Ready(picked.leader),
            Outcome::Unreadable(error) if was_alone => State::Done(Err(error)),
            Outcome::Unreadable(_) => {
                cursor.is_suspect = true;
                State::Ready(picked.leader)
            }
            Outcome::Moved => lost(now, false),
            Outcome::Lost { why, refresh } => {
                cursor.why = Some(why);
                lost(now + cursor.backoff.next_delay(), refresh)
            }
        };
        let is_watched = cursor.watchers.any();
        if matches!(cursor.state, State::Done(_)) {
            cursor.watchers.wake();
        }
        is_watched
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
            cursor.state = match found {
                Ok(leader) => State::Ready(*leader),
                Err((error, true)) => {
                    cursor.why = Some(share(error, partition));
                    State::Lost {
                        not_before: now + cursor.backoff.next_delay(),
                        refresh: true,
                    }
                }
                Err((error, false)) => {
                    let error = share(error, partition).with_offset(cursor.position);
                    State::Done(Err(error))
                }
            };
            if matches!(cursor.state, State::Done(_)) {
                cursor.watchers.wake();
            }
        }
    }

    /// The brokers that can be asked for something.
    pub(super) fn ready_brokers(&self) -> Vec<i32> {
        let leaders = self
            .cursors
            .values()
            .flatten()
            .filter_map(|c| match c.state {
                State::Ready(leader) => Some(leader.broker),
                _ => None,
            });
        let mut brokers: Vec<_> = leaders.collect();
        brokers.sort_unstable();
        brokers.dedup();
        brokers
    }

    fn forget(&mut self, now: Instant) {
        self.cursors.retain(|_, cursors| {
            cursors.retain(|cursor| {
                let keep = KEEP.max(cursor.limits.max_wait * 2);
                cursor.watchers.any() || now.saturating_duration_since(cursor.asked) < keep
            });
            !cursors.is_empty()
        });
    }
}

fn after(leader: Option<Leader>, now: Instant) -> State {
    match leader {
        Some(leader) => State::Ready(leader),
        None => State::Lost {
            not_before: now,
            refresh: false,
        },
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
    Error::new(crate::ErrorKind::Closed, NAME).with_partition(partition.clone())
}
