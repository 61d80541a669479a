//! The log of one partition: batches in the order of their offsets, the watermark, the log start,
//! the last stable offset, leader epochs, and what is known of producers. Pure.
//!
//! Must hold: base offsets ascend, with gaps only where compaction left them; nothing below
//! `start` is readable.

mod compact;
mod epochs;
mod producers;

use bytes::{Bytes, BytesMut};

use crate::batch::{Batch, Marker};
use crate::{MockBatch, MockRecord, codes};
use epochs::Epochs;
pub(crate) use producers::Aborted;
use producers::Producers;

/// What became of an append.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Appended {
    pub(crate) base_offset: i64,
    /// The time of the append under `LogAppendTime`, else -1.
    pub(crate) log_append_time_ms: i64,
    /// False for a replay that was recognised.
    pub(crate) is_new: bool,
}

/// What a read gave.
#[derive(Clone, Debug)]
pub(crate) struct Read {
    pub(crate) records: Bytes,
    /// The offset after the last record given.
    pub(crate) next: i64,
}

/// The log of one partition.
#[derive(Debug, Default)]
pub(crate) struct Log {
    batches: Vec<Batch>,
    start: i64,
    end: i64,
    bytes: usize,
    producers: Producers,
    epochs: Epochs,
}

impl Log {
    pub(crate) fn start(&self) -> i64 {
        self.start
    }

    /// Everything appended counts as replicated at once.
    pub(crate) fn high_watermark(&self) -> i64 {
        self.end
    }

    /// KIP-98: nothing at or above it is decided; the high watermark when no transaction is open.
    pub(crate) fn last_stable_offset(&self) -> i64 {
        let first_open = self.producers.first_open();
        first_open.map_or(self.end, |first| first.max(self.start))
    }

    /// Where a reader of this isolation must stop.
    pub(crate) fn readable_end(&self, read_committed: bool) -> i64 {
        if read_committed {
            self.last_stable_offset()
        } else {
            self.end
        }
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
        if let Some(base_offset) = self.producers.check(&batch)? {
            return Ok(Appended {
                base_offset,
                log_append_time_ms,
                is_new: false,
            });
        }
        let base_offset = self.end;
        batch.place(base_offset, leader_epoch, append_time);
        self.push(batch);
        Ok(Appended {
            base_offset,
            log_append_time_ms,
            is_new: true,
        })
    }

    fn push(&mut self, batch: Batch) {
        self.producers.learn(&batch);
        self.end = batch.last_offset() + 1;
        self.bytes += batch.bytes.len();
        self.batches.push(batch);
    }

    /// Ends the producer's transaction here. Gives the size of the marker.
    pub(crate) fn append_marker(&mut self, marker: Marker, leader_epoch: i32) -> usize {
        let mut batch = marker.batch();
        batch.place(self.end, leader_epoch, None);
        let size = batch.bytes.len();
        self.push(batch);
        size
    }

    /// Whether this producer, in this epoch, has an open transaction here.
    pub(crate) fn has_open_transaction(&self, producer_id: i64, epoch: i16) -> bool {
        self.producers.is_open(producer_id, epoch)
    }

    /// The aborted transactions that touch the offsets from `from` up to, not with, `to`.
    pub(crate) fn aborted(&self, from: i64, to: i64) -> impl Iterator<Item = Aborted> {
        self.producers.aborted(from, to)
    }

    /// A leader of this epoch takes over.
    pub(crate) fn begin_epoch(&mut self, epoch: i32) {
        self.epochs.begin(epoch, self.end);
    }

    /// KIP-279: the highest epoch up to `asked` and where it ended.
    pub(crate) fn end_of_epoch(&self, asked: i32) -> Option<(i32, i64)> {
        self.epochs.end_of(asked, self.end)
    }

    /// Cuts off the batches that reach `offset` or lie above it, as an unclean election does.
    /// What is known of producers is learned anew from what is left.
    pub(crate) fn truncate(&mut self, offset: i64) {
        let kept = self
            .batches
            .partition_point(|batch| batch.last_offset() < offset);
        self.end = match self.batches.get(kept) {
            Some(cut) => cut.base_offset,
            None => self.end.min(offset.max(0)),
        };
        self.batches.truncate(kept);
        self.start = self.start.min(self.end);
        self.bytes = self.batches.iter().map(|batch| batch.bytes.len()).sum();
        self.epochs.truncate(self.end);
        self.producers = Producers::default();
        for batch in &self.batches {
            self.producers.learn(batch);
        }
    }

    /// Whole batches from the one that holds `offset`, up to `max_bytes`; with `at_least_one`, the
    /// first batch comes even when it alone is larger. Nothing at or above `end` is given.
    pub(crate) fn read(
        &self,
        offset: i64,
        end: i64,
        max_bytes: usize,
        at_least_one: bool,
    ) -> Result<Read, i16> {
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
            if batch.base_offset >= end || !(fits || at_least_one && taken == 0) {
                break;
            }
            size += batch.bytes.len();
            taken += 1;
        }
        let chosen = &self.batches[from..from + taken];
        let next = chosen.last().map_or(offset, |last| last.last_offset() + 1);
        if let [only] = chosen {
            let records = only.bytes.clone();
            return Ok(Read { records, next });
        }
        let mut bytes = BytesMut::with_capacity(size);
        for batch in chosen {
            bytes.extend_from_slice(&batch.bytes);
        }
        let records = bytes.freeze();
        Ok(Read { records, next })
    }

    /// Bytes from `offset` to `end`, counted up to `enough`.
    pub(crate) fn available(&self, offset: i64, end: i64, enough: usize) -> usize {
        let from = self
            .batches
            .partition_point(|batch| batch.last_offset() < offset);
        let mut size = 0;
        for batch in &self.batches[from..] {
            if batch.base_offset >= end || size >= enough {
                break;
            }
            size += batch.bytes.len();
        }
        size
    }

    /// The first record not older than `timestamp`: its offset and timestamp. Of a compressed
    /// batch, the first offset and the batch's highest timestamp.
    pub(crate) fn find_timestamp(&self, timestamp: i64, end: i64) -> Option<(i64, i64, i32)> {
        let young = |batch: &&Batch| batch.max_timestamp >= timestamp && batch.base_offset < end;
        for batch in self.batches.iter().filter(young) {
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
    pub(crate) fn find_max_timestamp(&self, end: i64) -> Option<(i64, i64, i32)> {
        let below = self.batches.iter().filter(|batch| batch.base_offset < end);
        let highest = below.map(|batch| batch.max_timestamp).max()?;
        self.find_timestamp(highest, end)
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
        self.producers.forget_before(self.start);
        Ok(self.start)
    }

    /// The records of uncompressed batches, markers left out; with `only_committed`, as a reader
    /// of committed data sees them.
    pub(crate) fn records(&self, partition: i32, only_committed: bool) -> Vec<MockRecord> {
        let end = self.readable_end(only_committed);
        let shown = self.batches.iter().filter(|batch| {
            !batch.is_control()
                && batch.base_offset < end
                && !(only_committed && self.producers.is_aborted(batch))
        });
        let decoded = shown.filter_map(|batch| batch.records(partition)).flatten();
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
            is_transactional: batch.is_transactional(),
            marker: batch.marker(),
            bytes: batch.bytes.clone(),
        });
        shown.collect()
    }
}
