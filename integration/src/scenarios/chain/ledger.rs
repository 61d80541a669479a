//! What the handlers of all levels have seen, judged as it happens.

use ottla::types::{ConsumedRecord, Offset};
use std::collections::HashMap;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Violations that are kept; one is enough to fail.
const KEPT: usize = 20;

/// A level and a partition of its topic.
type Place = (usize, i32);

#[derive(Debug)]
pub(super) struct Ledger(Mutex<Seen>);

#[derive(Debug)]
struct Seen {
    /// For each level the next number of each key.
    next: Vec<Vec<u64>>,
    /// Everything below was committed by its owner, as far as was looked.
    committed: HashMap<Place, Offset>,
    totals: Totals,
}

/// What came of it all, by level.
#[derive(Debug, Clone, Default)]
pub(super) struct Totals {
    /// Records, each counted once.
    pub(super) arrived: Vec<u64>,
    /// Records that came again.
    pub(super) repeated: Vec<u64>,
    pub(super) violations: Vec<String>,
}

impl Ledger {
    pub(super) fn new(levels: usize, keys: u64) -> Self {
        let keys = usize::try_from(keys).unwrap_or(usize::MAX);
        Self(Mutex::new(Seen {
            next: vec![vec![0; keys]; levels],
            committed: HashMap::new(),
            totals: Totals {
                arrived: vec![0; levels],
                repeated: vec![0; levels],
                violations: Vec::new(),
            },
        }))
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A member of the level has handled the record.
    pub(super) fn handled(&self, place: Place, record: &ConsumedRecord) {
        let mut seen = self.seen();
        let below = seen.committed.get(&place).copied().unwrap_or(0);
        if record.offset < below {
            let text = format!(
                "{place:?}: offset {} came though {below} was committed",
                record.offset
            );
            seen.violation(text);
        }
        let key = number(record.key.as_deref(), "key-");
        let value = number(record.value.as_deref(), "");
        let (level, _) = place;
        let Some((key, number)) = key.zip(value) else {
            return seen.violation(format!("{place:?}: a record that nobody sent: {record:?}"));
        };
        let Some(next) = usize::try_from(key)
            .ok()
            .and_then(|key| seen.next[level].get_mut(key))
        else {
            return seen.violation(format!("{place:?}: a key that nobody sent: {key}"));
        };
        let expected = *next;
        if number < expected {
            seen.totals.repeated[level] += 1;
        } else {
            *next = number + 1;
            seen.totals.arrived[level] += 1;
            if number > expected {
                seen.violation(format!(
                    "{place:?}: key {key}: {number} came before {expected}"
                ));
            }
        }
    }

    /// A member of the level has committed this offset, or found it committed.
    pub(super) fn committed(&self, place: Place, offset: Offset) {
        let mut seen = self.seen();
        let known = seen.committed.entry(place).or_default();
        *known = offset.max(*known);
    }

    /// How many records are at the last level.
    pub(super) fn arrived(&self) -> u64 {
        self.seen().totals.arrived.last().copied().unwrap_or(0)
    }

    pub(super) fn totals(&self) -> Totals {
        self.seen().totals.clone()
    }
}

impl Seen {
    fn violation(&mut self, text: String) {
        if self.totals.violations.len() < KEPT {
            self.totals.violations.push(text);
        }
    }
}

impl fmt::Display for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "arrived {:?}, repeated {:?}, {} violations",
            self.arrived,
            self.repeated,
            self.violations.len()
        )?;
        for violation in &self.violations {
            write!(f, "\n  {violation}")?;
        }
        Ok(())
    }
}

fn number(text: Option<&[u8]>, prefix: &str) -> Option<u64> {
    let text = std::str::from_utf8(text?).ok()?;
    text.strip_prefix(prefix)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use ottla::types::{Headers, TimestampType};

    fn record(offset: Offset, key: u64, number: u64) -> ConsumedRecord {
        ConsumedRecord {
            topic: "t".into(),
            partition: 0,
            offset,
            leader_epoch: None,
            timestamp_ms: 0,
            timestamp_type: TimestampType::CreateTime,
            key: Some(format!("key-{key}").into()),
            value: Some(number.to_string().into()),
            headers: Headers::new(),
        }
    }

    #[test]
    fn what_came_again_after_it_was_committed_or_out_of_order_is_flagged() {
        let ledger = Ledger::new(1, 2);
        for (offset, number) in [(0, 0), (1, 1), (1, 1), (2, 2)] {
            ledger.handled((0, 0), &record(offset, 1, number));
        }
        let totals = ledger.totals();
        assert_eq!(
            (&totals.arrived[..], &totals.repeated[..]),
            (&[3][..], &[1][..])
        );
        assert_eq!(totals.violations, Vec::<String>::new());
        ledger.committed((0, 0), 2);
        ledger.handled((0, 0), &record(1, 1, 1));
        ledger.handled((0, 0), &record(5, 1, 5));
        ledger.handled((0, 0), &record(6, 9, 0));
        assert_eq!(ledger.totals().violations.len(), 3);
    }
}
