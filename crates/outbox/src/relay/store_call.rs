//! The relay's calls to the store, one at a time: a page that is read while rows are being marked
//! could bring back rows that have just left the window, and they would be sent again.

use super::worker::Worker;
use ottla_store::{Lease, OutboxCounts, OutboxId, OutboxRow, StoreError};
use ottla_types::BoxFuture;

/// What the leader wants of the store.
#[derive(Debug)]
pub(super) enum Call {
    Renew,
    Read {
        after: Option<OutboxId>,
        limit: usize,
    },
    Mark(Vec<OutboxId>),
    Park(OutboxId, String),
    Count,
    Purge {
        before_ms: i64,
        limit: usize,
    },
}

/// The store's answer.
pub(super) enum Answer {
    Renewed(Option<Lease>),
    Read {
        rows: Vec<OutboxRow>,
        limit: usize,
    },
    Marked(Vec<OutboxId>),
    Parked(OutboxId),
    Counted(OutboxCounts),
    Purged {
        /// There may be more.
        is_full: bool,
    },
}

impl Call {
    /// Starts the call. Its answer comes with the name of the call, for the log.
    pub(super) fn start(
        self,
        worker: &Worker,
        lease: &Lease,
    ) -> BoxFuture<'static, (&'static str, Result<Answer, StoreError>)> {
        let store = worker.relay.store.clone();
        let now_ms = worker.relay.clock.now_ms();
        let lease_ms = worker.lease_ms();
        let lease = lease.clone();
        Box::pin(async move {
            match self {
                Self::Renew => {
                    let answer = store.acquire(&lease.owner, now_ms, lease_ms).await;
                    ("renew", answer.map(Answer::Renewed))
                }
                Self::Read { after, limit } => {
                    let answer = store.pending(after, limit).await;
                    ("read", answer.map(|rows| Answer::Read { rows, limit }))
                }
                Self::Mark(ids) => {
                    let answer = store.mark_sent(&lease, now_ms, &ids).await;
                    ("mark", answer.map(|()| Answer::Marked(ids)))
                }
                Self::Park(id, error) => {
                    let answer = store.park(&lease, now_ms, id, &error).await;
                    ("park", answer.map(|()| Answer::Parked(id)))
                }
                Self::Count => ("count", store.counts().await.map(Answer::Counted)),
                Self::Purge { before_ms, limit } => {
                    let answer = store.purge_sent(before_ms, limit).await;
                    let is_full = |removed| removed >= limit as u64;
                    let answer = answer.map(|removed| Answer::Purged {
                        is_full: is_full(removed),
                    });
                    ("purge", answer)
                }
            }
        })
    }
}
