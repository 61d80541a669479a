//! What a step of the accumulator causes outside of it. Collected under the lock, carried out after
//! it was released, so that no waker runs under it.

use crate::handle::{BatchResult, Outcome, Slot, WaitCell};
use crate::report::{ReportItem, ReportQueue};
use ottla_types::PublishError;
use smallvec::SmallVec;
use std::sync::Arc;
use std::task::Waker;

/// To be carried out by [`Effects::apply`], in order.
#[derive(Debug, Default)]
pub(crate) struct Effects {
    /// Mostly one batch.
    pub(super) settled: SmallVec<[(Slot, u32, Outcome); 1]>,
    pub(super) cells: Vec<(Arc<WaitCell>, Result<Slot, PublishError>)>,
    pub(super) reported: Option<Waker>,
    /// The sender has something new to look at.
    pub(super) work: bool,
    /// Bytes became free or records were settled.
    pub(super) progress: bool,
}

impl Effects {
    pub(super) fn is_empty(&self) -> bool {
        self.settled.is_empty()
            && self.cells.is_empty()
            && self.reported.is_none()
            && !self.work
            && !self.progress
    }

    /// Resolves the handles.
    pub(crate) fn apply(self) -> Signals {
        for (cell, placed) in self.cells {
            cell.resolve(placed);
        }
        for (slot, count, outcome) in self.settled {
            slot.batch.settle(slot.index, count, outcome);
        }
        if let Some(waker) = self.reported {
            waker.wake();
        }
        Signals {
            work: self.work,
            progress: self.progress,
        }
    }

    pub(super) fn report(&mut self, reports: &mut ReportQueue, item: ReportItem) {
        reports.push(item);
        self.wake(reports);
    }

    pub(super) fn wake(&mut self, reports: &mut ReportQueue) {
        if let Some(waker) = reports.waker.take() {
            self.reported = Some(waker);
        }
    }

    pub(super) fn settle(
        &mut self,
        batch: &Arc<BatchResult>,
        first: u32,
        count: u32,
        outcome: Outcome,
    ) {
        let slot = Slot {
            batch: Arc::clone(batch),
            index: first,
        };
        self.settled.push((slot, count, outcome));
        self.progress = true;
    }
}

/// Whom to wake after the handles.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Signals {
    pub(crate) work: bool,
    pub(crate) progress: bool,
}
