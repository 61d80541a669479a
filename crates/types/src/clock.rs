//! The [`Clock`] port: wall-clock time as data, so that due times and leases can be tested.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

/// Tells the time. Everything that compares a record's timestamp, a due time or a lease with "now"
/// takes its time from here and nowhere else.
pub trait Clock: Send + Sync {
    /// Milliseconds since the Unix epoch.
    fn now_ms(&self) -> i64;
}

impl<C: Clock + ?Sized> Clock for Arc<C> {
    fn now_ms(&self) -> i64 {
        (**self).now_ms()
    }
}

/// `time`, or a year where it is longer: who gives such a limit wants none, and the end of some lies too
/// far ahead for an instant to tell it.
pub fn at_most_a_year(time: Duration) -> Duration {
    const YEAR: Duration = Duration::from_secs(365 * 86_400);
    time.min(YEAR)
}

/// A clock that stands still until it is moved; clones share the time.
#[derive(Debug, Clone, Default)]
pub struct ManualClock(Arc<AtomicI64>);

impl ManualClock {
    /// A clock that shows `now_ms`.
    pub fn new(now_ms: i64) -> Self {
        Self(Arc::new(AtomicI64::new(now_ms)))
    }

    /// Moves the clock on by `ms` milliseconds (backwards when negative).
    pub fn advance(&self, ms: i64) {
        self.0.fetch_add(ms, Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now_ms(&self) -> i64 {
        self.0.load(Ordering::SeqCst)
    }
}
