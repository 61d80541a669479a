//! Which queues are to be looked at, and when: so that a step costs as much as there is to do, however
//! many partitions hold something.
//!
//! What must hold: a queue that can send, or holds something that expires, is due or has a timer not
//! later than that. Timers may come early: then the queue is looked at in vain.

use super::queue::Queue;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::time::Instant;

#[derive(Debug, Default)]
pub(super) struct Schedule {
    /// To be looked at now, in the order in which they may send.
    due: VecDeque<usize>,
    /// Those that do not agree with their queue's own timer are void.
    timers: BinaryHeap<Reverse<(Instant, usize)>>,
    /// When the sender looks again, because it knows or is told.
    planned: Option<Instant>,
    /// When it looks again by itself.
    known: Option<Instant>,
}

impl Schedule {
    /// The queue is to be looked at.
    pub(super) fn touch(&mut self, queue: &mut Queue, at: usize) {
        if !queue.is_due {
            queue.is_due = true;
            self.due.push_back(at);
        }
    }

    /// The queue is to be looked at before all others.
    pub(super) fn touch_first(&mut self, queue: &mut Queue, at: usize) {
        queue.is_due = true;
        self.due.push_front(at);
    }

    /// The queue is to be looked at at this time. Returns whether the sender does not know that yet.
    pub(super) fn set_timer(&mut self, queue: &mut Queue, at: usize, when: Instant) -> bool {
        if queue.timer.is_some_and(|timer| timer <= when) {
            return false;
        }
        queue.timer = Some(when);
        self.timers.push(Reverse((when, at)));
        let is_news = self.planned.is_none_or(|planned| when < planned);
        if is_news {
            self.planned = Some(when);
        }
        is_news
    }

    /// Makes the queues due whose timers have passed.
    pub(super) fn advance(&mut self, queues: &mut [Queue], now: Instant) {
        while let Some(Reverse((when, at))) = self.timers.peek().copied()
            && when <= now
        {
            self.timers.pop();
            let queue = &mut queues[at];
            if queue.timer == Some(when) {
                queue.timer = None;
                self.touch(queue, at);
            }
        }
    }

    /// How many are due.
    pub(super) fn len(&self) -> usize {
        self.due.len()
    }

    /// The next that is due.
    pub(super) fn pop(&mut self, queues: &mut [Queue]) -> Option<usize> {
        let at = self.due.pop_front()?;
        queues[at].is_due = false;
        Some(at)
    }

    /// When the next timer passes.
    pub(super) fn next(&mut self, queues: &[Queue]) -> Option<Instant> {
        while let Some(Reverse((when, at))) = self.timers.peek() {
            if queues[*at].timer == Some(*when) {
                return Some(*when);
            }
            self.timers.pop();
        }
        None
    }

    /// The sender looks again at this time.
    pub(super) fn plan(&mut self, when: Option<Instant>) {
        self.planned = when;
        self.known = when;
    }

    /// Whether the sender need not be told of anything: nothing is due, and no timer passes before it
    /// looks again by itself.
    pub(super) fn is_quiet(&mut self, queues: &[Queue]) -> bool {
        let next = self.next(queues);
        let in_time = match (next, self.known) {
            (Some(next), Some(known)) => known <= next,
            (Some(_), None) => false,
            (None, _) => true,
        };
        let is_quiet = self.due.is_empty() && in_time;
        if is_quiet {
            self.planned = self.known;
        }
        is_quiet
    }
}
