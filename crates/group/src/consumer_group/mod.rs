//! The consumer group protocol (KIP-848) of one member, as a state machine without IO: the
//! coordinator assigns, and everything goes through one request, ConsumerGroupHeartbeat.
//!
//! It takes the inputs and gives the requests and events of [`membership`](crate::membership), in the
//! same order of calls, so one driver runs both. See [`GroupMembership`](crate::GroupMembership).
//!
//! | state | leaves it by |
//! |---|---|
//! | unsubscribed | topics: joining |
//! | joining: epoch 0, every field | an epoch: stable |
//! | stable | partitions to give up: revoking; fenced (110, 25) or no answer for a session: joining |
//! | revoking: the coordinator waits | given up: a heartbeat at once, stable |
//! | stale: the application stopped polling; left with -1 or -2 (C10) | polled: joining |
//! | leaving: epoch -1, or -2 of a static member | an answer, or none: left |
//!
//! # What must hold
//! - At most one heartbeat is out. Answers to anything else are stale and ignored.
//! - After a heartbeat that was not answered well, the next one says everything: the coordinator
//!   takes the previous epoch only together with the owned partitions.
//! - What is revoked is owned until [`Input::RevokeCompleted`], and only then the coordinator hears
//!   of it. What it gives besides is owned at once.
//! - Partitions are known by topic id: a topic that was deleted and created again is another one. An
//!   assigned id whose name is not known is asked for until it is (C22).
//! - A coordinator that has a static member's place refuses its next epoch 0 (111), even if the place
//!   was taken by a join of the same process whose answer was lost. Whoever cannot know releases the
//!   place with -2 first (C23); that does nothing (82) to a place that is somebody else's.
//! - While a heartbeat is out that says what is owned, nothing more is taken: the coordinator may give
//!   away what that one leaves out.
//! - Offsets are committed with the newest epoch; see [`ConsumerMembership::commit_result`].

mod config;
mod reactions;
mod reconcile;
mod state;
#[cfg(test)]
mod tests;

pub use config::ConsumerMembershipConfig;

use crate::membership::{
    Backoff, CommitIdentity, Input, MembershipError, MembershipEvent, Phase, Proof, Request,
    RequestBody, RequestId, RevocationId, Slot,
};
use ottla_types::coordinator::{ConsumerHeartbeatRequest, TopicId, TopicIdPartitions};
use ottla_types::{ConfigError, TopicPartition};
use state::{AfterRevocation, Asking, Revocation, State, Timer, Told};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

/// Until the coordinator has said its own.
const FIRST_INTERVAL_MS: i64 = 5_000;
const LEAVE_EPOCH: i32 = -1;
const LEAVE_STATIC_EPOCH: i32 = -2;

/// One member of a group with the consumer group protocol. See the [module](self).
#[derive(Debug)]
pub struct ConsumerMembership {
    config: ConsumerMembershipConfig,
    topics: BTreeSet<Arc<str>>,
    pattern: String,
    /// Whether the coordinator may have an expression of this member.
    has_said_pattern: bool,
    state: State,
    member_id: String,
    /// 0 while not a member.
    epoch: i32,
    /// Whether the coordinator may have a member or a static place of ours.
    held: bool,
    /// Whether a join of a static member went out whose answer was lost.
    has_lost_join: bool,
    /// Includes what is being revoked.
    owned: BTreeMap<TopicPartition, TopicId>,
    /// What the coordinator wants to be owned, once it said so.
    target: Option<BTreeSet<(TopicId, i32)>>,
    /// Whether the application knows that this is a member.
    is_announced: bool,
    names: BTreeMap<TopicId, Arc<str>>,
    asking: Asking,
    told: Option<Told>,
    /// What the heartbeat that is out says.
    saying: Option<Told>,
    /// Whether the application had nothing to give up when that was sent.
    said_settled: bool,
    /// Whether it says what is owned.
    said_owned: bool,
    heartbeat: Slot,
    heartbeat_at: Option<i64>,
    interval_ms: i64,
    proof: Option<Proof>,
    farewell: Slot,
    backoff: Backoff,
    now_ms: i64,
    numbers: u64,
    events: VecDeque<MembershipEvent>,
}

impl ConsumerMembership {
    /// A member without topics. `seed` drives the jitter of the back-off: give each member its own.
    ///
    /// # Errors
    /// As [`ConsumerMembershipConfig::validate`].
    pub fn new(config: ConsumerMembershipConfig, seed: u64) -> Result<Self, ConfigError> {
        config.validate()?;
        let backoff = Backoff::new(seed, config.retry_backoff_ms, config.retry_backoff_max_ms);
        Ok(Self {
            member_id: config.member_id.clone(),
            config,
            topics: BTreeSet::new(),
            pattern: String::new(),
            has_said_pattern: false,
            state: State::Unsubscribed,
            epoch: 0,
            held: false,
            has_lost_join: false,
            owned: BTreeMap::new(),
            target: None,
            is_announced: false,
            names: BTreeMap::new(),
            asking: Asking::Idle,
            told: None,
            saying: None,
            said_settled: false,
            said_owned: false,
            heartbeat: Slot::Idle,
            heartbeat_at: None,
            interval_ms: FIRST_INTERVAL_MS,
            proof: None,
            farewell: Slot::Idle,
            backoff,
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
                self.topics = topics.into_iter().collect();
                self.pattern = pattern;
                self.on_subscription();
            }
            Input::Response { id, body } => self.on_response(id, body),
            Input::Failed { id } => self.on_failed(id),
            Input::NotOffered { id } => self.on_not_offered(id),
            Input::TopicNames { names } => self.on_names(names),
            Input::MetadataFailed => self.on_names_failed(),
            Input::RevokeCompleted { id } => self.on_revoke_completed(id),
            Input::PollExpired => self.on_poll_expired(),
            Input::Polled => self.on_polled(),
            Input::Close => self.on_close(),
            // The coordinator counts the partitions and matches the names itself.
            Input::Metadata { .. } | Input::Matched { .. } => {}
            Input::Assign { .. } | Input::Tick => {}
        }
        self.fire_timers();
    }

    /// The next request to send to the coordinator.
    pub fn poll_request(&mut self) -> Option<Request> {
        let body = if self.farewell == Slot::Due {
            self.farewell_request()
        } else if self.heartbeat == Slot::Due && self.may_beat() {
            self.heartbeat_request()
        } else {
            return None;
        };
        self.numbers += 1;
        let id = RequestId(self.numbers);
        let sent_ms = self.now_ms;
        let slot = match self.farewell {
            Slot::Due => &mut self.farewell,
            _ => &mut self.heartbeat,
        };
        *slot = Slot::Out { id, sent_ms };
        let body = RequestBody::ConsumerHeartbeat(body);
        Some(Request { id, body })
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

    /// The own member id.
    pub fn member_id(&self) -> &str {
        &self.member_id
    }

    /// The member epoch, while this is a member.
    pub fn epoch(&self) -> Option<i32> {
        (self.epoch > 0).then_some(self.epoch)
    }

    /// As whom to commit now; `None` while nothing is owned, and then nothing may be committed.
    pub fn commit_identity(&self) -> Option<CommitIdentity> {
        let generation = self.epoch()?;
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
        self.owned.contains_key(partition)
    }

    /// Everything owned, in order.
    pub fn owned(&self) -> impl Iterator<Item = &TopicPartition> {
        self.owned.keys()
    }

    /// As [`GroupMembership::abrupt_leave`](crate::GroupMembership::abrupt_leave).
    pub fn abrupt_leave(&self) -> Option<RequestBody> {
        self.held
            .then(|| RequestBody::ConsumerHeartbeat(self.farewell_request()))
    }

    fn heartbeat_request(&mut self) -> ConsumerHeartbeatRequest {
        let now = self.present();
        let told = self.told.as_ref();
        let everything = told.is_none();
        let topics_changed = told.is_none_or(|told| told.topics != now.topics);
        // What was said once is said again, even that there is none: an older version of the request
        // has no room for it.
        let pattern_changed = match told {
            Some(told) => told.pattern != now.pattern,
            None => self.has_said_pattern || !now.pattern.is_empty(),
        };
        let revoking = matches!(self.state, State::Revoking(_));
        let says_owned =
            told.is_none_or(|told| !revoking && (told.owned.is_none() || told.owned != now.owned));
        let request = ConsumerHeartbeatRequest {
            member_id: self.member_id.clone(),
            member_epoch: self.epoch,
            instance_id: self.config.instance_id.clone(),
            rack: self.config.rack.clone().filter(|_| everything),
            rebalance_timeout_ms: everything.then_some(self.config.rebalance_timeout_ms),
            topics: topics_changed.then(|| now.topics.clone()),
            pattern: pattern_changed.then(|| now.pattern.clone()),
            assignor: self.config.assignor.clone().filter(|_| everything),
            owned: now.owned.clone().filter(|_| says_owned),
        };
        let before = self.told.take().and_then(|told| told.owned);
        self.saying = Some(Told {
            owned: if says_owned { now.owned } else { before },
            ..now
        });
        self.has_said_pattern |= request.pattern.is_some();
        self.said_settled = !revoking;
        self.said_owned = says_owned;
        self.held = true;
        request
    }

    fn farewell_request(&self) -> ConsumerHeartbeatRequest {
        let instance_id = self.config.instance_id.clone();
        ConsumerHeartbeatRequest {
            member_id: self.member_id.clone(),
            member_epoch: match instance_id {
                Some(_) => LEAVE_STATIC_EPOCH,
                None => LEAVE_EPOCH,
            },
            instance_id,
            rack: None,
            rebalance_timeout_ms: None,
            topics: None,
            pattern: None,
            assignor: None,
            owned: None,
        }
    }

    /// What a heartbeat would say now.
    fn present(&self) -> Told {
        let mut owned: BTreeMap<TopicId, Vec<i32>> = BTreeMap::new();
        for (tp, id) in &self.owned {
            owned.entry(*id).or_default().push(tp.partition);
        }
        Told {
            topics: self.topics.iter().cloned().collect(),
            pattern: self.pattern.clone(),
            owned: Some(TopicIdPartitions::from_iter(owned)),
        }
    }

    fn on_subscription(&mut self) {
        let wants_any = !(self.topics.is_empty() && self.pattern.is_empty());
        let news = self.told.as_ref().is_some_and(|told| self.news(told));
        match &mut self.state {
            State::Unsubscribed if wants_any => self.join(),
            State::Joining | State::Stable if !wants_any => {
                self.give_up_everything(AfterRevocation::Unsubscribe);
            }
            State::Revoking(r) if !wants_any && r.then == AfterRevocation::Acknowledge => {
                self.give_up_everything(AfterRevocation::Unsubscribe);
            }
            State::Revoking(r) if wants_any && r.then == AfterRevocation::Unsubscribe => {
                r.then = AfterRevocation::Acknowledge;
            }
            State::Stable if news => self.beat_now(),
            _ => {}
        }
    }

    fn on_poll_expired(&mut self) {
        match &self.state {
            State::Unsubscribed | State::Stale | State::Leaving => {}
            State::Revoking(r) if r.then == AfterRevocation::Close => {
                self.lose();
                self.depart(State::Leaving);
            }
            _ => {
                self.lose();
                self.depart(State::Stale);
            }
        }
    }

    fn on_polled(&mut self) {
        if !matches!(self.state, State::Stale) {
            return;
        }
        if self.topics.is_empty() && self.pattern.is_empty() {
            self.go(State::Unsubscribed);
        } else {
            self.join();
        }
    }

    fn on_close(&mut self) {
        match &self.state {
            State::Leaving => {}
            State::Revoking(r) if r.then == AfterRevocation::Close => {
                self.lose();
                self.depart(State::Leaving);
            }
            _ => self.give_up_everything(AfterRevocation::Close),
        }
    }

    /// Revokes all that is owned, then goes on with `then`.
    fn give_up_everything(&mut self, then: AfterRevocation) {
        let all: BTreeSet<_> = self.owned.keys().cloned().collect();
        if all.is_empty() {
            self.after_revocation(then);
        } else {
            self.revoke(all, then);
        }
    }

    fn revoke(&mut self, partitions: BTreeSet<TopicPartition>, then: AfterRevocation) {
        self.numbers += 1;
        let id = RevocationId(self.numbers);
        let named = partitions.iter().cloned().collect();
        self.events.push_back(MembershipEvent::Revoked {
            id,
            partitions: named,
        });
        self.go(State::Revoking(Revocation {
            id,
            partitions,
            then,
        }));
    }

    fn on_revoke_completed(&mut self, id: RevocationId) {
        let State::Revoking(revocation) = &self.state else {
            return;
        };
        if revocation.id != id {
            return;
        }
        let then = revocation.then;
        for partition in &revocation.partitions {
            self.owned.remove(partition);
        }
        self.after_revocation(then);
    }

    fn after_revocation(&mut self, then: AfterRevocation) {
        match then {
            AfterRevocation::Acknowledge => {
                self.go(State::Stable);
                if let Some(told) = &mut self.told {
                    told.owned = None;
                }
                self.reconcile(false);
                if matches!(self.state, State::Stable) {
                    self.beat_now();
                }
            }
            AfterRevocation::Unsubscribe => self.depart(State::Unsubscribed),
            AfterRevocation::Close => self.depart(State::Leaving),
        }
    }

    /// Ends the membership on this side, and says so to the coordinator.
    fn depart(&mut self, next: State) {
        self.forget();
        self.go(next);
        if self.held && !self.farewell.is_out() {
            self.farewell = Slot::Due;
        }
        if matches!(self.state, State::Leaving) && self.farewell == Slot::Idle {
            self.finish_leaving();
        }
    }

    fn finish_leaving(&mut self) {
        self.go(State::Left);
        self.farewell = Slot::Idle;
        self.events.push_back(MembershipEvent::Left);
    }

    /// Becomes a member from the start: epoch 0, nothing owned.
    fn join(&mut self) {
        self.forget();
        self.go(State::Joining);
        if self.held && self.config.instance_id.is_some() && !self.farewell.is_out() {
            self.farewell = Slot::Due;
        }
        self.heartbeat = Slot::Due;
    }

    /// The heartbeat that is out becomes stale, and the membership with it.
    fn forget(&mut self) {
        self.epoch = 0;
        self.target = None;
        self.is_announced = false;
        self.asking = Asking::Idle;
        self.told = None;
        self.saying = None;
        self.heartbeat = Slot::Idle;
        self.heartbeat_at = None;
    }

    /// Everything owned may be somebody else's.
    fn lose(&mut self) {
        let owned = std::mem::take(&mut self.owned);
        self.target = None;
        if !owned.is_empty() {
            let partitions = owned.into_keys().collect();
            self.events.push_back(MembershipEvent::Lost { partitions });
        }
    }

    fn fail(&mut self, error: MembershipError) {
        self.lose();
        self.forget();
        self.farewell = Slot::Idle;
        self.go(State::Fatal);
        self.events.push_back(MembershipEvent::Fatal { error });
    }

    /// The one place where the state changes.
    fn go(&mut self, next: State) {
        debug_assert!(self.state.may_become(&next), "{:?} to {next:?}", self.state);
        self.state = next;
    }

    fn has_ended(&self) -> bool {
        matches!(self.state, State::Left | State::Fatal)
    }
}
