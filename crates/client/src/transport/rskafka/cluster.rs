//! The way to the leaders: rskafka's client, its connections, and one loop that makes an attempt,
//! judges the failure, mends what has to be mended and tries again until a time limit.
//!
//! What must hold: no call of rskafka is awaited without a time limit, none of its retries happens
//! inside of it, and a panic in it (its sums overflow on hostile numbers) is an error of that call.

use super::RskafkaSettings;
use super::failure::{Cause, Cure, Failure, Phase};
use crate::{Backoff, Error, ErrorKind};
use ::rskafka::BackoffConfig;
use ::rskafka::client::error::{Error as RsError, Result as RsResult};
use ::rskafka::client::partition::{PartitionClient, UnknownTopicHandling};
use ::rskafka::client::{Client as RsClient, ClientBuilder};
use futures_util::FutureExt;
use futures_util::future::select_ok;
use ottla_types::{Fate, TopicPartition};
use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

/// How many leaders are looked up and connected to at the same time.
const MAX_CONNECTS: usize = 64;
/// A connection that was not used for so long is closed: brokers do so after ten minutes, and a
/// request that meets the closing has an unknown fate.
const IDLE_LIMIT: Duration = Duration::from_secs(60);
const SWEEP_INTERVAL: Duration = Duration::from_secs(10);
/// Connections that are kept for one partition and purpose while nobody uses them.
const MAX_IDLE: usize = 8;
/// After so many new connections in a row that did not help, everything is built anew.
const RECONNECTS_BEFORE_REBUILD: u32 = 3;

/// An attempt with less time than this would only turn a sure fate into an unknown one.
const MIN_ATTEMPT: Duration = Duration::from_millis(50);

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Purpose {
    Write,
    Read,
}

/// One call for one partition, with its limits.
#[derive(Clone, Copy)]
pub(super) struct Call<'a> {
    pub(super) name: &'static str,
    pub(super) partition: &'a TopicPartition,
    pub(super) purpose: Purpose,
    /// The limit of one attempt, once the leader is connected.
    pub(super) attempt: Duration,
    /// No further attempt begins after this.
    pub(super) give_up: Instant,
    /// Everything ends here.
    pub(super) deadline: Instant,
}

struct Idle {
    client: Arc<PartitionClient>,
    since: Instant,
}

#[derive(Default)]
struct Pool {
    idle: HashMap<(TopicPartition, Purpose), Vec<Idle>>,
    writers: HashMap<TopicPartition, Arc<tokio::sync::Mutex<()>>>,
    swept: Option<Instant>,
}

/// What has to be mended before the next connection is made, and since when.
#[derive(Default, Clone, Copy)]
struct Wanted {
    refresh: Option<Instant>,
    rebuild: Option<Instant>,
}

/// A cluster as rskafka sees it.
pub(super) struct Cluster {
    pub(super) settings: RskafkaSettings,
    pub(super) closed: CancellationToken,
    /// Gone when it is closed: it has a connection for metadata.
    client: Mutex<Option<Arc<RsClient>>>,
    pool: Mutex<Pool>,
    wanted: Mutex<Wanted>,
    /// Held by the one who mends; the time of the last rebuild that failed.
    mending: tokio::sync::Mutex<Option<Instant>>,
    connects: Semaphore,
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Cluster {
    pub(super) async fn connect(
        settings: RskafkaSettings,
        deadline: Instant,
    ) -> Result<Self, Error> {
        let mut backoff = Backoff::new(settings.retry_backoff, settings.retry_backoff_max);
        let mut last = None;
        let client = loop {
            match timeout_at(deadline, guarded(build(&settings), Phase::Connect)).await {
                Ok(Ok(client)) => break client,
                Ok(Err(failure)) => last = failure.source,
                Err(_) => return Err(unreachable_error(&settings, last)),
            }
            let delay = backoff.next_delay();
            if Instant::now() + delay >= deadline {
                return Err(unreachable_error(&settings, last));
            }
            sleep(delay).await;
        };
        Ok(Self {
            settings,
            closed: CancellationToken::new(),
            client: Mutex::new(Some(Arc::new(client))),
            pool: Mutex::default(),
            wanted: Mutex::default(),
            mending: tokio::sync::Mutex::default(),
            connects: Semaphore::new(MAX_CONNECTS),
        })
    }

    pub(super) fn close(&self) {
        self.closed.cancel();
        *lock(&self.pool) = Pool::default();
        *lock(&self.client) = None;
    }

    /// The turn of those who write to the partition.
    pub(super) fn writer(&self, partition: &TopicPartition) -> Arc<tokio::sync::Mutex<()>> {
        let mut pool = lock(&self.pool);
        pool.writers.entry(partition.clone()).or_default().clone()
    }

    /// Makes the call on a connection to the partition's leader, again and again while the failure
    /// is one that passes. The fate in the failure is that of all attempts together.
    pub(super) async fn run<T, F, Fut>(&self, call: Call<'_>, request: F) -> Result<T, Failure>
    where
        F: Fn(Arc<PartitionClient>) -> Fut,
        Fut: Future<Output = RsResult<T>>,
    {
        let mut backoff =
            Backoff::new(self.settings.retry_backoff, self.settings.retry_backoff_max);
        let mut reconnects = 0;
        let mut last: Option<Failure> = None;
        loop {
            let attempt = self
                .closed
                .run_until_cancelled(self.attempt(call, &request));
            let mut failure = match attempt.await {
                Some(Ok(value)) => return Ok(value),
                Some(Err(failure)) => failure,
                None => Failure::new(ErrorKind::Closed, Cure::None, cut_off(call.purpose)),
            };
            if let Some(last) = last {
                let cut = Instant::now() >= call.deadline && failure.source.is_none();
                failure = failure.after(last, cut);
            }
            match failure.cure {
                Cure::None => return Err(failure),
                Cure::Wait => reconnects = 0,
                Cure::Reconnect => {
                    reconnects += 1;
                    self.want(reconnects % RECONNECTS_BEFORE_REBUILD == 0);
                }
                Cure::Rebuild => self.want(true),
            }
            let delay = backoff.next_delay();
            if Instant::now() + delay + MIN_ATTEMPT >= call.give_up {
                return Err(failure);
            }
            metrics::counter!("ottla_client_retries_total", "operation" => call.name).increment(1);
            tracing::debug!(
                operation = call.name,
                partition = %call.partition,
                kind = ?failure.kind,
                code = ?failure.code,
                cure = ?failure.cure,
                "attempt failed, trying again"
            );
            last = Some(failure);
            // When it is closed the next attempt says so.
            let _ = self.closed.run_until_cancelled(sleep(delay)).await;
        }
    }

    async fn attempt<T, F, Fut>(&self, call: Call<'_>, request: &F) -> Result<T, Failure>
    where
        F: Fn(Arc<PartitionClient>) -> Fut,
        Fut: Future<Output = RsResult<T>>,
    {
        let client = match self.take(call.partition, call.purpose) {
            Some(client) => client,
            None => self.lead(call).await?,
        };
        let limit = call.deadline.min(Instant::now() + call.attempt);
        let answer = guarded(request(client.clone()), Phase::Request);
        let failure = match timeout_at(limit, answer).await {
            Ok(Ok(value)) => {
                self.put(call.partition, call.purpose, client);
                return Ok(value);
            }
            Ok(Err(failure)) => failure,
            Err(_) => Failure::new(ErrorKind::TimedOut, Cure::Rebuild, cut_off(call.purpose)),
        };
        if failure.cure <= Cure::Wait && failure.kind != ErrorKind::Protocol {
            self.put(call.partition, call.purpose, client);
        } else {
            lock(&self.pool)
                .idle
                .remove(&(call.partition.clone(), call.purpose));
        }
        Err(failure)
    }

    /// A new connection to the partition's leader.
    async fn lead(&self, call: Call<'_>) -> Result<Arc<PartitionClient>, Failure> {
        let started = Instant::now();
        let limit = call.deadline.min(started + self.settings.connect_timeout);
        let connecting = async {
            let _permit = self.connects.acquire().await;
            self.mend().await;
            let Some(client) = lock(&self.client).clone() else {
                return Err(Failure::new(
                    ErrorKind::Closed,
                    Cure::None,
                    Fate::NotWritten,
                ));
            };
            let partition = call.partition;
            let found = client.partition_client(
                partition.topic.to_string(),
                partition.partition,
                UnknownTopicHandling::Error,
            );
            guarded(found, Phase::Connect).await
        };
        metrics::counter!("ottla_client_connects_total").increment(1);
        match timeout_at(limit, connecting).await {
            Ok(result) => result.map(Arc::new),
            Err(_) => {
                // A caller that is in a hurry says nothing about the cluster.
                let cure = if started.elapsed() >= self.settings.connect_timeout {
                    Cure::Rebuild
                } else {
                    Cure::Reconnect
                };
                Err(Failure::new(ErrorKind::Connect, cure, Fate::NotWritten))
            }
        }
    }

    fn want(&self, rebuild: bool) {
        let now = Some(Instant::now());
        let mut wanted = lock(&self.wanted);
        wanted.refresh = now;
        if rebuild {
            wanted.rebuild = now;
        }
    }

    /// Asks for fresh metadata, or builds a new client, if somebody met a failure since that was
    /// done last. Many callers that fail together cause it once. When it fails the old client stays:
    /// it may know brokers that the bootstrap addresses do not.
    async fn mend(&self) {
        if lock(&self.wanted).refresh.is_none() {
            return;
        }
        let mut last_failed = self.mending.lock().await;
        let wanted = *lock(&self.wanted);
        let started = Instant::now();
        if wanted.refresh.is_none()
            || last_failed.is_some_and(|t| t.elapsed() < self.settings.retry_backoff_max)
        {
            return;
        }
        if wanted.rebuild.is_none() {
            let Some(client) = lock(&self.client).clone() else {
                return;
            };
            metrics::counter!("ottla_client_metadata_refreshes_total").increment(1);
            let topics = guarded(client.list_topics(), Phase::Connect);
            if let Ok(Ok(_)) = timeout(self.settings.connect_timeout / 2, topics).await {
                self.settle(started);
                return;
            }
            self.want(true);
        }
        metrics::counter!("ottla_client_rebuilds_total").increment(1);
        let built = guarded(build(&self.settings), Phase::Connect);
        match timeout(self.settings.connect_timeout, built).await {
            Ok(Ok(client)) => {
                // One that was taken away meanwhile stays away.
                if let Some(known) = &mut *lock(&self.client) {
                    *known = Arc::new(client);
                }
                *last_failed = None;
                self.settle(Instant::now());
            }
            failed => {
                *last_failed = Some(Instant::now());
                let error = failed.ok().and_then(Result::err);
                tracing::warn!(
                    ?error,
                    "no bootstrap address answers; going on with what is known"
                );
            }
        }
    }

    fn settle(&self, until: Instant) {
        let mut wanted = lock(&self.wanted);
        wanted.refresh = wanted.refresh.filter(|since| *since > until);
        wanted.rebuild = wanted.rebuild.filter(|since| *since > until);
    }

    fn take(&self, partition: &TopicPartition, purpose: Purpose) -> Option<Arc<PartitionClient>> {
        let mut pool = lock(&self.pool);
        let idle = pool.idle.get_mut(&(partition.clone(), purpose))?;
        let last = idle.pop()?;
        (last.since.elapsed() < IDLE_LIMIT).then_some(last.client)
    }

    fn put(&self, partition: &TopicPartition, purpose: Purpose, client: Arc<PartitionClient>) {
        if self.closed.is_cancelled() {
            return;
        }
        let since = Instant::now();
        let mut pool = lock(&self.pool);
        let idle = pool.idle.entry((partition.clone(), purpose)).or_default();
        if idle.len() < MAX_IDLE {
            idle.push(Idle { client, since });
        }
        if pool.swept.is_none_or(|t| t.elapsed() >= SWEEP_INTERVAL) {
            pool.swept = Some(since);
            pool.idle.retain(|_, idle| {
                idle.retain(|i| i.since.elapsed() < IDLE_LIMIT);
                !idle.is_empty()
            });
            pool.writers.retain(|_, turn| Arc::strong_count(turn) > 1);
        }
    }
}

/// What became of a request that was cut off.
fn cut_off(purpose: Purpose) -> Fate {
    match purpose {
        Purpose::Write => Fate::MaybeWritten,
        Purpose::Read => Fate::NotWritten,
    }
}

impl Failure {
    /// Keeps from the attempt before what must not be lost: data that may be written stays so, and
    /// an attempt that the call's deadline cut off does not hide the cause that was known.
    fn after(mut self, last: Failure, cut: bool) -> Self {
        let fate = match last.fate {
            Fate::MaybeWritten => Fate::MaybeWritten,
            Fate::NotWritten => self.fate,
        };
        if cut {
            self = last;
        }
        Self { fate, ..self }
    }
}

/// Makes a call of rskafka; a panic in it is a failure of the call, not of the caller's task.
async fn guarded<T>(call: impl Future<Output = RsResult<T>>, phase: Phase) -> Result<T, Failure> {
    match AssertUnwindSafe(call).catch_unwind().await {
        Ok(result) => result.map_err(|e| Failure::of(e, phase)),
        Err(_) => Err(Failure::panicked(phase)),
    }
}

fn unreachable_error(settings: &RskafkaSettings, last: Option<Cause>) -> Error {
    let error = Error::new(ErrorKind::Connect, "connect").with_broker(settings.bootstrap.join(","));
    match last {
        Some(last) => error.with_source(last),
        None => error,
    }
}

/// Asks all bootstrap addresses at once, so that one that does not answer delays nothing; the first
/// answer wins.
async fn build(settings: &RskafkaSettings) -> Result<RsClient, RsError> {
    let attempts = settings.bootstrap.iter().map(|address| {
        let builder = ClientBuilder::new(vec![address.clone()])
            .client_id(settings.client_id.clone())
            .max_message_size(settings.max_response_bytes)
            .backoff_config(BackoffConfig {
                init_backoff: settings.retry_backoff,
                max_backoff: settings.retry_backoff_max,
                base: 2.0,
                // The first failure ends the call: retries are made by `run`.
                deadline: Some(Duration::ZERO),
            });
        Box::pin(builder.build())
    });
    select_ok(attempts).await.map(|(client, _)| client)
}
