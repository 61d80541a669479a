//! A real Apache Kafka cluster of one or three combined KRaft nodes.

use super::node::{Layout, Node, Ports};
use super::{BrokerList, HarnessError, Jars, free_ports, probe};
use rustix::process::Signal;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Between two questions to a node that is starting.
const ASK_EVERY: Duration = Duration::from_millis(150);
/// A node that listens answers much sooner.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// How to start a cluster.
#[derive(Debug, Clone)]
pub struct KafkaOptions {
    /// Which Kafka.
    pub jars: Jars,
    /// Broker settings on top of the harness's own; they win. `{node.id}` stands for the node's id,
    /// `{broker.port}`, `{controller.port}`, `{outer.port}` and `{proxy.port}` for its ports.
    pub properties: Vec<(String, String)>,
    /// Arguments of the storage tool's `format`, such as `--add-scram`.
    pub format: Vec<String>,
    /// Options of the Java machine on top of the harness's own; they win.
    pub java: Vec<String>,
    /// How long a start or a restart may take until every running node is in the metadata.
    pub ready_within: Duration,
}

impl KafkaOptions {
    /// No settings of one's own, and 90 seconds to get ready.
    pub fn new(jars: Jars) -> Self {
        Self {
            jars,
            properties: Vec::new(),
            format: Vec::new(),
            java: Vec::new(),
            ready_within: Duration::from_secs(90),
        }
    }

    /// Adds a broker setting.
    #[must_use]
    pub fn property(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.properties.push((name.into(), value.into()));
        self
    }

    /// Adds a listener on `{outer.port}` whose clients are told to come to `{proxy.port}`: where a
    /// [`Proxies`](super::Proxies) listens, with the cluster's
    /// [`proxy_routes`](KafkaCluster::proxy_routes).
    #[must_use]
    pub fn behind_proxies(self) -> Self {
        let plain = "PLAINTEXT://127.0.0.1:{broker.port}";
        let controller = "CONTROLLER://127.0.0.1:{controller.port}";
        let outer = "OUTER://127.0.0.1:{outer.port}";
        let proxy = "OUTER://127.0.0.1:{proxy.port}";
        self.property("listeners", format!("{plain},{controller},{outer}"))
            .property("advertised.listeners", format!("{plain},{proxy}"))
            .property(
                "listener.security.protocol.map",
                "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,OUTER:PLAINTEXT",
            )
    }

    /// Adds an argument of the storage tool's `format`.
    #[must_use]
    pub fn format(mut self, argument: impl Into<String>) -> Self {
        self.format.push(argument.into());
        self
    }

    /// Adds an option of the Java machine.
    #[must_use]
    pub fn java(mut self, option: impl Into<String>) -> Self {
        self.java.push(option.into());
        self
    }
}

/// A running cluster. Nodes are counted from 0; Kafka's own node ids are one more.
///
/// Dropping it kills every node and removes data and logs; when the drop comes from a panic, or
/// after [`keep_files`](Self::keep_files), the files stay and their place is printed.
#[derive(Debug)]
pub struct KafkaCluster {
    nodes: Vec<Node>,
    options: KafkaOptions,
    folder: Option<TempDir>,
    keep_files: bool,
}

impl KafkaCluster {
    /// Formats and starts `nodes` nodes (1 or 3), and waits until each knows all of them.
    ///
    /// # Errors
    /// Any of [`HarnessError`]; nothing is left running.
    pub async fn start(nodes: usize, options: KafkaOptions) -> Result<Self, HarnessError> {
        let folder = tempfile::Builder::new().prefix("ottla-kafka-").tempdir();
        let folder = folder.map_err(HarnessError::io("create a temporary folder"))?;
        let ports = free_ports(nodes * 4)?;
        let ports = ports.chunks_exact(4).map(|four| Ports {
            broker: four[0],
            controller: four[1],
            outer: four[2],
            proxy: four[3],
        });
        let layout = Layout {
            ports: ports.collect(),
            properties: options.properties.clone(),
            format: options.format.clone(),
        };
        let mut cluster = Self {
            nodes: Vec::with_capacity(nodes),
            options,
            folder: Some(folder),
            keep_files: false,
        };
        let started = cluster.format_and_start(layout).await;
        match started {
            Ok(()) => Ok(cluster),
            Err(error) => {
                cluster.keep_files();
                Err(error)
            }
        }
    }

    async fn format_and_start(&mut self, layout: Layout) -> Result<(), HarnessError> {
        let parent = self
            .folder
            .as_ref()
            .map(|folder| folder.path().to_owned())
            .unwrap_or_default();
        let cluster_id = cluster_id();
        let mut formats = tokio::task::JoinSet::new();
        let layout = std::sync::Arc::new(layout);
        for index in 0..layout.ports.len() {
            let (layout, parent, id) = (layout.clone(), parent.clone(), cluster_id.clone());
            let jars = self.options.jars.clone();
            formats.spawn(async move { Node::format(&layout, index, &id, &parent, &jars).await });
        }
        for node in formats.join_all().await {
            self.nodes.push(node?);
        }
        self.nodes.sort_by_key(|node| node.id);
        for node in &mut self.nodes {
            node.start(&self.options.jars, &self.options.java)?;
        }
        self.wait_ready().await
    }

    /// For each node the port that its proxy has, and where that leads.
    pub fn proxy_routes(&self) -> Vec<(u16, u16)> {
        self.nodes.iter().map(|node| node.proxy_route).collect()
    }

    /// The proxies' addresses, joined by commas.
    pub fn proxied_bootstrap(&self) -> String {
        let routes = self.nodes.iter().map(|node| node.proxy_route);
        let addresses: Vec<_> = routes
            .map(|(port, _)| format!("127.0.0.1:{port}"))
            .collect();
        addresses.join(",")
    }

    /// `host:port` of every node, joined by commas, also of those that are down.
    pub fn bootstrap(&self) -> String {
        let addresses: Vec<&str> = self
            .nodes
            .iter()
            .map(|node| node.address.as_str())
            .collect();
        addresses.join(",")
    }

    /// How many nodes it has, running or not.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Never true; clippy asks for it beside `len`.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// Kafka's node id of a node, as metadata shows it.
    ///
    /// # Errors
    /// `Node` if there is no such node.
    pub fn node_id(&self, node: usize) -> Result<i32, HarnessError> {
        self.nodes
            .get(node)
            .map(|node| node.id)
            .ok_or_else(|| unknown(node))
    }

    /// The node whose Kafka node id this is: what a leader in the metadata names.
    pub fn node_of_id(&self, id: i32) -> Option<usize> {
        self.nodes.iter().position(|node| node.id == id)
    }

    /// Kills a node as a power cut would: SIGKILL, no goodbye.
    ///
    /// # Errors
    /// `Node` if it is not running.
    pub async fn kill9(&mut self, node: usize) -> Result<(), HarnessError> {
        self.node(node)?.kill().await
    }

    /// Stops a node in good order: SIGTERM, at most 40 s.
    ///
    /// # Errors
    /// `Node` if it is not running; `TimedOut` if it does not end (it is killed then).
    pub async fn terminate(&mut self, node: usize) -> Result<(), HarnessError> {
        self.node(node)?.terminate().await
    }

    /// Starts a node again on the same ports and files, and waits until all running nodes know it.
    ///
    /// # Errors
    /// `Node` if it runs already; `Ended` or `TimedOut` if it does not come up.
    pub async fn restart(&mut self, node: usize) -> Result<(), HarnessError> {
        let (jars, java) = (self.options.jars.clone(), self.options.java.clone());
        self.node(node)?.start(&jars, &java)?;
        self.wait_ready().await
    }

    /// Freezes a node: its connections stay open and nothing answers (SIGSTOP).
    ///
    /// # Errors
    /// `Node` if it is not running.
    pub fn freeze(&mut self, node: usize) -> Result<(), HarnessError> {
        self.node(node)?.signal(Signal::STOP)
    }

    /// Lets a frozen node go on (SIGCONT).
    ///
    /// # Errors
    /// `Node` if it is not running.
    pub fn thaw(&mut self, node: usize) -> Result<(), HarnessError> {
        self.node(node)?.signal(Signal::CONT)
    }

    /// Waits until every running node lists exactly the running nodes and a controller.
    ///
    /// # Errors
    /// `Ended` if a node ended by itself; `TimedOut` after the options' `ready_within`.
    pub async fn wait_ready(&mut self) -> Result<(), HarnessError> {
        let within = self.options.ready_within;
        let deadline = Instant::now() + within;
        let up: Vec<i32> = self.up().map(|node| node.id).collect();
        loop {
            let mut agreed = true;
            for node in self.nodes.iter_mut().filter(|node| up.contains(&node.id)) {
                node.check_alive()?;
                let seen = probe::brokers(&node.address, ANSWER_WITHIN).await;
                agreed &= seen.is_ok_and(|seen| seen.ids == up && seen.controller >= 0);
            }
            if agreed {
                return Ok(());
            }
            if Instant::now() >= deadline {
                let tails: Vec<String> = self.up().map(|node| node.tail(15)).collect();
                let what = format!("the agreement of nodes {up:?}");
                return Err(HarnessError::TimedOut {
                    what,
                    within,
                    tail: tails.join("\n--\n"),
                });
            }
            tokio::time::sleep(ASK_EVERY).await;
        }
    }

    /// Whom a node knows now.
    ///
    /// # Errors
    /// `Io` if it does not answer.
    pub async fn seen_by(&mut self, node: usize) -> Result<BrokerList, HarnessError> {
        let address = self.node(node)?.address.clone();
        let seen = probe::brokers(&address, ANSWER_WITHIN).await;
        seen.map_err(HarnessError::io(format!("ask node {node}")))
    }

    /// The last `lines` lines of a node's log.
    pub fn log_tail(&self, node: usize, lines: usize) -> String {
        self.nodes
            .get(node)
            .map(|node| node.tail(lines))
            .unwrap_or_default()
    }

    /// Leaves data and logs where they are when the cluster is dropped.
    pub fn keep_files(&mut self) {
        self.keep_files = true;
    }

    /// Kills every node and removes the files. What a test ends with has no state worth a slow stop.
    ///
    /// # Errors
    /// `Io` if a process cannot be killed.
    pub async fn stop(mut self) -> Result<(), HarnessError> {
        for node in self
            .nodes
            .iter_mut()
            .filter(|node| node.running().is_some())
        {
            node.kill().await?;
        }
        Ok(())
    }

    fn up(&self) -> impl Iterator<Item = &Node> {
        self.nodes.iter().filter(|node| node.running().is_some())
    }

    fn node(&mut self, node: usize) -> Result<&mut Node, HarnessError> {
        self.nodes.get_mut(node).ok_or_else(|| unknown(node))
    }
}

impl Drop for KafkaCluster {
    fn drop(&mut self) {
        // Each node's process is killed by its own drop; only the files are this one's matter.
        if (self.keep_files || std::thread::panicking())
            && let Some(folder) = self.folder.take()
        {
            eprintln!("the brokers' logs are in {}", folder.keep().display());
        }
    }
}

fn unknown(node: usize) -> HarnessError {
    HarnessError::Node {
        node,
        problem: "the cluster has no such node",
    }
}

/// Kafka wants 16 bytes in URL-safe base64: 22 characters, the last of which carries 2 bits.
fn cluster_id() -> String {
    const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
    let mut id: String =
        std::iter::repeat_with(|| char::from(ALPHABET[fastrand::usize(..ALPHABET.len())]))
            .take(21)
            .collect();
    id.push('A');
    id
}
