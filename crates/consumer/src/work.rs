//! [`Work`]: the handler of a registration, in the form that lanes call it.

use crate::handler::{BoxBatchHandler, BoxHandler};
use crate::lane::Desk;
use std::sync::Arc;
use std::time::Duration;

/// Records of a partition that are looked at for one call in progress.
const WINDOW: usize = 16;
const WINDOW_MIN: usize = 256;

/// How records reach the handler.
#[derive(Debug, Clone)]
pub(crate) enum Work {
    /// One record a call.
    Each {
        handler: BoxHandler,
        /// Calls for one partition at a time. Above 1, records of the same key are handled in order.
        concurrency: usize,
    },
    /// Up to so many records, or what came within the time.
    Batch {
        handler: BoxBatchHandler,
        max_records: usize,
        max_wait: Duration,
    },
    /// A plain consumer's caller takes them.
    Pull(Arc<Desk>),
}

impl Work {
    /// Where a plain consumer's caller takes its records.
    pub(crate) fn desk(&self) -> Option<&Arc<Desk>> {
        match self {
            Self::Pull(desk) => Some(desk),
            _ => None,
        }
    }

    /// How many records may be with the handler at once.
    pub(crate) fn in_flight_max(&self) -> usize {
        match self {
            Self::Each { concurrency: 1, .. } => 1,
            // So many that enough keys are among them.
            Self::Each { concurrency, .. } => (concurrency * WINDOW).max(WINDOW_MIN),
            Self::Batch { max_records, .. } => *max_records,
            Self::Pull(_) => 1,
        }
    }
}
