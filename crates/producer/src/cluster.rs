//! What the sender asks the cluster besides writing: the partitions of a topic, and a producer's id.
//! A seam, so that the tests can stand in for the cluster.

use ottla_client::{Client, Error, TopicMetadata};
use ottla_types::{BoxFuture, ProducerId};
use std::sync::Arc;

/// Tells the partitions of topics, and gives ids to producers.
pub(crate) trait Cluster: Send + Sync + 'static {
    /// The topic as it is known, or, with `refresh`, as the cluster describes it now.
    fn topic(
        &self,
        name: Arc<str>,
        refresh: bool,
    ) -> BoxFuture<'static, Result<Arc<TopicMetadata>, Error>>;

    /// An id that no other producer has.
    fn producer_id(&self) -> BoxFuture<'static, Result<ProducerId, Error>>;
}

impl Cluster for Client {
    fn topic(
        &self,
        name: Arc<str>,
        refresh: bool,
    ) -> BoxFuture<'static, Result<Arc<TopicMetadata>, Error>> {
        let client = self.clone();
        Box::pin(async move {
            if refresh {
                client.refresh_topic(&name).await
            } else {
                client.topic(&name).await
            }
        })
    }

    fn producer_id(&self) -> BoxFuture<'static, Result<ProducerId, Error>> {
        let client = self.clone();
        Box::pin(async move { client.init_producer_id().await })
    }
}

/// For a producer whose ids the transaction coordinator gives out: nobody else is asked for one.
pub(crate) struct WithoutIds<C>(pub(crate) C);

impl<C: Cluster> Cluster for WithoutIds<C> {
    fn topic(
        &self,
        name: Arc<str>,
        refresh: bool,
    ) -> BoxFuture<'static, Result<Arc<TopicMetadata>, Error>> {
        self.0.topic(name, refresh)
    }

    fn producer_id(&self) -> BoxFuture<'static, Result<ProducerId, Error>> {
        Box::pin(std::future::pending())
    }
}
