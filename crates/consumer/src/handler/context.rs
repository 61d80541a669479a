//! What a handler knows besides the record: its group, its right to the partition, its outputs.

use crate::latch::Latch;
use crate::output::Scope;
use crate::status::MemberBoard;
use ottla_types::transactions::GroupMetadata;
use ottla_types::{BoxFuture, Delivery, Fate, Publish, PublishError, PublishErrorKind, Record};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use tokio::time::Instant;

/// The right of this member to a partition in one generation. It is revoked once and for all; a
/// later assignment of the same partition has a lease of its own. Clones share the state.
///
/// It also ends when the group's coordinator was not heard for the session's time-out: a process that
/// stood still finds it ended before it has heard that its partitions belong to others.
#[derive(Debug, Clone, Default)]
pub struct PartitionLease {
    revoked: Latch,
    term: Term,
}

impl PartitionLease {
    /// A lease that holds until it is revoked.
    pub fn new() -> Self {
        Self::default()
    }

    /// A lease that holds until it is revoked, and not beyond the term.
    pub(crate) fn within(term: Term) -> Self {
        let revoked = Latch::default();
        Self { revoked, term }
    }

    /// Ends the lease.
    pub fn revoke(&self) {
        self.revoked.set();
    }

    /// Whether the lease still holds.
    pub fn is_held(&self) -> bool {
        !self.is_revoked() && self.term.lasts()
    }

    /// Whether it was revoked: a look that costs nothing.
    pub(crate) fn is_revoked(&self) -> bool {
        self.revoked.is_set()
    }

    /// Resolves when the lease was revoked.
    pub async fn lost(&self) {
        self.revoked.wait().await;
    }
}

/// Until when a member owns what it owns, unless its coordinator is heard before. Clones share the
/// state.
#[derive(Debug, Clone)]
pub(crate) struct Term {
    begun: Instant,
    /// Milliseconds since `begun`.
    ends: Arc<AtomicI64>,
}

impl Default for Term {
    fn default() -> Self {
        Self::since(Instant::now())
    }
}

impl Term {
    /// A term on the clock that began then.
    pub(crate) fn since(begun: Instant) -> Self {
        let ends = Arc::new(AtomicI64::new(i64::MAX));
        Self { begun, ends }
    }

    /// Sets its end, in milliseconds of that clock; `None`: it has none.
    pub(crate) fn set(&self, ends: Option<i64>) {
        self.ends.store(ends.unwrap_or(i64::MAX), Ordering::Release);
    }

    fn lasts(&self) -> bool {
        let ends = self.ends.load(Ordering::Acquire);
        let now = self.begun.elapsed().as_millis();
        i64::try_from(now).is_ok_and(|now| now < ends)
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
    /// What the present call publishes through, where the runner looks after its outputs.
    scope: Option<Arc<Scope>>,
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
                scope: None,
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
                scope: None,
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

    pub(crate) fn set_scope(&mut self, scope: Arc<Scope>) {
        Arc::make_mut(&mut self.shared).scope = Some(scope);
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
    /// [`Outcome::Done`](super::Outcome::Done), so that the source offset is not committed first;
    /// with `processing.guarantee` other than `at_least_once` the runner sees to that.
    ///
    /// In a transaction ([`is_transactional`](Self::is_transactional)) a delivery that resolves well
    /// says that the record is written; it counts when the transaction, and the source offset with
    /// it, is committed.
    ///
    /// # Errors
    /// The delivery fails with [`PublishErrorKind::NotOwner`] once the partition is lost or, where the
    /// runner looks after outputs, the call is over; with [`PublishErrorKind::Closed`] when the runner
    /// was given no producer; with [`PublishErrorKind::BufferFull`] when there is no room
    /// ([`ready`](Self::ready) waits for it). Where the runner looks after outputs, a failure that the
    /// handler does not look at makes its call fail.
    pub fn publish(&self, record: Record) -> Delivery {
        match self.outlet() {
            Ok(Outlet::Scope(scope)) => scope.enqueue(record),
            Ok(Outlet::Plain(outputs)) => outputs.clone().enqueue(record),
            Err(kind) => Delivery::failed(PublishError::new(kind, Fate::NotWritten, record.topic)),
        }
    }

    /// Waits for room for a record of `size` bytes ([`Record::size`]); see [`Publish::ready`].
    ///
    /// # Errors
    /// As [`publish`](Self::publish).
    pub async fn ready(&self, size: usize) -> Result<(), PublishError> {
        match self.outlet() {
            Ok(Outlet::Scope(scope)) => scope.ready(size).await,
            Ok(Outlet::Plain(outputs)) => outputs.ready(size).await,
            Err(kind) => Err(PublishError::new(kind, Fate::NotWritten, "")),
        }
    }

    /// Whether what this call publishes is part of a transaction with its record's offset.
    pub fn is_transactional(&self) -> bool {
        let scope = self.shared.scope.as_ref();
        scope.is_some_and(|scope| scope.is_transactional())
    }

    /// Records that this call has published into its transaction; 0 outside of one. When the call
    /// fails with some, the whole transaction is aborted, and its records are handled again.
    pub fn published_in_transaction(&self) -> usize {
        let scope = self.shared.scope.as_ref();
        let scope = scope.filter(|scope| scope.is_transactional());
        scope.map_or(0, |scope| scope.published())
    }

    /// What a middleware publishes through: `own`, or the transaction of the call where it is in one.
    pub fn publisher(&self, own: &Arc<dyn Publish>) -> Arc<dyn Publish> {
        match self.is_transactional() {
            true => Arc::new(OfCall(self.clone())),
            false => own.clone(),
        }
    }

    fn outlet(&self) -> Result<Outlet<'_>, PublishErrorKind> {
        if !self.shared.lease.is_held() {
            return Err(PublishErrorKind::NotOwner);
        }
        match (&self.shared.scope, &self.shared.outputs) {
            (Some(scope), _) => Ok(Outlet::Scope(scope)),
            (None, Some(outputs)) => Ok(Outlet::Plain(outputs)),
            (None, None) => Err(PublishErrorKind::Closed),
        }
    }
}

enum Outlet<'a> {
    Scope(&'a Arc<Scope>),
    Plain(&'a Arc<dyn Publish>),
}

/// A call's outputs as a port.
struct OfCall(Context);

impl Publish for OfCall {
    fn enqueue(&self, record: Record) -> Delivery {
        self.0.publish(record)
    }

    fn ready(&self, size: usize) -> BoxFuture<'_, Result<(), PublishError>> {
        Box::pin(self.0.ready(size))
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tokio::time::advance;

    #[tokio::test(start_paused = true)]
    async fn a_context_refuses_when_the_session_is_over_before_anybody_says_so() {
        let term = Term::since(Instant::now());
        let lease = PartitionLease::within(term.clone());
        let context = Context::new("g", "m").with_lease(lease.clone());
        let refusal = async || {
            let error = context.publish(Record::new("t")).await.unwrap_err();
            (context.check_lease().is_err(), error.kind())
        };
        term.set(Some(6_000));
        advance(Duration::from_millis(5_999)).await;
        assert_eq!(refusal().await, (false, PublishErrorKind::Closed));
        advance(Duration::from_millis(1)).await;
        assert_eq!(refusal().await, (true, PublishErrorKind::NotOwner));
        assert!(!lease.is_held() && !lease.is_revoked());
        // The coordinator was heard.
        term.set(Some(12_000));
        assert_eq!(refusal().await, (false, PublishErrorKind::Closed));
        lease.revoke();
        assert_eq!(refusal().await, (true, PublishErrorKind::NotOwner));
    }
}
