//! [`Desk`]: where the member of a plain consumer puts what it fetched, and the caller takes records.
//!
//! There is a [`Tray`] for each partition that is owned and whose position is known. Records are
//! decoded when the caller takes them, by the caller. The lane's task only waits for the end: when
//! its partition is to be given up, it ends as soon as the caller is done with what it has of it.
//! The caller is done with what it took when it asks again, commits, or closes.

mod caller;
mod member;
#[cfg(test)]
mod tests;
mod tray;

pub(crate) use tray::Handed;

use super::Progress;
use crate::Error;
use crate::listener::SeekTo;
use crate::subscription::Subscription;
use ottla_types::{Offset, TopicPartition};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use tokio::sync::{Notify, oneshot};
use tray::Tray;

/// What the caller and the member of a plain consumer share.
#[derive(Debug)]
pub(crate) struct Desk {
    max_records: usize,
    /// Whether what the caller is done with is committed unasked.
    auto_commit: bool,
    /// Wakes the member.
    wake: Arc<Notify>,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    trays: HashMap<TopicPartition, Tray>,
    /// Trays that may have records, in the order of their turns; each once.
    turns: VecDeque<TopicPartition>,
    /// Of these the caller has something, or had when it asked last.
    out: Vec<TopicPartition>,
    /// Everything that is owned.
    owned: BTreeMap<TopicPartition, Arc<Progress>>,
    /// Why partitions are stopped; told once each.
    errors: VecDeque<Error>,
    /// Why there is nothing more to come.
    fatal: Option<Error>,
    waker: Option<Waker>,
    seeks: BTreeMap<TopicPartition, Seek>,
    wants_commit: bool,
    /// What the caller wants in place of what it began with.
    subscription: Option<Subscription>,
    /// The member has yet to hear of the subscription, or of the places.
    wants_subscription: bool,
    /// Lost or given up with records that the caller had and that are not committed.
    gone: BTreeMap<TopicPartition, Offset>,
    /// Without a group: where each partition begins, and the progress it made.
    places: Option<BTreeMap<TopicPartition, Place>>,
}

/// Where a partition begins that the application named itself.
#[derive(Debug, Default)]
struct Place {
    told: Option<SeekTo>,
    progress: Option<Arc<Progress>>,
    /// The caller has heard that the cluster does not have it.
    is_told_missing: bool,
}

#[derive(Debug)]
struct Seek {
    place: SeekTo,
    reply: SeekReply,
}

/// Where the offset that a seek led to is told.
pub(crate) type SeekReply = oneshot::Sender<Result<Offset, Error>>;

/// What a caller wants from the member.
#[derive(Debug)]
pub(crate) enum Order {
    /// To send what is asked for soon.
    Commit,
    /// To go on reading elsewhere.
    Seek(TopicPartition, SeekTo, SeekReply),
    /// To be in the group for something else.
    Subscribe(Subscription),
    /// To read other partitions, without a group.
    Assign(Vec<TopicPartition>),
}

impl Desk {
    /// `places`: the partitions of a consumer without membership, and where they begin.
    pub(crate) fn new(
        max_records: usize,
        auto_commit: bool,
        places: Option<BTreeMap<TopicPartition, Option<SeekTo>>>,
    ) -> Self {
        let place = |(partition, told)| {
            let place = Place {
                told,
                ..Place::default()
            };
            (partition, place)
        };
        let inner = Inner {
            places: places.map(|places| places.into_iter().map(place).collect()),
            ..Inner::default()
        };
        Self {
            max_records,
            auto_commit,
            wake: Arc::new(Notify::new()),
            inner: Mutex::new(inner),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Each change under the lock is whole, and nothing foreign runs there.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn take_turn(&mut self, partition: &TopicPartition) {
        if let Some(tray) = self.trays.get_mut(partition)
            && !tray.in_turn
        {
            tray.in_turn = true;
            self.turns.push_back(partition.clone());
        }
    }

    fn forget_error(&mut self, of: Option<&TopicPartition>) {
        self.errors.retain(|error| error.partition() != of);
    }

    /// Whether it is known that the caller does not want the partition any more.
    fn is_unwanted(&self, partition: &TopicPartition) -> bool {
        let is_without = |s: &Subscription| s.is_without(&partition.topic);
        let places = self.places.as_ref();
        self.subscription.as_ref().is_some_and(is_without)
            || places.is_some_and(|places| !places.contains_key(partition))
    }

    /// Wakes the caller if it waits.
    fn call(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}
