//! What a member of the consumer group protocol is told once.

use ottla_types::ConfigError;

/// The settings of a [`ConsumerMembership`](super::ConsumerMembership), in Kafka's names where it has
/// one. All times in milliseconds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsumerMembershipConfig {
    /// The member's id: unique in the group, kept for the life of the process. A UUID is usual.
    pub member_id: String,
    /// `group.instance.id`: a static member, whose place is kept for a session when it closes.
    pub instance_id: Option<String>,
    /// `client.rack`, for the broker's assignor.
    pub rack: Option<String>,
    /// `group.remote.assignor`: `uniform` or `range`; `None` leaves it to the broker.
    pub assignor: Option<String>,
    /// The broker's `group.consumer.session.timeout.ms` (which the protocol does not tell): without
    /// an answered heartbeat for this long the partitions are lost. 45 s is the broker's default; a
    /// longer one here risks two owners while the network is away.
    pub session_timeout_ms: i32,
    /// `max.poll.interval.ms` in the Java client: how long the coordinator waits for partitions that
    /// it takes back.
    pub rebalance_timeout_ms: i32,
    /// `retry.backoff.ms`: the first wait after a failure; doubled for each further one.
    pub retry_backoff_ms: i32,
    /// `retry.backoff.max.ms`: the longest wait between tries.
    pub retry_backoff_max_ms: i32,
}

impl ConsumerMembershipConfig {
    /// The defaults for a member with this id.
    pub fn new(member_id: impl Into<String>) -> Self {
        Self {
            member_id: member_id.into(),
            instance_id: None,
            rack: None,
            assignor: None,
            session_timeout_ms: 45_000,
            rebalance_timeout_ms: 300_000,
            retry_backoff_ms: 100,
            retry_backoff_max_ms: 1_000,
        }
    }

    /// Checks every range.
    ///
    /// # Errors
    /// The first value that is out of its range.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let positive = [
            ("session.timeout.ms", self.session_timeout_ms),
            ("max.poll.interval.ms", self.rebalance_timeout_ms),
            ("retry.backoff.ms", self.retry_backoff_ms),
        ];
        for (key, value) in positive {
            if value <= 0 {
                return Err(ConfigError::new(key, value, "above 0"));
            }
        }
        if self.retry_backoff_max_ms < self.retry_backoff_ms {
            let least = format!("at least retry.backoff.ms ({})", self.retry_backoff_ms);
            let value = self.retry_backoff_max_ms;
            return Err(ConfigError::new("retry.backoff.max.ms", value, least));
        }
        let names = [
            ("member.id", Some(self.member_id.as_str())),
            ("group.instance.id", self.instance_id.as_deref()),
            ("group.remote.assignor", self.assignor.as_deref()),
        ];
        match names.into_iter().find(|(_, name)| *name == Some("")) {
            Some((key, _)) => Err(ConfigError::new(key, "", "a name, or none")),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_bad_value_is_named() {
        let good = || ConsumerMembershipConfig::new("m");
        assert_eq!(good().validate(), Ok(()));
        type Spoil = fn(&mut ConsumerMembershipConfig);
        let bad: [(&str, Spoil); 7] = [
            ("session.timeout.ms", |c| c.session_timeout_ms = 0),
            ("max.poll.interval.ms", |c| c.rebalance_timeout_ms = -1),
            ("retry.backoff.ms", |c| c.retry_backoff_ms = 0),
            ("retry.backoff.max.ms", |c| c.retry_backoff_max_ms = 99),
            ("member.id", |c| c.member_id.clear()),
            ("group.instance.id", |c| c.instance_id = Some(String::new())),
            ("group.remote.assignor", |c| {
                c.assignor = Some(String::new())
            }),
        ];
        for (key, spoil) in bad {
            let mut config = good();
            spoil(&mut config);
            assert_eq!(config.validate().unwrap_err().key, key);
        }
    }
}
