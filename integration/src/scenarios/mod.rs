//! The end-to-end scenarios and what runs them.
//!
//! A scenario is one function that gets a [`Context`]: the cluster, a folder of its own and names
//! that no other run uses. It fails by an error or a panic, or by taking longer than its limit. The
//! [`runner`] starts clusters, and gives a scenario a new one after a failure.

mod admin;
mod bad_input;
mod broker_smoke;
mod chain;
mod client_conformance;
mod codecs;
mod exactly_once;
mod foreign_clients;
mod leaders;
mod log_upkeep;
mod members;
mod order_flow;
mod plain_consumer;
pub mod runner;
mod secured_flow;
mod security;
mod transactions;

use crate::Failure;
use crate::harness::{Fetch, HarnessError, Jars, KafkaCluster};
use ottla::consumer::GroupProtocol;
use ottla_client::{Client, ClientConfig, TransportKind};
use std::path::Path;
use std::pin::Pin;
use std::time::Duration;
use tempfile::TempDir;

/// How a scenario ends.
pub type Outcome = Result<(), Failure>;
/// A scenario at work, on the thread of the runner.
pub type Running<'a> = Pin<Box<dyn Future<Output = Outcome> + 'a>>;

const NATIVE: &[TransportKind] = &[TransportKind::Native];

/// Every scenario, in the order in which they run.
pub const ALL: &[Scenario] = &[
    Scenario {
        name: "broker-smoke",
        about: "writes and reads; a node is killed and comes back",
        needs: Needs::Cluster,
        nodes: &[1, 3],
        transports: NATIVE,
        suites: &[Suite::Ci, Suite::Full],
        within: Duration::from_secs(150),
        run: |context| Box::pin(broker_smoke::run(context)),
    },
    Scenario {
        name: "order-flow",
        about: "the order flow in processes of its own, nothing is killed",
        needs: Needs::Cluster,
        nodes: &[1, 3],
        transports: TransportKind::ALL,
        suites: &[Suite::Ci, Suite::Full],
        within: Duration::from_secs(240),
        run: |context| Box::pin(order_flow::undisturbed(context)),
    },
    Scenario {
        name: "broker-kill",
        about: "the order flow; a broker is killed with -9 in the middle and comes back",
        needs: Needs::Harness,
        nodes: &[1, 3],
        transports: TransportKind::ALL,
        suites: &[Suite::Ci, Suite::Full],
        within: Duration::from_secs(240),
        run: |context| Box::pin(order_flow::broker_kill(context)),
    },
    Scenario {
        name: "consumer-kill",
        about: "the order flow; the consumers' process is killed with -9 in the middle",
        needs: Needs::Cluster,
        nodes: &[1, 3],
        transports: NATIVE,
        suites: &[Suite::Ci, Suite::Full],
        within: Duration::from_secs(240),
        run: |context| Box::pin(order_flow::consumer_kill(context)),
    },
    Scenario {
        name: "relay-kill",
        about: "the order flow; the process with the relay is killed with -9 in the middle",
        needs: Needs::Cluster,
        nodes: &[1, 3],
        transports: NATIVE,
        suites: &[Suite::Ci, Suite::Full],
        within: Duration::from_secs(240),
        run: |context| Box::pin(order_flow::relay_kill(context)),
    },
    Scenario {
        name: "graceful-stop",
        about: "the order flow; both processes get SIGTERM under load and start again",
        needs: Needs::Cluster,
        nodes: &[1, 3],
        transports: NATIVE,
        suites: &[Suite::Ci, Suite::Full],
        within: Duration::from_secs(240),
        run: |context| Box::pin(order_flow::graceful_stop(context)),
    },
    Scenario {
        name: "chain",
        about: "three chained groups; members come and go, connections are cut all the time",
        needs: Needs::Harness,
        nodes: &[3],
        transports: NATIVE,
        suites: &[Suite::Ci, Suite::Full],
        within: Duration::from_secs(600),
        run: |context| Box::pin(chain::run(context)),
    },
    Scenario {
        name: "leaders",
        about: "reading from the replica of one's rack; a log that an unclean election has cut",
        needs: Needs::Harness,
        nodes: &[3],
        // The other one knows neither racks nor epochs.
        transports: NATIVE,
        suites: &[Suite::Ci, Suite::Full],
        within: Duration::from_secs(240),
        run: |context| Box::pin(leaders::run(context)),
    },
    Scenario {
        name: "rolling-deploy",
        about: "members are replaced one by one: nothing comes twice; the gaps are measured",
        needs: Needs::Cluster,
        nodes: &[3],
        transports: NATIVE,
        suites: &[Suite::Ci, Suite::Full],
        within: Duration::from_secs(150),
        run: |context| Box::pin(members::deploy(context)),
    },
    Scenario {
        name: "rolling-restart",
        about: "brokers are restarted one by one: static members see no rebalance",
        needs: Needs::Harness,
        nodes: &[3],
        transports: NATIVE,
        suites: &[Suite::Full],
        within: Duration::from_secs(200),
        run: |context| Box::pin(members::restart(context)),
    },
    Scenario {
        name: "member-kill",
        about: "a member is killed with -9: how soon its partitions are taken over",
        needs: Needs::Cluster,
        nodes: &[3],
        transports: NATIVE,
        suites: &[Suite::Ci, Suite::Full],
        within: Duration::from_secs(120),
        run: |context| Box::pin(members::member_kill(context)),
    },
    Scenario {
        name: "zombie",
        about: "a member, and one in a transaction, are frozen beyond their sessions: no effects",
        needs: Needs::Cluster,
        nodes: &[3],
        transports: NATIVE,
        suites: &[Suite::Ci, Suite::Full],
        within: Duration::from_secs(240),
        run: |context| {
            Box::pin(async {
                exactly_once::frozen(context).await?;
                members::zombie(context).await
            })
        },
    },
    Scenario {
        name: "slow-handler",
        about: "a call of 3 minutes in a session of 45 seconds: no rebalance",
        needs: Needs::Cluster,
        nodes: &[3],
        transports: NATIVE,
        suites: &[Suite::Full],
        within: Duration::from_secs(330),
        run: |context| Box::pin(members::slow_handler(context)),
    },
    Scenario {
        name: "plain-consumer",
        about: "two plain consumers in a group: commits, a seek, a take-over, listeners; topics by an expression",
        needs: Needs::Cluster,
        nodes: &[1, 3],
        transports: NATIVE,
        suites: &[Suite::Ci, Suite::Full],
        within: Duration::from_secs(120),
        run: |context| Box::pin(plain_consumer::run(context)),
    },
    Scenario {
        name: "bad-input",
        about: "wrong addresses, topics, bodies, settings and sizes, a broker that stands still",
        needs: Needs::Cluster,
        nodes: &[1],
        transports: NATIVE,
        suites: &[Suite::Ci, Suite::Full],
        within: Duration::from_secs(150),
        run: |context| Box::pin(bad_input::run(context)),
    },
    Scenario {
        name: "client-conformance",
        about: "the client's own scenarios with the broker as the judge",
        needs: Needs::Cluster,
        nodes: &[1],
        transports: NATIVE,
        suites: &[Suite::Ci, Suite::Full],
        within: Duration::from_secs(300),
        run: |context| Box::pin(client_conformance::run(context)),
    },
    Scenario {
        name: "admin",
        about: "settings, partitions, records, a group and its offsets, changed and read back",
        needs: Needs::Cluster,
        nodes: &[1, 3],
        transports: NATIVE,
        suites: &[Suite::Ci, Suite::Full],
        within: Duration::from_secs(120),
        run: |context| Box::pin(admin::run(context)),
    },
    Scenario {
        name: "codecs-read-back",
        about: "batches compressed by us, checked by the broker, read by kcat and the Java client",
        needs: Needs::Harness,
        nodes: &[1],
        transports: NATIVE,
        suites: &[Suite::Ci, Suite::Full],
        within: Duration::from_secs(150),
        run: |context| Box::pin(codecs::on_kafka(context)),
    },
    Scenario {
        name: "log-upkeep",
        about: "quotas, compaction and retention, while records are written and read",
        needs: Needs::Harness,
        nodes: &[1],
        // The other one writes again what was throttled, without end.
        transports: NATIVE,
        suites: &[Suite::Ci, Suite::Full],
        within: Duration::from_secs(200),
        run: |context| Box::pin(log_upkeep::run(context)),
    },
    Scenario {
        name: "kcat-codecs",
        about: "kcat reads batches compressed by us from the mock cluster",
        needs: Needs::MockCluster,
        nodes: &[1],
        transports: NATIVE,
        suites: &[Suite::Ci, Suite::Full],
        within: Duration::from_secs(60),
        run: |context| Box::pin(codecs::on_mock(context)),
    },
    Scenario {
        name: "security",
        about: "TLS and SASL in every combination, records and groups over them while sessions end, with a broker of its own as the judge",
        needs: Needs::Harness,
        nodes: &[1],
        transports: NATIVE,
        suites: &[Suite::Ci, Suite::Full],
        within: Duration::from_secs(300),
        run: |context| Box::pin(security::run(context)),
    },
    Scenario {
        name: "transactions",
        about: "commit, abort, fencing, time-outs, a commit without an answer; readers see what was committed",
        needs: Needs::Cluster,
        nodes: &[1, 3],
        // The other one knows no transactions.
        transports: NATIVE,
        suites: &[Suite::Ci, Suite::Full],
        within: Duration::from_secs(120),
        run: |context| Box::pin(transactions::run(context)),
    },
    Scenario {
        name: "exactly-once",
        about: "consume-transform-produce by the runner; processes and a broker are killed with -9",
        needs: Needs::Cluster,
        nodes: &[1, 3],
        transports: NATIVE,
        suites: &[Suite::Ci, Suite::Full],
        within: Duration::from_secs(150),
        run: |context| Box::pin(exactly_once::run(context)),
    },
    Scenario {
        name: "kcat-produce-consume",
        about: "kcat writes to the mock cluster and reads back, headers included",
        needs: Needs::MockCluster,
        nodes: &[1],
        transports: NATIVE,
        suites: &[Suite::Ci, Suite::Full],
        within: Duration::from_secs(60),
        run: |context| Box::pin(foreign_clients::produce_and_consume(context)),
    },
    Scenario {
        name: "go-groups",
        about: "franz-go and sarama share a topic of the mock cluster in groups of both protocols",
        needs: Needs::MockCluster,
        nodes: &[1],
        transports: NATIVE,
        suites: &[Suite::Ci, Suite::Full],
        within: Duration::from_secs(400),
        run: |context| Box::pin(foreign_clients::go_groups(context)),
    },
    Scenario {
        name: "kcat-group",
        about: "two kcats share a topic of the mock cluster in a group and commit",
        needs: Needs::MockCluster,
        nodes: &[1],
        transports: NATIVE,
        suites: &[Suite::Ci, Suite::Full],
        within: Duration::from_secs(90),
        run: |context| Box::pin(foreign_clients::group(context)),
    },
];

/// One scenario.
#[derive(Debug, Clone, Copy)]
pub struct Scenario {
    /// What `--scenario` takes.
    pub name: &'static str,
    /// One line for the list.
    pub about: &'static str,
    /// Where it can run.
    pub needs: Needs,
    /// The cluster sizes that it runs on.
    pub nodes: &'static [usize],
    /// The transports that it runs on, unless one is asked for.
    pub transports: &'static [TransportKind],
    /// Where it belongs.
    pub suites: &'static [Suite],
    /// Its limit; a run that takes longer has failed.
    pub within: Duration,
    /// What it does.
    pub run: for<'a> fn(&'a mut Context) -> Running<'a>,
}

/// Where a scenario can run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Needs {
    /// Any real cluster; it may do more on one whose nodes the harness can kill.
    Cluster,
    /// A real cluster whose nodes the harness can kill.
    Harness,
    /// The mock cluster, which it starts itself.
    MockCluster,
}

/// `--suite`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Suite {
    /// What every change must pass.
    Ci,
    /// Everything.
    Full,
}

/// `--broker`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Broker {
    /// Apache Kafka, started by the harness.
    Kafka,
    /// Redpanda, started by compose before.
    Redpanda,
    /// The mock cluster, for foreign clients.
    Mock,
    /// A cluster that is there.
    External,
}

impl Broker {
    /// The name on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Kafka => "kafka",
            Self::Redpanda => "redpanda",
            Self::Mock => "mock",
            Self::External => "external",
        }
    }

    /// Whether a scenario with these needs can run on it.
    pub const fn offers(self, needs: Needs) -> bool {
        match needs {
            Needs::Cluster => !matches!(self, Self::Mock),
            Needs::Harness => matches!(self, Self::Kafka),
            Needs::MockCluster => matches!(self, Self::Mock),
        }
    }
}

/// What a scenario works with.
#[derive(Debug)]
pub struct Context {
    cluster: Cluster,
    nodes: usize,
    transport: TransportKind,
    suite: Suite,
    /// The version that is started, where the harness starts one.
    kafka: String,
    fetch: Fetch,
    folder: TempDir,
    run_id: String,
}

#[derive(Debug)]
enum Cluster {
    Harness(Box<KafkaCluster>),
    External(String),
    /// The scenario starts what it needs.
    None,
}

impl Context {
    /// The cluster's addresses, joined by commas; empty for scenarios of the mock cluster.
    pub fn bootstrap(&self) -> String {
        match &self.cluster {
            Cluster::Harness(cluster) => cluster.bootstrap(),
            Cluster::External(bootstrap) => bootstrap.clone(),
            Cluster::None => String::new(),
        }
    }

    /// The size of the cluster.
    pub fn nodes(&self) -> usize {
        self.nodes
    }

    /// The replication that topics of a scenario have.
    pub fn replication(&self) -> i16 {
        if self.nodes >= 3 { 3 } else { 1 }
    }

    /// The cluster, if its nodes can be killed.
    pub fn kafka(&mut self) -> Option<&mut KafkaCluster> {
        match &mut self.cluster {
            Cluster::Harness(cluster) => Some(cluster),
            Cluster::External(_) | Cluster::None => None,
        }
    }

    /// The cluster of a scenario with [`Needs::Harness`].
    ///
    /// # Errors
    /// If the runner gave it another one.
    pub fn harness(&mut self) -> Result<&mut KafkaCluster, Failure> {
        self.kafka()
            .ok_or_else(|| "the nodes of this cluster cannot be killed".into())
    }

    /// The Kafka of this run, for a scenario that starts a cluster of its own.
    ///
    /// # Errors
    /// Those of [`Jars::locate`].
    pub async fn jars(&self) -> Result<Jars, HarnessError> {
        Jars::locate(&self.kafka, self.fetch).await
    }

    /// What beside classic groups is to be tried: groups of KIP-848, or `auto` where they are a preview
    /// that is switched off, as in Kafka 3. A run that leaves them out says so.
    pub fn other_groups(&self) -> GroupProtocol {
        if self.is_kafka_3() {
            println!(
                "left out: groups of KIP-848, which Kafka {} has as a preview only; `auto` in their place",
                self.kafka
            );
            return GroupProtocol::Auto;
        }
        GroupProtocol::Consumer
    }

    /// Whether the harness has started a Kafka 3.
    pub fn is_kafka_3(&self) -> bool {
        matches!(self.cluster, Cluster::Harness(_)) && self.kafka.starts_with("3.")
    }

    /// The transport that was asked for.
    pub fn transport(&self) -> TransportKind {
        self.transport
    }

    /// Whether this is the long form of the scenarios.
    pub fn is_full(&self) -> bool {
        self.suite == Suite::Full
    }

    /// A client's settings for the cluster and the transport of this run.
    pub fn client_config(&self) -> ClientConfig {
        let mut config = ClientConfig::new(&self.bootstrap());
        config.transport = self.transport;
        config
    }

    /// A client of the cluster.
    ///
    /// # Errors
    /// The client's.
    pub async fn client(&self) -> Result<Client, ottla_client::Error> {
        Client::connect(self.client_config()).await
    }

    /// A folder for the files of this scenario.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A name that no other run uses, for topics and groups.
    pub fn unique(&self, name: &str) -> String {
        format!("{name}-{}", self.run_id)
    }
}
