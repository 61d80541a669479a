//! Kafka consumer groups: manual commit, batches, handlers and a runner.
//!
//! The way of the data: fetch, lane (one a partition), handler, offset tracker, commit. An offset is
//! committed only when everything below it is handled, and only by the member that owns the
//! partition now.
//!
//! - [`App`] starts handlers for groups and topics and stops them gracefully,
//! - [`Handler`] and [`BatchHandler`] are what it calls; [`json_handler`], [`json_batch`] and
//!   [`Dispatcher`] decode values first,
//! - [`GroupConsumer`] is for callers that ask for records themselves,
//! - [`ConsumerConfig`] holds the settings, with Kafka's property names.

mod app;
mod config;
mod error;
mod group_consumer;
mod handler;
mod lane;
mod member;

pub use app::{
    App, AppStatus, BatchRoute, MemberState, MemberStatus, PartitionState, PartitionStatus,
    Registration, RegistrationStatus, RunningApp, ShutdownReport, TopicRoute, shutdown_signal,
};
pub use config::{Assignor, AutoOffsetReset, ConsumerConfig, OnUnreadable};
pub use error::{Error, ErrorKind};
pub use group_consumer::{ConsumedBatch, GroupConsumer};
pub use handler::*;
pub use ottla_types::ConsumedRecord;

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
