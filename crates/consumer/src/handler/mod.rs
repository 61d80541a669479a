//! The [`Handler`] seam: what the runner calls for each record, and what a middleware wraps.
//!
//! `ottla-reliability` plugs in here: a retry or a deduplication is a `Handler` around a `Handler`.
//! The runner knows nothing of them; it only acts on the [`Outcome`].

mod batch;
mod context;
mod decode;
mod dispatch;
mod error;
mod guard;
mod run;
mod stopwatch;
mod typed;

pub use batch::{BatchFn, BatchHandler, BatchOutcome, BoxBatchHandler, batch_fn};
pub(crate) use context::Term;
pub use context::{Context, LeaseLost, PartitionLease};
#[cfg(feature = "protobuf")]
pub use decode::Protobuf;
pub use decode::{CLASS_UNDECODABLE, Decode, Json};
pub use dispatch::Dispatcher;
pub use error::{Failure, HandlerError};
pub use guard::{CLASS_PANIC, CLASS_TIMEOUT, Guard};
pub(crate) use guard::{guard_until, panic_text};
pub(crate) use run::{Observer, Run, RunEnd};
pub(crate) use stopwatch::Times;
pub use typed::{
    TypedBatch, TypedHandler, Undecodable, json_batch, json_handler, typed_batch, typed_handler,
};
#[cfg(feature = "protobuf")]
pub use typed::{protobuf_batch, protobuf_handler};

use ottla_types::{BoxFuture, ConsumedRecord};
use std::future::Future;
use std::sync::Arc;

/// Handles one record at a time.
///
/// ```
/// use ottla_consumer::{ConsumedRecord, Context, Handler, Outcome};
///
/// struct Print;
///
/// impl Handler for Print {
///     async fn handle(&self, context: &Context, record: &ConsumedRecord) -> Outcome {
///         println!("{}: {:?}", context.group(), record.value);
///         Outcome::Done
///     }
/// }
/// ```
///
/// The runner calls a handler for the records of one partition in order, one after the other; calls
/// for different partitions run side by side. A call may be dropped at an await when the partition
/// is lost or the shutdown deadline passes; the record is then handled again by its next owner.
///
/// A handler must not block its thread: work that does goes to `tokio::task::spawn_blocking`.
pub trait Handler: Send + Sync + 'static {
    /// Handles `record` and says how it went.
    fn handle(
        &self,
        context: &Context,
        record: &ConsumedRecord,
    ) -> impl Future<Output = Outcome> + Send;
}

/// How the handling of a record went.
#[derive(Debug)]
pub enum Outcome {
    /// Handled: the offset behind the record may be committed.
    Done,
    /// Not handled. Without a retry policy around the handler, the partition waits and the record is
    /// tried again in place.
    Failed(HandlerError),
    /// Not due yet: the partition is paused and the record is handed over again at this time
    /// (milliseconds since the Unix epoch). Other partitions and the heartbeats go on.
    NotBefore(i64),
}

impl<E: Into<HandlerError>> From<Result<(), E>> for Outcome {
    fn from(result: Result<(), E>) -> Self {
        match result {
            Ok(()) => Self::Done,
            Err(e) => Self::Failed(e.into()),
        }
    }
}

/// A [`Handler`] behind a pointer, for lists of different ones.
#[derive(Clone)]
pub struct BoxHandler(Arc<dyn ErasedHandler>);

trait ErasedHandler: Send + Sync {
    fn handle<'a>(
        &'a self,
        context: &'a Context,
        record: &'a ConsumedRecord,
    ) -> BoxFuture<'a, Outcome>;

    fn run<'a>(&'a self, run: Run<'a>) -> BoxFuture<'a, RunEnd>;
}

impl<H: Handler> ErasedHandler for H {
    fn handle<'a>(
        &'a self,
        context: &'a Context,
        record: &'a ConsumedRecord,
    ) -> BoxFuture<'a, Outcome> {
        Box::pin(Handler::handle(self, context, record))
    }

    fn run<'a>(&'a self, run: Run<'a>) -> BoxFuture<'a, RunEnd> {
        Box::pin(run.with(self))
    }
}

impl BoxHandler {
    /// Boxes `handler`.
    pub fn new(handler: impl Handler) -> Self {
        Self(Arc::new(handler))
    }

    /// Calls the handler for one record after the other.
    pub(crate) async fn run(&self, run: Run<'_>) -> RunEnd {
        self.0.run(run).await
    }
}

impl std::fmt::Debug for BoxHandler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("BoxHandler")
    }
}

impl Handler for BoxHandler {
    async fn handle(&self, context: &Context, record: &ConsumedRecord) -> Outcome {
        self.0.handle(context, record).await
    }
}

impl<H: Handler> Handler for Arc<H> {
    async fn handle(&self, context: &Context, record: &ConsumedRecord) -> Outcome {
        (**self).handle(context, record).await
    }
}

/// Makes a [`Handler`] of an async function or closure that takes its arguments by value (both are
/// cheap to clone).
///
/// ```
/// use ottla_consumer::{Outcome, handler_fn};
///
/// let handler = handler_fn(|_context, record| async move {
///     println!("{:?}", record.value);
///     Outcome::Done
/// });
/// ```
pub fn handler_fn<F, Fut>(function: F) -> HandlerFn<F>
where
    F: Fn(Context, ConsumedRecord) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Outcome> + Send,
{
    HandlerFn(function)
}

/// See [`handler_fn`].
#[derive(Debug, Clone)]
pub struct HandlerFn<F>(F);

impl<F, Fut> Handler for HandlerFn<F>
where
    F: Fn(Context, ConsumedRecord) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Outcome> + Send,
{
    fn handle(
        &self,
        context: &Context,
        record: &ConsumedRecord,
    ) -> impl Future<Output = Outcome> + Send {
        (self.0)(context.clone(), record.clone())
    }
}
