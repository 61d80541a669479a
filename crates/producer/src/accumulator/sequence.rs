//! The sequences of one partition (KIP-98, KIP-360): which numbers its batches have, which of them
//! may be sent now, and what a failure of one means for the others. Pure; it knows batches by their
//! first number alone.
//!
//! A number is assigned when a batch is sent for the first time and stays with it for every resend.
//! States:
//! - *steady*: batches are sent as they come, several at a time;
//! - *mending*: an attempt failed, or a batch was given up whose numbers the broker may have seen.
//!   When nothing is in flight any more, what was assigned is sent again, in order and one at a time,
//!   and nothing new before that: a leader that does not know the producer would take any number;
//! - *broken*: the numbers lead nowhere: the broker waits for one that will not come. What is left
//!   is numbered anew, under a new epoch or id, when nothing is in flight any more.
//!
//! What must hold: the batches of one id and epoch are numbered without a gap from 0, in the order
//! in which they are sent first; a number that the broker may have seen is never given to another
//! batch; a batch that may be written is never numbered anew, unless the broker has said that it is
//! not there.

use ottla_types::{Fate, ProducerId};
use std::collections::VecDeque;

/// The sequences of one partition.
#[derive(Debug, Default)]
pub(super) struct Sequences {
    /// Whose numbers these are; `None` before the first, and without idempotence.
    producer: Option<ProducerId>,
    /// The number of the next new batch.
    next: i32,
    /// The number that follows the highest acknowledged one.
    acknowledged: i32,
    /// Whether a batch was acknowledged under this id and epoch.
    is_known: bool,
    /// Assigned and neither acknowledged nor given up, in order.
    pending: VecDeque<Pending>,
    in_flight: usize,
    state: State,
}

#[derive(Debug)]
struct Pending {
    base: i32,
    count: u32,
    is_in_flight: bool,
    /// A batch behind it was acknowledged.
    is_overtaken: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum State {
    #[default]
    Steady,
    Mending,
    Broken {
        /// The broker has said that what is pending is not in its log.
        absent: bool,
    },
}

/// What may be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// A batch that has no number yet.
    New,
    /// The oldest of those that have one.
    Again,
    /// Nothing until an answer has come.
    Wait,
    /// Nothing until [`Sequences::restart`].
    Restart,
}

/// What a broker's word on a sequence means for its batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// To be sent again, as it is.
    Again,
    /// Not written; to be numbered anew.
    Renumber,
    /// It cannot be written any more without standing behind its successors.
    GiveUp,
}

/// The number that is `count` behind `base`; the one after `i32::MAX` is 0.
pub(super) fn after(base: i32, count: u32) -> i32 {
    ((base as u32).wrapping_add(count) & i32::MAX as u32) as i32
}

impl Sequences {
    /// What may be sent now by the producer that is current, if there is one, with up to `most`
    /// batches in flight.
    pub(super) fn turn(&self, current: Option<ProducerId>, most: usize) -> Turn {
        let is_stale = self.producer != current;
        match self.state {
            State::Steady if is_stale && self.pending.is_empty() => Turn::Restart,
            // They were numbered for another epoch: first they have to come back.
            State::Steady if is_stale => Turn::Wait,
            State::Steady => {
                // A broker that does not know the producer takes any number.
                let most = if self.producer.is_some() && !self.is_known {
                    1
                } else {
                    most
                };
                if self.in_flight < most {
                    Turn::New
                } else {
                    Turn::Wait
                }
            }
            State::Mending | State::Broken { .. } if self.in_flight > 0 => Turn::Wait,
            State::Mending => Turn::Again,
            State::Broken { .. } => Turn::Restart,
        }
    }

    /// Whether the numbers lead nowhere under the current id and epoch.
    pub(super) fn is_broken(&self) -> bool {
        matches!(self.state, State::Broken { .. })
    }

    /// Whether the broker has said that what is pending is not in its log.
    pub(super) fn is_absent(&self) -> bool {
        self.state == State::Broken { absent: true }
    }

    /// Whose numbers these are.
    pub(super) fn producer(&self) -> Option<ProducerId> {
        self.producer
    }

    /// Numbers everything anew from 0. Nothing may be in flight.
    pub(super) fn restart(&mut self, producer: Option<ProducerId>) {
        debug_assert_eq!(self.in_flight, 0);
        *self = Self {
            producer,
            ..Self::default()
        };
    }

    /// Gives a batch its number; it is in flight from now on.
    pub(super) fn assign(&mut self, count: u32) -> i32 {
        let base = self.next;
        self.next = after(base, count);
        self.in_flight += 1;
        self.pending.push_back(Pending {
            base,
            count,
            is_in_flight: true,
            is_overtaken: false,
        });
        base
    }

    /// A batch that has its number is in flight again.
    pub(super) fn resend(&mut self, base: i32) {
        if let Some(pending) = self.find(base) {
            pending.is_in_flight = true;
            self.in_flight += 1;
        }
    }

    /// The batch was acknowledged.
    pub(super) fn written(&mut self, base: i32) {
        let Some((at, pending)) = self.take(base) else {
            return;
        };
        self.is_known = true;
        for earlier in self.pending.iter_mut().take(at) {
            earlier.is_overtaken = true;
        }
        // Those behind it may be acknowledged already.
        if !pending.is_overtaken {
            self.acknowledged = after(base, pending.count);
        }
        self.settle();
    }

    /// The attempt failed in a way that says nothing about the numbers, and is repeated.
    pub(super) fn failed(&mut self, base: i32) {
        self.back(base);
        if self.state == State::Steady {
            self.state = State::Mending;
        }
    }

    /// The broker has refused the number (codes 45 and 59).
    pub(super) fn refused(&mut self, base: i32) -> Verdict {
        self.back(base);
        let place = self.pending.iter().position(|p| p.base == base);
        match place.and_then(|at| self.pending.get(at).map(|p| (at, p.is_overtaken))) {
            // It came before its predecessor.
            Some((1.., _)) => {
                if self.state == State::Steady {
                    self.state = State::Mending;
                }
                Verdict::Again
            }
            Some((0, false)) => {
                self.state = State::Broken { absent: true };
                Verdict::Renumber
            }
            _ => Verdict::GiveUp,
        }
    }

    /// The broker knows a later epoch, or another id: nothing is taken under this one any more.
    pub(super) fn fenced(&mut self, base: i32) {
        self.back(base);
        if !self.is_broken() {
            self.state = State::Broken { absent: false };
        }
    }

    /// The batch is given up.
    pub(super) fn given_up(&mut self, base: i32, fate: Fate) {
        let Some((at, _)) = self.take(base) else {
            return;
        };
        if fate == Fate::NotWritten && at == self.pending.len() {
            // Nobody has seen the number, and nobody stands behind it.
            self.next = base;
        } else if self.state == State::Steady {
            self.state = State::Mending;
        }
        self.settle();
    }

    /// The batch is cut in two, of which the first has `count` records. Neither is in flight.
    pub(super) fn split(&mut self, base: i32, count: u32) -> Option<i32> {
        self.failed(base);
        let at = self.pending.iter().position(|p| p.base == base)?;
        let left = self.pending.get_mut(at)?;
        let right = Pending {
            base: after(base, count),
            count: left.count.checked_sub(count)?,
            is_in_flight: false,
            is_overtaken: left.is_overtaken,
        };
        left.count = count;
        let base = right.base;
        self.pending.insert(at + 1, right);
        Some(base)
    }

    /// Ends the mending when nothing is left to be sent again.
    fn settle(&mut self) {
        if self.state == State::Mending && self.pending.is_empty() {
            self.state = if self.acknowledged == self.next {
                State::Steady
            } else {
                State::Broken { absent: false }
            };
        }
    }

    fn find(&mut self, base: i32) -> Option<&mut Pending> {
        self.pending.iter_mut().find(|p| p.base == base)
    }

    fn back(&mut self, base: i32) {
        if let Some(pending) = self.find(base)
            && pending.is_in_flight
        {
            pending.is_in_flight = false;
            self.in_flight -= 1;
        }
    }

    fn take(&mut self, base: i32) -> Option<(usize, Pending)> {
        self.back(base);
        let at = self.pending.iter().position(|p| p.base == base)?;
        self.pending.remove(at).map(|pending| (at, pending))
    }
}
