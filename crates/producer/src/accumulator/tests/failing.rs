//! What becomes of batches and records that cannot be written.

use super::*;
use crate::partition::{PartitionError, Partitions};
use ottla_types::RecordRef;

#[test]
fn a_batch_is_given_up_at_its_deadline_with_its_fate_and_cause() {
    let mut bed = Bed::new(config(), 2);
    let tried = bed.put(to_zero(1));
    bed.now += ms(10);
    let sent = bed.drain().remove(0);
    bed.fail(sent, lost());
    let never_sent = bed.put(Record::new("t").partition(1).value("x"));
    bed.now += ms(2_000);
    assert!(bed.drain().is_empty());
    let error = bed.error(tried);
    assert_eq!(error.kind(), PublishErrorKind::TimedOut);
    assert_eq!(
        (error.fate(), error.partition()),
        (Fate::MaybeWritten, Some(0))
    );
    let cause = std::error::Error::source(&error)
        .expect("a cause")
        .to_string();
    assert!(cause.contains("connection was lost"), "{cause}");
    let error = bed.error(never_sent);
    assert_eq!(
        (error.kind(), error.fate()),
        (PublishErrorKind::TimedOut, Fate::NotWritten)
    );
    assert_eq!(bed.acc.used(), 0);
    assert_eq!(bed.acc.next_wake(bed.now), None);
}

#[test]
fn errors_that_do_not_pass_fail_at_once_and_keep_the_fate() {
    let mut bed = Bed::new(config(), 1);
    for (error, kind) in [
        (
            ErrorCode::TOPIC_AUTHORIZATION_FAILED,
            PublishErrorKind::Refused,
        ),
        (ErrorCode::INVALID_RECORD, PublishErrorKind::InvalidRecord),
        (ErrorCode::PRODUCER_FENCED, PublishErrorKind::Fenced),
        (
            ErrorCode::MESSAGE_TOO_LARGE,
            PublishErrorKind::RecordTooLarge,
        ),
    ] {
        let handle = bed.put(to_zero(1));
        bed.now += ms(10);
        let sent = bed.drain().remove(0);
        bed.fail(sent, Error::from_code(error, "Produce"));
        let error = bed.error(handle);
        assert_eq!((error.kind(), error.fate()), (kind, Fate::NotWritten));
    }
    // A leader that waited in vain for its followers has the batch in its own log.
    let handle = bed.put(to_zero(1));
    bed.now += ms(10);
    let sent = bed.drain().remove(0);
    let code = ErrorCode::NOT_ENOUGH_REPLICAS_AFTER_APPEND;
    bed.fail(sent, Error::from_code(code, "Produce"));
    bed.now += ms(2_000);
    bed.drain();
    assert_eq!(bed.error(handle).fate(), Fate::MaybeWritten);
}

#[test]
fn only_the_too_large_record_of_a_batch_fails() {
    let mut bed = Bed::new(config(), 1);
    let handles: Vec<_> = (0..13)
        .map(|i| bed.put(to_zero(if i == 4 { 3_000 } else { 10 })))
        .collect();
    bed.now += ms(10);
    let mut requests = 0;
    loop {
        let mut sent = bed.drain();
        let Some(dispatch) = sent.pop() else { break };
        requests += 1;
        if dispatch.batch.bytes().len() > 2_000 {
            bed.fail(
                dispatch,
                Error::from_code(ErrorCode::MESSAGE_TOO_LARGE, "Produce"),
            );
        } else {
            bed.write(vec![dispatch]);
        }
    }
    assert!(requests < 10, "{requests}");
    let mut offsets = Vec::new();
    for (i, handle) in handles.into_iter().enumerate() {
        match bed.result(handle).expect("a result") {
            Ok(written) => offsets.push(written.offset),
            Err(e) => assert_eq!((i, e.kind()), (4, PublishErrorKind::RecordTooLarge)),
        }
    }
    assert_eq!(offsets, (0..12).map(Some).collect::<Vec<_>>());
    assert_eq!(bed.acc.used(), 0);
}

#[test]
fn a_record_above_the_producers_own_limit_names_the_limit() {
    let mut bed = Bed::new(config(), 1);
    let handle = bed.put(to_zero(2 << 20));
    let error = bed.error(handle);
    let cause = std::error::Error::source(&error).map(ToString::to_string);
    let cause = cause.unwrap_or_default();
    assert!(cause.contains("max.request.size is 1048576"), "{cause}");
}

#[test]
fn a_record_that_is_not_acceptable_fails_alone_and_at_once() {
    let mut bed = Bed::new(config(), 2);
    let good = bed.put(to_zero(1));
    let mut null_header = to_zero(1);
    null_header.headers.push("h", None);
    for (record, kind) in [
        (to_zero(2 << 20), PublishErrorKind::RecordTooLarge),
        (to_zero(1).timestamp_ms(-1), PublishErrorKind::InvalidRecord),
        (to_zero(1).partition(-1), PublishErrorKind::InvalidRecord),
        (to_zero(1).partition(7), PublishErrorKind::UnknownTopic),
        (
            to_zero(1).header("h", "1").header("h", "2"),
            PublishErrorKind::InvalidRecord,
        ),
        (null_header, PublishErrorKind::InvalidRecord),
        (Record::new("no topic"), PublishErrorKind::InvalidRecord),
        (Record::new(""), PublishErrorKind::InvalidRecord),
    ] {
        let handle = bed.put(record);
        let refused = handle.refused().expect("refused at once");
        assert_eq!((refused.kind(), refused.fate()), (kind, Fate::NotWritten));
    }
    // The partition may be new: the cluster is asked, once.
    drop(bed.put(to_zero(1).partition(7)));
    assert_eq!(bed.acc.take_wanted(), [Arc::from("t")]);
    bed.acc.flush();
    let sent = bed.drain();
    bed.write(sent);
    assert!(bed.result(good).is_some_and(|r| r.is_ok()));
    assert_eq!(bed.acc.used(), 0);
}

#[test]
fn a_partitioner_that_is_wrong_or_panics_fails_its_record_alone() {
    let mut bed = Bed::unknown(config());
    bed.acc.partitioner = Box::new(from_fn(
        true,
        |record: &RecordRef<'_>, _: &_| match record.value {
            Some(b"panic") => panic!("a mistake in the user's code"),
            Some(b"far") => 99,
            _ => 0,
        },
    ));
    let values = ["panic", "ok", "far"];
    let mut handles = values.map(|value| bed.put(Record::new("t").value(value)));
    let topic = Arc::from("t");
    bed.acc.apply_topic(&topic, Ok(described("t", 1)), bed.now);
    bed.now += ms(10);
    let sent = bed.drain();
    bed.write(sent);
    bed.settle();
    let results = handles
        .each_mut()
        .map(|handle| handle.now_or_never().expect("a result"));
    assert!(results[1].is_ok());
    for failed in [&results[0], &results[2]] {
        let error = failed.as_ref().expect_err("an error");
        assert_eq!(error.kind(), PublishErrorKind::InvalidRecord);
    }
    assert_eq!((bed.acc.used(), bed.acc.waiting), (0, 0));
}

#[test]
fn an_unknown_topic_fails_within_its_limit_and_is_forgotten() {
    let mut bed = Bed::unknown(config());
    let handle = bed.put(Record::new("nope"));
    let topic = Arc::from("nope");
    let unknown = || Error::new(ErrorKind::UnknownTopic, "Metadata");
    let next = bed.acc.apply_topic(&topic, Err(unknown()), bed.now);
    assert_eq!(next, TopicNext::Retry);
    assert_eq!(bed.acc.next_wake(bed.now), Some(bed.now + ms(200)));
    bed.now += ms(200);
    let late = bed.put(Record::new("nope"));
    let next = bed.acc.apply_topic(&topic, Err(unknown()), bed.now);
    assert_eq!(next, TopicNext::Retry, "one still waits");
    let error = bed.error(handle);
    assert_eq!(error.kind(), PublishErrorKind::UnknownTopic);
    assert_eq!((error.topic(), error.fate()), ("nope", Fate::NotWritten));
    bed.now += ms(200);
    let next = bed.acc.apply_topic(&topic, Err(unknown()), bed.now);
    assert_eq!(next, TopicNext::Gone);
    assert_eq!(bed.error(late).kind(), PublishErrorKind::UnknownTopic);
    assert!(bed.acc.topics.len() == 0);
    // Where the cluster cannot be reached, the delivery deadline counts.
    let handle = bed.put(Record::new("nope"));
    let unreachable = Error::new(ErrorKind::Connect, "Metadata");
    bed.acc.apply_topic(&topic, Err(unreachable), bed.now);
    bed.now += ms(1_000);
    bed.drain();
    assert_eq!(bed.error(handle).kind(), PublishErrorKind::TimedOut);
    // A refusal is final.
    let handle = bed.put(Record::new("nope"));
    let refusal = Error::from_code(ErrorCode::TOPIC_AUTHORIZATION_FAILED, "Metadata");
    bed.acc.apply_topic(&topic, Err(refusal), bed.now);
    assert_eq!(bed.error(handle).kind(), PublishErrorKind::Refused);
    assert_eq!((bed.acc.used(), bed.acc.waiting), (0, 0));
}

#[test]
fn a_topic_that_vanishes_fails_within_its_limit() {
    let mut bed = Bed::new(config(), 1);
    let handle = bed.put(to_zero(1));
    bed.now += ms(10);
    let started = bed.now;
    let mut error = None;
    while error.is_none() && bed.now < started + ms(900) {
        if let Some(sent) = bed.drain().pop() {
            let code = ErrorCode::UNKNOWN_TOPIC_OR_PARTITION;
            if bed.fail(sent, Error::from_code(code, "Produce")) == Completed::Failed {
                error = Some(());
            }
        }
        bed.now += ms(5);
    }
    assert!(bed.now < started + ms(600), "{:?}", bed.now - started);
    assert_eq!(bed.error(handle).kind(), PublishErrorKind::UnknownTopic);
}

#[test]
fn trap_d_offsets_that_cannot_be_are_a_typed_error_and_no_panic() {
    let mut bed = Bed::new(config(), 1);
    for base in [-1, i64::MIN, i64::MAX - 1, i64::MAX] {
        let handles = [bed.put(to_zero(1)), bed.put(to_zero(1))];
        bed.now += ms(10);
        let sent = bed.drain().remove(0);
        let produced = Produced {
            base_offset: Some(base),
            log_append_time_ms: None,
        };
        let completed = bed.acc.complete(sent.token, Ok(produced), false, bed.now);
        assert_eq!(completed, Completed::Failed);
        for handle in handles {
            let error = bed.error(handle);
            assert_eq!(error.kind(), PublishErrorKind::Refused, "{base}");
            assert_eq!(error.fate(), Fate::MaybeWritten, "{base}");
            assert_eq!((error.topic(), error.partition()), ("t", Some(0)));
        }
    }
    assert_eq!(bed.acc.used(), 0);
}

/// Panics whenever it is told that a batch was closed.
struct Moody;

impl Partitioner for Moody {
    fn partition(
        &mut self,
        _record: &RecordRef<'_>,
        partitions: &Partitions<'_>,
    ) -> Result<i32, PartitionError> {
        Ok(partitions.all()[0])
    }

    fn keeps_keys_together(&self) -> bool {
        true
    }

    fn for_topic(&self, _topic: &str) -> Box<dyn Partitioner> {
        Box::new(Self)
    }

    fn batch_closed(&mut self, _partition: i32) {
        panic!("not today");
    }
}

#[test]
fn a_partitioner_that_panics_when_a_batch_closes_loses_nothing() {
    let mut bed = Bed::unknown(config());
    bed.acc.partitioner = Box::new(Moody);
    let handle = bed.put(Record::new("t").value("x"));
    let known = described("t", 1);
    bed.acc.apply_topic(&Arc::from("t"), Ok(known), bed.now);
    bed.now += ms(10);
    let sent = bed.drain();
    bed.write(sent);
    assert!(bed.result(handle).is_some_and(|r| r.is_ok()));
}
