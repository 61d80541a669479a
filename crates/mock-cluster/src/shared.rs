//! What all brokers of a cluster share. One lock guards the data; nothing waits while holding it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use tokio::sync::Notify;
use tokio::time::{Duration, Instant};

use crate::builder::Config;
use crate::coordinator::Coordinators;
use crate::topics::{NewTopic, Topics};
use crate::{ApiKey, Faults};

/// The cluster id in every metadata answer.
pub(crate) const CLUSTER_ID: &str = "ottla-mock-cluster";
/// The host in every metadata answer.
pub(crate) const HOST: &str = "127.0.0.1";

/// The part of the state that is locked.
#[derive(Debug)]
pub(crate) struct Data {
    pub(crate) topics: Topics,
    pub(crate) coordinators: Coordinators,
    pub(crate) ports: BTreeMap<i32, u16>,
    pub(crate) log_bytes: usize,
    next_producer_id: i64,
}

impl Data {
    pub(crate) fn new_producer_id(&mut self) -> i64 {
        self.next_producer_id += 1;
        self.next_producer_id
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
        Ok(())
    }
}

/// The state of a cluster.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) config: Config,
    pub(crate) faults: Faults,
    /// Told whenever a group's next deadline may have changed.
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
            coordinators: Coordinators::new(delay, config.replicated),
            ports: BTreeMap::new(),
            log_bytes: 0,
            next_producer_id: 999,
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

    /// Runs the groups' timers for ever.
    pub(crate) async fn run_timers(&self) {
        loop {
            let next = {
                let mut data = self.data();
                data.coordinators.tick(self.now_ms());
                data.coordinators.next_deadline()
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
