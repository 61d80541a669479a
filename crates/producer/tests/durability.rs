//! `durability.check`: a producer and topics that can lose data.

use ottla_client::admin::DurabilityMode;
use ottla_client::{Client, ClientConfig, NewTopic};
use ottla_mock_cluster::{ApiKey, MockCluster};
use ottla_producer::{Producer, ProducerConfig};
use ottla_types::{Fate, Record, with_causes};
use std::time::Duration;

async fn cluster() -> (MockCluster, Client) {
    let cluster = MockCluster::builder()
        .brokers(3)
        .start()
        .await
        .expect("a cluster");
    let config = ClientConfig::new(&cluster.bootstrap());
    let client = Client::connect(config).await.expect("a client");
    let weak = NewTopic::new("weak", 1).replication(1);
    let good = NewTopic::new("good", 1)
        .replication(3)
        .config("min.insync.replicas", "2");
    client
        .ensure_topics(vec![weak, good])
        .await
        .expect("topics");
    (cluster, client)
}

fn producer(client: &Client, mode: DurabilityMode) -> Producer {
    let config = ProducerConfig {
        durability_check: mode,
        ..ProducerConfig::default()
    };
    Producer::new(client, config).expect("a producer")
}

fn record(topic: &str) -> Record {
    Record::new(topic).value("v")
}

#[tokio::test]
async fn a_topic_that_can_lose_data_is_refused_and_others_are_judged_once() {
    let (cluster, client) = cluster().await;
    let producer = producer(&client, DurabilityMode::Refuse);
    for _ in 0..5 {
        producer.send(record("good")).await.expect("written");
    }
    assert_eq!(cluster.requests(ApiKey::DescribeConfigs), 1);
    let refused = producer.send(record("weak")).await.expect_err("refused");
    assert_eq!(
        (refused.topic(), refused.fate()),
        ("weak", Fate::NotWritten)
    );
    let why = with_causes(&refused).to_string();
    assert!(
        why.contains("one copy only (replication factor 1)"),
        "{why}"
    );
    assert_eq!(cluster.records("weak").len(), 0);
    // What was mended is written to.
    cluster.delete_topic("weak").expect("deleted");
    let mended = NewTopic::new("weak", 1)
        .replication(3)
        .config("min.insync.replicas", "2");
    client.ensure_topics(vec![mended]).await.expect("made anew");
    producer.send(record("weak")).await.expect("written");
    assert!(producer.close(Duration::from_secs(10)).await.is_clean());
    client.close().await;
    cluster.shutdown().await;
}

#[tokio::test]
async fn a_warning_writes_and_without_a_check_nothing_is_asked() {
    let (cluster, client) = cluster().await;
    for (mode, asked) in [(DurabilityMode::Off, 0), (DurabilityMode::Warn, 1)] {
        let producer = producer(&client, mode);
        producer.send(record("weak")).await.expect("written");
        assert_eq!(cluster.requests(ApiKey::DescribeConfigs), asked, "{mode:?}");
        assert!(producer.close(Duration::from_secs(10)).await.is_clean());
    }
    client.close().await;
    cluster.shutdown().await;
}
