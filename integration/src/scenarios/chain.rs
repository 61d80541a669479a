//! Three chained groups: each reads a topic and writes the next one. Members come, and go without a
//! word, and connections are cut all the time. Every key must arrive at every level, in order, and
//! what comes twice must not have been committed before.

mod ledger;

use super::{Context, Outcome};
use crate::Failure;
use crate::harness::{KafkaCluster, KafkaOptions, Proxies};
use crate::read_back::read_topic;
use ledger::{Ledger, Totals};
use ottla::client::{Client, ClientConfig, NewTopic, TransportKind};
use ottla::consumer::{
    App, Assignor, AutoOffsetReset, BatchHandler, BatchOutcome, ConsumedRecord, ConsumerConfig,
    Context as Call, GroupProtocol, HandlerError, Registration, RunningApp,
};
use ottla::types::Record;
use ottla::{Producer, ProducerConfig};
use std::convert::Infallible;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::time::{Instant, interval, sleep_until};

/// The partitions of each level's topic.
const LEVELS: [i32; 3] = [7, 11, 31];
const KEYS: u64 = 400;
/// How long the records are sent for: members come and go meanwhile.
const SENDING: Duration = Duration::from_secs(10);
const JOIN_AFTER: Duration = Duration::from_secs(5);
const LEAVE_AFTER: Duration = Duration::from_secs(8);
const CUT_EVERY_MS: std::ops::Range<u64> = 500..1500;
const SESSION: Duration = Duration::from_secs(6);
const WITHIN: Duration = Duration::from_secs(150);
const CLOSE: Duration = Duration::from_secs(30);
/// How often members are asked what they have committed.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// How the groups work.
#[derive(Debug, Clone, Copy)]
struct Way {
    name: &'static str,
    /// Changes the settings of a member, which gets a number of its own.
    set: fn(&mut ConsumerConfig, usize),
}

/// Those that every broker has.
const WAYS: [Way; 3] = [
    Way {
        name: "cooperative",
        set: |config, _| config.assignors = vec![Assignor::CooperativeSticky],
    },
    Way {
        name: "eager",
        set: |config, _| config.assignors = vec![Assignor::Range],
    },
    Way {
        name: "static",
        set: |config, member| config.group_instance_id = Some(format!("member-{member}")),
    },
];

fn other_way(context: &Context) -> Way {
    match context.other_groups() {
        GroupProtocol::Consumer => Way {
            name: "kip-848",
            set: |config, _| config.group_protocol = GroupProtocol::Consumer,
        },
        _ => Way {
            name: "auto",
            set: |config, _| config.group_protocol = GroupProtocol::Auto,
        },
    }
}

pub(super) async fn run(context: &mut Context) -> Outcome {
    let records = if context.is_full() { 200_000 } else { 20_000 };
    let jars = context.jars().await?;
    let options = KafkaOptions::new(jars).behind_proxies();
    let cluster = KafkaCluster::start(context.nodes(), options).await?;
    let proxies = Proxies::start(cluster.proxy_routes()).await?;
    let mut outcome = Ok(());
    for way in WAYS.into_iter().chain([other_way(context)]) {
        let chain = Chain {
            way,
            bootstrap: cluster.proxied_bootstrap(),
            transport: context.transport(),
            replication: context.replication(),
            prefix: context.unique(way.name),
            ledger: Arc::new(Ledger::new(LEVELS.len(), KEYS)),
            members: AtomicUsize::new(0),
        };
        outcome = chain.run(&proxies, records).await;
        if outcome.is_err() {
            eprintln!("{}", cluster.log_tail(0, 20));
            break;
        }
    }
    drop(proxies);
    cluster.stop().await?;
    outcome
}

struct Chain {
    way: Way,
    bootstrap: String,
    transport: TransportKind,
    replication: i16,
    prefix: String,
    ledger: Arc<Ledger>,
    /// How many there were.
    members: AtomicUsize,
}

/// One member of one group, with connections of its own.
struct Member {
    level: usize,
    client: Client,
    producer: Producer,
    app: RunningApp,
}

impl Chain {
    async fn run(self, proxies: &Proxies, records: u64) -> Outcome {
        let started = Instant::now();
        let client = self.client().await?;
        let topic = |(level, partitions): (usize, &i32)| {
            NewTopic::new(self.topic(level), *partitions).replication(self.replication)
        };
        let topics = LEVELS.iter().enumerate().map(topic).collect();
        client.ensure_topics(topics).await?;

        let mut members = Vec::new();
        for level in 0..LEVELS.len() {
            for _ in 0..3 {
                members.push(self.member(level).await?);
            }
        }
        let disturbed = async {
            let disturb = self.disturb(members, records);
            tokio::select! {
                members = disturb => members,
                never = cut(proxies) => match never {},
            }
        };
        let (sent, members) = tokio::join!(self.send(&client, records), disturbed);
        let members = members?;
        sent?;
        for member in members {
            let report = member.app.shutdown(CLOSE).await;
            if !report.clean {
                return Err(format!("a member left {report:?}").into());
            }
            let left = member.producer.close(CLOSE).await;
            if !left.is_clean() {
                return Err(format!("a producer left {left:?}").into());
            }
            member.client.close().await;
        }
        self.first_topic(&client, records).await?;
        client.close().await;
        let totals = self.ledger.totals();
        let seconds = started.elapsed().as_secs_f32();
        println!("{}: {seconds:.1} s, {totals}", self.way.name);
        judge(&totals, records)
    }

    /// Members come, one of each group goes without a word; then waits until all has arrived.
    async fn disturb(
        &self,
        mut members: Vec<Member>,
        records: u64,
    ) -> Result<Vec<Member>, Failure> {
        let begun = Instant::now();
        let (mut joined, mut left) = (false, false);
        let mut pace = interval(LOOK_EVERY);
        loop {
            pace.tick().await;
            for member in &members {
                self.note(member);
            }
            if !joined && begun.elapsed() >= JOIN_AFTER {
                joined = true;
                for level in 0..LEVELS.len() {
                    for _ in 0..3 {
                        members.push(self.member(level).await?);
                    }
                }
            }
            if !left && begun.elapsed() >= LEAVE_AFTER {
                left = true;
                for level in 0..LEVELS.len() {
                    let at = members.iter().position(|member| member.level == level);
                    if let Some(gone) = at.map(|at| members.remove(at)) {
                        self.note(&gone);
                        drop(gone);
                    }
                }
            }
            if left && self.ledger.arrived() == records {
                return Ok(members);
            }
            if begun.elapsed() > WITHIN {
                let states = members.iter().map(|member| member.app.status());
                let states: Vec<_> = states.flat_map(|status| status.registrations).collect();
                return Err(
                    format!("not all arrived: {}; {states:#?}", self.ledger.totals()).into(),
                );
            }
        }
    }

    /// Takes down what the member has committed: none of it may come again.
    fn note(&self, member: &Member) {
        for registration in member.app.status().registrations {
            for partition in registration.partitions() {
                if let Some(committed) = partition.committed {
                    let place = (member.level, partition.partition.partition);
                    self.ledger.committed(place, committed);
                }
            }
        }
    }

    async fn member(&self, level: usize) -> Result<Member, Failure> {
        let client = self.client().await?;
        let producer = Producer::new(&client, ProducerConfig::default())?;
        let link = Link {
            level,
            next: (level + 1 < LEVELS.len()).then(|| self.topic(level + 1)),
            producer: producer.clone(),
            ledger: self.ledger.clone(),
        };
        let mut config = ConsumerConfig {
            group_protocol: GroupProtocol::Classic,
            session_timeout: SESSION,
            heartbeat_interval: Duration::from_secs(1),
            auto_offset_reset: AutoOffsetReset::Earliest,
            commit_interval: Duration::from_millis(200),
            ..ConsumerConfig::default()
        };
        (self.way.set)(&mut config, self.members.fetch_add(1, Ordering::Relaxed));
        let group = format!("{}-group-{level}", self.prefix);
        let mut app = App::new(&client, config);
        let topics = [self.topic(level)];
        app.register(Registration::batch(
            group,
            topics,
            200,
            Duration::ZERO,
            link,
        ));
        let app = app.start().await?;
        Ok(Member {
            level,
            client,
            producer,
            app,
        })
    }

    async fn client(&self) -> Result<Client, Failure> {
        let mut config = ClientConfig::new(&self.bootstrap);
        config.transport = self.transport;
        Ok(Client::connect(config).await?)
    }

    fn topic(&self, level: usize) -> String {
        format!("{}-{level}", self.prefix)
    }

    /// Sends every key's numbers in order to the first level.
    async fn send(&self, client: &Client, records: u64) -> Outcome {
        let rate = u32::try_from(records / SENDING.as_secs())?;
        let config = ProducerConfig {
            rate_limit: NonZeroU32::new(rate),
            ..ProducerConfig::default()
        };
        let producer = Producer::new(client, config)?;
        let mut deliveries = Vec::new();
        for n in 0..records {
            let record = Record::new(self.topic(0)).key(format!("key-{}", n % KEYS));
            let record = record.value((n / KEYS).to_string());
            deliveries.push(producer.enqueue_when_room(record).await);
        }
        for delivery in deliveries {
            delivery.await?;
        }
        let left = producer.close(CLOSE).await;
        if !left.is_clean() {
            return Err(format!("the sender left {left:?}").into());
        }
        Ok(())
    }
}

impl Chain {
    /// Nobody was killed who writes to the first topic: with sequences (KIP-98) each record stands in
    /// it once, however many connections were cut.
    async fn first_topic(&self, client: &Client, records: u64) -> Outcome {
        let written = read_topic(client, &self.topic(0), CLOSE).await?.len() as u64;
        let once = client.transport().capabilities().idempotence;
        if written < records || (once && written > records) {
            return Err(format!("{records} records were sent and {written} are there").into());
        }
        Ok(())
    }
}

fn judge(totals: &Totals, records: u64) -> Outcome {
    let whole = totals.arrived.iter().all(|arrived| *arrived == records);
    if whole && totals.violations.is_empty() {
        Ok(())
    } else {
        Err("the chain is broken".into())
    }
}

/// Cuts connections for as long as it is polled.
async fn cut(proxies: &Proxies) -> Infallible {
    loop {
        let wait = Duration::from_millis(fastrand::u64(CUT_EVERY_MS));
        sleep_until(Instant::now() + wait).await;
        proxies.cut_one();
    }
}

/// Hands records on to the next level, and counts them.
struct Link {
    level: usize,
    next: Option<String>,
    producer: Producer,
    ledger: Arc<Ledger>,
}

impl BatchHandler for Link {
    async fn handle_batch(&self, call: &Call, records: &[ConsumedRecord]) -> BatchOutcome {
        let mut handed = Vec::with_capacity(records.len());
        for record in records {
            if call.check_lease().is_err() {
                // The next owner begins with it.
                break;
            }
            let place = (self.level, record.partition);
            self.ledger.handled(place, record);
            if let Some(next) = &self.next {
                let record = record.to_record(next.as_str());
                handed.push(self.producer.enqueue_when_room(record).await);
            }
        }
        for (index, delivery) in handed.into_iter().enumerate() {
            if let Err(error) = delivery.await {
                let error =
                    HandlerError::transient("Publish", error.to_string()).with_source(error);
                return BatchOutcome::FailedAt { index, error };
            }
        }
        match call.check_lease() {
            Ok(()) => BatchOutcome::Done,
            Err(lost) => BatchOutcome::Failed(HandlerError::transient("Lost", lost.to_string())),
        }
    }
}
