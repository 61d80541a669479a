//! The rebalance itself: when it starts, whom it waits for, and what ends it.

use super::{Group, State, SyncAnswer, Waiting};
use crate::codes;

impl Group {
    /// A member is waiting for a join answer: starts a rebalance, or completes the running one.
    pub(super) fn member_joined(&mut self, now: u64) {
        match self.state {
            State::Preparing {
                deadline,
                not_before,
            } if not_before > now => {
                // KIP-134: each new member prolongs the first wait, within the rebalance timeout.
                let not_before = now.saturating_add(self.initial_delay_ms).min(deadline);
                self.state = State::Preparing {
                    deadline,
                    not_before,
                };
            }
            State::Preparing { .. } => {}
            State::Empty | State::Completing { .. } | State::Stable => {
                self.prepare_rebalance(now);
            }
        }
        self.try_complete(now);
    }

    pub(super) fn prepare_rebalance(&mut self, now: u64) {
        let ids: Vec<String> = self.members.keys().cloned().collect();
        for id in &ids {
            if let Some(member) = self.members.get(id)
                && matches!(member.waiting, Waiting::Sync(_))
            {
                self.refuse_waiting(id, codes::REBALANCE_IN_PROGRESS);
                if let Some(member) = self.members.get_mut(id) {
                    member.touch(now);
                }
            }
        }
        let deadline = now.saturating_add(self.rebalance_timeout());
        let not_before = match self.state {
            State::Empty => now.saturating_add(self.initial_delay_ms).min(deadline),
            _ => now,
        };
        self.state = State::Preparing {
            deadline,
            not_before,
        };
    }

    fn rebalance_timeout(&self) -> u64 {
        self.members
            .values()
            .map(|member| member.rebalance_timeout_ms)
            .max()
            .unwrap_or(1)
    }

    pub(super) fn everybody_joined(&self) -> bool {
        self.pending.is_empty()
            && self
                .members
                .values()
                .all(|member| matches!(member.waiting, Waiting::Join(_)))
    }

    /// Completes the rebalance if nothing is left to wait for.
    pub(super) fn try_complete(&mut self, now: u64) {
        if let State::Preparing {
            deadline,
            not_before,
        } = self.state
            && (now >= deadline || (self.everybody_joined() && now >= not_before))
        {
            self.complete_join(now);
        }
    }

    fn complete_join(&mut self, now: u64) {
        let absent = |member: &super::Member| {
            member.instance_id.is_none() && !matches!(member.waiting, Waiting::Join(_))
        };
        self.members.retain(|_, member| !absent(member));
        if self.members.is_empty() {
            self.become_empty();
            return;
        }
        let joined = |id: &String| {
            let member = self.members.get(id);
            member.is_some_and(|member| matches!(member.waiting, Waiting::Join(_)))
        };
        let leader = self.leader.as_ref().filter(|id| joined(id));
        let leader = leader
            .or_else(|| self.members.keys().find(|id| joined(id)))
            .cloned();
        let deadline = now.saturating_add(self.rebalance_timeout());
        if leader.is_none() {
            // Only static members are left and none of them is here: keep waiting for one.
            self.state = State::Preparing {
                deadline,
                not_before: now,
            };
            return;
        }
        self.leader = leader;
        self.generation += 1;
        self.protocol = self.choose_protocol();
        self.state = State::Completing { deadline };
        let ids: Vec<String> = self.members.keys().cloned().collect();
        for id in ids {
            let answer = self.joined_answer(&id);
            let Some(member) = self.members.get_mut(&id) else {
                continue;
            };
            member.synced = false;
            if let Waiting::Join(ticket) = std::mem::replace(&mut member.waiting, Waiting::Nothing)
            {
                member.touch(now);
                self.answer_join(ticket, answer);
            }
        }
    }

    fn become_empty(&mut self) {
        self.generation += 1;
        self.protocol = None;
        self.leader = None;
        self.statics.clear();
        self.state = State::Empty;
    }

    /// Of the protocols that all members know, the one that most of them put first.
    fn choose_protocol(&self) -> Option<String> {
        let knows =
            |member: &super::Member, name: &str| member.protocols.iter().any(|(n, _)| n == name);
        let common = |name: &str| self.members.values().all(|member| knows(member, name));
        let mut votes: Vec<(String, usize)> = Vec::new();
        for member in self.members.values() {
            let Some((name, _)) = member.protocols.iter().find(|(name, _)| common(name)) else {
                continue;
            };
            match votes.iter_mut().find(|(voted, _)| voted == name) {
                Some((_, count)) => *count += 1,
                None => votes.push((name.clone(), 1)),
            }
        }
        votes
            .into_iter()
            .rev()
            .max_by_key(|(_, count)| *count)
            .map(|(name, _)| name)
    }

    /// Takes a member out; what it waits for is refused.
    pub(super) fn remove_member(&mut self, id: &str, now: u64) {
        self.refuse_waiting(id, codes::UNKNOWN_MEMBER_ID);
        let Some(member) = self.members.remove(id) else {
            return;
        };
        if let Some(instance) = member.instance_id {
            self.statics.remove(&instance);
        }
        if self.leader.as_deref() == Some(id) {
            self.leader = self.members.keys().next().cloned();
        }
        if matches!(self.state, State::Completing { .. } | State::Stable) {
            self.prepare_rebalance(now);
        }
        self.try_complete(now);
    }

    /// Does what is due at `now`: lapsed ids, expired sessions, rebalances that waited enough.
    pub(crate) fn tick(&mut self, now: u64) {
        self.consumer.tick(now);
        self.pending.retain(|_, lapses| *lapses > now);
        let expired = self.members.iter().filter(|(_, member)| {
            matches!(member.waiting, Waiting::Nothing) && member.session_deadline <= now
        });
        for id in expired.map(|(id, _)| id.clone()).collect::<Vec<_>>() {
            self.remove_member(&id, now);
        }
        if let State::Completing { deadline } = self.state
            && now >= deadline
        {
            // The members that never asked for their assignment lose their place.
            let late = self.members.iter().filter(|(_, member)| !member.synced);
            for id in late.map(|(id, _)| id.clone()).collect::<Vec<_>>() {
                self.remove_member(&id, now);
            }
            if let State::Completing { .. } = self.state {
                self.prepare_rebalance(now);
            }
        }
        self.try_complete(now);
    }

    /// The leader's assignment is here: everybody who waits for it gets its part.
    pub(super) fn become_stable(&mut self, now: u64) {
        self.state = State::Stable;
        let mut answers = Vec::new();
        for member in self.members.values_mut() {
            if let Waiting::Sync(ticket) = member.waiting {
                member.waiting = Waiting::Nothing;
                member.touch(now);
                answers.push((ticket, member.assignment.clone()));
            }
        }
        for (ticket, assignment) in answers {
            let answer = self.sync_answer(assignment);
            self.answer_sync(ticket, answer);
        }
    }

    pub(super) fn sync_answer(&self, assignment: bytes::Bytes) -> SyncAnswer {
        SyncAnswer {
            error: codes::NONE,
            protocol_type: self.protocol_type.clone(),
            protocol: self.protocol.clone(),
            assignment,
        }
    }

    /// The coordinator moves to another broker: whoever waits must ask there. The members keep
    /// their places and a full session to find it.
    pub(crate) fn resign(&mut self, now: u64) {
        self.consumer.resign(now);
        for id in self.members.keys().cloned().collect::<Vec<_>>() {
            self.refuse_waiting(&id, codes::NOT_COORDINATOR);
            if let Some(member) = self.members.get_mut(&id) {
                member.touch(now);
            }
        }
    }
}
