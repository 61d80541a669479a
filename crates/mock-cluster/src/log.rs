//! The log of one partition: batches in the order of their offsets, the watermark, the log start,
//! and what is known of idempotent producers. Pure.
//!
//! Must hold: base offsets ascend without gaps; nothing below `start` is readable.

use std::collections::HashMap;
use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

use crate::batch::Batch;
use crate::{MockBatch, MockRecord, codes};

/// How many batches of a producer are remembered to recognise a replay; Kafka's own number.
const REMEMBERED_BATCHES: usize = 5;
/// How many idempotent producers a partition remembers.
const MAX_PRODUCERS: usize = 4096;

/// What became of an append.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Appended {
    pub(crate) base_offset: i64,
    /// The time of the append under `LogAppendTime`, else -1.
    pub(crate) log_append_time_ms: i64,
    /// False for a replay that was recognised.
    pub(crate) is_new: bool,
}

#[derive(Clone, Copy, Debug)]
struct Remembered {
    first_sequence: i32,
    last_sequence: i32,
    base_offset: i64,
}

#[derive(Debug)]
struct Producer {
    epoch: i16,
    recent: VecDeque<Remembered>,
}

/// The log of one partition.
#[derive(Debug, Default)]
pub(crate) struct Log {
    batches: Vec<Batch>,
    start: i64,
    end: i64,
    bytes: usize,
    producers: HashMap<i64, Producer>,
}

impl Log {
    pub(crate) fn start(&self) -> i64 {
        self.start
    }

    /// Everything appended counts as replicated at once.
    pub(crate) fn high_watermark(&self) -> i64 {
        self.end
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Appends a checked batch. `append_time` is given when the topic wants the broker's time.
    pub(crate) fn append(
        &mut self,
        mut batch: Batch,
        leader_epoch: i32,
        append_time: Option<i64>,
    ) -> Result<Appended, i16> {
        let log_append_time_ms = append_time.unwrap_or(-1);
        if let Some(base_offset) = self.check_sequence(&batch)? {
            return Ok(Appended {
                base_offset,
                log_append_time_ms,
                is_new: false,
            });
        }
        let base_offset = self.end;
        batch.place(base_offset, leader_epoch, append_time);
        self.remember(&batch);
        self.end = batch.last_offset() + 1;
        self.bytes += batch.bytes.len();
        self.batches.push(batch);
        Ok(Appended {
            base_offset,
            log_append_time_ms,
            is_new: true,
        })
    }

    /// KIP-98: the sequence of a producer must follow on the last one. A replay within the last
    /// batches gives the offset it had; an unknown producer may start anywhere.
    fn check_sequence(&self, batch: &Batch) -> Result<Option<i64>, i16> {
        if batch.producer_id < 0 {
            return Ok(None);
        }
        if batch.base_sequence < 0 || batch.producer_epoch < 0 {
            return Err(codes::INVALID_RECORD);
        }
        let Some(producer) = self.producers.get(&batch.producer_id) else {
            return Ok(None);
        };
        if batch.producer_epoch < producer.epoch {
            return Err(codes::INVALID_PRODUCER_EPOCH);
        }
        if batch.producer_epoch > producer.epoch {
            return match batch.base_sequence {
                0 => Ok(None),
                _ => Err(codes::OUT_OF_ORDER_SEQUENCE_NUMBER),
            };
        }
        let last_sequence = add_sequence(batch.base_sequence, batch.last_offset_delta);
        let replay = producer.recent.iter().find(|known| {
            known.first_sequence == batch.base_sequence && known.last_sequence == last_sequence
        });
        if let Some(known) = replay {
            return Ok(Some(known.base_offset));
        }
        match producer.recent.back() {
            Some(last) if add_sequence(last.last_sequence, 1) != batch.base_sequence => {
                Err(codes::OUT_OF_ORDER_SEQUENCE_NUMBER)
            }
            _ => Ok(None),
        }
    }

    fn remember(&mut self, batch: &Batch) {
        if batch.producer_id < 0 {
            return;
        }
        if self.producers.len() >= MAX_PRODUCERS
            && !self.producers.contains_key(&batch.producer_id)
            && let Some(oldest) = self.oldest_producer()
        {
            self.producers.remove(&oldest);
        }
        let epoch = batch.producer_epoch;
        let producer = self
            .producers
            .entry(batch.producer_id)
            .or_insert_with(|| Producer {
                epoch,
                recent: VecDeque::new(),
            });
        if producer.epoch != epoch {
            producer.epoch = epoch;
            producer.recent.clear();
        }
        if producer.recent.len() == REMEMBERED_BATCHES {
            producer.recent.pop_front();
        }
        producer.recent.push_back(Remembered {
            first_sequence: batch.base_sequence,
            last_sequence: add_sequence(batch.base_sequence, batch.last_offset_delta),
            base_offset: batch.base_offset,
        });
    }

    fn oldest_producer(&self) -> Option<i64> {
        let last_offset = |producer: &Producer| producer.recent.back().map(|b| b.base_offset);
        let oldest = self
            .producers
            .iter()
            .min_by_key(|(_, producer)| last_offset(producer));
        oldest.map(|(id, _)| *id)
    }

    /// Whole batches from the one that holds `offset`, up to `max_bytes`; with `at_least_one`, the
    /// first batch comes even when it alone is larger.
    pub(crate) fn read(
        &self,
        offset: i64,
        max_bytes: usize,
        at_least_one: bool,
    ) -> Result<Bytes, i16> {
        if offset < self.start || offset > self.end {
            return Err(codes::OFFSET_OUT_OF_RANGE);
        }
        let from = self
            .batches
            .partition_point(|batch| batch.last_offset() < offset);
        let mut taken = 0;
        let mut size = 0;
        for batch in &self.batches[from..] {
            let fits = size + batch.bytes.len() <= max_bytes;
            if !(fits || at_least_one && taken == 0) {
                break;
            }
            size += batch.bytes.len();
            taken += 1;
        }
        let chosen = &self.batches[from..from + taken];
        if let [only] = chosen {
            return Ok(only.bytes.clone());
        }
        let mut bytes = BytesMut::with_capacity(size);
        for batch in chosen {
            bytes.extend_from_slice(&batch.bytes);
        }
        Ok(bytes.freeze())
    }

    /// Bytes from `offset` to the end, counted up to `enough`.
    pub(crate) fn available(&self, offset: i64, enough: usize) -> usize {
        let from = self
            .batches
            .partition_point(|batch| batch.last_offset() < offset);
        let mut size = 0;
        for batch in &self.batches[from..] {
            size += batch.bytes.len();
            if size >= enough {
                break;
            }
        }
        size
    }

    /// The first record not older than `timestamp`: its offset and timestamp. Of a compressed
    /// batch, the first offset and the batch's highest timestamp.
    pub(crate) fn find_timestamp(&self, timestamp: i64) -> Option<(i64, i64, i32)> {
        for batch in self
            .batches
            .iter()
            .filter(|batch| batch.max_timestamp >= timestamp)
        {
            let Some(records) = batch.records(0) else {
                return Some((batch.base_offset, batch.max_timestamp, batch.leader_epoch));
            };
            let hit = records
                .iter()
                .find(|record| record.timestamp_ms >= timestamp && record.offset >= self.start);
            if let Some(record) = hit {
                return Some((record.offset, record.timestamp_ms, batch.leader_epoch));
            }
        }
        None
    }

    /// The first record with the highest timestamp (KIP-734).
    pub(crate) fn find_max_timestamp(&self) -> Option<(i64, i64, i32)> {
        let highest = self.batches.iter().map(|batch| batch.max_timestamp).max()?;
        self.find_timestamp(highest)
    }

    /// Makes everything below `offset` unreadable and drops the batches that lie below it whole.
    /// -1 means the high watermark. Gives the new log start.
    pub(crate) fn delete_before(&mut self, offset: i64) -> Result<i64, i16> {
        let offset = if offset == -1 { self.end } else { offset };
        if offset < 0 || offset > self.end {
            return Err(codes::OFFSET_OUT_OF_RANGE);
        }
        self.start = self.start.max(offset);
        let gone = self
            .batches
            .partition_point(|batch| batch.last_offset() < self.start);
        for batch in self.batches.drain(..gone) {
            self.bytes -= batch.bytes.len();
        }
        Ok(self.start)
    }

    pub(crate) fn records(&self, partition: i32) -> Vec<MockRecord> {
        let decoded = self
            .batches
            .iter()
            .filter_map(|batch| batch.records(partition))
            .flatten();
        decoded
            .filter(|record| record.offset >= self.start)
            .collect()
    }

    pub(crate) fn batches(&self) -> Vec<MockBatch> {
        let shown = self.batches.iter().map(|batch| MockBatch {
            base_offset: batch.base_offset,
            last_offset: batch.last_offset(),
            record_count: batch.record_count,
            codec: batch.codec(),
            producer_id: batch.producer_id,
            producer_epoch: batch.producer_epoch,
            base_sequence: batch.base_sequence,
            leader_epoch: batch.leader_epoch,
            bytes: batch.bytes.clone(),
        });
        shown.collect()
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
