//! A Kafka producer: records go out in batches, and each one gets a result of its own.
//!
//! ```no_run
//! use ottla_client::{Client, ClientConfig};
//! use ottla_producer::{Producer, ProducerConfig};
//! use ottla_types::Record;
//! use std::time::Duration;
//!
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! let client = Client::connect(ClientConfig::new("localhost:9092")).await?;
//! let producer = Producer::new(&client, ProducerConfig::default())?;
//! let written = producer.send(Record::new("orders").key("order-1").value("paid")).await?;
//! assert!(written.offset.is_some());
//! producer.close(Duration::from_secs(10)).await;
//! # Ok(())
//! # }
//! ```
//!
//! - [`Producer::send`] waits for one record, [`Producer::send_all`] for many;
//!   [`Producer::enqueue`] returns a [`DeliveryHandle`] at once, [`Producer::enqueue_all`] one for
//!   many records, and [`Producer::reports`] gives all outcomes as one stream.
//! - A [`Record`](ottla_types::Record) owns what it carries, a [`RecordRef`](ottla_types::RecordRef)
//!   borrows it for the time of the call, which costs less.
//! - [`TransactionalProducer`] writes in transactions, offsets of a group included.
//! - [`partition`] says which partition a record goes to.
//! - The `accumulator` module (pure, clocks passed in) gathers records in batches; the `sender`
//!   module is the one task that writes them.
//!
//! What must hold:
//! - each record that was taken gets exactly one result, also when the producer is closed or
//!   dropped;
//! - within a partition, the order of the calls to `enqueue` is the order in the log;
//! - with idempotence, the default where the transport can do it, a record that is acknowledged
//!   stands in the log once, however often its batch was sent; without, a batch whose answer was lost
//!   may stand there twice;
//! - memory is bounded by `buffer.memory`.

mod accumulator;
mod clocks;
mod cluster;
mod config;
mod config_keys;
mod deliveries;
mod handle;
pub mod partition;
mod producer;
mod report;
mod sender;
mod shared;
mod telemetry;
mod transaction;
mod typed;

pub use config::ProducerConfig;
pub use deliveries::Deliveries;
pub use handle::DeliveryHandle;
pub use partition::PartitionerKind;
pub use producer::{FlushTimedOut, Producer, ProducerBuilder};
pub use report::{CloseReport, DeliveryReport, Reports, Undelivered};
pub use transaction::{
    TransactionalConfig, TransactionalProducer, TransactionalProducerBuilder,
    TransactionalProducers,
};
