//! When a connection that nobody uses ends.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::time::Instant;

/// Since when a connection has nothing to do, and how long it may. What must hold: nobody takes it for
/// a new request shortly before it ends, so that no request meets the end.
#[derive(Debug)]
pub(super) struct Idleness {
    start: Instant,
    /// In ms after `start`; the largest number while requests are under way.
    since_ms: AtomicU64,
    limit: Duration,
}

impl Idleness {
    pub(super) fn new(limit: Duration) -> Self {
        Self {
            start: Instant::now(),
            since_ms: AtomicU64::new(0),
            limit,
        }
    }

    pub(super) fn begins(&self) {
        let now = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX - 1);
        self.since_ms.store(now, Ordering::Relaxed);
    }

    pub(super) fn ends(&self) {
        self.since_ms.store(u64::MAX, Ordering::Relaxed);
    }

    fn since(&self) -> Option<Instant> {
        let since = self.since_ms.load(Ordering::Relaxed);
        (since < u64::MAX).then(|| self.start + Duration::from_millis(since))
    }

    /// When the connection ends, if nothing is asked for meanwhile.
    pub(super) fn deadline(&self) -> Instant {
        self.since().unwrap_or_else(Instant::now) + self.limit
    }

    /// Whether it is left alone from now on.
    pub(super) fn is_ending(&self) -> bool {
        let idle = self.since().map(|since| since.elapsed());
        idle.is_some_and(|idle| idle >= self.limit - self.limit / 10)
    }
}
