//! What a transaction asks of the accumulator at its end: whether every record was written, or that
//! none is sent any more.

use super::Accumulator;
use ottla_types::{Fate, PublishError, PublishErrorKind};
use std::sync::Arc;

impl Accumulator {
    /// From now on batches belong to transactions.
    pub(crate) fn make_transactional(&mut self) {
        self.rules.transactional = true;
    }

    /// Whether a record that was taken has failed since the last [`take_failure`](Self::take_failure).
    pub(crate) fn has_failure(&self) -> bool {
        self.first_failure.is_some()
    }

    /// The first failure of a record that was taken, since the last time that this was asked.
    pub(crate) fn take_failure(&mut self) -> Option<PublishError> {
        self.first_failure.take()
    }

    /// Fails what was not sent, or was to be sent again.
    pub(crate) fn drop_unsent(&mut self) {
        let dropped = PublishErrorKind::Aborted;
        for at in 0..self.queues.len() {
            self.close_open(at);
            for batch in std::mem::take(&mut self.queues[at].ready) {
                self.give_up(at, batch, dropped, None);
            }
        }
        for name in self.topics.names() {
            let topic = self.topics.get_mut(&name);
            let waiting = topic.map(|topic| std::mem::take(&mut topic.waiting));
            for held in waiting.unwrap_or_default() {
                let error = PublishError::new(dropped, Fate::NotWritten, Arc::clone(&name));
                self.fail_waiting(&name, held, Some(error));
            }
        }
        self.effects.work = true;
    }
}
