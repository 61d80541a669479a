//! A transactional producer as a pure state machine: no clock, no sockets; `now` is passed in.
//!
//! The user's side are [`initialise`](Machine::initialise), [`begin`](Machine::begin),
//! [`send_offsets`](Machine::send_offsets), [`commit`](Machine::commit) and
//! [`abort`](Machine::abort), each with a deadline, whose result [`result`](Machine::result) gives
//! when it is there; and [`admit`](Machine::admit) before a write. The coordinator's side is
//! [`poll`](Machine::poll), which names the next request, and [`answered`](Machine::answered). One
//! request is under way at a time.
//!
//! ```text
//!                        InitProducerId             begin
//!      Uninitialised ───────────────────▶ Ready ──────────▶ Open ◀─┐ writes, offsets
//!                                         ▲ ▲ ▲              │ │ └──┘
//!                    EndTxn answered well │ │ └── nothing ───┘ │ error
//!                                         │ │     was written  ▼
//!                                   Ending ◀┼──── abort ── Failed ◀─ the commit was refused
//!                                         │ │ InitProducerId   ▲
//!       no clear answer to a commit       │ └──────────────────┤
//!                                         └──▶ Unsettled ──────┘ abort
//!      any: fenced, or nothing helps ───▶ Dead
//! ```
//!
//! What must hold:
//! - a commit is reported done only on the coordinator's word. Without a clear answer the same
//!   EndTxn is asked again (which tells, and changes nothing) until the deadline; then the outcome
//!   is unknown, and InitProducerId with the own id and epoch makes an end of what may be left; with
//!   version 1 an EndTxn that aborts comes before it, because a Kafka 3 shuts out a producer whose
//!   transaction InitProducerId finds open;
//! - no request of a transaction can reach the one after it: with version 2 each EndTxn raises the
//!   epoch; with version 1, after a request that was not answered and after every abort,
//!   InitProducerId does (KIP-360, KIP-890);
//! - a refusal for the epoch is not taken for fencing at once: the coordinator aborts a transaction
//!   that takes too long in the same way. InitProducerId with the own id and epoch tells the two
//!   apart, except with a Kafka 3, which shuts the late one out, too; an epoch that another producer
//!   was given never passes;
//! - nothing is asked any more when the machine is dead.

mod cause;
mod reactions;
mod requests;
#[cfg(test)]
mod tests;

pub(crate) use cause::Cause;
pub(crate) use requests::{Answer, Lost, Request, Step};

use ottla_client::Backoff;
use ottla_types::coordinator::CommitOffset;
use ottla_types::transactions::{GroupMetadata, TransactionVersion};
use ottla_types::{
    ProducerId, PublishError, PublishErrorKind, TopicPartition, TransactError, TransactErrorKind,
};
use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The waits before a request is made again, as long as in the Java client at first.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// No id yet.
    Uninitialised,
    /// Between transactions.
    Ready,
    /// In a transaction.
    Open,
    /// EndTxn is being asked.
    Ending,
    /// The transaction can only be aborted.
    Failed,
    /// A commit was asked for, and nobody knows whether it was carried out.
    Unsettled,
    /// Nothing helps.
    Dead(TransactErrorKind),
}

/// What the user asked for last and is not done yet.
#[derive(Debug)]
struct Operation {
    number: u64,
    goal: Goal,
    deadline: Instant,
}

#[derive(Debug)]
enum Goal {
    Initialise,
    Begin,
    SendOffsets {
        group: GroupMetadata,
        left: Vec<CommitOffset>,
    },
    Commit,
    Abort,
}

/// The name of an operation, for its result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ticket(u64);

/// Whether a write may go out now.
#[derive(Debug)]
pub(crate) enum Admission {
    /// It may.
    Now,
    /// When the coordinator has its partition.
    Later,
    /// Never in this transaction.
    Never(TransactError),
}

#[derive(Debug)]
pub(crate) struct Machine {
    id: Arc<str>,
    timeout_ms: i32,
    version: TransactionVersion,
    producer: Option<ProducerId>,
    phase: Phase,
    /// Why it is `Failed`, `Unsettled` or `Dead`.
    cause: Option<Arc<Cause>>,
    /// What was sent in this epoch may still arrive, or sequences of it are unclear: another epoch,
    /// before the next transaction.
    stale: bool,
    /// Only InitProducerId tells how things stand.
    in_doubt: bool,
    /// The coordinator may have an open transaction of ours.
    opened: bool,
    /// An EndTxn with a commit was sent, and not answered.
    may_be_committed: bool,
    /// With version 1: the partitions that the coordinator has, and those that it is to get.
    added: HashSet<TopicPartition>,
    pending: BTreeSet<TopicPartition>,
    /// With version 1: the groups that the coordinator has.
    groups: HashSet<String>,
    operation: Option<Operation>,
    finished: Option<(u64, Result<(), TransactError>)>,
    operations: u64,
    in_flight: bool,
    retry_at: Option<Instant>,
    backoff: Backoff,
}

impl Machine {
    /// A producer of this transactional id, whose transactions may take `timeout_ms`.
    pub(crate) fn new(id: Arc<str>, timeout_ms: i32, seed: u64) -> Self {
        Self {
            id,
            timeout_ms,
            version: TransactionVersion::V1,
            producer: None,
            phase: Phase::Uninitialised,
            cause: None,
            stale: false,
            in_doubt: false,
            opened: false,
            may_be_committed: false,
            added: HashSet::new(),
            pending: BTreeSet::new(),
            groups: HashSet::new(),
            operation: None,
            finished: None,
            operations: 0,
            in_flight: false,
            retry_at: None,
            backoff: Backoff::with_seed(BACKOFF.0, BACKOFF.1, seed),
        }
    }

    /// The id and epoch that writes carry now.
    pub(crate) fn producer(&self) -> Option<ProducerId> {
        self.producer
    }

    /// Which protocol is spoken since the last InitProducerId.
    pub(crate) fn version(&self) -> TransactionVersion {
        self.version
    }

    /// Whether writes are admitted.
    #[cfg(test)]
    pub(crate) fn is_open(&self) -> bool {
        self.phase == Phase::Open
    }

    /// Gets the first id and epoch, which shuts out whoever had the transactional id before.
    pub(crate) fn initialise(&mut self, deadline: Instant) -> Result<Ticket, TransactError> {
        match self.phase {
            Phase::Uninitialised => self.start(Goal::Initialise, deadline),
            _ => Err(self.unfit(Cause::Initialised)),
        }
    }

    pub(crate) fn begin(&mut self, deadline: Instant) -> Result<Ticket, TransactError> {
        match self.phase {
            Phase::Ready => {}
            Phase::Uninitialised => return Err(self.unfit(Cause::Uninitialised)),
            Phase::Open | Phase::Ending => return Err(self.unfit(Cause::AlreadyOpen)),
            Phase::Failed | Phase::Unsettled | Phase::Dead(_) => return Err(self.standing()),
        }
        let ticket = self.start(Goal::Begin, deadline)?;
        if !self.stale {
            self.open();
        }
        Ok(ticket)
    }

    /// A write of these partitions is about to go out.
    pub(crate) fn admit(&mut self, partition: &TopicPartition) -> Admission {
        match self.phase {
            Phase::Open => {
                self.opened = true;
                if self.version == TransactionVersion::V2 || self.added.contains(partition) {
                    return Admission::Now;
                }
                self.pending.insert(partition.clone());
                Admission::Later
            }
            Phase::Failed | Phase::Unsettled | Phase::Dead(_) => Admission::Never(self.standing()),
            _ => Admission::Never(self.unfit(Cause::NotOpen)),
        }
    }

    /// A record of the open transaction was given up.
    pub(crate) fn write_failed(&mut self, error: &PublishError) {
        if self.phase != Phase::Open {
            return;
        }
        if error.kind() == PublishErrorKind::Fenced {
            self.in_doubt = true;
        }
        self.fail(Cause::Write(error.clone()));
        if !self.in_flight {
            self.end_offsets_if_failed();
        }
    }

    /// Offsets that are to be committed with the open transaction.
    pub(crate) fn send_offsets(
        &mut self,
        group: GroupMetadata,
        offsets: Vec<CommitOffset>,
        deadline: Instant,
    ) -> Result<Ticket, TransactError> {
        self.check_open()?;
        let is_empty = offsets.is_empty();
        let left = offsets;
        let ticket = self.start(Goal::SendOffsets { group, left }, deadline)?;
        if is_empty && !self.in_doubt {
            self.finish(Ok(()));
        }
        Ok(ticket)
    }

    /// Commits. All writes have had their results by now.
    pub(crate) fn commit(&mut self, deadline: Instant) -> Result<Ticket, TransactError> {
        if let Some(ticket) = self.same(|goal| matches!(goal, Goal::Commit)) {
            return Ok(ticket);
        }
        self.check_open()?;
        let ticket = self.start(Goal::Commit, deadline)?;
        self.pending.clear();
        if self.phase == Phase::Failed {
            return Ok(ticket);
        }
        if self.opened {
            self.phase = Phase::Ending;
        } else {
            // EndTxn would be refused: the coordinator knows of no transaction.
            self.settle();
        }
        Ok(ticket)
    }

    /// Aborts. What was not sent is dropped by now.
    pub(crate) fn abort(&mut self, deadline: Instant) -> Result<Ticket, TransactError> {
        if let Some(ticket) = self.same(|goal| matches!(goal, Goal::Abort)) {
            return Ok(ticket);
        }
        if let Phase::Dead(_) = self.phase {
            return Err(self.standing());
        }
        let ticket = self.start(Goal::Abort, deadline)?;
        self.pending.clear();
        match self.phase {
            Phase::Open | Phase::Failed if self.opened || self.in_doubt => {
                self.phase = Phase::Ending;
            }
            // InitProducerId settles it.
            Phase::Unsettled => {}
            Phase::Open | Phase::Failed => self.settle(),
            _ => self.finish(Ok(())),
        }
        Ok(ticket)
    }

    /// Whether no operation is under way.
    pub(crate) fn is_idle(&self) -> bool {
        self.operation.is_none()
    }

    /// The records that have no result yet will never get a good one.
    pub(crate) fn abandon(&mut self, cause: Cause) {
        if self.phase == Phase::Open {
            self.fail(cause);
        }
    }

    /// What is told of a step that a close cut short.
    pub(crate) fn closed(&self) -> TransactError {
        self.error(TransactErrorKind::Unavailable)
            .with_source(Cause::Closed)
    }

    /// How an operation ended; nothing while it is under way. Only the last one's result is kept.
    pub(crate) fn result(&self, ticket: Ticket) -> Option<Result<(), TransactError>> {
        match &self.finished {
            Some((number, result)) if *number >= ticket.0 => Some(result.clone()),
            _ => None,
        }
    }

    /// Whether something can only be settled by an end of the transaction, or is open.
    fn check_open(&self) -> Result<(), TransactError> {
        match self.phase {
            Phase::Open => Ok(()),
            // InitProducerId decides first whether it is only this transaction.
            Phase::Failed if self.in_doubt => Ok(()),
            Phase::Failed | Phase::Unsettled | Phase::Dead(_) => Err(self.standing()),
            Phase::Uninitialised | Phase::Ready | Phase::Ending => Err(self.unfit(Cause::NotOpen)),
        }
    }

    fn same(&self, is_same: impl Fn(&Goal) -> bool) -> Option<Ticket> {
        let operation = self.operation.as_ref()?;
        is_same(&operation.goal).then_some(Ticket(operation.number))
    }

    fn start(&mut self, goal: Goal, deadline: Instant) -> Result<Ticket, TransactError> {
        if self.operation.is_some() {
            return Err(self.unfit(Cause::Busy));
        }
        self.operations += 1;
        let number = self.operations;
        self.operation = Some(Operation {
            number,
            goal,
            deadline,
        });
        self.retry_at = None;
        self.backoff.reset();
        Ok(Ticket(number))
    }

    fn finish(&mut self, result: Result<(), TransactError>) {
        self.retry_at = None;
        self.backoff.reset();
        if let Some(operation) = self.operation.take() {
            self.finished = Some((operation.number, result));
        }
    }

    /// A transaction begins.
    fn open(&mut self) {
        self.phase = Phase::Open;
        self.cause = None;
        self.finish(Ok(()));
    }

    /// No transaction is open or unclear any more.
    fn settle(&mut self) {
        self.phase = Phase::Ready;
        self.cause = None;
        self.may_be_committed = false;
        self.finish(Ok(()));
    }

    /// Offsets need not go into a transaction that can only be aborted. In doubt, InitProducerId
    /// comes first.
    fn end_offsets_if_failed(&mut self) {
        let is_offsets = |goal: &Goal| matches!(goal, Goal::SendOffsets { .. });
        if self.phase == Phase::Failed && !self.in_doubt && self.same(is_offsets).is_some() {
            let error = self.standing();
            self.finish(Err(error));
        }
    }

    /// Nothing of a transaction is at the coordinator any more.
    fn forget_transaction(&mut self) {
        self.opened = false;
        self.in_doubt = false;
        self.added.clear();
        self.pending.clear();
        self.groups.clear();
    }

    /// The transaction can only be aborted.
    fn fail(&mut self, cause: Cause) {
        self.phase = Phase::Failed;
        self.cause = Some(Arc::new(cause));
        self.pending.clear();
    }

    fn die(&mut self, kind: TransactErrorKind, cause: Cause) {
        self.phase = Phase::Dead(kind);
        self.cause = Some(Arc::new(cause));
        self.forget_transaction();
        let error = self.standing();
        self.finish(Err(error));
    }

    fn error(&self, kind: TransactErrorKind) -> TransactError {
        TransactError::new(kind, Arc::clone(&self.id))
    }

    fn unfit(&self, cause: Cause) -> TransactError {
        self.error(TransactErrorKind::InvalidState)
            .with_source(cause)
    }

    /// The error that stands until something is done about it.
    fn standing(&self) -> TransactError {
        let kind = match self.phase {
            Phase::Dead(kind) => kind,
            Phase::Unsettled => TransactErrorKind::UnknownOutcome,
            _ if self.may_be_committed => TransactErrorKind::UnknownOutcome,
            _ => TransactErrorKind::Abortable,
        };
        let error = match &self.cause {
            Some(cause) => self.error(kind).with_source(Arc::clone(cause)),
            None => self.error(kind),
        };
        if self.may_be_committed {
            error.maybe_committed()
        } else {
            error
        }
    }
}
