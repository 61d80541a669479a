//! What comes from a socket is untrusted: each answer that no broker would give is a typed error
//! that names broker and API, within the time limit, and nothing hangs.

#![allow(clippy::unwrap_used, reason = "a test's helpers fail by panicking")]

use ottla_client::{Client, ClientConfig, Error, ErrorKind};
use std::error::Error as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

const CONNECT_TIMEOUT: Duration = Duration::from_millis(800);
/// Above every time limit of these tests, below the patience of whoever runs them.
const MARGIN: Duration = Duration::from_secs(5);

const METADATA: i16 = 3;
const API_VERSIONS: i16 = 18;

enum Reply {
    Bytes(Vec<u8>),
    BytesThenClose(Vec<u8>),
    Silence,
}

/// A request as the listener sees it: API key, version, correlation id.
struct Request {
    key: i16,
    version: i16,
    correlation_id: i32,
}

impl Request {
    fn answer(&self, body: &[u8]) -> Vec<u8> {
        answer(self.correlation_id, body)
    }
}

fn answer(correlation_id: i32, body: &[u8]) -> Vec<u8> {
    let length = i32::try_from(body.len() + 4).unwrap();
    [&length.to_be_bytes(), &correlation_id.to_be_bytes(), body].concat()
}

/// Says that Metadata is spoken up to `metadata_max`, in the form of ApiVersions v3.
fn versions(request: &Request, metadata_max: u8) -> Reply {
    let body = [
        &[0, 0, 3][..],
        &[0, 18, 0, 0, 0, 3, 0],
        &[0, 3, 0, 0, 0, metadata_max, 0],
        &[0, 0, 0, 0, 0],
    ];
    Reply::Bytes(request.answer(&body.concat()))
}

/// A listener that answers each request as `script` says.
struct FakeBroker {
    address: SocketAddr,
    _tasks: JoinSet<()>,
}

impl FakeBroker {
    async fn start(script: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let script = Arc::new(script);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let script = script.clone();
                connections.spawn(async move { serve(stream, &*script).await.unwrap_or(()) });
            }
        });
        Self {
            address,
            _tasks: tasks,
        }
    }

    async fn connect(&self) -> Error {
        connect(&self.address.to_string()).await
    }
}

async fn serve(
    mut stream: TcpStream,
    script: &(impl Fn(&Request) -> Reply + ?Sized),
) -> std::io::Result<()> {
    loop {
        let length = stream.read_i32().await?;
        let mut frame = vec![0; usize::try_from(length).unwrap()];
        stream.read_exact(&mut frame).await?;
        let request = Request {
            key: i16::from_be_bytes([frame[0], frame[1]]),
            version: i16::from_be_bytes([frame[2], frame[3]]),
            correlation_id: i32::from_be_bytes([frame[4], frame[5], frame[6], frame[7]]),
        };
        match script(&request) {
            Reply::Bytes(bytes) => stream.write_all(&bytes).await?,
            Reply::BytesThenClose(bytes) => return stream.write_all(&bytes).await,
            Reply::Silence => std::future::pending().await,
        }
    }
}

/// The error of a connect that must fail within the connect timeout.
async fn connect(bootstrap: &str) -> Error {
    let config = ClientConfig {
        connect_timeout: CONNECT_TIMEOUT,
        request_timeout: CONNECT_TIMEOUT,
        ..ClientConfig::new(bootstrap)
    };
    let start = Instant::now();
    let result = Client::connect(config).await;
    assert!(
        start.elapsed() < CONNECT_TIMEOUT + MARGIN,
        "took {:?}",
        start.elapsed()
    );
    result.expect_err("nothing there is a broker")
}

fn causes(error: &Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

fn assert_protocol(broker: &FakeBroker, error: &Error, api: &str, hint: &str) {
    let text = causes(error);
    assert_eq!(error.kind(), ErrorKind::Protocol, "{text}");
    assert_eq!(error.operation(), api, "{text}");
    let address = broker.address.to_string();
    assert!(
        error
            .broker()
            .is_some_and(|broker| broker.contains(&address)),
        "{text}"
    );
    assert!(text.contains(hint), "{text}");
    assert!(!error.is_retriable());
}

#[tokio::test]
async fn trap_d_an_http_answer_is_recognised() {
    let reply = |_: &Request| Reply::BytesThenClose(b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec());
    let broker = FakeBroker::start(reply).await;
    assert_protocol(&broker, &broker.connect().await, "ApiVersions", "HTTP");
}

#[tokio::test]
async fn trap_d_a_tls_answer_is_recognised() {
    let reply = |_: &Request| Reply::BytesThenClose(vec![0x15, 3, 3, 0, 2, 2, 70]);
    let broker = FakeBroker::start(reply).await;
    assert_protocol(&broker, &broker.connect().await, "ApiVersions", "TLS");
}

#[tokio::test]
async fn trap_d_a_negative_length_is_refused() {
    let broker = FakeBroker::start(|_| Reply::Bytes(vec![0xff; 4])).await;
    assert_protocol(&broker, &broker.connect().await, "ApiVersions", "negative");
}

#[tokio::test]
async fn trap_d_a_huge_length_is_refused_before_it_is_reserved() {
    let huge = |_: &Request| Reply::Bytes(0x7000_0000_i32.to_be_bytes().to_vec());
    let broker = FakeBroker::start(huge).await;
    let hint = "receive.message.max.bytes";
    assert_protocol(&broker, &broker.connect().await, "ApiVersions", hint);
}

#[tokio::test]
async fn trap_d_a_wrong_correlation_id_is_refused() {
    let wrong = |request: &Request| Reply::Bytes(answer(request.correlation_id + 1, b"\0\0"));
    let broker = FakeBroker::start(wrong).await;
    assert_protocol(
        &broker,
        &broker.connect().await,
        "ApiVersions",
        "correlation id",
    );
}

#[tokio::test]
async fn trap_d_a_second_answer_ends_the_connection() {
    let twice = |request: &Request| match versions(request, 8) {
        Reply::Bytes(bytes) => Reply::Bytes(bytes.repeat(2)),
        reply => reply,
    };
    let broker = FakeBroker::start(twice).await;
    let error = broker.connect().await;
    let kinds = [ErrorKind::Protocol, ErrorKind::ConnectionLost];
    assert!(kinds.contains(&error.kind()), "{}", causes(&error));
}

#[tokio::test]
async fn trap_d_a_garbage_body_is_refused() {
    let garbage = |request: &Request| match request.key {
        API_VERSIONS => Reply::Bytes(request.answer(&[0, 0, 0xff, 0xff, 0xff, 0xff, 0x07, 9])),
        _ => Reply::Silence,
    };
    let broker = FakeBroker::start(garbage).await;
    assert_protocol(&broker, &broker.connect().await, "ApiVersions", "announced");
}

#[tokio::test]
async fn trap_d_a_count_above_what_is_left_reserves_nothing() {
    for (metadata_max, count) in [
        (8, &[0x7f, 0xff, 0xff, 0xff][..]),
        (12, &[0xff, 0xff, 0xff, 0xff, 0x0f][..]),
    ] {
        let broker = FakeBroker::start(move |request| match request.key {
            API_VERSIONS => versions(request, metadata_max),
            _ if metadata_max >= 9 => {
                Reply::Bytes(request.answer(&[&[0, 0, 0, 0, 0], count].concat()))
            }
            _ => Reply::Bytes(request.answer(&[&[0, 0, 0, 0], count].concat())),
        })
        .await;
        assert_protocol(&broker, &broker.connect().await, "Metadata", "elements");
    }
}

#[tokio::test]
async fn trap_d_an_answer_cut_off_in_the_middle_is_a_lost_connection() {
    let cut = |request: &Request| match request.key {
        API_VERSIONS => versions(request, 8),
        _ => Reply::BytesThenClose(request.answer(&[0; 40])[..20].to_vec()),
    };
    let broker = FakeBroker::start(cut).await;
    let error = broker.connect().await;
    assert_eq!(
        error.kind(),
        ErrorKind::ConnectionLost,
        "{}",
        causes(&error)
    );
    assert_eq!(error.operation(), "Metadata");
    assert!(error.is_retriable());
}

#[tokio::test]
async fn trap_d_a_port_that_closes_at_once_gets_a_hint() {
    let broker = FakeBroker::start(|_| Reply::BytesThenClose(Vec::new())).await;
    let error = broker.connect().await;
    assert_eq!(error.kind(), ErrorKind::Connect, "{}", causes(&error));
    assert!(causes(&error).contains("TLS or SASL"), "{}", causes(&error));
}

#[tokio::test]
async fn trap_a7_a_half_open_socket_ends_at_the_connect_timeout() {
    let broker = FakeBroker::start(|_| Reply::Silence).await;
    let error = broker.connect().await;
    assert_eq!(error.kind(), ErrorKind::Connect, "{}", causes(&error));
}

#[tokio::test]
async fn trap_a7_a_broker_that_falls_silent_ends_at_the_deadline() {
    let silent = |request: &Request| match request.key {
        API_VERSIONS => versions(request, 8),
        _ => Reply::Silence,
    };
    let broker = FakeBroker::start(silent).await;
    let error = broker.connect().await;
    assert_eq!(error.kind(), ErrorKind::TimedOut, "{}", causes(&error));
    assert_eq!(error.operation(), "Metadata");
}

#[tokio::test]
async fn trap_a7_a_port_that_refuses_and_a_name_that_does_not_resolve_fail_in_time() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let refusing = listener.local_addr().unwrap().to_string();
    drop(listener);
    let error = connect(&refusing).await;
    assert_eq!(error.kind(), ErrorKind::Connect, "{}", causes(&error));
    let error = connect("no-such-host.invalid:9092").await;
    assert_eq!(error.kind(), ErrorKind::Connect, "{}", causes(&error));
}

#[tokio::test]
async fn trap_a7_every_bad_address_is_named() {
    let silent = FakeBroker::start(|_| Reply::Silence).await;
    let http = FakeBroker::start(|_| Reply::BytesThenClose(b"HTTP/1.1 400\r\n\r\n".to_vec())).await;
    let both = format!("{},{}", silent.address, http.address);
    let error = connect(&both).await;
    assert_eq!(error.kind(), ErrorKind::Connect);
    for broker in [&silent, &http] {
        let address = broker.address.to_string();
        assert!(causes(&error).contains(&address), "{}", causes(&error));
    }
}

#[tokio::test]
async fn a_broker_without_api_versions_3_is_asked_with_0() {
    let old = |request: &Request| match (request.key, request.version) {
        (API_VERSIONS, 0) => {
            // One range: Metadata 0 to 1, which is below what this client speaks.
            Reply::Bytes(request.answer(&[0, 0, 0, 0, 0, 1, 0, 3, 0, 0, 0, 1]))
        }
        (API_VERSIONS, _) => Reply::Bytes(request.answer(&[0, 35, 0, 0, 0, 0])),
        (METADATA, _) => panic!("asked in a version that the broker does not speak"),
        _ => Reply::Silence,
    };
    let broker = FakeBroker::start(old).await;
    let error = broker.connect().await;
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{}", causes(&error));
    assert!(
        causes(&error).contains("broker 0 to 1"),
        "{}",
        causes(&error)
    );
}
