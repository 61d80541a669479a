//! Contents and copies: a clean history passes, and each planted fault is flagged by its own
//! violation alone.

use super::*;

const SMS: &str = "sms";
const MAIN: &str = "orders";
const TIER: &str = "orders_retry_sms_1s";
const DLQ: &str = "orders_dlq";
const DELAY: &str = "delay_2s";
const DUE: &str = "timeouts";

fn text(value: &str) -> String {
    value.to_owned()
}

fn record(id: &str, timestamp_ms: i64, headers: &[(&str, &str)]) -> LogRecord {
    let own = [("message_id", id), ("trace", "t1")];
    let headers = own.iter().chain(headers);
    LogRecord {
        offset: 0,
        timestamp_ms,
        key: Some(text("k")),
        value_crc: Some(7),
        id: text(id),
        headers: headers.map(|(n, v)| (text(n), text(v))).collect(),
    }
}

/// `o1` is tried again once and fails for good; `c1` is delayed and forwarded.
fn clean() -> History {
    let mut history = History::default();
    let origin = [
        ("original_topic", MAIN),
        ("original_partition", "0"),
        ("original_offset", "0"),
        ("original_timestamp", "1000"),
        ("consumer_group", SMS),
        ("error_class", "Busy"),
        ("error_message", ""),
        ("failed_at", "1100"),
    ];
    let retry = [
        origin.as_slice(),
        &[("retry_count", "1"), ("not_before", "2100")],
    ]
    .concat();
    let dead = [origin.as_slice(), &[("retry_count", "2")]].concat();
    history.add_record(MAIN, 0, record("o1", 1000, &[]));
    history.add_record(TIER, 0, record("o1", 1100, &retry));
    history.add_record(DLQ, 0, record("o1", 2200, &dead));
    let delayed = [("target_topic", DUE), ("not_before", "3000")];
    history.add_record(DELAY, 0, record("c1", 1000, &delayed));
    history.add_record(DUE, 0, record("c1", 3000, &[]));
    for (topic, id) in [(MAIN, "o1"), (DELAY, "c1")] {
        history.outbox.push(OutboxRow {
            id: text(id),
            topic: text(topic),
            key: Some(text("k")),
            seq: 1,
            value_crc: Some(7),
            state: RowState::Sent,
            committed: true,
        });
    }
    for (attempt, at_ms) in [(0, 1050), (1, 2100)] {
        history.deliveries.push(Delivery {
            group: text(SMS),
            id: text("o1"),
            key: Some(text("k")),
            seq: 1,
            retried: true,
            attempt,
            at_ns: at_ms * 1_000_000,
        });
    }
    history.failed_for_good.push(FailedForGood {
        group: text(SMS),
        topic: text(MAIN),
        id: text("o1"),
        dead_letter_topic: text(DLQ),
    });
    let derived = |topic, source, copies| Derived {
        topic: text(topic),
        source: text(source),
        copies,
    };
    let (group, failures) = (text(SMS), 1);
    history.derived = vec![
        derived(TIER, MAIN, Copies::Retry { group, failures }),
        derived(DLQ, MAIN, Copies::DeadLetters),
        derived(DUE, DELAY, Copies::Delayed { delay_ms: 2000 }),
    ];
    history.confirmed.insert(text("order o1"));
    history.stored.insert(text("order o1"));
    history
}

fn only<'a>(history: &'a mut History, topic: &str) -> &'a mut LogRecord {
    let log = history.topics.get_mut(topic).and_then(|l| l.get_mut(&0));
    &mut log.expect("the partition")[0]
}

fn set(record: &mut LogRecord, name: &str, value: &str) {
    let header = record.headers.iter_mut().find(|(n, _)| n == name);
    header.expect("the header").1 = text(value);
}

#[track_caller]
fn flags(plant: impl FnOnce(&mut History), expected: Violation) {
    let mut history = clean();
    plant(&mut history);
    assert_eq!(history.check().violations, [expected]);
}

fn changed(topic: &str, id: &str, what: &str, original: &str) -> Violation {
    Violation::ContentChanged {
        topic: text(topic),
        id: text(id),
        what: text(what),
        original: text(original),
    }
}

#[test]
fn a_clean_history_passes() {
    assert_eq!(clean().check().violations, []);
}

#[test]
fn a_lost_or_changed_key_or_value_is_flagged_wherever_it_stands() {
    for (topic, id, source) in [(TIER, "o1", MAIN), (DLQ, "o1", MAIN), (DUE, "c1", DELAY)] {
        let expected = changed(topic, id, "the key", source);
        flags(|history| only(history, topic).key = None, expected);
        let expected = changed(topic, id, "the value", source);
        flags(|history| only(history, topic).value_crc = Some(8), expected);
    }
    let mut history = clean();
    let sent = only(&mut history, MAIN);
    (sent.key, sent.value_crc) = (None, None);
    let found = history.check().violations;
    for what in ["the key", "the value"] {
        assert!(found.contains(&changed(MAIN, "o1", what, "what was sent")));
    }
}

#[test]
fn a_lost_header_and_one_that_was_appended_again_are_flagged() {
    for topic in [TIER, DLQ] {
        flags(
            |history| only(history, topic).headers.retain(|(n, _)| n != "trace"),
            changed(topic, "o1", "a header of the sender", MAIN),
        );
    }
    let twice = "header retry_count, which occurs twice,";
    flags(
        |history| {
            let headers = &mut only(history, TIER).headers;
            headers.push((text("retry_count"), text("2")));
        },
        changed(TIER, "o1", twice, MAIN),
    );
}

#[test]
fn wrong_headers_of_a_retry_are_flagged() {
    for (header, value, problem) in [
        ("retry_count", "2", HeaderProblem::Wrong),
        ("consumer_group", "wx", HeaderProblem::Wrong),
        ("original_topic", TIER, HeaderProblem::Wrong),
        ("original_offset", "5", HeaderProblem::Wrong),
        ("not_before", "soon", HeaderProblem::Unreadable),
    ] {
        flags(
            |history| set(only(history, TIER), header, value),
            Violation::RetryHeader {
                topic: text(TIER),
                id: text("o1"),
                header,
                problem,
            },
        );
    }
    flags(
        |history| {
            only(history, TIER)
                .headers
                .retain(|(n, _)| n != "not_before")
        },
        Violation::RetryHeader {
            topic: text(TIER),
            id: text("o1"),
            header: "not_before",
            problem: HeaderProblem::Missing,
        },
    );
}

#[test]
fn an_early_retry_and_an_early_forward_are_flagged() {
    let early = |place, id| Violation::Early {
        place: text(place),
        id: text(id),
        early_ms: 1,
    };
    flags(
        |history| history.deliveries[1].at_ns -= 1_000_000,
        early(SMS, "o1"),
    );
    flags(
        |history| only(history, DUE).timestamp_ms -= 1,
        early(DUE, "c1"),
    );
}

#[test]
fn a_delayed_record_that_was_not_forwarded_is_lost() {
    let mut history = clean();
    history.topics.remove(DUE);
    let report = history.check();
    let expected = Violation::NotForwarded {
        topic: text(DUE),
        id: text("c1"),
    };
    assert_eq!(report.violations, [expected]);
    assert_eq!((report.lost(), report.otherwise_wrong()), (1, 0));
}

#[test]
fn a_copy_of_nothing_is_flagged() {
    flags(
        |history| history.add_record(DUE, 1, record("c2", 9000, &[])),
        Violation::CopyInvented {
            topic: text(DUE),
            id: text("c2"),
            original: text(DELAY),
        },
    );
}

#[test]
fn what_was_confirmed_and_is_not_stored_is_lost() {
    let mut history = clean();
    history.stored.clear();
    let report = history.check();
    let what = text("order o1");
    assert_eq!(report.violations, [Violation::ConfirmedLost { what }]);
    assert_eq!(report.lost(), 1);
}
