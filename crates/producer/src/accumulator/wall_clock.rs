//! The time that records get which have none: the system's clock, looked at once a second, and
//! carried on by the time that every call brings along.

use std::time::{Duration, Instant};

/// How long a look at the system's clock holds: by so much a change of that clock may come late.
const LOOK_AFTER: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
pub(super) struct WallClock {
    /// When it was looked at, and the ms since the Unix epoch that it showed.
    looked: Option<(Instant, i64)>,
}

impl WallClock {
    /// Milliseconds since the Unix epoch; `look` reads the system's clock.
    pub(super) fn ms(&mut self, now: Instant, look: fn() -> i64) -> i64 {
        if let Some((at, ms)) = self.looked {
            let since = now.saturating_duration_since(at);
            if since < LOOK_AFTER {
                return ms + i64::from(since.subsec_millis());
            }
        }
        let ms = look();
        self.looked = Some((now, ms));
        ms
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_systems_clock_is_looked_at_once_a_second() {
        let (start, mut clock) = (Instant::now(), WallClock::default());
        let mut at = |ms, look| clock.ms(start + Duration::from_millis(ms), look);
        assert_eq!(at(0, || 5_000), 5_000);
        assert_eq!(at(999, || 0), 5_999);
        // It was set back meanwhile.
        assert_eq!(at(1_000, || 700), 700);
        assert_eq!(at(1_001, || 0), 701);
        assert_eq!(at(90_000, || 1_000), 1_000);
    }
}
