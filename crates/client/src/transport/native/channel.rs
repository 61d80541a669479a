//! One connection that fetches from one broker: a request for all partitions that are ready there,
//! then the next.
//!
//! Owns the connection and the fetch session on it (KIP-227). What must hold: every cursor that was
//! picked is settled, however the request ends, a panic included; a broker that answers at once with nothing is not
//! asked in a hot loop; its throttle time is waited for.

use super::cursor::{Answered, Outcome, Picked};
use super::epochs;
use super::fetch::{Fetches, Held, LAST_WAIT, Running};
use super::fetch_message as message;
use super::judge::{Judge, fail_all};
use super::session::Session;
use super::table::Job;
use crate::connection::Connection;
use crate::{Backoff, Error};
use ottla_types::ErrorCode;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep_until};

/// A channel without work for so long ends, and its connection with it.
const IDLE_LIMIT: Duration = Duration::from_secs(30);
/// How long the next request waits for callers to take what the last one brought, so that it can
/// be for all partitions again.
const GRACE: Duration = Duration::from_millis(1);
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

/// What came of a request.
enum Exchanged {
    /// An answer of the broker, and how large it was.
    Fetched(message::Answer, usize),
    /// Positions were compared with the leader's log instead.
    Checked(Vec<Outcome>),
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
        let running = Running {
            fetches: self.fetches.clone(),
            broker: self.broker,
        };
        let working = self.work();
        let _ = running.fetches.closed.run_until_cancelled(working).await;
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
            let mut held = Held {
                fetches: fetches.clone(),
                job,
                is_settled: false,
            };
            let (outcomes, frame_bytes) = self.request(&held.job).await;
            let is_quiet = |outcome: &Outcome| matches!(outcome, Outcome::Nothing);
            let is_quiet = outcomes.iter().all(is_quiet);
            let is_awaited = self.settle(&held.job, outcomes, frame_bytes);
            held.is_settled = true;
            drop(held);
            if is_awaited {
                fetches.wait(self.broker, GRACE).await;
            } else if is_quiet && fetches.rest_if_crowded(self.broker) {
                fetches.wait(self.broker, LAST_WAIT).await;
            }
        }
    }

    /// Tells the cursors what came of them; `true` if somebody waits for a result.
    fn settle(&self, job: &Job, outcomes: Vec<Outcome>, frame_bytes: usize) -> bool {
        let now = Instant::now();
        let of = Answered {
            was_alone: job.cursors.len() == 1,
            frame_bytes,
        };
        let (mut is_awaited, mut has_lost, mut has_moved) = (false, false, false);
        let mut state = self.fetches.state();
        for (picked, outcome) in job.cursors.iter().zip(outcomes) {
            let is_done = matches!(outcome, Outcome::Done(_));
            has_moved |= matches!(outcome, Outcome::Elsewhere(_));
            has_lost |= matches!(
                outcome,
                Outcome::Lost { .. } | Outcome::Moved | Outcome::Doubted(_)
            );
            is_awaited |= state.table.settle(picked, outcome, &of, now) && is_done;
        }
        if has_lost {
            self.fetches.resolve(&mut state);
        }
        if has_moved {
            self.fetches.kick(&mut state);
        }
        if is_awaited {
            // With the lock, so that those who were woken find it so.
            Fetches::rest(&mut state, self.broker);
        }
        is_awaited
    }

    /// Makes the request; an outcome for each cursor, in their order, and the answer's size.
    async fn request(&mut self, job: &Job) -> (Vec<Outcome>, usize) {
        let started = Instant::now();
        let (answer, frame_bytes) = match self.exchange(job, started).await {
            Ok(Exchanged::Fetched(answer, size)) => (answer, size),
            Ok(Exchanged::Checked(outcomes)) => return (outcomes, 0),
            Err(error) => {
                self.session.reset();
                return (fail_all(job, error), 0);
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
                return (again(job), 0);
            }
            code => {
                self.session.reset();
                return (fail_all(job, Error::from_code(code, message::NAME)), 0);
            }
        }
        let Some(connection) = &self.connection else {
            return (again(job), 0);
        };
        let judge = Judge {
            leaders: &self.fetches.leaders,
            connection,
            read_committed: self.fetches.read_committed,
            frame_bytes,
        };
        let outcomes = judge.judge(job, answer);
        let is_news = |outcome: &Outcome| !matches!(outcome, Outcome::Nothing);
        let has_news = outcomes.iter().any(is_news);
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
        (outcomes, frame_bytes)
    }

    fn slow_down(&mut self) {
        let not_before = Instant::now() + self.backoff.next_delay();
        self.not_before = self.not_before.max(not_before);
    }

    async fn exchange(&mut self, job: &Job, now: Instant) -> Result<Exchanged, Error> {
        let connection = self.connect(now).await?;
        let cluster = &self.fetches.leaders.cluster;
        let mut version = connection.agreed(message::KEY, message::NAME, message::VERSIONS)?;
        let has_ids = job.cursors.iter().all(|p| p.leader.topic_id.is_some());
        if !has_ids {
            version = version.min(message::NAMES_UNTIL);
        }
        if job.cursors.iter().any(|p| p.wants_check(version)) && epochs::can_ask(&connection) {
            let deadline = now + cluster.config.request_timeout;
            let wants_check = |picked: &_| Picked::wants_check(picked, version);
            let checked = epochs::check(&connection, job, wants_check, deadline);
            return checked.await.map(Exchanged::Checked);
        }
        let names_ids = version > message::NAMES_UNTIL;
        if self.session.has_ids != names_ids {
            self.session.reset();
            self.session.has_ids = names_ids;
        }
        // Room for the rest of the answer around the records.
        let room = i32::try_from(cluster.config.max_response_bytes / 2).unwrap_or(i32::MAX);
        let bytes = |n: u32| i32::try_from(n).unwrap_or(i32::MAX).min(room);
        let wanted: Vec<_> = job
            .in_turn()
            .into_iter()
            .map(|picked| {
                let topic_id = picked.leader.topic_id.filter(|_| names_ids);
                let wanted = message::Wanted {
                    offset: picked.position.offset,
                    leader_epoch: picked.leader.epoch,
                    last_epoch: picked.epoch,
                    max_bytes: bytes(picked.max_bytes),
                    topic_id: topic_id.unwrap_or(message::NO_ID),
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
        let mut frame = connection.frame(
            message::KEY,
            version,
            message::is_flexible(version),
            message::about_bytes(ask.len()),
        );
        let rack = &cluster.config.client_rack;
        message::write(&mut frame, version, terms, &ask, &forgotten, rack);
        let deadline = Instant::now() + job.max_wait + cluster.config.request_timeout;
        let body = connection.submit(&message::METERS, frame, deadline).await?;
        let size = body.len();
        let answer = message::read(body, version, job.cursors.len())
            .map_err(|cause| connection.refuse(message::NAME, cause))?;
        Ok(Exchanged::Fetched(answer, size))
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
        let broker = cluster.known_broker(self.broker, message::NAME)?;
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
}

fn again(job: &Job) -> Vec<Outcome> {
    job.cursors.iter().map(|_| Outcome::Again).collect()
}
