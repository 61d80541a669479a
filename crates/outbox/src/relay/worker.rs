//! The relay's task: wait for the lease, lead while it is held, wait again.

use super::leader::{Leader, Led};
use super::progress::Progress;
use super::{Relay, RelayRole};
use crate::RelayError;
use ottla_store::Lease;
use ottla_types::with_causes;
use std::future::pending;
use std::sync::Arc;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};

/// What the handle wants.
#[derive(Debug, Clone, Copy)]
pub(super) enum Control {
    /// Go on.
    Run,
    /// Finish what is in flight, but not beyond this time.
    Stop(Instant),
}

/// How the task ended.
#[derive(Debug)]
pub(super) enum End {
    /// It was told to.
    Stopped {
        /// Rows handed over and not marked.
        unsettled: usize,
    },
    /// By itself.
    Failed(RelayError),
}

pub(super) struct Worker {
    pub(super) relay: Relay,
    pub(super) progress: Arc<Progress>,
    control: watch::Receiver<Control>,
}

impl Worker {
    pub(super) fn new(
        relay: Relay,
        progress: Arc<Progress>,
        control: watch::Receiver<Control>,
    ) -> Self {
        Self {
            relay,
            progress,
            control,
        }
    }

    pub(super) async fn run(self) -> End {
        let end = self.take_turns().await;
        self.progress.set_role(RelayRole::Stopped);
        end
    }

    async fn take_turns(&self) -> End {
        loop {
            self.progress.set_role(RelayRole::Standby);
            let Some(lease) = self.stand_by().await else {
                return End::Stopped { unsettled: 0 };
            };
            tracing::info!(
                owner = lease.owner,
                token = lease.token,
                "outbox relay leads"
            );
            self.progress.set_role(RelayRole::Active);
            match Leader::new(self, lease).lead().await {
                Led::Lost => {
                    metrics::counter!("ottla_outbox_leases_lost_total").increment(1);
                    tracing::warn!(owner = self.relay.owner, "outbox relay lost its lease");
                }
                Led::Stopped { unsettled } => return End::Stopped { unsettled },
                Led::Failed(error) => {
                    tracing::error!(error = with_causes(&error), "outbox relay ends");
                    return End::Failed(error);
                }
            }
        }
    }

    /// Asks for the lease until it is there; `None` when told to stop.
    async fn stand_by(&self) -> Option<Lease> {
        let Relay {
            store,
            clock,
            config,
            owner,
            ..
        } = &self.relay;
        let lease_ms = self.lease_ms();
        loop {
            let acquire = store.acquire(owner, clock.now_ms(), lease_ms);
            let answer = tokio::select! {
                () = self.told_to_stop() => return None,
                answer = acquire => answer,
            };
            match answer {
                Ok(Some(lease)) => return Some(lease),
                Ok(None) => {}
                Err(error) => {
                    tracing::warn!(error = with_causes(&error), "outbox lease not acquired");
                    self.progress.store_failed(&error);
                }
            }
            tokio::select! {
                () = self.told_to_stop() => return None,
                () = sleep(config.poll_interval) => {}
            }
        }
    }

    pub(super) fn lease_ms(&self) -> i64 {
        // Checked by the config: at most ten minutes.
        i64::try_from(self.relay.config.lease.as_millis()).unwrap_or(i64::MAX)
    }

    /// Resolves when the relay is told to stop.
    pub(super) async fn told_to_stop(&self) {
        let mut control = self.control.clone();
        let stop = control.wait_for(|control| matches!(control, Control::Stop(_)));
        if stop.await.is_err() {
            // The handle is gone, and this task with it.
            pending::<()>().await;
        }
    }

    /// Resolves at the deadline of a stop.
    pub(super) async fn deadline_passed(&self) {
        self.told_to_stop().await;
        let control = *self.control.borrow();
        if let Control::Stop(deadline) = control {
            sleep_until(deadline).await;
        }
    }
}
