//! [`ProcessingGuarantee`]: how a handler's outputs and the offsets of its records belong together
//! (`processing.guarantee` and the settings of transactions).

use crate::ConsumerConfig;
use crate::config::between_ms;
use ottla_types::ConfigError;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// What holds for the records that a handler publishes through its [`Context`](crate::Context), seen
/// from the offsets of what it handles.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProcessingGuarantee {
    /// The handler awaits its deliveries, then says `Done`, then the offset is committed. What was
    /// published before a crash is published again.
    #[default]
    AtLeastOnce,
    /// Outputs and offsets are committed in one transaction, by a transactional producer a member
    /// (KIP-98, KIP-447): who reads with `read_committed` sees the outputs of each record once. It
    /// needs [`App::transactions`](crate::App::transactions) and is refused at the start where the
    /// transport cannot do it, and where the client itself reads with `read_uncommitted`.
    ExactlyOnce,
    /// The same where it can be done. Elsewhere at least once, and the runner makes sure that every
    /// output is acknowledged before a record counts as handled.
    ExactlyOnceIfPossible,
}

/// What a transaction may take besides a call and the interval, where nothing is said.
const SPARE: Duration = Duration::from_secs(10);
/// The least of that.
const SPARE_MIN: Duration = Duration::from_millis(500);

impl ConsumerConfig {
    /// How long a transaction may be open.
    pub(crate) fn transaction_timeout(&self) -> Duration {
        let least = self.max_processing_time + self.transaction_interval;
        self.transaction_timeout.unwrap_or(least + SPARE)
    }

    /// How long after the first call of a transaction others may begin: the last of them and the
    /// commit have to end before the coordinator aborts it.
    pub(crate) fn transaction_patience(&self) -> Duration {
        let least = self.max_processing_time + self.transaction_interval;
        let spare = self.transaction_timeout().saturating_sub(least);
        self.transaction_interval + spare / 2
    }

    /// Whether the next start of this process ends what a crash of this one left open.
    pub(crate) fn has_stable_transactional_id(&self) -> bool {
        self.transactional_id_prefix.is_some() || self.group_instance_id.is_some()
    }

    /// The transactional id of an instance.
    pub(crate) fn transactional_id(&self, instance: usize, name: &str) -> String {
        match (&self.transactional_id_prefix, &self.group_instance_id) {
            // A process may have several groups.
            (Some(prefix), _) => format!("{prefix}-{}-{instance}", self.group_id),
            // It has the instance's number already.
            (None, Some(id)) => format!("{}-{id}", self.group_id),
            (None, None) => name.to_owned(),
        }
    }

    pub(crate) fn validate_transactions(&self) -> Result<(), ConfigError> {
        if let Some(prefix) = &self.transactional_id_prefix
            && !(1..=32_000).contains(&prefix.len())
        {
            let key = "transactional.id.prefix";
            return Err(ConfigError::new(key, prefix, "1 to 32000 bytes"));
        }
        let counts = [
            ("transaction.max.records", self.transaction_max_records),
            ("transaction.max.bytes", self.transaction_max_bytes),
        ];
        for (key, count) in counts {
            if count == 0 {
                return Err(ConfigError::new(key, count, "1 or more"));
            }
        }
        let day = Duration::from_secs(86_400);
        let times = [
            ("transaction.interval.ms", Some(self.transaction_interval)),
            ("transaction.timeout.ms", self.transaction_timeout),
        ];
        for (key, time) in times {
            if let Some(time) = time {
                between_ms(key, time, Duration::from_millis(1), day)?;
            }
        }
        // The coordinator would end transactions that a handler works in.
        let least = self.max_processing_time + self.transaction_interval + SPARE_MIN;
        let given = self.transaction_timeout();
        if self.processing_guarantee != ProcessingGuarantee::AtLeastOnce && given < least {
            let expected = format!(
                "at least {}, 500 ms above `max.processing.time.ms` and `transaction.interval.ms`",
                least.as_millis()
            );
            let given = given.as_millis();
            return Err(ConfigError::new("transaction.timeout.ms", given, expected));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trap_d_settings_of_transactions_are_refused_at_build() {
        type Spoil = fn(&mut ConsumerConfig);
        let spoilers: [(&str, Spoil); 6] = [
            ("transactional.id.prefix", |c| {
                c.transactional_id_prefix = Some(String::new());
            }),
            ("transaction.max.records", |c| c.transaction_max_records = 0),
            ("transaction.max.bytes", |c| c.transaction_max_bytes = 0),
            ("transaction.interval.ms", |c| {
                c.transaction_interval = Duration::MAX;
            }),
            ("transaction.timeout.ms", |c| {
                c.transaction_timeout = Some(c.max_processing_time + c.transaction_interval);
            }),
            ("transaction.timeout.ms", |c| {
                c.transaction_timeout = Some(Duration::MAX);
            }),
        ];
        for (key, spoil) in spoilers {
            let mut config = ConsumerConfig {
                processing_guarantee: ProcessingGuarantee::ExactlyOnce,
                ..ConsumerConfig::new("g")
            };
            assert_eq!(config.validate(), Ok(()));
            spoil(&mut config);
            assert_eq!(config.validate().unwrap_err().key, key);
        }
    }

    #[test]
    fn a_slow_handler_needs_no_long_transactions_without_transactions() {
        let mut config = ConsumerConfig::new("g");
        config.transaction_timeout = Some(config.max_processing_time);
        assert_eq!(config.validate(), Ok(()));
        config.transaction_timeout = None;
        config.max_processing_time = Duration::from_secs(7 * 86_400);
        assert_eq!(config.validate(), Ok(()));
    }

    #[test]
    fn a_call_and_the_commit_behind_it_have_time_in_every_transaction() {
        let mut config = ConsumerConfig::new("g");
        for timeout in [
            None,
            Some(Duration::from_secs(121)),
            Some(Duration::MAX / 2),
        ] {
            config.transaction_timeout = timeout;
            let last = config.transaction_patience() + config.max_processing_time;
            let commit = config.transaction_timeout() - last;
            assert!(config.transaction_patience() > config.transaction_interval);
            assert!(commit >= SPARE_MIN / 2, "{commit:?} of {timeout:?}");
        }
        assert_eq!(config.transaction_timeout(), Duration::MAX / 2);
        config.transaction_timeout = None;
        assert_eq!(config.transaction_timeout(), Duration::from_millis(130_100));
    }

    #[test]
    fn members_have_ids_of_their_own() {
        let mut config = ConsumerConfig::new("g");
        assert_eq!(config.transactional_id(1, "g-1-abc"), "g-1-abc");
        config.group_instance_id = Some("pod-1".to_owned());
        assert_eq!(config.transactional_id(1, "g-1-abc"), "g-pod-1");
        config.transactional_id_prefix = Some("billing".to_owned());
        assert_eq!(config.transactional_id(1, "g-1-abc"), "billing-g-1");
    }
}
