//! The one task that writes: it asks for topics, sends batches, and gives results back.
//!
//! It hands batches to the transport, which answers for them one by one, so that a slow partition
//! holds up no other, and owns the times at which topics and the producer's id are asked for again.
//! When it ends, for whatever reason, the accumulator is closed first, so that no record is left
//! without a result.

mod identity;
mod topics;

#[cfg(test)]
mod tests;

use crate::accumulator::{Accumulator, Completed, Dispatch};
use crate::cluster::Cluster;
use crate::shared::{Shared, now};
use crate::{ProducerConfig, telemetry};
use governor::clock::Clock as _;
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use identity::Identity;
use ottla_client::Backoff;
use ottla_client::transport::{
    Answer, AnswerSink, Answers, Outgoing, ProduceOptions, Transport, answers,
};
use std::sync::Arc;
use std::time::{Duration, Instant};
use topics::Topics;

pub(crate) struct Sender {
    shared: Arc<Shared>,
    transport: Arc<dyn Transport>,
    topics: Topics,
    config: ProducerConfig,
    /// The limit of one attempt.
    request_timeout: Duration,
    limiter: Option<DefaultDirectRateLimiter>,
    sink: AnswerSink,
    answers: Answers,
    identity: Identity,
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
        let (sink, answers) = answers();
        let backoff = Backoff::new(config.retry_backoff, config.retry_backoff_max);
        Self {
            identity: Identity::new(Arc::clone(&cluster), backoff),
            topics: Topics::new(cluster, &config, metadata_max_age),
            shared,
            transport,
            config,
            request_timeout,
            limiter,
            sink,
            answers,
        }
    }

    /// Runs until the accumulator is closed.
    pub(crate) async fn run(mut self) {
        let mut arrived = Vec::new();
        while let Some(wake) = self.step() {
            let shared = Arc::clone(&self.shared);
            let wake = [wake, self.topics.next_wake()].into_iter().flatten().min();
            tokio::select! {
                () = shared.work.notified() => {}
                () = self.answers.recv(&mut arrived) => self.answered(&mut arrived),
                Some(answer) = self.identity.next_answer() => {
                    self.identity.apply(&self.shared, answer);
                }
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
        let (closed, dispatches, wanted, wants_id, wake, used) =
            self.shared.with(|acc: &mut Accumulator| {
                acc.expire(now);
                let dispatches = acc.drain(now, &mut admit);
                let wake = acc.next_wake(now);
                (
                    acc.is_closed(),
                    dispatches,
                    acc.take_wanted(),
                    acc.wants_producer(),
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
        let again = wants_id.then(|| self.identity.ask(now)).flatten();
        self.send(dispatches, now);
        Some([wake, again].into_iter().flatten().min())
    }

    fn send(&mut self, dispatches: Vec<Dispatch>, now: Instant) {
        // Those that are given up earlier than an attempt may take are calls of their own.
        let mut calls: Vec<(Duration, Vec<Outgoing>)> = Vec::new();
        for dispatch in dispatches {
            let left = dispatch.deadline.saturating_duration_since(now);
            let timeout = left.min(self.request_timeout);
            let outgoing = Outgoing {
                token: dispatch.token,
                partition: dispatch.partition,
                batch: dispatch.batch,
            };
            match calls.last_mut().filter(|(limit, _)| *limit == timeout) {
                Some((_, call)) => call.push(outgoing),
                None => calls.push((timeout, vec![outgoing])),
            }
        }
        for (timeout, call) in calls {
            let options = ProduceOptions {
                acks: self.config.acks,
                compression: self.config.compression,
                timeout,
                ..ProduceOptions::default()
            };
            self.transport.produce(&options, call, &self.sink);
        }
    }

    fn answered(&mut self, arrived: &mut Vec<Answer>) {
        let now = now();
        let completed: Vec<_> = self.shared.with(|acc| {
            let complete = |a: Answer| acc.complete(a.token, a.result, a.leader_known, now);
            arrived.drain(..).map(complete).collect()
        });
        for completed in completed {
            match completed {
                Completed::Written(written) => telemetry::written(&written),
                Completed::Again {
                    partition,
                    attempts,
                    cause,
                    refresh,
                } => {
                    telemetry::retried(&partition, attempts, &cause);
                    if refresh {
                        self.topics.want(partition.topic);
                    }
                }
                Completed::Failed => {}
            }
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

pub(crate) async fn sleep_until(wake: Option<Instant>) {
    match wake {
        Some(wake) => tokio::time::sleep_until(wake.into()).await,
        None => std::future::pending().await,
    }
}
