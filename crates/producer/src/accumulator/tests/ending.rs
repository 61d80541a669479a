//! Flush, close, reports, and forgetting.

use super::*;

#[test]
fn a_flush_covers_what_came_before_it_and_ends_its_lingering() {
    let mut bed = Bed::new(config(), 1);
    let before = bed.put(to_zero(1));
    let mark = bed.acc.flush();
    let after = bed.put(to_zero(1));
    assert_eq!(bed.acc.outstanding_up_to(mark), 1);
    let sent = bed.drain();
    assert_eq!(sent[0].batch.record_count(), 1);
    bed.write(sent);
    assert_eq!(bed.acc.outstanding_up_to(mark), 0);
    assert!(bed.result(before).is_some());
    assert!(bed.result(after).is_none());
    assert!(bed.drain().is_empty(), "what came after lingers");
}

#[test]
fn a_close_reports_what_was_not_delivered_with_its_fate() {
    let mut bed = Bed::new(config(), 3);
    let written = bed.put(to_zero(1));
    bed.acc.flush();
    let sent = bed.drain();
    bed.write(sent);
    let in_flight = bed.put(to_zero(1));
    bed.now += ms(10);
    let sent = bed.drain().remove(0);
    let queued = bed.put(Record::new("t").partition(1));
    let waiting = bed.put(Record::new("other"));
    bed.acc.begin_close();
    let refused = bed.put(to_zero(1));
    assert_eq!(
        refused.refused().map(PublishError::kind),
        Some(PublishErrorKind::Closed)
    );
    let report = bed.acc.close_now();
    assert_eq!(report.delivered, 2);
    let undelivered: Vec<_> = report
        .undelivered
        .iter()
        .map(|u| (&*u.topic, u.partition, u.records, u.fate))
        .collect();
    assert_eq!(
        undelivered,
        [
            ("t", Some(0), 1, Fate::MaybeWritten),
            ("t", Some(1), 1, Fate::NotWritten),
            ("other", None, 1, Fate::NotWritten),
        ]
    );
    assert_eq!(bed.acc.close_now(), report);
    // A late answer changes nothing.
    assert_eq!(bed.fail(sent, lost()), Completed::Failed);
    assert!(bed.result(written).is_some_and(|r| r.is_ok()));
    for (handle, fate) in [
        (in_flight, Fate::MaybeWritten),
        (queued, Fate::NotWritten),
        (waiting, Fate::NotWritten),
    ] {
        let error = bed.error(handle);
        assert_eq!(
            (error.kind(), error.fate()),
            (PublishErrorKind::Closed, fate)
        );
    }
    assert_eq!(bed.acc.used(), 0);
}

#[test]
fn unread_reports_hold_their_room() {
    let config = ProducerConfig {
        buffer_memory: 4_500,
        max_request_size: 4_500,
        batch_size: 4_000,
        ..config()
    };
    let mut bed = Bed::new(config, 1);
    assert!(bed.acc.start_reports() && !bed.acc.start_reports());
    let mut ids: Vec<_> = (0..4).map(|_| bed.put(to_zero(900)).id()).collect();
    ids.push(bed.put(to_zero(1).timestamp_ms(-5)).id());
    bed.acc.flush();
    let sent = bed.drain();
    bed.write(sent);
    assert!(
        bed.try_put(to_zero(900)).is_none(),
        "the reports are not read"
    );
    let waker = std::task::Waker::noop();
    let mut cx = std::task::Context::from_waker(waker);
    let mut reported = Vec::new();
    while let std::task::Poll::Ready(report) = bed.acc.poll_report(&mut cx) {
        let report = report.expect("open");
        reported.push((report.id, report.result.ok().and_then(|r| r.offset)));
    }
    reported.sort_unstable();
    let offsets = [Some(0), Some(1), Some(2), Some(3), None];
    assert_eq!(reported, ids.into_iter().zip(offsets).collect::<Vec<_>>());
    assert_eq!(bed.acc.used(), 0);
    assert!(bed.try_put(to_zero(900)).is_some());
}

#[test]
fn an_idle_topic_is_forgotten_and_its_queues_are_used_again() {
    let mut bed = Bed::new(config(), 3);
    assert!(!bed.acc.forget_idle("t", bed.now - ms(1)), "used since");
    bed.drain();
    assert!(bed.acc.forget_idle("t", bed.now));
    assert!(bed.acc.topics.len() == 0);
    drop(bed.put(Record::new("u")));
    bed.acc
        .apply_topic(&"u".into(), Ok(described("u", 3)), bed.now);
    assert_eq!(bed.acc.queues.len(), 3);
}
