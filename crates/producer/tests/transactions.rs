//! The transactional producer against brokers in this process, in both versions of transactions.

#![allow(clippy::unwrap_used, reason = "a test's helpers fail by panicking")]

use TransactErrorKind as Kind;
use TransactionVersion::{V1, V2};
use ottla_client::{Client, ClientConfig, ErrorKind, TransportKind};
use ottla_mock_cluster::{Action, ApiKey, Fault, MockCluster, TransactionState, Versions};
use ottla_producer::partition::{PartitionError, Partitioner, Partitions};
use ottla_producer::{
    DeliveryReport, PartitionerKind, ProducerConfig, Reports, TransactionalConfig,
    TransactionalProducer,
};
use ottla_types::TransactErrorKind;
use ottla_types::coordinator::CommitOffset;
use ottla_types::transactions::{GroupMetadata, TransactionVersion};
use ottla_types::{
    ErrorCode, PublishErrorKind, Record, RecordRef, TopicPartition, Transact, TransactError,
};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

const PARTITIONS: i32 = 3;

struct Bed {
    cluster: MockCluster,
    client: Client,
}

impl Bed {
    async fn new(version: TransactionVersion) -> Self {
        let versions = match version {
            V1 => Versions::kafka_3_9(),
            V2 => Versions::kafka_4_3(),
        };
        let builder = MockCluster::builder().brokers(3).versions(versions);
        let cluster = builder.auto_create_topics(false).start().await.unwrap();
        cluster.create_topic("t", PARTITIONS).unwrap();
        let config = ClientConfig {
            transport: TransportKind::Native,
            request_timeout: Duration::from_secs(2),
            ..ClientConfig::new(&cluster.bootstrap())
        };
        let client = Client::connect(config).await.unwrap();
        Self { cluster, client }
    }

    fn uninitialised(&self, config: TransactionalConfig) -> TransactionalProducer {
        TransactionalProducer::new(&self.client, config).unwrap()
    }

    async fn producer(&self) -> TransactionalProducer {
        let producer = self.uninitialised(config());
        producer.init().await.unwrap();
        producer
    }

    fn fault(&self, api: ApiKey, action: Action) -> Fault {
        Fault::on(api).transaction("id").action(action)
    }

    /// The values that readers of committed records see.
    fn committed(&self) -> Vec<String> {
        let records = self.cluster.committed_records("t");
        let mut values: Vec<_> = records.iter().map(|r| r.value_text().unwrap()).collect();
        values.sort();
        values
    }

    async fn end(self, producer: TransactionalProducer) {
        producer.close(Duration::from_secs(5)).await.unwrap();
        self.finish().await;
    }

    async fn finish(self) {
        self.client.close().await;
        assert_eq!(self.cluster.failed_tasks(), 0);
        self.cluster.shutdown().await;
    }
}

fn config() -> TransactionalConfig {
    TransactionalConfig {
        max_block: Duration::from_secs(10),
        producer: ProducerConfig {
            linger: Duration::from_millis(1),
            ..ProducerConfig::default()
        },
        ..TransactionalConfig::new("id")
    }
}

/// Values of a transaction, on all partitions.
fn values(word: &str, count: i32) -> Vec<String> {
    (0..count).map(|n| format!("{word}-{n:02}")).collect()
}

fn enqueue(producer: &TransactionalProducer, values: &[String]) {
    for (n, value) in (0..).zip(values) {
        let record = Record::new("t")
            .partition(n % PARTITIONS)
            .value(value.clone());
        drop(producer.enqueue(record));
    }
}

fn kind(result: Result<(), TransactError>) -> Kind {
    result.unwrap_err().kind()
}

fn offset(at: i64) -> Vec<CommitOffset> {
    vec![CommitOffset {
        partition: TopicPartition::new("t", 0),
        offset: at,
        leader_epoch: None,
        metadata: String::new(),
    }]
}

fn group() -> GroupMetadata {
    GroupMetadata::outside_of_membership("g")
}

#[tokio::test]
async fn what_is_committed_counts_and_what_is_aborted_does_not() {
    for version in [V1, V2] {
        let bed = Bed::new(version).await;
        let producer = bed.producer().await;
        let mut expected = Vec::new();
        for round in 0..6 {
            let values = values(&format!("round-{round}"), 30);
            producer.begin().await.unwrap();
            enqueue(&producer, &values);
            producer.send_offsets(group(), offset(round)).await.unwrap();
            if round % 3 == 1 {
                producer.abort().await.unwrap();
            } else {
                producer.commit().await.unwrap();
                expected.extend(values);
            }
            assert_eq!(bed.committed(), expected, "{version:?} round {round}");
            let committed = bed.cluster.committed("g", "t", 0).map(|(at, _)| at);
            assert_eq!(
                committed,
                Some(if round % 3 == 1 { round - 1 } else { round })
            );
        }
        bed.end(producer).await;
    }
}

#[tokio::test]
async fn records_outside_of_a_transaction_are_refused() {
    let bed = Bed::new(V2).await;
    let producer = bed.uninitialised(config());
    assert_eq!(kind(producer.begin().await), Kind::InvalidState);
    producer.init().await.unwrap();
    let outside = async || {
        let delivery = producer.enqueue(Record::new("t").value("outside"));
        assert_eq!(
            delivery.await.unwrap_err().kind(),
            PublishErrorKind::NoTransaction
        );
    };
    outside().await;
    assert_eq!(kind(producer.commit().await), Kind::InvalidState);
    producer.begin().await.unwrap();
    assert_eq!(kind(producer.begin().await), Kind::InvalidState);
    enqueue(&producer, &values("in", 3));
    producer.commit().await.unwrap();
    outside().await;
    assert_eq!(bed.committed(), values("in", 3));
    bed.end(producer).await;
}

#[tokio::test]
async fn a_zombie_is_fenced_and_what_it_had_open_is_aborted() {
    for version in [V1, V2] {
        for step in 0..4 {
            let bed = Bed::new(version).await;
            let zombie = bed.producer().await;
            zombie.begin().await.unwrap();
            enqueue(&zombie, &values("zombie", 9));
            zombie.send_offsets(group(), offset(1)).await.unwrap();
            let heir = bed.producer().await;
            let result = match step {
                0 => zombie.commit().await,
                1 => zombie.abort().await,
                2 => zombie.send_offsets(group(), offset(2)).await,
                _ => {
                    enqueue(&zombie, &values("more", 9));
                    zombie.commit().await
                }
            };
            let error = result.unwrap_err();
            assert_eq!(error.kind(), Kind::Fenced, "{version:?} {step}: {error:?}");
            assert!(!error.may_be_committed());
            assert_eq!(kind(zombie.begin().await), Kind::Fenced);
            assert_eq!(
                kind(zombie.close(Duration::from_secs(5)).await),
                Kind::Fenced
            );
            heir.begin().await.unwrap();
            enqueue(&heir, &values("heir", 3));
            heir.commit().await.unwrap();
            assert_eq!(bed.committed(), values("heir", 3));
            assert_eq!(bed.cluster.committed("g", "t", 0), None);
            bed.end(heir).await;
        }
    }
}

#[tokio::test]
async fn a_record_that_is_not_written_fails_the_commit() {
    for version in [V1, V2] {
        let bed = Bed::new(version).await;
        let producer = bed.producer().await;
        producer.begin().await.unwrap();
        enqueue(&producer, &values("in", 3));
        let code = ErrorCode::TOPIC_AUTHORIZATION_FAILED;
        let refused = Fault::on(ApiKey::Produce).action(Action::Refuse(code.0));
        let refused = bed.cluster.faults().add(refused.forever());
        let error = producer.commit().await.unwrap_err();
        assert_eq!(error.kind(), Kind::Abortable, "{error:?}");
        assert!(!error.may_be_committed());
        refused.remove();
        assert_eq!(kind(producer.begin().await), Kind::Abortable);
        producer.abort().await.unwrap();
        producer.begin().await.unwrap();
        enqueue(&producer, &values("again", 3));
        producer.commit().await.unwrap();
        assert_eq!(bed.committed(), values("again", 3), "{version:?}");
        bed.end(producer).await;
    }
}

#[tokio::test]
async fn an_abort_drops_what_was_not_sent() {
    let bed = Bed::new(V2).await;
    let mut slow = config();
    slow.producer.linger = Duration::from_secs(60);
    let producer = bed.uninitialised(slow);
    producer.init().await.unwrap();
    producer.begin().await.unwrap();
    let delivery = producer.enqueue(Record::new("t").value("never"));
    producer.abort().await.unwrap();
    assert_eq!(
        delivery.await.unwrap_err().kind(),
        PublishErrorKind::Aborted
    );
    assert_eq!(bed.cluster.records("t").len(), 0);
    bed.end(producer).await;
}

#[tokio::test]
async fn an_end_without_an_answer_is_asked_again() {
    for version in [V1, V2] {
        for action in [Action::DropReply, Action::Disconnect, Action::Refuse(-1)] {
            let bed = Bed::new(version).await;
            let producer = bed.producer().await;
            for round in 0..3 {
                let lost = bed.fault(ApiKey::EndTxn, action.clone());
                let lost = bed.cluster.faults().add(lost);
                producer.begin().await.unwrap();
                enqueue(&producer, &values(&format!("round-{round}"), 3));
                producer.commit().await.unwrap();
                assert_eq!(lost.hits(), 1);
            }
            assert_eq!(bed.committed().len(), 9);
            bed.end(producer).await;
        }
    }
}

#[tokio::test]
async fn trap_c21_a_commit_that_is_never_answered_is_unknown() {
    for version in [V1, V2] {
        for (action, is_committed) in [(Action::Refuse(-1), false), (Action::DropReply, true)] {
            let bed = Bed::new(version).await;
            let config = TransactionalConfig {
                max_block: Duration::from_millis(700),
                ..config()
            };
            let producer = bed.uninitialised(config);
            producer.init().await.unwrap();
            producer.begin().await.unwrap();
            let first = values("first", 3);
            enqueue(&producer, &first);
            let silent = bed.fault(ApiKey::EndTxn, action).forever();
            let silent = bed.cluster.faults().add(silent);
            let error = producer.commit().await.unwrap_err();
            assert_eq!(error.kind(), Kind::UnknownOutcome, "{error:?}");
            assert!(error.may_be_committed());
            assert_eq!(kind(producer.begin().await), Kind::UnknownOutcome);
            silent.remove();
            producer.abort().await.unwrap();
            producer.begin().await.unwrap();
            enqueue(&producer, &values("second", 3));
            producer.commit().await.unwrap();
            let mut expected = values("second", 3);
            if is_committed {
                expected.splice(0..0, first);
            }
            assert_eq!(bed.committed(), expected, "{version:?}");
            bed.end(producer).await;
        }
    }
}

#[tokio::test]
async fn a_transaction_that_takes_too_long_is_aborted_and_its_producer_or_the_next_goes_on() {
    for version in [V1, V2] {
        let bed = Bed::new(version).await;
        let config = TransactionalConfig {
            transaction_timeout: Duration::from_millis(300),
            ..config()
        };
        let producer = bed.uninitialised(config);
        producer.init().await.unwrap();
        producer.begin().await.unwrap();
        enqueue(&producer, &values("late", 3));
        producer.send_offsets(group(), offset(1)).await.unwrap();
        let limit = Instant::now() + Duration::from_secs(10);
        while bed.cluster.transaction_state("id") != Some(TransactionState::CompleteAbort) {
            assert!(Instant::now() < limit);
            tokio::task::yield_now().await;
        }
        let error = producer.commit().await.unwrap_err();
        assert!(!error.may_be_committed());
        let producer = match version {
            V1 => {
                // Kafka 3.9 shuts it out.
                assert_eq!(error.kind(), Kind::Fenced);
                assert_eq!(kind(producer.abort().await), Kind::Fenced);
                drop(producer);
                bed.producer().await
            }
            V2 => {
                assert_eq!(error.kind(), Kind::Abortable, "{error:?}");
                producer.abort().await.unwrap();
                producer
            }
        };
        producer.begin().await.unwrap();
        enqueue(&producer, &values("soon", 3));
        producer.commit().await.unwrap();
        assert_eq!(bed.committed(), values("soon", 3));
        bed.end(producer).await;
    }
}

#[tokio::test]
async fn the_member_must_belong_to_its_generation() {
    let bed = Bed::new(V2).await;
    let producer = bed.producer().await;
    producer.begin().await.unwrap();
    enqueue(&producer, &values("in", 3));
    let stranger = GroupMetadata {
        generation: 7,
        member_id: "nobody".to_owned(),
        ..group()
    };
    let error = producer
        .send_offsets(stranger, offset(1))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), Kind::Abortable);
    assert_eq!(kind(producer.commit().await), Kind::Abortable);
    producer.abort().await.unwrap();
    assert_eq!(bed.committed(), [""; 0]);
    bed.end(producer).await;
}

/// Through the port, with coordinators that come and go and replies that get lost.
#[tokio::test]
async fn whatever_gets_lost_a_transaction_counts_whole_or_not_at_all() {
    for version in [V1, V2] {
        let bed = Bed::new(version).await;
        let producer = bed.producer().await;
        let port: &dyn Transact = &producer;
        let apis = [
            ApiKey::EndTxn,
            ApiKey::AddPartitionsToTxn,
            ApiKey::AddOffsetsToTxn,
            ApiKey::TxnOffsetCommit,
            ApiKey::InitProducerId,
            ApiKey::FindCoordinator,
        ];
        let mut expected: BTreeMap<String, bool> = BTreeMap::new();
        let mut rng = fastrand::Rng::with_seed(7);
        for round in 0..40 {
            let action = match rng.u8(..3) {
                0 => Action::DropReply,
                1 => Action::Disconnect,
                _ => Action::Refuse(ErrorCode::NOT_COORDINATOR.0),
            };
            let api = apis[rng.usize(..apis.len())];
            bed.cluster.faults().add(Fault::on(api).action(action));
            if rng.u8(..3) == 0 {
                let lost = Fault::on(ApiKey::Produce).action(Action::DropReply);
                bed.cluster.faults().add(lost);
            }
            if rng.u8(..4) == 0 {
                let to = rng.i32(1..=3);
                bed.cluster.move_transaction_coordinator("id", to).unwrap();
            }
            port.begin().await.unwrap();
            let values = values(&format!("round-{round:02}"), 7);
            for (n, value) in (0..).zip(&values) {
                let record = Record::new("t")
                    .partition(n % PARTITIONS)
                    .value(value.clone());
                drop(port.enqueue(record));
            }
            let offsets = port.send_offsets(group(), offset(round)).await;
            let wants_commit = rng.u8(..4) > 0;
            let ended = match offsets {
                Ok(()) if wants_commit => port.commit().await,
                Ok(()) => port.abort().await,
                Err(error) => Err(error),
            };
            if let Err(error) = &ended {
                assert_eq!(error.kind(), Kind::Abortable, "{error:?}");
                port.abort().await.unwrap();
            }
            let is_committed = ended.is_ok() && wants_commit;
            expected.extend(values.into_iter().map(|value| (value, is_committed)));
        }
        let expected = expected.into_iter().filter(|(_, committed)| *committed);
        let expected: Vec<_> = expected.map(|(value, _)| value).collect();
        assert!(expected.len() > 100);
        bed.cluster.faults().clear();
        assert_eq!(bed.committed(), expected, "{version:?}");
        bed.end(producer).await;
    }
}

#[tokio::test]
async fn an_init_that_is_dropped_is_gone_on_with() {
    let bed = Bed::new(V2).await;
    let producer = bed.uninitialised(config());
    let slow = Action::Delay(Duration::from_millis(300));
    bed.cluster
        .faults()
        .add(Fault::on(ApiKey::InitProducerId).action(slow));
    let dropped = tokio::time::timeout(Duration::from_millis(50), producer.init()).await;
    assert!(dropped.is_err());
    // It was carried out all the same.
    assert_eq!(kind(producer.init().await), Kind::InvalidState);
    producer.begin().await.unwrap();
    enqueue(&producer, &values("in", 3));
    producer.commit().await.unwrap();
    assert_eq!(bed.committed(), values("in", 3));
    bed.end(producer).await;
}

#[tokio::test]
async fn a_close_aborts_what_is_open() {
    for limit in [Duration::from_secs(5), Duration::MAX] {
        let bed = Bed::new(V1).await;
        let producer = bed.producer().await;
        producer.begin().await.unwrap();
        for value in values("open", 3) {
            let record = Record::new("t").value(value);
            producer.enqueue(record).await.unwrap();
        }
        producer.close(limit).await.unwrap();
        let state = bed.cluster.transaction_state("id");
        assert_eq!(state, Some(TransactionState::CompleteAbort));
        assert_eq!(bed.committed(), [""; 0]);
        bed.finish().await;
    }
}

#[tokio::test]
async fn the_rskafka_transport_is_refused_by_its_capability() {
    let cluster = MockCluster::builder().start().await.unwrap();
    let config = ClientConfig {
        transport: TransportKind::Rskafka,
        ..ClientConfig::new(&cluster.bootstrap())
    };
    let client = Client::connect(config).await.unwrap();
    let error = TransactionalProducer::new(&client, TransactionalConfig::new("id")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    let cause = std::error::Error::source(&error).unwrap().to_string();
    assert!(cause.contains("`transactions`"), "{cause}");
    client.close().await;
    cluster.shutdown().await;
}

/// Everything goes to the last partition.
struct Last;

impl Partitioner for Last {
    fn partition(
        &mut self,
        _: &RecordRef<'_>,
        partitions: &Partitions<'_>,
    ) -> Result<i32, PartitionError> {
        partitions
            .all()
            .last()
            .copied()
            .ok_or(PartitionError::MissingPartition)
    }

    fn keeps_keys_together(&self) -> bool {
        true
    }

    fn for_topic(&self, _: &str) -> Box<dyn Partitioner> {
        Box::new(Last)
    }
}

#[tokio::test]
async fn a_partitioner_of_the_users_own_chooses_within_transactions_too() {
    let bed = Bed::new(V2).await;
    let builder = TransactionalProducer::builder(&bed.client, config());
    let producer = builder
        .partitioner(Last)
        .require_key_order()
        .build()
        .unwrap();
    producer.init().await.unwrap();
    producer.begin().await.unwrap();
    for n in 0..10 {
        drop(producer.enqueue(Record::new("t").key(format!("{n}")).value("x")));
    }
    producer.commit().await.unwrap();
    let written = bed.cluster.committed_records("t");
    assert_eq!(written.len(), 10);
    assert!(
        written
            .iter()
            .all(|record| record.partition == PARTITIONS - 1)
    );

    let mut scattering = config();
    scattering.producer.partitioner = PartitionerKind::RoundRobin;
    let builder = TransactionalProducer::builder(&bed.client, scattering);
    let error = builder.require_key_order().build().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    bed.end(producer).await;
}

async fn read(reports: &mut Reports, count: usize) -> Vec<DeliveryReport> {
    let mut read = Vec::new();
    while read.len() < count {
        let report = tokio::time::timeout(Duration::from_secs(20), reports.recv()).await;
        read.push(report.unwrap().unwrap());
    }
    read
}

#[tokio::test]
async fn reports_tell_of_every_record_of_a_transaction() {
    let bed = Bed::new(V2).await;
    let producer = bed.producer().await;
    let mut reports = producer.reports().unwrap();
    assert!(producer.reports().is_none(), "they are on already");
    let record = |n: i32| {
        Record::new("t")
            .partition(n % PARTITIONS)
            .value(format!("{n}"))
    };
    let outside = producer.enqueue(record(0)).await.unwrap_err();
    assert_eq!(outside.kind(), PublishErrorKind::NoTransaction);

    producer.begin().await.unwrap();
    let ids: Vec<u64> = (0..6).map(|n| producer.enqueue(record(n)).id()).collect();
    // Nobody reads meanwhile.
    producer.commit().await.unwrap();
    let told = read(&mut reports, 6).await;
    let mut of: Vec<u64> = told.iter().map(|report| report.id).collect();
    of.sort_unstable();
    assert_eq!(of, ids);
    assert!(told.iter().all(|report| report.result.is_ok()), "{told:?}");

    // What an abort drops is told too.
    producer.begin().await.unwrap();
    let stuck = bed
        .cluster
        .faults()
        .add(bed.fault(ApiKey::Produce, Action::Refuse(19)).forever());
    let dropped = producer.enqueue(record(1)).id();
    producer.abort().await.unwrap();
    stuck.remove();
    let told = read(&mut reports, 1).await.remove(0);
    assert_eq!(told.id, dropped);
    assert!(told.result.is_err(), "{told:?}");
    assert_eq!(bed.committed().len(), 6);
    bed.end(producer).await;
    assert!(reports.recv().await.is_none());
}
