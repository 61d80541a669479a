//! How batches are handed to a transport and how their answers come back: each batch carries its
//! caller's token, and each token gets exactly one [`Answer`], whatever happens to the batch.

use super::{ProduceOptions, Produced, Transport};
use crate::{Backoff, Error, ErrorKind};
use ottla_record_batch::EncodedBatch;
use ottla_types::{Fate, TopicPartition, at_most_a_year};
use smallvec::SmallVec;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

/// One batch on its way out.
#[derive(Debug)]
pub struct Outgoing {
    /// The caller's name for it, which comes back with the answer.
    pub token: u64,
    /// Where it goes.
    pub partition: TopicPartition,
    /// The batch.
    pub batch: EncodedBatch,
}

/// What became of one attempt to write a batch.
#[derive(Debug)]
pub struct Answer {
    /// As in [`Outgoing::token`].
    pub token: u64,
    /// Where the batch was written, or why it was not acknowledged. The [`Fate`] in the error is
    /// that of this attempt alone.
    pub result: Result<Produced, Error>,
    /// The failure named the new leader (KIP-951): another attempt need not wait.
    pub leader_known: bool,
}

/// A queue of answers: the end that a transport fills and the end that its caller empties. It holds
/// at most one answer for each batch that the caller has handed over.
pub fn answers() -> (AnswerSink, Answers) {
    let shared = Arc::new(Shared::default());
    let end = shared.clone();
    (AnswerSink::new(move |more| end.push(more)), Answers(shared))
}

/// Takes the answers of a transport. Cloning is cheap.
#[derive(Clone)]
pub struct AnswerSink(Arc<dyn Fn(Vec<Answer>) + Send + Sync>);

/// Gives the answers to the caller of a transport.
#[derive(Debug)]
pub struct Answers(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    queue: Mutex<Vec<Answer>>,
    ready: Notify,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Vec<Answer>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, more: Vec<Answer>) {
        let mut queue = self.lock();
        let was_empty = queue.is_empty();
        queue.extend(more);
        drop(queue);
        if was_empty {
            self.ready.notify_one();
        }
    }
}

impl AnswerSink {
    /// `take` is called with answers that came together, at least one, from whatever task or thread
    /// they came to, perhaps within [`Transport::produce`]. It shall be quick, and may not call the
    /// transport.
    pub fn new(take: impl Fn(Vec<Answer>) + Send + Sync + 'static) -> Self {
        Self(Arc::new(take))
    }

    /// The duty to answer for one batch.
    pub fn reply(&self, token: u64, partition: TopicPartition) -> Reply {
        Reply(Some(Duty {
            sink: self.clone(),
            token,
            partition,
            fate: Fate::NotWritten,
        }))
    }
}

impl fmt::Debug for AnswerSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AnswerSink").finish_non_exhaustive()
    }
}

/// Answers that are given together, when this is dropped.
#[derive(Debug, Default)]
pub struct Together {
    /// Mostly all have one sink.
    sinks: SmallVec<[(AnswerSink, Vec<Answer>); 1]>,
}

impl Together {
    /// Adds the answer for one batch.
    pub fn send(&mut self, reply: Reply, result: Result<Produced, Error>) {
        self.give(reply, result, false);
    }

    /// Adds a failure that another attempt need not wait after: the new leader is known.
    pub fn fail_over(&mut self, reply: Reply, error: Error) {
        self.give(reply, Err(error), true);
    }

    fn give(&mut self, mut reply: Reply, result: Result<Produced, Error>, leader_known: bool) {
        let Some((sink, answer)) = reply.answer(result, leader_known) else {
            return;
        };
        match self.sinks.last_mut() {
            Some((last, answers)) if Arc::ptr_eq(&last.0, &sink.0) => answers.push(answer),
            _ => self.sinks.push((sink, vec![answer])),
        }
    }
}

impl Drop for Together {
    fn drop(&mut self) {
        for (sink, answers) in self.sinks.drain(..) {
            (sink.0)(answers);
        }
    }
}

impl Answers {
    /// Waits for an answer, then moves all that are there to the end of `into`.
    ///
    /// Cancellation: no answer is lost when the future is dropped.
    pub async fn recv(&mut self, into: &mut Vec<Answer>) {
        while !self.take(into) {
            self.0.ready.notified().await;
        }
    }

    /// Moves the answers that are there to the end of `into`; `false` if there was none.
    pub fn take(&mut self, into: &mut Vec<Answer>) -> bool {
        let mut queue = self.0.lock();
        let some = !queue.is_empty();
        if into.is_empty() {
            std::mem::swap(into, &mut queue);
        } else {
            into.append(&mut queue);
        }
        some
    }
}

/// The duty to answer for one batch. One that is dropped answers that the transport is closed.
#[derive(Debug)]
#[must_use = "dropping it answers that the transport is closed"]
pub struct Reply(Option<Duty>);

#[derive(Debug)]
struct Duty {
    sink: AnswerSink,
    token: u64,
    partition: TopicPartition,
    /// What became of the batch if nobody can say more.
    fate: Fate,
}

impl Reply {
    /// From now on the batch may be written, unless an answer says otherwise.
    pub fn sent(&mut self) {
        if let Some(duty) = &mut self.0 {
            duty.fate = Fate::MaybeWritten;
        }
    }

    /// Answers.
    pub fn send(mut self, result: Result<Produced, Error>) {
        self.give(result, false);
    }

    /// Answers with a failure that another attempt need not wait after: the new leader is known.
    pub fn fail_over(mut self, error: Error) {
        self.give(Err(error), true);
    }

    fn give(&mut self, result: Result<Produced, Error>, leader_known: bool) {
        if let Some((sink, answer)) = self.answer(result, leader_known) {
            (sink.0)(vec![answer]);
        }
    }

    /// The answer, for the caller to give; nothing if it was given.
    fn answer(
        &mut self,
        result: Result<Produced, Error>,
        leader_known: bool,
    ) -> Option<(AnswerSink, Answer)> {
        let duty = self.0.take()?;
        let answer = Answer {
            token: duty.token,
            result,
            leader_known,
        };
        Some((duty.sink, answer))
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        if let Some(duty) = &self.0 {
            let error = Error::new(ErrorKind::Closed, "Produce")
                .with_partition(duty.partition.clone())
                .with_fate(duty.fate);
            self.give(Err(error), false);
        }
    }
}

/// The bounds of the waits between the attempts of [`produce_all`].
const BACKOFF: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(500));

/// An attempt with less time than this would only turn a sure fate into an unknown one.
const MIN_ATTEMPT: Duration = Duration::from_millis(50);

/// Writes one batch to each partition and waits for all of them: for tests and simple tools, which
/// need no producer. The answers stand in the order of `batches`.
///
/// A failure that passes is met with another attempt until `options.timeout`, so a batch without a
/// sequence may then stand in the log twice; the fate in an error is that of all attempts together.
///
/// Cancellation: batches that were handed over may be written although the future is dropped.
pub async fn produce_all(
    transport: &dyn Transport,
    options: &ProduceOptions,
    batches: Vec<(TopicPartition, EncodedBatch)>,
) -> Vec<(TopicPartition, Result<Produced, Error>)> {
    let deadline = Instant::now() + at_most_a_year(options.timeout);
    let (sink, mut incoming) = answers();
    let mut results: Vec<_> = batches.iter().map(|_| None).collect();
    let mut fates = vec![Fate::NotWritten; batches.len()];
    let mut backoffs: Vec<_> = batches
        .iter()
        .map(|_| Backoff::new(BACKOFF.0, BACKOFF.1))
        .collect();
    // What is to be sent, and when.
    let mut due: Vec<(Instant, usize)> =
        (0..batches.len()).map(|at| (Instant::now(), at)).collect();
    let mut arrived = Vec::new();
    while results.iter().any(Option::is_none) {
        let now = Instant::now();
        let mut ready = Vec::new();
        due.retain(|(when, at)| {
            if *when <= now {
                ready.push(*at);
            }
            *when > now
        });
        if !ready.is_empty() {
            let options = ProduceOptions {
                timeout: deadline - now,
                ..options.clone()
            };
            let ready = ready.into_iter().map(|at| Outgoing {
                token: at as u64,
                partition: batches[at].0.clone(),
                batch: batches[at].1.clone(),
            });
            transport.produce(&options, ready.collect(), &sink);
        }
        let next = due.iter().map(|(when, _)| *when).min();
        tokio::select! {
            () = incoming.recv(&mut arrived) => {}
            () = sleep_until(next.unwrap_or(now)), if next.is_some() => {}
        }
        for answer in arrived.drain(..) {
            let at = answer.token as usize;
            let result = answer.result.map_err(|error| {
                if error.fate() == Fate::MaybeWritten {
                    fates[at] = Fate::MaybeWritten;
                }
                error.with_fate(fates[at])
            });
            let delay = match answer.leader_known {
                true => Duration::ZERO,
                false => backoffs[at].next_delay(),
            };
            let when = Instant::now() + delay;
            match &result {
                Err(error) if error.is_retriable() && when + MIN_ATTEMPT < deadline => {
                    due.push((when, at));
                }
                _ => results[at] = Some(result),
            }
        }
    }
    let partitions = batches.into_iter().map(|(partition, _)| partition);
    partitions.zip(results.into_iter().flatten()).collect()
}
