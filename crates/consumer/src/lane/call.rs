//! The calls of one lane: hand records over until they are handled, with waits between the attempts.

use super::{LaneLimits, LaneSetup, Progress};
use crate::handler::{
    BatchHandler, BatchOutcome, BoxBatchHandler, BoxHandler, Context, Handler, HandlerError,
    Observer, Outcome, Run, Times, guard_until,
};
use crate::latch::Latch;
use crate::output::{Call, Outputs};
use crate::status::MemberBoard;
use crate::work::Work;
use metrics::{Counter, Histogram, counter, histogram};
use ottla_client::Backoff;
use ottla_types::{BoxFuture, ConsumedRecord, TopicPartition};
use std::ops::ControlFlow;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::time::Instant;
use tracing::Span;

/// A wait for a due time looks at the wall clock at least this often, as the clock may be set.
const DUE_CHECK: Duration = Duration::from_secs(5);

/// Calls the handler for one partition.
pub(super) struct Caller {
    partition: TopicPartition,
    work: Work,
    context: Context,
    outputs: Outputs,
    progress: Arc<Progress>,
    board: Arc<MemberBoard>,
    limits: LaneLimits,
    drain: Latch,
    /// Calls in progress.
    calling: AtomicUsize,
    epochs: Epochs,
    meters: Meters,
}

pub(super) struct Meters {
    pub(super) handled: Counter,
    failed: Counter,
    seconds: Histogram,
}

impl Meters {
    pub(super) fn new(group: &str, topic: &str) -> Self {
        let labels = [("group", group.to_owned()), ("topic", topic.to_owned())];
        Self {
            handled: counter!("ottla_consumer_handled_total", &labels),
            failed: counter!("ottla_consumer_failed_total", &labels),
            seconds: histogram!("ottla_consumer_handler_seconds", &labels),
        }
    }
}

impl Caller {
    pub(super) fn new(setup: LaneSetup, drain: Latch) -> Self {
        let meters = Meters::new(setup.context.group(), &setup.partition.topic);
        Self {
            partition: setup.partition,
            work: setup.work,
            context: setup.context,
            outputs: setup.outputs,
            progress: setup.progress,
            board: setup.board,
            limits: setup.limits,
            drain,
            calling: AtomicUsize::new(0),
            epochs: Epochs::default(),
            meters,
        }
    }

    /// Whether a call is in progress. True after the lane's future was dropped inside a call.
    pub(super) fn is_calling(&self) -> bool {
        self.calling.load(Ordering::Relaxed) > 0
    }

    /// Tells the progress of the leader epochs of `records`, which follow those of the last call.
    pub(super) fn note_epochs(&mut self, records: &[ConsumedRecord]) {
        self.epochs.note(&self.progress, records);
    }

    /// Hands `records` over until all are handled; breaks when the lane is drained before that.
    pub(super) async fn hand_over(&mut self, records: &[ConsumedRecord]) -> ControlFlow<()> {
        self.note_epochs(records);
        let mut backoff = Backoff::new(self.limits.backoff, self.limits.backoff_max);
        let mut begin = 0;
        while begin < records.len() {
            if self.may_not_begin() {
                return ControlFlow::Break(());
            }
            self.outputs.admit(&self.drain).await?;
            let left = &records[begin..];
            let (handled, then) = match &self.work {
                Work::Each { handler, .. } => self.call_each(handler, left).await,
                Work::Batch { handler, .. } => self.call_batch(handler, left).await,
                Work::Pull(_) => return ControlFlow::Break(()),
            };
            if handled > 0 {
                begin += handled;
                backoff.reset();
            }
            match then {
                Then::Next => {}
                Then::Again(error) => {
                    let wait = backoff.next_delay();
                    self.note_failure(&records[begin], &error, wait);
                    self.wait(wait).await?;
                }
                Then::At(due_ms) => self.wait_until(due_ms).await?,
            }
        }
        ControlFlow::Continue(())
    }

    /// Resolves when no further call may begin.
    pub(super) async fn drained(&self) {
        self.drain.wait().await;
    }

    /// All calls of a lane are made by its one task.
    fn count_call(&self, change: isize) {
        let calling = self.calling.load(Ordering::Relaxed);
        let calling = calling.saturating_add_signed(change);
        self.calling.store(calling, Ordering::Relaxed);
    }

    fn may_not_begin(&self) -> bool {
        self.drain.is_set() || self.context.lease().is_revoked()
    }

    async fn call_each(&self, handler: &BoxHandler, records: &[ConsumedRecord]) -> (usize, Then) {
        let end = handler.run(Run {
            context: self.context.clone(),
            records,
            limit: self.limits.processing,
            observer: self,
        });
        let end = end.await;
        let then = match end.outcome {
            None | Some(Outcome::Done) => Then::Next,
            Some(Outcome::Failed(error)) => Then::Again(error),
            Some(Outcome::NotBefore(due_ms)) => Then::At(due_ms),
        };
        (end.handled, then)
    }

    /// Hands one record over until it is handled; `None` when the lane is drained before that. The
    /// call is done when that is noted.
    pub(super) async fn until_handled(
        &self,
        handler: &BoxHandler,
        record: &ConsumedRecord,
    ) -> Option<Call> {
        let mut backoff = Backoff::new(self.limits.backoff, self.limits.backoff_max);
        while !self.may_not_begin() {
            if self.outputs.admit(&self.drain).await.is_break() {
                return None;
            }
            let mut context = self.context.clone();
            let Some(call) = self.begins(&mut context, record) else {
                continue;
            };
            let begun = Instant::now();
            let limit = self.limits.processing;
            let deadline = begun + limit;
            context.set_deadline(deadline);
            let span = self.span(record, 1);
            let handling = async { call.settle(handler.handle(&context, record).await).await };
            let outcome = guard_until(deadline, limit, &span, pin!(handling)).await;
            self.took(begun.elapsed(), 1);
            self.ends();
            let outcome = outcome.unwrap_or_else(Outcome::Failed);
            if matches!(outcome, Outcome::Done) {
                return Some(call);
            }
            // What it published ends with it, before the wait.
            drop(call);
            let waited = match outcome {
                Outcome::Done => ControlFlow::Continue(()),
                Outcome::Failed(error) => {
                    let wait = backoff.next_delay();
                    self.note_failure(record, &error, wait);
                    self.wait(wait).await
                }
                Outcome::NotBefore(due_ms) => self.wait_until(due_ms).await,
            };
            if waited.is_break() {
                return None;
            }
        }
        None
    }

    async fn call_batch(
        &self,
        handler: &BoxBatchHandler,
        records: &[ConsumedRecord],
    ) -> (usize, Then) {
        let mut context = self.context.clone();
        let Some(call) = self.begins(&mut context, &records[0]) else {
            return (0, Then::Next);
        };
        let span = self.span(&records[0], records.len());
        let begun = Instant::now();
        let limit = self.limits.processing;
        let deadline = begun + limit;
        context.set_deadline(deadline);
        let handling = async {
            let outcome = handler.handle_batch(&context, records).await;
            call.settle(outcome).await
        };
        let outcome = guard_until(deadline, limit, &span, pin!(handling)).await;
        self.took(begun.elapsed(), 1);
        self.ends();
        let outcome = outcome.unwrap_or_else(BatchOutcome::Failed);
        let (handled, then) = plan(outcome, records.len());
        if let Some(last) = records[..handled].last() {
            self.handled(last);
            self.tell(handled);
            call.done(handled);
        }
        (handled, then)
    }

    fn span(&self, first: &ConsumedRecord, records: usize) -> Span {
        tracing::debug_span!(
            "handle",
            group = self.context.group(),
            topic = %self.partition.topic,
            partition = self.partition.partition,
            offset = first.offset,
            records,
        )
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

    /// Boxed, as it is rare and would make the future of every call large.
    fn wait(&self, wait: Duration) -> BoxFuture<'_, ControlFlow<()>> {
        Box::pin(async move {
            tokio::select! {
                biased;
                () = self.drain.wait() => ControlFlow::Break(()),
                () = tokio::time::sleep(wait) => ControlFlow::Continue(()),
            }
        })
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

/// The leader epoch of the records that were handed over last.
#[derive(Debug, Default)]
pub(super) struct Epochs(Option<i32>);

impl Epochs {
    /// Tells the progress where an epoch begins. Epochs only grow along the log, so the ends of
    /// `records` tell whether there are any news.
    pub(super) fn note(&mut self, progress: &Progress, records: &[ConsumedRecord]) {
        let epoch = |record: Option<&ConsumedRecord>| record.and_then(|r| r.leader_epoch);
        if epoch(records.first()) == self.0 && epoch(records.last()) == self.0 {
            return;
        }
        for record in records {
            if record.leader_epoch != self.0 {
                self.0 = record.leader_epoch;
                if let Some(epoch) = record.leader_epoch {
                    progress.epoch_begins(record.offset, epoch);
                }
            }
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

impl Times for Caller {
    fn took(&self, each: Duration, calls: usize) {
        self.meters.seconds.record_many(each, calls);
    }
}

impl Observer for Caller {
    fn begins(&self, context: &mut Context, first: &ConsumedRecord) -> Option<Call> {
        if self.may_not_begin() {
            return None;
        }
        let call = self.outputs.begin(context, first)?;
        self.count_call(1);
        Some(call)
    }

    fn span(&self, record: &ConsumedRecord) -> Span {
        Self::span(self, record, 1)
    }

    fn ends(&self) {
        self.count_call(-1);
    }

    fn handled(&self, record: &ConsumedRecord) {
        self.progress.mark_handled(record.offset.saturating_add(1));
    }

    fn tell(&self, records: usize) {
        self.board.add_handled(records as u64);
        self.meters.handled.increment(records as u64);
    }
}

fn wall_clock_ms() -> i64 {
    // A clock before 1970 counts as 1970.
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    i64::try_from(since.unwrap_or_default().as_millis()).unwrap_or(i64::MAX)
}
