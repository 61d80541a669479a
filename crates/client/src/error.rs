//! The one error of this crate: what failed, where, and what may be done about it.

use ottla_types::{ConfigError, ErrorCode, Fate, Offset, TopicPartition};
use std::fmt;

/// What kind of failure an [`Error`] is. Decisions are made by the kind, never by the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// A configuration value was refused.
    Config,
    /// No broker could be reached: wrong address, refused, or no answer within the connect timeout.
    Connect,
    /// The connection was lost while a request was on it.
    ConnectionLost,
    /// The deadline of the call passed.
    TimedOut,
    /// The broker sent bytes that the protocol does not allow; the connection was closed.
    Protocol,
    /// The broker or the transport cannot do what was asked for.
    Unsupported,
    /// The topic or partition does not exist.
    UnknownTopic,
    /// The position is below the first or above the last offset.
    OffsetOutOfRange,
    /// The log was cut below the position (an unclean leader election): records that were read are
    /// not in it any more. [`Error::diverging_offset`] says where the logs part, if the broker does.
    Truncated,
    /// The topic was deleted and created again: the position belongs to a log that is gone.
    TopicRecreated,
    /// Records below the high watermark were not shown and the transport cannot tell where to read
    /// on (compacted, aborted or control batches that rskafka hides).
    Gap,
    /// The batch is above the broker's size limit.
    RecordTooLarge,
    /// A record cannot be carried by this transport as it is.
    InvalidRecord,
    /// The topic can lose what was acknowledged, and `durability.check` is `refuse`: the source is
    /// the [`DurabilityReport`](crate::admin::DurabilityReport).
    NotDurable,
    /// The principal may not do this.
    Authorization,
    /// The broker answered with another error code: see [`Error::code`].
    Broker,
    /// The client was closed.
    Closed,
}

/// Why a call failed.
#[derive(Debug)]
pub struct Error(Box<Inner>);

#[derive(Debug)]
struct Inner {
    kind: ErrorKind,
    operation: &'static str,
    broker: Option<String>,
    partition: Option<TopicPartition>,
    topic: Option<String>,
    group: Option<String>,
    offset: Option<Offset>,
    diverging: Option<Offset>,
    code: Option<ErrorCode>,
    fate: Fate,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    /// An error of `kind` in `operation` (the API's name, such as `Produce`).
    pub fn new(kind: ErrorKind, operation: &'static str) -> Self {
        Self(Box::new(Inner {
            kind,
            operation,
            broker: None,
            partition: None,
            topic: None,
            group: None,
            offset: None,
            diverging: None,
            code: None,
            fate: Fate::NotWritten,
            source: None,
        }))
    }

    /// The error for `code`, of the kind that fits it.
    pub fn from_code(code: ErrorCode, operation: &'static str) -> Self {
        let kind = match code {
            ErrorCode::UNKNOWN_TOPIC_OR_PARTITION | ErrorCode::UNKNOWN_TOPIC_ID => {
                ErrorKind::UnknownTopic
            }
            ErrorCode::OFFSET_OUT_OF_RANGE => ErrorKind::OffsetOutOfRange,
            ErrorCode::MESSAGE_TOO_LARGE | ErrorCode::RECORD_LIST_TOO_LARGE => {
                ErrorKind::RecordTooLarge
            }
            ErrorCode::TOPIC_AUTHORIZATION_FAILED
            | ErrorCode::GROUP_AUTHORIZATION_FAILED
            | ErrorCode::CLUSTER_AUTHORIZATION_FAILED
            | ErrorCode::TRANSACTIONAL_ID_AUTHORIZATION_FAILED
            | ErrorCode::SASL_AUTHENTICATION_FAILED => ErrorKind::Authorization,
            ErrorCode::UNSUPPORTED_VERSION | ErrorCode::UNSUPPORTED_COMPRESSION_TYPE => {
                ErrorKind::Unsupported
            }
            _ => ErrorKind::Broker,
        };
        let mut error = Self::new(kind, operation);
        error.0.code = Some(code);
        error
    }

    /// Names the broker, as `host:port` or `id (host:port)`.
    #[must_use]
    pub fn with_broker(mut self, broker: impl Into<String>) -> Self {
        self.0.broker = Some(broker.into());
        self
    }

    /// Names the partition.
    #[must_use]
    pub fn with_partition(mut self, partition: TopicPartition) -> Self {
        self.0.partition = Some(partition);
        self
    }

    /// Names the topic, where no partition is concerned.
    #[must_use]
    pub fn with_topic(mut self, topic: impl Into<String>) -> Self {
        self.0.topic = Some(topic.into());
        self
    }

    /// Names the consumer group.
    #[must_use]
    pub fn with_group(mut self, group: impl Into<String>) -> Self {
        self.0.group = Some(group.into());
        self
    }

    /// Names the offset.
    #[must_use]
    pub fn with_offset(mut self, offset: Offset) -> Self {
        self.0.offset = Some(offset);
        self
    }

    /// Names the first offset at which the log differs from what was read.
    #[must_use]
    pub fn with_diverging_offset(mut self, offset: Offset) -> Self {
        self.0.diverging = Some(offset);
        self
    }

    /// Says whether the data of the call may be written all the same.
    #[must_use]
    pub fn with_fate(mut self, fate: Fate) -> Self {
        self.0.fate = fate;
        self
    }

    /// Adds the cause.
    #[must_use]
    pub fn with_source(
        mut self,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// What kind of failure it is.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The API's name, such as `Produce`.
    pub fn operation(&self) -> &'static str {
        self.0.operation
    }

    /// The broker's error code, if it sent one.
    pub fn code(&self) -> Option<ErrorCode> {
        self.0.code
    }

    /// The partition, if one is concerned.
    pub fn partition(&self) -> Option<&TopicPartition> {
        self.0.partition.as_ref()
    }

    /// The topic, if one is concerned.
    pub fn topic(&self) -> Option<&str> {
        self.0
            .partition
            .as_ref()
            .map(|p| &*p.topic)
            .or(self.0.topic.as_deref())
    }

    /// The consumer group, if a call of administration is about one.
    pub fn group(&self) -> Option<&str> {
        self.0.group.as_deref()
    }

    /// The offset, if one is concerned.
    pub fn offset(&self) -> Option<Offset> {
        self.0.offset
    }

    /// The first offset at which the log differs from what was read, of an error of kind
    /// `Truncated`: everything below is still as it was.
    pub fn diverging_offset(&self) -> Option<Offset> {
        self.0.diverging
    }

    /// The broker, if one is concerned.
    pub fn broker(&self) -> Option<&str> {
        self.0.broker.as_deref()
    }

    /// Whether the data of a produce may be written, or the change be carried out, all the same.
    pub fn fate(&self) -> Fate {
        self.0.fate
    }

    /// Whether the same call can succeed later.
    pub fn is_retriable(&self) -> bool {
        match self.0.kind {
            ErrorKind::Connect
            | ErrorKind::ConnectionLost
            | ErrorKind::TimedOut
            | ErrorKind::UnknownTopic => true,
            ErrorKind::Broker => self.0.code.is_some_and(ErrorCode::is_retriable),
            _ => false,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let e = &*self.0;
        write!(f, "{}", e.operation)?;
        if let Some(broker) = &e.broker {
            write!(f, " at broker {broker}")?;
        }
        if let Some(group) = &e.group {
            write!(f, " for group {group}")?;
        }
        if let Some(partition) = &e.partition {
            write!(f, " for partition {partition}")?;
        } else if let Some(topic) = &e.topic {
            write!(f, " for topic {topic}")?;
        }
        if let Some(offset) = e.offset {
            write!(f, " at offset {offset}")?;
        }
        if let Some(offset) = e.diverging {
            write!(f, ", diverging from {offset}")?;
        }
        let what = match e.kind {
            ErrorKind::Config => "the configuration was refused",
            ErrorKind::Connect => "no broker could be reached",
            ErrorKind::ConnectionLost => "the connection was lost",
            ErrorKind::TimedOut => "the deadline passed",
            ErrorKind::Protocol => "the answer does not follow the protocol",
            ErrorKind::Unsupported => "not supported",
            ErrorKind::UnknownTopic => "the topic or partition does not exist",
            ErrorKind::OffsetOutOfRange => "the offset is out of range",
            ErrorKind::Truncated => "the log was truncated below what was read",
            ErrorKind::TopicRecreated => "the topic was deleted and created again",
            ErrorKind::Gap => "records below the high watermark were hidden by the transport",
            ErrorKind::RecordTooLarge => "the batch is larger than the broker allows",
            ErrorKind::InvalidRecord => "the record cannot be carried by this transport",
            ErrorKind::NotDurable => "the topic can lose data",
            ErrorKind::Authorization => "not authorized",
            ErrorKind::Broker => "the broker answered with an error",
            ErrorKind::Closed => "the client is closed",
        };
        write!(f, ": {what}")?;
        if let Some(code) = e.code {
            write!(f, ": {code}")?;
        }
        if e.fate == Fate::MaybeWritten {
            f.write_str(" (the data may be written)")?;
        }
        Ok(())
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
        Self::new(ErrorKind::Config, "configuration").with_source(error)
    }
}
