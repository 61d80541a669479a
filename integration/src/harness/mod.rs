//! Starts, kills and heals real brokers and worker processes.
//!
//! Owns every process that it starts: dropping a handle kills its process, and a guard kills it
//! when the harness itself is killed. Everything listens on loopback, on ports that were free a
//! moment ago; data and logs stand in a temporary folder that goes away, unless something failed.

mod error;
mod guard;
mod jars;
mod kafka;
mod node;
mod ports;
mod probe;
mod proxy;
mod worker;

pub use error::HarnessError;
pub(crate) use guard::Guard;
pub use jars::{Fetch, Jars, KAFKA_VERSION};
pub use kafka::{KafkaCluster, KafkaOptions};
pub use ports::free_ports;
pub use probe::{BrokerList, brokers};
pub use proxy::Proxies;
pub use worker::{Worker, own_program};
