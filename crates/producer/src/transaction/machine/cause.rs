//! Why a step failed, as the source of a [`TransactError`](ottla_types::TransactError).

use ottla_types::{ErrorCode, PublishError};
use std::sync::Arc;

#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum Cause {
    #[error("{api} was refused: {code}")]
    Refused { api: &'static str, code: ErrorCode },
    #[error("{api} was not answered")]
    NoAnswer {
        api: &'static str,
        #[source]
        error: Arc<ottla_client::Error>,
    },
    #[error("the deadline passed")]
    TimedOut,
    #[error("a record was not written")]
    Write(#[source] PublishError),
    #[error("records have no result yet")]
    Unflushed,
    #[error("records without a result were dropped")]
    Dropped,
    #[error("the producer was closed")]
    Closed,
    #[error("the coordinator has aborted the transaction, or never had it")]
    AbortedThere,
    #[error("no transaction is open")]
    NotOpen,
    #[error("a transaction is open")]
    AlreadyOpen,
    #[error("the producer has no id yet")]
    Uninitialised,
    #[error("the producer has an id already")]
    Initialised,
    #[error("another call is under way")]
    Busy,
}
