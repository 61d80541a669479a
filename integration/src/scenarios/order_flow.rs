//! The order flow in two processes, the shop with its relay and the notifying groups, and what may
//! happen to them in the middle. Afterwards the ledger judges what the stores and topics hold.
//!
//! The shop's and the notifiers' databases belong to one process at a time, so a scenario reads them
//! while their process is down, and at the end.

use super::{Context, Outcome};
use crate::Failure;
use crate::harness::{Worker, free_ports, own_program};
use crate::order_flow::extras::Extras;
use crate::order_flow::ledger::{self, Evidence, Places};
use crate::order_flow::load::{self, Load, Tally};
use crate::order_flow::service::subscriptions;
use crate::order_flow::settle::total_lag;
use crate::order_flow::topics::Topics;
use ottla::client::Client;
use ottla::{Producer, ProducerConfig};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::process::Command;
use tokio::time::{Instant, interval, timeout};

const ORDERS: u64 = 900;
const PARTITIONS: i32 = 6;
const POISON: u64 = 2;
const START: Duration = Duration::from_secs(40);
const STOP: Duration = Duration::from_secs(30);
/// How long the customers, and the end of the run, may wait for what was killed.
const PATIENCE: Duration = Duration::from_secs(90);
const ASK: Duration = Duration::from_secs(10);

pub(super) async fn undisturbed(context: &mut Context) -> Outcome {
    let run = Run::start(context).await?;
    let load = run.load();
    load.await?;
    run.finish(Republished::Nothing).await
}

pub(super) async fn broker_kill(context: &mut Context) -> Outcome {
    let run = Run::start(context).await?;
    let (load, tally) = (run.load(), run.tally.clone());
    let orders = run.client.refresh_topic(&run.topics.orders()).await?;
    let kafka = context.harness()?;
    let leader = orders.partitions.first().and_then(|p| p.leader);
    let node = leader
        .and_then(|id| kafka.node_of_id(id))
        .ok_or("partition 0 has no leader")?;
    let disturb = async {
        reached(&tally, ORDERS / 4).await?;
        kafka.kill9(node).await?;
        println!(
            "broker {node} is killed after {} orders",
            tally.placed.load(Ordering::Relaxed)
        );
        if kafka.len() > 1 {
            // The others must go on without it.
            let before = tally.placed.load(Ordering::Relaxed);
            reached(&tally, (before + ORDERS / 4).min(ORDERS * 9 / 10)).await?;
        }
        kafka.restart(node).await?;
        println!(
            "broker {node} is back after {} orders",
            tally.placed.load(Ordering::Relaxed)
        );
        Ok::<(), Failure>(())
    };
    let (load, disturbed) = tokio::join!(load, disturb);
    load?;
    disturbed?;
    run.finish(Republished::ByTheGroups).await
}

pub(super) async fn consumer_kill(context: &mut Context) -> Outcome {
    let mut run = Run::start(context).await?;
    let (load, tally) = (run.load(), run.tally.clone());
    let disturb = async {
        for part in 1..=2 {
            reached(&tally, ORDERS * part / 4).await?;
            run.notifier.kill9().await?;
            println!("the consumers are killed");
            let report = run.evidence_of_notifier().await?.judge_midway();
            println!("  commits and effects at the kill: {report}");
            if !report.is_clean() || report.counts.commits == 0 {
                return Err("at the kill something was committed that was not handled".into());
            }
            run.notifier = run.spawn_notifier().await?;
        }
        Ok::<(), Failure>(())
    };
    let (load, disturbed) = tokio::join!(load, disturb);
    load?;
    disturbed?;
    run.finish(Republished::ByTheKilled).await
}

pub(super) async fn relay_kill(context: &mut Context) -> Outcome {
    let mut run = Run::start(context).await?;
    let (load, tally) = (run.load(), run.tally.clone());
    let disturb = async {
        for part in 1..=2 {
            reached(&tally, ORDERS * part / 4).await?;
            run.shop.kill9().await?;
            println!("the shop with its relay is killed");
            run.shop = run.spawn_shop().await?;
        }
        Ok::<(), Failure>(())
    };
    let (load, disturbed) = tokio::join!(load, disturb);
    load?;
    disturbed?;
    if run.tally.repeated.load(Ordering::Relaxed) == 0 {
        return Err("no customer noticed the kill: it was not in the middle".into());
    }
    run.finish(Republished::ByTheKilled).await
}

pub(super) async fn graceful_stop(context: &mut Context) -> Outcome {
    let mut run = Run::start(context).await?;
    let (load, tally) = (run.load(), run.tally.clone());
    let disturb = async {
        reached(&tally, ORDERS / 4).await?;
        stop(&mut run.notifier).await?;
        let left = run.evidence_of_notifier().await?.done_and_uncommitted();
        if !left.is_empty() {
            return Err(format!("a clean stop left {left:?} done and not committed").into());
        }
        run.notifier = run.spawn_notifier().await?;
        reached(&tally, ORDERS / 2).await?;
        stop(&mut run.shop).await?;
        run.shop = run.spawn_shop().await?;
        Ok::<(), Failure>(())
    };
    let (load, disturbed) = tokio::join!(load, disturb);
    load?;
    disturbed?;
    run.finish(Republished::Nothing).await
}

/// What a scenario may make the processes publish again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Republished {
    Nothing,
    /// What a group published and could not commit, because the coordinator was killed.
    ByTheGroups,
    /// What a killed process had published and not marked.
    ByTheKilled,
}

/// A run of the order flow in processes.
struct Run {
    bootstrap: String,
    transport: &'static str,
    replication: i16,
    topics: Topics,
    places: Places,
    address: String,
    folder: PathBuf,
    client: Client,
    producer: Producer,
    shop: Worker,
    notifier: Worker,
    tally: Arc<Tally>,
    extras: Extras,
}

impl Run {
    async fn start(context: &Context) -> Result<Self, Failure> {
        let folder = context.folder();
        let places = Places {
            shop: folder.join("shop.redb"),
            notifiers: vec![folder.join("notifier.redb")],
            journals: vec![folder.join("deliveries.jsonl")],
        };
        let topics = Topics::new(format!("{}-", context.unique("flow")));
        let address = format!("127.0.0.1:{}", free_ports(1)?[0]);
        let client = context.client().await?;
        let producer = Producer::new(&client, ProducerConfig::default())?;
        let base = Base {
            bootstrap: context.bootstrap(),
            transport: context.transport().name(),
            replication: context.replication(),
            topics: &topics,
            places: &places,
            address: &address,
            folder,
        };
        let shop = base.spawn_shop().await?;
        let notifier = base.spawn_notifier().await?;
        let mut extras = Extras::default();
        extras.send_poison(&producer, &topics, POISON).await?;
        let tally = Arc::new(Tally::default());
        Ok(Self {
            bootstrap: base.bootstrap,
            transport: base.transport,
            replication: base.replication,
            topics,
            places,
            address,
            folder: folder.to_owned(),
            client,
            producer,
            shop,
            notifier,
            tally,
            extras,
        })
    }

    fn base(&self) -> Base<'_> {
        Base {
            bootstrap: self.bootstrap.clone(),
            transport: self.transport,
            replication: self.replication,
            topics: &self.topics,
            places: &self.places,
            address: &self.address,
            folder: &self.folder,
        }
    }

    async fn spawn_shop(&self) -> Result<Worker, Failure> {
        self.base().spawn_shop().await
    }

    async fn spawn_notifier(&self) -> Result<Worker, Failure> {
        self.base().spawn_notifier().await
    }

    /// The customers, at work as soon as they are awaited.
    fn load(&self) -> impl Future<Output = Outcome> + use<> {
        let load = Load {
            orders: ORDERS,
            customers: ORDERS / 3,
            concurrency: 6,
            patience: PATIENCE,
        };
        let (address, tally) = (self.address.clone(), self.tally.clone());
        async move { Ok(load::run(&address, &load, &tally).await?) }
    }

    /// What the notifiers' stores and the topics hold while the notifiers are down.
    async fn evidence_of_notifier(&self) -> Result<Evidence, Failure> {
        Ok(ledger::gather_notifier(&self.client, &self.topics, &self.places).await?)
    }

    /// Sends the copies, waits for rest, stops the processes and judges.
    /// With sequences (KIP-98) a record stands twice in a topic only where a process was killed between
    /// an acknowledgement and the note of it, or where it was sent twice on purpose.
    async fn finish(mut self, republished: Republished) -> Outcome {
        self.extras
            .send_copies(&self.client, &self.producer, &self.topics, PATIENCE)
            .await?;
        self.settled().await?;
        stop(&mut self.shop).await?;
        stop(&mut self.notifier).await?;
        let left = self.producer.close(ASK).await;
        if !left.is_clean() {
            return Err(format!("the producer left {left:?}").into());
        }
        let mut evidence = ledger::gather(
            &self.client,
            &self.topics,
            &self.places,
            ORDERS,
            &self.extras,
        )
        .await?;
        evidence.expect_paid(self.tally.paid.load(Ordering::Relaxed));
        let once = self.client.transport().capabilities().idempotence;
        self.client.close().await;
        let ledger = evidence.judge();
        println!("{}", ledger.report);
        println!(
            "{:?}, {} early, {} customers' requests repeated; {}",
            ledger.orders,
            ledger.early,
            self.tally.repeated.load(Ordering::Relaxed),
            ledger.verdict()
        );
        if !ledger.is_clean() {
            return Err("the ledger is not clean".into());
        }
        let repeated = |topic: &str| ledger.report.repeated.get(topic).copied().unwrap_or(0);
        let copies = match republished {
            _ if !once => 0,
            Republished::Nothing => ledger.resent(&self.extras),
            // What the relay has written.
            Republished::ByTheGroups => {
                let orders = repeated(&self.topics.orders()).saturating_sub(self.extras.copies);
                orders + repeated(&self.topics.payment_delay())
            }
            Republished::ByTheKilled => 0,
        };
        if copies > 0 {
            let places = &ledger.report.repeated;
            return Err(
                format!("{copies} records stand twice without a reason, among {places:?}").into(),
            );
        }
        if ledger.report.counts.effects == 0 || ledger.report.counts.keys_judged == 0 {
            return Err("nothing was judged".into());
        }
        Ok(())
    }

    /// Waits until nothing is left to do.
    async fn settled(&self) -> Outcome {
        let subscriptions = subscriptions(&self.topics);
        let deadline = Instant::now() + PATIENCE;
        let mut pace = interval(Duration::from_millis(200));
        loop {
            pace.tick().await;
            let shop = load::status(&self.address).await;
            let lag = match total_lag(&self.client, &subscriptions, ASK).await {
                Ok(lag) => Some(lag),
                Err(error) if error.is_retriable() => None,
                Err(error) => return Err(error.into()),
            };
            if shop.is_some_and(|s| s.is_settled()) && lag == Some(0) {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(format!(
                    "not settled: shop {shop:?}, lag {lag:?}\nshop: {}\nconsumers: {}",
                    self.shop.tail(60),
                    self.notifier.tail(200)
                )
                .into());
            }
        }
    }
}

/// What starting a process takes.
struct Base<'a> {
    bootstrap: String,
    transport: &'static str,
    replication: i16,
    topics: &'a Topics,
    places: &'a Places,
    address: &'a str,
    /// Where the processes' output goes.
    folder: &'a Path,
}

impl Base<'_> {
    async fn spawn_shop(&self) -> Result<Worker, Failure> {
        let mut command = self.command("shop")?;
        command
            .arg("--database")
            .arg(&self.places.shop)
            .args(["--http", self.address]);
        ready("shop", command, self.folder).await
    }

    async fn spawn_notifier(&self) -> Result<Worker, Failure> {
        let mut command = self.command("notifier")?;
        command.arg("--database").arg(&self.places.notifiers[0]);
        command.arg("--journal").arg(&self.places.journals[0]);
        ready("notifier", command, self.folder).await
    }

    fn command(&self, role: &str) -> Result<Command, Failure> {
        let mut command = Command::new(own_program("order-flow")?);
        command.args(["--role", role, "--bootstrap", &self.bootstrap]);
        command.args([
            "--transport",
            self.transport,
            "--prefix",
            self.topics.prefix(),
        ]);
        command.args(["--partitions", &PARTITIONS.to_string()]);
        command.args(["--replication", &self.replication.to_string()]);
        Ok(command)
    }
}

async fn ready(name: &str, command: Command, folder: &Path) -> Result<Worker, Failure> {
    let worker = Worker::spawn_logged(name, command, folder)?;
    match worker
        .wait_line(|line| line.starts_with("ready"), START)
        .await
    {
        Ok(_) => Ok(worker),
        Err(error) => Err(format!("{name}: {error}\n{}", worker.tail(20)).into()),
    }
}

/// SIGTERM, and the process must say that it left nothing.
async fn stop(worker: &mut Worker) -> Outcome {
    worker.terminate()?;
    let status = worker.wait(STOP).await?;
    let clean = worker.lines().iter().any(|line| line == "stopped cleanly");
    if status.success() && clean {
        Ok(())
    } else {
        Err(format!("{} ended with {status}\n{}", worker.name(), worker.tail(20)).into())
    }
}

/// Waits until so many orders are confirmed.
async fn reached(tally: &Tally, orders: u64) -> Outcome {
    let mut pace = interval(Duration::from_millis(10));
    let waiting = async {
        while tally.placed.load(Ordering::Relaxed) < orders {
            pace.tick().await;
        }
    };
    timeout(PATIENCE, waiting)
        .await
        .map_err(|_| format!("{orders} orders were not placed"))?;
    Ok(())
}
