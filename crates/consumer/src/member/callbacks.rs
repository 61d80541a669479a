//! Calls the listener: one call at a time, in the order of what happened, each with a time limit.
//!
//! The calls run on a task of their own, so that one that blocks its thread holds up nobody else.
//! Nothing grows here without a bound: a partition stands at most once in each kind of call that
//! waits.

use super::core::Member;
use crate::HandlerError;
use crate::handler::panic_text;
use crate::lane::Progress;
use crate::listener::{Assigned, BoxListener, Rebalance, Revoked, SeekTo};
use ottla_types::TopicPartition;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;
use tokio::task::{AbortHandle, Id, JoinError, JoinSet};
use tokio::time::Instant;

/// The classes of a failed call.
const CLASS_PANIC: &str = crate::CLASS_PANIC;
const CLASS_TIMEOUT: &str = crate::CLASS_TIMEOUT;

/// The listener's calls, made and to be made.
pub(super) struct Callbacks {
    listener: Option<BoxListener>,
    limit: Duration,
    waiting: VecDeque<Call>,
    running: Option<Running>,
    tasks: JoinSet<Result<Starts, HandlerError>>,
}

type Starts = HashMap<TopicPartition, SeekTo>;

/// A call that waits for its turn.
enum Call {
    Assigned(Assigned),
    Revoked(Revoked),
    Lost(Rebalance),
}

struct Running {
    kind: Kind,
    partitions: Vec<TopicPartition>,
    task: AbortHandle,
    by: Instant,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Assigned,
    Revoked,
    Lost,
}

/// The end of a call.
pub(super) struct Called {
    kind: Kind,
    partitions: Vec<TopicPartition>,
    result: Result<Starts, HandlerError>,
}

impl Call {
    fn kind(&self) -> Kind {
        match self {
            Self::Assigned(_) => Kind::Assigned,
            Self::Revoked(_) => Kind::Revoked,
            Self::Lost(_) => Kind::Lost,
        }
    }

    fn rebalance_mut(&mut self) -> &mut Rebalance {
        match self {
            Self::Assigned(assigned) => assigned.rebalance_mut(),
            Self::Revoked(revoked) => revoked.rebalance_mut(),
            Self::Lost(lost) => lost,
        }
    }

    async fn run(self, listener: BoxListener) -> Result<Starts, HandlerError> {
        match self {
            Self::Assigned(assigned) => {
                listener.on_assigned(&assigned).await?;
                Ok(assigned.into_starts())
            }
            Self::Revoked(revoked) => listener.on_revoked(&revoked).await.map(|()| Starts::new()),
            Self::Lost(lost) => listener.on_lost(&lost).await.map(|()| Starts::new()),
        }
    }
}

impl Callbacks {
    pub(super) fn new(listener: Option<BoxListener>, limit: Duration) -> Self {
        Self {
            listener,
            limit,
            waiting: VecDeque::new(),
            running: None,
            tasks: JoinSet::new(),
        }
    }

    /// Whether there is anybody to tell.
    pub(super) fn is_listening(&self) -> bool {
        self.listener.is_some()
    }

    pub(super) fn assigned(&mut self, rebalance: Rebalance) {
        self.push(Call::Assigned(Assigned::new(rebalance)));
    }

    pub(super) fn revoked(&mut self, rebalance: Rebalance) {
        self.push(Call::Revoked(Revoked::new(rebalance)));
    }

    /// Tells the loss of those that were told as assigned and not as revoked. `rebalance` names the
    /// partitions that are lost.
    pub(super) fn lost(&mut self, mut rebalance: Rebalance) {
        let lost = rebalance.partitions().to_vec();
        let is_lost = |partition: &TopicPartition| lost.contains(partition);
        for call in &mut self.waiting {
            let kind = call.kind();
            let taken = match kind {
                Kind::Assigned | Kind::Revoked => call.rebalance_mut().take(is_lost),
                Kind::Lost => continue,
            };
            if kind == Kind::Assigned {
                rebalance.take(|p| taken.iter().any(|(taken, _)| taken == p));
            }
        }
        match &mut self.running {
            Some(running) if running.kind == Kind::Revoked => {
                rebalance.take(|p| running.partitions.contains(p));
            }
            // Where these begin, should they come back, is not its to say any more.
            Some(running) if running.kind == Kind::Assigned => {
                running.partitions.retain(|p| !is_lost(p));
            }
            _ => {}
        }
        self.waiting
            .retain_mut(|call| !call.rebalance_mut().partitions().is_empty());
        self.push(Call::Lost(rebalance));
    }

    fn push(&mut self, mut call: Call) {
        if self.is_listening() && !call.rebalance_mut().partitions().is_empty() {
            self.waiting.push_back(call);
        }
    }

    /// Begins the next call unless one is running.
    pub(super) fn start(&mut self, now: Instant) {
        if self.running.is_some() {
            return;
        }
        if let Some(listener) = &self.listener
            && let Some(mut call) = self.waiting.pop_front()
        {
            let (kind, partitions) = (call.kind(), call.rebalance_mut().partitions().to_vec());
            let task = self.tasks.spawn(call.run(listener.clone()));
            self.running = Some(Running {
                kind,
                partitions,
                task,
                by: now + self.limit,
            });
        }
    }

    /// The next end of a call; for ever pending when none is made. Safe to cancel.
    pub(super) async fn next(&mut self) -> Called {
        loop {
            match self.tasks.join_next_with_id().await {
                None => std::future::pending().await,
                Some(Ok((id, result))) => {
                    if let Some(called) = self.ended(id, result) {
                        return called;
                    }
                }
                Some(Err(error)) => {
                    if let Some(called) = self.ended(error.id(), Err(panicked(error))) {
                        return called;
                    }
                }
            }
        }
    }

    /// `None` for a call that was given up before.
    fn ended(&mut self, id: Id, result: Result<Starts, HandlerError>) -> Option<Called> {
        let running = self.running.take_if(|running| running.task.id() == id)?;
        Some(Called {
            kind: running.kind,
            partitions: running.partitions,
            result,
        })
    }

    /// Gives the running call up if its time is over.
    pub(super) fn take_overdue(&mut self, now: Instant) -> Option<Called> {
        let running = self.running.take_if(|running| running.by <= now)?;
        Some(self.give_up_running(running))
    }

    /// Gives up the call that is running, else the first that waits.
    pub(super) fn give_up_next(&mut self) -> Option<Called> {
        if let Some(running) = self.running.take() {
            return Some(self.give_up_running(running));
        }
        let mut call = self.waiting.pop_front()?;
        Some(Called {
            kind: call.kind(),
            partitions: call.rebalance_mut().partitions().to_vec(),
            result: Err(self.late()),
        })
    }

    fn give_up_running(&self, running: Running) -> Called {
        running.task.abort();
        Called {
            kind: running.kind,
            partitions: running.partitions,
            result: Err(self.late()),
        }
    }

    fn late(&self) -> HandlerError {
        let text = format!(
            "the callback took longer than {} ms",
            self.limit.as_millis()
        );
        HandlerError::transient(CLASS_TIMEOUT, text)
    }

    /// Whether a call about a revocation is running or waits.
    pub(super) fn has_revoked(&self) -> bool {
        let running = self.running.as_ref();
        running.is_some_and(|running| running.kind == Kind::Revoked)
            || self.waiting.iter().any(|call| call.kind() == Kind::Revoked)
    }

    pub(super) fn is_idle(&self) -> bool {
        self.running.is_none() && self.waiting.is_empty()
    }

    pub(super) fn next_wake(&self) -> Option<Instant> {
        self.running.as_ref().map(|running| running.by)
    }
}

fn panicked(error: JoinError) -> HandlerError {
    match error.try_into_panic() {
        Ok(panic) => HandlerError::transient(CLASS_PANIC, panic_text(&*panic)),
        Err(error) => HandlerError::transient(CLASS_PANIC, error.to_string()),
    }
}

impl Member {
    /// What a call of the listener is about.
    pub(super) fn rebalance(&self, partitions: Vec<(TopicPartition, Arc<Progress>)>) -> Rebalance {
        Rebalance::new(self.spec.group.clone(), self.spec.name.clone(), partitions)
    }

    /// Takes the end of a listener's call: a failure is reported and otherwise changes nothing.
    pub(super) fn on_called(&mut self, called: Called, now: Instant) {
        let Called {
            kind,
            partitions,
            result,
        } = called;
        let starts = result.unwrap_or_else(|error| {
            let callback = match kind {
                Kind::Assigned => "on_assigned",
                Kind::Revoked => "on_revoked",
                Kind::Lost => "on_lost",
            };
            tracing::warn!(group = %self.spec.group, callback, ?partitions, %error, "a callback failed");
            metrics::counter!(
                "ottla_consumer_callback_failures_total",
                "group" => self.spec.group.to_string(),
                "callback" => callback,
                "class" => error.class().to_owned(),
            )
            .increment(1);
            self.spec.board.add_callback_failure(&error);
            Starts::new()
        });
        if kind == Kind::Assigned {
            for partition in partitions {
                let start = starts.get(&partition).copied();
                let desk = self.spec.work.desk();
                let start = start.or_else(|| desk.and_then(|desk| desk.place(&partition)));
                if let Some(owned) = self.partitions.get_mut(&partition) {
                    owned.release(start, now);
                }
            }
        }
    }

    /// Ends what is told, as far as there is time.
    pub(super) async fn finish_callbacks(&mut self) {
        let give_up = self.give_up_at();
        while !self.callbacks.is_idle() {
            let now = Instant::now();
            self.callbacks.start(now);
            let by = self.callbacks.next_wake().into_iter().chain(give_up).min();
            let called =
                match tokio::time::timeout_at(by.unwrap_or(now), self.callbacks.next()).await {
                    Ok(called) => Some(called),
                    Err(_) => self.callbacks.give_up_next(),
                };
            if let Some(called) = called {
                self.on_called(called, Instant::now());
            }
        }
    }
}
