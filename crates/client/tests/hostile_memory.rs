//! Brokers that announce much and send little: what the client takes stays within its bounds. One
//! test, alone in its process: it reads the allocator's high-water mark.

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
/// Where frames end; what a hostile frame may take is a small multiple of what it *sends*.
const FRAME_BYTES_MAX: i32 = 64 << 20;
/// Buffers, tasks and caches of a client at work, and what a lie sends, many times over.
const ALLOWED: usize = 8 << 20;

/// Behind the correlation id, or bytes of the stream as they are.
enum Lie {
    Body(Vec<u8>),
    Stream(Vec<u8>),
}

/// A cluster of one broker with topic `t`, that lies to Produce v3 and Fetch v4.
async fn serve(mut stream: TcpStream, port: u16, lie: &Lie) -> std::io::Result<()> {
    loop {
        let length = stream.read_i32().await?;
        let mut request = vec![0; usize::try_from(length).unwrap()];
        stream.read_exact(&mut request).await?;
        let mut answer = BytesMut::from(&request[4..8]);
        match (request[1], lie) {
            (0 | 1, Lie::Body(body)) => answer.put_slice(body),
            (0 | 1, Lie::Stream(bytes)) => {
                stream.write_all(bytes).await?;
                continue;
            }
            (3, _) => metadata(&mut answer, port),
            _ => {
                answer.put_slice(&[0, 0, 5]);
                for (key, min, max) in [(0, 3, 3), (1, 4, 4), (3, 4, 4), (18, 0, 3)] {
                    answer.put_slice(&[0, key, 0, min, 0, max, 0]);
                }
                answer.put_slice(&[0; 5]);
            }
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

fn lies() -> Vec<(&'static str, Lie)> {
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
    vec![
        (
            "a frame at the limit that does not come",
            Lie::Stream([&frame[..], b"abcd"].concat()),
        ),
        ("a frame above the limit", Lie::Stream(huge.into())),
        ("very many topics", Lie::Body(topics)),
        ("very many partitions", Lie::Body(partitions)),
        ("very many aborted transactions", Lie::Body(fetched(&huge))),
        (
            "very many records",
            Lie::Body(fetched(&[&[0; 4][..], &huge].concat())),
        ),
    ]
}

fn peak_of(work: impl FnOnce()) -> usize {
    let before = ALLOCATOR.current_usage();
    ALLOCATOR.reset_peak_usage();
    work();
    ALLOCATOR.peak_usage().saturating_sub(before)
}

/// Writes to the liar and reads from it; both must fail.
async fn meet(lie: Lie) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
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
    config.request_timeout = Duration::from_millis(500);
    config.max_response_bytes = FRAME_BYTES_MAX as usize;
    let client = Client::connect(config).await.unwrap();
    let partition = TopicPartition::new("t", 0);

    let mut builder = BatchBuilder::new(1000);
    builder
        .try_append(1, None, Some(b"v"), &Headers::new())
        .unwrap();
    let options = ProduceOptions {
        timeout: Duration::from_secs(1),
        ..ProduceOptions::default()
    };
    let batches = vec![(partition.clone(), builder.finish())];
    let written = produce_all(&**client.transport(), &options, batches);
    for (_, result) in timeout(PATIENCE, written).await.unwrap() {
        let kind = result.unwrap_err().kind();
        assert!(
            matches!(kind, ErrorKind::Protocol | ErrorKind::TimedOut),
            "{kind:?}"
        );
    }
    let limits = FetchLimits {
        max_wait: Duration::from_secs(2),
        min_bytes: 1,
        max_partition_bytes: 1 << 20,
        max_bytes: 50 << 20,
        read_ahead_bytes: 0,
    };
    let wanted = vec![(partition, 0.into())];
    let read = client.transport().fetch(limits, wanted);
    let answers = timeout(PATIENCE, read).await.unwrap();
    assert!(answers.iter().all(|(_, result)| result.is_err()));
    client.close().await;
}

#[test]
fn trap_d_lies_about_sizes_take_no_memory() {
    for (what, lie) in lies() {
        let peak = peak_of(|| {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            runtime.unwrap().block_on(meet(lie));
        });
        assert!(peak <= ALLOWED, "{what}: {peak} bytes of {ALLOWED}");
    }
}
