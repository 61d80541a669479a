//! What the accumulator knows of a topic, and the records that wait until it knows more.

use crate::handle::WaitCell;
use crate::partition::Partitioner;
use crate::telemetry::Meters;
use ottla_client::{Error, ErrorKind, TopicMetadata};
use ottla_types::Record;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// So many records wait for their topic's partitions before those that need not be taken at once wait
/// outside: a record that is not in a batch yet takes several times its size.
const UNPLACED_MAX: usize = 1_000;

/// The topics that are written to.
#[derive(Default)]
pub(super) struct Topics {
    places: HashMap<Arc<str>, usize>,
    slots: Vec<Option<Topic>>,
    free: Vec<usize>,
    /// The one that was found last: callers mostly use one name, and the same one, many times.
    recent: Option<(Arc<str>, usize)>,
}

impl Topics {
    /// Where the topic is, for [`at`](Self::at).
    pub(super) fn find(&mut self, name: &Arc<str>) -> Option<usize> {
        match &self.recent {
            Some((recent, place)) if Arc::ptr_eq(recent, name) => Some(*place),
            _ => {
                let place = *self.places.get(name)?;
                self.recent = Some((Arc::clone(name), place));
                Some(place)
            }
        }
    }

    pub(super) fn at(&mut self, place: usize) -> Option<&mut Topic> {
        self.slots.get_mut(place)?.as_mut()
    }

    fn place(&self, name: &str) -> Option<usize> {
        match &self.recent {
            Some((recent, place)) if **recent == *name => Some(*place),
            _ => self.places.get(name).copied(),
        }
    }

    pub(super) fn get(&self, name: &str) -> Option<&Topic> {
        self.slots[self.place(name)?].as_ref()
    }

    pub(super) fn get_mut(&mut self, name: &str) -> Option<&mut Topic> {
        let place = self.place(name)?;
        self.slots[place].as_mut()
    }

    /// Adds a topic that is not there.
    pub(super) fn insert(&mut self, name: Arc<str>, topic: Topic) -> usize {
        let place = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() - 1
        });
        self.slots[place] = Some(topic);
        self.places.insert(name, place);
        place
    }

    pub(super) fn remove(&mut self, name: &str) {
        self.recent = None;
        if let Some(place) = self.places.remove(name) {
            self.slots[place] = None;
            self.free.push(place);
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&Arc<str>, &Topic)> {
        let places = self.places.iter();
        places.filter_map(|(name, place)| Some((name, self.slots[*place].as_ref()?)))
    }

    pub(super) fn names(&self) -> Vec<Arc<str>> {
        self.places.keys().cloned().collect()
    }

    pub(super) fn len(&self) -> usize {
        self.places.len()
    }
}

pub(super) struct Topic {
    pub(super) partitioner: Box<dyn Partitioner>,
    /// `None` until the cluster described the topic.
    pub(super) view: Option<View>,
    pub(super) meters: Arc<Meters>,
    /// Records that came before the topic was known, in order. Empty once it is.
    pub(super) waiting: VecDeque<WaitingRecord>,
    /// Why the topic is not known yet.
    pub(super) last_error: Option<Arc<Error>>,
    pub(super) last_used: Instant,
    /// Whether the sender was told to ask for it again.
    pub(super) refresh_wanted: bool,
}

/// A topic's partitions.
#[derive(Debug, Default)]
pub(super) struct View {
    pub(super) all: Vec<i32>,
    pub(super) available: Vec<i32>,
    /// The queue of each partition that was ever seen, so that one that vanishes and comes back
    /// keeps its batches' order.
    pub(super) queues: Vec<(i32, usize)>,
}

pub(super) struct WaitingRecord {
    pub(super) record: Record,
    pub(super) timestamp_ms: i64,
    pub(super) cell: Arc<WaitCell>,
    pub(super) enqueued: Instant,
    pub(super) ticket: Ticket,
}

/// What goes along with a record until it has its result.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ticket {
    pub(super) id: u64,
    pub(super) charge: usize,
    pub(super) epoch: u64,
}

impl Topic {
    pub(super) fn new(name: &Arc<str>, partitioner: Box<dyn Partitioner>, now: Instant) -> Self {
        Self {
            partitioner,
            view: None,
            meters: Arc::new(Meters::new(name)),
            waiting: VecDeque::new(),
            last_error: None,
            last_used: now,
            refresh_wanted: false,
        }
    }

    /// Whether its partitions are known, or a record more may wait for them.
    pub(super) fn has_place(&self) -> bool {
        self.waiting.len() < UNPLACED_MAX
    }

    /// When the oldest waiting record is given up.
    pub(super) fn deadline(&self, delivery: Duration, unknown: Duration) -> Option<Instant> {
        let oldest = self.waiting.front()?.enqueued;
        let limit = if self.is_unknown() {
            unknown.min(delivery)
        } else {
            delivery
        };
        Some(oldest + limit)
    }

    /// Whether the cluster's last word was that there is no such topic.
    pub(super) fn is_unknown(&self) -> bool {
        self.last_error
            .as_ref()
            .is_some_and(|e| e.kind() == ErrorKind::UnknownTopic)
    }
}

impl View {
    /// Takes the cluster's word over. `queue` makes a queue for a partition that has none.
    pub(super) fn update(&mut self, topic: &TopicMetadata, mut queue: impl FnMut(i32) -> usize) {
        let mut partitions: Vec<_> = topic
            .partitions
            .iter()
            .map(|p| (p.id, p.leader.is_some()))
            .filter(|(id, _)| *id >= 0)
            .collect();
        partitions.sort_unstable();
        partitions.dedup_by_key(|(id, _)| *id);
        for (id, _) in &partitions {
            if let Err(at) = self.queues.binary_search_by_key(id, |(known, _)| *known) {
                self.queues.insert(at, (*id, queue(*id)));
            }
        }
        self.all = partitions.iter().map(|(id, _)| *id).collect();
        let available = partitions.iter().filter(|(_, has_leader)| *has_leader);
        self.available = available.map(|(id, _)| *id).collect();
    }

    /// The queue of a partition that exists.
    pub(super) fn queue_of(&self, partition: i32) -> Option<usize> {
        // Mostly they are numbered without a gap.
        let place = usize::try_from(partition).ok()?;
        if self.all.get(place) == Some(&partition)
            && let Some((id, queue)) = self.queues.get(place)
            && *id == partition
        {
            return Some(*queue);
        }
        self.all.binary_search(&partition).ok()?;
        let at = self.queues.binary_search_by_key(&partition, |(id, _)| *id);
        Some(self.queues[at.ok()?].1)
    }
}
