//! TLS in front of the mock cluster: who is let in, who is turned away, and with which words.

use super::certs::{Authority, Identity};
use super::*;
use crate::connection::{Connection, Connector, Security, Tasks};
use crate::security::SecurityProtocol;
use crate::{Error as ClientError, ErrorKind};
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::{MetadataRequest, TopicName};
use kafka_protocol::protocol::StrBytes;
use ottla_mock_cluster::MockCluster;
use rustls::ServerConfig;
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::server::WebPkiClientVerifier;
use std::collections::HashMap;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;

/// A TLS port in front of a broker of the mock cluster.
struct Front {
    mock: MockCluster,
    port: u16,
    _tasks: JoinSet<()>,
}

/// Whether the port wants to see a client's certificate.
enum Clients<'a> {
    Any,
    Of(&'a Authority),
}

impl Front {
    async fn start(identity: &Identity, clients: Clients<'_>) -> Self {
        let mock = MockCluster::builder().start().await.unwrap();
        let broker = mock.bootstrap();
        let provider = Arc::new(rustls_graviola::default_provider());
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .unwrap();
        let builder = match clients {
            Clients::Any => builder.with_no_client_auth(),
            Clients::Of(authority) => {
                let mut roots = RootCertStore::empty();
                roots.add(authority.der.clone().into()).unwrap();
                let verifier =
                    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
                builder.with_client_cert_verifier(verifier.build().unwrap())
            }
        };
        let config = builder
            .with_single_cert(
                vec![identity.certificate_der.clone().into()],
                PrivatePkcs8KeyDer::from(identity.key_der.clone()).into(),
            )
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut streams = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (acceptor, broker) = (acceptor.clone(), broker.clone());
                streams.spawn(async move {
                    // Whoever is turned away is the matter of the test.
                    if let Ok(mut stream) = acceptor.accept(stream).await {
                        let mut broker = TcpStream::connect(broker).await.unwrap();
                        let _ = tokio::io::copy_bidirectional(&mut stream, &mut broker).await;
                    }
                });
            }
        });
        Self {
            mock,
            port,
            _tasks: tasks,
        }
    }

    async fn end(self) {
        self.mock.shutdown().await;
    }
}

async fn connector(security: &SecurityConfig) -> Connector {
    Connector {
        client_id: "test".to_owned(),
        connect_timeout: Duration::from_secs(10),
        response_bytes_max: 8 << 20,
        security: Security::prepare(security).await.unwrap(),
        tasks: Tasks::default(),
        idle_max: Duration::from_secs(540),
        frames: Default::default(),
        version_caps: HashMap::new(),
    }
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(20)
}

async fn connect(
    security: &SecurityConfig,
    address: &str,
) -> Result<(Connector, Connection), ClientError> {
    let connector = connector(security).await;
    let connection = connector.connect("broker".into(), address, soon()).await?;
    Ok((connector, connection))
}

async fn ask(connection: &Connection, topics: usize) -> Result<usize, ClientError> {
    let topic = |n: usize| {
        let name = StrBytes::from_string(format!("{n}-{}", "x".repeat(200)));
        MetadataRequestTopic::default().with_name(Some(TopicName(name)))
    };
    let request = MetadataRequest::default().with_topics(Some((0..topics).map(topic).collect()));
    let (answer, _) = connection.call(soon(), |_| request).await?;
    Ok(answer.topics.len())
}

fn trusting(authority: &Authority) -> SecurityConfig {
    let mut security = SecurityConfig::new(SecurityProtocol::Ssl);
    security.ca_pem = Some(authority.pem.clone());
    security
}

async fn refusal(security: &SecurityConfig, address: &str) -> String {
    let error = connect(security, address).await.map(drop).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Connect);
    chain(&error)
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    text
}

#[tokio::test]
async fn a_broker_that_is_verified_is_spoken_to() {
    let authority = Authority::new("the authority");
    let identity = authority.sign(&["localhost", "127.0.0.1"]);
    let front = Front::start(&identity, Clients::Any).await;
    for host in ["localhost", "127.0.0.1"] {
        let address = format!("{host}:{}", front.port);
        let (connector, connection) = connect(&trusting(&authority), &address).await.unwrap();
        assert_eq!(ask(&connection, 1).await.unwrap(), 1);
        // Far more than a socket and a TLS session hold back.
        assert_eq!(ask(&connection, 4_000).await.unwrap(), 4_000);
        connector.tasks.close().await;
    }
    front.end().await;
}

#[tokio::test]
async fn a_certificate_for_another_host_is_refused_unless_that_was_switched_off() {
    let authority = Authority::new("the authority");
    let identity = authority.sign(&["kafka.example"]);
    let front = Front::start(&identity, Clients::Any).await;
    let address = format!("localhost:{}", front.port);
    let mut security = trusting(&authority);
    let text = refusal(&security, &address).await;
    assert!(text.contains("not valid for name"), "{text}");

    security.host_verification = HostVerification::None;
    let (connector, connection) = connect(&security, &address).await.unwrap();
    assert_eq!(ask(&connection, 1).await.unwrap(), 1);
    connector.tasks.close().await;

    let mut stranger = trusting(&Authority::new("another authority"));
    stranger.host_verification = HostVerification::None;
    let text = refusal(&stranger, &address).await;
    assert!(text.contains("certificate"), "{text}");
    front.end().await;
}

#[tokio::test]
async fn a_certificate_of_an_unknown_authority_is_refused() {
    let identity = Authority::new("the authority").sign(&["localhost"]);
    let front = Front::start(&identity, Clients::Any).await;
    let address = format!("localhost:{}", front.port);
    let text = refusal(&trusting(&Authority::new("another")), &address).await;
    assert!(text.contains("UnknownIssuer"), "{text}");
    front.end().await;
}

#[tokio::test]
async fn a_broker_may_ask_for_a_certificate() {
    let authority = Authority::new("the authority");
    let identity = authority.sign(&["localhost"]);
    let front = Front::start(&identity, Clients::Of(&authority)).await;
    let address = format!("localhost:{}", front.port);
    let mut security = trusting(&authority);
    let text = refusal(&security, &address).await;
    assert!(text.contains("CertificateRequired"), "{text}");

    let client = authority.sign(&["client"]);
    security.certificate_pem = Some(client.certificate_pem.clone());
    security.key_pem = Some(Secret::new(client.key_pem.as_str()));
    let (connector, connection) = connect(&security, &address).await.unwrap();
    assert_eq!(ask(&connection, 1).await.unwrap(), 1);
    connector.tasks.close().await;

    let stranger = Authority::new("another").sign(&["client"]);
    security.certificate_pem = Some(stranger.certificate_pem.clone());
    security.key_pem = Some(Secret::new(stranger.key_pem.as_str()));
    refusal(&security, &address).await;
    front.end().await;
}

#[tokio::test]
async fn trap_d_a_port_without_tls_and_a_silent_port_are_errors_in_time() {
    let mock = MockCluster::builder().start().await.unwrap();
    let security = trusting(&Authority::new("the authority"));
    let text = refusal(&security, &mock.bootstrap()).await;
    assert!(text.contains("does the port speak TLS?"), "{text}");
    mock.shutdown().await;

    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut connector = connector(&security).await;
    connector.connect_timeout = Duration::from_millis(300);
    let address = silent.local_addr().unwrap().to_string();
    let start = Instant::now();
    let connected = connector.connect("broker".into(), &address, soon()).await;
    assert_eq!(connected.unwrap_err().kind(), ErrorKind::Connect);
    assert!(start.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn a_configuration_of_ones_own_is_used_as_it_is() {
    let authority = Authority::new("the authority");
    let front = Front::start(&authority.sign(&["localhost"]), Clients::Any).await;
    let mut roots = RootCertStore::empty();
    roots.add(authority.der.clone().into()).unwrap();
    let own = ClientConfig::builder_with_provider(Arc::new(rustls_graviola::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let security = SecurityConfig::new(SecurityProtocol::Ssl).tls_client(Arc::new(own));
    let (connector, connection) = connect(&security, &format!("localhost:{}", front.port))
        .await
        .unwrap();
    assert_eq!(ask(&connection, 1).await.unwrap(), 1);
    connector.tasks.close().await;

    let mut both = security.clone();
    both.ca_pem = Some(authority.pem.clone());
    assert_eq!(both.validate().unwrap_err().key, "ssl.ca.pem");
    front.end().await;
}

#[test]
fn files_that_cannot_be_used_are_named() {
    let authority = Authority::new("the authority");
    let identity = authority.sign(&["client"]);
    let other_key = authority.sign(&["client"]).key_pem;
    let refused = |change: &dyn Fn(&mut SecurityConfig)| {
        let mut security = trusting(&authority);
        change(&mut security);
        let error = Tls::prepare(&security).unwrap_err();
        assert!(!error.to_string().contains("MIG"), "{error}");
        error.key
    };
    let mut missing = trusting(&authority);
    missing.ca_pem = None;
    missing.ca_location = Some("no-such-file.pem".into());
    let error = Tls::prepare(&missing).unwrap_err();
    assert_eq!(error.key, "ssl.ca.location");
    assert!(error.to_string().contains("no-such-file.pem"), "{error}");

    let nothing = |s: &mut SecurityConfig| s.ca_pem = Some("nothing".to_owned());
    assert_eq!(refused(&nothing), "ssl.ca.location");
    let no_key = |s: &mut SecurityConfig| {
        s.certificate_pem = Some(identity.certificate_pem.clone());
        s.key_pem = Some(Secret::new(identity.certificate_pem.as_str()));
    };
    assert_eq!(refused(&no_key), "ssl.key.location");
    let wrong_key = |s: &mut SecurityConfig| {
        s.certificate_pem = Some(identity.certificate_pem.clone());
        s.key_pem = Some(Secret::new(other_key.as_str()));
    };
    assert_eq!(refused(&wrong_key), "ssl.key.location");
    let encrypted = |s: &mut SecurityConfig| {
        s.certificate_pem = Some(identity.certificate_pem.clone());
        s.key_pem = Some(Secret::new(
            identity
                .key_pem
                .replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY"),
        ));
    };
    assert_eq!(refused(&encrypted), "ssl.key.location");
}
