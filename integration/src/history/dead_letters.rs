//! Every record that failed for good is in its dead letter topic, with the headers that lead back.

use super::{FailedForGood, HeaderProblem, History, LogRecord, Report, Violation};
use std::collections::BTreeSet;

/// The headers are spelt out here rather than taken from the product: the checker must notice when
/// the product renames one.
const CONSUMER_GROUP: &str = "consumer_group";
const ORIGINAL_TOPIC: &str = "original_topic";
const ORIGINAL_PARTITION: &str = "original_partition";
const ORIGINAL_OFFSET: &str = "original_offset";
const ORIGINAL_TIMESTAMP: &str = "original_timestamp";

pub(super) fn check(history: &History, report: &mut Report) {
    let failed: BTreeSet<&FailedForGood> = history.failed_for_good.iter().collect();
    report.counts.failed_for_good = failed.len();
    for one in &failed {
        let letter = history
            .log(&one.dead_letter_topic)
            .map(|(_, record)| record);
        let letter = letter.filter(|record| record.id == one.id).find(|record| {
            record
                .header(CONSUMER_GROUP)
                .is_none_or(|group| group == one.group)
        });
        match letter {
            Some(letter) => headers(history, one, letter, report),
            None => report.violations.push(Violation::DeadLetterMissing {
                group: one.group.clone(),
                id: one.id.clone(),
                dead_letter_topic: one.dead_letter_topic.clone(),
            }),
        }
    }
    invented(history, &failed, report);
}

fn headers(history: &History, one: &FailedForGood, letter: &LogRecord, report: &mut Report) {
    let mut flag = |header: &'static str, problem: HeaderProblem| {
        let (group, id) = (one.group.clone(), one.id.clone());
        report.violations.push(Violation::DeadLetterHeader {
            group,
            id,
            header,
            problem,
        });
    };
    for header in [CONSUMER_GROUP, "error_class", "error_message"] {
        match letter.header(header) {
            None => flag(header, HeaderProblem::Missing),
            // The text of an error may be empty; a name may not.
            Some("") if header != "error_message" => flag(header, HeaderProblem::Unreadable),
            Some(_) => {}
        }
    }
    match letter.header(ORIGINAL_TOPIC) {
        None => flag(ORIGINAL_TOPIC, HeaderProblem::Missing),
        Some(topic) if topic != one.topic => flag(ORIGINAL_TOPIC, HeaderProblem::Wrong),
        Some(_) => {}
    }
    let mut number = |header: &'static str| -> Option<i64> {
        let text = letter.header(header);
        let value = text
            .and_then(|text| text.parse().ok())
            .filter(|value| *value >= 0);
        if value.is_none() {
            let missing = text.is_none();
            flag(
                header,
                if missing {
                    HeaderProblem::Missing
                } else {
                    HeaderProblem::Unreadable
                },
            );
        }
        value
    };
    number("retry_count");
    number("failed_at");
    let partition = number(ORIGINAL_PARTITION);
    let offset = number(ORIGINAL_OFFSET);
    let timestamp = number(ORIGINAL_TIMESTAMP);
    let (Some(partition), Some(offset)) = (partition, offset) else {
        return;
    };

    let original = history
        .log(&one.topic)
        .find(|(of, record)| i64::from(*of) == partition && record.offset == offset);
    match original {
        Some((_, original)) if original.id == one.id => {
            if timestamp.is_some_and(|timestamp| timestamp != original.timestamp_ms) {
                flag(ORIGINAL_TIMESTAMP, HeaderProblem::Wrong);
            }
        }
        _ => flag(ORIGINAL_OFFSET, HeaderProblem::Wrong),
    }
}

/// Looks into the dead letter topics that some failure names, and into every `*_dlq` besides.
fn invented(history: &History, failed: &BTreeSet<&FailedForGood>, report: &mut Report) {
    let mut topics: BTreeSet<&str> = failed
        .iter()
        .map(|one| one.dead_letter_topic.as_str())
        .collect();
    topics.extend(
        history
            .topics
            .keys()
            .map(String::as_str)
            .filter(|name| name.ends_with("_dlq")),
    );
    for topic in topics {
        let mut seen = BTreeSet::new();
        for (_, letter) in history.log(topic) {
            let group = letter.header(CONSUMER_GROUP);
            if !seen.insert((group, &letter.id)) {
                continue;
            }
            report.counts.dead_letters += 1;
            let known = failed.iter().any(|one| {
                one.dead_letter_topic == topic
                    && one.id == letter.id
                    && group.is_none_or(|group| group == one.group)
            });
            if !known {
                report.violations.push(Violation::DeadLetterInvented {
                    topic: topic.to_owned(),
                    group: group.unwrap_or_default().to_owned(),
                    id: letter.id.clone(),
                });
            }
        }
    }
}
