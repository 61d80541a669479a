//! How connections end and how the cluster is found again.

use crate::scenarios::{self, heartbeat, join};
use crate::{cluster, end, until};
use ottla_client::{Client, ClientConfig, ErrorKind, NewTopic, TransportKind};
use ottla_mock_cluster::{Action, ApiKey, Fault, MockCluster};
use ottla_types::ErrorCode;
use std::time::Duration;

const IDLE: Duration = Duration::from_millis(200);

#[tokio::test]
async fn k1_idle_connections_are_closed_and_made_again() {
    for transport in [TransportKind::Rskafka, TransportKind::Native] {
        let mock = MockCluster::builder().brokers(2).start().await.unwrap();
        let config = ClientConfig {
            transport,
            connections_max_idle: IDLE,
            ..ClientConfig::new(&mock.bootstrap())
        };
        let client = Client::connect(config).await.unwrap();
        // rskafka keeps one of its own.
        let kept = usize::from(transport == TransportKind::Rskafka);
        for round in 0..3 {
            let topic = format!("orders-{round}");
            let new = vec![NewTopic::new(&topic, 1)];
            client.ensure_topics(new).await.unwrap();
            client.init_producer_id().await.unwrap();
            let group = client.group(scenarios::fresh("group"));
            let joined = join(&group, "").await;
            assert_eq!(joined.error, ErrorCode::NONE);
            // The group waits for its SyncGroup, and says so.
            let beat = heartbeat(&group, &joined).await;
            assert!(matches!(
                beat,
                ErrorCode::NONE | ErrorCode::REBALANCE_IN_PROGRESS
            ));
            assert!(mock.connections() > kept);
            until("they are closed", || mock.connections() == kept).await;
        }
        end(mock, client).await;
    }
}

#[tokio::test]
async fn k1_a_join_that_waits_is_not_idle() {
    let mock = MockCluster::builder().start().await.unwrap();
    let config = ClientConfig {
        connections_max_idle: IDLE,
        ..ClientConfig::new(&mock.bootstrap())
    };
    let client = Client::connect(config).await.unwrap();
    let slow = Fault::on(ApiKey::JoinGroup).times(2);
    let slow = mock.faults().add(slow.action(Action::DelayReply(IDLE * 3)));
    let joined = join(&client.group("g"), "").await;
    assert_eq!((joined.error, slow.hits()), (ErrorCode::NONE, 2));
    end(mock, client).await;
}

/// Every broker that is known is gone, for good: the bootstrap addresses lead to the others (KIP-899).
#[tokio::test]
async fn a_cluster_whose_known_brokers_are_all_gone_is_found_again() {
    let old = MockCluster::builder().brokers(2).start().await.unwrap();
    let new = MockCluster::builder().brokers(1).start().await.unwrap();
    // The second address is not there when the client starts.
    let address = new.broker_addr(1).unwrap();
    new.kill(1).await.unwrap();
    let config = ClientConfig {
        request_timeout: Duration::from_secs(10),
        transport: TransportKind::Native,
        ..ClientConfig::new(&format!("{},{address}", old.broker_addr(1).unwrap()))
    };
    let client = Client::connect(config).await.unwrap();
    let topic = scenarios::fresh("orders");
    client
        .ensure_topics(vec![NewTopic::new(&topic, 1)])
        .await
        .unwrap();
    old.shutdown().await;
    new.restart(1).await.unwrap();
    let missing = client.refresh_topic(&topic).await.unwrap_err();
    assert_eq!(
        missing.kind(),
        ErrorKind::UnknownTopic,
        "asked of the new one"
    );
    client
        .ensure_topics(vec![NewTopic::new(&topic, 1)])
        .await
        .unwrap();
    assert_eq!(new.topics(), [topic]);
    // Group calls find their coordinator there, too.
    assert_eq!(join(&client.group("g"), "").await.error, ErrorCode::NONE);
    end(new, client).await;
}

/// The brokers that are known take requests and say nothing, however many they are.
#[tokio::test]
async fn k1_silent_brokers_leave_time_for_the_bootstrap_addresses() {
    let old = MockCluster::builder().brokers(12).start().await.unwrap();
    let new = MockCluster::builder().brokers(1).start().await.unwrap();
    let address = new.broker_addr(1).unwrap();
    new.kill(1).await.unwrap();
    let config = ClientConfig {
        request_timeout: Duration::from_secs(4),
        transport: TransportKind::Native,
        ..ClientConfig::new(&format!("{},{address}", old.broker_addr(1).unwrap()))
    };
    let client = Client::connect(config).await.unwrap();
    let silent = old
        .faults()
        .add(Fault::on(ApiKey::Metadata).forever().action(Action::Hang));
    new.restart(1).await.unwrap();
    assert_eq!(client.list_topics().await.unwrap(), []);
    assert!(silent.hits() > 0);
    // Now the new one is known, and asked first.
    let before = silent.hits();
    assert_eq!(client.list_topics().await.unwrap(), []);
    assert_eq!(silent.hits(), before);
    client.close().await;
    old.shutdown().await;
    end(new, client).await;
}

/// Some brokers of a cluster are silent, and stay what is known of it.
#[tokio::test]
async fn k1_who_did_not_answer_is_asked_last() {
    let mock = MockCluster::builder().brokers(10).start().await.unwrap();
    let config = ClientConfig {
        request_timeout: Duration::from_secs(4),
        ..ClientConfig::new(&mock.broker_addr(1).unwrap().to_string())
    };
    let client = Client::connect(config).await.unwrap();
    let hang = |id| {
        let fault = Fault::on(ApiKey::Metadata).at_broker(id).forever();
        mock.faults().add(fault.action(Action::Hang))
    };
    let silent: Vec<_> = (2..=10).map(hang).collect();
    for _ in 0..3 {
        client.list_topics().await.unwrap();
    }
    let hits: Vec<_> = silent.iter().map(|fault| fault.hits()).collect();
    assert!(hits.iter().all(|hits| *hits <= 1), "{hits:?}");
    end(mock, client).await;
}

#[tokio::test]
async fn a_client_that_is_closed_leaves_no_connection() {
    let (mock, client) = cluster().await;
    client.list_topics().await.unwrap();
    assert!(mock.connections() > 0);
    client.close().await;
    until("all are closed", || mock.connections() == 0).await;
    end(mock, client).await;
}
