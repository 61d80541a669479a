//! The calls of one lane: hand records over until they are handled, with waits between the attempts.

use super::{LaneLimits, LaneSetup, Progress};
use crate::handler::{BatchHandler, BatchOutcome, Context, Handler, HandlerError, Outcome, guard};
use crate::status::MemberBoard;
use crate::work::Work;
use metrics::{Counter, Histogram, counter, histogram};
use ottla_client::Backoff;
use ottla_types::{ConsumedRecord, TopicPartition};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

/// A wait for a due time looks at the wall clock at least this often, as the clock may be set.
const DUE_CHECK: Duration = Duration::from_secs(5);

/// Calls the handler for one partition.
pub(super) struct Caller {
    partition: TopicPartition,
    work: Work,
    context: Context,
    progress: Arc<Progress>,
    board: Arc<MemberBoard>,
    limits: LaneLimits,
    drain: CancellationToken,
    calling: bool,
    meters: Meters,
}

struct Meters {
    handled: Counter,
    failed: Counter,
    seconds: Histogram,
}

impl Meters {
    fn new(group: &str, topic: &str) -> Self {
        let labels = [("group", group.to_owned()), ("topic", topic.to_owned())];
        Self {
            handled: counter!("ottla_consumer_handled_total", &labels),
            failed: counter!("ottla_consumer_failed_total", &labels),
            seconds: histogram!("ottla_consumer_handler_seconds", &labels),
        }
    }
}

impl Caller {
    pub(super) fn new(setup: LaneSetup, drain: CancellationToken) -> Self {
        let meters = Meters::new(setup.context.group(), &setup.partition.topic);
        Self {
            partition: setup.partition,
            work: setup.work,
            context: setup.context,
            progress: setup.progress,
            board: setup.board,
            limits: setup.limits,
            drain,
            calling: false,
            meters,
        }
    }

    /// Whether a call is in progress. True after the lane's future was dropped inside a call.
    pub(super) fn is_calling(&self) -> bool {
        self.calling
    }

    /// Hands `records` over until all are handled; breaks when the lane is drained before that.
    pub(super) async fn hand_over(&mut self, records: &[ConsumedRecord]) -> ControlFlow<()> {
        let tickets = self.progress.dispatch(records);
        if tickets.len() != records.len() {
            return ControlFlow::Break(());
        }
        let mut backoff = Backoff::new(self.limits.backoff, self.limits.backoff_max);
        let mut begin = 0;
        loop {
            let left = &records[begin..];
            let outcome = self.call(left).await;
            let (done, then) = plan(outcome, left.len());
            if let Some(last) = (begin + done).checked_sub(1)
                && done > 0
            {
                self.progress.done_through(tickets[last], &records[last]);
                self.count_handled(done);
                begin += done;
                backoff.reset();
            }
            match then {
                Then::Next => return ControlFlow::Continue(()),
                Then::Again(error) => {
                    let wait = backoff.next_delay();
                    self.note_failure(&records[begin], &error, wait);
                    self.wait(wait).await?;
                }
                Then::At(due_ms) => self.wait_until(due_ms).await?,
            }
        }
    }

    async fn call(&mut self, records: &[ConsumedRecord]) -> BatchOutcome {
        let span = tracing::debug_span!(
            "handle",
            group = self.context.group(),
            topic = %self.partition.topic,
            partition = self.partition.partition,
            offset = records[0].offset,
            records = records.len(),
        );
        let begun = Instant::now();
        let limit = self.limits.processing;
        let context = self.context.clone().with_deadline(begun + limit);
        self.calling = true;
        let outcome = guard(limit, self.work.call(&context, records)).instrument(span);
        let outcome = outcome.await.unwrap_or_else(BatchOutcome::Failed);
        self.calling = false;
        self.meters.seconds.record(begun.elapsed());
        outcome
    }

    fn count_handled(&self, records: usize) {
        self.board.add_handled(records as u64);
        self.meters.handled.increment(records as u64);
    }

    fn note_failure(&self, record: &ConsumedRecord, error: &HandlerError, wait: Duration) {
        self.board.add_failed();
        self.board.set_last_error(error);
        self.meters.failed.increment(1);
        tracing::warn!(
            group = self.context.group(),
            partition = %self.partition,
            offset = record.offset,
            %error,
            ?wait,
            "the handler failed; the partition waits"
        );
    }

    async fn wait(&self, wait: Duration) -> ControlFlow<()> {
        tokio::select! {
            biased;
            () = self.drain.cancelled() => ControlFlow::Break(()),
            () = tokio::time::sleep(wait) => ControlFlow::Continue(()),
        }
    }

    async fn wait_until(&self, due_ms: i64) -> ControlFlow<()> {
        loop {
            let left = due_ms.saturating_sub(wall_clock_ms());
            if left <= 0 {
                // A handler that names a time in the past must not spin.
                return self.wait(Duration::from_millis(1)).await;
            }
            let left = Duration::from_millis(left.unsigned_abs());
            self.wait(left.min(DUE_CHECK)).await?;
        }
    }
}

/// What follows a call.
enum Then {
    Next,
    Again(HandlerError),
    At(i64),
}

/// How many of `count` records are handled after `outcome`, and what follows.
fn plan(outcome: BatchOutcome, count: usize) -> (usize, Then) {
    match outcome {
        BatchOutcome::Done => (count, Then::Next),
        BatchOutcome::FailedAt { index, .. } if index >= count => (count, Then::Next),
        BatchOutcome::FailedAt { index, error } => (index, Then::Again(error)),
        BatchOutcome::Failed(error) => (0, Then::Again(error)),
        BatchOutcome::NotBefore(due_ms) => (0, Then::At(due_ms)),
    }
}

impl Work {
    /// How many records may be with the handler at once.
    pub(crate) fn in_flight_max(&self) -> usize {
        match self {
            Self::Each(_) => 1,
            Self::Batch { max_records, .. } => *max_records,
        }
    }

    /// Calls the handler; with [`Work::Each`] there is one record.
    async fn call(&self, context: &Context, records: &[ConsumedRecord]) -> BatchOutcome {
        match self {
            Self::Each(handler) => match handler.handle(context, &records[0]).await {
                Outcome::Done => BatchOutcome::Done,
                Outcome::Failed(error) => BatchOutcome::Failed(error),
                Outcome::NotBefore(due_ms) => BatchOutcome::NotBefore(due_ms),
            },
            Self::Batch { handler, .. } => handler.handle_batch(context, records).await,
        }
    }
}

fn wall_clock_ms() -> i64 {
    // A clock before 1970 counts as 1970.
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    i64::try_from(since.unwrap_or_default().as_millis()).unwrap_or(i64::MAX)
}
