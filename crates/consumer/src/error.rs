//! The one error of this crate: what failed, for which group and partition, and its cause.

use ottla_types::{ConfigError, ErrorCode, Offset, TopicPartition};
use std::fmt;
use std::sync::Arc;

/// What kind of failure an [`Error`] is. Decisions are made by the kind, never by the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// A configuration value or a registration was refused.
    Config,
    /// A topic that was subscribed to, or a partition that was named, does not exist.
    UnknownTopic,
    /// The cluster could not be asked: see the source, an [`ottla_client::Error`].
    Client,
    /// The group coordinator refused for good: see [`Error::code`].
    Coordinator,
    /// Another member with the same `group.instance.id` took over.
    Fenced,
    /// There is no committed offset, or it is out of range, and `auto.offset.reset` is `error`.
    NoOffset,
    /// Records of the partition cannot be read (corrupt, unknown codec, hidden by the transport).
    Unreadable,
    /// The partition is not owned by this member any more.
    NotOwner,
    /// The consumer is to read nothing: [`Consumer::unsubscribe`](crate::Consumer::unsubscribe) was
    /// called last.
    NotSubscribed,
    /// The deadline passed.
    TimedOut,
    /// The consumer was closed.
    Closed,
    /// The task of a member ended unexpectedly.
    MemberFailed,
    /// A member that handles exactly once has no transactional producer any more: the coordinator
    /// refused it, or another process took its `transactional.id`. The source, a
    /// [`TransactError`](ottla_types::TransactError), says which.
    Transaction,
}

/// Why a consumer failed. Cloning is cheap.
#[derive(Debug, Clone)]
pub struct Error(Arc<Inner>);

#[derive(Debug, Clone)]
struct Inner {
    kind: ErrorKind,
    group: Option<String>,
    topic: Option<String>,
    partition: Option<TopicPartition>,
    offset: Option<Offset>,
    code: Option<ErrorCode>,
    source: Option<Arc<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    /// An error of `kind`.
    pub(crate) fn new(kind: ErrorKind) -> Self {
        Self(Arc::new(Inner {
            kind,
            group: None,
            topic: None,
            partition: None,
            offset: None,
            code: None,
            source: None,
        }))
    }

    fn inner(&mut self) -> &mut Inner {
        Arc::make_mut(&mut self.0)
    }

    pub(crate) fn with_group(mut self, group: impl Into<String>) -> Self {
        self.inner().group = Some(group.into());
        self
    }

    pub(crate) fn with_topic(mut self, topic: impl Into<String>) -> Self {
        self.inner().topic = Some(topic.into());
        self
    }

    pub(crate) fn with_partition(mut self, partition: TopicPartition) -> Self {
        self.inner().partition = Some(partition);
        self
    }

    pub(crate) fn with_offset(mut self, offset: Offset) -> Self {
        self.inner().offset = Some(offset);
        self
    }

    pub(crate) fn with_code(mut self, code: ErrorCode) -> Self {
        self.inner().code = Some(code);
        self
    }

    pub(crate) fn with_source(
        mut self,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        self.inner().source = Some(source.into().into());
        self
    }

    /// Whether it is this very error.
    pub(crate) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// What kind of failure it is.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The group, if one is concerned.
    pub fn group(&self) -> Option<&str> {
        self.0.group.as_deref()
    }

    /// The topic, if one is concerned.
    pub fn topic(&self) -> Option<&str> {
        let partition = self.0.partition.as_ref().map(|p| &*p.topic);
        partition.or(self.0.topic.as_deref())
    }

    /// The partition, if one is concerned.
    pub fn partition(&self) -> Option<&TopicPartition> {
        self.0.partition.as_ref()
    }

    /// The offset, if one is concerned.
    pub fn offset(&self) -> Option<Offset> {
        self.0.offset
    }

    /// The broker's error code, if it sent one.
    pub fn code(&self) -> Option<ErrorCode> {
        self.0.code
    }

    /// Whether the same call, or a new member, can succeed later.
    pub fn is_retriable(&self) -> bool {
        match self.0.kind {
            ErrorKind::TimedOut | ErrorKind::UnknownTopic | ErrorKind::MemberFailed => true,
            ErrorKind::Client => {
                let source = self.0.source.as_deref();
                source
                    .and_then(|e| e.downcast_ref::<ottla_client::Error>())
                    .is_some_and(ottla_client::Error::is_retriable)
            }
            ErrorKind::Coordinator => self.0.code.is_some_and(ErrorCode::is_retriable),
            _ => false,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let e = &*self.0;
        if let Some(group) = &e.group {
            write!(f, "group {group}: ")?;
        }
        if let Some(partition) = &e.partition {
            write!(f, "partition {partition}: ")?;
        } else if let Some(topic) = &e.topic {
            write!(f, "topic {topic}: ")?;
        }
        if let Some(offset) = e.offset {
            write!(f, "offset {offset}: ")?;
        }
        f.write_str(match e.kind {
            ErrorKind::Config => "the configuration was refused",
            ErrorKind::UnknownTopic if e.partition.is_some() => "the partition does not exist",
            ErrorKind::UnknownTopic => "the topic does not exist",
            ErrorKind::Client => "the cluster could not be asked",
            ErrorKind::Coordinator => "the group coordinator refused",
            ErrorKind::Fenced => "another member with the same group.instance.id took over",
            ErrorKind::NoOffset => "no usable committed offset and auto.offset.reset is error",
            ErrorKind::Unreadable => "the records cannot be read",
            ErrorKind::NotOwner => "the partition is not owned by this member",
            ErrorKind::NotSubscribed => "the consumer is subscribed to nothing",
            ErrorKind::TimedOut => "the deadline passed",
            ErrorKind::Closed => "the consumer is closed",
            ErrorKind::MemberFailed => "the member's task ended unexpectedly",
            ErrorKind::Transaction => "the transactional producer cannot go on",
        })?;
        match e.code {
            Some(code) => write!(f, ": {code}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0
            .source
            .as_deref()
            .map(|e| e as &(dyn std::error::Error + 'static))
    }
}

impl From<ConfigError> for Error {
    fn from(error: ConfigError) -> Self {
        Self::new(ErrorKind::Config).with_source(error)
    }
}

impl From<ottla_client::Error> for Error {
    fn from(error: ottla_client::Error) -> Self {
        let mut wrapped = Self::new(match error.kind() {
            ottla_client::ErrorKind::UnknownTopic => ErrorKind::UnknownTopic,
            ottla_client::ErrorKind::Closed => ErrorKind::Closed,
            _ => ErrorKind::Client,
        });
        let inner = wrapped.inner();
        inner.partition = error.partition().cloned();
        inner.topic = error.topic().map(str::to_owned);
        inner.offset = error.offset();
        inner.code = error.code();
        wrapped.with_source(error)
    }
}
