//! The [`Publish`] port: how retries, dead letters, delays and the outbox send records without
//! knowing a producer.

use crate::{Record, RecordMetadata};
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

/// A boxed future that can move between threads.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Where records go out.
///
/// The order of records within a partition is the order of the [`enqueue`](Publish::enqueue)
/// *calls*, not of the awaits: a caller enqueues many and awaits the deliveries afterwards.
pub trait Publish: Send + Sync {
    /// Hands a record over and returns at once. The delivery resolves when the record is
    /// acknowledged or given up.
    ///
    /// When the buffer is full the delivery fails at once with [`PublishErrorKind::BufferFull`] and
    /// the record was not taken; [`ready`](Publish::ready) waits for room.
    ///
    /// Dropping the delivery does not withdraw the record.
    fn enqueue(&self, record: Record) -> Delivery;

    /// Resolves when the buffer has room for a record of `size` bytes ([`Record::size`]), or with
    /// the error that `enqueue` would give for ever (closed, larger than the whole buffer).
    /// Room is not reserved: with several callers, `enqueue` may still find the buffer full.
    fn ready(&self, size: usize) -> BoxFuture<'_, Result<(), PublishError>>;

    /// Waits for room, enqueues and waits for the acknowledgement.
    ///
    /// Cancellation: once the record was enqueued, dropping the future does not withdraw it.
    fn publish(&self, record: Record) -> BoxFuture<'_, Result<RecordMetadata, PublishError>> {
        Box::pin(async move {
            loop {
                self.ready(record.size()).await?;
                match self.enqueue(record.clone()).await {
                    Err(e) if e.kind() == PublishErrorKind::BufferFull => {}
                    result => return result,
                }
            }
        })
    }
}

impl<P: Publish + ?Sized> Publish for Arc<P> {
    fn enqueue(&self, record: Record) -> Delivery {
        (**self).enqueue(record)
    }

    fn ready(&self, size: usize) -> BoxFuture<'_, Result<(), PublishError>> {
        (**self).ready(size)
    }

    fn publish(&self, record: Record) -> BoxFuture<'_, Result<RecordMetadata, PublishError>> {
        (**self).publish(record)
    }
}

/// The outcome of one record, to be awaited.
#[must_use = "a delivery says whether the record was written"]
pub struct Delivery(BoxFuture<'static, Result<RecordMetadata, PublishError>>);

impl Delivery {
    /// A delivery that resolves as `future` does.
    pub fn new(
        future: impl Future<Output = Result<RecordMetadata, PublishError>> + Send + 'static,
    ) -> Self {
        Self(Box::pin(future))
    }

    /// A delivery that has failed already.
    pub fn failed(error: PublishError) -> Self {
        Self::new(std::future::ready(Err(error)))
    }
}

impl Future for Delivery {
    type Output = Result<RecordMetadata, PublishError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.as_mut().poll(cx)
    }
}

impl fmt::Debug for Delivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Delivery")
    }
}

/// Whether a record that was not acknowledged may stand in the log all the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fate {
    /// It was certainly not written: sending it again makes no duplicate.
    NotWritten,
    /// A request with it was sent and its answer is not known: it may be written, now or later.
    MaybeWritten,
}

/// What kind of failure a [`PublishError`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum PublishErrorKind {
    /// The producer's buffer has no room now.
    BufferFull,
    /// The record is above the producer's or the broker's size limit.
    RecordTooLarge,
    /// The record itself is not acceptable: topic name, partition number, headers, timestamp.
    InvalidRecord,
    /// The topic or partition does not exist.
    UnknownTopic,
    /// The delivery deadline passed.
    TimedOut,
    /// The producer is closed, or was dropped.
    Closed,
    /// A newer producer took this one's place (transactional id or epoch).
    Fenced,
    /// The record's transaction was aborted before the record was sent.
    Aborted,
    /// Records go out in transactions, and none is open.
    NoTransaction,
    /// The caller no longer owns the partition that it publishes on behalf of.
    NotOwner,
    /// The broker refused for a reason that trying again does not change.
    Refused,
    /// The cluster cannot be reached or cannot write now.
    Unavailable,
}

/// Why a record was not acknowledged, and whether it may be written all the same.
#[derive(Debug, Clone)]
pub struct PublishError {
    kind: PublishErrorKind,
    fate: Fate,
    topic: Arc<str>,
    partition: Option<i32>,
    source: Option<Arc<dyn std::error::Error + Send + Sync>>,
}

impl PublishError {
    /// An error of `kind` for a record of `topic`.
    pub fn new(kind: PublishErrorKind, fate: Fate, topic: impl Into<Arc<str>>) -> Self {
        Self {
            kind,
            fate,
            topic: topic.into(),
            partition: None,
            source: None,
        }
    }

    /// Names the partition.
    #[must_use]
    pub fn with_partition(mut self, partition: i32) -> Self {
        self.partition = Some(partition);
        self
    }

    /// Adds the cause.
    #[must_use]
    pub fn with_source(
        mut self,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        self.source = Some(Arc::from(source.into()));
        self
    }

    /// What kind of failure it is.
    pub fn kind(&self) -> PublishErrorKind {
        self.kind
    }

    /// Whether the record may be written all the same.
    pub fn fate(&self) -> Fate {
        self.fate
    }

    /// Whether trying again later can succeed.
    pub fn is_retriable(&self) -> bool {
        matches!(
            self.kind,
            PublishErrorKind::BufferFull
                | PublishErrorKind::TimedOut
                | PublishErrorKind::Unavailable
                | PublishErrorKind::UnknownTopic
        )
    }

    /// The record's topic.
    pub fn topic(&self) -> &str {
        &self.topic
    }

    /// The record's partition, if one was chosen.
    pub fn partition(&self) -> Option<i32> {
        self.partition
    }
}

impl fmt::Display for PublishError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.kind {
            PublishErrorKind::BufferFull => "the producer's buffer is full",
            PublishErrorKind::RecordTooLarge => "the record is too large",
            PublishErrorKind::InvalidRecord => "the record is not acceptable",
            PublishErrorKind::UnknownTopic => "the topic or partition does not exist",
            PublishErrorKind::TimedOut => "the delivery deadline passed",
            PublishErrorKind::Closed => "the producer is closed",
            PublishErrorKind::Fenced => "a newer producer took over",
            PublishErrorKind::Aborted => "the transaction was aborted",
            PublishErrorKind::NoTransaction => "no transaction is open",
            PublishErrorKind::NotOwner => "the source partition is no longer owned",
            PublishErrorKind::Refused => "the broker refused the record",
            PublishErrorKind::Unavailable => "the cluster is not available",
        };
        write!(f, "topic {}", self.topic)?;
        if let Some(partition) = self.partition {
            write!(f, " partition {partition}")?;
        }
        write!(f, ": {what}")?;
        match self.fate {
            Fate::NotWritten => Ok(()),
            Fate::MaybeWritten => f.write_str(" (it may be written)"),
        }
    }
}

impl std::error::Error for PublishError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source
            .as_deref()
            .map(|e| e as &(dyn std::error::Error + 'static))
    }
}
