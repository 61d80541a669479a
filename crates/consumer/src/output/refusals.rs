//! [`Refusals`]: outputs that a broker does not take, whatever is done.
//!
//! A transaction in which the write of a record has failed can only be aborted, so whatever a handler
//! does about the failure (a dead letter, say) is taken back with it, and the next attempt would fare
//! no better. So what was refused for its own sake is remembered for the record that it was made
//! from: the next attempt hears at once that it is refused, nothing is sent, and what the handler does
//! then counts.

use ottla_types::{Fate, Offset, PublishError, PublishErrorKind, Record, TopicPartition};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Then it is tried again: the topic may allow larger records by now, or be there.
const KEPT_FOR: Duration = Duration::from_secs(60);
/// The most that are remembered.
const KEPT_MAX: usize = 1024;

/// Where a call's records begin.
pub(super) type Source = (TopicPartition, Offset);

/// An output that was refused.
#[derive(Debug, Clone)]
pub(super) struct Refusal {
    topic: Arc<str>,
    /// Refused is what is at least as large.
    size: usize,
    pub(super) error: PublishError,
}

impl Refusal {
    /// If it was refused for its own sake, and certainly is not written.
    pub(super) fn of(topic: &Arc<str>, size: usize, error: &PublishError) -> Option<Self> {
        let size = match error.kind() {
            _ if error.fate() != Fate::NotWritten => return None,
            PublishErrorKind::RecordTooLarge => size,
            PublishErrorKind::InvalidRecord | PublishErrorKind::UnknownTopic => 0,
            _ => return None,
        };
        Some(Self {
            topic: topic.clone(),
            size,
            error: error.clone(),
        })
    }

    pub(super) fn is_about(&self, record: &Record) -> bool {
        self.topic == record.topic && record.size() >= self.size
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Refusals(VecDeque<(Instant, Source, Refusal)>);

impl Refusals {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn note(&mut self, source: &Source, refused: Vec<Refusal>, now: Instant) {
        for refusal in refused {
            if self.0.len() == KEPT_MAX {
                self.0.pop_front();
            }
            self.0.push_back((now, source.clone(), refusal));
        }
    }

    /// What was refused of the outputs of these records.
    pub(super) fn of(&mut self, source: &Source, now: Instant) -> Vec<Refusal> {
        while self.0.front().is_some_and(|(at, ..)| *at + KEPT_FOR <= now) {
            self.0.pop_front();
        }
        let of_source = self.0.iter().filter(|(_, of, _)| of == source);
        of_source.map(|(.., refusal)| refusal.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(kind: PublishErrorKind, fate: Fate) -> Option<Refusal> {
        let error = PublishError::new(kind, fate, "out");
        Refusal::of(&"out".into(), 10, &error)
    }

    fn record(topic: &str, size: usize) -> Record {
        Record::new(topic).value(vec![0; size])
    }

    #[test]
    fn only_what_is_refused_for_its_own_sake_counts() {
        use PublishErrorKind as Kind;
        let large = refusal(Kind::RecordTooLarge, Fate::NotWritten).unwrap();
        assert!(large.is_about(&record("out", 10)) && large.is_about(&record("out", 11)));
        assert!(!large.is_about(&record("out", 9)) && !large.is_about(&record("dead", 10)));
        let unknown = refusal(Kind::UnknownTopic, Fate::NotWritten).unwrap();
        assert!(unknown.is_about(&record("out", 1)));
        assert!(refusal(Kind::RecordTooLarge, Fate::MaybeWritten).is_none());
        for kind in [Kind::Fenced, Kind::Aborted, Kind::TimedOut, Kind::Refused] {
            assert!(refusal(kind, Fate::NotWritten).is_none());
        }
    }

    #[test]
    fn it_is_remembered_for_its_record_alone_and_for_a_while() {
        let mut refusals = Refusals::default();
        let (now, t) = (Instant::now(), TopicPartition::new("t", 0));
        let large = || refusal(PublishErrorKind::RecordTooLarge, Fate::NotWritten).unwrap();
        refusals.note(&(t.clone(), 5), vec![large()], now);
        assert_eq!(refusals.of(&(t.clone(), 5), now).len(), 1);
        assert!(refusals.of(&(t.clone(), 6), now).is_empty());
        assert!(refusals.of(&(t.clone(), 5), now + KEPT_FOR).is_empty());
        for offset in 0..2 * KEPT_MAX as Offset {
            refusals.note(&(t.clone(), offset), vec![large()], now);
        }
        assert_eq!(refusals.0.len(), KEPT_MAX);
    }
}
