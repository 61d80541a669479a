//! Outcomes as one stream ([`Reports`]), and what a producer that was closed leaves behind
//! ([`CloseReport`]).

use crate::accumulator::Accumulator;
use crate::handle::{BatchResult, Outcome, Place};
use crate::shared::Shared;
use futures_util::Stream;
use ottla_types::{Fate, PublishError, RecordMetadata};
use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

/// The outcome of one record.
#[derive(Debug, Clone)]
pub struct DeliveryReport {
    /// The record's number, as in [`DeliveryHandle::id`](crate::DeliveryHandle::id).
    pub id: u64,
    /// Where the record was written, or why it was not acknowledged.
    pub result: Result<RecordMetadata, PublishError>,
}

/// Every record's outcome, in the order in which they became known: see
/// [`Producer::reports`](crate::Producer::reports).
///
/// It is bounded by `buffer.memory`: a record weighs in the buffer until its report was read.
/// Dropping the stream turns reports off.
#[derive(Debug)]
pub struct Reports {
    shared: Arc<Shared>,
}

impl Reports {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// The next report; `None` when the producer is closed and every report was read.
    ///
    /// Cancellation: nothing is lost when the future is dropped.
    pub async fn recv(&mut self) -> Option<DeliveryReport> {
        std::future::poll_fn(|cx| self.poll(cx)).await
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<DeliveryReport>> {
        self.shared.with_told(|acc| acc.poll_report(cx))
    }
}

impl Stream for Reports {
    type Item = DeliveryReport;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.get_mut().poll(cx)
    }
}

impl Drop for Reports {
    fn drop(&mut self) {
        self.shared.with_told(Accumulator::stop_reports);
    }
}

/// Reports that were not read yet.
#[derive(Debug, Default)]
pub(crate) struct ReportQueue {
    items: VecDeque<ReportItem>,
    pub(crate) waker: Option<Waker>,
}

/// The reports of records that ended together.
#[derive(Debug)]
pub(crate) struct ReportItem {
    /// Where they were to be written; `None` for records that were never put into a batch, all of
    /// which failed.
    pub(crate) batch: Option<Arc<BatchResult>>,
    /// Number and timestamp of each record.
    pub(crate) records: Vec<(u64, i64)>,
    pub(crate) read: usize,
    pub(crate) outcome: Outcome,
    /// The bytes that are freed when the last one was read.
    pub(crate) charge: usize,
}

impl ReportItem {
    /// The failure of a record that was never put into a batch.
    pub(crate) fn unplaced(id: u64, error: PublishError, charge: usize) -> Self {
        Self {
            batch: None,
            records: vec![(id, -1)],
            read: 0,
            outcome: Outcome::Failed(error),
            charge,
        }
    }
}

impl ReportQueue {
    pub(crate) fn push(&mut self, item: ReportItem) {
        self.items.push_back(item);
    }

    /// The next report, and the bytes that it frees.
    pub(crate) fn pop(&mut self) -> Option<(DeliveryReport, usize)> {
        let item = self.items.front_mut()?;
        let (id, timestamp_ms) = item.records[item.read];
        let result = match (&item.batch, &item.outcome) {
            (None, Outcome::Failed(error)) => Err(error.clone()),
            (batch, outcome) => {
                let unplaced: Arc<str> = Arc::from("");
                let place = Place {
                    topic: batch.as_ref().map_or(&unplaced, |b| &b.topic),
                    partition: batch.as_ref().map_or(-1, |b| b.partition),
                    timestamp_ms,
                };
                outcome.of(&place, item.read as u32)
            }
        };
        item.read += 1;
        let mut freed = 0;
        if item.read == item.records.len() {
            freed = item.charge;
            self.items.pop_front();
        }
        Some((DeliveryReport { id, result }, freed))
    }

    /// The bytes of all reports that were not read.
    pub(crate) fn charge(&self) -> usize {
        self.items.iter().map(|item| item.charge).sum()
    }
}

/// What [`Producer::close`](crate::Producer::close) left behind.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[must_use = "it says what was not delivered"]
pub struct CloseReport {
    /// How many records were acknowledged over the producer's life.
    pub delivered: u64,
    /// What was not acknowledged when the deadline passed, by partition. Each of these records'
    /// deliveries failed with
    /// [`PublishErrorKind::Closed`](ottla_types::PublishErrorKind::Closed).
    pub undelivered: Vec<Undelivered>,
}

impl CloseReport {
    /// Whether everything that was taken had been acknowledged or had failed before.
    pub fn is_clean(&self) -> bool {
        self.undelivered.is_empty()
    }

    pub(crate) fn add(&mut self, topic: &Arc<str>, partition: Option<i32>, count: u64, fate: Fate) {
        let known = self
            .undelivered
            .iter_mut()
            .find(|u| u.topic == *topic && u.partition == partition && u.fate == fate);
        match known {
            Some(known) => known.records += count,
            None => self.undelivered.push(Undelivered {
                topic: Arc::clone(topic),
                partition,
                records: count,
                fate,
            }),
        }
    }
}

/// Records of one partition that were not acknowledged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Undelivered {
    /// The topic.
    pub topic: Arc<str>,
    /// The partition; `None` if none was chosen yet.
    pub partition: Option<i32>,
    /// How many records.
    pub records: u64,
    /// Whether they may be written all the same.
    pub fate: Fate,
}
