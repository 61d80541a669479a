//! Batches: open while records are added, ready when they only wait to be sent.

use crate::handle::BatchResult;
use ottla_client::Error;
use ottla_record_batch::{BatchBuilder, EncodedBatch, SealedBatch, Stamp};
use ottla_types::Fate;
use std::sync::Arc;
use std::time::Instant;

/// Why a batch that was encoded here could not be split.
pub(super) type SplitError = Box<dyn std::error::Error + Send + Sync>;

/// A batch that still takes records.
#[derive(Debug)]
pub(super) struct OpenBatch {
    pub(super) builder: BatchBuilder,
    pub(super) result: Arc<BatchResult>,
    /// When its first record was enqueued.
    pub(super) opened: Instant,
    pub(super) charge: usize,
    pub(super) epoch: u64,
    /// The last call that brought many records and has one here, and what it knows the batch by.
    pub(super) noted: (u64, u32),
    /// Number and timestamp of each record; kept only while reports are on.
    pub(super) records: Vec<(u64, i64)>,
}

/// A batch that is complete.
#[derive(Debug)]
pub(crate) struct ReadyBatch {
    sealed: SealedBatch,
    /// How many batches of the partition were closed before it.
    position: u64,
    /// The number of its first record in the partition, once it was sent.
    pub(super) sequence: Option<i32>,
    pub(crate) result: Arc<BatchResult>,
    /// The place of its first record in `result`; not 0 for a part of a batch that was split.
    pub(super) first: u32,
    /// When its first record was enqueued.
    pub(super) opened: Instant,
    /// When it is given up.
    pub(super) deadline: Instant,
    pub(super) charge: usize,
    /// What its buffer takes.
    pub(super) reserved: usize,
    pub(super) epoch: u64,
    pub(super) records: Vec<(u64, i64)>,
    /// How often it was sent.
    pub(super) attempts: u32,
    /// Whether the rate limit has let it pass.
    pub(super) admitted: bool,
    /// Whether an earlier attempt may have written it.
    pub(super) fate: Fate,
    /// When it was sent last.
    pub(super) sent: Option<Instant>,
    /// When the first of the latest attempts was sent that all ended because no broker knows the
    /// partition.
    pub(super) unknown_since: Option<Instant>,
    pub(super) last_error: Option<Error>,
}

/// Records of one batch that get their result together: what must be known to settle them.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) result: Arc<BatchResult>,
    pub(super) first: u32,
    pub(super) count: u32,
    pub(super) charge: usize,
    pub(super) reserved: usize,
    pub(super) epoch: u64,
    pub(super) records: Vec<(u64, i64)>,
}

impl OpenBatch {
    pub(super) fn close(self, deadline: Instant, position: u64) -> ReadyBatch {
        ReadyBatch {
            reserved: self.builder.capacity(),
            sealed: self.builder.seal(),
            position,
            sequence: None,
            result: self.result,
            first: 0,
            opened: self.opened,
            deadline,
            charge: self.charge,
            epoch: self.epoch,
            records: self.records,
            attempts: 0,
            admitted: false,
            fate: Fate::NotWritten,
            sent: None,
            unknown_since: None,
            last_error: None,
        }
    }
}

impl ReadyBatch {
    /// How many records it holds.
    pub(super) fn count(&self) -> u32 {
        self.sealed.record_count()
    }

    /// Where it stands among the batches of its partition.
    pub(super) fn place(&self) -> (u64, u32) {
        (self.position, self.first)
    }

    /// Its size in bytes.
    pub(super) fn size(&self) -> usize {
        self.sealed.size()
    }

    /// The batch as it is sent; for the same stamp, the same bytes.
    pub(super) fn encode(&mut self, stamp: Option<Stamp>) -> EncodedBatch {
        self.sealed.encode(stamp)
    }

    pub(super) fn into_group(self) -> Group {
        self.into_parts().0
    }

    /// What is left to be settled, and the bytes.
    pub(super) fn into_parts(self) -> (Group, SealedBatch) {
        let group = Group {
            count: self.count(),
            result: self.result,
            first: self.first,
            charge: self.charge,
            reserved: self.reserved,
            epoch: self.epoch,
            records: self.records,
        };
        (group, self.sealed)
    }

    /// Two batches with the first and the second half of the records. They keep the deadline and the
    /// place, and start without failed attempts; their sequences are for the caller.
    ///
    /// # Errors
    /// The batch as it was, and why its records could not be read.
    pub(super) fn split(mut self) -> Result<(Self, Self), Box<(Self, SplitError)>> {
        let left_count = self.count() / 2;
        let encoded = self.encode(None);
        let (left, right) = match halves(&encoded, left_count) {
            Ok(halves) => halves,
            Err(why) => return Err(Box::new((self, why))),
        };
        // By bytes, so that both together free exactly what the batch weighed.
        let share = left.size() as u64 * self.charge as u64;
        let both = (left.size() + right.size()) as u64;
        let left_charge = (share / both) as usize;
        let right_charge = self.charge - left_charge;
        let left_reserved = self.reserved / 2;
        let right_reserved = self.reserved - left_reserved;
        let mut left_records = self.records;
        let right_records = left_records.split_off(left_records.len().min(left_count as usize));
        let part = |builder: BatchBuilder, first, (charge, reserved), records| Self {
            sealed: builder.seal(),
            position: self.position,
            sequence: None,
            result: Arc::clone(&self.result),
            first,
            opened: self.opened,
            deadline: self.deadline,
            charge,
            reserved,
            epoch: self.epoch,
            records,
            attempts: self.attempts,
            admitted: true,
            fate: self.fate,
            sent: None,
            unknown_since: None,
            last_error: None,
        };
        let middle = self.first + left_count;
        Ok((
            part(left, self.first, (left_charge, left_reserved), left_records),
            part(right, middle, (right_charge, right_reserved), right_records),
        ))
    }
}

fn halves(
    batch: &EncodedBatch,
    left_count: u32,
) -> Result<(BatchBuilder, BatchBuilder), SplitError> {
    let mut left = BatchBuilder::new(usize::MAX);
    let mut right = BatchBuilder::new(usize::MAX);
    for view in batch.clone().into_record_set().batches() {
        for record in view?.records() {
            let record = record?;
            let half = if left.len() < left_count {
                &mut left
            } else {
                &mut right
            };
            let (key, value) = (record.key.as_deref(), record.value.as_deref());
            half.try_append(record.timestamp_ms, key, value, &record.headers()?)?;
        }
    }
    Ok((left, right))
}
