//! From what the coordinator wants to what is owned.

use super::ConsumerMembership;
use super::state::{AfterRevocation, Asking, State, Told};
use crate::membership::MembershipEvent;
use ottla_types::TopicPartition;
use ottla_types::coordinator::{TopicId, TopicIdPartitions};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

impl ConsumerMembership {
    pub(super) fn on_target(&mut self, assignment: TopicIdPartitions) {
        let target: BTreeSet<(TopicId, i32)> = flat(&assignment).collect();
        let told = self.told.as_ref().and_then(|told| told.owned.as_ref());
        let known =
            self.said_owned && told.is_some_and(|owned| flat(owned).eq(target.iter().copied()));
        let unchanged = known || self.target.as_ref() == Some(&target);
        self.target = Some(target);
        // An assignment is acknowledged, unless it is what the coordinator was just told.
        if !unchanged && let Some(told) = &mut self.told {
            told.owned = None;
        }
        let is_new = !(unchanged && self.is_announced);
        self.is_announced = true;
        self.reconcile(is_new);
    }

    /// Takes what was given, gives back what was taken, and says so if anything changed or `is_new`.
    /// While the application still gives up, the newest target waits. So it does while a heartbeat is
    /// out that says what is owned: the coordinator may give away what that one leaves out.
    pub(super) fn reconcile(&mut self, is_new: bool) {
        if matches!(self.state, State::Revoking(_)) || self.heartbeat.is_out() && self.said_owned {
            return;
        }
        let Some(target) = &self.target else {
            return;
        };
        let mut wanted: BTreeMap<TopicPartition, TopicId> = BTreeMap::new();
        let mut unnamed: BTreeSet<TopicId> = BTreeSet::new();
        for (id, partition) in target {
            match self.names.get(id) {
                Some(name) => {
                    wanted.insert(TopicPartition::new(name.clone(), *partition), *id);
                }
                None => {
                    unnamed.insert(*id);
                }
            }
        }
        let is_unwanted =
            |(tp, id): &(&TopicPartition, &TopicId)| !target.contains(&(**id, tp.partition));
        let revoked = self.owned.iter().filter(is_unwanted);
        let revoked: BTreeSet<_> = revoked.map(|(tp, _)| tp.clone()).collect();
        // One that is owned under the id of a deleted topic comes when that one is given up.
        let mut added = Vec::new();
        let mut all = Vec::new();
        for (tp, id) in wanted {
            match self.owned.get(&tp) {
                Some(owned) if *owned != id => continue,
                Some(_) => {}
                None => {
                    added.push(tp.clone());
                    self.owned.insert(tp.clone(), id);
                }
            }
            all.push(tp);
        }
        if !revoked.is_empty() {
            self.revoke(revoked, AfterRevocation::Acknowledge);
        }
        if is_new || !added.is_empty() {
            self.events.push_back(MembershipEvent::Assigned {
                generation: self.epoch,
                added,
                all,
            });
        }
        if !unnamed.is_empty() && self.asking == Asking::Idle {
            self.ask_for_names(unnamed);
        }
    }

    fn ask_for_names(&mut self, ids: BTreeSet<TopicId>) {
        self.asking = Asking::Out;
        let ids = ids.into_iter().collect();
        self.events
            .push_back(MembershipEvent::NeedTopicNames { ids });
    }

    fn unnamed(&self) -> BTreeSet<TopicId> {
        let ids = self.target.iter().flatten().map(|(id, _)| *id);
        ids.filter(|id| !self.names.contains_key(id)).collect()
    }

    pub(super) fn on_names(&mut self, names: BTreeMap<TopicId, Arc<str>>) {
        let before = self.unnamed();
        self.names.extend(names);
        self.on_names_failed();
        if self.unnamed() != before {
            self.reconcile(false);
        }
    }

    /// The broker that was asked may not have heard of the topic yet.
    pub(super) fn on_names_failed(&mut self) {
        self.asking = if self.unnamed().is_empty() {
            Asking::Idle
        } else {
            let wait = self.backoff.first_ms();
            Asking::Again(self.now_ms.saturating_add(wait))
        };
    }

    pub(super) fn ask_again(&mut self) {
        self.asking = Asking::Idle;
        let unnamed = self.unnamed();
        if !unnamed.is_empty() {
            self.ask_for_names(unnamed);
        }
    }

    /// Whether the coordinator has yet to hear something.
    pub(super) fn news(&self, told: &Told) -> bool {
        *told != self.present()
    }
}

fn flat(topics: &TopicIdPartitions) -> impl Iterator<Item = (TopicId, i32)> {
    let each = topics.iter();
    each.flat_map(|(id, partitions)| partitions.iter().map(|p| (*id, *p)))
}
