//! [`Gate`]: lets a member's calls begin while a transaction is open, and knows what it holds.

use super::refusals::{Refusal, Refusals, Source};
use ottla_types::Publish;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;
use tokio::time::Instant;

/// When a transaction is full.
#[derive(Debug, Clone, Copy)]
pub(crate) struct GateLimits {
    /// Records that were handled.
    pub(crate) records: usize,
    /// Bytes that were published.
    pub(crate) bytes: usize,
}

/// What a member's task and its lanes share about the open transaction.
pub(crate) struct Gate {
    limits: GateLimits,
    state: Mutex<State>,
    opened: Notify,
    /// Wakes the member.
    member: Arc<Notify>,
}

#[derive(Default)]
struct State {
    /// Where records go while the gate is open.
    publish: Option<Arc<dyn Publish>>,
    /// The most records of the open transaction.
    quota: usize,
    /// Calls in progress, by their lanes.
    calls: BTreeMap<u64, usize>,
    held: Held,
    refusals: Refusals,
}

/// What an open transaction holds.
#[derive(Debug, Clone, Default)]
pub(crate) struct Held {
    /// When the first call began of those that may have published into it.
    pub(crate) entered: Option<Instant>,
    /// When the first record was handled.
    pub(crate) begun: Option<Instant>,
    pub(crate) records: usize,
    pub(crate) bytes: usize,
    /// Lanes whose handled records are in it.
    pub(crate) lanes: BTreeSet<u64>,
    /// Lanes of which a failed call published into it: it can only be aborted.
    pub(crate) tainted: BTreeSet<u64>,
}

impl Gate {
    /// A closed gate.
    pub(crate) fn new(limits: GateLimits, member: Arc<Notify>) -> Self {
        Self {
            limits,
            state: Mutex::default(),
            opened: Notify::new(),
            member,
        }
    }

    /// A new transaction is open, for so many records, or fewer by the limits.
    pub(crate) fn open(&self, publish: Arc<dyn Publish>, quota: usize) {
        let mut state = self.lock();
        state.quota = quota;
        state.held = Held::default();
        state.publish = Some(publish);
        drop(state);
        self.opened.notify_waiters();
    }

    /// The same transaction is open again.
    pub(crate) fn reopen(&self, publish: Arc<dyn Publish>) {
        self.lock().publish = Some(publish);
        self.opened.notify_waiters();
    }

    /// The transaction is over, and no other is open yet.
    pub(crate) fn clear(&self) {
        self.lock().held = Held::default();
    }

    /// No call begins from now on.
    pub(crate) fn close(&self) {
        self.lock().publish = None;
    }

    /// No call begins from now on. What the transaction holds at that moment, and the lanes with calls
    /// in progress: a call that ends is in one of the two.
    pub(crate) fn shut(&self) -> (Held, BTreeSet<u64>) {
        let mut state = self.lock();
        state.publish = None;
        (state.held.clone(), state.calls.keys().copied().collect())
    }

    /// Whether a failed call published into the transaction.
    pub(crate) fn is_tainted(&self) -> bool {
        !self.lock().held.tainted.is_empty()
    }

    /// Whether handled records are in the transaction.
    pub(crate) fn has_records(&self) -> bool {
        !self.lock().held.lanes.is_empty()
    }

    /// Whether handled records of this lane are in the transaction.
    pub(crate) fn holds(&self, lane: u64) -> bool {
        self.lock().held.lanes.contains(&lane)
    }

    /// Whether the transaction may be committed: it is not tainted, and its lanes are all still there.
    pub(crate) fn may_commit(&self, is_there: impl Fn(u64) -> bool) -> bool {
        let held = &self.lock().held;
        held.tainted.is_empty() && held.lanes.iter().all(|lane| is_there(*lane))
    }

    /// How old the transaction is, and whether it is full or tainted.
    pub(crate) fn since(&self) -> Since {
        let state = self.lock();
        let held = &state.held;
        Since {
            entered: held.entered,
            begun: held.begun,
            is_over: self.is_full(&state) || !held.tainted.is_empty(),
        }
    }

    pub(crate) fn is_quiet(&self) -> bool {
        self.lock().calls.is_empty()
    }

    /// Resolves when a call may begin. Safe to cancel.
    pub(super) async fn opened(&self) {
        loop {
            let opened = self.opened.notified();
            tokio::pin!(opened);
            // Registered before the look, so that no opening falls between.
            opened.as_mut().enable();
            if self.admits(&self.lock()) {
                return;
            }
            opened.await;
        }
    }

    /// Begins a call of a lane; `None` while none may begin.
    pub(super) fn enter(
        self: &Arc<Self>,
        lane: u64,
        source: Source,
    ) -> Option<(Entered, Admission)> {
        let mut state = self.lock();
        if !self.admits(&state) {
            return None;
        }
        let publish = state.publish.clone()?;
        *state.calls.entry(lane).or_default() += 1;
        state.held.entered.get_or_insert_with(Instant::now);
        let refused = match state.refusals.is_empty() {
            true => Vec::new(),
            false => state.refusals.of(&source, Instant::now()),
        };
        let admission = Admission {
            publish,
            is_careful: state.quota < self.limits.records.max(2),
            refused,
        };
        drop(state);
        let entered = Entered {
            gate: self.clone(),
            lane,
            source,
        };
        Some((entered, admission))
    }

    fn admits(&self, state: &State) -> bool {
        state.publish.is_some() && state.held.tainted.is_empty() && !self.is_full(state)
    }

    fn is_full(&self, state: &State) -> bool {
        state.held.records >= state.quota.min(self.limits.records)
            || state.held.bytes >= self.limits.bytes
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Changed by whole steps.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// See [`Gate::since`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct Since {
    /// When the first call began of those that may have published.
    pub(crate) entered: Option<Instant>,
    /// When the first record was handled.
    pub(crate) begun: Option<Instant>,
    pub(crate) is_over: bool,
}

/// A call that began. It has to be left.
#[must_use]
pub(super) struct Entered {
    gate: Arc<Gate>,
    lane: u64,
    source: Source,
}

/// What a call publishes through.
pub(super) struct Admission {
    pub(super) publish: Arc<dyn Publish>,
    /// Transactions were aborted lately: it is to be found out of each output what becomes of it.
    pub(super) is_careful: bool,
    /// What was refused of its outputs before.
    pub(super) refused: Vec<Refusal>,
}

impl Entered {
    /// Ends the call: with so many records handled, or failed with outputs.
    pub(super) fn leave(self, handled: Option<usize>, bytes: usize, refused: Vec<Refusal>) {
        let mut state = self.gate.lock();
        if !refused.is_empty() {
            state.refusals.note(&self.source, refused, Instant::now());
        }
        if let Some(calls) = state.calls.get_mut(&self.lane) {
            *calls -= 1;
            if *calls == 0 {
                state.calls.remove(&self.lane);
            }
        }
        let held = &mut state.held;
        held.bytes = held.bytes.saturating_add(bytes);
        let mut is_first = false;
        match handled {
            Some(0) => {}
            Some(records) => {
                // It sets the time for the end.
                is_first = held.begun.is_none();
                held.begun.get_or_insert_with(Instant::now);
                held.records += records;
                held.lanes.insert(self.lane);
            }
            None => {
                held.tainted.insert(self.lane);
            }
        }
        if state.calls.is_empty() && state.held.lanes.is_empty() && state.held.tainted.is_empty() {
            // No call has left anything in it.
            state.held.entered = None;
        }
        let is_over = self.gate.is_full(&state) || !state.held.tainted.is_empty();
        let is_waited_for = state.publish.is_none() && state.calls.is_empty();
        drop(state);
        if is_first || is_over || is_waited_for {
            self.gate.member.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ottla_types::{
        BoxFuture, Delivery, Fate, PublishError, PublishErrorKind, Record, TopicPartition,
    };
    use std::future::ready;
    use std::sync::Barrier;
    use std::sync::atomic::{AtomicU64, Ordering};

    /// Takes nothing.
    struct Nowhere;

    impl Publish for Nowhere {
        fn enqueue(&self, record: Record) -> Delivery {
            let kind = PublishErrorKind::Closed;
            Delivery::failed(PublishError::new(kind, Fate::NotWritten, record.topic))
        }

        fn ready(&self, _: usize) -> BoxFuture<'_, Result<(), PublishError>> {
            Box::pin(ready(Ok(())))
        }
    }

    fn gate(records: usize) -> Arc<Gate> {
        let bytes = usize::MAX;
        Arc::new(Gate::new(GateLimits { records, bytes }, Arc::default()))
    }

    fn enter(gate: &Arc<Gate>, lane: u64) -> Option<Entered> {
        let source = (TopicPartition::new("t", 0), 0);
        Some(gate.enter(lane, source)?.0)
    }

    #[test]
    fn a_call_that_ends_while_the_gate_is_shut_is_held_or_in_progress() {
        const ROUNDS: u64 = 5_000;
        const CALLS: u64 = 64;
        let (gate, barrier) = (gate(usize::MAX), Barrier::new(2));
        let left = AtomicU64::new(0);
        let (missed, amid) = std::thread::scope(|scope| {
            let (begin, begun) = std::sync::mpsc::channel::<Vec<Entered>>();
            let (barrier, left) = (&barrier, &left);
            scope.spawn(move || {
                for calls in begun {
                    barrier.wait();
                    for call in calls {
                        call.leave(Some(1), 0, Vec::new());
                        left.fetch_add(1, Ordering::Release);
                    }
                    barrier.wait();
                }
            });
            let (mut missed, mut amid) = (0, 0);
            for round in 0..ROUNDS {
                gate.open(Arc::new(Nowhere), usize::MAX);
                let calls = (0..CALLS).map(|lane| enter(&gate, lane).unwrap());
                begin.send(calls.collect()).unwrap();
                barrier.wait();
                // Amid the calls' ends, wherever there is a second core.
                while left.load(Ordering::Acquire) < round % CALLS {
                    std::hint::spin_loop();
                }
                let (held, calling) = gate.shut();
                let is_in = |lane: &u64| held.lanes.contains(lane) != calling.contains(lane);
                missed += (0..CALLS).filter(|lane| !is_in(lane)).count();
                amid += u64::from(!held.lanes.is_empty() && !calling.is_empty());
                barrier.wait();
                left.store(0, Ordering::Release);
            }
            (missed, amid)
        });
        assert!(gate.is_quiet());
        assert_eq!(missed, 0, "in {amid} of {ROUNDS} rounds");
    }

    #[test]
    fn a_call_that_failed_with_outputs_lets_no_other_begin() {
        let gate = gate(10);
        gate.open(Arc::new(Nowhere), 10);
        let (first, second) = (enter(&gate, 1).unwrap(), enter(&gate, 2).unwrap());
        first.leave(Some(1), 10, Vec::new());
        assert!(gate.may_commit(|lane| lane == 1) && !gate.may_commit(|lane| lane == 2));
        second.leave(None, 0, Vec::new());
        assert!(gate.is_tainted() && gate.is_quiet() && !gate.may_commit(|_| true));
        assert!(enter(&gate, 1).is_none());
        gate.close();
        gate.open(Arc::new(Nowhere), 1);
        enter(&gate, 1).unwrap().leave(Some(1), 0, Vec::new());
        assert!(enter(&gate, 1).is_none(), "the transaction is full");
    }
}
