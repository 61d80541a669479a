//! One connection to one broker: frames, correlation ids, versions and deadlines, TLS and SASL.
//!
//! Every socket of this crate's own requests is made by the [`Connector`], which owns their tasks
//! too. A [`Connection`] is a cheap handle; when the last one is dropped the socket closes.

mod api;
mod driver;
mod exchange;
mod frame;
#[cfg(test)]
mod fuzz;
mod idleness;
mod intake;
mod layout;
mod meters;
mod outflow;
mod raw;
mod request_frame;
mod sasl;
mod secure;
mod tasks;
#[cfg(feature = "tls")]
mod tls;

pub(crate) use api::Api;
pub(crate) use exchange::{Refused, Reply};
pub(crate) use intake::FrameBytes;
pub(crate) use meters::{Meters, api_label};
pub(crate) use raw::Slot;
pub(crate) use request_frame::RequestFrame;
pub(crate) use secure::Security;
pub(crate) use tasks::Tasks;
#[cfg(feature = "tls")]
pub use tls::TlsClient;

use crate::{Error, ErrorKind};
use bytes::{BufMut, Bytes, BytesMut};
use driver::Driver;
use exchange::{Closed, Exchange, Request};
use idleness::Idleness;
use kafka_protocol::messages::{ApiVersionsRequest, RequestHeader, ResponseHeader};
use kafka_protocol::protocol::{Decodable, Encodable, HeaderVersion, StrBytes};
use ottla_types::ErrorCode;
use secure::Wire;
use socket2::{SockRef, TcpKeepalive};
use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, lookup_host};
use tokio::sync::{RwLock, oneshot};
use tokio::time::{Instant, timeout_at};
use tracing::Instrument;

/// A peer that died without a word is noticed after about a minute, whether the connection is idle or
/// its request waits, as a JoinGroup does for longer than that; else at the request's deadline.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
/// Probes without an answer that end a connection.
#[cfg(any(target_os = "linux", target_os = "android"))]
const KEEPALIVE_PROBES: u32 = 3;
/// How long data that was sent may stay unacknowledged (RFC 5482): the system alone would go on for a
/// quarter of an hour, and probes nothing meanwhile.
#[cfg(any(target_os = "linux", target_os = "android"))]
const UNACKNOWLEDGED_MAX: Duration = Duration::from_secs(60);

/// Makes connections, all with the same settings, and owns their tasks.
#[derive(Debug)]
pub(crate) struct Connector {
    pub client_id: String,
    pub connect_timeout: Duration,
    /// How long a connection may have nothing to do.
    pub idle_max: Duration,
    pub response_bytes_max: usize,
    pub security: Security,
    pub tasks: Tasks,
    /// What answers take that somebody still reads.
    pub frames: FrameBytes,
    /// Plays a broker that speaks no version above these, by API key.
    #[cfg(test)]
    pub version_caps: HashMap<i16, i16>,
}

/// Why no connection could be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectCause {
    #[error("the host name could not be resolved")]
    Resolve(#[source] io::Error),
    #[error("the host name resolves to no address")]
    NoAddress,
    #[error("connecting to {0} failed")]
    Tcp(SocketAddr, #[source] io::Error),
    #[error("no connection within {} ms", .0.as_millis())]
    TimedOut(Duration),
    #[cfg(feature = "tls")]
    #[error("`{0}` is no name that a certificate can be for")]
    TlsName(String),
    #[cfg(feature = "tls")]
    #[error("the TLS handshake failed; does the port speak TLS?")]
    Tls(#[source] io::Error),
    #[error("the broker ended the connection before authentication was through")]
    Authentication(#[source] Error),
    #[error("the broker did not answer the first request; does the port expect TLS or SASL?")]
    NoAnswer(#[source] Error),
}

impl Connector {
    /// Connects to `address` (`host:port`), agrees on versions and authenticates. `broker` names it
    /// in errors.
    ///
    /// Ends at `deadline` or after the connect timeout, whichever is earlier.
    pub(crate) async fn connect(
        &self,
        broker: Arc<str>,
        address: &str,
        deadline: Instant,
    ) -> Result<Connection, Error> {
        let start = Instant::now();
        let deadline = deadline.min(start + self.connect_timeout);
        let span = tracing::debug_span!("connect", broker = &*broker);
        let attempt = self.connect_until(broker.clone(), address, deadline);
        let result = match timeout_at(deadline, attempt.instrument(span)).await {
            Ok(result) => result,
            Err(_) => Err(connect_error(ConnectCause::TimedOut(deadline - start))),
        };
        let outcome = if result.is_ok() { "ok" } else { "error" };
        metrics::counter!("ottla_client_connects_total", "outcome" => outcome).increment(1);
        result.map_err(|error| match error.broker() {
            None => error.with_broker(&*broker),
            Some(_) => error,
        })
    }

    async fn connect_until(
        &self,
        broker: Arc<str>,
        address: &str,
        deadline: Instant,
    ) -> Result<Connection, Error> {
        let stream = connect_tcp(address, deadline)
            .await
            .map_err(connect_error)?;
        let wire = self.security.wire(address, stream).await;
        let wire = wire.map_err(connect_error)?;
        let closed = Closed {
            connection: self.tasks.child_token(),
            client: self.tasks.token(),
        };
        let idleness = Idleness::new(self.idle_max);
        let exchange = match wire {
            Wire::Plain(stream) => {
                self.drive(stream.into_split(), broker.clone(), closed, idleness)
            }
            #[cfg(feature = "tls")]
            Wire::Tls(stream) => {
                self.drive(tokio::io::split(*stream), broker.clone(), closed, idleness)
            }
        };
        let Some(exchange) = exchange else {
            return Err(Error::new(ErrorKind::Closed, "connect"));
        };
        let mut connection = Handle {
            broker,
            client_id: StrBytes::from_string(self.client_id.clone()),
            exchange,
            agreed: Agreed::default(),
            gate: Arc::default(),
        };
        connection.agreed =
            connection
                .agree(deadline)
                .await
                .map_err(|error| match error.kind() {
                    ErrorKind::ConnectionLost | ErrorKind::TimedOut => {
                        connect_error(ConnectCause::NoAnswer(error))
                    }
                    _ => error,
                })?;
        #[cfg(test)]
        for (key, cap) in &self.version_caps {
            if let Some((_, max)) = connection.agreed.versions.get_mut(key) {
                *max = *cap;
            }
        }
        let session = self.security.authenticate(&connection, deadline).await?;
        connection.exchange.trust(self.response_bytes_max);
        tracing::debug!(broker = &*connection.broker, "connected");
        let connection = Arc::new(connection);
        if let Some((sasl, after)) = session {
            let (handle, closed) = (
                Arc::downgrade(&connection),
                connection.exchange.closed.clone(),
            );
            let renewal = sasl::keep_session(sasl, handle, closed, after, self.connect_timeout);
            if !self.tasks.spawn(renewal) {
                return Err(Error::new(ErrorKind::Closed, "connect"));
            }
        }
        Ok(Connection(connection))
    }

    /// Starts the task of a connection, unless the client is closed.
    fn drive<R, W>(
        &self,
        (reader, writer): (R, W),
        broker: Arc<str>,
        closed: Closed,
        idleness: Idleness,
    ) -> Option<Arc<Exchange>>
    where
        R: AsyncRead + Send + Unpin + 'static,
        W: AsyncWrite + Send + Unpin + 'static,
    {
        let limit = self.response_bytes_max;
        let exchange = Arc::new(Exchange::new(writer, broker, closed, idleness, limit));
        let driver = Driver::new(reader, exchange.clone(), self.frames.clone());
        self.tasks.spawn(driver.run()).then_some(exchange)
    }
}

fn connect_error(cause: ConnectCause) -> Error {
    Error::new(ErrorKind::Connect, "connect").with_source(cause)
}

/// Tries every address that the name resolves to, each with its share of the time left.
async fn connect_tcp(address: &str, deadline: Instant) -> Result<TcpStream, ConnectCause> {
    let resolved = lookup_host(address).await.map_err(ConnectCause::Resolve)?;
    let resolved: Vec<_> = resolved.collect();
    let mut cause = ConnectCause::NoAddress;
    for (tried, &address) in resolved.iter().enumerate() {
        let now = Instant::now();
        let left = deadline.saturating_duration_since(now);
        let share = left / u32::try_from(resolved.len() - tried).unwrap_or(u32::MAX);
        match timeout_at(now + share, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => match set_options(&stream) {
                Ok(()) => return Ok(stream),
                Err(error) => cause = ConnectCause::Tcp(address, error),
            },
            Ok(Err(error)) => cause = ConnectCause::Tcp(address, error),
            Err(_) => cause = ConnectCause::Tcp(address, io::ErrorKind::TimedOut.into()),
        }
    }
    Err(cause)
}

fn set_options(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE_IDLE)
        .with_interval(KEEPALIVE_INTERVAL);
    let socket = SockRef::from(stream);
    #[cfg(any(target_os = "linux", target_os = "android"))]
    let keepalive = {
        socket.set_tcp_user_timeout(Some(UNACKNOWLEDGED_MAX))?;
        keepalive.with_retries(KEEPALIVE_PROBES)
    };
    socket.set_tcp_keepalive(&keepalive)
}

/// A handle to a connection whose versions are agreed on. Cloning is cheap.
#[derive(Debug, Clone)]
pub(crate) struct Connection(Arc<Handle>);

#[derive(Debug)]
struct Handle {
    broker: Arc<str>,
    client_id: StrBytes,
    exchange: Arc<Exchange>,
    agreed: Agreed,
    /// Held by each request, and alone by the renewal of the session: the broker reads whatever
    /// comes in between as a part of it (KIP-368).
    gate: Arc<RwLock<()>>,
}

/// What a broker said of itself when the connection was made.
#[derive(Debug, Default)]
struct Agreed {
    /// The lowest and highest version for each API key.
    versions: HashMap<i16, (i16, i16)>,
    /// The finalised level of each feature of the cluster (KIP-584).
    features: HashMap<Box<str>, i16>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.exchange.closed.connection.cancel();
    }
}

impl Connection {
    /// Whether the connection has ended, or is about to because nobody used it.
    pub(crate) fn is_closed(&self) -> bool {
        let exchange = &self.0.exchange;
        exchange.closed.connection.is_cancelled() || exchange.idleness.is_ending()
    }

    /// Ends the connection; requests that wait on it fail.
    pub(crate) fn close(&self) {
        self.0.exchange.closed.connection.cancel();
    }

    /// The finalised level of a feature of the cluster, 0 if the broker names none.
    pub(crate) fn feature(&self, name: &str) -> i16 {
        self.0.agreed.features.get(name).copied().unwrap_or(0)
    }

    /// The highest version of an API that the broker speaks.
    pub(crate) fn speaks_up_to(&self, key: i16) -> Option<i16> {
        self.0.agreed.versions.get(&key).map(|(_, max)| *max)
    }

    /// The broker, as errors name it.
    pub(crate) fn broker(&self) -> &Arc<str> {
        &self.0.broker
    }

    /// Sends the request that `build` makes for the version agreed on, and waits for its answer.
    ///
    /// A request without an answer at `deadline` fails, and the connection with it. Dropping the
    /// future does not withdraw a request that was sent.
    pub(crate) async fn call<A: Api>(
        &self,
        deadline: Instant,
        build: impl FnOnce(i16) -> A,
    ) -> Result<(A::Answer, i16), Error> {
        self.call_within(deadline, A::VERSIONS, build).await
    }

    /// The same in one of these versions only.
    pub(crate) async fn call_within<A: Api>(
        &self,
        deadline: Instant,
        versions: RangeInclusive<i16>,
        build: impl FnOnce(i16) -> A,
    ) -> Result<(A::Answer, i16), Error> {
        let start = Instant::now();
        let span = tracing::trace_span!("request", api = A::NAME, broker = &*self.0.broker);
        let result = async {
            let version = self.0.common_version(A::KEY, A::NAME, versions)?;
            let answer = self.0.exchange(&build(version), version, deadline).await?;
            Ok((answer, version))
        };
        let result = result.instrument(span).await;
        meters::count(A::NAME, start.elapsed(), result.as_ref().err());
        result
    }
}

/// The broker and this client have no version of an API in common.
#[derive(Debug, thiserror::Error)]
#[error(
    "this client speaks versions {} to {} of key {key}, the broker {broker}",
    ours.0, ours.1
)]
struct NoCommonVersion {
    key: i16,
    ours: (i16, i16),
    broker: String,
}

impl Handle {
    fn error(&self, kind: ErrorKind, api: &'static str) -> Error {
        Error::new(kind, api).with_broker(&*self.broker)
    }

    /// The highest version that both sides speak.
    fn version<A: Api>(&self) -> Result<i16, Error> {
        self.common_version(A::KEY, A::NAME, A::VERSIONS)
    }

    fn common_version(
        &self,
        key: i16,
        api: &'static str,
        ours: RangeInclusive<i16>,
    ) -> Result<i16, Error> {
        let ours = ours.into_inner();
        let theirs = self.agreed.versions.get(&key).copied();
        if let Some((min, max)) = theirs {
            let version = max.min(ours.1);
            if version >= min.max(ours.0) {
                return Ok(version);
            }
        }
        let broker = match theirs {
            Some((min, max)) => format!("{min} to {max}"),
            None => "none".to_owned(),
        };
        let cause = NoCommonVersion { key, ours, broker };
        Err(self.error(ErrorKind::Unsupported, api).with_source(cause))
    }

    /// Asks which versions the broker speaks (KIP-511): v3 first; a broker that does not know v3
    /// answers error 35 in the form of v0, and is asked again with v0.
    async fn agree(&self, deadline: Instant) -> Result<Agreed, Error> {
        let request = ApiVersionsRequest::default()
            .with_client_software_name(StrBytes::from_static_str("ottla"))
            .with_client_software_version(StrBytes::from_static_str(env!("CARGO_PKG_VERSION")));
        let mut version = *ApiVersionsRequest::VERSIONS.end();
        let mut frame = self.send(&request, version, deadline).await?;
        if version > 0 && error_code_of(&frame) == Some(ErrorCode::UNSUPPORTED_VERSION) {
            version = 0;
            frame = self
                .send(&ApiVersionsRequest::default(), version, deadline)
                .await?;
        }
        let answer = self.decode::<ApiVersionsRequest>(frame, version)?;
        ErrorCode(answer.error_code).into_result().map_err(|code| {
            Error::from_code(code, ApiVersionsRequest::NAME).with_broker(&*self.broker)
        })?;
        let ranges = answer.api_keys.iter();
        let features = answer.finalized_features.iter();
        Ok(Agreed {
            versions: ranges
                .map(|range| (range.api_key, (range.min_version, range.max_version)))
                .collect(),
            features: features
                .map(|feature| ((*feature.name).into(), feature.max_version_level))
                .collect(),
        })
    }

    async fn exchange<A: Api>(
        &self,
        request: &A,
        version: i16,
        deadline: Instant,
    ) -> Result<A::Answer, Error> {
        let _admitted = timeout_at(deadline, self.gate.read())
            .await
            .map_err(|_| self.error(ErrorKind::TimedOut, A::NAME))?;
        let frame = self.send(request, version, deadline).await?;
        self.decode::<A>(frame, version)
    }

    /// Sends a request whatever else waits; for what comes before everything else.
    async fn ask<A: Api>(&self, request: A, deadline: Instant) -> Result<A::Answer, Error> {
        let version = self.version::<A>()?;
        let frame = self.send(&request, version, deadline).await?;
        self.decode::<A>(frame, version)
    }

    async fn send<A: Api>(
        &self,
        request: &A,
        version: i16,
        deadline: Instant,
    ) -> Result<Bytes, Error> {
        let frame = self.encode(request, version)?;
        let room = timeout_at(deadline, self.exchange.room(A::NAME)).await;
        let room = room.map_err(|_| self.error(ErrorKind::TimedOut, A::NAME))??;
        let (reply, answer) = oneshot::channel();
        let request = Request {
            frame,
            api: A::NAME,
            deadline,
            is_answered: true,
            reply: Box::new(|answer| {
                // Nobody is there any more who wants it.
                let _ = reply.send(answer);
            }),
        };
        let admitted = self.exchange.admit(request, room);
        admitted.map_err(|refused| refused.error)?;
        let closed = |_| self.error(self.exchange.closed.kind(), A::NAME);
        answer.await.map_err(closed)?
    }

    fn encode<A: Api>(&self, request: &A, version: i16) -> Result<RequestFrame, Error> {
        let header = RequestHeader::default()
            .with_request_api_key(A::KEY)
            .with_request_api_version(version)
            .with_client_id(Some(self.client_id.clone()));
        let mut frame = BytesMut::new();
        frame.put_i32(0);
        // Encoding fails for a field that the version lacks, such as a static member's instance id.
        header
            .encode(&mut frame, A::header_version(version))
            .and_then(|()| request.encode(&mut frame, version))
            .map_err(|cause| {
                self.error(ErrorKind::Unsupported, A::NAME)
                    .with_source(cause)
            })?;
        let mut frame = RequestFrame::new(frame);
        frame.finish().map_err(|cause| {
            self.error(ErrorKind::Unsupported, A::NAME)
                .with_source(cause)
        })?;
        Ok(frame)
    }

    /// Decodes an answer; closes the connection when it does not follow the protocol.
    fn decode<A: Api>(&self, frame: Bytes, version: i16) -> Result<A::Answer, Error> {
        let elements_max = elements_max(self.exchange.answer_bytes_max());
        decode_answer::<A>(frame, version, elements_max).map_err(|error| {
            self.exchange.closed.connection.cancel();
            error.with_broker(&*self.broker)
        })
    }
}

/// The structs that an answer may consist of, where it may have so many bytes. One that is decoded
/// takes up to some 250 bytes, where it came in as few as one or two.
fn elements_max(answer_bytes_max: usize) -> usize {
    (answer_bytes_max / 64).max(16 << 10)
}

/// Decodes an answer after its lengths and counts were checked.
fn decode_answer<A: Api>(
    mut frame: Bytes,
    version: i16,
    elements_max: usize,
) -> Result<A::Answer, Error> {
    let protocol = || Error::new(ErrorKind::Protocol, A::NAME);
    let header_version = A::Answer::header_version(version);
    let body = frame.get(4..).unwrap_or_default();
    let checked = if header_version >= 1 {
        A::LAYOUT.check_with_tags(body, version, elements_max)
    } else {
        A::LAYOUT.check(body, version, elements_max)
    };
    checked.map_err(|cause| protocol().with_source(cause))?;
    ResponseHeader::decode(&mut frame, header_version)
        .and_then(|_| A::Answer::decode(&mut frame, version))
        .map_err(|cause| protocol().with_source(cause))
}

/// The error code of an ApiVersions answer, which stands first in every version.
fn error_code_of(frame: &[u8]) -> Option<ErrorCode> {
    let code = frame.get(4..)?.first_chunk::<2>()?;
    Some(ErrorCode(i16::from_be_bytes(*code)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn trap_a7_a_peer_that_dies_without_a_word_is_noticed() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let deadline = Instant::now() + Duration::from_secs(10);
        let stream = connect_tcp(&address, deadline).await.unwrap();
        assert!(stream.nodelay().unwrap());
        let socket = SockRef::from(&stream);
        assert!(socket.keepalive().unwrap());
        #[cfg(target_os = "linux")]
        {
            // Whether a request is on its way or the connection is idle: about a minute.
            let probed = KEEPALIVE_IDLE + KEEPALIVE_INTERVAL * KEEPALIVE_PROBES;
            assert_eq!(probed, UNACKNOWLEDGED_MAX);
            assert_eq!(socket.tcp_user_timeout().unwrap(), Some(UNACKNOWLEDGED_MAX));
            assert_eq!(socket.tcp_keepalive_time().unwrap(), KEEPALIVE_IDLE);
            assert_eq!(socket.tcp_keepalive_retries().unwrap(), KEEPALIVE_PROBES);
        }
    }
}
