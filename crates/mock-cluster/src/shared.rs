//! What all brokers of a cluster share. One lock guards the data; nothing waits while holding it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use tokio::sync::Notify;
use tokio::time::{Duration, Instant};

use crate::batch::Marker;
use crate::builder::Config;
use crate::coordinator::Coordinators;
use crate::fetch_session::FetchSessions;
use crate::group::Group;
use crate::settings::BrokerSettings;
use crate::topics::{NewTopic, Topics};
use crate::txn::{Ending, ProducerIds, Transactions};
use crate::{ApiKey, Faults};

/// The cluster id in every metadata answer.
pub(crate) const CLUSTER_ID: &str = "ottla-mock-cluster";
/// The host in every metadata answer.
pub(crate) const HOST: &str = "127.0.0.1";

/// Where producer ids begin, far from offsets and sequences that a test may mix up with them.
const FIRST_PRODUCER_ID: i64 = 1000;

/// The part of the state that is locked.
#[derive(Debug)]
pub(crate) struct Data {
    pub(crate) topics: Topics,
    pub(crate) coordinators: Coordinators,
    pub(crate) ports: BTreeMap<i32, u16>,
    pub(crate) log_bytes: usize,
    pub(crate) transactions: Transactions,
    fetch_sessions: BTreeMap<i32, FetchSessions>,
    pub(crate) producer_ids: ProducerIds,
    pub(crate) settings: BrokerSettings,
}

impl Data {
    /// The fetch sessions of a broker.
    pub(crate) fn fetch_sessions(&mut self, broker: i32) -> &mut FetchSessions {
        self.fetch_sessions.entry(broker).or_default()
    }

    /// The group, which `broker` has to coordinate.
    pub(crate) fn group(&mut self, broker: i32, name: &str) -> Result<&mut Group, i16> {
        self.coordinators.at(broker, name, &self.topics)
    }

    /// Writes the markers of every decided transaction, unless they are held back. In Kafka this
    /// happens a moment after EndTxn is answered.
    pub(crate) fn settle(&mut self) {
        for ending in self.transactions.take_endings() {
            self.write_markers(&ending);
        }
    }

    /// Markers are written even where the leader is down: the data outlives it here. They count
    /// as bytes of the log, but no bound refuses them.
    fn write_markers(&mut self, ending: &Ending) {
        let marker = Marker {
            producer_id: ending.producer.id,
            producer_epoch: ending.producer.epoch,
            commit: ending.commit,
            timestamp: wall_clock_ms(),
        };
        for (topic, index) in &ending.partitions {
            if let Some(partition) = self.topics.partition_mut(topic, *index) {
                let epoch = partition.leader_epoch;
                self.log_bytes += partition.log.append_marker(marker, epoch);
                partition.wake();
            }
        }
        for group in &ending.groups {
            let id = ending.producer.id;
            self.coordinators.end_transaction(group, id, ending.commit);
        }
    }

    /// Does what is due in groups and transactions.
    fn tick(&mut self, now: u64) {
        self.coordinators.tick(now);
        self.transactions.tick(now);
        self.settle();
    }

    fn next_deadline(&self) -> Option<u64> {
        let groups = self.coordinators.next_deadline();
        groups
            .into_iter()
            .chain(self.transactions.next_deadline())
            .min()
    }

    pub(crate) fn broker_down(&mut self, broker: i32, now: u64) {
        self.topics.broker_down(broker);
        self.fetch_sessions.remove(&broker);
        self.coordinators.broker_down(broker, &self.topics, now);
        self.transactions.broker_down(broker, &self.topics);
    }

    pub(crate) fn broker_up(&mut self, broker: i32, now: u64) {
        self.topics.broker_up(broker);
        self.coordinators.broker_up(broker, now);
        self.transactions.broker_up(broker);
        self.settle();
    }

    pub(crate) fn port(&self, broker: i32) -> i32 {
        self.ports.get(&broker).copied().map_or(-1, i32::from)
    }

    pub(crate) fn create_default_topic(&mut self, name: &str) -> Result<(), i16> {
        let configs = BTreeMap::new();
        let new = NewTopic {
            name: name.to_owned(),
            partitions: -1,
            replication: -1,
            configs,
        };
        self.topics.create(new, false)
    }

    pub(crate) fn delete_topic(&mut self, name: &str) -> Result<(), i16> {
        self.log_bytes -= self.topics.delete(name)?;
        self.coordinators.forget_topic(name);
        self.transactions.forget_topic(name);
        Ok(())
    }
}

/// The state of a cluster.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) config: Config,
    pub(crate) faults: Faults,
    /// Told whenever the next deadline may have changed.
    pub(crate) timer: Notify,
    pub(crate) connections: AtomicUsize,
    pub(crate) failed_tasks: AtomicUsize,
    started: Instant,
    requests: [AtomicU64; ApiKey::ALL.len()],
    data: Mutex<Data>,
}

impl Shared {
    pub(crate) fn new(config: Config) -> Self {
        let delay = u64::try_from(config.initial_rebalance_delay.as_millis()).unwrap_or(u64::MAX);
        let data = Data {
            topics: Topics::new(config.brokers, config.default_partitions, config.replicated),
            coordinators: Coordinators::new(delay, config.consumer_timers(), config.replicated),
            ports: BTreeMap::new(),
            log_bytes: 0,
            transactions: Transactions::new(config.replicated, config.versions.remembers_ended),
            fetch_sessions: BTreeMap::new(),
            producer_ids: ProducerIds::new(FIRST_PRODUCER_ID),
            settings: BrokerSettings::default(),
        };
        Self {
            config,
            faults: Faults::default(),
            timer: Notify::new(),
            connections: AtomicUsize::new(0),
            failed_tasks: AtomicUsize::new(0),
            started: Instant::now(),
            requests: std::array::from_fn(|_| AtomicU64::new(0)),
            data: Mutex::new(data),
        }
    }

    pub(crate) fn data(&self) -> MutexGuard<'_, Data> {
        self.data.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Milliseconds since the cluster started; what the groups count in.
    pub(crate) fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    pub(crate) fn count(&self, api: ApiKey) {
        self.requests[api.index()].fetch_add(1, Ordering::SeqCst);
    }

    pub(crate) fn counted(&self, api: ApiKey) -> u64 {
        self.requests[api.index()].load(Ordering::SeqCst)
    }

    /// Runs the timers of groups and transactions for ever.
    pub(crate) async fn run_timers(&self) {
        loop {
            let next = {
                let mut data = self.data();
                data.tick(self.now_ms());
                data.next_deadline()
            };
            let changed = self.timer.notified();
            match next {
                Some(deadline) => {
                    let due = self.started + Duration::from_millis(deadline);
                    let _ = tokio::time::timeout_at(due, changed).await;
                }
                None => changed.await,
            }
        }
    }
}

/// Milliseconds since 1970: the time of an append.
pub(crate) fn wall_clock_ms() -> i64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
