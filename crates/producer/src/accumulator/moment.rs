//! The time of a call: what records get that have no timestamp, and when their batches were begun.

use std::time::{Duration, Instant};

/// Where the accumulator's callers take the time from.
pub(crate) trait Clocks {
    /// The clock that limits and delays go by.
    fn now(&self) -> Instant;

    /// The system's clock: the time since the Unix epoch.
    fn since_epoch(&self) -> Duration;
}

/// The moment of one call. Each clock is read when it is wanted, and once: reading one costs a tenth of
/// what a record does.
#[derive(Debug)]
pub(super) struct Moment<C> {
    clocks: C,
    now: Option<Instant>,
    ms: Option<i64>,
}

impl<C: Clocks> Moment<C> {
    #[inline]
    pub(super) fn new(clocks: C) -> Self {
        Self {
            clocks,
            now: None,
            ms: None,
        }
    }

    pub(super) fn now(&mut self) -> Instant {
        *self.now.get_or_insert_with(|| self.clocks.now())
    }

    /// Milliseconds since the Unix epoch.
    #[inline]
    pub(super) fn ms(&mut self) -> i64 {
        *self.ms.get_or_insert_with(|| {
            let since_epoch = self.clocks.since_epoch();
            i64::try_from(since_epoch.as_millis()).unwrap_or(i64::MAX)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    struct Hands(Cell<u64>);

    impl Clocks for &Hands {
        fn now(&self) -> Instant {
            panic!("it is not wanted");
        }

        fn since_epoch(&self) -> Duration {
            Duration::from_nanos(self.0.get())
        }
    }

    #[test]
    fn a_moment_stands_still_and_the_next_one_shows_the_clock() {
        let hands = Hands(Cell::new(5_999_999));
        let mut moment = Moment::new(&hands);
        assert_eq!(moment.ms(), 5);
        hands.0.set(6_000_000);
        assert_eq!((moment.ms(), Moment::new(&hands).ms()), (5, 6));
        // It was set back.
        hands.0.set(1_500_000);
        assert_eq!(Moment::new(&hands).ms(), 1);
        hands.0.set(u64::MAX);
        assert_eq!(Moment::new(&hands).ms(), 18_446_744_073_709);
    }
}
