//! Records come in: checked, given a partition and put into a batch.

use super::batch::OpenBatch;
use super::sequence::Turn;
use super::topic::{Ticket, Topic, WaitingRecord};
use super::wall_clock::Clocks;
use super::{Accumulator, Phase};
use crate::handle::{BatchResult, DeliveryHandle, Slot, WaitCell};
use crate::partition::{PartitionError, Partitions};
use crate::report::ReportItem;
use ottla_client::ErrorKind;
use ottla_client::transport::RecordRefusal;
use ottla_record_batch::{
    AppendError, BATCH_OVERHEAD, BatchBuilder, Compression, SealedBatch, record_size,
};
use ottla_types::{
    Fate, PublishError, PublishErrorKind, Record, TopicPartition, validate_topic_name,
};
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What the report of a record that was never taken weighs.
const REPORT_CHARGE: usize = 192;

/// The room that [`Accumulator::room`] keeps for a record's lengths and header counts: more than
/// most records need, so that a record that found room is rarely refused after all.
const RECORD_OVERHEAD: usize = 192;

/// So many records wait for their topic's partitions before those that need not be taken at once wait
/// outside: a record that is not in a batch yet takes several times its size.
const UNPLACED_MAX: usize = 1_000;

/// What a caller does when there is no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Caller {
    /// It wants an answer now.
    Insists,
    /// It comes again after some progress.
    Waits,
}

fn error(kind: PublishErrorKind, topic: &Arc<str>) -> PublishError {
    PublishError::new(kind, Fate::NotWritten, Arc::clone(topic))
}

/// Why a record is not acceptable.
#[derive(Debug, thiserror::Error)]
enum Unacceptable {
    #[error("it takes up to {size} bytes in a batch of its own, and max.request.size is {limit}")]
    Size { size: usize, limit: usize },
    #[error("the timestamp is negative")]
    Timestamp,
    #[error("partition {0} is negative")]
    NegativePartition(i32),
    #[error("the partitioner chose partition {0}, which does not exist")]
    NoSuchPartition(i32),
    #[error("the transport cannot carry it (capability `header_fidelity`): {0}")]
    Headers(RecordRefusal),
}

impl Accumulator {
    /// Takes the record out of `held`, or refuses it with a handle that has failed already. Nothing,
    /// and the record stays, when there is no room for it now. `look` reads the clocks, for
    /// records without a timestamp.
    pub(crate) fn enqueue(
        &mut self,
        held: &mut Option<Record>,
        caller: Caller,
        now: Instant,
        look: fn() -> Clocks,
    ) -> Option<DeliveryHandle> {
        let record = held.as_ref()?;
        if self.phase != Phase::Open {
            let closed = error(PublishErrorKind::Closed, &record.topic);
            return Some(DeliveryHandle::failed(self.take_id(), closed));
        }
        let place = self.topics.find(&record.topic);
        if caller == Caller::Waits
            && let Some(topic) = place.and_then(|place| self.topics.at(place))
            && topic.waiting.len() >= UNPLACED_MAX
        {
            return None;
        }
        let (key, value) = (record.key.as_deref(), record.value.as_deref());
        let charge = record_size(key, value, &record.headers);
        let checked = self.check(record, charge, place.is_some());
        // The report of a record that is refused has its place in the buffer too.
        let reported = self.reports.as_ref().map_or(0, |_| REPORT_CHARGE);
        let needed = if checked.is_err() {
            reported
        } else {
            charge.max(reported)
        };
        if self.used + needed > self.config.buffer_memory {
            return None;
        }
        let id = self.take_id();
        if let Err(error) = checked {
            return Some(self.refuse(id, error));
        }
        let ticket = Ticket {
            id,
            enqueued: now,
            charge,
            epoch: self.epoch,
        };
        let timestamp_ms = match record.timestamp_ms {
            Some(own) => own,
            None => self.wall_clock.ms(now, look),
        };
        let place = place.unwrap_or_else(|| self.add_topic(&record.topic, now));
        if let Some(topic) = self.topics.at(place) {
            topic.last_used = now;
            if topic.view.is_none() {
                let record = held.take()?;
                return Some(self.hold(place, record, timestamp_ms, ticket));
            }
        }
        let placed = self.place(place, record, timestamp_ms, ticket);
        *held = None;
        Some(match placed {
            Ok(slot) => {
                self.count_up(&ticket);
                DeliveryHandle::placed(ticket.id, timestamp_ms, slot)
            }
            Err(error) => self.refuse(ticket.id, error),
        })
    }

    /// Keeps a record until its topic's partitions are known.
    fn hold(
        &mut self,
        place: usize,
        record: Record,
        timestamp_ms: i64,
        ticket: Ticket,
    ) -> DeliveryHandle {
        let cell = Arc::new(WaitCell::default());
        let handle = DeliveryHandle::waiting(ticket.id, timestamp_ms, Arc::clone(&cell));
        if let Some(topic) = self.topics.at(place) {
            topic.waiting.push_back(WaitingRecord {
                record,
                timestamp_ms,
                cell,
                ticket,
            });
            self.waiting += 1;
            self.count_up(&ticket);
        }
        handle
    }

    /// Whether there is room for a record of `size` bytes ([`Record::size`]).
    ///
    /// # Errors
    /// The error that such a record would always get.
    pub(crate) fn room(&self, size: usize) -> Result<bool, PublishErrorKind> {
        if self.phase != Phase::Open {
            return Err(PublishErrorKind::Closed);
        }
        if BATCH_OVERHEAD + size > self.config.max_request_size {
            return Err(PublishErrorKind::RecordTooLarge);
        }
        let needed = (size + RECORD_OVERHEAD).min(self.config.buffer_memory);
        Ok(self.used + needed <= self.config.buffer_memory)
    }

    fn take_id(&mut self) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        id
    }

    fn check(&self, record: &Record, size: usize, is_known: bool) -> Result<(), PublishError> {
        let invalid = |why| error(PublishErrorKind::InvalidRecord, &record.topic).with_source(why);
        if !is_known {
            validate_topic_name(&record.topic).map_err(|why| {
                error(PublishErrorKind::InvalidRecord, &record.topic).with_source(why)
            })?;
        }
        if record.timestamp_ms.is_some_and(|t| t < 0) {
            return Err(invalid(Unacceptable::Timestamp));
        }
        if let Some(partition) = record.partition
            && partition < 0
        {
            return Err(invalid(Unacceptable::NegativePartition(partition)));
        }
        let (size, limit) = (BATCH_OVERHEAD + size, self.config.max_request_size);
        if size > limit {
            let why = Unacceptable::Size { size, limit };
            return Err(error(PublishErrorKind::RecordTooLarge, &record.topic).with_source(why));
        }
        if !self.header_fidelity {
            RecordRefusal::of_headers(&record.headers)
                .map_err(|why| invalid(Unacceptable::Headers(why)))?;
        }
        Ok(())
    }

    /// A handle that has failed. With reports on, the failure is reported too.
    fn refuse(&mut self, id: u64, error: PublishError) -> DeliveryHandle {
        crate::telemetry::failed(&error, 1);
        if let Some(reports) = &mut self.reports {
            self.used += REPORT_CHARGE;
            let item = ReportItem::unplaced(id, error.clone(), REPORT_CHARGE);
            self.effects.report(reports, item);
        }
        DeliveryHandle::failed(id, error)
    }

    /// A ticket is never of an earlier epoch here.
    fn count_up(&mut self, ticket: &Ticket) {
        self.used += ticket.charge;
        self.outstanding += 1;
    }

    /// Makes an entry for a topic that has none, and asks for its partitions.
    fn add_topic(&mut self, name: &Arc<str>, now: Instant) -> usize {
        let topic = Topic::new(self.partitioner.for_topic(name), now);
        self.wanted.push(Arc::clone(name));
        self.want_producer();
        self.effects.work = true;
        self.topics.insert(Arc::clone(name), topic)
    }

    /// Puts a record of a known topic into a batch.
    fn place(
        &mut self,
        place: usize,
        record: &Record,
        timestamp_ms: i64,
        ticket: Ticket,
    ) -> Result<Slot, PublishError> {
        let queue = self.choose(place, record)?;
        self.append(queue, record, timestamp_ms, ticket)
    }

    fn choose(&mut self, place: usize, record: &Record) -> Result<usize, PublishError> {
        let name = &record.topic;
        let unknown = || error(PublishErrorKind::UnknownTopic, name);
        let topic = self.topics.at(place).ok_or_else(unknown)?;
        let view = topic.view.as_ref().ok_or_else(unknown)?;
        if let Some(partition) = record.partition {
            if let Some(queue) = view.queue_of(partition) {
                return Ok(queue);
            }
            // It may have been added since: the next record for it shall find it.
            if !topic.refresh_wanted {
                topic.refresh_wanted = true;
                self.wanted.push(Arc::clone(name));
                self.effects.work = true;
            }
            return Err(unknown().with_partition(partition));
        }
        let invalid = || error(PublishErrorKind::InvalidRecord, name);
        let partitions = Partitions::new(&view.all, &view.available);
        let partitioner = &mut topic.partitioner;
        // The user's code: its panic must not take the records with it that come after this one.
        let chosen = catch_unwind(AssertUnwindSafe(|| {
            partitioner.partition(record, &partitions)
        }))
        .unwrap_or(Err(PartitionError::Panicked))
        .map_err(|why| invalid().with_source(why))?;
        view.queue_of(chosen)
            .ok_or_else(|| invalid().with_source(Unacceptable::NoSuchPartition(chosen)))
    }

    fn append(
        &mut self,
        at: usize,
        record: &Record,
        timestamp_ms: i64,
        ticket: Ticket,
    ) -> Result<Slot, PublishError> {
        let own_batch = BATCH_OVERHEAD + ticket.charge > self.config.batch_size;
        let open = self.queues[at].open.as_ref();
        if open.is_some_and(|open| own_batch || open.epoch != ticket.epoch) {
            self.close_full(at);
        }
        let max_bytes = self.config.batch_size.max(BATCH_OVERHEAD + ticket.charge);
        let mut is_new = false;
        let slot = loop {
            if self.queues[at].open.is_none() {
                is_new = true;
                let builder = self.builder(at, max_bytes, ticket.charge);
                self.reserved += builder.capacity();
                let queue = &mut self.queues[at];
                queue.open = Some(open_batch(&queue.partition, builder, &ticket));
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
            let appended = open.builder.try_append(
                timestamp_ms,
                record.key.as_deref(),
                record.value.as_deref(),
                &record.headers,
            );
            self.reserved += open.builder.capacity() - before;
            match appended {
                Ok(index) => {
                    open.charge += ticket.charge;
                    if self.reports.is_some() {
                        open.records.push((ticket.id, timestamp_ms));
                    }
                    break Slot {
                        batch: Arc::clone(&open.result),
                        index,
                    };
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
                    return Err(error(kind, &record.topic).with_source(why));
                }
            }
        };
        self.after_append(at, is_new, ticket.enqueued);
        Ok(slot)
    }

    /// Closes the batch if it is full, and makes sure that the queue is looked at in time.
    fn after_append(&mut self, at: usize, is_new: bool, now: Instant) {
        let queue = &mut self.queues[at];
        if is_new {
            let lingered = now + self.rules.linger;
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
    fn close_full(&mut self, at: usize) {
        self.close_open(at);
        let queue = &mut self.queues[at];
        // Else an answer has to come first, with which it is looked at.
        if queue.turn(&self.rules) != Turn::Wait {
            self.schedule.touch(queue, at);
            self.effects.work = true;
        }
    }

    /// Places the records that waited for their topic, in order.
    pub(super) fn place_waiting(&mut self, name: &Arc<str>, waiting: VecDeque<WaitingRecord>) {
        let Some(place) = self.topics.find(name) else {
            return;
        };
        for held in waiting {
            match self.place(place, &held.record, held.timestamp_ms, held.ticket) {
                Ok(slot) => {
                    self.waiting -= 1;
                    self.effects.cells.push((held.cell, Ok(slot)));
                }
                Err(error) => self.fail_waiting(name, held, Some(error)),
            }
        }
        // What was enqueued before a flush does not linger.
        let view = self.topics.get(name).and_then(|topic| topic.view.as_ref());
        let queues: Vec<_> = view.map_or_else(Vec::new, |view| view.queues.clone());
        for (_, at) in queues {
            let open = self.queues[at].open.as_ref();
            if open.is_some_and(|open| open.epoch < self.epoch) {
                self.close_full(at);
            }
        }
    }

    /// Fails a record that was never put into a batch; without an error, by what is known of its
    /// topic.
    pub(super) fn fail_waiting(
        &mut self,
        name: &Arc<str>,
        held: WaitingRecord,
        why: Option<PublishError>,
    ) {
        let error = why.unwrap_or_else(|| {
            let topic = self.topics.get(name);
            let cause = topic.and_then(|topic| topic.last_error.clone());
            let kind = match &cause {
                Some(cause) if cause.kind() == ErrorKind::UnknownTopic => {
                    PublishErrorKind::UnknownTopic
                }
                Some(cause) if !cause.is_retriable() => super::outcome::kind_of(cause),
                _ => PublishErrorKind::TimedOut,
            };
            let error = error(kind, name);
            match cause {
                Some(cause) => error.with_source(super::outcome::Shared(cause)),
                None => error,
            }
        });
        crate::telemetry::failed(&error, 1);
        self.first_failure.get_or_insert_with(|| error.clone());
        self.waiting -= 1;
        self.count_down(held.ticket.epoch, 1);
        match &mut self.reports {
            Some(reports) => {
                let (id, charge) = (held.ticket.id, held.ticket.charge);
                let item = ReportItem::unplaced(id, error.clone(), charge);
                self.effects.report(reports, item);
            }
            None => self.used -= held.ticket.charge,
        }
        self.effects.progress = true;
        self.effects.cells.push((held.cell, Err(error)));
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
        if self.used == 0 {
            // Nothing is under way, perhaps for long.
            return self.spares.shrink(0);
        }
        let room = self.room_for_spares();
        for buffer in batch.into_buffers() {
            self.spares.give(buffer, room);
        }
    }

    /// How long a record waits for its topic's partitions: at all, and while the cluster says that
    /// there is no such topic.
    pub(super) fn waiting_limits(&self) -> (Duration, Duration) {
        (
            self.config.delivery_timeout,
            self.config.topic_unknown_timeout,
        )
    }
}

fn open_batch(partition: &TopicPartition, builder: BatchBuilder, ticket: &Ticket) -> OpenBatch {
    let result = BatchResult::new(Arc::clone(&partition.topic), partition.partition);
    OpenBatch {
        builder,
        result: Arc::new(result),
        opened: ticket.enqueued,
        charge: 0,
        epoch: ticket.epoch,
        records: Vec::new(),
    }
}
