//! What keeps one call of a handler from harming the rest: a time limit and a net for panics.

use super::{Context, Handler, HandlerError, Outcome};
use futures_util::{FutureExt, poll};
use ottla_types::ConsumedRecord;
use std::any::Any;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

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
    guard_until(Instant::now() + limit, limit, call).await
}

/// The same until `deadline`, which is `limit` from the call's beginning.
pub(crate) async fn guard_until<T>(
    deadline: Instant,
    limit: Duration,
    call: impl Future<Output = T> + Send,
) -> Result<T, HandlerError> {
    // A handler that panicked is called again, as a server calls its handler for the next request;
    // what it shares behind a lock is poisoned or consistent by its own means.
    let mut call = pin!(AssertUnwindSafe(call).catch_unwind());
    // Many calls end without waiting for anything: no timer is made for them.
    let ended = match poll!(call.as_mut()) {
        Poll::Ready(ended) => Ok(ended),
        Poll::Pending => timeout_at(deadline, call).await,
    };
    match ended {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(panic)) => Err(HandlerError::transient(CLASS_PANIC, panic_text(&*panic))),
        Err(_) => Err(HandlerError::transient(
            CLASS_TIMEOUT,
            format!("the handler took longer than {} ms", limit.as_millis()),
        )),
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
