//! A Kafka cluster in the test's own process: several brokers on loopback TCP ports, data in
//! memory, faults on demand.
//!
//! ```
//! use ottla_mock_cluster::{Action, ApiKey, Fault, MockCluster};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let cluster = MockCluster::builder().brokers(3).start().await?;
//! cluster.create_topic("orders", 6)?;
//! // Applied, but the client never hears of it.
//! let lost = cluster.faults().add(Fault::on(ApiKey::Produce).topic("orders").action(Action::DropReply));
//!
//! let bootstrap = cluster.bootstrap(); // any Kafka client connects here
//! # assert_eq!(bootstrap.split(',').count(), 3);
//! cluster.kill(2).await?;
//! cluster.restart(2).await?;
//!
//! assert_eq!(lost.hits(), 0);
//! assert_eq!(cluster.records("orders").len(), 0);
//! cluster.shutdown().await;
//! # Ok(())
//! # }
//! ```
//!
//! It shares no code with the client under test: it reads batches itself, and its protocol
//! messages come from `kafka-protocol`.
//!
//! # What it does as Kafka does
//! - Each connection's requests are handled one after the other, and answered in order; a long
//!   poll or a join holds back only its own connection.
//! - Batches are checked (CRC-32C, counts, `max.message.bytes`), placed (offset, leader epoch,
//!   `LogAppendTime`) and checked for the sequence of their idempotent producer; a replay of one
//!   of the last five batches answers the offset it had.
//! - Leaders and their epochs, coordinators, the classic group protocol with static members
//!   (KIP-345), member ids required (KIP-394) and session expiry.
//! - Several errors are those of Kafka 4: a request of an unsupported version closes the
//!   connection, except ApiVersions, which is answered as version 0 with error 35.
//!
//! # What it does not do
//! - Replication: one copy of each log, acknowledged at once, acks 0, 1 and all alike. A kill loses
//!   nothing. The replica lists in metadata are for show.
//! - Transactions, read_committed, control batches; KIP-848 and share groups; fetch sessions,
//!   fetch from followers, topic ids in Produce and Fetch; offsets for leader epochs.
//! - SASL, TLS, ACLs, quotas; altering configs or partitions; deleting groups.
//! - Retention and compaction: records go by DeleteRecords alone. Offsets do not expire.
//! - Looking into compressed batches: they are stored and served as they came, found by timestamp
//!   only as a whole, and left out of [`MockCluster::records`].
//! - `__consumer_offsets` and other internal topics; a group's coordinator is a choice by name.
//! - Lower bounds for session timeouts: a test may ask for 1 ms.
//! - Versions of Produce and Fetch above 12, Produce below 3 (advertised from 0, as Kafka 4 does
//!   for old clients), and record formats before v2.
//!
//! Input is not trusted: requests are bounded in size and checked in shape before they are
//! decoded; what does not fit closes the connection.

mod api;
mod api_key;
mod batch;
mod builder;
mod cluster;
mod codes;
mod control;
mod coordinator;
mod error;
mod fault;
mod fetch_session;
mod group;
mod inspect;
mod log;
mod net;
mod record;
mod seat;
mod shared;
mod topics;
mod txn;
mod versions;

pub use api_key::ApiKey;
pub use builder::MockClusterBuilder;
pub use cluster::MockCluster;
pub use error::MockError;
pub use fault::{Action, Fault, FaultHandle, Faults};
pub use group::GroupState;
pub use record::{MockBatch, MockRecord};
pub use txn::TransactionState;
pub use versions::Versions;
