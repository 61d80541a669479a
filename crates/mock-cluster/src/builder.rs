//! The settings of a cluster and their ranges.

use std::sync::Arc;
use std::time::Duration;

use crate::consumer_group::Timers;
use crate::{MockCluster, MockError, Sasl, Versions};

/// What a cluster is started with.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    pub(crate) brokers: i32,
    pub(crate) default_partitions: i32,
    pub(crate) auto_create_topics: bool,
    pub(crate) max_message_bytes: usize,
    pub(crate) max_frame_bytes: usize,
    pub(crate) max_log_bytes: usize,
    pub(crate) max_connections: usize,
    pub(crate) replicated: bool,
    pub(crate) initial_rebalance_delay: Duration,
    pub(crate) consumer_session_timeout: Duration,
    pub(crate) consumer_heartbeat_interval: Duration,
    pub(crate) port: u16,
    pub(crate) versions: Versions,
    pub(crate) transaction_version: Option<i16>,
    pub(crate) racks: Vec<String>,
    pub(crate) sasl: Option<Arc<Sasl>>,
}

impl Config {
    /// The level of `transaction.version`: as set, or as the kind of broker has it.
    pub(crate) fn transaction_version(&self) -> i16 {
        self.transaction_version
            .unwrap_or(self.versions.transaction_version)
    }

    pub(crate) fn consumer_timers(&self) -> Timers {
        let session = self.consumer_session_timeout.as_millis();
        let interval = self.consumer_heartbeat_interval.as_millis();
        Timers {
            session_ms: u64::try_from(session).unwrap_or(u64::MAX),
            interval_ms: i32::try_from(interval).unwrap_or(i32::MAX),
        }
    }

    /// The rack of a broker.
    pub(crate) fn rack(&self, broker: i32) -> Option<&str> {
        let index = usize::try_from(broker - 1).ok()?;
        let count = self.racks.len();
        let rack = self.racks.get(index % count.max(1))?;
        Some(rack)
    }
}

/// Settings of a [`MockCluster`]; see [`MockCluster::builder`].
#[derive(Clone, Debug)]
#[must_use]
pub struct MockClusterBuilder {
    config: Config,
}

impl MockClusterBuilder {
    pub(crate) fn new() -> Self {
        Self {
            config: Config {
                brokers: 1,
                default_partitions: 1,
                auto_create_topics: true,
                max_message_bytes: 1_048_588,
                max_frame_bytes: 100 * 1024 * 1024,
                max_log_bytes: 1024 * 1024 * 1024,
                max_connections: 10_000,
                replicated: true,
                initial_rebalance_delay: Duration::ZERO,
                consumer_session_timeout: Duration::from_secs(45),
                consumer_heartbeat_interval: Duration::from_secs(5),
                port: 0,
                versions: Versions::kafka_4_3(),
                transaction_version: None,
                racks: Vec::new(),
                sasl: None,
            },
        }
    }

    /// How many brokers, 1 to 100; their ids count from 1. Default 1.
    pub fn brokers(mut self, n: i32) -> Self {
        self.config.brokers = n;
        self
    }

    /// Partitions of a topic that is created without a number, 1 to 10,000. Default 1.
    pub fn default_partitions(mut self, n: i32) -> Self {
        self.config.default_partitions = n;
        self
    }

    /// Whether asking for a topic's metadata creates it (`auto.create.topics.enable`). Default
    /// true, as in Kafka.
    pub fn auto_create_topics(mut self, on: bool) -> Self {
        self.config.auto_create_topics = on;
        self
    }

    /// The largest batch in bytes (`max.message.bytes`), at least 61; a topic may set its own.
    /// Default 1,048,588, as in Kafka.
    pub fn max_message_bytes(mut self, bytes: usize) -> Self {
        self.config.max_message_bytes = bytes;
        self
    }

    /// The largest request in bytes (`socket.request.max.bytes`), at least 1,024; a connection that
    /// announces more is closed. Default 100 MiB.
    pub fn max_frame_bytes(mut self, bytes: usize) -> Self {
        self.config.max_frame_bytes = bytes;
        self
    }

    /// The bytes that all logs together may hold; more is answered with KAFKA_STORAGE_ERROR.
    /// Default 1 GiB.
    pub fn max_log_bytes(mut self, bytes: usize) -> Self {
        self.config.max_log_bytes = bytes;
        self
    }

    /// The connections that one broker keeps open (`max.connections`), at least 1; more are closed
    /// at once. Default 10,000.
    pub fn max_connections(mut self, n: usize) -> Self {
        self.config.max_connections = n;
        self
    }

    /// Whether a broker's partitions and groups move to another live broker when it is killed.
    /// False is replication factor 1: they are unavailable until the broker is started again.
    /// Default true.
    pub fn replicated(mut self, on: bool) -> Self {
        self.config.replicated = on;
        self
    }

    /// How long an empty group waits for more members before its first generation
    /// (`group.initial.rebalance.delay.ms`), at most 5 minutes. Default 0.
    pub fn initial_rebalance_delay(mut self, delay: Duration) -> Self {
        self.config.initial_rebalance_delay = delay;
        self
    }

    /// How long a member that speaks KIP-848 may be silent (`group.consumer.session.timeout.ms`), 1 ms
    /// to 10 minutes, and how often it is to be heard (`group.consumer.heartbeat.interval.ms`), 1 ms
    /// up to the session. Default 45 s and 5 s, as in Kafka.
    pub fn consumer_session(mut self, timeout: Duration, heartbeat_interval: Duration) -> Self {
        self.config.consumer_session_timeout = timeout;
        self.config.consumer_heartbeat_interval = heartbeat_interval;
        self
    }

    /// The port of the first broker; the others take the ones that follow. Default 0: any free
    /// port for each.
    pub fn port(mut self, port: u16) -> Self {
        self.config.port = port;
        self
    }

    /// Which versions of which APIs the brokers tell and take. Default [`Versions::kafka_4_3`].
    pub fn versions(mut self, versions: Versions) -> Self {
        self.config.versions = versions;
        self
    }

    /// The finalised level of `transaction.version`, 1 or 2 (KIP-890). Default as
    /// [`MockClusterBuilder::versions`] has it. It changes only what ApiVersions tells: which
    /// version a transaction has is the client's choice by the versions of its requests.
    pub fn transaction_version(mut self, level: i16) -> Self {
        self.config.transaction_version = Some(level);
        self
    }

    /// The racks of the brokers, given out in turn (`broker.rack`). With racks, a broker of the
    /// client's rack that is a replica serves Fetch from version 11 on, and the leader sends the
    /// client there (KIP-392). Default none: only leaders serve.
    pub fn racks(mut self, racks: &[&str]) -> Self {
        self.config.racks = racks.iter().map(|rack| (*rack).to_owned()).collect();
        self
    }

    /// Lets in only who authenticates. Default: everybody, and no SASL at all.
    pub fn sasl(mut self, sasl: Sasl) -> Self {
        self.config.sasl = Some(Arc::new(sasl));
        self
    }

    /// Opens the ports on 127.0.0.1 and starts the brokers on the current tokio runtime, which
    /// needs its IO and time drivers.
    ///
    /// # Errors
    /// [`MockError::Setting`] for a value outside its range, [`MockError::Bind`] for a port.
    pub async fn start(self) -> Result<MockCluster, MockError> {
        self.validate()?;
        MockCluster::start(self.config).await
    }

    fn validate(&self) -> Result<(), MockError> {
        let config = &self.config;
        let delay = config.initial_rebalance_delay.as_millis();
        let to_i64 = |value: usize| i64::try_from(value).unwrap_or(i64::MAX);
        let last_port = i64::from(config.port) + i64::from(config.brokers) - 1;
        let timers = config.consumer_timers();
        let checks = [
            ("brokers", i64::from(config.brokers), 1..=100, "1 to 100"),
            (
                "default_partitions",
                i64::from(config.default_partitions),
                1..=10_000,
                "1 to 10000",
            ),
            (
                "max_message_bytes",
                to_i64(config.max_message_bytes),
                61..=i64::from(i32::MAX),
                "61 to 2147483647",
            ),
            (
                "max_frame_bytes",
                to_i64(config.max_frame_bytes),
                1024..=i64::from(i32::MAX),
                "1024 to 2147483647",
            ),
            (
                "max_connections",
                to_i64(config.max_connections),
                1..=i64::MAX,
                "at least 1",
            ),
            (
                "initial_rebalance_delay",
                i64::try_from(delay).unwrap_or(i64::MAX),
                0..=300_000,
                "0 to 300000 ms",
            ),
            (
                "consumer_session_timeout",
                i64::try_from(timers.session_ms).unwrap_or(i64::MAX),
                1..=600_000,
                "1 to 600000 ms",
            ),
            (
                "consumer_heartbeat_interval",
                i64::from(timers.interval_ms),
                1..=i64::try_from(timers.session_ms).unwrap_or(i64::MAX),
                "1 ms to the session timeout",
            ),
            (
                "transaction_version",
                i64::from(config.transaction_version()),
                1..=2,
                "1 or 2",
            ),
            (
                "port",
                last_port,
                0..=65_535,
                "the last broker's port up to 65535",
            ),
        ];
        for (setting, value, range, allowed) in checks {
            if !range.contains(&value) {
                return Err(MockError::Setting {
                    setting,
                    value,
                    allowed,
                });
            }
        }
        Ok(())
    }
}
