//! [`Transactor`]: what a member knows about its transactions, and the steps of its producer.

use crate::member::MemberSpec;
use crate::member::commit::Entry;
use crate::output::{Gate, GateLimits, OutputMode, Outputs, Since};
use crate::{Error, ErrorKind};
use ottla_client::Backoff;
use ottla_types::{
    BoxFuture, Publish, TopicPartition, Transact, TransactError, TransactErrorKind, Transactions,
};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

pub(super) const BACKOFF: Duration = Duration::from_millis(50);
const BACKOFF_MAX: Duration = Duration::from_secs(1);
/// How long the last abort of a member may take.
const LAST_ABORT: Duration = Duration::from_millis(500);

/// The member's transactions.
pub(in crate::member) struct Transactor {
    source: Arc<dyn Transactions>,
    id: String,
    /// The id was made for this member.
    is_own_id: bool,
    timeout: Duration,
    interval: Duration,
    /// How long after its first call others may begin in a transaction.
    patience: Duration,
    /// How often positions are committed where no record is.
    pub(super) idle_interval: Duration,
    /// The waits of a partition whose record fails again and again.
    pub(super) retry: (Duration, Duration),
    pub(super) producer: Option<Arc<dyn Transact>>,
    pub(super) gate: Arc<Gate>,
    pub(super) state: State,
    pub(super) out: Option<BoxFuture<'static, TransactionStep>>,
    /// The open transaction is to end now, if there is something in it.
    pub(super) hurried: bool,
    /// While no record was handled: when positions that moved are committed.
    pub(super) idle_due: Instant,
    /// Not before this, whatever is due: the wait after a failure.
    pub(super) not_before: Instant,
    pub(super) backoff: Backoff,
    /// The open transaction has outputs that must not count.
    pub(super) must_abort: bool,
    /// The most records of the next transaction: few after one was aborted, so that what made it fail
    /// does not take the rest back again and again; then twice as many each time.
    pub(super) quota: usize,
    /// Partitions whose records made transactions fail.
    pub(super) failing: HashMap<TopicPartition, Backoff>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// There is no producer yet.
    Opening,
    /// Between transactions.
    Ready,
    /// Calls may begin.
    Open,
    /// No call begins any more.
    Closing,
    /// Offsets are sent, and the commit.
    Ending,
    /// What was open is aborted.
    Aborting,
}

/// The end of a step.
pub(in crate::member) enum TransactionStep {
    Opened(Result<Arc<dyn Transact>, TransactError>),
    Begun(Result<(), TransactError>),
    Ended(Vec<Entry>, Result<(), TransactError>),
    Aborted(Result<(), TransactError>),
}

impl Transactor {
    /// The transactions of a member, if it is to have any.
    pub(in crate::member) fn new(
        spec: &MemberSpec,
        wake: &Arc<Notify>,
        now: Instant,
    ) -> Option<Self> {
        let OutputMode::Transactional(source) = &spec.mode else {
            return None;
        };
        let config = &spec.config;
        let limits = GateLimits {
            records: config.transaction_max_records,
            bytes: config.transaction_max_bytes,
        };
        Some(Self {
            source: source.clone(),
            id: spec.transactional_id.clone(),
            is_own_id: !config.has_stable_transactional_id(),
            timeout: config.transaction_timeout(),
            interval: config.transaction_interval,
            patience: config.transaction_patience(),
            idle_interval: config.commit_interval,
            retry: (config.handler_backoff, config.handler_backoff_max),
            producer: None,
            gate: Arc::new(Gate::new(limits, wake.clone())),
            state: State::Opening,
            out: None,
            hurried: false,
            idle_due: now,
            not_before: now,
            backoff: Backoff::new(BACKOFF, BACKOFF_MAX),
            must_abort: false,
            quota: usize::MAX,
            failing: HashMap::new(),
        })
    }

    /// What this producer cannot go on after.
    pub(super) fn check(&self, error: &TransactError) -> Result<(), Error> {
        let kind = match error.kind() {
            // Another process has the id; to take it back would only fence that one.
            TransactErrorKind::Fenced if !self.is_own_id => ErrorKind::Transaction,
            // The member begins anew, with another producer. Nobody else has an id that was made for
            // this member: the coordinator has ended a transaction that took too long, and a Kafka 3
            // lets no producer go on after that.
            TransactErrorKind::Fenced
            | TransactErrorKind::Fatal
            | TransactErrorKind::InvalidState => ErrorKind::MemberFailed,
            _ => return Ok(()),
        };
        Err(Error::new(kind).with_source(error.clone()))
    }

    /// How the calls of a lane publish.
    pub(in crate::member) fn outputs(&self, lane: u64) -> Outputs {
        Outputs::Transactional(self.gate.clone(), lane)
    }

    /// The end of the step that is under way; for ever pending when there is none. Safe to cancel.
    async fn step(&mut self) -> TransactionStep {
        match &mut self.out {
            Some(step) => {
                let end = step.await;
                self.out = None;
                end
            }
            None => std::future::pending().await,
        }
    }

    /// Ends the open transaction as soon as possible rather than when it is due.
    pub(in crate::member) fn hurry(&mut self) {
        self.hurried = true;
    }

    /// A lane is gone before its partition's offset was committed.
    pub(in crate::member) fn lost(&mut self, partition: &TopicPartition, lane: u64) {
        self.failing.remove(partition);
        if matches!(self.state, State::Open | State::Closing) {
            self.must_abort |= self.gate.holds(lane);
        }
    }

    /// Whether a commit or an abort is under way, so that group offsets may still move.
    pub(in crate::member) fn is_ending(&self) -> bool {
        self.must_abort || matches!(self.state, State::Ending | State::Aborting)
    }

    /// Whether committed offsets tell how far the group is.
    pub(in crate::member) fn is_settled(&self) -> bool {
        !matches!(self.state, State::Opening | State::Aborting)
    }

    /// When [`Member::transact`] is to be called at the latest.
    pub(in crate::member) fn next_wake(&self) -> Option<Instant> {
        let at = match self.state {
            _ if self.out.is_some() => return None,
            State::Open => self.due(),
            // The gate tells.
            State::Ready | State::Closing if !self.gate.is_quiet() => return None,
            _ => self.not_before,
        };
        Some(at.max(self.not_before))
    }

    pub(super) fn start(&mut self, state: State, step: BoxFuture<'static, TransactionStep>) {
        self.state = state;
        self.out = Some(step);
    }

    pub(super) fn open_producer(&mut self) {
        let open = self.source.open(&self.id, self.timeout);
        let step = async { TransactionStep::Opened(open.await) };
        self.start(State::Opening, Box::pin(step));
    }

    pub(super) fn begin(&mut self) {
        // What the last one held is committed, or was begun anew.
        self.gate.clear();
        if let Some(producer) = self.producer.clone() {
            let step = async move { TransactionStep::Begun(producer.begin().await) };
            self.start(State::Ready, Box::pin(step));
        }
    }

    /// To be called with the gate closed.
    pub(super) fn abort(&mut self) {
        self.must_abort = false;
        self.quota = 1;
        if let Some(producer) = self.producer.clone() {
            let step = async move { TransactionStep::Aborted(producer.abort().await) };
            self.start(State::Aborting, Box::pin(step));
        }
    }

    pub(super) fn later(&mut self, now: Instant) {
        self.not_before = now + self.backoff.next_delay();
    }

    /// When the open transaction is to end.
    pub(super) fn due(&self) -> Instant {
        let since = self.gate.since();
        if self.hurried || since.is_over {
            return self.not_before;
        }
        let due = since.begun.map(|begun| begun + self.interval);
        let due = due.unwrap_or(self.idle_due);
        self.old_at(since).map_or(due, |at| at.min(due))
    }

    /// When the open transaction is so old that no call may begin in it.
    pub(super) fn old_at(&self, since: Since) -> Option<Instant> {
        Some(since.entered? + self.patience)
    }

    /// Lets calls begin: in a new transaction, or again in the same one.
    pub(super) fn open_gate(&mut self, is_new: bool, now: Instant) {
        if let Some(producer) = &self.producer {
            let publish: Arc<dyn Publish> = Arc::new(producer.clone());
            match is_new {
                true => self.gate.open(publish, self.quota),
                false => self.gate.reopen(publish),
            }
            self.state = State::Open;
            self.idle_due = now + self.idle_interval;
        }
    }

    /// Aborts what is open, within a short time, so that readers need not wait for its time-out.
    pub(in crate::member) async fn finish(mut self) {
        self.gate.close();
        self.out = None;
        if let Some(producer) = self.producer {
            match tokio::time::timeout(LAST_ABORT, producer.abort()).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::warn!(%error, "the last transaction was not aborted"),
                Err(_) => tracing::warn!(id = self.id, "the last abort took too long"),
            }
        }
    }
}

/// The end of the step that is under way; for ever pending without transactions. Safe to cancel.
pub(in crate::member) async fn next_step(transactor: &mut Option<Transactor>) -> TransactionStep {
    match transactor {
        Some(transactor) => transactor.step().await,
        None => std::future::pending().await,
    }
}
