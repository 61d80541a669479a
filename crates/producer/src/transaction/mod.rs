//! Transactions: records and the offsets of what they were made from count together or not at all.
//!
//! [`machine`] decides (pure), [`coordinator`] asks and keeps writes back, [`transport`] leads the
//! sender's writes through it, [`producer`] is what applications hold and [`builder`]
//! makes.

mod builder;
mod config;
mod coordinator;
mod machine;
mod producer;
mod producers;
mod transport;

pub use builder::TransactionalProducerBuilder;
pub use config::TransactionalConfig;
pub use producer::TransactionalProducer;
pub use producers::TransactionalProducers;
