//! Brokers whose answers cannot be, or make no sense: typed errors, no panic, no endless loop, and
//! the transport stays usable. What rskafka decodes is its own affair: only what it lets through is
//! tested for both.

use crate::bed::{PATIENCE, SECOND, batch, limits, values};
use crate::liar::{Liar, fetched, text};
use crate::verdict::lacks;
use bytes::{BufMut, Bytes, BytesMut};
use kafka_protocol::messages::fetch_response::{FetchableTopicResponse, PartitionData};
use kafka_protocol::messages::{FetchRequest, FetchResponse, RequestHeader, TopicName};
use kafka_protocol::protocol::{Decodable, Encodable};
use ottla_client::{ErrorKind, TransportKind};
use ottla_types::Fate;
use tokio::time::Instant;

/// The answer for partition 0 of `t`: this offset and no error.
fn written(base_offset: i64) -> BytesMut {
    let mut answer = BytesMut::from(&[0, 0, 0, 1, 0, 1, b't', 0, 0, 0, 1][..]);
    answer.put_slice(&[0; 6]);
    answer.put_i64(base_offset);
    answer.put_i64(-1);
    answer.put_i32(0);
    answer
}

pub(crate) async fn trap_d_offsets_that_cannot_be_are_typed_errors(kind: TransportKind) {
    for (base, is_good) in [(i64::MAX - 1, true), (i64::MAX, false), (-7, false)] {
        let liar = Liar::on(kind, move |_, _| written(base)).await;
        let sent = liar.bed.existing("t").write(0, &["a", "b"]).await;
        if is_good {
            assert_eq!(sent.unwrap().base_offset, Some(base));
            continue;
        }
        let error = sent.unwrap_err();
        assert_eq!(
            (error.kind(), error.fate()),
            (ErrorKind::Protocol, Fate::MaybeWritten)
        );
        assert_eq!(error.operation(), "Produce");
        assert_eq!(error.partition(), Some(&liar.bed.existing("t").p(0)));
        assert!(!error.is_retriable());
        assert_eq!(liar.requests(), 1, "it is not tried again");
    }
    let silent = Liar::on(kind, |_, _| written(-1)).await;
    let sent = silent.bed.existing("t").write(0, &["a", "b"]).await;
    assert_eq!(sent.unwrap().base_offset, None);
}

#[tokio::test]
async fn trap_d_answers_that_break_the_protocol_are_typed_errors() {
    let lies: [&[u8]; 5] = [
        b"",
        b"\x7f\xff\xff\xff",
        b"\0\0\0\x01\0\x01t\x7f\xff\xff\xff",
        b"\0\0\0\x01\x7f\xfft",
        // No topic at all: the partition is left out.
        b"\0\0\0\0\0\0\0\0",
    ];
    for lie in lies {
        let liar = Liar::start(move |_, _| BytesMut::from(lie)).await;
        let topic = liar.bed.existing("t");
        let error = topic.write(0, &["a"]).await.unwrap_err();
        assert_eq!(
            (error.kind(), error.fate()),
            (ErrorKind::Protocol, Fate::MaybeWritten)
        );
        assert_eq!((error.operation(), liar.requests()), ("Produce", 1));
    }
    for lie in [
        &b""[..],
        b"\0\0\0\0\x7f\xff\xff\xff",
        b"\0\0\0\0\0\0\0\x01\xff\xfe",
    ] {
        let liar = Liar::start(move |_, _| BytesMut::from(lie)).await;
        let topic = liar.bed.existing("t");
        let error = topic.read(0, 5).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Protocol, "{error}");
        assert_eq!((error.operation(), error.offset()), ("Fetch", Some(5)));
        assert!(liar.requests() <= 3);
    }
}

#[tokio::test]
async fn trap_d_a_partition_that_cannot_be_read_does_not_spoil_the_others() {
    let liar = Liar::start(|_, request| {
        let mut request = Bytes::copy_from_slice(request);
        RequestHeader::decode(&mut request, 1).unwrap();
        let request = FetchRequest::decode(&mut request, 4).unwrap();
        let asked = &request.topics[0].partitions;
        let mut answer = BytesMut::new();
        if asked.iter().any(|part| part.partition == 1) {
            // A record set that is longer than the client allows.
            answer.resize(2 << 20, 0);
            return answer;
        }
        let part = PartitionData::default()
            .with_high_watermark(1)
            .with_records(Some(batch(&["good"]).bytes().clone()));
        let topic = FetchableTopicResponse::default()
            .with_topic(TopicName(text("t")))
            .with_partitions(vec![part]);
        let whole = FetchResponse::default().with_responses(vec![topic]);
        whole.encode(&mut answer, 4).unwrap();
        answer
    })
    .await;
    let topic = liar.bed.existing("t");
    let mut open = vec![topic.at(0, 0), topic.at(1, 0)];
    while !open.is_empty() {
        let fetching = topic.bed.transport().fetch(limits(PATIENCE), open.clone());
        for (partition, result) in fetching.await {
            if partition == topic.p(0) {
                assert_eq!(values(&result.unwrap()), ["good"]);
            } else {
                let error = result.unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Protocol, "{error}");
                assert_eq!(error.offset(), Some(0));
            }
            open.retain(|(p, _)| *p != partition);
        }
    }
}

pub(crate) async fn trap_d_a_batch_whose_offsets_overflow_meets_the_reader(kind: TransportKind) {
    let liar = Liar::on(kind, |key, _| {
        if key == 0 {
            return written(7);
        }
        // The checksum does not cover the base offset.
        let mut bytes = BytesMut::from(&batch(&["a", "b"]).bytes()[..]);
        bytes[..8].copy_from_slice(&i64::MAX.to_be_bytes());
        fetched(bytes.freeze())
    })
    .await;
    let topic = liar.bed.existing("t");
    let read = topic.read(0, 5).await;
    // The transport is usable.
    assert_eq!(topic.write(0, &["a"]).await.unwrap().base_offset, Some(7));
    if kind == TransportKind::Rskafka {
        lacks("error at the offset");
        let error = read.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Protocol, "{error}");
        assert_eq!(error.partition(), Some(&topic.p(0)));
        assert_eq!((error.offset(), error.fate()), (Some(5), Fate::NotWritten));
        return;
    }
    let fetched = read.unwrap();
    assert_eq!(fetched.next_offset, 5);
    assert!(fetched.records.batches().next().unwrap().is_err());
}

#[tokio::test]
async fn a_broker_that_answers_at_once_with_nothing_is_not_asked_in_a_hot_loop() {
    // No throttle time, no topic.
    let liar = Liar::start(|_, _| BytesMut::from(&[0; 8][..])).await;
    let topic = liar.bed.existing("t");
    let started = Instant::now();
    let wanted = vec![topic.at(0, 0)];
    let answers = topic.bed.transport().fetch(limits(SECOND), wanted).await;
    assert_eq!(answers.len(), 0);
    assert!(started.elapsed() >= SECOND);
    assert!((2..50).contains(&liar.requests()), "{}", liar.requests());
}
