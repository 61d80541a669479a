//! The classic group protocol (JoinGroup, SyncGroup, Heartbeat, LeaveGroup) of one member, as a
//! state machine without IO: eager for range and round robin, cooperative (KIP-429) for
//! cooperative-sticky.
//!
//! # Order of the calls
//! After [`Membership::new`], in a loop:
//! 1. [`Membership::handle`] with what happened and the time (which never goes back),
//! 2. [`Membership::poll_event`] until `None`,
//! 3. [`Membership::poll_request`] until `None`; each request is sent, and its answer or failure
//!    comes back as an input with the request's number,
//! 4. wait for the next thing to happen, at most until [`Membership::next_timeout`], which is
//!    answered with [`Input::Tick`].
//!
//! Offsets are committed outside, as [`Membership::commit_identity`] says, one request at a time;
//! each code in the answer goes through [`Membership::commit_result`].
//!
//! # What must hold
//! - At most one of join, sync and leave is out, and at most one heartbeat. Answers to anything
//!   else are stale and ignored. A join and a sync may take the whole rebalance timeout: the
//!   coordinator keeps the member alive meanwhile, and no heartbeat is sent behind them.
//! - What is revoked is owned until [`Input::RevokeCompleted`], and only then the member rejoins.
//!   A newer [`MembershipEvent::Revoked`] replaces an older one.
//! - Partitions are lost as soon as the coordinator may have given them away: when no heartbeat was
//!   answered for the session timeout, or when a rebalance that began after the last good answer
//!   may have ended without this member. This relies on an owner that reports a dead connection
//!   within a third of the session timeout, and on answers that travel for no longer than that.
//! - The machine never gives up by itself on failures that may pass; they are tried again with
//!   back-off. Only [`MembershipEvent::Fatal`] and [`MembershipEvent::Left`] end it.
//!
//! The reactions to error codes follow the Java client and franz-go; see the
//! [protocol guide](https://kafka.apache.org/protocol.html#protocol_error_codes).

mod config;
mod reactions;
mod rebalance;
mod state;
mod subscription;
#[cfg(test)]
mod tests;
mod types;

pub use config::MembershipConfig;
pub(crate) use state::{Backoff, Proof, Slot};
pub use types::{
    CommitIdentity, CommitVerdict, Input, MembershipError, MembershipEvent, Operation, Phase,
    Request, RequestBody, RequestId, ResponseBody, RevocationId,
};

use crate::assign::{Claim, RebalanceProtocol, TopicCounts};
use ottla_types::coordinator::{HeartbeatRequest, LeaveGroupRequest};
use ottla_types::{ConfigError, TopicPartition};
use state::{AfterRevocation, Joined, Revocation, State, Timer};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use subscription::Subscription;

/// One member of a group. See the [module](self) for the order of the calls.
#[derive(Debug)]
pub struct Membership {
    config: MembershipConfig,
    wanted: Subscription,
    /// What joins say is subscribed.
    topics: BTreeSet<Arc<str>>,
    state: State,
    /// Empty until the coordinator gives one.
    member_id: String,
    joined: Option<Joined>,
    /// Includes what is being revoked.
    owned: BTreeSet<TopicPartition>,
    /// The generation in which `owned` was assigned.
    owned_generation: Option<i32>,
    /// The last generation in which partitions were lost.
    lost_generation: Option<i32>,
    /// What the last assignment gave: what an eager sticky assignor gives again if it can.
    previous: Claim,
    /// What the last join said was owned.
    claimed: BTreeSet<TopicPartition>,
    /// A reason to join again as soon as this is possible.
    rejoin: Option<&'static str>,
    /// The revocation of all that is owned, for a close or an end of the subscription that came in a
    /// rebalance, and what follows it. The rebalance goes on meanwhile: once the coordinator has begun
    /// a new generation, it takes the last commit only in that, from a member that has its assignment.
    ending: Option<(RevocationId, AfterRevocation)>,
    /// The leader's topics, with the counts that it assigned by.
    watched: BTreeMap<Arc<str>, Option<i32>>,
    proof: Option<Proof>,
    /// Join or sync, by the state.
    call: Slot,
    heartbeat: Slot,
    farewell: Option<LeaveGroupRequest>,
    farewell_out: Option<RequestId>,
    backoff: Backoff,
    backoff_at: Option<i64>,
    heartbeat_at: Option<i64>,
    now_ms: i64,
    numbers: u64,
    events: VecDeque<MembershipEvent>,
}

impl Membership {
    /// A member without topics. `seed` drives the jitter of the back-off: give each member its own.
    ///
    /// # Errors
    /// As [`MembershipConfig::validate`].
    pub fn new(config: MembershipConfig, seed: u64) -> Result<Self, ConfigError> {
        config.validate()?;
        let backoff = Backoff::new(seed, config.retry_backoff_ms, config.retry_backoff_max_ms);
        Ok(Self {
            config,
            wanted: Subscription::default(),
            topics: BTreeSet::new(),
            state: State::Unsubscribed,
            member_id: String::new(),
            joined: None,
            owned: BTreeSet::new(),
            owned_generation: None,
            lost_generation: None,
            previous: Claim::default(),
            claimed: BTreeSet::new(),
            rejoin: None,
            ending: None,
            watched: BTreeMap::new(),
            proof: None,
            call: Slot::Idle,
            heartbeat: Slot::Idle,
            farewell: None,
            farewell_out: None,
            backoff,
            backoff_at: None,
            heartbeat_at: None,
            now_ms: i64::MIN,
            numbers: 0,
            events: VecDeque::new(),
        })
    }

    /// Takes an input. Timers that are due by `now_ms` fire first. After the end it does nothing.
    pub fn handle(&mut self, input: Input, now_ms: i64) {
        self.now_ms = self.now_ms.max(now_ms);
        self.fire_timers();
        if self.has_ended() {
            return;
        }
        match input {
            Input::Subscribe { topics, pattern } => {
                self.wanted.set(topics, pattern);
                self.on_subscription();
            }
            Input::Matched { pattern, topics } => {
                if self.wanted.matched(&pattern, topics) {
                    self.on_subscription();
                }
            }
            Input::Response { id, body } => self.on_response(id, body),
            // Every broker offers the classic calls; one that does not is like one that cannot be reached.
            Input::Failed { id } | Input::NotOffered { id } => self.on_failed(id),
            Input::Assign { .. } | Input::TopicNames { .. } => {}
            Input::Metadata { counts } => self.on_metadata(counts),
            Input::MetadataFailed => self.on_metadata_failed(),
            Input::RevokeCompleted { id } => self.on_revoke_completed(id),
            Input::PollExpired => self.on_poll_expired(),
            Input::Polled => self.on_polled(),
            Input::Close => self.on_close(),
            Input::Tick => {}
        }
        // The input may have ended what kept a timer back.
        self.fire_timers();
        self.end_without_partitions();
    }

    /// The next request to send to the coordinator.
    pub fn poll_request(&mut self) -> Option<Request> {
        if let Some(leave) = self.farewell.take() {
            let id = self.next_request_id();
            self.farewell_out = Some(id);
            return Some(Request {
                id,
                body: RequestBody::Leave(leave),
            });
        }
        if self.call == Slot::Due
            && let Some(body) = self.next_call()
        {
            let id = self.next_request_id();
            self.call = Slot::Out {
                id,
                sent_ms: self.now_ms,
            };
            return Some(Request { id, body });
        }
        if self.heartbeat == Slot::Due
            && self.may_beat()
            && let Some(joined) = self.joined
        {
            let id = self.next_request_id();
            self.heartbeat = Slot::Out {
                id,
                sent_ms: self.now_ms,
            };
            return Some(Request {
                id,
                body: RequestBody::Heartbeat(HeartbeatRequest {
                    generation: joined.generation,
                    member_id: self.member_id.clone(),
                    instance_id: self.config.instance_id.clone(),
                }),
            });
        }
        None
    }

    /// The next event.
    pub fn poll_event(&mut self) -> Option<MembershipEvent> {
        self.events.pop_front()
    }

    /// When to call [`Self::handle`] with [`Input::Tick`] at the latest, in the same milliseconds.
    pub fn next_timeout(&self) -> Option<i64> {
        Timer::ALL.iter().filter_map(|&t| self.due_at(t)).min()
    }

    /// Where the member stands.
    pub fn phase(&self) -> Phase {
        self.state.phase()
    }

    /// The own member id, once the coordinator gave one.
    pub fn member_id(&self) -> Option<&str> {
        Some(self.member_id.as_str()).filter(|id| !id.is_empty())
    }

    /// The generation that the last join gave, while the member is in it.
    pub fn generation(&self) -> Option<i32> {
        self.joined.map(|j| j.generation)
    }

    /// As whom to commit now; `None` while nothing is owned, and then nothing may be committed.
    ///
    /// During a cooperative rebalance it stays that of the last assignment, which the coordinator
    /// takes until the new generation begins.
    pub fn commit_identity(&self) -> Option<CommitIdentity> {
        let generation = self.owned_generation?;
        (!self.owned.is_empty()).then(|| CommitIdentity {
            generation,
            member_id: self.member_id.clone(),
            instance_id: self.config.instance_id.clone(),
        })
    }

    /// Until when everything owned is owned unless the coordinator is heard, on the clock of
    /// [`handle`](Self::handle)'s `now_ms`: then the coordinator may have given it to others. `None`
    /// while nothing is owned.
    pub fn owned_until(&self) -> Option<i64> {
        self.due_at(Timer::Ownership)
    }

    /// Whether the partition is owned. While it is being revoked it still is.
    pub fn owns(&self, partition: &TopicPartition) -> bool {
        self.owned.contains(partition)
    }

    /// Everything owned, in order.
    pub fn owned(&self) -> impl Iterator<Item = &TopicPartition> {
        self.owned.iter()
    }

    /// Whether this member leads the group.
    pub fn is_leader(&self) -> bool {
        self.joined.is_some_and(|j| j.leads)
    }

    /// The topics whose partition counts the leader wants as [`Input::Metadata`] whenever metadata
    /// is refreshed: growth starts a rebalance. Empty unless this member leads.
    pub fn watched_topics(&self) -> Vec<Arc<str>> {
        if self.is_leader() {
            self.watched.keys().cloned().collect()
        } else {
            Vec::new()
        }
    }

    /// As [`GroupMembership::abrupt_leave`](crate::GroupMembership::abrupt_leave).
    pub fn abrupt_leave(&self) -> Option<RequestBody> {
        let member_id = self
            .member_id()
            .filter(|_| self.config.instance_id.is_none())?;
        Some(RequestBody::Leave(LeaveGroupRequest {
            member_id: member_id.to_owned(),
            instance_id: None,
            reason: Some("the member failed".to_owned()),
        }))
    }

    fn on_revoke_completed(&mut self, id: RevocationId) {
        if self.ending.is_some_and(|(ending, _)| ending == id) {
            self.owned.clear();
        }
        let State::Revoking(revocation) = &self.state else {
            return;
        };
        if revocation.id != id {
            return;
        }
        self.owned = &self.owned - &revocation.partitions;
        self.after_revocation(revocation.then);
    }

    fn on_poll_expired(&mut self) {
        match &self.state {
            _ if self.is_closing() => self.lose(),
            State::Unsubscribed | State::Stale | State::Leaving => {}
            State::Revoking(r) if r.then == AfterRevocation::Close => {
                self.lose();
                self.after_revocation(AfterRevocation::Close);
            }
            _ => {
                self.lose();
                self.depart(State::Stale, "the application stopped polling");
            }
        }
    }

    fn on_polled(&mut self) {
        if !matches!(self.state, State::Stale) {
            return;
        }
        if self.wanted.is_known() {
            self.join_now();
        } else {
            self.go(State::Unsubscribed);
        }
    }

    fn on_close(&mut self) {
        match &self.state {
            State::Leaving => {}
            _ if self.is_closing() => self.lose(),
            State::Revoking(r) if r.then == AfterRevocation::Close => {
                self.lose();
                self.after_revocation(AfterRevocation::Close);
            }
            _ => self.give_up_everything(AfterRevocation::Close),
        }
    }

    /// Revokes all that is owned, then goes on with `then`.
    fn give_up_everything(&mut self, then: AfterRevocation) {
        let all = self.owned.clone();
        if all.is_empty() {
            return self.after_revocation(then);
        }
        match &self.state {
            State::Joining | State::AwaitingMetadata(_) | State::Syncing(_) => {
                let id = match self.ending {
                    Some((id, _)) => id,
                    None => self.announce_revocation(&all),
                };
                self.ending = Some((id, then));
            }
            _ => self.revoke(all, then),
        }
    }

    /// Whether a close waits for the end of a rebalance.
    fn is_closing(&self) -> bool {
        matches!(self.ending, Some((_, AfterRevocation::Close)))
    }

    /// What was to end in a rebalance ends once nothing is owned, given up or lost.
    pub(super) fn end_without_partitions(&mut self) {
        if self.owned.is_empty()
            && let Some((_, then)) = self.ending.take()
            && !self.has_ended()
        {
            self.after_revocation(then);
        }
    }

    fn announce_revocation(&mut self, partitions: &BTreeSet<TopicPartition>) -> RevocationId {
        self.numbers += 1;
        let id = RevocationId(self.numbers);
        self.events.push_back(MembershipEvent::Revoked {
            id,
            partitions: partitions.iter().cloned().collect(),
        });
        id
    }

    fn revoke(&mut self, partitions: BTreeSet<TopicPartition>, then: AfterRevocation) {
        let id = self.announce_revocation(&partitions);
        self.go(State::Revoking(Revocation {
            id,
            partitions,
            then,
        }));
        if self.heartbeat == Slot::Idle && self.heartbeat_at.is_none() {
            self.heartbeat = Slot::Due;
        }
    }

    fn after_revocation(&mut self, then: AfterRevocation) {
        match then {
            AfterRevocation::Rejoin => self.begin_rejoin(),
            AfterRevocation::Unsubscribe => self.depart(State::Unsubscribed, "unsubscribed"),
            AfterRevocation::Close => {
                self.depart(State::Leaving, "closed");
                if self.farewell.is_none() && self.farewell_out.is_none() {
                    self.finish_leaving();
                }
            }
        }
    }

    /// Ends the membership on this side, and says so to the coordinator unless the member is
    /// static (KIP-345: its place is kept for the session timeout, and it keeps its id).
    fn depart(&mut self, next: State, reason: &'static str) {
        if self.config.instance_id.is_none() && !self.member_id.is_empty() {
            self.farewell = Some(LeaveGroupRequest {
                member_id: std::mem::take(&mut self.member_id),
                instance_id: None,
                reason: Some(reason.to_owned()),
            });
            self.farewell_out = None;
        }
        self.forget_generation();
        self.owned_generation = None;
        self.watched.clear();
        self.go(next);
    }

    fn finish_leaving(&mut self) {
        self.go(State::Left);
        self.farewell = None;
        self.farewell_out = None;
        self.events.push_back(MembershipEvent::Left);
    }

    /// Everything owned may be somebody else's.
    fn lose(&mut self) {
        let partitions: Vec<_> = std::mem::take(&mut self.owned).into_iter().collect();
        self.lost_generation = self.owned_generation.take().or(self.lost_generation);
        if !partitions.is_empty() {
            self.events.push_back(MembershipEvent::Lost { partitions });
        }
    }

    /// Requests of the generation that are out become stale.
    fn forget_generation(&mut self) {
        self.joined = None;
        self.call = Slot::Idle;
        self.backoff_at = None;
        self.heartbeat = Slot::Idle;
        self.heartbeat_at = None;
    }

    fn fail(&mut self, error: MembershipError) {
        self.lose();
        self.forget_generation();
        self.farewell = None;
        self.farewell_out = None;
        self.go(State::Fatal);
        self.events.push_back(MembershipEvent::Fatal { error });
    }

    /// The one place where the state changes. A call of the old state is not one of the new state.
    fn go(&mut self, next: State) {
        let (from, to) = (self.state.phase(), next.phase());
        debug_assert!(from.may_become(to), "{from:?} to {to:?}");
        self.state = next;
        self.call = Slot::Idle;
        self.backoff_at = None;
    }

    fn has_ended(&self) -> bool {
        matches!(self.state, State::Left | State::Fatal)
    }

    fn is_cooperative(&self) -> bool {
        self.config.protocol() == RebalanceProtocol::Cooperative
    }

    fn next_request_id(&mut self) -> RequestId {
        self.numbers += 1;
        RequestId(self.numbers)
    }

    fn on_metadata(&mut self, counts: TopicCounts) {
        if let State::AwaitingMetadata(lead) = &mut self.state {
            lead.counts.extend(counts);
            if lead.is_answered() {
                self.assign_and_sync();
            }
            return;
        }
        let mut grew = false;
        for (topic, count) in counts {
            if let Some(known) = self.watched.get_mut(&topic) {
                match known {
                    Some(known) => grew |= count > *known,
                    None => *known = Some(count),
                }
            }
        }
        if grew && self.is_leader() {
            self.rejoin = Some("topics have more partitions");
            if matches!(self.state, State::Stable) {
                self.begin_rejoin();
            }
        }
    }
}
