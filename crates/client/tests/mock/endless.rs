//! Limits that are meant to be none.

use ottla_client::transport::{FetchLimits, OffsetSpec, ProduceOptions, produce_all};
use ottla_client::{Client, ClientConfig, NewTopic, TransportKind};
use ottla_mock_cluster::MockCluster;
use ottla_record_batch::BatchBuilder;
use ottla_types::{Headers, TopicPartition};
use std::time::Duration;

#[tokio::test]
async fn a_transport_takes_a_limit_that_no_clock_can_tell() {
    for transport in [TransportKind::Rskafka, TransportKind::Native] {
        let mock = MockCluster::builder().start().await.unwrap();
        let config = ClientConfig {
            transport,
            ..ClientConfig::new(&mock.bootstrap())
        };
        let client = Client::connect(config).await.unwrap();
        let new = vec![NewTopic::new("orders", 1)];
        client.ensure_topics(new).await.unwrap();
        let partition = TopicPartition::new("orders", 0);
        let mut builder = BatchBuilder::new(1 << 10);
        builder
            .try_append(1, None, Some(b"a"), &Headers::new())
            .unwrap();
        let options = ProduceOptions {
            timeout: Duration::MAX,
            ..ProduceOptions::default()
        };
        let batches = vec![(partition.clone(), builder.finish())];
        let written = produce_all(&**client.transport(), &options, batches).await;
        assert!(written[0].1.is_ok(), "{written:?}");
        let wanted = vec![(partition.clone(), OffsetSpec::Latest)];
        let latest = client.transport().list_offsets(Duration::MAX, wanted).await;
        assert_eq!(latest[0].1.as_ref().unwrap().offset, 1);
        let limits = FetchLimits {
            max_wait: Duration::MAX,
            min_bytes: 1,
            max_partition_bytes: 1 << 20,
            max_bytes: 1 << 20,
            read_ahead_bytes: 0,
        };
        let position = vec![(partition, 0.into())];
        let fetched = client.transport().fetch(limits, position).await;
        assert_eq!(fetched[0].1.as_ref().unwrap().next_offset, 1);
        client.close().await;
        mock.shutdown().await;
    }
}
