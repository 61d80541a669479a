//! The transport over this crate's own connections.
//!
//! Batches go out as the bytes that they are, record sets come out as slices of the answers. `wire`,
//! `produce_message` and `fetch_message` are the codecs; `leaders` knows who leads; `produce` finds a
//! batch's broker, where `outbox`, `sender` and `request` write, one task a broker. `fetch`, `table`
//! with its `cursor`s, `channel` and `session` read; `judge` says what an answer means, `scan` what a
//! reader sees of it, `epochs` whether the log is still the one that was read. `offsets` looks offsets
//! up; `failure` judges errors.

mod channel;
mod cursor;
mod epochs;
mod failure;
mod fetch;
mod fetch_message;
#[cfg(test)]
mod fetch_tests;
#[cfg(test)]
mod fuzz;
mod judge;
mod leaders;
#[cfg(test)]
mod leaders_tests;
#[cfg(test)]
mod message_tests;
mod offsets;
mod outbox;
mod produce;
mod produce_message;
mod request;
mod scan;
#[cfg(test)]
mod scan_tests;
mod sender;
#[cfg(test)]
mod sender_tests;
mod session;
mod table;
#[cfg(test)]
mod table_tests;
mod wire;

use super::{
    AnswerSink, Capabilities, Compression, FetchLimits, FetchPosition, Fetched, OffsetSpec,
    Outgoing, ProduceOptions, Transport,
};
use crate::cluster::Cluster;
use crate::config::IsolationLevel;
use crate::{Error, ErrorKind};
use fetch::Fetches;
use leaders::Leaders;
use ottla_types::{BoxFuture, TopicPartition, at_most_a_year};
use produce::Senders;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

/// The [`Transport`] over this crate's own connections. Dropping it stops its background work.
///
/// # Connections
/// To each broker that leads a partition of interest: one for writing and mostly one for reading, at
/// most three. A broker answers a connection's requests one after the other; the further ones are
/// for partitions that are asked for while all others are in a long poll. How many partitions there
/// are makes no difference. Metadata and offset lookups share the client's connection.
///
/// # Writing
/// A request has all batches for a broker that wait at that moment, one for each partition; up to
/// five requests are in flight. When a batch fails because its leader is somewhere else, or does not
/// answer, the cluster is asked for the leader before the partition's next batch is sent, unless the
/// answer named it (KIP-951). The throttle time of a quota delays the next request; nothing is sent
/// twice for it. With [`Acks::None`](super::Acks::None) a batch counts as written when the socket took it.
///
/// # Reading
/// A request is for all partitions of a broker that are wanted, in a fetch session (KIP-227). When a
/// result was taken the next one is fetched in advance, up to [`FetchLimits::read_ahead_bytes`] over
/// all partitions, as long as the partition is asked for every ten seconds.
///
/// Control batches are left out, and so are aborted transactions with `isolation.level`
/// `read_committed`; [`Fetched::next_offset`] moves over them, and over what compaction has removed.
pub struct NativeTransport {
    leaders: Arc<Leaders>,
    senders: Senders,
    fetches: Arc<Fetches>,
    closed: CancellationToken,
    _stop: DropGuard,
}

impl fmt::Debug for NativeTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NativeTransport")
            .field("bootstrap", &self.leaders.cluster.config.bootstrap)
            .finish_non_exhaustive()
    }
}

const CAPABILITIES: Capabilities = Capabilities {
    idempotence: true,
    transactions: true,
    read_committed: true,
    acks: true,
    codecs: Compression::SUPPORTED,
    fetch_sessions: true,
    header_fidelity: true,
};

impl NativeTransport {
    /// A transport on the cluster's connections. Connects to nothing yet.
    pub(crate) fn new(cluster: Arc<Cluster>) -> Self {
        let closed = cluster.connector.tasks.child_token();
        let read_committed = cluster.config.isolation_level == IsolationLevel::ReadCommitted;
        let leaders = Arc::new(Leaders::new(cluster));
        Self {
            senders: Senders::new(leaders.clone(), closed.clone()),
            fetches: Arc::new(Fetches::new(
                leaders.clone(),
                closed.clone(),
                read_committed,
            )),
            leaders,
            _stop: closed.clone().drop_guard(),
            closed,
        }
    }
}

fn closed(operation: &'static str, partition: &TopicPartition) -> Error {
    Error::new(ErrorKind::Closed, operation).with_partition(partition.clone())
}

impl Transport for NativeTransport {
    fn name(&self) -> &'static str {
        "native"
    }

    fn capabilities(&self) -> Capabilities {
        CAPABILITIES
    }

    fn produce(&self, options: &ProduceOptions, batches: Vec<Outgoing>, answers: &AnswerSink) {
        self.senders.deliver(options, batches, answers);
    }

    fn fetch(
        &self,
        limits: FetchLimits,
        positions: Vec<(TopicPartition, FetchPosition)>,
    ) -> BoxFuture<'_, Vec<(TopicPartition, Result<Fetched, Error>)>> {
        Box::pin(self.fetches.fetch(limits, positions))
    }

    fn list_offsets(
        &self,
        timeout: Duration,
        wanted: Vec<(TopicPartition, OffsetSpec)>,
    ) -> BoxFuture<'_, Vec<(TopicPartition, Result<FetchPosition, Error>)>> {
        let deadline = Instant::now() + at_most_a_year(timeout);
        let names: Vec<_> = wanted.iter().map(|(p, _)| p.clone()).collect();
        Box::pin(async move {
            let read_committed = self.fetches.read_committed;
            let listing = offsets::list(&self.leaders, read_committed, wanted, deadline);
            match self.closed.run_until_cancelled(listing).await {
                Some(answers) => answers,
                None => {
                    let refuse = |partition: TopicPartition| {
                        let error = closed("ListOffsets", &partition);
                        (partition, Err(error))
                    };
                    names.into_iter().map(refuse).collect()
                }
            }
        })
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        // The tasks are the cluster's, which waits for them when it is closed.
        Box::pin(async { self.closed.cancel() })
    }
}
