//! Long polls in flight, shared by all callers of `fetch`.
//!
//! A poll belongs to a partition and a position. A caller registers its interest, sleeps until one
//! of its polls is done, and takes what is there; polls that are not done stay in flight, and a
//! caller that asks for the same position again finds them or their result. A result that nobody
//! takes is dropped after [`KEEP`].
//!
//! What must hold: each poll is one task of the tracker, which ends when its entry is gone or the
//! transport is closed. A partition has at most [`MAX_UNWATCHED`] polls that nobody waits for.

use super::closed;
use super::cluster::{Cluster, lock};
use super::fetch::{FETCH, PollLimits, poll};
use crate::transport::watchers::Watchers;
use crate::transport::{FetchLimits, Fetched};
use crate::{Error, ErrorKind};
use ottla_types::{Offset, TopicPartition};
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::sync::DropGuard;
use tokio_util::task::TaskTracker;

/// How long a result waits for somebody who asks for its position.
const KEEP: Duration = Duration::from_secs(10);
/// Polls of one partition that nobody waits for; the oldest one goes first.
const MAX_UNWATCHED: usize = 8;
/// A partition may bring this much however many share `fetch.max.bytes`.
const MIN_PARTITION_BYTES: u32 = 16 * 1024;

type Answers = Vec<(TopicPartition, Result<Fetched, Error>)>;

enum State {
    InFlight,
    Done(Result<Fetched, Error>),
}

struct Entry {
    id: u64,
    position: Offset,
    state: State,
    watchers: Watchers,
    /// Dropping the entry ends its task.
    _alive: oneshot::Sender<()>,
}

#[derive(Default)]
struct Table {
    next_id: u64,
    entries: HashMap<TopicPartition, Vec<Entry>>,
}

impl Table {
    /// Ends the poll without a result.
    fn remove(&mut self, partition: &TopicPartition, id: u64) {
        let Some(entries) = self.entries.get_mut(partition) else {
            return;
        };
        if let Some(at) = entries.iter().position(|e| e.id == id) {
            entries.remove(at).watchers.wake();
        }
        if entries.is_empty() {
            self.entries.remove(partition);
        }
    }

    fn done(&mut self, partition: &TopicPartition, id: u64, result: Result<Fetched, Error>) {
        let entries = self.entries.get_mut(partition);
        if let Some(entry) = entries.and_then(|list| list.iter_mut().find(|e| e.id == id)) {
            entry.state = State::Done(result);
            entry.watchers.wake();
        }
    }

    fn take_done(
        &mut self,
        partition: &TopicPartition,
        position: Offset,
    ) -> Option<Result<Fetched, Error>> {
        let entries = self.entries.get_mut(partition)?;
        let at = entries
            .iter()
            .position(|e| e.position == position && matches!(e.state, State::Done(_)))?;
        let mut entry = entries.remove(at);
        if entries.is_empty() {
            self.entries.remove(partition);
        }
        // Another caller at the same position has to ask anew.
        entry.watchers.wake();
        match entry.state {
            State::Done(result) => Some(result),
            State::InFlight => None,
        }
    }
}

struct Shared {
    cluster: Arc<Cluster>,
    table: Mutex<Table>,
    tracker: TaskTracker,
}

/// All polls of a transport. Dropping it ends them.
pub(super) struct Polls {
    shared: Arc<Shared>,
    _stop: DropGuard,
}

impl Polls {
    pub(super) fn new(cluster: Arc<Cluster>) -> Self {
        Self {
            _stop: cluster.closed.clone().drop_guard(),
            shared: Arc::new(Shared {
                cluster,
                table: Mutex::default(),
                tracker: TaskTracker::new(),
            }),
        }
    }

    /// Waits until a partition has records or an error, at most `limits.max_wait`.
    pub(super) async fn fetch(
        &self,
        limits: FetchLimits,
        positions: Vec<(TopicPartition, Offset)>,
    ) -> Answers {
        let limits = limits.bounded();
        let deadline = Instant::now() + limits.max_wait;
        let stopped = &self.shared.cluster.closed;
        let limits = self.poll_limits(limits, positions.len());
        let wake = Arc::new(Notify::new());
        loop {
            if stopped.is_cancelled() {
                return positions
                    .into_iter()
                    .map(|(p, _)| {
                        let error = closed(FETCH, &p);
                        (p, Err(error))
                    })
                    .collect();
            }
            let answers = self.collect(&positions, limits, &wake);
            if !answers.is_empty() {
                return answers;
            }
            let waiting = stopped.run_until_cancelled(wake.notified());
            if timeout_at(deadline, waiting).await.is_err() {
                return Vec::new();
            }
        }
    }

    pub(super) async fn close(&self) {
        self.shared.tracker.close();
        self.shared.tracker.wait().await;
        lock(&self.shared.table).entries.clear();
    }

    fn poll_limits(&self, limits: FetchLimits, partitions: usize) -> PollLimits {
        let share = limits.max_bytes / u32::try_from(partitions.max(1)).unwrap_or(u32::MAX);
        // Room for the rest of the answer around the records.
        let largest_batch = self.shared.cluster.settings.max_response_bytes / 2;
        PollLimits {
            max_wait: limits.max_wait,
            min_bytes: limits.min_bytes,
            max_bytes: share
                .max(MIN_PARTITION_BYTES)
                .min(limits.max_partition_bytes)
                .min(u32::try_from(largest_batch).unwrap_or(u32::MAX)),
            largest_batch,
        }
    }

    /// Takes what is done; where nothing is, sees to it that a poll is in flight.
    fn collect(
        &self,
        positions: &[(TopicPartition, Offset)],
        limits: PollLimits,
        caller: &Arc<Notify>,
    ) -> Answers {
        let mut table = lock(&self.shared.table);
        let mut answers = Vec::new();
        for (partition, position) in positions {
            if let Some(result) = table.take_done(partition, *position) {
                answers.push((partition.clone(), result));
                continue;
            }
            let entries = table.entries.get_mut(partition);
            let same = entries.and_then(|list| list.iter_mut().find(|e| e.position == *position));
            match same {
                Some(entry) => entry.watchers.add(caller),
                None => self.start(&mut table, partition, *position, limits, caller),
            }
        }
        answers
    }

    fn start(
        &self,
        table: &mut Table,
        partition: &TopicPartition,
        position: Offset,
        limits: PollLimits,
        caller: &Arc<Notify>,
    ) {
        let id = table.next_id;
        table.next_id += 1;
        let (alive, ended) = oneshot::channel();
        let entries = table.entries.entry(partition.clone()).or_default();
        let unwatched = |list: &[Entry]| list.iter().filter(|e| !e.watchers.any()).count();
        if unwatched(entries) >= MAX_UNWATCHED
            && let Some(oldest) = entries.iter().position(|e| !e.watchers.any())
        {
            entries.remove(oldest);
        }
        entries.push(Entry {
            id,
            position,
            state: State::InFlight,
            watchers: Watchers::of(caller),
            _alive: alive,
        });
        let task = Task {
            shared: self.shared.clone(),
            partition: partition.clone(),
            id,
        };
        self.shared
            .tracker
            .spawn(Box::pin(task.run(position, limits, ended)));
    }
}

/// One poll's task. However it ends, its entry is gone or has a result.
struct Task {
    shared: Arc<Shared>,
    partition: TopicPartition,
    id: u64,
}

impl Task {
    async fn run(self, position: Offset, limits: PollLimits, mut ended: oneshot::Receiver<()>) {
        let stopped = self.shared.cluster.closed.clone();
        let result = tokio::select! {
            biased;
            _ = &mut ended => return,
            () = stopped.cancelled() => return,
            result = poll(&self.shared.cluster, &self.partition, position, limits) => result,
        };
        let Some(result) = result else { return };
        lock(&self.shared.table).done(&self.partition, self.id, result);
        tokio::select! {
            _ = &mut ended => {}
            () = stopped.cancelled() => {}
            () = sleep(KEEP) => {}
        }
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        let mut table = lock(&self.shared.table);
        if std::thread::panicking() {
            // The caller hears of it; a silent new poll would panic again at once.
            let error = Error::new(ErrorKind::Protocol, FETCH)
                .with_partition(self.partition.clone())
                .with_source("reading the answer panicked");
            table.done(&self.partition, self.id, Err(error));
        } else {
            table.remove(&self.partition, self.id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(positions: &[Offset], caller: &Arc<Notify>) -> (Table, TopicPartition) {
        let partition = TopicPartition::new("t", 0);
        let entry = |(id, position): (usize, &Offset)| Entry {
            id: id as u64,
            position: *position,
            state: State::InFlight,
            watchers: Watchers::of(caller),
            _alive: oneshot::channel().0,
        };
        let entries = positions.iter().enumerate().map(entry).collect();
        let table = Table {
            next_id: positions.len() as u64,
            entries: HashMap::from([(partition.clone(), entries)]),
        };
        (table, partition)
    }

    fn woken(caller: &Notify) -> bool {
        use futures_util::FutureExt;
        caller.notified().now_or_never().is_some()
    }

    fn gap() -> Result<Fetched, Error> {
        Err(Error::new(ErrorKind::Gap, FETCH))
    }

    #[test]
    fn a_result_is_for_its_position_alone_and_is_taken_once() {
        let caller = Arc::new(Notify::new());
        let (mut table, p) = table(&[5, 6], &caller);
        assert!(table.take_done(&p, 5).is_none());
        table.done(&p, 0, gap());
        assert!(woken(&caller));
        assert!(table.take_done(&p, 6).is_none());
        assert!(table.take_done(&p, 5).is_some());
        assert!(table.take_done(&p, 5).is_none());
        assert_eq!(table.entries[&p].len(), 1);
    }

    #[test]
    fn a_poll_that_ends_without_result_wakes_whoever_waits_and_leaves_nothing() {
        let caller = Arc::new(Notify::new());
        let (mut table, p) = table(&[5], &caller);
        table.remove(&p, 9);
        assert!(!woken(&caller));
        table.remove(&p, 0);
        assert!(woken(&caller));
        assert!(table.entries.is_empty());
    }

    #[test]
    fn callers_that_are_gone_do_not_watch() {
        let caller = Arc::new(Notify::new());
        let (mut table, p) = table(&[5], &caller);
        let entry = &mut table.entries.get_mut(&p).unwrap()[0];
        entry.watchers.add(&caller);
        assert_eq!(entry.watchers.len(), 1);
        drop(caller);
        assert!(!entry.watchers.any());
    }
}
