//! Brokers that announce much and send little, and brokers that send as much as they may: what the
//! client takes stays within its bounds. One test, alone in its process: it reads the allocator's
//! high-water mark.

#![allow(clippy::unwrap_used, reason = "tests")]

use bytes::{BufMut, BytesMut};
use ottla_client::transport::{FetchLimits, ProduceOptions, produce_all};
use ottla_client::{Client, ClientConfig, ErrorKind, TransportKind};
use ottla_record_batch::BatchBuilder;
use ottla_types::{Headers, TopicPartition};
use peak_alloc::PeakAlloc;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;

#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

const PATIENCE: Duration = Duration::from_secs(20);
/// Where frames end.
const FRAME_BYTES_MAX: i32 = 64 << 20;
/// Buffers, tasks and caches of a client at work, and what a lie sends, many times over.
const ALLOWED: usize = 8 << 20;

const PRODUCE: u8 = 0;
const FETCH: u8 = 1;
const METADATA: u8 = 3;
const API_VERSIONS: u8 = 18;

struct Lie {
    what: &'static str,
    /// The requests that it answers.
    keys: &'static [u8],
    bytes: Vec<u8>,
    /// Whether the bytes stand behind a length and a correlation id; else they are the stream.
    is_body: bool,
    /// Whether nothing is missing that was announced.
    is_whole: bool,
}

/// A cluster of one broker with topic `t`, that lies to Produce v3 and Fetch v4.
async fn serve(mut stream: TcpStream, port: u16, lie: &Lie) -> std::io::Result<()> {
    loop {
        let length = stream.read_i32().await?;
        let mut request = vec![0; usize::try_from(length).unwrap()];
        stream.read_exact(&mut request).await?;
        let mut answer = BytesMut::from(&request[4..8]);
        let key = request[1];
        if lie.keys.contains(&key) {
            if lie.is_body {
                stream.write_i32(4 + lie.bytes.len() as i32).await?;
                stream.write_all(&answer).await?;
            }
            stream.write_all(&lie.bytes).await?;
            continue;
        }
        match key {
            METADATA => metadata(&mut answer, port),
            API_VERSIONS => {
                answer.put_slice(&[0, 0, 5]);
                for (key, min, max) in [(0, 3, 3), (1, 4, 4), (3, 4, 4), (18, 0, 3)] {
                    answer.put_slice(&[0, key, 0, min, 0, max, 0]);
                }
                answer.put_slice(&[0; 5]);
            }
            _ => return Ok(()),
        }
        stream.write_i32(answer.len() as i32).await?;
        stream.write_all(&answer).await?;
    }
}

/// Metadata v4: broker 1, which leads the one partition of `t`.
fn metadata(answer: &mut BytesMut, port: u16) {
    answer.put_slice(&[0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 9]);
    answer.put_slice(b"127.0.0.1");
    answer.put_i32(port.into());
    // No rack, no cluster id, controller 1, one topic, no error.
    answer.put_slice(&[0xff; 4]);
    answer.put_slice(&[0, 0, 0, 1, 0, 0, 0, 1, 0, 0]);
    answer.put_slice(b"\0\x01t\0\0\0\0\x01\0\0");
    // Partition 0 and its leader; no replicas, none in sync.
    answer.put_slice(&[0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0]);
}

/// What is announced and does not come.
fn lies() -> Vec<Lie> {
    let frame = FRAME_BYTES_MAX.to_be_bytes();
    let huge = i32::MAX.to_be_bytes();
    let topics = [&[0; 4][..], &huge].concat();
    let partitions = [&[0, 0, 0, 0, 0, 0, 0, 1, 0, 1, b't'][..], &huge].concat();
    let fetched = |tail: &[u8]| {
        let head = [
            0, 0, 0, 0, 0, 0, 0, 1, 0, 1, b't', 0, 0, 0, 1, 0, 0, 0, 0, 0, 0,
        ];
        [&head[..], &[0; 16], tail].concat()
    };
    let lie = |what, is_body, bytes| Lie {
        what,
        keys: &[PRODUCE, FETCH],
        bytes,
        is_body,
        is_whole: false,
    };
    let bare = [&frame[..], b"abcd"].concat();
    let records = fetched(&[&[0; 4][..], &huge].concat());
    vec![
        lie("a frame at the limit that does not come", false, bare),
        lie("a frame above the limit", false, huge.into()),
        lie("very many topics", true, topics),
        lie("very many partitions", true, partitions),
        lie("very many aborted transactions", true, fetched(&huge)),
        lie("very many records", true, records),
    ]
}

/// `head`, a count and so many equal elements, as many as the frame may have.
fn whole(what: &'static str, keys: &'static [u8], head: &[u8], element: &[u8]) -> Lie {
    let count = (FRAME_BYTES_MAX as usize - 4 - head.len() - 4) / element.len();
    let mut bytes = head.to_vec();
    bytes.put_i32(count as i32);
    bytes.extend(element.repeat(count));
    Lie {
        what,
        keys,
        bytes,
        is_body: true,
        is_whole: true,
    }
}

/// Whole frames of the smallest elements.
fn full_frames() -> [Lie; 4] {
    let topic = *b"\0\0\0\x01\0\x01t";
    let fetched = [&[0; 4][..], &topic].concat();
    // No throttling, no broker, no cluster id, controller 1, one topic, no error.
    let described = *b"\0\0\0\0\0\0\0\0\xff\xff\0\0\0\x01\0\0\0\x01\0\0\0\x01t\0";
    let mut greeting = whole("versions", &[API_VERSIONS], &[0; 2], &[0; 6]);
    // What is refused is the length, and what comes behind it is not read.
    greeting.bytes.truncate(4 << 20);
    [
        whole("partitions that were fetched", &[FETCH], &fetched, &[0; 30]),
        whole("partitions that were written", &[PRODUCE], &topic, &[0; 22]),
        whole("partitions of a topic", &[METADATA], &described, &[0; 18]),
        greeting,
    ]
}

fn peak_of(work: impl FnOnce()) -> usize {
    let before = ALLOCATOR.current_usage();
    ALLOCATOR.reset_peak_usage();
    work();
    ALLOCATOR.peak_usage().saturating_sub(before)
}

/// Writes to the liar and reads from it, if one may connect to it; what is lied about must fail.
async fn meet(lie: Lie) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (keys, is_body, is_whole) = (lie.keys, lie.is_body, lie.is_whole);
    let lie = Arc::new(lie);
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            let lie = lie.clone();
            connections.spawn(async move { serve(stream, port, &lie).await.unwrap_or(()) });
        }
    });
    let mut config = ClientConfig::new(&format!("127.0.0.1:{port}"));
    config.transport = TransportKind::Native;
    // A whole frame takes its time; what does not come is not waited for.
    let patience = Duration::from_millis(if is_whole { 15_000 } else { 500 });
    config.request_timeout = patience;
    config.connect_timeout = PATIENCE;
    config.max_response_bytes = FRAME_BYTES_MAX as usize;
    let check = |error: &ottla_client::Error| {
        let kind = error.kind();
        let is_expected = kind == ErrorKind::Protocol || kind == ErrorKind::TimedOut && !is_whole;
        assert!(is_expected, "{error:?}");
    };
    let client = match Client::connect(config).await {
        Ok(client) => client,
        Err(error) => {
            assert!(
                !keys.contains(&PRODUCE) && !keys.contains(&FETCH),
                "{error:?}"
            );
            return check(&error);
        }
    };
    let partition = TopicPartition::new("t", 0);

    if keys.contains(&PRODUCE) {
        let mut builder = BatchBuilder::new(1000);
        builder
            .try_append(1, None, Some(b"v"), &Headers::new())
            .unwrap();
        let options = ProduceOptions {
            timeout: 2 * patience,
            ..ProduceOptions::default()
        };
        let batches = vec![(partition.clone(), builder.finish())];
        let written = produce_all(&**client.transport(), &options, batches);
        let written = timeout(2 * PATIENCE, written).await.unwrap();
        for (_, result) in written {
            check(&result.unwrap_err());
        }
    }
    let limits = FetchLimits {
        max_wait: 4 * patience,
        min_bytes: 1,
        max_partition_bytes: 1 << 20,
        max_bytes: 50 << 20,
        read_ahead_bytes: 0,
    };
    if keys.contains(&FETCH) {
        let wanted = vec![(partition, 0.into())];
        let read = client.transport().fetch(limits, wanted);
        let answers = timeout(4 * PATIENCE, read).await.unwrap();
        // What is announced may still come.
        assert!(!answers.is_empty() || !is_body);
        answers
            .iter()
            .for_each(|(_, result)| check(result.as_ref().unwrap_err()));
    }
    client.close().await;
}

fn peak_of_meeting(lie: Lie) -> usize {
    peak_of(|| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        runtime.unwrap().block_on(meet(lie));
    })
}

#[test]
fn trap_d_what_is_announced_and_what_is_sent_stay_within_their_memory() {
    for lie in lies() {
        let what = lie.what;
        let peak = peak_of_meeting(lie);
        assert!(peak <= ALLOWED, "{what}: {peak} bytes of {ALLOWED}");
    }
    for lie in full_frames() {
        let (what, keys) = (lie.what, lie.keys);
        let peak = peak_of_meeting(lie);
        // The frame, and what it grew out of; before authentication there is no such frame.
        let frame = FRAME_BYTES_MAX as usize * 3 / 2;
        let right = ALLOWED + if keys == [API_VERSIONS] { 0 } else { frame };
        assert!(peak <= right, "{what}: {peak} bytes of {right}");
    }
}
