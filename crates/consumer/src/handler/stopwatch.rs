//! [`Stopwatch`]: how long calls take, with few looks at the clock.
//!
//! For a handler that ends at once the look at the clock would cost as much as the call. As long as
//! calls do, several of them share one; each call that waits is timed by itself.

use std::time::Duration;
use tokio::time::Instant;

/// The most calls that share a look at the clock.
const SHARE_MAX: u32 = 8;
/// As long as calls take no longer than this on average, more of them share a look.
const QUICK: Duration = Duration::from_micros(5);

/// Hears how long calls took.
pub(crate) trait Times {
    /// So many calls took so long each.
    fn took(&self, each: Duration, calls: usize);
}

/// The times of calls, one after the other.
#[derive(Debug)]
pub(super) struct Stopwatch {
    /// When the first call began that is not timed yet.
    begun: Instant,
    /// The calls since then that have ended.
    ended: u32,
    /// How many share a look at the clock.
    share: u32,
    /// What a call took on average when that was known last.
    usual: Duration,
}

impl Stopwatch {
    /// The first call begins now.
    pub(super) fn start() -> Self {
        Self {
            begun: Instant::now(),
            ended: 0,
            share: 1,
            usual: Duration::ZERO,
        }
    }

    /// When the present call began, or one of the few quick ones before it.
    pub(super) fn begun(&self) -> Instant {
        self.begun
    }

    /// The present call has ended without waiting, and the next one begins; the time, if it was looked
    /// at.
    pub(super) fn ended_at_once(&mut self, times: &(impl Times + ?Sized)) -> Option<Instant> {
        self.ended += 1;
        if self.ended < self.share {
            return None;
        }
        let now = Instant::now();
        let calls = self.ended;
        let took = now - self.begun;
        self.share = match took <= QUICK * calls {
            true => (self.share * 2).min(SHARE_MAX),
            false => 1,
        };
        self.tell(times, took, calls);
        self.begun = now;
        Some(now)
    }

    /// The present call waits: it is timed by itself, those before it are not any more. When it began.
    pub(super) fn waits(&mut self, times: &(impl Times + ?Sized)) -> Instant {
        if self.ended > 0 {
            let before = self.usual * self.ended;
            let now = Instant::now();
            self.begun = now.min(self.begun + before);
            times.took(self.usual, self.ended as usize);
            self.ended = 0;
        }
        self.begun
    }

    /// The present call, which waited, has ended, and the next one begins; the time.
    pub(super) fn ended(&mut self, times: &(impl Times + ?Sized)) -> Instant {
        let now = Instant::now();
        times.took(now - self.begun, 1);
        self.begun = now;
        self.share = 1;
        now
    }

    /// No other call follows.
    pub(super) fn stop(&mut self, times: &(impl Times + ?Sized)) {
        if self.ended > 0 {
            let took = self.begun.elapsed();
            self.tell(times, took, self.ended);
        }
    }

    /// `calls` calls took so long together. If that is much, it was one of them.
    fn tell(&mut self, times: &(impl Times + ?Sized), took: Duration, calls: u32) {
        self.ended = 0;
        let others = self.usual * (calls - 1);
        if calls > 1 && took > QUICK * calls && took > others {
            times.took(self.usual, calls as usize - 1);
            return times.took(took - others, 1);
        }
        self.usual = took / calls;
        times.took(self.usual, calls as usize);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;
    use tokio::time::advance;

    #[derive(Default)]
    struct Told(RefCell<Vec<(u64, usize)>>);

    impl Times for Told {
        fn took(&self, each: Duration, calls: usize) {
            self.0.borrow_mut().push((each.as_micros() as u64, calls));
        }
    }

    impl Told {
        fn take(&self) -> Vec<(u64, usize)> {
            self.0.take()
        }
    }

    /// A stopwatch after quick calls of a microsecond each.
    async fn quick(told: &Told) -> Stopwatch {
        let mut watch = Stopwatch::start();
        for _ in 0..1 + 2 + 4 + 8 {
            advance(Duration::from_micros(1)).await;
            watch.ended_at_once(told);
        }
        assert_eq!(told.take(), [(1, 1), (1, 2), (1, 4), (1, 8)]);
        watch
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_call_among_quick_ones_is_told_as_one_and_the_next_are_timed_one_by_one() {
        let told = Told::default();
        let mut watch = quick(&told).await;
        for call in 0..8 {
            advance(Duration::from_micros(if call == 3 { 5_000 } else { 1 })).await;
            watch.ended_at_once(&told);
        }
        assert_eq!(told.take(), [(1, 7), (5_000, 1)]);
        for _ in 0..2 {
            advance(Duration::from_micros(300)).await;
            assert!(watch.ended_at_once(&told).is_some());
        }
        assert_eq!(told.take(), [(300, 1), (300, 1)]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_waits_is_timed_by_itself() {
        let told = Told::default();
        let mut watch = quick(&told).await;
        for _ in 0..3 {
            advance(Duration::from_micros(1)).await;
            assert_eq!(watch.ended_at_once(&told), None);
        }
        assert_eq!(watch.waits(&told), Instant::now());
        advance(Duration::from_micros(700)).await;
        assert_eq!(watch.ended(&told), Instant::now());
        assert_eq!(told.take(), [(1, 3), (700, 1)]);
        // What follows is timed one by one again.
        assert!(watch.ended_at_once(&told).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_left_untold_at_the_end() {
        let told = Told::default();
        let mut watch = quick(&told).await;
        advance(Duration::from_micros(4)).await;
        watch.ended_at_once(&told);
        watch.ended_at_once(&told);
        watch.stop(&told);
        watch.stop(&told);
        assert_eq!(told.take(), [(2, 2)]);
    }
}
