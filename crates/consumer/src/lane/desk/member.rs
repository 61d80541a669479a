//! The member's side of the desk: trays come and go, records arrive, orders are taken.

use super::tray::Tray;
use super::{Desk, Order};
use crate::Error;
use crate::lane::call::{Epochs, Meters};
use crate::lane::feed::Feed;
use crate::lane::{INBOX_CHUNKS, LaneEnd, LaneHandle, LaneSetup, Progress};
use crate::latch::Latch;
use crate::listener::SeekTo;
use crate::subscription::Subscription;
use ottla_types::{Offset, TopicPartition};
use std::sync::Arc;
use tokio::sync::{Notify, mpsc};

impl Desk {
    /// What wakes the member.
    pub(crate) fn wake(&self) -> Arc<Notify> {
        self.wake.clone()
    }

    pub(crate) fn auto_commit(&self) -> bool {
        self.auto_commit
    }

    /// What is owned from now on.
    pub(crate) fn set_owned(&self, owned: &[(TopicPartition, Arc<Progress>)]) {
        self.lock().owned = owned.iter().cloned().collect();
    }

    /// The partitions that the application named itself, if it did.
    pub(crate) fn assigned(&self) -> Option<Vec<TopicPartition>> {
        let inner = self.lock();
        let places = inner.places.as_ref()?;
        Some(places.keys().cloned().collect())
    }

    /// Where such a partition begins: where an earlier member of this consumer was, else as told.
    pub(crate) fn place(&self, partition: &TopicPartition) -> Option<SeekTo> {
        let inner = self.lock();
        let place = inner.places.as_ref()?.get(partition)?;
        let reached = place.progress.as_ref().and_then(|p| p.last_marked());
        reached.map(SeekTo::Offset).or(place.told)
    }

    /// Makes a tray of a partition whose position is known, or gives one that is there a new position.
    /// The future is the lane's, and there is one for a new tray only.
    pub(crate) fn open(
        self: &Arc<Self>,
        setup: LaneSetup,
    ) -> (
        LaneHandle,
        Option<impl Future<Output = LaneEnd> + Send + use<>>,
    ) {
        let (sender, inbox) = mpsc::channel(INBOX_CHUNKS);
        let mut inner = self.lock();
        let partition = setup.partition.clone();
        // The caller wants to go on elsewhere already: nothing is handed out from here.
        let is_stale = inner.seeks.contains_key(&partition);
        if !is_stale && let Some(place) = inner.places.as_mut().and_then(|p| p.get_mut(&partition))
        {
            place.told = Some(SeekTo::Offset(setup.position));
            place.progress = Some(setup.progress.clone());
            place.is_told_missing = false;
        }
        let known = inner.trays.get_mut(&partition);
        let known = known.filter(|tray| tray.incarnation == setup.incarnation);
        let is_new = known.is_none();
        let drain = known
            .as_ref()
            .map_or_else(Latch::default, |t| t.drain.clone());
        let feed = Feed::new(&setup, inbox, drain.clone());
        let feed = (!is_stale).then(|| Box::new(feed));
        let handle = LaneHandle {
            inbox: sender,
            drain: drain.clone(),
            desk: Some((self.clone(), partition.clone())),
        };
        if let Some(tray) = known {
            tray.feed = feed;
            return (handle, None);
        }
        let idle = Latch::default();
        let meters = Meters::new(setup.context.group(), &partition.topic);
        let tray = Tray {
            incarnation: setup.incarnation,
            feed,
            rest: None,
            progress: setup.progress,
            context: setup.context.clone(),
            board: setup.board,
            drain: drain.clone(),
            idle: idle.clone(),
            epochs: Epochs::default(),
            meters,
            in_turn: false,
            is_out: false,
            was_out: false,
            taken: 0,
        };
        inner.trays.insert(partition.clone(), tray);
        // What the caller had of it comes again, to this caller.
        inner.gone.remove(&partition);
        drop(inner);
        let lane = TrayLane {
            desk: self.clone(),
            partition,
            incarnation: setup.incarnation,
        };
        let run = async move {
            let given_up = async {
                drain.wait().await;
                lane.desk.drained(&lane.partition, lane.incarnation);
                idle.wait().await;
            };
            tokio::select! {
                biased;
                () = setup.context.lease().lost() => {}
                () = given_up => {}
            }
            LaneEnd {
                partition: lane.partition.clone(),
                incarnation: lane.incarnation,
                call_dropped: lane.close(),
            }
        };
        (handle, is_new.then_some(run))
    }

    /// The position of the partition is where the caller wanted it: it is committed as one that was
    /// reached by reading.
    pub(crate) fn sought(&self, partition: &TopicPartition) {
        if let Some(tray) = self.lock().trays.get_mut(partition) {
            tray.was_out = true;
        }
    }

    /// Something was put into the inbox of the partition.
    pub(in crate::lane) fn arrived(&self, partition: &TopicPartition) {
        let mut inner = self.lock();
        inner.take_turn(partition);
        inner.call();
    }

    /// The partition is to be given up.
    fn drained(&self, partition: &TopicPartition, incarnation: u64) {
        let mut inner = self.lock();
        if let Some(tray) = inner.trays.get_mut(partition)
            && tray.incarnation == incarnation
            && !tray.is_out
        {
            tray.idle.set();
        }
    }

    /// The lane has ended; whether the caller has something of it.
    fn close_tray(&self, partition: &TopicPartition, incarnation: u64) -> bool {
        let mut inner = self.lock();
        let is_same = |tray: &Tray| tray.incarnation == incarnation;
        if !inner.trays.get(partition).is_some_and(is_same) {
            return false;
        }
        let tray = inner.trays.remove(partition);
        tray.is_some_and(|tray| {
            if tray.was_out
                && let Some(marked) = tray.progress.last_marked()
                && tray.progress.last_committed() != Some(marked)
            {
                // It may be committed yet: see `committed`.
                inner.gone.insert(partition.clone(), marked);
            }
            tray.is_out
        })
    }

    /// `offset` is committed: if that is all that the caller had, nothing is gone with the partition.
    pub(crate) fn committed(&self, partition: &TopicPartition, offset: Offset) {
        let mut inner = self.lock();
        if inner.gone.get(partition) == Some(&offset) {
            inner.gone.remove(partition);
        }
    }

    /// A partition is stopped, and others go on. Not news to a caller that has left the place.
    pub(crate) fn report(&self, error: Error) {
        let mut inner = self.lock();
        let left = error.partition().map(|of| inner.seeks.contains_key(of));
        if left == Some(true) {
            return;
        }
        inner.forget_error(error.partition());
        inner.errors.push_back(error);
        inner.call();
    }

    /// Whether the caller has heard that a partition that it named is missing; `None` if it named none.
    pub(crate) fn is_told_missing(&self, partition: &TopicPartition) -> Option<bool> {
        let inner = self.lock();
        let place = inner.places.as_ref()?.get(partition)?;
        Some(place.is_told_missing)
    }

    /// The cluster does not have the partition. Told once.
    pub(crate) fn report_missing(&self, error: Error) {
        let mut inner = self.lock();
        let place = error.partition().and_then(|partition| {
            let places = inner.places.as_mut()?;
            places.get_mut(partition)
        });
        let Some(place) = place.filter(|place| !place.is_told_missing) else {
            return;
        };
        place.is_told_missing = true;
        drop(inner);
        self.report(error);
    }

    /// There is nothing more to come.
    pub(crate) fn fail(&self, error: Error) {
        let mut inner = self.lock();
        inner.fatal.get_or_insert(error);
        inner.seeks.clear();
        inner.call();
    }

    /// What the caller subscribed to last, if it did again.
    pub(crate) fn subscription(&self) -> Option<Subscription> {
        self.lock().subscription.clone()
    }

    /// What the caller wants.
    pub(crate) fn take_orders(&self) -> Vec<Order> {
        let mut inner = self.lock();
        let seeks = std::mem::take(&mut inner.seeks).into_iter();
        let mut orders: Vec<_> = seeks
            .map(|(partition, seek)| Order::Seek(partition, seek.place, seek.reply))
            .collect();
        if std::mem::take(&mut inner.wants_commit) {
            orders.push(Order::Commit);
        }
        if std::mem::take(&mut inner.wants_subscription) {
            orders.extend(inner.subscription.clone().map(Order::Subscribe));
            let places = inner.places.as_ref();
            orders.extend(places.map(|p| Order::Assign(p.keys().cloned().collect())));
        }
        orders
    }
}

/// A tray's lane. However it ends, also with a member that failed, the tray goes with it.
struct TrayLane {
    desk: Arc<Desk>,
    partition: TopicPartition,
    incarnation: u64,
}

impl TrayLane {
    fn close(&self) -> bool {
        self.desk.close_tray(&self.partition, self.incarnation)
    }
}

impl Drop for TrayLane {
    fn drop(&mut self) {
        self.close();
    }
}
