//! What the sender asks the cluster besides writing: the partitions of a topic, and a producer's id.
//! A seam, so that the tests can stand in for the cluster.

use ottla_client::admin::{Admin, DurabilityMode};
use ottla_client::transport::Acks;
use ottla_client::{Client, Error, TopicMetadata};
use ottla_types::{BoxFuture, ProducerId};
use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

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

/// So many topics are remembered as judged; beyond this all are judged again.
const JUDGED_MAX: usize = 10_000;

/// Judges each topic when it is first asked for, as `durability.check` says.
pub(crate) struct Judged {
    cluster: Arc<dyn Cluster>,
    judge: Arc<Judge>,
}

struct Judge {
    admin: Admin,
    mode: DurabilityMode,
    acks: Acks,
    /// Topics that may be written to.
    passed: Mutex<HashSet<Arc<str>>>,
}

impl Judged {
    pub(crate) fn new(
        cluster: Arc<dyn Cluster>,
        admin: Admin,
        mode: DurabilityMode,
        acks: Acks,
    ) -> Self {
        let judge = Judge {
            admin,
            mode,
            acks,
            passed: Mutex::default(),
        };
        Self {
            cluster,
            judge: Arc::new(judge),
        }
    }
}

impl Judge {
    fn passed(&self) -> MutexGuard<'_, HashSet<Arc<str>>> {
        self.passed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn check(&self, name: Arc<str>) -> Result<(), Error> {
        if self.passed().contains(&name) {
            return Ok(());
        }
        let demands = self.acks.into();
        self.admin.ensure_durable(&name, self.mode, demands).await?;
        let mut passed = self.passed();
        if passed.len() >= JUDGED_MAX {
            passed.clear();
        }
        passed.insert(name);
        Ok(())
    }
}

impl Cluster for Judged {
    fn topic(
        &self,
        name: Arc<str>,
        refresh: bool,
    ) -> BoxFuture<'static, Result<Arc<TopicMetadata>, Error>> {
        let described = self.cluster.topic(Arc::clone(&name), refresh);
        let judge = Arc::clone(&self.judge);
        Box::pin(async move {
            let described = described.await?;
            judge.check(name).await?;
            Ok(described)
        })
    }

    fn producer_id(&self) -> BoxFuture<'static, Result<ProducerId, Error>> {
        self.cluster.producer_id()
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
