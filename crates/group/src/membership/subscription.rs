//! What a member of the classic protocol wants to consume: topics by name, and those that match an
//! expression. Joins name topics, so the application matches the names that there are, and says
//! which they are whenever that changes.

use super::Membership;
use super::state::{AfterRevocation, State};
use std::collections::BTreeSet;
use std::sync::Arc;

#[derive(Debug, Default)]
pub(super) struct Subscription {
    named: BTreeSet<Arc<str>>,
    /// Empty for none.
    pattern: String,
    /// What matches the pattern, or the one before as long as nobody has said what matches this one.
    matched: Option<BTreeSet<Arc<str>>>,
}

impl Subscription {
    pub(super) fn set(&mut self, topics: Vec<Arc<str>>, pattern: String) {
        self.named = topics.into_iter().collect();
        if pattern.is_empty() {
            self.matched = None;
        }
        self.pattern = pattern;
    }

    /// False for an answer about another pattern.
    pub(super) fn matched(&mut self, pattern: &str, topics: Vec<Arc<str>>) -> bool {
        let is_present = !pattern.is_empty() && pattern == self.pattern;
        if is_present {
            self.matched = Some(topics.into_iter().collect());
        }
        is_present
    }

    /// Whether the member is to be in the group; with an expression also while nothing matches it.
    fn wants_any(&self) -> bool {
        !(self.named.is_empty() && self.pattern.is_empty())
    }

    /// Whether there is something to join with: a pattern that nobody has matched yet is waited for.
    pub(super) fn is_known(&self) -> bool {
        self.wants_any() && (self.pattern.is_empty() || self.matched.is_some())
    }

    fn topics(&self) -> BTreeSet<Arc<str>> {
        let matched = self.matched.iter().flatten();
        self.named.iter().chain(matched).cloned().collect()
    }
}

impl Membership {
    /// The expression whose matches are to be told as [`Input::Matched`](super::Input::Matched) when
    /// it is new, and whenever metadata is refreshed.
    pub fn pattern(&self) -> Option<&str> {
        Some(self.wanted.pattern.as_str()).filter(|pattern| !pattern.is_empty())
    }

    pub(super) fn on_subscription(&mut self) {
        if self.is_closing() {
            return;
        }
        if !self.wanted.wants_any() {
            self.topics.clear();
            match &self.state {
                State::Unsubscribed | State::Stale | State::Leaving => {}
                State::Revoking(r) if r.then != AfterRevocation::Rejoin => {}
                _ => self.give_up_everything(AfterRevocation::Unsubscribe),
            }
            return;
        }
        if !self.wanted.is_known() {
            return;
        }
        let topics = self.wanted.topics();
        let is_news = self.topics != topics;
        self.topics = topics;
        if let Some((_, then)) = &mut self.ending {
            self.rejoin = Some(REASON);
            *then = AfterRevocation::Rejoin;
            return;
        }
        match &mut self.state {
            State::Unsubscribed => {
                self.rejoin = Some(REASON);
                self.join_now();
            }
            State::Revoking(r) if r.then == AfterRevocation::Unsubscribe => {
                self.rejoin = Some(REASON);
                r.then = AfterRevocation::Rejoin;
            }
            State::Stable if is_news => {
                self.rejoin = Some(REASON);
                self.begin_rejoin();
            }
            _ if is_news => self.rejoin = Some(REASON),
            _ => {}
        }
    }
}

/// Told to the coordinator with the join (KIP-800).
const REASON: &str = "the subscription changed";
