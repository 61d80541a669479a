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
//!   of the last five batches answers the offset it had, a new epoch begins at 0, an unknown
//!   producer anywhere.
//! - Transactions of version 1 and 2 (KIP-98, KIP-360, KIP-447, KIP-890): epochs, fencing, markers
//!   in the logs, the last stable offset, the aborted list, offsets that wait for the commit,
//!   the transaction timeout. [`MockCluster::hold_markers`] keeps a decided transaction undone.
//! - Fetch by name and by topic id, in incremental sessions (KIP-227), with leader epochs
//!   (KIP-320), diverging epochs, hints to the new leader (KIP-951) and, with
//!   [`MockClusterBuilder::racks`], from the closest replica (KIP-392).
//! - The consumer group protocol (KIP-848): the assignors `uniform` and `range`, static members, regular
//!   expressions; `ConsumerGroupDescribe` shows its groups, `DescribeGroups` only those of the classic
//!   protocol; `ListGroups` shows them as stable.
//! - Leaders and their epochs, coordinators, the classic group protocol with static members
//!   (KIP-345), member ids required (KIP-394) and session expiry.
//! - [`Action::Throttle`] is a client quota: the answer says how long, then the connection is
//!   muted (KIP-219).
//! - SASL with PLAIN, SCRAM-SHA-256, SCRAM-SHA-512 and OAUTHBEARER, where [`Sasl`] asks for it:
//!   nothing else is taken before, sessions end and are renewed (KIP-368).
//! - [`Versions`] are the tables of Kafka 3.9, 4.0, 4.3 and Redpanda: what is told and taken.
//!   Other differences between these brokers are not imitated.
//! - Several errors are those of Kafka 4: a request of an unsupported version closes the
//!   connection, except ApiVersions, which is answered as version 0 with error 35.
//!
//! # What a test can do to it
//! [`Fault`]s by API, broker, topic, group or transactional id; kills and restarts; moves of leaders
//! and coordinators; [`MockCluster::truncate`] cuts a log under a new epoch,
//! [`MockCluster::compact`] leaves gaps and empty batches, [`MockCluster::delete_records`] raises
//! the log's start; [`MockCluster::evict_fetch_sessions`].
//!
//! # What it does not do
//! - Replication: one copy of each log, acknowledged at once, acks 0, 1 and all alike. A kill loses
//!   nothing. The replica lists in metadata are for show; a follower reads the leader's log.
//! - Markers take no time unless they are held: EndTxn is answered when they are written, where
//!   Kafka answers first. A write to a partition without its leader's coordinator in sight is
//!   checked all the same. Two-phase commit (KIP-939) is not there.
//! - AddPartitionsToTxn from version 4 on is refused with CLUSTER_AUTHORIZATION_FAILED: it is for
//!   brokers, which here need none.
//! - Classic members and such of KIP-848 in one group, ConsumerGroupDescribe; share groups; fetching as
//!   a replica.
//! - TLS, ACLs; quotas that count by themselves. Of settings, only those that the mock gives a
//!   meaning change what it does; others can be described and altered all the same.
//! - Retention and compaction by themselves: records go when a test or DeleteRecords says so.
//!   Offsets, producers and transactional ids do not expire.
//! - Looking into compressed batches: they are stored and served as they came, found by timestamp
//!   only as a whole, left alone by compaction, and left out of [`MockCluster::records`].
//! - `__consumer_offsets` and other internal topics; a coordinator is a choice by name.
//! - Lower bounds for session timeouts: a test may ask for 1 ms.
//! - Versions of Produce below 3 (advertised from 0, as Kafka 4 does for old clients), ListOffsets
//!   above 10, OffsetCommit and OffsetFetch above 9, and record formats before v2.
//!
//! Input is not trusted: requests are bounded in size and checked in shape before they are
//! decoded; what does not fit closes the connection.

mod api;
mod api_key;
mod batch;
mod builder;
mod cluster;
mod codes;
mod consumer_group;
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
mod sasl;
mod seat;
mod settings;
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
pub use sasl::{Mechanism, Sasl};
pub use txn::TransactionState;
pub use versions::Versions;
