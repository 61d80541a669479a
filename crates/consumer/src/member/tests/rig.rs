//! [`Rig`]: a member that makes no step by itself, and whose transactional producer does what the test
//! says. Its coordinator is never asked: assignments, places and fetched records are told to it.

use super::super::MemberSpec;
use super::super::core::Member;
use super::super::fetch::{Answer, Read};
use super::super::lookup::{Found, Located};
use super::super::partition::{Lookup, Owned, Position};
use super::super::transact::next_step;
use crate::app::Resolved;
use crate::handler::{Context, Outcome, handler_fn};
use crate::lane::LaneEnd;
use crate::output::{Call, OutputMode};
use crate::{ConsumerConfig, ProcessingGuarantee, RebalanceListener, Registration};
use ottla_client::{Client, ClientConfig};
use ottla_group::{
    CommitIdentity, GroupMembership, GroupProtocol, Input, MembershipEvent, RevocationId,
};
use ottla_mock_cluster::MockCluster;
use ottla_types::coordinator::CommitOffset;
use ottla_types::transactions::GroupMetadata;
use ottla_types::{
    BoxFuture, ConfigError, Delivery, Offset, Publish, PublishError, Record, RecordMetadata,
    TopicPartition, Transact, TransactError, TransactErrorKind, Transactions,
};
use std::collections::HashMap;
use std::future::{pending, ready};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time::Instant;

/// `t-0`.
pub(super) fn t0() -> TopicPartition {
    TopicPartition::new("t", 0)
}

/// `t-1`.
pub(super) fn t1() -> TopicPartition {
    TopicPartition::new("t", 1)
}

/// What a step of the producer does, if it does not succeed.
#[derive(Debug, Clone, Copy)]
pub(super) enum Instead {
    Hang,
    Fail(TransactErrorKind),
}

/// The producer: keeps what it is asked for.
#[derive(Default)]
pub(super) struct Script {
    steps: Mutex<Vec<String>>,
    instead: Mutex<HashMap<&'static str, Instead>>,
}

impl Script {
    /// What was asked since the last look; offsets as `t-0@5`.
    pub(super) fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.steps.lock().unwrap())
    }

    /// The next such step does not succeed.
    pub(super) fn next(&self, step: &'static str, instead: Instead) {
        self.instead.lock().unwrap().insert(step, instead);
    }

    fn step(&self, step: &'static str, shown: String) -> BoxFuture<'_, Result<(), TransactError>> {
        self.steps.lock().unwrap().push(shown);
        match self.instead.lock().unwrap().remove(step) {
            None => Box::pin(ready(Ok(()))),
            Some(Instead::Hang) => Box::pin(pending()),
            Some(Instead::Fail(kind)) => Box::pin(ready(Err(TransactError::new(kind, "id")))),
        }
    }
}

impl Publish for Script {
    fn enqueue(&self, record: Record) -> Delivery {
        Delivery::new(ready(Ok(RecordMetadata {
            topic: record.topic,
            partition: 0,
            offset: Some(0),
            timestamp_ms: 0,
        })))
    }

    fn ready(&self, _: usize) -> BoxFuture<'_, Result<(), PublishError>> {
        Box::pin(ready(Ok(())))
    }
}

impl Transact for Script {
    fn begin(&self) -> BoxFuture<'_, Result<(), TransactError>> {
        self.step("begin", "begin".to_owned())
    }

    fn send_offsets(
        &self,
        _: GroupMetadata,
        offsets: Vec<CommitOffset>,
    ) -> BoxFuture<'_, Result<(), TransactError>> {
        let shown = offsets
            .iter()
            .map(|o| format!("{}@{}", o.partition, o.offset));
        self.step("offsets", shown.collect::<Vec<_>>().join(" "))
    }

    fn commit(&self) -> BoxFuture<'_, Result<(), TransactError>> {
        self.step("commit", "commit".to_owned())
    }

    fn abort(&self) -> BoxFuture<'_, Result<(), TransactError>> {
        self.step("abort", "abort".to_owned())
    }
}

struct Source(Arc<Script>);

impl Transactions for Source {
    fn check(&self) -> Result<(), ConfigError> {
        Ok(())
    }

    fn open(
        &self,
        _: &str,
        _: Duration,
    ) -> BoxFuture<'static, Result<Arc<dyn Transact>, TransactError>> {
        let producer: Arc<dyn Transact> = self.0.clone();
        Box::pin(ready(Ok(producer)))
    }
}

pub(super) struct Rig {
    pub(super) member: Member,
    pub(super) script: Arc<Script>,
    pub(super) now: Instant,
    _cluster: MockCluster,
}

impl Rig {
    pub(super) async fn new() -> Self {
        Self::of(|registration| registration).await
    }

    pub(super) async fn listening(listener: impl RebalanceListener) -> Self {
        Self::of(|registration| registration.listener(listener)).await
    }

    async fn of(change: impl FnOnce(Registration) -> Registration) -> Self {
        let cluster = MockCluster::builder().start().await.unwrap();
        let client = ClientConfig::new(&cluster.bootstrap());
        let client = Client::connect(client).await.unwrap();
        let config = ConsumerConfig {
            processing_guarantee: ProcessingGuarantee::ExactlyOnce,
            ..ConsumerConfig::new("g")
        };
        let script = Arc::new(Script::default());
        let handler = handler_fn(|_, _| async { Outcome::Done });
        let registration = change(Registration::new("g", ["t"], handler));
        let mode = OutputMode::Transactional(Arc::new(Source(script.clone())));
        let (config, subscription) = registration.resolve(&config).unwrap();
        let resolved = Resolved {
            config,
            subscription,
            mode,
        };
        let spec = MemberSpec::new(&client, &registration, &resolved, 0);
        Self {
            member: Member::new(spec).unwrap(),
            script,
            now: Instant::now(),
            _cluster: cluster,
        }
    }

    /// With a transaction open.
    pub(super) async fn open() -> Self {
        let mut rig = Self::new().await;
        rig.settle().await;
        assert_eq!(rig.script.take(), ["begin"]);
        rig
    }

    pub(super) fn pass(&mut self, time: Duration) {
        self.now += time;
    }

    /// Starts what is due, and does not wait for its end.
    pub(super) fn transact(&mut self) {
        self.member.transact(Some(identity()), self.now);
    }

    /// The second half of that, when the transaction is to end.
    pub(super) fn end_transaction(&mut self) {
        self.member.end_transaction(Some(identity()), self.now);
    }

    /// Makes steps until none is under way or due.
    pub(super) async fn settle(&mut self) {
        loop {
            self.transact();
            let step = next_step(&mut self.member.transactor);
            let ready = tokio::time::timeout(Duration::ZERO, step).await;
            let Ok(step) = ready else { return };
            self.member.on_transaction_step(step, self.now).unwrap();
        }
    }

    /// A partition more than before.
    pub(super) fn assign(&mut self, partition: &TopicPartition) {
        let before = self.member.partitions.keys();
        let all: Vec<_> = before.chain([partition]).cloned().collect();
        let added = vec![partition.clone()];
        self.member.on_assigned(1, added, &all, self.now);
    }

    pub(super) fn owned(&self, partition: &TopicPartition) -> &Owned {
        &self.member.partitions[partition]
    }

    fn owned_mut(&mut self, partition: &TopicPartition) -> &mut Owned {
        self.member.partitions.get_mut(partition).unwrap()
    }

    /// Answers a look-up of the partition, and lets its lane begin.
    pub(super) async fn found(
        &mut self,
        partition: &TopicPartition,
        lookup: Lookup,
        offset: Offset,
        committed: Option<Offset>,
    ) {
        let owned = self.owned_mut(partition);
        owned.position = Position::LookingUp(lookup);
        let found = Found {
            partition: partition.clone(),
            incarnation: owned.incarnation,
            seeks: owned.seeks,
            lookup,
            result: Ok(Located {
                position: offset.into(),
                committed,
                metadata: String::new(),
            }),
        };
        self.member.on_found(vec![found], self.now);
        // It notes its position once, before it waits for records.
        tokio::task::yield_now().await;
    }

    /// Assigned, at an offset that is committed.
    pub(super) async fn begin_at(&mut self, partition: &TopicPartition, offset: Offset) {
        self.assign(partition);
        self.found(partition, Lookup::Committed, offset, Some(offset))
            .await;
    }

    /// Answers a fetch of the partition.
    pub(super) fn fetched(&mut self, partition: &TopicPartition, result: Read) {
        let owned = self.owned_mut(partition);
        let (Position::At { position, .. } | Position::Fetching(position)) = owned.position else {
            panic!("{:?}", owned.position)
        };
        owned.position = Position::Fetching(position);
        let answer = Answer {
            partition: partition.clone(),
            incarnation: owned.incarnation,
            position,
            result,
        };
        self.member.on_fetched(vec![answer], self.now);
    }

    /// A call for a record of the partition begins, and publishes.
    pub(super) fn call(&self, partition: &TopicPartition) -> Call {
        let (call, context) = self.quiet_call(partition);
        drop(context.publish(Record::new("out")));
        call
    }

    /// A call that has published nothing so far.
    pub(super) fn quiet_call(&self, partition: &TopicPartition) -> (Call, Context) {
        self.try_call(partition).expect("no call may begin")
    }

    /// Whether a call may begin.
    pub(super) fn may_call(&self, partition: &TopicPartition) -> bool {
        self.try_call(partition).is_some()
    }

    fn try_call(&self, partition: &TopicPartition) -> Option<(Call, Context)> {
        let (owned, spec) = (self.owned(partition), &self.member.spec);
        let (group, board) = (spec.group.clone(), spec.board.clone());
        let mut context = Context::of_member(group, board, owned.lease.clone());
        let transactor = self.member.transactor.as_ref().unwrap();
        let offset = owned.progress.handled().unwrap();
        let first = crate::test_record(&partition.topic, partition.partition, offset);
        let call = transactor
            .outputs(owned.incarnation)
            .begin(&mut context, &first);
        Some((call?, context))
    }

    /// The records below `next` are handled, the last of them by `call`.
    pub(super) fn done(&self, partition: &TopicPartition, call: Call, next: Offset) {
        self.owned(partition).progress.mark_handled(next);
        call.done(1);
    }

    /// One more record is handled, by a call that published.
    pub(super) fn handle(&self, partition: &TopicPartition, next: Offset) {
        self.done(partition, self.call(partition), next);
    }

    /// The partitions are to be given up, and their lanes end at once.
    pub(super) fn revoke(&mut self, partitions: &[TopicPartition]) {
        let id = revocation(partitions.to_vec());
        self.member.on_revoked(id, partitions, self.now);
    }

    pub(super) fn lane_ends(&mut self, partition: &TopicPartition) {
        let end = LaneEnd {
            partition: partition.clone(),
            incarnation: self.owned(partition).incarnation,
            call_dropped: false,
        };
        self.member.on_lane_end(Ok(end)).unwrap();
    }

    /// Why the partition's place is to be looked up.
    pub(super) fn wanted(&self, partition: &TopicPartition) -> Lookup {
        match self.owned(partition).position {
            Position::Wanted { lookup, .. } => lookup,
            other => panic!("{other:?}"),
        }
    }
}

fn identity() -> CommitIdentity {
    CommitIdentity {
        generation: 1,
        member_id: "m".to_owned(),
        instance_id: None,
    }
}

/// The number of a revocation, which only a membership makes.
fn revocation(partitions: Vec<TopicPartition>) -> RevocationId {
    let mut membership = GroupMembership::new(GroupProtocol::Assigned(partitions), 1).unwrap();
    membership.handle(Input::Close, 0);
    loop {
        match membership.poll_event().unwrap() {
            MembershipEvent::Revoked { id, .. } => return id,
            _ => continue,
        }
    }
}
