//! Wires the order flow's parts to a cluster, as two roles that may share a process or not.
//!
//! - [`ShopService`]: the HTTP endpoint, the relay, the delay service and the group that closes
//!   unpaid orders, on one database;
//! - [`NotifierService`]: the two groups that tell customers, on another.

use super::event::CloseUnpaid;
use super::faults::ATTEMPTS;
use super::http::router;
use super::notify::{EffectError, Effects, Notify};
use super::settle::Subscription;
use super::shop::{Shop, ShopError};
use super::topics::{CLOSE_GROUP, DELAY_GROUP, NOTIFY_GROUPS, PAYMENT_WINDOW, Topics};
use crate::history::{Journal, JournalError};
use ottla::client::{Client, ClientConfig, TransportKind};
use ottla::consumer::{
    App, AutoOffsetReset, ConsumedRecord, ConsumerConfig, Context, HandlerError, Registration,
    RunningApp, ShutdownReport, handler_fn,
};
use ottla::outbox::{Relay, RelayConfig, RunningRelay};
use ottla::producer::{Producer, ProducerConfig};
use ottla::reliability::{
    Backoff, DedupConfig, Deduplicated, DelayForwarder, DelayLevels, Reliable, RetryPolicy,
};
use ottla::store_redb::{RedbDedup, RedbOutbox};
use ottla::types::{ConfigError, Publish, names};
use redb::Database;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinSet;

/// The waits between attempts; each is a retry topic of each group.
const TIERS: [Duration; 2] = [Duration::from_millis(200), Duration::from_millis(500)];
const TIER_NAMES: [&str; 2] = ["200ms", "500ms"];

/// Why a service does not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServiceError {
    /// The cluster.
    #[error(transparent)]
    Client(#[from] ottla::client::Error),
    /// The runner.
    #[error(transparent)]
    Consumer(#[from] ottla::consumer::Error),
    /// A setting.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The shop's tables.
    #[error("shop")]
    Shop(#[from] ShopError),
    /// A store's tables.
    #[error("store")]
    Store(#[from] ottla::store::StoreError),
    /// The table of effects.
    #[error("effects")]
    Effects(#[from] EffectError),
    /// The journal.
    #[error("journal")]
    Journal(#[from] JournalError),
    /// The database file.
    #[error("database")]
    Database(#[from] redb::DatabaseError),
    /// The HTTP endpoint's address.
    #[error("http")]
    Http(#[from] std::io::Error),
}

/// What the roles of one run have in common.
#[derive(Debug, Clone)]
pub struct Flow {
    /// `host:port`, or several with commas.
    pub bootstrap: String,
    /// Which transport carries the records.
    pub transport: TransportKind,
    /// The topics' names.
    pub topics: Topics,
    /// Partitions of each topic.
    pub partitions: i32,
    /// Copies of each partition; -1 takes the broker's default.
    pub replication: i16,
    /// Members of each notifying group in a process.
    pub instances: usize,
}

impl Flow {
    /// A client of the cluster.
    ///
    /// # Errors
    /// The client's.
    pub async fn connect(&self) -> Result<Client, ottla::client::Error> {
        let mut config = ClientConfig::new(&self.bootstrap);
        config.transport = self.transport;
        Client::connect(config).await
    }

    /// Creates the main topics that are not there; each role adds those of its own patterns.
    async fn create_main_topics(&self, client: &Client) -> Result<(), ServiceError> {
        let main = self.topics.to_create(self.partitions, self.replication);
        Ok(client.ensure_topics(main).await?)
    }

    fn reliable<H: ottla::Handler>(
        &self,
        group: &str,
        handler: H,
        publish: Arc<dyn Publish>,
    ) -> Result<Reliable<H>, ConfigError> {
        let policy = RetryPolicy::new(ATTEMPTS, Backoff::levels(TIERS)).jitter(0.0);
        Reliable::builder(self.topics.group(group), handler, publish)
            .topic(self.topics.orders())
            .policy(policy)
            .build()
    }

    fn consumer_config() -> ConsumerConfig {
        ConsumerConfig {
            session_timeout: Duration::from_secs(6),
            heartbeat_interval: Duration::from_millis(500),
            auto_offset_reset: AutoOffsetReset::Earliest,
            commit_interval: Duration::from_millis(200),
            ..ConsumerConfig::default()
        }
    }

    fn producer(client: &Client) -> Result<Producer, ottla::client::Error> {
        // The relay has one row of a key on its way at a time: a linger would only hold the key up.
        let config = ProducerConfig {
            linger: Duration::ZERO,
            ..ProducerConfig::default()
        };
        Producer::new(client, config)
    }
}

/// The delay levels of a run: one, the payment window.
///
/// # Errors
/// When the topic's name would not be legal.
pub fn levels(topics: &Topics) -> Result<DelayLevels, ConfigError> {
    DelayLevels::new([PAYMENT_WINDOW])?.with_topic_prefix(topics.prefix())
}

/// The retry topics of a notifying group (named as in this run), in the order of the attempts.
pub fn tier_topics(topics: &Topics, group: &str) -> Vec<String> {
    TIER_NAMES
        .map(|tier| names::retry_topic(&topics.orders(), group, tier))
        .into()
}

/// The delay topics of a run.
pub fn delay_topics(topics: &Topics) -> Vec<String> {
    vec![topics.payment_delay()]
}

/// Every group of the flow and what it reads.
pub fn subscriptions(topics: &Topics) -> Vec<Subscription> {
    let mut all: Vec<Subscription> = NOTIFY_GROUPS
        .map(|group| {
            let group = topics.group(group);
            let mut read = vec![topics.orders()];
            read.extend(tier_topics(topics, &group));
            (group, read)
        })
        .into();
    all.push((topics.group(CLOSE_GROUP), vec![topics.timeouts()]));
    all.push((topics.group(DELAY_GROUP), vec![topics.payment_delay()]));
    all
}

/// The shop, running.
pub struct ShopService {
    address: SocketAddr,
    shop: Shop,
    client: Client,
    producer: Producer,
    relay: RunningRelay,
    app: RunningApp,
    http: JoinSet<std::io::Result<()>>,
    stop_http: oneshot::Sender<()>,
}

impl ShopService {
    /// Starts on the database at `path`, which is made if need be, and listens on `address`.
    ///
    /// # Errors
    /// What could not be started; nothing runs then.
    pub async fn start(flow: &Flow, path: &Path, address: &str) -> Result<Self, ServiceError> {
        let client = flow.connect().await?;
        flow.create_main_topics(&client).await?;
        let levels = levels(&flow.topics)?;
        let database = Arc::new(Database::create(path)?);
        let outbox = RedbOutbox::new(database.clone())?;
        let shop = Shop::open(
            database,
            outbox.clone(),
            flow.topics.clone(),
            levels.clone(),
        )?;
        let producer = Flow::producer(&client)?;
        let publish: Arc<dyn Publish> = Arc::new(producer.clone());

        let mut app = App::new(&client, Flow::consumer_config());
        let forwarder = DelayForwarder::new(levels, publish.clone());
        forwarder
            .ensure_topics(&client, flow.partitions, flow.replication)
            .await?;
        app.register(forwarder.into_registration(&flow.topics.group(DELAY_GROUP))?);
        app.register(close_registration(&flow.topics, shop.clone()));
        let app = app.start().await?;

        // One process has the database, so a lease that is left over is that of its own past life.
        let config = RelayConfig {
            lease: Duration::from_secs(2),
            ..RelayConfig::default()
        };
        let relay = Relay::new(Arc::new(outbox), publish, config)?.start();

        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let (stop_http, stopped) = oneshot::channel::<()>();
        let mut http = JoinSet::new();
        let routes = router(shop.clone());
        http.spawn(async move {
            let stopped = async move {
                // A dropped sender means the same as a stop.
                let _ = stopped.await;
            };
            axum::serve(listener, routes)
                .with_graceful_shutdown(stopped)
                .await
        });
        Ok(Self {
            address,
            shop,
            client,
            producer,
            relay,
            app,
            http,
            stop_http,
        })
    }

    /// Where the endpoint listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The shop behind the endpoint.
    pub fn shop(&self) -> &Shop {
        &self.shop
    }

    /// Stops in the order of the data: no new orders, no new deliveries, the outbox's rows in flight
    /// settled, the producer's buffer empty.
    pub async fn stop(mut self, deadline: Duration) -> StopReport {
        let mut left = Vec::new();
        // The receiver is gone only if the server has ended already.
        let _ = self.stop_http.send(());
        let http = tokio::time::timeout(deadline, self.http.join_next()).await;
        if !matches!(http, Ok(Some(Ok(Ok(()))))) {
            left.push(format!("http: {http:?}"));
        }
        note_app(&mut left, self.app.shutdown(deadline).await);
        let relay = self.relay.stop(deadline).await;
        if relay.unsettled > 0 || relay.error.is_some() {
            left.push(format!("relay: {relay:?}"));
        }
        close(&mut left, &self.producer, &self.client, deadline).await;
        StopReport { left }
    }
}

/// The notifying groups, running.
pub struct NotifierService {
    effects: Effects,
    client: Client,
    producer: Producer,
    app: RunningApp,
}

impl NotifierService {
    /// Starts on the database at `path`, which is made if need be; deliveries are written to
    /// `journal`.
    ///
    /// # Errors
    /// What could not be started; nothing runs then.
    pub async fn start(flow: &Flow, path: &Path, journal: &Path) -> Result<Self, ServiceError> {
        let client = flow.connect().await?;
        flow.create_main_topics(&client).await?;
        let database = Arc::new(Database::create(path)?);
        let dedup = RedbDedup::new(database.clone())?;
        let effects = Effects::open(database, dedup.clone())?;
        let journal = Arc::new(Journal::open(journal)?);
        let producer = Flow::producer(&client)?;
        let publish: Arc<dyn Publish> = Arc::new(producer.clone());
        let mut app = App::new(&client, Flow::consumer_config());
        for group in NOTIFY_GROUPS {
            let notify = Notify {
                group,
                effects: effects.clone(),
                journal: journal.clone(),
            };
            // A killed process leaves its claims; its successor waits for them no longer than this.
            let claims = DedupConfig {
                lease: Duration::from_secs(2),
                ..DedupConfig::default()
            };
            let once = Deduplicated::new(notify, Arc::new(dedup.clone()), claims)?;
            let reliable = flow.reliable(group, once, publish.clone())?;
            reliable.ensure_topics(&client).await?;
            app.register(reliable.into_registration().instances(flow.instances));
        }
        let app = app.start().await?;
        Ok(Self {
            effects,
            client,
            producer,
            app,
        })
    }

    /// What was done so far.
    pub fn effects(&self) -> &Effects {
        &self.effects
    }

    /// Finishes what is in hand, commits and leaves the groups.
    pub async fn stop(self, deadline: Duration) -> StopReport {
        let mut left = Vec::new();
        note_app(&mut left, self.app.shutdown(deadline).await);
        close(&mut left, &self.producer, &self.client, deadline).await;
        StopReport { left }
    }
}

/// What a stop could not finish; empty after a clean one.
#[derive(Debug)]
#[must_use = "a stop says what it left"]
pub struct StopReport {
    /// One text for each thing that was left.
    pub left: Vec<String>,
}

impl StopReport {
    /// Whether everything was finished.
    pub fn is_clean(&self) -> bool {
        self.left.is_empty()
    }
}

fn note_app(left: &mut Vec<String>, report: ShutdownReport) {
    if !report.clean {
        left.push(format!("handlers: {report:?}"));
    }
}

async fn close(left: &mut Vec<String>, producer: &Producer, client: &Client, deadline: Duration) {
    let report = producer.close(deadline).await;
    if !report.is_clean() {
        left.push(format!("producer: {report:?}"));
    }
    client.close().await;
}

fn close_registration(topics: &Topics, shop: Shop) -> Registration {
    let close = handler_fn(move |_: Context, record: ConsumedRecord| {
        let shop = shop.clone();
        async move { close_unpaid(shop, &record).await.into() }
    });
    Registration::new(topics.group(CLOSE_GROUP), [topics.timeouts()], close)
}

async fn close_unpaid(shop: Shop, record: &ConsumedRecord) -> Result<(), HandlerError> {
    let close: CloseUnpaid = serde_json::from_slice(record.value.as_deref().unwrap_or_default())
        .map_err(|e| HandlerError::permanent("Undecodable", e.to_string()).with_source(e))?;
    tokio::task::spawn_blocking(move || shop.close_unpaid(&close.order_id))
        .await
        .map_err(|e| HandlerError::transient("ShopPanicked", e.to_string()))?
        .map_err(|e| HandlerError::transient("Shop", e.to_string()).with_source(e))?;
    Ok(())
}
