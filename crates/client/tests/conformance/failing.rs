//! What goes wrong at a broker or on the way: quotas, silence, error codes, lost answers.

use crate::bed::{Bed, MockBed, PATIENCE, SECOND, batch, limits, options, until, values};
use crate::verdict::lacks;
use ottla_client::transport::{OffsetSpec, ProduceOptions};
use ottla_client::{ErrorKind, TransportKind};
use ottla_mock_cluster::{Action, ApiKey, Fault};
use ottla_types::{ErrorCode, Fate};
use std::time::Duration;
use tokio::time::{Instant, timeout};

fn refuse(api: ApiKey, code: i16) -> Fault {
    Fault::on(api).action(Action::Refuse(code))
}

pub(crate) async fn trap_a1_a_throttled_batch_is_written_once(kind: TransportKind) {
    let bed = MockBed::new(kind).await;
    let topic = bed.topic(1, &[]).await;
    let throttle = Duration::from_millis(300);
    let fault = bed
        .mock
        .faults()
        .add(Fault::on(ApiKey::Produce).action(Action::Throttle(throttle)));
    let started = Instant::now();
    topic.write(0, &["a"]).await.unwrap();
    let first = started.elapsed();
    topic.write(0, &["b"]).await.unwrap();
    assert_eq!(fault.hits(), 1);
    let written = bed.written(&topic);
    if bed.is_native() {
        assert_eq!(written, ["a", "b"]);
        assert!(first < throttle, "the answer does not wait: {first:?}");
        assert!(started.elapsed() >= throttle, "the next request does");
        assert_eq!(bed.mock.requests(ApiKey::Produce), 2);
    } else {
        lacks("writes it again and again");
        // The library underneath writes it again, as its documentation here says.
        assert_eq!(written, ["a", "a", "b"]);
    }
}

pub(crate) async fn trap_a1_a_throttled_reader_loses_nothing(kind: TransportKind) {
    let bed = MockBed::new(kind).await;
    let topic = bed.topic(1, &[]).await;
    topic.write(0, &["a"]).await.unwrap();
    let throttle = Action::Throttle(Duration::from_millis(100));
    let fault = Fault::on(ApiKey::Fetch).times(2).action(throttle);
    let fault = bed.mock.faults().add(fault);
    assert_eq!(topic.read_to(0, 0, 1).await, [(0, "a".to_owned())]);
    assert!(fault.hits() >= 1);
}

pub(crate) async fn trap_a7_a_request_without_an_answer_ends_in_time(kind: TransportKind) {
    let bed = MockBed::new(kind).await;
    let topic = bed.topic(1, &[]).await;
    topic.write(0, &["a"]).await.unwrap();
    for api in [ApiKey::Produce, ApiKey::Fetch, ApiKey::ListOffsets] {
        let hang = bed.mock.faults().add(Fault::on(api).action(Action::Hang));
        topic.write(0, &["b"]).await.unwrap();
        topic.read_on(0, 0).await;
        let wanted = vec![(topic.p(0), OffsetSpec::Earliest)];
        let found = bed.transport().list_offsets(PATIENCE, wanted).await;
        assert_eq!(found.into_iter().next().unwrap().1.unwrap().offset, 0);
        assert_eq!(hang.hits(), 1, "{api:?}");
    }
    let hang = Fault::on(ApiKey::Produce).forever().action(Action::Hang);
    bed.mock.faults().add(hang);
    let started = Instant::now();
    let sent = topic.send(0, batch(&["c"]), options(SECOND)).await;
    let error = sent.unwrap_err();
    assert_eq!(
        (error.kind(), error.fate()),
        (ErrorKind::TimedOut, Fate::MaybeWritten)
    );
    assert!(started.elapsed() < 2 * SECOND, "{:?}", started.elapsed());
}

pub(crate) async fn trap_a9_codes_that_pass_are_retried(kind: TransportKind) {
    let bed = MockBed::new(kind).await;
    let topic = bed.topic(1, &[]).await;
    let mut written = 0;
    for code in [3, 5, 6, 7, 13, 19, 20, 56, 74, 75] {
        let fault = bed
            .mock
            .faults()
            .add(refuse(ApiKey::Produce, code).times(2));
        topic.write(0, &["v"]).await.unwrap();
        assert_eq!(fault.hits(), 2, "{code}");
        written += 1;
    }
    assert_eq!(bed.written(&topic).len(), written);
    for code in [3, 5, 6, 9, 13, 56, 74, 75] {
        let fault = bed.mock.faults().add(refuse(ApiKey::Fetch, code).times(2));
        let seen = topic.read_to(0, 0, written as i64).await;
        assert_eq!(seen.len(), written);
        until("the fault is used up", || fault.hits() == 2).await;
        let fault = bed.mock.faults().add(refuse(ApiKey::ListOffsets, code));
        let wanted = vec![(topic.p(0), OffsetSpec::Latest)];
        let found = bed.transport().list_offsets(PATIENCE, wanted).await;
        let offset = found.into_iter().next().unwrap().1.unwrap().offset;
        assert_eq!((offset, fault.hits()), (written as i64, 1), "{code}");
    }
}

pub(crate) async fn trap_a9_a_code_that_stays_says_what_became_of_the_batch(kind: TransportKind) {
    let bed = MockBed::new(kind).await;
    let topic = bed.topic(1, &[]).await;
    for (code, is_retried, fate) in [
        (19, true, Fate::NotWritten),
        (20, true, Fate::MaybeWritten),
        (7, true, Fate::MaybeWritten),
        (6, true, Fate::MaybeWritten),
        (10, false, Fate::NotWritten),
        (29, false, Fate::NotWritten),
        (87, false, Fate::NotWritten),
        (48, false, Fate::NotWritten),
        (49, false, Fate::NotWritten),
        (51, true, Fate::NotWritten),
        (53, false, Fate::NotWritten),
        (90, false, Fate::NotWritten),
        (120, false, Fate::NotWritten),
        (-1, false, Fate::MaybeWritten),
    ] {
        let fault = bed
            .mock
            .faults()
            .add(refuse(ApiKey::Produce, code).forever());
        let limit = if is_retried { SECOND / 3 } else { PATIENCE };
        let sent = topic.send(0, batch(&["v"]), options(limit)).await;
        let error = sent.unwrap_err();
        assert_eq!(error.code(), Some(ErrorCode(code)));
        assert_eq!(error.fate(), fate, "{code}");
        assert_eq!(fault.hits() > 1, is_retried, "{code}");
        fault.remove();
    }
    // A fate that is not known stays so, whatever the last attempt says.
    let lost = Fault::on(ApiKey::Produce).action(Action::Disconnect);
    bed.mock.faults().add(lost);
    bed.mock.faults().add(refuse(ApiKey::Produce, 10));
    let error = topic.write(0, &["v"]).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.fate()),
        (ErrorKind::RecordTooLarge, Fate::MaybeWritten)
    );
    assert_eq!(bed.written(&topic).len(), 0);
}

pub(crate) async fn trap_a10_a_lost_answer_is_repeated_and_idempotence_makes_it_harmless(
    kind: TransportKind,
) {
    let bed = MockBed::new(kind).await;
    let topic = bed.topic(1, &[]).await;
    let lose = || Fault::on(ApiKey::Produce).action(Action::DropReply);
    bed.mock.faults().add(lose());
    topic.write(0, &["plain"]).await.unwrap();
    assert_eq!(bed.written(&topic), ["plain", "plain"]);

    if !bed.transport().capabilities().idempotence {
        lacks("duplicates");
        return;
    }
    bed.mock.faults().add(lose().times(2));
    let once = batch(&["once", "more"]).with_producer(77, 0, 0);
    let sent = topic.send(0, once, options(PATIENCE)).await.unwrap();
    assert_eq!(sent.base_offset, Some(2), "the offset of the first copy");
    let next = batch(&["next"]).with_producer(77, 0, 2);
    topic.send(0, next, options(PATIENCE)).await.unwrap();
    assert_eq!(
        bed.written(&topic),
        ["plain", "plain", "once", "more", "next"]
    );
    let log = bed.mock.batches(&topic.name, 0);
    let last = log.last().unwrap();
    assert_eq!((last.producer_id, last.base_sequence), (77, 2));

    // An old copy is written, the broker only does not know where.
    bed.mock.faults().add(refuse(ApiKey::Produce, 46));
    let copy = batch(&["next"]).with_producer(77, 0, 2);
    let sent = topic.send(0, copy, options(PATIENCE)).await.unwrap();
    assert_eq!(sent.base_offset, None);
    // A gap is for the producer to judge.
    let gap = batch(&["gap"]).with_producer(77, 0, 9);
    let error = topic.send(0, gap, options(PATIENCE)).await.unwrap_err();
    assert_eq!(
        (error.code(), error.fate()),
        (
            Some(ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER),
            Fate::NotWritten
        )
    );
}

pub(crate) async fn calls_that_are_dropped_do_no_harm(kind: TransportKind) {
    let bed = MockBed::new(kind).await;
    let topic = bed.topic(2, &[]).await;
    topic.write(0, &["a"]).await.unwrap();
    let slow = Action::DelayReply(SECOND / 4);
    bed.mock
        .faults()
        .add(Fault::on(ApiKey::Produce).times(3).action(slow));
    for _ in 0..3 {
        let writing = topic.write(1, &["dropped"]);
        assert!(timeout(SECOND / 50, writing).await.is_err());
        let wanted = vec![topic.at(0, 1), topic.at(1, 50)];
        let reading = bed.transport().fetch(limits(PATIENCE), wanted);
        let _ = timeout(SECOND / 50, reading).await;
    }
    topic.write(0, &["b"]).await.unwrap();
    let seen = topic.read_to(0, 0, 2).await;
    assert_eq!(seen, [(0, "a".to_owned()), (1, "b".to_owned())]);
    // Each was written once at most.
    assert!(bed.written(&topic).len() <= 5);
}

pub(crate) async fn a_closed_transport_refuses_everything(kind: TransportKind) {
    let bed = MockBed::new(kind).await;
    let topic = bed.topic(1, &[]).await;
    topic.write(0, &["a"]).await.unwrap();
    assert_eq!(values(&topic.read(0, 0).await.unwrap()), ["a"]);
    let waiting = bed
        .transport()
        .fetch(limits(PATIENCE), vec![topic.at(0, 1)]);
    let closing = async {
        tokio::task::yield_now().await;
        bed.client.close().await;
    };
    let both = async { tokio::join!(waiting, closing) };
    let (answers, ()) = timeout(PATIENCE / 3, both).await.unwrap();
    let closed = |bed: &Bed, error: ottla_client::Error| {
        assert_eq!(error.kind(), ErrorKind::Closed, "{:?}", bed.kind);
        assert_eq!(error.partition(), Some(&topic.p(0)));
    };
    closed(&bed, answers.into_iter().next().unwrap().1.unwrap_err());
    let terms = ProduceOptions {
        ..options(PATIENCE)
    };
    closed(&bed, topic.send(0, batch(&["b"]), terms).await.unwrap_err());
    let wanted = vec![(topic.p(0), OffsetSpec::Latest)];
    let found = bed.transport().list_offsets(PATIENCE, wanted).await;
    closed(&bed, found.into_iter().next().unwrap().1.unwrap_err());
    until("its connections are closed", || bed.mock.connections() == 0).await;
}
