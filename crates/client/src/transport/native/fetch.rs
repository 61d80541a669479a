//! The fetch call: callers meet their cursors, and the tasks that work for them are started and
//! woken.

use super::channel::Channel;
use super::failure::{Cure, Failure};
use super::fetch_message::NAME;
use super::leaders::{Leader, Leaders};
use super::table::{Answers, Caller, Job, Placed, Table, closed};
use crate::transport::{FetchLimits, FetchPosition};
use crate::{Error, TopicMetadata};
use futures_util::stream::{FuturesUnordered, StreamExt};
use ottla_types::TopicPartition;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, Semaphore};
use tokio::time::{Instant, sleep_until, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

/// Connections to one broker that fetch. Mostly one: a broker answers a connection's requests one
/// after the other, and a further one is for partitions that become ready while all others are in a
/// long poll.
const CHANNELS_MAX: usize = 3;
/// How long the last free channel lets the broker wait for records: whoever asks for a partition while
/// all channels are in a long poll waits for this one. Twenty requests a second cost nothing that can
/// be measured, and soon the channels' partitions are together again.
pub(super) const LAST_WAIT: Duration = Duration::from_millis(50);

/// The channels to one broker.
#[derive(Debug)]
struct Channels {
    running: usize,
    /// How many of them wait for work.
    idle: usize,
    /// A permit for each that shall look for work again.
    wake: Arc<Semaphore>,
}

impl Channels {
    fn are_all_busy(&self) -> bool {
        self.running >= CHANNELS_MAX && self.idle == 0
    }
}

impl Default for Channels {
    fn default() -> Self {
        Self {
            running: 0,
            idle: 0,
            wake: Arc::new(Semaphore::new(0)),
        }
    }
}

pub(super) struct State {
    pub(super) table: Table,
    channels: HashMap<i32, Channels>,
    is_resolving: bool,
}

/// All reading of a transport.
pub(super) struct Fetches {
    pub(super) leaders: Arc<Leaders>,
    pub(super) closed: CancellationToken,
    pub(super) read_committed: bool,
    state: Mutex<State>,
    /// There are cursors whose leader is to be looked for.
    lost: Notify,
}

impl Fetches {
    pub(super) fn new(
        leaders: Arc<Leaders>,
        closed: CancellationToken,
        read_committed: bool,
    ) -> Self {
        let config = &leaders.cluster.config;
        let table = Table::new(leaders.cluster.backoff(), config.metadata_max_age);
        Self {
            leaders,
            closed,
            read_committed,
            state: Mutex::new(State {
                table,
                channels: HashMap::new(),
                is_resolving: false,
            }),
            lost: Notify::new(),
        }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until a partition has records or an error, at most `limits.max_wait`.
    pub(super) async fn fetch(
        self: &Arc<Self>,
        limits: FetchLimits,
        wanted: Vec<(TopicPartition, FetchPosition)>,
    ) -> Answers {
        let limits = limits.bounded();
        let deadline = Instant::now() + limits.max_wait;
        let caller = Caller::default();
        loop {
            if self.closed.is_cancelled() {
                let refuse = |(partition, _): (TopicPartition, FetchPosition)| {
                    let error = closed(&partition);
                    (partition, Err(error))
                };
                return wanted.into_iter().map(refuse).collect();
            }
            let answers = self.collect(&wanted, limits, &caller);
            if !answers.is_empty() {
                return answers;
            }
            let woken = self.closed.run_until_cancelled(caller.notified());
            if timeout_at(deadline, woken).await.is_err() {
                let answers = self.collect(&wanted, limits, &caller);
                if !answers.is_empty() {
                    return answers;
                }
                return self.state().table.reasons(&wanted);
            }
        }
    }

    fn collect(
        self: &Arc<Self>,
        wanted: &[(TopicPartition, FetchPosition)],
        limits: FetchLimits,
        caller: &Caller,
    ) -> Answers {
        let now = Instant::now();
        let mut state = self.state();
        let (answers, has_new) = state.table.collect(wanted, limits, caller, now);
        if has_new {
            let known = |partition: &TopicPartition| self.leaders.cached(partition);
            if state.table.place(known, now) == Placed::Some {
                self.resolve(&mut state);
            }
        }
        self.kick(&mut state);
        answers
    }

    /// Sees to it that a channel looks after what is ready.
    pub(super) fn kick(self: &Arc<Self>, state: &mut State) {
        for broker in state.table.ready_brokers(Instant::now()) {
            let channels = state.channels.entry(broker).or_default();
            if channels.idle > 0 {
                channels.idle -= 1;
                channels.wake.add_permits(1);
            } else if channels.running < CHANNELS_MAX
                && self.spawn(Channel::new(self.clone(), broker).run())
            {
                channels.running += 1;
            }
        }
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) -> bool {
        !self.closed.is_cancelled() && self.leaders.cluster.connector.tasks.spawn(task)
    }

    /// The next request of a channel to the broker; without one the channel counts as idle and has
    /// to wait.
    pub(super) fn next(&self, broker: i32, now: Instant) -> Option<Job> {
        let in_use = self.leaders.cluster.connector.frames.get();
        let mut state = self.state();
        let mut job = state.table.pick(broker, now, in_use);
        let channels = state.channels.entry(broker).or_default();
        match &mut job {
            None => channels.idle += 1,
            Some(job) if channels.are_all_busy() => job.max_wait = job.max_wait.min(LAST_WAIT),
            Some(_) => {}
        }
        job
    }

    /// Counts a channel as idle after a request that brought nothing, when no other one is: whichever
    /// ends its wait next then takes the partitions of both, and one is free again.
    pub(super) fn rest_if_crowded(&self, broker: i32) -> bool {
        let mut state = self.state();
        let channels = state.channels.entry(broker).or_default();
        let is_crowded = channels.are_all_busy();
        channels.idle += usize::from(is_crowded);
        is_crowded
    }

    /// Counts a channel to the broker as idle, though there may be something to do.
    pub(super) fn rest(state: &mut State, broker: i32) {
        state.channels.entry(broker).or_default().idle += 1;
    }

    /// An idle channel to the broker waits until it is woken; `false` if it was not.
    pub(super) async fn wait(&self, broker: i32, limit: Duration) -> bool {
        let wake = {
            let mut state = self.state();
            state.channels.entry(broker).or_default().wake.clone()
        };
        if let Ok(Ok(permit)) = timeout(limit, wake.acquire()).await {
            permit.forget();
            return true;
        }
        let mut state = self.state();
        let channels = state.channels.entry(broker).or_default();
        if channels.idle == 0 {
            // It was woken just now.
            if let Ok(permit) = wake.try_acquire() {
                permit.forget();
            }
            return true;
        }
        channels.idle -= 1;
        false
    }

    /// Sees to it that lost cursors find their leader.
    pub(super) fn resolve(self: &Arc<Self>, state: &mut State) {
        if !state.is_resolving {
            state.is_resolving = self.spawn(resolver(self.clone()));
        }
        self.lost.notify_one();
    }
}

/// A channel's task. When it ends, however that is, another one may take its place; after a panic one
/// does at once, if there is something to do.
pub(super) struct Running {
    pub(super) fetches: Arc<Fetches>,
    pub(super) broker: i32,
}

impl Drop for Running {
    fn drop(&mut self) {
        let mut state = self.fetches.state();
        let channels = state.channels.entry(self.broker).or_default();
        channels.running = channels.running.saturating_sub(1);
        if std::thread::panicking() {
            self.fetches.kick(&mut state);
        }
    }
}

/// A channel's request. What is not settled, because of a panic on the way, is given up.
pub(super) struct Held {
    pub(super) fetches: Arc<Fetches>,
    pub(super) job: Job,
    pub(super) is_settled: bool,
}

impl Drop for Held {
    fn drop(&mut self) {
        if !self.is_settled {
            let mut state = self.fetches.state();
            state.table.give_up(&self.job, Instant::now());
        }
    }
}

/// The resolver's task. After a panic another one takes its place.
struct Resolving(Arc<Fetches>);

impl Drop for Resolving {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.is_resolving = false;
        if std::thread::panicking() {
            state.table.forget_resolving(Instant::now());
            self.0.resolve(&mut state);
        }
    }
}

/// The task that looks for the leaders of lost cursors. Topics do not wait for each other.
async fn resolver(fetches: Arc<Fetches>) {
    let _resolving = Resolving(fetches.clone());
    let closed = fetches.closed.clone();
    let mut asked = FuturesUnordered::new();
    loop {
        let (due, next) = fetches.state().table.due(Instant::now());
        let mut topics: BTreeMap<Arc<str>, (Vec<TopicPartition>, bool)> = BTreeMap::new();
        for (partition, refresh) in due {
            let (partitions, any_refresh) = topics.entry(partition.topic.clone()).or_default();
            partitions.push(partition);
            *any_refresh |= refresh;
        }
        for (topic, (partitions, refresh)) in topics {
            asked.push(ask(fetches.clone(), topic, partitions, refresh));
        }
        let next = async {
            match next {
                Some(next) => sleep_until(next).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = closed.cancelled() => return,
            Some((partitions, found)) = asked.next(), if !asked.is_empty() => {
                place(&fetches, &partitions, found);
            }
            () = fetches.lost.notified() => {}
            () = next => {}
        }
    }
}

type Found = Result<Arc<TopicMetadata>, Error>;

async fn ask(
    fetches: Arc<Fetches>,
    topic: Arc<str>,
    partitions: Vec<TopicPartition>,
    refresh: bool,
) -> (Vec<TopicPartition>, Found) {
    let cluster = &fetches.leaders.cluster;
    let found = if refresh {
        cluster.refresh_topic(&topic).await
    } else {
        cluster.topic(&topic).await
    };
    (partitions, found)
}

fn place(fetches: &Arc<Fetches>, partitions: &[TopicPartition], found: Found) {
    let judged = |error: Error| {
        let Failure { error, cure } = Failure::new(error);
        (Arc::new(error), cure != Cure::None)
    };
    let found = found.map_err(judged);
    let now = Instant::now();
    let mut state = fetches.state();
    for partition in partitions {
        let leader: Result<Leader, _> = match &found {
            Ok(topic) => fetches.leaders.of(topic, partition, NAME).map_err(judged),
            Err(error) => Err(error.clone()),
        };
        state.table.resolved(partition, &leader, now);
    }
    fetches.kick(&mut state);
}
