//! [`Work`]: the handler of a registration, in the form that lanes call it.

use crate::handler::{BoxBatchHandler, BoxHandler};
use std::time::Duration;

/// How records reach the handler.
#[derive(Debug, Clone)]
pub(crate) enum Work {
    /// One at a time.
    Each(BoxHandler),
    /// Up to so many records, or what came within the time.
    Batch {
        handler: BoxBatchHandler,
        max_records: usize,
        max_wait: Duration,
    },
}

impl Work {
    /// How many records may be with the handler at once.
    pub(crate) fn in_flight_max(&self) -> usize {
        match self {
            Self::Each(_) => 1,
            Self::Batch { max_records, .. } => *max_records,
        }
    }
}
