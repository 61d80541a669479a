//! No outbox row is lost or invented.

use super::{History, Report, RowState, Violation};
use std::collections::BTreeSet;

pub(super) fn check(history: &History, report: &mut Report) {
    rows(history, report);
    topics(history, report);
}

fn rows(history: &History, report: &mut Report) {
    report.counts.rows = history.outbox.len();
    let written = |topic: &str| -> BTreeSet<&str> {
        history
            .log(topic)
            .map(|(_, record)| record.id.as_str())
            .collect()
    };
    for topic in fed_topics(history) {
        let written = written(topic);
        for row in history.outbox.iter().filter(|row| row.topic == topic) {
            if history.rolled_back.contains(&row.id) || !row.committed {
                if row.state != RowState::Absent {
                    report
                        .violations
                        .push(Violation::RolledBackStored { id: row.id.clone() });
                }
                continue;
            }
            let there = written.contains(row.id.as_str());
            let (topic, id) = (row.topic.clone(), row.id.clone());
            let lost = |state| Violation::RowLost {
                topic: topic.clone(),
                id: id.clone(),
                state,
            };
            match row.state {
                RowState::Sent if !there => report.violations.push(lost("sent")),
                // A store may remove rows that were sent: the topic then speaks for them.
                RowState::Absent if !there => report.violations.push(lost("absent")),
                // Written and not yet marked is no loss, but the run is not over then either.
                RowState::Pending => report.violations.push(Violation::RowUnsent { topic, id }),
                RowState::Parked => report.counts.rows_parked += 1,
                RowState::Sent => report.counts.rows_sent += 1,
                RowState::Absent => {}
            }
        }
    }
}

fn topics(history: &History, report: &mut Report) {
    let committed = |topic: &str| -> BTreeSet<&str> {
        let rows = history
            .outbox
            .iter()
            .filter(|row| row.topic == topic && row.committed);
        let sent = history
            .acknowledged
            .iter()
            .filter(|sent| sent.topic == topic);
        rows.map(|row| row.id.as_str())
            .chain(sent.map(|sent| sent.id.as_str()))
            .collect()
    };
    let refused: BTreeSet<&str> = history
        .outbox
        .iter()
        .filter(|row| !row.committed)
        .map(|row| &row.id)
        .chain(&history.rolled_back)
        .map(String::as_str)
        .collect();
    for topic in fed_topics(history) {
        let committed = committed(topic);
        let mut seen = BTreeSet::new();
        for (_, record) in history
            .log(topic)
            .filter(|(_, record)| seen.insert(&record.id))
        {
            let (topic, id) = (topic.to_owned(), record.id.clone());
            if refused.contains(record.id.as_str()) {
                report
                    .violations
                    .push(Violation::RolledBackSent { topic, id });
            } else if !committed.contains(record.id.as_str()) {
                report
                    .violations
                    .push(Violation::RecordInvented { topic, id });
            }
        }
    }
}

/// The topics that rows go to: only there must every record have a row.
fn fed_topics(history: &History) -> BTreeSet<&str> {
    history
        .outbox
        .iter()
        .map(|row| row.topic.as_str())
        .collect()
}
