//! [`Deliveries`]: the results of records that were handed over together.

use crate::handle::{BatchResult, DeliveryHandle, Slot};
use ottla_types::{PublishError, RecordMetadata};
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

/// The outcomes of the records of one [`Producer::enqueue_all`](crate::Producer::enqueue_all), in the
/// order in which they were given.
///
/// It names each batch once, so a record in it costs a few bytes and no count of references. Dropping
/// it does not withdraw the records. All of them resolve, also when the producer is closed or dropped.
#[derive(Debug)]
#[must_use = "deliveries say whether the records were written"]
pub struct Deliveries {
    batches: Vec<Arc<BatchResult>>,
    entries: Vec<Entry>,
    /// The records that went into no batch at once; an entry knows its own by number.
    apart: Vec<DeliveryHandle>,
    /// The record whose outcome comes next.
    next: usize,
    /// Its handle, while it is waited for.
    waiting: Option<DeliveryHandle>,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    id: u64,
    timestamp_ms: i64,
    /// The number of a batch, or `APART`.
    batch: u32,
    /// The place in it, or in `apart`.
    index: u32,
}

const APART: u32 = u32::MAX;

type Outcome = Result<RecordMetadata, PublishError>;

impl Deliveries {
    pub(crate) fn with_capacity(records: usize) -> Self {
        Self {
            batches: Vec::new(),
            entries: Vec::with_capacity(records),
            apart: Vec::new(),
            next: 0,
            waiting: None,
        }
    }

    /// The number that [`push_placed`](Self::push_placed) knows this batch by.
    pub(crate) fn note(&mut self, batch: &Arc<BatchResult>) -> u32 {
        self.batches.push(Arc::clone(batch));
        self.batches.len() as u32 - 1
    }

    #[inline]
    pub(crate) fn push_placed(&mut self, id: u64, timestamp_ms: i64, batch: u32, index: u32) {
        self.entries.push(Entry {
            id,
            timestamp_ms,
            batch,
            index,
        });
    }

    pub(crate) fn push(&mut self, handle: DeliveryHandle) {
        let (id, index) = (handle.id(), self.apart.len() as u32);
        self.apart.push(handle);
        self.push_placed(id, -1, APART, index);
    }

    /// How many outcomes were not taken by [`next`](Self::next) yet.
    pub fn len(&self) -> usize {
        self.entries.len() - self.next
    }

    /// Whether all outcomes were taken.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The numbers of these records within their producer, as in
    /// [`DeliveryReport::id`](crate::DeliveryReport::id).
    pub fn ids(&self) -> impl ExactSizeIterator<Item = u64> + '_ {
        self.entries[self.next..].iter().map(|entry| entry.id)
    }

    /// The outcome of the next record; `None` when there are no more.
    ///
    /// Cancellation: an outcome that was not returned comes with the next call.
    pub async fn next(&mut self) -> Option<Outcome> {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    /// Waits for all that are left.
    ///
    /// # Errors
    /// The first that is one; the outcomes after it are not looked at.
    pub async fn written(mut self) -> Result<(), PublishError> {
        loop {
            self.pass_written();
            match self.next().await {
                Some(outcome) => outcome?,
                None => return Ok(()),
            };
        }
    }

    /// All outcomes that are left, in order.
    pub async fn all(mut self) -> Vec<Outcome> {
        let mut outcomes = Vec::with_capacity(self.len());
        while let Some(outcome) = self.next().await {
            outcomes.push(outcome);
        }
        outcomes
    }

    /// Passes over those that are known to be written, without making up what came of each.
    fn pass_written(&mut self) {
        let is_written = |entry: &Entry| {
            let batch = self.batches.get(entry.batch as usize);
            batch.is_some_and(|batch| batch.is_written_first(entry.index))
        };
        let left = self.entries[self.next..].iter();
        let passed = left.take_while(|entry| is_written(entry)).count();
        if passed > 0 {
            self.next += passed;
            self.waiting = None;
        }
    }

    #[inline]
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Outcome>> {
        let Some(entry) = self.entries.get(self.next) else {
            return Poll::Ready(None);
        };
        if let Some(batch) = self.batches.get(entry.batch as usize)
            && let Some(outcome) = batch.settled_first(entry.index, entry.timestamp_ms)
        {
            self.next += 1;
            self.waiting = None;
            return Poll::Ready(Some(outcome));
        }
        self.poll_waiting(*entry, cx)
    }

    /// Waits as a handle of its own would.
    fn poll_waiting(&mut self, entry: Entry, cx: &mut Context<'_>) -> Poll<Option<Outcome>> {
        let handle = match self.batches.get(entry.batch as usize) {
            None => self.apart.get_mut(entry.index as usize),
            Some(batch) => Some(self.waiting.get_or_insert_with(|| {
                let slot = Slot {
                    batch: Arc::clone(batch),
                    index: entry.index,
                };
                DeliveryHandle::placed(entry.id, entry.timestamp_ms, slot)
            })),
        };
        let Some(handle) = handle else {
            return Poll::Ready(None);
        };
        let outcome = std::task::ready!(Pin::new(handle).poll(cx));
        self.next += 1;
        self.waiting = None;
        Poll::Ready(Some(outcome))
    }
}
