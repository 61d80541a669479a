//! The one task of a producer: it sends batches, asks for topics and for the producer's id.
//!
//! It hands batches to the transport by the [`Pump`], and owns the times at which topics and the
//! producer's id are asked for again. When it ends, for whatever reason, the accumulator is closed first,
//! so that no record is left without a result.

mod identity;
mod pump;
mod topics;

#[cfg(test)]
mod tests;

pub(crate) use pump::Pump;

use crate::ProducerConfig;
use crate::cluster::Cluster;
use crate::shared::{Shared, now};
use identity::Identity;
use ottla_client::Backoff;
use std::sync::Arc;
use std::time::{Duration, Instant};
use topics::Topics;

pub(crate) struct Sender {
    shared: Arc<Shared>,
    pump: Arc<Pump>,
    topics: Topics,
    identity: Identity,
}

impl Sender {
    pub(crate) fn new(
        shared: Arc<Shared>,
        pump: Arc<Pump>,
        cluster: Arc<dyn Cluster>,
        config: &ProducerConfig,
        metadata_max_age: Duration,
    ) -> Self {
        let backoff = Backoff::new(config.retry_backoff, config.retry_backoff_max);
        Self {
            identity: Identity::new(Arc::clone(&cluster), backoff),
            topics: Topics::new(cluster, config, metadata_max_age),
            shared,
            pump,
        }
    }

    /// Runs until the accumulator is closed.
    pub(crate) async fn run(mut self) {
        while let Some(wake) = self.step() {
            let shared = Arc::clone(&self.shared);
            let wake = [wake, self.topics.next_wake()].into_iter().flatten().min();
            tokio::select! {
                () = shared.work.notified() => {}
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
        let next = self.pump.step()?;
        for name in next.topics {
            self.topics.want(name);
        }
        let now = now();
        self.topics.ask(now, &self.shared);
        let again = next.wants_id.then(|| self.identity.ask(now)).flatten();
        Some([next.wake, again].into_iter().flatten().min())
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        // Ended, panicked or aborted: whoever waits must hear of it.
        let _ = self.shared.close_now();
    }
}

pub(crate) async fn sleep_until(wake: Option<Instant>) {
    match wake {
        Some(wake) => tokio::time::sleep_until(wake.into()).await,
        None => std::future::pending().await,
    }
}
