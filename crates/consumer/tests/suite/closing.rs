//! Members that close in trouble: while their group is rebalancing, or with a broken producer.

use crate::bed::{Bed, SHUTDOWN, Seen, config, stop, wait_for};
use ottla_client::GroupClient;
use ottla_consumer::{
    App, Assignor, ConsumerConfig, GroupProtocol, MemberState, Outcome, ProcessingGuarantee,
    handler_fn,
};
use ottla_types::coordinator::{CommitOffset, JoinGroupRequest, JoinGroupResponse};
use ottla_types::transactions::GroupMetadata;
use ottla_types::{
    BoxFuture, ConfigError, Delivery, ErrorCode, Fate, Publish, PublishError, PublishErrorKind,
    Record, Transact, TransactError, TransactErrorKind, Transactions,
};
use std::future::ready;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::Semaphore;

/// A member that joins when the test says so, and owns nothing.
struct Joiner {
    group: GroupClient,
    member_id: String,
}

impl Joiner {
    async fn new(group: GroupClient) -> Self {
        let mut joiner = Self {
            group,
            member_id: String::new(),
        };
        let answer = joiner.join().await;
        assert_eq!(answer.error, ErrorCode::MEMBER_ID_REQUIRED);
        joiner.member_id = answer.member_id;
        joiner
    }

    /// Resolves when all members have joined.
    fn join(&self) -> impl Future<Output = JoinGroupResponse> + Send + use<> {
        // Version 0, the topic t, no user data.
        let subscription = b"\0\0\0\0\0\x01\0\x01t\xff\xff\xff\xff".as_slice();
        let request = JoinGroupRequest {
            session_timeout_ms: 10_000,
            rebalance_timeout_ms: 20_000,
            member_id: self.member_id.clone(),
            instance_id: None,
            protocol_type: "consumer".to_owned(),
            protocols: vec![("cooperative-sticky".to_owned(), subscription.into())],
            reason: None,
        };
        let group = self.group.clone();
        async move { group.join(request).await.unwrap() }
    }
}

/// The last commit of a member whose call ends when the others have begun a new generation with it: the
/// coordinator takes it in that one alone.
#[tokio::test]
async fn trap_c1_a_close_in_a_cooperative_rebalance_commits_what_was_handled() {
    let bed = Bed::start().await;
    bed.cluster.create_topic("t", 1).unwrap();
    bed.write("t", 0, ["slow"]).await;
    let (seen, gate) = (Seen::default(), Arc::new(Semaphore::new(0)));
    let (log, pass) = (seen.clone(), gate.clone());
    let handler = handler_fn(move |context, record| {
        log.push(context.member(), &record);
        let pass = pass.clone();
        async move {
            pass.acquire().await.unwrap().forget();
            Outcome::Done
        }
    });
    let config = ConsumerConfig {
        group_protocol: GroupProtocol::Classic,
        assignors: vec![Assignor::CooperativeSticky],
        ..config()
    };
    let mut app = App::new(&bed.client, config);
    app.topic("t").listen("g", handler);
    let running = app.start().await.unwrap();
    seen.wait_len(1).await;
    let health = running.health();
    let is = |state| health.status().registrations[0].members[0].state == state;
    let other = Joiner::new(bed.connect().await.group("g")).await;
    other.join().await;
    wait_for("the second generation", || is(MemberState::Stable)).await;
    // Another one makes the group rebalance, which waits for the first other one.
    let third = Joiner::new(bed.connect().await.group("g")).await;
    let rebalanced = async {
        wait_for("the member's join", || is(MemberState::Joining)).await;
        let stopping = stop(running);
        let goes_on = async {
            wait_for("the close", || is(MemberState::Stopping)).await;
            other.join().await;
            gate.add_permits(1);
        };
        tokio::join!(stopping, goes_on);
    };
    let both = futures_util::future::join(third.join(), rebalanced);
    tokio::time::timeout(Duration::from_secs(5), both)
        .await
        .expect("without waiting for the session's end");
    assert_eq!(bed.committed("g", "t", 0), Some(1));
}

/// A transactional producer that breaks when it is told to.
#[derive(Clone, Default)]
struct Fragile(Arc<AtomicBool>);

impl Fragile {
    fn step(&self) -> BoxFuture<'_, Result<(), TransactError>> {
        Box::pin(ready(match self.0.load(Ordering::SeqCst) {
            true => Err(TransactError::new(TransactErrorKind::Fatal, "tx")),
            false => Ok(()),
        }))
    }
}

impl Publish for Fragile {
    fn enqueue(&self, record: Record) -> Delivery {
        Delivery::failed(PublishError::new(
            PublishErrorKind::Closed,
            Fate::NotWritten,
            record.topic,
        ))
    }

    fn ready(&self, _: usize) -> BoxFuture<'_, Result<(), PublishError>> {
        Box::pin(ready(Ok(())))
    }
}

impl Transact for Fragile {
    fn begin(&self) -> BoxFuture<'_, Result<(), TransactError>> {
        self.step()
    }

    fn send_offsets(
        &self,
        _: GroupMetadata,
        _: Vec<CommitOffset>,
    ) -> BoxFuture<'_, Result<(), TransactError>> {
        self.step()
    }

    fn commit(&self) -> BoxFuture<'_, Result<(), TransactError>> {
        self.step()
    }

    fn abort(&self) -> BoxFuture<'_, Result<(), TransactError>> {
        self.step()
    }
}

impl Transactions for Fragile {
    fn check(&self) -> Result<(), ConfigError> {
        Ok(())
    }

    fn open(
        &self,
        _: &str,
        _: Duration,
    ) -> BoxFuture<'static, Result<Arc<dyn Transact>, TransactError>> {
        let producer: Arc<dyn Transact> = Arc::new(self.clone());
        Box::pin(ready(Ok(producer)))
    }
}

#[tokio::test]
async fn a_member_that_fails_while_it_closes_does_not_count_as_clean() {
    let bed = Bed::start().await;
    bed.cluster.create_topic("t", 1).unwrap();
    let config = ConsumerConfig {
        processing_guarantee: ProcessingGuarantee::ExactlyOnce,
        transactional_id_prefix: Some("tx".to_owned()),
        // Only the close commits.
        transaction_interval: Duration::from_secs(20),
        ..config()
    };
    let (seen, producer) = (Seen::default(), Fragile::default());
    let mut app = App::new(&bed.client, config).transactions(Arc::new(producer.clone()));
    app.topic("t").listen("g", seen.handler());
    let running = app.start().await.unwrap();
    bed.write("t", 0, ["handled"]).await;
    seen.wait_len(1).await;
    producer.0.store(true, Ordering::SeqCst);
    let report = running.shutdown(SHUTDOWN).await;
    assert!(!report.clean, "{report:?}");
    assert_eq!(report.failed_members.len(), 1, "{report:?}");
}
