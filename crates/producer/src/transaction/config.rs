//! [`TransactionalConfig`]: what a transactional producer needs besides a producer's settings.

use crate::ProducerConfig;
use ottla_client::transport::{Acks, Capabilities};
use ottla_types::{ConfigError, duration_ms};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// What a [`TransactionalProducer`](crate::TransactionalProducer) is built with.
///
/// ```
/// use ottla_producer::TransactionalConfig;
///
/// let json = r#"{"transactional.id": "billing-1", "transaction.timeout.ms": 30000}"#;
/// let config: TransactionalConfig = serde_json::from_str(json)?;
/// assert_eq!(config.transaction_timeout.as_secs(), 30);
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(remote = "Self", deny_unknown_fields)]
pub struct TransactionalConfig {
    /// `transactional.id`: names the producer over its restarts. Whoever starts with it last shuts
    /// out the others.
    #[serde(rename = "transactional.id")]
    pub transactional_id: String,
    /// `transaction.timeout.ms`: how long a transaction may stay open before the coordinator aborts
    /// it. 60 s by default; brokers allow up to their `transaction.max.timeout.ms`, 15 minutes
    /// unless set otherwise.
    #[serde(
        rename = "transaction.timeout.ms",
        with = "duration_ms",
        default = "minute"
    )]
    pub transaction_timeout: Duration,
    /// `max.block.ms`: the time limit of each step: init, begin, offsets, commit, abort. 60 s by
    /// default. A commit without an answer until then has an unknown outcome.
    #[serde(rename = "max.block.ms", with = "duration_ms", default = "minute")]
    pub max_block: Duration,
    /// The producer's settings; `acks` must be `all`.
    #[serde(default)]
    pub producer: ProducerConfig,
}

fn minute() -> Duration {
    Duration::from_secs(60)
}

impl TransactionalConfig {
    /// The defaults for this transactional id.
    pub fn new(transactional_id: impl Into<String>) -> Self {
        Self {
            transactional_id: transactional_id.into(),
            transaction_timeout: minute(),
            max_block: minute(),
            producer: ProducerConfig::default(),
        }
    }

    /// Checks every value by itself and against the others.
    ///
    /// # Errors
    /// Names the first key that is not allowed, its value and the allowed range.
    pub fn validate(&self) -> Result<(), ConfigError> {
        if self.transactional_id.is_empty() || i16::try_from(self.transactional_id.len()).is_err() {
            let (key, id) = ("transactional.id", &self.transactional_id);
            return Err(ConfigError::new(key, id, "1 to 32767 bytes"));
        }
        let day = Duration::from_secs(86_400);
        let limits = [
            ("transaction.timeout.ms", self.transaction_timeout),
            ("max.block.ms", self.max_block),
        ];
        for (key, limit) in limits {
            if !(Duration::from_millis(1)..=day).contains(&limit) {
                let expected = format!("1 to {}", day.as_millis());
                return Err(ConfigError::new(key, limit.as_millis(), expected));
            }
        }
        if self.producer.acks != Acks::All {
            let acks = format!("{:?}", self.producer.acks).to_lowercase();
            return Err(ConfigError::new("acks", acks, "all, in transactions"));
        }
        self.producer.validate()
    }

    /// Checks that a transport with these `capabilities` can do what is asked for.
    ///
    /// # Errors
    /// Names the key and the capability that is missing.
    pub fn validate_for(
        &self,
        transport: &str,
        capabilities: &Capabilities,
    ) -> Result<(), ConfigError> {
        if !capabilities.transactions {
            return Err(ConfigError::new(
                "transactional.id",
                &self.transactional_id,
                format!("none (transport `{transport}` lacks the capability `transactions`)"),
            ));
        }
        self.producer.validate_for(transport, capabilities)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trap_d_values_out_of_range_are_refused_at_build() {
        type Spoil = fn(&mut TransactionalConfig);
        let spoilers: [(&str, Spoil); 6] = [
            ("transactional.id", |c| c.transactional_id.clear()),
            ("transactional.id", |c| {
                c.transactional_id = "x".repeat(40_000)
            }),
            ("transaction.timeout.ms", |c| {
                c.transaction_timeout = Duration::ZERO
            }),
            ("max.block.ms", |c| c.max_block = Duration::MAX),
            ("acks", |c| c.producer.acks = Acks::Leader),
            ("batch.size", |c| c.producer.batch_size = 0),
        ];
        for (key, spoil) in spoilers {
            let mut config = TransactionalConfig::new("id");
            assert_eq!(config.validate(), Ok(()));
            spoil(&mut config);
            assert_eq!(config.validate().unwrap_err().key, key);
        }
    }

    #[test]
    fn a_transport_without_transactions_is_refused_by_its_capability() {
        let config = TransactionalConfig::new("id");
        let error = config.validate_for("plain", &Capabilities::minimal());
        let error = error.unwrap_err();
        assert_eq!(error.key, "transactional.id");
        assert!(error.expected.contains("`transactions`"), "{error}");
    }
}
