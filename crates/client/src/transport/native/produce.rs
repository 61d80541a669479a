//! One batch to its leader: found, sent through that broker's sender, tried again while the failure
//! is one that passes.

use super::failure::{Cure, Failure};
use super::leaders::Leaders;
use super::produce_message::NAME;
use super::sender::{Order, QUEUE_MAX, Sender, Ticket};
use crate::transport::{Acks, Produced};
use crate::{Error, ErrorKind};
use bytes::Bytes;
use ottla_record_batch::{Compression, Compressor, EncodedBatch};
use ottla_types::{Fate, TopicPartition};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::sync::CancellationToken;

pub(super) struct Senders {
    leaders: Arc<Leaders>,
    closed: CancellationToken,
    by_broker: Mutex<HashMap<i32, mpsc::Sender<Order>>>,
    /// Kept from batch to batch; one a codec.
    compressors: Mutex<Vec<Compressor>>,
}

/// The limits of a batch's way.
#[derive(Debug, Clone, Copy)]
pub(super) struct Terms {
    pub(super) acks: Acks,
    pub(super) compression: Compression,
    pub(super) deadline: Instant,
}

/// A batch as it is sent, however often.
struct Parcel<'a> {
    partition: &'a TopicPartition,
    acks: Acks,
    compression: Compression,
    records: Bytes,
    count: u32,
    deadline: Instant,
}

impl Senders {
    pub(super) fn new(leaders: Arc<Leaders>, closed: CancellationToken) -> Self {
        Self {
            leaders,
            closed,
            by_broker: Mutex::default(),
            compressors: Mutex::default(),
        }
    }

    /// Writes the batch, with retries until the deadline.
    pub(super) async fn deliver(
        &self,
        terms: Terms,
        partition: &TopicPartition,
        batch: EncodedBatch,
    ) -> Result<Produced, Error> {
        let batch = self
            .compressed(batch, terms.compression)
            .map_err(|error| error.with_partition(partition.clone()))?;
        let count = batch.record_count();
        let parcel = Parcel {
            partition,
            acks: terms.acks,
            compression: batch.compression(),
            records: batch.bytes().clone(),
            count,
            deadline: terms.deadline,
        };
        let produced = self.send_until_written(&parcel).await?;
        metrics::counter!("ottla_client_produced_records_total").increment(count.into());
        Ok(produced)
    }

    async fn send_until_written(&self, parcel: &Parcel<'_>) -> Result<Produced, Error> {
        let cluster = &self.leaders.cluster;
        let mut backoff = cluster.backoff();
        let mut fate = Fate::NotWritten;
        loop {
            let Failure { error, cure } = match self.attempt(parcel).await {
                Ok(produced) => return Ok(produced),
                Err(failure) => failure,
            };
            if error.fate() == Fate::MaybeWritten {
                fate = Fate::MaybeWritten;
            }
            let error = error.with_fate(fate);
            let delay = match cure {
                Cure::None => return Err(error),
                Cure::AtOnce => std::time::Duration::ZERO,
                Cure::Wait | Cure::Refresh => backoff.next_delay(),
            };
            if Instant::now() + delay >= parcel.deadline {
                return Err(error);
            }
            metrics::counter!("ottla_client_retries_total", "operation" => NAME).increment(1);
            tracing::debug!(
                partition = %parcel.partition,
                error = &error as &dyn std::error::Error,
                "attempt failed, trying again"
            );
            let waiting = async {
                sleep(delay).await;
                if cure == Cure::Refresh {
                    // What it fails with, the next attempt fails with too.
                    let refreshed = cluster.refresh_topic(&parcel.partition.topic);
                    let _ = timeout_at(parcel.deadline, refreshed).await;
                }
            };
            if self.closed.run_until_cancelled(waiting).await.is_none() {
                return Err(closed(parcel.partition).with_fate(fate));
            }
            if Instant::now() >= parcel.deadline {
                return Err(error);
            }
        }
    }

    async fn attempt(&self, parcel: &Parcel<'_>) -> Result<Produced, Failure> {
        let located = |error: Error| Failure::new(error.with_partition(parcel.partition.clone()));
        let leader = match self.leaders.cached(parcel.partition) {
            Some(leader) => leader,
            None => self
                .leaders
                .find(parcel.partition, NAME, parcel.deadline)
                .await
                .map_err(located)?,
        };
        let queue = self
            .to(leader.broker)
            .ok_or_else(|| Failure::new(closed(parcel.partition)))?;
        let (reply, answer) = oneshot::channel();
        let ticket = Arc::new(Ticket::default());
        let order = Order {
            partition: parcel.partition.clone(),
            acks: parcel.acks,
            compression: parcel.compression,
            records: parcel.records.clone(),
            count: parcel.count,
            deadline: parcel.deadline,
            ticket: ticket.clone(),
            reply,
        };
        let sent = async {
            match queue.send(order).await {
                Ok(()) => answer.await.ok(),
                Err(_) => None,
            }
        };
        let outcome = timeout_at(parcel.deadline, sent).await;
        let fate = |ticket: &Ticket| {
            if ticket.withdraw() {
                Fate::NotWritten
            } else {
                Fate::MaybeWritten
            }
        };
        match outcome {
            Ok(Some(result)) => result,
            Ok(None) => {
                let error = closed(parcel.partition);
                Err(Failure::new(error.with_fate(fate(&ticket))))
            }
            Err(_) => Err(located(
                Error::new(ErrorKind::TimedOut, NAME).with_fate(fate(&ticket)),
            )),
        }
    }

    /// The queue of the broker's sender, which is started if need be; `None` when closed.
    fn to(&self, broker: i32) -> Option<mpsc::Sender<Order>> {
        let mut by_broker = lock(&self.by_broker);
        match by_broker.get(&broker) {
            Some(queue) if !queue.is_closed() => return Some(queue.clone()),
            _ => {}
        }
        let (sender, queue) = mpsc::channel(QUEUE_MAX);
        let task = Sender {
            broker,
            leaders: self.leaders.clone(),
            queue,
            closed: self.closed.clone(),
            connection: None,
        };
        if self.closed.is_cancelled() || !self.leaders.cluster.connector.tasks.spawn(task.run()) {
            return None;
        }
        by_broker.insert(broker, sender.clone());
        Some(sender)
    }

    /// The batch with the codec that is asked for, unless it has one already.
    fn compressed(
        &self,
        batch: EncodedBatch,
        compression: Compression,
    ) -> Result<EncodedBatch, Error> {
        if compression == Compression::None || batch.compression() != Compression::None {
            return Ok(batch);
        }
        let kept = {
            let mut kept = lock(&self.compressors);
            let at = kept.iter().position(|c| c.compression() == compression);
            at.map(|at| kept.swap_remove(at))
        };
        let mut compressor = match kept {
            Some(compressor) => compressor,
            None => Compressor::new(compression)
                .map_err(|cause| Error::new(ErrorKind::Unsupported, NAME).with_source(cause))?,
        };
        let batch = batch.compressed(&mut compressor);
        let mut kept = lock(&self.compressors);
        if kept.iter().all(|c| c.compression() != compression) {
            kept.push(compressor);
        }
        Ok(batch)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn closed(partition: &TopicPartition) -> Error {
    Error::new(ErrorKind::Closed, NAME).with_partition(partition.clone())
}
