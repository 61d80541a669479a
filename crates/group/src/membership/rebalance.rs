//! Joining and syncing: what a member claims, what a leader decides, what an assignment changes.

use super::state::{AfterRevocation, Joined, Lead, Proof, Revocation, Slot, State};
use super::types::{MembershipError, MembershipEvent, Operation, RequestBody};
use super::{Membership, Phase};
use crate::assign::{Assignor, Claim, Member, RebalanceProtocol, TopicCounts};
use crate::protocol::{Assignment, Subscription};
use bytes::Bytes;
use ottla_types::coordinator::{
    JoinGroupMember, JoinGroupRequest, JoinGroupResponse, SyncGroupRequest, SyncGroupResponse,
};
use ottla_types::{ErrorCode, TopicPartition};
use std::collections::BTreeSet;

const PROTOCOL_TYPE: &str = "consumer";

impl Membership {
    /// Gives up what must be given up before a join (everything in the eager protocol, partitions
    /// of topics that are not subscribed any more in the cooperative one), then joins.
    pub(super) fn begin_rejoin(&mut self) {
        let give_up: BTreeSet<TopicPartition> = if self.is_cooperative() {
            let foreign = |tp: &&TopicPartition| !self.topics.contains(&tp.topic);
            self.owned.iter().filter(foreign).cloned().collect()
        } else {
            self.owned.clone()
        };
        if give_up.is_empty() || self.ending.is_some() {
            self.join_now();
        } else {
            self.revoke(give_up, AfterRevocation::Rejoin);
        }
    }

    pub(super) fn join_now(&mut self) {
        self.forget_generation();
        self.go(State::Joining);
        self.call = Slot::Due;
    }

    /// The join or sync that the state asks for.
    pub(super) fn next_call(&mut self) -> Option<RequestBody> {
        match &self.state {
            State::Joining => Some(RequestBody::Join(self.join_request())),
            State::Syncing(request) => Some(RequestBody::Sync(request.clone())),
            _ => None,
        }
    }

    fn join_request(&mut self) -> JoinGroupRequest {
        self.claimed = self.owned.clone();
        let assignors = self.config.assignors.iter();
        let protocols = assignors.map(|a| (a.name().to_owned(), self.subscription(*a).encode()));
        JoinGroupRequest {
            session_timeout_ms: self.config.session_timeout_ms,
            rebalance_timeout_ms: self.config.rebalance_timeout_ms,
            member_id: self.member_id.clone(),
            instance_id: self.config.instance_id.clone(),
            protocol_type: PROTOCOL_TYPE.to_owned(),
            protocols: protocols.collect(),
            reason: self.rejoin.take().map(str::to_owned),
        }
    }

    fn subscription(&self, assignor: Assignor) -> Subscription {
        let claim = match assignor.protocol() {
            // What was given up before the join is what should come back.
            RebalanceProtocol::Eager => self.previous.clone(),
            RebalanceProtocol::Cooperative => Claim {
                partitions: Vec::new(),
                generation: self.owned_generation,
            },
        };
        Subscription {
            topics: self.topics.iter().cloned().collect(),
            user_data: assignor.user_data(&claim),
            owned: self.owned.iter().cloned().collect(),
            // To a member that joins as it did before, a coordinator gives its generation back, in
            // which whoever still works on what was lost could commit. With the generation named,
            // the subscription is another one, and brings a new generation.
            generation: self.owned_generation.or(self.lost_generation),
            rack: self.config.rack.clone(),
        }
    }

    pub(super) fn on_join(&mut self, response: JoinGroupResponse, sent_ms: i64) {
        if let Err(code) = response.error.into_result() {
            return self.on_join_error(code, response.member_id);
        }
        let name = response.protocol.unwrap_or_default();
        let Some(assignor) =
            Assignor::from_name(&name).filter(|a| self.config.assignors.contains(a))
        else {
            return self.fail(MembershipError::UnknownAssignor { name });
        };
        self.backoff.reset();
        let leads = response.leader == response.member_id;
        self.member_id = response.member_id;
        self.joined = Some(Joined {
            generation: response.generation,
            assignor,
            leads,
        });
        self.prove_slowly(sent_ms);
        self.watched.clear();
        let lead = leads.then(|| Lead::of(response.members, assignor));
        match lead {
            Some(lead) if !response.skip_assignment => {
                let topics: Vec<_> = lead.topics.iter().cloned().collect();
                let answered = lead.is_answered();
                self.go(State::AwaitingMetadata(lead));
                self.heartbeat_at = Some(self.next_heartbeat(self.now_ms));
                if answered {
                    self.assign_and_sync();
                } else {
                    self.events
                        .push_back(MembershipEvent::NeedMetadata { topics });
                }
            }
            // KIP-814: the coordinator keeps the assignment of a static leader that came back; it
            // only watches its topics from here.
            Some(lead) => {
                self.watched = lead.topics.into_iter().map(|t| (t, None)).collect();
                self.sync(Vec::new());
            }
            None => self.sync(Vec::new()),
        }
    }

    fn on_join_error(&mut self, code: ErrorCode, member_id: String) {
        match code {
            ErrorCode::MEMBER_ID_REQUIRED if !member_id.is_empty() => {
                let first = std::mem::replace(&mut self.member_id, member_id).is_empty();
                if first {
                    self.join_now();
                } else {
                    self.retry_call();
                }
            }
            ErrorCode::UNKNOWN_MEMBER_ID => {
                self.lose();
                self.member_id.clear();
                // A coordinator that forgets every id at once must not be asked in a tight loop.
                self.retry_call();
            }
            ErrorCode::REBALANCE_IN_PROGRESS | ErrorCode::ILLEGAL_GENERATION => self.retry_call(),
            code if code.is_retriable() => self.retry_call(),
            code => self.refused(Operation::Join, code),
        }
    }

    pub(super) fn on_metadata_failed(&mut self) {
        if matches!(self.state, State::AwaitingMetadata(_)) {
            self.retry_call();
        }
    }

    pub(super) fn ask_for_metadata_again(&mut self) {
        if let State::AwaitingMetadata(lead) = &self.state {
            self.events.push_back(MembershipEvent::NeedMetadata {
                topics: lead.topics.iter().cloned().collect(),
            });
        }
    }

    /// The leader's duty, once it knows all partition counts.
    pub(super) fn assign_and_sync(&mut self) {
        let (State::AwaitingMetadata(lead), Some(joined)) = (&self.state, self.joined) else {
            return;
        };
        let existing: TopicCounts = lead
            .counts
            .iter()
            .filter(|(topic, count)| **count > 0 && lead.topics.contains(*topic))
            .map(|(topic, count)| (topic.clone(), *count))
            .collect();
        let assignments = joined
            .assignor
            .assign(&lead.members, &existing)
            .into_iter()
            .map(|(member, partitions)| {
                let assignment = Assignment {
                    partitions,
                    user_data: None,
                };
                (member, assignment.encode())
            })
            .collect();
        self.watched = lead
            .topics
            .iter()
            .map(|t| (t.clone(), Some(existing.get(t).copied().unwrap_or(0))))
            .collect();
        self.sync(assignments);
    }

    fn sync(&mut self, assignments: Vec<(String, Bytes)>) {
        let Some(joined) = self.joined else {
            return;
        };
        self.go(State::Syncing(SyncGroupRequest {
            generation: joined.generation,
            member_id: self.member_id.clone(),
            instance_id: self.config.instance_id.clone(),
            protocol_type: PROTOCOL_TYPE.to_owned(),
            protocol: joined.assignor.name().to_owned(),
            assignments,
        }));
        self.call = Slot::Due;
    }

    pub(super) fn on_sync(&mut self, response: SyncGroupResponse, sent_ms: i64) {
        match response.error {
            ErrorCode::NONE => match Assignment::decode(&response.assignment) {
                Ok(assignment) => self.on_assignment(assignment, sent_ms),
                Err(error) => self.fail(error.into()),
            },
            ErrorCode::UNKNOWN_MEMBER_ID => self.on_unknown_member(),
            ErrorCode::ILLEGAL_GENERATION => self.on_illegal_generation(),
            ErrorCode::REBALANCE_IN_PROGRESS => self.begin_rejoin(),
            code if code.is_retriable() => self.retry_call(),
            code => self.refused(Operation::Sync, code),
        }
    }

    fn on_assignment(&mut self, assignment: Assignment, sent_ms: i64) {
        let Some(joined) = self.joined else {
            return;
        };
        self.backoff.reset();
        self.prove_slowly(sent_ms);
        if let Some((id, then)) = self.ending.take() {
            // Nothing new is begun. What is owned and not given is nobody's in this generation.
            self.owned_generation = Some(joined.generation);
            self.go(State::Revoking(Revocation {
                id,
                partitions: self.owned.clone(),
                then,
            }));
            self.heartbeat = Slot::Idle;
            self.heartbeat_at = Some(self.next_heartbeat(self.now_ms));
            return;
        }
        let given: BTreeSet<TopicPartition> = assignment.partitions.into_iter().collect();
        // Whoever claimed more than it got must join again, so that the rest finds its new owner;
        // also when the claim was lost in the meantime.
        let unfinished = self.is_cooperative() && !self.claimed.is_subset(&given);
        // A leader may answer an older subscription; a join for the present one follows.
        let new: BTreeSet<_> = given
            .into_iter()
            .filter(|tp| self.topics.contains(&tp.topic))
            .collect();
        let added: Vec<_> = new.difference(&self.owned).cloned().collect();
        let revoked: BTreeSet<_> = self.owned.difference(&new).cloned().collect();
        let all: Vec<_> = new.iter().cloned().collect();
        self.owned.extend(new);
        self.owned_generation = Some(joined.generation);
        self.previous = Claim {
            partitions: all.clone(),
            generation: Some(joined.generation),
        };
        self.go(State::Stable);
        self.heartbeat = Slot::Idle;
        self.heartbeat_at = Some(self.next_heartbeat(self.now_ms));
        let nothing_revoked = revoked.is_empty();
        if !nothing_revoked {
            self.revoke(revoked, AfterRevocation::Rejoin);
        }
        self.events.push_back(MembershipEvent::Assigned {
            generation: joined.generation,
            added,
            all,
        });
        if unfinished {
            self.rejoin
                .get_or_insert("revoked partitions need an owner");
        }
        if nothing_revoked && self.rejoin.is_some() {
            self.begin_rejoin();
        }
    }

    /// A call that was sent at `sent_ms` and could wait for the others was answered well: the
    /// coordinator's timers started anew at some time since, and its answer travelled for less
    /// than a third of the session timeout.
    fn prove_slowly(&mut self, sent_ms: i64) {
        let third = i64::from(self.config.session_timeout_ms) / 3;
        let since = sent_ms.max(self.now_ms.saturating_sub(third));
        self.proof = Some(Proof {
            alive_ms: since,
            settled_ms: since,
        });
    }

    pub(super) fn next_heartbeat(&self, from_ms: i64) -> i64 {
        from_ms.saturating_add(self.config.heartbeat_interval_ms.into())
    }

    /// Tries the call (or the metadata question) of this state again after a while.
    pub(super) fn retry_call(&mut self) {
        debug_assert!(matches!(
            self.phase(),
            Phase::Joining | Phase::Syncing | Phase::AwaitingMetadata
        ));
        self.call = Slot::Waiting;
        self.backoff_at = Some(self.now_ms.saturating_add(self.backoff.next_ms()));
        if matches!(self.state, State::Syncing(_)) && self.heartbeat_at.is_none() {
            self.heartbeat_at = Some(self.next_heartbeat(self.now_ms));
        }
    }
}

impl Lead {
    /// Members whose subscription cannot be read stay in the group and get nothing.
    fn of(members: Vec<JoinGroupMember>, assignor: Assignor) -> Self {
        let members: Vec<Member> = members
            .into_iter()
            .map(|m| {
                let subscription = Subscription::decode(&m.metadata).unwrap_or_default();
                let claim = assignor.claim(&subscription);
                Member {
                    id: m.member_id,
                    instance_id: m.instance_id,
                    topics: subscription.topics,
                    owned: claim.partitions,
                    generation: claim.generation,
                }
            })
            .collect();
        let topics = members.iter().flat_map(|m| &m.topics).cloned().collect();
        Self {
            members,
            topics,
            counts: TopicCounts::new(),
        }
    }
}
