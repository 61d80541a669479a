//! [`TransactionalProducer`]: the handle that applications hold.

use super::builder::TransactionalProducerBuilder;
use super::config::TransactionalConfig;
use super::coordinator::Coordinator;
use super::machine::{Cause, Machine, Ticket};
use super::transport::Enlisting;
use crate::handle::DeliveryHandle;
use crate::partition::Partitioner;
use crate::producer::{Parts, Producer};
use crate::report::Reports;
use crate::shared::now;
use ottla_client::{Client, Error};
use ottla_types::coordinator::CommitOffset;
use ottla_types::transactions::GroupMetadata;
use ottla_types::{
    AsRecord, BoxFuture, ConfigError, Delivery, Fate, Publish, PublishError, PublishErrorKind,
    Record, Transact, TransactError,
};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};
use tokio::sync::Mutex;
use tokio::task::JoinSet;

/// Writes records in transactions: all of a transaction's records and offsets count, or none.
/// Cloning is cheap; all clones share one transaction.
///
/// [`init`](Self::init) comes first, and shuts out every other producer with the same
/// `transactional.id`, also one that only seems to be dead: its transaction is aborted, and
/// whatever it does next fails as [`Fenced`](ottla_types::TransactErrorKind::Fenced).
///
/// Readers see a transaction's records when it is committed if they read with `isolation.level`
/// `read_committed`.
///
/// ```no_run
/// use ottla_client::{Client, ClientConfig, TransportKind};
/// use ottla_producer::{TransactionalConfig, TransactionalProducer};
/// use ottla_types::Record;
///
/// # async fn run() -> Result<(), Box<dyn std::error::Error>> {
/// let config = ClientConfig { transport: TransportKind::Native, ..ClientConfig::new("localhost:9092") };
/// let client = Client::connect(config).await?;
/// let producer = TransactionalProducer::new(&client, TransactionalConfig::new("billing-1"))?;
/// producer.init().await?;
/// producer.begin().await?;
/// producer.enqueue(Record::new("bills").key("order-1").value("42.00"));
/// producer.enqueue(Record::new("mails").key("order-1").value("your bill"));
/// match producer.commit().await {
///     Ok(()) => {}
///     Err(error) if error.is_abortable() => producer.abort().await?,
///     Err(error) => return Err(error.into()),
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct TransactionalProducer {
    inner: Arc<Inner>,
}

struct Inner {
    coordinator: Arc<Coordinator>,
    producer: Producer,
    config: TransactionalConfig,
    /// Whether records are taken; held while one is handed over.
    gate: RwLock<bool>,
    /// One step at a time.
    turn: Mutex<()>,
    /// The coordinator's task; dropping it aborts the task.
    task: Mutex<JoinSet<()>>,
}

impl std::fmt::Debug for TransactionalProducer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TransactionalProducer")
            .field("config", &self.inner.config)
            .finish_non_exhaustive()
    }
}

impl TransactionalProducer {
    /// A producer on `client`, with its tasks started. To be called within a tokio runtime.
    ///
    /// # Errors
    /// [`ErrorKind::Config`](ottla_client::ErrorKind::Config) names the key that is not allowed, or
    /// the transport's missing capability (`transactions`).
    pub fn new(client: &Client, config: TransactionalConfig) -> Result<Self, Error> {
        Self::builder(client, config).build()
    }

    /// A builder, for a partitioner of the user's own.
    pub fn builder(client: &Client, config: TransactionalConfig) -> TransactionalProducerBuilder {
        TransactionalProducerBuilder::new(client, config)
    }

    pub(super) fn start(
        client: &Client,
        config: TransactionalConfig,
        partitioner: Option<Box<dyn Partitioner>>,
    ) -> Result<Self, Error> {
        config.validate()?;
        let transport = Arc::clone(client.transport());
        config.validate_for(transport.name(), &transport.capabilities())?;
        let timeout = config.transaction_timeout.as_millis();
        let timeout_ms = i32::try_from(timeout).unwrap_or(i32::MAX);
        let id: Arc<str> = config.transactional_id.as_str().into();
        let machine = Machine::new(Arc::clone(&id), timeout_ms, fastrand::u64(..));
        let calls = client.transactions(id);
        let coordinator = Arc::new(Coordinator::new(calls, transport, machine));
        let transport = Arc::new(Enlisting(Arc::clone(&coordinator)));
        let parts = Parts::transactional(client, transport);
        let producer = Producer::start_transactional(parts, config.producer.clone(), partitioner)?;
        let mut task = JoinSet::new();
        task.spawn(Arc::clone(&coordinator).run());
        Ok(Self {
            inner: Arc::new(Inner {
                coordinator,
                producer,
                config,
                gate: RwLock::new(false),
                turn: Mutex::new(()),
                task: Mutex::new(task),
            }),
        })
    }

    /// The configuration.
    pub fn config(&self) -> &TransactionalConfig {
        &self.inner.config
    }

    /// See [`Producer::require_key_order`].
    ///
    /// # Errors
    /// Names the partitioner.
    pub fn require_key_order(&self) -> Result<(), ConfigError> {
        self.inner.producer.require_key_order()
    }

    /// See [`Producer::reports`]. A report says what became of the record; it counts when its
    /// transaction is committed. A record outside of a transaction is not taken, and not reported.
    ///
    /// A commit does not wait for reports to be read.
    pub fn reports(&self) -> Option<Reports> {
        self.inner.producer.reports()
    }

    /// Gets the producer id from the coordinator. What a producer with the same `transactional.id`
    /// left open is aborted, and that producer is shut out.
    ///
    /// Cancellation: the same call again goes on with it.
    ///
    /// # Errors
    /// [`Unavailable`](ottla_types::TransactErrorKind::Unavailable) when the coordinator did not
    /// answer within `max.block.ms`; `Fatal` when it refuses, such as a `transaction.timeout.ms`
    /// above the broker's bound.
    pub async fn init(&self) -> Result<(), TransactError> {
        let _turn = self.turn().await;
        self.inner.run(Machine::initialise).await
    }

    /// See [`Transact::begin`].
    ///
    /// # Errors
    /// See [`TransactError`].
    pub async fn begin(&self) -> Result<(), TransactError> {
        let _turn = self.turn().await;
        let inner = &*self.inner;
        inner.run(Machine::begin).await?;
        if let Some(id) = inner.coordinator.call(|machine| machine.producer()) {
            inner.producer.go_on_as(id);
        }
        inner.open_gate(true);
        Ok(())
    }

    /// Hands a record over and returns at once, as [`Producer::enqueue`]. Outside of a transaction
    /// it fails at once with [`PublishErrorKind::NoTransaction`].
    pub fn enqueue(&self, record: impl AsRecord) -> DeliveryHandle {
        let gate = self.inner.gate.read();
        if *gate.unwrap_or_else(PoisonError::into_inner) {
            // The gate is held meanwhile, so that no commit comes between.
            return self.inner.producer.enqueue(record);
        }
        let kind = PublishErrorKind::NoTransaction;
        let error = PublishError::new(kind, Fate::NotWritten, Arc::clone(record.as_record().topic));
        DeliveryHandle::failed(u64::MAX, error)
    }

    /// See [`Transact::send_offsets`].
    ///
    /// # Errors
    /// See [`TransactError`]; [`Abortable`](ottla_types::TransactErrorKind::Abortable) when the
    /// member does not belong to its generation any more.
    pub async fn send_offsets(
        &self,
        group: GroupMetadata,
        offsets: Vec<CommitOffset>,
    ) -> Result<(), TransactError> {
        let _turn = self.turn().await;
        let send = |machine: &mut Machine, deadline| machine.send_offsets(group, offsets, deadline);
        self.inner.run(send).await
    }

    /// See [`Transact::commit`].
    ///
    /// # Errors
    /// See [`TransactError`].
    pub async fn commit(&self) -> Result<(), TransactError> {
        let _turn = self.turn().await;
        let inner = &*self.inner;
        inner.open_gate(false);
        let deadline = now() + inner.config.max_block;
        let flushed = inner
            .producer
            .flush_unless_failed(inner.config.max_block)
            .await;
        inner.coordinator.call(|machine| {
            if flushed.is_err() {
                machine.abandon(Cause::Unflushed);
            }
            if let Some(error) = inner.producer.take_failure() {
                machine.write_failed(&error);
            }
        });
        inner.run_until(deadline, Machine::commit).await
    }

    /// See [`Transact::abort`].
    ///
    /// # Errors
    /// See [`TransactError`].
    pub async fn abort(&self) -> Result<(), TransactError> {
        let _turn = self.turn().await;
        let inner = &*self.inner;
        inner.open_gate(false);
        let deadline = now() + inner.config.max_block;
        inner
            .coordinator
            .call(|machine| machine.abandon(Cause::Dropped));
        inner.producer.drop_unsent(inner.config.max_block).await;
        inner.producer.take_failure();
        inner.run_until(deadline, Machine::abort).await
    }

    /// Aborts the open transaction, if there is one, and ends the tasks, within `deadline` (counted
    /// from now; `Duration::MAX` for no limit but that of the abort, `max.block.ms`).
    ///
    /// # Errors
    /// As [`abort`](Self::abort): what is left open ends when its time is up, or when the next
    /// producer with this `transactional.id` starts.
    pub async fn close(&self, deadline: Duration) -> Result<(), TransactError> {
        let aborted = tokio::time::timeout(deadline, self.abort()).await;
        // The abort has left nothing that would count.
        let _ = self.inner.producer.close(Duration::ZERO).await;
        self.inner.task.lock().await.shutdown().await;
        aborted.unwrap_or_else(|_| Err(self.inner.coordinator.call(|machine| machine.closed())))
    }

    /// One step at a time; one that was dropped ends first.
    async fn turn(&self) -> tokio::sync::MutexGuard<'_, ()> {
        let turn = self.inner.turn.lock().await;
        self.inner.coordinator.idle().await;
        turn
    }
}

impl Inner {
    async fn run(
        &self,
        start: impl FnOnce(&mut Machine, Instant) -> Result<Ticket, TransactError>,
    ) -> Result<(), TransactError> {
        self.run_until(now() + self.config.max_block, start).await
    }

    async fn run_until(
        &self,
        deadline: Instant,
        start: impl FnOnce(&mut Machine, Instant) -> Result<Ticket, TransactError>,
    ) -> Result<(), TransactError> {
        let ticket = self.coordinator.call(|machine| start(machine, deadline))?;
        self.coordinator.result(ticket).await
    }

    fn open_gate(&self, is_open: bool) {
        *self.gate.write().unwrap_or_else(PoisonError::into_inner) = is_open;
    }
}

impl Publish for TransactionalProducer {
    fn enqueue(&self, record: Record) -> Delivery {
        Delivery::new(Self::enqueue(self, record))
    }

    fn ready(&self, size: usize) -> BoxFuture<'_, Result<(), PublishError>> {
        Box::pin(self.inner.producer.ready(size))
    }
}

impl Transact for TransactionalProducer {
    fn begin(&self) -> BoxFuture<'_, Result<(), TransactError>> {
        Box::pin(Self::begin(self))
    }

    fn send_offsets(
        &self,
        group: GroupMetadata,
        offsets: Vec<CommitOffset>,
    ) -> BoxFuture<'_, Result<(), TransactError>> {
        Box::pin(Self::send_offsets(self, group, offsets))
    }

    fn commit(&self) -> BoxFuture<'_, Result<(), TransactError>> {
        Box::pin(Self::commit(self))
    }

    fn abort(&self) -> BoxFuture<'_, Result<(), TransactError>> {
        Box::pin(Self::abort(self))
    }
}
