//! Records come in: checked, given a partition and put into a batch.

use super::batch::OpenBatch;
use super::moment::{Clocks, Moment};
use super::topic::{Ticket, Topic, WaitingRecord};
use super::{Accumulator, Phase};
use crate::deliveries::Deliveries;
use crate::handle::{DeliveryHandle, Slot, WaitCell};
use crate::partition::{PartitionError, Partitions};
use crate::report::ReportItem;
use ottla_client::ErrorKind;
use ottla_client::transport::RecordRefusal;
use ottla_record_batch::{BATCH_OVERHEAD, record_size};
use ottla_types::{
    AsRecord, Fate, PublishError, PublishErrorKind, Record, RecordRef, validate_topic_name,
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

/// What a caller does when there is no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Caller {
    /// It wants an answer now.
    Insists,
    /// It comes again after some progress.
    Waits,
}

pub(super) fn error(kind: PublishErrorKind, topic: &Arc<str>) -> PublishError {
    PublishError::new(kind, Fate::NotWritten, Arc::clone(topic))
}

/// The place of the record that stands at `index` in an open batch.
fn slot_of(open: &mut OpenBatch, index: u32) -> Slot {
    Slot {
        batch: Arc::clone(&open.result),
        index,
    }
}

/// What became of a record that there was room for.
enum Taken<S> {
    /// It is in a batch.
    Placed { id: u64, timestamp_ms: i64, slot: S },
    /// It waits for its topic, or was refused.
    Apart(DeliveryHandle),
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
    /// Takes a record, or refuses it with a handle that has failed already. Nothing when there is no room
    /// for it now.
    pub(crate) fn enqueue(
        &mut self,
        record: &impl AsRecord,
        caller: Caller,
        clocks: impl Clocks,
    ) -> Option<DeliveryHandle> {
        let moment = &mut Moment::new(clocks);
        Some(match self.take(record, caller, moment, slot_of)? {
            Taken::Placed {
                id,
                timestamp_ms,
                slot,
            } => DeliveryHandle::placed(id, timestamp_ms, slot),
            Taken::Apart(handle) => handle,
        })
    }

    /// Takes records from the first on, as long as there is room, for a caller that comes again with the
    /// others. What became of them goes to `deliveries`. Returns how many were taken or refused.
    pub(crate) fn enqueue_all(
        &mut self,
        records: &[impl AsRecord],
        deliveries: &mut Deliveries,
        clocks: impl Clocks,
    ) -> usize {
        let mut moment = Moment::new(clocks);
        self.calls += 1;
        let call = self.calls;
        for (done, record) in records.iter().enumerate() {
            let slot = |open: &mut OpenBatch, index| {
                if open.noted.0 != call {
                    open.noted = (call, deliveries.note(&open.result));
                }
                (open.noted.1, index)
            };
            match self.take(record, Caller::Waits, &mut moment, slot) {
                Some(Taken::Placed {
                    id,
                    timestamp_ms,
                    slot: (batch, index),
                }) => deliveries.push_placed(id, timestamp_ms, batch, index),
                Some(Taken::Apart(handle)) => deliveries.push(handle),
                None => return done,
            }
        }
        records.len()
    }

    /// Takes a record; `slot` notes its place in a batch.
    #[inline]
    fn take<S>(
        &mut self,
        held: &impl AsRecord,
        caller: Caller,
        moment: &mut Moment<impl Clocks>,
        slot: impl FnMut(&mut OpenBatch, u32) -> S,
    ) -> Option<Taken<S>> {
        let record = held.as_record();
        if self.phase != Phase::Open {
            let closed = error(PublishErrorKind::Closed, record.topic);
            return Some(Taken::Apart(DeliveryHandle::failed(self.take_id(), closed)));
        }
        let place = self.topics.find(record.topic);
        if caller == Caller::Waits
            && let Some(topic) = place.and_then(|place| self.topics.at(place))
            && !topic.has_place()
        {
            return None;
        }
        let charge = record_size(record.key, record.value, record.headers);
        let checked = self.check(&record, charge, place.is_some());
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
            return Some(Taken::Apart(self.refuse(id, error)));
        }
        let ticket = Ticket {
            id,
            charge,
            epoch: self.epoch,
        };
        let timestamp_ms = match record.timestamp_ms {
            Some(own) => own,
            None => moment.ms(),
        };
        let place = place.unwrap_or_else(|| self.add_topic(record.topic, moment.now()));
        if let Some(topic) = self.topics.at(place)
            && topic.view.is_none()
        {
            let now = moment.now();
            topic.last_used = now;
            let handle = self.hold(place, held.to_record(), timestamp_ms, ticket, now);
            return Some(Taken::Apart(handle));
        }
        Some(
            match self.place(
                place,
                &record,
                timestamp_ms,
                ticket,
                &mut || moment.now(),
                slot,
            ) {
                Ok(slot) => {
                    self.count_up(&ticket);
                    Taken::Placed {
                        id,
                        timestamp_ms,
                        slot,
                    }
                }
                Err(error) => Taken::Apart(self.refuse(id, error)),
            },
        )
    }

    /// Keeps a record until its topic's partitions are known.
    fn hold(
        &mut self,
        place: usize,
        record: Record,
        timestamp_ms: i64,
        ticket: Ticket,
        enqueued: Instant,
    ) -> DeliveryHandle {
        let cell = Arc::new(WaitCell::default());
        let handle = DeliveryHandle::waiting(ticket.id, timestamp_ms, Arc::clone(&cell));
        if let Some(topic) = self.topics.at(place) {
            topic.waiting.push_back(WaitingRecord {
                record,
                timestamp_ms,
                cell,
                enqueued,
                ticket,
            });
            self.waiting += 1;
            self.count_up(&ticket);
        }
        handle
    }

    /// Whether the topic's partitions are known, or a record more may wait for them.
    pub(crate) fn has_place(&self, topic: &str) -> bool {
        // One that is closed has the answer at once.
        self.phase != Phase::Open || self.topics.get(topic).is_none_or(Topic::has_place)
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

    fn check(
        &self,
        record: &RecordRef<'_>,
        size: usize,
        is_known: bool,
    ) -> Result<(), PublishError> {
        let invalid = |why| error(PublishErrorKind::InvalidRecord, record.topic).with_source(why);
        if !is_known {
            validate_topic_name(record.topic).map_err(|why| {
                error(PublishErrorKind::InvalidRecord, record.topic).with_source(why)
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
            return Err(error(PublishErrorKind::RecordTooLarge, record.topic).with_source(why));
        }
        if !self.header_fidelity {
            RecordRefusal::of_headers(record.headers)
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
        let topic = Topic::new(name, self.partitioner.for_topic(name), now);
        self.wanted.push(Arc::clone(name));
        self.want_producer();
        self.effects.work = true;
        self.topics.insert(Arc::clone(name), topic)
    }

    /// Puts a record of a known topic into a batch.
    #[inline]
    fn place<S>(
        &mut self,
        place: usize,
        record: &RecordRef<'_>,
        timestamp_ms: i64,
        ticket: Ticket,
        now: &mut dyn FnMut() -> Instant,
        slot: impl FnMut(&mut OpenBatch, u32) -> S,
    ) -> Result<S, PublishError> {
        let queue = self.choose(place, record)?;
        self.append(queue, record, timestamp_ms, ticket, now, slot)
    }

    fn choose(&mut self, place: usize, record: &RecordRef<'_>) -> Result<usize, PublishError> {
        let name = record.topic;
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

    /// Places the records that waited for their topic, in order.
    pub(super) fn place_waiting(&mut self, name: &Arc<str>, waiting: VecDeque<WaitingRecord>) {
        let Some(place) = self.topics.find(name) else {
            return;
        };
        for held in waiting {
            let record = held.record.as_record();
            let mut enqueued = || held.enqueued;
            let (ms, ticket) = (held.timestamp_ms, held.ticket);
            match self.place(place, &record, ms, ticket, &mut enqueued, slot_of) {
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

    /// How long a record waits for its topic's partitions: at all, and while the cluster says that
    /// there is no such topic.
    pub(super) fn waiting_limits(&self) -> (Duration, Duration) {
        (
            self.config.delivery_timeout,
            self.config.topic_unknown_timeout,
        )
    }
}
