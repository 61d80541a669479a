//! From the target to what each member is assigned.

use super::{ConsumerGroup, ServerAssignor, Set, TopicView};

impl ConsumerGroup {
    /// Makes a new target when the group or its topics have changed.
    pub(super) fn refresh_target(&mut self, topics: &[TopicView]) {
        let read = topics.iter().filter(|topic| self.reads(&topic.name));
        let read: Vec<TopicView> = read.cloned().collect();
        if read != self.topics {
            self.topics = read;
            self.epoch += 1;
        }
        if self.target_epoch == self.epoch {
            return;
        }
        self.target_epoch = self.epoch;
        let old = std::mem::take(&mut self.target);
        let subscribers = |topic: &str| -> Vec<&str> {
            let all = self.members.iter().filter(|(_, m)| m.reads(topic));
            all.map(|(id, _)| id.as_str()).collect()
        };
        self.target = self.assignor().assign(&self.topics, subscribers, &old);
    }

    /// That of all members together: the one that most of them name.
    pub(super) fn assignor(&self) -> ServerAssignor {
        let uniform = |m: &&super::Member| m.assignor == ServerAssignor::Uniform;
        let for_uniform = self.members.values().filter(uniform).count();
        match for_uniform * 2 >= self.members.len() {
            true => ServerAssignor::Uniform,
            false => ServerAssignor::Range,
        }
    }

    /// Brings a member one step nearer to its target. `owned` is what it said that it has.
    pub(super) fn reconcile(&mut self, id: &str, owned: Option<&Set>, now: u64) {
        let target = self.target.get(id).cloned().unwrap_or_default();
        let taken: Set = self
            .members
            .iter()
            .filter(|(other, _)| *other != id)
            .flat_map(|(_, other)| other.assigned.iter().chain(&other.unrevoked).copied())
            .collect();
        let Some(member) = self.members.get_mut(id) else {
            return;
        };
        if !member.unrevoked.is_empty() {
            if !owned.is_some_and(|owned| owned.is_disjoint(&member.unrevoked)) {
                return;
            }
            member.unrevoked.clear();
            member.revoke_deadline = None;
        } else if member.epoch == self.target_epoch && !member.unreleased {
            return;
        }
        let superfluous: Set = member.assigned.difference(&target).copied().collect();
        member
            .assigned
            .retain(|partition| target.contains(partition));
        // What a member says it does not have need not be given up.
        let has = |p: &&super::Partition| owned.is_none_or(|owned| owned.contains(*p));
        member.unrevoked = superfluous.iter().filter(has).copied().collect();
        if !member.unrevoked.is_empty() {
            member.revoke_deadline = Some(now.saturating_add(member.rebalance_ms));
            return;
        }
        member.assigned.extend(target.difference(&taken));
        member.unreleased = member.assigned != target;
        if member.epoch != self.target_epoch {
            member.previous_epoch = member.epoch;
            member.epoch = self.target_epoch;
        }
    }
}
