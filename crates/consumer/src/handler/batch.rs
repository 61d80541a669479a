//! The batch form of the handler seam: collect, hand over, mark the last.

use super::{Context, HandlerError};
use ottla_types::{BoxFuture, ConsumedRecord};
use std::future::Future;
use std::sync::Arc;

/// Handles records of one partition together.
///
/// The runner collects up to a number of records or for a time, whichever is reached first, hands
/// them over in order and commits only the offset behind the last one. A call may be dropped as a
/// [`Handler`](super::Handler)'s may; the batch is then handled again.
pub trait BatchHandler: Send + Sync + 'static {
    /// Handles `records`, which are of one partition, in order, and at least one.
    fn handle_batch(
        &self,
        context: &Context,
        records: &[ConsumedRecord],
    ) -> impl Future<Output = BatchOutcome> + Send;
}

/// How the handling of a batch went.
#[derive(Debug)]
pub enum BatchOutcome {
    /// All handled: the offset behind the last record may be committed.
    Done,
    /// The records before `index` are handled; from `index` on they are handed over again. In a
    /// transaction, what the call has published belongs to the records before `index`; where it does
    /// not, the answer is [`Failed`](Self::Failed).
    FailedAt {
        /// The first record that is not handled; counted from 0.
        index: usize,
        /// Why it is not.
        error: HandlerError,
    },
    /// Nothing counts as handled: the batch is handed over again.
    Failed(HandlerError),
    /// Not due yet: the partition is paused and the batch is handed over again at this time
    /// (milliseconds since the Unix epoch).
    NotBefore(i64),
}

impl<E: Into<HandlerError>> From<Result<(), E>> for BatchOutcome {
    fn from(result: Result<(), E>) -> Self {
        match result {
            Ok(()) => Self::Done,
            Err(e) => Self::Failed(e.into()),
        }
    }
}

/// A [`BatchHandler`] behind a pointer.
#[derive(Clone)]
pub struct BoxBatchHandler(Arc<dyn ErasedBatchHandler>);

trait ErasedBatchHandler: Send + Sync {
    fn handle_batch<'a>(
        &'a self,
        context: &'a Context,
        records: &'a [ConsumedRecord],
    ) -> BoxFuture<'a, BatchOutcome>;
}

impl<H: BatchHandler> ErasedBatchHandler for H {
    fn handle_batch<'a>(
        &'a self,
        context: &'a Context,
        records: &'a [ConsumedRecord],
    ) -> BoxFuture<'a, BatchOutcome> {
        Box::pin(BatchHandler::handle_batch(self, context, records))
    }
}

impl BoxBatchHandler {
    /// Boxes `handler`.
    pub fn new(handler: impl BatchHandler) -> Self {
        Self(Arc::new(handler))
    }
}

impl std::fmt::Debug for BoxBatchHandler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("BoxBatchHandler")
    }
}

impl BatchHandler for BoxBatchHandler {
    async fn handle_batch(&self, context: &Context, records: &[ConsumedRecord]) -> BatchOutcome {
        self.0.handle_batch(context, records).await
    }
}

impl<H: BatchHandler> BatchHandler for Arc<H> {
    async fn handle_batch(&self, context: &Context, records: &[ConsumedRecord]) -> BatchOutcome {
        (**self).handle_batch(context, records).await
    }
}

/// Makes a [`BatchHandler`] of an async function or closure that takes its arguments by value.
///
/// ```
/// use ottla_consumer::{BatchOutcome, batch_fn};
///
/// let handler = batch_fn(|_context, records| async move {
///     println!("{} records", records.len());
///     BatchOutcome::Done
/// });
/// ```
pub fn batch_fn<F, Fut>(function: F) -> BatchFn<F>
where
    F: Fn(Context, Vec<ConsumedRecord>) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = BatchOutcome> + Send,
{
    BatchFn(function)
}

/// See [`batch_fn`].
#[derive(Debug, Clone)]
pub struct BatchFn<F>(F);

impl<F, Fut> BatchHandler for BatchFn<F>
where
    F: Fn(Context, Vec<ConsumedRecord>) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = BatchOutcome> + Send,
{
    fn handle_batch(
        &self,
        context: &Context,
        records: &[ConsumedRecord],
    ) -> impl Future<Output = BatchOutcome> + Send {
        (self.0)(context.clone(), records.to_vec())
    }
}
