//! [`Latch`]: something that happens once, cheap to look at for every record.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio_util::sync::CancellationToken;

/// Set once and for all. Clones share the state.
#[derive(Debug, Clone, Default)]
pub(crate) struct Latch(Arc<State>);

#[derive(Debug, Default)]
struct State {
    /// What the token knows; looking at the token takes a lock.
    is_set: AtomicBool,
    token: CancellationToken,
}

impl Latch {
    pub(crate) fn set(&self) {
        self.0.is_set.store(true, Ordering::Release);
        self.0.token.cancel();
    }

    pub(crate) fn is_set(&self) -> bool {
        self.0.is_set.load(Ordering::Acquire)
    }

    /// Resolves when it is set. Safe to cancel.
    pub(crate) async fn wait(&self) {
        self.0.token.cancelled().await;
    }
}
