//! How long to wait before the next attempt.

use crate::durations::{text, texts};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// The wait by the number of failed attempts. Each distinct wait of a policy is a retry topic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Backoff {
    /// Always the same.
    Constant {
        /// The wait.
        #[serde(with = "text")]
        delay: Duration,
    },
    /// `first`, then `step` more each time.
    Linear {
        /// The first wait.
        #[serde(with = "text")]
        first: Duration,
        /// What is added each time.
        #[serde(with = "text")]
        step: Duration,
    },
    /// `first`, then `factor` times as long each time.
    Exponential {
        /// The first wait.
        #[serde(with = "text")]
        first: Duration,
        /// 2 or more.
        factor: u32,
    },
    /// The waits one by one; the last one stays.
    Levels {
        /// One or more.
        #[serde(with = "texts")]
        delays: Vec<Duration>,
    },
}

impl Backoff {
    /// Always `delay`.
    pub fn constant(delay: Duration) -> Self {
        Self::Constant { delay }
    }

    /// `first`, then `step` more each time.
    pub fn linear(first: Duration, step: Duration) -> Self {
        Self::Linear { first, step }
    }

    /// `first`, then twice as long each time.
    pub fn exponential(first: Duration) -> Self {
        Self::Exponential { first, factor: 2 }
    }

    /// The waits one by one; the last one stays.
    pub fn levels(delays: impl IntoIterator<Item = Duration>) -> Self {
        Self::Levels {
            delays: delays.into_iter().collect(),
        }
    }

    /// The wait after `failures` failed attempts (1 or more).
    pub fn delay(&self, failures: u32) -> Duration {
        let earlier = failures.saturating_sub(1);
        match self {
            Self::Constant { delay } => *delay,
            Self::Linear { first, step } => first.saturating_add(step.saturating_mul(earlier)),
            Self::Exponential { first, factor } => {
                first.saturating_mul(factor.saturating_pow(earlier))
            }
            Self::Levels { delays } => {
                let index = usize::try_from(earlier).unwrap_or(usize::MAX);
                let level = delays.get(index).or(delays.last());
                level.copied().unwrap_or_default()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(backoff: &Backoff) -> Vec<u64> {
        (1..=4).map(|n| backoff.delay(n).as_secs()).collect()
    }

    #[test]
    fn each_kind_grows_as_it_says() {
        let s = Duration::from_secs;
        assert_eq!(seconds(&Backoff::constant(s(3))), [3, 3, 3, 3]);
        assert_eq!(seconds(&Backoff::linear(s(1), s(2))), [1, 3, 5, 7]);
        assert_eq!(seconds(&Backoff::exponential(s(1))), [1, 2, 4, 8]);
        assert_eq!(seconds(&Backoff::levels([s(1), s(9)])), [1, 9, 9, 9]);
        let far = Backoff::exponential(s(1)).delay(u32::MAX);
        assert!(far > s(1 << 30));
    }
}
