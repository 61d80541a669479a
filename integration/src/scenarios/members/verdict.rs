//! What the members' journals say, judged by the history checker, and the figures that come of it.

use super::{Bed, Failure, Member, WITHIN};
use crate::history::{Acknowledged, Commit, Effect, Expected, History, read_journal};
use crate::read_back::read_into;
use ottla::types::Offset;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

const KIND: &str = "handle";

/// A record that a member's handler was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Given {
    pub(super) group: String,
    pub(super) member: String,
    pub(super) partition: i32,
    pub(super) offset: Offset,
    pub(super) at_ns: u64,
}

/// A record that was given more than once in its group: all of it, the first one first.
pub(super) type Repeated = Vec<Given>;

/// All that the members were given.
#[derive(Debug, Default)]
pub(super) struct Verdict {
    pub(super) given: Vec<Given>,
}

impl Bed {
    /// Judges what `members` wrote down: everything that was `sent` was given to each group and
    /// handled before it was committed, and each key's records in their order.
    pub(super) async fn judge(
        &self,
        sent: Vec<Acknowledged>,
        members: &[Member],
    ) -> Result<Verdict, Failure> {
        let places: BTreeMap<String, (i32, Offset)> = sent
            .iter()
            .filter_map(|sent| Some((sent.id.clone(), (sent.partition, sent.offset?))))
            .collect();
        let mut history = History::default();
        let mut verdict = Verdict::default();
        for member in members {
            let before = history.deliveries.len();
            read_journal(&member.journal, &mut history)?;
            for delivery in &history.deliveries[before..] {
                let (partition, offset) = places
                    .get(&delivery.id)
                    .ok_or_else(|| format!("nobody sent {}", delivery.id))?;
                verdict.given.push(Given {
                    group: delivery.group.clone(),
                    member: member.name.clone(),
                    partition: *partition,
                    offset: *offset,
                    at_ns: delivery.at_ns,
                });
            }
        }
        verdict.given.sort_by_key(|given| given.at_ns);
        // Given at least once to each group: how often is judged by each scenario.
        let mut seen = BTreeSet::new();
        for delivery in &history.deliveries {
            if seen.insert((delivery.group.clone(), delivery.id.clone())) {
                history.effects.push(Effect {
                    group: delivery.group.clone(),
                    id: delivery.id.clone(),
                    kind: KIND.to_owned(),
                    at_ms: 0,
                });
            }
        }
        for way in self.ways {
            let group = self.group(way);
            history.expected.extend(sent.iter().map(|sent| Expected {
                group: group.clone(),
                id: sent.id.clone(),
                kind: KIND.to_owned(),
            }));
            let committed = self.committed(&group).await?;
            let commits = committed.into_iter().map(|(partition, offset)| Commit {
                group: group.clone(),
                topic: self.topic.clone(),
                partition,
                offset,
            });
            history.commits.extend(commits);
        }
        history.acknowledged = sent;
        read_into(&mut history, &self.client, &self.topic, WITHIN).await?;
        let report = history.check();
        if !report.violations.is_empty() {
            return Err(report.to_string().into());
        }
        for way in self.ways {
            let twice = verdict.repeated(&self.group(way)).len();
            let all = history.acknowledged.len();
            println!("{}: {all} records, {twice} given more than once", way.name);
        }
        Ok(verdict)
    }
}

impl Verdict {
    /// What the group was given more than once.
    pub(super) fn repeated(&self, group: &str) -> Vec<Repeated> {
        let mut records: BTreeMap<_, Repeated> = BTreeMap::new();
        for given in self.given.iter().filter(|given| given.group == group) {
            let place = (given.partition, given.offset);
            records.entry(place).or_default().push(given.clone());
        }
        let all = records.into_values();
        all.filter(|givens| givens.len() > 1).collect()
    }

    /// Nothing was given twice.
    pub(super) fn expect_once(&self, bed: &Bed) -> Result<(), Failure> {
        for way in bed.ways {
            if let Some(first) = self.repeated(&bed.group(way)).first() {
                return Err(format!("given more than once: {first:?}").into());
            }
        }
        Ok(())
    }

    /// The longest times between two records of a partition.
    pub(super) fn gaps(&self, group: &str) -> Gaps {
        let mut last: BTreeMap<i32, &Given> = BTreeMap::new();
        let mut gaps = Gaps::default();
        for given in self.given.iter().filter(|given| given.group == group) {
            let Some(before) = last.insert(given.partition, given) else {
                continue;
            };
            let gap = Duration::from_nanos(given.at_ns - before.at_ns);
            let longest = match before.member == given.member {
                true => &mut gaps.staying,
                false => &mut gaps.moving,
            };
            *longest = gap.max(*longest);
        }
        gaps
    }
}

/// The longest times between two records of a partition.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Gaps {
    /// It stayed with its member.
    staying: Duration,
    /// It moved to another one.
    moving: Duration,
}

impl fmt::Display for Gaps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [staying, moving] = [self.staying, self.moving].map(|gap| gap.as_millis());
        write!(
            f,
            "the longest gap of a partition that stays is {staying} ms, of one that moves {moving} ms"
        )
    }
}
