//! TLS and SASL with a real broker as the judge.
//!
//! `OTTLA_TEST_SECURITY` names a JSON file that says where it listens and how: see [`Brokers`]. The
//! scenario `security` of the integration package starts such a broker.

use crate::admin::topics;
use crate::cluster::Cluster;
use crate::connection::{Connector, Security, Tasks};
use crate::security::{
    HostVerification, OauthToken, SaslMechanism, SecurityConfig, SecurityProtocol,
};
use crate::{ClientConfig, Error, ErrorKind, GroupClient, NewTopic};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use kafka_protocol::messages::MetadataRequest;
use ottla_types::TopicPartition;
use ottla_types::coordinator::OffsetFetchRequest;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::time::{Instant, interval, sleep};

use SaslMechanism::{Plain, ScramSha256, ScramSha512};
use SecurityProtocol::{Plaintext, SaslPlaintext, SaslSsl, Ssl};

/// The user `alice` has the password `pencil` with every mechanism.
#[derive(serde::Deserialize)]
struct Brokers {
    plaintext: String,
    sasl_plaintext: String,
    /// Wants a certificate of the client's; its own is for 127.0.0.1 alone.
    ssl: String,
    sasl_ssl: String,
    ca: PathBuf,
    certificate: PathBuf,
    key: PathBuf,
    /// `connections.max.reauth.ms`.
    session_ms: u64,
}

fn brokers() -> Brokers {
    let path = std::env::var("OTTLA_TEST_SECURITY").expect("OTTLA_TEST_SECURITY=file");
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

impl Brokers {
    fn security(&self, protocol: SecurityProtocol) -> SecurityConfig {
        let mut security = SecurityConfig::new(protocol);
        security.allow_without_tls = true;
        if protocol.is_tls() {
            security = security.ca_location(&self.ca);
        }
        security
    }

    fn password(&self, protocol: SecurityProtocol, mechanism: SaslMechanism) -> SecurityConfig {
        self.security(protocol).sasl(mechanism, "alice", "pencil")
    }
}

async fn connect(bootstrap: &str, security: SecurityConfig) -> Result<Arc<Cluster>, Error> {
    let mut config = ClientConfig::new(bootstrap);
    config.security = security;
    Cluster::connect(config).await.map(Arc::new)
}

/// A topic, its metadata and its group's coordinator: every kind of connection that we have.
async fn use_it(bootstrap: &str, security: SecurityConfig) {
    let cluster = connect(bootstrap, security).await.unwrap();
    let topic = format!("secured-{:08x}", fastrand::u32(..));
    let new = NewTopic::new(&topic, 2).replication(1);
    topics::ensure_topics(&cluster, &[new], cluster.request_deadline())
        .await
        .unwrap();
    let found = cluster.refresh_topic(&topic).await.unwrap();
    assert_eq!(found.partitions.len(), 2);
    let group = GroupClient::new(cluster.clone(), format!("group-{topic}").into());
    let request = OffsetFetchRequest {
        partitions: vec![TopicPartition::new(&*topic, 0)],
        require_stable: false,
    };
    // A cluster's first group waits for the topic that holds offsets.
    let limit = Instant::now() + Duration::from_secs(30);
    let mut backoff = cluster.backoff();
    loop {
        match group.fetch_offsets(request.clone()).await {
            Ok(fetched) if fetched.offsets.len() == 1 => break,
            Err(error) if !error.is_retriable() => panic!("{error}"),
            passing => assert!(Instant::now() < limit, "{passing:?}"),
        }
        sleep(backoff.next_delay()).await;
    }
    cluster.close().await;
}

async fn refused(bootstrap: &str, security: SecurityConfig) -> (ErrorKind, String) {
    let start = Instant::now();
    let error = connect(bootstrap, security).await.map(drop).unwrap_err();
    assert!(start.elapsed() < Duration::from_secs(8), "{error}");
    let mut text = error.to_string();
    let mut source = std::error::Error::source(&error);
    while let Some(cause) = source {
        text.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    (error.kind(), text)
}

#[tokio::test]
#[ignore = "needs a broker that OTTLA_TEST_SECURITY describes: cargo xtask e2e --scenario security"]
async fn passwords_let_in_who_has_the_right_one() {
    let brokers = brokers();
    for mechanism in [Plain, ScramSha256, ScramSha512] {
        for (address, protocol) in [
            (&brokers.sasl_plaintext, SaslPlaintext),
            (&brokers.sasl_ssl, SaslSsl),
        ] {
            use_it(address, brokers.password(protocol, mechanism)).await;
            let wrong = brokers.security(protocol).sasl(mechanism, "alice", "wr0ng");
            let (kind, text) = refused(address, wrong).await;
            assert_eq!(kind, ErrorKind::Authorization, "{text}");
            assert!(text.contains("refused the credentials"), "{text}");
            assert!(!text.contains("wr0ng"), "{text}");
        }
    }
}

#[tokio::test]
#[ignore = "needs a broker that OTTLA_TEST_SECURITY describes: cargo xtask e2e --scenario security"]
async fn certificates_are_checked_on_both_sides() {
    let brokers = brokers();
    let with_certificate = brokers
        .security(Ssl)
        .certificate_location(&brokers.certificate, &brokers.key);
    use_it(&brokers.ssl, with_certificate.clone()).await;

    let (kind, text) = refused(&brokers.ssl, brokers.security(Ssl)).await;
    assert_eq!(kind, ErrorKind::Connect, "{text}");
    assert!(text.contains("alert"), "{text}");

    let mut stranger = with_certificate.clone();
    stranger.ca_location = None;
    let (kind, text) = refused(&brokers.ssl, stranger).await;
    assert_eq!(kind, ErrorKind::Connect, "{text}");
    assert!(text.contains("UnknownIssuer"), "{text}");

    let other_name = brokers.ssl.replace("127.0.0.1", "localhost");
    let (kind, text) = refused(&other_name, with_certificate.clone()).await;
    assert_eq!(kind, ErrorKind::Connect, "{text}");
    assert!(text.contains("not valid for name"), "{text}");
    let mut any_host = with_certificate;
    any_host.host_verification = HostVerification::None;
    use_it(&other_name, any_host).await;
}

#[tokio::test]
#[ignore = "needs a broker that OTTLA_TEST_SECURITY describes: cargo xtask e2e --scenario security"]
async fn the_wrong_protocol_is_an_error_that_says_so() {
    let brokers = brokers();
    for address in [&brokers.plaintext, &brokers.sasl_plaintext] {
        let (kind, text) = refused(address, brokers.security(Ssl)).await;
        assert_eq!(kind, ErrorKind::Connect, "{text}");
        assert!(text.contains("does the port speak TLS?"), "{text}");
    }
    let (kind, text) = refused(
        &brokers.plaintext,
        brokers.password(SaslPlaintext, ScramSha256),
    )
    .await;
    assert_eq!(kind, ErrorKind::Unsupported, "{text}");
    assert!(text.contains("does not expect SASL"), "{text}");
    for address in [&brokers.ssl, &brokers.sasl_ssl, &brokers.sasl_plaintext] {
        let (kind, text) = refused(address, brokers.security(Plaintext)).await;
        println!("plain text: {kind:?}: {text}");
        assert!(!text.is_empty());
    }
}

/// An unsecured JWT, as Kafka's development setup takes it.
fn token(subject: &str) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let now = now.as_secs();
    let claims = format!(
        "{{\"sub\":\"{subject}\",\"iat\":{now},\"exp\":{}}}",
        now + 600
    );
    let (header, claims) = (
        URL_SAFE_NO_PAD.encode("{\"alg\":\"none\"}"),
        URL_SAFE_NO_PAD.encode(claims),
    );
    format!("{header}.{claims}.")
}

#[tokio::test]
#[ignore = "needs a broker that OTTLA_TEST_SECURITY describes: cargo xtask e2e --scenario security"]
async fn tokens_let_in_who_has_a_good_one() {
    let brokers = brokers();
    let good = brokers
        .security(SaslPlaintext)
        .oauth(|| async { Ok(OauthToken::new(token("alice"))) });
    use_it(&brokers.sasl_plaintext, good).await;
    let bad = brokers
        .security(SaslPlaintext)
        .oauth(|| async { Ok(OauthToken::new("bm90.YQ.token")) });
    let (kind, text) = refused(&brokers.sasl_plaintext, bad).await;
    assert_eq!(kind, ErrorKind::Authorization, "{text}");
    println!("a bad token: {text}");
}

#[tokio::test]
#[ignore = "needs a broker that OTTLA_TEST_SECURITY describes: cargo xtask e2e --scenario security"]
async fn kip_368_a_connection_outlives_its_session() {
    let brokers = brokers();
    for (address, protocol, mechanism) in [
        (&brokers.sasl_plaintext, SaslPlaintext, Plain),
        (&brokers.sasl_ssl, SaslSsl, ScramSha512),
    ] {
        let security = brokers.password(protocol, mechanism);
        let connector = Connector {
            client_id: "test".to_owned(),
            connect_timeout: Duration::from_secs(10),
            response_bytes_max: 8 << 20,
            security: Security::prepare(&security).await.unwrap(),
            tasks: Tasks::default(),
            idle_max: Duration::from_secs(540),
            frames: Default::default(),
            version_caps: HashMap::new(),
        };
        let deadline = || Instant::now() + Duration::from_secs(10);
        let connection = connector
            .connect("broker".into(), address, deadline())
            .await
            .unwrap();
        // The broker closes a connection that sends anything after the end of its session.
        let end = Instant::now() + Duration::from_millis(brokers.session_ms) * 3;
        let mut often = interval(Duration::from_millis(20));
        while Instant::now() < end {
            often.tick().await;
            connection
                .call(deadline(), |_| {
                    MetadataRequest::default().with_topics(Some(Vec::new()))
                })
                .await
                .unwrap();
        }
        connector.tasks.close().await;
    }
}
