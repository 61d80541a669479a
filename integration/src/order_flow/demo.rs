//! The whole flow in one process, from an empty disk to the ledger.

use super::extras::{Extras, ExtrasError};
use super::ledger::{self, Ledger, LedgerError, Places};
use super::load::{self, Load, LoadError, Tally};
use super::progress::{Progress, Snapshot};
use super::service::{Flow, NotifierService, ServiceError, ShopService, StopReport, subscriptions};
use super::settle::total_lag;
use super::topics::Topics;
use ottla::client::{Client, TransportKind};
use ottla::mock_cluster::{Action, ApiKey, Fault, MockCluster, MockError};
use ottla::store::OutboxStore;
use ottla::{Producer, ProducerConfig};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tokio::task::spawn_blocking;
use tokio::time::{MissedTickBehavior, interval};

const PARTITIONS: i32 = 6;
const POISON: u64 = 3;
const LOST_REPLIES: u32 = 3;
const STOP_DEADLINE: Duration = Duration::from_secs(10);
const ASK_DEADLINE: Duration = Duration::from_secs(5);

/// How the demo is run.
#[derive(Debug, Clone)]
pub struct Options {
    /// A real cluster; `None` starts a mock cluster.
    pub bootstrap: Option<String>,
    /// Which transport carries the records.
    pub transport: TransportKind,
    /// How many orders are placed.
    pub orders: u64,
    /// Begins every topic and group name, to keep runs on one cluster apart.
    pub prefix: Option<String>,
    /// The time limit of the whole.
    pub limit: Duration,
}

/// Why the demo could not be carried through.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DemoError {
    /// The mock cluster did not start.
    #[error("mock cluster")]
    Mock(#[from] MockError),
    /// A service did not start.
    #[error("service")]
    Service(#[from] ServiceError),
    /// The cluster did not answer.
    #[error(transparent)]
    Client(#[from] ottla::client::Error),
    /// The customers gave up.
    #[error("load")]
    Load(#[from] LoadError),
    /// The trouble could not be made.
    #[error("extras")]
    Extras(#[from] ExtrasError),
    /// The ledger could not be drawn up.
    #[error("ledger")]
    Ledger(#[from] LedgerError),
    /// Counting panicked.
    #[error("counting panicked")]
    Panicked(#[from] tokio::task::JoinError),
    /// The folder for the databases.
    #[error("temporary folder")]
    Folder(#[from] std::io::Error),
    /// So many records stand twice in a topic, though the producer has sequences.
    #[error("{0} records stand twice in a topic though the producer has sequences")]
    WrittenTwice(usize),
    /// The flow did not come to rest.
    #[error("not settled within {0:?}: {1:?}")]
    NotSettled(Duration, Snapshot),
    /// A service was not stopped cleanly.
    #[error("stopped with work left: {0:?}")]
    Unclean(Vec<String>),
}

/// Runs the demo and gives back its ledger.
///
/// # Errors
/// [`DemoError`] when it cannot be carried through; a ledger that is not clean is no error here.
pub async fn run(options: &Options) -> Result<Ledger, DemoError> {
    let started = Instant::now();
    let folder = tempfile::tempdir()?;
    let mock = match &options.bootstrap {
        Some(_) => None,
        None => Some(MockCluster::builder().brokers(3).start().await?),
    };
    let flow = flow(options, mock.as_ref());
    let mut progress = Progress::new();
    let place = if mock.is_some() {
        "a mock cluster of 3 brokers"
    } else {
        &flow.bootstrap
    };
    progress.say(&format!(
        "the order flow on {place}, transport {}, databases in redb",
        flow.transport.name()
    ));
    if let Some(mock) = &mock {
        // These batches are written, the producer does not hear of it and writes them again.
        let lost = Fault::on(ApiKey::Produce)
            .topic(flow.topics.orders())
            .skip(10);
        mock.faults()
            .add(lost.times(LOST_REPLIES).action(Action::DropReply));
        progress.say(&format!(
            "{LOST_REPLIES} acknowledgements will be lost on the way"
        ));
    }

    let places = places(folder.path());
    let shop = ShopService::start(&flow, &places.shop, "127.0.0.1:0").await?;
    let notifier = NotifierService::start(&flow, &places.notifiers[0], &places.journals[0]).await?;
    let client = flow.connect().await?;
    let producer = Producer::new(&client, ProducerConfig::default())?;
    progress.say(&format!("orders go to http://{}/orders", shop.address()));

    let watch = Watch {
        options,
        flow: &flow,
        shop: &shop,
        notifier: &notifier,
        client: &client,
    };
    let tally = Arc::new(Tally::default());
    let (extras, unrest) = watch
        .drive(&mut progress, &producer, &tally, started)
        .await?;
    let mut left = stop_all(shop, notifier).await;
    let report = producer.close(STOP_DEADLINE).await;
    if !report.is_clean() {
        left.push(format!("producer: {report:?}"));
    }
    progress.finish();
    let mut evidence =
        ledger::gather(&client, &flow.topics, &places, options.orders, &extras).await?;
    evidence.expect_paid(tally.paid.load(Ordering::Relaxed));
    let once = client.transport().capabilities().idempotence;
    client.close().await;
    if let Some(mock) = mock {
        mock.shutdown().await;
    }
    if unrest.is_none() && !left.is_empty() {
        return Err(DemoError::Unclean(left));
    }
    let ledger = evidence.judge();
    print_ledger(&ledger, &extras, started.elapsed());
    match unrest {
        Some(now) => Err(DemoError::NotSettled(options.limit, now)),
        None if once && ledger.resent(&extras) > 0 => {
            Err(DemoError::WrittenTwice(ledger.resent(&extras)))
        }
        None => Ok(ledger),
    }
}

fn flow(options: &Options, mock: Option<&MockCluster>) -> Flow {
    let run = || format!("run{:08x}-", fastrand::u32(..));
    let own = || if mock.is_some() { String::new() } else { run() };
    Flow {
        bootstrap: match (mock, &options.bootstrap) {
            (Some(mock), _) => mock.bootstrap(),
            (None, bootstrap) => bootstrap.clone().unwrap_or_default(),
        },
        transport: options.transport,
        topics: Topics::new(options.prefix.clone().unwrap_or_else(own)),
        partitions: PARTITIONS,
        replication: -1,
        instances: 2,
    }
}

fn places(folder: &Path) -> Places {
    Places {
        shop: folder.join("shop.redb"),
        notifiers: vec![folder.join("notifier.redb")],
        journals: vec![folder.join("deliveries.jsonl")],
    }
}

async fn stop_all(shop: ShopService, notifier: NotifierService) -> Vec<String> {
    let (StopReport { left: mut all }, StopReport { left }) =
        tokio::join!(shop.stop(STOP_DEADLINE), notifier.stop(STOP_DEADLINE));
    all.extend(left);
    all
}

/// Everything that the running flow is watched by.
struct Watch<'a> {
    options: &'a Options,
    flow: &'a Flow,
    shop: &'a ShopService,
    notifier: &'a NotifierService,
    client: &'a Client,
}

impl Watch<'_> {
    /// Sends the load and the trouble, and waits until nothing is left to do; with what was sent, it
    /// gives back the state in which the time ran out, if it did.
    async fn drive(
        &self,
        progress: &mut Progress,
        producer: &Producer,
        tally: &Arc<Tally>,
        started: Instant,
    ) -> Result<(Extras, Option<Snapshot>), DemoError> {
        let work = async {
            let load = Load {
                orders: self.options.orders,
                customers: customers(self.options.orders),
                concurrency: 8,
                patience: Duration::from_secs(20),
            };
            let mut extras = Extras::default();
            extras
                .send_poison(producer, &self.flow.topics, POISON)
                .await?;
            load::run(&self.shop.address().to_string(), &load, tally).await?;
            let topics = &self.flow.topics;
            extras
                .send_copies(self.client, producer, topics, self.options.limit)
                .await?;
            Ok::<Extras, DemoError>(extras)
        };
        let mut work = std::pin::pin!(work);
        let mut done = None;
        let mut tick = interval(Duration::from_millis(100));
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                extras = &mut work, if done.is_none() => done = Some(extras?),
                _ = tick.tick() => {}
            }
            let now = self.look(tally, done.is_some()).await?;
            progress.show(now);
            let is_late = started.elapsed() > self.options.limit;
            match &done {
                Some(extras) if now.is_at_rest() => return Ok((extras.clone(), None)),
                // The ledger says what is missing.
                Some(extras) if is_late => return Ok((extras.clone(), Some(now))),
                None if is_late => return Err(DemoError::NotSettled(self.options.limit, now)),
                _ => {}
            }
        }
    }

    async fn look(&self, tally: &Tally, with_lag: bool) -> Result<Snapshot, DemoError> {
        // Both wait for the disk.
        let (shop, effects) = (self.shop.shop().clone(), self.notifier.effects().clone());
        let count =
            move || -> Result<_, ServiceError> { Ok((shop.count_orders()?, effects.count()?)) };
        let ((orders, open), effects) = spawn_blocking(count).await??;
        let rows = self
            .shop
            .shop()
            .outbox()
            .counts()
            .await
            .map_err(ServiceError::from)?;
        let answered = tally.placed.load(Ordering::Relaxed) + tally.refused.load(Ordering::Relaxed);
        let lag = if with_lag && open == 0 && rows.pending == 0 {
            match total_lag(self.client, &subscriptions(&self.flow.topics), ASK_DEADLINE).await {
                Ok(lag) => Some(lag),
                Err(e) if e.is_retriable() => None,
                Err(e) => return Err(e.into()),
            }
        } else {
            None
        };
        Ok(Snapshot {
            orders: (answered, self.options.orders),
            settled: (orders - open, orders),
            pending_rows: rows.pending,
            effects,
            lag,
        })
    }
}

/// Enough of them that most have no retried event: see [`super::faults::plan`].
fn customers(orders: u64) -> u64 {
    (orders / 4).max(1)
}

fn print_ledger(ledger: &Ledger, extras: &Extras, took: Duration) {
    let counts = &ledger.report.counts;
    let groups = ledger.effects.len();
    let orders: Vec<String> = ledger
        .orders
        .iter()
        .map(|(state, n)| format!("{n} {state}"))
        .collect();
    println!(
        "\nledger, from what the stores and topics hold, {:.1} s after the start",
        took.as_secs_f32()
    );
    println!(
        "  orders            {} in the database: {}",
        ledger.orders.values().sum::<usize>(),
        orders.join(", ")
    );
    println!(
        "  outbox            {} rows, {} sent, {} parked",
        counts.rows, counts.rows_sent, counts.rows_parked
    );
    for (group, effects) in &ledger.effects {
        println!("  {group:<17} told customers of {effects} events");
    }
    println!(
        "  retried           {} of these messages took more than one attempt, as planned",
        ledger.retried
    );
    println!(
        "  dead letters      {} of {}: {} planned, and {} records that are no JSON in {groups} groups",
        counts.dead_letters,
        counts.failed_for_good,
        counts.failed_for_good - extras.poison.len() * groups,
        extras.poison.len()
    );
    println!(
        "  copies            {} records stand twice in a topic: {} events sent again on purpose, {} by lost answers; {} second effects",
        ledger.copies,
        extras.copies,
        ledger.resent(extras),
        ledger.report.duplicated()
    );
    println!(
        "  delayed           {} of {} messages came to their topic, {} early, at most {} ms late",
        ledger.delayed.1, ledger.delayed.0, ledger.early, ledger.delayed.2
    );
    println!(
        "  order             {} of {} customers judged (counted in each group); {} left out, because an event of theirs was retried",
        counts.keys_judged,
        counts.keys_judged + counts.keys_left_out,
        counts.keys_left_out
    );
    for violation in ledger.report.violations.iter().take(20) {
        println!("  VIOLATION         {violation}");
    }
    println!("{}", ledger.verdict());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::order_flow::event::{EventKind, OrderEvent};
    use crate::order_flow::faults::{Plan, is_sent_twice, plan, stays_unpaid};
    use crate::order_flow::topics::NOTIFY_GROUPS;
    use std::collections::BTreeSet;

    /// The load of `cargo xtask demo`, as everything but the timing of the run plans it.
    #[test]
    fn every_fault_occurs_and_most_customers_are_judged() {
        let orders = 400;
        let (mut keys, mut left_out, mut twice) = (BTreeSet::new(), BTreeSet::new(), 0);
        let (mut once, mut more, mut always) = (0, 0, 0);
        for n in (0..orders).filter(|n| !load::is_refused(*n)) {
            let order = load::order_id(n);
            let last = if stays_unpaid(&order) {
                EventKind::Closed
            } else {
                EventKind::Paid
            };
            for kind in [EventKind::Created, last] {
                let id = OrderEvent::id(&order, kind);
                twice += u32::from(is_sent_twice(&id));
                for group in NOTIFY_GROUPS {
                    let key = (group, n % customers(orders));
                    keys.insert(key);
                    let plan = plan(group, &id);
                    match plan {
                        Plan::Succeed => continue,
                        Plan::FailFirst(1) => once += 1,
                        Plan::FailFirst(_) => more += 1,
                        Plan::FailAlways => always += 1,
                    }
                    left_out.insert(key);
                }
            }
        }
        assert!(
            left_out.len() * 4 <= keys.len(),
            "{} of {}",
            left_out.len(),
            keys.len()
        );
        assert!(
            once >= 10 && more >= 3 && always >= 3,
            "{once} {more} {always}"
        );
        assert!(twice >= 30, "{twice}");
    }
}
