//! [`Scope`]: what one call of a handler may publish through.
//!
//! It counts the records, and hears of those that were not taken even if the handler never looks at
//! their deliveries. After the call's end it takes nothing more.

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
    left: Vec<Delivery>,
    /// Failures that the handler has not heard of.
    unheard: usize,
    failure: Option<PublishError>,
}

impl Scope {
    /// One whose deliveries [`settle`](Self::settle) waits for.
    pub(crate) fn acknowledged(publish: Arc<dyn Publish>) -> Self {
        Self::new(publish, false)
    }

    /// One of a transaction, whose commit waits for the deliveries.
    pub(crate) fn transactional(publish: Arc<dyn Publish>) -> Self {
        Self::new(publish, true)
    }

    fn new(publish: Arc<dyn Publish>, is_transactional: bool) -> Self {
        Self {
            publish,
            is_transactional,
            state: Mutex::default(),
            changed: Notify::new(),
        }
    }

    pub(crate) fn is_transactional(&self) -> bool {
        self.is_transactional
    }

    /// Records that were taken so far.
    pub(crate) fn published(&self) -> usize {
        self.lock().published
    }

    /// Takes nothing more; the records that were taken, and their bytes.
    pub(super) fn close(&self) -> (usize, usize) {
        let mut state = self.lock();
        state.is_closed = true;
        (state.published, state.bytes)
    }

    pub(crate) fn enqueue(self: &Arc<Self>, record: Record) -> Delivery {
        // Held while the record is handed over, so that none comes after the close.
        let mut state = self.lock();
        if state.is_closed {
            let kind = PublishErrorKind::NotOwner;
            return Delivery::failed(PublishError::new(kind, Fate::NotWritten, record.topic));
        }
        let size = record.size();
        let mut delivery = self.publish.enqueue(record);
        match (&mut delivery).now_or_never() {
            Some(Err(error)) => {
                state.unheard += 1;
                state.failure = Some(error.clone());
                Delivery::new(Watched {
                    scope: self.clone(),
                    delivery: None,
                    failed: Some(error),
                })
            }
            Some(Ok(metadata)) => {
                state.count(size);
                Delivery::new(std::future::ready(Ok(metadata)))
            }
            None if self.is_transactional => {
                state.count(size);
                delivery
            }
            None => {
                state.count(size);
                state.out += 1;
                Delivery::new(Watched {
                    scope: self.clone(),
                    delivery: Some(delivery),
                    failed: None,
                })
            }
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
            for delivery in left {
                delivery.await?;
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

/// A delivery whose result the scope hears of.
struct Watched {
    scope: Arc<Scope>,
    delivery: Option<Delivery>,
    failed: Option<PublishError>,
}

impl Future for Watched {
    type Output = Written;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Written> {
        if let Some(error) = self.failed.take() {
            self.scope.lock().unheard -= 1;
            return Poll::Ready(Err(error));
        }
        let Some(delivery) = &mut self.delivery else {
            return Poll::Pending;
        };
        let written = std::task::ready!(delivery.poll_unpin(cx));
        self.delivery = None;
        self.scope.lock().out -= 1;
        self.scope.changed.notify_waiters();
        Poll::Ready(written)
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        if let Some(delivery) = self.delivery.take() {
            let mut state = self.scope.lock();
            state.out -= 1;
            state.left.push(delivery);
            drop(state);
            self.scope.changed.notify_waiters();
        }
    }
}
