//! Batches from the accumulator to the transport.

use crate::ProducerConfig;
use crate::accumulator::{Accumulator, Completed, Dispatch};
use crate::shared::{Shared, now};
use crate::telemetry;
use governor::clock::Clock as _;
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use ottla_client::transport::{
    Acks, Answer, AnswerSink, Compression, Outgoing, ProduceOptions, Transport,
};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::{Duration, Instant};
use tokio::runtime::Handle;

/// Takes what can be sent and sends it. Mostly the sender's task does that; where nothing is on its way,
/// whoever enqueues a record and waits for its result may do it too, and spare the way over the task.
///
/// What must hold: batches reach the transport in the order in which they were taken, so one sends at a
/// time.
pub(crate) struct Pump {
    shared: Arc<Shared>,
    transport: Arc<dyn Transport>,
    limiter: Option<DefaultDirectRateLimiter>,
    acks: Acks,
    compression: Compression,
    /// The limit of one attempt.
    request_timeout: Duration,
    sink: AnswerSink,
    turn: Mutex<()>,
    /// Where the transport's tasks belong.
    runtime: Handle,
    /// Whether a caller may send: nothing lingers, and nothing is compressed on its time.
    is_direct: bool,
}

impl fmt::Debug for Pump {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pump").finish_non_exhaustive()
    }
}

/// What the sender's task does next.
pub(super) struct Next {
    pub(super) topics: Vec<Arc<str>>,
    pub(super) wants_id: bool,
    pub(super) wake: Option<Instant>,
}

impl Pump {
    pub(crate) fn new(
        shared: Arc<Shared>,
        transport: Arc<dyn Transport>,
        config: &ProducerConfig,
        request_timeout: Duration,
        runtime: Handle,
    ) -> Self {
        let limiter = config
            .rate_limit
            .map(|rate| RateLimiter::direct(Quota::per_second(rate)));
        let settled = Arc::clone(&shared);
        Self {
            shared,
            transport,
            limiter,
            acks: config.acks,
            compression: config.compression,
            request_timeout,
            sink: AnswerSink::new(move |answers| answered(&settled, answers)),
            turn: Mutex::default(),
            runtime,
            is_direct: config.linger.is_zero() && config.compression == Compression::None,
        }
    }

    /// Sends what can be sent; nothing when the accumulator is closed.
    pub(super) fn step(&self) -> Option<Next> {
        let now = now();
        let _turn = self.turn();
        let (closed, dispatches, next) = self.shared.with_told(|acc: &mut Accumulator| {
            acc.expire(now);
            let dispatches = acc.drain(now, &mut |records| self.admit(records, now));
            let wake = acc.next_wake(now);
            let next = Next {
                topics: acc.take_wanted(),
                wants_id: acc.wants_producer(),
                wake,
            };
            (acc.is_closed(), dispatches, next)
        });
        if closed {
            return None;
        }
        self.send(dispatches, now);
        Some(next)
    }

    /// Sends what was enqueued just now, for a caller that waits for it; `false` if the task has to
    /// look.
    pub(crate) fn send_directly(&self, now: Instant) -> bool {
        if !self.is_direct {
            return false;
        }
        let _turn = match self.turn.try_lock() {
            Ok(turn) => turn,
            Err(TryLockError::Poisoned(turn)) => turn.into_inner(),
            Err(TryLockError::WouldBlock) => return false,
        };
        let _runtime = self.runtime.enter();
        let (dispatches, is_all) = self.shared.with_told(|acc| {
            if acc.is_under_way() {
                return (Vec::new(), false);
            }
            let dispatches = acc.drain(now, &mut |records| self.admit(records, now));
            (dispatches, acc.is_quiet())
        });
        self.send(dispatches, now);
        is_all
    }

    fn turn(&self) -> MutexGuard<'_, ()> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn send(&self, dispatches: Vec<Dispatch>, now: Instant) {
        let limit = |dispatch: &Dispatch| {
            let left = dispatch.deadline.saturating_duration_since(now);
            left.min(self.request_timeout)
        };
        let outgoing = |dispatch: Dispatch| Outgoing {
            token: dispatch.token,
            partition: dispatch.partition,
            batch: dispatch.batch,
        };
        let mut dispatches = dispatches.into_iter().peekable();
        while let Some(timeout) = dispatches.peek().map(limit) {
            // Those that are given up earlier than an attempt may take are calls of their own.
            let of_call = std::iter::from_fn(|| dispatches.next_if(|d| limit(d) == timeout));
            let call = of_call.map(outgoing).collect();
            let options = ProduceOptions {
                acks: self.acks,
                compression: self.compression,
                timeout,
                ..ProduceOptions::default()
            };
            self.transport.produce(&options, call, &self.sink);
        }
    }

    /// When the limiter lets so many records pass; nothing if it does now.
    fn admit(&self, records: u32, now: Instant) -> Option<Instant> {
        let limiter = self.limiter.as_ref()?;
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
}

/// Batches come back from the transport, which answers for them one by one, or for those of a request
/// together.
fn answered(shared: &Shared, answers: Vec<Answer>) {
    let now = now();
    let completed = shared.with_told(|acc| {
        let complete = |a: Answer| acc.complete(a.token, a.result, a.leader_known, now);
        let completed: Vec<_> = answers.into_iter().map(complete).collect();
        acc.look_again();
        completed
    });
    for completed in completed {
        match completed {
            Completed::Written(written) => telemetry::written(&written),
            Completed::Again {
                partition,
                attempts,
                cause,
                ..
            } => telemetry::retried(&partition, attempts, &cause),
            Completed::Failed => {}
        }
    }
}
