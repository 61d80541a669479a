//! The handle that everything above is built from: a cluster, a transport and the coordinator
//! calls.

use crate::admin::{Admin, DurabilityDemands, DurabilityReport, topics};
use crate::cluster::Cluster;
use crate::transport::{NativeTransport, RskafkaTransport, Transport};
use crate::{
    ClientConfig, Error, ErrorKind, GroupClient, IsolationLevel, NewTopic, ProducerId,
    TopicMetadata, TransactionClient, TransportKind, producer_id,
};
use std::fmt;
use std::sync::Arc;
use tokio::time::Instant;

/// A client of one cluster. Cloning is cheap; all clones share connections and metadata.
///
/// Connections are made when they are needed and again when they were lost; every call ends within
/// `request.timeout.ms`, its retries included. All methods are safe to cancel: the client stays
/// usable.
///
/// ```no_run
/// use ottla_client::{Client, ClientConfig, NewTopic};
///
/// # async fn example() -> Result<(), ottla_client::Error> {
/// let client = Client::connect(ClientConfig::new("localhost:9092")).await?;
/// client.ensure_topics(vec![NewTopic::new("orders", 3)]).await?;
/// assert_eq!(client.topic("orders").await?.partitions.len(), 3);
/// client.close().await;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

struct Inner {
    cluster: Arc<Cluster>,
    transport: Arc<dyn Transport>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("bootstrap", &self.config().bootstrap)
            .field("transport", &self.inner.transport.name())
            .finish_non_exhaustive()
    }
}

impl Client {
    /// Finds the cluster through the bootstrap addresses. Ends within
    /// `socket.connection.setup.timeout.ms`, however many addresses there are, once for finding the
    /// cluster and once for the transport.
    ///
    /// # Errors
    /// `Config` for a value that is not allowed; `Connect` when no address leads to a broker (a
    /// name that does not resolve, a port that refuses or stays silent): the cause says for each
    /// address why; `Protocol` when what answers is no broker.
    pub async fn connect(config: ClientConfig) -> Result<Self, Error> {
        config.validate()?;
        let cluster = Arc::new(Cluster::connect(config).await?);
        let transport = connect_transport(&cluster).await?;
        let inner = Arc::new(Inner { cluster, transport });
        Ok(Self { inner })
    }

    /// The settings.
    pub fn config(&self) -> &ClientConfig {
        &self.inner.cluster.config
    }

    /// What carries batches to the leaders and record sets back.
    pub fn transport(&self) -> &Arc<dyn Transport> {
        &self.inner.transport
    }

    /// A topic's description, from the cache while it is younger than `metadata.max.age.ms`.
    ///
    /// # Errors
    /// `UnknownTopic` when the cluster, asked once, does not know the topic: it is never created
    /// by asking; else as [`refresh_topic`](Self::refresh_topic).
    pub async fn topic(&self, name: &str) -> Result<Arc<TopicMetadata>, Error> {
        self.inner.cluster.topic(name).await
    }

    /// A topic's description as the cluster gives it now. Callers at the same time share requests.
    ///
    /// # Errors
    /// `UnknownTopic`; `Config` for an illegal name; `Authorization`; `Broker` while the topic is
    /// being created (retriable); a connection error when no broker answered in time.
    pub async fn refresh_topic(&self, name: &str) -> Result<Arc<TopicMetadata>, Error> {
        self.inner.cluster.refresh_topic(name).await
    }

    /// Every topic that this client may see, ordered by name, internal ones included.
    ///
    /// # Errors
    /// A connection error when no broker answered in time.
    pub async fn list_topics(&self) -> Result<Vec<Arc<TopicMetadata>>, Error> {
        self.inner.cluster.list_topics().await
    }

    /// Creates topics. The answers stand in the order of `topics`.
    ///
    /// # Errors
    /// When the controller could not be asked; with [`Fate::MaybeWritten`](ottla_types::Fate) the
    /// topics may have been created. A topic that exists is an error of that topic alone, with code
    /// `TOPIC_ALREADY_EXISTS`.
    pub async fn create_topics(
        &self,
        topics: Vec<NewTopic>,
    ) -> Result<Vec<(String, Result<(), Error>)>, Error> {
        let cluster = &*self.inner.cluster;
        topics::create_topics(cluster, &topics, cluster.request_deadline()).await
    }

    /// Creates the topics that do not exist, and waits until every partition of all of them has a
    /// leader. A topic that exists stays as it is, whatever its number of partitions.
    ///
    /// # Errors
    /// The first topic's error that does not pass by itself; `TimedOut` when a leader is missing
    /// for longer than `request.timeout.ms`.
    pub async fn ensure_topics(&self, topics: Vec<NewTopic>) -> Result<(), Error> {
        let cluster = &*self.inner.cluster;
        topics::ensure_topics(cluster, &topics, cluster.request_deadline()).await
    }

    /// Deletes topics. The answers stand in the order of `names`.
    ///
    /// # Errors
    /// As [`create_topics`](Self::create_topics).
    pub async fn delete_topics(
        &self,
        names: Vec<String>,
    ) -> Result<Vec<(String, Result<(), Error>)>, Error> {
        let cluster = &*self.inner.cluster;
        topics::delete_topics(cluster, names, cluster.request_deadline()).await
    }

    /// Administration beyond creating and deleting topics.
    pub fn admin(&self) -> Admin {
        Admin::new(self.inner.cluster.clone())
    }

    /// Judges whether topics can lose what is acknowledged with these `acks` (or these
    /// [`DurabilityDemands`]): see [`Admin::check_durability`].
    pub async fn check_durability(
        &self,
        topics: Vec<String>,
        demands: impl Into<DurabilityDemands> + Send,
    ) -> DurabilityReport {
        self.admin().check_durability(topics, demands.into()).await
    }

    /// The coordinator calls of a member of this group. Costs nothing until the first call; an
    /// illegal id is refused there.
    pub fn group(&self, group_id: impl Into<Arc<str>>) -> GroupClient {
        GroupClient::new(self.inner.cluster.clone(), group_id.into())
    }

    /// The coordinator calls of this transactional id. Costs nothing until the first call; an
    /// illegal id is refused there.
    pub fn transactions(&self, transactional_id: impl Into<Arc<str>>) -> TransactionClient {
        TransactionClient::new(self.inner.cluster.clone(), transactional_id.into())
    }

    /// A fresh producer id, for an idempotent producer without transactions (InitProducerId v0 to
    /// v5). Any broker gives it out; what passes by itself is asked again.
    ///
    /// Dropping the future loses at most an id.
    ///
    /// # Errors
    /// `Authorization` when the principal may not write idempotently; `Unsupported` when the
    /// brokers know no producer ids; a connection error or `Broker` when no broker gave an id
    /// within `request.timeout.ms`.
    pub async fn init_producer_id(&self) -> Result<ProducerId, Error> {
        let cluster = &*self.inner.cluster;
        producer_id::init_producer_id(cluster, cluster.request_deadline()).await
    }

    /// Closes all connections and waits for their tasks. Calls that are under way, and later ones,
    /// fail with kind `Closed`.
    pub async fn close(&self) {
        self.inner.transport.close().await;
        self.inner.cluster.close().await;
    }
}

async fn connect_transport(cluster: &Arc<Cluster>) -> Result<Arc<dyn Transport>, Error> {
    let config = &cluster.config;
    let deadline = Instant::now() + config.connect_timeout;
    match config.transport {
        // The library underneath reads with the other level whatever it is asked.
        TransportKind::Rskafka if config.isolation_level == IsolationLevel::ReadUncommitted => {
            let what = "isolation.level read_uncommitted with the transport rskafka";
            Err(Error::new(ErrorKind::Unsupported, "connect").with_source(what))
        }
        TransportKind::Rskafka => {
            let transport = RskafkaTransport::connect(config.into(), deadline).await?;
            Ok(Arc::new(transport))
        }
        TransportKind::Native => Ok(Arc::new(NativeTransport::new(cluster.clone()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::NewTopic;

    fn assert_send<T: Send>(_: &T) {}

    #[tokio::test]
    async fn every_call_can_move_between_threads() {
        let config = ClientConfig::new("127.0.0.1:1");
        assert_send(&Client::connect(config));
        let of = |client: &Client| {
            assert_send(&client.topic("a"));
            assert_send(&client.list_topics());
            assert_send(&client.create_topics(vec![NewTopic::new("a", 1)]));
            assert_send(&client.delete_topics(vec!["a".to_owned()]));
            assert_send(&client.ensure_topics(vec![NewTopic::new("a", 1)]));
            assert_send(&client.close());
        };
        // Never called: that it compiles is the test.
        let _: &dyn Fn(&Client) = &of;
    }
}
