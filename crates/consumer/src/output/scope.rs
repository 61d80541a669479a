//! [`Scope`]: what one call of a handler may publish through.
//!
//! It counts the records, and hears of those that were not taken even if the handler never looks at
//! their deliveries. After the call's end it takes nothing more.

use super::gate::Admission;
use super::refusals::Refusal;
use futures_util::FutureExt;
use ottla_types::{
    BoxFuture, Delivery, Fate, Publish, PublishError, PublishErrorKind, Record, RecordMetadata,
};
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use tokio::sync::Notify;

type Written = Result<RecordMetadata, PublishError>;

/// See the module.
pub(crate) struct Scope {
    publish: Arc<dyn Publish>,
    is_transactional: bool,
    /// It hears what becomes of every record.
    is_watching: bool,
    /// What is refused without asking.
    known: Vec<Refusal>,
    state: Mutex<State>,
    /// A delivery was heard, or given up.
    changed: Notify,
}

#[derive(Default)]
struct State {
    is_closed: bool,
    published: usize,
    bytes: usize,
    /// Deliveries that the handler has and did not hear of.
    out: usize,
    /// Deliveries that the handler gave up unheard; each is a record in the producer's buffer.
    left: Vec<Pending>,
    /// Failures that the handler has not heard of.
    unheard: usize,
    failure: Option<PublishError>,
    /// What turned out to be refused for its own sake.
    refused: Vec<Refusal>,
}

/// What a call leaves behind.
pub(super) struct Closed {
    /// Records that were taken, and may be written.
    pub(super) published: usize,
    pub(super) bytes: usize,
    pub(super) refused: Vec<Refusal>,
}

impl Scope {
    /// One whose deliveries [`settle`](Self::settle) waits for.
    pub(crate) fn acknowledged(publish: Arc<dyn Publish>) -> Self {
        Self {
            publish,
            is_transactional: false,
            is_watching: true,
            known: Vec::new(),
            state: Mutex::default(),
            changed: Notify::new(),
        }
    }

    /// One of a transaction, whose commit waits for the deliveries.
    pub(super) fn transactional(admission: Admission) -> Self {
        Self {
            is_transactional: true,
            is_watching: admission.is_careful,
            known: admission.refused,
            ..Self::acknowledged(admission.publish)
        }
    }

    pub(crate) fn is_transactional(&self) -> bool {
        self.is_transactional
    }

    /// Records that were taken so far.
    pub(crate) fn published(&self) -> usize {
        self.lock().published
    }

    /// Takes nothing more.
    pub(super) fn close(&self) -> Closed {
        let mut state = self.lock();
        state.is_closed = true;
        Closed {
            published: state.published,
            bytes: state.bytes,
            refused: std::mem::take(&mut state.refused),
        }
    }

    pub(crate) fn enqueue(self: &Arc<Self>, record: Record) -> Delivery {
        // Held while the record is handed over, so that none comes after the close.
        let mut state = self.lock();
        if state.is_closed {
            let kind = PublishErrorKind::NotOwner;
            return Delivery::failed(PublishError::new(kind, Fate::NotWritten, record.topic));
        }
        if let Some(known) = self.known.iter().find(|known| known.is_about(&record)) {
            return self.fail(&mut state, known.error.clone());
        }
        let size = record.size();
        let topic = self.is_watching.then(|| record.topic.clone());
        let mut delivery = self.publish.enqueue(record);
        match (&mut delivery).now_or_never() {
            Some(Err(error)) => self.fail(&mut state, error),
            Some(Ok(metadata)) => {
                state.count(size);
                Delivery::new(std::future::ready(Ok(metadata)))
            }
            None => {
                state.count(size);
                let Some(topic) = topic else { return delivery };
                state.out += 1;
                let pending = Pending {
                    delivery,
                    topic,
                    size,
                };
                Delivery::new(Watched {
                    scope: self.clone(),
                    pending: Some(pending),
                    failed: None,
                })
            }
        }
    }

    fn fail(self: &Arc<Self>, state: &mut State, error: PublishError) -> Delivery {
        state.unheard += 1;
        state.failure = Some(error.clone());
        Delivery::new(Watched {
            scope: self.clone(),
            pending: None,
            failed: Some(error),
        })
    }

    /// Hears what became of a record.
    fn heard(&self, state: &mut State, topic: &Arc<str>, size: usize, written: &Written) {
        if let Err(error) = written
            && self.is_transactional
            && let Some(refusal) = Refusal::of(topic, size, error)
        {
            state.published -= 1;
            state.refused.push(refusal);
        }
    }

    pub(crate) fn ready(&self, size: usize) -> BoxFuture<'_, Result<(), PublishError>> {
        self.publish.ready(size)
    }

    /// Waits for the deliveries, and says if one failed that the handler did not hear of.
    ///
    /// # Errors
    /// Such a failure.
    pub(super) async fn settle(&self) -> Result<(), PublishError> {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            // Registered before the look, so that no change falls between.
            changed.as_mut().enable();
            let left = {
                let mut state = self.lock();
                if state.unheard > 0
                    && let Some(error) = state.failure.clone()
                {
                    return Err(error);
                }
                std::mem::take(&mut state.left)
            };
            for pending in left {
                let written = pending.delivery.await;
                let mut state = self.lock();
                self.heard(&mut state, &pending.topic, pending.size, &written);
                drop(state);
                written?;
            }
            if self.lock().is_settled() {
                return Ok(());
            }
            changed.await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Changed by whole steps.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn count(&mut self, size: usize) {
        self.published += 1;
        self.bytes = self.bytes.saturating_add(size);
    }

    fn is_settled(&self) -> bool {
        self.out == 0 && self.left.is_empty() && self.unheard == 0
    }
}

/// A record whose result is not known.
struct Pending {
    delivery: Delivery,
    topic: Arc<str>,
    size: usize,
}

/// A delivery whose result the scope hears of.
struct Watched {
    scope: Arc<Scope>,
    pending: Option<Pending>,
    failed: Option<PublishError>,
}

impl Future for Watched {
    type Output = Written;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Written> {
        let Self {
            scope,
            pending,
            failed,
        } = &mut *self;
        if let Some(error) = failed.take() {
            scope.lock().unheard -= 1;
            return Poll::Ready(Err(error));
        }
        let Some(Pending {
            delivery,
            topic,
            size,
        }) = pending
        else {
            return Poll::Pending;
        };
        let written = std::task::ready!(delivery.poll_unpin(cx));
        let mut state = scope.lock();
        state.out -= 1;
        scope.heard(&mut state, topic, *size, &written);
        drop(state);
        scope.changed.notify_waiters();
        *pending = None;
        Poll::Ready(written)
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        if let Some(pending) = self.pending.take() {
            let mut state = self.scope.lock();
            state.out -= 1;
            state.left.push(pending);
            drop(state);
            self.scope.changed.notify_waiters();
        }
    }
}
