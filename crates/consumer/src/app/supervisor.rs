//! Runs one member for ever: a member whose failure may pass is started again.

use crate::member::{self, MemberReport, MemberSpec, Stop};
use crate::status::MemberState;
use crate::{Error, ErrorKind};
use futures_util::FutureExt;
use ottla_client::Backoff;
use ottla_types::with_causes;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

const RESTART_BACKOFF: Duration = Duration::from_millis(200);
const RESTART_BACKOFF_MAX: Duration = Duration::from_secs(30);

/// How a member's supervisor ended.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) name: Arc<str>,
    pub(super) group: Arc<str>,
    /// `None` when the member failed for good, or when it was to stop.
    pub(super) report: Option<MemberReport>,
}

pub(super) async fn supervise(
    spec: MemberSpec,
    mut stop: watch::Receiver<Stop>,
    fatal: watch::Sender<Option<Error>>,
) -> Ended {
    let mut backoff = Backoff::new(RESTART_BACKOFF, RESTART_BACKOFF_MAX);
    let report = loop {
        let begun = Instant::now();
        // The member's state is dropped with it, so a panic leaves nothing half done behind.
        let run = AssertUnwindSafe(member::run(spec.clone(), stop.clone())).catch_unwind();
        let error = match run.await {
            Ok(Ok(report)) => break Some(report),
            Ok(Err(error)) => error,
            Err(_) => Error::new(ErrorKind::MemberFailed),
        }
        .with_group(&*spec.group);
        if !error.is_retriable() {
            let why = with_causes(&error);
            tracing::error!(group = %spec.group, member = %spec.name, error = why, "member failed for good");
            spec.board.member_failed(MemberState::Failed, &error);
            if let Some(desk) = spec.work.desk() {
                desk.fail(error.clone());
            }
            fatal.send_modify(|first| *first = first.take().or(Some(error)));
            break None;
        }
        if *stop.borrow() != Stop::Run {
            // Nobody knows what it left behind, so the shutdown was not clean.
            tracing::error!(group = %spec.group, member = %spec.name, %error, "member failed at its end");
            spec.board.member_failed(MemberState::Failed, &error);
            break None;
        }
        if begun.elapsed() > RESTART_BACKOFF_MAX {
            // It had been well for a while: this is a new trouble.
            backoff.reset();
        }
        let wait = backoff.next_delay();
        tracing::warn!(group = %spec.group, member = %spec.name, %error, ?wait, "restarting member");
        metrics::counter!("ottla_consumer_member_restarts_total", "group" => spec.group.to_string())
            .increment(1);
        spec.board.member_failed(MemberState::Restarting, &error);
        let stopping = stop.wait_for(|s| *s != Stop::Run);
        if tokio::time::timeout(wait, stopping).await.is_ok() {
            break Some(MemberReport::default());
        }
    };
    if report.is_some() {
        spec.board.set_state(MemberState::Stopped);
    }
    Ended {
        name: spec.name.clone(),
        group: spec.group.clone(),
        report,
    }
}
