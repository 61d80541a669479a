//! Why a relay ended by itself.

use ottla_types::PublishError;

/// Why a relay ended without being stopped. A database or cluster that is away is no reason: the
/// relay waits for it.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum RelayError {
    /// The producer was closed or fenced: nothing can be published through it any more.
    #[error("the relay's producer is closed")]
    ProducerClosed(#[source] PublishError),
    /// The relay's task panicked.
    #[error("the relay's task panicked")]
    Panicked,
}

impl RelayError {
    /// Whether starting the same relay again can succeed.
    pub fn is_retriable(&self) -> bool {
        matches!(self, Self::Panicked)
    }
}
