//! A failed attempt: the error, and what helps.

use crate::transport::codes;
use crate::{Error, ErrorKind};
use ottla_types::{ErrorCode, Fate, TopicPartition};
use std::sync::Arc;

/// What has to happen before the same call can succeed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cure {
    /// Nothing helps.
    None,
    /// Nothing more: the new leader is known.
    AtOnce,
    /// Time.
    Wait,
    /// Time, and a fresh look at who leads.
    Refresh,
}

/// Why an attempt failed. The fate in the error is that of this attempt.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) error: Error,
    pub(super) cure: Cure,
}

impl Failure {
    pub(super) fn new(error: Error) -> Self {
        let cure = match error.code() {
            Some(code) if codes::wants_new_leader(code) => Cure::Refresh,
            Some(code) if code.is_retriable() => Cure::Wait,
            Some(_) => Cure::None,
            None => match error.kind() {
                ErrorKind::Connect
                | ErrorKind::ConnectionLost
                | ErrorKind::TimedOut
                | ErrorKind::UnknownTopic => Cure::Refresh,
                _ => Cure::None,
            },
        };
        Self { error, cure }
    }
}

/// The word of a broker on an error.
#[derive(Debug, thiserror::Error)]
#[error("the broker says: {0}")]
pub(super) struct BrokerMessage(pub(super) String);

/// What became of a batch whose partition was answered with this code.
pub(super) fn fate_of(code: ErrorCode) -> Fate {
    if codes::surely_not_written(code) {
        Fate::NotWritten
    } else {
        Fate::MaybeWritten
    }
}

/// An error of a whole request, for one of its partitions.
pub(super) fn share(error: &Arc<Error>, partition: &TopicPartition) -> Error {
    let mut copy = match error.code() {
        Some(code) => Error::from_code(code, error.operation()),
        None => Error::new(error.kind(), error.operation()),
    };
    if let Some(broker) = error.broker() {
        copy = copy.with_broker(broker);
    }
    copy.with_partition(partition.clone())
        .with_fate(error.fate())
        .with_source(error.clone())
}
