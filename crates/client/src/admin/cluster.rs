//! The cluster itself: its brokers and its controller.

use crate::cluster::Cluster;
use crate::connection::Api;
use crate::{Error, ErrorKind};
use kafka_protocol::messages::{DescribeClusterRequest, MetadataRequest};
use ottla_types::ErrorCode;
use tokio::time::{Instant, timeout_at};

/// The first version that tells fenced brokers.
const FENCED_FROM: i16 = 2;

/// The cluster as one of its brokers describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ClusterDescription {
    /// The cluster's id, where the broker tells it.
    pub cluster_id: Option<String>,
    /// The broker that administration goes to; `None` while there is none.
    pub controller: Option<i32>,
    /// The brokers, ordered by id.
    pub brokers: Vec<BrokerDescription>,
}

/// A broker.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct BrokerDescription {
    /// The broker's id.
    pub id: i32,
    /// The host that it gives to clients.
    pub host: String,
    /// The port that it gives to clients.
    pub port: i32,
    /// The rack, if it has one.
    pub rack: Option<String>,
    /// Whether the controller holds it back from leading (KIP-631); only Kafka 4 tells.
    pub is_fenced: bool,
}

/// By DescribeCluster, or by Metadata where brokers do not speak that (Redpanda).
pub(super) async fn describe(
    cluster: &Cluster,
    deadline: Instant,
) -> Result<ClusterDescription, Error> {
    let asked = timeout_at(deadline, by_describe_cluster(cluster, deadline)).await;
    let timed_out = || Error::new(ErrorKind::TimedOut, DescribeClusterRequest::NAME);
    let described = match asked.unwrap_or_else(|_| Err(timed_out())) {
        Err(error) if error.kind() == ErrorKind::Unsupported => {
            by_metadata(cluster, deadline).await
        }
        described => described,
    };
    described.map(|mut described| {
        described.brokers.sort_unstable_by_key(|broker| broker.id);
        described
    })
}

async fn by_describe_cluster(
    cluster: &Cluster,
    deadline: Instant,
) -> Result<ClusterDescription, Error> {
    let build = |version| {
        DescribeClusterRequest::default().with_include_fenced_brokers(version >= FENCED_FROM)
    };
    let (answer, _) = cluster.ask_any(deadline, build).await?;
    ErrorCode(answer.error_code).into_result().map_err(|code| {
        let message = answer.error_message.unwrap_or_default();
        Error::from_code(code, DescribeClusterRequest::NAME).with_source(message.to_string())
    })?;
    let brokers = answer.brokers.into_iter().map(|broker| BrokerDescription {
        id: broker.broker_id.0,
        host: broker.host.to_string(),
        port: broker.port,
        rack: broker.rack.map(|rack| rack.to_string()),
        is_fenced: broker.is_fenced,
    });
    Ok(ClusterDescription {
        cluster_id: Some(answer.cluster_id.to_string()).filter(|id| !id.is_empty()),
        controller: (answer.controller_id.0 >= 0).then_some(answer.controller_id.0),
        brokers: brokers.collect(),
    })
}

async fn by_metadata(cluster: &Cluster, deadline: Instant) -> Result<ClusterDescription, Error> {
    let build = |_| {
        MetadataRequest::default()
            .with_topics(Some(Vec::new()))
            .with_allow_auto_topic_creation(false)
    };
    let (answer, _) = cluster.ask_any(deadline, build).await?;
    let brokers = answer.brokers.into_iter().map(|broker| BrokerDescription {
        id: broker.node_id.0,
        host: broker.host.to_string(),
        port: broker.port,
        rack: broker.rack.map(|rack| rack.to_string()),
        is_fenced: false,
    });
    Ok(ClusterDescription {
        cluster_id: answer.cluster_id.map(|id| id.to_string()),
        controller: (answer.controller_id.0 >= 0).then_some(answer.controller_id.0),
        brokers: brokers.collect(),
    })
}
