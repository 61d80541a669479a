//! The transport seam: batches go in, record sets come out.
//!
//! Everything above this trait (producer, consumer, admin) is the same for every transport. A
//! transport says what it can do in its [`Capabilities`]; what a user asks for by name and the
//! transport cannot do is refused when the client is built, never silently weakened.

mod answers;
mod codes;
mod native;
mod rskafka;
mod watchers;

pub use self::answers::{
    Answer, AnswerSink, Answers, Outgoing, Reply, Together, answers, produce_all,
};
pub use self::native::NativeTransport;
pub use self::rskafka::{RskafkaSettings, RskafkaTransport};
pub use ottla_record_batch::Compression;

use crate::Error;
use ottla_record_batch::RecordSet;
use ottla_types::{BoxFuture, Headers, Offset, TopicPartition, at_most_a_year};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

/// Carries encoded batches to partition leaders and record sets back.
///
/// A call is for any number of partitions, on any number of brokers, and answers each partition on
/// its own: one that fails does not fail the others. Every call ends within the deadline that it is
/// given. Calls that are dropped leave the transport usable.
pub trait Transport: Send + Sync + 'static {
    /// The name that configs and the conformance table use, such as `rskafka`.
    fn name(&self) -> &'static str;

    /// What this transport can do.
    fn capabilities(&self) -> Capabilities;

    /// Hands batches over to be written and returns at once. To be called within a tokio runtime.
    ///
    /// Each batch is one attempt, which ends within `options.timeout`, and gets exactly one
    /// [`Answer`], also when the transport is closed or dropped. Order, retries and their waits are
    /// the caller's; finding the leader, heeding a broker's throttle time, and saying by the
    /// [`Fate`](ottla_types::Fate) of an error whether the batch may be written are the transport's.
    ///
    /// Batches for one partition leave in the order of the calls and of `batches`, as long as the
    /// partition's leader stays the same.
    fn produce(&self, options: &ProduceOptions, batches: Vec<Outgoing>, answers: &AnswerSink);

    /// Reads from each position. Resolves when at least one partition has records or an error, or
    /// when `limits.max_wait` has passed (then with what it knows, possibly with nothing).
    ///
    /// Partitions that have nothing to say are left out of the answer. Dropping the call, or asking
    /// again without a partition, loses nothing: the position is the caller's. A position that was
    /// made from a bare offset reads whatever stands there; one that came from a fetch or a look-up
    /// notices a log that was cut or made anew meanwhile (`Truncated`, `TopicRecreated`).
    fn fetch(
        &self,
        limits: FetchLimits,
        positions: Vec<(TopicPartition, FetchPosition)>,
    ) -> BoxFuture<'_, Vec<(TopicPartition, Result<Fetched, Error>)>>;

    /// Looks offsets up. The answers stand in the order of `wanted`, each with the epoch and the
    /// topic id that it belongs to, where the transport knows them.
    fn list_offsets(
        &self,
        timeout: Duration,
        wanted: Vec<(TopicPartition, OffsetSpec)>,
    ) -> BoxFuture<'_, Vec<(TopicPartition, Result<FetchPosition, Error>)>>;

    /// Stops background work and closes connections.
    fn close(&self) -> BoxFuture<'_, ()>;
}

/// What a transport can do. A producer or consumer takes its defaults from here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Capabilities {
    /// Idempotent produce: sequences make resends harmless (KIP-98).
    pub idempotence: bool,
    /// Transactions (KIP-98).
    pub transactions: bool,
    /// Aborted records and control batches are filtered out.
    pub read_committed: bool,
    /// `acks` other than `all`.
    pub acks: bool,
    /// Codecs that can be written and read.
    pub codecs: &'static [Compression],
    /// Incremental fetch sessions (KIP-227).
    pub fetch_sessions: bool,
    /// Header order, repeated header names and null header values are kept.
    pub header_fidelity: bool,
}

impl Capabilities {
    /// A transport that can do nothing but write and read plain batches with `acks=all`.
    pub const fn minimal() -> Self {
        Self {
            idempotence: false,
            transactions: false,
            read_committed: false,
            acks: false,
            codecs: &[Compression::None],
            fetch_sessions: false,
            header_fidelity: false,
        }
    }

    /// Whether a record with these headers and this timestamp (milliseconds) can be carried, so that
    /// a producer can refuse the record alone before it spoils a batch. A transport with
    /// `header_fidelity` carries everything.
    ///
    /// # Errors
    /// Why it cannot be carried.
    pub fn check_record(&self, headers: &Headers, timestamp_ms: i64) -> Result<(), RecordRefusal> {
        if self.header_fidelity {
            return Ok(());
        }
        if !CARRIED_TIMESTAMPS_MS.contains(&timestamp_ms) {
            return Err(RecordRefusal::TimestampOutOfRange);
        }
        RecordRefusal::of_headers(headers)
    }
}

/// The times that every transport carries: about the years -260,000 to 260,000.
pub(crate) const CARRIED_TIMESTAMPS_MS: RangeInclusive<i64> =
    -8_200_000_000_000_000..=8_200_000_000_000_000;

/// Why a transport without `header_fidelity` cannot carry a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum RecordRefusal {
    /// Two headers have the same name.
    #[error("a header name occurs more than once")]
    RepeatedHeader,
    /// A header's value is null.
    #[error("a header value is null")]
    NullHeaderValue,
    /// A header's name is not UTF-8.
    #[error("a header name is not UTF-8")]
    HeaderNameNotUtf8,
    /// The timestamp is more than about 260,000 years from now.
    #[error("the timestamp is out of range")]
    TimestampOutOfRange,
}

impl RecordRefusal {
    /// Whether a transport without `header_fidelity` can carry these headers.
    ///
    /// # Errors
    /// Why not.
    pub fn of_headers(headers: &Headers) -> Result<(), Self> {
        for (i, header) in headers.iter().enumerate() {
            if header.value.is_none() {
                return Err(Self::NullHeaderValue);
            }
            if std::str::from_utf8(&header.key).is_err() {
                return Err(Self::HeaderNameNotUtf8);
            }
            if headers.iter().take(i).any(|other| other.key == header.key) {
                return Err(Self::RepeatedHeader);
            }
        }
        Ok(())
    }
}

/// `acks`: who must have a batch before it counts as written.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, Default, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Acks {
    /// Nobody; the broker does not answer.
    None,
    /// The leader.
    Leader,
    /// All in-sync replicas.
    #[default]
    All,
}

/// How a [`Transport::produce`] call is carried out.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ProduceOptions {
    /// Who must have the batch.
    pub acks: Acks,
    /// The codec that the batch is sent with.
    pub compression: Compression,
    /// The time limit of the attempt, counted from the call. A transport may end it earlier, by its
    /// own time limit for one request.
    pub timeout: Duration,
    /// The transactional id, for batches of a transaction (KIP-98).
    pub transactional_id: Option<Arc<str>>,
    /// The cluster has transaction version 2 (KIP-890): a batch takes its partition into the
    /// transaction. Without it a transactional request has Produce version 11 at most, which makes
    /// the broker check that the partition is in.
    pub transaction_version_2: bool,
}

/// How much a [`Transport::fetch`] call may bring, and how long it may wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FetchLimits {
    /// `fetch.max.wait.ms`: how long a broker waits for records.
    pub max_wait: Duration,
    /// `fetch.min.bytes`.
    pub min_bytes: u32,
    /// `max.partition.fetch.bytes`; a single larger batch is returned all the same.
    pub max_partition_bytes: u32,
    /// `fetch.max.bytes`: the bound on the answer of one broker.
    pub max_bytes: u32,
    /// How much may wait here, over all partitions, that was fetched before it was asked for; 0 for
    /// a caller that wants nothing in advance.
    pub read_ahead_bytes: u32,
}

impl FetchLimits {
    /// The same with a wait that an instant can tell the end of.
    pub(crate) fn bounded(self) -> Self {
        Self {
            max_wait: at_most_a_year(self.max_wait),
            ..self
        }
    }
}

/// A batch that was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Produced {
    /// The first record's offset; `None` where the broker does not tell it.
    pub base_offset: Option<Offset>,
    /// The time of the append, in milliseconds, if the topic uses `LogAppendTime`.
    pub log_append_time_ms: Option<i64>,
}

/// Where a reader stands in a partition: an offset, and which log it was an offset of.
///
/// ```
/// use ottla_client::transport::FetchPosition;
///
/// let somewhere = FetchPosition::from(42);
/// assert_eq!((somewhere.offset, somewhere.leader_epoch), (42, None));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FetchPosition {
    /// The offset of the next record.
    pub offset: Offset,
    /// The leader epoch of the record before it, by which a log that was cut since then is noticed
    /// (KIP-320). `None` if it is not known, and then nothing is noticed.
    pub leader_epoch: Option<i32>,
    /// The topic's id (KIP-516), by which a topic that was deleted and created again is noticed.
    pub topic_id: Option<[u8; 16]>,
}

impl From<Offset> for FetchPosition {
    /// The offset alone, in whatever log stands there.
    fn from(offset: Offset) -> Self {
        Self {
            offset,
            leader_epoch: None,
            topic_id: None,
        }
    }
}

/// What a fetch brought for one partition.
#[derive(Debug, Clone)]
pub struct Fetched {
    /// The records, lazily decoded; may start below the position that was asked (skip those).
    pub records: RecordSet,
    /// Where to read on: above every record in `records` and every batch that holds none.
    pub next_offset: Offset,
    /// The leader epoch of the last batch below `next_offset`, if the transport knows it.
    pub leader_epoch: Option<i32>,
    /// The id of the topic that was read, if the transport knows it.
    pub topic_id: Option<[u8; 16]>,
    /// The first offset that is not yet replicated.
    pub high_watermark: Offset,
    /// The first offset of an open transaction, if the transport knows it.
    pub last_stable_offset: Option<Offset>,
    /// The first offset that is still there, if the transport knows it.
    pub log_start_offset: Option<Offset>,
}

impl Fetched {
    /// Where to read on.
    pub fn next_position(&self) -> FetchPosition {
        FetchPosition {
            offset: self.next_offset,
            leader_epoch: self.leader_epoch,
            topic_id: self.topic_id,
        }
    }
}

/// Which offset [`Transport::list_offsets`] looks up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum OffsetSpec {
    /// The first record that is still there.
    Earliest,
    /// The next record to be written.
    Latest,
    /// The first record at or after this time (ms since the epoch); the end if there is none.
    Timestamp(i64),
}
