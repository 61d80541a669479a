//! A running consumer that subscribes to something else: what goes is revoked in order, what stays is
//! read on.

use crate::bed::{Bed, numbers, wait_for};
use crate::plain::{close, in_group, recv, t, values};
use futures_util::{FutureExt, StreamExt};
use ottla_consumer::{
    Assigned, Consumer, ConsumerConfig, ErrorKind, GroupProtocol, HandlerError, Rebalance,
    RebalanceListener, Revoked, SeekTo,
};
use ottla_mock_cluster::MockCluster;
use ottla_types::TopicPartition;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What a listener heard, such as `+a-0`.
#[derive(Clone, Default)]
struct Heard(Arc<Mutex<Vec<String>>>);

impl Heard {
    fn note(&self, sign: &str, of: &Rebalance) -> Result<(), HandlerError> {
        let told = of.partitions().iter().map(|p| format!("{sign}{p}"));
        self.0.lock().unwrap().extend(told);
        Ok(())
    }

    /// What was heard since the last time, ordered.
    fn take(&self) -> Vec<String> {
        let mut heard = std::mem::take(&mut *self.0.lock().unwrap());
        heard.sort();
        heard
    }

    fn len(&self) -> usize {
        self.0.lock().unwrap().len()
    }
}

impl RebalanceListener for Heard {
    async fn on_assigned(&self, assigned: &Assigned) -> Result<(), HandlerError> {
        self.note("+", assigned)
    }

    async fn on_revoked(&self, revoked: &Revoked) -> Result<(), HandlerError> {
        self.note("-", revoked)
    }

    async fn on_lost(&self, lost: &Rebalance) -> Result<(), HandlerError> {
        self.note("lost ", lost)
    }
}

/// Topics `a`, `b` and `c` of one partition with ten records.
async fn bed() -> Bed {
    let heartbeat = Duration::from_millis(50);
    let builder = MockCluster::builder().consumer_session(Duration::from_secs(10), heartbeat);
    let bed = Bed::start_with(builder).await;
    for topic in ["a", "b", "c"] {
        bed.cluster.create_topic(topic, 1).unwrap();
        bed.write(topic, 0, numbers(0..10)).await;
    }
    bed
}

fn limited(protocol: GroupProtocol) -> ConsumerConfig {
    ConsumerConfig {
        group_protocol: protocol,
        max_poll_records: 4,
        commit_interval: Duration::from_secs(3600),
        ..in_group("g")
    }
}

/// A member that has `a` and `b`, and the first batch of each.
async fn begin(bed: &Bed, protocol: GroupProtocol) -> (Consumer, Heard) {
    let heard = Heard::default();
    let builder = Consumer::builder(&bed.client, limited(protocol)).listener(heard.clone());
    let mut consumer = builder.subscribe(["a", "b"]).await.unwrap();
    let mut first = [recv(&mut consumer).await, recv(&mut consumer).await];
    first.sort_by_key(|batch| batch.partition().clone());
    let from = first.each_ref().map(|batch| batch.partition().to_string());
    assert_eq!(from, ["a-0", "b-0"]);
    assert_eq!(heard.take(), ["+a-0", "+b-0"]);
    (consumer, heard)
}

fn topics(consumer: &Consumer) -> Vec<String> {
    let owned = consumer.assignment().into_iter();
    owned.map(|p| p.topic.to_string()).collect()
}

async fn what_goes_is_committed_and_what_stays_is_read_on(protocol: GroupProtocol) {
    let bed = bed().await;
    let (mut consumer, heard) = begin(&bed, protocol).await;
    drop(consumer.commit_async());
    consumer.resubscribe(["b", "c"]).unwrap();
    let (mut b, mut c) = (numbers(0..4), Vec::new());
    while (b.len(), c.len()) != (10, 10) {
        let batch = recv(&mut consumer).await;
        match &*batch.partition().topic {
            "b" => b.extend(values(&batch)),
            "c" => c.extend(values(&batch)),
            other => panic!("{other} was dropped"),
        }
    }
    assert_eq!((b, c), (numbers(0..10), numbers(0..10)));
    assert_eq!(topics(&consumer), ["b", "c"]);
    assert_eq!(heard.take(), ["+c-0", "-a-0"], "b stayed");
    assert_eq!(
        bed.committed("g", "a", 0),
        Some(4),
        "with the last of a's commits"
    );
    consumer.resubscribe_pattern("[ac]").unwrap();
    consumer.commit_sync().await.unwrap();
    wait_for("a again", || topics(&consumer) == ["a", "c"]).await;
    assert_eq!(values(&recv(&mut consumer).await), ["4", "5", "6", "7"]);
    assert_eq!(bed.committed("g", "b", 0), Some(10));
    close(consumer).await;
}

#[tokio::test]
async fn what_goes_is_committed_and_what_stays_is_read_on_classic() {
    what_goes_is_committed_and_what_stays_is_read_on(GroupProtocol::Classic).await;
}

#[tokio::test]
async fn what_goes_is_committed_and_what_stays_is_read_on_kip848() {
    what_goes_is_committed_and_what_stays_is_read_on(GroupProtocol::Consumer).await;
}

async fn who_unsubscribes_leaves_and_may_come_back(protocol: GroupProtocol) {
    let bed = bed().await;
    let (mut consumer, heard) = begin(&bed, protocol).await;
    consumer.unsubscribe().unwrap();
    // The batches in hand may still be committed.
    assert_eq!(topics(&consumer), ["a", "b"]);
    consumer.commit_sync().await.unwrap();
    wait_for("the leave", || bed.cluster.group_members("g").is_empty()).await;
    assert_eq!(heard.take(), ["-a-0", "-b-0"]);
    assert_eq!(bed.committed("g", "a", 0), Some(4));
    for _ in 0..2 {
        let error = consumer.recv().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotSubscribed);
    }
    assert!(consumer.assignment().is_empty());
    consumer.resubscribe(["a"]).unwrap();
    assert_eq!(values(&recv(&mut consumer).await), ["4", "5", "6", "7"]);
    assert_eq!(heard.take(), ["+a-0"]);
    close(consumer).await;
}

#[tokio::test]
async fn who_unsubscribes_leaves_and_may_come_back_classic() {
    who_unsubscribes_leaves_and_may_come_back(GroupProtocol::Classic).await;
}

#[tokio::test]
async fn who_unsubscribes_leaves_and_may_come_back_kip848() {
    who_unsubscribes_leaves_and_may_come_back(GroupProtocol::Consumer).await;
}

#[tokio::test]
async fn who_asks_again_gives_back_what_it_dropped() {
    let bed = bed().await;
    let (mut consumer, heard) = begin(&bed, GroupProtocol::Classic).await;
    // The rest of `b`'s second batch is on the caller's side.
    let record = consumer.records().next().await.unwrap().unwrap();
    let (dropped, kept) = match &*record.topic {
        "a" => ("a", "b"),
        _ => ("b", "a"),
    };
    consumer.resubscribe([kept]).unwrap();
    for _ in 0..2 {
        assert_eq!(&*recv(&mut consumer).await.partition().topic, kept);
    }
    assert!(consumer.recv().now_or_never().is_none());
    wait_for("the revocation", || heard.len() == 1).await;
    assert_eq!(heard.take(), [format!("-{dropped}-0")]);
    wait_for("the end", || topics(&consumer) == [kept]).await;
    close(consumer).await;
}

#[tokio::test]
async fn a_subscription_that_is_taken_back_at_once_changes_nothing() {
    let bed = bed().await;
    let (mut consumer, _) = begin(&bed, GroupProtocol::Consumer).await;
    consumer.resubscribe(["a"]).unwrap();
    consumer.resubscribe(["a", "b"]).unwrap();
    let mut seen = Vec::new();
    while seen.len() < 12 {
        seen.extend(recv(&mut consumer).await);
    }
    assert!(seen.iter().all(|record| record.offset >= 4), "once each");
    close(consumer).await;
}

#[tokio::test]
async fn what_cannot_be_subscribed_to_changes_nothing() {
    let bed = bed().await;
    let (mut consumer, heard) = begin(&bed, GroupProtocol::Classic).await;
    let none: [&str; 0] = [];
    for refused in [
        consumer.resubscribe(none),
        consumer.resubscribe(["no/name"]),
        consumer.resubscribe_pattern("("),
    ] {
        assert_eq!(refused.unwrap_err().kind(), ErrorKind::Config);
    }
    recv(&mut consumer).await;
    assert_eq!(heard.take(), [""; 0]);
    close(consumer).await;
    bed.cluster.create_topic("t", 1).unwrap();
    let assigned = Consumer::assign(&bed.client, in_group("h"), [t(0)]).await;
    let mut assigned = assigned.unwrap();
    let refused = assigned.resubscribe(["a"]).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Config);
    close(assigned).await;
}

#[tokio::test]
async fn other_partitions_may_be_named_and_those_that_stay_are_read_on() {
    let bed = bed().await;
    let place = |topic: &str| TopicPartition::new(topic, 0);
    let heard = Heard::default();
    let config = limited(GroupProtocol::Classic);
    let builder = Consumer::builder(&bed.client, config).listener(heard.clone());
    let mut consumer = builder.assign([place("a"), place("b")]).await.unwrap();
    for _ in 0..2 {
        recv(&mut consumer).await;
    }
    assert_eq!(heard.take(), ["+a-0", "+b-0"]);
    drop(consumer.commit_async());
    let places = [place("b"), place("c")].map(|p| (p, SeekTo::Offset(7)));
    consumer.reassign_at(places).unwrap();
    let (mut b, mut c) = (numbers(0..4), Vec::new());
    while (b.len(), c.len()) != (10, 3) {
        let batch = recv(&mut consumer).await;
        match &*batch.partition().topic {
            "b" => b.extend(values(&batch)),
            "c" => c.extend(values(&batch)),
            other => panic!("{other} was dropped"),
        }
    }
    assert_eq!((b, c), (numbers(0..10), numbers(7..10)));
    assert_eq!(topics(&consumer), ["b", "c"]);
    assert_eq!(heard.take(), ["+c-0", "-a-0"], "b stayed");
    assert_eq!(bed.committed("g", "a", 0), Some(4));
    for refused in [
        consumer.reassign_at([(place("a"), SeekTo::Offset(-1))]),
        consumer.reassign([TopicPartition::new("no/name", 0)]),
    ] {
        assert_eq!(refused.unwrap_err().kind(), ErrorKind::Config);
    }
    consumer.unsubscribe().unwrap();
    let error = consumer.recv().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotSubscribed);
    wait_for("the end of all", || consumer.assignment().is_empty()).await;
    // Where the group is.
    consumer.reassign([place("a")]).unwrap();
    assert_eq!(values(&recv(&mut consumer).await), ["4", "5", "6", "7"]);
    close(consumer).await;

    let member = Consumer::subscribe(&bed.client, in_group("h"), ["a"]).await;
    let mut member = member.unwrap();
    let refused = member.reassign([place("a")]).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Config);
    close(member).await;
}
