//! What the checker found.

use std::collections::BTreeMap;
use std::fmt;

/// One difference between what was promised and what is there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// An acknowledged record is nowhere in its topic.
    #[error("acknowledged record {id} is not in {topic}")]
    AcknowledgedLost {
        /// Its topic.
        topic: String,
        /// The record.
        id: String,
    },
    /// An acknowledged record is in its topic, and another record stands where it was acknowledged.
    #[error("record {id} was acknowledged at {topic}-{partition}@{offset}, where {found} stands")]
    AcknowledgedMoved {
        /// Its topic.
        topic: String,
        /// Its partition.
        partition: i32,
        /// Its offset.
        offset: i64,
        /// The record.
        id: String,
        /// What is there: another record's id, or `nothing`.
        found: String,
    },
    /// A partition was read back with an offset twice or out of order.
    #[error("{topic}-{partition} reads {second} after {first}")]
    LogDisordered {
        /// The topic.
        topic: String,
        /// The partition.
        partition: i32,
        /// An offset.
        first: i64,
        /// The one after it, which is not greater.
        second: i64,
    },
    /// A row that was committed is neither in the topic nor waiting, or is marked sent and is not in
    /// the topic.
    #[error("outbox row {id} is {state} and not in {topic}")]
    RowLost {
        /// Where it should be.
        topic: String,
        /// The row.
        id: String,
        /// What the database says of it.
        state: &'static str,
    },
    /// A row still waits after the run.
    #[error("outbox row {id} was never published to {topic}")]
    RowUnsent {
        /// Where it should be.
        topic: String,
        /// The row.
        id: String,
    },
    /// The topic of an outbox has a record that no row and no producer accounts for.
    #[error("record {id} in {topic} comes from no outbox row")]
    RecordInvented {
        /// The topic.
        topic: String,
        /// The record.
        id: String,
    },
    /// A row of a transaction that was rolled back, or never committed, was published.
    #[error("outbox row {id} was rolled back, and {topic} has it")]
    RolledBackSent {
        /// The topic.
        topic: String,
        /// The row.
        id: String,
    },
    /// The database has a row of a transaction that was rolled back.
    #[error("outbox row {id} was rolled back, and the database has it")]
    RolledBackStored {
        /// The row.
        id: String,
    },
    /// Something that must happen did not.
    #[error("{group}: {kind} for {id} is missing")]
    EffectMissing {
        /// The group.
        group: String,
        /// What it is about.
        id: String,
        /// What was to be done.
        kind: String,
    },
    /// Something happened more than once.
    #[error("{group}: {kind} for {id} happened {times} times")]
    EffectDuplicated {
        /// The group.
        group: String,
        /// What it is about.
        id: String,
        /// What was done.
        kind: String,
        /// How often.
        times: usize,
    },
    /// Something happened that nobody asked for.
    #[error("{group}: {kind} for {id} was not to happen")]
    EffectInvented {
        /// The group.
        group: String,
        /// What it is about.
        id: String,
        /// What was done.
        kind: String,
    },
    /// In a topic, a key's records first occur in an order in which they were not sent.
    #[error("{topic}: key {key} has {seq} ({id}) after {after}")]
    LogOutOfOrder {
        /// The topic.
        topic: String,
        /// The key.
        key: String,
        /// The late record.
        id: String,
        /// Its place.
        seq: u64,
        /// The greater place that stands before it.
        after: u64,
    },
    /// One key stands in several partitions of a topic.
    #[error("{topic}: key {key} is in partitions {partitions:?}")]
    KeyScattered {
        /// The topic.
        topic: String,
        /// The key.
        key: String,
        /// The partitions.
        partitions: Vec<i32>,
    },
    /// A handler first got a key's records in an order in which they were not sent.
    #[error("{group}: key {key} was given {seq} ({id}) after {after}")]
    DeliveryOutOfOrder {
        /// The group.
        group: String,
        /// The key.
        key: String,
        /// The late record.
        id: String,
        /// Its place.
        seq: u64,
        /// The greater place that was given before it.
        after: u64,
    },
    /// A group committed past a record that it is not done with.
    #[error("{group} committed {topic}-{partition}@{committed}, and {unhandled} is not handled")]
    CommitAboveHandled {
        /// The group.
        group: String,
        /// The topic.
        topic: String,
        /// The partition.
        partition: i32,
        /// The committed offset.
        committed: i64,
        /// The first offset below it that is not handled.
        unhandled: i64,
    },
    /// A group committed past the end of the partition.
    #[error("{group} committed {topic}-{partition}@{committed}, beyond its end {end}")]
    CommitBeyondEnd {
        /// The group.
        group: String,
        /// The topic.
        topic: String,
        /// The partition.
        partition: i32,
        /// The committed offset.
        committed: i64,
        /// One more than the last offset that the partition has.
        end: i64,
    },
    /// A record that failed for good is not in its dead letter topic.
    #[error("{group}: record {id} failed for good and is not in {dead_letter_topic}")]
    DeadLetterMissing {
        /// The group.
        group: String,
        /// The record.
        id: String,
        /// Where it should be.
        dead_letter_topic: String,
    },
    /// A dead letter lacks a header or has a wrong one.
    #[error("{group}: dead letter {id}: header {header} {problem}")]
    DeadLetterHeader {
        /// The group.
        group: String,
        /// The record.
        id: String,
        /// The header.
        header: &'static str,
        /// What is wrong with it.
        problem: HeaderProblem,
    },
    /// A dead letter topic has a record that was not to fail for good.
    #[error("{topic} has {id} of {group}, which was not to fail for good")]
    DeadLetterInvented {
        /// The dead letter topic.
        topic: String,
        /// The group that its header names; empty without one.
        group: String,
        /// The record.
        id: String,
    },
    /// A record is not what was sent, or a copy not what it is a copy of.
    #[error("{topic}: {what} of {id} is not as in {original}")]
    ContentChanged {
        /// Where it stands.
        topic: String,
        /// The record.
        id: String,
        /// What differs.
        what: String,
        /// From what.
        original: String,
    },
    /// A copy of a record that is not there.
    #[error("{topic} has {id}, which {original} has not")]
    CopyInvented {
        /// Where the copy stands.
        topic: String,
        /// The record.
        id: String,
        /// Where it should come from.
        original: String,
    },
    /// A copy that is to be tried again lacks a header or has a wrong one.
    #[error("{topic}: {id}: header {header} {problem}")]
    RetryHeader {
        /// The retry topic.
        topic: String,
        /// The record.
        id: String,
        /// The header.
        header: &'static str,
        /// What is wrong with it.
        problem: HeaderProblem,
    },
    /// A delayed record that never came to its topic.
    #[error("delayed record {id} never came to {topic}")]
    NotForwarded {
        /// Its topic.
        topic: String,
        /// The record.
        id: String,
    },
    /// Something came before its time.
    #[error("{place} had {id} {early_ms} ms before its time")]
    Early {
        /// The topic or the group that had it.
        place: String,
        /// The record.
        id: String,
        /// By how much.
        early_ms: i64,
    },
    /// Somebody was told that something is stored, and it is not.
    #[error("{what} was confirmed and is not stored")]
    ConfirmedLost {
        /// What.
        what: String,
    },
}

/// What is wrong with a header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeaderProblem {
    /// It is not there.
    Missing,
    /// It is no number where it must be one, or is empty.
    Unreadable,
    /// It does not lead back to the record.
    Wrong,
}

impl fmt::Display for HeaderProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Missing => "is missing",
            Self::Unreadable => "is unreadable",
            Self::Wrong => "does not lead back to the record",
        })
    }
}

/// How much was looked at: a report without violations says little when these are small.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Acknowledged records.
    pub acknowledged: usize,
    /// Records in all topics.
    pub records: usize,
    /// Outbox rows.
    pub rows: usize,
    /// Outbox rows that are marked as sent.
    pub rows_sent: usize,
    /// Outbox rows that are parked.
    pub rows_parked: usize,
    /// Records in a topic beyond the first of their id: what at-least-once delivery wrote again.
    pub records_repeated: usize,
    /// Effects that were expected.
    pub effects_expected: usize,
    /// Effects that happened.
    pub effects: usize,
    /// First deliveries whose order was judged.
    pub deliveries_judged: usize,
    /// Deliveries after the first of a record.
    pub deliveries_repeated: usize,
    /// Keys, of all groups together, whose order was judged.
    pub keys_judged: usize,
    /// Keys, of all groups together, that were left out because a record of theirs was retried.
    pub keys_left_out: usize,
    /// Committed offsets.
    pub commits: usize,
    /// Records that had to fail for good.
    pub failed_for_good: usize,
    /// Different records in dead letter topics, for each group.
    pub dead_letters: usize,
}

/// What the checker found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Every difference.
    pub violations: Vec<Violation>,
    /// How much was looked at.
    pub counts: Counts,
    /// The records that stand in a topic again, by topic.
    pub repeated: BTreeMap<String, usize>,
}

impl Report {
    /// Nothing is wrong.
    pub fn is_clean(&self) -> bool {
        self.violations.is_empty()
    }

    /// Records, rows, effects and dead letters that should be there and are not.
    pub fn lost(&self) -> usize {
        self.count(|violation| {
            matches!(
                violation,
                Violation::AcknowledgedLost { .. }
                    | Violation::AcknowledgedMoved { .. }
                    | Violation::RowLost { .. }
                    | Violation::RowUnsent { .. }
                    | Violation::EffectMissing { .. }
                    | Violation::CommitAboveHandled { .. }
                    | Violation::DeadLetterMissing { .. }
                    | Violation::NotForwarded { .. }
                    | Violation::ConfirmedLost { .. }
            )
        })
    }

    /// Effects that happened more than once.
    pub fn duplicated(&self) -> usize {
        self.count(|violation| matches!(violation, Violation::EffectDuplicated { .. }))
    }

    /// Records that came too late, in a topic or to a handler.
    pub fn out_of_order(&self) -> usize {
        self.count(|violation| {
            matches!(
                violation,
                Violation::LogOutOfOrder { .. } | Violation::DeliveryOutOfOrder { .. }
            )
        })
    }

    /// Whatever else is wrong.
    pub fn otherwise_wrong(&self) -> usize {
        self.violations.len() - self.lost() - self.duplicated() - self.out_of_order()
    }

    fn count(&self, which: impl Fn(&Violation) -> bool) -> usize {
        self.violations
            .iter()
            .filter(|violation| which(violation))
            .count()
    }
}

/// Violations shown of a report; the rest is only counted.
const SHOWN_MAX: usize = 30;

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Counts {
            acknowledged,
            records,
            rows,
            effects,
            commits,
            dead_letters,
            ..
        } = self.counts;
        writeln!(
            f,
            "looked at {acknowledged} acknowledgements, {records} records ({} repeated), {rows} \
             outbox rows ({} parked), {effects} of {} effects, {} first deliveries of {} keys ({} \
             repeated, {} keys left out), {commits} commits, {dead_letters} of {} dead letters",
            self.counts.records_repeated,
            self.counts.rows_parked,
            self.counts.effects_expected,
            self.counts.deliveries_judged,
            self.counts.keys_judged,
            self.counts.deliveries_repeated,
            self.counts.keys_left_out,
            self.counts.failed_for_good,
        )?;
        for violation in self.violations.iter().take(SHOWN_MAX) {
            writeln!(f, "  {violation}")?;
        }
        if let Some(more) = self
            .violations
            .len()
            .checked_sub(SHOWN_MAX)
            .filter(|more| *more > 0)
        {
            writeln!(f, "  and {more} more")?;
        }
        write!(f, "{} violations", self.violations.len())
    }
}
