//! The producer on the native transport against brokers in this process that check sequences:
//! whatever is lost on the way, each record stands in the log once, in order, where its handle says.

use ottla_client::{Client, ClientConfig, TransportKind};
use ottla_mock_cluster::{Action, ApiKey, Fault, MockCluster};
use ottla_producer::{DeliveryHandle, Producer, ProducerConfig};
use ottla_types::{Fate, PublishErrorKind, Record};
use std::num::NonZeroU32;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::timeout;

const LIMIT: Duration = Duration::from_secs(60);

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

struct Bed {
    cluster: MockCluster,
    client: Client,
    producer: Producer,
}

impl Bed {
    async fn new(partitions: i32, config: ProducerConfig) -> Self {
        let cluster = MockCluster::builder().brokers(3).start().await;
        let cluster = cluster.expect("a cluster");
        cluster.create_topic("t", partitions).expect("a topic");
        let client = Client::connect(ClientConfig {
            transport: TransportKind::Native,
            request_timeout: Duration::from_secs(1),
            retry_backoff: ms(10),
            retry_backoff_max: ms(100),
            ..ClientConfig::new(&cluster.bootstrap())
        });
        let client = client.await.expect("a client");
        let producer = Producer::new(&client, config).expect("a producer");
        Self {
            cluster,
            client,
            producer,
        }
    }

    fn fault(&self, fault: Fault) -> ottla_mock_cluster::FaultHandle {
        self.cluster.faults().add(fault)
    }

    fn put(&self, n: usize) -> DeliveryHandle {
        self.producer.enqueue(numbered(n))
    }

    /// The values of one partition's log.
    fn log(&self, partition: i32) -> Vec<String> {
        let records = self.cluster.records("t").into_iter();
        records
            .filter(|record| record.partition == partition)
            .map(|record| record.value_text().expect("text"))
            .collect()
    }

    /// Ids, epochs and first sequences of a partition's batches.
    fn stamps(&self, partition: i32) -> Vec<(i64, i16, i32)> {
        let batches = self.cluster.batches("t", partition).into_iter();
        batches
            .map(|b| (b.producer_id, b.producer_epoch, b.base_sequence))
            .collect()
    }

    fn move_leaders(&self, partitions: i32) {
        for partition in 0..partitions {
            let (leader, _) = self.cluster.leader("t", partition).expect("a partition");
            let next = leader.expect("a leader") % 3 + 1;
            self.cluster
                .move_leader("t", partition, next)
                .expect("moved");
        }
    }

    /// Every record is where its handle says, and nothing else is in the log.
    async fn check(self, handles: Vec<DeliveryHandle>) {
        let count = handles.len();
        let mut logs: Vec<Vec<String>> = vec![Vec::new(); 3];
        for (n, handle) in handles.into_iter().enumerate() {
            let written = timeout(LIMIT, handle)
                .await
                .expect("in time")
                .expect("written");
            let log = &mut logs[written.partition as usize];
            assert_eq!(written.offset, Some(log.len() as i64));
            log.push(format!("{n:05}"));
        }
        for (partition, expected) in (0..).zip(logs) {
            assert_eq!(self.log(partition), expected);
        }
        assert_eq!(self.cluster.records("t").len(), count);
        self.end().await;
    }

    async fn end(self) {
        assert!(self.producer.close(LIMIT).await.is_clean());
        self.client.close().await;
        self.cluster.shutdown().await;
    }
}

fn numbered(n: usize) -> Record {
    let key = format!("key-{}", n % 20);
    Record::new("t").key(key).value(format!("{n:05}"))
}

fn config() -> ProducerConfig {
    ProducerConfig {
        batch_records: NonZeroU32::new(5),
        linger: ms(1),
        retry_backoff: ms(10),
        retry_backoff_max: ms(100),
        ..ProducerConfig::default()
    }
}

#[tokio::test]
async fn trap_c8_a10_answers_that_are_lost_double_and_reorder_nothing() {
    let bed = Bed::new(3, config()).await;
    let mut handles = vec![bed.put(0)];
    (&mut handles[0]).await.expect("written");
    let lost = Fault::on(ApiKey::Produce).action(Action::DropReply);
    let lost = bed.fault(lost.skip(3).times(6));
    handles.extend((1..400).map(|n| bed.put(n)));
    for handle in &mut handles {
        timeout(LIMIT, handle)
            .await
            .expect("in time")
            .expect("written");
    }
    assert_eq!(lost.hits(), 6);
    assert!(bed.stamps(0).iter().all(|(_, epoch, _)| *epoch == 0));
    bed.check(handles).await;
}

#[tokio::test]
async fn leaders_that_move_with_five_batches_in_flight_keep_the_order() {
    let bed = Bed::new(3, config()).await;
    let mut handles = Vec::new();
    let slow = Fault::on(ApiKey::Produce).action(Action::Delay(ms(5)));
    bed.fault(slow.forever());
    for n in 0..600 {
        handles.push(bed.put(n));
        if n % 100 == 50 {
            bed.move_leaders(3);
            // So that requests leave in between.
            let _ = bed.producer.flush(ms(10)).await;
        }
    }
    bed.check(handles).await;
}

#[tokio::test]
async fn a_broker_that_dies_and_comes_back_doubles_and_reorders_nothing() {
    let bed = Bed::new(3, config()).await;
    let mut handles = Vec::new();
    for n in 0..400 {
        handles.push(bed.put(n));
        match n {
            100 => bed.cluster.kill(2).await.expect("killed"),
            250 => bed.cluster.restart(2).await.expect("restarted"),
            _ => {}
        }
        if n % 20 == 0 {
            let _ = bed.producer.flush(ms(10)).await;
        }
    }
    bed.check(handles).await;
}

#[tokio::test]
async fn refusals_before_and_after_the_append_keep_the_order() {
    let bed = Bed::new(3, config()).await;
    let mut handles = vec![bed.put(0)];
    (&mut handles[0]).await.expect("written");
    for (at, code) in [(1, 19), (4, 6), (7, 3), (9, 19), (12, 5)] {
        let refusal = Fault::on(ApiKey::Produce).action(Action::Refuse(code));
        bed.fault(refusal.skip(at));
    }
    handles.extend((1..300).map(|n| bed.put(n)));
    bed.check(handles).await;
}

/// KIP-360: the broker does not know the producer, and no longer knows the partition either.
#[tokio::test]
async fn an_unknown_producer_without_a_log_start_is_no_reason_for_another_epoch() {
    let bed = Bed::new(1, config()).await;
    let mut handles = vec![bed.put(0)];
    (&mut handles[0]).await.expect("written");
    let unknown = Fault::on(ApiKey::Produce).action(Action::Refuse(59));
    let unknown = bed.fault(unknown.skip(1).times(3));
    handles.extend((1..60).map(|n| bed.put(n)));
    for handle in &mut handles {
        timeout(LIMIT, handle)
            .await
            .expect("in time")
            .expect("written");
    }
    assert_eq!(unknown.hits(), 3);
    let stamps = bed.stamps(0);
    assert!(
        stamps
            .iter()
            .all(|(id, epoch, _)| (*id, *epoch) == (stamps[0].0, 0)),
        "{stamps:?}"
    );
    bed.check(handles).await;
}

#[tokio::test]
async fn trap_c9_an_unknown_topic_in_between_does_not_restart_the_sequence() {
    let bed = Bed::new(1, config()).await;
    let mut handles = Vec::new();
    for n in 0..3 {
        handles.push(bed.put(n));
        (&mut handles[n]).await.expect("written");
        let unknown = Fault::on(ApiKey::Produce).action(Action::Refuse(3));
        bed.fault(unknown);
    }
    let sequences: Vec<_> = bed.stamps(0).iter().map(|(.., first)| *first).collect();
    assert_eq!(sequences, [0, 1, 2]);
    bed.cluster.faults().clear();
    bed.check(handles).await;
}

#[tokio::test]
async fn trap_c19_c27_records_behind_a_batch_that_was_given_up_are_written_all_the_same() {
    let short = ProducerConfig {
        delivery_timeout: ms(600),
        ..config()
    };
    let bed = Bed::new(1, short).await;
    bed.put(0).await.expect("written");
    // Written, and the answer comes when it was given up.
    let late = Fault::on(ApiKey::Produce).action(Action::DelayReply(ms(900)));
    bed.fault(late);
    let error = bed.put(1).await.expect_err("given up");
    assert_eq!(
        (error.kind(), error.fate()),
        (PublishErrorKind::TimedOut, Fate::MaybeWritten)
    );
    let mut next = 2;
    // The connection is busy until the late answer has come.
    while bed.put(next).await.is_err() {
        next += 1;
    }
    bed.put(next + 1).await.expect("written");
    let log = bed.log(0);
    assert_eq!(log[..2], ["00000", "00001"]);
    assert_eq!(
        log[log.len() - 2..],
        [format!("{next:05}"), format!("{:05}", next + 1)]
    );
    let mut once = log.clone();
    once.dedup();
    assert_eq!(log, once);
    // The number that nobody was sure of was not used again: the next epoch begins.
    let stamps = bed.stamps(0);
    let (id, last) = (stamps[0].0, stamps[stamps.len() - 1]);
    assert_eq!((stamps[1], last.0), ((id, 0, 1), id));
    assert!(last.1 > 0, "{stamps:?}");
    bed.end().await;
}

#[tokio::test]
async fn a_record_above_the_brokers_limit_leaves_the_sequence_whole() {
    let cluster = MockCluster::builder()
        .max_message_bytes(4_096)
        .start()
        .await;
    let cluster = cluster.expect("a cluster");
    cluster.create_topic("t", 1).expect("a topic");
    let client = Client::connect(ClientConfig {
        transport: TransportKind::Native,
        ..ClientConfig::new(&cluster.bootstrap())
    });
    let client = client.await.expect("a client");
    let producer = Producer::new(&client, config()).expect("a producer");
    let large = |n: usize| n % 40 == 17;
    let handles = (0..200).map(|n| {
        let value = format!("{n:05}{}", "x".repeat(if large(n) { 8_000 } else { 200 }));
        producer.enqueue(Record::new("t").value(value))
    });
    for (n, handle) in handles.collect::<Vec<_>>().into_iter().enumerate() {
        let result = timeout(LIMIT, handle).await.expect("in time");
        match result {
            Ok(written) => assert_eq!(written.partition, 0),
            Err(error) => assert_eq!(
                (large(n), error.kind(), error.fate()),
                (true, PublishErrorKind::RecordTooLarge, Fate::NotWritten)
            ),
        }
    }
    let bed = Bed {
        cluster,
        client,
        producer,
    };
    let log: Vec<_> = bed.log(0).iter().map(|v| v[..5].to_owned()).collect();
    let expected = (0..200).filter(|n| !large(*n)).map(|n| format!("{n:05}"));
    assert_eq!(log, expected.collect::<Vec<_>>());
    bed.end().await;
}

/// Callers that each send one record after the other, and write it to the socket themselves where
/// nothing else is on its way, among others that send many.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn records_that_callers_send_alone_are_written_once_and_in_their_order() {
    const CALLERS: usize = 8;
    const EACH: usize = 150;
    let bed = Bed::new(
        3,
        ProducerConfig {
            linger: ms(0),
            ..config()
        },
    )
    .await;
    let faults = [
        Fault::on(ApiKey::Produce)
            .action(Action::DropReply)
            .skip(20),
        Fault::on(ApiKey::Produce)
            .action(Action::Disconnect)
            .skip(90),
        Fault::on(ApiKey::Produce)
            .action(Action::Refuse(19))
            .skip(50),
    ];
    let faults: Vec<_> = faults.map(|fault| bed.fault(fault.times(5))).into();
    let mut callers = JoinSet::new();
    for caller in 0..CALLERS {
        let producer = bed.producer.clone();
        callers.spawn(async move {
            let mut written = Vec::new();
            for n in 0..EACH {
                let value = format!("{caller}-{n:05}");
                let record = Record::new("t")
                    .key(caller.to_string())
                    .value(value.clone());
                let at = if n % 10 == 9 {
                    let more = [record.clone().value(format!("{value}-more"))];
                    let (many, at) =
                        tokio::join!(producer.enqueue_all(&more), producer.send(&record));
                    many.written().await.expect("written");
                    at
                } else {
                    producer.send(&record).await
                };
                written.push((at.expect("written"), value));
            }
            written
        });
    }
    for _ in 0..4 {
        let moved = bed.cluster.records("t").len() + CALLERS * EACH / 6;
        timeout(LIMIT, async {
            while bed.cluster.records("t").len() < moved {
                tokio::time::sleep(ms(1)).await;
            }
        })
        .await
        .expect("in time");
        bed.move_leaders(3);
    }
    while let Some(written) = callers.join_next().await {
        let written = written.expect("no panic");
        let offsets: Vec<_> = written
            .iter()
            .map(|(at, _)| at.offset.expect("one"))
            .collect();
        assert!(offsets.is_sorted(), "{offsets:?}");
        for (at, value) in written {
            let offset = at.offset.expect("one") as usize;
            assert_eq!(bed.log(at.partition)[offset], value);
        }
    }
    assert!(faults.iter().all(|fault| fault.hits() == 5));
    assert_eq!(bed.cluster.records("t").len(), CALLERS * (EACH + EACH / 10));
    bed.end().await;
}
