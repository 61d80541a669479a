//! Several calls for one partition: records of different keys at the same time, those of one key one
//! after the other in the order of the log.
//!
//! The lane looks at a window of records. One whose key is idle is ready; the others wait behind those
//! of their key. What must hold: at most one call a key, calls begin in the order of the log as far as
//! that allows, and an offset counts as handled only when everything below it is (C9): the tracker
//! sees to that. The window is bounded in records by the tracker and in bytes by the lane's part.

use super::call::{Caller, Epochs};
use super::feed::Feed;
use super::progress::Progress;
use super::slots::Slots;
use crate::handler::{BoxHandler, Observer};
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use ottla_group::Ticket;
use ottla_types::{ConsumedRecord, Offset};
use std::collections::{HashMap, VecDeque};

/// Records that are decoded at a time.
const STEP: usize = 64;

/// A record on its way through the window.
struct Entry {
    record: ConsumedRecord,
    ticket: Ticket,
}

#[derive(Default)]
struct Window {
    /// The records that were decoded last; those from `admitted` on wait for room.
    slots: Slots,
    admitted: usize,
    epochs: Epochs,
    /// The records that may be handed over, in the order of the log.
    ready: VecDeque<Entry>,
    /// The keys of which a record is ready or with the handler, and the records behind it.
    keys: HashMap<Bytes, VecDeque<Entry>>,
    /// The bytes that are free when everything below an offset is handled.
    groups: VecDeque<(Offset, usize)>,
    bytes: usize,
}

/// Why a window takes no more records.
#[derive(PartialEq)]
enum Filled {
    /// It is full, or a commit can remember no more.
    Full,
    /// There are none.
    Dry,
    /// The partition is not assigned any more.
    Over,
}

impl Window {
    /// Takes records in until the window is full or the feed is dry.
    fn fill(&mut self, feed: &mut Feed, progress: &Progress, bytes_max: usize) -> Filled {
        loop {
            if self.slots.is_empty() {
                // Records that are handled take room too, as long as one below them is not.
                let room = progress.room(feed.position());
                if room == 0 || self.bytes >= bytes_max {
                    return Filled::Full;
                }
                feed.fill(&mut self.slots, room.min(STEP));
                self.epochs.note(progress, &self.slots);
                let end = self.slots.last().map(|last| last.offset.saturating_add(1));
                self.charge(end, feed.give_out(), progress);
            }
            let Some(tickets) = progress.dispatch(&self.slots[self.admitted..]) else {
                return Filled::Over;
            };
            for ticket in tickets {
                let record = &self.slots[self.admitted];
                self.admitted += 1;
                if let Some(ticket) = ticket {
                    let record = record.clone();
                    self.add(Entry { record, ticket });
                }
            }
            let waiting = self.slots.get(self.admitted).map(|record| record.offset);
            progress.mark_handled(waiting.unwrap_or(feed.position()));
            // Records that were handled before a restart are done with.
            self.release(progress);
            if waiting.is_some() {
                return Filled::Full;
            }
            let is_dry = self.slots.is_empty() && !feed.take_next();
            self.slots.clear();
            self.admitted = 0;
            if is_dry {
                return Filled::Dry;
            }
        }
    }

    fn add(&mut self, entry: Entry) {
        // Records without a key have no order among each other.
        let Some(key) = &entry.record.key else {
            return self.ready.push_back(entry);
        };
        if let Some(behind) = self.keys.get_mut(key) {
            behind.push_back(entry);
        } else {
            self.keys.insert(key.clone(), VecDeque::new());
            self.ready.push_back(entry);
        }
    }

    /// The record is handled: the next one of its key is ready.
    fn remove(&mut self, record: &ConsumedRecord) {
        if let Some(key) = &record.key
            && let Some(behind) = self.keys.get_mut(key)
        {
            match behind.pop_front() {
                Some(next) => self.ready.push_back(next),
                None => drop(self.keys.remove(key)),
            }
        }
    }

    /// Notes the bytes of the records below `end`; without records they are free now, or with those
    /// that are out.
    fn charge(&mut self, end: Option<Offset>, bytes: usize, progress: &Progress) {
        match (end, self.groups.back_mut()) {
            (Some(end), _) => self.groups.push_back((end, bytes)),
            (None, Some((_, last))) => *last += bytes,
            (None, None) => return progress.release(bytes),
        }
        self.bytes += bytes;
    }

    /// Gives the bytes back that are free.
    fn release(&mut self, progress: &Progress) {
        let handled = progress.handled();
        while let Some((end, bytes)) = self.groups.front().copied()
            && handled.is_none_or(|handled| handled >= end)
        {
            self.groups.pop_front();
            self.bytes -= bytes;
            progress.release(bytes);
        }
    }
}

/// The limits of a window.
#[derive(Debug, Clone, Copy)]
pub(super) struct WindowLimits {
    /// Calls in progress.
    pub(super) calls: usize,
    /// Bytes of the records that are looked at; their number is bounded by the tracker.
    pub(super) bytes: usize,
}

/// Hands the records of `feed` over until the lane is drained and its calls have ended, or its inbox
/// is closed.
pub(super) async fn run(
    feed: &mut Feed,
    caller: &mut Caller,
    progress: &Progress,
    handler: &BoxHandler,
    limits: WindowLimits,
) {
    let mut window = Window::default();
    let caller = &*caller;
    let mut calls = FuturesUnordered::new();
    let mut ends = false;
    loop {
        let mut is_dry = false;
        if !ends {
            match window.fill(feed, progress, limits.bytes) {
                Filled::Over => return,
                filled => is_dry = filled == Filled::Dry,
            }
        }
        while !ends
            && calls.len() < limits.calls
            && let Some(Entry { record, ticket }) = window.ready.pop_front()
        {
            calls.push(async move {
                let call = caller.until_handled(handler, &record).await;
                (record, ticket, call)
            });
        }
        if ends && calls.is_empty() {
            return;
        }
        tokio::select! {
            biased;
            Some((record, ticket, call)) = calls.next(), if !calls.is_empty() => match call {
                Some(call) => {
                    progress.done(ticket);
                    call.done(1);
                    caller.tell(1);
                    window.remove(&record);
                    window.release(progress);
                }
                // Only a lane that is drained gives a record up.
                None => ends = true,
            },
            () = caller.drained(), if !ends => ends = true,
            received = feed.receive(None), if is_dry => ends = received.is_break(),
        }
        tokio::task::consume_budget().await;
    }
}
