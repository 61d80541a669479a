//! What worker processes write down for the checker: one JSON object a line.

use super::{
    Acknowledged, Commit, Delivery, Effect, Expected, FailedForGood, Handled, History, OutboxRow,
};
use serde::{Deserialize, Serialize};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

/// One line of a journal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Entry {
    /// A producer was told that a record is written.
    Acknowledged(Acknowledged),
    /// An outbox row.
    Row(OutboxRow),
    /// The transaction of an outbox row was rolled back.
    RolledBack {
        /// The row.
        id: String,
    },
    /// Something must happen once.
    Expected(Expected),
    /// Something happened.
    Effect(Effect),
    /// A handler was given a record.
    Delivery(Delivery),
    /// A group is done with a record.
    Handled(Handled),
    /// A group committed.
    Commit(Commit),
    /// A record must fail for good.
    FailedForGood(FailedForGood),
}

/// A journal could not be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JournalError {
    /// The file failed.
    #[error("journal {path}")]
    Io {
        /// The file.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// A line that is not the last is no entry.
    #[error("journal {path}, line {line}")]
    Line {
        /// The file.
        path: String,
        /// The line, from 1.
        line: usize,
        /// Why.
        source: serde_json::Error,
    },
}

/// An open journal. Every entry is one write to the kernel: a kill -9 of the process loses none that
/// [`write`](Self::write) has returned for.
#[derive(Debug)]
pub struct Journal {
    path: String,
    file: Mutex<File>,
}

impl Journal {
    /// Opens or creates a journal, to write at its end.
    ///
    /// # Errors
    /// `Io` if the file cannot be opened.
    pub fn open(path: &Path) -> Result<Self, JournalError> {
        let shown = path.display().to_string();
        match OpenOptions::new().create(true).append(true).open(path) {
            Ok(file) => Ok(Self {
                path: shown,
                file: Mutex::new(file),
            }),
            Err(source) => Err(JournalError::Io {
                path: shown,
                source,
            }),
        }
    }

    /// Writes one entry.
    ///
    /// # Errors
    /// `Io` if the file fails.
    pub fn write(&self, entry: &Entry) -> Result<(), JournalError> {
        let failed = |source| JournalError::Io {
            path: self.path.clone(),
            source,
        };
        let mut line = serde_json::to_vec(entry).map_err(|error| failed(error.into()))?;
        line.push(b'\n');
        self.file
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .write_all(&line)
            .map_err(failed)
    }
}

/// Adds a journal's entries to a history. A last line without an end is left out: its process was
/// killed while it wrote.
///
/// # Errors
/// `Io` if the file cannot be read, `Line` for a whole line that is no entry.
pub fn read_journal(path: &Path, history: &mut History) -> Result<usize, JournalError> {
    let shown = || path.display().to_string();
    let text = std::fs::read(path).map_err(|source| JournalError::Io {
        path: shown(),
        source,
    })?;
    let whole = text
        .iter()
        .rposition(|byte| *byte == b'\n')
        .map_or(0, |end| end + 1);
    let mut count = 0;
    for line in text[..whole]
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty())
    {
        let entry = serde_json::from_slice(line);
        let entry = entry.map_err(|source| JournalError::Line {
            path: shown(),
            line: count + 1,
            source,
        })?;
        history.absorb(entry);
        count += 1;
    }
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source() -> History {
        let mut source = History::default();
        for number in 0..11 {
            source.effects.push(Effect {
                group: "order-pay-sms".to_owned(),
                id: format!("o{number}"),
                kind: "notify".to_owned(),
                at_ms: number,
            });
        }
        source.rolled_back.insert("never".to_owned());
        source
    }

    #[test]
    fn a_journal_is_read_back_without_its_torn_last_line() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let journal = Journal::open(file.path()).unwrap();
        let source = source();
        let rolled_back = source
            .rolled_back
            .iter()
            .map(|id| Entry::RolledBack { id: id.clone() });
        let entries = source
            .effects
            .iter()
            .cloned()
            .map(Entry::Effect)
            .chain(rolled_back);
        for entry in entries {
            journal.write(&entry).unwrap();
        }
        std::fs::File::options()
            .append(true)
            .open(file.path())
            .unwrap()
            .write_all(b"{\"effe")
            .unwrap();
        let mut read = History::default();
        assert_eq!(read_journal(file.path(), &mut read).unwrap(), 12);
        assert_eq!(
            (read.effects, read.rolled_back),
            (source.effects, source.rolled_back)
        );
    }

    #[test]
    fn a_whole_line_that_is_no_entry_is_an_error() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "{\"rolled_back\":{\"id\":\"x\"}}\nnonsense\n").unwrap();
        let error = read_journal(file.path(), &mut History::default()).unwrap_err();
        assert!(
            matches!(error, JournalError::Line { line: 2, .. }),
            "{error:?}"
        );
    }
}
