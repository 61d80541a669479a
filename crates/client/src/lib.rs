//! The IO edge of the ottla stack: everything that talks to a broker.

mod admin;
mod backoff;
mod broker;
mod client;
mod cluster;
mod config;
mod connection;
mod convert;
mod coordinator;
mod error;
mod metadata;
pub mod transport;

pub use admin::NewTopic;
pub use backoff::Backoff;
pub use client::Client;
pub use config::{ClientConfig, TransportKind};
pub use coordinator::GroupClient;
pub use error::{Error, ErrorKind};
pub use metadata::{PartitionMetadata, TopicMetadata};
