//! Idempotence against a model of a broker that checks sequences as Kafka does.

use super::*;
use ottla_types::ProducerId;
use proptest::prelude::*;
use std::collections::VecDeque;

const CODE_NONE: ErrorCode = ErrorCode::NONE;
const OUT_OF_ORDER: ErrorCode = ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER;

/// First and last sequence, and offset.
type Remembered = (i32, i32, i64);

/// One partition's leader: the log, and what it remembers of producers.
#[derive(Debug, Default)]
struct Broker {
    log: Vec<String>,
    /// Id and epoch, and the latest five batches.
    producer: Option<(ProducerId, VecDeque<Remembered>)>,
}

/// Id, epoch and first sequence of a batch.
fn stamp_of(batch: &EncodedBatch) -> (ProducerId, i32) {
    let bytes = batch.bytes();
    let number = |at: usize, len: usize| {
        let bytes = bytes[at..at + len].iter();
        bytes.fold(0_i64, |n, byte| n << 8 | i64::from(*byte))
    };
    let (id, epoch) = (number(43, 8), number(51, 2) as i16);
    (ProducerId { id, epoch }, number(53, 4) as i32)
}

impl Broker {
    fn append(&mut self, batch: &EncodedBatch) -> (ErrorCode, i64) {
        let (id, first) = stamp_of(batch);
        let last = sequence::after(first, batch.record_count() - 1);
        let offset = self.log.len() as i64;
        match &mut self.producer {
            Some((known, batches)) if known.id == id.id => {
                if id.epoch < known.epoch {
                    return (ErrorCode::INVALID_PRODUCER_EPOCH, -1);
                }
                let before = batches.iter().find(|b| (b.0, b.1) == (first, last));
                if let (true, Some(before)) = (id.epoch == known.epoch, before) {
                    return (CODE_NONE, before.2);
                }
                let expected = match batches.back() {
                    Some(newest) if id.epoch == known.epoch => sequence::after(newest.1, 1),
                    _ => 0,
                };
                if first != expected {
                    return (OUT_OF_ORDER, -1);
                }
                if id.epoch > known.epoch {
                    batches.clear();
                }
                *known = id;
                batches.push_back((first, last, offset));
                if batches.len() > 5 {
                    batches.pop_front();
                }
            }
            // Whatever the sequence.
            _ => self.producer = Some((id, VecDeque::from([(first, last, offset)]))),
        }
        self.log.extend(values(batch));
        (CODE_NONE, offset)
    }
}

fn idempotent() -> ProducerConfig {
    ProducerConfig {
        idempotence: Some(true),
        batch_records: NonZeroU32::new(2),
        retry_backoff: ms(10),
        retry_backoff_max: ms(20),
        ..config()
    }
}

fn answer(code: ErrorCode, offset: i64) -> Result<Produced, Error> {
    if code.is_ok() {
        return Ok(Produced {
            base_offset: Some(offset),
            log_append_time_ms: None,
        });
    }
    Err(Error::from_code(code, "Produce"))
}

/// A producer with an id, on one partition with a known broker.
struct Pair {
    bed: Bed,
    broker: Broker,
    number: usize,
    handles: Vec<DeliveryHandle>,
}

impl Pair {
    fn new(config: ProducerConfig) -> Self {
        let mut bed = Bed::unknown(config);
        drop(bed.put(Record::new("t").partition(0).value("first")));
        bed.acc.flush();
        let known = described("t", 1);
        bed.acc.apply_topic(&Arc::from("t"), Ok(known), bed.now);
        assert!(bed.drain().is_empty(), "nothing goes out without an id");
        assert!(bed.acc.wants_producer());
        bed.acc.set_producer(ProducerId { id: 7, epoch: 0 });
        let mut pair = Self {
            bed,
            broker: Broker::default(),
            number: 0,
            handles: Vec::new(),
        };
        let first = pair.bed.drain().remove(0);
        pair.arrive(&first);
        pair
    }

    /// So many batches of two records.
    fn put(&mut self, batches: usize) {
        for _ in 0..2 * batches {
            let record = Record::new("t").partition(0);
            let handle = self.bed.put(record.value(format!("{:04}", self.number)));
            self.handles.push(handle);
            self.number += 1;
        }
    }

    /// The batch reaches the broker, and the answer comes back.
    fn arrive(&mut self, dispatch: &Dispatch) -> Completed {
        let (code, offset) = self.broker.append(&dispatch.batch);
        self.answer(dispatch, answer(code, offset))
    }

    /// An answer comes back, whatever the broker did.
    fn answer(&mut self, dispatch: &Dispatch, result: Result<Produced, Error>) -> Completed {
        let now = self.bed.now;
        self.bed.acc.complete(dispatch.token, result, false, now)
    }

    /// Delivers all that is left, without faults.
    fn finish(&mut self) {
        for _ in 0..1_000 {
            for dispatch in self.bed.drain() {
                self.arrive(&dispatch);
            }
            self.bed.now += ms(1);
        }
    }

    fn check(mut self) {
        self.finish();
        self.bed.settle();
        let expected = (0..self.number).map(|n| format!("{n:04}"));
        let expected: Vec<_> = ["first".to_owned()].into_iter().chain(expected).collect();
        assert_eq!(self.broker.log, expected);
        for (n, handle) in self.handles.into_iter().enumerate() {
            let written = handle.now_or_never().expect("a result").expect("written");
            assert_eq!(written.offset, Some(n as i64 + 1));
        }
    }
}

fn sequences_of(sent: &[Dispatch]) -> Vec<i32> {
    sent.iter().map(|d| stamp_of(&d.batch).1).collect()
}

#[test]
fn five_batches_are_in_flight_and_a_broker_that_does_not_know_the_producer_gets_one() {
    let mut pair = Pair::new(idempotent());
    pair.put(7);
    let sent = pair.bed.drain();
    assert_eq!(sequences_of(&sent), [1, 3, 5, 7, 9]);
    assert!(pair.bed.drain().is_empty());
    pair.arrive(&sent[0]);
    assert_eq!(sequences_of(&pair.bed.drain()), [11]);

    // A new epoch is as unknown as a new id.
    let mut pair = Pair::new(idempotent());
    pair.bed.acc.set_producer(ProducerId { id: 8, epoch: 0 });
    pair.put(3);
    let sent = pair.bed.drain();
    assert_eq!(
        stamp_of(&sent[0].batch),
        (ProducerId { id: 8, epoch: 0 }, 0)
    );
    assert_eq!(sent.len(), 1);
    pair.arrive(&sent[0]);
    pair.check();
}

#[test]
fn a_batch_that_is_not_full_gathers_records_while_others_are_on_their_way() {
    let mut pair = Pair::new(idempotent());
    pair.put(1);
    let sent = pair.bed.drain().remove(0);
    let half = Record::new("t").partition(0).value("half");
    drop(pair.bed.put(half));
    pair.bed.now += ms(100);
    assert!(pair.bed.drain().is_empty());
    pair.arrive(&sent);
    assert_eq!(sequences_of(&pair.bed.drain()), [3]);
}

#[test]
fn trap_c8_a_lost_answer_is_met_with_the_same_bytes_and_the_record_stands_once() {
    let mut pair = Pair::new(idempotent());
    pair.put(5);
    let sent = pair.bed.drain();
    for dispatch in &sent {
        pair.broker.append(&dispatch.batch);
    }
    for dispatch in &sent {
        let again = pair.answer(dispatch, Err(lost()));
        assert_eq!(is_sent_again(&again), Some(true));
    }
    pair.bed.now += ms(20);
    // In order, one at a time.
    for before in &sent {
        let again = pair.bed.drain();
        assert_eq!(again.len(), 1);
        assert_eq!(again[0].batch.bytes(), before.batch.bytes());
        pair.arrive(&again[0]);
        pair.bed.now += ms(20);
    }
    pair.check();
}

#[test]
fn trap_c8_a_duplicate_that_the_broker_does_not_find_is_delivered() {
    let mut pair = Pair::new(idempotent());
    pair.put(1);
    let sent = pair.bed.drain().remove(0);
    let unknown = Produced {
        base_offset: None,
        log_append_time_ms: None,
    };
    pair.broker.append(&sent.batch);
    pair.answer(&sent, Ok(unknown));
    let handle = pair.handles.remove(0);
    let written = pair.bed.result(handle).expect("a result").expect("written");
    assert_eq!(written.offset, None);
}

#[test]
fn trap_c9_an_unknown_topic_does_not_restart_the_sequence() {
    let mut pair = Pair::new(idempotent());
    pair.put(2);
    let sent = pair.bed.drain();
    for dispatch in &sent {
        let unknown = Error::from_code(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION, "Produce");
        pair.answer(dispatch, Err(unknown));
    }
    pair.bed.now += ms(20);
    assert_eq!(sequences_of(&pair.bed.drain()), [1]);

    // Nor does a topic that was forgotten here for a while.
    let mut pair = Pair::new(idempotent());
    pair.bed.drain();
    assert!(pair.bed.acc.forget_idle("t", pair.bed.now));
    pair.put(1);
    let known = described("t", 1);
    let now = pair.bed.now;
    pair.bed.acc.apply_topic(&Arc::from("t"), Ok(known), now);
    let sent = pair.bed.drain();
    assert_eq!(sequences_of(&sent), [1]);
    pair.arrive(&sent[0]);
    pair.check();
}

#[test]
fn trap_c19_the_numbers_of_a_batch_that_was_given_up_are_not_used_again() {
    // Given up, and in the log all the same: with its number the next one would be its duplicate.
    let mut pair = Pair::new(idempotent());
    pair.put(1);
    let sent = pair.bed.drain().remove(0);
    pair.broker.append(&sent.batch);
    pair.bed.now += ms(1_000);
    pair.answer(&sent, Err(lost()));
    let given_up = pair.handles.remove(0);
    assert_eq!(pair.bed.error(given_up).fate(), Fate::MaybeWritten);
    pair.put(1);
    pair.finish();
    assert_eq!(pair.broker.log, ["first", "0000", "0001", "0002", "0003"]);

    let mut pair = Pair::new(idempotent());
    pair.put(3);
    let sent = pair.bed.drain();
    // The second one is cut off at its deadline; nobody knows whether it is there. It is not.
    pair.arrive(&sent[0]);
    pair.bed.now += ms(999);
    let late = Error::new(ErrorKind::TimedOut, "Produce").with_fate(Fate::MaybeWritten);
    pair.bed.now += ms(1);
    pair.answer(&sent[1], Err(late));
    let lost = pair.handles.remove(2);
    assert_eq!(pair.bed.error(lost).fate(), Fate::MaybeWritten);
    drop(pair.handles.remove(2));
    pair.answer(&sent[2], Err(Error::from_code(OUT_OF_ORDER, "Produce")));
    drop(pair.handles.drain(2..));
    pair.put(2);
    pair.finish();
    // The next epoch begins at 0: what comes late under the old one is refused.
    assert_eq!(
        pair.broker.append(&sent[1].batch).0,
        ErrorCode::INVALID_PRODUCER_EPOCH
    );
    assert_eq!(pair.broker.producer.as_ref().map(|p| p.0.epoch), Some(1));
    assert_eq!(
        pair.broker.log,
        ["first", "0000", "0001", "0006", "0007", "0008", "0009"]
    );
}

#[test]
fn a_batch_that_was_given_up_and_is_there_all_the_same_costs_no_epoch() {
    let mut pair = Pair::new(idempotent());
    pair.put(3);
    let sent = pair.bed.drain();
    pair.arrive(&sent[0]);
    pair.broker.append(&sent[1].batch);
    let refused = Error::new(ErrorKind::Protocol, "Produce").with_fate(Fate::MaybeWritten);
    pair.answer(&sent[1], Err(refused));
    pair.arrive(&sent[2]);
    pair.put(1);
    pair.finish();
    assert_eq!(pair.broker.producer.as_ref().map(|p| p.0.epoch), Some(0));
    assert_eq!(pair.broker.log.len(), 9);
}

#[test]
fn trap_c27_bytes_on_their_way_do_not_change() {
    let mut pair = Pair::new(idempotent());
    pair.put(1);
    let sent = pair.bed.drain().remove(0);
    let before = sent.batch.bytes().to_vec();
    // Refused as a gap: it is numbered anew while the transport still has the old bytes.
    pair.answer(&sent, Err(Error::from_code(OUT_OF_ORDER, "Produce")));
    pair.bed.now += ms(20);
    let again = pair.bed.drain().remove(0);
    assert_eq!(stamp_of(&again.batch), (ProducerId { id: 7, epoch: 1 }, 0));
    assert_eq!(&sent.batch.bytes()[..], before);
    pair.arrive(&again);
    pair.check();
}

#[test]
fn order_is_restored_when_the_first_of_several_fails() {
    let mut pair = Pair::new(idempotent());
    pair.put(5);
    let sent = pair.bed.drain();
    let few = Error::from_code(ErrorCode::NOT_ENOUGH_REPLICAS, "Produce");
    pair.answer(&sent[0], Err(few));
    assert!(pair.bed.drain().is_empty(), "the others have to come back");
    for dispatch in &sent[1..] {
        let again = pair.arrive(dispatch);
        assert_eq!(is_sent_again(&again), Some(false));
    }
    assert_eq!(pair.broker.log.len(), 1);
    assert_eq!(
        pair.bed.acc.rules.producer,
        Some(ProducerId { id: 7, epoch: 0 })
    );
    pair.check();
}

#[test]
fn a_broker_that_lost_its_state_gets_the_next_epoch() {
    let mut pair = Pair::new(idempotent());
    pair.put(3);
    let sent = pair.bed.drain();
    // It expects a number that was acknowledged long ago.
    if let Some((_, batches)) = &mut pair.broker.producer {
        *batches = VecDeque::from([(90, 99, 0)]);
    }
    for dispatch in &sent {
        pair.arrive(dispatch);
    }
    pair.check();
}

#[test]
fn at_the_end_of_the_epochs_another_id_is_asked_for() {
    let mut pair = Pair::new(idempotent());
    let last = ProducerId {
        id: 7,
        epoch: i16::MAX,
    };
    pair.bed.acc.set_producer(last);
    pair.put(1);
    let sent = pair.bed.drain().remove(0);
    pair.answer(
        &sent,
        Err(Error::from_code(ErrorCode::UNKNOWN_PRODUCER_ID, "Produce")),
    );
    pair.bed.now += ms(20);
    assert!(pair.bed.drain().is_empty() && pair.bed.acc.wants_producer());
    pair.bed.acc.set_producer(ProducerId { id: 9, epoch: 0 });
    pair.check();
}

#[test]
fn a_later_epoch_at_the_broker_means_another_id() {
    let mut pair = Pair::new(idempotent());
    pair.put(1);
    if let Some((known, _)) = &mut pair.broker.producer {
        known.epoch = 3;
    }
    let sent = pair.bed.drain().remove(0);
    pair.arrive(&sent);
    pair.bed.now += ms(20);
    assert!(pair.bed.drain().is_empty() && pair.bed.acc.wants_producer());
    pair.bed.acc.set_producer(ProducerId { id: 9, epoch: 0 });
    pair.check();
}

#[test]
fn an_id_that_is_refused_fails_what_waits_and_is_asked_for_again() {
    let mut bed = Bed::unknown(idempotent());
    let handle = bed.put(Record::new("t").partition(0));
    let known = described("t", 1);
    bed.acc.apply_topic(&Arc::from("t"), Ok(known), bed.now);
    let denied = ErrorCode::CLUSTER_AUTHORIZATION_FAILED;
    bed.acc
        .no_producer(Error::from_code(denied, "InitProducerId"));
    let error = bed.error(handle);
    assert_eq!(
        (error.kind(), error.fate()),
        (PublishErrorKind::Refused, Fate::NotWritten)
    );
    assert!(!bed.acc.wants_producer());
    let handle = bed.put(Record::new("t").partition(0));
    bed.now += ms(10);
    assert!(bed.drain().is_empty() && bed.acc.wants_producer());
    bed.acc.set_producer(ProducerId { id: 7, epoch: 0 });
    let sent = bed.drain();
    bed.write(sent);
    assert!(bed.result(handle).is_some_and(|r| r.is_ok()));
}

#[test]
fn the_number_after_the_largest_is_0() {
    assert_eq!(sequence::after(i32::MAX, 1), 0);
    assert_eq!(sequence::after(i32::MAX - 1, 3), 1);
    assert_eq!(sequence::after(5, 0), 5);
}

#[derive(Debug, Clone)]
enum Step {
    Put(usize),
    Wait(u64),
    /// The oldest request reaches the broker; the answer comes back.
    Arrive,
    /// It reaches the broker, the answer is lost: it and those behind it fail with the connection.
    LoseAnswers,
    /// It is lost on the way, and those behind it with the connection.
    LoseRequests,
    /// It is refused, and nothing else happens to it.
    Refuse(i16),
    TooLarge,
    /// A request that was given up arrives late.
    Echo(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (1_usize..4).prop_map(Step::Put),
        3 => (1_u64..40).prop_map(Step::Wait),
        8 => Just(Step::Arrive),
        1 => Just(Step::LoseAnswers),
        1 => Just(Step::LoseRequests),
        2 => prop::sample::select(vec![3_i16, 6, 7, 19]).prop_map(Step::Refuse),
        1 => Just(Step::TooLarge),
        1 => (0_usize..20).prop_map(Step::Echo),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Whatever is lost, doubled, delayed or refused, every record that was acknowledged stands
    /// exactly once in the log, at the offset that its handle says, and all are in the order of the
    /// calls; one that was surely not written is not there.
    #[test]
    fn acknowledged_records_stand_once_and_in_order(steps in prop::collection::vec(step(), 1..200)) {
        let mut pair = Pair::new(idempotent());
        let mut flying: VecDeque<Dispatch> = VecDeque::new();
        let mut lost_requests: Vec<EncodedBatch> = Vec::new();
        for step in steps {
            flying.extend(pair.bed.drain());
            prop_assert!(flying.len() <= 5);
            match step {
                Step::Put(batches) => pair.put(batches),
                Step::Wait(wait) => pair.bed.now += ms(wait),
                Step::Echo(at) => {
                    if let Some(batch) = lost_requests.get(at) {
                        pair.broker.append(batch);
                    }
                }
                Step::Arrive => {
                    if let Some(dispatch) = flying.pop_front() {
                        let (code, offset) = pair.broker.append(&dispatch.batch);
                        if code == OUT_OF_ORDER {
                            // It is taken at its word: what was lost before does not come any more.
                            lost_requests.clear();
                        }
                        pair.answer(&dispatch, answer(code, offset));
                    }
                }
                Step::LoseAnswers | Step::LoseRequests => {
                    for dispatch in std::mem::take(&mut flying) {
                        if matches!(step, Step::LoseAnswers) {
                            pair.broker.append(&dispatch.batch);
                        } else {
                            lost_requests.push(dispatch.batch.clone());
                        }
                        pair.answer(&dispatch, Err(lost()));
                    }
                }
                Step::Refuse(code) => {
                    if let Some(dispatch) = flying.pop_front() {
                        let error = Error::from_code(ErrorCode(code), "Produce");
                        // Code 7 comes from a leader that has appended it.
                        if code == 7 {
                            pair.broker.append(&dispatch.batch);
                        }
                        pair.answer(&dispatch, Err(error));
                    }
                }
                Step::TooLarge => {
                    if let Some(dispatch) = flying.pop_front() {
                        let code = ErrorCode::MESSAGE_TOO_LARGE;
                        pair.answer(&dispatch, Err(Error::from_code(code, "Produce")));
                    }
                }
            }
            pair.bed.settle();
        }
        for dispatch in std::mem::take(&mut flying) {
            pair.arrive(&dispatch);
        }
        pair.finish();
        pair.bed.settle();
        let mut sorted = pair.broker.log.clone();
        let first = sorted.remove(0);
        prop_assert_eq!(first, "first");
        let log = sorted.clone();
        sorted.sort();
        sorted.dedup();
        prop_assert_eq!(&log, &sorted, "in order, each once");
        for (n, handle) in pair.handles.into_iter().enumerate() {
            let value = format!("{n:04}");
            let place = log.iter().position(|v| *v == value);
            match handle.now_or_never().expect("a result") {
                Ok(written) => prop_assert_eq!(written.offset, place.map(|at| at as i64 + 1)),
                Err(error) if error.fate() == Fate::NotWritten => prop_assert_eq!(place, None),
                Err(_) => {}
            }
        }
        prop_assert_eq!(pair.bed.acc.used(), 0);
    }
}
