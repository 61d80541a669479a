//! The transport over the `rskafka` crate.
//!
//! rskafka carries records, not batches, and leaves much to its caller. This adapter owns what is
//! missing: every call has a time limit, retries are made here and end (rskafka's own are switched
//! off by a zero back-off deadline), a connection that failed is dropped and the leader is looked up
//! anew, and where rskafka cannot tell what happened the answer is a typed error.
//!
//! `cluster` has the connections and the retry loop, `failure` judges errors, `polls` keeps the long
//! polls in flight, `fetch` and `produce` make the calls, `convert` translates records.

mod cluster;
mod convert;
mod failure;
mod fetch;
mod polls;
mod produce;

use super::{
    AnswerSink, Capabilities, Compression, FetchLimits, FetchPosition, Fetched, OffsetSpec,
    Outgoing, ProduceOptions, Transport,
};
use crate::{ClientConfig, Error, ErrorKind};
use ::rskafka::chrono::DateTime;
use ::rskafka::client::partition::OffsetAt;
use cluster::{Call, Cluster, Purpose};
use futures_util::future::join_all;
use ottla_types::{BoxFuture, Offset, TopicPartition, at_most_a_year};
use polls::Polls;
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;

/// What an [`RskafkaTransport`] needs to know; see [`ClientConfig`] for the meaning and the bounds.
#[derive(Debug, Clone)]
pub struct RskafkaSettings {
    /// Where to ask first, as `host:port`.
    pub bootstrap: Vec<String>,
    /// The client's name in requests.
    pub client_id: String,
    /// The limit for opening one connection and finding a leader.
    pub connect_timeout: Duration,
    /// The limit for one request, on top of the time that the broker is asked to wait.
    pub request_timeout: Duration,
    /// The bound of the first wait between attempts.
    pub retry_backoff: Duration,
    /// The bound that the waits grow to.
    pub retry_backoff_max: Duration,
    /// A larger answer is refused.
    pub max_response_bytes: usize,
}

impl From<&ClientConfig> for RskafkaSettings {
    fn from(config: &ClientConfig) -> Self {
        Self {
            bootstrap: config.bootstrap.clone(),
            client_id: config.client_id.clone(),
            connect_timeout: config.connect_timeout,
            request_timeout: config.request_timeout,
            retry_backoff: config.retry_backoff,
            retry_backoff_max: config.retry_backoff_max,
            max_response_bytes: config.max_response_bytes,
        }
    }
}

/// A [`Transport`] over the rskafka crate. Dropping it stops its background work.
///
/// # Connections
/// A partition that is written to has one connection, a partition that is read has another, so that
/// a long poll never delays a write: brokers answer the requests of a connection one after the
/// other. Two readers of one partition at different positions have a connection each. A connection
/// that was not used for a minute is closed. At most 64 are opened at the same time.
///
/// # What cannot be mended from outside
/// - Under a produce quota rskafka looks at the throttle time before it looks at the result, and
///   sends again: a batch may be written several times, until the call's time limit ends it.
/// - There is no idempotence: a batch whose answer was lost is sent again by this adapter and may
///   then stand in the log twice. When all attempts fail the error says so by its
///   [`Fate`](ottla_types::Fate).
/// - Headers are a sorted map: their order is lost. Records with a repeated header name, a null
///   header value or a name that is not UTF-8 are refused ([`Capabilities::check_record`] lets a
///   producer refuse the record alone).
/// - A batch with a null header value, a control batch (the end of a transaction), lz4 and zstd
///   cannot be read: [`ErrorKind::Unsupported`] with the offset. Records of aborted transactions are
///   shown.
/// - The time of the broker (`LogAppendTime`) is not seen: records carry the producer's time.
/// - Batches that hold no record for the reader (compacted away) give [`ErrorKind::Gap`] with the
///   offset, because rskafka does not say where they end.
/// - It is used without TLS and SASL, and refused with either. rskafka's TLS pins a library with C;
///   its SASL hashes as often as a server asks, does not renew sessions (KIP-368), and its errors do
///   not tell refused credentials from a lost connection.
/// - Looking a leader up asks the broker to create a topic that is missing, if the cluster allows.
/// - The latest offset is the end of the last finished transaction (read committed).
pub struct RskafkaTransport {
    cluster: Arc<Cluster>,
    polls: Polls,
    /// The batches on their way; a transport that is dropped aborts them.
    writes: Mutex<JoinSet<()>>,
}

impl fmt::Debug for RskafkaTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RskafkaTransport")
            .field("bootstrap", &self.cluster.settings.bootstrap)
            .finish_non_exhaustive()
    }
}

const CAPABILITIES: Capabilities = Capabilities {
    codecs: &[Compression::None, Compression::Gzip, Compression::Snappy],
    ..Capabilities::minimal()
};

impl RskafkaTransport {
    /// Connects to the first of the addresses that answers, and learns the other brokers from it.
    /// Tries again, with backoff, until `deadline`. Cancelling leaves nothing behind.
    ///
    /// # Errors
    /// [`ErrorKind::Connect`] at `deadline`, with the last cause.
    pub async fn connect(settings: RskafkaSettings, deadline: Instant) -> Result<Self, Error> {
        let cluster = Arc::new(Cluster::connect(settings, deadline).await?);
        Ok(Self {
            polls: Polls::new(cluster.clone()),
            cluster,
            writes: Mutex::default(),
        })
    }

    async fn offset(
        &self,
        partition: &TopicPartition,
        spec: OffsetSpec,
        deadline: Instant,
    ) -> Result<Offset, Error> {
        let at = match spec {
            OffsetSpec::Earliest => OffsetAt::Earliest,
            OffsetSpec::Latest => OffsetAt::Latest,
            // Below zero the protocol's number means something else.
            OffsetSpec::Timestamp(ms) => DateTime::from_timestamp_millis(ms.max(0))
                .map(OffsetAt::Timestamp)
                // A time that chrono cannot express is after every record.
                .unwrap_or(OffsetAt::Latest),
        };
        let call = Call {
            name: LIST_OFFSETS,
            partition,
            purpose: Purpose::Read,
            attempt: self.cluster.settings.request_timeout,
            give_up: deadline,
            deadline,
        };
        let found = self
            .cluster
            .run(call, |client| async move {
                match client.get_offset(at).await? {
                    -1 => client.get_offset(OffsetAt::Latest).await,
                    offset => Ok(offset),
                }
            })
            .await;
        found.map_err(|failure| failure.into_error(LIST_OFFSETS, partition))
    }
}

const LIST_OFFSETS: &str = "ListOffsets";

impl Transport for RskafkaTransport {
    fn name(&self) -> &'static str {
        "rskafka"
    }

    fn capabilities(&self) -> Capabilities {
        CAPABILITIES
    }

    fn produce(&self, options: &ProduceOptions, batches: Vec<Outgoing>, answers: &AnswerSink) {
        let deadline = Instant::now() + at_most_a_year(options.timeout);
        let mut writes = cluster::lock(&self.writes);
        while let Some(ended) = writes.try_join_next() {
            report(ended);
        }
        for outgoing in batches {
            let (cluster, options) = (self.cluster.clone(), options.clone());
            let mut reply = answers.reply(outgoing.token, outgoing.partition.clone());
            writes.spawn(async move {
                reply.sent();
                let Outgoing {
                    partition, batch, ..
                } = outgoing;
                let written = produce::produce(&cluster, &options, &partition, &batch, deadline);
                reply.send(written.await);
            });
        }
    }

    fn fetch(
        &self,
        limits: FetchLimits,
        positions: Vec<(TopicPartition, FetchPosition)>,
    ) -> BoxFuture<'_, Vec<(TopicPartition, Result<Fetched, Error>)>> {
        let positions = positions.into_iter();
        let positions = positions.map(|(partition, position)| (partition, position.offset));
        Box::pin(self.polls.fetch(limits, positions.collect()))
    }

    fn list_offsets(
        &self,
        timeout: Duration,
        wanted: Vec<(TopicPartition, OffsetSpec)>,
    ) -> BoxFuture<'_, Vec<(TopicPartition, Result<FetchPosition, Error>)>> {
        let deadline = Instant::now() + at_most_a_year(timeout);
        Box::pin(join_all(wanted.into_iter().map(
            move |(partition, spec)| {
                Box::pin(async move {
                    let result = self.offset(&partition, spec, deadline).await;
                    (partition, result.map(FetchPosition::from))
                })
            },
        )))
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            self.cluster.close();
            self.polls.close().await;
            let mut writes = std::mem::take(&mut *cluster::lock(&self.writes));
            while let Some(ended) = writes.join_next().await {
                report(ended);
            }
        })
    }
}

fn report(ended: Result<(), JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        tracing::error!(%error, "a write panicked");
    }
}

/// The error of a call on a transport that was closed.
fn closed(operation: &'static str, partition: &TopicPartition) -> Error {
    Error::new(ErrorKind::Closed, operation).with_partition(partition.clone())
}
