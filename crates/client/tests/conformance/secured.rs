//! Clusters that ask who is there: every mechanism through the whole client, wrong credentials,
//! brokers that lie, and sessions that end while records are on their way (KIP-368).
//!
//! A transport without SASL is refused when the client is built, in words that say so.

use crate::bed::{Bed, PATIENCE, SECOND, values};
use crate::verdict::lacks;
use ottla_client::security::{OauthToken, SaslMechanism, SecurityConfig, SecurityProtocol};
use ottla_client::{Client, ClientConfig, Error, ErrorKind, TransportKind};
use ottla_mock_cluster::{ApiKey, Mechanism, MockCluster, Sasl};
use ottla_types::coordinator::{
    CommitOffset, JoinGroupRequest, OffsetCommitRequest, OffsetFetchRequest, SyncGroupRequest,
};
use ottla_types::with_causes;
use std::time::{Duration, Instant};
use tokio::time::timeout;

const PASSWORD: &str = "pencil";
const TOKEN: &str = "good.token";

fn alice() -> Sasl {
    Sasl::new().user("alice", PASSWORD).token(TOKEN)
}

async fn cluster(sasl: Sasl) -> MockCluster {
    MockCluster::builder().sasl(sasl).start().await.unwrap()
}

fn by_password(mechanism: SaslMechanism, password: &str) -> SecurityConfig {
    let mut security = SecurityConfig::new(SecurityProtocol::SaslPlaintext);
    security.allow_without_tls = true;
    security.sasl(mechanism, "alice", password)
}

fn by_token(token: &'static str) -> SecurityConfig {
    let mut security = SecurityConfig::new(SecurityProtocol::SaslPlaintext);
    security.allow_without_tls = true;
    security.oauth(move || async move { Ok(OauthToken::new(token)) })
}

const PASSWORDS: [SaslMechanism; 3] = [
    SaslMechanism::Plain,
    SaslMechanism::ScramSha256,
    SaslMechanism::ScramSha512,
];

async fn connect(
    kind: TransportKind,
    mock: &MockCluster,
    security: SecurityConfig,
) -> Result<Client, Error> {
    let mut config = ClientConfig::new(&mock.bootstrap());
    config.transport = kind;
    config.security = security;
    config.connect_timeout = 10 * SECOND;
    timeout(PATIENCE, Client::connect(config)).await.unwrap()
}

/// The error of a connect that must fail, and fail at once: long before the time for connecting is
/// over, with no second attempt.
async fn refused(mock: &MockCluster, security: SecurityConfig) -> (ErrorKind, String) {
    let (started, before) = (Instant::now(), mock.requests(ApiKey::SaslHandshake));
    let error = connect(TransportKind::Native, mock, security)
        .await
        .unwrap_err();
    assert!(started.elapsed() < 5 * SECOND, "{error}");
    assert_eq!(mock.requests(ApiKey::SaslHandshake), before + 1);
    assert!(!error.is_retriable());
    let address = mock.broker_addr(1).unwrap();
    let broker = error.broker().unwrap_or_default();
    assert!(broker.contains(&address), "{error}");
    assert!(error.operation().starts_with("Sasl"), "{error}");
    (error.kind(), with_causes(&error))
}

/// Whether the transport has SASL; one that has not says so when the client is built.
async fn has_sasl(kind: TransportKind) -> bool {
    if kind == TransportKind::Native {
        return true;
    }
    let mock = cluster(alice()).await;
    let security = by_password(SaslMechanism::ScramSha256, PASSWORD);
    let error = connect(kind, &mock, security).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    let text = with_causes(&error);
    assert!(text.contains("a transport with SASL"), "{text}");
    assert_eq!(mock.connections(), 0);
    lacks("refused when the client is built");
    false
}

/// Records and a group's offsets: every kind of connection that the client has.
async fn use_it(bed: &Bed) {
    let topic = bed.topic(2, &[]).await;
    for partition in 0..2 {
        topic.write(partition, &["a", "b"]).await.unwrap();
        assert_eq!(values(&topic.read(partition, 0).await.unwrap()), ["a", "b"]);
    }
    let group = bed.client.group(format!("group-{}", topic.name));
    let mut join = JoinGroupRequest {
        session_timeout_ms: 10_000,
        rebalance_timeout_ms: 10_000,
        member_id: String::new(),
        instance_id: None,
        protocol_type: "consumer".to_owned(),
        protocols: vec![("range".to_owned(), "m".into())],
        reason: None,
    };
    let mut joined = group.join(join.clone()).await.unwrap();
    if !joined.error.is_ok() {
        join.member_id = joined.member_id;
        joined = group.join(join).await.unwrap();
    }
    let synced = group
        .sync(SyncGroupRequest {
            generation: joined.generation,
            member_id: joined.member_id.clone(),
            instance_id: None,
            protocol_type: "consumer".to_owned(),
            protocol: "range".to_owned(),
            assignments: vec![(joined.member_id.clone(), "a".into())],
        })
        .await
        .unwrap();
    assert_eq!(synced.assignment, "a");
    let offset = CommitOffset {
        partition: topic.p(0),
        offset: 2,
        leader_epoch: None,
        metadata: String::new(),
    };
    let committed = group
        .commit(OffsetCommitRequest {
            generation: joined.generation,
            member_id: joined.member_id,
            instance_id: None,
            offsets: vec![offset],
        })
        .await
        .unwrap();
    assert!(committed.iter().all(|(_, code)| code.is_ok()));
    let wanted = OffsetFetchRequest {
        partitions: vec![topic.p(0)],
        require_stable: false,
    };
    let fetched = group.fetch_offsets(wanted).await.unwrap();
    assert_eq!(fetched.offsets[0].offset, Some(2));
}

pub(crate) async fn every_mechanism_carries_everything(kind: TransportKind) {
    if !has_sasl(kind).await {
        return;
    }
    for security in PASSWORDS
        .map(|mechanism| by_password(mechanism, PASSWORD))
        .into_iter()
        .chain([by_token(TOKEN)])
    {
        let mock = cluster(alice()).await;
        let set = |config: &mut ClientConfig| config.security = security;
        let bed = Bed::with(kind, &mock.bootstrap(), set).await;
        use_it(&bed).await;
        let handshakes = mock.requests(ApiKey::SaslHandshake);
        assert!(handshakes >= mock.connections() as u64, "{handshakes}");
        assert_eq!(mock.failed_tasks(), 0);
    }
}

pub(crate) async fn wrong_credentials_fail_at_once(kind: TransportKind) {
    if !has_sasl(kind).await {
        return;
    }
    let mock = cluster(alice()).await;
    for mechanism in PASSWORDS {
        let (kind, text) = refused(&mock, by_password(mechanism, "wr0ng")).await;
        assert_eq!(kind, ErrorKind::Authorization, "{text}");
        assert!(text.contains("refused the credentials"), "{text}");
        assert!(!text.contains("wr0ng"), "{text}");
    }
    let (kind, text) = refused(&mock, by_token("b4d.token")).await;
    assert_eq!(kind, ErrorKind::Authorization, "{text}");
    assert!(
        text.contains("invalid_token") && !text.contains("b4d"),
        "{text}"
    );

    let mock = cluster(alice().mechanisms(&[Mechanism::ScramSha512])).await;
    let (kind, text) = refused(&mock, by_password(SaslMechanism::Plain, PASSWORD)).await;
    assert_eq!(kind, ErrorKind::Unsupported, "{text}");
    assert!(
        text.contains("does not offer PLAIN; it offers: SCRAM-SHA-512"),
        "{text}"
    );

    let open = MockCluster::builder().start().await.unwrap();
    let (kind, text) = refused(&open, by_password(SaslMechanism::Plain, PASSWORD)).await;
    assert_eq!(kind, ErrorKind::Unsupported, "{text}");
    assert!(text.contains("does not expect SASL"), "{text}");
}

pub(crate) async fn brokers_that_lie_are_found_out(kind: TransportKind) {
    if !has_sasl(kind).await {
        return;
    }
    let scram = [SaslMechanism::ScramSha256, SaslMechanism::ScramSha512];
    for mechanism in scram {
        let mock = cluster(alice().impostor()).await;
        let (kind, text) = refused(&mock, by_password(mechanism, PASSWORD)).await;
        assert_eq!(kind, ErrorKind::Authorization, "{text}");
        assert!(text.contains("signature is wrong"), "{text}");
        // A proof for few iterations could be tried out, and many would keep us busy: neither is
        // made.
        for count in [1, 4095, 1_000_001, u32::MAX] {
            let mock = cluster(alice().iterations(count)).await;
            let (kind, text) = refused(&mock, by_password(mechanism, PASSWORD)).await;
            assert_eq!(kind, ErrorKind::Authorization, "{text}");
            assert!(
                text.contains(&format!("asks for {count} iterations")),
                "{text}"
            );
            assert_eq!(mock.requests(ApiKey::SaslAuthenticate), 1);
        }
    }
}

pub(crate) async fn kip_368_renewed_sessions_lose_nothing(kind: TransportKind) {
    const LIFETIME: Duration = Duration::from_millis(1500);
    if !has_sasl(kind).await {
        return;
    }
    let mock = cluster(alice().session_lifetime(LIFETIME)).await;
    let set = |config: &mut ClientConfig| {
        config.security = by_password(SaslMechanism::Plain, PASSWORD);
    };
    let bed = Bed::with(kind, &mock.bootstrap(), set).await;
    let topic = bed.topic(1, &[]).await;
    topic.write(0, &["0"]).await.unwrap();
    topic.read(0, 0).await.unwrap();
    let (connections, shaken) = (mock.connections(), mock.requests(ApiKey::SaslHandshake));
    // Each connection begins with one ApiVersions.
    let ended = || mock.requests(ApiKey::ApiVersions) - mock.connections() as u64;
    let before = ended();
    let renewals = || mock.requests(ApiKey::SaslHandshake) - shaken;

    let writing = async {
        let mut count = 1_i64;
        while renewals() < 3 * connections as u64 {
            topic.write(0, &[&count.to_string()]).await.unwrap();
            count += 1;
        }
        count
    };
    let reading = async {
        // Nothing but what the transport gives: an error here would be a lost connection.
        let mut position = 0;
        let mut seen = Vec::new();
        while renewals() < 3 * connections as u64 {
            let fetched = topic.read(0, position).await.unwrap();
            seen.extend(values(&fetched));
            position = fetched.next_offset;
        }
        (position, seen)
    };
    let both = async { tokio::join!(writing, reading) };
    let (count, (position, mut seen)) = timeout(PATIENCE, both).await.expect("three renewals");
    let rest = topic.read_to(0, position, count).await;
    seen.extend(rest.into_iter().map(|(_, value)| value));
    let expected: Vec<_> = (0..count).map(|n| n.to_string()).collect();
    assert_eq!(seen, expected);
    assert_eq!(ended(), before, "a connection was lost");
}
