//! [`Producer`]: the handle that applications hold.

use crate::accumulator::{Accumulator, Caller};
use crate::clocks::Own;
use crate::cluster::{Cluster, Judged, WithoutIds};
use crate::deliveries::Deliveries;
use crate::handle::DeliveryHandle;
use crate::partition::Partitioner;
use crate::report::{CloseReport, Reports};
use crate::sender::{Pump, Sender};
use crate::shared::{Shared, now};
use crate::{PartitionerKind, ProducerConfig};
use ottla_client::admin::{Admin, DurabilityMode};
use ottla_client::transport::Transport;
use ottla_client::{Client, Error};
use ottla_types::{
    AsRecord, BoxFuture, ConfigError, Delivery, Fate, ProducerId, Publish, PublishError,
    PublishErrorKind, Record, RecordMetadata,
};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::task::JoinSet;

/// How many records of a call are taken at once, while nobody else can hand any over.
const RECORDS_A_TURN: usize = 256;

/// Writes records. Cloning is cheap; all clones share one buffer and one sender task.
///
/// When the last clone is dropped, records without a result fail with
/// [`PublishErrorKind::Closed`], and the task ends. [`close`](Self::close) waits for them first.
#[derive(Debug, Clone)]
pub struct Producer {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    shared: Arc<Shared>,
    pump: Arc<Pump>,
    config: ProducerConfig,
    /// Those who wait for room, one at a time, in the order in which they came.
    turnstile: Mutex<()>,
    /// Those who wait until a topic is known, likewise.
    places: Mutex<()>,
    /// The sender; dropping it aborts the task.
    task: Mutex<JoinSet<()>>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        let _ = self.shared.close_now();
    }
}

/// Builds a [`Producer`] with a partitioner of the user's own, or with a check of it.
#[must_use]
pub struct ProducerBuilder {
    client: Client,
    config: ProducerConfig,
    partitioner: Option<Box<dyn Partitioner>>,
    key_order: bool,
}

impl std::fmt::Debug for ProducerBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ProducerBuilder")
            .field("config", &self.config)
            .field("own_partitioner", &self.partitioner.is_some())
            .finish_non_exhaustive()
    }
}

impl ProducerBuilder {
    /// Takes the place of the default configuration.
    pub fn config(mut self, config: ProducerConfig) -> Self {
        self.config = config;
        self
    }

    /// A partitioner of the user's own; `config.partitioner` does not matter then.
    pub fn partitioner(mut self, partitioner: impl Partitioner) -> Self {
        self.partitioner = Some(Box::new(partitioner));
        self
    }

    /// Refuses to build with a partitioner that does not keep the records of a key together.
    pub fn require_key_order(mut self) -> Self {
        self.key_order = true;
        self
    }

    /// Checks the configuration and starts the sender task. To be called within a tokio runtime.
    ///
    /// # Errors
    /// [`ErrorKind::Config`](ottla_client::ErrorKind::Config) names the key that is not allowed, or
    /// the transport's missing capability.
    pub fn build(self) -> Result<Producer, Error> {
        let producer = Producer::start(Parts::of(&self.client), self.config, self.partitioner)?;
        if self.key_order {
            producer.require_key_order()?;
        }
        Ok(producer)
    }
}

/// What a producer needs of a client.
pub(crate) struct Parts {
    pub(crate) transport: Arc<dyn Transport>,
    pub(crate) cluster: Arc<dyn Cluster>,
    /// Who judges topics; `None` judges none.
    pub(crate) admin: Option<Admin>,
    pub(crate) request_timeout: Duration,
    pub(crate) metadata_max_age: Duration,
}

impl Parts {
    /// Those of `client`.
    fn of(client: &Client) -> Self {
        let transport = Arc::clone(client.transport());
        Self::with(client, transport, Arc::new(client.clone()))
    }

    /// Those of `client`, with a transport that leads through transactions.
    pub(crate) fn transactional(client: &Client, transport: Arc<dyn Transport>) -> Self {
        Self::with(client, transport, Arc::new(WithoutIds(client.clone())))
    }

    fn with(client: &Client, transport: Arc<dyn Transport>, cluster: Arc<dyn Cluster>) -> Self {
        Self {
            transport,
            cluster,
            admin: Some(client.admin()),
            request_timeout: client.config().request_timeout,
            metadata_max_age: client.config().metadata_max_age,
        }
    }
}

/// A [`Producer::flush`] ended before everything had its result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{outstanding} records have no result yet")]
pub struct FlushTimedOut {
    /// How many of the records that were enqueued before the flush have no result yet.
    pub outstanding: u64,
}

impl Producer {
    /// A producer on `client`, with its sender task started. To be called within a tokio runtime.
    ///
    /// # Errors
    /// As [`ProducerBuilder::build`].
    pub fn new(client: &Client, config: ProducerConfig) -> Result<Self, Error> {
        Self::builder(client).config(config).build()
    }

    /// A producer whose partitions are chosen by `partitioner`.
    ///
    /// # Errors
    /// As [`ProducerBuilder::build`].
    pub fn with_partitioner(
        client: &Client,
        config: ProducerConfig,
        partitioner: impl Partitioner,
    ) -> Result<Self, Error> {
        Self::builder(client)
            .config(config)
            .partitioner(partitioner)
            .build()
    }

    /// A builder with the default configuration.
    pub fn builder(client: &Client) -> ProducerBuilder {
        ProducerBuilder {
            client: client.clone(),
            config: ProducerConfig::default(),
            partitioner: None,
            key_order: false,
        }
    }

    pub(crate) fn start(
        parts: Parts,
        config: ProducerConfig,
        partitioner: Option<Box<dyn Partitioner>>,
    ) -> Result<Self, Error> {
        config.validate()?;
        let capabilities = parts.transport.capabilities();
        config.validate_for(parts.transport.name(), &capabilities)?;
        let runtime = tokio::runtime::Handle::try_current()
            .map_err(|_| ConfigError::new("runtime", "none", "a call within a tokio runtime"))?;
        let seed = fastrand::u64(..);
        let partitioner = partitioner.unwrap_or_else(|| config.partitioner.build(seed));
        let accumulator = Accumulator::new(config.clone(), &capabilities, partitioner, seed);
        let shared = Arc::new(Shared::new(accumulator));
        let cluster = match (config.durability_check, parts.admin) {
            (DurabilityMode::Off, _) | (_, None) => parts.cluster,
            (mode, Some(admin)) => Arc::new(Judged::new(parts.cluster, admin, mode, config.acks)),
        };
        let pump = Arc::new(Pump::new(
            Arc::clone(&shared),
            parts.transport,
            &config,
            parts.request_timeout,
            runtime.clone(),
        ));
        let sender = Sender::new(
            Arc::clone(&shared),
            Arc::clone(&pump),
            cluster,
            &config,
            parts.metadata_max_age,
        );
        let mut task = JoinSet::new();
        task.spawn_on(sender.run(), &runtime);
        Ok(Self {
            inner: Arc::new(Inner {
                shared,
                pump,
                config,
                turnstile: Mutex::new(()),
                places: Mutex::new(()),
                task: Mutex::new(task),
            }),
        })
    }

    /// A producer for transactions: it has no id until [`go_on_as`](Self::go_on_as), and gets its
    /// epochs from there alone.
    pub(crate) fn start_transactional(
        parts: Parts,
        config: ProducerConfig,
        partitioner: Option<Box<dyn Partitioner>>,
    ) -> Result<Self, Error> {
        let config = ProducerConfig {
            idempotence: Some(true),
            ..config
        };
        let producer = Self::start(parts, config, partitioner)?;
        let shared = &producer.inner.shared;
        shared.with(Accumulator::make_transactional);
        Ok(producer)
    }

    /// What is sent from now on has this id and epoch; a new one begins with new sequences.
    pub(crate) fn go_on_as(&self, id: ProducerId) {
        self.inner.shared.with(|acc| acc.set_producer(id));
    }

    /// The configuration.
    pub fn config(&self) -> &ProducerConfig {
        &self.inner.config
    }

    /// Writes one record and waits for its acknowledgement, and before that for room in the buffer.
    ///
    /// Cancellation: a record that was taken is written although the future is dropped.
    ///
    /// # Errors
    /// See [`PublishError`]; [`PublishErrorKind::TimedOut`] also when there was no room within
    /// `delivery.timeout.ms`.
    pub async fn send(&self, record: impl AsRecord) -> Result<RecordMetadata, PublishError> {
        let handle = match self.try_enqueue_directly(&record) {
            Some(handle) => handle,
            None => Box::pin(self.enqueue_in_time(&record)).await,
        };
        drop(record);
        handle.await
    }

    /// Writes all records and gives each one's result, in the order of `records`. One that fails
    /// does not fail the others.
    ///
    /// Cancellation: records that were taken are written although the future is dropped.
    pub async fn send_all(
        &self,
        records: Vec<impl AsRecord>,
    ) -> Vec<Result<RecordMetadata, PublishError>> {
        let deliveries = self.enqueue_all(&records).await;
        drop(records);
        deliveries.all().await
    }

    /// Hands a record over and returns at once.
    ///
    /// The order of the calls is the order within a partition. A record without a timestamp gets
    /// the time of the call, by the system's clock. When the buffer is full the handle fails at once
    /// with [`PublishErrorKind::BufferFull`], and the record was not taken: see
    /// [`enqueue_when_room`](Self::enqueue_when_room) and [`ready`](Self::ready).
    pub fn enqueue(&self, record: impl AsRecord) -> DeliveryHandle {
        self.try_enqueue(&record, Caller::Insists)
            .unwrap_or_else(|| refused(PublishErrorKind::BufferFull, &record))
    }

    /// Waits for room in the buffer, then hands the record over. Those who wait for memory are served
    /// in the order in which they came, and so are those who wait for topics. While a topic's
    /// partitions are not known there is room for 1,000 of its records.
    ///
    /// Cancellation: a record whose handle was not returned yet was not taken.
    pub async fn enqueue_when_room(&self, record: impl AsRecord) -> DeliveryHandle {
        match self.try_enqueue(&record, Caller::Waits) {
            Some(handle) => handle,
            // In a box, so that those for whom there is room do not carry it along.
            None => Box::pin(self.enqueue_in_time(&record)).await,
        }
    }

    /// Hands many records over, waits for room as [`enqueue_when_room`](Self::enqueue_when_room) does,
    /// and gives the results of all of them. It costs much less than a call a record: the producer's
    /// lock is taken, and the clock read, once for many of them.
    ///
    /// When a record found no room within `delivery.timeout.ms`, those after it do not wait again: they
    /// are taken if there is room at once, and else fail with
    /// [`PublishErrorKind::TimedOut`] too.
    ///
    /// Cancellation: records may have been taken, from the first on, and are written although the
    /// future is dropped.
    pub async fn enqueue_all(&self, records: &[impl AsRecord]) -> Deliveries {
        let mut deliveries = Deliveries::with_capacity(records.len());
        let mut left = records;
        while !left.is_empty() {
            let turn = left.len().min(RECORDS_A_TURN);
            let enqueue =
                |acc: &mut Accumulator| acc.enqueue_all(&left[..turn], &mut deliveries, Own);
            let done = self.inner.shared.with(enqueue);
            left = &left[done..];
            if done == turn {
                continue;
            }
            let handle = Box::pin(self.enqueue_in_time(&left[0])).await;
            let in_time = handle
                .refused()
                .is_none_or(|error| error.kind() != PublishErrorKind::TimedOut);
            deliveries.push(handle);
            left = &left[1..];
            if !in_time {
                // They have waited as long; room for one that is smaller, or has another topic, is used.
                for record in std::mem::take(&mut left) {
                    let taken = self.try_enqueue(record, Caller::Waits);
                    deliveries
                        .push(taken.unwrap_or_else(|| refused(PublishErrorKind::TimedOut, record)));
                }
            }
        }
        deliveries
    }

    async fn enqueue_in_time(&self, record: &impl AsRecord) -> DeliveryHandle {
        let waiting = self.enqueue_in_turn(record);
        let waited = tokio::time::timeout(self.inner.config.delivery_timeout, waiting).await;
        waited.unwrap_or_else(|_| refused(PublishErrorKind::TimedOut, record))
    }

    /// Waits for as long as it takes.
    async fn enqueue_in_turn(&self, record: &impl AsRecord) -> DeliveryHandle {
        let shared = &self.inner.shared;
        let topic = record.as_record().topic;
        let mut waits_for_topic = None;
        loop {
            // Those who wait for a topic must not hold up who waits for memory, so they have a queue of
            // their own, and the first of it listens.
            if !shared.with(|acc| acc.has_place(topic)) {
                if waits_for_topic.is_none() {
                    waits_for_topic = Some(self.inner.places.lock().await);
                }
                let placed = |acc: &mut Accumulator| acc.has_place(topic).then_some(());
                shared.wait_until(placed).await;
            }
            let _turn = self.inner.turnstile.lock().await;
            let taken = |acc: &mut Accumulator| match acc.enqueue(record, Caller::Waits, Own) {
                Some(handle) => Some(Some(handle)),
                None => (!acc.has_place(topic)).then_some(None),
            };
            if let Some(handle) = shared.wait_until(taken).await {
                return handle;
            }
        }
    }

    fn try_enqueue(&self, record: &impl AsRecord, caller: Caller) -> Option<DeliveryHandle> {
        let shared = &self.inner.shared;
        shared.with(|acc| acc.enqueue(record, caller, Own))
    }

    /// The same for a caller that waits for the result: sends the record at once if nothing else is on
    /// its way.
    fn try_enqueue_directly(&self, record: &impl AsRecord) -> Option<DeliveryHandle> {
        let Inner { shared, pump, .. } = &*self.inner;
        let (handle, work) = shared.with_work(|acc| acc.enqueue(record, Caller::Waits, Own));
        if work && !pump.send_directly(now()) {
            shared.work.notify_one();
        }
        handle
    }

    /// Resolves when the buffer has room for a record of `size` bytes ([`Record::size`]). Room is
    /// not reserved. It comes within `delivery.timeout.ms`, unless reports are on and not read.
    ///
    /// # Errors
    /// [`PublishErrorKind::Closed`] or [`PublishErrorKind::RecordTooLarge`], where `enqueue` would
    /// always give that. The error names no topic.
    pub async fn ready(&self, size: usize) -> Result<(), PublishError> {
        let shared = &self.inner.shared;
        let _turn = self.inner.turnstile.lock().await;
        let room = shared.wait_until(|acc| match acc.room(size) {
            Ok(true) => Some(Ok(())),
            Ok(false) => None,
            Err(kind) => Some(Err(PublishError::new(kind, Fate::NotWritten, ""))),
        });
        room.await
    }

    /// Turns reports on: the outcome of every record that is enqueued from now on comes out of one
    /// stream, besides its handle, which may be dropped. Nothing if they are on already.
    ///
    /// A record weighs in the buffer until its report was read, so a reader that stops makes
    /// `enqueue` answer [`PublishErrorKind::BufferFull`]. A record that was not taken for want of
    /// room, or after the producer was closed, is not reported.
    pub fn reports(&self) -> Option<Reports> {
        let shared = &self.inner.shared;
        let started = shared.with(Accumulator::start_reports);
        started.then(|| Reports::new(Arc::clone(shared)))
    }

    /// Sends what was enqueued before without lingering, and waits until all of it has its result.
    ///
    /// Cancellation: the records are sent all the same.
    ///
    /// # Errors
    /// [`FlushTimedOut`] when `deadline` (counted from now) passes before. The records stay and are
    /// sent further.
    pub async fn flush(&self, deadline: Duration) -> Result<(), FlushTimedOut> {
        let mark = self.inner.shared.with(Accumulator::flush);
        self.wait_for(mark, deadline).await
    }

    async fn wait_for(&self, mark: u64, deadline: Duration) -> Result<(), FlushTimedOut> {
        let shared = &self.inner.shared;
        let settled = shared.wait_until(|acc| (acc.outstanding_up_to(mark) == 0).then_some(()));
        match tokio::time::timeout(deadline, settled).await {
            Ok(()) => Ok(()),
            Err(_) => match shared.with(|acc| acc.outstanding_up_to(mark)) {
                0 => Ok(()),
                outstanding => Err(FlushTimedOut { outstanding }),
            },
        }
    }

    /// As [`flush`](Self::flush), and ends with the first record that fails.
    pub(crate) async fn flush_unless_failed(
        &self,
        deadline: Duration,
    ) -> Result<(), FlushTimedOut> {
        let shared = &self.inner.shared;
        let mark = shared.with(Accumulator::flush);
        let over = |acc: &mut Accumulator| {
            let is_over = acc.has_failure() || acc.outstanding_up_to(mark) == 0;
            is_over.then_some(())
        };
        let waited = tokio::time::timeout(deadline, shared.wait_until(over)).await;
        waited.map_err(|_| {
            let outstanding = shared.with(|acc| acc.outstanding_up_to(mark));
            FlushTimedOut { outstanding }
        })
    }

    /// Drops what was not sent and waits up to `deadline` (counted from now) for the results of what
    /// was.
    pub(crate) async fn drop_unsent(&self, deadline: Duration) {
        let mark = self.inner.shared.with(Accumulator::flush);
        let settled = self.inner.shared.wait_until(|acc| {
            acc.drop_unsent();
            (acc.outstanding_up_to(mark) == 0).then_some(())
        });
        // What is still under way then is told by its handles.
        let _ = tokio::time::timeout(deadline, settled).await;
        // No step of the sender may follow that tells the metric.
        self.inner.shared.with_told(|_| ());
    }

    /// The first failure of a record since the last time that this was asked.
    pub(crate) fn take_failure(&self) -> Option<PublishError> {
        self.inner.shared.with(Accumulator::take_failure)
    }

    /// Takes no more records, waits up to `deadline` (counted from now) for the results of those
    /// that were taken, fails the rest with [`PublishErrorKind::Closed`] and ends the sender task.
    ///
    /// What was acknowledged before the deadline is reported as such; the report says what was not,
    /// and whether it may be written all the same. A second call gives the same report.
    ///
    /// Cancellation: the producer takes no more records, but sends those it has; close again.
    pub async fn close(&self, deadline: Duration) -> CloseReport {
        let mark = self.inner.shared.with(Accumulator::begin_close);
        // What is left is in the report.
        let _ = self.wait_for(mark, deadline).await;
        let report = self.inner.shared.close_now();
        let mut task = self.inner.task.lock().await;
        while let Some(ended) = task.join_next().await {
            if let Err(error) = ended {
                tracing::error!(%error, "the sender task failed");
            }
        }
        report
    }

    /// Says no if the partitioner does not keep the records of a key on one partition: for those
    /// who promise an order by key.
    ///
    /// # Errors
    /// Names the partitioner.
    pub fn require_key_order(&self) -> Result<(), ConfigError> {
        if self.inner.shared.with(|acc| acc.keeps_keys_together()) {
            return Ok(());
        }
        let partitioner = &self.inner.config.partitioner;
        let name = if partitioner.build(0).keeps_keys_together() {
            "custom".to_owned()
        } else {
            partitioner.to_string()
        };
        Err(ConfigError::new(
            "partitioner",
            name,
            format!(
                "one that keeps the records of a key on one partition, such as {}",
                PartitionerKind::Default
            ),
        ))
    }
}

impl Publish for Producer {
    fn enqueue(&self, record: Record) -> Delivery {
        Delivery::new(Producer::enqueue(self, record))
    }

    fn ready(&self, size: usize) -> BoxFuture<'_, Result<(), PublishError>> {
        Box::pin(Producer::ready(self, size))
    }

    fn publish(&self, record: Record) -> BoxFuture<'_, Result<RecordMetadata, PublishError>> {
        Box::pin(self.send(record))
    }
}

/// The handle of a record that was not taken.
fn refused(kind: PublishErrorKind, record: &impl AsRecord) -> DeliveryHandle {
    let topic = Arc::clone(record.as_record().topic);
    DeliveryHandle::failed(u64::MAX, PublishError::new(kind, Fate::NotWritten, topic))
}
