//! The calls for several records, one after the other, in one future: what surrounds a call costs no
//! allocation a record.

use super::guard::{first_poll, guard_rest, guard_until};
use super::stopwatch::{Stopwatch, Times};
use super::{Context, Handler, Outcome};
use crate::output::Call;
use ottla_types::ConsumedRecord;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;
use tracing::Span;

/// Handled records are told after so many,
const TELL_RECORDS: usize = 64;
/// or when so much time has passed.
const TELL_AFTER: Duration = Duration::from_millis(10);

/// What a lane sees of the calls.
pub(crate) trait Observer: Times + Send + Sync {
    /// Begins a call for the records from `first` on, if one may begin.
    fn begins(&self, context: &mut Context, first: &ConsumedRecord) -> Option<Call>;
    /// The span of the call.
    fn span(&self, record: &ConsumedRecord) -> Span;
    /// The call has ended.
    fn ends(&self);
    /// The record is handled, and so are those before it.
    fn handled(&self, record: &ConsumedRecord);
    /// So many more records are handled.
    fn tell(&self, records: usize);
}

/// The records of one partition for a handler that takes one at a time.
pub(crate) struct Run<'a> {
    pub(crate) context: Context,
    /// At least one.
    pub(crate) records: &'a [ConsumedRecord],
    /// The time limit of one call.
    pub(crate) limit: Duration,
    pub(crate) observer: &'a dyn Observer,
}

/// How a run ended.
#[derive(Debug)]
pub(crate) struct RunEnd {
    /// The records that are handled.
    pub(crate) handled: usize,
    /// Why the next one is not; `None` at the end, or when no further call may begin.
    pub(crate) outcome: Option<Outcome>,
}

impl Run<'_> {
    /// Calls the handler until all records are handled, one is not, or no call may begin.
    pub(super) async fn with(mut self, handler: &impl Handler) -> RunEnd {
        let mut watch = Stopwatch::start();
        let (mut told, mut told_at) = (0, watch.begun());
        let mut begins = Some(told_at);
        let mut end = RunEnd {
            handled: 0,
            outcome: None,
        };
        for record in self.records {
            let Some(call) = self.observer.begins(&mut self.context, record) else {
                break;
            };
            if let Some(begins) = begins.take() {
                self.context.set_deadline(begins + self.limit);
            }
            let span = self.observer.span(record);
            let mut handling = pin!(async { handler.handle(&self.context, record).await });
            let (outcome, now) = match first_poll(&span, handling.as_mut()).await {
                Poll::Ready(outcome) if !call.has_outputs() => {
                    (outcome, watch.ended_at_once(self.observer))
                }
                polled => {
                    let deadline = watch.waits(self.observer) + self.limit;
                    let outcome = match polled {
                        Poll::Ready(outcome) => outcome,
                        Poll::Pending => guard_rest(deadline, self.limit, &span, handling).await,
                    };
                    let outcome = match outcome {
                        Ok(ended) if call.has_outputs() => {
                            let settling = pin!(call.settle(ended));
                            guard_until(deadline, self.limit, &span, settling).await
                        }
                        outcome => outcome,
                    };
                    (outcome, Some(watch.ended(self.observer)))
                }
            };
            self.observer.ends();
            match outcome {
                Ok(Outcome::Done) => {
                    self.observer.handled(record);
                    call.done(1);
                }
                Ok(outcome) => end.outcome = Some(outcome),
                Err(error) => end.outcome = Some(Outcome::Failed(error)),
            }
            if end.outcome.is_some() {
                break;
            }
            end.handled += 1;
            if let Some(now) = now {
                begins = Some(now);
                if end.handled - told >= TELL_RECORDS || now - told_at >= TELL_AFTER {
                    self.observer.tell(end.handled - told);
                    (told, told_at) = (end.handled, now);
                }
            }
        }
        watch.stop(self.observer);
        if end.handled > told {
            self.observer.tell(end.handled - told);
        }
        end
    }
}
