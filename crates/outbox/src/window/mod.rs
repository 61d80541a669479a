//! The pure part of the relay: the rows in memory, and which of them may be sent now.
//!
//! Rows that must keep their order share a [`Lane`]. One row of a lane is on its way at a time: the
//! next one is sent when it is acknowledged or parked, so that a row which fails, or whose fate is
//! unknown, is never overtaken by a later one. Rows of different lanes are on their way together.
//! A row leaves the window only when the store has marked it.
//!
//! A lane that stands still must not fill the window: beyond a number of rows, further ones of that
//! lane are skipped. Once one was skipped, so are all later ones of the lane, until the next sweep
//! over the table begins at its first row again: a lane is never admitted with a gap.

mod lane;
mod verdict;

pub(crate) use verdict::{Retry, Verdict, verdict};

use lane::Lane;
use ottla_store::{OutboxId, OutboxRow};
use ottla_types::Record;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};

/// How far a row is. The only moves are those of the arrows:
/// `Queued -> Ready -> InFlight -> (Ready | Backoff -> Ready | Acked | Parking)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Behind another row of its lane.
    Queued,
    /// First of its lane, to be sent.
    Ready,
    /// Handed to the producer.
    InFlight,
    /// Failed; to be sent again later.
    Backoff,
    /// Acknowledged, and not yet marked as sent.
    Acked,
    /// Given up, and not yet parked.
    Parking,
}

struct Entry {
    record: Record,
    enqueued_at_ms: i64,
    lane: Lane,
    state: State,
    attempts: u32,
}

/// The most lanes whose rows are skipped in one sweep.
const SKIPPED_LANES_MAX: usize = 10_000;

/// See the module.
#[derive(Default)]
pub(crate) struct Window {
    lane_rows_max: usize,
    skipped: HashSet<Lane>,
    has_starving_lane: bool,
    entries: BTreeMap<OutboxId, Entry>,
    lanes: HashMap<Lane, VecDeque<OutboxId>>,
    ready: BTreeSet<OutboxId>,
    backoff: BTreeSet<(i64, OutboxId)>,
    acked: BTreeSet<OutboxId>,
    parking: VecDeque<(OutboxId, String)>,
    in_flight: usize,
    bytes: usize,
}

impl Window {
    /// An empty window with at most `lane_rows_max` rows of a lane.
    pub(crate) fn new(lane_rows_max: usize) -> Self {
        Self {
            lane_rows_max: lane_rows_max.max(1),
            ..Self::default()
        }
    }

    /// A sweep begins at the first pending row: lanes with skipped rows are admitted again.
    pub(crate) fn begin_sweep(&mut self) {
        self.skipped.clear();
        self.has_starving_lane = false;
    }

    /// Whether rows were skipped in this sweep.
    pub(crate) fn has_skipped(&self) -> bool {
        !self.skipped.is_empty()
    }

    /// Whether so many lanes are skipped that the sweep should end.
    pub(crate) fn skips_too_much(&self) -> bool {
        self.skipped.len() >= SKIPPED_LANES_MAX
    }

    /// Whether a lane has nothing left to send, but skipped rows.
    pub(crate) fn has_starving_lane(&self) -> bool {
        self.has_starving_lane
    }

    /// Rows in memory.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// What the rows in memory weigh.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Rows that were handed to the producer and are not settled.
    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Adds a row, unless it is here already or its lane is full. Rows of a lane come in the order of
    /// their ids.
    pub(crate) fn admit(&mut self, row: OutboxRow) {
        if self.entries.contains_key(&row.id) {
            return;
        }
        let lane = Lane::of(&row);
        if self.skipped.contains(&lane) {
            return;
        }
        let queue = self.lanes.entry(lane.clone()).or_default();
        if queue.len() >= self.lane_rows_max {
            self.skipped.insert(lane);
            return;
        }
        let state = if queue.is_empty() {
            self.ready.insert(row.id);
            State::Ready
        } else {
            State::Queued
        };
        queue.push_back(row.id);
        self.bytes += row.record.size();
        let entry = Entry {
            record: row.record,
            enqueued_at_ms: row.enqueued_at_ms,
            lane,
            state,
            attempts: 0,
        };
        self.entries.insert(row.id, entry);
    }

    /// Takes the lowest row that may be sent at `now_ms`; it is in flight from then on. A record
    /// without a timestamp gets that of its enqueueing, so that every copy of it has the same.
    pub(crate) fn start_next(&mut self, now_ms: i64) -> Option<(OutboxId, Record)> {
        while let Some(&(due_ms, id)) = self.backoff.first()
            && due_ms <= now_ms
        {
            self.backoff.pop_first();
            self.make_ready(id);
        }
        let id = *self.ready.first()?;
        self.take(id);
        let entry = self.entries.get(&id)?;
        let mut record = entry.record.clone();
        record.timestamp_ms.get_or_insert(entry.enqueued_at_ms);
        Some((id, record))
    }

    fn make_ready(&mut self, id: OutboxId) {
        if let Some(entry) = self.entries.get_mut(&id) {
            entry.state = State::Ready;
            self.ready.insert(id);
        }
    }

    /// How often the row has failed so far.
    pub(crate) fn attempts(&self, id: OutboxId) -> u32 {
        self.entries.get(&id).map_or(0, |entry| entry.attempts)
    }

    /// A row's record, while the row is here.
    pub(crate) fn record(&self, id: OutboxId) -> Option<&Record> {
        self.entries.get(&id).map(|entry| &entry.record)
    }

    /// Takes this row, if it may be sent, as [`start_next`](Self::start_next) does.
    pub(crate) fn take(&mut self, id: OutboxId) -> bool {
        let is_ready = self.ready.remove(&id);
        if is_ready && let Some(entry) = self.entries.get_mut(&id) {
            entry.state = State::InFlight;
            self.in_flight += 1;
        }
        is_ready
    }

    /// A row in flight was acknowledged: it is to be marked, and its lane goes on.
    pub(crate) fn acknowledged(&mut self, id: OutboxId) {
        if self.land(id, State::Acked) {
            self.acked.insert(id);
            self.advance_lane(id);
        }
    }

    /// A row in flight failed and is sent again at `due_ms`; its lane waits.
    pub(crate) fn failed(&mut self, id: OutboxId, due_ms: i64) {
        if self.land(id, State::Backoff) {
            if let Some(entry) = self.entries.get_mut(&id) {
                entry.attempts = entry.attempts.saturating_add(1);
            }
            self.backoff.insert((due_ms, id));
        }
    }

    /// The producer did not take a row: it may be sent as soon as there is room.
    pub(crate) fn not_taken(&mut self, id: OutboxId) {
        if self.land(id, State::Ready) {
            self.make_ready(id);
        }
    }

    /// A row in flight can never be published: it is to be parked, and its lane goes on.
    pub(crate) fn given_up(&mut self, id: OutboxId, error: String) {
        if self.land(id, State::Parking) {
            self.parking.push_back((id, error));
            self.advance_lane(id);
        }
    }

    /// A row in flight comes to `state`; false if it was not in flight.
    fn land(&mut self, id: OutboxId, state: State) -> bool {
        match self.entries.get_mut(&id) {
            Some(entry) if entry.state == State::InFlight => {
                entry.state = state;
                self.in_flight -= 1;
                true
            }
            _ => false,
        }
    }

    fn advance_lane(&mut self, id: OutboxId) {
        let Some(lane) = self.entries.get(&id).map(|entry| &entry.lane) else {
            return;
        };
        let Some(queue) = self.lanes.get_mut(lane) else {
            return;
        };
        queue.pop_front();
        match queue.front().copied() {
            Some(next) => self.make_ready(next),
            None => {
                let lane = lane.clone();
                self.has_starving_lane |= self.skipped.contains(&lane);
                self.lanes.remove(&lane);
            }
        }
    }

    /// The acknowledged rows that are to be marked as sent, at most `limit`.
    pub(crate) fn to_mark(&self, limit: usize) -> Vec<OutboxId> {
        self.acked.iter().take(limit).copied().collect()
    }

    /// The next row that is to be parked, with its error.
    pub(crate) fn to_park(&self) -> Option<(OutboxId, String)> {
        self.parking.front().cloned()
    }

    /// The store has marked or parked these rows: they leave the window.
    pub(crate) fn settled(&mut self, ids: &[OutboxId]) {
        for id in ids {
            if self.acked.remove(id) {
                self.forget(*id);
            } else if self.parking.front().is_some_and(|(first, _)| first == id) {
                self.parking.pop_front();
                self.forget(*id);
            }
        }
    }

    fn forget(&mut self, id: OutboxId) {
        if let Some(entry) = self.entries.remove(&id) {
            self.bytes -= entry.record.size();
        }
    }

    /// Whether rows wait to be marked or parked.
    pub(crate) fn has_unmarked(&self) -> bool {
        !self.acked.is_empty() || !self.parking.is_empty()
    }

    /// When the next failed row is due.
    pub(crate) fn next_due_ms(&self) -> Option<i64> {
        self.backoff.first().map(|(due_ms, _)| *due_ms)
    }
}

#[cfg(test)]
mod tests;
