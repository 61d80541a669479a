//! The one task that writes: it asks for topics, sends batches, and gives results back.
//!
//! It owns the calls in flight (a [`JoinSet`] of one task a batch, so that a slow partition holds
//! up no other) and the times at which topics are asked for again. When it ends, for whatever
//! reason, the accumulator is closed first, so that no record is left without a result.

mod topics;

#[cfg(test)]
mod tests;

use crate::accumulator::{Accumulator, Completed, Dispatch, ReadyBatch};
use crate::cluster::Cluster;
use crate::shared::{Shared, now};
use crate::{ProducerConfig, telemetry};
use governor::clock::Clock as _;
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use ottla_client::transport::{ProduceOptions, Produced, Transport};
use ottla_client::{Error, ErrorKind};
use ottla_types::{Fate, TopicPartition};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::{Id, JoinError, JoinSet};
use topics::Topics;
use tracing::Instrument as _;

/// How long after its time limit a call of the transport is given up on.
const GRACE: Duration = Duration::from_secs(1);

pub(crate) struct Sender {
    shared: Arc<Shared>,
    transport: Arc<dyn Transport>,
    topics: Topics,
    config: ProducerConfig,
    /// The limit of one attempt.
    request_timeout: Duration,
    limiter: Option<DefaultDirectRateLimiter>,
    calls: JoinSet<Answer>,
    /// Which queue's batch a call carries, should it panic.
    queues: HashMap<Id, usize>,
}

struct Answer {
    queue: usize,
    partition: TopicPartition,
    batch: ReadyBatch,
    started: Instant,
    result: Result<Produced, Error>,
}

impl Sender {
    pub(crate) fn new(
        shared: Arc<Shared>,
        transport: Arc<dyn Transport>,
        cluster: Arc<dyn Cluster>,
        config: ProducerConfig,
        request_timeout: Duration,
        metadata_max_age: Duration,
    ) -> Self {
        let limiter = config
            .rate_limit
            .map(|rate| RateLimiter::direct(Quota::per_second(rate)));
        Self {
            topics: Topics::new(cluster, &config, metadata_max_age),
            shared,
            transport,
            config,
            request_timeout,
            limiter,
            calls: JoinSet::new(),
            queues: HashMap::new(),
        }
    }

    /// Runs until the accumulator is closed.
    pub(crate) async fn run(mut self) {
        while let Some(wake) = self.step() {
            let shared = Arc::clone(&self.shared);
            let wake = [wake, self.topics.next_wake()].into_iter().flatten().min();
            tokio::select! {
                () = shared.work.notified() => {}
                Some(joined) = self.calls.join_next_with_id() => self.answered(joined),
                Some(answer) = self.topics.next_answer() => self.topics.apply(&self.shared, answer),
                () = sleep_until(wake) => {}
            }
        }
    }

    /// Sends what can be sent. Returns when to look again, or nothing when it is closed.
    fn step(&mut self) -> Option<Option<Instant>> {
        let now = now();
        let limiter = self.limiter.as_ref();
        let mut admit = |records: u32| limiter.and_then(|l| admit(l, records, now));
        let (closed, dispatches, wanted, wake, used) = self.shared.with(|acc: &mut Accumulator| {
            acc.expire(now);
            let dispatches = acc.drain(now, &mut admit);
            let wake = acc.next_wake(now);
            (
                acc.is_closed(),
                dispatches,
                acc.take_wanted(),
                wake,
                acc.used(),
            )
        });
        if closed {
            return None;
        }
        telemetry::buffered(used);
        for name in wanted {
            self.topics.want(name);
        }
        self.topics.ask(now, &self.shared);
        for dispatch in dispatches {
            self.send(dispatch, now);
        }
        Some(wake)
    }

    fn send(&mut self, dispatch: Dispatch, now: Instant) {
        let Dispatch {
            queue,
            partition,
            batch,
        } = dispatch;
        let left = batch.deadline.saturating_duration_since(now);
        let options = ProduceOptions {
            acks: self.config.acks,
            compression: self.config.compression,
            timeout: left.min(self.request_timeout),
        };
        let span = tracing::debug_span!(
            "produce",
            %partition,
            records = batch.count(),
            bytes = batch.encoded.bytes().len(),
            attempt = batch.attempts,
        );
        let transport = Arc::clone(&self.transport);
        let call = async move {
            let result = produce(&*transport, options, &partition, &batch).await;
            Answer {
                queue,
                partition,
                batch,
                started: now,
                result,
            }
        };
        let task = self.calls.spawn(call.instrument(span));
        self.queues.insert(task.id(), queue);
    }

    fn answered(&mut self, joined: Result<(Id, Answer), JoinError>) {
        let now = now();
        let answer = match joined {
            Ok((id, answer)) => {
                self.queues.remove(&id);
                answer
            }
            Err(error) => {
                tracing::error!(%error, "a produce call panicked");
                if let Some(queue) = self.queues.remove(&error.id()) {
                    self.shared.with(|acc| acc.abandon(queue));
                }
                return;
            }
        };
        let (records, attempts) = (answer.batch.count(), answer.batch.attempts);
        let (bytes, opened) = (answer.batch.encoded.bytes().len(), answer.batch.opened);
        let failure = answer.result.as_ref().err().map(ToString::to_string);
        let completed = self
            .shared
            .with(|acc| acc.complete(answer.queue, answer.batch, answer.result, now));
        match (failure, completed) {
            (None, _) => telemetry::written(
                &answer.partition,
                records,
                bytes,
                now.saturating_duration_since(opened),
                now.saturating_duration_since(answer.started),
            ),
            (Some(cause), Completed::Again { refresh }) => {
                telemetry::retried(&answer.partition, attempts, &cause);
                if refresh {
                    self.topics.want(answer.partition.topic);
                }
            }
            (Some(_), Completed::Settled) => {}
        }
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        // Ended, panicked or aborted: whoever waits must hear of it.
        let _ = self.shared.with(Accumulator::close_now);
    }
}

/// When the limiter lets so many records pass; nothing if it does now.
fn admit(limiter: &DefaultDirectRateLimiter, records: u32, now: Instant) -> Option<Instant> {
    let records = std::num::NonZeroU32::new(records)?;
    match limiter.check_n(records) {
        Ok(Ok(())) => None,
        Ok(Err(not_until)) => {
            let wait = not_until.wait_time_from(limiter.clock().now());
            // Never "now", which would be a busy loop.
            Some(now + wait.max(Duration::from_millis(1)))
        }
        // Batches are not made larger than the limiter's burst.
        Err(_) => None,
    }
}

async fn produce(
    transport: &dyn Transport,
    options: ProduceOptions,
    partition: &TopicPartition,
    batch: &ReadyBatch,
) -> Result<Produced, Error> {
    let call = transport.produce(options, vec![(partition.clone(), batch.encoded.clone())]);
    let lost = |kind| {
        Err(Error::new(kind, "Produce")
            .with_partition(partition.clone())
            .with_fate(Fate::MaybeWritten))
    };
    match tokio::time::timeout(options.timeout + GRACE, call).await {
        Ok(answers) => match answers.into_iter().next() {
            Some((_, result)) => result,
            None => lost(ErrorKind::Protocol),
        },
        Err(_) => lost(ErrorKind::TimedOut),
    }
}

async fn sleep_until(wake: Option<Instant>) {
    match wake {
        Some(wake) => tokio::time::sleep_until(wake.into()).await,
        None => std::future::pending().await,
    }
}
