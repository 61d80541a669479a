//! What every crate's configuration has in common: one error, durations as Kafka writes them, keys
//! that are known, and values that may be texts.

mod keys;
pub mod lenient;
mod sources;

pub use keys::{ConfigKey, Configuration, UnknownKey};
pub use sources::{ConfigReadError, from_env, from_properties, from_vars, parse_properties};

/// A configuration value that was refused, with what would have been accepted.
///
/// Configuration is checked once, when a client, producer or consumer is built.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("config `{key}` = `{value}` is not allowed: expected {expected}")]
pub struct ConfigError {
    /// The property's name, in Kafka's spelling where Kafka has it.
    pub key: &'static str,
    /// The value that was given.
    pub value: String,
    /// The allowed range or set of values.
    pub expected: String,
}

impl ConfigError {
    /// An error for `key`, which was given `value` where `expected` is allowed.
    pub fn new(
        key: &'static str,
        value: impl std::fmt::Display,
        expected: impl Into<String>,
    ) -> Self {
        Self {
            key,
            value: value.to_string(),
            expected: expected.into(),
        }
    }
}

/// Serde adapter: a [`std::time::Duration`] as whole milliseconds, as in Kafka's `*.ms` properties.
///
/// For use with `#[serde(rename = "linger.ms", with = "ottla_types::duration_ms")]`.
pub mod duration_ms {
    use serde::{Deserialize, Deserializer, Serializer};
    use std::time::Duration;

    /// Writes whole milliseconds; a fraction of a millisecond is cut off.
    pub fn serialize<S: Serializer>(value: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(u64::try_from(value.as_millis()).unwrap_or(u64::MAX))
    }

    /// Reads whole milliseconds.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        u64::deserialize(deserializer).map(Duration::from_millis)
    }

    /// The same for a setting that may be left out.
    pub mod option {
        use serde::{Deserialize, Deserializer, Serializer};
        use std::time::Duration;

        /// As [`serialize`](super::serialize()).
        pub fn serialize<S: Serializer>(
            value: &Option<Duration>,
            serializer: S,
        ) -> Result<S::Ok, S::Error> {
            match value {
                Some(value) => super::serialize(value, serializer),
                None => serializer.serialize_none(),
            }
        }

        /// As [`deserialize`](super::deserialize()).
        pub fn deserialize<'de, D: Deserializer<'de>>(
            deserializer: D,
        ) -> Result<Option<Duration>, D::Error> {
            let ms = Option::<u64>::deserialize(deserializer)?;
            Ok(ms.map(Duration::from_millis))
        }
    }
}
