//! What answers, failures and the passing of time do.

use super::ConsumerMembership;
use super::state::{AfterRevocation, Asking, State, Timer};
use crate::membership::{
    CommitIdentity, CommitVerdict, MembershipError, Operation, Proof, RequestId, ResponseBody, Slot,
};
use ottla_types::ErrorCode;
use ottla_types::coordinator::ConsumerHeartbeatResponse;

impl ConsumerMembership {
    pub(super) fn on_response(&mut self, id: RequestId, body: ResponseBody) {
        let ResponseBody::ConsumerHeartbeat(answer) = body else {
            return self.on_failed(id);
        };
        if let Some(sent_ms) = self.heartbeat.sent_ms(id) {
            self.heartbeat = Slot::Idle;
            match answer.error {
                ErrorCode::NONE => self.on_heartbeat(answer, sent_ms),
                code => self.on_heartbeat_error(code, answer.message),
            }
        } else if self.farewell.sent_ms(id).is_some() {
            self.farewell = Slot::Idle;
            self.on_farewell(answer.error);
        }
    }

    pub(super) fn on_failed(&mut self, id: RequestId) {
        if self.heartbeat.sent_ms(id).is_some() {
            self.heartbeat = Slot::Idle;
            self.retry();
        } else if self.farewell.sent_ms(id).is_some() {
            self.farewell = Slot::Idle;
            self.on_farewell_failed();
        }
    }

    pub(super) fn on_not_offered(&mut self, id: RequestId) {
        if self.heartbeat.sent_ms(id).is_some() && self.epoch == 0 {
            self.held = false;
            self.fail(MembershipError::NotOffered);
        } else {
            self.on_failed(id);
        }
    }

    fn on_heartbeat(&mut self, answer: ConsumerHeartbeatResponse, sent_ms: i64) {
        self.backoff.reset();
        self.told = self.saying.take();
        if let Some(id) = answer.member_id.filter(|id| !id.is_empty()) {
            self.member_id = id;
        }
        self.epoch = answer.member_epoch;
        self.interval_ms = i64::from(answer.heartbeat_interval_ms).max(1);
        self.heartbeat_at = Some(sent_ms.saturating_add(self.interval_ms));
        if matches!(self.state, State::Joining) {
            self.proof = None;
            self.go(State::Stable);
        }
        match answer.assignment {
            Some(assignment) => self.on_target(assignment),
            None => self.reconcile(false),
        }
        let settled = self.said_settled && !matches!(self.state, State::Revoking(_));
        self.prove(sent_ms, settled);
        let news = self.told.as_ref().is_none_or(|told| self.news(told));
        if news && matches!(self.state, State::Stable) {
            self.beat_now();
        }
    }

    /// The coordinator has counted this member in since `sent_ms`; `settled` when it does not wait
    /// for partitions that it took back before that.
    fn prove(&mut self, sent_ms: i64, settled: bool) {
        let old = self.proof.unwrap_or(Proof {
            alive_ms: sent_ms,
            settled_ms: sent_ms,
        });
        self.proof = Some(Proof {
            alive_ms: old.alive_ms.max(sent_ms),
            settled_ms: if settled {
                old.settled_ms.max(sent_ms)
            } else {
                old.settled_ms
            },
        });
    }

    fn on_heartbeat_error(&mut self, code: ErrorCode, message: Option<String>) {
        match code {
            ErrorCode::FENCED_MEMBER_EPOCH
            | ErrorCode::UNKNOWN_MEMBER_ID
            | ErrorCode::STALE_MEMBER_EPOCH => self.on_fenced(code),
            // The place may be held by a join of this process whose answer was lost, and is released
            // then. If it is somebody else's, the next join is refused for good.
            ErrorCode::UNRELEASED_INSTANCE_ID if self.has_lost_join => {
                self.farewell = Slot::Due;
                self.retry();
            }
            ErrorCode::UNSUPPORTED_VERSION if self.epoch == 0 => {
                self.fail(MembershipError::NotOffered);
            }
            ErrorCode::INVALID_REGULAR_EXPRESSION => {
                let pattern = self.pattern.clone();
                self.fail(MembershipError::InvalidPattern {
                    pattern,
                    reason: message,
                });
            }
            code if code.is_retriable() => self.retry(),
            code => self.refused(Operation::ConsumerHeartbeat, code),
        }
    }

    /// The coordinator has given the partitions to others: they are lost, and the member joins anew.
    pub(super) fn on_fenced(&mut self, code: ErrorCode) {
        self.lose();
        if code == ErrorCode::UNKNOWN_MEMBER_ID {
            self.held = false;
        }
        match &self.state {
            // A coordinator that forgets every id at once must not be asked in a tight loop.
            State::Joining => self.retry(),
            State::Stable => self.join(),
            State::Revoking(r) => match r.then {
                AfterRevocation::Acknowledge => self.join(),
                then => self.after_revocation(then),
            },
            _ => {}
        }
    }

    /// A farewell was answered; a static member that joins has released its place with it.
    fn on_farewell(&mut self, code: ErrorCode) {
        // FENCED_INSTANCE_ID: the place is another member's, who may have released it; the join tells.
        let gone = matches!(
            code,
            ErrorCode::NONE | ErrorCode::UNKNOWN_MEMBER_ID | ErrorCode::FENCED_INSTANCE_ID
        );
        if gone {
            self.held = false;
            self.has_lost_join = false;
        }
        match self.state {
            State::Leaving => self.finish_leaving(),
            State::Joining if gone => {}
            State::Joining if code.is_retriable() => self.on_farewell_failed(),
            State::Joining if self.config.instance_id.is_some() => {
                self.refused(Operation::ConsumerHeartbeat, code);
            }
            _ => {}
        }
    }

    fn on_farewell_failed(&mut self) {
        match self.state {
            State::Leaving => self.finish_leaving(),
            // A static member that joins cannot do so before its place is free.
            State::Joining if self.config.instance_id.is_some() => {
                self.farewell = Slot::Waiting;
                let wait = self.backoff.next_ms();
                self.heartbeat_at = Some(self.now_ms.saturating_add(wait));
            }
            _ => {}
        }
    }

    pub(super) fn refused(&mut self, operation: Operation, code: ErrorCode) {
        self.fail(MembershipError::Refused { operation, code });
    }

    /// Tries again after a while, and says everything then. What was assigned and is not owned yet may
    /// have been taken back meanwhile; the next answer says it anew.
    fn retry(&mut self) {
        self.told = None;
        self.saying = None;
        self.target = None;
        let joining = matches!(self.state, State::Joining);
        if joining && self.held && self.config.instance_id.is_some() {
            self.has_lost_join = true;
        }
        let wait = if joining {
            self.backoff.next_ms()
        } else {
            self.backoff.first_ms()
        };
        self.heartbeat = Slot::Idle;
        self.heartbeat_at = Some(self.now_ms.saturating_add(wait));
    }

    /// A heartbeat as soon as none is out.
    pub(super) fn beat_now(&mut self) {
        if self.heartbeat == Slot::Idle {
            self.heartbeat = Slot::Due;
        }
    }

    pub(super) fn may_beat(&self) -> bool {
        match self.state {
            // What went before must not be overtaken.
            State::Joining => self.farewell == Slot::Idle,
            State::Stable | State::Revoking(_) => true,
            _ => false,
        }
    }

    /// Tells the answer to a commit that was sent as `identity`, and says what to do about it. With
    /// several partitions, call it for each code that occurs.
    ///
    /// A commit with an older epoch than the coordinator's answers 113 (or 35 below OffsetCommit 9):
    /// it goes again with the newest one, which the next heartbeat brings.
    pub fn commit_result(
        &mut self,
        identity: &CommitIdentity,
        code: ErrorCode,
        now_ms: i64,
    ) -> CommitVerdict {
        self.now_ms = self.now_ms.max(now_ms);
        self.fire_timers();
        if code.is_ok() {
            return CommitVerdict::Committed;
        }
        if self.has_ended() {
            return CommitVerdict::Abandoned;
        }
        let current = identity.member_id == self.member_id && identity.generation == self.epoch;
        match code {
            ErrorCode::STALE_MEMBER_EPOCH
            | ErrorCode::UNSUPPORTED_VERSION
            | ErrorCode::ILLEGAL_GENERATION
            | ErrorCode::REBALANCE_IN_PROGRESS => {
                if current {
                    self.beat_now();
                }
                self.retry_if_owned()
            }
            ErrorCode::UNKNOWN_MEMBER_ID | ErrorCode::FENCED_MEMBER_EPOCH if current => {
                self.on_fenced(code);
                CommitVerdict::Abandoned
            }
            ErrorCode::UNKNOWN_MEMBER_ID | ErrorCode::FENCED_MEMBER_EPOCH => self.retry_if_owned(),
            ErrorCode::FENCED_INSTANCE_ID
            | ErrorCode::GROUP_AUTHORIZATION_FAILED
            | ErrorCode::INVALID_GROUP_ID => {
                self.refused(Operation::Commit, code);
                CommitVerdict::Fatal
            }
            code if code.is_retriable() => CommitVerdict::Retry,
            _ => CommitVerdict::Rejected,
        }
    }

    fn retry_if_owned(&self) -> CommitVerdict {
        match self.owned.is_empty() {
            true => CommitVerdict::Abandoned,
            false => CommitVerdict::Retry,
        }
    }

    /// When a timer fires; each timer is here and in [`Self::fire`] only.
    pub(super) fn due_at(&self, timer: Timer) -> Option<i64> {
        match timer {
            Timer::Ownership => {
                let proof = self.proof.filter(|_| !self.owned.is_empty())?;
                let session = proof.alive_ms + i64::from(self.config.session_timeout_ms);
                let rebalance = proof.settled_ms + i64::from(self.config.rebalance_timeout_ms);
                Some(session.min(rebalance))
            }
            Timer::Heartbeat => self.heartbeat_at.filter(|_| {
                self.farewell == Slot::Waiting || self.may_beat() && self.heartbeat == Slot::Idle
            }),
            Timer::Names => match self.asking {
                Asking::Again(at) => Some(at),
                Asking::Idle | Asking::Out => None,
            },
        }
    }

    pub(super) fn fire_timers(&mut self) {
        for timer in Timer::ALL {
            if self.due_at(timer).is_some_and(|at| at <= self.now_ms) {
                self.fire(timer);
            }
        }
    }

    fn fire(&mut self, timer: Timer) {
        match timer {
            Timer::Ownership => {
                // The coordinator may still know the member, so this is no UNKNOWN_MEMBER_ID.
                self.on_fenced(ErrorCode::FENCED_MEMBER_EPOCH);
            }
            Timer::Heartbeat => {
                self.heartbeat_at = None;
                if self.farewell == Slot::Waiting {
                    self.farewell = Slot::Due;
                }
                self.heartbeat = Slot::Due;
            }
            Timer::Names => self.ask_again(),
        }
    }
}
