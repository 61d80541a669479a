//! [`DeliveryHandle`]: the result of one record, shared by batch.
//!
//! A handle is a shared batch and a place in it, so a record costs no allocation of its own. Only a
//! record that waits for its topic's partitions has a cell, until it is put into a batch.

use ottla_client::transport::Produced;
use ottla_types::{PublishError, RecordMetadata};
use smallvec::SmallVec;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll, Waker};

/// How records that were sent together ended.
#[derive(Debug, Clone)]
pub(crate) enum Outcome {
    /// Written from this offset on.
    Written(Produced),
    /// Not acknowledged.
    Failed(PublishError),
}

/// The results of the records of one batch, as it was first put together. A batch that is split
/// later still answers here, in several segments.
#[derive(Debug)]
pub(crate) struct BatchResult {
    pub(crate) topic: Arc<str>,
    pub(crate) partition: i32,
    /// What was settled first: mostly all of it. Read without the lock.
    first: OnceLock<Segment>,
    state: Mutex<ResultState>,
}

#[derive(Debug, Default)]
struct ResultState {
    /// What was settled after the first.
    more: Vec<Segment>,
    /// Mostly there is one, who waits for a single record or for the last of a batch.
    wakers: SmallVec<[Option<Waker>; 1]>,
}

#[derive(Debug)]
struct Segment {
    first: u32,
    count: u32,
    outcome: Outcome,
}

impl BatchResult {
    pub(crate) fn new(topic: Arc<str>, partition: i32) -> Self {
        Self {
            topic,
            partition,
            first: OnceLock::new(),
            state: Mutex::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, ResultState> {
        // The state is changed by single pushes, so it is whole even after a panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Settles `count` records from `first` on and wakes those who wait.
    pub(crate) fn settle(&self, first: u32, count: u32, outcome: Outcome) {
        let mut state = self.lock();
        let segment = Segment {
            first,
            count,
            outcome,
        };
        if let Err(segment) = self.first.set(segment) {
            state.more.push(segment);
        }
        // The slots stay: handles of the records that are not settled yet know theirs by number.
        let wakers = state.wakers.iter_mut().filter_map(Option::take);
        let wakers: SmallVec<[Waker; 4]> = wakers.collect();
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
    }

    fn find<'a>(&'a self, state: &'a ResultState, index: u32) -> Option<&'a Segment> {
        let mut settled = self.first.get().into_iter().chain(&state.more);
        settled.find(|segment| segment.holds(index))
    }

    /// The result of a record that was settled with the first, as mostly all are.
    #[inline]
    pub(crate) fn settled_first(&self, index: u32, timestamp_ms: i64) -> Option<Outcomes> {
        let segment = self.first_with(index)?;
        Some(self.result(segment, index, timestamp_ms))
    }

    /// Whether a record was written, if it was settled with the first.
    #[inline]
    pub(crate) fn is_written_first(&self, index: u32) -> bool {
        self.first_with(index)
            .is_some_and(|first| matches!(first.outcome, Outcome::Written(_)))
    }

    /// The records that were settled first, if this is one of them.
    #[inline]
    fn first_with(&self, index: u32) -> Option<&Segment> {
        self.first.get().filter(|first| first.holds(index))
    }

    fn result(&self, segment: &Segment, index: u32, timestamp_ms: i64) -> Outcomes {
        let place = Place {
            topic: &self.topic,
            partition: self.partition,
            timestamp_ms,
        };
        segment.outcome.of(&place, index - segment.first)
    }
}

impl Segment {
    fn holds(&self, index: u32) -> bool {
        (self.first..self.first + self.count).contains(&index)
    }
}

type Outcomes = Result<RecordMetadata, PublishError>;

/// Where a record was to be written.
pub(crate) struct Place<'a> {
    pub(crate) topic: &'a Arc<str>,
    pub(crate) partition: i32,
    pub(crate) timestamp_ms: i64,
}

impl Outcome {
    /// The result of the record that stands `index` records after the first of its segment.
    pub(crate) fn of(&self, place: &Place<'_>, index: u32) -> Outcomes {
        match self {
            Self::Failed(error) => Err(error.clone()),
            Self::Written(produced) => Ok(RecordMetadata {
                topic: Arc::clone(place.topic),
                partition: place.partition,
                offset: produced.base_offset.map(|base| base + i64::from(index)),
                timestamp_ms: produced.log_append_time_ms.unwrap_or(place.timestamp_ms),
            }),
        }
    }
}

/// The result of a record that waits for its topic's partitions.
#[derive(Debug, Default)]
pub(crate) struct WaitCell(Mutex<WaitState>);

#[derive(Debug, Default)]
enum WaitState {
    #[default]
    New,
    Polled(Waker),
    Placed(Slot),
    Failed(PublishError),
}

impl WaitCell {
    /// Says what became of the record.
    pub(crate) fn resolve(&self, placed: Result<Slot, PublishError>) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let next = match placed {
            Ok(slot) => WaitState::Placed(slot),
            Err(error) => WaitState::Failed(error),
        };
        let before = std::mem::replace(&mut *state, next);
        drop(state);
        if let WaitState::Polled(waker) = before {
            waker.wake();
        }
    }
}

/// A place in a batch.
#[derive(Debug, Clone)]
pub(crate) struct Slot {
    pub(crate) batch: Arc<BatchResult>,
    pub(crate) index: u32,
}

/// The outcome of one record: a future that resolves when the record is acknowledged or given up.
///
/// Dropping it does not withdraw the record. It resolves also when the producer is closed or
/// dropped. Awaiting it again gives the same result again.
#[derive(Debug)]
#[must_use = "a delivery says whether the record was written"]
pub struct DeliveryHandle {
    id: u64,
    timestamp_ms: i64,
    state: HandleState,
}

#[derive(Debug)]
enum HandleState {
    Waiting(Arc<WaitCell>),
    Placed { slot: Slot, waker: Option<u32> },
    // In a box, so that the handle of a record that is taken stays small.
    Failed(Box<PublishError>),
}

impl DeliveryHandle {
    pub(crate) fn failed(id: u64, error: PublishError) -> Self {
        Self {
            id,
            timestamp_ms: -1,
            state: HandleState::Failed(Box::new(error)),
        }
    }

    pub(crate) fn placed(id: u64, timestamp_ms: i64, slot: Slot) -> Self {
        Self {
            id,
            timestamp_ms,
            state: HandleState::Placed { slot, waker: None },
        }
    }

    pub(crate) fn waiting(id: u64, timestamp_ms: i64, cell: Arc<WaitCell>) -> Self {
        Self {
            id,
            timestamp_ms,
            state: HandleState::Waiting(cell),
        }
    }

    /// The record's number within its producer, as in
    /// [`DeliveryReport::id`](crate::DeliveryReport::id): it grows with every call. `u64::MAX` for a
    /// record that was not taken for want of room.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Waits until the record is written, for those who do not need to know where.
    ///
    /// Cancellation: the record is not withdrawn.
    ///
    /// # Errors
    /// As awaiting the handle.
    pub async fn written(mut self) -> Result<(), PublishError> {
        if self.is_written() {
            return Ok(());
        }
        (&mut self).await.map(drop)
    }

    #[inline]
    fn is_written(&self) -> bool {
        match &self.state {
            HandleState::Placed { slot, .. } => slot.batch.is_written_first(slot.index),
            _ => false,
        }
    }

    /// The error that the record failed with at once, before it was taken.
    pub fn refused(&self) -> Option<&PublishError> {
        match &self.state {
            HandleState::Failed(error) => Some(error),
            _ => None,
        }
    }
}

fn poll_cell(cell: &WaitCell, cx: &Context<'_>) -> Poll<Result<Slot, PublishError>> {
    let mut state = cell.0.lock().unwrap_or_else(PoisonError::into_inner);
    match &*state {
        WaitState::Placed(slot) => Poll::Ready(Ok(slot.clone())),
        WaitState::Failed(error) => Poll::Ready(Err(error.clone())),
        WaitState::Polled(waker) if waker.will_wake(cx.waker()) => Poll::Pending,
        WaitState::New | WaitState::Polled(_) => {
            *state = WaitState::Polled(cx.waker().clone());
            Poll::Pending
        }
    }
}

impl Future for DeliveryHandle {
    type Output = Result<RecordMetadata, PublishError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        loop {
            match &mut this.state {
                HandleState::Failed(error) => return Poll::Ready(Err((**error).clone())),
                HandleState::Waiting(cell) => match poll_cell(cell, cx) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(Err(error)) => this.state = HandleState::Failed(Box::new(error)),
                    Poll::Ready(Ok(slot)) => {
                        this.state = HandleState::Placed { slot, waker: None };
                    }
                },
                HandleState::Placed { slot, waker } => {
                    let (batch, index) = (&slot.batch, slot.index);
                    if let Some(outcome) = batch.settled_first(index, this.timestamp_ms) {
                        return Poll::Ready(outcome);
                    }
                    let mut state = batch.lock();
                    if let Some(segment) = batch.find(&state, index) {
                        return Poll::Ready(batch.result(segment, index, this.timestamp_ms));
                    }
                    match waker.and_then(|at| state.wakers.get_mut(at as usize)) {
                        Some(own) => *own = Some(cx.waker().clone()),
                        None => {
                            *waker = u32::try_from(state.wakers.len()).ok();
                            state.wakers.push(Some(cx.waker().clone()));
                        }
                    }
                    return Poll::Pending;
                }
            }
        }
    }
}

impl Drop for DeliveryHandle {
    fn drop(&mut self) {
        if let HandleState::Placed {
            slot,
            waker: Some(at),
        } = &self.state
            && let Some(own) = slot.batch.lock().wakers.get_mut(*at as usize)
        {
            *own = None;
        }
    }
}
