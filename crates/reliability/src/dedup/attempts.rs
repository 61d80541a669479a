//! What this process remembers of attempts that did not come to their end.
//!
//! A claim's owner is the member and the record's place, so a second attempt at the same place would
//! renew the first one's claim and run beside, or after, work that the store knows nothing of. This
//! memory keeps it from that. It is lost with the process, and so is the work.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// How long it is remembered that a handler has finished and its mark could not be written.
const FINISHED_KEPT_MS: i64 = 3_600_000;

/// What an earlier attempt left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Left {
    /// The call was dropped: what it began may go on until the claim ends.
    Running {
        /// The end of the claim.
        until_ms: i64,
    },
    /// The handler has finished; only the mark is missing.
    Finished {
        /// When this is forgotten.
        until_ms: i64,
    },
}

impl Left {
    fn until_ms(self) -> i64 {
        match self {
            Self::Running { until_ms } | Self::Finished { until_ms } => until_ms,
        }
    }
}

/// The attempts of one handler. Bounded by the partitions that it serves: each has one record in
/// hand, and what is old is removed whenever something is added.
#[derive(Debug, Default)]
pub(super) struct Attempts(Mutex<HashMap<String, Left>>);

impl Attempts {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Left>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What an earlier attempt left, if that still counts.
    pub(super) fn left(&self, name: &str, now_ms: i64) -> Option<Left> {
        let left = self.lock().get(name).copied();
        left.filter(|left| left.until_ms() > now_ms)
    }

    /// Begins an attempt, or takes up one whose handler has finished.
    pub(super) fn begin(&self, name: String, now_ms: i64, left: Left) -> Attempt<'_> {
        let mut all = self.lock();
        all.retain(|_, left| left.until_ms() > now_ms);
        all.remove(&name);
        drop(all);
        Attempt {
            attempts: self,
            name: Some(name),
            left,
        }
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.lock().len()
    }
}

/// An attempt; dropping it without [`over`](Self::over) remembers what it left.
pub(super) struct Attempt<'a> {
    attempts: &'a Attempts,
    name: Option<String>,
    left: Left,
}

impl Attempt<'_> {
    /// The claim was renewed.
    pub(super) fn renewed(&mut self, until_ms: i64) {
        self.left = Left::Running { until_ms };
    }

    /// The handler has finished.
    pub(super) fn finished(&mut self, now_ms: i64) {
        self.left = finished(now_ms);
    }

    /// Nothing is left to remember.
    pub(super) fn over(mut self) {
        self.name = None;
    }
}

/// The handler has finished at `now_ms`.
pub(super) fn finished(now_ms: i64) -> Left {
    Left::Finished {
        until_ms: now_ms.saturating_add(FINISHED_KEPT_MS),
    }
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        // A handler that panicked is not at work any more.
        if let Some(name) = self.name.take()
            && !std::thread::panicking()
        {
            self.attempts.lock().insert(name, self.left);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_did_not_end_is_remembered_and_not_for_ever() {
        let attempts = Attempts::default();
        let running = Left::Running { until_ms: 100 };
        attempts.begin("a".into(), 0, running).over();
        assert_eq!(attempts.left("a", 0), None);
        drop(attempts.begin("a".into(), 0, running));
        assert_eq!(attempts.left("a", 99), Some(running));
        assert_eq!(attempts.left("a", 100), None);
        let mut renewed = attempts.begin("b".into(), 0, running);
        renewed.renewed(200);
        drop(renewed);
        assert_eq!(
            attempts.left("b", 150),
            Some(Left::Running { until_ms: 200 })
        );
        let mut done = attempts.begin("c".into(), 150, running);
        done.finished(150);
        drop(done);
        assert_eq!(attempts.left("c", 300), Some(finished(150)));
        attempts.begin("d".into(), 300, running).over();
        assert_eq!(attempts.len(), 1);
    }
}
