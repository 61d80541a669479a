//! What a member is told once, checked when it is made.

use crate::assign::{Assignor, RebalanceProtocol};
use ottla_types::ConfigError;

/// The settings of a [`Membership`](super::Membership), in Kafka's names. All times in milliseconds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MembershipConfig {
    /// `session.timeout.ms`: without an answered heartbeat for this long the partitions are lost.
    pub session_timeout_ms: i32,
    /// `max.poll.interval.ms` in the Java client: how long a rebalance waits for this member.
    pub rebalance_timeout_ms: i32,
    /// `heartbeat.interval.ms`: at most a third of the session timeout.
    pub heartbeat_interval_ms: i32,
    /// `group.instance.id`: a static member (KIP-345), which does not leave when it closes.
    pub instance_id: Option<String>,
    /// `partition.assignment.strategy`, the preferred one first; all of one protocol.
    pub assignors: Vec<Assignor>,
    /// `client.rack`, told to the leader; the own assignors do not use it.
    pub rack: Option<String>,
    /// `retry.backoff.ms`: the first wait after a failure; doubled for each further one.
    pub retry_backoff_ms: i32,
    /// `retry.backoff.max.ms`: the longest wait between tries.
    pub retry_backoff_max_ms: i32,
}

impl Default for MembershipConfig {
    fn default() -> Self {
        Self {
            session_timeout_ms: 45_000,
            rebalance_timeout_ms: 300_000,
            heartbeat_interval_ms: 3_000,
            instance_id: None,
            assignors: vec![Assignor::CooperativeSticky],
            rack: None,
            retry_backoff_ms: 100,
            retry_backoff_max_ms: 1_000,
        }
    }
}

impl MembershipConfig {
    /// Checks every range.
    ///
    /// # Errors
    /// The first value that is out of its range.
    pub fn validate(&self) -> Result<(), ConfigError> {
        positive("session.timeout.ms", self.session_timeout_ms)?;
        positive("max.poll.interval.ms", self.rebalance_timeout_ms)?;
        positive("heartbeat.interval.ms", self.heartbeat_interval_ms)?;
        positive("retry.backoff.ms", self.retry_backoff_ms)?;
        if self.heartbeat_interval_ms > self.session_timeout_ms / 3 {
            return Err(ConfigError::new(
                "heartbeat.interval.ms",
                self.heartbeat_interval_ms,
                format!(
                    "at most a third of session.timeout.ms ({})",
                    self.session_timeout_ms
                ),
            ));
        }
        if self.retry_backoff_max_ms < self.retry_backoff_ms {
            return Err(ConfigError::new(
                "retry.backoff.max.ms",
                self.retry_backoff_max_ms,
                format!("at least retry.backoff.ms ({})", self.retry_backoff_ms),
            ));
        }
        if self.instance_id.as_deref().is_some_and(str::is_empty) {
            return Err(ConfigError::new("group.instance.id", "", "a name, or none"));
        }
        self.validate_assignors()
    }

    fn validate_assignors(&self) -> Result<(), ConfigError> {
        const KEY: &str = "partition.assignment.strategy";
        let Some(first) = self.assignors.first() else {
            return Err(ConfigError::new(KEY, "", "at least one assignor"));
        };
        match self
            .assignors
            .iter()
            .find(|a| a.protocol() != first.protocol())
        {
            Some(other) => Err(ConfigError::new(
                KEY,
                format!("{},{}", first.name(), other.name()),
                "assignors that are all eager or all cooperative",
            )),
            None => Ok(()),
        }
    }

    pub(super) fn protocol(&self) -> RebalanceProtocol {
        self.assignors
            .first()
            .map_or(RebalanceProtocol::Eager, |a| a.protocol())
    }
}

fn positive(key: &'static str, value: i32) -> Result<(), ConfigError> {
    if value > 0 {
        Ok(())
    } else {
        Err(ConfigError::new(key, value, "above 0"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_valid() {
        assert_eq!(MembershipConfig::default().validate(), Ok(()));
    }

    #[test]
    fn each_bad_value_is_named() {
        let base = MembershipConfig::default;
        let bad = [
            (
                "session.timeout.ms",
                MembershipConfig {
                    session_timeout_ms: 0,
                    ..base()
                },
            ),
            (
                "max.poll.interval.ms",
                MembershipConfig {
                    rebalance_timeout_ms: -1,
                    ..base()
                },
            ),
            (
                "heartbeat.interval.ms",
                MembershipConfig {
                    heartbeat_interval_ms: 15_001,
                    ..base()
                },
            ),
            (
                "retry.backoff.ms",
                MembershipConfig {
                    retry_backoff_ms: 0,
                    ..base()
                },
            ),
            (
                "retry.backoff.max.ms",
                MembershipConfig {
                    retry_backoff_max_ms: 99,
                    ..base()
                },
            ),
            (
                "group.instance.id",
                MembershipConfig {
                    instance_id: Some(String::new()),
                    ..base()
                },
            ),
            (
                "partition.assignment.strategy",
                MembershipConfig {
                    assignors: vec![],
                    ..base()
                },
            ),
            (
                "partition.assignment.strategy",
                MembershipConfig {
                    assignors: vec![Assignor::Range, Assignor::CooperativeSticky],
                    ..base()
                },
            ),
        ];
        for (key, config) in bad {
            assert_eq!(config.validate().unwrap_err().key, key);
        }
    }
}
