//! What topics there are: asked for a membership that names, counts or matches them.

use crate::subscription::TopicPattern;
use ottla_client::{Backoff, Client, Error, ErrorKind};
use ottla_group::TopicCounts;
use ottla_types::coordinator::TopicId;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// After which a topic that is missing for the first time is looked for again.
const DOUBT: Duration = Duration::from_secs(1);

/// When the topics are looked at: every `metadata.max.age.ms`, and as soon as there is a new
/// expression to match.
pub(super) struct Lookout {
    every: Duration,
    /// `None` while a look is out.
    at: Option<Instant>,
    backoff: Backoff,
    /// The expression of the last look.
    pattern: String,
    matches: Matches,
}

/// What a look saw.
pub(super) struct Seen {
    pub(super) counts: TopicCounts,
    /// The expression that was looked for, and what matches it.
    pub(super) matched: Option<(TopicPattern, Vec<Arc<str>>)>,
}

impl Lookout {
    pub(super) fn new(client: &Client, now: Instant) -> Self {
        let config = client.config();
        Self {
            every: config.metadata_max_age,
            at: Some(now + config.metadata_max_age),
            backoff: Backoff::new(config.retry_backoff, config.retry_backoff_max),
            pattern: String::new(),
            matches: Matches::default(),
        }
    }

    /// Whether it is time for a look; `pattern` is the expression to match, if there is one.
    pub(super) fn is_due(&self, pattern: Option<&str>, now: Instant) -> bool {
        let is_new = pattern.is_some_and(|pattern| pattern != self.pattern);
        self.at.is_some_and(|at| at <= now || is_new)
    }

    /// A look begins.
    pub(super) fn begin(&mut self, pattern: Option<&str>) {
        self.at = None;
        let pattern = pattern.unwrap_or_default();
        if pattern != self.pattern {
            pattern.clone_into(&mut self.pattern);
            self.matches = Matches::default();
        }
    }

    /// There is nothing to look for.
    pub(super) fn pass(&mut self, now: Instant) {
        self.at = Some(now + self.every);
    }

    /// What matches, after a look that saw this.
    pub(super) fn seen(&mut self, matching: Vec<Arc<str>>, now: Instant) -> Vec<Arc<str>> {
        self.backoff.reset();
        self.pass(now);
        let (matches, is_sure) = self.matches.take(matching);
        if !is_sure {
            self.at = Some(now + self.every.min(DOUBT));
        }
        matches
    }

    /// A look failed.
    pub(super) fn failed(&mut self, now: Instant) {
        self.at = Some(now + self.backoff.next_delay().min(self.every));
    }

    /// The next moment at which a look is due by the clock alone.
    pub(super) fn next_wake(&self) -> Option<Instant> {
        self.at
    }
}

/// The topics that match an expression. One look does not say that a topic is gone: a broker that
/// has just started does not know them all, and to give partitions up is a rebalance.
#[derive(Debug, Default)]
struct Matches {
    known: BTreeSet<Arc<str>>,
    missing: BTreeSet<Arc<str>>,
}

impl Matches {
    /// What matches now, and whether nothing of it is in doubt.
    fn take(&mut self, seen: Vec<Arc<str>>) -> (Vec<Arc<str>>, bool) {
        let seen: BTreeSet<_> = seen.into_iter().collect();
        let missing: BTreeSet<_> = self.known.difference(&seen).cloned().collect();
        let doubted: BTreeSet<_> = missing.difference(&self.missing).cloned().collect();
        self.known = seen.union(&doubted).cloned().collect();
        self.missing = doubted;
        let known = self.known.iter().cloned().collect();
        (known, self.missing.is_empty())
    }
}

/// Counts partitions, and matches names. What the cluster keeps for itself does not match.
pub(super) async fn look(
    client: Client,
    watched: Vec<Arc<str>>,
    pattern: Option<TopicPattern>,
) -> Result<Seen, Error> {
    let mut seen = Seen {
        counts: partition_counts(client.clone(), watched).await?,
        matched: None,
    };
    if let Some(pattern) = pattern {
        let topics = client.list_topics().await?;
        let matching = topics
            .iter()
            .filter(|t| !t.is_internal && pattern.matches(&t.name));
        let matching = matching.map(|t| t.name.clone()).collect();
        seen.matched = Some((pattern, matching));
    }
    Ok(seen)
}

/// The names of these topics, as far as the cluster tells them.
pub(super) async fn topic_names(
    client: Client,
    ids: Vec<TopicId>,
) -> Result<BTreeMap<TopicId, Arc<str>>, Error> {
    let wanted: HashSet<_> = ids.into_iter().collect();
    let topics = client.list_topics().await?;
    let named = topics
        .iter()
        .filter_map(|t| Some((t.topic_id?, t.name.clone())));
    Ok(named.filter(|(id, _)| wanted.contains(id)).collect())
}

/// The partitions of each topic now; 0 for a topic that does not exist.
pub(super) async fn partition_counts(
    client: Client,
    topics: Vec<Arc<str>>,
) -> Result<TopicCounts, Error> {
    let mut counts = TopicCounts::new();
    for topic in topics {
        let count = match client.refresh_topic(&topic).await {
            Ok(metadata) => i32::try_from(metadata.partitions.len()).unwrap_or(i32::MAX),
            Err(e) if e.kind() == ErrorKind::UnknownTopic => 0,
            Err(e) => return Err(e),
        };
        counts.insert(topic, count);
    }
    Ok(counts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_is_gone_when_two_looks_in_a_row_miss_it() {
        let mut matches = Matches::default();
        let mut look = |names: &[&str]| {
            let (known, is_sure) = matches.take(names.iter().map(|n| Arc::from(*n)).collect());
            let known: Vec<_> = known.iter().map(|n| n.to_string()).collect();
            (known.join(" "), is_sure)
        };
        assert_eq!(look(&["a", "b"]), ("a b".into(), true));
        assert_eq!(look(&["a"]), ("a b".into(), false));
        assert_eq!(look(&["a", "b", "c"]), ("a b c".into(), true));
        assert_eq!(look(&["a"]), ("a b c".into(), false));
        assert_eq!(look(&["a", "c"]), ("a c".into(), true));
        assert_eq!(look(&[]), ("a c".into(), false));
        assert_eq!(look(&[]), (String::new(), true));
    }
}
