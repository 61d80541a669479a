//! The consumer group protocol (KIP-848) from the coordinator's side, as a pure state machine: the
//! members say what they want and own, the coordinator assigns.
//!
//! | member | leaves it by |
//! |---|---|
//! | stable: has what the target says | a new target: any of these |
//! | unrevoked: was told to give up | a heartbeat whose owned partitions leave that out; the rebalance timeout: fenced |
//! | unreleased: waits for what others give up | that is free: stable |
//!
//! The group's epoch rises with every change of members, subscriptions and topics; a target is made
//! for each. A member takes the target's epoch once it has nothing to give up. Must hold: a partition
//! is assigned to a member only while no other has it, or has yet to give it up.
//!
//! Not imitated: members of the classic protocol in the same group (KIP-848's migration).

mod assign;
mod describe;
mod reconcile;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use regex_lite::Regex;
use uuid::Uuid;

use crate::codes;
pub(crate) use assign::ServerAssignor;
pub(crate) use describe::{Description, MemberDescription};

/// A partition of a topic, by the topic's id.
pub(crate) type Partition = (Uuid, i32);
/// Partitions of several topics.
pub(crate) type Set = BTreeSet<Partition>;

const LEAVE: i32 = -1;
const LEAVE_STATIC: i32 = -2;
/// Members that one group takes.
const MAX_MEMBERS: usize = 1000;

/// A topic as the assignors see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TopicView {
    pub(crate) name: String,
    pub(crate) id: Uuid,
    pub(crate) partitions: i32,
}

/// How long a member may be silent, and how often it is to be heard.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timers {
    pub(crate) session_ms: u64,
    pub(crate) interval_ms: i32,
}

/// ConsumerGroupHeartbeat; `None` is unchanged.
#[derive(Clone, Debug, Default)]
pub(crate) struct Heartbeat {
    pub(crate) member_id: String,
    pub(crate) epoch: i32,
    pub(crate) instance_id: Option<String>,
    pub(crate) client_id: String,
    pub(crate) client_host: String,
    pub(crate) rebalance_ms: Option<u64>,
    pub(crate) topics: Option<Vec<String>>,
    pub(crate) pattern: Option<String>,
    pub(crate) assignor: Option<String>,
    pub(crate) owned: Option<Set>,
    /// The id for a member that has none (version 0).
    pub(crate) candidate_id: String,
}

/// What a heartbeat is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Beaten {
    pub(crate) member_id: String,
    pub(crate) epoch: i32,
    pub(crate) interval_ms: i32,
    pub(crate) assignment: Option<Set>,
}

#[derive(Clone, Debug, Default)]
struct Member {
    instance_id: Option<String>,
    client_id: String,
    client_host: String,
    topics: Vec<String>,
    pattern: String,
    regex: Option<Regex>,
    assignor: ServerAssignor,
    rebalance_ms: u64,
    epoch: i32,
    previous_epoch: i32,
    assigned: Set,
    /// Was told to give these up, and has not said that it did.
    unrevoked: Set,
    /// Whether others still have something of its target.
    unreleased: bool,
    session_deadline: u64,
    revoke_deadline: Option<u64>,
}

impl Member {
    fn reads(&self, topic: &str) -> bool {
        let matches = |regex: &Regex| regex.is_match(topic);
        self.topics.iter().any(|t| t == topic) || self.regex.as_ref().is_some_and(matches)
    }
}

/// The members of one group.
#[derive(Debug)]
pub(crate) struct ConsumerGroup {
    timers: Timers,
    epoch: i32,
    target_epoch: i32,
    target: BTreeMap<String, Set>,
    members: BTreeMap<String, Member>,
    /// The topics that the target was made for.
    topics: Vec<TopicView>,
}

impl ConsumerGroup {
    pub(crate) fn new(timers: Timers) -> Self {
        Self {
            timers,
            epoch: 0,
            target_epoch: 0,
            target: BTreeMap::new(),
            members: BTreeMap::new(),
            topics: Vec::new(),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    pub(crate) fn epoch(&self) -> i32 {
        self.epoch
    }

    pub(crate) fn reads(&self, topic: &str) -> bool {
        self.members.values().any(|member| member.reads(topic))
    }

    /// Takes a heartbeat, with the topics that there are.
    pub(crate) fn heartbeat(
        &mut self,
        beat: Heartbeat,
        topics: &[TopicView],
        now: u64,
    ) -> Result<Beaten, i16> {
        match beat.epoch {
            LEAVE | LEAVE_STATIC => return self.leave(&beat),
            epoch if epoch < 0 => return Err(codes::INVALID_REQUEST),
            0 => check_join(&beat)?,
            _ => {}
        }
        let id = match beat.member_id.as_str() {
            "" if beat.epoch == 0 => beat.candidate_id.clone(),
            "" => return Err(codes::INVALID_REQUEST),
            id => id.to_owned(),
        };
        let regex = read_pattern(beat.pattern.as_deref())?;
        let assignor = match beat.assignor.as_deref() {
            None => None,
            Some(name) => Some(ServerAssignor::named(name).ok_or(codes::UNSUPPORTED_ASSIGNOR)?),
        };
        if beat.epoch == 0 {
            self.join(&id, beat.instance_id.as_deref())?;
        } else {
            self.admit(&id, &beat)?;
        }
        let is_full = beat.rebalance_ms.is_some() && beat.owned.is_some();
        let Some(member) = self.members.get_mut(&id) else {
            return Err(codes::UNKNOWN_MEMBER_ID);
        };
        member.session_deadline = now.saturating_add(self.timers.session_ms);
        member.rebalance_ms = beat.rebalance_ms.unwrap_or(member.rebalance_ms);
        member.client_id.clone_from(&beat.client_id);
        member.client_host.clone_from(&beat.client_host);
        let mut changed = false;
        if let Some(topics) = beat.topics {
            changed |= std::mem::replace(&mut member.topics, topics.clone()) != topics;
        }
        if let Some(pattern) = beat.pattern {
            changed |= member.pattern != pattern;
            (member.pattern, member.regex) = (pattern, regex);
        }
        if let Some(assignor) = assignor {
            changed |= std::mem::replace(&mut member.assignor, assignor) != assignor;
        }
        self.epoch += i32::from(changed);
        self.refresh_target(topics);
        let before = self.members.get(&id).map(|member| member.assigned.clone());
        self.reconcile(&id, beat.owned.as_ref(), now);
        let Some(member) = self.members.get(&id) else {
            return Err(codes::UNKNOWN_MEMBER_ID);
        };
        let tells = beat.epoch == 0 || is_full || before.as_ref() != Some(&member.assigned);
        Ok(Beaten {
            member_id: id,
            epoch: member.epoch,
            interval_ms: self.timers.interval_ms,
            assignment: tells.then(|| member.assigned.clone()),
        })
    }

    fn holder(&self, instance: &str) -> Option<&String> {
        let mut all = self.members.iter();
        all.find(|(_, member)| member.instance_id.as_deref() == Some(instance))
            .map(|(id, _)| id)
    }

    /// A member with epoch 0: a new one, one that begins again, or a static one that takes the
    /// place that its predecessor released.
    fn join(&mut self, id: &str, instance: Option<&str>) -> Result<(), i16> {
        let holder = instance.and_then(|instance| self.holder(instance)).cloned();
        if let Some(holder) = holder {
            if self
                .members
                .get(&holder)
                .is_some_and(|m| m.epoch != LEAVE_STATIC)
            {
                return Err(codes::UNRELEASED_INSTANCE_ID);
            }
            if let Some(mut place) = self.members.remove(&holder) {
                place.epoch = 0;
                self.members.insert(id.to_owned(), place);
            }
            if let Some(target) = self.target.remove(&holder) {
                self.target.insert(id.to_owned(), target);
            }
            return Ok(());
        }
        if !self.members.contains_key(id) {
            if self.members.len() >= MAX_MEMBERS {
                return Err(codes::GROUP_MAX_SIZE_REACHED);
            }
            let instance_id = instance.map(str::to_owned);
            let member = Member {
                instance_id,
                ..Member::default()
            };
            self.members.insert(id.to_owned(), member);
            self.epoch += 1;
        }
        Ok(())
    }

    fn check_instance(&self, id: &str, instance: Option<&str>) -> Result<(), i16> {
        let Some(instance) = instance else {
            return Ok(());
        };
        match self.holder(instance) {
            None => Err(codes::UNKNOWN_MEMBER_ID),
            Some(holder) if holder != id => Err(codes::FENCED_INSTANCE_ID),
            Some(_) => Ok(()),
        }
    }

    /// A member with an epoch: the newest one, or the one before together with owned partitions
    /// that fit, since the answer with the newest may have been lost.
    fn admit(&self, id: &str, beat: &Heartbeat) -> Result<(), i16> {
        self.check_instance(id, beat.instance_id.as_deref())?;
        let member = self.members.get(id).ok_or(codes::UNKNOWN_MEMBER_ID)?;
        let fits = || {
            let owned = beat.owned.as_ref();
            owned.is_some_and(|owned| owned.is_subset(&member.assigned))
        };
        if beat.epoch == member.epoch
            || beat.epoch < member.epoch && beat.epoch == member.previous_epoch && fits()
        {
            Ok(())
        } else {
            Err(codes::FENCED_MEMBER_EPOCH)
        }
    }

    fn leave(&mut self, beat: &Heartbeat) -> Result<Beaten, i16> {
        let id = &beat.member_id;
        self.check_instance(id, beat.instance_id.as_deref())?;
        let is_static = beat.instance_id.is_some();
        match self.members.get_mut(id) {
            None => return Err(codes::UNKNOWN_MEMBER_ID),
            Some(_) if beat.epoch == LEAVE_STATIC && !is_static => {
                return Err(codes::INVALID_REQUEST);
            }
            Some(member) if beat.epoch == LEAVE_STATIC => member.epoch = LEAVE_STATIC,
            Some(_) => self.remove(&id.clone()),
        }
        Ok(Beaten {
            member_id: id.clone(),
            epoch: beat.epoch,
            interval_ms: self.timers.interval_ms,
            assignment: None,
        })
    }

    fn remove(&mut self, id: &str) {
        self.members.remove(id);
        self.target.remove(id);
        self.epoch += 1;
    }

    /// Whether a member may commit, or ask for offsets, with this epoch.
    pub(crate) fn check_epoch(&self, id: &str, instance: Option<&str>, epoch: i32) -> i16 {
        if let Some(holder) = instance.and_then(|instance| self.holder(instance))
            && holder != id
        {
            return codes::FENCED_INSTANCE_ID;
        }
        match self.members.get(id) {
            None => codes::UNKNOWN_MEMBER_ID,
            Some(member) if member.epoch != epoch => codes::STALE_MEMBER_EPOCH,
            Some(_) => codes::NONE,
        }
    }

    /// Fences who was silent for a session, or did not give up in time.
    pub(crate) fn tick(&mut self, now: u64) {
        let is_over = |member: &Member| {
            member.session_deadline <= now || member.revoke_deadline.is_some_and(|at| at <= now)
        };
        let over = self.members.iter().filter(|(_, member)| is_over(member));
        for id in over.map(|(id, _)| id.clone()).collect::<Vec<_>>() {
            self.remove(&id);
        }
    }

    /// When [`ConsumerGroup::tick`] has something to do.
    pub(crate) fn next_deadline(&self) -> Option<u64> {
        let members = self.members.values();
        let each = members.flat_map(|m| m.revoke_deadline.into_iter().chain([m.session_deadline]));
        each.min()
    }

    /// Another broker coordinates the group from now on: everybody has a session from here.
    pub(crate) fn resign(&mut self, now: u64) {
        for member in self.members.values_mut() {
            member.session_deadline = now.saturating_add(self.timers.session_ms);
            let again = now.saturating_add(member.rebalance_ms);
            member.revoke_deadline = member.revoke_deadline.map(|_| again);
        }
    }
}

/// What a join has to say.
fn check_join(beat: &Heartbeat) -> Result<(), i16> {
    let owns_nothing = beat.owned.as_ref().is_some_and(Set::is_empty);
    let subscribes = beat.topics.is_some() || beat.pattern.is_some();
    if owns_nothing && subscribes && beat.rebalance_ms.is_some() {
        Ok(())
    } else {
        Err(codes::INVALID_REQUEST)
    }
}

fn read_pattern(pattern: Option<&str>) -> Result<Option<Regex>, i16> {
    match pattern {
        None | Some("") => Ok(None),
        // The whole name has to match, as in Kafka.
        Some(pattern) => Regex::new(pattern)
            .and_then(|_| Regex::new(&format!("^(?:{pattern})$")))
            .map(Some)
            .map_err(|_| codes::INVALID_REGULAR_EXPRESSION),
    }
}
