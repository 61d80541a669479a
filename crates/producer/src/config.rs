//! [`ProducerConfig`]: Kafka's property names, checked once when the producer is built.

use crate::partition::PartitionerKind;
use ottla_client::admin::DurabilityMode;
use ottla_client::transport::{Acks, Capabilities, Compression};
use ottla_record_batch::BATCH_OVERHEAD;
use ottla_types::{ConfigError, duration_ms};
use serde::{Deserialize, Serialize};
use std::num::NonZeroU32;
use std::time::Duration;

/// So many batches of a producer brokers remember for each partition (KIP-98).
const IN_FLIGHT_MAX: u32 = 5;

/// What a [`Producer`](crate::Producer) is built with. The names in serialized form are Kafka's (or
/// librdkafka's, where Kafka has none); unknown names are refused.
///
/// ```
/// use ottla_producer::ProducerConfig;
///
/// let config: ProducerConfig =
///     serde_json::from_str(r#"{"linger.ms": 1000, "batch.records": 10, "acks": "all"}"#)?;
/// assert_eq!(config.linger.as_secs(), 1);
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(remote = "Self", default, deny_unknown_fields)]
pub struct ProducerConfig {
    /// `acks`: who must have a batch before it counts as written: `all` (or `-1`), `1`, `0`.
    #[serde(with = "acks")]
    pub acks: Acks,
    /// `enable.idempotence`: whether a broker sees by its number that it has a batch already, so that
    /// sending it again does not write it again (KIP-98). By default, when the transport can do it,
    /// `acks` is `all` and `max_in_flight` is not above 5; asked for by name, these are required.
    #[serde(rename = "enable.idempotence")]
    pub idempotence: Option<bool>,
    /// `max.in.flight.requests.per.connection`: how many batches of one partition may wait for their
    /// acknowledgement. 5 by default with idempotence, which allows no more; else 1: without
    /// idempotence, and above 1, a batch that is sent again may come behind its successors.
    #[serde(rename = "max.in.flight.requests.per.connection")]
    pub max_in_flight: Option<NonZeroU32>,
    /// `compression.type`.
    #[serde(rename = "compression.type")]
    pub compression: Compression,
    /// `linger.ms`: how long a batch waits for more records. 5 ms by default; below
    /// `delivery_timeout`.
    #[serde(rename = "linger.ms", with = "duration_ms")]
    pub linger: Duration,
    /// `batch.size`: a batch is sent when it has so many bytes. 64 KiB by default; 1 to
    /// `max_request_size`. A larger record has a batch of its own.
    #[serde(rename = "batch.size")]
    pub batch_size: usize,
    /// `batch.records`: a batch is sent when it has so many records. No bound by default.
    #[serde(rename = "batch.records")]
    pub batch_records: Option<NonZeroU32>,
    /// `buffer.memory`: the bound on the bytes of all records that have no result yet. 32 MiB by
    /// default; at least `max_request_size`.
    #[serde(rename = "buffer.memory")]
    pub buffer_memory: usize,
    /// `delivery.timeout.ms`: how long after it was enqueued a record is given up. 2 minutes by
    /// default.
    #[serde(rename = "delivery.timeout.ms", with = "duration_ms")]
    pub delivery_timeout: Duration,
    /// `max.request.size`: the largest batch, and so the largest record, that is sent. 1 MiB by
    /// default, as large as brokers allow by theirs.
    #[serde(rename = "max.request.size")]
    pub max_request_size: usize,
    /// `topic.metadata.propagation.max.ms`: how long a topic that the cluster does not know is
    /// asked for before its records fail. 5 s by default: a topic that was just created may not be
    /// known to every broker.
    #[serde(rename = "topic.metadata.propagation.max.ms", with = "duration_ms")]
    pub topic_unknown_timeout: Duration,
    /// `retry.backoff.ms`: the bound of the first wait before a batch is sent again. 100 ms by
    /// default. The waits are drawn by chance and double up to `retry_backoff_max`.
    #[serde(rename = "retry.backoff.ms", with = "duration_ms")]
    pub retry_backoff: Duration,
    /// `retry.backoff.max.ms`: 1 s by default.
    #[serde(rename = "retry.backoff.max.ms", with = "duration_ms")]
    pub retry_backoff_max: Duration,
    /// `durability.check`: what is done about a topic that can lose what was acknowledged, before its
    /// first record is sent: `off` (the default), `warn` (the findings are logged) or `refuse` (its
    /// records fail). It takes two more questions to the cluster a topic, and the right to describe
    /// its configs.
    #[serde(rename = "durability.check")]
    pub durability_check: DurabilityMode,
    /// `partitioner`: see [`PartitionerKind`] for the names.
    pub partitioner: PartitionerKind,
    /// `rate.limit`: records a second, over all topics; a second's worth may go at once. No limit
    /// by default.
    #[serde(rename = "rate.limit")]
    pub rate_limit: Option<NonZeroU32>,
}

impl Default for ProducerConfig {
    fn default() -> Self {
        Self {
            acks: Acks::All,
            idempotence: None,
            max_in_flight: None,
            compression: Compression::None,
            linger: Duration::from_millis(5),
            batch_size: 64 << 10,
            batch_records: None,
            buffer_memory: 32 << 20,
            delivery_timeout: Duration::from_secs(120),
            max_request_size: 1 << 20,
            topic_unknown_timeout: Duration::from_secs(5),
            retry_backoff: Duration::from_millis(100),
            retry_backoff_max: Duration::from_secs(1),
            durability_check: DurabilityMode::Off,
            partitioner: PartitionerKind::Default,
            rate_limit: None,
        }
    }
}

impl ProducerConfig {
    /// Checks every value by itself and against the others.
    ///
    /// # Errors
    /// Names the first key that is not allowed, its value and the allowed range.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let day = Duration::from_secs(86_400);
        check_duration("delivery.timeout.ms", self.delivery_timeout, 1, day)?;
        // A batch that lingers up to its deadline would expire unsent.
        let most = self.delivery_timeout - Duration::from_millis(1);
        check_duration("linger.ms", self.linger, 0, most)?;
        check_duration(
            "topic.metadata.propagation.max.ms",
            self.topic_unknown_timeout,
            0,
            day,
        )?;
        check_duration("retry.backoff.max.ms", self.retry_backoff_max, 1, day)?;
        check_duration(
            "retry.backoff.ms",
            self.retry_backoff,
            1,
            self.retry_backoff_max,
        )?;
        let largest = 256 << 20;
        check_size(
            "max.request.size",
            self.max_request_size,
            4 * BATCH_OVERHEAD,
            largest,
        )?;
        check_size("batch.size", self.batch_size, 1, self.max_request_size)?;
        check_size(
            "buffer.memory",
            self.buffer_memory,
            self.max_request_size,
            usize::MAX,
        )?;
        if self.idempotence == Some(true) {
            if self.acks != Acks::All {
                let expected = "all, with enable.idempotence";
                return Err(ConfigError::new("acks", acks::name(self.acks), expected));
            }
            if let Some(most) = self.max_in_flight.filter(|most| most.get() > IN_FLIGHT_MAX) {
                return Err(ConfigError::new(
                    "max.in.flight.requests.per.connection",
                    most,
                    format!("1 to {IN_FLIGHT_MAX}, with enable.idempotence"),
                ));
            }
        }
        Ok(())
    }

    /// Whether batches are numbered, on a transport with these capabilities.
    pub(crate) fn is_idempotent(&self, capabilities: &Capabilities) -> bool {
        let fits = self.acks == Acks::All
            && self
                .max_in_flight
                .is_none_or(|most| most.get() <= IN_FLIGHT_MAX);
        self.idempotence.unwrap_or(capabilities.idempotence && fits)
    }

    /// How many batches of a partition may be in flight.
    pub(crate) fn in_flight_max(&self, is_idempotent: bool) -> usize {
        let by_default = if is_idempotent { IN_FLIGHT_MAX } else { 1 };
        self.max_in_flight.map_or(by_default, NonZeroU32::get) as usize
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
        if !capabilities.codecs.contains(&self.compression) {
            let known: Vec<_> = capabilities.codecs.iter().map(|c| codec_name(*c)).collect();
            return Err(ConfigError::new(
                "compression.type",
                codec_name(self.compression),
                format!(
                    "one of: {} (capability `codecs` of transport `{transport}`)",
                    known.join(", ")
                ),
            ));
        }
        if self.acks != Acks::All && !capabilities.acks {
            return Err(ConfigError::new(
                "acks",
                acks::name(self.acks),
                format!("all (transport `{transport}` lacks the capability `acks`)"),
            ));
        }
        if self.idempotence == Some(true) && !capabilities.idempotence {
            return Err(ConfigError::new(
                "enable.idempotence",
                true,
                format!("false (transport `{transport}` lacks the capability `idempotence`)"),
            ));
        }
        Ok(())
    }
}

fn check_duration(
    key: &'static str,
    value: Duration,
    min_ms: u64,
    max: Duration,
) -> Result<(), ConfigError> {
    if (Duration::from_millis(min_ms)..=max).contains(&value) {
        return Ok(());
    }
    let expected = format!("{min_ms} to {}", max.as_millis());
    Err(ConfigError::new(key, value.as_millis(), expected))
}

fn check_size(key: &'static str, value: usize, min: usize, max: usize) -> Result<(), ConfigError> {
    if (min..=max).contains(&value) {
        return Ok(());
    }
    Err(ConfigError::new(
        key,
        value,
        format!("{min} to {max} bytes"),
    ))
}

fn codec_name(codec: Compression) -> String {
    format!("{codec:?}").to_lowercase()
}

/// `acks` as Kafka writes it.
mod acks {
    use ottla_client::transport::Acks;
    use serde::{Deserializer, Serializer, de};
    use std::fmt;

    pub(super) fn name(acks: Acks) -> &'static str {
        match acks {
            Acks::None => "0",
            Acks::Leader => "1",
            Acks::All => "all",
        }
    }

    pub(super) fn serialize<S: Serializer>(acks: &Acks, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(name(*acks))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Acks, D::Error> {
        struct Visitor;

        impl de::Visitor<'_> for Visitor {
            type Value = Acks;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("`all`, `-1`, `1` or `0`")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Acks, E> {
                match text {
                    "all" | "-1" => Ok(Acks::All),
                    "leader" | "1" => Ok(Acks::Leader),
                    "none" | "0" => Ok(Acks::None),
                    _ => Err(E::invalid_value(de::Unexpected::Str(text), &self)),
                }
            }

            fn visit_i64<E: de::Error>(self, number: i64) -> Result<Acks, E> {
                match number {
                    -1 => Ok(Acks::All),
                    1 => Ok(Acks::Leader),
                    0 => Ok(Acks::None),
                    _ => Err(E::invalid_value(de::Unexpected::Signed(number), &self)),
                }
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<Acks, E> {
                match i64::try_from(number) {
                    Ok(number) => self.visit_i64(number),
                    Err(_) => Err(E::invalid_value(de::Unexpected::Unsigned(number), &self)),
                }
            }
        }

        deserializer.deserialize_any(Visitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kafkas_names_are_read_and_written() {
        let config = ProducerConfig {
            linger: Duration::from_secs(1),
            batch_records: NonZeroU32::new(10),
            partitioner: PartitionerKind::ConsistentRandom,
            acks: Acks::Leader,
            rate_limit: NonZeroU32::new(1000),
            ..ProducerConfig::default()
        };
        let json = serde_json::to_value(&config).unwrap();
        assert_eq!(json["acks"], "1");
        assert_eq!(json["linger.ms"], 1000);
        assert_eq!(json["partitioner"], "consistent_random");
        assert_eq!(
            serde_json::from_value::<ProducerConfig>(json).unwrap(),
            config
        );
        for (text, acks) in [
            (r#""all""#, Acks::All),
            (r#""-1""#, Acks::All),
            ("-1", Acks::All),
            ("1", Acks::Leader),
            (r#""0""#, Acks::None),
        ] {
            let json = format!(r#"{{"acks": {text}}}"#);
            let config: ProducerConfig = serde_json::from_str(&json).unwrap();
            assert_eq!(config.acks, acks);
        }
    }

    #[test]
    fn trap_d_unknown_names_and_values_are_refused() {
        let error = |json: &str| {
            let read = serde_json::from_str::<ProducerConfig>(json);
            read.unwrap_err().to_string()
        };
        assert!(error(r#"{"linger": 5}"#).contains("linger"));
        assert!(error(r#"{"acks": "2"}"#).contains("all"));
        assert!(error(r#"{"compression.type": "brotli"}"#).contains("brotli"));
        let unknown = error(r#"{"partitioner": "murmur3"}"#);
        assert!(unknown.contains("murmur3") && unknown.contains("consistent_random"));
    }

    #[test]
    fn trap_d_values_out_of_range_are_refused_at_build() {
        type Spoil = fn(&mut ProducerConfig);
        let spoilers: [(&str, Spoil); 11] = [
            ("acks", |c| {
                c.idempotence = Some(true);
                c.acks = Acks::Leader;
            }),
            ("max.in.flight.requests.per.connection", |c| {
                c.idempotence = Some(true);
                c.max_in_flight = NonZeroU32::new(6);
            }),
            ("linger.ms", |c| c.linger = c.delivery_timeout),
            ("delivery.timeout.ms", |c| {
                c.delivery_timeout = Duration::ZERO
            }),
            ("batch.size", |c| c.batch_size = 0),
            ("batch.size", |c| c.batch_size = c.max_request_size + 1),
            ("buffer.memory", |c| {
                c.buffer_memory = c.max_request_size - 1
            }),
            ("max.request.size", |c| c.max_request_size = 10),
            ("retry.backoff.ms", |c| {
                c.retry_backoff = c.retry_backoff_max * 2
            }),
            ("retry.backoff.max.ms", |c| {
                c.retry_backoff_max = Duration::ZERO
            }),
            ("topic.metadata.propagation.max.ms", |c| {
                c.topic_unknown_timeout = Duration::MAX;
            }),
        ];
        for (key, spoil) in spoilers {
            let mut config = ProducerConfig::default();
            assert_eq!(config.validate(), Ok(()));
            spoil(&mut config);
            assert_eq!(config.validate().unwrap_err().key, key);
        }
    }

    #[test]
    fn what_the_transport_cannot_do_is_refused_by_its_capability() {
        let mut config = ProducerConfig::default();
        let check =
            |config: &ProducerConfig| config.validate_for("plain", &Capabilities::minimal());
        assert_eq!(check(&config), Ok(()));
        config.compression = Compression::Zstd;
        let error = check(&config).unwrap_err();
        assert_eq!((error.key, &*error.value), ("compression.type", "zstd"));
        assert!(error.expected.contains("`codecs` of transport `plain`"));
        config.compression = Compression::None;
        config.acks = Acks::Leader;
        let error = check(&config).unwrap_err();
        assert_eq!((error.key, &*error.value), ("acks", "1"));
        assert!(error.expected.contains("`acks`"));
        config.acks = Acks::All;
        config.idempotence = Some(true);
        let error = check(&config).unwrap_err();
        assert_eq!((error.key, &*error.value), ("enable.idempotence", "true"));
        assert!(error.expected.contains("`idempotence`"));
    }

    #[test]
    fn idempotence_is_on_where_nothing_stands_against_it() {
        let (plain, able) = (Capabilities::minimal(), {
            let mut able = Capabilities::minimal();
            able.idempotence = true;
            able
        });
        let default = ProducerConfig::default();
        assert!(default.is_idempotent(&able) && !default.is_idempotent(&plain));
        assert_eq!(
            (default.in_flight_max(true), default.in_flight_max(false)),
            (5, 1)
        );
        let fast = ProducerConfig {
            acks: Acks::Leader,
            ..default.clone()
        };
        assert!(!fast.is_idempotent(&able));
        let wide = ProducerConfig {
            max_in_flight: NonZeroU32::new(6),
            ..default.clone()
        };
        assert!(!wide.is_idempotent(&able));
        assert_eq!(wide.in_flight_max(false), 6);
        let off = ProducerConfig {
            idempotence: Some(false),
            ..default
        };
        assert!(!off.is_idempotent(&able));
    }
}
