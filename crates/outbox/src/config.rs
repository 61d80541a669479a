//! The relay's settings, checked once.

use ottla_types::{ConfigError, duration_ms};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// How a [`Relay`](crate::Relay) works. The names in TOML, JSON and the environment are the
/// dotted ones, durations in milliseconds.
///
/// # How fast it is
///
/// One row of a key is on its way at a time, so a key gets one row for each round trip and each
/// linger of the producer; different keys go side by side, in common batches. Measured against
/// brokers in the same process (debug build, rows of 100 bytes): one key alone 141 rows/s with the
/// producer's default linger of 5 ms, 273 with 2 ms and 1,310 with none; 100 keys 11,000, 15,000 and
/// 23,000. So give the relay a producer of its own with `linger.ms` 0: what becomes ready while a
/// batch is in flight shares the next one anyway.
///
/// More rows of a key at once would not be safe behind [`Publish`](ottla_types::Publish): a producer
/// that gives up on one record goes on with the next one, and when the relay sends the first again,
/// it stands behind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(remote = "Self", default, deny_unknown_fields)]
pub struct RelayConfig {
    /// What this relay is called in its lease and in logs; each start adds a part of its own, so
    /// that two relays of the same name still exclude each other. 1 to 249 bytes, default `relay`.
    pub owner: Option<String>,
    /// How long a lease lasts without renewal: after a crash, another relay takes over within this
    /// time. It is renewed after a third of it. 300 ms to 10 min, default 10 s.
    #[serde(rename = "lease.ms", with = "duration_ms")]
    pub lease: Duration,
    /// How often the outbox is read, and a lease that another holds is asked for, when nothing wakes
    /// the relay. 1 ms to 1 min, default 1 s.
    #[serde(rename = "poll.interval.ms", with = "duration_ms")]
    pub poll_interval: Duration,
    /// Rows read at once. 1 to 10,000, default 500.
    #[serde(rename = "batch.rows")]
    pub batch_rows: usize,
    /// Rows held in memory: read, and not yet marked. At least `batch.rows`, up to 100,000, default
    /// 2,000.
    #[serde(rename = "max.in.flight.rows")]
    pub max_in_flight_rows: usize,
    /// No further rows are read while those in memory weigh more than this (a read of
    /// `batch.rows` can go above it once). At least 1, default 32 MiB.
    #[serde(rename = "max.in.flight.bytes")]
    pub max_in_flight_bytes: usize,
    /// The wait before a failed row is sent again; doubles with each failure. 1 ms or more, default
    /// 100 ms.
    #[serde(rename = "retry.backoff.ms", with = "duration_ms")]
    pub retry_backoff: Duration,
    /// The longest such wait. At least `retry.backoff.ms`, default 10 s.
    #[serde(rename = "retry.backoff.max.ms", with = "duration_ms")]
    pub retry_backoff_max: Duration,
    /// How often a row is tried whose topic does not exist or that the broker refuses, before it is
    /// parked. 1 or more, default 10. An unreachable cluster never parks a row.
    #[serde(rename = "park.after.attempts")]
    pub park_after_attempts: u32,
    /// How long sent rows are kept. Default 1 h.
    #[serde(rename = "retention.ms", with = "duration_ms")]
    pub retention: Duration,
}

impl Default for RelayConfig {
    fn default() -> Self {
        Self {
            owner: None,
            lease: Duration::from_secs(10),
            poll_interval: Duration::from_secs(1),
            batch_rows: 500,
            max_in_flight_rows: 2_000,
            max_in_flight_bytes: 32 << 20,
            retry_backoff: Duration::from_millis(100),
            retry_backoff_max: Duration::from_secs(10),
            park_after_attempts: 10,
            retention: Duration::from_secs(3600),
        }
    }
}

impl RelayConfig {
    /// Checks every value.
    ///
    /// # Errors
    /// Names the first one that is not allowed.
    pub fn validate(&self) -> Result<(), ConfigError> {
        if let Some(owner) = &self.owner
            && !(1..=249).contains(&owner.len())
        {
            return Err(ConfigError::new("owner", owner, "1 to 249 bytes"));
        }
        let millis = Duration::from_millis;
        within("lease.ms", self.lease, millis(300), millis(600_000))?;
        within(
            "poll.interval.ms",
            self.poll_interval,
            millis(1),
            millis(60_000),
        )?;
        at_least("batch.rows", self.batch_rows, 1, 10_000)?;
        at_least(
            "max.in.flight.rows",
            self.max_in_flight_rows,
            self.batch_rows,
            100_000,
        )?;
        at_least(
            "max.in.flight.bytes",
            self.max_in_flight_bytes,
            1,
            usize::MAX,
        )?;
        let day = millis(86_400_000);
        within("retry.backoff.ms", self.retry_backoff, millis(1), day)?;
        within(
            "retry.backoff.max.ms",
            self.retry_backoff_max,
            self.retry_backoff,
            day,
        )?;
        let attempts = self.park_after_attempts as usize;
        at_least("park.after.attempts", attempts, 1, usize::MAX)
    }
}

fn within(
    key: &'static str,
    value: Duration,
    min: Duration,
    max: Duration,
) -> Result<(), ConfigError> {
    if (min..=max).contains(&value) {
        return Ok(());
    }
    let expected = format!("{} to {}", min.as_millis(), max.as_millis());
    Err(ConfigError::new(key, value.as_millis(), expected))
}

fn at_least(key: &'static str, value: usize, min: usize, max: usize) -> Result<(), ConfigError> {
    if (min..=max).contains(&value) {
        return Ok(());
    }
    let expected = if max == usize::MAX {
        format!("{min} or more")
    } else {
        format!("{min} to {max}")
    };
    Err(ConfigError::new(key, value, expected))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_is_valid_and_survives_serde() {
        let config = RelayConfig::default();
        config.validate().unwrap();
        let json = serde_json::to_string(&config).unwrap();
        assert_eq!(serde_json::from_str::<RelayConfig>(&json).unwrap(), config);
        assert!(serde_json::from_str::<RelayConfig>(r#"{"lease":1}"#).is_err());
    }

    #[test]
    fn a_value_out_of_range_is_named() {
        let config = RelayConfig {
            batch_rows: 5_000,
            ..RelayConfig::default()
        };
        let error = config.validate().unwrap_err();
        assert_eq!(error.key, "max.in.flight.rows");
        let config = RelayConfig {
            lease: Duration::ZERO,
            ..RelayConfig::default()
        };
        assert_eq!(config.validate().unwrap_err().key, "lease.ms");
    }
}
