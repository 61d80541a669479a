//! Which topics the cluster is asked for, and when.

use crate::ProducerConfig;
use crate::accumulator::TopicNext;
use crate::cluster::Cluster;
use crate::shared::{Shared, now};
use ottla_client::{Backoff, Error, TopicMetadata};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::{JoinError, JoinSet};

/// So many topics are asked for at a time.
const QUESTIONS_MAX: usize = 16;

/// Between two answers for the same topic, at least this long.
const PAUSE: Duration = Duration::from_millis(50);

type Described = (Arc<str>, Result<Arc<TopicMetadata>, Error>);

pub(super) type TopicAnswer = Result<Described, JoinError>;

pub(super) struct Topics {
    cluster: Arc<dyn Cluster>,
    backoff: (Duration, Duration),
    max_age: Duration,
    entries: HashMap<Arc<str>, Entry>,
    questions: JoinSet<Described>,
}

struct Entry {
    state: State,
    backoff: Backoff,
    /// Whether it was asked for before: then what is cached is not good enough.
    known: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// To be asked for at this time.
    Due(Instant),
    /// Asked for; and whether to ask again right after.
    Asked { again: bool },
}

impl Topics {
    pub(super) fn new(
        cluster: Arc<dyn Cluster>,
        config: &ProducerConfig,
        max_age: Duration,
    ) -> Self {
        Self {
            cluster,
            backoff: (config.retry_backoff, config.retry_backoff_max),
            max_age,
            entries: HashMap::new(),
            questions: JoinSet::new(),
        }
    }

    /// A topic is new, or what is known of it may be wrong.
    pub(super) fn want(&mut self, name: Arc<str>) {
        let now = now();
        let (first, most) = self.backoff;
        let entry = self.entries.entry(name).or_insert_with(|| Entry {
            state: State::Due(now),
            backoff: Backoff::new(first, most),
            known: false,
        });
        entry.state = match entry.state {
            State::Due(at) => {
                // Not at once where it was answered just now.
                let soon = if entry.known { now + PAUSE } else { now };
                State::Due(at.min(soon))
            }
            State::Asked { .. } => State::Asked { again: true },
        };
    }

    /// Asks for the topics that are due, and forgets those that were not used since the last time.
    pub(super) fn ask(&mut self, now: Instant, shared: &Shared) {
        let due: Vec<_> = self
            .entries
            .iter()
            .filter(|(_, entry)| matches!(entry.state, State::Due(at) if at <= now))
            .map(|(name, _)| Arc::clone(name))
            .take(QUESTIONS_MAX.saturating_sub(self.questions.len()))
            .collect();
        for name in due {
            let idle = now.checked_sub(self.max_age);
            if idle.is_some_and(|since| shared.with(|acc| acc.forget_idle(&name, since))) {
                self.entries.remove(&name);
                continue;
            }
            if let Some(entry) = self.entries.get_mut(&name) {
                entry.state = State::Asked { again: false };
                let answer = self.cluster.topic(Arc::clone(&name), entry.known);
                self.questions.spawn(async move { (name, answer.await) });
            }
        }
    }

    /// When to [`ask`](Self::ask) next.
    pub(super) fn next_wake(&self) -> Option<Instant> {
        if self.questions.len() >= QUESTIONS_MAX {
            return None;
        }
        let due = self.entries.values().filter_map(|entry| match entry.state {
            State::Due(at) => Some(at),
            State::Asked { .. } => None,
        });
        due.min()
    }

    /// The next answer; nothing while no question is open.
    pub(super) async fn next_answer(&mut self) -> Option<TopicAnswer> {
        self.questions.join_next().await
    }

    pub(super) fn apply(&mut self, shared: &Shared, answer: TopicAnswer) {
        let now = now();
        let (name, described) = match answer {
            Ok(answer) => answer,
            Err(error) => {
                // Nobody knows which one: all that were asked for are asked for again.
                tracing::error!(%error, "a question for a topic panicked");
                for entry in self.entries.values_mut() {
                    if matches!(entry.state, State::Asked { .. }) {
                        entry.state = State::Due(now + entry.backoff.next_delay());
                    }
                }
                return;
            }
        };
        if let Err(error) = &described {
            tracing::debug!(topic = &*name, %error, "topic is not described");
        }
        let failed = described.is_err();
        let next = shared.with(|acc| acc.apply_topic(&name, described, now));
        if next == TopicNext::Gone {
            self.entries.remove(&name);
            return;
        }
        let Some(entry) = self.entries.get_mut(&name) else {
            return;
        };
        entry.known = true;
        let again = matches!(entry.state, State::Asked { again: true });
        let wait = if failed || next == TopicNext::Retry {
            entry.backoff.next_delay()
        } else {
            entry.backoff.reset();
            if again { PAUSE } else { self.max_age }
        };
        entry.state = State::Due(now + wait);
    }
}
