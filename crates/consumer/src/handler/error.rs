//! Why a handler failed, in the terms that a retry policy decides by.

use std::borrow::Cow;
use std::fmt;

/// What can be done about a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Failure {
    /// Another attempt may succeed.
    Transient,
    /// The record can never be handled (it does not decode, a rule rejects it): no retry.
    Permanent,
    /// Something that every record needs is down: trying other records is useless too.
    Outage,
}

/// Why a record was not handled.
#[derive(Debug)]
pub struct HandlerError {
    failure: Failure,
    class: Cow<'static, str>,
    message: String,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl HandlerError {
    /// A failure of kind `failure`. `class` is a short stable name that policies and dead letters
    /// are sorted by, such as `PaymentDeclined`.
    pub fn new(
        failure: Failure,
        class: impl Into<Cow<'static, str>>,
        message: impl Into<String>,
    ) -> Self {
        Self {
            failure,
            class: class.into(),
            message: message.into(),
            source: None,
        }
    }

    /// Another attempt may succeed.
    pub fn transient(class: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Self {
        Self::new(Failure::Transient, class, message)
    }

    /// The record can never be handled.
    pub fn permanent(class: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Self {
        Self::new(Failure::Permanent, class, message)
    }

    /// Something that every record needs is down.
    pub fn outage(class: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Self {
        Self::new(Failure::Outage, class, message)
    }

    /// Adds the cause.
    #[must_use]
    pub fn with_source(
        mut self,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        self.source = Some(source.into());
        self
    }

    /// What can be done about it.
    pub fn failure(&self) -> Failure {
        self.failure
    }

    /// The short stable name of the error.
    pub fn class(&self) -> &str {
        &self.class
    }

    /// The text of the error.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// Whether another attempt may succeed.
    pub fn is_retriable(&self) -> bool {
        self.failure != Failure::Permanent
    }
}

impl fmt::Display for HandlerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.class, self.message)
    }
}

impl std::error::Error for HandlerError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source
            .as_deref()
            .map(|e| e as &(dyn std::error::Error + 'static))
    }
}
