//! Transactional outbox: the application writes a row in the same database transaction as its own
//! data, and the [`Relay`] publishes committed rows.
//!
//! Enqueueing is a method of each store crate (`ottla-store-redb`, or
//! [`MemoryOutbox`](ottla_store::MemoryOutbox)), on its database's own transaction type. This crate
//! owns the relay: what was committed is published at least once, whatever crashes; what was rolled
//! back is never published; the rows of a key are published in the order of their commits.
//!
//! - One relay at a time publishes from an outbox: it holds a lease with a fencing token, and
//!   another takes over when the lease ends or is given back.
//! - A row is sent again after a crash or a lost answer, with the same `message_id` header, by which
//!   consumers find duplicates.
//! - A row that can never be published is parked with its error; the rows behind it go on.
//!
//! It depends on the [`Publish`](ottla_types::Publish) port and the store port alone: no consumer,
//! no database, no Kafka client.

mod config;
mod config_keys;
mod error;
mod relay;
mod window;

pub use config::RelayConfig;
pub use error::RelayError;
pub use relay::{Relay, RelayRole, RelayStatus, RunningRelay, StopReport};
