//! A partition at a position: what is known of it, and what becomes of it.
//!
//! A cursor is asked for by a caller, waits for its leader, is put into a request, has a result, and
//! when that was taken it goes on behind it by itself: so the next fetch is in flight while the caller
//! works on the last one. What must hold: a cursor is in one request at most, so that no records come
//! while its position is compared with the leader's log (C7); an error never moves it.

use super::failure::share;
use super::fetch_message::{DIVERGENCE_FROM, NAME};
use super::leaders::Leader;
use super::table::Caller;
use crate::transport::watchers::Watchers;
use crate::transport::{FetchLimits, FetchPosition, Fetched};
use crate::{Backoff, Error, ErrorKind};
use ottla_types::TopicPartition;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// How long a cursor goes on without anybody who asks for it.
const KEEP: Duration = Duration::from_secs(10);
/// Records that are a smaller part of their frame than this are copied out of it, so that those who
/// keep them do not keep the whole frame.
const SHARE_OF_FRAME: usize = 16;

/// Whether records are copied out of a frame of this size, if it is not small itself.
pub(super) fn is_copied(records: usize, frame: usize) -> bool {
    records < frame / SHARE_OF_FRAME && frame > 64 << 10
}

#[derive(Debug)]
pub(super) enum State {
    /// Its leader is not known. The second value says that the cluster has to be asked.
    Lost {
        not_before: Instant,
        refresh: bool,
    },
    /// The resolver looks for its leader.
    Resolving,
    /// To be put into the next request to this leader, or to a replica in its stead.
    Ready(Leader),
    /// In a request.
    InFlight,
    Done(Result<Fetched, Error>),
}

/// A replica that the leader has sent us to (KIP-392).
#[derive(Debug, Clone, Copy)]
struct Replica {
    broker: i32,
    until: Instant,
}

#[derive(Debug)]
pub(super) struct Cursor {
    pub(super) id: u64,
    /// By which callers know it.
    pub(super) position: FetchPosition,
    pub(super) state: State,
    pub(super) limits: FetchLimits,
    pub(super) watchers: Watchers,
    pub(super) asked: Instant,
    /// When it had its last turn: a number that grows.
    pub(super) turn: u64,
    /// When it was last put into a request, whatever came of it: a number that grows.
    pub(super) picked: u64,
    /// It was in a request whose answer could not be read, and is asked for alone.
    pub(super) is_suspect: bool,
    /// Why it is lost, for a caller whose time is over.
    pub(super) why: Option<Error>,
    /// The leader of its last request.
    leader: Option<Leader>,
    replica: Option<Replica>,
    /// An epoch in whose log everything below the position stands: that of the last batch that was
    /// read, or that of a leader which had the position.
    epoch: Option<i32>,
    /// The topic that it was found in.
    topic_id: Option<[u8; 16]>,
    /// The leader epoch at which `epoch` was last compared with the leader's log.
    checked_at: Option<i32>,
    /// The log does not have the position; whether it is the log that was read is to be found out.
    is_doubted: bool,
    /// The frame that its result keeps.
    frame_bytes: usize,
    backoff: Backoff,
}

/// What all places of a request have in common when it has ended.
#[derive(Debug, Clone, Copy)]
pub(super) struct Answered {
    /// The request was for one cursor alone.
    pub(super) was_alone: bool,
    /// The answer's size.
    pub(super) frame_bytes: usize,
}

/// When a request has ended.
#[derive(Debug, Clone, Copy)]
pub(super) struct Times {
    pub(super) turn: u64,
    pub(super) now: Instant,
    /// How long a replica is read from that the answer names.
    pub(super) replica_until: Instant,
}

/// A cursor's place in a request.
#[derive(Debug, Clone)]
pub(super) struct Picked {
    pub(super) partition: TopicPartition,
    pub(super) id: u64,
    pub(super) position: FetchPosition,
    /// What the request claims to have read last; -1 if it is not known.
    pub(super) epoch: i32,
    pub(super) leader: Leader,
    /// The request goes to a replica.
    pub(super) is_elsewhere: bool,
    pub(super) is_doubted: bool,
    pub(super) max_bytes: u32,
    pub(super) turn: u64,
    checked_at: Option<i32>,
}

impl Picked {
    /// Whether the position has to be compared with the leader's log before anything is read: a
    /// leader came since, and the version of Fetch does not do it.
    pub(super) fn wants_check(&self, version: i16) -> bool {
        let can_be_checked = self.epoch >= 0 && self.leader.epoch >= 0 && !self.is_elsewhere;
        let has_passed = version < DIVERGENCE_FROM && self.leader.epoch > self.epoch;
        can_be_checked
            && self.checked_at != Some(self.leader.epoch)
            && (self.is_doubted || has_passed)
    }
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
    /// The leader names a replica to read from.
    Elsewhere(i32),
    /// What was read stands in the leader's log.
    Checked,
    /// What was read stands in the leader's log, in which this epoch was the last below it.
    Adopted(i32),
    /// The log does not have the position.
    Doubted(Error),
}

impl Cursor {
    pub(super) fn new(
        id: u64,
        position: FetchPosition,
        limits: FetchLimits,
        caller: &Caller,
        backoff: Backoff,
        now: Instant,
    ) -> Self {
        Self {
            id,
            position,
            state: State::Lost {
                not_before: now,
                refresh: false,
            },
            limits,
            watchers: Watchers::of(caller),
            asked: now,
            turn: 0,
            picked: 0,
            is_suspect: false,
            why: None,
            leader: None,
            replica: None,
            epoch: position.leader_epoch,
            topic_id: position.topic_id,
            checked_at: None,
            is_doubted: false,
            frame_bytes: 0,
            backoff,
        }
    }

    /// Whether it is what a caller asks for; a bare offset matches whatever stands there.
    pub(super) fn is_at(&self, asked: &FetchPosition) -> bool {
        let known = &self.position;
        asked.offset == known.offset
            && (asked.leader_epoch.is_none() || asked.leader_epoch == known.leader_epoch)
            && (asked.topic_id.is_none() || asked.topic_id == known.topic_id)
    }

    /// What it holds for nobody yet: the frame that is kept for it, and its own part.
    pub(super) fn holds(&self) -> (usize, usize) {
        match &self.state {
            State::Done(Ok(fetched)) => {
                let records = fetched.records.size();
                let keeps_frame = records > 0 && !is_copied(records, self.frame_bytes);
                (if keeps_frame { self.frame_bytes } else { 0 }, records)
            }
            _ => (0, 0),
        }
    }

    /// The broker that the next request goes to.
    pub(super) fn broker(&self, now: Instant) -> Option<i32> {
        match self.state {
            State::Ready(leader) => Some(self.replica(now).unwrap_or(leader.broker)),
            _ => None,
        }
    }

    fn replica(&self, now: Instant) -> Option<i32> {
        let fresh = self.replica.filter(|replica| replica.until > now);
        fresh.map(|replica| replica.broker)
    }

    /// Puts it into a request to its leader, or to the replica.
    pub(super) fn pick(
        &mut self,
        partition: &TopicPartition,
        leader: Leader,
        now: Instant,
    ) -> Picked {
        self.state = State::InFlight;
        self.leader = Some(leader);
        Picked {
            partition: partition.clone(),
            id: self.id,
            position: self.position,
            epoch: self.epoch.unwrap_or(-1),
            leader,
            is_elsewhere: self.replica(now).is_some(),
            is_doubted: self.is_doubted,
            max_bytes: self.limits.max_partition_bytes,
            turn: self.turn,
            checked_at: self.checked_at,
        }
    }

    /// Its leader was found. The position is none in a topic of the same name that came later (C15).
    pub(super) fn follow(&mut self, partition: &TopicPartition, leader: Leader) {
        if let (Some(known), Some(found)) = (self.topic_id, leader.topic_id)
            && known != found
        {
            let error = Error::new(ErrorKind::TopicRecreated, NAME);
            let error = error.with_partition(partition.clone());
            return self.end(Err(error.with_offset(self.position.offset)));
        }
        if self.leader.is_none_or(|last| last.epoch != leader.epoch) {
            self.replica = None;
        }
        self.leader = Some(leader);
        self.state = State::Ready(leader);
    }

    /// Its leader could not be found.
    pub(super) fn fail(
        &mut self,
        partition: &TopicPartition,
        error: &Arc<Error>,
        passes: bool,
        now: Instant,
    ) {
        let error = share(error, partition);
        if passes {
            self.why = Some(error);
            self.state = State::Lost {
                not_before: now + self.backoff.next_delay(),
                refresh: true,
            };
        } else {
            self.end(Err(error.with_offset(self.position.offset)));
        }
    }

    fn end(&mut self, result: Result<Fetched, Error>) {
        self.state = State::Done(result);
        self.watchers.wake();
    }

    /// Goes on behind what was taken.
    pub(super) fn advance(&mut self, fetched: &Fetched, now: Instant) {
        self.position = fetched.next_position();
        self.epoch = fetched.leader_epoch.or(self.epoch);
        self.topic_id = fetched.topic_id.or(self.topic_id);
        self.state = match self.leader {
            Some(leader) => State::Ready(leader),
            None => State::Lost {
                not_before: now,
                refresh: false,
            },
        };
    }

    /// Takes what came of its place in a request.
    pub(super) fn settle(
        &mut self,
        picked: &Picked,
        outcome: Outcome,
        of: &Answered,
        times: Times,
    ) {
        let (leader, now) = (picked.leader, times.now);
        if matches!(outcome, Outcome::Done(_) | Outcome::Nothing) {
            self.backoff.reset();
            self.why = None;
            self.is_suspect = false;
            self.is_doubted = false;
        }
        self.state = State::Ready(leader);
        match outcome {
            Outcome::Done(result) => {
                self.turn = times.turn;
                self.frame_bytes = of.frame_bytes;
                self.end(result);
            }
            Outcome::Nothing if !picked.is_elsewhere => {
                // The leader has the position: from now on it is a position in this log.
                self.topic_id = self.topic_id.or(leader.topic_id);
                self.epoch = self.epoch.or((leader.epoch >= 0).then_some(leader.epoch));
            }
            Outcome::Nothing | Outcome::Again => {}
            Outcome::Unreadable(error) if of.was_alone => self.end(Err(error)),
            Outcome::Unreadable(_) => self.is_suspect = true,
            Outcome::Moved => self.lose(now, false),
            Outcome::Lost { why, refresh } => {
                self.why = Some(why);
                let delay = self.backoff.next_delay();
                self.lose(now + delay, refresh);
            }
            Outcome::Elsewhere(broker) => {
                let until = times.replica_until;
                self.replica = (broker != leader.broker).then_some(Replica { broker, until });
            }
            Outcome::Checked => self.checked_at = Some(leader.epoch),
            Outcome::Adopted(epoch) => {
                self.checked_at = Some(leader.epoch);
                self.epoch = Some(epoch);
            }
            Outcome::Doubted(why) => {
                self.is_doubted = true;
                self.checked_at = None;
                self.why = Some(why);
                self.lose(now, true);
            }
        }
    }

    /// Its leader is to be looked for, and no replica is read from any more.
    fn lose(&mut self, not_before: Instant, refresh: bool) {
        self.replica = None;
        self.state = State::Lost {
            not_before,
            refresh,
        };
    }

    /// Whether somebody may still want it.
    pub(super) fn is_wanted(&self, now: Instant) -> bool {
        let keep = KEEP.max(self.limits.max_wait * 2);
        self.watchers.any() || now.saturating_duration_since(self.asked) < keep
    }
}
