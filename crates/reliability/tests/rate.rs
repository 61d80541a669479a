//! The rate limit.

mod support;

use ottla_consumer::{Handler, Outcome, handler_fn};
use ottla_reliability::RateLimited;
use std::num::NonZeroU32;
use std::time::{Duration, Instant};
use support::{context, is_done, record};

fn limited(per_second: u32, burst: u32) -> RateLimited<impl Handler> {
    let rate = NonZeroU32::new(per_second).expect("not 0");
    let burst = NonZeroU32::new(burst).expect("not 0");
    RateLimited::new(handler_fn(|_, _| async { Outcome::Done }), rate, burst)
}

#[tokio::test]
async fn so_many_a_second_after_the_burst() {
    let limited = limited(100, 5);
    let begun = Instant::now();
    for offset in 0..15 {
        assert!(is_done(
            &limited.handle(&context(), &record("t", offset, 0)).await
        ));
    }
    // 5 at once, 10 more at 10 ms each; the first of them may be due almost at once.
    assert!(begun.elapsed() >= Duration::from_millis(90));
}

#[tokio::test]
async fn a_call_that_is_dropped_while_it_waits_uses_no_permit() {
    let limited = limited(5, 1);
    let (context, source) = (context(), record("t", 1, 0));
    let begun = Instant::now();
    assert!(is_done(&limited.handle(&context, &source).await));
    for _ in 0..20 {
        let dropped =
            tokio::time::timeout(Duration::from_millis(1), limited.handle(&context, &source));
        assert!(dropped.await.is_err());
    }
    assert!(is_done(&limited.handle(&context, &source).await));
    assert!(
        begun.elapsed() < Duration::from_secs(2),
        "{:?}",
        begun.elapsed()
    );
}
