//! What a log knows of producers: their epochs and sequences (KIP-98), open transactions, and
//! which data was aborted. Pure.
//!
//! Must hold: a producer has at most one open transaction in a log; the aborted list is in the
//! order of its markers.

use std::collections::{BTreeMap, HashMap, VecDeque};

use crate::batch::Batch;
use crate::codes;

/// How many batches of a producer are remembered to recognise a replay; Kafka's own number.
const REMEMBERED_BATCHES: usize = 5;
/// How many producers without an open transaction a partition remembers.
const MAX_PRODUCERS: usize = 4096;

#[derive(Clone, Copy, Debug)]
struct Remembered {
    first_sequence: i32,
    last_sequence: i32,
    base_offset: i64,
}

#[derive(Debug)]
struct Producer {
    epoch: i16,
    last_offset: i64,
    recent: VecDeque<Remembered>,
}

/// A transaction whose data does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Aborted {
    pub(crate) producer_id: i64,
    pub(crate) first_offset: i64,
    /// The offset of its marker.
    pub(crate) last_offset: i64,
}

/// The producers of one log.
#[derive(Debug, Default)]
pub(crate) struct Producers {
    by_id: HashMap<i64, Producer>,
    /// Producer id to the first offset of its open transaction.
    open: BTreeMap<i64, i64>,
    aborted: Vec<Aborted>,
}

impl Producers {
    /// The sequence of a producer must follow on the last one, and begin at 0 in a new epoch. A
    /// replay within the last batches gives the offset it had; an unknown producer may start
    /// anywhere.
    pub(crate) fn check(&self, batch: &Batch) -> Result<Option<i64>, i16> {
        if batch.producer_id < 0 {
            return if batch.is_transactional() {
                Err(codes::INVALID_RECORD)
            } else {
                Ok(None)
            };
        }
        if batch.base_sequence < 0 || batch.producer_epoch < 0 {
            return Err(codes::INVALID_RECORD);
        }
        if self.open.contains_key(&batch.producer_id) && !batch.is_transactional() {
            return Err(codes::INVALID_TXN_STATE);
        }
        let Some(producer) = self.by_id.get(&batch.producer_id) else {
            return Ok(None);
        };
        if batch.producer_epoch < producer.epoch {
            return Err(codes::INVALID_PRODUCER_EPOCH);
        }
        let is_new_epoch = batch.producer_epoch > producer.epoch;
        let last_sequence = add_sequence(batch.base_sequence, batch.last_offset_delta);
        let replay = producer.recent.iter().find(|known| {
            known.first_sequence == batch.base_sequence && known.last_sequence == last_sequence
        });
        match (replay, producer.recent.back()) {
            (Some(known), _) if !is_new_epoch => Ok(Some(known.base_offset)),
            // After a marker with a new epoch nothing is remembered, and 0 comes next.
            (_, last) => {
                let expected = match last {
                    Some(last) if !is_new_epoch => add_sequence(last.last_sequence, 1),
                    _ => 0,
                };
                if batch.base_sequence == expected {
                    Ok(None)
                } else {
                    Err(codes::OUT_OF_ORDER_SEQUENCE_NUMBER)
                }
            }
        }
    }

    /// Learns a batch that was appended, data or marker.
    pub(crate) fn learn(&mut self, batch: &Batch) {
        if batch.producer_id < 0 {
            return;
        }
        if let Some(commit) = batch.marker() {
            self.end_transaction(batch, commit);
            return;
        }
        if batch.is_transactional() {
            self.open
                .entry(batch.producer_id)
                .or_insert(batch.base_offset);
        }
        let producer = self.at_epoch(batch);
        if producer.recent.len() == REMEMBERED_BATCHES {
            producer.recent.pop_front();
        }
        producer.recent.push_back(Remembered {
            first_sequence: batch.base_sequence,
            last_sequence: add_sequence(batch.base_sequence, batch.last_offset_delta),
            base_offset: batch.base_offset,
        });
    }

    fn end_transaction(&mut self, marker: &Batch, commit: bool) {
        self.at_epoch(marker);
        if let Some(first_offset) = self.open.remove(&marker.producer_id)
            && !commit
        {
            self.aborted.push(Aborted {
                producer_id: marker.producer_id,
                first_offset,
                last_offset: marker.base_offset,
            });
        }
    }

    /// The batch's producer; a new epoch forgets the sequences of the old one.
    fn at_epoch(&mut self, batch: &Batch) -> &mut Producer {
        if self.by_id.len() >= MAX_PRODUCERS
            && !self.by_id.contains_key(&batch.producer_id)
            && let Some(oldest) = self.oldest()
        {
            self.by_id.remove(&oldest);
        }
        let epoch = batch.producer_epoch;
        let producer = self
            .by_id
            .entry(batch.producer_id)
            .or_insert_with(|| Producer {
                epoch,
                last_offset: -1,
                recent: VecDeque::new(),
            });
        if producer.epoch != epoch {
            producer.epoch = epoch;
            producer.recent.clear();
        }
        producer.last_offset = batch.last_offset();
        producer
    }

    fn oldest(&self) -> Option<i64> {
        let idle = self
            .by_id
            .iter()
            .filter(|(id, _)| !self.open.contains_key(id));
        let oldest = idle.min_by_key(|(_, producer)| producer.last_offset);
        oldest.map(|(id, _)| *id)
    }

    /// Whether this producer, in this epoch, has written to a transaction that has not ended.
    pub(crate) fn is_open(&self, producer_id: i64, epoch: i16) -> bool {
        let known = self.by_id.get(&producer_id);
        self.open.contains_key(&producer_id) && known.is_some_and(|known| known.epoch == epoch)
    }

    /// The first offset of the oldest open transaction.
    pub(crate) fn first_open(&self) -> Option<i64> {
        self.open.values().copied().min()
    }

    /// Whether the producer's last batch is the one at this offset.
    pub(crate) fn ends_at(&self, producer_id: i64, last_offset: i64) -> bool {
        let known = self.by_id.get(&producer_id);
        known.is_some_and(|known| known.last_offset == last_offset)
    }

    /// The aborted transactions that touch the offsets from `from` up to, not with, `to`.
    pub(crate) fn aborted(&self, from: i64, to: i64) -> impl Iterator<Item = Aborted> {
        let touching = self.aborted.iter();
        touching
            .filter(move |one| one.last_offset >= from && one.first_offset < to)
            .copied()
    }

    /// Whether a batch's data was aborted.
    pub(crate) fn is_aborted(&self, batch: &Batch) -> bool {
        batch.is_transactional()
            && self
                .aborted(batch.base_offset, batch.base_offset + 1)
                .any(|one| one.producer_id == batch.producer_id)
    }

    /// Nothing below `start` is readable any more.
    pub(crate) fn forget_before(&mut self, start: i64) {
        self.aborted.retain(|one| one.last_offset >= start);
    }
}

/// Sequences wrap from `i32::MAX` to 0.
fn add_sequence(sequence: i32, delta: i32) -> i32 {
    let sum = i64::from(sequence) + i64::from(delta);
    (sum % (i64::from(i32::MAX) + 1)) as i32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequences_wrap_to_zero() {
        assert_eq!(add_sequence(i32::MAX, 1), 0);
        assert_eq!(add_sequence(i32::MAX - 1, 3), 1);
        assert_eq!(add_sequence(4, 5), 9);
    }
}
