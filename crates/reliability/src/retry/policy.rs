//! The retry policy, checked once.

use super::Backoff;
use crate::durations::text;
use ottla_types::ConfigError;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// The most retry topics that one main topic and group may have.
const TIERS_MAX: usize = 32;
const DELAY_MAX: Duration = Duration::from_secs(7 * 24 * 3600);

/// How often and when a failed record is tried again. In configuration files durations are texts
/// such as `5s`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(remote = "Self", default, deny_unknown_fields)]
pub struct RetryPolicy {
    /// Attempts in all, the first included. 1 to 1000, default 4; 1 is "no retry".
    pub attempts: u32,
    /// The waits between them. Default 1 s, 5 s, 30 s.
    pub backoff: Backoff,
    /// The longest wait; longer ones of the backoff are cut to it. 1 ms to 7 days, default 1 h.
    #[serde(with = "text")]
    pub max_delay: Duration,
    /// How much is added to a wait at random, as a part of it: 0 to 1, default 0.1. A record is
    /// never tried before its wait is over.
    pub jitter: f64,
    /// Attempts in the partition itself before a retry topic is used; default none.
    pub in_place: Option<InPlace>,
    /// How long the partition waits when a handler reports an outage
    /// ([`Failure::Outage`](ottla_consumer::Failure::Outage)). Such a failure counts as no attempt:
    /// the record stays where it is. 1 ms to 1 h, default 5 s.
    #[serde(with = "text")]
    pub outage_wait: Duration,
    /// Other attempts and waits for classes of errors, by
    /// [`HandlerError::class`](ottla_consumer::HandlerError::class).
    pub classes: BTreeMap<String, ClassPolicy>,
}

/// What differs for a class of errors; what is `None` is as in the policy.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ClassPolicy {
    /// Attempts in all.
    pub attempts: Option<u32>,
    /// The waits between them.
    pub backoff: Option<Backoff>,
}

/// Further tries at once in the partition, which waits meanwhile. They count as one attempt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InPlace {
    /// Tries after the first one. 1 to 100.
    pub tries: u32,
    /// The wait before each.
    #[serde(with = "text")]
    pub delay: Duration,
    /// No try begins later than this after the first one. At most 5 min; keep it well below
    /// `max.processing.time.ms` of the registration.
    #[serde(with = "text")]
    pub max_time: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        let delays = [1, 5, 30].map(Duration::from_secs);
        Self::new(4, Backoff::levels(delays))
    }
}

impl RetryPolicy {
    /// `attempts` in all, with the waits of `backoff` between them, and the defaults for the rest.
    pub fn new(attempts: u32, backoff: Backoff) -> Self {
        Self {
            attempts,
            backoff,
            max_delay: Duration::from_secs(3600),
            jitter: 0.1,
            in_place: None,
            outage_wait: Duration::from_secs(5),
            classes: BTreeMap::new(),
        }
    }

    /// Sets the jitter.
    #[must_use]
    pub fn jitter(mut self, part: f64) -> Self {
        self.jitter = part;
        self
    }

    /// Sets what differs for a class of errors.
    #[must_use]
    pub fn class(mut self, class: impl Into<String>, policy: ClassPolicy) -> Self {
        self.classes.insert(class.into(), policy);
        self
    }

    /// Tries in place first.
    #[must_use]
    pub fn in_place(mut self, in_place: InPlace) -> Self {
        self.in_place = Some(in_place);
        self
    }

    /// Checks every value.
    ///
    /// # Errors
    /// Names the first one that is not allowed.
    pub fn validate(&self) -> Result<(), ConfigError> {
        if !(0.0..=1.0).contains(&self.jitter) {
            return Err(ConfigError::new("jitter", self.jitter, "0 to 1"));
        }
        between("max_delay", self.max_delay, DELAY_MAX)?;
        between("outage_wait", self.outage_wait, Duration::from_secs(3600))?;
        for (attempts, backoff) in self.rules() {
            if !(1..=1000).contains(&attempts) {
                return Err(ConfigError::new("attempts", attempts, "1 to 1000"));
            }
            validate_backoff(backoff)?;
        }
        if let Some(InPlace {
            tries,
            delay,
            max_time,
        }) = &self.in_place
        {
            if !(1..=100).contains(tries) {
                return Err(ConfigError::new("in_place.tries", tries, "1 to 100"));
            }
            between("in_place.delay", *delay, Duration::from_secs(300))?;
            between("in_place.max_time", *max_time, Duration::from_secs(300))?;
        }
        let tiers = self.tiers().len();
        if tiers > TIERS_MAX {
            let expected = format!("at most {TIERS_MAX} different waits");
            return Err(ConfigError::new("backoff", tiers, expected));
        }
        Ok(())
    }

    fn rules(&self) -> impl Iterator<Item = (u32, &Backoff)> {
        let classes = self.classes.values().map(|class| {
            let attempts = class.attempts.unwrap_or(self.attempts);
            (attempts, class.backoff.as_ref().unwrap_or(&self.backoff))
        });
        std::iter::once((self.attempts, &self.backoff)).chain(classes)
    }

    /// Every wait that can occur: one retry topic each.
    pub(super) fn tiers(&self) -> BTreeSet<Duration> {
        self.rules()
            .flat_map(|(attempts, backoff)| {
                (1..attempts).map(|failures| self.cut(backoff.delay(failures)))
            })
            .collect()
    }

    /// The wait before the next attempt when `failures` attempts have failed, the last one with an
    /// error of `class`; `None` when that was the last attempt.
    pub(super) fn next_delay(&self, class: &str, failures: u32) -> Option<Duration> {
        let class = self.classes.get(class);
        let attempts = class.and_then(|c| c.attempts).unwrap_or(self.attempts);
        let backoff = class.and_then(|c| c.backoff.as_ref());
        let backoff = backoff.unwrap_or(&self.backoff);
        (failures < attempts).then(|| self.cut(backoff.delay(failures)))
    }

    /// Whole milliseconds, at most `max_delay`: what a topic's name can say.
    fn cut(&self, delay: Duration) -> Duration {
        let delay = delay.min(self.max_delay);
        Duration::from_millis(u64::try_from(delay.as_millis()).unwrap_or(u64::MAX))
    }

    /// The longest time between a failure and the next attempt.
    pub(super) fn with_most_jitter(&self, delay: Duration) -> Duration {
        delay.saturating_add(delay.mul_f64(self.jitter.clamp(0.0, 1.0)))
    }
}

fn validate_backoff(backoff: &Backoff) -> Result<(), ConfigError> {
    match backoff {
        Backoff::Constant { delay } => between("backoff.delay", *delay, DELAY_MAX),
        Backoff::Linear { first, step } => {
            between("backoff.first", *first, DELAY_MAX)?;
            between("backoff.step", *step, DELAY_MAX)
        }
        Backoff::Exponential { first, factor } => {
            if *factor < 2 {
                return Err(ConfigError::new("backoff.factor", factor, "2 or more"));
            }
            between("backoff.first", *first, DELAY_MAX)
        }
        Backoff::Levels { delays } => {
            if delays.is_empty() {
                return Err(ConfigError::new("backoff.delays", "", "one delay or more"));
            }
            delays
                .iter()
                .try_for_each(|delay| between("backoff.delays", *delay, DELAY_MAX))
        }
    }
}

/// 1 ms to `max`.
fn between(key: &'static str, value: Duration, max: Duration) -> Result<(), ConfigError> {
    if (Duration::from_millis(1)..=max).contains(&value) {
        return Ok(());
    }
    let expected = format!("1ms to {}", crate::durations::label(max));
    Err(ConfigError::new(key, format!("{value:?}"), expected))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn classes_of_errors_have_their_own_attempts_and_waits() {
        let policy = RetryPolicy::new(3, Backoff::constant(SECOND)).class(
            "Slow",
            ClassPolicy {
                attempts: Some(5),
                backoff: Some(Backoff::exponential(SECOND * 2)),
            },
        );
        policy.validate().unwrap();
        assert_eq!(policy.next_delay("Other", 2), Some(SECOND));
        assert_eq!(policy.next_delay("Other", 3), None);
        assert_eq!(policy.next_delay("Slow", 4), Some(SECOND * 16));
        assert_eq!(policy.next_delay("Slow", 5), None);
        let tiers: Vec<u64> = policy.tiers().iter().map(Duration::as_secs).collect();
        assert_eq!(tiers, [1, 2, 4, 8, 16]);
    }

    #[test]
    fn waits_are_cut_to_the_longest() {
        let mut policy = RetryPolicy::new(100, Backoff::exponential(SECOND));
        policy.max_delay = SECOND * 5;
        policy.validate().unwrap();
        assert_eq!(policy.tiers().len(), 4);
        assert_eq!(policy.next_delay("", 90), Some(SECOND * 5));
    }

    #[test]
    fn bad_values_are_named() {
        let bad = |policy: RetryPolicy| policy.validate().unwrap_err().key;
        let constant = Backoff::constant(SECOND);
        assert_eq!(bad(RetryPolicy::new(0, constant.clone())), "attempts");
        let jitter = RetryPolicy::new(1, constant).jitter(f64::NAN);
        assert_eq!(bad(jitter), "jitter");
        assert_eq!(
            bad(RetryPolicy::new(2, Backoff::levels([]))),
            "backoff.delays"
        );
        let steps = Backoff::linear(SECOND, SECOND);
        assert_eq!(bad(RetryPolicy::new(100, steps)), "backoff");
    }

    #[test]
    fn a_policy_is_read_from_text() {
        let text = r#"{"attempts": 3, "backoff": {"kind": "levels", "delays": ["1s", "5m"]}}"#;
        let policy: RetryPolicy = serde_json::from_str(text).unwrap();
        assert_eq!(policy.next_delay("", 2), Some(SECOND * 300));
        let again = serde_json::to_string(&policy).unwrap();
        assert_eq!(serde_json::from_str::<RetryPolicy>(&again).unwrap(), policy);
        assert!(serde_json::from_str::<RetryPolicy>(r#"{"attempt": 3}"#).is_err());
    }
}
