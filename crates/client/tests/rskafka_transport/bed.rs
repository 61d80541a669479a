//! A mock cluster and a transport on it, with what the tests ask of both.

use ottla_client::transport::{
    FetchLimits, FetchPosition, Fetched, ProduceOptions, Produced, RskafkaSettings,
    RskafkaTransport, Transport, produce_all,
};
use ottla_client::{ClientConfig, Error};
use ottla_mock_cluster::MockCluster;
use ottla_record_batch::{BatchBuilder, EncodedBatch};
use ottla_types::{Headers, Offset, TopicPartition};
use std::time::Duration;
use tokio::time::{Instant, timeout};

pub(crate) const SECOND: Duration = Duration::from_secs(1);
/// Nothing here takes longer unless it hangs.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) fn settings(bootstrap: &str) -> RskafkaSettings {
    let config = ClientConfig {
        connect_timeout: SECOND,
        request_timeout: SECOND,
        retry_backoff: Duration::from_millis(10),
        retry_backoff_max: Duration::from_millis(200),
        ..ClientConfig::new(bootstrap)
    };
    RskafkaSettings::from(&config)
}

pub(crate) async fn transport(cluster: &MockCluster) -> RskafkaTransport {
    let settings = settings(&cluster.bootstrap());
    RskafkaTransport::connect(settings, Instant::now() + PATIENCE)
        .await
        .unwrap()
}

pub(crate) async fn one_broker(partitions: i32) -> (MockCluster, RskafkaTransport) {
    let cluster = MockCluster::builder().start().await.unwrap();
    cluster.create_topic("t", partitions).unwrap();
    let transport = transport(&cluster).await;
    (cluster, transport)
}

/// A bare offset of a partition.
pub(crate) fn at(partition: i32, offset: Offset) -> (TopicPartition, FetchPosition) {
    (p(partition), offset.into())
}

pub(crate) fn p(partition: i32) -> TopicPartition {
    TopicPartition::new("t", partition)
}

pub(crate) fn batch(values: &[&str]) -> EncodedBatch {
    let mut builder = BatchBuilder::new(1 << 20);
    for value in values {
        builder
            .try_append(1_000, None, Some(value.as_bytes()), &Headers::new())
            .unwrap();
    }
    builder.finish()
}

pub(crate) fn options(timeout: Duration) -> ProduceOptions {
    ProduceOptions {
        timeout,
        ..ProduceOptions::default()
    }
}

pub(crate) async fn produce(
    transport: &RskafkaTransport,
    partition: i32,
    values: &[&str],
    timeout: Duration,
) -> Result<Produced, Error> {
    let batches = vec![(p(partition), batch(values))];
    let mut results = produce_all(transport, &options(timeout), batches).await;
    assert_eq!(results.len(), 1);
    let (partition_back, result) = results.remove(0);
    assert_eq!(partition_back, p(partition));
    result
}

pub(crate) fn limits(max_wait: Duration) -> FetchLimits {
    FetchLimits {
        max_wait,
        min_bytes: 1,
        max_partition_bytes: 1 << 20,
        max_bytes: 50 << 20,
        read_ahead_bytes: 1 << 20,
    }
}

pub(crate) async fn fetch_one(
    transport: &RskafkaTransport,
    partition: i32,
    position: Offset,
) -> Result<Fetched, Error> {
    let fetched = async {
        loop {
            let mut answers = transport
                .fetch(limits(SECOND / 2), vec![at(partition, position)])
                .await;
            if let Some((_, result)) = answers.pop() {
                return result;
            }
        }
    };
    timeout(PATIENCE, fetched)
        .await
        .expect("records or an error")
}

/// Fetches as a consumer does: errors that pass are reported, and then it asks again.
pub(crate) async fn fetch_again(
    transport: &RskafkaTransport,
    partition: i32,
    position: Offset,
) -> Fetched {
    loop {
        match fetch_one(transport, partition, position).await {
            Ok(fetched) => return fetched,
            Err(e) => assert!(e.is_retriable(), "{e}"),
        }
    }
}

pub(crate) fn values(fetched: &Fetched) -> Vec<String> {
    let mut all = Vec::new();
    for batch in fetched.records.batches() {
        for record in batch.unwrap().records() {
            let value = record.unwrap().value.unwrap();
            all.push(String::from_utf8(value.to_vec()).unwrap());
        }
    }
    all
}

pub(crate) fn written(cluster: &MockCluster) -> Vec<String> {
    cluster
        .records("t")
        .iter()
        .map(|record| record.value_text().unwrap_or_default())
        .collect()
}

/// Waits for what a test has caused, at most [`PATIENCE`].
pub(crate) async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let waiting = async {
        while !holds() {
            tokio::task::yield_now().await;
        }
    };
    assert!(
        timeout(PATIENCE, waiting).await.is_ok(),
        "waited in vain: {what}"
    );
}
