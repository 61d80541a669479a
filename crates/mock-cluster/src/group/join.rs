//! JoinGroup: who may join, under which id, and whether that starts a rebalance.
//!
//! KIP-394: a new dynamic member is given an id first (MEMBER_ID_REQUIRED) and joins with it.
//! KIP-345: a static member is known by its instance id and takes its old place back.

use bytes::Bytes;

use super::{Group, JoinAnswer, MAX_MEMBERS, Member, State, Ticket, Waiting};
use crate::codes;

/// The longest session that is accepted; Kafka's default maximum.
const MAX_SESSION_TIMEOUT_MS: i32 = 30 * 60 * 1000;
/// The longest time a rebalance may wait.
const MAX_REBALANCE_TIMEOUT_MS: i32 = 60 * 60 * 1000;
/// The most protocols that one member may offer.
const MAX_PROTOCOLS: usize = 100;

#[derive(Clone, Debug)]
pub(crate) struct JoinRequest {
    pub(crate) member_id: String,
    pub(crate) instance_id: Option<String>,
    pub(crate) protocol_type: String,
    pub(crate) protocols: Vec<(String, Bytes)>,
    pub(crate) session_timeout_ms: i32,
    pub(crate) rebalance_timeout_ms: i32,
    pub(crate) client_id: String,
    pub(crate) client_host: String,
    /// The id that the member gets if it needs one.
    pub(crate) candidate_id: String,
    /// Version 4 and up: a dynamic member must come back with the id it was given.
    pub(crate) requires_known_id: bool,
    /// Version 9 and up.
    pub(crate) can_skip_assignment: bool,
}

impl Group {
    pub(crate) fn join(&mut self, request: JoinRequest, ticket: Ticket, now: u64) {
        if let Err(error) = self.try_join(&request, ticket, now) {
            self.answer_join(ticket, JoinAnswer::refused(error, &request.member_id));
        }
    }

    fn try_join(&mut self, request: &JoinRequest, ticket: Ticket, now: u64) -> Result<(), i16> {
        if !(1..=MAX_SESSION_TIMEOUT_MS).contains(&request.session_timeout_ms) {
            return Err(codes::INVALID_SESSION_TIMEOUT);
        }
        if self.is_consumer() || !self.supports(request) {
            return Err(codes::INCONSISTENT_GROUP_PROTOCOL);
        }
        match (request.member_id.as_str(), request.instance_id.as_deref()) {
            ("", Some(instance)) => match self.statics.get(instance).cloned() {
                Some(old_id) => self.replace_static(&old_id, request, ticket, now),
                None => return self.add_member(request.candidate_id.clone(), request, ticket, now),
            },
            ("", None) if request.requires_known_id => return self.give_id(request, ticket, now),
            ("", None) => {
                return self.add_member(request.candidate_id.clone(), request, ticket, now);
            }
            (id, instance) => {
                if instance.is_none() && self.pending.contains_key(id) {
                    return self.add_member(id.to_owned(), request, ticket, now);
                }
                self.check_identity(id, instance)?;
                self.rejoin(request, ticket, now)?;
            }
        }
        Ok(())
    }

    fn supports(&self, request: &JoinRequest) -> bool {
        if request.protocol_type.is_empty()
            || request.protocols.is_empty()
            || request.protocols.len() > MAX_PROTOCOLS
        {
            return false;
        }
        let others = || {
            let own = self.own_id(request);
            self.members
                .iter()
                .filter(move |(id, _)| Some(id.as_str()) != own)
        };
        if others().next().is_none() {
            return true;
        }
        self.protocol_type.as_ref() == Some(&request.protocol_type)
            && request.protocols.iter().any(|(name, _)| {
                others().all(|(_, member)| member.protocols.iter().any(|(n, _)| n == name))
            })
    }

    fn own_id<'a>(&'a self, request: &'a JoinRequest) -> Option<&'a str> {
        match request.member_id.as_str() {
            "" => self
                .statics
                .get(request.instance_id.as_ref()?)
                .map(String::as_str),
            id => Some(id),
        }
    }

    /// The fencing that every call of a member goes through.
    pub(super) fn check_identity(&self, id: &str, instance: Option<&str>) -> Result<(), i16> {
        if let Some(instance) = instance {
            return match self.statics.get(instance) {
                None => Err(codes::UNKNOWN_MEMBER_ID),
                Some(owner) if owner != id => Err(codes::FENCED_INSTANCE_ID),
                Some(_) => Ok(()),
            };
        }
        if self.members.contains_key(id) {
            Ok(())
        } else {
            Err(codes::UNKNOWN_MEMBER_ID)
        }
    }

    fn give_id(&mut self, request: &JoinRequest, ticket: Ticket, now: u64) -> Result<(), i16> {
        self.check_room()?;
        let id = request.candidate_id.clone();
        let lapses = now.saturating_add(timeout(request.session_timeout_ms));
        self.answer_join(ticket, JoinAnswer::refused(codes::MEMBER_ID_REQUIRED, &id));
        self.pending.insert(id, lapses);
        Ok(())
    }

    fn check_room(&self) -> Result<(), i16> {
        if self.members.len() + self.pending.len() >= MAX_MEMBERS {
            return Err(codes::GROUP_MAX_SIZE_REACHED);
        }
        Ok(())
    }

    fn add_member(
        &mut self,
        id: String,
        request: &JoinRequest,
        ticket: Ticket,
        now: u64,
    ) -> Result<(), i16> {
        if self.pending.remove(&id).is_none() {
            self.check_room()?;
        }
        let mut member = Member {
            instance_id: request.instance_id.clone(),
            client_id: request.client_id.clone(),
            client_host: request.client_host.clone(),
            protocols: request.protocols.clone(),
            session_timeout_ms: 0,
            rebalance_timeout_ms: 0,
            session_deadline: 0,
            waiting: Waiting::Join(ticket),
            synced: false,
            assignment: Bytes::new(),
        };
        update(&mut member, request, now);
        if self.members.is_empty() {
            self.protocol_type = Some(request.protocol_type.clone());
        }
        if let Some(instance) = &request.instance_id {
            self.statics.insert(instance.clone(), id.clone());
        }
        self.leader.get_or_insert_with(|| id.clone());
        self.members.insert(id, member);
        self.member_joined(now);
        Ok(())
    }

    /// A member that the group knows joins again.
    fn rejoin(&mut self, request: &JoinRequest, ticket: Ticket, now: u64) -> Result<(), i16> {
        let id = request.member_id.as_str();
        let is_leader = self.leader.as_deref() == Some(id);
        let member = self.members.get_mut(id).ok_or(codes::UNKNOWN_MEMBER_ID)?;
        let unchanged = member.protocols == request.protocols;
        let needs_rebalance = match self.state {
            State::Empty => return Err(codes::UNKNOWN_MEMBER_ID),
            State::Preparing { .. } => true,
            // The answer to its join was lost: it gets it again.
            State::Completing { .. } => !unchanged,
            // The leader joins again when the topics changed.
            State::Stable => is_leader || !unchanged,
        };
        update(member, request, now);
        self.refuse_waiting(id, codes::REBALANCE_IN_PROGRESS);
        if needs_rebalance {
            self.wait_for_join(id, ticket);
            self.member_joined(now);
        } else {
            let answer = self.joined_answer(id);
            self.answer_join(ticket, answer);
        }
        Ok(())
    }

    /// A static member came back without its id: it takes its place over under a new one, and
    /// whoever still uses the old id is fenced.
    fn replace_static(&mut self, old_id: &str, request: &JoinRequest, ticket: Ticket, now: u64) {
        self.refuse_waiting(old_id, codes::FENCED_INSTANCE_ID);
        let Some(mut member) = self.members.remove(old_id) else {
            return;
        };
        let id = request.candidate_id.clone();
        let was_leader = self.leader.as_deref() == Some(old_id);
        let protocol = self.protocol.clone();
        let before = member.metadata(protocol.as_deref());
        update(&mut member, request, now);
        let unchanged = before == member.metadata(protocol.as_deref());
        if let Some(instance) = &request.instance_id {
            self.statics.insert(instance.clone(), id.clone());
        }
        if was_leader {
            self.leader = Some(id.clone());
        }
        self.members.insert(id.clone(), member);
        if matches!(self.state, State::Stable) && unchanged {
            let mut answer = self.joined_answer(&id);
            answer.skip_assignment = was_leader && request.can_skip_assignment;
            if was_leader && !request.can_skip_assignment {
                // It must not assign anew: it is told that its former self leads.
                answer.leader = old_id.to_owned();
                answer.members.clear();
            }
            self.answer_join(ticket, answer);
        } else {
            self.wait_for_join(&id, ticket);
            self.member_joined(now);
        }
    }

    fn wait_for_join(&mut self, id: &str, ticket: Ticket) {
        if let Some(member) = self.members.get_mut(id) {
            member.waiting = Waiting::Join(ticket);
        }
    }

    /// What a member of the current generation is answered.
    pub(super) fn joined_answer(&self, id: &str) -> JoinAnswer {
        let is_leader = self.leader.as_deref() == Some(id);
        let members = self
            .members
            .iter()
            .filter(|_| is_leader)
            .map(|(id, member)| {
                (
                    id.clone(),
                    member.instance_id.clone(),
                    member.metadata(self.protocol()),
                )
            });
        JoinAnswer {
            error: codes::NONE,
            generation: self.generation,
            protocol_type: self.protocol_type.clone(),
            protocol: self.protocol.clone(),
            leader: self.leader.clone().unwrap_or_default(),
            skip_assignment: false,
            member_id: id.to_owned(),
            members: members.collect(),
        }
    }
}

fn update(member: &mut Member, request: &JoinRequest, now: u64) {
    member.protocols.clone_from(&request.protocols);
    member.session_timeout_ms = timeout(request.session_timeout_ms);
    member.rebalance_timeout_ms = timeout(
        request
            .rebalance_timeout_ms
            .clamp(1, MAX_REBALANCE_TIMEOUT_MS),
    );
    member.client_id.clone_from(&request.client_id);
    member.client_host.clone_from(&request.client_host);
    member.touch(now);
}

fn timeout(ms: i32) -> u64 {
    u64::try_from(ms).unwrap_or_default()
}
