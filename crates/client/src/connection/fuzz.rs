//! Fuzz targets: how the bytes of a broker are cut into frames, and every answer that is decoded
//! by the messages' crate, with what is made of it.
//!
//! What must hold: no panic, an answer that breaks the protocol is refused, and what is reserved is
//! a small multiple of what came.

use super::frame::{FrameError, next_frame};
use super::intake::Intake;
use super::{Api, decode_answer, elements_max};
use crate::{Error, convert, metadata};
use allocation_counter::measure;
use bytes::{BufMut, Bytes, BytesMut};
use futures_util::FutureExt;
use kafka_protocol::messages as m;
use ottla_types::{ProducerId, TopicPartition};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, ReadBuf};

/// How often `cargo test` runs each target, besides the corpus.
const ROUNDS: usize = 1000;
/// What an answer of nothing but the smallest elements takes, a byte.
const FACTOR: usize = 32;
/// What an error takes, which may have a backtrace in it.
const ERROR_BYTES: usize = 64 << 10;

fn cut(stream: &[u8], chunk: usize, limit: usize) -> (Vec<Bytes>, Option<FrameError>) {
    let mut buffer = BytesMut::new();
    let mut frames = Vec::new();
    for part in stream.chunks(chunk.max(1)) {
        buffer.extend_from_slice(part);
        loop {
            match next_frame(&mut buffer, limit) {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(error) => return (frames, Some(error)),
            }
        }
    }
    (frames, None)
}

#[test]
fn fuzz_frames() {
    const LIMIT: usize = 512;
    bolero::check!()
        .with_iterations(ROUNDS)
        .for_each(|input: &[u8]| {
            let Some((&chunk, stream)) = input.split_first() else {
                return;
            };
            let mut whole = None;
            let taken = measure(|| whole = Some(cut(stream, stream.len(), LIMIT)));
            // The stream, and a handle for each frame, which is eight bytes at least.
            let most = 2 * stream.len() + 16 * stream.len() + 4096;
            assert!(
                taken.bytes_max <= most as u64,
                "{taken:?}, {most} are right"
            );
            let (frames, error) = whole.unwrap_or_default();
            assert!(
                frames
                    .iter()
                    .all(|frame| (4..=LIMIT).contains(&frame.len()))
            );
            // However the bytes come, they are the same frames, and the same end.
            assert_eq!(cut(stream, usize::from(chunk), LIMIT), (frames, error));
        });
}

/// A stream that comes in pieces.
struct Pieces<'a> {
    left: &'a [u8],
    most: usize,
}

impl AsyncRead for Pieces<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let size = self.left.len().min(self.most).min(into.remaining());
        let (piece, left) = self.left.split_at(size);
        into.put_slice(piece);
        self.left = left;
        Poll::Ready(Ok(()))
    }
}

/// Frames of every size come out as they went in, however they are cut and however long each is
/// held; what is reserved follows what has arrived.
#[test]
fn fuzz_intake() {
    const LIMIT: usize = 1 << 20;
    /// Buffers that are kept for their next use.
    const SPARES: usize = 9 << 20;
    bolero::check!()
        .with_iterations(ROUNDS / 10)
        .with_type::<(u16, u8, Vec<u32>, u32)>()
        .for_each(|(most, held, sizes, announced)| {
            let mut stream = Vec::new();
            let mut sent = Vec::new();
            for (n, size) in sizes.iter().take(8).enumerate() {
                // Around the size from which a frame has a buffer of its own, or small.
                let size = 4 + *size as usize % if size % 3 == 0 { 200_000 } else { 64 };
                let frame = vec![n as u8; size];
                stream.put_u32(size as u32);
                stream.put_slice(&frame);
                sent.push(frame);
            }
            // A frame that is announced and does not come.
            let announced = 4 + announced % (LIMIT as u32 - 4);
            stream.put_u32(announced);
            let mut reader = Pieces {
                left: &stream,
                most: usize::from(*most) + 1,
            };
            let mut got = Vec::new();
            let taken = measure(|| {
                let mut intake = Intake::default();
                let mut in_use = std::collections::VecDeque::new();
                loop {
                    let read = intake.read(&mut reader).now_or_never();
                    if read.and_then(Result::ok).unwrap_or(0) == 0 {
                        break;
                    }
                    while let Some(frame) = intake.next_frame(LIMIT).unwrap_or(None) {
                        got.push(frame.first().copied().map(|byte| (byte, frame.len())));
                        assert!(frame.iter().all(|byte| Some(byte) == frame.first()));
                        in_use.push_back(frame);
                        if in_use.len() > usize::from(held % 4) {
                            in_use.pop_front();
                        }
                    }
                }
            });
            let expected = sent
                .iter()
                .map(|frame| frame.first().map(|byte| (*byte, frame.len())));
            assert!(got.iter().copied().eq(expected), "{got:?}");
            let right = 3 * stream.len() + SPARES;
            assert!(
                taken.bytes_max <= right as u64,
                "{taken:?}, {right} are right"
            );
        });
}

type Try = fn(Bytes, i16) -> Result<(), Error>;

/// Decodes the API's answer and does with it what the client does.
fn tried<A: Api>(frame: Bytes, version: i16, used: fn(A::Answer, i16)) -> Result<(), Error> {
    decode_answer::<A>(frame, version, elements_max(0)).map(|answer| used(answer, version))
}

macro_rules! answers {
    ($($request:ident => $used:expr,)+) => {
        /// Every API: its name, its versions, and how its answer is read.
        const ANSWERS: &[(&str, i16, i16, Try)] = &[$((
            <m::$request as Api>::NAME,
            *<m::$request as Api>::VERSIONS.start(),
            *<m::$request as Api>::VERSIONS.end(),
            |frame, version| tried::<m::$request>(frame, version, $used),
        ),)+];
    };
}

answers! {
    ApiVersionsRequest => |_, _| {},
    ListOffsetsRequest => |_, _| {},
    MetadataRequest => |answer, _| drop(metadata::read_topics(answer.topics)),
    FindCoordinatorRequest => |answer, version| {
        if let Ok(found) = convert::found_coordinator(&answer, version, &"g".into()) {
            assert!(!found.error.is_ok() || (1..=65_535).contains(&found.port));
        }
    },
    JoinGroupRequest => |answer, _| drop(convert::join_answer(answer)),
    SyncGroupRequest => |answer, _| drop(convert::sync_answer(answer)),
    HeartbeatRequest => |_, _| {},
    LeaveGroupRequest => |answer, _| {
        convert::leave_answer(&answer);
    },
    OffsetCommitRequest => |answer, _| drop(convert::commit_answer(answer, wanted())),
    OffsetFetchRequest => |answer, version| {
        if let Ok(read) = convert::fetch_answer(answer, version, &"g".into(), &wanted()) {
            assert!(read.offsets.iter().all(|fetched| fetched.offset.is_none_or(|at| at >= 0)));
        }
    },
    CreateTopicsRequest => |_, _| {},
    DeleteTopicsRequest => |_, _| {},
    InitProducerIdRequest => |answer, _| drop(convert::transactions::init_answer(&answer)),
    AddPartitionsToTxnRequest => |answer, _| {
        drop(convert::transactions::add_partitions_answer(&answer, wanted()));
    },
    AddOffsetsToTxnRequest => |_, _| {},
    EndTxnRequest => |answer, version| {
        let had = ProducerId { id: 1, epoch: 1 };
        drop(convert::transactions::end_answer(&answer, version, had));
    },
    TxnOffsetCommitRequest => |answer, _| {
        drop(convert::transactions::commit_answer(&answer, wanted()));
    },
    SaslHandshakeRequest => |_, _| {},
    SaslAuthenticateRequest => |_, _| {},
    ConsumerGroupHeartbeatRequest => |answer, _| drop(convert::consumer::answer(answer)),
    DescribeConfigsRequest => |_, _| {},
    IncrementalAlterConfigsRequest => |_, _| {},
    CreatePartitionsRequest => |_, _| {},
    DeleteRecordsRequest => |_, _| {},
    DescribeGroupsRequest => |_, _| {},
    ConsumerGroupDescribeRequest => |_, _| {},
    ListGroupsRequest => |_, _| {},
    DeleteGroupsRequest => |_, _| {},
    OffsetDeleteRequest => |_, _| {},
    DescribeClusterRequest => |_, _| {},
    OffsetForLeaderEpochRequest => |_, _| {},
}

fn wanted() -> Vec<TopicPartition> {
    vec![TopicPartition::new("t", 0), TopicPartition::new("t", 1)]
}

/// An API that is not in the list above would be one that nobody tries.
#[test]
fn every_api_is_fuzzed() {
    let sources = [
        include_str!("api.rs"),
        include_str!("api/admin.rs"),
        include_str!("sasl/messages.rs"),
    ];
    let lines = sources.iter().flat_map(|source| source.lines());
    // `Name, NameRequest -> NameResponse, ...` and `const NAME: &'static str = "Name";`.
    let names = lines.filter_map(|line| match line.split_once("Request -> ") {
        Some((head, _)) if !head.contains('$') => head.split(',').next(),
        _ => line
            .strip_prefix("    const NAME: &'static str = \"")?
            .split('"')
            .next(),
    });
    let mut count = 0;
    for name in names {
        let name = name.trim();
        count += 1;
        let is_known = ANSWERS.iter().any(|(known, ..)| *known == name);
        assert!(is_known, "add {name} to the list of answers in this file");
    }
    assert_eq!(count, ANSWERS.len());
}

#[test]
fn fuzz_answers() {
    bolero::check!()
        .with_iterations(ROUNDS)
        .for_each(|input: &[u8]| {
            let Some((&[api, version], body)) = input.split_first_chunk::<2>() else {
                return;
            };
            let (_, min, max, read) = ANSWERS[usize::from(api) % ANSWERS.len()];
            let version = min + i16::from(version) % (max - min + 1);
            let mut frame = BytesMut::with_capacity(4 + body.len());
            frame.put_i32(7);
            frame.put_slice(body);
            let frame = frame.freeze();
            let taken = measure(|| {
                let _ = read(frame, version);
            });
            let most = FACTOR * body.len() + ERROR_BYTES;
            assert!(
                taken.bytes_max <= most as u64,
                "{taken:?}, {most} are right"
            );
        });
}
