//! Flush, close, and the stream of reports.

use super::{Accumulator, Phase};
use crate::report::{CloseReport, DeliveryReport, ReportQueue};
use ottla_types::{Fate, PublishError, PublishErrorKind};
use std::sync::Arc;
use std::task::{Context, Poll};

impl Accumulator {
    /// Ends the lingering of everything that was enqueued before. Returns the mark to ask
    /// [`settled_up_to`](Self::settled_up_to) for.
    pub(crate) fn flush(&mut self) -> u64 {
        let mark = self.epoch;
        self.epoch += 1;
        if self.outstanding > 0 {
            let outstanding = std::mem::take(&mut self.outstanding);
            self.outstanding_before.insert(mark, outstanding);
        }
        self.close_all_open();
        self.effects.work = true;
        mark
    }

    /// How many records that were enqueued up to a flush's mark have no result yet.
    pub(crate) fn outstanding_up_to(&self, mark: u64) -> u64 {
        let before = self.outstanding_before.range(..=mark);
        before.map(|(_, count)| count).sum()
    }

    fn close_all_open(&mut self) {
        for at in 0..self.queues.len() {
            if self.queues[at].open.is_some() {
                self.close_open(at);
                self.schedule.touch(&mut self.queues[at], at);
            }
        }
    }

    /// Takes no more records; what was taken is sent without lingering. Returns the flush's mark.
    pub(crate) fn begin_close(&mut self) -> u64 {
        if self.phase == Phase::Open {
            self.phase = Phase::Closing;
            // Those who wait for room hear of it.
            self.effects.progress = true;
        }
        self.flush()
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.phase == Phase::Closed
    }

    /// Fails everything that has no result yet, and says what that was. A second call gives the
    /// first one's report.
    pub(crate) fn close_now(&mut self) -> CloseReport {
        if let Some(report) = &self.close_report {
            return report.clone();
        }
        self.phase = Phase::Closed;
        let mut report = CloseReport::default();
        for at in 0..self.queues.len() {
            self.close_open(at);
            let queue = &mut self.queues[at];
            self.in_flight -= queue.in_flight.len();
            let in_flight = std::mem::take(&mut queue.in_flight).into_iter();
            let ready = std::mem::take(&mut queue.ready).into_iter();
            let in_flight = in_flight.map(|flight| (flight.batch, Fate::MaybeWritten));
            let ready = ready.map(|batch| {
                let fate = batch.fate;
                (batch, fate)
            });
            for (batch, fate) in in_flight.chain(ready) {
                let group = batch.into_group();
                let result = &group.result;
                let topic = Arc::clone(&result.topic);
                report.add(&topic, Some(result.partition), u64::from(group.count), fate);
                self.fail(
                    group,
                    PublishError::new(PublishErrorKind::Closed, fate, topic),
                );
            }
        }
        for name in self.topics.names() {
            let topic = self.topics.get_mut(&name);
            for held in topic
                .map(|t| std::mem::take(&mut t.waiting))
                .unwrap_or_default()
            {
                report.add(&name, None, 1, Fate::NotWritten);
                let (kind, fate) = (PublishErrorKind::Closed, Fate::NotWritten);
                let error = PublishError::new(kind, fate, Arc::clone(&name));
                self.fail_waiting(&name, held, Some(error));
            }
        }
        report.delivered = self.delivered;
        self.close_report = Some(report.clone());
        self.effects.work = true;
        self.effects.progress = true;
        if let Some(reports) = &mut self.reports {
            self.effects.wake(reports);
        }
        report
    }

    /// Starts to report the records that are enqueued from now on. Returns false if that is on
    /// already.
    pub(crate) fn start_reports(&mut self) -> bool {
        if self.reports.is_some() {
            return false;
        }
        // A batch reports all of its records or none.
        self.close_all_open();
        self.reports = Some(ReportQueue::default());
        true
    }

    /// Reports nothing more and frees what the unread reports weigh.
    pub(crate) fn stop_reports(&mut self) {
        if let Some(reports) = self.reports.take() {
            self.used -= reports.charge();
            self.effects.progress = true;
        }
    }

    pub(crate) fn poll_report(&mut self, cx: &mut Context<'_>) -> Poll<Option<DeliveryReport>> {
        let closed = self.phase == Phase::Closed;
        let Some(reports) = &mut self.reports else {
            return Poll::Ready(None);
        };
        match reports.pop() {
            Some((report, freed)) => {
                self.used -= freed;
                self.effects.progress |= freed > 0;
                Poll::Ready(Some(report))
            }
            None if closed => Poll::Ready(None),
            None => {
                reports.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}
