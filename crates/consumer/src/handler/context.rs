//! What a handler knows besides the record: its group, its right to the partition, its outputs.

use crate::latch::Latch;
use crate::status::MemberBoard;
use ottla_types::transactions::GroupMetadata;
use ottla_types::{Delivery, Fate, Publish, PublishError, PublishErrorKind, Record};
use std::sync::Arc;
use tokio::time::Instant;

/// The right of this member to a partition in one generation. It is revoked once and for all; a
/// later assignment of the same partition has a lease of its own. Clones share the state.
#[derive(Debug, Clone, Default)]
pub struct PartitionLease(Latch);

impl PartitionLease {
    /// A lease that holds until it is revoked.
    pub fn new() -> Self {
        Self::default()
    }

    /// Ends the lease.
    pub fn revoke(&self) {
        self.0.set();
    }

    /// Whether the lease still holds.
    pub fn is_held(&self) -> bool {
        !self.0.is_set()
    }

    /// Resolves when the lease has ended.
    pub async fn lost(&self) {
        self.0.wait().await;
    }
}

/// The partition belongs to another member now; what this one does for it has no effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the partition is no longer owned by this member")]
pub struct LeaseLost;

/// What a handler knows besides the record. Clones share everything.
#[derive(Clone)]
pub struct Context {
    shared: Arc<Shared>,
    deadline: Option<Instant>,
}

/// What is the same for all calls of a partition.
#[derive(Clone)]
struct Shared {
    group: Arc<str>,
    member: Arc<str>,
    lease: PartitionLease,
    outputs: Option<Arc<dyn Publish>>,
    board: Option<Arc<MemberBoard>>,
}

impl Context {
    /// A context for `group` and the named member. Runners make contexts; so do tests of handlers.
    pub fn new(group: impl Into<Arc<str>>, member: impl Into<Arc<str>>) -> Self {
        Self {
            shared: Arc::new(Shared {
                group: group.into(),
                member: member.into(),
                lease: PartitionLease::new(),
                outputs: None,
                board: None,
            }),
            deadline: None,
        }
    }

    /// The context of a running member's partition.
    pub(crate) fn of_member(
        group: Arc<str>,
        board: Arc<MemberBoard>,
        lease: PartitionLease,
    ) -> Self {
        Self {
            shared: Arc::new(Shared {
                group,
                member: board.name().clone(),
                lease,
                outputs: None,
                board: Some(board),
            }),
            deadline: None,
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
        let group = self.shared.board.as_ref().and_then(|board| board.group());
        self.check_lease()?;
        group.ok_or(LeaseLost)
    }

    /// Ties the context to a partition's lease.
    #[must_use]
    pub fn with_lease(mut self, lease: PartitionLease) -> Self {
        Arc::make_mut(&mut self.shared).lease = lease;
        self
    }

    /// Sets where [`publish`](Self::publish) goes.
    #[must_use]
    pub fn with_outputs(mut self, outputs: Arc<dyn Publish>) -> Self {
        Arc::make_mut(&mut self.shared).outputs = Some(outputs);
        self
    }

    /// Sets the time at which the call is dropped.
    #[must_use]
    pub fn with_deadline(mut self, deadline: Instant) -> Self {
        self.deadline = Some(deadline);
        self
    }

    pub(crate) fn set_deadline(&mut self, deadline: Instant) {
        self.deadline = Some(deadline);
    }

    /// When the present call is dropped and counts as failed (`max.processing.time.ms`), if the
    /// runner set a limit.
    pub fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// The consumer group.
    pub fn group(&self) -> &str {
        &self.shared.group
    }

    /// A name for this member that no other running member has: the owner of its claims.
    pub fn member(&self) -> &str {
        &self.shared.member
    }

    /// Makes sure that the partition is still owned. Call it before an effect that cannot be undone.
    ///
    /// # Errors
    /// [`LeaseLost`] after a revocation or loss of the partition.
    pub fn check_lease(&self) -> Result<(), LeaseLost> {
        if self.shared.lease.is_held() {
            Ok(())
        } else {
            Err(LeaseLost)
        }
    }

    /// The partition's lease, to wait for its end.
    pub fn lease(&self) -> &PartitionLease {
        &self.shared.lease
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
        if !self.shared.lease.is_held() {
            return refused(PublishErrorKind::NotOwner, &record.topic);
        }
        match &self.shared.outputs {
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
            .field("group", &self.shared.group)
            .field("member", &self.shared.member)
            .field("lease_held", &self.shared.lease.is_held())
            .finish_non_exhaustive()
    }
}
