//! The history checker: judges what a run left behind.
//!
//! Pure. A scenario fills a [`History`] from two sides: what was promised (acknowledgements, rows
//! that committed, effects that must happen, failures that were planned) and what is really there
//! (every record of every topic, every row of every store, every effect, every committed offset).
//! [`check`](History::check) compares the two and names each difference as one [`Violation`].
//!
//! Worker processes write [`Entry`]s as JSON lines, each before the thing that depends on it, so
//! that a process that is killed leaves a journal that is short by at most its last line.

mod commits;
mod copies;
#[cfg(test)]
mod copy_tests;
mod dead_letters;
mod effects;
mod journal;
mod order;
mod outbox;
mod records;
mod report;
#[cfg(test)]
mod tests;

pub use journal::{Entry, Journal, JournalError, read_journal};
pub use report::{Counts, HeaderProblem, Report, Violation};

use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Everything that a run promised and everything that it left behind.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct History {
    /// Records whose producer was told that they are written.
    pub acknowledged: Vec<Acknowledged>,
    /// What each topic holds, read back from the beginning after the run.
    pub topics: BTreeMap<String, TopicLog>,
    /// The outbox as the database has it after the run.
    pub outbox: Vec<OutboxRow>,
    /// Rows whose transaction was rolled back.
    pub rolled_back: BTreeSet<String>,
    /// What must have happened, each exactly once.
    pub expected: Vec<Expected>,
    /// What happened, every time that it did.
    pub effects: Vec<Effect>,
    /// Every delivery to a handler.
    pub deliveries: Vec<Delivery>,
    /// Every record that a group is done with: handled, dead-lettered or safely published again.
    pub handled: Vec<Handled>,
    /// Offsets that groups committed, as the cluster has them or as they were seen in between.
    pub commits: Vec<Commit>,
    /// Records that must fail for good, all of them.
    pub failed_for_good: Vec<FailedForGood>,
    /// Topics whose records are copies of another topic's.
    pub derived: Vec<Derived>,
    /// What somebody outside was told is stored.
    pub confirmed: BTreeSet<String>,
    /// What is stored, of the same kind.
    pub stored: BTreeSet<String>,
}

/// A record that its producer was told is written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Acknowledged {
    /// Where.
    pub topic: String,
    /// Where.
    pub partition: i32,
    /// `None` if the transport did not say.
    pub offset: Option<i64>,
    /// The record's identity.
    pub id: String,
    /// Its key; order is judged for each key.
    pub key: Option<String>,
    /// The place among the records of its key, in the order in which they were sent.
    pub seq: u64,
}

/// The partitions of one topic.
pub type TopicLog = BTreeMap<i32, Vec<LogRecord>>;

/// A record as it was read back.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogRecord {
    /// Its offset.
    pub offset: i64,
    /// Its timestamp, in milliseconds.
    pub timestamp_ms: i64,
    /// Its key.
    pub key: Option<String>,
    /// The CRC-32 of its value; `None` for a null value.
    pub value_crc: Option<u32>,
    /// Its identity: the `message_id` header, or whatever the scenario reads it from.
    pub id: String,
    /// All headers, in order.
    pub headers: Vec<(String, String)>,
}

impl LogRecord {
    /// The first header of that name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(known, _)| known == name)
            .map(|(_, value)| value.as_str())
    }
}

/// A row of the outbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutboxRow {
    /// The identity that its record carries.
    pub id: String,
    /// Where it goes.
    pub topic: String,
    /// Its key.
    pub key: Option<String>,
    /// The place among the rows of its key, in commit order.
    pub seq: u64,
    /// The CRC-32 of the value that it was enqueued with, where that is known.
    #[serde(default)]
    pub value_crc: Option<u32>,
    /// What the database says.
    pub state: RowState,
    /// What the application says: its transaction committed.
    pub committed: bool,
}

/// Where the database has a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RowState {
    /// The application committed it and the database does not have it.
    Absent,
    /// Waits for the relay.
    Pending,
    /// Marked as published.
    Sent,
    /// Set aside because it can never be published.
    Parked,
}

/// Something that must happen exactly once.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Expected {
    /// The group that does it.
    pub group: String,
    /// What it is about, such as an order.
    pub id: String,
    /// What is done, such as `sms`.
    pub kind: String,
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Effect {
    /// The group that did it.
    pub group: String,
    /// What it is about.
    pub id: String,
    /// What was done.
    pub kind: String,
    /// When, in milliseconds; for the reader of a report.
    pub at_ms: i64,
}

/// A record given to a handler.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delivery {
    /// The group of the handler.
    pub group: String,
    /// The record's identity.
    pub id: String,
    /// Its key.
    pub key: Option<String>,
    /// Its place among the records of its key.
    pub seq: u64,
    /// It came from a retry topic, or the handler failed now: the key is left out of the order.
    pub retried: bool,
    /// How many attempts the record says have failed before.
    #[serde(default)]
    pub attempt: u32,
    /// When, in nanoseconds of a clock that all workers share. Deliveries are judged in this order;
    /// equal times stand as they were written.
    pub at_ns: u64,
}

/// A record that a group is done with.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Handled {
    /// The group.
    pub group: String,
    /// Where the record stands.
    pub topic: String,
    /// Where the record stands.
    pub partition: i32,
    /// Where the record stands.
    pub offset: i64,
}

/// A committed offset: the next one to read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Commit {
    /// The group.
    pub group: String,
    /// The partition.
    pub topic: String,
    /// The partition.
    pub partition: i32,
    /// Everything below it must be handled.
    pub offset: i64,
}

/// A topic whose records are copies of those of `source`, with the same ids.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Derived {
    /// The topic of the copies.
    pub topic: String,
    /// The topic of the originals.
    pub source: String,
    /// What the copies are for.
    pub copies: Copies,
}

/// What the copies in a [`Derived`] topic are for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Copies {
    /// They failed for good.
    DeadLetters,
    /// They are tried again by a group.
    Retry {
        /// The group.
        group: String,
        /// After so many failed attempts.
        failures: u32,
    },
    /// They were delayed; in the end each original has one.
    Delayed {
        /// By so much after the original's timestamp, in milliseconds.
        delay_ms: i64,
    },
}

/// A record that must end in its dead letter topic.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct FailedForGood {
    /// The group that gives it up.
    pub group: String,
    /// Where the record first stood.
    pub topic: String,
    /// Its identity.
    pub id: String,
    /// The dead letter topic.
    pub dead_letter_topic: String,
}

impl History {
    /// Adds what a worker wrote.
    pub fn absorb(&mut self, entry: Entry) {
        match entry {
            Entry::Acknowledged(it) => self.acknowledged.push(it),
            Entry::Row(it) => self.outbox.push(it),
            Entry::RolledBack { id } => {
                self.rolled_back.insert(id);
            }
            Entry::Expected(it) => self.expected.push(it),
            Entry::Effect(it) => self.effects.push(it),
            Entry::Delivery(it) => self.deliveries.push(it),
            Entry::Handled(it) => self.handled.push(it),
            Entry::Commit(it) => self.commits.push(it),
            Entry::FailedForGood(it) => self.failed_for_good.push(it),
        }
    }

    /// Adds a record that was read back.
    pub fn add_record(&mut self, topic: &str, partition: i32, record: LogRecord) {
        let log = self.topics.entry(topic.to_owned()).or_default();
        log.entry(partition).or_default().push(record);
    }

    /// Judges the run.
    pub fn check(&self) -> Report {
        let mut report = Report::default();
        records::check(self, &mut report);
        outbox::check(self, &mut report);
        effects::check(self, &mut report);
        order::check(self, &mut report);
        commits::check(self, &mut report);
        dead_letters::check(self, &mut report);
        copies::check(self, &mut report);
        report
    }

    /// Every record of a topic with its partition, by offset within each.
    fn log<'a>(&'a self, topic: &str) -> impl Iterator<Item = (i32, &'a LogRecord)> {
        let partitions = self.topics.get(topic).into_iter().flatten();
        partitions.flat_map(|(partition, log)| log.iter().map(|record| (*partition, record)))
    }
}
