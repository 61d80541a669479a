//! The records of a lane: taken from its inbox as they were fetched, decoded when they are wanted.
//!
//! Decompressed bytes are there a part at a time. Everything counts as buffered from its arrival until
//! [`Feed::handled`]. What cannot be read is told to the member when all before it is handled; what
//! came behind it is dropped, and the member decides where to go on.

use super::progress::{Progress, Trouble};
use super::slots::Slots;
use super::{Chunk, LaneSetup, RECORD_OVERHEAD};
use crate::latch::Latch;
use ottla_record_batch::{
    BatchView, Batches, DEFAULT_MAX_DECOMPRESSED, DecodeError, Parts, Records,
};
use ottla_types::{Offset, TopicPartition};
use std::ops::ControlFlow;
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio::time::Instant;

pub(super) struct Feed {
    /// The topic's name is the lane's own: its count would be shared by all partitions.
    partition: TopicPartition,
    inbox: mpsc::Receiver<Chunk>,
    drain: Latch,
    progress: Arc<Progress>,
    /// How much may be decoded at a time.
    part_bytes: usize,
    /// Everything below was handed out or is no record.
    position: Offset,
    leader_epoch: Option<i32>,
    /// How often something could not be read; chunks that were fetched before that are dropped.
    reading: u64,
    chunk: Option<Open>,
    /// Why nothing more can be read.
    broken: Option<DecodeError>,
    /// What decoding has added to the buffered bytes since the last call of `give_out`.
    decoded: usize,
    /// Buffered bytes that are free when what was handed out is handled.
    spent: usize,
}

/// A chunk that is being read.
struct Open {
    batches: Batches,
    batch: Option<OpenBatch>,
    /// Its bytes that were not spent.
    bytes: usize,
    end: Offset,
}

struct OpenBatch {
    parts: Parts,
    records: Option<Records>,
    /// The bytes that the present part was decompressed to.
    decompressed: usize,
    size: usize,
    end: Offset,
}

impl OpenBatch {
    fn new(batch: &BatchView, part_bytes: usize) -> Self {
        Self {
            parts: batch.parts(part_bytes, DEFAULT_MAX_DECOMPRESSED),
            records: None,
            decompressed: 0,
            size: batch.size(),
            end: batch.last_offset().saturating_add(1),
        }
    }
}

impl Feed {
    pub(super) fn new(setup: &LaneSetup, inbox: mpsc::Receiver<Chunk>, drain: Latch) -> Self {
        let TopicPartition { topic, partition } = &setup.partition;
        Self {
            partition: TopicPartition::new(&**topic, *partition),
            inbox,
            drain,
            progress: setup.progress.clone(),
            part_bytes: setup.limits.part_bytes,
            position: setup.position,
            leader_epoch: None,
            reading: 0,
            chunk: None,
            broken: None,
            decoded: 0,
            spent: 0,
        }
    }

    /// Everything below was handed out or is no record.
    pub(super) fn position(&self) -> Offset {
        self.position
    }

    pub(super) fn progress(&self) -> &Arc<Progress> {
        &self.progress
    }

    /// Decodes into `out` until it has `max` records, as much is decoded as may be, or the chunk ends.
    pub(super) fn fill(&mut self, out: &mut Slots, max: usize) {
        let before = out.len();
        let max = max.min(before + (self.part_bytes / RECORD_OVERHEAD).max(1));
        while out.len() < max && self.broken.is_none() && (out.is_empty() || !self.is_full()) {
            match self.step(out, max) {
                Ok(ControlFlow::Continue(())) => {}
                Ok(ControlFlow::Break(())) => break,
                Err(error) => {
                    self.broken = Some(error);
                    self.close_chunk();
                    break;
                }
            }
        }
        let overhead = (out.len() - before) * RECORD_OVERHEAD;
        self.progress.add_buffered(overhead);
        self.decoded += overhead;
        self.spent += overhead;
    }

    /// Whether as much is decoded as may be at once.
    pub(super) fn is_full(&self) -> bool {
        self.decoded >= self.part_bytes || self.broken.is_some()
    }

    fn step(&mut self, out: &mut Slots, max: usize) -> Result<ControlFlow<()>, DecodeError> {
        let Some(chunk) = &mut self.chunk else {
            return Ok(ControlFlow::Break(()));
        };
        let Some(batch) = &mut chunk.batch else {
            match chunk.batches.next().transpose()? {
                // Control batches are markers of transactions, not records.
                Some(batch) if batch.is_control() || batch.last_offset() < self.position => {
                    if batch.last_offset() >= self.position {
                        check_marker(&batch)?;
                    }
                    let end = batch.last_offset().saturating_add(1);
                    self.position = self.position.max(end);
                    self.spent += batch.size();
                    chunk.bytes -= batch.size();
                }
                Some(batch) => chunk.batch = Some(OpenBatch::new(&batch, self.part_bytes)),
                None => {
                    self.position = self.position.max(chunk.end);
                    self.close_chunk();
                    return Ok(ControlFlow::Break(()));
                }
            }
            return Ok(ControlFlow::Continue(()));
        };
        let Some(records) = &mut batch.records else {
            if let Some(part) = batch.parts.next().transpose()? {
                self.progress.add_buffered(part.decompressed);
                self.decoded += part.decompressed;
                batch.decompressed = part.decompressed;
                batch.records = Some(part.records);
            } else {
                self.position = self.position.max(batch.end);
                self.spent += batch.size;
                chunk.bytes -= batch.size;
                chunk.batch = None;
            }
            return Ok(ControlFlow::Continue(()));
        };
        while out.len() < max {
            let record = out.next(&self.partition);
            match records.next_into(record) {
                Some(decoded) => decoded?,
                None => {
                    self.spent += std::mem::take(&mut batch.decompressed);
                    batch.records = None;
                    break;
                }
            }
            if record.offset >= self.position {
                self.position = record.offset.saturating_add(1);
                self.leader_epoch = record.leader_epoch;
                out.take();
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    fn close_chunk(&mut self) {
        if let Some(chunk) = self.chunk.take() {
            self.spent += chunk.bytes + chunk.batch.map_or(0, |batch| batch.decompressed);
        }
    }

    /// What was handed out is handled: gives its bytes back.
    pub(super) fn handled(&mut self) {
        self.progress.mark_handled(self.position);
        let spent = self.give_out();
        self.progress.release(spent);
    }

    /// What was filled in is somebody else's now, who marks what is handled; the bytes that are free.
    pub(super) fn give_out(&mut self) -> usize {
        self.decoded = 0;
        if let Some(error) = self.broken.take() {
            self.reading += 1;
            self.progress.tell_trouble(Trouble {
                offset: self.position,
                leader_epoch: self.leader_epoch,
                error,
            });
        }
        std::mem::take(&mut self.spent)
    }

    /// Takes the next chunk in unless one is open, or returns when the time has come. Breaks when the
    /// lane is to end. Safe to cancel.
    pub(super) async fn receive(&mut self, until: Option<Instant>) -> ControlFlow<()> {
        if self.chunk.is_some() {
            return ControlFlow::Continue(());
        }
        let late = async {
            match until {
                Some(until) => tokio::time::sleep_until(until).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = self.drain.wait() => ControlFlow::Break(()),
            chunk = self.inbox.recv() => match chunk {
                Some(chunk) => {
                    self.open(chunk);
                    ControlFlow::Continue(())
                }
                None => ControlFlow::Break(()),
            },
            () = late => ControlFlow::Continue(()),
        }
    }

    /// Takes a chunk in that is there already, unless one is open; false when there is none.
    pub(super) fn take_next(&mut self) -> bool {
        if self.chunk.is_some() {
            return true;
        }
        match self.inbox.try_recv() {
            Ok(chunk) => {
                self.open(chunk);
                true
            }
            Err(_) => false,
        }
    }

    fn open(&mut self, chunk: Chunk) {
        if self.inbox.capacity() == 1 {
            // It was full, and the member may wait for that to end.
            self.progress.wake();
        }
        if chunk.reading < self.reading {
            return self.progress.release(chunk.bytes());
        }
        self.chunk = Some(Open {
            bytes: chunk.bytes(),
            batches: chunk.records.batches(),
            batch: None,
            end: chunk.next_offset,
        });
    }
}

/// What the marker of a transaction's end may be decompressed to. Brokers do not compress them.
const MARKER_BYTES_MAX: usize = 4096;

/// A reader of committed records is left a marker that its transport could not read, with everything
/// behind it: that may be aborted, so nothing goes past it without a word.
fn check_marker(batch: &BatchView) -> Result<(), DecodeError> {
    let mut records = batch.records_within(MARKER_BYTES_MAX);
    records.try_for_each(|record| record.map(drop))
}
