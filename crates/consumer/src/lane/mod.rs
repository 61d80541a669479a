//! A lane: the task that hands one partition's records to the handler, in order.
//!
//! A lane owns its buffered records and the call in progress. It ends when it is drained (the call in
//! progress is finished first, nothing new is begun), when its inbox is closed, or at once when the
//! lease is revoked (the call is dropped). It marks what is handled in its [`Progress`] and never
//! commits anything itself.

mod asked;
mod call;
mod desk;
mod feed;
#[cfg(test)]
mod feed_tests;
mod parallel;
#[cfg(test)]
mod parallel_tests;
mod progress;
#[cfg(test)]
mod random_tests;
mod slots;

pub(crate) use asked::Round;
pub(crate) use desk::{Desk, Handed, Order, SeekReply};
pub(crate) use progress::{Progress, Trouble};

use crate::handler::Context;
use crate::latch::Latch;
use crate::output::Outputs;
use crate::status::MemberBoard;
use crate::work::Work;
use call::Caller;
use feed::Feed;
use ottla_group::Gaps;
use ottla_record_batch::RecordSet;
use ottla_types::{ConsumedRecord, Offset, TopicPartition};
use parallel::WindowLimits;
use slots::Slots;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::Instant;

/// Records that are decoded at a time for a handler that takes them one by one.
const EACH_RECORDS: usize = 256;
/// How long a lane without work keeps the memory for records.
const SLOTS_KEPT: Duration = Duration::from_secs(1);
/// Decoded bytes of a lane with several calls, in parts.
const WINDOW_PARTS: usize = 4;
/// What a decoded record weighs besides its bytes.
const RECORD_OVERHEAD: usize = size_of::<ConsumedRecord>();
/// What a chunk weighs besides its bytes.
const CHUNK_OVERHEAD: usize = 256;

/// What a fetch brought for one partition, as it came.
#[derive(Debug, Default)]
pub(crate) struct Chunk {
    /// The records; they may begin below what the lane wants.
    pub(crate) records: RecordSet,
    /// Where to read on: above every record, and above what held none.
    pub(crate) next_offset: Offset,
    /// How often the lane had told of trouble when it was asked for.
    pub(crate) reading: u64,
}

impl Chunk {
    /// No records before this offset.
    pub(crate) fn end(next_offset: Offset) -> Self {
        Self {
            next_offset,
            ..Self::default()
        }
    }

    /// What it weighs in the buffer.
    pub(crate) fn bytes(&self) -> usize {
        self.records.size() + CHUNK_OVERHEAD
    }
}

/// How a lane is set up.
pub(crate) struct LaneSetup {
    pub(crate) partition: TopicPartition,
    pub(crate) incarnation: u64,
    /// Where its records begin.
    pub(crate) position: Offset,
    pub(crate) work: Work,
    pub(crate) context: Context,
    pub(crate) outputs: Outputs,
    pub(crate) progress: Arc<Progress>,
    pub(crate) board: Arc<MemberBoard>,
    pub(crate) limits: LaneLimits,
}

/// The limits of a lane.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LaneLimits {
    pub(crate) processing: Duration,
    pub(crate) backoff: Duration,
    pub(crate) backoff_max: Duration,
    /// How much is decoded at a time, decompressed bytes and the records themselves.
    pub(crate) part_bytes: usize,
}

/// How many chunks may wait in a lane's inbox; the bytes are bounded by the member.
const INBOX_CHUNKS: usize = 16;

/// The member's end of a lane. Dropping it closes the inbox.
#[derive(Debug)]
pub(crate) struct LaneHandle {
    inbox: mpsc::Sender<Chunk>,
    drain: Latch,
    /// Where a plain consumer's caller waits.
    desk: Option<(Arc<Desk>, TopicPartition)>,
}

/// How a lane ended.
#[derive(Debug)]
pub(crate) struct LaneEnd {
    pub(crate) partition: TopicPartition,
    pub(crate) incarnation: u64,
    /// A call was in progress and was dropped.
    pub(crate) call_dropped: bool,
}

impl LaneHandle {
    /// Whether a chunk would be taken.
    pub(crate) fn has_room(&self) -> bool {
        self.inbox.capacity() > 0
    }

    /// Hands a chunk over; false when the lane cannot take it.
    pub(crate) fn send(&self, chunk: Chunk) -> bool {
        let sent = self.inbox.try_send(chunk).is_ok();
        if let Some((desk, partition)) = &self.desk {
            desk.arrived(partition);
        }
        sent
    }

    /// Lets the call in progress finish and begins nothing more.
    pub(crate) fn drain(&self) {
        self.drain.set();
    }
}

/// Makes a lane: the handle, and the future to be run as a task.
pub(crate) fn lane(setup: LaneSetup) -> (LaneHandle, impl Future<Output = LaneEnd> + Send) {
    let (sender, inbox) = mpsc::channel(INBOX_CHUNKS);
    let drain = Latch::default();
    let lease = setup.context.lease().clone();
    let handle = LaneHandle {
        inbox: sender,
        drain: drain.clone(),
        desk: None,
    };
    let run = async move {
        let (partition, incarnation) = (setup.partition.clone(), setup.incarnation);
        let work = setup.work.clone();
        let (progress, part_bytes) = (setup.progress.clone(), setup.limits.part_bytes);
        let mut lane = Lane {
            before: progress.handled_before(),
            feed: Feed::new(&setup, inbox, drain.clone()),
            caller: Caller::new(setup, drain),
            records: Slots::default(),
            progress,
            part_bytes,
        };
        let finished = tokio::select! {
            biased;
            () = lease.lost() => false,
            () = lane.run(work) => true,
        };
        let call_dropped = !finished && lane.caller.is_calling();
        LaneEnd {
            partition,
            incarnation,
            call_dropped,
        }
    };
    (handle, run)
}

struct Lane {
    feed: Feed,
    caller: Caller,
    /// What was handled before a restart, above where the lane began: it is not handed over again.
    before: Gaps,
    /// What is handed over; its memory is used again as long as there is work.
    records: Slots,
    progress: Arc<Progress>,
    part_bytes: usize,
}

impl Lane {
    async fn run(&mut self, work: Work) {
        let (max_records, max_wait) = match &work {
            Work::Each { concurrency: 1, .. } => (EACH_RECORDS, Duration::ZERO),
            Work::Each {
                handler,
                concurrency,
            } => {
                let limits = WindowLimits {
                    calls: *concurrency,
                    bytes: WINDOW_PARTS * self.part_bytes,
                };
                let Self { feed, caller, .. } = self;
                return parallel::run(feed, caller, &self.progress, handler, limits).await;
            }
            Work::Batch {
                max_records,
                max_wait,
                ..
            } => (*max_records, *max_wait),
            // The caller takes its records from the desk.
            Work::Pull(_) => return,
        };
        while self.collect(max_records, max_wait).await.is_continue()
            && self.caller.hand_over(&self.records).await.is_continue()
        {
            self.records.clear();
            self.feed.handled();
            // A handler that never waits does not keep the thread from others.
            tokio::task::consume_budget().await;
        }
    }

    /// Collects the next records to hand over, at least one. Breaks when the lane is to end.
    async fn collect(&mut self, max_records: usize, max_wait: Duration) -> ControlFlow<()> {
        loop {
            self.fill(max_records);
            if !self.records.is_empty() {
                break;
            }
            self.feed.handled();
            if !self.feed.take_next() {
                let until = Instant::now() + SLOTS_KEPT;
                self.feed.receive(Some(until)).await?;
                if Instant::now() >= until {
                    self.records = Slots::default();
                    self.feed.receive(None).await?;
                }
            }
        }
        let until = (max_wait > Duration::ZERO).then(|| crate::after(max_wait));
        while self.records.len() < max_records && !self.feed.is_full() {
            if !self.feed.take_next() {
                match until {
                    Some(until) if Instant::now() < until => {
                        self.feed.receive(Some(until)).await?;
                    }
                    _ => break,
                }
            }
            self.fill(max_records);
        }
        ControlFlow::Continue(())
    }

    /// Decodes what is to be handed over, as far as it is there.
    fn fill(&mut self, max_records: usize) {
        let from = self.records.len();
        self.feed.fill(&mut self.records, max_records);
        if !self.before.is_empty() {
            // A commit names the epoch of the record below it, whoever has handled that.
            self.caller.note_epochs(&self.records[from..]);
            self.records
                .remove(from, |record| self.before.contains(record.offset));
        }
    }
}
