//! The classic group protocol from the coordinator's side, as a pure state machine.
//!
//! | state | leaves it by |
//! |---|---|
//! | Empty | a join: PreparingRebalance |
//! | PreparingRebalance | everybody joined, or the rebalance timeout: CompletingRebalance, or Empty when nobody is left |
//! | CompletingRebalance | the leader's assignment: Stable; a join, a leave, an expiry: PreparingRebalance |
//! | Stable | a join that changes something, a leave, an expiry: PreparingRebalance |
//!
//! `Dead` is what a group that does not exist is described as. Calls that must wait are given a
//! ticket; their answers come out of [`Group::take_answers`], those that need not wait too.
//! Time comes in as milliseconds. Must hold: every ticket is answered exactly once.

mod join;
mod offsets;
mod rebalance;
mod session;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::codes;
use crate::consumer_group::{Beaten, ConsumerGroup, Description, Heartbeat, Timers, TopicView};

pub(crate) use join::JoinRequest;
pub(crate) use offsets::Committed;
pub(crate) use session::{LeaveRequest, MemberCall, SyncRequest};

/// Names a call that waits for its answer.
pub(crate) type Ticket = u64;

/// Members that one group takes; more are refused with GROUP_MAX_SIZE_REACHED.
pub(crate) const MAX_MEMBERS: usize = 1000;

/// The state of a group, as Kafka's admin API names them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupState {
    /// No members.
    Empty,
    /// Waiting for the members to join.
    PreparingRebalance,
    /// Waiting for the leader's assignment.
    CompletingRebalance,
    /// Every member can have its assignment. Groups with members that speak KIP-848 are always shown
    /// like this.
    Stable,
    /// No such group.
    Dead,
}

impl GroupState {
    /// The name on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Self::Empty => "Empty",
            Self::PreparingRebalance => "PreparingRebalance",
            Self::CompletingRebalance => "CompletingRebalance",
            Self::Stable => "Stable",
            Self::Dead => "Dead",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct JoinAnswer {
    pub(crate) error: i16,
    pub(crate) generation: i32,
    pub(crate) protocol_type: Option<String>,
    pub(crate) protocol: Option<String>,
    pub(crate) leader: String,
    pub(crate) skip_assignment: bool,
    pub(crate) member_id: String,
    /// Only for the leader: id, instance id, metadata for the chosen protocol.
    pub(crate) members: Vec<(String, Option<String>, Bytes)>,
}

impl JoinAnswer {
    pub(crate) fn refused(error: i16, member_id: &str) -> Self {
        Self {
            error,
            generation: -1,
            protocol_type: None,
            protocol: None,
            leader: String::new(),
            skip_assignment: false,
            member_id: member_id.to_owned(),
            members: Vec::new(),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SyncAnswer {
    pub(crate) error: i16,
    pub(crate) protocol_type: Option<String>,
    pub(crate) protocol: Option<String>,
    pub(crate) assignment: Bytes,
}

impl SyncAnswer {
    pub(crate) fn refused(error: i16) -> Self {
        Self {
            error,
            protocol_type: None,
            protocol: None,
            assignment: Bytes::new(),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Join(JoinAnswer),
    Sync(SyncAnswer),
}

/// What a member is waiting for.
#[derive(Debug)]
enum Waiting {
    Nothing,
    Join(Ticket),
    Sync(Ticket),
}

#[derive(Debug)]
struct Member {
    instance_id: Option<String>,
    client_id: String,
    client_host: String,
    protocols: Vec<(String, Bytes)>,
    session_timeout_ms: u64,
    rebalance_timeout_ms: u64,
    /// Not looked at while the member waits for an answer.
    session_deadline: u64,
    waiting: Waiting,
    /// Whether it asked for its assignment in this generation.
    synced: bool,
    assignment: Bytes,
}

impl Member {
    fn touch(&mut self, now: u64) {
        self.session_deadline = now.saturating_add(self.session_timeout_ms);
    }

    fn metadata(&self, protocol: Option<&str>) -> Bytes {
        let found = self
            .protocols
            .iter()
            .find(|(name, _)| Some(name.as_str()) == protocol);
        found
            .map(|(_, metadata)| metadata.clone())
            .unwrap_or_default()
    }
}

#[derive(Debug)]
enum State {
    Empty,
    Preparing {
        deadline: u64,
        /// While this lies ahead, the rebalance waits even when all known members joined.
        not_before: u64,
    },
    Completing {
        deadline: u64,
    },
    Stable,
}

/// One consumer group.
#[derive(Debug)]
pub(crate) struct Group {
    state: State,
    generation: i32,
    protocol_type: Option<String>,
    protocol: Option<String>,
    leader: Option<String>,
    members: BTreeMap<String, Member>,
    /// Instance id to member id.
    statics: BTreeMap<String, String>,
    /// Member ids given out with MEMBER_ID_REQUIRED, and when they lapse.
    pending: BTreeMap<String, u64>,
    offsets: BTreeMap<(String, i32), Committed>,
    /// Producer id to the offsets of its open transaction.
    pending_offsets: BTreeMap<i64, BTreeMap<(String, i32), Committed>>,
    initial_delay_ms: u64,
    answers: Vec<(Ticket, Answer)>,
    /// The members that speak KIP-848, while there are none of the classic protocol.
    consumer: ConsumerGroup,
    timers: Timers,
}

/// One member as DescribeGroups shows it.
#[derive(Debug)]
pub(crate) struct DescribedMember {
    pub(crate) member_id: String,
    pub(crate) instance_id: Option<String>,
    pub(crate) client_id: String,
    pub(crate) client_host: String,
    pub(crate) metadata: Bytes,
    pub(crate) assignment: Bytes,
}

impl Group {
    pub(crate) fn new(initial_delay_ms: u64, timers: Timers) -> Self {
        Self {
            state: State::Empty,
            generation: 0,
            protocol_type: None,
            protocol: None,
            leader: None,
            members: BTreeMap::new(),
            statics: BTreeMap::new(),
            pending: BTreeMap::new(),
            offsets: BTreeMap::new(),
            pending_offsets: BTreeMap::new(),
            initial_delay_ms,
            answers: Vec::new(),
            consumer: ConsumerGroup::new(timers),
            timers,
        }
    }

    /// A heartbeat of a member that speaks KIP-848, with the topics that there are. A group of
    /// classic members is none for it.
    pub(crate) fn consumer_heartbeat(
        &mut self,
        beat: Heartbeat,
        topics: &[TopicView],
        now: u64,
    ) -> Result<Beaten, i16> {
        if !self.members.is_empty() || !self.pending.is_empty() {
            return Err(codes::GROUP_ID_NOT_FOUND);
        }
        self.consumer.heartbeat(beat, topics, now)
    }

    /// As ConsumerGroupDescribe shows it.
    pub(crate) fn describe_consumer(&self) -> Description {
        self.consumer.describe()
    }

    /// Whether its members speak KIP-848.
    pub(crate) fn is_consumer(&self) -> bool {
        !self.consumer.is_empty()
    }

    /// Whether a member may ask for committed offsets with this epoch; members of the classic
    /// protocol need not say who they are.
    pub(crate) fn check_fetch(&self, member_id: Option<&str>, epoch: i32) -> i16 {
        match member_id {
            Some(id) if epoch >= 0 && self.is_consumer() => {
                self.consumer.check_epoch(id, None, epoch)
            }
            _ => codes::NONE,
        }
    }

    pub(crate) fn state(&self) -> GroupState {
        match self.state {
            State::Empty if self.is_consumer() => GroupState::Stable,
            State::Empty => GroupState::Empty,
            State::Preparing { .. } => GroupState::PreparingRebalance,
            State::Completing { .. } => GroupState::CompletingRebalance,
            State::Stable => GroupState::Stable,
        }
    }

    /// Whether it ever had a member or an offset.
    pub(crate) fn is_used(&self) -> bool {
        let untouched =
            self.generation() == 0 && self.members.is_empty() && self.offsets.is_empty();
        !(untouched && self.pending.is_empty() && self.pending_offsets.is_empty())
    }

    /// Back to a group that was never used; only while it has no members.
    pub(crate) fn forget(&mut self) {
        *self = Self::new(self.initial_delay_ms, self.timers);
    }

    /// The generation, or the epoch of a group that speaks KIP-848.
    pub(crate) fn generation(&self) -> i32 {
        self.generation.max(self.consumer.epoch())
    }

    pub(crate) fn protocol_type(&self) -> Option<&str> {
        let consumer = self.is_consumer().then_some("consumer");
        consumer.or(self.protocol_type.as_deref())
    }

    pub(crate) fn protocol(&self) -> Option<&str> {
        self.protocol.as_deref()
    }

    pub(crate) fn take_answers(&mut self) -> Vec<(Ticket, Answer)> {
        std::mem::take(&mut self.answers)
    }

    pub(crate) fn members(&self) -> Vec<DescribedMember> {
        let stable = matches!(self.state, State::Stable);
        let shown = self.members.iter().map(|(id, member)| DescribedMember {
            member_id: id.clone(),
            instance_id: member.instance_id.clone(),
            client_id: member.client_id.clone(),
            client_host: member.client_host.clone(),
            metadata: if stable {
                member.metadata(self.protocol())
            } else {
                Bytes::new()
            },
            assignment: if stable {
                member.assignment.clone()
            } else {
                Bytes::new()
            },
        });
        shown.collect()
    }

    /// When [`Group::tick`] has something to do.
    pub(crate) fn next_deadline(&self) -> Option<u64> {
        let sessions = self
            .members
            .values()
            .filter_map(|member| match member.waiting {
                Waiting::Nothing => Some(member.session_deadline),
                Waiting::Join(_) | Waiting::Sync(_) => None,
            });
        let state = match self.state {
            State::Preparing {
                deadline,
                not_before,
            } => Some(if self.everybody_joined() {
                deadline.min(not_before)
            } else {
                deadline
            }),
            State::Completing { deadline } => Some(deadline),
            State::Empty | State::Stable => None,
        };
        sessions
            .chain(self.pending.values().copied())
            .chain(state)
            .chain(self.consumer.next_deadline())
            .min()
    }

    fn answer_join(&mut self, ticket: Ticket, answer: JoinAnswer) {
        self.answers.push((ticket, Answer::Join(answer)));
    }

    fn answer_sync(&mut self, ticket: Ticket, answer: SyncAnswer) {
        self.answers.push((ticket, Answer::Sync(answer)));
    }

    /// Refuses whatever the member waits for.
    fn refuse_waiting(&mut self, member_id: &str, error: i16) {
        let Some(member) = self.members.get_mut(member_id) else {
            return;
        };
        match std::mem::replace(&mut member.waiting, Waiting::Nothing) {
            Waiting::Nothing => {}
            Waiting::Join(ticket) => {
                self.answer_join(ticket, JoinAnswer::refused(error, member_id));
            }
            Waiting::Sync(ticket) => self.answer_sync(ticket, SyncAnswer::refused(error)),
        }
    }
}
