//! What the member does with found positions and fetched records.

use super::core::Member;
use super::fetch::{Answer, Read};
use super::lookup::{Found, Located, LookupError, Pin};
use super::partition::{Lookup, Owned, Position, may_pass};
use crate::lane::{Chunk, Trouble};
use crate::{AutoOffsetReset, Error, ErrorKind, OnUnreadable};
use ottla_client::Error as ClientError;
use ottla_client::transport::{FetchPosition, Fetched};
use ottla_types::{Offset, TopicPartition};
use tokio::time::Instant;

/// Reads of one position that may fail to decode before `unreadable.records` applies: a bad checksum
/// can come from the way, not from the log.
const UNREADABLE_TRIES: u32 = 3;

impl Member {
    /// Takes found positions. Those of an earlier assignment are dropped.
    pub(super) fn on_found(&mut self, found: Vec<Found>, now: Instant) {
        for Found {
            partition,
            incarnation,
            seeks,
            lookup,
            result,
        } in found
        {
            let Some(owned) = self.partitions.get_mut(&partition) else {
                continue;
            };
            if (owned.incarnation, owned.seeks) != (incarnation, seeks)
                || owned.position != Position::LookingUp(lookup)
                || owned.drain_by.is_some()
            {
                continue;
            }
            match (result, lookup) {
                (Ok(located), Lookup::Committed) => {
                    if located.committed.is_none() {
                        owned.progress.mark_reset(located.position.offset);
                    }
                    self.begin(&partition, located, true, now);
                }
                (Ok(located), Lookup::Start(_)) => {
                    let offset = located.position.offset;
                    match owned.seeks {
                        0 => owned.progress.mark_reset(offset),
                        _ => owned.progress.mark_sought(offset),
                    }
                    self.begin(&partition, located, false, now);
                }
                (Ok(located), Lookup::OutOfRange(asked)) => {
                    self.reset(&partition, asked, located.position, now);
                }
                (Ok(located), Lookup::Truncated | Lookup::Recreated) => {
                    self.start_over(&partition, located.position, now);
                }
                (Err(LookupError::MayPass(error)), _) => {
                    owned.look_up_later(lookup, now);
                    self.tried_in_vain(&partition, &error, "no position yet", now);
                }
                (Err(LookupError::Final(error)), _) => self.stop(&partition, error),
            }
        }
    }

    /// What failed is tried again.
    fn tried_in_vain(
        &mut self,
        partition: &TopicPartition,
        error: &ClientError,
        what: &str,
        now: Instant,
    ) {
        if self.missed(partition, error, now) {
            // Said already, and better.
            tracing::debug!(group = %self.spec.group, %partition, %error, what);
        } else {
            tracing::warn!(group = %self.spec.group, %partition, %error, what);
            self.spec.board.set_last_error(error);
        }
    }

    /// Begins to consume a partition. `keeps`: a place that a reset found is kept until it is
    /// committed (C14).
    fn begin(&mut self, partition: &TopicPartition, located: Located, keeps: bool, now: Instant) {
        let Located {
            position,
            committed,
            metadata,
        } = located;
        let offset = position.offset;
        let Some(mut owned) = self.partitions.remove(partition) else {
            return;
        };
        tracing::debug!(group = %self.spec.group, %partition, offset, ?committed, "begins");
        match committed {
            Some(committed) if committed == offset => {
                owned.progress.located_with(committed, &metadata);
            }
            _ => owned.progress.located(offset, committed),
        }
        owned.missed = None;
        owned.lane = Some(self.start_lane(partition, &owned, offset));
        owned.read_at(position, now);
        owned.sought(Ok(offset));
        // A transaction that is aborted goes back to where the group is, or to where this began.
        let is_elsewhere = self.transactor.is_some() && committed != Some(offset);
        if is_elsewhere || (keeps && committed.is_none()) {
            self.pins.insert(partition.clone(), Pin::at(offset));
        } else if committed.is_some() {
            self.pins.remove(partition);
        }
        if committed.is_none() {
            self.hurry_commit(now);
        }
        self.partitions.insert(partition.clone(), owned);
    }

    /// The broker does not have `asked`; reading goes on at `offset`.
    fn reset(
        &mut self,
        partition: &TopicPartition,
        asked: FetchPosition,
        position: FetchPosition,
        now: Instant,
    ) {
        let Some(owned) = self.partitions.get_mut(partition) else {
            return;
        };
        if position.offset == asked.offset {
            return owned.retry_at(asked, now);
        }
        if position.offset < asked.offset {
            return self.fall_back(partition, position, now);
        }
        self.tell_reset(partition, asked.offset, position.offset);
        // What the lane has comes first; the gap counts as handled behind it.
        let Some(owned) = self.partitions.get_mut(partition) else {
            return;
        };
        if owned.deliver(Chunk::end(position.offset)) {
            owned.read_at(position, now);
        } else {
            owned.look_up_later(Lookup::OutOfRange(asked), now);
        }
    }

    fn tell_reset(&self, partition: &TopicPartition, asked: Offset, offset: Offset) {
        tracing::error!(
            group = %self.spec.group,
            %partition,
            asked,
            offset,
            "the position is not in the log: reset; records were deleted or truncated"
        );
        metrics::counter!("ottla_consumer_resets_total", "group" => self.spec.group.to_string())
            .increment(1);
    }

    /// The log was truncated: what is above `position` is not in it any more. What is below and was
    /// read, but not handled, is read again.
    fn fall_back(&mut self, partition: &TopicPartition, position: FetchPosition, now: Instant) {
        let owned = self.partitions.get(partition);
        let handled = owned.and_then(|owned| owned.progress.handled());
        let position = match handled {
            Some(handled) if handled < position.offset => handled.into(),
            _ => position,
        };
        self.start_over(partition, position, now);
    }

    /// The log was truncated or made anew: what the lane has is not in it any more.
    fn start_over(&mut self, partition: &TopicPartition, position: FetchPosition, now: Instant) {
        let owned = self.partitions.get(partition);
        let handled = owned.and_then(|owned| owned.progress.handled());
        let is_paused = owned.is_some_and(|owned| owned.progress.is_paused());
        self.tell_reset(partition, handled.unwrap_or(-1), position.offset);
        self.forget(std::slice::from_ref(partition));
        let owned = self.new_incarnation(partition, now);
        owned.progress.set_paused(is_paused);
        self.partitions.insert(partition.clone(), owned);
        let located = Located {
            position,
            committed: None,
            metadata: String::new(),
        };
        self.begin(partition, located, true, now);
        self.partitions_changed();
    }

    /// Takes fetched records. Answers for an earlier assignment or position are dropped (C7, C24),
    /// and nothing but records and a later end moves the position (C4).
    pub(super) fn on_fetched(&mut self, answers: Vec<Answer>, now: Instant) {
        for answer in answers {
            let Some(owned) = self.partitions.get_mut(&answer.partition) else {
                continue;
            };
            if owned.incarnation != answer.incarnation
                || owned.position != Position::Fetching(answer.position)
                // What is being given up is not begun anew.
                || owned.drain_by.is_some()
            {
                continue;
            }
            match answer.result {
                Read::Nothing => owned.read_at(answer.position, now),
                Read::Some(fetched) => {
                    owned.missed = None;
                    owned.progress.set_high_watermark(fetched.high_watermark);
                    owned.lag.show(&owned.progress);
                    take(owned, answer.position, fetched, now);
                }
                Read::Failed(error) => {
                    self.on_fetch_failed(&answer.partition, answer.position, error, now);
                }
            }
        }
    }

    /// Sees to what lanes could not read.
    pub(super) fn on_troubles(&mut self, now: Instant) {
        let told = self.partitions.iter_mut().filter_map(|(partition, owned)| {
            let trouble = owned.progress.take_trouble()?;
            // What was sent before is dropped by the lane.
            owned.reading += 1;
            Some((partition.clone(), trouble))
        });
        for (partition, trouble) in told.collect::<Vec<_>>() {
            self.on_trouble(&partition, trouble, now);
        }
    }

    fn on_fetch_failed(
        &mut self,
        partition: &TopicPartition,
        position: FetchPosition,
        error: ClientError,
        now: Instant,
    ) {
        use ottla_client::ErrorKind as Kind;
        let resets = self.spec.config.auto_offset_reset != AutoOffsetReset::Error;
        // A transport that gives records as they are does not look into them: what it does not
        // support is the broker, and skipping records would not help.
        let transport = self.spec.client.transport();
        let is_about_records = !transport.capabilities().header_fidelity;
        let Some(owned) = self.partitions.get_mut(partition) else {
            return;
        };
        if !may_pass(&error) || error.kind() == Kind::OffsetOutOfRange {
            self.spec.board.set_last_error(&error);
        }
        match error.kind() {
            Kind::OffsetOutOfRange => {
                owned.look_up(Lookup::OutOfRange(position), now);
            }
            Kind::TopicRecreated if resets => owned.look_up(Lookup::Recreated, now),
            Kind::Truncated if resets => match error.diverging_offset() {
                Some(offset) => self.fall_back(partition, offset.into(), now),
                None => owned.look_up(Lookup::Truncated, now),
            },
            kind @ (Kind::Gap | Kind::Unsupported | Kind::InvalidRecord)
                if kind != Kind::Unsupported || is_about_records =>
            {
                let at = error.offset().unwrap_or(position.offset);
                let at = at.max(position.offset);
                let error = Error::new(ErrorKind::Unreadable).with_source(error);
                self.on_unreadable(partition, position, at, at.saturating_add(1), error, now);
            }
            _ if may_pass(&error) => {
                owned.retry_at(position, now);
                self.tried_in_vain(partition, &error, "a fetch failed", now);
            }
            _ => self.stop(partition, error.into()),
        }
    }

    fn on_trouble(&mut self, partition: &TopicPartition, trouble: Trouble, now: Instant) {
        let Some(owned) = self.partitions.get_mut(partition) else {
            return;
        };
        if owned.drain_by.is_some() || matches!(owned.position, Position::Stopped) {
            return;
        }
        let Trouble {
            offset,
            leader_epoch,
            error,
        } = trouble;
        let position = FetchPosition {
            offset,
            leader_epoch,
            topic_id: owned.topic_id,
        };
        let before = owned.unreadable.filter(|(at, _)| *at == offset);
        let tries = before.map_or(0, |(_, tries)| tries) + 1;
        owned.unreadable = Some((offset, tries));
        // What comes back on every fetch is not fetched again.
        let behind_batch = error.skip_to();
        if behind_batch.is_none() && tries < UNREADABLE_TRIES {
            tracing::warn!(group = %self.spec.group, %partition, offset, %error, "reading again");
            owned.retry_at(position, now);
        } else {
            let at = error.offset().max(offset);
            let next = behind_batch.unwrap_or(at).max(at.saturating_add(1));
            let error = Error::new(ErrorKind::Unreadable).with_source(error);
            self.on_unreadable(partition, position, at, next, error, now);
        }
    }

    /// Stops the partition at `offset`, or goes on at `next`, as the configuration says. `position`
    /// is what was asked for.
    fn on_unreadable(
        &mut self,
        partition: &TopicPartition,
        position: FetchPosition,
        offset: Offset,
        next: Offset,
        error: Error,
        now: Instant,
    ) {
        let error = error.with_partition(partition.clone()).with_offset(offset);
        if self.spec.config.on_unreadable == OnUnreadable::Stop {
            return self.stop(partition, error);
        }
        let Some(owned) = self.partitions.get_mut(partition) else {
            return;
        };
        tracing::error!(group = %self.spec.group, %error, "skipping what cannot be read");
        metrics::counter!("ottla_consumer_unreadable_total", "group" => self.spec.group.to_string())
            .increment(1);
        if owned.deliver(Chunk::end(next)) {
            let offset = next;
            owned.read_at(FetchPosition { offset, ..position }, now);
        } else {
            owned.retry_at(position, now);
        }
    }

    fn stop(&mut self, partition: &TopicPartition, error: Error) {
        let error = error.with_group(&*self.spec.group);
        tracing::error!(%error, "the partition is stopped");
        self.spec.board.set_last_error(&error);
        if let Some(desk) = self.spec.work.desk() {
            desk.report(error.clone());
        }
        if let Some(owned) = self.partitions.get_mut(partition) {
            owned.stop(error);
        }
    }
}

/// Hands what was fetched to the lane.
fn take(owned: &mut Owned, asked: FetchPosition, fetched: Fetched, now: Instant) {
    let next = fetched.next_position();
    if next.offset <= asked.offset && fetched.records.is_empty() {
        return owned.read_at(asked, now);
    }
    owned.topic_id = next.topic_id.or(asked.topic_id);
    let chunk = Chunk {
        records: fetched.records,
        next_offset: next.offset,
        reading: 0,
    };
    if !owned.deliver(chunk) {
        owned.retry_at(asked, now);
    } else if next.offset <= asked.offset {
        // Nothing but what the lane cannot read: it tells so.
        owned.retry_at(asked, now);
    } else {
        owned.read_at(next, now);
    }
}
