//! The one task that writes: it asks for topics, sends batches, and gives results back.
//!
//! It owns the batches in flight, which the transport answers for one by one, so that a slow
//! partition holds up no other, and the times at which topics are asked for again. When it ends, for
//! whatever reason, the accumulator is closed first, so that no record is left without a result.

mod topics;

#[cfg(test)]
mod tests;

use crate::accumulator::{Accumulator, Completed, Dispatch, ReadyBatch};
use crate::cluster::Cluster;
use crate::shared::{Shared, now};
use crate::{ProducerConfig, telemetry};
use governor::clock::Clock as _;
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use ottla_client::transport::{
    Answer, AnswerSink, Answers, Outgoing, ProduceOptions, Transport, answers,
};
use ottla_types::TopicPartition;
use std::collections::HashMap;
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
    /// What the transport owes an answer for, by token.
    in_flight: HashMap<u64, Flight>,
    next_token: u64,
}

/// A batch that the transport has.
struct Flight {
    queue: usize,
    partition: TopicPartition,
    batch: ReadyBatch,
    started: Instant,
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
        Self {
            topics: Topics::new(cluster, &config, metadata_max_age),
            shared,
            transport,
            config,
            request_timeout,
            limiter,
            sink,
            answers,
            in_flight: HashMap::new(),
            next_token: 0,
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
                () = self.answers.recv(&mut arrived) => {
                    for answer in arrived.drain(..) {
                        self.answered(answer);
                    }
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
        self.send(dispatches, now);
        Some(wake)
    }

    fn send(&mut self, dispatches: Vec<Dispatch>, now: Instant) {
        // Those that are given up earlier than an attempt may take are calls of their own.
        let mut calls: Vec<(Duration, Vec<Outgoing>)> = Vec::new();
        for dispatch in dispatches {
            let Dispatch {
                queue,
                partition,
                batch,
            } = dispatch;
            let left = batch.deadline.saturating_duration_since(now);
            let timeout = left.min(self.request_timeout);
            let token = self.next_token;
            self.next_token += 1;
            let outgoing = Outgoing {
                token,
                partition: partition.clone(),
                batch: batch.encoded.clone(),
            };
            match calls.last_mut().filter(|(limit, _)| *limit == timeout) {
                Some((_, call)) => call.push(outgoing),
                None => calls.push((timeout, vec![outgoing])),
            }
            let flight = Flight {
                queue,
                partition,
                batch,
                started: now,
            };
            self.in_flight.insert(token, flight);
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

    fn answered(&mut self, answer: Answer) {
        let now = now();
        let Some(flight) = self.in_flight.remove(&answer.token) else {
            return;
        };
        let (records, attempts) = (flight.batch.count(), flight.batch.attempts);
        let (bytes, opened) = (flight.batch.encoded.bytes().len(), flight.batch.opened);
        let failure = answer.result.as_ref().err().map(ToString::to_string);
        let completed = self
            .shared
            .with(|acc| acc.complete(flight.queue, flight.batch, answer.result, now));
        match (failure, completed) {
            (None, _) => telemetry::written(
                &flight.partition,
                records,
                bytes,
                now.saturating_duration_since(opened),
                now.saturating_duration_since(flight.started),
            ),
            (Some(cause), Completed::Again { refresh }) => {
                telemetry::retried(&flight.partition, attempts, &cause);
                if refresh {
                    self.topics.want(flight.partition.topic);
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

async fn sleep_until(wake: Option<Instant>) {
    match wake {
        Some(wake) => tokio::time::sleep_until(wake.into()).await,
        None => std::future::pending().await,
    }
}
