//! A handler that takes longer than the session's time-out.

use super::{Bed, millis, rebalances};
use crate::scenarios::{Context, Outcome};
use std::time::Duration;
use tokio::time::Instant;

const SESSION: Duration = Duration::from_secs(45);
const CALL: Duration = Duration::from_secs(180);
const CALL_MAX: Duration = Duration::from_secs(300);

/// One call of a handler takes 3 minutes: nobody hears of it.
pub(in crate::scenarios) async fn slow_handler(context: &mut Context) -> Outcome {
    let bed = Bed::new(context).await?;
    let members = bed.members(2, |options, _| {
        options.session_ms = millis(SESSION);
        options.processing_ms = millis(CALL_MAX);
    });
    let mut members = members.await?;
    let before = rebalances(&members)?;
    let slow = bed.send_slow("call", 0, CALL).await?;
    let behind = slow.offset.map(|offset| (0, offset + 1));
    let started = Instant::now();
    let waiting = bed.committed_at_least(behind.into_iter().collect(), CALL_MAX);
    let ((), mut sent) = bed.under_load(waiting).await?;
    let took = started.elapsed();
    sent.push(slow);
    bed.finish(&mut members).await?;
    let after = rebalances(&members)?;
    let verdict = bed.judge(sent, &members).await?;
    println!("handled in {took:.1?}; rebalances before {before:?}, after {after:?}");
    if before != after || took < CALL {
        return Err("a long call was not left alone".into());
    }
    verdict.expect_once(&bed)
}
