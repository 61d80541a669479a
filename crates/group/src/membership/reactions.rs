//! What answers, failures and the passing of time do: one function for each source.

use super::state::{AfterRevocation, Proof, Slot, State, Timer};
use super::types::{CommitIdentity, CommitVerdict, MembershipError, Operation, RequestId};
use super::{Membership, Phase, ResponseBody};
use ottla_types::ErrorCode;

impl Membership {
    pub(super) fn on_response(&mut self, id: RequestId, body: ResponseBody) {
        if let Some(sent_ms) = self.heartbeat.sent_ms(id) {
            self.heartbeat = Slot::Idle;
            self.heartbeat_at = Some(self.next_heartbeat(sent_ms));
            match body {
                ResponseBody::Heartbeat(code) => self.on_heartbeat(code, sent_ms),
                _ => self.retry_heartbeat(),
            }
        } else if let Some(sent_ms) = self.call.sent_ms(id) {
            match (self.phase(), body) {
                (Phase::Joining, ResponseBody::Join(answer)) => self.on_join(answer, sent_ms),
                (Phase::Syncing, ResponseBody::Sync(answer)) => self.on_sync(answer, sent_ms),
                _ => self.retry_call(),
            }
        } else if self.farewell_out == Some(id) {
            self.on_farewell_over();
        }
    }

    pub(super) fn on_failed(&mut self, id: RequestId) {
        if self.heartbeat.sent_ms(id).is_some() {
            self.retry_heartbeat();
        } else if self.call.sent_ms(id).is_some() {
            self.retry_call();
        } else if self.farewell_out == Some(id) {
            self.on_farewell_over();
        }
    }

    /// Whatever the answer was: a member that cannot say goodbye is forgotten after its session.
    fn on_farewell_over(&mut self) {
        self.farewell_out = None;
        if matches!(self.state, State::Leaving) {
            self.finish_leaving();
        }
    }

    fn on_heartbeat(&mut self, code: ErrorCode, sent_ms: i64) {
        match code {
            ErrorCode::NONE => self.prove(sent_ms, true),
            ErrorCode::REBALANCE_IN_PROGRESS => {
                self.prove(sent_ms, false);
                // In every other state a rebalance is under way already.
                if matches!(self.state, State::Stable) {
                    self.rejoin.get_or_insert("the group is rebalancing");
                    self.begin_rejoin();
                }
            }
            ErrorCode::ILLEGAL_GENERATION => self.on_illegal_generation(),
            ErrorCode::UNKNOWN_MEMBER_ID => self.on_unknown_member(),
            code if code.is_retriable() => self.retry_heartbeat(),
            code => self.refused(Operation::Heartbeat, code),
        }
    }

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

    fn retry_heartbeat(&mut self) {
        let wait = self.backoff.first_ms();
        self.heartbeat = Slot::Idle;
        self.heartbeat_at = Some(self.now_ms.saturating_add(wait));
    }

    /// The coordinator knows the member, in another generation. A cooperative member keeps what it
    /// has and claims it again; an eager one cannot know who has it now.
    pub(super) fn on_illegal_generation(&mut self) {
        if !self.is_cooperative() {
            self.lose();
        }
        match &self.state {
            State::Revoking(r) if self.owned.is_empty() => self.after_revocation(r.then),
            State::Stable | State::AwaitingMetadata(_) | State::Syncing(_) => {
                self.rejoin.get_or_insert("illegal generation");
                self.begin_rejoin();
            }
            _ => {}
        }
    }

    /// The coordinator has forgotten the member: its partitions are or will be somebody else's.
    pub(super) fn on_unknown_member(&mut self) {
        self.lose();
        self.member_id.clear();
        match &self.state {
            State::Revoking(r) => self.after_revocation(r.then),
            State::Stable | State::AwaitingMetadata(_) | State::Syncing(_) | State::Joining => {
                self.rejoin.get_or_insert("unknown member id");
                self.join_now();
            }
            _ => {}
        }
    }

    pub(super) fn refused(&mut self, operation: Operation, code: ErrorCode) {
        self.fail(MembershipError::Refused { operation, code });
    }

    /// Tells the answer to a commit that was sent as `identity`, and says what to do about it. With
    /// several partitions, call it for each code that occurs.
    pub fn commit_result(
        &mut self,
        identity: &CommitIdentity,
        code: ErrorCode,
        now_ms: i64,
    ) -> CommitVerdict {
        self.now_ms = self.now_ms.max(now_ms);
        self.fire_timers();
        self.end_without_partitions();
        if code.is_ok() {
            return CommitVerdict::Committed;
        }
        if self.has_ended() {
            return CommitVerdict::Abandoned;
        }
        match code {
            ErrorCode::ILLEGAL_GENERATION if self.is_current(identity) => {
                self.on_commit_generation()
            }
            ErrorCode::UNKNOWN_MEMBER_ID if identity.member_id == self.member_id => {
                self.on_unknown_member();
                self.end_without_partitions();
                CommitVerdict::Abandoned
            }
            ErrorCode::REBALANCE_IN_PROGRESS if self.is_current(identity) => {
                if matches!(self.state, State::Stable) {
                    self.rejoin.get_or_insert("the group is rebalancing");
                    self.begin_rejoin();
                }
                CommitVerdict::RetryAfterRebalance
            }
            // An answer that was overtaken by a new assignment. That one is no longer to come, so
            // nothing may wait for it.
            ErrorCode::ILLEGAL_GENERATION
            | ErrorCode::UNKNOWN_MEMBER_ID
            | ErrorCode::REBALANCE_IN_PROGRESS => match self.owned.is_empty() {
                true => CommitVerdict::Abandoned,
                false => CommitVerdict::Retry,
            },
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

    fn on_commit_generation(&mut self) -> CommitVerdict {
        // While a cooperative rebalance runs, the coordinator is ahead of the assignment: this says
        // nothing about it.
        if matches!(self.state, State::Stable) {
            self.on_illegal_generation();
        }
        if self.is_cooperative() && !self.owned.is_empty() {
            CommitVerdict::RetryAfterRebalance
        } else {
            CommitVerdict::Abandoned
        }
    }

    fn is_current(&self, identity: &CommitIdentity) -> bool {
        self.owned_generation == Some(identity.generation) && self.member_id == identity.member_id
    }

    pub(super) fn may_beat(&self) -> bool {
        self.joined.is_some()
            && match self.state {
                State::AwaitingMetadata(_) | State::Stable | State::Revoking(_) => true,
                State::Syncing(_) => !self.call.is_out(),
                _ => false,
            }
    }

    /// When a timer fires; each timer is here and in [`Self::fire`] only.
    pub(super) fn due_at(&self, timer: Timer) -> Option<i64> {
        match timer {
            Timer::Backoff => self.backoff_at,
            Timer::Heartbeat => self.heartbeat_at.filter(|_| self.may_beat()),
            Timer::Ownership => self.ownership_ends_at(),
        }
    }

    fn ownership_ends_at(&self) -> Option<i64> {
        let proof = self.proof.filter(|_| !self.owned.is_empty())?;
        let rebalanced = proof
            .settled_ms
            .saturating_add(self.config.rebalance_timeout_ms.into());
        let session = i64::from(self.config.session_timeout_ms);
        let expired = proof.alive_ms.saturating_add(session);
        // A join or sync that waits at the coordinator keeps the session alive. One that did not
        // get there is reported within a third of the session timeout, so it counts as waiting only
        // if it was sent early enough for that.
        let waits = match self.call {
            Slot::Out { sent_ms, .. } => sent_ms.saturating_add(session / 3) <= expired,
            _ => false,
        };
        Some(if waits {
            rebalanced
        } else {
            rebalanced.min(expired)
        })
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
            Timer::Ownership => self.on_ownership_over(),
            Timer::Backoff => {
                self.backoff_at = None;
                match self.state {
                    State::AwaitingMetadata(_) => {
                        self.call = Slot::Idle;
                        self.ask_for_metadata_again();
                    }
                    _ => self.call = Slot::Due,
                }
            }
            Timer::Heartbeat => {
                self.heartbeat_at = None;
                if self.heartbeat == Slot::Idle {
                    self.heartbeat = Slot::Due;
                }
            }
        }
    }

    fn on_ownership_over(&mut self) {
        self.lose();
        match &self.state {
            State::Stable => {
                self.rejoin.get_or_insert("the session expired");
                self.join_now();
            }
            State::Revoking(r) => {
                let then = r.then;
                if then == AfterRevocation::Rejoin {
                    self.rejoin.get_or_insert("the session expired");
                }
                self.after_revocation(then);
            }
            // A call that is out, or about to be, finds out where the member stands.
            _ => {}
        }
    }
}
