//! What can go wrong in a measurement.

use crate::harness::HarnessError;
use std::time::Duration;

/// Why a measurement, or one contender's run, failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BenchError {
    /// The broker or a process of the harness.
    #[error("harness")]
    Harness(#[from] HarnessError),
    /// Our own client, which makes topics and counts records for all contenders.
    #[error("client")]
    Client(#[from] ottla::client::Error),
    /// Files, pipes or `/proc`.
    #[error("{doing}")]
    Io {
        /// What was being done.
        doing: String,
        /// Why it failed.
        source: std::io::Error,
    },
    /// A contender's process ended without a result, or badly.
    #[error("{contender} ended: {status}\n{tail}")]
    Ended {
        /// Whose process.
        contender: String,
        /// How.
        status: String,
        /// The end of its standard error.
        tail: String,
    },
    /// A contender's process took too long.
    #[error("{contender} had no result within {} s\n{tail}", within.as_secs())]
    TimedOut {
        /// Whose process.
        contender: String,
        /// The limit.
        within: Duration,
        /// The end of its standard error.
        tail: String,
    },
    /// A contender did something other than what it was asked for.
    #[error("{contender}: {problem}")]
    Wrong {
        /// Whose process.
        contender: String,
        /// What it did.
        problem: String,
    },
    /// No such contender, or a value that is not allowed.
    #[error("{0}")]
    Usage(String),
}

impl BenchError {
    pub(crate) fn io(doing: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let doing = doing.into();
        move |source| Self::Io { doing, source }
    }

    /// The message and its causes in one line of text.
    pub fn chain(&self) -> String {
        ottla::types::with_causes(self)
    }
}
