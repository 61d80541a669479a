//! The clocks that a producer goes by.

use crate::accumulator::Clocks;
use crate::shared::now;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// tokio's clock, which tests can pause, and the system's.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Own;

impl Clocks for Own {
    fn now(&self) -> Instant {
        now()
    }

    #[inline]
    fn since_epoch(&self) -> Duration {
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default()
    }
}
