//! One transactional id as its coordinator sees it (KIP-98, KIP-360, KIP-890), a pure state
//! machine.
//!
//! | state | leaves it by |
//! |---|---|
//! | Empty | a partition or a group is added: Ongoing |
//! | Ongoing | EndTxn, InitProducerId, the timeout: Prepare |
//! | Prepare | every marker is written: Complete |
//! | Complete | as Empty; InitProducerId: Empty |
//!
//! With version 2, each EndTxn raises the epoch, so that what was sent before it is refused after
//! it. Must hold: an epoch that was given out never comes back; a marker carries the highest one.

mod registry;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use crate::codes;
pub(crate) use registry::Transactions;

/// Groups that one transaction may hold.
const MAX_GROUPS: usize = 1000;

/// A producer id and its epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ProducerAt {
    pub(crate) id: i64,
    pub(crate) epoch: i16,
}

/// The last epoch is kept for the coordinator, so that it can always fence a producer.
fn is_exhausted(epoch: i16) -> bool {
    epoch >= i16::MAX - 1
}

/// Gives out producer ids.
#[derive(Debug)]
pub(crate) struct ProducerIds(i64);

impl ProducerIds {
    pub(crate) fn new(first: i64) -> Self {
        Self(first)
    }

    pub(crate) fn fresh(&mut self) -> i64 {
        self.0 += 1;
        self.0 - 1
    }
}

/// The state of a transactional id, as Kafka's admin API names them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransactionState {
    /// No transaction since the producer was initialised.
    Empty,
    /// Partitions or groups were added.
    Ongoing,
    /// Decided, the markers not written yet.
    PrepareCommit,
    /// Decided, the markers not written yet.
    PrepareAbort,
    /// The last transaction was committed.
    CompleteCommit,
    /// The last transaction was aborted.
    CompleteAbort,
}

#[derive(Clone, Copy, Debug)]
enum State {
    Empty,
    Ongoing { deadline: u64 },
    Prepare { commit: bool },
    Complete { commit: bool },
}

/// What must be written now that a transaction is decided.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Ending {
    pub(crate) producer: ProducerAt,
    pub(crate) commit: bool,
    pub(crate) partitions: BTreeSet<(String, i32)>,
    pub(crate) groups: BTreeSet<String>,
}

/// What a transaction is to hold.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Part<'a> {
    Partition(&'a str, i32),
    Group(&'a str),
}

/// One transactional id.
#[derive(Debug)]
pub(crate) struct Transaction {
    producer: ProducerAt,
    /// What a retry of the call that replaced it would still say.
    previous_id: i64,
    last_epoch: i16,
    /// Replaces the id at the end of this transaction, when its epochs are used up.
    next_id: Option<i64>,
    timeout_ms: u64,
    state: State,
    /// Whether the producer may go on after an end that the coordinator has made.
    remembers_ended: bool,
    /// Whether the last transaction was of version 2.
    is_v2: bool,
    partitions: BTreeSet<(String, i32)>,
    groups: BTreeSet<String>,
}

impl Transaction {
    pub(crate) fn new(ids: &mut ProducerIds, remembers_ended: bool) -> Self {
        let producer = ProducerAt {
            id: ids.fresh(),
            epoch: -1,
        };
        Self {
            producer,
            previous_id: -1,
            last_epoch: -1,
            next_id: None,
            timeout_ms: 0,
            state: State::Empty,
            remembers_ended,
            is_v2: false,
            partitions: BTreeSet::new(),
            groups: BTreeSet::new(),
        }
    }

    pub(crate) fn producer(&self) -> ProducerAt {
        self.producer
    }

    pub(crate) fn state(&self) -> TransactionState {
        match self.state {
            State::Empty => TransactionState::Empty,
            State::Ongoing { .. } => TransactionState::Ongoing,
            State::Prepare { commit: true } => TransactionState::PrepareCommit,
            State::Prepare { commit: false } => TransactionState::PrepareAbort,
            State::Complete { commit: true } => TransactionState::CompleteCommit,
            State::Complete { commit: false } => TransactionState::CompleteAbort,
        }
    }

    /// InitProducerId. An open transaction is aborted first, and the caller told to come again.
    /// With `expected` (KIP-360), only the producer that has this id and epoch is let through, or
    /// one that repeats the call.
    pub(crate) fn init(
        &mut self,
        expected: Option<ProducerAt>,
        timeout_ms: u64,
        ids: &mut ProducerIds,
    ) -> Result<ProducerAt, i16> {
        let is_known = |given: ProducerAt| {
            self.producer.epoch == -1
                || given.id == self.producer.id
                || (given.id == self.previous_id && is_exhausted(given.epoch))
        };
        if !expected.is_none_or(is_known) {
            return Err(codes::PRODUCER_FENCED);
        }
        match self.state {
            State::Prepare { .. } => return Err(codes::CONCURRENT_TRANSACTIONS),
            State::Ongoing { .. } => {
                self.fence();
                return Err(codes::CONCURRENT_TRANSACTIONS);
            }
            State::Empty | State::Complete { .. } => {}
        }
        let epoch = self.producer.epoch;
        if is_exhausted(epoch) && expected.is_none_or(|given| given.epoch == epoch) {
            self.previous_id = self.producer.id;
            self.last_epoch = expected.map_or(-1, |given| given.epoch);
            self.producer = ProducerAt {
                id: ids.fresh(),
                epoch: 0,
            };
        } else {
            match expected {
                None => {
                    self.last_epoch = -1;
                    self.producer.epoch += 1;
                }
                Some(given) if epoch == -1 || given.epoch == epoch => {
                    self.last_epoch = epoch;
                    self.producer.epoch += 1;
                }
                Some(given) if given.epoch == self.last_epoch => {}
                Some(_) => return Err(codes::PRODUCER_FENCED),
            }
        }
        self.timeout_ms = timeout_ms;
        self.state = State::Empty;
        Ok(self.producer)
    }

    /// Aborts an open transaction from the coordinator's side. Where that is remembered its producer
    /// may go on with another InitProducerId that names its id and epoch.
    fn fence(&mut self) {
        self.last_epoch = match self.remembers_ended {
            true => self.producer.epoch,
            false => -1,
        };
        self.producer.epoch = self.producer.epoch.saturating_add(1);
        self.state = State::Prepare { commit: false };
    }

    fn check_producer(&self, by: ProducerAt) -> Result<(), i16> {
        if by.id != self.producer.id {
            return Err(codes::INVALID_PRODUCER_ID_MAPPING);
        }
        if by.epoch != self.producer.epoch {
            return Err(codes::PRODUCER_FENCED);
        }
        if matches!(self.state, State::Prepare { .. }) {
            return Err(codes::CONCURRENT_TRANSACTIONS);
        }
        Ok(())
    }

    /// Adds a partition or a group; the first one opens the transaction.
    pub(crate) fn add(
        &mut self,
        by: ProducerAt,
        part: Part<'_>,
        is_v2: bool,
        now: u64,
    ) -> Result<(), i16> {
        self.check_producer(by)?;
        match part {
            Part::Partition(topic, index) => {
                self.partitions.insert((topic.to_owned(), index));
            }
            Part::Group(group) => {
                if self.groups.len() >= MAX_GROUPS && !self.groups.contains(group) {
                    return Err(codes::INVALID_REQUEST);
                }
                self.groups.insert(group.to_owned());
            }
        }
        if !matches!(self.state, State::Ongoing { .. }) {
            let deadline = now.saturating_add(self.timeout_ms);
            self.state = State::Ongoing { deadline };
        }
        self.is_v2 = is_v2;
        Ok(())
    }

    /// Whether the open transaction of this producer holds the part.
    pub(crate) fn verify(&self, by: ProducerAt, part: Part<'_>) -> Result<(), i16> {
        self.check_producer(by)?;
        let is_held = match part {
            Part::Partition(topic, index) => self.partitions.contains(&(topic.to_owned(), index)),
            Part::Group(group) => self.groups.contains(group),
        };
        if is_held {
            Ok(())
        } else {
            Err(codes::TRANSACTION_ABORTABLE)
        }
    }

    /// EndTxn. Gives what the producer goes on with; `bumps` is version 2. A repeated call is
    /// answered as the first one was; one that comes too late, after the next transaction began,
    /// is fenced with version 2 (KIP-890).
    pub(crate) fn end(
        &mut self,
        by: ProducerAt,
        commit: bool,
        bumps: bool,
        ids: &mut ProducerIds,
    ) -> Result<ProducerAt, i16> {
        let is_ongoing = matches!(self.state, State::Ongoing { .. });
        let has_overflown = by.id == self.previous_id
            && by.epoch == i16::MAX - 1
            && (self.producer.epoch == 0 && self.last_epoch == by.epoch);
        let was_bumped = by.id == self.producer.id
            && by.epoch.checked_add(1) == Some(self.producer.epoch)
            && self.last_epoch == by.epoch;
        let is_retry = self.is_v2 && !is_ongoing && (has_overflown || was_bumped);
        if by.id != self.producer.id && !is_retry {
            return Err(codes::INVALID_PRODUCER_ID_MAPPING);
        }
        if by.epoch != self.producer.epoch && !is_retry {
            return Err(codes::PRODUCER_FENCED);
        }
        match self.state {
            State::Ongoing { .. } => Ok(self.decide(commit, bumps, ids)),
            State::Prepare { commit: decided } if decided == commit => {
                Err(codes::CONCURRENT_TRANSACTIONS)
            }
            State::Complete { commit: decided }
                if decided == commit && (is_retry || !(self.is_v2 && bumps)) =>
            {
                Ok(self.producer)
            }
            State::Empty | State::Complete { .. } if bumps && !commit && !is_retry => {
                Ok(self.decide(false, true, ids))
            }
            State::Empty | State::Prepare { .. } | State::Complete { .. } => {
                Err(codes::INVALID_TXN_STATE)
            }
        }
    }

    fn decide(&mut self, commit: bool, bumps: bool, ids: &mut ProducerIds) -> ProducerAt {
        self.is_v2 = bumps;
        self.state = State::Prepare { commit };
        if bumps {
            self.last_epoch = self.producer.epoch;
            self.next_id = is_exhausted(self.producer.epoch).then(|| ids.fresh());
            self.producer.epoch = self.producer.epoch.saturating_add(1);
        }
        match self.next_id {
            Some(id) => ProducerAt { id, epoch: 0 },
            None => self.producer,
        }
    }

    /// What is to be written for a decided transaction, which is complete with that.
    pub(crate) fn complete(&mut self) -> Option<Ending> {
        let State::Prepare { commit } = self.state else {
            return None;
        };
        let producer = self.producer;
        self.state = State::Complete { commit };
        if let Some(id) = self.next_id.take() {
            self.previous_id = self.producer.id;
            self.producer = ProducerAt { id, epoch: 0 };
        }
        Some(Ending {
            producer,
            commit,
            partitions: std::mem::take(&mut self.partitions),
            groups: std::mem::take(&mut self.groups),
        })
    }

    /// When [`Transaction::expire`] has something to do.
    pub(crate) fn deadline(&self) -> Option<u64> {
        match self.state {
            State::Ongoing { deadline } => Some(deadline),
            _ => None,
        }
    }

    /// Aborts the transaction when its time is up.
    pub(crate) fn expire(&mut self, now: u64) {
        if self.deadline().is_some_and(|deadline| deadline <= now) {
            self.fence();
        }
    }

    pub(crate) fn forget_topic(&mut self, topic: &str) {
        self.partitions.retain(|(known, _)| known != topic);
    }
}
