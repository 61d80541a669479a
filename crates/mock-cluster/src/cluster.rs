//! The cluster as a test holds it: start, stop, break, heal.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::net::TcpSocket;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::builder::{Config, MockClusterBuilder};
use crate::net::{self, Port};
use crate::shared::{HOST, Shared};
use crate::topics::NewTopic;
use crate::{Faults, MockError};

/// A running cluster. Dropping it ends every task and closes every socket; so does
/// [`MockCluster::shutdown`], which also waits for it.
#[derive(Debug)]
pub struct MockCluster {
    pub(crate) shared: Arc<Shared>,
    brokers: tokio::sync::Mutex<BTreeMap<i32, Broker>>,
    timers: Mutex<Option<OwnedTask>>,
}

/// A broker is either running, or its port is held for its return.
#[derive(Debug)]
enum Broker {
    Up(OwnedTask),
    Down(TcpSocket),
    Gone,
}

/// A task that ends with its owner.
#[derive(Debug)]
struct OwnedTask {
    stop: CancellationToken,
    /// Holds the one task.
    task: JoinSet<()>,
}

impl OwnedTask {
    fn start<W: Future<Output = ()> + Send + 'static>(
        work: impl FnOnce(CancellationToken) -> W,
    ) -> Self {
        let stop = CancellationToken::new();
        let mut task = JoinSet::new();
        task.spawn(work(stop.clone()));
        Self { stop, task }
    }

    async fn end(mut self, shared: &Shared) {
        self.stop.cancel();
        while let Some(ended) = self.task.join_next().await {
            net::report(shared, ended);
        }
    }
}

impl MockCluster {
    /// The settings of a cluster to start.
    pub fn builder() -> MockClusterBuilder {
        MockClusterBuilder::new()
    }

    pub(crate) async fn start(config: Config) -> Result<Self, MockError> {
        let shared = Arc::new(Shared::new(config.clone()));
        let mut ports = Vec::new();
        for broker in 1..=config.brokers {
            let number = match config.port {
                0 => 0,
                first => first + (broker - 1) as u16,
            };
            let port = net::hold(number).map_err(|source| MockError::Bind { broker, source })?;
            ports.push((broker, port));
        }
        let mut brokers = BTreeMap::new();
        for (broker, port) in ports {
            let port = Port::listen(port).map_err(|source| MockError::Bind { broker, source })?;
            shared.data().ports.insert(broker, port.number());
            brokers.insert(broker, Broker::Up(spawn_broker(&shared, broker, port)));
        }
        let timers = {
            let shared = Arc::clone(&shared);
            OwnedTask::start(|stop| async move {
                let _ = stop.run_until_cancelled(shared.run_timers()).await;
            })
        };
        Ok(Self {
            shared,
            brokers: tokio::sync::Mutex::new(brokers),
            timers: Mutex::new(Some(timers)),
        })
    }

    /// `host:port` of every broker, up or down, separated by commas.
    pub fn bootstrap(&self) -> String {
        let data = self.shared.data();
        let all: Vec<String> = data
            .ports
            .values()
            .map(|port| format!("{HOST}:{port}"))
            .collect();
        all.join(",")
    }

    /// `host:port` of one broker, up or down; `None` when there is no such broker.
    pub fn broker_addr(&self, broker: i32) -> Option<String> {
        self.shared
            .data()
            .ports
            .get(&broker)
            .map(|port| format!("{HOST}:{port}"))
    }

    /// The ids of all brokers, up or down.
    pub fn broker_ids(&self) -> Vec<i32> {
        self.shared.data().ports.keys().copied().collect()
    }

    /// Creates a topic, its leaders spread over the live brokers in turn.
    ///
    /// # Errors
    /// [`MockError::Topic`] with Kafka's code: a bad name, a bad number, the topic exists.
    pub fn create_topic(&self, name: &str, partitions: i32) -> Result<(), MockError> {
        self.create_topic_with(name, partitions, &[])
    }

    /// Creates a topic with settings; `message.timestamp.type` and `max.message.bytes` have an
    /// effect, others are kept.
    ///
    /// # Errors
    /// As [`MockCluster::create_topic`].
    pub fn create_topic_with(
        &self,
        name: &str,
        partitions: i32,
        configs: &[(&str, &str)],
    ) -> Result<(), MockError> {
        let configs = configs
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect();
        let new = NewTopic {
            name: name.to_owned(),
            partitions,
            replication: -1,
            configs,
        };
        let created = self.shared.data().topics.create(new, false);
        created.map_err(|code| MockError::Topic {
            topic: name.to_owned(),
            code,
        })
    }

    /// Deletes a topic with its records and committed offsets.
    ///
    /// # Errors
    /// [`MockError::Topic`] when there is none.
    pub fn delete_topic(&self, name: &str) -> Result<(), MockError> {
        let deleted = self.shared.data().delete_topic(name);
        deleted.map_err(|code| MockError::Topic {
            topic: name.to_owned(),
            code,
        })
    }

    /// The names of all topics.
    pub fn topics(&self) -> Vec<String> {
        self.shared.data().topics.by_name.keys().cloned().collect()
    }

    /// How many partitions a topic has.
    pub fn partitions(&self, topic: &str) -> Option<i32> {
        let data = self.shared.data();
        let count = data.topics.by_name.get(topic)?.partitions.len();
        i32::try_from(count).ok()
    }

    /// The faults of this cluster.
    pub fn faults(&self) -> &Faults {
        &self.shared.faults
    }

    /// Makes a live broker the leader of a partition; the leader epoch goes up by one.
    ///
    /// # Errors
    /// An unknown partition or broker, or a broker that is down.
    pub fn move_leader(&self, topic: &str, partition: i32, broker: i32) -> Result<(), MockError> {
        let mut data = self.shared.data();
        check_live(&data.topics, broker)?;
        if data.topics.move_leader(topic, partition, broker) {
            return Ok(());
        }
        Err(MockError::UnknownPartition {
            topic: topic.to_owned(),
            partition,
        })
    }

    /// The leader of a partition and its epoch; the leader is `None` while it is down.
    pub fn leader(&self, topic: &str, partition: i32) -> Option<(Option<i32>, i32)> {
        let data = self.shared.data();
        let partition = data.topics.by_name.get(topic)?.partition(partition)?;
        Some((partition.leader, partition.leader_epoch))
    }

    /// Makes a live broker the coordinator of a group. Members that wait are told
    /// NOT_COORDINATOR; members, generation and offsets move along.
    ///
    /// # Errors
    /// An unknown broker, or one that is down.
    pub fn move_coordinator(&self, group: &str, broker: i32) -> Result<(), MockError> {
        let now = self.shared.now_ms();
        let mut data = self.shared.data();
        let data = &mut *data;
        check_live(&data.topics, broker)?;
        data.coordinators.move_to(group, broker, &data.topics, now);
        self.shared.timer.notify_one();
        Ok(())
    }

    /// The coordinator of a group; `None` while it is down.
    pub fn coordinator(&self, group: &str) -> Option<i32> {
        let mut data = self.shared.data();
        let data = &mut *data;
        data.coordinators.find(group, &data.topics).ok()
    }

    /// Closes the broker's port and connections at once. Its partitions and groups move to the
    /// next live broker, or wait for its return when the cluster is not replicated. No data is
    /// lost. When the call returns, nothing listens on the port; it is held, so that nobody else
    /// gets it. To be awaited to its end: a call dropped half-way leaves the broker neither up nor
    /// properly down, until it is restarted.
    ///
    /// # Errors
    /// An unknown broker, or one that is down already.
    pub async fn kill(&self, broker: i32) -> Result<(), MockError> {
        let mut brokers = self.brokers.lock().await;
        let slot = brokers
            .get_mut(&broker)
            .ok_or(MockError::UnknownBroker(broker))?;
        let task = match std::mem::replace(slot, Broker::Gone) {
            Broker::Up(task) => task,
            down => {
                *slot = down;
                return Err(MockError::BrokerDown(broker));
            }
        };
        task.end(&self.shared).await;
        let port = {
            let now = self.shared.now_ms();
            let mut data = self.shared.data();
            let data = &mut *data;
            data.broker_down(broker, now);
            data.ports.get(&broker).copied().unwrap_or_default()
        };
        let held = net::hold(port).map_err(|source| MockError::Bind { broker, source })?;
        *slot = Broker::Down(held);
        self.shared.timer.notify_one();
        Ok(())
    }

    /// Starts a killed broker again on its old port. It leads what has no leader; leadership that
    /// moved away stays where it is.
    ///
    /// # Errors
    /// An unknown broker, one that is up, [`MockError::Bind`] when the port was taken, or
    /// [`MockError::ShutDown`].
    pub async fn restart(&self, broker: i32) -> Result<(), MockError> {
        let mut brokers = self.brokers.lock().await;
        if self
            .timers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .is_none()
        {
            return Err(MockError::ShutDown);
        }
        let slot = brokers
            .get_mut(&broker)
            .ok_or(MockError::UnknownBroker(broker))?;
        let held = match std::mem::replace(slot, Broker::Gone) {
            Broker::Down(held) => held,
            Broker::Gone => {
                let port = self.shared.data().port(broker);
                let port = u16::try_from(port).unwrap_or_default();
                net::hold(port).map_err(|source| MockError::Bind { broker, source })?
            }
            up => {
                *slot = up;
                return Err(MockError::BrokerUp(broker));
            }
        };
        let port = Port::listen(held).map_err(|source| MockError::Bind { broker, source })?;
        {
            let now = self.shared.now_ms();
            let mut data = self.shared.data();
            data.broker_up(broker, now);
        }
        *slot = Broker::Up(spawn_broker(&self.shared, broker, port));
        self.shared.timer.notify_one();
        Ok(())
    }

    /// Whether a broker is up.
    pub fn is_up(&self, broker: i32) -> bool {
        self.shared.data().topics.is_up(broker)
    }

    /// Ends every task and closes every socket, and waits until that is done. The data can still
    /// be inspected. A second call does nothing.
    pub async fn shutdown(&self) {
        let mut brokers = self.brokers.lock().await;
        for slot in brokers.values_mut() {
            if let Broker::Up(task) = std::mem::replace(slot, Broker::Gone) {
                task.end(&self.shared).await;
            }
        }
        let timers = self
            .timers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(timers) = timers {
            timers.end(&self.shared).await;
        }
    }
}

pub(crate) fn check_live(topics: &crate::topics::Topics, broker: i32) -> Result<(), MockError> {
    match topics.brokers.get(&broker) {
        None => Err(MockError::UnknownBroker(broker)),
        Some(false) => Err(MockError::BrokerDown(broker)),
        Some(true) => Ok(()),
    }
}

fn spawn_broker(shared: &Arc<Shared>, broker: i32, port: Port) -> OwnedTask {
    let shared = Arc::clone(shared);
    OwnedTask::start(|stop| net::serve(shared, broker, port, stop))
}
