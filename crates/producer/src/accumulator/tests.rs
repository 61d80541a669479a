//! The accumulator on a virtual clock.

use super::*;
use crate::handle::DeliveryHandle;
use crate::partition::from_fn;
use futures_util::FutureExt as _;
use ottla_client::PartitionMetadata;
use ottla_client::transport::Produced;
use ottla_types::{ErrorCode, Fate, PublishErrorKind, Record, RecordMetadata};
use proptest::prelude::*;
use std::num::NonZeroU32;
use std::time::Duration;

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn described(topic: &str, partitions: i32) -> Arc<TopicMetadata> {
    let partition = |id| PartitionMetadata {
        id,
        leader: Some(0),
        leader_epoch: None,
        replicas: vec![0],
        isr: vec![0],
    };
    Arc::new(TopicMetadata {
        name: topic.into(),
        topic_id: None,
        partitions: (0..partitions).map(partition).collect(),
        is_internal: false,
    })
}

struct Bed {
    acc: Accumulator,
    now: Instant,
    next_offset: i64,
    gate: Option<Instant>,
}

impl Bed {
    /// A topic `t` with so many partitions, known.
    fn new(config: ProducerConfig, partitions: i32) -> Self {
        let mut bed = Self::unknown(config);
        let (handle, topic) = (bed.put(Record::new("t").partition(0)), Arc::from("t"));
        assert_eq!(bed.acc.take_wanted(), [Arc::clone(&topic)]);
        let next = bed
            .acc
            .apply_topic(&topic, Ok(described("t", partitions)), bed.now);
        assert_eq!(next, TopicNext::Known);
        bed.acc.flush();
        let first = bed.drain();
        bed.write(first);
        assert!(bed.result(handle).is_some_and(|r| r.is_ok()));
        bed.next_offset = 0;
        bed
    }

    fn unknown(config: ProducerConfig) -> Self {
        config.validate().expect("a valid configuration");
        let partitioner = config.partitioner.build(1);
        Self {
            acc: Accumulator::new(config, false, partitioner, 1),
            now: Instant::now(),
            next_offset: 0,
            gate: None,
        }
    }

    fn put(&mut self, record: Record) -> DeliveryHandle {
        self.try_put(record).expect("room in the buffer")
    }

    fn try_put(&mut self, record: Record) -> Option<DeliveryHandle> {
        self.acc.enqueue(&mut Some(record), self.now, 1_000)
    }

    fn drain(&mut self) -> Vec<Dispatch> {
        let gate = self.gate;
        self.acc.expire(self.now);
        self.acc.drain(self.now, &mut |_| gate)
    }

    fn write(&mut self, dispatches: Vec<Dispatch>) {
        for dispatch in dispatches {
            let produced = Produced {
                base_offset: Some(self.next_offset),
                log_append_time_ms: None,
            };
            self.next_offset += i64::from(dispatch.batch.count());
            let (queue, batch) = (dispatch.queue, dispatch.batch);
            self.acc.complete(queue, batch, Ok(produced), self.now);
        }
    }

    fn fail(&mut self, dispatch: Dispatch, error: Error) -> Completed {
        let (queue, batch) = (dispatch.queue, dispatch.batch);
        self.acc.complete(queue, batch, Err(error), self.now)
    }

    fn result(
        &mut self,
        mut handle: DeliveryHandle,
    ) -> Option<Result<RecordMetadata, PublishError>> {
        self.acc.take_effects().apply();
        (&mut handle).now_or_never()
    }

    fn error(&mut self, handle: DeliveryHandle) -> PublishError {
        let result = self.result(handle).expect("a result");
        result.expect_err("an error")
    }
}

fn to_zero(value: usize) -> Record {
    Record::new("t").partition(0).value(vec![b'x'; value])
}

fn values(batch: &ReadyBatch) -> Vec<String> {
    let mut values = Vec::new();
    for view in batch.encoded.clone().into_record_set().batches() {
        for record in view.expect("a batch").records() {
            let value = record.expect("a record").value.unwrap_or_default();
            values.push(String::from_utf8_lossy(&value).into_owned());
        }
    }
    values
}

fn config() -> ProducerConfig {
    ProducerConfig {
        linger: ms(10),
        delivery_timeout: ms(1_000),
        topic_unknown_timeout: ms(200),
        ..ProducerConfig::default()
    }
}

fn lost() -> Error {
    Error::new(ErrorKind::ConnectionLost, "Produce").with_fate(Fate::MaybeWritten)
}

#[test]
fn a_batch_is_sent_when_it_lingered() {
    let mut bed = Bed::new(config(), 1);
    let handle = bed.put(to_zero(5));
    assert!(bed.drain().is_empty());
    assert_eq!(bed.acc.next_wake(bed.now), Some(bed.now + ms(10)));
    bed.now += ms(10);
    let sent = bed.drain();
    assert_eq!(sent.len(), 1);
    bed.write(sent);
    let written = bed.result(handle).expect("a result").expect("written");
    assert_eq!((written.offset, written.timestamp_ms), (Some(0), 1_000));
    assert_eq!(bed.acc.used(), 0);
}

#[test]
fn ten_records_or_one_second_whichever_is_first() {
    let config = ProducerConfig {
        linger: ms(1_000),
        batch_records: NonZeroU32::new(10),
        ..config()
    };
    let mut bed = Bed::new(config, 1);
    let handles: Vec<_> = (0..13).map(|_| bed.put(to_zero(1))).collect();
    let sent = bed.drain();
    assert_eq!(sent[0].batch.count(), 10);
    bed.write(sent);
    assert!(bed.drain().is_empty());
    bed.now += ms(1_000);
    // The delivery deadline has come for these three as well: linger may not be above it, so a
    // batch is due before.
    assert_eq!(bed.acc.next_wake(bed.now).expect("a time"), bed.now);
    let offsets: Vec<_> = handles
        .into_iter()
        .take(10)
        .map(|h| bed.result(h).expect("a result").expect("written").offset)
        .collect();
    assert_eq!(offsets, (0..10).map(Some).collect::<Vec<_>>());
}

#[test]
fn a_full_batch_does_not_linger_and_a_large_record_has_its_own() {
    let config = ProducerConfig {
        batch_size: 500,
        ..config()
    };
    let mut bed = Bed::new(config, 1);
    for _ in 0..3 {
        let _ = bed.put(to_zero(200));
    }
    let _ = bed.put(to_zero(5_000));
    let _ = bed.put(to_zero(1));
    let mut sizes = Vec::new();
    bed.now += ms(10);
    loop {
        let sent = bed.drain();
        let Some(dispatch) = sent.first() else { break };
        sizes.push(dispatch.batch.count());
        bed.write(sent);
    }
    assert_eq!(sizes, [2, 1, 1, 1]);
}

#[test]
fn one_batch_of_a_partition_is_in_flight_and_a_retry_goes_first() {
    let config = ProducerConfig {
        batch_records: NonZeroU32::new(1),
        ..config()
    };
    let mut bed = Bed::new(config, 2);
    for value in ["a", "b"] {
        let _ = bed.put(Record::new("t").partition(0).value(value));
        let _ = bed.put(Record::new("t").partition(1).value(value));
    }
    let mut sent = bed.drain();
    assert_eq!(sent.len(), 2, "one a partition");
    assert!(bed.drain().is_empty());
    let other = sent.pop().expect("two");
    let first = sent.pop().expect("two");
    bed.write(vec![other]);
    assert_eq!(bed.fail(first, lost()), Completed::Again { refresh: true });
    // The other partition goes on meanwhile.
    let sent = bed.drain();
    assert_eq!(sent.len(), 1);
    assert_eq!(sent[0].partition.partition, 1);
    let retry_at = bed.acc.next_wake(bed.now).expect("a time");
    assert!(retry_at > bed.now && retry_at <= bed.now + ms(100));
    bed.now = retry_at;
    let sent = bed.drain();
    assert_eq!(values(&sent[0].batch), ["a"]);
    assert_eq!(sent[0].batch.attempts, 2);
    bed.write(sent);
    assert_eq!(values(&bed.drain()[0].batch), ["b"]);
}

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
        if dispatch.batch.encoded.bytes().len() > 2_000 {
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
    let _ = bed.put(to_zero(1).partition(7));
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
    bed.acc.partitioner = Box::new(from_fn(true, |record: &Record, _: &_| {
        match record.value.as_deref() {
            Some(b"panic") => panic!("a mistake in the user's code"),
            Some(b"far") => 99,
            _ => 0,
        }
    }));
    let values = ["panic", "ok", "far"];
    let mut handles = values.map(|value| bed.put(Record::new("t").value(value)));
    let topic = Arc::from("t");
    bed.acc.apply_topic(&topic, Ok(described("t", 1)), bed.now);
    bed.now += ms(10);
    let sent = bed.drain();
    bed.write(sent);
    bed.acc.take_effects().apply();
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
fn the_buffer_is_bounded_and_room_comes_back() {
    let config = ProducerConfig {
        buffer_memory: 10_000,
        max_request_size: 5_000,
        batch_size: 4_000,
        ..config()
    };
    let mut bed = Bed::new(config, 1);
    let mut taken = 0;
    while bed.try_put(to_zero(900)).is_some() {
        taken += 1;
        assert!(bed.acc.used() <= 10_000);
    }
    assert_eq!(taken, 10);
    assert_eq!(bed.acc.room(900), Ok(false));
    assert_eq!(bed.acc.room(5_000), Err(PublishErrorKind::RecordTooLarge));
    let sent = bed.drain();
    bed.write(sent);
    assert!(bed.acc.take_effects().progress);
    assert_eq!(bed.acc.room(900), Ok(true));
    assert!(bed.try_put(to_zero(900)).is_some());
}

#[test]
fn records_wait_for_their_topic_in_order() {
    let mut bed = Bed::unknown(config());
    for i in 0..5 {
        let _ = bed.put(Record::new("t").key("k").value(i.to_string()));
    }
    assert_eq!(bed.acc.take_wanted(), [Arc::from("t")]);
    bed.now += ms(150);
    let topic = Arc::from("t");
    let creating = Error::from_code(ErrorCode::LEADER_NOT_AVAILABLE, "Metadata");
    let next = bed.acc.apply_topic(&topic, Err(creating), bed.now);
    assert_eq!(next, TopicNext::Retry);
    bed.acc.apply_topic(&topic, Ok(described("t", 3)), bed.now);
    let _ = bed.put(Record::new("t").key("k").value("5"));
    let sent = bed.drain();
    assert_eq!(sent.len(), 1);
    assert_eq!(values(&sent[0].batch), ["0", "1", "2", "3", "4", "5"]);
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
    assert!(bed.acc.topics.is_empty());
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
            if bed.fail(sent, Error::from_code(code, "Produce")) == Completed::Settled {
                error = Some(());
            }
        }
        bed.now += ms(5);
    }
    assert!(bed.now < started + ms(600), "{:?}", bed.now - started);
    assert_eq!(bed.error(handle).kind(), PublishErrorKind::UnknownTopic);
}

#[test]
fn a_flush_covers_what_came_before_it_and_ends_its_lingering() {
    let mut bed = Bed::new(config(), 1);
    let before = bed.put(to_zero(1));
    let mark = bed.acc.flush();
    let after = bed.put(to_zero(1));
    assert_eq!(bed.acc.outstanding_up_to(mark), 1);
    let sent = bed.drain();
    assert_eq!(sent[0].batch.count(), 1);
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
    assert_eq!(bed.fail(sent, lost()), Completed::Settled);
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
fn the_rate_limit_holds_batches_back() {
    let mut bed = Bed::new(config(), 1);
    let _ = bed.put(to_zero(1));
    bed.now += ms(10);
    bed.gate = Some(bed.now + ms(30));
    assert!(bed.drain().is_empty());
    assert_eq!(bed.acc.next_wake(bed.now), bed.gate);
    bed.gate = None;
    assert_eq!(bed.drain().len(), 1);
}

#[test]
fn an_idle_topic_is_forgotten_and_its_queues_are_used_again() {
    let mut bed = Bed::new(config(), 3);
    assert!(!bed.acc.forget_idle("t", bed.now - ms(1)), "used since");
    bed.drain();
    assert!(bed.acc.forget_idle("t", bed.now));
    assert!(bed.acc.topics.is_empty());
    let _ = bed.put(Record::new("u"));
    bed.acc
        .apply_topic(&"u".into(), Ok(described("u", 3)), bed.now);
    assert_eq!(bed.acc.queues.len(), 3);
}

#[test]
fn sticky_records_fill_one_batch_then_move_on() {
    let config = ProducerConfig {
        batch_records: NonZeroU32::new(4),
        ..config()
    };
    let mut bed = Bed::new(config, 3);
    let mut partitions = Vec::new();
    for _ in 0..6 {
        for _ in 0..4 {
            let _ = bed.put(Record::new("t"));
        }
        let sent = bed.drain();
        assert_eq!(sent.len(), 1);
        assert_eq!(sent[0].batch.count(), 4);
        partitions.push(sent[0].partition.partition);
        bed.write(sent);
    }
    assert!(
        partitions.windows(2).all(|pair| pair[0] != pair[1]),
        "{partitions:?}"
    );
}

#[derive(Debug, Clone)]
enum Step {
    Put { partition: i32, size: usize },
    Wait(u64),
    Write(usize),
    Lose(usize),
    TooLarge(usize),
    Flush,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..3, 0_usize..600).prop_map(|(partition, size)| Step::Put { partition, size }),
        2 => (1_u64..200).prop_map(Step::Wait),
        3 => (0_usize..3).prop_map(Step::Write),
        1 => (0_usize..3).prop_map(Step::Lose),
        1 => (0_usize..3).prop_map(Step::TooLarge),
        1 => Just(Step::Flush),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Whatever happens: each record has one result at the end, the buffer's bound holds and all of
    /// it is free again, and what was written is in the order of the calls.
    #[test]
    fn every_record_has_one_result_and_its_place(steps in prop::collection::vec(step(), 1..150)) {
        let config = ProducerConfig {
            buffer_memory: 8_000,
            max_request_size: 2_000,
            batch_size: 1_000,
            ..config()
        };
        let mut bed = Bed::new(config, 3);
        let mut handles = Vec::new();
        let mut flying: Vec<Dispatch> = Vec::new();
        let mut log: [Vec<String>; 3] = Default::default();
        let mut number = 0;
        for step in steps {
            let sent = bed.drain();
            flying.extend(sent);
            match step {
                Step::Put { partition, size } => {
                    let value = format!("{number:06}{}", "x".repeat(size));
                    let record = Record::new("t").partition(partition).value(value);
                    if let Some(handle) = bed.try_put(record) {
                        number += 1;
                        handles.push(handle);
                    }
                }
                Step::Wait(wait) => bed.now += ms(wait),
                Step::Flush => { bed.acc.flush(); }
                Step::Write(i) if i < flying.len() => {
                    let dispatch = flying.remove(i);
                    let partition = dispatch.partition.partition as usize;
                    log[partition].extend(values(&dispatch.batch));
                    bed.write(vec![dispatch]);
                }
                Step::Lose(i) if i < flying.len() => {
                    let dispatch = flying.remove(i);
                    bed.fail(dispatch, lost());
                }
                Step::TooLarge(i) if i < flying.len() => {
                    let dispatch = flying.remove(i);
                    let code = ErrorCode::MESSAGE_TOO_LARGE;
                    bed.fail(dispatch, Error::from_code(code, "Produce"));
                }
                _ => {}
            }
            prop_assert!(bed.acc.used() <= 8_000);
            bed.acc.take_effects().apply();
        }
        let report = bed.acc.close_now();
        bed.acc.take_effects().apply();
        let mut written = 0;
        for handle in handles {
            let result = handle.now_or_never();
            prop_assert!(result.is_some());
            written += u64::from(result.is_some_and(|r| r.is_ok()));
        }
        prop_assert_eq!(report.delivered, written + 1);
        prop_assert_eq!(log.iter().map(|l| l.len() as u64).sum::<u64>(), written);
        for values in log {
            prop_assert!(values.is_sorted());
        }
        prop_assert_eq!(bed.acc.used(), 0);
        prop_assert!(bed.acc.outstanding.is_empty());
    }
}
