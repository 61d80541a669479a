//! Records are put into the open batch of their partition, batches are closed when they are full.

use super::Accumulator;
use super::batch::OpenBatch;
use super::intake::error;
use super::sequence::Turn;
use super::spares;
use super::topic::Ticket;
use crate::handle::BatchResult;
use ottla_record_batch::{AppendError, BATCH_OVERHEAD, BatchBuilder, Compression, SealedBatch};
use ottla_types::{PublishError, PublishErrorKind, RecordRef, TopicPartition};
use std::sync::Arc;
use std::time::Instant;

impl Accumulator {
    #[inline]
    pub(super) fn append<S>(
        &mut self,
        at: usize,
        record: &RecordRef<'_>,
        timestamp_ms: i64,
        ticket: Ticket,
        now: &mut dyn FnMut() -> Instant,
        mut slot: impl FnMut(&mut OpenBatch, u32) -> S,
    ) -> Result<S, PublishError> {
        let own_batch = BATCH_OVERHEAD + ticket.charge > self.config.batch_size;
        let open = self.queues[at].open.as_ref();
        if open.is_some_and(|open| own_batch || open.epoch != ticket.epoch) {
            self.close_full(at);
        }
        let max_bytes = self.config.batch_size.max(BATCH_OVERHEAD + ticket.charge);
        let mut opened = None;
        let noted = loop {
            if self.queues[at].open.is_none() {
                let now = now();
                opened = Some(now);
                let builder = self.builder(at, max_bytes, ticket.charge);
                self.reserved += builder.capacity();
                let queue = &mut self.queues[at];
                queue.open = Some(open_batch(&queue.partition, builder, now, ticket.epoch));
            }
            let room = self.room_for_spares();
            let queue = &mut self.queues[at];
            let Some(open) = &mut queue.open else {
                continue;
            };
            let before = open.builder.capacity();
            if open.builder.free() < ticket.charge
                && open.builder.size() + ticket.charge <= max_bytes
                && self.config.compression == Compression::None
            {
                let buffer = self.spares.buffer(queue.last_size, ticket.charge, room);
                open.builder.go_on_in(buffer);
            }
            let appended =
                open.builder
                    .try_append(timestamp_ms, record.key, record.value, record.headers);
            self.reserved += open.builder.capacity() - before;
            match appended {
                Ok(index) => {
                    open.charge += ticket.charge;
                    if self.reports.is_some() {
                        open.records.push((ticket.id, timestamp_ms));
                    }
                    break slot(open, index);
                }
                Err(AppendError::Full) if !open.builder.is_empty() => self.close_full(at),
                Err(why) => {
                    if open.builder.is_empty() {
                        self.reserved -= open.builder.capacity();
                        queue.open = None;
                    }
                    let kind = match why {
                        AppendError::TooLarge | AppendError::Full => {
                            PublishErrorKind::RecordTooLarge
                        }
                        _ => PublishErrorKind::InvalidRecord,
                    };
                    return Err(error(kind, record.topic).with_source(why));
                }
            }
        };
        self.after_append(at, opened);
        Ok(noted)
    }

    /// Closes the batch if it is full, and makes sure that the queue is looked at in time.
    #[inline]
    fn after_append(&mut self, at: usize, opened: Option<Instant>) {
        let queue = &mut self.queues[at];
        if let Some(opened) = opened {
            if let Some(topic) = self.topics.get_mut(&queue.partition.topic) {
                topic.last_used = opened;
            }
            let lingered = opened + self.rules.linger;
            self.effects.work |= self.schedule.set_timer(queue, at, lingered);
        }
        let most = self.config.batch_records.map_or(u32::MAX, Into::into);
        // A second's worth of records can pass the rate limit at once, not more.
        let most = most.min(self.config.rate_limit.map_or(u32::MAX, Into::into));
        let full = queue.open.as_ref().is_some_and(|open| {
            open.builder.len() >= most || open.builder.size() >= self.config.batch_size
        });
        if full {
            self.close_full(at);
        }
    }

    /// Closes a batch that takes no more.
    pub(super) fn close_full(&mut self, at: usize) {
        self.close_open(at);
        let queue = &mut self.queues[at];
        // Else an answer has to come first, with which it is looked at.
        if queue.turn(&self.rules) != Turn::Wait {
            self.schedule.touch(queue, at);
            self.effects.work = true;
        }
    }

    /// An empty batch for a partition. Its buffer is a piece of all that it will take, and others follow,
    /// so that buffers are mostly full, however many partitions there are, and fit any other batch
    /// afterwards. What is to be compressed has to be in one.
    fn builder(&mut self, at: usize, max_bytes: usize, first: usize) -> BatchBuilder {
        let last = self.queues[at].last_size;
        if self.config.compression != Compression::None {
            // As much as the one before, and a little more.
            return BatchBuilder::with_expected(max_bytes, (last + last / 4).min(max_bytes));
        }
        let least = (BATCH_OVERHEAD + first).min(max_bytes);
        let room = self.room_for_spares();
        BatchBuilder::with_buffer(max_bytes, self.spares.buffer(last, least, room))
    }

    /// What buffers beside those in use may take.
    fn room_for_spares(&self) -> usize {
        self.config.buffer_memory.saturating_sub(self.reserved)
    }

    /// Keeps the buffers of a batch that was written for others.
    pub(super) fn keep_buffers(&mut self, batch: SealedBatch) {
        let mut room = self.room_for_spares();
        if self.used == 0 {
            // Nothing is under way, perhaps for long: one piece is enough for who writes record by record.
            room = room.min(spares::SMALL);
            self.spares.shrink(room);
        }
        for buffer in batch.into_buffers() {
            self.spares.give(buffer, room);
        }
    }
}

fn open_batch(
    partition: &TopicPartition,
    builder: BatchBuilder,
    opened: Instant,
    epoch: u64,
) -> OpenBatch {
    let result = BatchResult::new(Arc::clone(&partition.topic), partition.partition);
    OpenBatch {
        builder,
        result: Arc::new(result),
        opened,
        charge: 0,
        epoch,
        noted: (0, 0),
        records: Vec::new(),
    }
}
