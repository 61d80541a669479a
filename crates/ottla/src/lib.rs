//! A pure-Rust Kafka client stack: producer, consumer groups with a runner, reliability patterns and
//! a transactional outbox. No librdkafka, no C compiler.
//!
//! This crate re-exports the others behind features of the same names; each also links alone.
//!
//! ```no_run
//! use ottla::{Client, ClientConfig, Producer, ProducerConfig, Record};
//!
//! # async fn first() -> Result<(), Box<dyn std::error::Error>> {
//! let client = Client::connect(ClientConfig::new("localhost:9092")).await?;
//! let producer = Producer::new(&client, ProducerConfig::default())?;
//! let written = producer.send(Record::new("orders").key("order-1").value("paid")).await?;
//! println!("partition {}, offset {:?}", written.partition, written.offset);
//! # Ok(())
//! # }
//! ```

pub use ottla_types as types;
pub use ottla_types::{ConsumedRecord, Headers, Record, RecordMetadata, TopicPartition};

#[cfg(any(feature = "producer", feature = "consumer"))]
pub use ottla_client as client;
#[cfg(any(feature = "producer", feature = "consumer"))]
pub use ottla_client::{Client, ClientConfig};
#[cfg(feature = "consumer")]
pub use ottla_consumer as consumer;
#[cfg(feature = "consumer")]
pub use ottla_consumer::{
    App, Consumer, ConsumerConfig, Context, Handler, HandlerError, Outcome, Registration,
    handler_fn, json_handler,
};
#[cfg(feature = "mock-cluster")]
pub use ottla_mock_cluster as mock_cluster;
#[cfg(feature = "outbox")]
pub use ottla_outbox as outbox;
#[cfg(feature = "producer")]
pub use ottla_producer as producer;
#[cfg(feature = "producer")]
pub use ottla_producer::{
    Producer, ProducerConfig, TransactionalConfig, TransactionalProducer, TransactionalProducers,
};
#[cfg(any(feature = "producer", feature = "consumer"))]
pub use ottla_record_batch as record_batch;
#[cfg(feature = "reliability")]
pub use ottla_reliability as reliability;
#[cfg(any(feature = "outbox", feature = "reliability", feature = "store-redb"))]
pub use ottla_store as store;
#[cfg(feature = "store-redb")]
pub use ottla_store_redb as store_redb;

/// So that the examples of the front page compile.
#[cfg(all(doctest, feature = "producer", feature = "consumer", feature = "tls"))]
#[doc = include_str!("../../../README.md")]
struct Readme;
