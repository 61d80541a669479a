//! The time of a call: what records get that have no timestamp, and when their batches were begun.
//!
//! Reading a clock for every record would be a tenth of what a record costs. So the system's clock is
//! looked at a thousand times a second at most, and carried on by the processor's counter meanwhile,
//! where that can be read.

use std::time::{Duration, Instant};

/// How long a look at the system's clock holds, by the counter: for so long a change of that clock may not
/// be seen. Each new batch has a look of its own, so a counter that stands still does no harm for longer.
const LOOK_AFTER: Duration = Duration::from_millis(1);

/// Where the accumulator's callers take the time from.
pub(crate) trait Clocks {
    /// The clock that limits and delays go by.
    fn now(&self) -> Instant;

    /// The system's clock: the time since the Unix epoch.
    fn since_epoch(&self) -> Duration;

    /// A counter of nanoseconds that is read faster than the clocks, if there is one. What it starts
    /// from does not matter.
    fn ticks(&self) -> Option<u64>;
}

/// The moment of one call. Each clock is read when it is wanted, and once.
#[derive(Debug)]
pub(crate) struct Moment<C> {
    clocks: C,
    now: Option<Instant>,
    ms: Option<i64>,
}

impl<C: Clocks> Moment<C> {
    #[inline]
    pub(crate) fn new(clocks: C) -> Self {
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
    pub(super) fn ms(&mut self, wall: &mut WallClock) -> i64 {
        *self.ms.get_or_insert_with(|| wall.ms(&self.clocks))
    }
}

/// The last look at the system's clock.
#[derive(Debug, Default)]
pub(super) struct WallClock(Option<Look>);

#[derive(Debug)]
struct Look {
    /// Read before the clock, so that what is added up is never behind it.
    ticks: u64,
    since_epoch: Duration,
}

impl WallClock {
    /// The next call looks at the system's clock again.
    pub(super) fn look_again(&mut self) {
        self.0 = None;
    }

    fn ms(&mut self, clocks: &impl Clocks) -> i64 {
        let ticks = clocks.ticks();
        let carried = match (&self.0, ticks) {
            (Some(look), Some(ticks)) => {
                let passed = ticks.checked_sub(look.ticks).map(Duration::from_nanos);
                let passed = passed.filter(|passed| *passed < LOOK_AFTER);
                passed.map(|passed| look.since_epoch + passed)
            }
            _ => None,
        };
        let since_epoch = carried.unwrap_or_else(|| {
            let since_epoch = clocks.since_epoch();
            self.0 = ticks.map(|ticks| Look { ticks, since_epoch });
            since_epoch
        });
        // In whole milliseconds only after they are added up: else it would be one behind.
        let ms = since_epoch.as_secs().saturating_mul(1_000);
        i64::try_from(ms.saturating_add(since_epoch.subsec_millis().into())).unwrap_or(i64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    /// A system clock that may not be read when it shows nothing, and a counter.
    #[derive(Default)]
    struct Hands {
        shows: Cell<Option<u64>>,
        ticks: Cell<Option<u64>>,
    }

    impl Clocks for &Hands {
        fn now(&self) -> Instant {
            panic!("it is not wanted");
        }

        fn since_epoch(&self) -> Duration {
            Duration::from_nanos(self.shows.take().expect("a look that is not due"))
        }

        fn ticks(&self) -> Option<u64> {
            self.ticks.get()
        }
    }

    #[test]
    fn the_systems_clock_is_looked_at_once_a_millisecond() {
        let (hands, mut wall) = (Hands::default(), WallClock::default());
        let mut ms = |ticks: Option<u64>, shows: Option<u64>| {
            hands.ticks.set(ticks);
            hands.shows.set(shows);
            let ms = Moment::new(&hands).ms(&mut wall);
            assert_eq!(hands.shows.take(), None, "a look that was due");
            ms
        };
        assert_eq!(ms(Some(70), Some(5_000_900_000)), 5_000);
        // Neither of the two is at a whole millisecond, the sum is past one.
        assert_eq!(ms(Some(70 + 99_999), None), 5_000);
        assert_eq!(ms(Some(70 + 100_000), None), 5_001);
        assert_eq!(ms(Some(70 + 999_999), None), 5_001);
        // The clock was set back meanwhile.
        assert_eq!(ms(Some(1_000_070), Some(700_000_000)), 700);
        // A counter that starts anew, one that jumps, and none.
        assert_eq!(ms(Some(9), Some(701_000_000)), 701);
        assert_eq!(ms(Some(10), None), 701);
        assert_eq!(ms(Some(u64::MAX), Some(702_000_000)), 702);
        assert_eq!(ms(None, Some(703_000_000)), 703);
        assert_eq!(ms(None, Some(704_000_000)), 704);
    }

    #[test]
    fn a_moment_stands_still_and_a_look_can_be_asked_for() {
        let (hands, mut wall) = (Hands::default(), WallClock::default());
        hands.ticks.set(Some(1));
        hands.shows.set(Some(3_000_000));
        let mut moment = Moment::new(&hands);
        assert_eq!(moment.ms(&mut wall), 3);
        hands.ticks.set(Some(500_001));
        assert_eq!(moment.ms(&mut wall), 3);
        wall.look_again();
        hands.shows.set(Some(8_000_000));
        assert_eq!(Moment::new(&hands).ms(&mut wall), 8);
    }
}
