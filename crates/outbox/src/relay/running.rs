//! The handle to a running relay.

use super::progress::{Progress, oldest_age};
use super::worker::{Control, End, Worker};
use super::{Relay, RelayRole, RelayStatus};
use crate::RelayError;
use ottla_store::{OutboxStore, StoreError};
use ottla_types::{Clock, at_most_a_year};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// A relay that runs. Dropping it ends the relay at once, as a crash would: nothing is lost, rows in
/// flight may be sent twice, and another relay takes over when the lease ends.
pub struct RunningRelay {
    task: JoinSet<End>,
    control: watch::Sender<Control>,
    progress: Arc<Progress>,
    store: Arc<dyn OutboxStore>,
    clock: Arc<dyn Clock>,
    owner: String,
}

/// How a stop went.
#[derive(Debug, Clone)]
pub struct StopReport {
    /// Rows that this relay has published and marked since it started.
    pub published: u64,
    /// Rows that were handed to the producer and not acknowledged, or not marked, by the deadline.
    /// They stay pending and are sent again by the next relay.
    pub unsettled: usize,
    /// Why the relay had ended before it was stopped, if it had.
    pub error: Option<RelayError>,
}

impl RunningRelay {
    pub(super) fn start(relay: Relay) -> Self {
        let (control, receiver) = watch::channel(Control::Run);
        let progress = Arc::new(Progress::default());
        let (store, clock) = (relay.store.clone(), relay.clock.clone());
        let owner = relay.owner.clone();
        let worker = Worker::new(relay, progress.clone(), receiver);
        let mut task = JoinSet::new();
        task.spawn(worker.run());
        Self {
            task,
            control,
            progress,
            store,
            clock,
            owner,
        }
    }

    /// The name by which this relay holds the lease.
    pub fn owner(&self) -> &str {
        &self.owner
    }

    /// What this relay is doing.
    pub fn role(&self) -> RelayRole {
        self.progress.tally().role
    }

    /// How the outbox and its relay are.
    ///
    /// # Errors
    /// The store's, when it cannot count.
    pub async fn status(&self) -> Result<RelayStatus, StoreError> {
        let counts = self.store.counts().await?;
        let tally = self.progress.tally();
        Ok(RelayStatus {
            role: tally.role,
            oldest_age: oldest_age(&counts, self.clock.now_ms()),
            counts,
            published: tally.published,
            retried: tally.retried,
            parked: tally.parked,
            last_error: tally.last_error,
        })
    }

    /// Waits until the relay ends by itself, which it does only for the reasons in [`RelayError`].
    /// Dropping the future changes nothing.
    pub async fn ended(&mut self) -> RelayError {
        match self.task.join_next().await {
            Some(Ok(End::Failed(error))) => error,
            // Nobody else stops the relay while `self` is borrowed, so any other end is a panic.
            _ => RelayError::Panicked,
        }
    }

    /// Stops reading, waits until what is in flight is acknowledged and marked, and gives the lease
    /// back; at `deadline` from now it ends as it is.
    pub async fn stop(mut self, deadline: Duration) -> StopReport {
        let deadline = Instant::now() + at_most_a_year(deadline);
        self.control.send_replace(Control::Stop(deadline));
        let end = self.task.join_next().await;
        self.progress.set_role(RelayRole::Stopped);
        let (unsettled, error) = match end {
            Some(Ok(End::Stopped { unsettled })) => (unsettled, None),
            Some(Ok(End::Failed(error))) => (0, Some(error)),
            Some(Err(_)) | None => (0, Some(RelayError::Panicked)),
        };
        StopReport {
            published: self.progress.tally().published,
            unsettled,
            error,
        }
    }
}

impl std::fmt::Debug for RunningRelay {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RunningRelay")
            .field("owner", &self.owner)
            .field("role", &self.role())
            .finish_non_exhaustive()
    }
}
