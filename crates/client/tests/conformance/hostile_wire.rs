//! The wire cases of hostile input on the data path: frames that cannot be end the connection with
//! an error that names broker and API, batches that cannot be meet their reader.

use crate::bed::{batch, until};
use crate::liar::{Answer, Liar, fetched};
use bytes::{Bytes, BytesMut};
use ottla_client::{Error, ErrorKind};
use ottla_record_batch::{DecodeError, Problem};
use ottla_types::{Fate, with_causes};

const PRODUCE: i16 = 0;

/// Lengths and first bytes that are no frame of a broker, and what the error says of each.
fn no_frames() -> Vec<(Vec<u8>, &'static str)> {
    vec![
        (vec![0xff; 4], "negative"),
        (
            0x7000_0000_i32.to_be_bytes().into(),
            "receive.message.max.bytes",
        ),
        (
            ((1_i32 << 20) + 1).to_be_bytes().into(),
            "receive.message.max.bytes",
        ),
        (vec![0, 0, 0, 3, 1, 2, 3], "no room for a correlation id"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n".into(), "HTTP"),
        (vec![0x15, 3, 3, 0, 2, 2, 70], "TLS"),
        (b"\0\0\0\x08\x7f\0\0\0\0\0\0\0".into(), "correlation id"),
    ]
}

fn check(liar: &Liar, error: &Error, api: &str, hint: &str) {
    let text = with_causes(error);
    assert_eq!(error.kind(), ErrorKind::Protocol, "{text}");
    assert_eq!(error.operation(), api, "{text}");
    assert!(text.contains(hint), "{text}");
    let broker = error.broker().unwrap_or_default();
    assert!(broker.contains(&liar.bed.bootstrap), "{text}");
}

#[tokio::test]
async fn trap_d_what_is_no_frame_ends_a_writers_connection() {
    for (bytes, hint) in no_frames() {
        let liar = Liar::start(move |_, _| Answer::Raw(bytes.clone())).await;
        let topic = liar.bed.existing("t");
        let error = topic.write(0, &["a"]).await.unwrap_err();
        check(&liar, &error, "Produce", hint);
        assert_eq!(error.fate(), Fate::MaybeWritten);
        assert_eq!(error.partition(), Some(&topic.p(0)));
        until("the connection is closed", || liar.closed() == 1).await;
        assert_eq!(liar.requests(), 1, "it is not tried again");
    }
}

#[tokio::test]
async fn trap_d_what_is_no_frame_ends_a_readers_connection() {
    for (bytes, hint) in no_frames() {
        let liar = Liar::start(move |_, _| Answer::Raw(bytes.clone())).await;
        let topic = liar.bed.existing("t");
        let error = topic.read(0, 5).await.unwrap_err();
        check(&liar, &error, "Fetch", hint);
        assert_eq!(
            (error.partition(), error.offset()),
            (Some(&topic.p(0)), Some(5))
        );
        until("every connection is closed", || {
            liar.closed() == liar.requests()
        })
        .await;
    }
}

#[tokio::test]
async fn trap_d_a_second_answer_ends_the_connection_and_the_next_one_works() {
    let liar = Liar::start(|key, request| {
        assert_eq!(key, PRODUCE);
        // Partition 0 of `t`, offset 7: the right answer, and the same once more.
        let body = b"\0\0\0\x01\0\x01t\0\0\0\x01\0\0\0\0\0\0\0\0\0\0\0\0\0\x07\xff\xff\xff\xff\xff\xff\xff\xff\0\0\0\0";
        let length = (body.len() as i32 + 4).to_be_bytes();
        Answer::Raw([&length[..], &request[4..8], body].concat().repeat(2))
    })
    .await;
    let topic = liar.bed.existing("t");
    for n in 1..=2 {
        assert_eq!(topic.write(0, &["a"]).await.unwrap().base_offset, Some(7));
        until("the connection is closed", || liar.closed() == n).await;
    }
}

/// A batch of two records with `change` made to it, and a checksum that is right again.
fn changed(change: impl FnOnce(&mut BytesMut)) -> BytesMut {
    let mut bytes = BytesMut::from(&batch(&["a", "b"]).bytes()[..]);
    change(&mut bytes);
    let crc = crc32c::crc32c(&bytes[21..]);
    bytes[17..21].copy_from_slice(&crc.to_be_bytes());
    bytes
}

/// The error that a reader of this record set meets, behind what it could read.
async fn met(records: Bytes) -> (usize, Option<DecodeError>) {
    let liar = Liar::start(move |_, _| fetched(records.clone())).await;
    let fetched = liar.bed.existing("t").read(0, 0).await.unwrap();
    let mut good = 0;
    for batch in fetched.records.batches() {
        let records = match batch {
            Ok(batch) => batch.records(),
            Err(error) => return (good, Some(error)),
        };
        for record in records {
            match record {
                Ok(_) => good += 1,
                Err(error) => return (good, Some(error)),
            }
        }
    }
    (good, None)
}

#[tokio::test]
async fn trap_d_batches_that_cannot_be_meet_their_reader() {
    let count =
        |n: i32| move |bytes: &mut BytesMut| bytes[57..61].copy_from_slice(&n.to_be_bytes());
    let malformed = |problem| DecodeError::Malformed { offset: 0, problem };
    let whole = batch(&["a", "b"]);
    let mut bad_crc = BytesMut::from(&whole.bytes()[..]);
    bad_crc[17] ^= 1;
    let magic = changed(|bytes| bytes[16] = 9);
    let codec = changed(|bytes| bytes[22] |= 7);
    let varint = changed(|bytes| bytes[61..67].fill(0xff));

    let (good, error) = met(bad_crc.freeze()).await;
    assert!(matches!(
        (good, error),
        (0, Some(DecodeError::BadCrc { base_offset: 0, .. }))
    ));
    let unknown = DecodeError::UnknownMagic {
        base_offset: 0,
        magic: 9,
    };
    assert_eq!(met(magic.freeze()).await, (0, Some(unknown)));
    let (good, error) = met(codec.freeze()).await;
    assert!(matches!(
        (good, error),
        (0, Some(DecodeError::UnsupportedCodec { codec: 7, .. }))
    ));
    let length = malformed(Problem::RecordLength);
    assert_eq!(met(varint.freeze()).await, (0, Some(length)));
    let above = malformed(Problem::RecordCount);
    assert_eq!(
        met(changed(count(i32::MAX)).freeze()).await,
        (0, Some(above))
    );
    // What stands before it is read all the same, and a cut batch at the end is none at all.
    let mut both = BytesMut::from(&whole.bytes()[..]);
    both.unsplit(changed(|bytes| bytes[16] = 9));
    assert_eq!(met(both.freeze()).await, (2, Some(unknown)));
    let mut cut = BytesMut::from(&whole.bytes()[..]);
    cut.extend_from_slice(&whole.bytes()[..40]);
    assert_eq!(met(cut.freeze()).await, (2, None));
}
