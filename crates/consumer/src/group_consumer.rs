//! [`GroupConsumer`]: a member of a group for callers that ask for records themselves.
//!
//! It is an [`App`] with one batch handler, which hands each batch to the caller and waits until the
//! caller says that it is handled. So commits, rebalances, retries and shutdown are the runner's.

use crate::app::{App, Registration, RunningApp, ShutdownReport};
use crate::handler::{
    BatchHandler, BatchOutcome, Context, HandlerError, LeaseLost, PartitionLease,
};
use crate::status::AppStatus;
use crate::{ConsumerConfig, Error};
use futures_core::Stream;
use ottla_client::Client;
use ottla_types::transactions::GroupMetadata;
use ottla_types::{ConsumedRecord, TopicPartition};
use std::pin::Pin;
use std::task::{self, Poll};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// How long a caller may keep a batch: as long as it owns the partition.
const NO_LIMIT: Duration = Duration::from_secs(7 * 86_400);
/// The class of the error when a batch was dropped without a word.
const CLASS_DROPPED: &str = "Dropped";

/// One member of a group, as a [`Stream`] of batches.
///
/// A partition's next batch comes when its last one was [done](ConsumedBatch::done); batches of
/// different partitions can be worked on side by side. Heartbeats go on by themselves.
///
/// ```no_run
/// # async fn example(client: ottla_client::Client) -> Result<(), Box<dyn std::error::Error>> {
/// use ottla_consumer::{ConsumerConfig, GroupConsumer};
/// use std::time::Duration;
///
/// let config = ConsumerConfig::new("audit");
/// let mut consumer = GroupConsumer::start(&client, config, ["orders"], 500).await?;
/// while let Some(batch) = consumer.next_batch().await {
///     println!("{} records of {}", batch.records().len(), batch.partition());
///     batch.done()?;
/// }
/// let report = consumer.close(Duration::from_secs(10)).await;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct GroupConsumer {
    running: RunningApp,
    batches: mpsc::Receiver<ConsumedBatch>,
}

/// Records of one partition, in order; at least one.
#[derive(Debug)]
#[must_use = "a batch that is dropped is handed over again"]
pub struct ConsumedBatch {
    partition: TopicPartition,
    records: Vec<ConsumedRecord>,
    context: Context,
    answer: oneshot::Sender<BatchOutcome>,
}

impl GroupConsumer {
    /// Joins the group `config.group_id` for `topics`. A batch has at most `max_records`.
    ///
    /// # Errors
    /// Those of [`App::start`].
    pub async fn start<T: Into<String>>(
        client: &Client,
        config: ConsumerConfig,
        topics: impl IntoIterator<Item = T>,
        max_records: usize,
    ) -> Result<Self, Error> {
        // One batch waits for the caller while another is on its way.
        let (sender, batches) = mpsc::channel(1);
        let group = config.group_id.clone();
        let outlet = Outlet { sender };
        let registration = Registration::batch(group, topics, max_records, Duration::ZERO, outlet);
        let mut app = App::new(client, config);
        app.register(registration.max_processing_time(NO_LIMIT));
        let running = app.start().await?;
        Ok(Self { running, batches })
    }

    /// The next batch, as soon as there is one; `None` when the member has failed for good (see
    /// [`status`](Self::status)). Safe to cancel.
    pub async fn next_batch(&mut self) -> Option<ConsumedBatch> {
        loop {
            let batch = tokio::select! {
                biased;
                batch = self.batches.recv() => batch,
                _ = self.running.failed() => None,
            };
            if batch.as_ref().is_none_or(ConsumedBatch::is_current) {
                return batch;
            }
        }
    }

    /// What the member is doing now.
    pub fn status(&self) -> AppStatus {
        self.running.status()
    }

    /// Leaves the group: batches that are out may be [done](ConsumedBatch::done) until the deadline,
    /// then everything done is committed.
    pub async fn close(self, deadline: Duration) -> ShutdownReport {
        drop(self.batches);
        self.running.shutdown(deadline).await
    }
}

/// Ends when the member has gone; a fatal error is seen in [`GroupConsumer::status`].
impl Stream for GroupConsumer {
    type Item = ConsumedBatch;

    fn poll_next(
        mut self: Pin<&mut Self>,
        cx: &mut task::Context<'_>,
    ) -> Poll<Option<ConsumedBatch>> {
        loop {
            let batch = task::ready!(self.batches.poll_recv(cx));
            if batch.as_ref().is_none_or(ConsumedBatch::is_current) {
                return Poll::Ready(batch);
            }
        }
    }
}

impl ConsumedBatch {
    /// The records.
    pub fn records(&self) -> &[ConsumedRecord] {
        &self.records
    }

    /// Takes the records out, in place of copies.
    pub fn take_records(&mut self) -> Vec<ConsumedRecord> {
        std::mem::take(&mut self.records)
    }

    /// The partition that the records came from.
    pub fn partition(&self) -> &TopicPartition {
        &self.partition
    }

    /// The right to the partition, to be looked at before an effect that cannot be undone.
    pub fn lease(&self) -> &PartitionLease {
        self.context.lease()
    }

    /// The member as the group's coordinator knows it now: see [`Context::group_metadata`].
    ///
    /// # Errors
    /// [`LeaseLost`] after a revocation or loss of the partition.
    pub fn group_metadata(&self) -> Result<GroupMetadata, LeaseLost> {
        self.context.group_metadata()
    }

    /// Whether its partition is still owned; it may have been lost while the batch waited (C24).
    fn is_current(&self) -> bool {
        self.context.lease().is_held() && !self.answer.is_closed()
    }

    /// All records are handled: the offset behind the last one is committed with the next commit.
    ///
    /// # Errors
    /// When the partition was given up meanwhile: the records are handled again by its next owner.
    pub fn done(self) -> Result<(), LeaseLost> {
        self.answer.send(BatchOutcome::Done).map_err(|_| LeaseLost)
    }

    /// The records before `index` are handled; the others are handed over again after a while.
    ///
    /// # Errors
    /// As [`done`](Self::done).
    pub fn failed_at(self, index: usize, error: HandlerError) -> Result<(), LeaseLost> {
        let outcome = BatchOutcome::FailedAt { index, error };
        self.answer.send(outcome).map_err(|_| LeaseLost)
    }
}

/// The handler that hands batches to the caller.
struct Outlet {
    sender: mpsc::Sender<ConsumedBatch>,
}

impl BatchHandler for Outlet {
    async fn handle_batch(&self, context: &Context, records: &[ConsumedRecord]) -> BatchOutcome {
        let (answer, answered) = oneshot::channel();
        let batch = ConsumedBatch {
            partition: records[0].topic_partition(),
            records: records.to_vec(),
            context: context.clone(),
            answer,
        };
        if self.sender.send(batch).await.is_err() {
            // The caller is closing; the lane is drained any moment.
            return BatchOutcome::NotBefore(i64::MAX);
        }
        let dropped = || HandlerError::transient(CLASS_DROPPED, "the batch was not marked as done");
        answered
            .await
            .unwrap_or_else(|_| BatchOutcome::Failed(dropped()))
    }
}
