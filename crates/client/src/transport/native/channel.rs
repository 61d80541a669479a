//! One connection that fetches from one broker: a request for all partitions that are ready there,
//! then the next.
//!
//! Owns the connection and the fetch session on it (KIP-227). What must hold: every cursor that was
//! picked is settled, however the request ends; a broker that answers at once with nothing is not
//! asked in a hot loop; its throttle time is waited for.

use super::failure::{Cure, Failure, share};
use super::fetch::Fetches;
use super::fetch_message as message;
use super::scan::scan;
use super::session::Session;
use super::table::{Job, Outcome, Picked};
use crate::connection::Connection;
use crate::transport::Fetched;
use crate::{Backoff, Error, ErrorKind};
use bytes::Bytes;
use ottla_record_batch::RecordSet;
use ottla_types::ErrorCode;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep_until};

/// A channel without work for so long ends, and its connection with it.
const IDLE_LIMIT: Duration = Duration::from_secs(30);
/// How long the next request waits for callers to take what the last one brought, so that it can
/// be for all partitions again.
const GRACE: Duration = Duration::from_millis(1);
/// Records that are a smaller part of their frame than this are copied out of it, so that those who
/// keep them do not keep the whole frame.
const SHARE_OF_FRAME: usize = 16;

pub(super) struct Channel {
    fetches: Arc<Fetches>,
    broker: i32,
    connection: Option<Connection>,
    session: Session,
    /// The broker wants no request before this.
    not_before: Instant,
    /// For answers that come at once and bring nothing.
    backoff: Backoff,
}

impl Channel {
    pub(super) fn new(fetches: Arc<Fetches>, broker: i32) -> Self {
        Self {
            backoff: fetches.leaders.cluster.backoff(),
            fetches,
            broker,
            connection: None,
            session: Session::default(),
            not_before: Instant::now(),
        }
    }

    /// Runs until there was nothing to do for a while, or the transport is closed.
    pub(super) async fn run(mut self) {
        let fetches = self.fetches.clone();
        let working = self.work();
        let _ = fetches.closed.run_until_cancelled(working).await;
        fetches.ended(self.broker);
    }

    async fn work(&mut self) {
        let fetches = self.fetches.clone();
        loop {
            sleep_until(self.not_before).await;
            let Some(job) = fetches.next(self.broker, Instant::now()) else {
                if fetches.wait(self.broker, IDLE_LIMIT).await {
                    continue;
                }
                return;
            };
            let outcomes = self.request(&job).await;
            if self.settle(&job, outcomes) {
                fetches.wait(self.broker, GRACE).await;
            }
        }
    }

    /// Tells the cursors what came of them; `true` if somebody waits for a result.
    fn settle(&self, job: &Job, outcomes: Vec<Outcome>) -> bool {
        let now = Instant::now();
        let was_alone = job.cursors.len() == 1;
        let (mut is_awaited, mut has_lost) = (false, false);
        let mut state = self.fetches.state();
        for (picked, outcome) in job.cursors.iter().zip(outcomes) {
            let is_done = matches!(outcome, Outcome::Done(_));
            has_lost |= matches!(outcome, Outcome::Lost { .. } | Outcome::Moved);
            is_awaited |= state.table.settle(picked, was_alone, outcome, now) && is_done;
        }
        if has_lost {
            self.fetches.resolve(&mut state);
        }
        if is_awaited {
            // With the lock, so that those who were woken find it so.
            Fetches::rest(&mut state, self.broker);
        }
        is_awaited
    }

    /// Makes the request; an outcome for each cursor, in their order.
    async fn request(&mut self, job: &Job) -> Vec<Outcome> {
        let started = Instant::now();
        let (answer, frame_bytes) = match self.exchange(job, started).await {
            Ok(answer) => answer,
            Err(error) => {
                self.session.reset();
                return fail_all(job, error);
            }
        };
        let throttle = u64::try_from(answer.throttle_ms).unwrap_or_default();
        self.not_before = Instant::now() + Duration::from_millis(throttle);
        match answer.code {
            ErrorCode::NONE => self.session.answered(answer.session_id),
            ErrorCode::FETCH_SESSION_ID_NOT_FOUND
            | ErrorCode::INVALID_FETCH_SESSION_EPOCH
            | ErrorCode::FETCH_SESSION_TOPIC_ID_ERROR => {
                self.session.reset();
                self.slow_down();
                return job.cursors.iter().map(|_| Outcome::Again).collect();
            }
            code => {
                self.session.reset();
                return fail_all(job, Error::from_code(code, message::NAME));
            }
        }
        let mut outcomes: Vec<_> = job.cursors.iter().map(|_| Outcome::Nothing).collect();
        let mut has_news = false;
        for part in answer.partitions {
            let wanted = (part.topic.as_str(), part.partition);
            let at = job.cursors.binary_search_by(|picked| {
                let partition = &picked.partition;
                (&*partition.topic, partition.partition).cmp(&wanted)
            });
            let Ok(at) = at else { continue };
            let outcome = self.judge(part, &job.cursors[at], frame_bytes);
            has_news |= !matches!(outcome, Outcome::Nothing);
            outcomes[at] = outcome;
        }
        tracing::trace!(
            broker = self.broker,
            partitions = job.cursors.len(),
            bytes = frame_bytes,
            has_news,
            ms = started.elapsed().as_millis(),
            "fetched"
        );
        if has_news {
            self.backoff.reset();
        } else if started.elapsed() < job.max_wait / 2 {
            self.slow_down();
        }
        outcomes
    }

    fn slow_down(&mut self) {
        let not_before = Instant::now() + self.backoff.next_delay();
        self.not_before = self.not_before.max(not_before);
    }

    async fn exchange(
        &mut self,
        job: &Job,
        now: Instant,
    ) -> Result<(message::Answer, usize), Error> {
        let connection = self.connect(now).await?;
        let cluster = &self.fetches.leaders.cluster;
        let version = connection.agreed(message::KEY, message::NAME, message::VERSIONS)?;
        // Room for the rest of the answer around the records.
        let room = i32::try_from(cluster.config.max_response_bytes / 2).unwrap_or(i32::MAX);
        let bytes = |n: u32| i32::try_from(n).unwrap_or(i32::MAX).min(room);
        let wanted: Vec<_> = job
            .in_turn()
            .into_iter()
            .map(|picked| {
                let wanted = message::Wanted {
                    offset: picked.position,
                    leader_epoch: picked.leader.epoch,
                    max_bytes: bytes(picked.max_bytes),
                };
                (&picked.partition, wanted)
            })
            .collect();
        let (ask, forgotten) = if version >= message::SESSIONS_FROM {
            self.session.next(wanted)
        } else {
            (wanted, Vec::new())
        };
        let terms = message::Terms {
            max_wait_ms: i32::try_from(job.max_wait.as_millis()).unwrap_or(i32::MAX),
            min_bytes: bytes(job.min_bytes),
            max_bytes: bytes(job.max_bytes),
            read_committed: self.fetches.read_committed,
            session_id: self.session.id(),
            session_epoch: self.session.epoch(),
        };
        let mut frame = connection.frame(message::KEY, version, message::is_flexible(version));
        message::write(&mut frame, version, terms, &ask, &forgotten);
        let deadline = Instant::now() + job.max_wait + cluster.config.request_timeout;
        let submitted = connection
            .submit(message::NAME, frame, deadline, true)
            .await?;
        let body = submitted.answer().await?;
        let size = body.len();
        let answer = message::read(body, version)
            .map_err(|cause| connection.refuse(message::NAME, cause))?;
        Ok((answer, size))
    }

    async fn connect(&mut self, now: Instant) -> Result<Connection, Error> {
        if let Some(connection) = &self.connection {
            if !connection.is_closed() {
                return Ok(connection.clone());
            }
            metrics::counter!("ottla_client_reconnects_total").increment(1);
        }
        self.session.reset();
        let cluster = &self.fetches.leaders.cluster;
        let broker = cluster
            .broker(self.broker)
            .ok_or_else(|| Error::from_code(ErrorCode::BROKER_NOT_AVAILABLE, message::NAME))?;
        let connection = cluster
            .connector
            .connect(
                broker.name.clone(),
                &broker.address,
                now + cluster.config.connect_timeout,
            )
            .await?;
        Ok(self.connection.insert(connection).clone())
    }

    fn judge(
        &self,
        part: message::PartitionAnswer,
        picked: &Picked,
        frame_bytes: usize,
    ) -> Outcome {
        if part.code != ErrorCode::NONE {
            return self.judge_error(&part, picked);
        }
        let aborted = self.fetches.read_committed.then_some(part.aborted);
        let scanned = scan(&part.records, picked.position, aborted);
        if scanned.records.is_empty() && scanned.next_offset == picked.position {
            return Outcome::Nothing;
        }
        let at_least_0 = |offset| (offset >= 0).then_some(offset);
        Outcome::Done(Ok(Fetched {
            records: RecordSet::from(unpinned(scanned.records, frame_bytes)),
            next_offset: scanned.next_offset,
            leader_epoch: None,
            topic_id: None,
            high_watermark: part.high_watermark,
            last_stable_offset: at_least_0(part.last_stable_offset),
            log_start_offset: at_least_0(part.log_start_offset),
        }))
    }

    fn judge_error(&self, part: &message::PartitionAnswer, picked: &Picked) -> Outcome {
        let mut error = Error::from_code(part.code, message::NAME)
            .with_partition(picked.partition.clone())
            .with_offset(picked.position);
        if let Some(connection) = &self.connection {
            error = error.with_broker(&**connection.broker());
        }
        let Failure { error, cure } = Failure::new(error);
        match cure {
            Cure::None => Outcome::Done(Err(error)),
            Cure::Wait | Cure::AtOnce => Outcome::Lost {
                why: error,
                refresh: false,
            },
            Cure::Refresh => {
                let leaders = &self.fetches.leaders;
                match part.leader {
                    Some(leader) if leaders.hint(&picked.partition, leader, &[]) => Outcome::Moved,
                    _ => Outcome::Lost {
                        why: error,
                        refresh: true,
                    },
                }
            }
        }
    }
}

/// The outcomes of a request that failed as a whole.
fn fail_all(job: &Job, error: Error) -> Vec<Outcome> {
    let Failure { error, cure } = Failure::new(error);
    let error = Arc::new(error);
    let outcome = |picked: &Picked| {
        let why = share(&error, &picked.partition).with_offset(picked.position);
        match cure {
            Cure::None if error.kind() == ErrorKind::Protocol => Outcome::Unreadable(why),
            Cure::None => Outcome::Done(Err(why)),
            _ => Outcome::Lost {
                why,
                refresh: cure == Cure::Refresh,
            },
        }
    };
    job.cursors.iter().map(outcome).collect()
}

/// The records, copied if they are a small part of a frame that is not small.
fn unpinned(records: Bytes, frame_bytes: usize) -> Bytes {
    if records.len() < frame_bytes / SHARE_OF_FRAME && frame_bytes > 64 << 10 {
        Bytes::copy_from_slice(&records)
    } else {
        records
    }
}
