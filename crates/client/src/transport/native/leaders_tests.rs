//! Who leads: metadata, hints and doubts, and what batches do while the cluster is asked.

use super::NativeTransport;
use super::leaders::{Leader, Leaders};
use super::produce_message::{Endpoint, read_endpoint};
use super::wire::Reader;
use crate::cluster::Cluster;
use crate::transport::{Answer, AnswerSink, Answers, Outgoing, ProduceOptions, Transport, answers};
use crate::{ClientConfig, ErrorKind};
use bytes::{BufMut, BytesMut};
use futures_util::future::join_all;
use ottla_mock_cluster::{Action, ApiKey, Fault, MockCluster};
use ottla_record_batch::{BatchBuilder, EncodedBatch};
use ottla_types::{ErrorCode, Fate, Headers, TopicPartition};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, timeout};

pub(super) const PATIENCE: Duration = Duration::from_secs(20);
/// As in `leaders`.
const HINTS_MAX: usize = 10_000;
const NOT_LEADER: i16 = 6;

/// Three brokers, a topic `t` with two partitions, and what is tested on them.
pub(super) struct Bed {
    pub(super) mock: MockCluster,
    pub(super) cluster: Arc<Cluster>,
    leaders: Leaders,
}

impl Bed {
    pub(super) async fn new() -> Self {
        let mock = MockCluster::builder().brokers(3).start().await.unwrap();
        mock.create_topic("t", 2).unwrap();
        let config = ClientConfig::new(&mock.bootstrap());
        let cluster = Arc::new(Cluster::connect(config).await.unwrap());
        Self {
            leaders: Leaders::new(cluster.clone()),
            cluster,
            mock,
        }
    }

    /// A client that knows nothing of the topic.
    pub(super) async fn stranger(&self) -> Arc<Cluster> {
        let config = ClientConfig::new(&self.mock.bootstrap());
        Arc::new(Cluster::connect(config).await.unwrap())
    }

    async fn find(&self, partition: &TopicPartition) -> Leader {
        let deadline = Instant::now() + PATIENCE;
        self.leaders
            .find(partition, "test", deadline)
            .await
            .unwrap()
    }

    /// A broker's word that the next broker leads, `ahead` epochs after the one that is known.
    fn hint(&self, known: Leader, ahead: i32) -> bool {
        let word = (next(known.broker), known.epoch + ahead);
        self.leaders.hint(&p(0), word, &[])
    }
}

pub(super) fn p(partition: i32) -> TopicPartition {
    TopicPartition::new("t", partition)
}

fn next(broker: i32) -> i32 {
    broker % 3 + 1
}

pub(super) fn endpoint(id: i32, host: &str, port: i32) -> Endpoint {
    let mut bytes = BytesMut::new();
    bytes.put_i32(id);
    bytes.put_i16(host.len() as i16);
    bytes.put_slice(host.as_bytes());
    bytes.put_i32(port);
    bytes.put_i16(-1);
    read_endpoint(&mut Reader::new(bytes.freeze(), false)).unwrap()
}

#[tokio::test]
async fn a_newer_hint_wins_until_the_metadata_has_caught_up() {
    let bed = Bed::new().await;
    let known = bed.find(&p(0)).await;
    assert!(bed.hint(known, 2));
    let hinted = Leader {
        broker: next(known.broker),
        epoch: known.epoch + 2,
        ..known
    };
    assert_eq!(bed.leaders.cached(&p(0)), Some(hinted));
    assert!(!bed.hint(known, 2), "it is no news a second time");
    // The cluster has not heard of it: it does not lead back.
    bed.cluster.refresh_topic("t").await.unwrap();
    assert_eq!(bed.leaders.cached(&p(0)), Some(hinted));
    // Now it has, and the leader has moved on.
    for broker in [next(known.broker), known.broker] {
        bed.mock.move_leader("t", 0, broker).unwrap();
    }
    bed.cluster.refresh_topic("t").await.unwrap();
    let now = bed.leaders.cached(&p(0)).unwrap();
    assert_eq!((now.broker, now.epoch), (known.broker, known.epoch + 2));
    assert!(bed.hint(known, 3), "the first hint is forgotten");
}

#[tokio::test]
async fn trap_a6_an_older_hint_does_not_lead_back() {
    let bed = Bed::new().await;
    let known = bed.find(&p(0)).await;
    for ahead in [0, -1] {
        assert!(!bed.hint(known, ahead));
        assert_eq!(bed.leaders.cached(&p(0)), Some(known));
    }
    assert!(bed.hint(known, 5));
    assert!(!bed.hint(known, 4), "older than the hint before it");
    let leader = bed.leaders.cached(&p(0)).unwrap();
    assert_eq!(leader.epoch, known.epoch + 5);
}

#[tokio::test]
async fn a_hint_needs_an_address() {
    let bed = Bed::new().await;
    let known = bed.find(&p(0)).await;
    let hint = |endpoints: &[Endpoint]| {
        let word = (9, known.epoch + 1);
        bed.leaders.hint(&p(0), word, endpoints)
    };
    assert!(!hint(&[]), "nobody knows where broker 9 is");
    assert!(!hint(&[endpoint(8, "127.0.0.1", 1)]));
    assert_eq!(bed.leaders.cached(&p(0)), Some(known));
    assert!(hint(&[
        endpoint(8, "127.0.0.1", 1),
        endpoint(9, "127.0.0.1", 2)
    ]));
    assert_eq!(bed.leaders.cached(&p(0)).unwrap().broker, 9);
    assert!(bed.cluster.broker(9).is_some() && bed.cluster.broker(8).is_none());
}

#[tokio::test]
async fn trap_c15_a_hint_for_the_topic_that_was_deleted_says_nothing_of_the_new_one() {
    let bed = Bed::new().await;
    let known = bed.find(&p(0)).await;
    assert!(known.topic_id.is_some());
    assert!(bed.hint(known, 7));
    bed.mock.delete_topic("t").unwrap();
    bed.mock.create_topic("t", 2).unwrap();
    bed.cluster.refresh_topic("t").await.unwrap();
    let now = bed.leaders.cached(&p(0)).unwrap();
    assert_ne!(now.topic_id, known.topic_id);
    assert!(now.epoch < known.epoch + 7);
    assert_eq!(
        bed.mock.leader("t", 0).unwrap(),
        (Some(now.broker), now.epoch)
    );
}

#[tokio::test]
async fn a_doubt_is_taken_once_and_doubts_are_bounded() {
    let bed = Bed::new().await;
    assert!(!bed.leaders.take_doubt(&p(0)));
    bed.leaders.doubt(p(0));
    bed.leaders.doubt(p(0));
    assert!(!bed.leaders.take_doubt(&p(1)));
    assert!(bed.leaders.take_doubt(&p(0)));
    assert!(!bed.leaders.take_doubt(&p(0)));
    for n in 0..=HINTS_MAX as i32 {
        bed.leaders.doubt(p(n));
    }
    let left = (0..=HINTS_MAX as i32).filter(|n| bed.leaders.take_doubt(&p(*n)));
    assert!(left.count() < HINTS_MAX);
}

#[tokio::test]
async fn looks_at_the_same_time_share_their_question() {
    let bed = Bed::new().await;
    let before = bed.mock.requests(ApiKey::Metadata);
    let look = async |n| bed.find(&p(n % 2)).await;
    let found = join_all((0..50).map(look)).await;
    // The first one's, and one that began after the others had called.
    assert_eq!(bed.mock.requests(ApiKey::Metadata), before + 2);
    assert!(found.iter().all(|leader| found[..2].contains(leader)));
    bed.find(&p(1)).await;
    assert_eq!(
        bed.mock.requests(ApiKey::Metadata),
        before + 2,
        "it is known"
    );
}

#[tokio::test]
async fn what_has_no_leader_says_why_and_a_silent_cluster_costs_no_more_than_the_deadline() {
    let bed = Bed::new().await;
    let look = async |partition, within| {
        let deadline = Instant::now() + within;
        bed.leaders
            .find(&partition, "test", deadline)
            .await
            .unwrap_err()
    };
    let error = look(p(2), PATIENCE).await;
    assert_eq!(error.code(), Some(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION));
    assert_eq!(error.partition(), Some(&p(2)));
    let error = look(TopicPartition::new("none", 0), PATIENCE).await;
    assert_eq!(error.code(), Some(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION));

    let silent = Fault::on(ApiKey::Metadata).forever().action(Action::Hang);
    bed.mock.faults().add(silent);
    let (started, within) = (Instant::now(), Duration::from_millis(150));
    let error = look(TopicPartition::new("other", 0), within).await;
    assert_eq!(error.kind(), ErrorKind::TimedOut);
    assert!(started.elapsed() >= within && started.elapsed() < PATIENCE / 4);
}

/// A transport that has written to both partitions.
pub(super) struct Writer {
    pub(super) bed: Bed,
    pub(super) transport: NativeTransport,
    pub(super) sink: AnswerSink,
    pub(super) answers: Answers,
}

impl Writer {
    pub(super) async fn new() -> Self {
        let bed = Bed::new().await;
        let (sink, answers) = answers();
        let mut writer = Self {
            transport: NativeTransport::new(bed.cluster.clone()),
            bed,
            sink,
            answers,
        };
        for partition in [0, 1] {
            writer.put(&p(partition), "first", PATIENCE);
            writer.answer().await.result.unwrap();
        }
        writer
    }

    /// Hands one batch over; its token is the time limit in milliseconds.
    pub(super) fn put(&self, partition: &TopicPartition, value: &str, within: Duration) {
        let options = ProduceOptions {
            timeout: within,
            ..ProduceOptions::default()
        };
        let outgoing = Outgoing {
            token: within.as_millis() as u64,
            partition: partition.clone(),
            batch: batch(value),
        };
        self.transport.produce(&options, vec![outgoing], &self.sink);
    }

    pub(super) async fn answer(&mut self) -> Answer {
        let mut arrived = Vec::new();
        timeout(PATIENCE, self.answers.recv(&mut arrived))
            .await
            .unwrap();
        assert_eq!(arrived.len(), 1, "{arrived:?}");
        arrived.remove(0)
    }

    /// Lets an attempt fail so that the leader of partition 0 is in doubt.
    async fn in_doubt(&mut self) {
        let refuse = Fault::on(ApiKey::Produce).action(Action::Refuse(NOT_LEADER));
        self.bed.mock.faults().add(refuse);
        self.put(&p(0), "refused", PATIENCE);
        let error = self.answer().await.result.unwrap_err();
        assert_eq!(error.code(), Some(ErrorCode(NOT_LEADER)));
    }

    fn values(&self) -> Vec<String> {
        let records = self.bed.mock.records("t");
        let first = records.iter().filter(|record| record.partition == 0);
        first.filter_map(|record| record.value_text()).collect()
    }
}

pub(super) fn batch(value: &str) -> EncodedBatch {
    let mut builder = BatchBuilder::new(1 << 20);
    builder
        .try_append(1_000, None, Some(value.as_bytes()), &Headers::new())
        .unwrap();
    builder.finish()
}

#[tokio::test]
async fn while_a_topic_is_asked_for_its_later_batches_wait_behind_the_earlier_ones() {
    let mut writer = Writer::new().await;
    writer.in_doubt().await;
    let (faults, mock) = (writer.bed.mock.faults().clone(), &writer.bed.mock);
    let asked = mock.requests(ApiKey::Metadata);
    let slow = Action::DelayReply(Duration::from_millis(200));
    faults.add(Fault::on(ApiKey::Metadata).action(slow));
    // The first is in doubt; nothing else stands in the way of the others.
    for value in ["a", "b", "c"] {
        writer.put(&p(0), value, PATIENCE);
        tokio::task::yield_now().await;
    }
    let mut arrived = Vec::new();
    while arrived.len() < 3 {
        let receiving = writer.answers.recv(&mut arrived);
        timeout(PATIENCE, receiving).await.unwrap();
    }
    assert!(
        arrived.iter().all(|answer| answer.result.is_ok()),
        "{arrived:?}"
    );
    assert_eq!(writer.values(), ["first", "a", "b", "c"]);
    let mock = &writer.bed.mock;
    assert_eq!(
        mock.requests(ApiKey::Metadata),
        asked + 1,
        "one question for all"
    );
}

#[tokio::test]
async fn batches_that_wait_for_a_topic_are_answered_by_their_deadlines() {
    let mut writer = Writer::new().await;
    writer.in_doubt().await;
    let silent = Fault::on(ApiKey::Metadata).forever().action(Action::Hang);
    writer.bed.mock.faults().add(silent);
    let started = Instant::now();
    let limits = [150, 600, 300].map(Duration::from_millis);
    for within in limits {
        writer.put(&p(0), "late", within);
    }
    for expected in [150, 300, 600] {
        let answer = writer.answer().await;
        assert_eq!(answer.token, expected);
        let error = answer.result.unwrap_err();
        assert_eq!(
            (error.kind(), error.fate()),
            (ErrorKind::TimedOut, Fate::NotWritten)
        );
        assert_eq!(error.partition(), Some(&p(0)));
        assert!(started.elapsed() >= Duration::from_millis(expected));
    }
    assert!(started.elapsed() < PATIENCE / 4);
    // Nobody waits for the answer that never came.
    writer.bed.mock.faults().clear();
    writer.put(&p(0), "on time", PATIENCE);
    writer.answer().await.result.unwrap();
    assert_eq!(writer.values(), ["first", "on time"]);
}

#[tokio::test]
async fn a_batch_is_answered_although_no_task_can_be_started() {
    let mut writer = Writer::new().await;
    // As when the client is closed between the look at that and the start of a sender.
    writer.bed.cluster.connector.tasks.close().await;
    for partition in [0, 1] {
        writer.put(&p(partition), "late", PATIENCE);
        let error = writer.answer().await.result.unwrap_err();
        assert_eq!(
            (error.kind(), error.fate()),
            (ErrorKind::Closed, Fate::NotWritten)
        );
    }
}
