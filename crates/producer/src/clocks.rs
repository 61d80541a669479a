//! The clocks that a producer goes by.

use crate::accumulator::Clocks;
use crate::shared::now;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// The processor's counter, once it is known how fast it runs.
static TICKS: OnceLock<quanta::Clock> = OnceLock::new();

/// Measures the processor's counter, once in a process, on a thread of its own: it takes half a
/// millisecond mostly, and 200 ms at most. Until then every look goes to the system's clock; where there is
/// no counter that keeps its pace (the processor says so), the monotonic clock takes its place.
pub(crate) fn measure_ticks() {
    static BEGUN: AtomicBool = AtomicBool::new(false);
    if BEGUN.swap(true, Ordering::Relaxed) {
        return;
    }
    let measure = || {
        TICKS.get_or_init(quanta::Clock::new);
    };
    let thread = std::thread::Builder::new().name("ottla-ticks".to_owned());
    if let Err(error) = thread.spawn(measure) {
        tracing::debug!(%error, "the processor's counter is not used");
    }
}

/// tokio's clock, which tests can pause, the system's, and the processor's counter.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Own;

impl Clocks for Own {
    fn now(&self) -> Instant {
        now()
    }

    fn since_epoch(&self) -> Duration {
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default()
    }

    #[inline]
    fn ticks(&self) -> Option<u64> {
        let clock = TICKS.get()?;
        Some(clock.delta_as_nanos(0, clock.raw()))
    }
}
