//! The callers that wait for something to happen to an entry.

use std::sync::{Arc, Weak};
use tokio::sync::Notify;

/// Callers by weak reference: one that is gone does not count and is not woken.
#[derive(Debug, Default)]
pub(super) struct Watchers(Vec<Weak<Notify>>);

impl Watchers {
    /// `caller` alone.
    pub(super) fn of(caller: &Arc<Notify>) -> Self {
        Self(vec![Arc::downgrade(caller)])
    }

    /// Adds `caller`, once, and forgets those that are gone.
    pub(super) fn add(&mut self, caller: &Arc<Notify>) {
        let this = Arc::downgrade(caller);
        self.0.retain(|w| w.strong_count() > 0 && !w.ptr_eq(&this));
        self.0.push(this);
    }

    /// Whether a caller still waits.
    pub(super) fn any(&self) -> bool {
        self.0.iter().any(|w| w.strong_count() > 0)
    }

    /// Wakes all callers and forgets them.
    pub(super) fn wake(&mut self) {
        for watcher in self.0.drain(..).filter_map(|w| w.upgrade()) {
            watcher.notify_one();
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}
