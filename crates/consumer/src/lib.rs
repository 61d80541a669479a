//! Kafka consumer groups: manual commit, batches, handlers and a runner.
//!
//! The way of the data: fetch, lane (one a partition), handler, offset tracker, commit. An offset is
//! committed only when everything below it is handled, and only by the member that owns the
//! partition now.
//!
//! - [`App`] starts handlers for groups and topics and stops them gracefully; its [`Health`] is for
//!   a web server in the same process,
//! - [`Handler`] and [`BatchHandler`] are what it calls; [`json_handler`], [`json_batch`] and
//!   [`Dispatcher`] decode values first,
//! - [`RebalanceListener`] is told when partitions come and go,
//! - [`Consumer`] is for callers that ask for records themselves, with and without a group,
//! - [`ConsumerConfig`] holds the settings, with Kafka's property names.
//!
//! # Metrics
//! Labels are `group`, and where it makes sense `topic` and `partition`.
//!
//! | name | kind | meaning |
//! |---|---|---|
//! | `ottla_consumer_handled_total` | counter | records handled |
//! | `ottla_consumer_failed_total` | counter | handler calls that failed |
//! | `ottla_consumer_handler_seconds` | histogram | time of a handler call (up to eight that end at once within microseconds are told as their average) |
//! | `ottla_consumer_lag` | gauge | records not handled yet |
//! | `ottla_consumer_commits_total`, `ottla_consumer_commit_failures_total` | counter | answered and failed commits |
//! | `ottla_consumer_transactions_total` | counter | ended transactions, by `outcome` (`committed`, `aborted`) |
//! | `ottla_consumer_rebalances_total` | counter | generations joined |
//! | `ottla_consumer_member_restarts_total` | counter | members begun anew after a failure |
//! | `ottla_consumer_callback_failures_total` | counter | calls of a listener that failed, with `callback` and `class` |
//! | `ottla_consumer_resets_total` | counter | positions that were out of range |
//! | `ottla_consumer_undecodable_total`, `ottla_consumer_passed_over_total` | counter | values skipped, envelope types without a handler |
//! | `ottla_consumer_unreadable_total` | counter | places skipped because they cannot be read |
//!
//! Each handler call has a `handle` span (level debug) with group, topic, partition and offset.

mod app;
mod config;
mod config_keys;
mod error;
mod guarantee;
mod handler;
mod lane;
mod latch;
mod listener;
mod member;
mod offset_reset;
mod output;
mod plain;
mod status;
mod subscription;
mod work;

/// The end of a time that begins now.
fn after(time: std::time::Duration) -> tokio::time::Instant {
    tokio::time::Instant::now() + ottla_types::at_most_a_year(time)
}

pub use app::{
    App, AppPhase, BatchRoute, GroupHealth, Health, HealthProblem, HealthReport, ProblemKind,
    Registration, RunningApp, ShutdownReport, TopicRoute, shutdown_signal,
};
pub use config::{Assignor, ConsumerConfig, GroupProtocol, OnUnreadable};
pub use error::{Error, ErrorKind};
pub use guarantee::ProcessingGuarantee;
pub use handler::*;
pub use listener::{Assigned, Rebalance, RebalanceListener, Revoked, SeekTo};
pub use offset_reset::{AutoOffsetReset, UnknownReset};
pub use ottla_types::ConsumedRecord;
pub use output::CLASS_OUTPUT_FAILED;
pub use plain::{
    Batches, CommitHandle, ConsumedBatch, Consumer, ConsumerBuilder, OffsetAndMetadata, Records,
};
pub use status::{
    AppStatus, MemberState, MemberStatus, PartitionState, PartitionStatus, RegistrationStatus,
};

/// A record for tests of this crate: key and value are null.
#[cfg(test)]
pub(crate) fn test_record(topic: &str, partition: i32, offset: i64) -> ConsumedRecord {
    ConsumedRecord {
        topic: topic.into(),
        partition,
        offset,
        leader_epoch: None,
        timestamp_ms: 0,
        timestamp_type: ottla_types::TimestampType::CreateTime,
        key: None,
        value: None,
        headers: ottla_types::Headers::new(),
    }
}
