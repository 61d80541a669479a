//! What was sent is what stands in the topics, and copies are copies: key, value and headers kept,
//! nothing early, and for a delayed record its forwarded copy there.

use super::{Copies, Derived, HeaderProblem, History, LogRecord, Report, Violation};
use std::collections::{BTreeMap, BTreeSet};

/// The headers that the product sets on a copy; all others belong to the sender. Spelt out here, as
/// in `dead_letters`.
const OURS: [&str; 12] = [
    "message_id",
    "retry_count",
    "original_topic",
    "original_partition",
    "original_offset",
    "original_timestamp",
    "consumer_group",
    "error_class",
    "error_message",
    "failed_at",
    "not_before",
    "target_topic",
];

pub(super) fn check(history: &History, report: &mut Report) {
    sent(history, report);
    for derived in &history.derived {
        copies(history, derived, report);
    }
    early_retries(history, report);
    for what in history.confirmed.difference(&history.stored) {
        report
            .violations
            .push(Violation::ConfirmedLost { what: what.clone() });
    }
}

/// Every record has the key, and where it is known the value, that it was sent with.
fn sent(history: &History, report: &mut Report) {
    let acknowledged = history.acknowledged.iter();
    let acknowledged = acknowledged.map(|it| ((&it.topic, &it.id), (&it.key, None)));
    let rows = history.outbox.iter();
    let rows = rows.map(|it| ((&it.topic, &it.id), (&it.key, it.value_crc)));
    let known: BTreeMap<_, _> = acknowledged.chain(rows).collect();
    for (topic, log) in &history.topics {
        for record in log.values().flatten() {
            let Some((key, value_crc)) = known.get(&(topic, &record.id)) else {
                continue;
            };
            let mut flag = |what: &str| {
                report
                    .violations
                    .push(changed(topic, record, what, "what was sent"));
            };
            if record.key != **key {
                flag("the key");
            }
            if value_crc.is_some() && record.value_crc != *value_crc {
                flag("the value");
            }
        }
    }
}

fn changed(topic: &str, record: &LogRecord, what: &str, source: &str) -> Violation {
    Violation::ContentChanged {
        topic: topic.to_owned(),
        id: record.id.clone(),
        what: what.to_owned(),
        original: source.to_owned(),
    }
}

fn copies(history: &History, derived: &Derived, report: &mut Report) {
    let Derived {
        topic,
        source,
        copies,
    } = derived;
    let mut originals: BTreeMap<&str, &LogRecord> = BTreeMap::new();
    for (_, record) in history.log(source) {
        originals.entry(&record.id).or_insert(record);
    }
    let mut seen = BTreeSet::new();
    for (_, copy) in history.log(topic) {
        seen.insert(copy.id.as_str());
        let Some(original) = originals.get(copy.id.as_str()) else {
            report.violations.push(Violation::CopyInvented {
                topic: topic.clone(),
                id: copy.id.clone(),
                original: source.clone(),
            });
            continue;
        };
        contents(topic, source, original, copy, report);
        match copies {
            Copies::DeadLetters => {}
            Copies::Retry { group, failures } => {
                for (header, problem) in retry_headers(history, source, copy, group, *failures) {
                    report.violations.push(Violation::RetryHeader {
                        topic: topic.clone(),
                        id: copy.id.clone(),
                        header,
                        problem,
                    });
                }
            }
            Copies::Delayed { delay_ms } => {
                let early_ms = original.timestamp_ms + delay_ms - copy.timestamp_ms;
                if early_ms > 0 {
                    report.violations.push(Violation::Early {
                        place: topic.clone(),
                        id: copy.id.clone(),
                        early_ms,
                    });
                }
            }
        }
    }
    if matches!(copies, Copies::Delayed { .. }) {
        for id in originals.keys().filter(|id| !seen.contains(*id)) {
            report.violations.push(Violation::NotForwarded {
                topic: topic.clone(),
                id: (*id).to_owned(),
            });
        }
    }
}

fn contents(
    topic: &str,
    source: &str,
    original: &LogRecord,
    copy: &LogRecord,
    report: &mut Report,
) {
    let mut flag = |what: &str| report.violations.push(changed(topic, copy, what, source));
    if copy.key != original.key {
        flag("the key");
    }
    if copy.value_crc != original.value_crc {
        flag("the value");
    }
    let theirs = |record: &LogRecord| -> Vec<(String, String)> {
        let headers = record.headers.iter();
        let theirs = headers.filter(|(name, _)| !OURS.contains(&name.as_str()));
        theirs.cloned().collect()
    };
    if theirs(copy) != theirs(original) {
        flag("a header of the sender");
    }
    let mut names = BTreeSet::new();
    for (name, _) in &copy.headers {
        if OURS.contains(&name.as_str()) && !names.insert(name) {
            flag(&format!("header {name}, which occurs twice,"));
        }
    }
}

fn retry_headers(
    history: &History,
    source: &str,
    copy: &LogRecord,
    group: &str,
    failures: u32,
) -> Vec<(&'static str, HeaderProblem)> {
    let mut problems = Vec::new();
    let mut is = |header: &'static str, wanted: Option<&str>| -> Option<i64> {
        let found = copy.header(header);
        let number = found.and_then(|text| text.parse::<i64>().ok());
        let problem = match (found, wanted) {
            (None, _) => Some(HeaderProblem::Missing),
            (Some(text), Some(wanted)) if text != wanted => Some(HeaderProblem::Wrong),
            (Some(_), None) if number.is_none() => Some(HeaderProblem::Unreadable),
            _ => None,
        };
        problems.extend(problem.map(|problem| (header, problem)));
        number
    };
    is("retry_count", Some(&failures.to_string()));
    is("consumer_group", Some(group));
    is("original_topic", Some(source));
    is("not_before", None);
    let place = (is("original_partition", None), is("original_offset", None));
    if let (Some(partition), Some(offset)) = place {
        let leads_back = history.log(source).any(|(of, record)| {
            i64::from(of) == partition && record.offset == offset && record.id == copy.id
        });
        if !leads_back {
            problems.push(("original_offset", HeaderProblem::Wrong));
        }
    }
    problems
}

/// No handler was given a retried record before the time that its copy names.
fn early_retries(history: &History, report: &mut Report) {
    let mut due: BTreeMap<(&str, u32, &str), i64> = BTreeMap::new();
    for derived in &history.derived {
        let Copies::Retry { group, failures } = &derived.copies else {
            continue;
        };
        for (_, copy) in history.log(&derived.topic) {
            let not_before = copy.header("not_before").and_then(|ms| ms.parse().ok());
            if let Some(not_before) = not_before {
                // Of several copies, the first one that is due counts.
                due.entry((group, *failures, &copy.id))
                    .and_modify(|due: &mut i64| *due = (*due).min(not_before))
                    .or_insert(not_before);
            }
        }
    }
    for delivery in history.deliveries.iter().filter(|one| one.attempt > 0) {
        let at = (delivery.group.as_str(), delivery.attempt, &*delivery.id);
        let at_ms = i64::try_from(delivery.at_ns / 1_000_000).unwrap_or(i64::MAX);
        if let Some(early_ms) = due.get(&at).map(|due| due - at_ms).filter(|ms| *ms > 0) {
            report.violations.push(Violation::Early {
                place: delivery.group.clone(),
                id: delivery.id.clone(),
                early_ms,
            });
        }
    }
}
