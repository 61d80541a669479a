//! A clean history passes; each planted fault is flagged, and by its own violation alone.

use super::*;

const SMS: &str = "order-pay-sms";
const WX: &str = "order-pay-wx";
const ORDERS: &str = "orders";
const DLQ: &str = "orders_dlq";

fn text(value: &str) -> String {
    value.to_owned()
}

/// Six orders of two keys in two partitions, by outbox; `o5` fails for good in `order-pay-sms`;
/// one record was written twice and one delivered twice, as at-least-once does.
fn clean() -> History {
    let mut history = History::default();
    for number in 0..6_u64 {
        let id = format!("o{number}");
        let (key, partition) = if number % 2 == 0 { ("a", 0) } else { ("b", 1) };
        let offset = (number / 2) as i64;
        history.add_record(ORDERS, partition, record(offset, key, &id));
        history.outbox.push(OutboxRow {
            id: id.clone(),
            topic: text(ORDERS),
            key: Some(text(key)),
            seq: number,
            value_crc: None,
            state: RowState::Sent,
            committed: true,
        });
        history.acknowledged.push(Acknowledged {
            topic: text(ORDERS),
            partition,
            offset: Some(offset),
            id: id.clone(),
            key: Some(text(key)),
            seq: number,
        });
        for group in [SMS, WX] {
            let retried = number == 5 && group == SMS;
            deliver(&mut history, group, key, number, retried);
            handle(&mut history, group, partition, offset);
            if !retried {
                act(&mut history, group, &id);
                let (group, kind) = (text(group), text("notify"));
                history.expected.push(Expected {
                    group,
                    id: id.clone(),
                    kind,
                });
            }
        }
    }
    history.rolled_back.insert(text("never"));
    history.add_record(ORDERS, 0, record(3, "a", "o0"));
    for group in [SMS, WX] {
        handle(&mut history, group, 0, 3);
        deliver(&mut history, group, "a", 0, false);
        commit(&mut history, group, 0, 4);
        commit(&mut history, group, 1, 3);
    }
    history.failed_for_good.push(FailedForGood {
        group: text(SMS),
        topic: text(ORDERS),
        id: text("o5"),
        dead_letter_topic: text(DLQ),
    });
    history.add_record(DLQ, 0, dead_letter("o5", 1, 2));
    history
}

fn record(offset: i64, key: &str, id: &str) -> LogRecord {
    let (key, id) = (Some(text(key)), text(id));
    LogRecord {
        offset,
        timestamp_ms: 1000 + offset,
        key,
        value_crc: Some(7),
        id,
        headers: Vec::new(),
    }
}

fn dead_letter(id: &str, partition: i32, offset: i64) -> LogRecord {
    let mut letter = record(0, "b", id);
    let headers = [
        ("original_topic", text(ORDERS)),
        ("original_partition", partition.to_string()),
        ("original_offset", offset.to_string()),
        ("original_timestamp", (1000 + offset).to_string()),
        ("consumer_group", text(SMS)),
        ("retry_count", text("3")),
        ("error_class", text("Refused")),
        ("error_message", text("number unknown")),
        ("failed_at", text("5000")),
    ];
    letter.headers = headers.map(|(name, value)| (text(name), value)).into();
    letter
}

fn deliver(history: &mut History, group: &str, key: &str, number: u64, retried: bool) {
    history.deliveries.push(Delivery {
        group: text(group),
        id: format!("o{number}"),
        key: Some(text(key)),
        seq: number,
        retried,
        attempt: 0,
        at_ns: history.deliveries.len() as u64,
    });
}

fn handle(history: &mut History, group: &str, partition: i32, offset: i64) {
    history.handled.push(Handled {
        group: text(group),
        topic: text(ORDERS),
        partition,
        offset,
    });
}

fn act(history: &mut History, group: &str, id: &str) {
    let (group, id, kind) = (text(group), text(id), text("notify"));
    history.effects.push(Effect {
        group,
        id,
        kind,
        at_ms: 0,
    });
}

fn commit(history: &mut History, group: &str, partition: i32, offset: i64) {
    history.commits.push(Commit {
        group: text(group),
        topic: text(ORDERS),
        partition,
        offset,
    });
}

fn log<'a>(history: &'a mut History, topic: &str, partition: i32) -> &'a mut Vec<LogRecord> {
    history
        .topics
        .entry(text(topic))
        .or_default()
        .entry(partition)
        .or_default()
}

/// Plants one fault and expects exactly one violation.
#[track_caller]
fn flags(plant: impl FnOnce(&mut History), expected: Violation) {
    let mut history = clean();
    plant(&mut history);
    assert_eq!(history.check().violations, [expected]);
}

#[test]
fn a_clean_history_passes_and_is_counted() {
    let report = clean().check();
    assert_eq!(report.violations, []);
    let expected = Counts {
        acknowledged: 6,
        records: 8,
        rows: 6,
        rows_sent: 6,
        rows_parked: 0,
        records_repeated: 1,
        effects_expected: 11,
        effects: 11,
        deliveries_judged: 9,
        deliveries_repeated: 2,
        keys_judged: 3,
        keys_left_out: 1,
        commits: 4,
        failed_for_good: 1,
        dead_letters: 1,
    };
    assert_eq!(report.counts, expected);
    assert!(report.to_string().ends_with("0 violations"));
}

#[test]
fn an_empty_history_is_clean_and_counts_nothing() {
    assert_eq!(History::default().check(), Report::default());
}

#[test]
fn a_lost_acknowledged_record_is_flagged() {
    let sent = Acknowledged {
        topic: text("audit"),
        partition: 0,
        offset: None,
        id: text("gone"),
        key: None,
        seq: 0,
    };
    let violation = Violation::AcknowledgedLost {
        topic: text("audit"),
        id: text("gone"),
    };
    flags(|history| history.acknowledged.push(sent), violation);
}

#[test]
fn a_record_that_is_not_where_it_was_acknowledged_is_flagged() {
    flags(
        |history| history.acknowledged[0].offset = Some(1),
        Violation::AcknowledgedMoved {
            topic: text(ORDERS),
            partition: 0,
            offset: 1,
            id: text("o0"),
            found: text("o2"),
        },
    );
}

#[test]
fn an_offset_that_goes_back_is_flagged() {
    flags(
        |history| {
            let mut again = dead_letter("o5", 1, 2);
            again.offset = 0;
            log(history, DLQ, 0).push(again);
        },
        Violation::LogDisordered {
            topic: text(DLQ),
            partition: 0,
            first: 0,
            second: 0,
        },
    );
}

#[test]
fn a_row_marked_sent_that_is_not_in_the_topic_is_flagged() {
    for (state, shown) in [(RowState::Sent, "sent"), (RowState::Absent, "absent")] {
        flags(
            |history| {
                let mut row = history.outbox[0].clone();
                (row.id, row.seq, row.state) = (text("lost"), 9, state);
                history.outbox.push(row);
            },
            Violation::RowLost {
                topic: text(ORDERS),
                id: text("lost"),
                state: shown,
            },
        );
    }
}

#[test]
fn a_row_that_still_waits_is_flagged() {
    flags(
        |history| history.outbox[3].state = RowState::Pending,
        Violation::RowUnsent {
            topic: text(ORDERS),
            id: text("o3"),
        },
    );
}

#[test]
fn a_parked_row_is_counted() {
    let mut history = clean();
    let mut row = history.outbox[0].clone();
    (row.id, row.state) = (text("too-large"), RowState::Parked);
    history.outbox.push(row);
    let report = history.check();
    assert!(report.is_clean());
    assert_eq!(report.counts.rows_parked, 1);
}

#[test]
fn a_record_without_a_row_is_flagged() {
    flags(
        |history| {
            log(history, ORDERS, 2).push(record(0, "c", "stranger"));
        },
        Violation::RecordInvented {
            topic: text(ORDERS),
            id: text("stranger"),
        },
    );
}

#[test]
fn a_published_row_that_was_rolled_back_is_flagged() {
    flags(
        |history| log(history, ORDERS, 2).push(record(0, "c", "never")),
        Violation::RolledBackSent {
            topic: text(ORDERS),
            id: text("never"),
        },
    );
}

#[test]
fn a_stored_row_that_was_rolled_back_is_flagged() {
    flags(
        |history| {
            let mut row = history.outbox[0].clone();
            (row.id, row.state) = (text("never"), RowState::Pending);
            history.outbox.push(row);
        },
        Violation::RolledBackStored { id: text("never") },
    );
}

#[test]
fn a_missing_effect_is_flagged() {
    flags(
        |history| {
            history
                .effects
                .retain(|effect| effect.group != WX || effect.id != "o3")
        },
        Violation::EffectMissing {
            group: text(WX),
            id: text("o3"),
            kind: text("notify"),
        },
    );
}

#[test]
fn a_duplicated_effect_is_flagged() {
    flags(
        |history| act(history, SMS, "o1"),
        Violation::EffectDuplicated {
            group: text(SMS),
            id: text("o1"),
            kind: text("notify"),
            times: 2,
        },
    );
}

#[test]
fn an_effect_that_nobody_asked_for_is_flagged() {
    flags(
        |history| act(history, SMS, "o5"),
        Violation::EffectInvented {
            group: text(SMS),
            id: text("o5"),
            kind: text("notify"),
        },
    );
}

#[test]
fn a_topic_out_of_order_is_flagged() {
    flags(
        |history| {
            // As when a batch is sent again after the next one: offsets 0 and 1 change places.
            let log = log(history, ORDERS, 0);
            (log[0].id, log[1].id) = (text("o2"), text("o0"));
            (
                history.acknowledged[0].offset,
                history.acknowledged[2].offset,
            ) = (None, None);
        },
        Violation::LogOutOfOrder {
            topic: text(ORDERS),
            key: text("a"),
            id: text("o0"),
            seq: 0,
            after: 2,
        },
    );
}

#[test]
fn a_key_in_two_partitions_is_flagged() {
    flags(
        |history| log(history, ORDERS, 2).push(record(0, "a", "o4")),
        Violation::KeyScattered {
            topic: text(ORDERS),
            key: text("a"),
            partitions: vec![0, 2],
        },
    );
}

#[test]
fn first_deliveries_out_of_order_are_flagged() {
    flags(
        |history| {
            let mut of_wx = history.deliveries.iter_mut().filter(|one| one.group == WX);
            // o1 and o3 share a key.
            let (o1, o3) = (of_wx.nth(1), of_wx.nth(1));
            std::mem::swap(&mut o1.unwrap().at_ns, &mut o3.unwrap().at_ns);
        },
        Violation::DeliveryOutOfOrder {
            group: text(WX),
            key: text("b"),
            id: text("o1"),
            seq: 1,
            after: 3,
        },
    );
}

#[test]
fn a_key_with_a_retried_record_is_left_out_for_its_group() {
    let mut history = clean();
    let mut of_sms = history.deliveries.iter_mut().filter(|one| one.group == SMS);
    let (o1, o3) = (of_sms.nth(1), of_sms.nth(1));
    std::mem::swap(&mut o1.unwrap().at_ns, &mut o3.unwrap().at_ns);
    assert!(history.check().is_clean());
}

#[test]
fn a_commit_above_what_was_handled_is_flagged() {
    flags(
        |history| {
            history
                .handled
                .retain(|one| (one.partition, one.offset) != (1, 1) || one.group == WX)
        },
        Violation::CommitAboveHandled {
            group: text(SMS),
            topic: text(ORDERS),
            partition: 1,
            committed: 3,
            unhandled: 1,
        },
    );
}

#[test]
fn a_commit_beyond_the_end_is_flagged() {
    flags(
        |history| commit(history, SMS, 0, 5),
        Violation::CommitBeyondEnd {
            group: text(SMS),
            topic: text(ORDERS),
            partition: 0,
            committed: 5,
            end: 4,
        },
    );
}

#[test]
fn a_missing_dead_letter_is_flagged() {
    flags(
        |history| log(history, DLQ, 0).clear(),
        Violation::DeadLetterMissing {
            group: text(SMS),
            id: text("o5"),
            dead_letter_topic: text(DLQ),
        },
    );
}

#[test]
fn every_missing_header_of_a_dead_letter_is_flagged() {
    let headers = [
        "original_topic",
        "original_partition",
        "original_offset",
        "original_timestamp",
        "consumer_group",
        "retry_count",
        "error_class",
        "error_message",
        "failed_at",
    ];
    for header in headers {
        let (group, id, problem) = (text(SMS), text("o5"), HeaderProblem::Missing);
        flags(
            |history| {
                log(history, DLQ, 0)[0]
                    .headers
                    .retain(|(name, _)| name != header)
            },
            Violation::DeadLetterHeader {
                group,
                id,
                header,
                problem,
            },
        );
    }
}

#[test]
fn headers_that_do_not_lead_back_are_flagged() {
    let cases = [
        (
            "original_topic",
            "other",
            "original_topic",
            HeaderProblem::Wrong,
        ),
        (
            "original_partition",
            "0",
            "original_offset",
            HeaderProblem::Wrong,
        ),
        (
            "original_offset",
            "1",
            "original_offset",
            HeaderProblem::Wrong,
        ),
        (
            "original_timestamp",
            "1",
            "original_timestamp",
            HeaderProblem::Wrong,
        ),
        (
            "original_offset",
            "two",
            "original_offset",
            HeaderProblem::Unreadable,
        ),
        ("error_class", "", "error_class", HeaderProblem::Unreadable),
    ];
    for (name, value, header, problem) in cases {
        let (group, id) = (text(SMS), text("o5"));
        flags(
            |history| {
                let headers = &mut log(history, DLQ, 0)[0].headers;
                headers
                    .iter_mut()
                    .filter(|(known, _)| known == name)
                    .for_each(|one| one.1 = text(value));
            },
            Violation::DeadLetterHeader {
                group,
                id,
                header,
                problem,
            },
        );
    }
}

#[test]
fn a_dead_letter_that_was_not_to_be_is_flagged() {
    flags(
        |history| {
            let mut letter = dead_letter("o3", 1, 1);
            letter.offset = 1;
            log(history, DLQ, 0).push(letter);
        },
        Violation::DeadLetterInvented {
            topic: text(DLQ),
            group: text(SMS),
            id: text("o3"),
        },
    );
}

#[test]
fn the_ledgers_three_numbers_are_counted() {
    let mut history = clean();
    act(&mut history, SMS, "o1");
    history.effects.retain(|effect| effect.id != "o2");
    let report = history.check();
    assert_eq!(
        (report.lost(), report.duplicated(), report.out_of_order()),
        (2, 1, 0)
    );
}
