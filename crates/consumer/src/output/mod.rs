//! What handlers publish (C13), and how it is tied to the offsets of what was handled.
//!
//! - Plain: [`Context::publish`](crate::Context::publish) hands records to the app's producer, and the
//!   handler awaits the deliveries.
//! - [Acknowledged](Outputs::Acknowledged): the runner makes sure of every delivery before a record
//!   counts as handled.
//! - [Transactional](Outputs::Transactional): records and offsets are parts of a transaction. The
//!   [`Gate`] lets calls begin only while one is open, and a transaction ends only when no call is in
//!   progress; so what a call publishes and the offset of its record are in the same one.
//!
//! A [`Scope`] is what one call may publish through: it is closed with the call.

mod gate;
mod refusals;
mod scope;

pub(crate) use gate::{Gate, GateLimits, Since};
pub(crate) use scope::Scope;

use crate::handler::{BatchOutcome, Context, HandlerError, Outcome};
use crate::latch::Latch;
use gate::Entered;
use ottla_types::{ConsumedRecord, Publish, Transactions};
use std::ops::ControlFlow;
use std::sync::Arc;

/// The class of the error when a record that a handler published, without looking at its delivery,
/// was not taken.
pub const CLASS_OUTPUT_FAILED: &str = "output_failed";

/// How a registration's handlers publish.
#[derive(Clone)]
pub(crate) enum OutputMode {
    /// To the app's producer, if it has one.
    Plain(Option<Arc<dyn Publish>>),
    /// The same, and the runner waits for the acknowledgements.
    Acknowledged(Arc<dyn Publish>),
    /// By a transactional producer a member.
    Transactional(Arc<dyn Transactions>),
}

/// How the calls of a lane publish.
#[derive(Clone)]
pub(crate) enum Outputs {
    /// As the context does by itself.
    Plain,
    /// With every record acknowledged before the call counts.
    Acknowledged(Arc<dyn Publish>),
    /// In the member's transactions; the number is the lane's, which no other lane has.
    Transactional(Arc<Gate>, u64),
}

impl Outputs {
    /// Waits until a call may begin; breaks when the lane is drained before that. Safe to cancel.
    pub(crate) async fn admit(&self, drain: &Latch) -> ControlFlow<()> {
        let Self::Transactional(gate, _) = self else {
            return ControlFlow::Continue(());
        };
        tokio::select! {
            biased;
            () = drain.wait() => ControlFlow::Break(()),
            () = gate.opened() => ControlFlow::Continue(()),
        }
    }

    /// Begins a call for the records from `first` on, whose outputs go where `context` says from then
    /// on; `None` while none may.
    pub(crate) fn begin(&self, context: &mut Context, first: &ConsumedRecord) -> Option<Call> {
        let (scope, entered) = match self {
            Self::Plain => return Some(Call(None)),
            Self::Acknowledged(publish) => (Scope::acknowledged(publish.clone()), None),
            Self::Transactional(gate, lane) => {
                let source = (first.topic_partition(), first.offset);
                let (entered, admission) = gate.enter(*lane, source)?;
                (Scope::transactional(admission), Some(entered))
            }
        };
        let scope = Arc::new(scope);
        context.set_scope(scope.clone());
        Some(Call(Some(Box::new(Active { scope, entered }))))
    }
}

/// A call of a handler. One that is dropped before it is [done](Self::done) counts as failed: what it
/// published cannot count.
pub(crate) struct Call(Option<Box<Active>>);

struct Active {
    scope: Arc<Scope>,
    entered: Option<Entered>,
}

impl Call {
    /// Whether there is something to [`settle`](Self::settle).
    pub(crate) fn has_outputs(&self) -> bool {
        self.0.is_some()
    }

    /// Makes sure of the outputs of a call that ended with `outcome`.
    pub(crate) async fn settle<O: Ended>(&self, outcome: O) -> O {
        let Some(active) = self.0.as_ref().filter(|_| outcome.is_done()) else {
            return outcome;
        };
        // Boxed, so that it does not make the future of every call large.
        match Box::pin(active.scope.settle()).await {
            Ok(()) => outcome,
            Err(error) => O::failed(
                HandlerError::transient(CLASS_OUTPUT_FAILED, "an output was not taken")
                    .with_source(error),
            ),
        }
    }

    /// So many records are handled, and are noted as that.
    pub(crate) fn done(mut self, records: usize) {
        if let Some(active) = &mut self.0 {
            active.done(records);
        }
    }
}

impl Active {
    fn done(&mut self, records: usize) {
        let closed = self.scope.close();
        if let Some(entered) = self.entered.take() {
            entered.leave(Some(records), closed.bytes, closed.refused);
        }
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        let closed = self.scope.close();
        if let Some(entered) = self.entered.take() {
            // Without outputs it leaves nothing behind.
            let handled = (closed.published == 0).then_some(0);
            entered.leave(handled, closed.bytes, closed.refused);
        }
    }
}

/// How a call ended, in both forms of handlers.
pub(crate) trait Ended {
    /// Whether something is handled.
    fn is_done(&self) -> bool;
    /// Nothing is handled.
    fn failed(error: HandlerError) -> Self;
}

impl Ended for Outcome {
    fn is_done(&self) -> bool {
        matches!(self, Self::Done)
    }

    fn failed(error: HandlerError) -> Self {
        Self::Failed(error)
    }
}

impl Ended for BatchOutcome {
    fn is_done(&self) -> bool {
        matches!(self, Self::Done | Self::FailedAt { index: 1.., .. })
    }

    fn failed(error: HandlerError) -> Self {
        Self::Failed(error)
    }
}
