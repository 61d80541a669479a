//! What answers mean.
//!
//! | code | InitProducerId | Add… | TxnOffsetCommit | EndTxn |
//! |---|---|---|---|---|
//! | passes (14, 15, 16, 51, 3, …) | again | again | again | again; a commit is unclear after 7, 15, 16 |
//! | -1, no answer | again | again | again | again; a commit is unclear from then on |
//! | 47, 90 epoch | fenced | in doubt | in doubt | in doubt |
//! | 49, 59 id | fatal | in doubt | in doubt | in doubt |
//! | 48 state | fatal | fatal | fatal | in doubt |
//! | 53 denied | fatal | fatal | fatal | fatal |
//! | 22, 25, 82, 113 member | | | abort | |
//! | others | fatal | abort | abort | commit: 120 abort, else as no answer; abort: in doubt |
//!
//! "In doubt" is settled by InitProducerId with the own id and epoch: granted, the transaction is
//! gone (aborted there) and the producer goes on; refused for the epoch, it is fenced.

use super::{Answer, Cause, Goal, Lost, Machine, Phase};
use ottla_types::transactions::{
    EndTxnResponse, InitProducerIdResponse, TransactionVersion, TxnOffsetCommitResponse,
};
use ottla_types::{ErrorCode, TopicPartition, TransactErrorKind};
use std::sync::Arc;
use std::time::Instant;

/// What a code means for the transaction, where it is no success.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Again,
    InDoubt,
    Abort,
    Fatal,
}

/// Of AddPartitionsToTxn, AddOffsetsToTxn and TxnOffsetCommit.
fn verdict(code: ErrorCode) -> Verdict {
    match code {
        ErrorCode::INVALID_PRODUCER_EPOCH
        | ErrorCode::PRODUCER_FENCED
        | ErrorCode::INVALID_PRODUCER_ID_MAPPING
        | ErrorCode::UNKNOWN_PRODUCER_ID => Verdict::InDoubt,
        ErrorCode::INVALID_TXN_STATE | ErrorCode::TRANSACTIONAL_ID_AUTHORIZATION_FAILED => {
            Verdict::Fatal
        }
        // The others of the request say why.
        ErrorCode::OPERATION_NOT_ATTEMPTED | ErrorCode::UNKNOWN_SERVER_ERROR => Verdict::Again,
        code if code.is_retriable() => Verdict::Again,
        _ => Verdict::Abort,
    }
}

impl Machine {
    /// The answer to the request that [`poll`](Self::poll) gave out.
    pub(crate) fn answered(&mut self, api: &'static str, answer: Answer, now: Instant) {
        self.in_flight = false;
        match answer {
            Answer::Init(version, granted) => self.initialised(version, granted, now),
            Answer::AddPartitions(codes) => self.partitions_added(api, codes, now),
            Answer::AddOffsets(code) => self.group_added(api, code, now),
            Answer::CommitOffsets(codes) => self.offsets_taken(api, codes, now),
            Answer::End(ended) => self.ended(ended, now),
            Answer::Lost(lost) => self.lost(api, lost, now),
        }
    }

    fn again(&mut self, now: Instant) {
        self.retry_at = Some(now + self.backoff.next_delay());
    }

    fn initialised(
        &mut self,
        version: TransactionVersion,
        granted: InitProducerIdResponse,
        now: Instant,
    ) {
        let producer = match granted {
            Ok(producer) => producer,
            Err(code) => return self.not_initialised(code, now),
        };
        self.producer = Some(producer);
        self.version = version;
        self.stale = false;
        self.forget_transaction();
        match self.operation.as_ref().map(|o| &o.goal) {
            Some(Goal::Initialise | Goal::Abort) => self.settle(),
            Some(Goal::Begin) => self.open(),
            // The transaction is gone, and nothing took its place.
            Some(Goal::Commit | Goal::SendOffsets { .. }) => {
                let cause = self.cause.take();
                self.phase = Phase::Failed;
                self.cause = cause.or_else(|| Some(Arc::new(Cause::AbortedThere)));
                let error = self.standing();
                self.finish(Err(error));
            }
            None => {}
        }
    }

    fn not_initialised(&mut self, code: ErrorCode, now: Instant) {
        let api = "InitProducerId";
        match code {
            ErrorCode::INVALID_PRODUCER_EPOCH | ErrorCode::PRODUCER_FENCED => {
                self.die(TransactErrorKind::Fenced, Cause::Refused { api, code });
            }
            ErrorCode::UNKNOWN_SERVER_ERROR | ErrorCode::TRANSACTION_ABORTABLE => self.again(now),
            code if code.is_retriable() => self.again(now),
            code => self.die(TransactErrorKind::Fatal, Cause::Refused { api, code }),
        }
    }

    fn partitions_added(
        &mut self,
        api: &'static str,
        codes: Vec<(TopicPartition, ErrorCode)>,
        now: Instant,
    ) {
        let mut is_again = false;
        for (partition, code) in codes {
            if code.is_ok() {
                self.pending.remove(&partition);
                self.added.insert(partition);
            } else {
                is_again |= self.refused(api, code);
            }
        }
        self.made_progress_unless(is_again, now);
    }

    fn group_added(&mut self, api: &'static str, code: ErrorCode, now: Instant) {
        self.opened = true;
        let is_again = !code.is_ok() && self.refused(api, code);
        if code.is_ok()
            && let Some(Goal::SendOffsets { group, .. }) = self.operation.as_ref().map(|o| &o.goal)
        {
            self.groups.insert(group.group_id.clone());
        }
        self.made_progress_unless(is_again, now);
    }

    fn offsets_taken(&mut self, api: &'static str, codes: TxnOffsetCommitResponse, now: Instant) {
        self.opened = true;
        let mut is_again = false;
        for (partition, code) in codes {
            if !code.is_ok() {
                is_again |= self.refused(api, code);
            } else if let Some(operation) = &mut self.operation
                && let Goal::SendOffsets { left, .. } = &mut operation.goal
            {
                left.retain(|offset| offset.partition != partition);
            }
        }
        self.made_progress_unless(is_again, now);
        if let Some(Goal::SendOffsets { left, .. }) = self.operation.as_ref().map(|o| &o.goal)
            && left.is_empty()
        {
            self.finish(Ok(()));
        }
    }

    /// Reacts to a code that is no success; whether to ask again.
    fn refused(&mut self, api: &'static str, code: ErrorCode) -> bool {
        let cause = Cause::Refused { api, code };
        let verdict = verdict(code);
        self.in_doubt |= verdict == Verdict::InDoubt;
        match verdict {
            Verdict::Again => return true,
            Verdict::Fatal => self.die(TransactErrorKind::Fatal, cause),
            // The first cause stays.
            Verdict::InDoubt | Verdict::Abort if self.phase == Phase::Open => self.fail(cause),
            Verdict::InDoubt | Verdict::Abort => {}
        }
        false
    }

    /// After an answer to what was added or committed: another try, the next step, or the end of
    /// the operation.
    fn made_progress_unless(&mut self, is_again: bool, now: Instant) {
        if is_again && self.phase == Phase::Open {
            return self.again(now);
        }
        self.retry_at = None;
        self.backoff.reset();
        self.end_offsets_if_failed();
    }

    fn ended(&mut self, ended: EndTxnResponse, now: Instant) {
        let is_commit = self.same(|goal| matches!(goal, Goal::Commit)).is_some();
        match ended {
            Ok(producer) => {
                self.producer = Some(producer);
                // What was lost on the way cannot pass a new epoch.
                if self.version == TransactionVersion::V2 {
                    self.stale = false;
                } else {
                    self.stale |= !is_commit;
                }
                self.forget_transaction();
                self.settle();
            }
            Err(code) => self.not_ended(is_commit, code, now),
        }
    }

    fn not_ended(&mut self, is_commit: bool, code: ErrorCode, now: Instant) {
        let refused = Cause::Refused {
            api: "EndTxn",
            code,
        };
        match code {
            ErrorCode::TRANSACTIONAL_ID_AUTHORIZATION_FAILED => {
                self.die(TransactErrorKind::Fatal, refused);
            }
            code if code.is_retriable() => {
                // Also the answers of a coordinator that has written the decision into its log, and
                // did not hear of its followers in time or has lost the log to one of them.
                self.may_be_committed |= is_commit
                    && matches!(
                        code,
                        ErrorCode::COORDINATOR_NOT_AVAILABLE
                            | ErrorCode::NOT_COORDINATOR
                            | ErrorCode::REQUEST_TIMED_OUT
                    );
                self.again(now);
            }
            ErrorCode::INVALID_PRODUCER_EPOCH
            | ErrorCode::PRODUCER_FENCED
            | ErrorCode::INVALID_PRODUCER_ID_MAPPING
            | ErrorCode::UNKNOWN_PRODUCER_ID => self.doubt(refused),
            ErrorCode::TRANSACTION_ABORTABLE if is_commit => {
                self.fail(refused);
                let error = self.standing();
                self.finish(Err(error));
            }
            // The coordinator has aborted it for its time, or an attempt that was not answered has
            // ended it.
            ErrorCode::INVALID_TXN_STATE => self.doubt(refused),
            // UNKNOWN_SERVER_ERROR, and what nobody expects: no clear answer.
            _ if is_commit => {
                self.may_be_committed = true;
                self.stale = true;
                self.cause = Some(Arc::new(refused));
                self.again(now);
            }
            ErrorCode::UNKNOWN_SERVER_ERROR => self.again(now),
            // An abort that is refused: what is left is InitProducerId's.
            _ => self.doubt(refused),
        }
    }

    /// Leaves it to InitProducerId.
    fn doubt(&mut self, cause: Cause) {
        self.in_doubt = true;
        self.cause = Some(Arc::new(cause));
        self.retry_at = None;
        self.backoff.reset();
    }

    fn lost(&mut self, api: &'static str, lost: Lost, now: Instant) {
        let Lost {
            may_be_done,
            may_pass,
            error,
        } = lost;
        let cause = Cause::NoAnswer { api, error };
        if may_be_done {
            self.stale = true;
            if api == "EndTxn" && self.same(|goal| matches!(goal, Goal::Commit)).is_some() {
                self.may_be_committed = true;
            }
            if matches!(api, "AddOffsetsToTxn" | "TxnOffsetCommit") {
                self.opened = true;
            }
        }
        if may_pass {
            tracing::debug!(transactional_id = &*self.id, api, cause = ?cause, "asking again");
            return self.again(now);
        }
        self.give_up(cause);
    }

    /// The operation under way, or the adding of partitions, leads nowhere.
    pub(super) fn give_up(&mut self, cause: Cause) {
        let unavailable = |machine: &Self, cause| {
            machine
                .error(TransactErrorKind::Unavailable)
                .with_source(cause)
        };
        match self.operation.as_ref().map(|o| &o.goal) {
            Some(Goal::Initialise | Goal::Begin) => {
                let error = unavailable(self, cause);
                self.finish(Err(error));
            }
            Some(Goal::SendOffsets { .. }) => {
                self.fail(cause);
                let error = self.standing();
                self.finish(Err(error));
            }
            Some(Goal::Commit) if self.may_be_committed => {
                self.phase = Phase::Unsettled;
                self.cause = Some(Arc::new(cause));
                let error = self.standing();
                self.finish(Err(error));
            }
            Some(Goal::Commit) => {
                self.fail(cause);
                let error = self.standing();
                self.finish(Err(error));
            }
            Some(Goal::Abort) => {
                // The next abort leaves it to InitProducerId.
                self.in_doubt = true;
                if self.phase == Phase::Ending {
                    self.phase = Phase::Failed;
                }
                let error = unavailable(self, cause);
                self.finish(Err(error));
            }
            None if self.phase == Phase::Open => self.fail(cause),
            None => {}
        }
    }
}
