//! A broker whose answers hold numbers that cannot be: a typed error of the call, no panic.

use crate::bed::*;
use bytes::{BufMut, BytesMut};
use ottla_client::transport::{OffsetSpec, RskafkaTransport, Transport};
use ottla_client::{Error, ErrorKind};
use ottla_types::Fate;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

/// The one broker of a cluster with topic `t`; every offset that it tells starts from `base`.
struct Liar {
    transport: RskafkaTransport,
    _tasks: JoinSet<()>,
}

impl Liar {
    async fn start(base: i64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                // A connection that the client closes ends with an error here.
                connections.spawn(async move { serve(stream, port, base).await.unwrap_or(()) });
            }
        });
        let settings = settings(&format!("127.0.0.1:{port}"));
        let transport = RskafkaTransport::connect(settings, Instant::now() + PATIENCE).await;
        Self {
            transport: transport.unwrap(),
            _tasks: tasks,
        }
    }

    async fn produce(&self, values: &[&str]) -> Result<Option<i64>, Error> {
        let produced = produce(&self.transport, 0, values, PATIENCE).await;
        produced.map(|written| written.base_offset)
    }
}

async fn serve(mut stream: TcpStream, port: u16, base: i64) -> std::io::Result<()> {
    loop {
        let length = stream.read_i32().await?;
        let mut request = vec![0; usize::try_from(length).unwrap()];
        stream.read_exact(&mut request).await?;
        let mut answer = BytesMut::from(&request[4..8]);
        match request[1] {
            0 => {
                partition(&mut answer);
                answer.put_i64(base);
                answer.put_i64(-1);
                answer.put_i32(0);
            }
            1 => {
                answer.put_i32(0);
                partition(&mut answer);
                answer.put_i64(i64::MAX);
                answer.put_i64(i64::MAX);
                answer.put_i32(0); // no aborted transaction
                // The checksum does not cover the base offset.
                let batch = batch(&["a", "b"]);
                answer.put_i32(batch.bytes().len() as i32);
                answer.put_i64(base);
                answer.put_slice(&batch.bytes()[8..]);
            }
            2 => {
                partition(&mut answer);
                answer.put_i64(-1);
                answer.put_i64(base);
            }
            3 => metadata(&mut answer, port),
            _ => versions(&mut answer),
        }
        stream.write_i32(answer.len() as i32).await?;
        stream.write_all(&answer).await?;
    }
}

/// One topic `t` with one partition 0, no error.
fn partition(answer: &mut BytesMut) {
    answer.put_slice(&[0, 0, 0, 1, 0, 1, b't', 0, 0, 0, 1]);
    answer.put_slice(&[0, 0, 0, 0, 0, 0]);
}

/// Metadata v1.
fn metadata(answer: &mut BytesMut, port: u16) {
    answer.put_slice(&[0, 0, 0, 1, 0, 0, 0, 1]); // one broker, number 1
    answer.put_slice(&[0, 9]);
    answer.put_slice(b"127.0.0.1");
    answer.put_i32(port.into());
    answer.put_slice(&[0xff, 0xff, 0, 0, 0, 1]); // no rack, controller 1
    answer.put_slice(&[0, 0, 0, 1, 0, 0, 0, 1, b't', 0]); // one topic
    answer.put_slice(&[0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]); // partition 0, led by 1
    answer.put_slice(&[0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1]); // replicas, in sync
}

/// ApiVersions v3: Produce 3, Fetch 4, ListOffsets 1, Metadata 1, ApiVersions 0 to 3.
fn versions(answer: &mut BytesMut) {
    answer.put_slice(&[0, 0, 6]);
    for (key, min, max) in [(0, 3, 3), (1, 4, 4), (2, 1, 1), (3, 1, 1), (18, 0, 3)] {
        answer.put_slice(&[0, key, 0, min, 0, max, 0]);
    }
    answer.put_slice(&[0, 0, 0, 0, 0]);
}

#[tokio::test]
async fn trap_d_a_base_offset_near_the_end_of_the_range_is_a_typed_error() {
    let liar = Liar::start(i64::MAX).await;
    assert_eq!(liar.produce(&["a"]).await.unwrap(), Some(i64::MAX));
    let begun = Instant::now();
    let error = liar.produce(&["a", "b"]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Protocol, "{error}");
    assert_eq!(
        (error.partition(), error.operation()),
        (Some(&p(0)), "Produce")
    );
    assert_eq!(
        (error.fate(), error.is_retriable()),
        (Fate::MaybeWritten, false)
    );
    assert!(std::error::Error::source(&error).is_some());
    assert!(begun.elapsed() < PATIENCE / 2, "it is not tried again");
    assert_eq!(liar.produce(&["a"]).await.unwrap(), Some(i64::MAX));
}

#[tokio::test]
async fn trap_d_a_negative_base_offset_is_a_typed_error_and_minus_one_says_nothing() {
    let liar = Liar::start(-7).await;
    let error = liar.produce(&["a", "b"]).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.fate()),
        (ErrorKind::Protocol, Fate::MaybeWritten)
    );
    let silent = Liar::start(-1).await;
    assert_eq!(silent.produce(&["a", "b"]).await.unwrap(), None);
}

#[tokio::test]
async fn trap_d_a_batch_whose_offsets_overflow_is_a_typed_error_at_the_position() {
    let liar = Liar::start(i64::MAX).await;
    let error = fetch_one(&liar.transport, 0, 5).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Protocol, "{error}");
    assert_eq!((error.partition(), error.offset()), (Some(&p(0)), Some(5)));
    assert_eq!(error.fate(), Fate::NotWritten);

    // The transport is usable: what it makes of the next answer is the broker's word.
    let wanted = vec![(p(0), OffsetSpec::Latest)];
    let found = timeout(PATIENCE, liar.transport.list_offsets(PATIENCE, wanted)).await;
    assert_eq!(found.unwrap()[0].1.as_ref().unwrap().offset, i64::MAX);
}
