//! SyncGroup, Heartbeat, LeaveGroup, and whether a commit is from a member of this generation.

use bytes::Bytes;

use super::{Group, State, SyncAnswer, Ticket, Waiting};
use crate::codes;

/// Who calls, as of which generation.
#[derive(Clone, Debug)]
pub(crate) struct MemberCall {
    pub(crate) member_id: String,
    pub(crate) instance_id: Option<String>,
    pub(crate) generation: i32,
}

#[derive(Clone, Debug)]
pub(crate) struct SyncRequest {
    pub(crate) caller: MemberCall,
    pub(crate) protocol_type: Option<String>,
    pub(crate) protocol: Option<String>,
    /// Member id to assignment; from the leader only.
    pub(crate) assignments: Vec<(String, Bytes)>,
}

#[derive(Clone, Debug)]
pub(crate) struct LeaveRequest {
    pub(crate) member_id: String,
    pub(crate) instance_id: Option<String>,
}

impl Group {
    pub(crate) fn sync(&mut self, request: SyncRequest, ticket: Ticket, now: u64) {
        if let Err(error) = self.try_sync(request, ticket, now) {
            self.answer_sync(ticket, SyncAnswer::refused(error));
        }
    }

    fn try_sync(&mut self, request: SyncRequest, ticket: Ticket, now: u64) -> Result<(), i16> {
        self.check_caller(&request.caller)?;
        let differs = |given: &Option<String>, ours: Option<&str>| {
            given.as_deref().is_some_and(|given| Some(given) != ours)
        };
        if differs(&request.protocol_type, self.protocol_type())
            || differs(&request.protocol, self.protocol())
        {
            return Err(codes::INCONSISTENT_GROUP_PROTOCOL);
        }
        let id = request.caller.member_id;
        match self.state {
            State::Empty => Err(codes::UNKNOWN_MEMBER_ID),
            State::Preparing { .. } => Err(codes::REBALANCE_IN_PROGRESS),
            State::Completing { .. } => {
                self.refuse_waiting(&id, codes::REBALANCE_IN_PROGRESS);
                if let Some(member) = self.members.get_mut(&id) {
                    member.waiting = Waiting::Sync(ticket);
                    member.synced = true;
                }
                if self.leader.as_ref() == Some(&id) {
                    self.assign(request.assignments);
                    self.become_stable(now);
                }
                Ok(())
            }
            State::Stable => {
                let Some(member) = self.members.get_mut(&id) else {
                    return Err(codes::UNKNOWN_MEMBER_ID);
                };
                member.synced = true;
                member.touch(now);
                let assignment = member.assignment.clone();
                let answer = self.sync_answer(assignment);
                self.answer_sync(ticket, answer);
                Ok(())
            }
        }
    }

    /// Members that the leader left out get nothing.
    fn assign(&mut self, assignments: Vec<(String, Bytes)>) {
        for member in self.members.values_mut() {
            member.assignment = Bytes::new();
        }
        for (id, assignment) in assignments {
            if let Some(member) = self.members.get_mut(&id) {
                member.assignment = assignment;
            }
        }
    }

    fn check_caller(&self, caller: &MemberCall) -> Result<(), i16> {
        self.check_identity(&caller.member_id, caller.instance_id.as_deref())?;
        if caller.generation != self.generation {
            return Err(codes::ILLEGAL_GENERATION);
        }
        Ok(())
    }

    pub(crate) fn heartbeat(&mut self, caller: &MemberCall, now: u64) -> i16 {
        if let Err(error) = self.check_caller(caller) {
            return error;
        }
        if let Some(member) = self.members.get_mut(&caller.member_id) {
            member.touch(now);
        }
        match self.state {
            State::Empty => codes::UNKNOWN_MEMBER_ID,
            State::Preparing { .. } => codes::REBALANCE_IN_PROGRESS,
            State::Completing { .. } | State::Stable => codes::NONE,
        }
    }

    /// A static member may be named by its instance id alone (an administrator does so).
    pub(crate) fn leave(&mut self, request: &LeaveRequest, now: u64) -> i16 {
        let id = match (&request.instance_id, request.member_id.as_str()) {
            (Some(instance), "") => match self.statics.get(instance) {
                Some(id) => id.clone(),
                None => return codes::UNKNOWN_MEMBER_ID,
            },
            (None, id) if self.pending.contains_key(id) => {
                self.pending.remove(id);
                self.try_complete(now);
                return codes::NONE;
            }
            (instance, id) => match self.check_identity(id, instance.as_deref()) {
                Ok(()) => id.to_owned(),
                Err(error) => return error,
            },
        };
        self.remove_member(&id, now);
        codes::NONE
    }

    /// Whether offsets may be committed by this caller. A consumer outside the protocol says
    /// generation -1 and no member id, and only an empty group takes that.
    pub(crate) fn check_commit(&mut self, caller: &MemberCall, now: u64) -> i16 {
        let outsider = caller.generation < 0 && caller.member_id.is_empty();
        if outsider && caller.instance_id.is_none() {
            return match self.state {
                State::Empty if !self.is_consumer() => codes::NONE,
                _ => codes::UNKNOWN_MEMBER_ID,
            };
        }
        if self.is_consumer() {
            return self.check_epoch(caller);
        }
        if let Err(error) = self.check_caller(caller) {
            return error;
        }
        if let Some(member) = self.members.get_mut(&caller.member_id) {
            member.touch(now);
        }
        match self.state {
            State::Completing { .. } => codes::REBALANCE_IN_PROGRESS,
            State::Empty | State::Preparing { .. } | State::Stable => codes::NONE,
        }
    }

    fn check_epoch(&self, caller: &MemberCall) -> i16 {
        let instance = caller.instance_id.as_deref();
        self.consumer
            .check_epoch(&caller.member_id, instance, caller.generation)
    }

    /// Whether a transaction may commit offsets for this caller (KIP-447). Unlike a plain commit,
    /// one without a member is taken in every state, and one within a rebalance, too.
    pub(crate) fn check_transactional_commit(&mut self, caller: &MemberCall, now: u64) -> i16 {
        let outsider = caller.generation < 0 && caller.member_id.is_empty();
        if outsider && caller.instance_id.is_none() {
            return codes::NONE;
        }
        if self.is_consumer() {
            return match self.check_epoch(caller) {
                codes::STALE_MEMBER_EPOCH => codes::ILLEGAL_GENERATION,
                code => code,
            };
        }
        if let Err(error) = self.check_caller(caller) {
            return error;
        }
        if let Some(member) = self.members.get_mut(&caller.member_id) {
            member.touch(now);
        }
        codes::NONE
    }
}
