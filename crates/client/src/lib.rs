//! The IO edge of the ottla stack: everything that talks to a broker.
//!
//! A [`Client`] finds the cluster, keeps its metadata and creates topics; [`Client::admin`] does the
//! rest of administration; [`Client::group`] gives the calls to a group's coordinator,
//! [`Client::transactions`] those to a transaction's; [`Client::transport`] carries batches and record sets, and
//! can be exchanged ([`transport`]). Producers and consumers are built on these three and open no
//! socket themselves.
//!
//! ```no_run
//! use ottla_client::{Client, ClientConfig, NewTopic};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), ottla_client::Error> {
//! let client = Client::connect(ClientConfig::new("localhost:9092")).await?;
//! client.ensure_topics(vec![NewTopic::new("orders", 3)]).await?;
//! println!("{:?}", client.topic("orders").await?);
//! # Ok(())
//! # }
//! ```
//!
//! # What holds
//! - Every call ends within its time limit: a wrong address, a broker that falls silent and a
//!   half-open socket are errors, never a hang.
//! - What comes from a socket is untrusted: lengths and counts are checked against what is there
//!   before memory is reserved. What the decoder then reserves is a small multiple of the answer
//!   (up to about 20 times for an answer of nothing but the smallest elements), and
//!   `receive.message.max.bytes` bounds the answer.
//! - A connection belongs to a task, the task to the client, and [`Client::close`] ends them all;
//!   so does dropping the last clone.
//! - No type of the protocol's or a transport's crate shows in this API.
//!
//! # What it measures
//! Counters of the [`metrics`](https://docs.rs/metrics) facade, all starting with `ottla_client_`:
//! `requests_total` (label `api`), `request_errors_total` (`api`, `kind`), `connects_total`
//! (`outcome`), `reconnects_total`, `connections_lost_total`; and the histogram `request_seconds`
//! (`api`). `tracing` spans: `connect` (debug) and `request` (trace).

pub mod admin;
mod backoff;
mod broker;
mod client;
mod cluster;
mod config;
mod config_keys;
mod connection;
mod convert;
mod coordinator;
mod error;
mod metadata;
#[cfg(test)]
mod old_versions;
mod place;
mod producer_id;
#[cfg(test)]
mod secured_brokers;
pub mod security;
mod transactions;
pub mod transport;

pub use admin::Admin;
pub use admin::topics::NewTopic;
pub use backoff::Backoff;
pub use client::Client;
pub use config::{ClientConfig, IsolationLevel, TransportKind};
pub use coordinator::GroupClient;
pub use error::{Error, ErrorKind};
pub use metadata::{PartitionMetadata, TopicMetadata};
pub use ottla_types::ProducerId;
pub use transactions::TransactionClient;
