//! Commits what the lanes have handled together with what their handlers published, in transactions
//! (KIP-98, KIP-447).
//!
//! ```text
//!   Opening ──▶ Ready ──begin──▶ Open ──it is time──▶ Closing ──no call in progress──▶ Ending
//!                ▲ ▲              │ ▲                   │ │                              │ │
//!                │ │              │ └──── nothing ──────┘ │                   committed  │ │ refused
//!                │ └──────────────┼───────────────────────┼──────────────────────────────┘ │
//!                └── Aborting ◀───┴──── must abort ───────┴────────────────────────────────┘
//! ```
//!
//! What must hold:
//! - a call begins only while the gate is open, which it is in `Open` alone; a transaction ends only
//!   when no call is in progress. So a record's outputs and its offset are in the same transaction;
//! - offsets go with the generation that the member has when the transaction ends, and only those of
//!   partitions that it owns then (C2, C12). A transaction with outputs of a partition that was lost
//!   is aborted;
//! - after an abort every lane with records in the transaction begins anew where the group's offset
//!   is, so that it does not matter whether an unclear commit was carried out; or where it began, as
//!   long as that is not committed;
//! - a revocation is acknowledged when no transaction is being ended.

mod transactor;

pub(super) use transactor::{TransactionStep, Transactor, next_step};

use super::commit::{Entry, collect};
use super::core::Member;
use super::lookup::Pin;
use super::partition::{Lookup, Owned, Partitions, Position};
use crate::{Error, ErrorKind, SeekTo};
use ottla_client::Backoff;
use ottla_group::CommitIdentity;
use ottla_types::transactions::GroupMetadata;
use ottla_types::{TopicPartition, TransactError, TransactErrorKind, with_causes};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use transactor::{BACKOFF, State};

impl Member {
    /// Commits, by whichever way, as soon as possible.
    pub(super) fn hurry_commit(&mut self, now: Instant) {
        match &mut self.transactor {
            Some(transactor) => transactor.hurry(),
            None => self.committer.hurry(now),
        }
    }

    /// Moves the transactions on.
    pub(super) fn transact(&mut self, identity: Option<CommitIdentity>, now: Instant) {
        let Some(transactor) = &mut self.transactor else {
            return self.committer.start(&self.partitions, identity, now);
        };
        if transactor.out.is_some() {
            return;
        }
        let is_over = transactor.must_abort || transactor.gate.is_tainted();
        match transactor.state {
            State::Open | State::Closing if is_over => self.abort(false, now),
            State::Open if transactor.due().max(transactor.not_before) <= now => {
                self.close_transaction(identity, now);
            }
            State::Closing => self.end_transaction(identity, now),
            _ if transactor.not_before > now => {}
            State::Opening => transactor.open_producer(),
            // What a dropped call still publishes must not come into the next transaction.
            State::Ready if transactor.gate.is_quiet() => transactor.begin(),
            State::Aborting => transactor.abort(),
            State::Ready | State::Open | State::Ending => {}
        }
    }

    fn close_transaction(&mut self, identity: Option<CommitIdentity>, now: Instant) {
        let Some(transactor) = &mut self.transactor else {
            return;
        };
        let since = transactor.gate.since();
        let is_old = transactor.old_at(since).is_some_and(|at| at <= now);
        if !is_old && !has_news(transactor, &self.partitions) {
            transactor.hurried = false;
            transactor.idle_due = now + transactor.idle_interval;
            return;
        }
        if identity.is_none() && !is_old && !since.is_over {
            // Without a generation nothing can be committed; calls go on.
            transactor.not_before = now + BACKOFF;
            return;
        }
        transactor.gate.close();
        transactor.state = State::Closing;
        self.end_transaction(identity, now);
    }

    pub(super) fn end_transaction(&mut self, identity: Option<CommitIdentity>, now: Instant) {
        let Some(transactor) = &mut self.transactor else {
            return;
        };
        if !transactor.gate.is_quiet() || transactor.not_before > now {
            return;
        }
        let Some(identity) = identity else {
            transactor.not_before = now + BACKOFF;
            return;
        };
        // Calls have ended since anybody looked: one may have failed, or may be of a lane that is gone.
        let owned: BTreeSet<u64> = self.partitions.values().map(|o| o.incarnation).collect();
        if !transactor.gate.may_commit(|lane| owned.contains(&lane)) {
            return self.abort(false, now);
        }
        // What is located from now on is hurried anew.
        transactor.hurried = false;
        let (entries, offsets) = collect(&self.partitions);
        if entries.is_empty() {
            transactor.not_before = now + BACKOFF;
            return transactor.open_gate(false, now);
        }
        let group = GroupMetadata {
            group_id: self.spec.group.to_string(),
            generation: identity.generation,
            member_id: identity.member_id,
            instance_id: identity.instance_id,
        };
        if let Some(producer) = transactor.producer.clone() {
            let step = async move {
                let ended = match producer.send_offsets(group, offsets).await {
                    Ok(()) => producer.commit().await,
                    Err(error) => Err(error),
                };
                TransactionStep::Ended(entries, ended)
            };
            transactor.start(State::Ending, Box::pin(step));
        }
    }

    /// Takes the end of a step.
    ///
    /// # Errors
    /// What this producer, or this member, cannot go on after.
    pub(super) fn on_transaction_step(
        &mut self,
        step: TransactionStep,
        now: Instant,
    ) -> Result<(), Error> {
        let Some(transactor) = &mut self.transactor else {
            return Ok(());
        };
        match step {
            TransactionStep::Opened(Ok(producer)) => {
                transactor.producer = Some(producer);
                transactor.state = State::Ready;
                transactor.backoff.reset();
            }
            TransactionStep::Opened(Err(error)) => {
                self.note_transaction("no transactional producer yet", &error);
                if error.kind() != TransactErrorKind::Unavailable {
                    return Err(Error::new(ErrorKind::Transaction).with_source(error));
                }
                self.transact_later(now);
            }
            TransactionStep::Begun(Ok(())) => transactor.open_gate(true, now),
            TransactionStep::Begun(Err(error)) => {
                transactor.check(&error)?;
                self.note_transaction("no transaction could be begun", &error);
                self.transact_later(now);
                if error.is_abortable() {
                    self.abort(error.may_be_committed(), now);
                }
            }
            TransactionStep::Ended(entries, Ok(())) => {
                transactor.state = State::Ready;
                transactor.backoff.reset();
                transactor.quota = transactor.quota.saturating_mul(2);
                for entry in entries {
                    transactor.failing.remove(&entry.partition);
                    entry.progress.committed(entry.offset);
                    if let Some(owned) = still_owned(&self.partitions, &entry) {
                        owned.lag.show(&owned.progress);
                        self.pins.remove(&entry.partition);
                    }
                }
                self.count_transaction("committed");
            }
            TransactionStep::Ended(entries, Err(error)) => {
                for entry in &entries {
                    entry.progress.commit_failed();
                    if error.may_be_committed()
                        && still_owned(&self.partitions, entry).is_some()
                        && let Some(pin) = self.pins.get_mut(&entry.partition)
                    {
                        pin.tried = Some(entry.offset);
                    }
                }
                transactor.check(&error)?;
                self.note_transaction("a transaction was not committed; it is aborted", &error);
                self.transact_later(now);
                self.abort(error.may_be_committed(), now);
            }
            TransactionStep::Aborted(Ok(())) => {
                transactor.state = State::Ready;
                self.count_transaction("aborted");
            }
            TransactionStep::Aborted(Err(error)) => {
                transactor.check(&error)?;
                self.note_transaction("a transaction was not aborted yet", &error);
                self.transact_later(now);
            }
        }
        Ok(())
    }

    /// Aborts what is open. Lanes with records in it, or with calls that may have published into it,
    /// begin anew. With `may_be_committed` the group's offset alone says where.
    fn abort(&mut self, may_be_committed: bool, now: Instant) {
        let Some(transactor) = &mut self.transactor else {
            return;
        };
        let (held, mut lanes) = transactor.gate.shut();
        transactor.abort();
        lanes.extend(&held.lanes);
        lanes.extend(&held.tainted);
        tracing::warn!(
            group = %self.spec.group,
            records = held.records,
            failed = !held.tainted.is_empty(),
            "a transaction is aborted; its records are handled again"
        );
        let rewound = self
            .partitions
            .iter()
            .filter(|(_, owned)| lanes.contains(&owned.incarnation));
        let rewound: Vec<_> = rewound
            .map(|(p, owned)| (p.clone(), owned.incarnation))
            .collect();
        for (partition, lane) in rewound {
            let wait = match (held.tainted.contains(&lane), &mut self.transactor) {
                (true, Some(transactor)) => {
                    let (first, most) = transactor.retry;
                    let backoff = transactor.failing.entry(partition.clone());
                    backoff
                        .or_insert_with(|| Backoff::new(first, most))
                        .next_delay()
                }
                _ => Duration::ZERO,
            };
            self.rewind(&partition, may_be_committed, now + wait, now);
        }
        self.partitions_changed();
    }

    /// Reads a partition again from where the group is; one that is being given up is left to its
    /// next owner.
    fn rewind(
        &mut self,
        partition: &TopicPartition,
        may_be_committed: bool,
        not_before: Instant,
        now: Instant,
    ) {
        let Some(owned) = self.partitions.get(partition) else {
            return;
        };
        if owned.drain_by.is_some() {
            return self.forget(std::slice::from_ref(partition));
        }
        let mut fresh = self.new_incarnation(partition, now);
        let pin = self.pins.get(partition).filter(|_| !may_be_committed);
        let start = |pin: &Pin| Lookup::Start(SeekTo::Offset(pin.offset));
        let lookup = pin.map_or(Lookup::Committed, start);
        fresh.position = Position::Wanted { lookup, not_before };
        self.partitions.insert(partition.clone(), fresh);
    }

    fn transact_later(&mut self, now: Instant) {
        if let Some(transactor) = &mut self.transactor {
            transactor.later(now);
        }
    }

    fn note_transaction(&self, what: &'static str, error: &TransactError) {
        tracing::warn!(group = %self.spec.group, error = with_causes(error), "{what}");
        self.spec.board.set_last_error(error);
    }

    fn count_transaction(&self, outcome: &'static str) {
        let labels = [
            ("group", self.spec.group.to_string()),
            ("outcome", outcome.to_owned()),
        ];
        metrics::counter!("ottla_consumer_transactions_total", &labels).increment(1);
    }
}

/// Whether the open transaction has anything to commit.
fn has_news(transactor: &Transactor, partitions: &Partitions) -> bool {
    transactor.gate.has_records()
        || partitions
            .values()
            .any(|owned| owned.progress.uncommitted().is_some())
}

/// The partition of a commit, unless it was lost meanwhile; one that came back began elsewhere.
fn still_owned<'a>(partitions: &'a Partitions, entry: &Entry) -> Option<&'a Owned> {
    let owned = partitions.get(&entry.partition)?;
    Arc::ptr_eq(&owned.progress, &entry.progress).then_some(owned)
}
