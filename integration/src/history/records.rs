//! No acknowledged record is lost.

use super::{History, Report, Violation};
use std::collections::{BTreeMap, BTreeSet};

pub(super) fn check(history: &History, report: &mut Report) {
    let mut ids: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    // What groups put there themselves is a copy of its own for each group and each source.
    let mut copies = BTreeSet::new();
    let mut places: BTreeMap<(&str, i32, i64), &str> = BTreeMap::new();
    for (topic, partitions) in &history.topics {
        let known = ids.entry(topic).or_default();
        for (partition, log) in partitions {
            for pair in log
                .windows(2)
                .filter(|pair| pair[1].offset <= pair[0].offset)
            {
                report.violations.push(Violation::LogDisordered {
                    topic: topic.clone(),
                    partition: *partition,
                    first: pair[0].offset,
                    second: pair[1].offset,
                });
            }
            for record in log {
                report.counts.records += 1;
                known.insert(&record.id);
                let made_of = ["consumer_group", "original_partition", "original_offset"];
                let copy = (topic, &record.id, made_of.map(|name| record.header(name)));
                if !copies.insert(copy) {
                    report.counts.records_repeated += 1;
                    *report.repeated.entry(topic.clone()).or_default() += 1;
                }
                places.insert((topic, *partition, record.offset), &record.id);
            }
        }
    }
    report.counts.acknowledged = history.acknowledged.len();
    for acknowledged in &history.acknowledged {
        let (topic, id) = (&acknowledged.topic, &acknowledged.id);
        if !ids
            .get(topic.as_str())
            .is_some_and(|known| known.contains(id.as_str()))
        {
            let (topic, id) = (topic.clone(), id.clone());
            report
                .violations
                .push(Violation::AcknowledgedLost { topic, id });
            continue;
        }
        let Some(offset) = acknowledged.offset else {
            continue;
        };
        let found = places
            .get(&(topic, acknowledged.partition, offset))
            .copied();
        if found != Some(id) {
            report.violations.push(Violation::AcknowledgedMoved {
                topic: topic.clone(),
                partition: acknowledged.partition,
                offset,
                id: id.clone(),
                found: found.unwrap_or("nothing").to_owned(),
            });
        }
    }
}
