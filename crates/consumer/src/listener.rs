//! [`RebalanceListener`]: what an application does when partitions come and go.
//!
//! The calls of one member are made one at a time, in the order of what happened, on a task of their
//! own: heartbeats go on meanwhile (C16). Each partition that was told as assigned is told once as
//! revoked or as lost, unless the process or its [`RunningApp`](crate::RunningApp) is dropped.

use crate::lane::Progress;
use crate::{Error, ErrorKind, HandlerError};
use ottla_types::{BoxFuture, ConfigError, Offset, TopicPartition};
use std::collections::HashMap;
use std::future::{Future, ready};
use std::ops::Deref;
use std::sync::{Arc, Mutex, PoisonError};

/// Where to begin to read a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SeekTo {
    /// At this offset, the next one to be read. Outside of the log, `auto.offset.reset` applies.
    Offset(Offset),
    /// At the first record that is still there.
    Beginning,
    /// At the next record to be written.
    End,
    /// At the first record written at or after this time (milliseconds since the Unix epoch); at the
    /// end if there is none.
    Timestamp(i64),
}

/// Is told when partitions are assigned, revoked and lost.
///
/// A call that takes longer than `rebalance.callback.timeout.ms` is dropped at its next await, and
/// the rebalance goes on without it. That, an error and a panic are logged as warnings, counted in
/// `ottla_consumer_callback_failures_total` and
/// [`MemberStatus::callback_failures`](crate::MemberStatus::callback_failures), and shown as the
/// member's last error; the member itself goes on.
///
/// ```
/// use ottla_consumer::{HandlerError, RebalanceListener, Revoked};
///
/// struct Flush;
///
/// impl RebalanceListener for Flush {
///     async fn on_revoked(&self, revoked: &Revoked) -> Result<(), HandlerError> {
///         for partition in revoked.partitions() {
///             println!("{partition} goes, handled up to {:?}", revoked.position(partition));
///         }
///         Ok(())
///     }
/// }
/// ```
pub trait RebalanceListener: Send + Sync + 'static {
    /// Partitions came. Nothing of them is looked up or read until the call ends, so
    /// [`Assigned::start_at`] decides where they begin.
    ///
    /// # Errors
    /// Are reported; the partitions begin at their committed offsets then.
    fn on_assigned(
        &self,
        assigned: &Assigned,
    ) -> impl Future<Output = Result<(), HandlerError>> + Send {
        let _ = assigned;
        ready(Ok(()))
    }

    /// Partitions are to be given up, in a rebalance or because the member closes. The call begins
    /// when nothing of them is with a handler or with the caller any more (or `revoke.timeout.ms` has
    /// passed), and ends before the last commit is sent and the revocation is acknowledged: nobody
    /// else owns them yet, and what the call commits counts.
    ///
    /// # Errors
    /// Are reported; the revocation goes on.
    fn on_revoked(
        &self,
        revoked: &Revoked,
    ) -> impl Future<Output = Result<(), HandlerError>> + Send {
        let _ = revoked;
        ready(Ok(()))
    }

    /// Partitions belong to somebody else already, or soon: the session expired, the member was
    /// fenced or has failed. Nothing of them can be committed.
    ///
    /// # Errors
    /// Are reported.
    fn on_lost(&self, lost: &Rebalance) -> impl Future<Output = Result<(), HandlerError>> + Send {
        let _ = lost;
        ready(Ok(()))
    }
}

/// The partitions of one call of a [`RebalanceListener`].
#[derive(Debug)]
pub struct Rebalance {
    group: Arc<str>,
    member: Arc<str>,
    partitions: Vec<TopicPartition>,
    progress: Vec<Arc<Progress>>,
}

/// See [`RebalanceListener::on_assigned`].
#[derive(Debug)]
pub struct Assigned {
    rebalance: Rebalance,
    starts: Mutex<HashMap<TopicPartition, SeekTo>>,
}

/// See [`RebalanceListener::on_revoked`].
#[derive(Debug)]
pub struct Revoked {
    rebalance: Rebalance,
}

impl Rebalance {
    pub(crate) fn new(
        group: Arc<str>,
        member: Arc<str>,
        partitions: Vec<(TopicPartition, Arc<Progress>)>,
    ) -> Self {
        let (partitions, progress) = partitions.into_iter().unzip();
        Self {
            group,
            member,
            partitions,
            progress,
        }
    }

    /// The group.
    pub fn group(&self) -> &str {
        &self.group
    }

    /// The member's name, as in [`Context::member`](crate::Context::member).
    pub fn member(&self) -> &str {
        &self.member
    }

    /// The partitions that came or go; at least one, ordered.
    pub fn partitions(&self) -> &[TopicPartition] {
        &self.partitions
    }

    /// Everything below is handled (by a runner's handler) or was handed out (by a plain consumer);
    /// `None` as long as nobody has looked up where the partition begins, and for a partition that
    /// is lost or not among these.
    pub fn position(&self, partition: &TopicPartition) -> Option<Offset> {
        self.progress_of(partition)?.handled()
    }

    /// What was committed last as far as the member knows, under the same conditions.
    pub fn last_committed(&self, partition: &TopicPartition) -> Option<Offset> {
        self.progress_of(partition)?.last_committed()
    }

    fn progress_of(&self, partition: &TopicPartition) -> Option<&Arc<Progress>> {
        let at = self.partitions.iter().position(|p| p == partition)?;
        Some(&self.progress[at])
    }

    fn not_owner(&self, partition: &TopicPartition) -> Error {
        Error::new(ErrorKind::NotOwner)
            .with_group(&*self.group)
            .with_partition(partition.clone())
    }

    /// Takes out those for which `is_out` holds, and gives them.
    pub(crate) fn take(
        &mut self,
        is_out: impl Fn(&TopicPartition) -> bool,
    ) -> Vec<(TopicPartition, Arc<Progress>)> {
        let all = self.partitions.drain(..).zip(self.progress.drain(..));
        let (out, rest): (Vec<_>, Vec<_>) = all.partition(|(p, _)| is_out(p));
        (self.partitions, self.progress) = rest.into_iter().unzip();
        out
    }
}

impl Assigned {
    pub(crate) fn new(rebalance: Rebalance) -> Self {
        Self {
            rebalance,
            starts: Mutex::default(),
        }
    }

    /// Begins `partition` there instead of at its committed offset. The last word counts, and only
    /// if the call ends well. In a runner the place found is committed at once, as one that
    /// `auto.offset.reset` finds.
    ///
    /// # Errors
    /// [`ErrorKind::NotOwner`] when the partition is not among these.
    pub fn start_at(&self, partition: &TopicPartition, place: SeekTo) -> Result<(), Error> {
        if self.rebalance.progress_of(partition).is_none() {
            return Err(self.rebalance.not_owner(partition));
        }
        let mut starts = self.starts.lock().unwrap_or_else(PoisonError::into_inner);
        starts.insert(partition.clone(), place);
        Ok(())
    }

    /// Lets a plain consumer begin with `partition` paused, as [`Consumer::pause`](crate::Consumer::pause)
    /// would: nothing of it is fetched until it is resumed. Counts at once, whatever the call's end.
    ///
    /// # Errors
    /// [`ErrorKind::NotOwner`] when the partition is not among these; [`ErrorKind::Config`] in a
    /// runner, where nobody resumes it.
    pub fn pause(&self, partition: &TopicPartition) -> Result<(), Error> {
        let progress = self.rebalance.progress_of(partition);
        let progress = progress.ok_or_else(|| self.rebalance.not_owner(partition))?;
        if !progress.is_asked() {
            let expected = "nothing in a runner, where nobody resumes";
            return Err(ConfigError::new("pause", partition, expected).into());
        }
        progress.set_paused(true);
        Ok(())
    }

    pub(crate) fn into_starts(self) -> HashMap<TopicPartition, SeekTo> {
        let starts = self.starts.into_inner();
        starts.unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn rebalance_mut(&mut self) -> &mut Rebalance {
        &mut self.rebalance
    }
}

impl Revoked {
    /// Asks for a commit of `offset`, the next one to be read, before the partition is given up. For
    /// a plain consumer; a runner commits by itself what its handler has handled.
    ///
    /// # Errors
    /// [`ErrorKind::NotOwner`] when the partition is not among these; [`ErrorKind::Config`] in a
    /// runner, and for an offset below 0.
    pub fn commit(&self, partition: &TopicPartition, offset: Offset) -> Result<(), Error> {
        let progress = self.rebalance.progress_of(partition);
        let progress = progress.ok_or_else(|| self.rebalance.not_owner(partition))?;
        if !progress.is_asked() {
            let expected = "nothing in a runner, which commits what is handled";
            return Err(ConfigError::new("commit", offset, expected).into());
        }
        crate::plain::check_offset(offset)?;
        // What becomes of it is seen in the member's status and metrics.
        let _ = progress.ask(offset, None);
        Ok(())
    }

    pub(crate) fn new(rebalance: Rebalance) -> Self {
        Self { rebalance }
    }

    pub(crate) fn rebalance_mut(&mut self) -> &mut Rebalance {
        &mut self.rebalance
    }
}

impl Deref for Assigned {
    type Target = Rebalance;

    fn deref(&self) -> &Rebalance {
        &self.rebalance
    }
}

impl Deref for Revoked {
    type Target = Rebalance;

    fn deref(&self) -> &Rebalance {
        &self.rebalance
    }
}

/// A listener behind a pointer.
#[derive(Clone)]
pub(crate) struct BoxListener(Arc<dyn ErasedListener>);

type Called<'a> = BoxFuture<'a, Result<(), HandlerError>>;

trait ErasedListener: Send + Sync {
    fn on_assigned<'a>(&'a self, assigned: &'a Assigned) -> Called<'a>;
    fn on_revoked<'a>(&'a self, revoked: &'a Revoked) -> Called<'a>;
    fn on_lost<'a>(&'a self, lost: &'a Rebalance) -> Called<'a>;
}

impl<L: RebalanceListener> ErasedListener for L {
    fn on_assigned<'a>(&'a self, assigned: &'a Assigned) -> Called<'a> {
        Box::pin(RebalanceListener::on_assigned(self, assigned))
    }

    fn on_revoked<'a>(&'a self, revoked: &'a Revoked) -> Called<'a> {
        Box::pin(RebalanceListener::on_revoked(self, revoked))
    }

    fn on_lost<'a>(&'a self, lost: &'a Rebalance) -> Called<'a> {
        Box::pin(RebalanceListener::on_lost(self, lost))
    }
}

impl BoxListener {
    pub(crate) fn new(listener: impl RebalanceListener) -> Self {
        Self(Arc::new(listener))
    }

    pub(crate) async fn on_assigned(&self, assigned: &Assigned) -> Result<(), HandlerError> {
        self.0.on_assigned(assigned).await
    }

    pub(crate) async fn on_revoked(&self, revoked: &Revoked) -> Result<(), HandlerError> {
        self.0.on_revoked(revoked).await
    }

    pub(crate) async fn on_lost(&self, lost: &Rebalance) -> Result<(), HandlerError> {
        self.0.on_lost(lost).await
    }
}

impl std::fmt::Debug for BoxListener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("BoxListener")
    }
}

impl<L: RebalanceListener> RebalanceListener for Arc<L> {
    async fn on_assigned(&self, assigned: &Assigned) -> Result<(), HandlerError> {
        (**self).on_assigned(assigned).await
    }

    async fn on_revoked(&self, revoked: &Revoked) -> Result<(), HandlerError> {
        (**self).on_revoked(revoked).await
    }

    async fn on_lost(&self, lost: &Rebalance) -> Result<(), HandlerError> {
        (**self).on_lost(lost).await
    }
}
