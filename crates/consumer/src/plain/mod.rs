//! [`Consumer`]: a plain consumer, for callers that ask for records themselves.
//!
//! It is an [`App`](crate::App) with one member, which fetches, keeps the membership and commits, as a
//! runner's does. In place of lanes that call a handler it has a [`Desk`], from which the caller takes
//! records.

mod batch;
mod builder;
mod commit;
mod offsets;
mod seek;
mod streams;
mod subscribe;

pub use batch::ConsumedBatch;
pub use builder::ConsumerBuilder;
pub(crate) use commit::check_offset;
pub use commit::{CommitHandle, OffsetAndMetadata};
pub use streams::{Batches, Records};

use crate::app::{RunningApp, ShutdownReport};
use crate::lane::{Desk, Handed, Progress};
use crate::status::AppStatus;
use crate::{ConsumerConfig, Error, ErrorKind, GroupProtocol};
use ottla_client::{Client, GroupClient};
use ottla_types::{ConsumedRecord, Offset, TopicPartition};
use std::sync::Arc;
use std::task::{self, Poll};
use std::time::Duration;
use tokio::time::timeout_at;

/// A consumer whose caller takes the records: a member of a group, or a reader of partitions that it
/// names.
///
/// ```no_run
/// # async fn example(client: ottla_client::Client) -> Result<(), Box<dyn std::error::Error>> {
/// use ottla_consumer::{Consumer, ConsumerConfig};
/// use std::time::Duration;
///
/// let mut consumer = Consumer::subscribe(&client, ConsumerConfig::new("audit"), ["orders"]).await?;
/// loop {
///     let batch = consumer.recv().await?;
///     println!("{} records of {}", batch.records().len(), batch.partition());
///     if consumer.commit_sync().await.is_err() {
///         break;
///     }
/// }
/// let report = consumer.close(Duration::from_secs(10)).await;
/// # Ok(())
/// # }
/// ```
///
/// # What is handed out, and what is committed
/// - A *position* is the next offset to be handed out. It moves when records are handed out: behind
///   a whole batch by [`recv`](Self::recv) and [`poll`](Self::poll), behind one record by
///   [`records`](Self::records).
/// - [`commit_sync`](Self::commit_sync) and [`commit_async`](Self::commit_async) commit the positions:
///   everything handed out so far, the last batch or record included, and places that were sought. Call them when it is handled.
///   Nothing else is committed, unless `enable.auto.commit` is set.
/// - The caller is *done with* what it was given when it asks for more, commits, or closes. With
///   `enable.auto.commit`, that is committed, every `commit.interval.ms`, when a partition is given up
///   and at the close; the batch or record in the caller's hands is not.
/// - When a partition is to be given up, nothing more of it is handed out (C24), and the revocation
///   waits until the caller is done with what it has of it, `revoke.timeout.ms` at most. Then the
///   [listener](ConsumerBuilder::listener) is called, what was asked for is committed, and the
///   revocation is acknowledged. So a caller that commits or asks again in time repeats nothing.
///
/// Heartbeats go on by themselves, however long the caller takes: it keeps its partitions until a
/// rebalance asks for them (`max.poll.interval.ms` is how long that waits, not how often to ask).
/// Fetching goes on, too, until `queued.max.bytes` are waiting; records are decoded when they are
/// handed out.
///
/// Dropping it ends it at once: nothing more is committed, and the coordinator notices by the session
/// timeout. [`close`](Self::close) it.
#[derive(Debug)]
pub struct Consumer {
    running: Option<RunningApp>,
    desk: Arc<Desk>,
    client: Client,
    /// What is left of the batch whose records are given out one by one.
    current: Option<Handed>,
    group: Option<GroupClient>,
    api_timeout: Duration,
    protocol: GroupProtocol,
    /// A stream has told what ended the consumer.
    has_ended: bool,
}

impl Consumer {
    /// Joins the group `config.group_id` for `topics`.
    ///
    /// # Errors
    /// Those of [`ConsumerBuilder::subscribe`].
    pub async fn subscribe<T: Into<String>>(
        client: &Client,
        config: ConsumerConfig,
        topics: impl IntoIterator<Item = T>,
    ) -> Result<Self, Error> {
        Self::builder(client, config).subscribe(topics).await
    }

    /// Joins the group `config.group_id` for every topic whose name matches a regular expression.
    ///
    /// # Errors
    /// Those of [`ConsumerBuilder::subscribe_pattern`].
    pub async fn subscribe_pattern(
        client: &Client,
        config: ConsumerConfig,
        pattern: impl Into<String>,
    ) -> Result<Self, Error> {
        Self::builder(client, config)
            .subscribe_pattern(pattern)
            .await
    }

    /// Reads `partitions`, without a membership.
    ///
    /// # Errors
    /// Those of [`ConsumerBuilder::assign`].
    pub async fn assign(
        client: &Client,
        config: ConsumerConfig,
        partitions: impl IntoIterator<Item = TopicPartition>,
    ) -> Result<Self, Error> {
        Self::builder(client, config).assign(partitions).await
    }

    /// A consumer with more to be said about it.
    pub fn builder(client: &Client, config: ConsumerConfig) -> ConsumerBuilder {
        ConsumerBuilder::new(client, config)
    }

    /// The next records, as soon as there are any; those of one partition, in order, at most
    /// `max.poll.records`. Partitions take turns.
    ///
    /// Safe to cancel: a batch that is not returned is not handed out.
    ///
    /// # Errors
    /// An error that names a partition says that this one is stopped
    /// ([`NoOffset`](ErrorKind::NoOffset), [`Unreadable`](ErrorKind::Unreadable), or what a broker
    /// refuses); it is told once, the others go on, and a [`seek`](Self::seek) makes it go on, too. One
    /// of kind [`UnknownTopic`](ErrorKind::UnknownTopic) says that a partition that was
    /// [named](ConsumerBuilder::assign) does not exist, and it begins when it does. Any other error has ended the consumer, and every call tells it again.
    pub async fn recv(&mut self) -> Result<ConsumedBatch, Error> {
        std::future::poll_fn(|cx| self.poll_recv(cx)).await
    }

    /// As [`recv`](Self::recv), for at most `wait`; `None` when nothing came. Safe to cancel.
    ///
    /// # Errors
    /// As [`recv`](Self::recv).
    pub async fn poll(&mut self, wait: Duration) -> Result<Option<ConsumedBatch>, Error> {
        match timeout_at(crate::after(wait), self.recv()).await {
            Ok(batch) => batch.map(Some),
            Err(_) => Ok(None),
        }
    }

    /// The batches as a stream; errors as in [`recv`](Self::recv). It ends behind the error that ended
    /// the consumer. What it was not asked for is not handed out when it is dropped.
    pub fn batches(&mut self) -> Batches<'_> {
        Batches::new(self)
    }

    /// The records one by one, as a stream; errors as in [`recv`](Self::recv). The position moves with
    /// each record: a stream that is dropped loses nothing, the next call goes on behind its last
    /// record.
    pub fn records(&mut self) -> Records<'_> {
        Records::new(self)
    }

    fn poll_recv(&mut self, cx: &mut task::Context<'_>) -> Poll<Result<ConsumedBatch, Error>> {
        let handed = match self.take_current() {
            Some(rest) => rest,
            None => task::ready!(self.poll_take(cx))?,
        };
        handed.progress.mark_handled(handed.next_offset);
        Poll::Ready(Ok(ConsumedBatch::new(handed)))
    }

    fn poll_record(&mut self, cx: &mut task::Context<'_>) -> Poll<Result<ConsumedRecord, Error>> {
        loop {
            if let Some(current) = &mut self.current {
                // What was given out before is done with.
                current.progress.mark_done_with();
                if current.is_current()
                    && !current.progress.is_paused()
                    && let Some(record) = current.records.next()
                {
                    let next = match current.records.len() {
                        0 => current.next_offset,
                        _ => record.offset.saturating_add(1),
                    };
                    current.progress.mark_handled(next);
                    return Poll::Ready(Ok(record));
                }
                self.put_back();
            }
            self.current = Some(task::ready!(self.poll_take(cx))?);
        }
    }

    fn poll_take(&mut self, cx: &mut task::Context<'_>) -> Poll<Result<Handed, Error>> {
        let taken = self.desk.poll_take(cx);
        if taken.is_pending() && self.desk.is_unsubscribed() {
            return Poll::Ready(Err(Error::new(ErrorKind::NotSubscribed)));
        }
        taken
    }

    /// What is left of a batch whose records were given out one by one, if it may be handed out.
    fn take_current(&mut self) -> Option<Handed> {
        let current = self.current.take()?;
        if current.progress.is_paused() {
            self.desk.put_back(current);
            return None;
        }
        (current.is_current() && current.records.len() > 0).then_some(current)
    }

    fn put_back(&mut self) {
        if let Some(current) = self.current.take()
            && current.records.len() > 0
        {
            self.desk.put_back(current);
        }
    }

    /// The partitions that are owned (by the group's assignment, or as named), ordered.
    pub fn assignment(&self) -> Vec<TopicPartition> {
        self.desk.assignment()
    }

    /// The next offset that will be handed out; `None` while it is looked up, and for a partition that
    /// is not owned.
    pub fn position(&self, partition: &TopicPartition) -> Option<Offset> {
        self.desk.progress(partition)?.handled()
    }

    /// Records between the position and the end of the partition as the last fetch saw it; `None` as
    /// [`position`](Self::position), and before the first fetch.
    pub fn lag(&self, partition: &TopicPartition) -> Option<u64> {
        let progress = self.desk.progress(partition)?;
        let behind = progress
            .high_watermark()?
            .saturating_sub(progress.handled()?);
        Some(u64::try_from(behind).unwrap_or(0))
    }

    /// Hands out nothing more of these until they are [resumed](Self::resume), and fetches no more of
    /// them; what was fetched is kept. It ends with the assignment.
    ///
    /// # Errors
    /// [`ErrorKind::NotOwner`] for the first one that is not owned; the others are paused.
    pub fn pause<'a>(
        &mut self,
        partitions: impl IntoIterator<Item = &'a TopicPartition>,
    ) -> Result<(), Error> {
        self.set_paused(partitions, true)
    }

    /// Goes on with these.
    ///
    /// # Errors
    /// As [`pause`](Self::pause).
    pub fn resume<'a>(
        &mut self,
        partitions: impl IntoIterator<Item = &'a TopicPartition>,
    ) -> Result<(), Error> {
        self.set_paused(partitions, false)
    }

    /// Those of the owned partitions that are paused, ordered.
    pub fn paused(&self) -> Vec<TopicPartition> {
        self.desk.paused()
    }

    fn set_paused<'a>(
        &mut self,
        partitions: impl IntoIterator<Item = &'a TopicPartition>,
        is_paused: bool,
    ) -> Result<(), Error> {
        let mut first = Ok(());
        for partition in partitions {
            if !self.desk.set_paused(partition, is_paused) && first.is_ok() {
                first = Err(Error::new(ErrorKind::NotOwner).with_partition(partition.clone()));
            }
        }
        first
    }

    /// What the member is doing now.
    pub fn status(&self) -> AppStatus {
        let status = self.running.as_ref().map(RunningApp::status);
        status.unwrap_or(AppStatus {
            registrations: Vec::new(),
        })
    }

    /// Ends it: the caller is done with everything that was handed out, the listener is told that all
    /// partitions are revoked, what was asked for (and with `enable.auto.commit` what was handed out)
    /// is committed, and the group is left. Resolves by `deadline` plus a
    /// tenth of it (a second at least, five and a half at most).
    pub async fn close(mut self, deadline: Duration) -> ShutdownReport {
        if let Some(current) = self.current.take() {
            current.progress.mark_done_with();
        }
        self.desk.settle();
        match self.running.take() {
            Some(running) => running.shutdown(deadline).await,
            None => ShutdownReport::default(),
        }
    }

    /// The partitions of which something was handed out, with their progress.
    fn handed_out(&self) -> Vec<(TopicPartition, Arc<Progress>)> {
        self.desk.handed_out()
    }
}

/// Whoever waits for a commit hears that there will be none.
impl Drop for Consumer {
    fn drop(&mut self) {
        self.desk.abandon(&Error::new(ErrorKind::Closed));
    }
}
