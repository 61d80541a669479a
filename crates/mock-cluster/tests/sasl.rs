//! SASL as Kafka has it: what is taken when, what failures look like, sessions that end.
#![allow(clippy::unwrap_used, reason = "a helper of a test may end it")]

mod support;

use std::time::Duration;

use bytes::Bytes;
use kafka_protocol::messages::*;
use ottla_mock_cluster::{ApiKey, Mechanism, MockCluster, Sasl, Versions};
use support::{Peer, text};
use tokio::time::{Instant, sleep_until};

const LIFETIME: Duration = Duration::from_millis(1500);

async fn start(sasl: Sasl) -> MockCluster {
    MockCluster::builder().sasl(sasl).start().await.unwrap()
}

fn alice() -> Sasl {
    Sasl::new().user("alice", "pencil")
}

async fn handshake(peer: &mut Peer, mechanism: &str) -> SaslHandshakeResponse {
    let request = SaslHandshakeRequest::default().with_mechanism(text(mechanism));
    peer.call(1, &request).await
}

async fn authenticate(peer: &mut Peer, token: &'static [u8]) -> SaslAuthenticateResponse {
    let request = SaslAuthenticateRequest::default().with_auth_bytes(Bytes::from_static(token));
    peer.call(2, &request).await
}

const PENCIL: &[u8] = b"\0alice\0pencil";

async fn let_in(cluster: &MockCluster) -> Peer {
    let mut peer = Peer::connect(cluster, 1).await;
    assert_eq!(handshake(&mut peer, "PLAIN").await.error_code, 0);
    assert_eq!(authenticate(&mut peer, PENCIL).await.error_code, 0);
    peer
}

#[tokio::test]
async fn nothing_is_taken_before_authentication_but_what_leads_there() {
    let cluster = start(alice()).await;
    let mut peer = Peer::connect(&cluster, 1).await;
    let versions = peer.call(3, &ApiVersionsRequest::default()).await;
    for key in [ApiKey::SaslHandshake, ApiKey::SaslAuthenticate] {
        assert!(
            versions
                .api_keys
                .iter()
                .any(|range| range.api_key == key.key())
        );
    }
    let metadata = MetadataRequest::default();
    assert!(peer.try_call(1, &metadata).await.is_none());
    // Within the exchange, too.
    let mut peer = Peer::connect(&cluster, 1).await;
    handshake(&mut peer, "PLAIN").await;
    assert!(peer.try_call(1, &metadata).await.is_none());
    let mut peer = let_in(&cluster).await;
    assert_eq!(peer.call(1, &metadata).await.brokers.len(), 1);
    assert_eq!(cluster.requests(ApiKey::Metadata), 1);
}

#[tokio::test]
async fn failures_are_answered_before_the_connection_ends() {
    let cluster = start(alice().mechanisms(&[Mechanism::Plain])).await;
    let mut peer = Peer::connect(&cluster, 1).await;
    handshake(&mut peer, "PLAIN").await;
    let answer = authenticate(&mut peer, b"\0alice\0wrong").await;
    assert_eq!(answer.error_code, 58);
    assert!(
        answer
            .error_message
            .unwrap()
            .contains("Invalid username or password")
    );
    assert!(peer.is_closed().await);

    let mut peer = Peer::connect(&cluster, 1).await;
    let answer = handshake(&mut peer, "SCRAM-SHA-256").await;
    assert_eq!(
        (answer.error_code, answer.mechanisms),
        (33, vec![text("PLAIN")])
    );
    assert!(peer.is_closed().await);
}

#[tokio::test]
async fn a_bad_token_is_refused_when_the_client_gives_up() {
    let cluster = start(Sasl::new().token("good")).await;
    let mut peer = Peer::connect(&cluster, 1).await;
    handshake(&mut peer, "OAUTHBEARER").await;
    let answer = authenticate(&mut peer, b"n,,\x01auth=Bearer bad\x01\x01").await;
    assert_eq!(answer.error_code, 0);
    assert!(answer.auth_bytes.starts_with(b"{\"status\""));
    assert_eq!(authenticate(&mut peer, b"\x01").await.error_code, 58);
    assert!(peer.is_closed().await);

    let mut peer = Peer::connect(&cluster, 1).await;
    handshake(&mut peer, "OAUTHBEARER").await;
    let answer = authenticate(&mut peer, b"n,,\x01auth=Bearer good\x01\x01").await;
    assert_eq!((answer.error_code, answer.auth_bytes.len()), (0, 0));
}

#[tokio::test]
async fn without_sasl_a_handshake_is_out_of_place() {
    let cluster = MockCluster::builder().start().await.unwrap();
    let mut peer = Peer::connect(&cluster, 1).await;
    assert_eq!(handshake(&mut peer, "PLAIN").await.error_code, 34);
    assert_eq!(authenticate(&mut peer, PENCIL).await.error_code, 34);
    peer.call(1, &MetadataRequest::default()).await;
}

#[tokio::test]
async fn kip_368_a_session_ends_unless_it_is_renewed() {
    let cluster = start(alice().user("bob", "pen").session_lifetime(LIFETIME)).await;
    let begun = Instant::now();
    let (mut kept, mut lost) = (let_in(&cluster).await, let_in(&cluster).await);
    // Too early, and still as good as before.
    assert_eq!(handshake(&mut kept, "PLAIN").await.error_code, 34);
    sleep_until(begun + Duration::from_millis(1100)).await;
    assert_eq!(handshake(&mut kept, "PLAIN").await.error_code, 0);
    let answer = authenticate(&mut kept, PENCIL).await;
    assert_eq!((answer.error_code, answer.session_lifetime_ms), (0, 1500));
    sleep_until(begun + LIFETIME + Duration::from_millis(200)).await;
    let metadata = MetadataRequest::default();
    kept.call(1, &metadata).await;
    assert!(lost.try_call(1, &metadata).await.is_none());

    // Not as somebody else, and not in another way.
    sleep_until(begun + Duration::from_millis(2200)).await;
    assert_eq!(handshake(&mut kept, "PLAIN").await.error_code, 0);
    assert_eq!(authenticate(&mut kept, b"\0bob\0pen").await.error_code, 58);
    assert!(kept.is_closed().await);
}

#[tokio::test]
async fn every_kind_of_broker_has_sasl() {
    for versions in [
        Versions::kafka_3_9(),
        Versions::kafka_4_0(),
        Versions::redpanda(),
    ] {
        let builder = MockCluster::builder().versions(versions).sasl(alice());
        let cluster = builder.start().await.unwrap();
        let_in(&cluster)
            .await
            .call(1, &MetadataRequest::default())
            .await;
    }
}
