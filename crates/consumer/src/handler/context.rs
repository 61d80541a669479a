//! What a handler knows besides the record: its group, its right to the partition, its outputs.

use crate::status::MemberBoard;
use ottla_types::transactions::GroupMetadata;
use ottla_types::{Delivery, Fate, Publish, PublishError, PublishErrorKind, Record};
use std::sync::Arc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// The right of this member to a partition in one generation. It is revoked once and for all; a
/// later assignment of the same partition has a lease of its own. Clones share the state.
#[derive(Debug, Clone, Default)]
pub struct PartitionLease(CancellationToken);

impl PartitionLease {
    /// A lease that holds until it is revoked.
    pub fn new() -> Self {
        Self::default()
    }

    /// Ends the lease.
    pub fn revoke(&self) {
        self.0.cancel();
    }

    /// Whether the lease still holds.
    pub fn is_held(&self) -> bool {
        !self.0.is_cancelled()
    }

    /// Resolves when the lease has ended.
    pub async fn lost(&self) {
        self.0.cancelled().await;
    }
}

/// The partition belongs to another member now; what this one does for it has no effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the partition is no longer owned by this member")]
pub struct LeaseLost;

/// What a handler knows besides the record. Clones share everything.
#[derive(Clone)]
pub struct Context {
    group: Arc<str>,
    member: Arc<str>,
    lease: PartitionLease,
    outputs: Option<Arc<dyn Publish>>,
    deadline: Option<Instant>,
    board: Option<Arc<MemberBoard>>,
}

impl Context {
    /// A context for `group` and the named member. Runners make contexts; so do tests of handlers.
    pub fn new(group: impl Into<Arc<str>>, member: impl Into<Arc<str>>) -> Self {
        Self {
            group: group.into(),
            member: member.into(),
            lease: PartitionLease::new(),
            outputs: None,
            deadline: None,
            board: None,
        }
    }

    /// The context of a running member's partition.
    pub(crate) fn of_member(
        group: Arc<str>,
        board: Arc<MemberBoard>,
        lease: PartitionLease,
    ) -> Self {
        Self {
            board: Some(board.clone()),
            ..Self::new(group, board.name().clone()).with_lease(lease)
        }
    }

    /// The member as the group's coordinator knows it now, for offsets that go into a transaction
    /// ([`Transact::send_offsets`](ottla_types::Transact::send_offsets)): the coordinator takes them
    /// only while this generation lasts. To be asked for anew for each transaction.
    ///
    /// # Errors
    /// [`LeaseLost`] after a revocation or loss of the partition, and without a running member.
    pub fn group_metadata(&self) -> Result<GroupMetadata, LeaseLost> {
        // In this order: a generation that came after the loss of the partition is never given out.
        let group = self.board.as_ref().and_then(|board| board.group());
        self.check_lease()?;
        group.ok_or(LeaseLost)
    }

    /// Ties the context to a partition's lease.
    #[must_use]
    pub fn with_lease(mut self, lease: PartitionLease) -> Self {
        self.lease = lease;
        self
    }

    /// Sets where [`publish`](Self::publish) goes.
    #[must_use]
    pub fn with_outputs(mut self, outputs: Arc<dyn Publish>) -> Self {
        self.outputs = Some(outputs);
        self
    }

    /// Sets the time at which the call is dropped.
    #[must_use]
    pub fn with_deadline(mut self, deadline: Instant) -> Self {
        self.deadline = Some(deadline);
        self
    }

    /// When the present call is dropped and counts as failed (`max.processing.time.ms`), if the
    /// runner set a limit.
    pub fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// The consumer group.
    pub fn group(&self) -> &str {
        &self.group
    }

    /// A name for this member that no other running member has: the owner of its claims.
    pub fn member(&self) -> &str {
        &self.member
    }

    /// Makes sure that the partition is still owned. Call it before an effect that cannot be undone.
    ///
    /// # Errors
    /// [`LeaseLost`] after a revocation or loss of the partition.
    pub fn check_lease(&self) -> Result<(), LeaseLost> {
        if self.lease.is_held() {
            Ok(())
        } else {
            Err(LeaseLost)
        }
    }

    /// The partition's lease, to wait for its end.
    pub fn lease(&self) -> &PartitionLease {
        &self.lease
    }

    /// Publishes a record to tell other services. Await the delivery before returning
    /// [`Outcome::Done`](super::Outcome::Done), so that the source offset is not committed first.
    ///
    /// # Errors
    /// The delivery fails with [`PublishErrorKind::NotOwner`] once the partition is lost, and with
    /// [`PublishErrorKind::Closed`] when the runner was given no producer.
    pub fn publish(&self, record: Record) -> Delivery {
        let refused = |kind, topic: &Arc<str>| {
            Delivery::failed(PublishError::new(kind, Fate::NotWritten, topic.clone()))
        };
        if !self.lease.is_held() {
            return refused(PublishErrorKind::NotOwner, &record.topic);
        }
        match &self.outputs {
            Some(outputs) => {
                let outputs = outputs.clone();
                outputs.enqueue(record)
            }
            None => refused(PublishErrorKind::Closed, &record.topic),
        }
    }
}

impl std::fmt::Debug for Context {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Context")
            .field("group", &self.group)
            .field("member", &self.member)
            .field("lease_held", &self.lease.is_held())
            .finish_non_exhaustive()
    }
}
