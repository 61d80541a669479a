//! The groups of the cluster: which broker coordinates each, and who waits for an answer.
//!
//! The groups themselves are pure ([`crate::group`]); here their tickets meet the connections.

use std::collections::{BTreeMap, HashMap};

use tokio::sync::oneshot;

use crate::codes;
use crate::consumer_group::Timers;
use crate::group::{Answer, Group, GroupState, Ticket};
use crate::seat::Seat;
use crate::topics::Topics;

/// Groups that the cluster keeps.
const MAX_GROUPS: usize = 10_000;

#[derive(Debug)]
struct Entry {
    seat: Seat,
    group: Group,
}

/// All groups.
#[derive(Debug)]
pub(crate) struct Coordinators {
    groups: BTreeMap<String, Entry>,
    waiting: HashMap<Ticket, oneshot::Sender<Answer>>,
    next_ticket: Ticket,
    initial_delay_ms: u64,
    timers: Timers,
    replicated: bool,
}

impl Coordinators {
    pub(crate) fn new(initial_delay_ms: u64, timers: Timers, replicated: bool) -> Self {
        Self {
            groups: BTreeMap::new(),
            waiting: HashMap::new(),
            next_ticket: 0,
            initial_delay_ms,
            timers,
            replicated,
        }
    }

    /// The broker that coordinates the group; the first call settles it by the name's bytes.
    pub(crate) fn find(&mut self, name: &str, topics: &Topics) -> Result<i32, i16> {
        if name.is_empty() {
            return Err(codes::INVALID_GROUP_ID);
        }
        self.entry(name, topics)?
            .seat
            .broker()
            .ok_or(codes::COORDINATOR_NOT_AVAILABLE)
    }

    fn entry(&mut self, name: &str, topics: &Topics) -> Result<&mut Entry, i16> {
        if !self.groups.contains_key(name) {
            if self.groups.len() >= MAX_GROUPS {
                return Err(codes::COORDINATOR_NOT_AVAILABLE);
            }
            let seat = Seat::of(name, topics, self.replicated);
            let group = Group::new(self.initial_delay_ms, self.timers);
            self.groups.insert(name.to_owned(), Entry { seat, group });
        }
        self.groups
            .get_mut(name)
            .ok_or(codes::COORDINATOR_NOT_AVAILABLE)
    }

    /// The group, for a request at `broker`.
    pub(crate) fn at(
        &mut self,
        broker: i32,
        name: &str,
        topics: &Topics,
    ) -> Result<&mut Group, i16> {
        if self.find(name, topics)? != broker {
            return Err(codes::NOT_COORDINATOR);
        }
        Ok(&mut self.entry(name, topics)?.group)
    }

    /// The group, unless it was only ever looked for.
    pub(crate) fn get(&self, name: &str) -> Option<&Group> {
        self.groups
            .get(name)
            .map(|entry| &entry.group)
            .filter(|group| group.is_used())
    }

    /// The groups that `broker` coordinates.
    pub(crate) fn of_broker(&self, broker: i32) -> impl Iterator<Item = (&str, &Group)> {
        let owned = self
            .groups
            .iter()
            .filter(move |(_, entry)| entry.seat.broker() == Some(broker));
        let groups = owned.map(|(name, entry)| (name.as_str(), &entry.group));
        groups.filter(|(_, group)| group.is_used())
    }

    /// Forgets a group and its offsets.
    pub(crate) fn delete(&mut self, broker: i32, name: &str, topics: &Topics) -> Result<(), i16> {
        let exists = self.get(name).is_some();
        let group = self.at(broker, name, topics)?;
        if !exists {
            return Err(codes::GROUP_ID_NOT_FOUND);
        }
        if group.state() != GroupState::Empty {
            return Err(codes::NON_EMPTY_GROUP);
        }
        group.forget();
        Ok(())
    }

    /// A ticket, and where its answer will come.
    pub(crate) fn ticket(&mut self) -> (Ticket, oneshot::Receiver<Answer>) {
        let (sender, receiver) = oneshot::channel();
        self.next_ticket += 1;
        self.waiting.insert(self.next_ticket, sender);
        (self.next_ticket, receiver)
    }

    /// Takes back a ticket that no group was given.
    pub(crate) fn withdraw(&mut self, ticket: Ticket) {
        self.waiting.remove(&ticket);
    }

    /// Hands out what the group answered.
    pub(crate) fn deliver(&mut self, name: &str) {
        if let Some(entry) = self.groups.get_mut(name) {
            deliver(&mut entry.group, &mut self.waiting);
        }
    }

    /// Does what is due in every group.
    pub(crate) fn tick(&mut self, now: u64) {
        for entry in self
            .groups
            .values_mut()
            .filter(|entry| entry.seat.broker().is_some())
        {
            if entry
                .group
                .next_deadline()
                .is_some_and(|deadline| deadline <= now)
            {
                entry.group.tick(now);
                deliver(&mut entry.group, &mut self.waiting);
            }
        }
    }

    /// When [`Coordinators::tick`] has something to do.
    pub(crate) fn next_deadline(&self) -> Option<u64> {
        let live = self
            .groups
            .values()
            .filter(|entry| entry.seat.broker().is_some());
        live.filter_map(|entry| entry.group.next_deadline()).min()
    }

    pub(crate) fn move_to(&mut self, name: &str, broker: i32, topics: &Topics, now: u64) -> bool {
        let Ok(entry) = self.entry(name, topics) else {
            return false;
        };
        entry.relocate(Some(broker), now);
        self.deliver(name);
        true
    }

    pub(crate) fn broker_down(&mut self, broker: i32, topics: &Topics, now: u64) {
        let heir = if self.replicated {
            topics.next_live(broker)
        } else {
            None
        };
        for entry in self
            .groups
            .values_mut()
            .filter(|entry| entry.seat.broker() == Some(broker))
        {
            entry.relocate(heir, now);
            deliver(&mut entry.group, &mut self.waiting);
        }
    }

    pub(crate) fn broker_up(&mut self, broker: i32, now: u64) {
        for entry in self.groups.values_mut() {
            if entry.seat.waits_for(broker, self.replicated) {
                entry.relocate(Some(broker), now);
                deliver(&mut entry.group, &mut self.waiting);
            }
        }
    }

    /// A marker of a transaction arrived: its offsets are committed, or forgotten.
    pub(crate) fn end_transaction(&mut self, name: &str, producer_id: i64, commit: bool) {
        if let Some(entry) = self.groups.get_mut(name) {
            entry.group.end_transaction(producer_id, commit);
        }
    }

    pub(crate) fn forget_topic(&mut self, topic: &str) {
        for entry in self.groups.values_mut() {
            entry.group.forget_topic(topic);
        }
    }
}

impl Entry {
    fn relocate(&mut self, broker: Option<i32>, now: u64) {
        if self.seat.relocate(broker) {
            self.group.resign(now);
        }
    }
}

fn deliver(group: &mut Group, waiting: &mut HashMap<Ticket, oneshot::Sender<Answer>>) {
    for (ticket, answer) in group.take_answers() {
        if let Some(sender) = waiting.remove(&ticket) {
            // The connection may be gone by now; then nobody wants the answer.
            let _ = sender.send(answer);
        }
    }
}
