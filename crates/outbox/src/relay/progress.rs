//! What others can see of a running relay.

use ottla_store::OutboxCounts;
use ottla_types::with_causes;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// What a relay is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum RelayRole {
    /// Another relay holds the lease, or the store does not answer.
    #[default]
    Standby,
    /// It holds the lease and publishes.
    Active,
    /// It finishes what is in flight.
    Stopping,
    /// It has ended.
    Stopped,
}

/// How an outbox and its relay are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RelayStatus {
    /// What this relay is doing.
    pub role: RelayRole,
    /// Rows in each state, whoever published them.
    pub counts: OutboxCounts,
    /// How long the oldest pending row has waited.
    pub oldest_age: Option<Duration>,
    /// Rows that this relay has published and marked since it started.
    pub published: u64,
    /// Sends by this relay that failed and are tried again.
    pub retried: u64,
    /// Rows that this relay has parked.
    pub parked: u64,
    /// The last error that it met, of the store or the producer.
    pub last_error: Option<String>,
}

/// The relay's own part of the status.
#[derive(Debug, Clone, Default)]
pub(super) struct Tally {
    pub(super) role: RelayRole,
    pub(super) published: u64,
    pub(super) retried: u64,
    pub(super) parked: u64,
    pub(super) last_error: Option<String>,
}

/// The tally, shared between the relay's task and its handle.
#[derive(Debug, Default)]
pub(super) struct Progress(Mutex<Tally>);

impl Progress {
    fn lock(&self) -> MutexGuard<'_, Tally> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn tally(&self) -> Tally {
        self.lock().clone()
    }

    pub(super) fn set_role(&self, role: RelayRole) {
        self.lock().role = role;
    }

    pub(super) fn published(&self, rows: u64) {
        self.lock().published += rows;
        metrics::counter!("ottla_outbox_published_total").increment(rows);
    }

    pub(super) fn retried(&self, error: &dyn std::error::Error) {
        metrics::counter!("ottla_outbox_retried_total").increment(1);
        let mut tally = self.lock();
        tally.retried += 1;
        tally.last_error = Some(with_causes(error));
    }

    pub(super) fn parked(&self) {
        self.lock().parked += 1;
        metrics::counter!("ottla_outbox_parked_total").increment(1);
    }

    pub(super) fn store_failed(&self, error: &dyn std::error::Error) {
        metrics::counter!("ottla_outbox_store_errors_total").increment(1);
        self.lock().last_error = Some(with_causes(error));
    }

    pub(super) fn counted(counts: &OutboxCounts, now_ms: i64) {
        metrics::gauge!("ottla_outbox_backlog").set(counts.pending as f64);
        metrics::gauge!("ottla_outbox_parked").set(counts.parked as f64);
        let age = oldest_age(counts, now_ms).unwrap_or_default();
        metrics::gauge!("ottla_outbox_oldest_age_seconds").set(age.as_secs_f64());
    }
}

pub(super) fn oldest_age(counts: &OutboxCounts, now_ms: i64) -> Option<Duration> {
    let since_ms = counts.oldest_pending_ms?;
    let age_ms = u64::try_from(now_ms.saturating_sub(since_ms)).unwrap_or(0);
    Some(Duration::from_millis(age_ms))
}
