//! The question for the producer's id, asked again with back-off until it is answered.

use crate::cluster::Cluster;
use crate::shared::{Shared, now};
use ottla_client::{Backoff, Error, ErrorKind};
use ottla_types::ProducerId;
use std::sync::Arc;
use std::time::Instant;
use tokio::task::{JoinError, JoinSet};

pub(super) type IdAnswer = Result<Result<ProducerId, Error>, JoinError>;

pub(super) struct Identity {
    cluster: Arc<dyn Cluster>,
    backoff: Backoff,
    /// Not asked for before.
    not_before: Option<Instant>,
    /// One task at most.
    question: JoinSet<Result<ProducerId, Error>>,
}

impl Identity {
    pub(super) fn new(cluster: Arc<dyn Cluster>, backoff: Backoff) -> Self {
        Self {
            cluster,
            backoff,
            not_before: None,
            question: JoinSet::new(),
        }
    }

    /// Asks, unless that is under way or it is too early. Returns when to call again.
    pub(super) fn ask(&mut self, now: Instant) -> Option<Instant> {
        if !self.question.is_empty() {
            return None;
        }
        if let Some(at) = self.not_before.filter(|at| *at > now) {
            return Some(at);
        }
        self.question.spawn(self.cluster.producer_id());
        None
    }

    /// The next answer; nothing while no question is open.
    pub(super) async fn next_answer(&mut self) -> Option<IdAnswer> {
        self.question.join_next().await
    }

    pub(super) fn apply(&mut self, shared: &Shared, answer: IdAnswer) {
        let answer = answer.unwrap_or_else(|panic| {
            Err(Error::new(ErrorKind::ConnectionLost, "InitProducerId").with_source(panic))
        });
        match answer {
            Ok(producer) => {
                self.backoff.reset();
                self.not_before = None;
                tracing::debug!(%producer, "the producer has an id");
                shared.with(|acc| acc.set_producer(producer));
            }
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "no producer id");
                self.not_before = Some(now() + self.backoff.next_delay());
                shared.with(|acc| acc.no_producer(error));
            }
        }
    }
}
