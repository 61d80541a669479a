//! A model of the broker's side of KIP-848, after the rules of Kafka's group coordinator: written from
//! the protocol, it shares no code with the member.

use crate::broker::{REBALANCE, SESSION};
use ottla_group::TopicCounts;
use ottla_types::ErrorCode;
use ottla_types::coordinator::{
    ConsumerHeartbeatRequest, ConsumerHeartbeatResponse, TopicId, TopicIdPartitions,
};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

const INTERVAL: i32 = 1_500;
const LEFT: i32 = -2;

type Set = BTreeSet<(TopicId, i32)>;

pub(crate) fn topic_id(name: &str) -> TopicId {
    let mut id = [0; 16];
    id[..name.len()].copy_from_slice(name.as_bytes());
    id
}

#[derive(Default, Clone)]
struct Known {
    instance: Option<String>,
    topics: Vec<Arc<str>>,
    epoch: i32,
    previous: i32,
    assigned: Set,
    /// Taken back, and not given up yet.
    pending: Set,
    /// Waits for others to give up.
    unreleased: bool,
    expires: i64,
    must_give_up_by: Option<i64>,
}

#[derive(Default)]
pub(crate) struct Coordinator {
    epoch: i32,
    target_epoch: i32,
    members: BTreeMap<String, Known>,
    target: BTreeMap<String, Set>,
    counts: TopicCounts,
}

impl Coordinator {
    pub(crate) fn heartbeat(
        &mut self,
        beat: ConsumerHeartbeatRequest,
        counts: &TopicCounts,
        now: i64,
    ) -> ConsumerHeartbeatResponse {
        self.take(beat, counts, now).unwrap_or_else(refusal)
    }

    fn take(
        &mut self,
        beat: ConsumerHeartbeatRequest,
        counts: &TopicCounts,
        now: i64,
    ) -> Result<ConsumerHeartbeatResponse, ErrorCode> {
        let id = beat.member_id.clone();
        if beat.member_epoch < 0 {
            return self.leave(beat, counts);
        }
        let owned: Option<Set> = beat.owned.map(flat);
        self.admit(&id, beat.instance_id, beat.member_epoch, owned.as_ref())?;
        let known = self
            .members
            .get_mut(&id)
            .ok_or(ErrorCode::UNKNOWN_MEMBER_ID)?;
        let is_full = beat.rebalance_timeout_ms.is_some() && owned.is_some();
        known.expires = now + SESSION;
        if let Some(topics) = beat.topics
            && known.topics != topics
        {
            known.topics = topics;
            self.epoch += 1;
        }
        self.assign(counts);
        let before = self.members[&id].assigned.clone();
        self.reconcile(&id, owned.as_ref(), now);
        let known = &self.members[&id];
        let tells = beat.member_epoch == 0 || is_full || known.assigned != before;
        Ok(ConsumerHeartbeatResponse {
            member_epoch: known.epoch,
            heartbeat_interval_ms: INTERVAL,
            assignment: tells.then(|| wire(&known.assigned)),
            ..refusal(ErrorCode::NONE)
        })
    }

    fn by_instance(&self, instance: Option<&str>) -> Option<String> {
        let mut all = self.members.iter();
        let found = all.find(|(_, m)| m.instance.is_some() && m.instance.as_deref() == instance);
        found.map(|(id, _)| id.clone())
    }

    /// Whether the member may say something, as who it says it is.
    fn admit(
        &mut self,
        id: &str,
        instance: Option<String>,
        epoch: i32,
        owned: Option<&Set>,
    ) -> Result<(), ErrorCode> {
        let holder = self.by_instance(instance.as_deref());
        if epoch == 0 {
            if owned.is_none_or(|owned| !owned.is_empty()) {
                return Err(ErrorCode::INVALID_REQUEST);
            }
            let mut known = match &holder {
                Some(holder) if self.members[holder].epoch != LEFT => {
                    return Err(ErrorCode::UNRELEASED_INSTANCE_ID);
                }
                // The place of a static member that was away: its partitions stay with it.
                Some(holder) => {
                    let known = self.members.remove(holder).unwrap_or_default();
                    if let Some(target) = self.target.remove(holder) {
                        self.target.insert(id.to_owned(), target);
                    }
                    Known { epoch: 0, ..known }
                }
                None => self.members.remove(id).unwrap_or_default(),
            };
            known.instance = instance;
            self.members.insert(id.to_owned(), known);
            return Ok(());
        }
        if instance.is_some() {
            match holder {
                None => return Err(ErrorCode::UNKNOWN_MEMBER_ID),
                Some(holder) if holder != id => return Err(ErrorCode::FENCED_INSTANCE_ID),
                Some(_) => {}
            }
        }
        let known = self.members.get(id).ok_or(ErrorCode::UNKNOWN_MEMBER_ID)?;
        let is_previous =
            epoch == known.previous && owned.is_some_and(|owned| owned.is_subset(&known.assigned));
        if epoch == known.epoch || epoch < known.epoch && is_previous {
            Ok(())
        } else {
            Err(ErrorCode::FENCED_MEMBER_EPOCH)
        }
    }

    fn leave(
        &mut self,
        beat: ConsumerHeartbeatRequest,
        counts: &TopicCounts,
    ) -> Result<ConsumerHeartbeatResponse, ErrorCode> {
        let id = beat.member_id;
        if beat.member_epoch == LEFT {
            match self.by_instance(beat.instance_id.as_deref()) {
                None => return Err(ErrorCode::UNKNOWN_MEMBER_ID),
                Some(holder) if holder != id => return Err(ErrorCode::FENCED_INSTANCE_ID),
                Some(_) => {}
            }
            if let Some(known) = self.members.get_mut(&id) {
                known.epoch = LEFT;
            }
        } else if self.members.contains_key(&id) {
            self.remove(&id, counts);
        } else {
            return Err(ErrorCode::UNKNOWN_MEMBER_ID);
        }
        Ok(ConsumerHeartbeatResponse {
            member_epoch: beat.member_epoch,
            ..refusal(ErrorCode::NONE)
        })
    }

    fn remove(&mut self, id: &str, counts: &TopicCounts) {
        self.members.remove(id);
        self.target.remove(id);
        self.epoch += 1;
        self.assign(counts);
    }

    /// The target, when the group has changed since it was made: sticky and level.
    fn assign(&mut self, counts: &TopicCounts) {
        if self.counts != *counts {
            self.counts.clone_from(counts);
            self.epoch += 1;
        }
        if self.target_epoch == self.epoch {
            return;
        }
        self.target_epoch = self.epoch;
        let old = std::mem::take(&mut self.target);
        let mut loads: BTreeMap<&String, usize> = self.members.keys().map(|id| (id, 0)).collect();
        let mut left = Vec::new();
        let total: i32 = counts.values().sum();
        let most = (total as usize).div_ceil(self.members.len().max(1));
        let mut target: BTreeMap<String, Set> = BTreeMap::new();
        for (topic, count) in counts {
            for partition in 0..*count {
                let tp = (topic_id(topic), partition);
                let keeper = old
                    .iter()
                    .find(|(_, set)| set.contains(&tp))
                    .map(|(id, _)| id);
                let keeper = keeper.and_then(|id| self.members.get_key_value(id));
                let keeper = keeper.filter(|(id, m)| m.topics.contains(topic) && loads[id] < most);
                match keeper {
                    Some((id, _)) => {
                        loads.entry(id).and_modify(|load| *load += 1);
                        target.entry(id.clone()).or_default().insert(tp);
                    }
                    None => left.push((topic, tp)),
                }
            }
        }
        for (topic, tp) in left {
            let takers = self
                .members
                .iter()
                .filter(|(_, m)| m.topics.contains(topic));
            if let Some((id, _)) = takers.min_by_key(|(id, _)| loads[id]) {
                loads.entry(id).and_modify(|load| *load += 1);
                target.entry(id.clone()).or_default().insert(tp);
            }
        }
        // The ceiling keeps too much where the total does not divide evenly.
        loop {
            let all = |id: &&String| self.members[*id].topics.len() == counts.len();
            let ids: Vec<&String> = self.members.keys().filter(all).collect();
            let load = |id: &&String| target.get(*id).map_or(0, Set::len);
            let (Some(most), Some(least)) = (
                ids.iter().copied().max_by_key(load),
                ids.iter().copied().min_by_key(load),
            ) else {
                break;
            };
            if load(&most) < load(&least) + 2 {
                break;
            }
            let moved = target.get_mut(most).and_then(Set::pop_last);
            target.entry(least.clone()).or_default().extend(moved);
        }
        self.target = target;
    }

    fn reconcile(&mut self, id: &str, owned: Option<&Set>, now: i64) {
        let target = self.target.get(id).cloned().unwrap_or_default();
        let Some(known) = self.members.get(id) else {
            return;
        };
        let mut known = known.clone();
        if !known.pending.is_empty() {
            if !owned.is_some_and(|owned| owned.is_disjoint(&known.pending)) {
                return;
            }
            known.pending.clear();
            known.must_give_up_by = None;
        } else if known.epoch == self.target_epoch && !known.unreleased {
            return;
        }
        let back: Set = &known.assigned - &target;
        let has = |tp: &&(TopicId, i32)| owned.is_none_or(|owned| owned.contains(*tp));
        let pending: Set = back.iter().filter(has).copied().collect();
        known.assigned = &known.assigned & &target;
        if pending.is_empty() {
            let others = || self.members.iter().filter(|(other, _)| *other != id);
            let is_held = |tp: &(TopicId, i32)| {
                others().any(|(_, m)| m.assigned.contains(tp) || m.pending.contains(tp))
            };
            let free: Set = target.iter().filter(|tp| !is_held(tp)).copied().collect();
            known.assigned.extend(free);
            known.unreleased = known.assigned != target;
            if known.epoch != self.target_epoch {
                (known.previous, known.epoch) = (known.epoch, self.target_epoch);
            }
        } else {
            known.pending = pending;
            known.must_give_up_by = Some(now + REBALANCE);
        }
        self.members.insert(id.to_owned(), known);
    }

    pub(crate) fn commit(&self, id: &str, instance: Option<&str>, epoch: i32) -> ErrorCode {
        if instance.is_some()
            && self
                .by_instance(instance)
                .is_some_and(|holder| holder != id)
        {
            return ErrorCode::FENCED_INSTANCE_ID;
        }
        match self.members.get(id) {
            None => ErrorCode::UNKNOWN_MEMBER_ID,
            Some(known) if known.epoch != epoch => ErrorCode::STALE_MEMBER_EPOCH,
            Some(_) => ErrorCode::NONE,
        }
    }

    pub(crate) fn holds(&self, instance: &str) -> bool {
        let holder = self.by_instance(Some(instance));
        holder.is_some_and(|id| self.members[&id].epoch != LEFT)
    }

    pub(crate) fn next_timeout(&self) -> Option<i64> {
        let each = self.members.values();
        let each = each.flat_map(|m| m.must_give_up_by.into_iter().chain([m.expires]));
        each.min()
    }

    pub(crate) fn tick(&mut self, counts: &TopicCounts, now: i64) {
        let is_over = |m: &Known| m.expires <= now || m.must_give_up_by.is_some_and(|at| at <= now);
        let over = self.members.iter().filter(|(_, m)| is_over(m));
        let over: Vec<String> = over.map(|(id, _)| id.clone()).collect();
        for id in over {
            self.remove(&id, counts);
        }
    }

    /// Everything is written down but the timers.
    pub(crate) fn fail_over(&mut self, now: i64) {
        for known in self.members.values_mut() {
            known.expires = now + SESSION;
            known.must_give_up_by = known.must_give_up_by.map(|_| now + REBALANCE);
        }
    }
}

fn flat(owned: TopicIdPartitions) -> Set {
    let each = owned.into_iter();
    let each = each.flat_map(|(id, all)| all.into_iter().map(move |p| (id, p)));
    each.collect()
}

fn wire(set: &Set) -> TopicIdPartitions {
    let mut topics: BTreeMap<TopicId, Vec<i32>> = BTreeMap::new();
    for (id, partition) in set {
        topics.entry(*id).or_default().push(*partition);
    }
    topics.into_iter().collect()
}

pub(crate) fn refusal(error: ErrorCode) -> ConsumerHeartbeatResponse {
    ConsumerHeartbeatResponse {
        error,
        message: None,
        member_id: None,
        member_epoch: 0,
        heartbeat_interval_ms: 0,
        assignment: None,
    }
}
