//! The order of each key: in the topics by first occurrences, at the handlers by first deliveries.
//!
//! Writing again after a lost answer, and delivering again after a crash, repeat records; only the
//! first of each id says in which order things happened. A key of which a record was retried is
//! left out for that group, because the records behind it rightly went on; it is counted.

use super::{Delivery, History, Report, Violation};
use std::collections::{BTreeMap, BTreeSet};

pub(super) fn check(history: &History, report: &mut Report) {
    topics(history, report);
    deliveries(history, report);
}

fn topics(history: &History, report: &mut Report) {
    let rows = history
        .outbox
        .iter()
        .map(|row| (row.topic.as_str(), row.id.as_str(), row.seq));
    let sent = history.acknowledged.iter();
    let sent = sent.map(|sent| (sent.topic.as_str(), sent.id.as_str(), sent.seq));
    let places: BTreeMap<(&str, &str), u64> = rows
        .chain(sent)
        .map(|(topic, id, seq)| ((topic, id), seq))
        .collect();
    let judged: BTreeSet<&str> = places.keys().map(|(topic, _)| *topic).collect();
    for topic in judged {
        let mut seen = BTreeSet::new();
        let mut greatest: BTreeMap<&str, u64> = BTreeMap::new();
        let mut partitions: BTreeMap<&str, BTreeSet<i32>> = BTreeMap::new();
        for (partition, record) in history.log(topic) {
            let (Some(key), Some(seq)) = (&record.key, places.get(&(topic, &record.id))) else {
                continue;
            };
            partitions.entry(key).or_default().insert(partition);
            if !seen.insert(&record.id) {
                continue;
            }
            if let Some(after) = advance(&mut greatest, key, *seq) {
                report.violations.push(Violation::LogOutOfOrder {
                    topic: topic.to_owned(),
                    key: key.clone(),
                    id: record.id.clone(),
                    seq: *seq,
                    after,
                });
            }
        }
        for (key, partitions) in partitions.into_iter().filter(|(_, found)| found.len() > 1) {
            report.violations.push(Violation::KeyScattered {
                topic: topic.to_owned(),
                key: key.to_owned(),
                partitions: partitions.into_iter().collect(),
            });
        }
    }
}

fn deliveries(history: &History, report: &mut Report) {
    let mut groups: BTreeMap<&str, Vec<&Delivery>> = BTreeMap::new();
    for delivery in &history.deliveries {
        groups.entry(&delivery.group).or_default().push(delivery);
    }
    for (group, mut deliveries) in groups {
        deliveries.sort_by_key(|delivery| delivery.at_ns);
        let left_out: BTreeSet<&str> = deliveries
            .iter()
            .filter(|delivery| delivery.retried)
            .filter_map(|delivery| delivery.key.as_deref())
            .collect();
        let mut seen = BTreeSet::new();
        let mut greatest: BTreeMap<&str, u64> = BTreeMap::new();
        for delivery in deliveries {
            if !seen.insert(&delivery.id) {
                report.counts.deliveries_repeated += 1;
                continue;
            }
            let Some(key) = delivery
                .key
                .as_deref()
                .filter(|key| !left_out.contains(key))
            else {
                continue;
            };
            report.counts.deliveries_judged += 1;
            if let Some(after) = advance(&mut greatest, key, delivery.seq) {
                report.violations.push(Violation::DeliveryOutOfOrder {
                    group: group.to_owned(),
                    key: key.to_owned(),
                    id: delivery.id.clone(),
                    seq: delivery.seq,
                    after,
                });
            }
        }
        report.counts.keys_judged += greatest.len();
        report.counts.keys_left_out += left_out.len();
    }
}

/// Notes a key's next place; gives the greater one that came before it, if one did.
fn advance<'a>(greatest: &mut BTreeMap<&'a str, u64>, key: &'a str, seq: u64) -> Option<u64> {
    let before = greatest.get(key).copied().filter(|before| *before > seq);
    if before.is_none() {
        greatest.insert(key, seq);
    }
    before
}
