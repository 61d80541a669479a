//! Two plain consumers in a group: what is committed is not read again, what is not is read by who takes
//! over, a seek goes back, and listeners hear of everything in time. Beside them, consumers of topics by
//! an expression.

mod topics;

use super::{Context, Outcome};
use crate::Failure;
use futures_util::future::try_join_all;
use ottla::client::{Client, NewTopic};
use ottla::consumer::{
    Assigned, AutoOffsetReset, Consumer, ConsumerConfig, ErrorKind, GroupProtocol, HandlerError,
    Rebalance, RebalanceListener, Revoked, SeekTo,
};
use ottla::types::{ConsumedRecord, Record, TopicPartition, with_causes};
use ottla::{Producer, ProducerConfig};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::time::timeout;

const PARTITIONS: i32 = 6;
/// Records of a partition that are written at a time.
const RECORDS: i64 = 100;
const WITHIN: Duration = Duration::from_secs(60);
const SOON: Duration = Duration::from_secs(10);
const SESSION: Duration = Duration::from_secs(6);

pub(super) async fn run(context: &mut Context) -> Outcome {
    let client = Client::connect(context.client_config()).await?;
    let producer = Producer::new(&client, ProducerConfig::default())?;
    let mut looking = context.client_config();
    looking.metadata_max_age = Duration::from_secs(1);
    let looking = Client::connect(looking).await?;
    if context.is_kafka_3() {
        refused_where_kip_848_is_off(context, &client).await?;
    }
    let protocols = [GroupProtocol::Classic, context.other_groups()];
    let by_pattern = protocols.map(|protocol| {
        let bed = topics::Bed {
            client: &looking,
            producer: &producer,
            base: context.unique(&format!("topics-{protocol:?}").to_lowercase()),
            protocol,
            replication: context.replication(),
        };
        async move { within(protocol, Box::pin(bed.run())).await }
    });
    let tried = protocols.map(|protocol| {
        let topic = context.unique(&format!("plain-{protocol:?}").to_lowercase());
        let replication = context.replication();
        let bed = Bed {
            client: &client,
            producer: &producer,
            topic,
            protocol,
        };
        async move {
            let topic = NewTopic::new(&bed.topic, PARTITIONS).replication(replication);
            bed.client.ensure_topics(vec![topic]).await?;
            within(protocol, Box::pin(bed.run())).await
        }
    });
    let outcome = tokio::try_join!(try_join_all(tried), try_join_all(by_pattern));
    let left = producer.close(SOON).await;
    client.close().await;
    looking.close().await;
    outcome?;
    if !left.is_clean() {
        return Err(format!("the producer left {left:?}").into());
    }
    Ok(())
}

/// Who asks for KIP-848 by name hears that the broker does not have it, and reads nothing.
async fn refused_where_kip_848_is_off(context: &Context, client: &Client) -> Outcome {
    let topic = context.unique("refused");
    let new = NewTopic::new(&topic, 1).replication(context.replication());
    client.ensure_topics(vec![new]).await?;
    let config = ConsumerConfig {
        group_protocol: GroupProtocol::Consumer,
        ..ConsumerConfig::new(context.unique("refused"))
    };
    let mut consumer = Consumer::subscribe(client, config, [topic]).await?;
    let refused = timeout(SOON, consumer.recv()).await;
    // It has ended already.
    let _ = consumer.close(SOON).await;
    let refused = refused.map_err(|_| "a group of KIP-848 is neither refused nor read")?;
    let Err(error) = refused else {
        return Err("a group of KIP-848 is read on a Kafka 3".into());
    };
    println!("refused: {}", with_causes(&error));
    match error.kind() == ErrorKind::Coordinator && !error.is_retriable() {
        true => Ok(()),
        false => Err(error.into()),
    }
}

async fn within(protocol: GroupProtocol, run: impl Future<Output = Outcome>) -> Outcome {
    let outcome = timeout(WITHIN, run).await;
    let outcome = outcome.unwrap_or_else(|_| Err(format!("no end in {WITHIN:?}").into()));
    outcome.map_err(|error| format!("{protocol:?}: {error}").into())
}

/// What a listener heard: the partitions that are there now, and whether it was told in order.
#[derive(Clone, Default)]
struct Heard(Arc<Mutex<Told>>);

#[derive(Default)]
struct Told {
    owned: BTreeSet<TopicPartition>,
    revoked: usize,
    lost: usize,
    wrong: Vec<String>,
}

impl Heard {
    fn note(&self, change: impl FnOnce(&mut Told)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn look<T>(&self, look: impl FnOnce(&Told) -> T) -> T {
        look(&self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn gone(told: &mut Told, what: &str, of: &Rebalance) {
        for partition in of.partitions() {
            if !told.owned.remove(partition) {
                told.wrong
                    .push(format!("{what} {partition}, which was not assigned"));
            }
        }
    }
}

impl RebalanceListener for Heard {
    async fn on_assigned(&self, assigned: &Assigned) -> Result<(), HandlerError> {
        self.note(|told| {
            for partition in assigned.partitions() {
                if !told.owned.insert(partition.clone()) {
                    told.wrong.push(format!("assigned {partition} twice"));
                }
            }
        });
        Ok(())
    }

    async fn on_revoked(&self, revoked: &Revoked) -> Result<(), HandlerError> {
        self.note(|told| {
            told.revoked += 1;
            Self::gone(told, "revoked", revoked);
        });
        Ok(())
    }

    async fn on_lost(&self, lost: &Rebalance) -> Result<(), HandlerError> {
        self.note(|told| {
            told.lost += 1;
            Self::gone(told, "lost", lost);
        });
        Ok(())
    }
}

/// What was read, in the order of the reading: partition and offset.
type Read = Vec<(i32, i64)>;

struct Bed<'a> {
    client: &'a Client,
    producer: &'a Producer,
    topic: String,
    protocol: GroupProtocol,
}

impl Bed<'_> {
    async fn run(&self) -> Outcome {
        let (mut first, heard) = self.join().await?;
        self.write(0).await?;
        let mut read = self.read(&mut first, RECORDS).await?;
        each_once(&mut read, 0..RECORDS)?;
        first.commit_sync().await?;
        self.expect_committed(&first, RECORDS).await?;

        // Back to the middle of a partition: the rest of it comes again, and nothing else.
        let again = self.partition(2);
        first.seek(&again, SeekTo::Offset(RECORDS / 2)).await?;
        let mut back = Read::new();
        while i64::try_from(back.len())? < RECORDS / 2 {
            back.extend(first.recv().await?.records().iter().map(place));
        }
        if back != (RECORDS / 2..RECORDS).map(|o| (2, o)).collect::<Read>() {
            return Err(format!("after the seek came {back:?}").into());
        }
        first.commit_sync().await?;
        self.take_over(first, heard).await
    }

    /// A second consumer takes its share, and is dropped; the first takes over.
    async fn take_over(&self, mut first: Consumer, heard: Heard) -> Outcome {
        let (mut second, other) = self.join().await?;
        self.shared(&mut first, &mut second).await?;
        let owned = |heard: &Heard| heard.look(|told| told.owned.clone());
        if owned(&heard).iter().cloned().ne(first.assignment())
            || owned(&other).iter().cloned().ne(second.assignment())
        {
            return Err("the listeners heard of other partitions than are owned".into());
        }
        self.write(RECORDS).await?;
        let theirs = owned(&other);
        let mut read = self.read(&mut second, 2 * RECORDS).await?;
        // The half of each partition is committed when the consumer goes without a word.
        let half = RECORDS + RECORDS / 2;
        let offsets = theirs.iter().map(|p| (p.clone(), half));
        second.commit_offsets(offsets).await?;
        read.extend(self.read(&mut first, 2 * RECORDS).await?);
        each_once(&mut read, RECORDS..2 * RECORDS)?;
        first.commit_sync().await?;
        drop(second);
        let begun = Instant::now();
        let mut wanted: BTreeMap<_, _> = theirs
            .iter()
            .map(|p| (p.partition, half..2 * RECORDS))
            .collect();
        while wanted.values().any(|range| !range.is_empty()) {
            for record in first.recv().await? {
                let next = wanted.get_mut(&record.partition).and_then(Iterator::next);
                if next != Some(record.offset) {
                    let (partition, offset) = place(&record);
                    return Err(format!("took over {partition} at {offset}, not {next:?}").into());
                }
            }
        }
        let took = begun.elapsed();
        if took > SESSION + Duration::from_secs(4) {
            return Err(format!("taken over after {took:?}").into());
        }
        println!(
            "{:?}: taken over in {:.1} s",
            self.protocol,
            took.as_secs_f64()
        );
        first.commit_async().await?;
        self.expect_committed(&first, 2 * RECORDS).await?;
        let report = first.close(SOON).await;
        if !report.clean {
            return Err(format!("the first consumer left {report:?}").into());
        }
        heard.look(|told| match (&told.wrong[..], told.owned.len(), told.revoked, told.lost) {
            // The share that went to the second, and what was left at the close.
            ([], 0, 2, 0) => Ok(()),
            (wrong, left, revoked, lost) => Err(format!(
                "{revoked} revocations and {lost} losses were told, {left} partitions are left, {wrong:?}"
            )
            .into()),
        })
    }

    fn partition(&self, partition: i32) -> TopicPartition {
        TopicPartition::new(self.topic.as_str(), partition)
    }

    async fn join(&self) -> Result<(Consumer, Heard), Failure> {
        let config = ConsumerConfig {
            session_timeout: SESSION,
            heartbeat_interval: Duration::from_millis(500),
            auto_offset_reset: AutoOffsetReset::Earliest,
            group_protocol: self.protocol,
            max_poll_records: 30,
            ..ConsumerConfig::new(format!("{}-readers", self.topic))
        };
        let heard = Heard::default();
        let builder = Consumer::builder(self.client, config).listener(heard.clone());
        Ok((builder.subscribe([&self.topic]).await?, heard))
    }

    /// As many records for each partition, from this offset on.
    async fn write(&self, from: i64) -> Outcome {
        let sends = (from..from + RECORDS).flat_map(|n| {
            (0..PARTITIONS).map(move |partition| {
                let record = Record::new(self.topic.as_str()).partition(partition);
                self.producer.enqueue(record.value(n.to_string()))
            })
        });
        let sends: Vec<_> = sends.collect();
        try_join_all(sends).await?;
        Ok(())
    }

    /// Reads every partition that the consumer owns up to `end`.
    async fn read(&self, consumer: &mut Consumer, end: i64) -> Result<Read, Failure> {
        let mut read = Read::new();
        loop {
            let owned = consumer.assignment();
            if !owned.is_empty() && owned.iter().all(|p| consumer.position(p) >= Some(end)) {
                return Ok(read);
            }
            if let Some(batch) = consumer.poll(Duration::from_millis(100)).await? {
                read.extend(batch.records().iter().map(place));
            }
        }
    }

    /// Waits until both have a half, asking for records as a program would; there are none.
    async fn shared(&self, first: &mut Consumer, second: &mut Consumer) -> Outcome {
        let wait = Duration::from_millis(50);
        while (first.assignment().len(), second.assignment().len()) != (3, 3) {
            let (one, two) = tokio::join!(first.poll(wait), second.poll(wait));
            if let Some(batch) = one?.or(two?) {
                return Err(format!("{:?} was read again", place(&batch.records()[0])).into());
            }
        }
        Ok(())
    }

    async fn expect_committed(&self, by: &Consumer, offset: i64) -> Outcome {
        let all = (0..PARTITIONS).map(|p| self.partition(p));
        for (partition, committed) in by.committed(all).await? {
            if committed != Some(offset) {
                return Err(
                    format!("{partition}: {committed:?} is committed, not {offset}").into(),
                );
            }
        }
        Ok(())
    }
}

fn place(record: &ConsumedRecord) -> (i32, i64) {
    (record.partition, record.offset)
}

/// Each partition's records once.
fn each_once(read: &mut Read, offsets: std::ops::Range<i64>) -> Outcome {
    read.sort_unstable();
    let wanted = (0..PARTITIONS).flat_map(|p| offsets.clone().map(move |o| (p, o)));
    if read.iter().copied().eq(wanted) {
        return Ok(());
    }
    let unique: BTreeSet<_> = read.iter().collect();
    Err(format!(
        "{} records were read, {} of them once, for {offsets:?}",
        read.len(),
        unique.len()
    )
    .into())
}
