//! SASL with a broker that follows a script.

use super::scram::ITERATIONS_MIN;
use super::*;
use crate::ClientConfig;
use crate::cluster::Cluster;
use crate::connection::frame::next_frame;
use crate::security::{OauthToken, SecurityProtocol};
use base64::engine::general_purpose::STANDARD;
use bytes::{BufMut, BytesMut};
use kafka_protocol::messages::api_versions_response::ApiVersion;
use kafka_protocol::messages::metadata_response::MetadataResponseBroker;
use kafka_protocol::messages::{
    ApiVersionsResponse, BrokerId, MetadataResponse, RequestHeader, SaslHandshakeResponse,
};
use kafka_protocol::protocol::{Decodable, Encodable};
use std::collections::VecDeque;
use std::sync::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

const SALT: &[u8] = b"some salt";

/// What the broker does with one connection.
#[derive(Debug, Clone)]
struct Script {
    offered: &'static [&'static str],
    user: &'static str,
    password: &'static str,
    iterations: u32,
    lies_about_itself: bool,
    session_lifetime_ms: i64,
    /// The connection ends instead of an answer to the first token.
    hangs_up: bool,
}

const HONEST: Script = Script {
    offered: &["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"],
    user: "alice",
    password: "pencil",
    iterations: ITERATIONS_MIN,
    lies_about_itself: false,
    session_lifetime_ms: 0,
    hangs_up: false,
};

/// What was seen, in order: `connect`, `auth` (one that went through), `metadata`.
type Seen = Arc<Mutex<Vec<&'static str>>>;

struct Broker {
    address: String,
    seen: Seen,
    _tasks: JoinSet<()>,
}

impl Broker {
    async fn start(script: Script) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let seen = Seen::default();
        let mut tasks = JoinSet::new();
        let seen_there = seen.clone();
        tasks.spawn(async move {
            let mut sessions = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                seen_there.lock().unwrap().push("connect");
                let mut session = Session {
                    stream,
                    buffer: BytesMut::new(),
                    port,
                    script: script.clone(),
                    seen: seen_there.clone(),
                    tokens: VecDeque::new(),
                    mechanism: None,
                    authenticated: false,
                };
                sessions.spawn(async move { while session.serve().await.is_some() {} });
            }
        });
        Self {
            address: format!("127.0.0.1:{port}"),
            seen,
            _tasks: tasks,
        }
    }

    fn count(&self, what: &str) -> usize {
        let seen = self.seen.lock().unwrap();
        seen.iter().filter(|&&one| one == what).count()
    }

    async fn connect(&self, security: SecurityConfig) -> Result<Cluster, Error> {
        let mut config = ClientConfig::new(&self.address);
        config.connect_timeout = Duration::from_secs(10);
        config.security = security;
        Cluster::connect(config).await
    }
}

struct Session {
    stream: TcpStream,
    buffer: BytesMut,
    port: u16,
    script: Script,
    seen: Seen,
    /// The client's tokens since the handshake.
    tokens: VecDeque<String>,
    mechanism: Option<String>,
    authenticated: bool,
}

impl Session {
    /// One request; `None` ends the connection.
    async fn serve(&mut self) -> Option<()> {
        let mut frame = loop {
            if let Some(frame) = next_frame(&mut self.buffer, 1 << 20).unwrap() {
                break frame;
            }
            if self.stream.read_buf(&mut self.buffer).await.ok()? == 0 {
                return None;
            }
        };
        let (key, version) = (
            i16::from_be_bytes([frame[0], frame[1]]),
            i16::from_be_bytes([frame[2], frame[3]]),
        );
        let header_version = if (key == 18 && version >= 3) || (key == 36 && version >= 2) {
            2
        } else {
            1
        };
        let header = RequestHeader::decode(&mut frame, header_version).unwrap();
        let mut answer = BytesMut::new();
        answer.put_i32(0);
        answer.put_i32(header.correlation_id);
        match key {
            18 => {
                let api = |key, max| {
                    ApiVersion::default()
                        .with_api_key(key)
                        .with_min_version(0)
                        .with_max_version(max)
                };
                let keys = vec![api(3, 8), api(17, 1), api(18, 3), api(36, 2)];
                let versions = ApiVersionsResponse::default().with_api_keys(keys);
                versions.encode(&mut answer, version).unwrap();
            }
            17 => {
                // A session that is renewed keeps what it was until the end.
                let request = SaslHandshakeRequest::decode(&mut frame, version).unwrap();
                let offered = self.script.offered;
                let known = offered.contains(&&*request.mechanism);
                self.mechanism = Some(request.mechanism.to_string());
                self.tokens.clear();
                let names = offered.iter().map(|name| StrBytes::from_static_str(name));
                let error = if known {
                    ErrorCode::NONE
                } else {
                    ErrorCode(33)
                };
                SaslHandshakeResponse::default()
                    .with_error_code(error.0)
                    .with_mechanisms(names.collect())
                    .encode(&mut answer, version)
                    .unwrap();
            }
            36 => {
                let request = SaslAuthenticateRequest::decode(&mut frame, version).unwrap();
                if self.script.hangs_up {
                    return None;
                }
                answer.put_u8(0);
                let token = String::from_utf8(request.auth_bytes.to_vec()).unwrap();
                let response = self.judge(token);
                response.encode(&mut answer, version).unwrap();
            }
            3 => {
                // Between handshake and last token the broker reads everything as a token.
                if !self.authenticated || self.mechanism.is_some() {
                    return None;
                }
                self.seen.lock().unwrap().push("metadata");
                let broker = MetadataResponseBroker::default()
                    .with_node_id(BrokerId(1))
                    .with_host(StrBytes::from_static_str("127.0.0.1"))
                    .with_port(i32::from(self.port));
                MetadataResponse::default()
                    .with_brokers(vec![broker])
                    .encode(&mut answer, version)
                    .unwrap();
            }
            key => panic!("API key {key}"),
        }
        let length = u32::try_from(answer.len() - 4).unwrap();
        answer[..4].copy_from_slice(&length.to_be_bytes());
        self.stream.write_all(&answer).await.ok()
    }

    fn judge(&mut self, token: String) -> SaslAuthenticateResponse {
        self.tokens.push_back(token);
        let Script { user, password, .. } = self.script;
        let verdict = match self.mechanism.as_deref().unwrap() {
            "PLAIN" => (self.tokens[0] == format!("\0{user}\0{password}")).then(String::new),
            "SCRAM-SHA-256" => self.scram(Hash::Sha256),
            "SCRAM-SHA-512" => self.scram(Hash::Sha512),
            "OAUTHBEARER" if self.tokens[0].contains("auth=Bearer good") => Some(String::new()),
            "OAUTHBEARER" if self.tokens.len() == 1 => {
                Some("{\"status\":\"invalid_token\"}".to_owned())
            }
            "OAUTHBEARER" => None,
            other => panic!("{other}"),
        };
        let Some(text) = verdict else {
            return SaslAuthenticateResponse::default()
                .with_error_code(58)
                .with_error_message(Some(StrBytes::from_static_str("invalid\ncredentials")));
        };
        let mut response = SaslAuthenticateResponse::default();
        if text.is_empty() || text.starts_with("v=") {
            self.authenticated = true;
            self.mechanism = None;
            self.seen.lock().unwrap().push("auth");
            response = response.with_session_lifetime_ms(self.script.session_lifetime_ms);
        }
        response.with_auth_bytes(Bytes::from(text))
    }

    fn scram(&self, hash: Hash) -> Option<String> {
        let first = self.tokens[0].strip_prefix("n,,")?;
        let nonce = first.strip_prefix("n=alice,r=")?;
        let salt = STANDARD.encode(SALT);
        let iterations = self.script.iterations;
        let server_first = format!("r={nonce}-server,s={salt},i={iterations}");
        let Some(last) = self.tokens.get(1) else {
            return Some(server_first);
        };
        // The same as the client computes, but from the proof to the key.
        let (without_proof, proof) = last.split_once(",p=")?;
        let said = format!("{first},{server_first},{without_proof}");
        let salted = hash.salted(self.script.password, SALT, iterations);
        let client_key = hash.hmac(&salted, b"Client Key");
        let signature = hash.hmac(&hash.of(&client_key), said.as_bytes());
        let proof = STANDARD.decode(proof).ok()?;
        let shown: Vec<u8> = proof.iter().zip(&*signature).map(|(a, b)| a ^ b).collect();
        if shown != **client_key {
            return None;
        }
        let mut server = hash.hmac(&hash.hmac(&salted, b"Server Key"), said.as_bytes());
        if self.script.lies_about_itself {
            server[0] ^= 1;
        }
        Some(format!("v={}", STANDARD.encode(&*server)))
    }
}

fn with(mechanism: SaslMechanism, password: &str) -> SecurityConfig {
    let mut security =
        SecurityConfig::new(SecurityProtocol::SaslPlaintext).sasl(mechanism, "alice", password);
    security.allow_without_tls = true;
    security
}

fn causes(error: &Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    text
}

use SaslMechanism::{Plain, ScramSha256, ScramSha512};

#[tokio::test]
async fn every_mechanism_with_a_password_lets_the_right_one_in() {
    let broker = Broker::start(HONEST).await;
    for mechanism in [Plain, ScramSha256, ScramSha512] {
        let cluster = broker.connect(with(mechanism, "pencil")).await.unwrap();
        let deadline = cluster.request_deadline();
        cluster.refresh_brokers(deadline).await.unwrap();
        cluster.close().await;
    }
    // Each has one connection for bootstrap and one to the broker.
    assert_eq!(broker.count("auth"), 6);
    assert_eq!(broker.count("metadata"), 6);
}

#[tokio::test]
async fn trap_a8_a_wrong_password_is_an_error_at_once_and_is_not_tried_again() {
    let broker = Broker::start(HONEST).await;
    for mechanism in [Plain, ScramSha256, ScramSha512] {
        let start = Instant::now();
        let error = broker.connect(with(mechanism, "wr0ng")).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Authorization);
        assert!(!error.is_retriable());
        assert_eq!(error.code(), Some(ErrorCode::SASL_AUTHENTICATION_FAILED));
        assert!(start.elapsed() < Duration::from_secs(5));
        let text = causes(&error);
        assert!(
            text.contains("refused the credentials: invalid credentials"),
            "{text}"
        );
        assert!(!text.contains("wr0ng"), "{text}");
    }
    assert_eq!(broker.count("connect"), 3);
    assert_eq!(broker.count("auth"), 0);
}

#[tokio::test]
async fn trap_a8_a_wrong_password_among_several_addresses_ends_the_search() {
    let broker = Broker::start(HONEST).await;
    let address = broker.address.clone();
    let mut config = ClientConfig::new(&format!("{address},{address},127.0.0.1:1"));
    config.security = with(ScramSha256, "wr0ng");
    let error = Cluster::connect(config).await.map(drop).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Authorization);
}

#[tokio::test]
async fn a_broker_that_does_not_know_the_password_is_refused() {
    for mechanism in [ScramSha256, ScramSha512] {
        let broker = Broker::start(Script {
            lies_about_itself: true,
            ..HONEST
        })
        .await;
        let error = broker.connect(with(mechanism, "pencil")).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Authorization);
        let text = causes(&error);
        assert!(text.contains("does not know the password"), "{text}");
        assert_eq!(broker.count("metadata"), 0);
    }
}

#[tokio::test]
async fn a_broker_that_asks_for_too_little_or_too_much_work_is_refused() {
    for iterations in [1, ITERATIONS_MIN - 1, 1_000_001, u32::MAX] {
        let broker = Broker::start(Script {
            iterations,
            ..HONEST
        })
        .await;
        let error = broker.connect(with(ScramSha256, "pencil")).await;
        let error = error.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Authorization);
        assert!(causes(&error).contains(&format!("{iterations} iterations")));
    }
}

#[tokio::test]
async fn a_mechanism_that_is_not_offered_is_named_with_those_that_are() {
    let broker = Broker::start(Script {
        offered: &["PLAIN", "SCRAM-SHA-256"],
        ..HONEST
    })
    .await;
    let error = broker
        .connect(with(ScramSha512, "pencil"))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    let text = causes(&error);
    assert!(
        text.contains("SCRAM-SHA-512; it offers: PLAIN, SCRAM-SHA-256"),
        "{text}"
    );
}

#[tokio::test]
async fn a_broker_that_hangs_up_during_authentication_is_no_broker() {
    let broker = Broker::start(Script {
        hangs_up: true,
        ..HONEST
    })
    .await;
    let error = broker.connect(with(Plain, "pencil")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Connect);
    let text = causes(&error);
    assert!(text.contains("before authentication was through"), "{text}");
}

fn tokens(token: &'static str) -> SecurityConfig {
    let mut security = SecurityConfig::new(SecurityProtocol::SaslPlaintext)
        .oauth(move || async move { Ok(OauthToken::new(token)) });
    security.allow_without_tls = true;
    security
}

#[tokio::test]
async fn a_token_is_asked_for_and_sent() {
    let broker = Broker::start(HONEST).await;
    broker.connect(tokens("good")).await.unwrap().close().await;

    let error = broker.connect(tokens("stolen")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Authorization);
    let text = causes(&error);
    assert!(text.contains("invalid_token"), "{text}");
    assert!(!text.contains("stolen"), "{text}");

    let mut failing = SecurityConfig::new(SecurityProtocol::SaslPlaintext)
        .oauth(|| async { Err(TokenError::from("the token server is down")) });
    failing.allow_without_tls = true;
    let error = broker.connect(failing).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Connect);
    assert!(causes(&error).contains("the token server is down"));
}

#[tokio::test]
async fn kip_368_a_session_is_renewed_between_requests_on_its_connection() {
    let broker = Broker::start(Script {
        session_lifetime_ms: 1_200,
        ..HONEST
    })
    .await;
    let cluster = broker.connect(with(ScramSha256, "pencil")).await.unwrap();
    let limit = Instant::now() + Duration::from_secs(20);
    // The broker ends the connection if a request comes while a session is renewed.
    while broker.count("auth") < 5 {
        assert!(Instant::now() < limit, "{:?}", broker.seen.lock().unwrap());
        let deadline = cluster.request_deadline();
        let (one, two) = tokio::join!(
            cluster.refresh_brokers(deadline),
            cluster.refresh_brokers(deadline)
        );
        one.and(two).unwrap();
    }
    assert_eq!(broker.count("connect"), 2);
    cluster.close().await;
}

#[test]
fn a_session_is_renewed_before_its_end() {
    assert_eq!(renewal_after(0), None);
    assert_eq!(renewal_after(-1), None);
    for _ in 0..100 {
        let after = renewal_after(3_600_000).unwrap();
        assert!((3_060_000..=3_420_000).contains(&after.as_millis()));
    }
    assert!(renewal_after(i64::MAX).is_some());
}

#[test]
fn nonces_are_new_each_time() {
    let (one, two) = (nonce().unwrap(), nonce().unwrap());
    assert_ne!(one, two);
    assert_eq!(one.len(), 24);
    assert!(!one.contains(','));
}
