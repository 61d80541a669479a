//! The loop of the relay that holds the lease: send what may be sent, mark what was acknowledged,
//! read on, renew.

use super::RelayRole;
use super::progress::Progress;
use super::store_call::{Answer, Call};
use super::worker::Worker;
use crate::RelayError;
use crate::window::{Retry, Verdict, Window, verdict};
use futures_util::future::{FutureExt, OptionFuture};
use futures_util::stream::{FuturesUnordered, StreamExt};
use ottla_store::{Lease, OutboxId, OutboxRow, StoreError, StoreErrorKind};
use ottla_types::{BoxFuture, PublishError, Record, RecordMetadata, with_causes};
use std::time::Duration;
use tokio::time::sleep;

/// Rows marked in one transaction at most.
const MARKED_AT_ONCE: usize = 5_000;
/// Sent rows removed in one transaction at most.
const PURGED_AT_ONCE: usize = 1_000;
const PURGE_EVERY_MS: i64 = 60_000;
const COUNT_EVERY_MS: i64 = 10_000;
/// A lane may take up this part of the window, and no more rows than this.
const LANE_PART: usize = 8;
const LANE_ROWS_MAX: usize = 128;
/// A sweep that skipped rows of full lanes gets at least this long to find rows of others, before
/// the table is read from its beginning again.
const SKIPPING_SWEEP_MS: i64 = 100;
/// The wait after the store failed.
const STORE_BACKOFF_MS: i64 = 500;

/// How leading ended.
pub(super) enum Led {
    /// Another relay has the lease.
    Lost,
    /// The relay was told to stop.
    Stopped { unsettled: usize },
    /// The producer is closed.
    Failed(RelayError),
}

type Delivered = (OutboxId, Result<RecordMetadata, PublishError>);
type StoreAnswer = (&'static str, Result<Answer, StoreError>);

pub(super) struct Leader<'a> {
    worker: &'a Worker,
    lease: Lease,
    window: Window,
    deliveries: FuturesUnordered<BoxFuture<'static, Delivered>>,
    /// The one call to the store that runs.
    call: Option<BoxFuture<'static, StoreAnswer>>,
    /// Waits for room in the producer, for this row.
    gate: Option<BoxFuture<'static, (OutboxId, Result<(), PublishError>)>>,
    reader: Reader,
    is_stopping: bool,
    count_at_ms: i64,
    purge_at_ms: i64,
    store_retry_at_ms: i64,
}

/// Where the current sweep over the pending rows is.
struct Reader {
    after: Option<OutboxId>,
    /// Rows may have been committed since the sweep began.
    is_dirty: bool,
    poll_at_ms: i64,
    begun_at_ms: i64,
    /// The last call was a read: let a mark go first, so that neither starves the other.
    was_last: bool,
}

impl<'a> Leader<'a> {
    pub(super) fn new(worker: &'a Worker, lease: Lease) -> Self {
        let now_ms = worker.relay.clock.now_ms();
        let lane_rows = worker.relay.config.max_in_flight_rows / LANE_PART;
        Self {
            worker,
            lease,
            window: Window::new(lane_rows.min(LANE_ROWS_MAX)),
            deliveries: FuturesUnordered::new(),
            call: None,
            gate: None,
            reader: Reader {
                after: None,
                is_dirty: true,
                poll_at_ms: now_ms,
                begun_at_ms: now_ms,
                was_last: false,
            },
            is_stopping: false,
            count_at_ms: now_ms,
            purge_at_ms: now_ms.saturating_add(PURGE_EVERY_MS),
            store_retry_at_ms: now_ms,
        }
    }

    pub(super) async fn lead(mut self) -> Led {
        let worker = self.worker;
        let mut changed = worker.relay.store.changed();
        let mut told = Box::pin(worker.told_to_stop());
        let mut deadline = Box::pin(worker.deadline_passed());
        loop {
            let now_ms = worker.relay.clock.now_ms();
            if let Err(error) = self.send(now_ms) {
                return Led::Failed(error);
            }
            if self.call.is_none() {
                let call = self.next_call(now_ms);
                self.call = call.map(|call| call.start(worker, &self.lease));
            }
            if self.is_settled() {
                // Without the release the next relay waits for the lease to end, no more.
                let release = worker.relay.store.release(&self.lease);
                futures_util::future::select(deadline, release).await;
                return Led::Stopped { unsettled: 0 };
            }
            let nap = self.nap(now_ms);
            let step = tokio::select! {
                Some((what, answer)) = OptionFuture::from(self.call.as_mut()) => {
                    self.call = None;
                    self.answered(what, answer)
                }
                Some(delivered) = self.deliveries.next() => self.land(delivered),
                Some((id, room)) = OptionFuture::from(self.gate.as_mut()) => {
                    self.gate = None;
                    // Others may have taken the room: let them run before the next try.
                    tokio::task::yield_now().await;
                    room.or_else(|error| self.no_room_ever(id, error))
                }
                () = &mut changed => {
                    changed = worker.relay.store.changed();
                    self.reader.is_dirty = true;
                    Ok(())
                }
                () = sleep(nap) => Ok(()),
                () = &mut told, if !self.is_stopping => {
                    self.is_stopping = true;
                    worker.progress.set_role(RelayRole::Stopping);
                    Ok(())
                }
                () = &mut deadline => {
                    return Led::Stopped { unsettled: self.unsettled() };
                }
            };
            if let Err(led) = step {
                return led;
            }
        }
    }

    /// Hands over every row that may go, unless the lease has run out: then another relay may be
    /// at work.
    fn send(&mut self, now_ms: i64) -> Result<(), RelayError> {
        while !self.is_stopping && self.gate.is_none() && now_ms < self.lease.until_ms {
            let Some((id, record)) = self.window.start_next(now_ms) else {
                break;
            };
            let mut delivery = self.worker.relay.publish.enqueue(record);
            match (&mut delivery).now_or_never() {
                Some(result) => self.delivered(id, result)?,
                None => self
                    .deliveries
                    .push(Box::pin(async move { (id, delivery.await) })),
            }
        }
        Ok(())
    }

    /// A delivery resolved; takes those that have resolved with it, so that one mark covers them.
    fn land(&mut self, delivered: Delivered) -> Result<(), Led> {
        let mut next = Some(delivered);
        while let Some((id, result)) = next {
            self.delivered(id, result).map_err(Led::Failed)?;
            next = self.deliveries.next().now_or_never().flatten();
        }
        Ok(())
    }

    fn delivered(
        &mut self,
        id: OutboxId,
        result: Result<RecordMetadata, PublishError>,
    ) -> Result<(), RelayError> {
        let Err(error) = result else {
            self.window.acknowledged(id);
            return Ok(());
        };
        let attempts = self.window.attempts(id);
        match verdict(&error, attempts, &self.worker.relay.config) {
            Verdict::Again(Retry::WhenRoom) => self.wait_for_room(id),
            Verdict::Again(Retry::After(wait_ms)) => {
                self.worker.progress.retried(&error);
                // The first failures of a row, then ever fewer of them.
                if attempts == 0 || attempts.is_power_of_two() {
                    let error = with_causes(&error);
                    tracing::warn!(row = id.0, attempts, error, "outbox row not published yet");
                }
                let now_ms = self.worker.relay.clock.now_ms();
                self.window.failed(id, now_ms.saturating_add(wait_ms));
            }
            Verdict::Park => {
                let error = with_causes(&error);
                tracing::error!(row = id.0, error, "outbox row cannot be published");
                self.window.given_up(id, error);
            }
            Verdict::Stop => return Err(RelayError::ProducerClosed(error)),
        }
        Ok(())
    }

    fn wait_for_room(&mut self, id: OutboxId) {
        let size = self.window.record(id).map_or(0, Record::size);
        self.window.not_taken(id);
        let publish = self.worker.relay.publish.clone();
        self.gate = Some(Box::pin(async move { (id, publish.ready(size).await) }));
    }

    /// The producer cannot have room for this row, or for any.
    fn no_room_ever(&mut self, id: OutboxId, error: PublishError) -> Result<(), Led> {
        if self.window.take(id) {
            self.delivered(id, Err(error)).map_err(Led::Failed)?;
        }
        Ok(())
    }

    /// Whether all that was begun before the stop is done.
    fn is_settled(&self) -> bool {
        self.is_stopping
            && self.call.is_none()
            && self.window.in_flight() == 0
            && !self.window.has_unmarked()
    }

    fn has_room(&self) -> bool {
        let config = &self.worker.relay.config;
        self.window.len() < config.max_in_flight_rows
            && self.window.bytes() < config.max_in_flight_bytes
    }

    /// The most urgent call to the store.
    fn next_call(&mut self, now_ms: i64) -> Option<Call> {
        let config = &self.worker.relay.config;
        if now_ms < self.store_retry_at_ms {
            return None;
        }
        if now_ms >= self.renew_at_ms() {
            return Some(Call::Renew);
        }
        if let Some((id, error)) = self.window.to_park() {
            return Some(Call::Park(id, error));
        }
        if self.window.has_starving_lane() && now_ms >= self.next_sweep_ms() {
            // Its next rows are near the beginning, wherever this sweep is.
            self.reader.after = None;
        }
        let wants_read = self.reader.after.is_some() || now_ms >= self.next_sweep_ms();
        let wants_read = wants_read && self.has_room() && !self.is_stopping;
        let marks = self.window.to_mark(MARKED_AT_ONCE);
        if !marks.is_empty() && (self.reader.was_last || !wants_read) {
            self.reader.was_last = false;
            return Some(Call::Mark(marks));
        }
        if wants_read {
            self.reader.was_last = true;
            if self.reader.after.is_none() {
                self.reader.is_dirty = false;
                self.reader.begun_at_ms = now_ms;
                self.window.begin_sweep();
            }
            return Some(Call::Read {
                after: self.reader.after,
                limit: config.batch_rows,
            });
        }
        if self.is_stopping {
            return None;
        }
        if now_ms >= self.count_at_ms {
            self.count_at_ms = now_ms.saturating_add(COUNT_EVERY_MS);
            return Some(Call::Count);
        }
        (now_ms >= self.purge_at_ms).then(|| {
            self.purge_at_ms = now_ms.saturating_add(PURGE_EVERY_MS);
            let retention_ms = i64::try_from(config.retention.as_millis()).unwrap_or(i64::MAX);
            Call::Purge {
                before_ms: now_ms.saturating_sub(retention_ms),
                limit: PURGED_AT_ONCE,
            }
        })
    }

    fn answered(
        &mut self,
        what: &'static str,
        answer: Result<Answer, StoreError>,
    ) -> Result<(), Led> {
        let now_ms = self.worker.relay.clock.now_ms();
        let answer = match answer {
            Ok(answer) => answer,
            Err(error) if error.kind() == StoreErrorKind::Fenced => return Err(Led::Lost),
            Err(error) => {
                tracing::warn!(what, error = with_causes(&error), "outbox store failed");
                self.worker.progress.store_failed(&error);
                self.reader.is_dirty = true;
                self.store_retry_at_ms = now_ms.saturating_add(STORE_BACKOFF_MS);
                return Ok(());
            }
        };
        match answer {
            // With a new token, another relay has led in between and this window is out of date.
            Answer::Renewed(Some(lease)) if lease.token == self.lease.token => self.lease = lease,
            Answer::Renewed(_) => return Err(Led::Lost),
            Answer::Read { rows, limit } => self.admit(rows, limit, now_ms),
            Answer::Marked(ids) => {
                self.window.settled(&ids);
                self.worker.progress.published(ids.len() as u64);
            }
            Answer::Parked(id) => {
                self.window.settled(&[id]);
                self.worker.progress.parked();
            }
            Answer::Counted(counts) => Progress::counted(&counts, now_ms),
            Answer::Purged { is_full } => {
                if is_full {
                    self.purge_at_ms = now_ms;
                }
            }
        }
        Ok(())
    }

    fn admit(&mut self, rows: Vec<OutboxRow>, limit: usize, now_ms: i64) {
        let is_last_page = rows.len() < limit;
        let max_rows = self.worker.relay.config.max_in_flight_rows;
        for row in rows {
            if self.window.len() >= max_rows {
                // The rest is read again from here when there is room.
                return;
            }
            self.reader.after = Some(row.id);
            self.window.admit(row);
        }
        if is_last_page || self.window.skips_too_much() {
            self.reader.after = None;
            let poll_ms = self.worker.relay.config.poll_interval.as_millis();
            self.reader.poll_at_ms = now_ms.saturating_add(poll_ms as i64);
        }
    }

    /// When the table is to be read from its beginning again.
    fn next_sweep_ms(&self) -> i64 {
        let wanted_ms = if self.reader.is_dirty || self.window.has_starving_lane() {
            i64::MIN
        } else {
            self.reader.poll_at_ms
        };
        if self.window.has_skipped() {
            wanted_ms.max(self.reader.begun_at_ms.saturating_add(SKIPPING_SWEEP_MS))
        } else {
            wanted_ms
        }
    }

    fn renew_at_ms(&self) -> i64 {
        self.lease.until_ms - self.worker.lease_ms() / 3 * 2
    }

    fn unsettled(&self) -> usize {
        self.window.in_flight() + self.window.to_mark(usize::MAX).len()
    }

    /// How long nothing is to be done unless something happens; bounded by the poll interval, so
    /// that a clock which jumps is noticed. Only times that can be acted on count.
    fn nap(&self, now_ms: i64) -> Duration {
        let mut next_ms = i64::MAX;
        if !self.is_stopping && self.gate.is_none() {
            next_ms = self.window.next_due_ms().unwrap_or(i64::MAX);
        }
        if self.call.is_none() {
            let mut call_ms = self.renew_at_ms();
            if !self.is_stopping {
                call_ms = call_ms.min(self.count_at_ms).min(self.purge_at_ms);
                if self.has_room() {
                    call_ms = call_ms.min(self.next_sweep_ms());
                }
            }
            next_ms = next_ms.min(call_ms.max(self.store_retry_at_ms));
        }
        let nap_ms = u64::try_from(next_ms.saturating_sub(now_ms)).unwrap_or(0);
        Duration::from_millis(nap_ms.max(1)).min(self.worker.relay.config.poll_interval)
    }
}
