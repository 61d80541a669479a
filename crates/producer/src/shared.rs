//! What the producer's handles and its sender share: the accumulator behind its lock, and the
//! signals between them.

use crate::accumulator::Accumulator;
use crate::report::CloseReport;
use crate::telemetry;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;
use tokio::sync::Notify;

#[derive(Debug)]
pub(crate) struct Shared {
    accumulator: Mutex<Accumulator>,
    /// The sender has something to look at.
    pub(crate) work: Notify,
    /// Room became free, or records got their result.
    pub(crate) progress: Notify,
}

impl Shared {
    pub(crate) fn new(accumulator: Accumulator) -> Self {
        Self {
            accumulator: Mutex::new(accumulator),
            work: Notify::new(),
            progress: Notify::new(),
        }
    }

    /// Runs a step of the accumulator, then carries its effects out without the lock.
    pub(crate) fn with<R>(&self, step: impl FnOnce(&mut Accumulator) -> R) -> R {
        let (result, work) = self.with_work(step);
        if work {
            self.work.notify_one();
        }
        result
    }

    /// The same, and tells the metric what records weigh now: for the sender's own steps, and for those
    /// after which it may take none.
    pub(crate) fn with_told<R>(&self, step: impl FnOnce(&mut Accumulator) -> R) -> R {
        let (result, change) = self.with(|acc| {
            let result = step(acc);
            (result, acc.take_change())
        });
        telemetry::buffered(change);
        result
    }

    /// The same as [`with`](Self::with), but leaves it to the caller to see to the work that there is
    /// for the sender.
    pub(crate) fn with_work<R>(&self, step: impl FnOnce(&mut Accumulator) -> R) -> (R, bool) {
        // The user's code that a step calls is guarded there, so a panic is a mistake of ours; the
        // records that are held can still be settled.
        let mut accumulator = self
            .accumulator
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let result = step(&mut accumulator);
        let effects = accumulator.take_effects();
        drop(accumulator);
        let Some(effects) = effects else {
            return (result, false);
        };
        let signals = effects.apply();
        if signals.progress {
            self.progress.notify_waiters();
        }
        (result, signals.work)
    }

    /// Fails everything that has no result yet.
    pub(crate) fn close_now(&self) -> CloseReport {
        self.with_told(Accumulator::close_now)
    }

    /// Runs `ready` now and after every progress, until it gives something.
    pub(crate) async fn wait_until<R>(
        &self,
        mut ready: impl FnMut(&mut Accumulator) -> Option<R>,
    ) -> R {
        loop {
            let progress = self.progress.notified();
            tokio::pin!(progress);
            // Registered before the look, so that no progress falls between.
            progress.as_mut().enable();
            if let Some(result) = self.with(&mut ready) {
                return result;
            }
            progress.await;
        }
    }
}

/// The time for the accumulator: tokio's, so that tests can pause it.
pub(crate) fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}
