//! The group as ConsumerGroupDescribe shows it.

use super::{ConsumerGroup, Member, Set};

/// The group.
#[derive(Debug)]
pub(crate) struct Description {
    pub(crate) state: &'static str,
    pub(crate) epoch: i32,
    pub(crate) assignment_epoch: i32,
    pub(crate) assignor: &'static str,
    pub(crate) members: Vec<MemberDescription>,
}

/// A member.
#[derive(Debug)]
pub(crate) struct MemberDescription {
    pub(crate) member_id: String,
    pub(crate) instance_id: Option<String>,
    pub(crate) client_id: String,
    pub(crate) client_host: String,
    pub(crate) epoch: i32,
    pub(crate) topics: Vec<String>,
    pub(crate) pattern: String,
    pub(crate) assigned: Set,
    pub(crate) target: Set,
}

impl ConsumerGroup {
    pub(crate) fn describe(&self) -> Description {
        let target = |id: &str| self.target.get(id).cloned().unwrap_or_default();
        let describe = |(id, member): (&String, &Member)| MemberDescription {
            member_id: id.clone(),
            instance_id: member.instance_id.clone(),
            client_id: member.client_id.clone(),
            client_host: member.client_host.clone(),
            epoch: member.epoch,
            topics: member.topics.clone(),
            pattern: member.pattern.clone(),
            assigned: member.assigned.clone(),
            target: target(id),
        };
        let is_there = |(id, member): (&String, &Member)| {
            member.epoch == self.epoch && member.assigned == target(id)
        };
        let state = match self.members.iter().all(is_there) {
            _ if self.members.is_empty() => "Empty",
            _ if self.target_epoch < self.epoch => "Assigning",
            true => "Stable",
            false => "Reconciling",
        };
        Description {
            state,
            epoch: self.epoch,
            assignment_epoch: self.target_epoch,
            assignor: self.assignor().name(),
            members: self.members.iter().map(describe).collect(),
        }
    }
}
