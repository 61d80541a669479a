//! Peak shaving: a handler gets so many records a second, the rest waits in Kafka.

use governor::clock::{Clock, DefaultClock};
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use ottla_consumer::{Context, Handler, Outcome};
use ottla_types::ConsumedRecord;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Instant;

/// A handler that is called at most so many times a second, over all partitions and members that
/// share it (clones share the limit).
///
/// A call waits for its turn, and the wait counts towards the runner's `max.processing.time.ms`:
/// with `n` partitions handled side by side it lasts up to `n / rate` seconds. Dropping a call that
/// waits uses no permit.
#[derive(Debug)]
pub struct RateLimited<H> {
    inner: H,
    limiter: Arc<DefaultDirectRateLimiter>,
    clock: DefaultClock,
}

impl<H: Clone> Clone for RateLimited<H> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            limiter: self.limiter.clone(),
            clock: self.clock.clone(),
        }
    }
}

impl<H: Handler> RateLimited<H> {
    /// Calls `inner` at most `per_second` times a second; after a pause, up to `burst` times at once.
    pub fn new(inner: H, per_second: NonZeroU32, burst: NonZeroU32) -> Self {
        let quota = Quota::per_second(per_second).allow_burst(burst);
        Self {
            inner,
            limiter: Arc::new(RateLimiter::direct(quota)),
            clock: DefaultClock::default(),
        }
    }

    async fn turn(&self) {
        let mut since = None;
        while let Err(not_yet) = self.limiter.check() {
            since.get_or_insert_with(Instant::now);
            tokio::time::sleep(not_yet.wait_time_from(self.clock.now())).await;
        }
        if let Some(since) = since {
            metrics::histogram!("ottla_rate_wait_seconds").record(since.elapsed());
        }
    }
}

impl<H: Handler> Handler for RateLimited<H> {
    async fn handle(&self, context: &Context, record: &ConsumedRecord) -> Outcome {
        self.turn().await;
        self.inner.handle(context, record).await
    }
}
