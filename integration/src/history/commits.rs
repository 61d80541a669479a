//! No commit above what was handled.

use super::{History, Report, Violation};
use std::collections::BTreeSet;

pub(super) fn check(history: &History, report: &mut Report) {
    report.counts.commits = history.commits.len();
    let handled: BTreeSet<(&str, &str, i32, i64)> = history
        .handled
        .iter()
        .map(|it| {
            (
                it.group.as_str(),
                it.topic.as_str(),
                it.partition,
                it.offset,
            )
        })
        .collect();
    for commit in &history.commits {
        let (group, topic) = (commit.group.as_str(), commit.topic.as_str());
        let log = history
            .topics
            .get(topic)
            .and_then(|log| log.get(&commit.partition));
        // Only offsets that hold a record need handling: logs have gaps.
        let offsets = log.into_iter().flatten().map(|record| record.offset);
        let end = offsets.clone().max().map_or(0, |last| last + 1);
        if commit.offset > end {
            report.violations.push(Violation::CommitBeyondEnd {
                group: group.to_owned(),
                topic: topic.to_owned(),
                partition: commit.partition,
                committed: commit.offset,
                end,
            });
        }
        let unhandled = offsets
            .filter(|offset| *offset < commit.offset)
            .find(|offset| !handled.contains(&(group, topic, commit.partition, *offset)));
        if let Some(unhandled) = unhandled {
            report.violations.push(Violation::CommitAboveHandled {
                group: group.to_owned(),
                topic: topic.to_owned(),
                partition: commit.partition,
                committed: commit.offset,
                unhandled,
            });
        }
    }
}
