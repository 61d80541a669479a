//! [`ConsumerConfig`]: Kafka's property names where Kafka has the property, checked once.

use crate::{AutoOffsetReset, ProcessingGuarantee};
use ottla_types::{ConfigError, duration_ms, validate_group_id};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// How a group's members come to their partitions (`group.protocol`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GroupProtocol {
    /// The members assign, with one of the [`Assignor`]s; every broker has it.
    #[default]
    Classic,
    /// The broker assigns (KIP-848); Apache Kafka 4.0 and later. All members of a group have to
    /// speak the same protocol.
    Consumer,
    /// KIP-848 where the broker has it, else the classic protocol.
    Auto,
}

/// How the group's leader spreads partitions over the members.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Assignor {
    /// Consecutive partitions of each topic to each member; a rebalance stops every member.
    #[serde(rename = "range")]
    Range,
    /// All partitions in turn; a rebalance stops every member.
    #[serde(rename = "roundrobin")]
    RoundRobin,
    /// Balanced, and members get back what they had as far as that goes (KIP-54); a rebalance stops
    /// every member.
    #[serde(rename = "sticky")]
    Sticky,
    /// Balanced and sticky; a rebalance stops only the partitions that move (KIP-429).
    #[serde(rename = "cooperative-sticky")]
    CooperativeSticky,
}

/// What to do where records of a partition cannot be read: a corrupt batch, a codec that this build
/// lacks, a gap that the transport cannot cross.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnUnreadable {
    /// The partition stops and its error says so; other partitions go on. Nothing is lost.
    #[default]
    Stop,
    /// The unreadable records are skipped, logged and counted.
    Skip,
}

/// How a consumer group's member behaves. Serde names are Kafka's property names; durations are
/// whole milliseconds.
///
/// An [`App`](crate::App) commits an offset when everything below it is handled; a
/// [`Consumer`](crate::Consumer) when its caller says so.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(remote = "Self", default, deny_unknown_fields)]
pub struct ConsumerConfig {
    /// `group.id`. An [`App`](crate::App) sets it from each registration.
    #[serde(rename = "group.id")]
    pub group_id: String,
    /// `group.instance.id` (KIP-345). With several instances, `-0`, `-1` ... are appended.
    #[serde(rename = "group.instance.id")]
    pub group_instance_id: Option<String>,
    /// `group.protocol` (classic). With the other protocol the broker has its own session timeout and
    /// heartbeat interval; `session.timeout.ms` should be no longer than the broker's
    /// (`group.consumer.session.timeout.ms`, 45 s by default), since a member without an answer
    /// gives its partitions up after it.
    #[serde(rename = "group.protocol")]
    pub group_protocol: GroupProtocol,
    /// `group.remote.assignor`: the broker's assignor with KIP-848, such as `uniform` or `range`;
    /// none leaves it to the broker.
    #[serde(rename = "group.remote.assignor")]
    pub group_remote_assignor: Option<String>,
    /// `enable.auto.commit` (false): whether a [`Consumer`](crate::Consumer) commits by itself what its
    /// caller is done with. A runner takes `false` alone: it commits what its handlers have handled.
    #[serde(rename = "enable.auto.commit")]
    pub enable_auto_commit: bool,
    /// `session.timeout.ms` (45 s): the coordinator removes a member that it has not heard from.
    #[serde(rename = "session.timeout.ms", with = "duration_ms")]
    pub session_timeout: Duration,
    /// `heartbeat.interval.ms` (3 s): at most a third of the session timeout.
    #[serde(rename = "heartbeat.interval.ms", with = "duration_ms")]
    pub heartbeat_interval: Duration,
    /// `max.poll.interval.ms` (5 min): how long a rebalance waits for a member.
    #[serde(rename = "max.poll.interval.ms", with = "duration_ms")]
    pub max_poll_interval: Duration,
    /// `partition.assignment.strategy` (cooperative-sticky), the preferred one first.
    /// Cooperative-sticky cannot be mixed with the others.
    #[serde(rename = "partition.assignment.strategy")]
    pub assignors: Vec<Assignor>,
    /// `auto.offset.reset` (latest).
    #[serde(rename = "auto.offset.reset")]
    pub auto_offset_reset: AutoOffsetReset,
    /// `fetch.max.wait.ms` (500 ms): how long a broker waits for records.
    #[serde(rename = "fetch.max.wait.ms", with = "duration_ms")]
    pub fetch_max_wait: Duration,
    /// `fetch.min.bytes` (1).
    #[serde(rename = "fetch.min.bytes")]
    pub fetch_min_bytes: u32,
    /// `fetch.max.bytes` (50 MiB): the bound on one answer of one broker.
    #[serde(rename = "fetch.max.bytes")]
    pub fetch_max_bytes: u32,
    /// `max.partition.fetch.bytes` (1 MiB); a single larger batch is read all the same.
    #[serde(rename = "max.partition.fetch.bytes")]
    pub max_partition_fetch_bytes: u32,
    /// `queued.max.bytes` (32 MiB, at least 64 KiB): all that a member has fetched, or is about to,
    /// and has not handled: what the transport reads ahead, the answer on its way, what waits for
    /// handlers, and what is decompressed for them, which is done a part at a time. Fetching pauses
    /// for partitions that have reached their share. A batch that is larger than a share is read all
    /// the same.
    #[serde(rename = "queued.max.bytes")]
    pub queued_max_bytes: usize,
    /// `commit.interval.ms` (1 s): how often handled offsets are committed.
    #[serde(rename = "commit.interval.ms", with = "duration_ms")]
    pub commit_interval: Duration,
    /// `max.poll.records` (500): the most records that a [`Consumer`](crate::Consumer) hands out
    /// together; they are of one partition.
    #[serde(rename = "max.poll.records")]
    pub max_poll_records: usize,
    /// `default.api.timeout.ms` (60 s): how long a [`Consumer`](crate::Consumer)'s commits, seeks and
    /// look-ups may take before they fail with [`ErrorKind::TimedOut`](crate::ErrorKind::TimedOut).
    #[serde(rename = "default.api.timeout.ms", with = "duration_ms")]
    pub default_api_timeout: Duration,
    /// `max.processing.time.ms` (2 min): a handler's call is dropped after it and counts as failed
    /// with the class `timeout`.
    #[serde(rename = "max.processing.time.ms", with = "duration_ms")]
    pub max_processing_time: Duration,
    /// `revoke.timeout.ms` (30 s): how long a call in progress may go on when its partition is to be
    /// given up; then it is dropped. Below `max.poll.interval.ms`.
    #[serde(rename = "revoke.timeout.ms", with = "duration_ms")]
    pub revoke_timeout: Duration,
    /// `rebalance.callback.timeout.ms` (10 s): how long a call of a
    /// [`RebalanceListener`](crate::RebalanceListener) may take; a rebalance waits for it after
    /// `revoke.timeout.ms`. With a listener, both together are below `max.poll.interval.ms`.
    #[serde(rename = "rebalance.callback.timeout.ms", with = "duration_ms")]
    pub rebalance_callback_timeout: Duration,
    /// `handler.backoff.ms` (200 ms): the first wait before a failed record is tried again in place.
    #[serde(rename = "handler.backoff.ms", with = "duration_ms")]
    pub handler_backoff: Duration,
    /// `handler.backoff.max.ms` (30 s): what that wait grows to.
    #[serde(rename = "handler.backoff.max.ms", with = "duration_ms")]
    pub handler_backoff_max: Duration,
    /// `unreadable.records` (stop).
    #[serde(rename = "unreadable.records")]
    pub on_unreadable: OnUnreadable,
    /// `processing.guarantee` (at least once).
    #[serde(rename = "processing.guarantee")]
    pub processing_guarantee: ProcessingGuarantee,
    /// `transactional.id.prefix`: names the members' transactional producers, each with its group
    /// and the number of its instance. It should be the same for each start of a process, so that what a crash left
    /// open is ended by the next start rather than by its time-out, and no other process may have
    /// it. Without one the static member's name is taken (`group.instance.id`), else a random one:
    /// then readers of committed records wait for `transaction.timeout.ms` after a crash. On a Kafka 3 a
    /// member that stands still for longer than that cannot tell whether another process has its id, and
    /// fails for good, unless the id is a random one.
    #[serde(rename = "transactional.id.prefix")]
    pub transactional_id_prefix: Option<String>,
    /// `transaction.timeout.ms` (none: 10 s above `max.processing.time.ms` and
    /// `transaction.interval.ms` together): how long a transaction may stay open before the coordinator
    /// aborts it; readers of committed records wait for it. At least 500 ms above those two, and at
    /// most the broker's `transaction.max.timeout.ms`. No call begins that could outlast it: half of
    /// what is above the two is left for the commit.
    #[serde(rename = "transaction.timeout.ms", with = "duration_ms::option")]
    pub transaction_timeout: Option<Duration>,
    /// `transaction.interval.ms` (100 ms): how long after its first record a transaction is
    /// committed. Calls in progress are waited for, and none begins meanwhile.
    #[serde(rename = "transaction.interval.ms", with = "duration_ms")]
    pub transaction_interval: Duration,
    /// `transaction.max.records` (10,000): handled records after which a transaction is committed.
    #[serde(rename = "transaction.max.records")]
    pub transaction_max_records: usize,
    /// `transaction.max.bytes` (16 MiB): published bytes after which a transaction is committed.
    #[serde(rename = "transaction.max.bytes")]
    pub transaction_max_bytes: usize,
    /// `start.timeout.ms` (30 s): how long the start waits for the topics to exist.
    #[serde(rename = "start.timeout.ms", with = "duration_ms")]
    pub start_timeout: Duration,
}

impl Default for ConsumerConfig {
    fn default() -> Self {
        Self {
            group_id: String::new(),
            group_instance_id: None,
            group_protocol: GroupProtocol::Classic,
            group_remote_assignor: None,
            enable_auto_commit: false,
            session_timeout: Duration::from_secs(45),
            heartbeat_interval: Duration::from_secs(3),
            max_poll_interval: Duration::from_secs(300),
            assignors: vec![Assignor::CooperativeSticky],
            auto_offset_reset: AutoOffsetReset::Latest,
            fetch_max_wait: Duration::from_millis(500),
            fetch_min_bytes: 1,
            fetch_max_bytes: 50 << 20,
            max_partition_fetch_bytes: 1 << 20,
            queued_max_bytes: 32 << 20,
            commit_interval: Duration::from_secs(1),
            max_poll_records: 500,
            default_api_timeout: Duration::from_secs(60),
            max_processing_time: Duration::from_secs(120),
            revoke_timeout: Duration::from_secs(30),
            rebalance_callback_timeout: Duration::from_secs(10),
            handler_backoff: Duration::from_millis(200),
            handler_backoff_max: Duration::from_secs(30),
            on_unreadable: OnUnreadable::Stop,
            processing_guarantee: ProcessingGuarantee::AtLeastOnce,
            transactional_id_prefix: None,
            transaction_timeout: None,
            transaction_interval: Duration::from_millis(100),
            transaction_max_records: 10_000,
            transaction_max_bytes: 16 << 20,
            start_timeout: Duration::from_secs(30),
        }
    }
}

impl ConsumerConfig {
    /// The defaults for `group_id`.
    pub fn new(group_id: impl Into<String>) -> Self {
        Self {
            group_id: group_id.into(),
            ..Self::default()
        }
    }

    /// How much of the queue a lane may decode at a time.
    pub(crate) fn part_bytes(&self) -> usize {
        (self.queued_max_bytes / 64).clamp(16 << 10, 1 << 20)
    }

    /// Checks every value and how they fit together.
    ///
    /// # Errors
    /// Names the first key that is wrong, its value and what is allowed.
    pub fn validate(&self) -> Result<(), ConfigError> {
        self.validate_group()?;
        self.validate_times_and_sizes()
    }

    pub(crate) fn validate_group(&self) -> Result<(), ConfigError> {
        validate_group_id(&self.group_id)
    }

    pub(crate) fn validate_times_and_sizes(&self) -> Result<(), ConfigError> {
        if let Some(id) = &self.group_instance_id {
            validate_group_id(id).map_err(|e| ConfigError {
                key: "group.instance.id",
                ..e
            })?;
        }
        if self.group_remote_assignor.as_deref() == Some("") {
            let key = "group.remote.assignor";
            return Err(ConfigError::new(key, "", "a name, or none"));
        }
        let cooperative = |a: &&Assignor| **a == Assignor::CooperativeSticky;
        let cooperative = self.assignors.iter().filter(cooperative).count();
        if self.assignors.is_empty() || ![0, self.assignors.len()].contains(&cooperative) {
            return Err(ConfigError::new(
                "partition.assignment.strategy",
                format!("{:?}", self.assignors),
                "cooperative-sticky, or one or more of range, roundrobin, sticky",
            ));
        }
        self.validate_group_times()?;
        self.validate_handler_times()?;
        self.validate_transactions()?;
        self.validate_fetch()
    }

    /// With a listener, its calls have to fit into a rebalance, too.
    pub(crate) fn validate_callbacks(&self) -> Result<(), ConfigError> {
        between_ms(
            "rebalance.callback.timeout.ms",
            self.rebalance_callback_timeout,
            Duration::from_millis(1),
            self.max_poll_interval
                .saturating_sub(self.revoke_timeout + Duration::from_millis(1)),
        )
    }

    fn validate_group_times(&self) -> Result<(), ConfigError> {
        let day = Duration::from_secs(86_400);
        between_ms(
            "session.timeout.ms",
            self.session_timeout,
            Duration::from_millis(100),
            day,
        )?;
        between_ms(
            "heartbeat.interval.ms",
            self.heartbeat_interval,
            Duration::from_millis(10),
            self.session_timeout / 3,
        )?;
        between_ms(
            "max.poll.interval.ms",
            self.max_poll_interval,
            Duration::from_millis(100),
            day,
        )?;
        between_ms(
            "revoke.timeout.ms",
            self.revoke_timeout,
            Duration::ZERO,
            // With the same time the rebalance would be over when the partition is given up.
            self.max_poll_interval - Duration::from_millis(1),
        )?;
        between_ms(
            "rebalance.callback.timeout.ms",
            self.rebalance_callback_timeout,
            Duration::from_millis(1),
            day,
        )?;
        between_ms(
            "commit.interval.ms",
            self.commit_interval,
            Duration::from_millis(1),
            day,
        )
    }

    fn validate_handler_times(&self) -> Result<(), ConfigError> {
        let week = Duration::from_secs(7 * 86_400);
        let least = Duration::from_millis(1);
        between_ms(
            "default.api.timeout.ms",
            self.default_api_timeout,
            least,
            week,
        )?;
        between_ms(
            "max.processing.time.ms",
            self.max_processing_time,
            least,
            week,
        )?;
        between_ms(
            "handler.backoff.max.ms",
            self.handler_backoff_max,
            least,
            week,
        )?;
        between_ms(
            "handler.backoff.ms",
            self.handler_backoff,
            least,
            self.handler_backoff_max,
        )?;
        between_ms("start.timeout.ms", self.start_timeout, least, week)
    }

    fn validate_fetch(&self) -> Result<(), ConfigError> {
        let most = i32::MAX as u64;
        between(
            "max.poll.records",
            self.max_poll_records as u64,
            1,
            1_000_000,
        )?;
        between(
            "max.partition.fetch.bytes",
            u64::from(self.max_partition_fetch_bytes),
            1024,
            most,
        )?;
        between(
            "fetch.max.bytes",
            u64::from(self.fetch_max_bytes),
            u64::from(self.max_partition_fetch_bytes),
            most,
        )?;
        between(
            "fetch.min.bytes",
            u64::from(self.fetch_min_bytes),
            1,
            u64::from(self.fetch_max_bytes),
        )?;
        between(
            "queued.max.bytes",
            self.queued_max_bytes as u64,
            64 << 10,
            u64::MAX,
        )?;
        between_ms(
            "fetch.max.wait.ms",
            self.fetch_max_wait,
            Duration::from_millis(1),
            Duration::from_secs(60),
        )
    }
}

fn between(key: &'static str, value: u64, min: u64, max: u64) -> Result<(), ConfigError> {
    if (min..=max).contains(&value) {
        Ok(())
    } else {
        Err(ConfigError::new(key, value, format!("{min} to {max}")))
    }
}

pub(crate) fn between_ms(
    key: &'static str,
    value: Duration,
    min: Duration,
    max: Duration,
) -> Result<(), ConfigError> {
    if (min..=max).contains(&value) {
        Ok(())
    } else {
        let expected = format!("{} to {}", min.as_millis(), max.as_millis());
        Err(ConfigError::new(key, value.as_millis(), expected))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused_key(change: impl FnOnce(&mut ConsumerConfig)) -> &'static str {
        let mut config = ConsumerConfig::new("g");
        change(&mut config);
        config.validate().unwrap_err().key
    }

    #[test]
    fn the_defaults_are_valid() {
        ConsumerConfig::new("g").validate().unwrap();
    }

    #[test]
    fn a_refusal_names_the_key_the_value_and_the_range() {
        let mut config = ConsumerConfig::new("g");
        config.heartbeat_interval = Duration::from_secs(16);
        assert_eq!(
            config.validate().unwrap_err().to_string(),
            "config `heartbeat.interval.ms` = `16000` is not allowed: expected 10 to 15000"
        );
        assert_eq!(refused_key(|c| c.group_id.clear()), "group.id");
        assert_eq!(
            refused_key(|c| c.assignors.clear()),
            "partition.assignment.strategy"
        );
        assert_eq!(refused_key(|c| c.fetch_max_bytes = 1), "fetch.max.bytes");
        assert_eq!(refused_key(|c| c.queued_max_bytes = 1), "queued.max.bytes");
        assert_eq!(
            refused_key(|c| c.revoke_timeout = c.max_poll_interval),
            "revoke.timeout.ms"
        );
        assert_eq!(
            refused_key(|c| c.group_remote_assignor = Some(String::new())),
            "group.remote.assignor"
        );
        assert_eq!(
            refused_key(|c| c.group_instance_id = Some(String::new())),
            "group.instance.id"
        );
    }

    #[test]
    fn property_names_are_kafkas_and_unknown_ones_are_refused() {
        let json = r#"{"group.id":"g","session.timeout.ms":6000,"heartbeat.interval.ms":2000,
            "auto.offset.reset":"earliest","partition.assignment.strategy":["range"],"group.protocol":"auto"}"#;
        let config: ConsumerConfig = serde_json::from_str(json).unwrap();
        assert_eq!(config.session_timeout, Duration::from_secs(6));
        assert_eq!(config.auto_offset_reset, AutoOffsetReset::Earliest);
        assert_eq!(config.assignors, [Assignor::Range]);
        assert_eq!(config.group_protocol, GroupProtocol::Auto);
        config.validate().unwrap();

        let unknown = serde_json::from_str::<ConsumerConfig>(r#"{"session.timeout":1}"#);
        assert!(unknown.unwrap_err().to_string().contains("session.timeout"));
        let value = serde_json::from_str::<ConsumerConfig>(r#"{"auto.offset.reset":"first"}"#);
        assert!(value.unwrap_err().to_string().contains("earliest"));
    }
}
