//! The [`Transact`] port: records and the offsets of what they were made from, in one piece.

use crate::config::ConfigError;
use crate::coordinator::CommitOffset;
use crate::publish::{BoxFuture, Publish};
use crate::transactions::GroupMetadata;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// Where records go out in transactions: all of a transaction's records and offsets count, or none
/// ([KIP-98](https://cwiki.apache.org/confluence/display/KAFKA/KIP-98+-+Exactly+Once+Delivery+and+Transactional+Messaging)).
///
/// One transaction is open at a time. Records are handed over with [`Publish`] between
/// [`begin`](Self::begin) and the end; outside of a transaction they are refused with
/// [`PublishErrorKind::NoTransaction`](crate::PublishErrorKind::NoTransaction). A delivery that
/// resolves well says that the record is written, not that it counts: that is
/// [`commit`](Self::commit)'s word.
///
/// Cancellation: dropping one of the futures does not withdraw what it began. The same call again
/// goes on with it.
pub trait Transact: Publish {
    /// Opens a transaction. Where the end of the one before was unclear, what is left of it is
    /// settled first.
    fn begin(&self) -> BoxFuture<'_, Result<(), TransactError>>;

    /// Adds offsets of a group to the transaction: they are committed with it, if the member still
    /// belongs to its generation now.
    fn send_offsets(
        &self,
        group: GroupMetadata,
        offsets: Vec<CommitOffset>,
    ) -> BoxFuture<'_, Result<(), TransactError>>;

    /// Waits for all records that were handed over, and commits. One that failed makes the commit
    /// fail as [`TransactErrorKind::Abortable`].
    fn commit(&self) -> BoxFuture<'_, Result<(), TransactError>>;

    /// Drops what is not sent, and aborts. Also what comes after an error of the kinds
    /// [`Abortable`](TransactErrorKind::Abortable) and
    /// [`UnknownOutcome`](TransactErrorKind::UnknownOutcome). Without an open transaction it does
    /// nothing.
    fn abort(&self) -> BoxFuture<'_, Result<(), TransactError>>;
}

impl<T: Transact + ?Sized> Transact for Arc<T> {
    fn begin(&self) -> BoxFuture<'_, Result<(), TransactError>> {
        (**self).begin()
    }

    fn send_offsets(
        &self,
        group: GroupMetadata,
        offsets: Vec<CommitOffset>,
    ) -> BoxFuture<'_, Result<(), TransactError>> {
        (**self).send_offsets(group, offsets)
    }

    fn commit(&self) -> BoxFuture<'_, Result<(), TransactError>> {
        (**self).commit()
    }

    fn abort(&self) -> BoxFuture<'_, Result<(), TransactError>> {
        (**self).abort()
    }
}

/// Where transactional producers come from: a consumer's runner takes one for each of its members.
pub trait Transactions: Send + Sync {
    /// Says, without asking the cluster, whether transactions are possible at all.
    ///
    /// # Errors
    /// Names the setting that is not allowed, or the capability that is missing.
    fn check(&self) -> Result<(), ConfigError>;

    /// A producer of `transactional_id` between transactions. What another one with this id left open
    /// is aborted, and that one is fenced. The coordinator ends transactions that are open for longer
    /// than `timeout`.
    ///
    /// Cancellation: dropping the future may leave the other one fenced.
    fn open(
        &self,
        transactional_id: &str,
        timeout: Duration,
    ) -> BoxFuture<'static, Result<Arc<dyn Transact>, TransactError>>;
}

/// What kind of failure a [`TransactError`] is, and so what comes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TransactErrorKind {
    /// The transaction cannot be committed: abort it, and begin another.
    Abortable,
    /// Another producer has taken the transactional id. This one can do nothing any more, and what
    /// it had open is aborted. A Kafka 3 says the same of a transaction that it has ended because it
    /// took longer than `transaction.timeout.ms`: a new producer may go on then.
    Fenced,
    /// This producer can do nothing any more; a new one may.
    Fatal,
    /// It is not known whether the commit was carried out. Abort, which makes an end of what may be
    /// left; then ask the group for its offsets to see which of the two it was.
    UnknownOutcome,
    /// The call does not fit what the producer is doing: a second begin, a commit without one.
    InvalidState,
    /// The coordinator could not be asked, and nothing has changed: the same call may succeed
    /// later.
    Unavailable,
}

/// Why a step of a transaction failed.
#[derive(Debug, Clone)]
pub struct TransactError {
    kind: TransactErrorKind,
    transactional_id: Arc<str>,
    may_be_committed: bool,
    source: Option<Arc<dyn std::error::Error + Send + Sync>>,
}

impl TransactError {
    /// An error of `kind` for a transaction of `transactional_id`.
    pub fn new(kind: TransactErrorKind, transactional_id: impl Into<Arc<str>>) -> Self {
        Self {
            kind,
            transactional_id: transactional_id.into(),
            may_be_committed: kind == TransactErrorKind::UnknownOutcome,
            source: None,
        }
    }

    /// Says that the transaction may be committed all the same.
    #[must_use]
    pub fn maybe_committed(mut self) -> Self {
        self.may_be_committed = true;
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
    pub fn kind(&self) -> TransactErrorKind {
        self.kind
    }

    /// `transactional.id`.
    pub fn transactional_id(&self) -> &str {
        &self.transactional_id
    }

    /// Whether the transaction may be committed all the same: a commit was asked for and not
    /// answered. Where this is false, none of its records counts, now or later.
    pub fn may_be_committed(&self) -> bool {
        self.may_be_committed
    }

    /// Whether the same producer can go on, after an abort.
    pub fn is_abortable(&self) -> bool {
        matches!(
            self.kind,
            TransactErrorKind::Abortable | TransactErrorKind::UnknownOutcome
        )
    }
}

impl fmt::Display for TransactError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.kind {
            TransactErrorKind::Abortable => "the transaction must be aborted",
            TransactErrorKind::Fenced => "another producer has taken the transactional id",
            TransactErrorKind::Fatal => "the producer cannot go on",
            TransactErrorKind::UnknownOutcome => "it is not known whether the commit was done",
            TransactErrorKind::InvalidState => "the call does not fit the producer's state",
            TransactErrorKind::Unavailable => "the coordinator could not be asked",
        };
        write!(f, "transactional id {}: {what}", self.transactional_id)?;
        if self.may_be_committed && self.kind != TransactErrorKind::UnknownOutcome {
            f.write_str(" (the last transaction may be committed)")?;
        }
        Ok(())
    }
}

impl std::error::Error for TransactError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source
            .as_deref()
            .map(|e| e as &(dyn std::error::Error + 'static))
    }
}
