//! All transactional ids, and which broker coordinates each. Pure.

use std::collections::BTreeMap;

use super::{Ending, ProducerIds, Transaction};
use crate::codes;
use crate::seat::Seat;
use crate::topics::Topics;

/// Transactional ids that the cluster keeps.
const MAX_TRANSACTIONAL_IDS: usize = 10_000;

#[derive(Debug)]
struct Entry {
    seat: Seat,
    /// `None` while the id was only ever looked for.
    transaction: Option<Transaction>,
}

/// The transactional ids of the cluster.
#[derive(Debug)]
pub(crate) struct Transactions {
    entries: BTreeMap<String, Entry>,
    replicated: bool,
    /// As in [`Versions`](crate::Versions).
    remembers_ended: bool,
    /// Decided transactions stay undone while this is set.
    pub(crate) holds_markers: bool,
}

impl Transactions {
    pub(crate) fn new(replicated: bool, remembers_ended: bool) -> Self {
        Self {
            entries: BTreeMap::new(),
            replicated,
            remembers_ended,
            holds_markers: false,
        }
    }

    /// The broker that coordinates the id; the first call settles it by the name's bytes.
    pub(crate) fn find(&mut self, name: &str, topics: &Topics) -> Result<i32, i16> {
        if name.is_empty() {
            return Err(codes::INVALID_REQUEST);
        }
        let seat = self.entry(name, topics)?.seat;
        seat.broker().ok_or(codes::COORDINATOR_NOT_AVAILABLE)
    }

    fn entry(&mut self, name: &str, topics: &Topics) -> Result<&mut Entry, i16> {
        if !self.entries.contains_key(name) {
            if self.entries.len() >= MAX_TRANSACTIONAL_IDS {
                return Err(codes::COORDINATOR_NOT_AVAILABLE);
            }
            let entry = Entry {
                seat: Seat::of(name, topics, self.replicated),
                transaction: None,
            };
            self.entries.insert(name.to_owned(), entry);
        }
        self.entries
            .get_mut(name)
            .ok_or(codes::COORDINATOR_NOT_AVAILABLE)
    }

    /// The id, for an InitProducerId at `broker`.
    pub(crate) fn at_or_new(
        &mut self,
        broker: i32,
        name: &str,
        topics: &Topics,
        ids: &mut ProducerIds,
    ) -> Result<&mut Transaction, i16> {
        if self.find(name, topics)? != broker {
            return Err(codes::NOT_COORDINATOR);
        }
        let remembers_ended = self.remembers_ended;
        let transaction = &mut self.entry(name, topics)?.transaction;
        Ok(transaction.get_or_insert_with(|| Transaction::new(ids, remembers_ended)))
    }

    /// The id, for any other request of its producer at `broker`.
    pub(crate) fn at(
        &mut self,
        broker: i32,
        name: &str,
        topics: &Topics,
    ) -> Result<&mut Transaction, i16> {
        if self.find(name, topics)? != broker {
            return Err(codes::NOT_COORDINATOR);
        }
        let entry = self.entry(name, topics)?;
        entry
            .transaction
            .as_mut()
            .ok_or(codes::INVALID_PRODUCER_ID_MAPPING)
    }

    /// The id, for a broker that asks its coordinator.
    pub(crate) fn known(&mut self, name: &str) -> Result<&mut Transaction, i16> {
        let entry = self.entries.get_mut(name);
        let transaction = entry.and_then(|entry| entry.transaction.as_mut());
        transaction.ok_or(codes::INVALID_PRODUCER_ID_MAPPING)
    }

    pub(crate) fn get(&self, name: &str) -> Option<&Transaction> {
        self.entries.get(name)?.transaction.as_ref()
    }

    /// The decided transactions, which are complete with that; none while markers are held.
    pub(crate) fn take_endings(&mut self) -> Vec<Ending> {
        if self.holds_markers {
            return Vec::new();
        }
        let seated = self
            .entries
            .values_mut()
            .filter(|entry| entry.seat.broker().is_some());
        let transactions = seated.filter_map(|entry| entry.transaction.as_mut());
        transactions.filter_map(Transaction::complete).collect()
    }

    /// Aborts what is out of time.
    pub(crate) fn tick(&mut self, now: u64) {
        for entry in self.entries.values_mut() {
            if entry.seat.broker().is_some()
                && let Some(transaction) = &mut entry.transaction
            {
                transaction.expire(now);
            }
        }
    }

    /// When [`Transactions::tick`] has something to do.
    pub(crate) fn next_deadline(&self) -> Option<u64> {
        let seated = self
            .entries
            .values()
            .filter(|entry| entry.seat.broker().is_some());
        seated
            .filter_map(|entry| entry.transaction.as_ref()?.deadline())
            .min()
    }

    pub(crate) fn move_to(&mut self, name: &str, broker: i32, topics: &Topics) -> Result<(), i16> {
        self.entry(name, topics)?.seat.relocate(Some(broker));
        Ok(())
    }

    pub(crate) fn broker_down(&mut self, broker: i32, topics: &Topics) {
        let heir = topics.next_live(broker).filter(|_| self.replicated);
        for entry in self.entries.values_mut() {
            if entry.seat.broker() == Some(broker) {
                entry.seat.relocate(heir);
            }
        }
    }

    pub(crate) fn broker_up(&mut self, broker: i32) {
        for entry in self.entries.values_mut() {
            if entry.seat.waits_for(broker, self.replicated) {
                entry.seat.relocate(Some(broker));
            }
        }
    }

    pub(crate) fn forget_topic(&mut self, topic: &str) {
        for entry in self.entries.values_mut() {
            if let Some(transaction) = &mut entry.transaction {
                transaction.forget_topic(topic);
            }
        }
    }
}
