//! The vocabulary that every ottla crate shares, and the ports between them.
//!
//! This crate is pure: no runtime, no sockets, no clock and no randomness of its own, so it builds
//! for `wasm32-unknown-unknown` too. It owns
//!
//! - what a record is ([`Record`], [`ConsumedRecord`], [`Headers`], [`TopicPartition`]),
//! - what the coordinators are asked and answer ([`coordinator`], [`transactions`]), and the blobs
//!   that members exchange through them ([`consumer_protocol`]),
//! - Kafka's error codes ([`ErrorCode`]),
//! - the names of the headers and topics that ottla writes ([`names`]),
//! - the ports: [`Publish`] (records go out), [`Transact`] (in transactions) and [`Clock`] (what time it is).
//!
//! ```
//! use ottla_types::{Headers, Record};
//!
//! let record = Record::new("orders").key("order-1").value(r#"{"id":1}"#).header("source", "web");
//! assert_eq!(record.headers, Headers::new().with("source", "web"));
//! ```

mod causes;
mod clock;
pub mod config;
pub mod consumer_protocol;
pub mod coordinator;
mod envelope;
mod error_code;
mod headers;
pub mod names;
mod producer_id;
mod publish;
mod record;
mod topic;
mod transact;
pub mod transactions;

pub use bytes::Bytes;
pub use causes::{add_causes, with_causes};
pub use clock::{Clock, ManualClock, at_most_a_year};
#[doc(hidden)]
pub use config::lenient;
pub use config::{ConfigError, ConfigKey, Configuration, duration_ms};
pub use envelope::{Envelope, EnvelopeError};
pub use error_code::ErrorCode;
pub use headers::{Header, Headers};
pub use producer_id::ProducerId;
pub use publish::{BoxFuture, Delivery, Fate, Publish, PublishError, PublishErrorKind};
pub use record::{AsRecord, ConsumedRecord, Record, RecordMetadata, RecordRef, TimestampType};
#[doc(hidden)]
pub use serde;
pub use topic::{Offset, TopicPartition, validate_group_id, validate_topic_name};
pub use transact::{Transact, TransactError, TransactErrorKind, Transactions};
