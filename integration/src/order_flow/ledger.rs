//! The ledger: what the stores and topics really hold, against what the orders demand.
//!
//! Nothing here asks a running service what it did. The databases are opened after their processes
//! have ended, the topics are read from the beginning, and the offsets come from the cluster.

use super::event::{CloseUnpaid, EventKind, OrderEvent};
use super::extras::Extras;
use super::notify::{self, EffectError};
use super::promises::{promise_copies, promise_effects, promise_orders, promise_rows, rows};
use super::service::{subscriptions, tier_topics};
use super::settle::progress;
use super::shop::{Order, ShopError, Status};
use super::topics::{CLOSE_GROUP, DELAY_GROUP, NOTIFY_GROUPS, PAYMENT_WINDOW, Topics};
use crate::history::{
    Commit, Effect, Handled, History, JournalError, Report, Violation, read_journal,
};
use crate::read_back::{log_record, read_topic, record_id};
use ottla::client::Client;
use ottla::store::StoreError;
use ottla::store_redb::RedbOutbox;
use ottla::types::{ConsumedRecord, names};
use redb::Database;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

const READ_DEADLINE: Duration = Duration::from_secs(60);
const ASK_DEADLINE: Duration = Duration::from_secs(10);

/// Where the services left their data.
#[derive(Debug, Clone)]
pub struct Places {
    /// The shop's database.
    pub shop: PathBuf,
    /// The notifiers' databases.
    pub notifiers: Vec<PathBuf>,
    /// The notifiers' journals of deliveries.
    pub journals: Vec<PathBuf>,
}

/// Why a ledger could not be drawn up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LedgerError {
    /// A topic could not be read.
    #[error(transparent)]
    Client(#[from] ottla::client::Error),
    /// A shop's store could not be read.
    #[error("shop")]
    Shop(#[from] ShopError),
    /// The outbox could not be read.
    #[error("outbox")]
    Outbox(#[from] StoreError),
    /// The effects could not be read.
    #[error("effects")]
    Effects(#[from] EffectError),
    /// A journal could not be read.
    #[error("journal")]
    Journal(#[from] JournalError),
    /// Reading panicked.
    #[error("reading panicked")]
    Panicked(#[from] tokio::task::JoinError),
    /// A database could not be opened.
    #[error("database {0}")]
    Open(PathBuf, #[source] Box<redb::DatabaseError>),
}

/// What a run amounts to.
#[derive(Debug)]
pub struct Ledger {
    /// The checker's findings.
    pub report: Report,
    /// How many orders there are in each state.
    pub orders: BTreeMap<&'static str, usize>,
    /// Effects of each group.
    pub effects: BTreeMap<String, usize>,
    /// Effects that needed more than one attempt.
    pub retried: usize,
    /// Records that stand in a topic again: sent twice on purpose, or because an answer was lost.
    pub copies: usize,
    /// Delayed messages, those of them that were forwarded, and the largest lateness in
    /// milliseconds.
    pub delayed: (usize, usize, i64),
    /// Delayed or retried messages that came before their time.
    pub early: usize,
}

impl Ledger {
    /// Whether nothing is wrong.
    pub fn is_clean(&self) -> bool {
        self.report.is_clean()
    }

    /// Records that stand in a topic again though nobody sent them twice on purpose. With sequences
    /// (KIP-98) there are none, unless a process was killed.
    pub fn resent(&self, extras: &Extras) -> usize {
        self.copies.saturating_sub(extras.copies)
    }

    /// The line that a run ends with.
    pub fn verdict(&self) -> String {
        let mut verdict = format!(
            "lost {}, duplicated effects {}, out of order {}",
            self.report.lost(),
            self.report.duplicated(),
            self.report.out_of_order()
        );
        match self.report.otherwise_wrong() {
            0 => {}
            more => verdict.push_str(&format!(", otherwise wrong {more}")),
        }
        verdict
    }
}

/// What was read of a run: enough to judge it.
pub struct Evidence {
    topics: Topics,
    orders: Vec<Order>,
    history: History,
    effects: Vec<notify::Effect>,
    delayed: Vec<ConsumedRecord>,
    forwarded: Vec<ConsumedRecord>,
}

/// Reads everything that a run left behind. The services must have ended.
///
/// # Errors
/// When a store, a topic or an offset cannot be read.
pub async fn gather(
    client: &Client,
    topics: &Topics,
    places: &Places,
    placed: u64,
    extras: &Extras,
) -> Result<Evidence, LedgerError> {
    let mut history = History::default();
    let path = places.shop.clone();
    let (outbox, orders) = blocking(move || {
        let outbox = RedbOutbox::new(open(&path)?)?;
        let orders = super::shop::all_orders(outbox.database())?;
        Ok((outbox, orders))
    })
    .await?;
    promise_orders(placed, &orders, &mut history);
    promise_rows(topics, &orders, &rows(&outbox).await?, &mut history);
    promise_effects(topics, &orders, extras, &mut history);
    promise_copies(topics, &mut history);
    history
        .acknowledged
        .extend(extras.acknowledged.iter().cloned());

    let mut evidence = Evidence::new(topics, orders, history);
    evidence.read_notifiers(places).await?;
    evidence.read_topics(client).await?;
    Ok(evidence)
}

/// Reads what the notifiers left behind, and the topics, while the notifiers are down and the shop
/// goes on.
///
/// # Errors
/// As [`gather`].
pub async fn gather_notifier(
    client: &Client,
    topics: &Topics,
    places: &Places,
) -> Result<Evidence, LedgerError> {
    let mut evidence = Evidence::new(topics, Vec::new(), History::default());
    evidence.read_notifiers(places).await?;
    // The offsets before the topics, which grow: what is committed must be among what is read.
    evidence.read_commits(client, &NOTIFY_GROUPS).await?;
    evidence.read_logs(client).await?;
    Ok(evidence)
}

impl Evidence {
    fn new(topics: &Topics, orders: Vec<Order>, history: History) -> Self {
        Self {
            topics: topics.clone(),
            orders,
            history,
            effects: Vec::new(),
            delayed: Vec::new(),
            forwarded: Vec::new(),
        }
    }

    async fn read_notifiers(&mut self, places: &Places) -> Result<(), LedgerError> {
        let places = places.clone();
        let mut history = std::mem::take(&mut self.history);
        let read = move || {
            let mut effects = Vec::new();
            for path in &places.notifiers {
                effects.extend(notify::all_effects(&*open(path)?)?);
            }
            for path in &places.journals {
                read_journal(path, &mut history)?;
            }
            Ok((effects, history))
        };
        (self.effects, self.history) = blocking(read).await?;
        Ok(())
    }

    /// The customers were told of so many payments: so many orders must be paid.
    pub fn expect_paid(&mut self, payments: u64) {
        let paid = self.orders.iter().filter(|o| o.status == Status::Paid);
        let paid = paid.count() as u64;
        for n in paid..payments {
            let what = format!("payment {} of {payments}", n + 1);
            self.history.confirmed.insert(what);
        }
    }

    async fn read_topics(&mut self, client: &Client) -> Result<(), LedgerError> {
        let all = [NOTIFY_GROUPS[0], NOTIFY_GROUPS[1], CLOSE_GROUP, DELAY_GROUP];
        self.read_commits(client, &all).await?;
        self.read_logs(client).await
    }

    async fn read_logs(&mut self, client: &Client) -> Result<(), LedgerError> {
        let mut names = BTreeSet::from([self.topics.dead_letters()]);
        let subscriptions = subscriptions(&self.topics);
        names.extend(subscriptions.into_iter().flat_map(|(_, topics)| topics));
        for name in names {
            let records = read_topic(client, &name, READ_DEADLINE).await?;
            for record in &records {
                self.history
                    .add_record(&name, record.partition, log_record(record));
            }
            if name == self.topics.payment_delay() {
                self.delayed = records;
            } else if name == self.topics.timeouts() {
                self.forwarded = records;
            }
        }
        Ok(())
    }

    async fn read_commits(&mut self, client: &Client, groups: &[&str]) -> Result<(), LedgerError> {
        let groups: Vec<String> = groups.iter().map(|g| self.topics.group(g)).collect();
        for (group, read) in subscriptions(&self.topics) {
            if !groups.contains(&group) {
                continue;
            }
            let found = progress(client, &group, &read, ASK_DEADLINE).await?;
            for (partition, offset) in found.committed {
                self.history.commits.push(Commit {
                    group: group.clone(),
                    topic: partition.topic.to_string(),
                    partition: partition.partition,
                    offset,
                });
            }
        }
        Ok(())
    }

    /// Judges a run that has ended.
    pub fn judge(mut self) -> Ledger {
        self.note_effects();
        self.note_handled();
        self.draw_up()
    }

    /// Records that a notifying group is done with and has not committed: none after a clean stop.
    /// Only for a run in which nothing was written twice so far.
    pub fn done_and_uncommitted(&mut self) -> Vec<Handled> {
        self.note_effects();
        self.note_handled();
        let committed: BTreeMap<(&str, &str, i32), i64> = self
            .history
            .commits
            .iter()
            .map(|c| ((c.group.as_str(), c.topic.as_str(), c.partition), c.offset))
            .collect();
        let notifying = NOTIFY_GROUPS.map(|g| self.topics.group(g));
        let above = |h: &&Handled| {
            let place = (h.group.as_str(), h.topic.as_str(), h.partition);
            h.offset >= committed.get(&place).copied().unwrap_or(0)
        };
        let ours = self
            .history
            .handled
            .iter()
            .filter(|h| notifying.contains(&h.group));
        let left = ours.filter(above).cloned().collect();
        self.history.effects.clear();
        left
    }

    /// Judges a run in its middle: only that nothing was committed that is not handled, and that
    /// nothing happened twice. Missing effects are still to come.
    pub fn judge_midway(mut self) -> Report {
        self.note_effects();
        self.note_handled();
        let only = History {
            topics: self.history.topics,
            commits: self.history.commits,
            handled: self.history.handled,
            ..History::default()
        };
        let mut report = only.check();
        let mut seen = BTreeSet::new();
        for effect in &self.history.effects {
            if !seen.insert((&effect.group, &effect.id)) {
                report
                    .violations
                    .push(crate::history::Violation::EffectDuplicated {
                        group: effect.group.clone(),
                        id: effect.id.clone(),
                        kind: effect.kind.clone(),
                        times: 2,
                    });
            }
        }
        // Dead letters of a run that goes on have nothing to be compared with.
        report
            .violations
            .retain(|v| !matches!(v, crate::history::Violation::DeadLetterInvented { .. }));
        report
    }

    fn note_effects(&mut self) {
        let events = self.orders.iter().flat_map(|o| &o.events);
        let events: BTreeMap<&str, &OrderEvent> =
            events.map(|e| (e.event_id.as_str(), e)).collect();
        for effect in &self.effects {
            let event = &effect.event;
            // Half-way, the shop's database is not at hand.
            let known = events.get(event.event_id.as_str());
            let kind = match known {
                Some(known) if *known != event => "notify of something else",
                _ => "notify",
            };
            self.history.effects.push(Effect {
                group: self.topics.group(&effect.group),
                id: event.event_id.clone(),
                kind: kind.into(),
                at_ms: 0,
            });
        }
        let closed = self.orders.iter().flat_map(|o| &o.events);
        for event in closed.filter(|e| e.kind == EventKind::Closed) {
            self.history.effects.push(Effect {
                group: self.topics.group(CLOSE_GROUP),
                id: event.order_id.clone(),
                kind: "close".into(),
                at_ms: 0,
            });
        }
    }

    /// Works out from the stores and topics which records each group is done with.
    fn note_handled(&mut self) {
        let mut handled = Vec::new();
        for group in NOTIFY_GROUPS.map(|g| self.topics.group(g)) {
            let mut done: BTreeSet<&str> = self
                .history
                .effects
                .iter()
                .filter(|e| e.group == group)
                .map(|e| e.id.as_str())
                .collect();
            done.extend(self.ids(&self.topics.dead_letters(), Some(&group)));
            // A record is also settled by its copy in the next tier: so from the last tier back.
            let tiers = tier_topics(&self.topics, &group);
            for topic in tiers.iter().rev().chain([&self.topics.orders()]) {
                self.note(&mut handled, &group, topic, |id| done.contains(id));
                done.extend(self.ids(topic, None));
            }
        }
        let settled: BTreeSet<String> = self
            .orders
            .iter()
            .filter(|o| o.status != Status::Created)
            .map(|o| CloseUnpaid::message_id(&o.order_id))
            .collect();
        let close = self.topics.group(CLOSE_GROUP);
        self.note(&mut handled, &close, &self.topics.timeouts(), |id| {
            settled.contains(id)
        });
        let forwarded: BTreeSet<&str> = self.ids(&self.topics.timeouts(), None).collect();
        let delay = self.topics.group(DELAY_GROUP);
        for topic in super::service::delay_topics(&self.topics) {
            self.note(&mut handled, &delay, &topic, |id| forwarded.contains(id));
        }
        self.history.handled = handled;
    }

    fn note(
        &self,
        handled: &mut Vec<Handled>,
        group: &str,
        topic: &str,
        is_done: impl Fn(&str) -> bool,
    ) {
        for (partition, records) in self.history.topics.get(topic).into_iter().flatten() {
            handled.extend(records.iter().filter(|r| is_done(&r.id)).map(|r| Handled {
                group: group.to_owned(),
                topic: topic.to_owned(),
                partition: *partition,
                offset: r.offset,
            }));
        }
    }

    fn ids<'a>(
        &'a self,
        topic: &str,
        group: Option<&'a str>,
    ) -> impl Iterator<Item = &'a str> + use<'a> {
        let partitions = self.history.topics.get(topic).into_iter().flatten();
        partitions
            .flat_map(|(_, records)| records)
            .filter(move |r| group.is_none_or(|g| r.header(names::CONSUMER_GROUP) == Some(g)))
            .map(|r| r.id.as_str())
    }

    fn draw_up(self) -> Ledger {
        let mut orders = BTreeMap::new();
        for order in &self.orders {
            *orders.entry(order.status.as_str()).or_default() += 1;
        }
        let mut effects = BTreeMap::new();
        for effect in &self.effects {
            *effects.entry(effect.group.clone()).or_default() += 1;
        }
        let report = self.history.check();
        let written: BTreeMap<String, i64> = self
            .delayed
            .iter()
            .rev()
            .map(|r| (record_id(r), r.timestamp_ms))
            .collect();
        let window = i64::try_from(PAYMENT_WINDOW.as_millis()).unwrap_or(i64::MAX);
        let mut seen = BTreeSet::new();
        let lateness: Vec<i64> = self
            .forwarded
            .iter()
            .filter(|r| seen.insert(record_id(r)))
            .filter_map(|r| Some(r.timestamp_ms - written.get(&record_id(r))? - window))
            .collect();
        let early = |v: &&Violation| matches!(v, Violation::Early { .. });
        Ledger {
            orders,
            effects,
            retried: self.effects.iter().filter(|e| e.retry_count > 0).count(),
            copies: report.counts.records_repeated,
            delayed: (
                written.len(),
                lateness.len(),
                lateness.iter().copied().max().unwrap_or(0),
            ),
            early: report.violations.iter().filter(early).count(),
            report,
        }
    }
}

/// Runs work that waits for the disk off the runtime's threads.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, LedgerError> + Send + 'static,
) -> Result<T, LedgerError> {
    tokio::task::spawn_blocking(work).await?
}

/// Opens a database that its process has closed.
pub(super) fn open(path: &PathBuf) -> Result<Arc<Database>, LedgerError> {
    let opened = Database::open(path);
    opened
        .map(Arc::new)
        .map_err(|e| LedgerError::Open(path.clone(), Box::new(e)))
}
