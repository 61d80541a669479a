//! The broker of a measurement and its topics, seen by our own client between the runs.

use super::{BenchError, Task, client};
use crate::harness::{Jars, KafkaCluster, KafkaOptions};
use ottla::client::transport::OffsetSpec;
use ottla::client::{Client, ClientConfig, NewTopic};
use ottla::types::TopicPartition;
use std::time::Duration;

/// A thousand partitions on a busy machine take their time.
const ADMIN_WITHIN: Duration = Duration::from_secs(60);

/// A broker of our own, or one that the user named.
#[derive(Debug)]
pub(super) struct Broker {
    cluster: Option<KafkaCluster>,
    bootstrap: String,
}

impl Broker {
    /// Starts a node with the settings of a server rather than of a test.
    pub(super) async fn start(jars: Jars) -> Result<Self, BenchError> {
        let options = KafkaOptions::new(jars)
            .java("-Xmx1g")
            .java("-Xms1g")
            .java("-XX:-UseSerialGC")
            .java("-XX:+UseG1GC")
            .java("-XX:TieredStopAtLevel=4")
            .property("num.network.threads", "3")
            .property("num.io.threads", "8")
            .property("log.segment.delete.delay.ms", "1000");
        let cluster = KafkaCluster::start(1, options).await?;
        Ok(Self {
            bootstrap: cluster.bootstrap(),
            cluster: Some(cluster),
        })
    }

    pub(super) fn external(bootstrap: &str) -> Self {
        Self {
            cluster: None,
            bootstrap: bootstrap.to_owned(),
        }
    }

    pub(super) fn bootstrap(&self) -> &str {
        &self.bootstrap
    }

    /// A client for one errand, so that nothing of it stands in the way of a measurement.
    async fn client(&self) -> Result<Client, BenchError> {
        let mut config = ClientConfig::new(&self.bootstrap);
        config.request_timeout = ADMIN_WITHIN;
        Ok(Client::connect(config).await?)
    }

    pub(super) async fn create(&self, topic: &str, partitions: i32) -> Result<(), BenchError> {
        let client = self.client().await?;
        let made = client
            .ensure_topics(vec![NewTopic::new(topic, partitions)])
            .await;
        client.close().await;
        Ok(made?)
    }

    pub(super) async fn fill(&self, task: &Task) -> Result<(), BenchError> {
        let client = self.client().await?;
        let filled = client::fill(&client, task).await;
        client.close().await;
        filled.map_err(|error| BenchError::Wrong {
            contender: "the filling of the topic".to_owned(),
            problem: error.to_string(),
        })
    }

    /// How many records a topic has.
    pub(super) async fn count(&self, topic: &str, partitions: i32) -> Result<u64, BenchError> {
        let client = self.client().await?;
        let ends = (0..partitions).map(|p| (TopicPartition::new(topic, p), OffsetSpec::Latest));
        let answers = client
            .transport()
            .list_offsets(ADMIN_WITHIN, ends.collect());
        let mut count = 0;
        for (_, offset) in answers.await {
            count += offset?.offset.cast_unsigned();
        }
        client.close().await;
        Ok(count)
    }

    /// How many records a group that began with the first ones has committed.
    pub(super) async fn committed(&self, group: &str) -> Result<u64, BenchError> {
        let client = self.client().await?;
        let offsets = client.admin().group_offsets(group, None).await;
        client.close().await;
        let mut count = 0;
        for (_, offset) in offsets? {
            count += offset?.map_or(0, |committed| committed.offset.cast_unsigned());
        }
        Ok(count)
    }

    pub(super) async fn delete(&self, topic: &str) -> Result<(), BenchError> {
        let client = self.client().await?;
        let deleted = client.delete_topics(vec![topic.to_owned()]).await;
        client.close().await;
        for (_, outcome) in deleted? {
            outcome?;
        }
        Ok(())
    }

    pub(super) async fn stop(self) -> Result<(), BenchError> {
        match self.cluster {
            Some(cluster) => Ok(cluster.stop().await?),
            None => Ok(()),
        }
    }
}
