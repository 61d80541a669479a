//! One Kafka node: its settings, its folder, its process.

use super::guard::Guard;
use super::{HarnessError, Jars};
use rustix::process::{Pid, Signal, kill_process};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::process::{Child, Command};

/// Small heaps and the quick compiler: these brokers live for seconds.
const JAVA_OPTIONS: [&str; 5] = [
    "-Xmx512m",
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    "-Xshare:auto",
    "-Dorg.slf4j.simpleLogger.showDateTime=true",
];

/// How long a node may take to stop after SIGTERM.
const STOP_WITHIN: Duration = Duration::from_secs(40);

#[derive(Debug)]
pub(super) struct Node {
    /// Kafka's node id: 1, 2, 3.
    pub(super) id: i32,
    pub(super) address: String,
    /// The proxy's port, and where it leads.
    pub(super) proxy_route: (u16, u16),
    folder: PathBuf,
    state: State,
}

#[derive(Debug)]
enum State {
    Down,
    Up(Box<Process>),
}

#[derive(Debug)]
struct Process {
    child: Child,
    _guard: Guard,
}

/// The ports of a node.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ports {
    pub(super) broker: u16,
    pub(super) controller: u16,
    /// For clients that come through a proxy, which has the last one.
    pub(super) outer: u16,
    pub(super) proxy: u16,
}

/// What all nodes of a cluster must agree on.
#[derive(Debug)]
pub(super) struct Layout {
    /// Those of each node.
    pub(super) ports: Vec<Ports>,
    /// The user's own settings; they come last, so that they win.
    pub(super) properties: Vec<(String, String)>,
    /// Arguments of `format`.
    pub(super) format: Vec<String>,
}

impl Layout {
    fn properties(&self, index: usize, data: &Path) -> String {
        let voters = self.ports.iter().enumerate();
        let voters: Vec<String> = voters
            .map(|(at, ports)| format!("{}@127.0.0.1:{}", at + 1, ports.controller))
            .collect();
        let Ports {
            broker,
            controller,
            outer,
            proxy,
        } = self.ports[index];
        let replicas = self.ports.len();
        let in_sync = if replicas > 1 { 2 } else { 1 };
        let mut text = format!(
            "process.roles=broker,controller\n\
             node.id={}\n\
             controller.quorum.voters={}\n\
             listeners=PLAINTEXT://127.0.0.1:{broker},CONTROLLER://127.0.0.1:{controller}\n\
             advertised.listeners=PLAINTEXT://127.0.0.1:{broker}\n\
             listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT\n\
             controller.listener.names=CONTROLLER\n\
             inter.broker.listener.name=PLAINTEXT\n\
             log.dirs={}\n\
             default.replication.factor={replicas}\n\
             offsets.topic.replication.factor={replicas}\n\
             transaction.state.log.replication.factor={replicas}\n\
             share.coordinator.state.topic.replication.factor={replicas}\n\
             min.insync.replicas={in_sync}\n\
             transaction.state.log.min.isr={in_sync}\n\
             share.coordinator.state.topic.min.isr={in_sync}\n",
            index + 1,
            voters.join(","),
            data.display(),
        );
        text.push_str(QUICK);
        for (name, value) in &self.properties {
            let value = value
                .replace("{node.id}", &(index + 1).to_string())
                .replace("{broker.port}", &broker.to_string())
                .replace("{controller.port}", &controller.to_string())
                .replace("{outer.port}", &outer.to_string())
                .replace("{proxy.port}", &proxy.to_string());
            text.push_str(&format!("{name}={value}\n"));
        }
        text
    }
}

/// Settings that make failures show in seconds and keep a node small.
const QUICK: &str = "\
auto.create.topics.enable=false
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
group.consumer.min.session.timeout.ms=1000
group.consumer.session.timeout.ms=6000
group.consumer.min.heartbeat.interval.ms=500
group.consumer.heartbeat.interval.ms=1000
offsets.topic.num.partitions=6
transaction.state.log.num.partitions=6
share.coordinator.state.topic.num.partitions=3
broker.session.timeout.ms=4000
broker.heartbeat.interval.ms=500
num.network.threads=2
num.io.threads=4
log.cleaner.dedupe.buffer.size=16777216
";

impl Node {
    /// Writes the settings and formats the storage.
    pub(super) async fn format(
        layout: &Layout,
        index: usize,
        cluster_id: &str,
        parent: &Path,
        jars: &Jars,
    ) -> Result<Self, HarnessError> {
        let id = index as i32 + 1;
        let folder = parent.join(format!("node-{id}"));
        fs::create_dir_all(&folder).map_err(HarnessError::io("create a node's folder"))?;
        let settings = folder.join("server.properties");
        fs::write(&settings, layout.properties(index, &folder.join("data")))
            .map_err(HarnessError::io("write server.properties"))?;
        let ports = layout.ports[index];
        let address = format!("127.0.0.1:{}", ports.broker);
        let node = Self {
            id,
            address,
            proxy_route: (ports.proxy, ports.outer),
            folder,
            state: State::Down,
        };

        let mut command = jars.java(&JAVA_OPTIONS, "kafka.tools.StorageTool");
        command
            .args(["format", "-t", cluster_id, "-c"])
            .arg(&settings)
            .args(&layout.format);
        let status = node.spawn(&mut command)?.wait().await;
        let status = status.map_err(HarnessError::io("wait for the storage tool"))?;
        if status.success() {
            Ok(node)
        } else {
            Err(node.ended("the storage tool", status))
        }
    }

    /// `java` are options on top of the harness's own.
    pub(super) fn start(&mut self, jars: &Jars, java: &[String]) -> Result<(), HarnessError> {
        if self.running().is_some() {
            return Err(self.problem("is already running"));
        }
        let options: Vec<&str> = JAVA_OPTIONS
            .into_iter()
            .chain(java.iter().map(String::as_str))
            .collect();
        let mut command = jars.java(&options, "kafka.Kafka");
        command.arg(self.folder.join("server.properties"));
        let child = self.spawn(&mut command)?;
        let guard = Guard::of(&child)?;
        self.state = State::Up(Box::new(Process {
            child,
            _guard: guard,
        }));
        Ok(())
    }

    fn spawn(&self, command: &mut Command) -> Result<Child, HarnessError> {
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.log_path());
        let log = log.map_err(HarnessError::io("open a node's log"))?;
        let copy = log
            .try_clone()
            .map_err(HarnessError::io("open a node's log"))?;
        let spawned = command
            .current_dir(&self.folder)
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(copy)
            .kill_on_drop(true)
            .spawn();
        spawned.map_err(|source| HarnessError::Spawn {
            program: "java".to_owned(),
            source,
        })
    }

    /// The process id, if the node runs.
    pub(super) fn running(&self) -> Option<u32> {
        match &self.state {
            State::Up(process) => process.child.id(),
            State::Down => None,
        }
    }

    /// An error if the node ended by itself.
    pub(super) fn check_alive(&mut self) -> Result<(), HarnessError> {
        let State::Up(process) = &mut self.state else {
            return Err(self.problem("is down"));
        };
        match process
            .child
            .try_wait()
            .map_err(HarnessError::io("look at a node"))?
        {
            None => Ok(()),
            Some(status) => {
                self.state = State::Down;
                Err(self.ended("kafka", status))
            }
        }
    }

    /// SIGKILL, and waits until the process is gone.
    pub(super) async fn kill(&mut self) -> Result<(), HarnessError> {
        let State::Up(mut process) = std::mem::replace(&mut self.state, State::Down) else {
            return Err(self.problem("is down"));
        };
        process
            .child
            .kill()
            .await
            .map_err(HarnessError::io("kill a node"))
    }

    /// SIGTERM: the node hands its leaderships over and ends.
    pub(super) async fn terminate(&mut self) -> Result<(), HarnessError> {
        self.signal(Signal::TERM)?;
        let State::Up(mut process) = std::mem::replace(&mut self.state, State::Down) else {
            return Err(self.problem("is down"));
        };
        match tokio::time::timeout(STOP_WITHIN, process.child.wait()).await {
            Ok(waited) => waited
                .map(drop)
                .map_err(HarnessError::io("wait for a node")),
            Err(_) => Err(HarnessError::TimedOut {
                what: format!("the stop of node {}", self.id),
                within: STOP_WITHIN,
                tail: self.tail(30),
            }),
        }
    }

    pub(super) fn signal(&self, signal: Signal) -> Result<(), HarnessError> {
        let pid = self
            .running()
            .and_then(|pid| Pid::from_raw(pid.cast_signed()));
        let pid = pid.ok_or_else(|| self.problem("is down"))?;
        kill_process(pid, signal).map_err(|error| HarnessError::io("signal a node")(error.into()))
    }

    pub(super) fn log_path(&self) -> PathBuf {
        self.folder.join("kafka.log")
    }

    /// The last lines of the node's log.
    pub(super) fn tail(&self, lines: usize) -> String {
        let text = fs::read(self.log_path()).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let all: Vec<&str> = text.lines().collect();
        all[all.len().saturating_sub(lines)..].join("\n")
    }

    fn ended(&self, program: &str, status: std::process::ExitStatus) -> HarnessError {
        HarnessError::Ended {
            program: format!("{program} (node {})", self.id),
            status: status.to_string(),
            tail: self.tail(40),
        }
    }

    fn problem(&self, problem: &'static str) -> HarnessError {
        HarnessError::Node {
            node: self.id as usize - 1,
            problem,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ports(first: u16) -> Ports {
        Ports {
            broker: first,
            controller: first + 1,
            outer: first + 10,
            proxy: first + 20,
        }
    }

    #[test]
    fn three_nodes_share_the_voters_and_the_users_settings_win() {
        let layout = Layout {
            ports: [1, 3, 5].map(ports).into(),
            properties: vec![
                ("listeners".to_owned(), "A://h:{broker.port}".to_owned()),
                ("num.io.threads".to_owned(), "1".to_owned()),
            ],
            format: Vec::new(),
        };
        let text = layout.properties(1, Path::new("data"));
        assert!(text.contains("node.id=2\n"));
        assert!(text.contains("voters=1@127.0.0.1:2,2@127.0.0.1:4,3@127.0.0.1:6\n"));
        assert!(text.contains("min.insync.replicas=2\n"));
        assert!(text.ends_with("listeners=A://h:3\nnum.io.threads=1\n"));
    }
}
