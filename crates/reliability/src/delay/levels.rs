//! The levels: which delays there are, each with a topic.

use super::producer::{DelayError, address};
use crate::durations::{label, parse};
use ottla_types::{ConfigError, Record, names, validate_topic_name};
use std::collections::BTreeSet;
use std::str::FromStr;
use std::time::Duration;

/// RocketMQ's `messageDelayLevel`.
const ROCKETMQ: &str = "1s 5s 10s 30s 1m 2m 3m 4m 5m 6m 7m 8m 9m 10m 20m 30m 1h 2h";
/// One level a topic; brokers take more, but a list this long is a mistake.
const LEVELS_MAX: usize = 64;

/// A delay and its topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DelayLevel {
    delay: Duration,
    topic: String,
}

impl DelayLevel {
    fn new(delay: Duration) -> Self {
        Self {
            delay,
            topic: names::delay_topic(&label(delay)),
        }
    }

    /// How long a record stays.
    pub fn delay(&self) -> Duration {
        self.delay
    }

    /// The level's topic: `delay_<level>`.
    pub fn topic(&self) -> &str {
        &self.topic
    }
}

/// Delay levels, the shortest first.
///
/// ```
/// use ottla_reliability::DelayLevels;
///
/// let levels: DelayLevels = "1s 30s 5m".parse()?;
/// assert_eq!(levels.get(2).map(|level| level.topic()), Some("delay_30s"));
/// # Ok::<(), ottla_types::ConfigError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DelayLevels(Vec<DelayLevel>);

impl DelayLevels {
    /// RocketMQ's 18 levels: 1s 5s 10s 30s 1m 2m 3m 4m 5m 6m 7m 8m 9m 10m 20m 30m 1h 2h.
    pub fn rocketmq() -> Self {
        let delays = ROCKETMQ.split(' ').filter_map(parse);
        Self(delays.map(DelayLevel::new).collect())
    }

    /// The given delays, in any order; a duplicate counts once.
    ///
    /// # Errors
    /// For no delay, more than 64, or one that is not between 1 ms and 7 days.
    pub fn new(delays: impl IntoIterator<Item = Duration>) -> Result<Self, ConfigError> {
        let delays: BTreeSet<Duration> = delays.into_iter().collect();
        if !(1..=LEVELS_MAX).contains(&delays.len()) {
            let expected = format!("1 to {LEVELS_MAX} levels");
            return Err(ConfigError::new("delay.levels", delays.len(), expected));
        }
        let allowed = Duration::from_millis(1)..=Duration::from_secs(7 * 24 * 3600);
        if let Some(bad) = delays.iter().find(|delay| !allowed.contains(delay)) {
            let given = format!("{bad:?}");
            return Err(ConfigError::new("delay.levels", given, "1ms to 7d"));
        }
        Ok(Self(delays.into_iter().map(DelayLevel::new).collect()))
    }

    /// The same levels with `prefix` before each topic's name, so that several delay services can
    /// share a cluster.
    ///
    /// # Errors
    /// When a name would not be legal.
    pub fn with_topic_prefix(mut self, prefix: &str) -> Result<Self, ConfigError> {
        for level in &mut self.0 {
            level.topic.insert_str(0, prefix);
            validate_topic_name(&level.topic)?;
        }
        Ok(self)
    }

    /// `record` as it stands in a delay topic, to be due `delay` after `now_ms` at its own topic: for
    /// those who write it themselves, such as an outbox row in the caller's transaction.
    ///
    /// A `message_id` is added if there is none. Any `delay` up to the forwarder's limit is taken.
    ///
    /// # Errors
    /// [`DelayError::PartitionChosen`].
    pub fn delay(
        &self,
        record: Record,
        delay: Duration,
        now_ms: i64,
    ) -> Result<Record, DelayError> {
        let level = self.within(delay).unwrap_or_else(|| self.shortest());
        address(record, level, delay, now_ms)
    }

    /// The level with this number, from 1 as RocketMQ counts.
    pub fn get(&self, number: usize) -> Option<&DelayLevel> {
        self.0.get(number.checked_sub(1)?)
    }

    /// The levels, the shortest first.
    pub fn iter(&self) -> std::slice::Iter<'_, DelayLevel> {
        self.0.iter()
    }

    /// The topics of all levels.
    pub fn topics(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(DelayLevel::topic)
    }

    /// The level of a topic.
    pub(super) fn of_topic(&self, topic: &str) -> Option<&DelayLevel> {
        self.0.iter().find(|level| level.topic == topic)
    }

    /// The longest level that is over after `wait` at the latest.
    pub(super) fn within(&self, wait: Duration) -> Option<&DelayLevel> {
        self.0.iter().rev().find(|level| level.delay <= wait)
    }

    /// The shortest level. There always is one.
    pub(super) fn shortest(&self) -> &DelayLevel {
        &self.0[0]
    }

    /// The longest level.
    pub(super) fn longest(&self) -> &DelayLevel {
        &self.0[self.0.len() - 1]
    }
}

impl FromStr for DelayLevels {
    type Err = ConfigError;

    /// Reads delays such as `1s 5s 1m 2h`, separated by white space.
    fn from_str(text: &str) -> Result<Self, ConfigError> {
        let read = |word: &str| {
            let expected = "a number with ms, s, m, h or d";
            parse(word).ok_or_else(|| ConfigError::new("delay.levels", word, expected))
        };
        let delays: Result<Vec<_>, _> = text.split_whitespace().map(read).collect();
        Self::new(delays?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rocketmqs_levels_are_all_there() {
        let levels = DelayLevels::rocketmq();
        assert_eq!(levels, ROCKETMQ.parse().unwrap());
        assert_eq!(levels.iter().count(), 18);
        assert_eq!(levels.get(18).unwrap().topic(), "delay_2h");
        assert_eq!((levels.get(0), levels.get(19)), (None, None));
    }

    #[test]
    fn own_levels_are_sorted_and_checked() {
        let levels: DelayLevels = " 5s\t1s 5000ms ".parse().unwrap();
        let topics: Vec<_> = levels.topics().collect();
        assert_eq!(topics, ["delay_1s", "delay_5s"]);
        for bad in ["", "1x", "0s", "8d", "1s,5s"] {
            assert!(bad.parse::<DelayLevels>().is_err(), "{bad}");
        }
    }

    #[test]
    fn the_longest_level_within_a_wait() {
        let levels = DelayLevels::rocketmq();
        let within = |s| levels.within(Duration::from_secs(s)).map(DelayLevel::topic);
        assert_eq!(within(0), None);
        assert_eq!(within(29), Some("delay_10s"));
        assert_eq!(within(30), Some("delay_30s"));
        assert_eq!(within(1_000_000), Some("delay_2h"));
    }
}
