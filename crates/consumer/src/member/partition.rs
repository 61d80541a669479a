//! What a member knows about each partition that it owns.

use crate::handler::{PartitionLease, Term};
use crate::lane::{Chunk, LaneHandle, Progress, SeekReply};
use crate::listener::SeekTo;
use crate::status::PartitionState;
use crate::{Error, ErrorKind};
use bytes::Bytes;
use metrics::{Gauge, gauge};
use ottla_client::Backoff;
use ottla_client::transport::FetchPosition;
use ottla_types::{Offset, TopicPartition};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// The partitions of a member.
pub(super) type Partitions = BTreeMap<TopicPartition, Owned>;

const BACKOFF: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(2);

/// One owned partition.
pub(super) struct Owned {
    /// Tells this assignment from an earlier one, so that late answers are dropped (C7, C24).
    pub(super) incarnation: u64,
    pub(super) position: Position,
    pub(super) progress: Arc<Progress>,
    /// The handlers' right to the partition: ends before the partition is given back.
    pub(super) lease: PartitionLease,
    /// From when the position is known until the lane has ended.
    pub(super) lane: Option<LaneHandle>,
    /// When the partition is being given up: how long its call in progress may go on.
    pub(super) drain_by: Option<Instant>,
    /// How often its lane told of trouble.
    pub(super) reading: u64,
    /// The last offset that could not be read, and how often it was tried.
    pub(super) unreadable: Option<(Offset, u32)>,
    /// The first answer that did not know the partition, since the last that did.
    pub(super) missed: Option<Instant>,
    /// The id of the topic that is read, if the transport knows it.
    pub(super) topic_id: Option<[u8; 16]>,
    pub(super) lag: Lag,
    /// How often the application chose another position: tells one seek from another to the same
    /// place.
    pub(super) seeks: u64,
    /// Who waits to hear where a seek led to.
    pub(super) seek: Option<SeekReply>,
    /// What was handled when something was given to the lane last.
    handled: Option<Offset>,
    backoff: Backoff,
}

/// Where reading stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Position {
    /// Not known; to be looked up.
    Wanted { lookup: Lookup, not_before: Instant },
    /// Not to be looked up before the listener has heard of the partition.
    Held,
    /// Being looked up.
    LookingUp(Lookup),
    /// Known; the next fetch may ask for it.
    At {
        position: FetchPosition,
        not_before: Instant,
    },
    /// A fetch for it is out.
    Fetching(FetchPosition),
    /// An error stopped the partition; what its lane has is still handled.
    Stopped,
}

/// Why a position is looked up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lookup {
    /// The partition was assigned.
    Committed,
    /// The application said where to begin.
    Start(SeekTo),
    /// The log does not have this offset.
    OutOfRange(FetchPosition),
    /// The log was cut below the position, nobody knows where.
    Truncated,
    /// The topic was made anew.
    Recreated,
}

impl Owned {
    pub(super) fn new(
        incarnation: u64,
        progress: Arc<Progress>,
        term: Term,
        lag: Lag,
        now: Instant,
    ) -> Self {
        Self {
            incarnation,
            position: Position::Wanted {
                lookup: Lookup::Committed,
                not_before: now,
            },
            progress,
            lease: PartitionLease::within(term),
            lane: None,
            drain_by: None,
            reading: 0,
            unreadable: None,
            missed: None,
            topic_id: None,
            lag,
            seeks: 0,
            seek: None,
            handled: None,
            backoff: Backoff::new(BACKOFF, BACKOFF_MAX),
        }
    }

    /// Whether a fetch may ask for more: not retiring, and the lane has room.
    pub(super) fn has_room(&self) -> bool {
        self.drain_by.is_none()
            && self.progress.has_room()
            && self.lane.as_ref().is_some_and(LaneHandle::has_room)
    }

    /// Reads on at `position`.
    pub(super) fn read_at(&mut self, position: FetchPosition, now: Instant) {
        self.backoff.reset();
        self.position = Position::At {
            position,
            not_before: now,
        };
    }

    /// Reads `position` again after a while.
    pub(super) fn retry_at(&mut self, position: FetchPosition, now: Instant) {
        let not_before = now + self.backoff.next_delay();
        self.position = Position::At {
            position,
            not_before,
        };
    }

    /// The application wants to read elsewhere. What was fetched is forgotten, and what is on its way
    /// is for a position that is not the present one.
    pub(super) fn seek(&mut self, place: SeekTo, reply: SeekReply, now: Instant) {
        self.progress.reposition();
        self.unreadable = None;
        // Of a feed of its own, which counts anew.
        self.reading = 0;
        self.seek = Some(reply);
        self.seeks += 1;
        self.look_up(Lookup::Start(place), now);
    }

    /// Tells where a seek led to.
    pub(super) fn sought(&mut self, result: Result<Offset, Error>) {
        if let Some(reply) = self.seek.take() {
            // Who does not wait any more needs no answer.
            let _ = reply.send(result);
        }
    }

    /// Waits for [`release`](Self::release).
    pub(super) fn hold(&mut self) {
        self.position = Position::Held;
    }

    /// The listener has heard of the partition and may have said where it begins.
    pub(super) fn release(&mut self, start: Option<SeekTo>, now: Instant) {
        if self.position == Position::Held {
            self.look_up(start.map_or(Lookup::Committed, Lookup::Start), now);
        }
    }

    /// Looks the position up.
    pub(super) fn look_up(&mut self, lookup: Lookup, now: Instant) {
        self.position = Position::Wanted {
            lookup,
            not_before: now,
        };
    }

    /// Looks the position up again after a while.
    pub(super) fn look_up_later(&mut self, lookup: Lookup, now: Instant) {
        let not_before = now + self.backoff.next_delay();
        self.position = Position::Wanted { lookup, not_before };
    }

    /// Gives a chunk to the lane; false when the lane cannot take it, and then nothing changed.
    pub(super) fn deliver(&mut self, mut chunk: Chunk) -> bool {
        chunk.reading = self.reading;
        let handled = self.progress.handled();
        if std::mem::replace(&mut self.handled, handled) == handled && self.progress.buffered() > 0
        {
            // The lane stands still: it will stay for a while, and shall not keep the rest of its
            // answer in memory.
            let own = Bytes::copy_from_slice(chunk.records.bytes());
            chunk.records = own.into();
        }
        let bytes = chunk.bytes();
        self.progress.add_buffered(bytes);
        let sent = self.lane.as_ref().is_some_and(|lane| lane.send(chunk));
        if !sent {
            self.progress.release(bytes);
        }
        sent
    }

    /// Stops reading because of `error`.
    pub(super) fn stop(&mut self, error: Error) {
        self.position = Position::Stopped;
        self.sought(Err(error.clone()));
        self.progress.set_state(PartitionState::Stopped(error));
    }

    /// When something is to be done for reading, if only time is needed for it; `fetching` says
    /// whether a fetch can be started.
    pub(super) fn due(&self, fetching: bool) -> Option<Instant> {
        match self.position {
            _ if self.drain_by.is_some() => None,
            Position::Wanted { not_before, .. } => Some(not_before),
            Position::At { not_before, .. } if fetching && self.has_room() => Some(not_before),
            _ => None,
        }
    }
}

/// Whatever was the reason: no more calls, no more commits.
impl Drop for Owned {
    fn drop(&mut self) {
        self.progress.unassign(&Error::new(ErrorKind::NotOwner));
        self.lease.revoke();
    }
}

/// Whether a failed call may be tried again: everything that is not a plain refusal. An unclear
/// failure is never a reason to reset a position (C6).
pub(super) fn may_pass(error: &ottla_client::Error) -> bool {
    use ottla_client::ErrorKind as Kind;
    !matches!(
        error.kind(),
        Kind::Config
            | Kind::Unsupported
            | Kind::Authorization
            | Kind::Closed
            | Kind::Gap
            | Kind::Truncated
            | Kind::TopicRecreated
            | Kind::InvalidRecord
    )
}

/// The gauge of records that are not handled yet; 0 when the partition is given up.
pub(super) struct Lag(Gauge);

impl Lag {
    pub(super) fn new(group: &str, partition: &TopicPartition) -> Self {
        let labels = [
            ("group", group.to_owned()),
            ("topic", partition.topic.to_string()),
            ("partition", partition.partition.to_string()),
        ];
        Self(gauge!("ottla_consumer_lag", &labels))
    }

    pub(super) fn show(&self, progress: &Progress) {
        if let (Some(end), Some(handled)) = (progress.high_watermark(), progress.handled()) {
            // Far below 2^52 in practice, where a float is exact.
            self.0.set(end.saturating_sub(handled).max(0) as f64);
        }
    }
}

impl Drop for Lag {
    fn drop(&mut self) {
        self.0.set(0.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use metrics::{Counter, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};
    use std::sync::atomic::{AtomicU64, Ordering};

    /// Keeps the one gauge that is asked for.
    #[derive(Default)]
    struct OneGauge(Arc<AtomicU64>);

    impl Recorder for OneGauge {
        fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
        fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
        fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
        fn register_counter(&self, _: &Key, _: &Metadata<'_>) -> Counter {
            Counter::noop()
        }
        fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
            assert_eq!(key.name(), "ottla_consumer_lag");
            Gauge::from_arc(self.0.clone())
        }
        fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
            Histogram::noop()
        }
    }

    #[test]
    fn the_lag_of_a_partition_that_is_given_up_is_0() {
        let recorder = OneGauge::default();
        let value = || f64::from_bits(recorder.0.load(Ordering::Relaxed));
        let progress = Progress::new(1, Arc::default());
        progress.located(10, None);
        progress.set_high_watermark(25);
        let lag =
            metrics::with_local_recorder(&recorder, || Lag::new("g", &TopicPartition::new("t", 0)));
        lag.show(&progress);
        assert_eq!(value(), 15.0);
        progress.mark_handled(20);
        lag.show(&progress);
        assert_eq!(value(), 5.0);
        drop(lag);
        assert_eq!(value(), 0.0);
    }
}
