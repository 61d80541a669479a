//! The time that records get which have none: the system's clock, looked at once a second, and
//! carried on by the time that every call brings along.

use std::time::{Duration, Instant};

/// How long a look at the system's clock holds: by so much a change of that clock may come late.
const LOOK_AFTER: Duration = Duration::from_secs(1);

/// Both clocks at the same moment; that of the system as the time since the Unix epoch.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clocks {
    pub(crate) at: Instant,
    pub(crate) wall: Duration,
}

#[derive(Debug, Default)]
pub(super) struct WallClock(Option<Clocks>);

impl WallClock {
    /// Milliseconds since the Unix epoch at `now`; `look` reads both clocks.
    pub(super) fn ms(&mut self, now: Instant, look: fn() -> Clocks) -> i64 {
        let since = |looked: &Clocks| now.saturating_duration_since(looked.at);
        let recent = self.0.as_ref().map(|looked| (looked.wall, since(looked)));
        let (wall, since) = recent
            .filter(|(_, since)| *since < LOOK_AFTER)
            .unwrap_or_else(|| {
                let looked = self.0.insert(look());
                (looked.wall, since(looked))
            });
        // Not in whole milliseconds before they are added up: it would be one behind.
        let wall = wall + since;
        let ms = wall.as_secs().saturating_mul(1_000);
        i64::try_from(ms.saturating_add(wall.subsec_millis().into())).unwrap_or(i64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    thread_local! {
        static CLOCKS: Cell<Option<Clocks>> = const { Cell::new(None) };
    }

    #[test]
    fn the_systems_clock_is_looked_at_once_a_second() {
        let (start, mut clock) = (Instant::now(), WallClock::default());
        let look = || CLOCKS.get().expect("a look that is not due");
        let micros = Duration::from_micros;
        let mut ms = |at, shows: Option<u64>| {
            CLOCKS.set(shows.map(|shows| Clocks {
                at: start + micros(at),
                wall: micros(shows),
            }));
            clock.ms(start + micros(at), look)
        };
        assert_eq!(ms(0, Some(5_000_900)), 5_000);
        // Neither of the two is at a whole millisecond, the sum is past one.
        assert_eq!(ms(100, None), 5_001);
        assert_eq!(ms(999_999, None), 6_000);
        // It was set back meanwhile.
        assert_eq!(ms(1_000_000, Some(700_000)), 700);
        assert_eq!(ms(1_001_000, None), 701);
        assert_eq!(ms(90_000_000, Some(1_000_000)), 1_000);
    }

    #[test]
    fn a_call_that_began_before_the_look_is_not_put_before_it() {
        let (start, mut clock) = (Instant::now(), WallClock::default());
        let look = || CLOCKS.get().expect("a look that is not due");
        CLOCKS.set(Some(Clocks {
            at: start + Duration::from_millis(3),
            wall: Duration::from_millis(50),
        }));
        assert_eq!(clock.ms(start, look), 50);
    }
}
