//! What keeps one call of a handler from harming the rest: a time limit and a net for panics.

use super::{Context, Handler, HandlerError, Outcome};
use ottla_types::ConsumedRecord;
use std::any::Any;
use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::Duration;
use tokio::time::{Instant, timeout_at};
use tracing::Span;

/// The class of the error when a handler panicked.
pub const CLASS_PANIC: &str = "panic";
/// The class of the error when a handler took longer than it may.
pub const CLASS_TIMEOUT: &str = "timeout";

/// A handler whose panics and overlong calls are failures (classes [`CLASS_PANIC`] and
/// [`CLASS_TIMEOUT`], both transient) that a middleware around it can act on.
///
/// The runner guards the whole handler anyway; a middleware that must see such failures puts a
/// guard around the inner handler, with a limit below the runner's.
#[derive(Debug, Clone)]
pub struct Guard<H> {
    inner: H,
    limit: Duration,
}

impl<H: Handler> Guard<H> {
    /// Guards `inner`: a call is dropped after `limit`.
    pub fn new(inner: H, limit: Duration) -> Self {
        Self { inner, limit }
    }
}

impl<H: Handler> Handler for Guard<H> {
    async fn handle(&self, context: &Context, record: &ConsumedRecord) -> Outcome {
        let call = async { self.inner.handle(context, record).await };
        guard(self.limit, call)
            .await
            .unwrap_or_else(Outcome::Failed)
    }
}

/// Runs `call` for at most `limit` and turns a panic into an error.
pub(crate) async fn guard<T>(
    limit: Duration,
    call: impl Future<Output = T> + Send,
) -> Result<T, HandlerError> {
    let call = pin!(call);
    guard_until(crate::after(limit), limit, &Span::none(), call).await
}

/// The same in a span, until `deadline`, which is `limit` from the call's beginning.
///
/// The call stays where it is: a handler's future may be large, and to move it a few times would cost
/// more than many a handler does.
pub(crate) async fn guard_until<T>(
    deadline: Instant,
    limit: Duration,
    span: &Span,
    mut call: Pin<&mut (impl Future<Output = T> + Send)>,
) -> Result<T, HandlerError> {
    // Many calls end without waiting for anything: no timer is made for them.
    match first_poll(span, call.as_mut()).await {
        Poll::Ready(ended) => ended,
        Poll::Pending => guard_rest(deadline, limit, span, call).await,
    }
}

/// The first part of [`guard_until`]: runs `call` until it waits for something.
pub(crate) async fn first_poll<T>(
    span: &Span,
    mut call: Pin<&mut (impl Future<Output = T> + Send)>,
) -> Poll<Result<T, HandlerError>> {
    poll_fn(|cx| Poll::Ready(poll_caught(span, call.as_mut(), cx))).await
}

/// The second part of [`guard_until`], for a call that waits.
pub(crate) async fn guard_rest<T>(
    deadline: Instant,
    limit: Duration,
    span: &Span,
    mut call: Pin<&mut (impl Future<Output = T> + Send)>,
) -> Result<T, HandlerError> {
    let rest = poll_fn(|cx| poll_caught(span, call.as_mut(), cx));
    timeout_at(deadline, rest).await.unwrap_or_else(|_| {
        Err(HandlerError::transient(
            CLASS_TIMEOUT,
            format!("the handler took longer than {} ms", limit.as_millis()),
        ))
    })
}

/// A handler that panicked is called again, as a server calls its handler for the next request; what
/// it shares behind a lock is poisoned or consistent by its own means.
fn poll_caught<T>(
    span: &Span,
    call: Pin<&mut (impl Future<Output = T> + Send)>,
    cx: &mut std::task::Context<'_>,
) -> Poll<Result<T, HandlerError>> {
    let _entered = span.enter();
    match catch_unwind(AssertUnwindSafe(|| call.poll(cx))) {
        Ok(polled) => polled.map(Ok),
        Err(panic) => {
            let error = HandlerError::transient(CLASS_PANIC, panic_text(&*panic));
            Poll::Ready(Err(error))
        }
    }
}

pub(crate) fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("the handler panicked")
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::super::handler_fn;
    use super::*;
    use crate::test_record;

    async fn class_of(handler: impl Handler, limit: Duration) -> String {
        let context = Context::new("g", "m");
        let guarded = Guard::new(handler, limit);
        match guarded.handle(&context, &test_record("t", 0, 0)).await {
            Outcome::Failed(error) => error.class().to_owned(),
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn a_panic_is_a_failure() {
        let early = handler_fn(|_, _| -> std::future::Ready<Outcome> { panic!("at once") });
        assert_eq!(class_of(early, Duration::from_secs(5)).await, CLASS_PANIC);
        let late = handler_fn(|_, record: ConsumedRecord| async move {
            tokio::task::yield_now().await;
            assert!(record.offset > 5, "later");
            Outcome::Done
        });
        assert_eq!(class_of(late, Duration::from_secs(5)).await, CLASS_PANIC);
    }

    #[tokio::test]
    async fn an_overlong_call_is_a_failure() {
        let never = handler_fn(|_, _| std::future::pending());
        assert_eq!(
            class_of(never, Duration::from_millis(1)).await,
            CLASS_TIMEOUT
        );
    }
}
