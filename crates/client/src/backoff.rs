//! How long to wait before the next attempt: exponential growth with full jitter.
//!
//! Full jitter spreads clients that failed at the same moment, so that a broker which comes back is
//! not hit by all of them at once.

use std::time::Duration;

/// Delays for consecutive attempts.
///
/// The n-th delay is drawn evenly from zero to `min(max, initial * 2^n)`, but is never below an
/// eighth of that bound, so that a run of small draws cannot become a hot loop.
///
/// ```
/// use ottla_client::Backoff;
/// use std::time::Duration;
///
/// let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(1));
/// assert!(backoff.next_delay() <= Duration::from_millis(100));
/// assert!(backoff.next_delay() <= Duration::from_millis(200));
/// ```
#[derive(Debug, Clone)]
pub struct Backoff {
    initial: Duration,
    max: Duration,
    bound: Duration,
    rng: fastrand::Rng,
}

impl Backoff {
    /// Delays that start at up to `initial` and grow to up to `max`, with a random seed.
    pub fn new(initial: Duration, max: Duration) -> Self {
        Self::with_rng(initial, max, fastrand::Rng::new())
    }

    /// The same with a given seed: the same seed gives the same delays.
    pub fn with_seed(initial: Duration, max: Duration, seed: u64) -> Self {
        Self::with_rng(initial, max, fastrand::Rng::with_seed(seed))
    }

    fn with_rng(initial: Duration, max: Duration, rng: fastrand::Rng) -> Self {
        Self {
            initial,
            max,
            bound: initial.min(max),
            rng,
        }
    }

    /// The delay before the next attempt.
    pub fn next_delay(&mut self) -> Duration {
        let bound = self.bound;
        self.bound = bound.saturating_mul(2).min(self.max);
        let floor = bound / 8;
        floor + (bound - floor).mul_f64(self.rng.f64())
    }

    /// Starts over, after an attempt that succeeded.
    pub fn reset(&mut self) {
        self.bound = self.initial.min(self.max);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_up_to_the_maximum_and_never_vanish() {
        let ms = Duration::from_millis;
        for seed in 0..50 {
            let mut backoff = Backoff::with_seed(ms(100), ms(1000), seed);
            for bound in [100, 200, 400, 800, 1000, 1000] {
                let delay = backoff.next_delay();
                assert!(
                    delay <= ms(bound),
                    "seed {seed}: {delay:?} above {bound} ms"
                );
                assert!(
                    delay >= ms(bound) / 8,
                    "seed {seed}: {delay:?} for {bound} ms"
                );
            }
            backoff.reset();
            assert!(backoff.next_delay() <= ms(100));
        }
    }

    #[test]
    fn a_seed_repeats_its_delays() {
        let delays = |seed| {
            let mut b = Backoff::with_seed(Duration::from_millis(50), Duration::MAX, seed);
            (0..100).map(|_| b.next_delay()).collect::<Vec<_>>()
        };
        assert_eq!(delays(7), delays(7));
        assert_ne!(delays(7), delays(8));
    }
}
