//! A lane: the task that hands one partition's records to the handler, in order.
//!
//! A lane owns its buffered records and the call in progress. It ends when it is drained (the call in
//! progress is finished first, nothing new is begun), when its inbox is closed, or at once when the
//! lease is revoked (the call is dropped). It marks what is handled in its [`Progress`] and never
//! commits anything itself.

mod call;
mod progress;

pub(crate) use progress::Progress;

use crate::handler::Context;
use crate::status::MemberBoard;
use crate::work::Work;
use call::Caller;
use ottla_types::{ConsumedRecord, Offset, TopicPartition};
use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// What a fetch brought for one partition.
#[derive(Debug, Default)]
pub(crate) struct Chunk {
    /// The records, in order.
    pub(crate) records: Vec<ConsumedRecord>,
    /// Where to read on: above every record, and above what held none.
    pub(crate) next_offset: Offset,
    /// What the records weigh in the buffer.
    pub(crate) bytes: usize,
}

/// What a record weighs besides key, value and headers.
const RECORD_OVERHEAD: usize = 128;

/// What a record weighs in the buffer.
fn weight(record: &ConsumedRecord) -> usize {
    record.size() + RECORD_OVERHEAD
}

impl Chunk {
    /// Nothing yet, from `offset` on.
    pub(crate) fn at(offset: Offset) -> Self {
        Self {
            next_offset: offset,
            ..Self::default()
        }
    }

    pub(crate) fn push(&mut self, record: ConsumedRecord) {
        self.next_offset = record.offset.saturating_add(1);
        self.bytes += weight(&record);
        self.records.push(record);
    }
}

/// How a lane is set up.
pub(crate) struct LaneSetup {
    pub(crate) partition: TopicPartition,
    pub(crate) incarnation: u64,
    pub(crate) work: Work,
    pub(crate) context: Context,
    pub(crate) progress: Arc<Progress>,
    pub(crate) board: Arc<MemberBoard>,
    pub(crate) limits: LaneLimits,
}

/// The time limits of a lane.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LaneLimits {
    pub(crate) processing: Duration,
    pub(crate) backoff: Duration,
    pub(crate) backoff_max: Duration,
}

/// How many chunks may wait in a lane's inbox; the bytes are bounded by the member.
const INBOX_CHUNKS: usize = 16;

/// The member's end of a lane. Dropping it closes the inbox.
#[derive(Debug)]
pub(crate) struct LaneHandle {
    inbox: mpsc::Sender<Chunk>,
    drain: CancellationToken,
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
        self.inbox.try_send(chunk).is_ok()
    }

    /// Lets the call in progress finish and begins nothing more.
    pub(crate) fn drain(&self) {
        self.drain.cancel();
    }
}

/// Makes a lane: the handle, and the future to be run as a task.
pub(crate) fn lane(setup: LaneSetup) -> (LaneHandle, impl Future<Output = LaneEnd> + Send) {
    let (sender, inbox) = mpsc::channel(INBOX_CHUNKS);
    let drain = CancellationToken::new();
    let lease = setup.context.lease().clone();
    let handle = LaneHandle {
        inbox: sender,
        drain: drain.clone(),
    };
    let run = async move {
        let (partition, incarnation) = (setup.partition.clone(), setup.incarnation);
        let work = setup.work.clone();
        let mut lane = Lane {
            inbox,
            drain: drain.clone(),
            buffer: VecDeque::new(),
            end: None,
            progress: setup.progress.clone(),
            caller: Caller::new(setup, drain),
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
    inbox: mpsc::Receiver<Chunk>,
    drain: CancellationToken,
    buffer: VecDeque<ConsumedRecord>,
    /// The end of the last chunk that was taken in, until the progress has it.
    end: Option<Offset>,
    progress: Arc<Progress>,
    caller: Caller,
}

impl Lane {
    async fn run(&mut self, work: Work) {
        let (max_records, max_wait) = match work {
            Work::Each(_) => (1, Duration::ZERO),
            Work::Batch {
                max_records,
                max_wait,
                ..
            } => (max_records, max_wait),
        };
        while let Some(records) = self.collect(max_records, max_wait).await {
            let handled = self.caller.hand_over(&records).await;
            self.progress.release(records.iter().map(weight).sum());
            if handled.is_break() {
                return;
            }
            self.settle();
        }
    }

    /// The next records to hand over, at least one; `None` when the lane is to end.
    async fn collect(&mut self, max_records: usize, wait: Duration) -> Option<Vec<ConsumedRecord>> {
        while self.buffer.is_empty() {
            self.settle();
            self.receive(None).await.continue_value()?;
        }
        let until = Instant::now() + wait;
        while self.buffer.len() < max_records && Instant::now() < until {
            self.receive(Some(until)).await.continue_value()?;
        }
        if self.drain.is_cancelled() {
            return None;
        }
        let count = self.buffer.len().min(max_records);
        Some(self.buffer.drain(..count).collect())
    }

    /// Takes a chunk into the buffer, or returns when the time has come.
    async fn receive(&mut self, until: Option<Instant>) -> ControlFlow<()> {
        let late = async {
            match until {
                Some(until) => tokio::time::sleep_until(until).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = self.drain.cancelled() => ControlFlow::Break(()),
            chunk = self.inbox.recv() => match chunk {
                Some(chunk) => {
                    if self.inbox.capacity() == 1 {
                        // It was full, and the member may wait for that to end.
                        self.progress.wake();
                    }
                    self.buffer.extend(chunk.records);
                    self.end = Some(chunk.next_offset);
                    ControlFlow::Continue(())
                }
                None => ControlFlow::Break(()),
            },
            () = late => ControlFlow::Continue(()),
        }
    }

    /// With nothing left to handle, everything below the end of the last chunk is done: compacted,
    /// control and skipped records too.
    fn settle(&mut self) {
        if self.buffer.is_empty()
            && let Some(end) = self.end.take()
        {
            self.progress.advance_to(end);
        }
    }
}
