//! What a client can be told, in Kafka's own property names, checked once when it is built.

use crate::security::SecurityConfig;
use ottla_types::{ConfigError, duration_ms};
use serde::{Deserialize, Deserializer, Serialize, de};
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// The settings of a [`Client`](crate::Client).
///
/// Read from a file or a map with Kafka's property names; a name that is not known is refused.
///
/// | property | default | allowed |
/// |---|---|---|
/// | `bootstrap.servers` | none | `host:port`, a list or comma text |
/// | `client.id` | `ottla` | up to 249 bytes, no control characters |
/// | `socket.connection.setup.timeout.ms` | 10 s | 1 ms to 10 min |
/// | `request.timeout.ms` | 30 s | 1 ms to 10 min |
/// | `connections.max.idle.ms` | 9 min | 100 ms to 1 day |
/// | `metadata.max.age.ms` | 5 min | 1 ms to 1 day |
/// | `retry.backoff.ms` | 100 ms | 1 ms to `retry.backoff.max.ms` |
/// | `retry.backoff.max.ms` | 1 s | up to 10 min |
/// | `receive.message.max.bytes` | 64 MiB | 1 KiB to 256 MiB |
/// | `client.rack` | empty | up to 255 bytes, no control characters |
/// | `isolation.level` | `read_committed` | `read_committed`, `read_uncommitted` |
/// | `transport` | `native` | `native`, `rskafka` |
/// | `security.protocol`, `sasl.*`, `ssl.*` | `PLAINTEXT` | see [`security`](crate::security) |
///
/// ```
/// use ottla_client::ClientConfig;
///
/// let config = ClientConfig::new("kafka-1:9092,kafka-2:9092");
/// assert_eq!(config.bootstrap.len(), 2);
/// assert!(config.validate().is_ok());
/// assert!(ClientConfig::new("kafka-1").validate().is_err());
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(remote = "Self", default, deny_unknown_fields)]
pub struct ClientConfig {
    /// `bootstrap.servers`: where to ask first; every other broker is learnt from there.
    #[serde(rename = "bootstrap.servers", deserialize_with = "list_or_comma_text")]
    pub bootstrap: Vec<String>,
    /// `client.id`: names this client in the brokers' logs and quotas.
    #[serde(rename = "client.id")]
    pub client_id: String,
    /// `socket.connection.setup.timeout.ms`: the limit for resolving, connecting and agreeing on
    /// versions with one broker, and for the whole bootstrap over all addresses.
    #[serde(rename = "socket.connection.setup.timeout.ms", with = "duration_ms")]
    pub connect_timeout: Duration,
    /// `request.timeout.ms`: the limit of one call, its retries included. A JoinGroup or SyncGroup
    /// waits for the group's rebalance timeout on top.
    #[serde(rename = "request.timeout.ms", with = "duration_ms")]
    pub request_timeout: Duration,
    /// `connections.max.idle.ms`: a connection without a request for so long is closed; the next
    /// request makes another. Below the brokers' own limit, which is 10 minutes unless they are told
    /// otherwise. The connections of the rskafka transport have a limit of their own.
    #[serde(rename = "connections.max.idle.ms", with = "duration_ms")]
    pub connections_max_idle: Duration,
    /// `metadata.max.age.ms`: how long metadata is used before it is asked for again.
    #[serde(rename = "metadata.max.age.ms", with = "duration_ms")]
    pub metadata_max_age: Duration,
    /// `retry.backoff.ms`: the bound of the first wait between attempts.
    #[serde(rename = "retry.backoff.ms", with = "duration_ms")]
    pub retry_backoff: Duration,
    /// `retry.backoff.max.ms`: the bound that the waits grow to.
    #[serde(rename = "retry.backoff.max.ms", with = "duration_ms")]
    pub retry_backoff_max: Duration,
    /// `receive.message.max.bytes`: a larger answer is refused before memory is reserved for it.
    /// So is one that has more structs than one for 64 of these bytes (16,384 at least), and before
    /// authentication is through one above 1 MiB.
    #[serde(rename = "receive.message.max.bytes")]
    pub max_response_bytes: usize,
    /// `client.rack`: where this client is, in the brokers' own names of racks. The leader then sends
    /// a reader to a replica in its rack (KIP-392), if the brokers have a `replica.selector.class`.
    /// The native transport only.
    #[serde(rename = "client.rack")]
    pub client_rack: String,
    /// `isolation.level`: whether records of open and aborted transactions are read. The rskafka
    /// transport reads up to the last stable offset, but does not leave aborted records out.
    #[serde(rename = "isolation.level")]
    pub isolation_level: IsolationLevel,
    /// `transport`: what carries batches and record sets.
    pub transport: TransportKind,
    /// `security.protocol`, `sasl.*` and `ssl.*`: TLS and authentication.
    #[serde(flatten)]
    pub security: SecurityConfig,
}

impl Default for ClientConfig {
    /// The defaults, without an address.
    fn default() -> Self {
        Self {
            bootstrap: Vec::new(),
            client_id: "ottla".to_owned(),
            connect_timeout: Duration::from_secs(10),
            request_timeout: Duration::from_secs(30),
            connections_max_idle: Duration::from_secs(540),
            metadata_max_age: Duration::from_secs(300),
            retry_backoff: Duration::from_millis(100),
            retry_backoff_max: Duration::from_secs(1),
            max_response_bytes: 64 << 20,
            client_rack: String::new(),
            isolation_level: IsolationLevel::default(),
            transport: TransportKind::default(),
            security: SecurityConfig::default(),
        }
    }
}

impl ClientConfig {
    /// The defaults with these addresses: `host:port`, several of them separated by commas.
    pub fn new(bootstrap: &str) -> Self {
        Self {
            bootstrap: split_addresses(bootstrap),
            ..Self::default()
        }
    }

    /// Checks every value. [`Client::connect`](crate::Client::connect) does this first.
    ///
    /// # Errors
    /// Names the first key that is not allowed, its value and the allowed range.
    pub fn validate(&self) -> Result<(), ConfigError> {
        if self.bootstrap.is_empty() {
            return Err(ConfigError::new("bootstrap.servers", "", ADDRESS_RULE));
        }
        for address in &self.bootstrap {
            check_address(address)?;
        }
        if self.client_id.len() > 249 || self.client_id.chars().any(char::is_control) {
            return Err(ConfigError::new(
                "client.id",
                &self.client_id,
                "up to 249 bytes without control characters",
            ));
        }
        if self.client_rack.len() > 255 || self.client_rack.chars().any(char::is_control) {
            return Err(ConfigError::new(
                "client.rack",
                &self.client_rack,
                "up to 255 bytes without control characters",
            ));
        }
        let ten_minutes = Duration::from_secs(600);
        check_duration(
            "socket.connection.setup.timeout.ms",
            self.connect_timeout,
            ten_minutes,
        )?;
        check_duration("request.timeout.ms", self.request_timeout, ten_minutes)?;
        check_duration(
            "metadata.max.age.ms",
            self.metadata_max_age,
            Duration::from_secs(86_400),
        )?;
        let idle_range = Duration::from_millis(100)..=Duration::from_secs(86_400);
        if !idle_range.contains(&self.connections_max_idle) {
            return Err(ConfigError::new(
                "connections.max.idle.ms",
                self.connections_max_idle.as_millis(),
                "100 to 86400000",
            ));
        }
        check_duration("retry.backoff.max.ms", self.retry_backoff_max, ten_minutes)?;
        if !(Duration::from_millis(1)..=self.retry_backoff_max).contains(&self.retry_backoff) {
            return Err(ConfigError::new(
                "retry.backoff.ms",
                self.retry_backoff.as_millis(),
                format!(
                    "1 to retry.backoff.max.ms ({})",
                    self.retry_backoff_max.as_millis()
                ),
            ));
        }
        if !(MIN_RESPONSE_BYTES..=MAX_RESPONSE_BYTES).contains(&self.max_response_bytes) {
            return Err(ConfigError::new(
                "receive.message.max.bytes",
                self.max_response_bytes,
                format!("{MIN_RESPONSE_BYTES} to {MAX_RESPONSE_BYTES}"),
            ));
        }
        self.security.validate()?;
        self.check_transport()
    }

    /// The transport must do what was asked for by name.
    fn check_transport(&self) -> Result<(), ConfigError> {
        if self.transport == TransportKind::Rskafka && !self.client_rack.is_empty() {
            let expected = "a transport that reads from replicas, which client.rack needs";
            return Err(ConfigError::new("transport", self.transport, expected));
        }
        let protocol = self.security.protocol;
        let lacks = match (self.transport, protocol.is_tls(), protocol.is_sasl()) {
            (TransportKind::Rskafka, true, true) => "TLS and SASL",
            (TransportKind::Rskafka, true, false) => "TLS",
            (TransportKind::Rskafka, false, true) => "SASL",
            _ => return Ok(()),
        };
        let expected =
            format!("a transport with {lacks}, which security.protocol = {protocol} needs");
        Err(ConfigError::new("transport", self.transport, expected))
    }
}

/// `isolation.level`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IsolationLevel {
    /// Records of transactions are read when these have ended, and those of aborted ones never.
    #[default]
    ReadCommitted,
    /// Every record is read as soon as it is replicated.
    ReadUncommitted,
}

/// What carries batches to the leaders and record sets back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum TransportKind {
    /// This crate's own connections; see [`NativeTransport`](crate::transport::NativeTransport).
    #[default]
    Native,
    /// The rskafka crate; see [`RskafkaTransport`](crate::transport::RskafkaTransport) for what it
    /// cannot do.
    Rskafka,
}

impl TransportKind {
    /// Every transport of this build.
    pub const ALL: &'static [TransportKind] = &[TransportKind::Native, TransportKind::Rskafka];

    /// The name that configs use.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Rskafka => "rskafka",
            Self::Native => "native",
        }
    }
}

impl fmt::Display for TransportKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for TransportKind {
    type Err = ConfigError;

    fn from_str(name: &str) -> Result<Self, ConfigError> {
        let known = Self::ALL.iter().find(|kind| kind.name() == name);
        known.copied().ok_or_else(|| {
            let names: Vec<_> = Self::ALL.iter().map(|kind| kind.name()).collect();
            ConfigError::new("transport", name, format!("one of: {}", names.join(", ")))
        })
    }
}

const ADDRESS_RULE: &str = "`host:port` with a port from 1 to 65535, one or more";
const MIN_RESPONSE_BYTES: usize = 1 << 10;
/// Below every length that an HTTP or TLS answer would be read as, so that those are recognised.
const MAX_RESPONSE_BYTES: usize = 256 << 20;

fn check_address(address: &str) -> Result<(), ConfigError> {
    let refused = || ConfigError::new("bootstrap.servers", address, ADDRESS_RULE);
    let (host, port) = address.rsplit_once(':').ok_or_else(refused)?;
    let bare_v6 = host.contains(':') && !(host.starts_with('[') && host.ends_with(']'));
    let odd = |c: char| c.is_whitespace() || c.is_control() || matches!(c, '/' | '@');
    if host.is_empty() || bare_v6 || host.chars().any(odd) {
        return Err(refused());
    }
    match port.parse::<u16>() {
        Ok(port) if port > 0 => Ok(()),
        _ => Err(refused()),
    }
}

fn check_duration(key: &'static str, value: Duration, max: Duration) -> Result<(), ConfigError> {
    if (Duration::from_millis(1)..=max).contains(&value) {
        Ok(())
    } else {
        Err(ConfigError::new(
            key,
            value.as_millis(),
            format!("1 to {}", max.as_millis()),
        ))
    }
}

fn split_addresses(text: &str) -> Vec<String> {
    let parts = text
        .split(',')
        .map(str::trim)
        .filter(|part| !part.is_empty());
    parts.map(str::to_owned).collect()
}

fn list_or_comma_text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    struct Addresses;

    impl<'de> de::Visitor<'de> for Addresses {
        type Value = Vec<String>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a list of `host:port`, or such texts separated by commas")
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
            Ok(split_addresses(text))
        }

        fn visit_seq<A: de::SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
            let mut addresses = Vec::new();
            while let Some(address) = seq.next_element::<String>()? {
                addresses.push(address.trim().to_owned());
            }
            Ok(addresses)
        }
    }

    deserializer.deserialize_any(Addresses)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::de::IntoDeserializer;
    use serde::de::value::{Error as ValueError, MapDeserializer, StrDeserializer};

    fn read(pairs: &[(&str, &str)]) -> Result<ClientConfig, ValueError> {
        let pairs = pairs.iter().map(|(k, v)| (*k, *v));
        ClientConfig::deserialize(MapDeserializer::new(pairs))
    }

    #[test]
    fn comma_text_is_a_list_of_addresses() {
        let config = read(&[("bootstrap.servers", " a:1, b:2 ,"), ("client.id", "x")]).unwrap();
        assert_eq!(config.bootstrap, ["a:1", "b:2"]);
        assert_eq!(config.client_id, "x");
        assert_eq!(
            config,
            ClientConfig {
                client_id: "x".into(),
                ..ClientConfig::new("a:1,b:2")
            }
        );
    }

    #[test]
    fn a_list_is_a_list_of_addresses() {
        let list = vec!["a:1", "b:2"].into_deserializer();
        let list: serde::de::value::SeqDeserializer<_, ValueError> = list;
        assert_eq!(list_or_comma_text(list).unwrap(), ["a:1", "b:2"]);
    }

    #[test]
    fn trap_d_unknown_names_are_refused() {
        let error = read(&[("bootstrap.server", "a:1")])
            .unwrap_err()
            .to_string();
        assert!(error.contains("bootstrap.server"), "{error}");
        let kind: StrDeserializer<'_, ValueError> = "netty".into_deserializer();
        let error = TransportKind::deserialize(kind).unwrap_err().to_string();
        assert!(
            error.contains("netty") && error.contains("rskafka"),
            "{error}"
        );
        let error = "netty".parse::<TransportKind>().unwrap_err().to_string();
        assert_eq!(
            error,
            "config `transport` = `netty` is not allowed: expected one of: native, rskafka"
        );
        assert_eq!("rskafka".parse(), Ok(TransportKind::Rskafka));
    }

    #[test]
    fn trap_d_every_value_has_a_range() {
        type Spoil = fn(&mut ClientConfig);
        let spoilers: [(&str, Spoil); 17] = [
            ("bootstrap.servers", |c| c.bootstrap.clear()),
            ("bootstrap.servers", |c| c.bootstrap[0] = "host".into()),
            ("bootstrap.servers", |c| c.bootstrap[0] = ":9092".into()),
            ("bootstrap.servers", |c| c.bootstrap[0] = "host:0".into()),
            ("bootstrap.servers", |c| {
                c.bootstrap[0] = "host:70000".into()
            }),
            ("bootstrap.servers", |c| c.bootstrap[0] = "::1:9092".into()),
            ("bootstrap.servers", |c| {
                c.bootstrap[0] = "http://h:80".into()
            }),
            ("client.id", |c| c.client_id = "a\nb".into()),
            ("client.rack", |c| c.client_rack = "a\nb".into()),
            ("transport", |c| {
                c.transport = TransportKind::Rskafka;
                c.client_rack = "west".into();
            }),
            ("socket.connection.setup.timeout.ms", |c| {
                c.connect_timeout = Duration::ZERO
            }),
            ("request.timeout.ms", |c| c.request_timeout = Duration::MAX),
            ("metadata.max.age.ms", |c| {
                c.metadata_max_age = Duration::ZERO
            }),
            ("connections.max.idle.ms", |c| {
                c.connections_max_idle = Duration::from_millis(99)
            }),
            ("retry.backoff.ms", |c| {
                c.retry_backoff = c.retry_backoff_max * 2
            }),
            ("retry.backoff.max.ms", |c| {
                c.retry_backoff_max = Duration::MAX
            }),
            ("receive.message.max.bytes", |c| {
                c.max_response_bytes = usize::MAX
            }),
        ];
        for (key, spoil) in spoilers {
            let mut config = ClientConfig::new("host:9092,[::1]:9092");
            assert_eq!(config.validate(), Ok(()));
            spoil(&mut config);
            let error = config.validate().unwrap_err();
            assert_eq!(error.key, key);
            assert!(!error.expected.is_empty());
        }
    }
}
