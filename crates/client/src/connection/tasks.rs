//! The owner of this crate's tasks: it awaits them, hears their panics and ends them all.

use std::future::Future;
use std::sync::{Mutex, PoisonError};
use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

/// Tasks that end together. Dropping the owner aborts what still runs.
#[derive(Debug, Default)]
pub(crate) struct Tasks {
    running: Mutex<State>,
    closed: CancellationToken,
}

#[derive(Debug, Default)]
struct State {
    set: JoinSet<()>,
    /// Nothing is started afterwards.
    is_closed: bool,
}

impl Tasks {
    /// The token that [`close`](Self::close) cancels.
    pub(crate) fn token(&self) -> CancellationToken {
        self.closed.clone()
    }

    /// A token that [`close`](Self::close) cancels too, and that can be cancelled alone.
    pub(crate) fn child_token(&self) -> CancellationToken {
        self.closed.child_token()
    }

    /// Whether [`close`](Self::close) was called.
    pub(crate) fn is_closed(&self) -> bool {
        self.closed.is_cancelled()
    }

    /// Starts a task; `false` if the owner is closed already.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) -> bool {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if running.is_closed {
            return false;
        }
        while let Some(ended) = running.set.try_join_next() {
            report(ended);
        }
        running.set.spawn(task);
        true
    }

    /// Cancels every token, then waits until all tasks have ended.
    pub(crate) async fn close(&self) {
        self.closed.cancel();
        let mut set = {
            let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
            running.is_closed = true;
            std::mem::take(&mut running.set)
        };
        while let Some(ended) = set.join_next().await {
            report(ended);
        }
    }
}

fn report(ended: Result<(), JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        let error = &error as &dyn std::error::Error;
        tracing::error!(error, "a connection's task panicked");
    }
}
