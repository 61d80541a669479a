//! The caller's side of the desk: records are taken, positions chosen, commits asked for.

use super::tray::{Handed, Tray};
use super::{Desk, Inner, Place, Seek, SeekReply};
use crate::Error;
use crate::lane::Progress;
use crate::lane::feed::Feed;
use crate::lane::slots::Slots;
use crate::listener::SeekTo;
use crate::subscription::Subscription;
use ottla_types::{Offset, TopicPartition};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::task::{self, Poll};
use tokio::sync::oneshot;

impl Desk {
    /// The caller is done with what it has.
    pub(crate) fn settle(&self) {
        self.lock().settle();
    }

    /// The next records of whatever partition has its turn. What was taken before is done with.
    pub(crate) fn poll_take(&self, cx: &mut task::Context<'_>) -> Poll<Result<Handed, Error>> {
        self.lock().settle();
        // A caller that always finds something does not keep the thread from others.
        let budget = task::ready!(tokio::task::coop::poll_proceed(cx));
        let taken = self.take_or_wait(cx);
        if taken.is_ready() {
            budget.made_progress();
        }
        taken
    }

    fn take_or_wait(&self, cx: &task::Context<'_>) -> Poll<Result<Handed, Error>> {
        loop {
            let (partition, feed) = {
                let mut inner = self.lock();
                if let Some(error) = inner.errors.pop_front() {
                    return Poll::Ready(Err(error));
                }
                let Some(next) = inner.next_turn() else {
                    if let Some(error) = &inner.fatal {
                        return Poll::Ready(Err(error.clone()));
                    }
                    inner.waker = Some(cx.waker().clone());
                    return Poll::Pending;
                };
                match next {
                    Turn::Rest(handed) => return Poll::Ready(Ok(handed)),
                    Turn::Feed(partition, feed, size) => (partition, (feed, size)),
                }
            };
            let (mut feed, size) = feed;
            let mut records = Slots::with_capacity(size);
            gather(&mut feed, &mut records, self.max_records);
            if let Some(handed) = self.lock().put_back(partition, feed, records) {
                return Poll::Ready(Ok(handed));
            }
        }
    }

    /// Puts what is left of a batch back, to be taken before anything else of its partition.
    pub(crate) fn put_back(&self, handed: Handed) {
        let mut inner = self.lock();
        let partition = handed.partition.clone();
        if let Some(tray) = inner.trays.get_mut(&partition)
            && handed.is_current()
            && Arc::ptr_eq(&tray.progress, &handed.progress)
        {
            tray.rest = Some(handed);
            inner.take_turn(&partition);
        }
    }

    /// Orders the member to go on elsewhere; nothing that was fetched before is handed out.
    pub(crate) fn seek(&self, partition: &TopicPartition, place: SeekTo, reply: SeekReply) {
        let mut inner = self.lock();
        if inner.fatal.is_some() {
            // The reply is dropped.
            return;
        }
        inner.go_elsewhere(partition, place, reply);
        self.wake.notify_one();
    }

    /// Lets the member send what was asked for.
    pub(crate) fn hurry_commit(&self) {
        self.lock().wants_commit = true;
        self.wake.notify_one();
    }

    /// Orders the member to be in the group for this. What is certainly not wanted any more is not
    /// handed out.
    pub(crate) fn resubscribe(&self, subscription: Subscription) {
        let mut inner = self.lock();
        inner.subscription = Some(subscription);
        inner.want_others();
        self.wake.notify_one();
    }

    /// Orders the member to read these partitions, without a group. Those that stay are read on.
    pub(crate) fn reassign(&self, told: BTreeMap<TopicPartition, Option<SeekTo>>) {
        let mut inner = self.lock();
        let mut before = inner.places.take().unwrap_or_default();
        let (mut places, mut moved) = (BTreeMap::new(), Vec::new());
        for (partition, told) in told {
            let known = before.remove(&partition);
            let place = known.unwrap_or_else(|| {
                // One that was dropped a moment ago may be there still.
                let tray = inner.trays.get(&partition);
                let moves = told.filter(|_| tray.is_some());
                moved.extend(moves.map(|place| (partition.clone(), place)));
                let progress = tray.filter(|_| told.is_none());
                Place {
                    told,
                    progress: progress.map(|tray| tray.progress.clone()),
                    is_told_missing: false,
                }
            });
            places.insert(partition, place);
        }
        inner.places = Some(places);
        for (partition, place) in moved {
            // Nobody waits for where it leads.
            inner.go_elsewhere(&partition, place, oneshot::channel().0);
        }
        inner.want_others();
        self.wake.notify_one();
    }

    /// Whether the caller has subscribed to nothing.
    pub(crate) fn is_unsubscribed(&self) -> bool {
        let inner = self.lock();
        let subscription = inner.subscription.as_ref();
        subscription.is_some_and(Subscription::is_empty)
            || inner.places.as_ref().is_some_and(BTreeMap::is_empty)
    }

    /// Fetches and hands out more of the partition, or not for now. False when it is not owned.
    pub(crate) fn set_paused(&self, partition: &TopicPartition, is_paused: bool) -> bool {
        let mut inner = self.lock();
        let Some(progress) = inner.owned.get(partition) else {
            return false;
        };
        progress.set_paused(is_paused);
        inner.take_turn(partition);
        inner.call();
        true
    }

    pub(crate) fn paused(&self) -> Vec<TopicPartition> {
        let inner = self.lock();
        let paused = inner.owned.iter().filter(|(_, p)| p.is_paused());
        paused.map(|(p, _)| p.clone()).collect()
    }

    pub(crate) fn progress(&self, partition: &TopicPartition) -> Option<Arc<Progress>> {
        self.lock().owned.get(partition).cloned()
    }

    pub(crate) fn assignment(&self) -> Vec<TopicPartition> {
        self.lock().owned.keys().cloned().collect()
    }

    /// The partitions of which records were handed out, as far as they are owned.
    pub(crate) fn handed_out(&self) -> Vec<(TopicPartition, Arc<Progress>)> {
        let inner = self.lock();
        let is_owned = |tray: &Tray| !tray.context.lease().is_revoked();
        let trays = inner.trays.iter();
        let trays = trays.filter(|(_, tray)| tray.was_out && is_owned(tray));
        trays
            .map(|(p, tray)| (p.clone(), tray.progress.clone()))
            .collect()
    }

    /// The partitions that went with records that the caller had and that are not committed. Each is
    /// told once.
    pub(crate) fn take_gone(&self) -> BTreeMap<TopicPartition, Offset> {
        std::mem::take(&mut self.lock().gone)
    }

    /// The caller is done with what it has of this partition.
    pub(crate) fn settle_one(&self, partition: &TopicPartition) {
        let mut inner = self.lock();
        if let Some(tray) = inner.trays.get_mut(partition) {
            tray.settle();
        }
        inner.out.retain(|out| out != partition);
    }

    /// What ended the consumer.
    pub(crate) fn fatal(&self) -> Option<Error> {
        self.lock().fatal.clone()
    }

    /// Nobody takes anything any more: ends what was asked for.
    pub(crate) fn abandon(&self, error: &Error) {
        let mut inner = self.lock();
        inner.fatal.get_or_insert_with(|| error.clone());
        inner.seeks.clear();
        for progress in inner.owned.values() {
            progress.unassign(error);
        }
    }
}

/// What a turn has.
enum Turn {
    Rest(Handed),
    Feed(TopicPartition, Box<Feed>, usize),
}

impl Inner {
    /// Nothing that was fetched before is handed out or told.
    fn go_elsewhere(&mut self, partition: &TopicPartition, place: SeekTo, reply: SeekReply) {
        if let Some(tray) = self.trays.get_mut(partition) {
            (tray.feed, tray.rest) = (None, None);
        }
        if let Some(known) = self.places.as_mut().and_then(|p| p.get_mut(partition)) {
            *known = Place {
                told: Some(place),
                ..Place::default()
            };
        }
        self.gone.remove(partition);
        self.forget_error(Some(partition));
        self.seeks.insert(partition.clone(), Seek { place, reply });
    }

    /// Something else is wanted than before.
    fn want_others(&mut self) {
        self.wants_subscription = true;
        // What was passed over may be wanted again.
        let all: Vec<_> = self.trays.keys().cloned().collect();
        all.iter().for_each(|partition| self.take_turn(partition));
    }

    fn settle(&mut self) {
        for partition in self.out.drain(..) {
            if let Some(tray) = self.trays.get_mut(&partition) {
                tray.settle();
            }
        }
    }

    fn next_turn(&mut self) -> Option<Turn> {
        while let Some(partition) = self.turns.pop_front() {
            let is_unwanted = self.is_unwanted(&partition);
            let Some(tray) = self.trays.get_mut(&partition) else {
                continue;
            };
            tray.in_turn = false;
            if !tray.is_current() || tray.progress.is_paused() || is_unwanted {
                continue;
            }
            if let Some(rest) = tray.rest.take() {
                tray.is_out = true;
                self.out.push(partition.clone());
                self.take_turn(&partition);
                return Some(Turn::Rest(rest));
            }
            if let Some(feed) = tray.feed.take() {
                // One that is to be given up meanwhile waits until the caller has looked.
                tray.is_out = true;
                return Some(Turn::Feed(partition, feed, tray.taken));
            }
        }
        None
    }

    fn put_back(
        &mut self,
        partition: TopicPartition,
        mut feed: Box<Feed>,
        records: Slots,
    ) -> Option<Handed> {
        let tray = self.trays.get_mut(&partition)?;
        if !Arc::ptr_eq(&tray.progress, feed.progress()) {
            return None;
        }
        self.out.push(partition.clone());
        let taken = records.len();
        if taken == 0 || !tray.is_current() {
            tray.feed = Some(feed);
            // The caller has nothing now: a rebalance need not wait for it.
            self.settle();
            return None;
        }
        tray.epochs.note(&tray.progress, &records);
        tray.taken = taken;
        tray.was_out = true;
        tray.board.add_handled(taken as u64);
        tray.meters.handled.increment(taken as u64);
        let next_offset = feed.position();
        let spent = feed.give_out();
        tray.progress.release(spent);
        tray.feed = Some(feed);
        let handed = Handed {
            partition: partition.clone(),
            records: records.into_records().into_iter(),
            next_offset,
            progress: tray.progress.clone(),
            context: tray.context.clone(),
            drain: tray.drain.clone(),
        };
        self.take_turn(&partition);
        Some(handed)
    }
}

/// Decodes what is there, up to `max` records.
fn gather(feed: &mut Feed, records: &mut Slots, max: usize) {
    loop {
        feed.fill(records, max);
        if records.is_empty() {
            feed.handled();
        } else if records.len() >= max || feed.is_full() {
            return;
        }
        if !feed.take_next() {
            return;
        }
    }
}
