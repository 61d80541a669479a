//! Carries the machine's requests to the coordinators, and keeps writes back until their partitions
//! are in the transaction.
//!
//! One task asks; whoever calls the machine or writes wakes it. What must hold: a write goes out
//! only while the machine admits it, in the order in which the writes of its partition came; one
//! that is kept back is answered within its time limit.

use super::machine::{Admission, Answer, Lost, Machine, Request, Step, Ticket};
use crate::shared::now;
use ottla_client::transport::{AnswerSink, Outgoing, ProduceOptions, Transport};
use ottla_client::{Error, ErrorKind, TransactionClient};
use ottla_types::transactions::TransactionVersion;
use ottla_types::{ErrorCode, TransactError};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;
use tokio::sync::Notify;

/// What the producer's handles, its transport and the task share.
pub(crate) struct Coordinator {
    client: TransactionClient,
    transport: Arc<dyn Transport>,
    state: Mutex<State>,
    /// The task has something to look at.
    work: Notify,
    /// The machine has moved.
    progress: Notify,
}

struct State {
    machine: Machine,
    held: VecDeque<Held>,
}

/// A write that waits for its partition.
struct Held {
    options: ProduceOptions,
    outgoing: Outgoing,
    answers: AnswerSink,
    deadline: Instant,
}

impl Held {
    fn fail(self, error: Error) {
        let partition = self.outgoing.partition;
        let error = error.with_partition(partition.clone());
        let reply = self.answers.reply(self.outgoing.token, partition);
        reply.send(Err(error));
    }
}

impl Coordinator {
    pub(crate) fn new(
        client: TransactionClient,
        transport: Arc<dyn Transport>,
        machine: Machine,
    ) -> Self {
        let held = VecDeque::new();
        Self {
            client,
            transport,
            state: Mutex::new(State { machine, held }),
            work: Notify::new(),
            progress: Notify::new(),
        }
    }

    pub(crate) fn transport(&self) -> &Arc<dyn Transport> {
        &self.transport
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // The machine is changed by whole steps, none of which calls foreign code.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A step of the machine from outside the task.
    pub(crate) fn call<R>(&self, step: impl FnOnce(&mut Machine) -> R) -> R {
        let result = self.step(step);
        self.work.notify_one();
        result
    }

    fn step<R>(&self, step: impl FnOnce(&mut Machine) -> R) -> R {
        let mut state = self.lock();
        let result = step(&mut state.machine);
        self.release(&mut state);
        drop(state);
        self.progress.notify_waiters();
        result
    }

    /// Waits for the result of an operation.
    pub(crate) async fn result(&self, ticket: Ticket) -> Result<(), TransactError> {
        self.wait_until(|machine| machine.result(ticket)).await
    }

    /// Waits until no operation is under way, one whose caller has gone included.
    pub(crate) async fn idle(&self) {
        self.wait_until(|machine| machine.is_idle().then_some(()))
            .await;
    }

    async fn wait_until<R>(&self, ready: impl Fn(&Machine) -> Option<R>) -> R {
        loop {
            let progress = self.progress.notified();
            tokio::pin!(progress);
            // Registered before the look, so that no progress falls between.
            progress.as_mut().enable();
            if let Some(result) = ready(&self.lock().machine) {
                return result;
            }
            progress.await;
        }
    }

    /// Sends what the machine admits, and keeps what it will admit later.
    pub(crate) fn write(
        &self,
        options: &ProduceOptions,
        batches: Vec<Outgoing>,
        answers: &AnswerSink,
    ) {
        let deadline = now() + options.timeout;
        let mut state = self.lock();
        state.held.extend(batches.into_iter().map(|outgoing| Held {
            options: options.clone(),
            outgoing,
            answers: answers.clone(),
            deadline,
        }));
        self.release(&mut state);
        let is_held = !state.held.is_empty();
        drop(state);
        if is_held {
            self.work.notify_one();
        }
    }

    /// Sends, answers or keeps what is held. Those who write to the transport hold the lock, so
    /// that writes of a partition keep their order.
    fn release(&self, state: &mut State) {
        if state.held.is_empty() {
            return;
        }
        let now = now();
        let version = state.machine.version();
        // What goes out together came together.
        let mut calls: Vec<(ProduceOptions, AnswerSink, Vec<Outgoing>)> = Vec::new();
        for held in std::mem::take(&mut state.held) {
            if held.deadline <= now {
                held.fail(Error::new(ErrorKind::TimedOut, "AddPartitionsToTxn"));
                continue;
            }
            match state.machine.admit(&held.outgoing.partition) {
                Admission::Later => state.held.push_back(held),
                Admission::Never(cause) => {
                    let code = ErrorCode::TRANSACTION_ABORTABLE;
                    held.fail(Error::from_code(code, "Produce").with_source(cause));
                }
                Admission::Now => {
                    let options = ProduceOptions {
                        timeout: held.deadline - now,
                        transactional_id: Some(Arc::clone(self.client.transactional_id())),
                        transaction_version_2: version == TransactionVersion::V2,
                        ..held.options
                    };
                    match calls.last_mut().filter(|(of, _, _)| *of == options) {
                        Some((_, _, call)) => call.push(held.outgoing),
                        None => calls.push((options, held.answers, vec![held.outgoing])),
                    }
                }
            }
        }
        for (options, answers, call) in calls {
            self.transport.produce(&options, call, &answers);
        }
    }

    /// The task: asks what the machine wants to know, until it is dropped.
    pub(crate) async fn run(self: Arc<Self>) {
        loop {
            let next = self.step(|machine| machine.poll(now()));
            let wake = match next {
                Step::Ask(request, limit) => {
                    let api = request.api();
                    let answer = self.ask(request, limit).await;
                    self.step(|machine| machine.answered(api, answer, now()));
                    continue;
                }
                Step::WaitUntil(at) => Some(at),
                Step::Idle => None,
            };
            let held = self.lock().held.iter().map(|held| held.deadline).min();
            let wake = [wake, held].into_iter().flatten().min();
            tokio::select! {
                () = self.work.notified() => {}
                () = crate::sender::sleep_until(wake) => {}
            }
        }
    }

    async fn ask(&self, request: Request, limit: Option<Instant>) -> Answer {
        let api = request.api();
        let call = self.carry(request);
        let answered = match limit {
            Some(limit) => tokio::time::timeout_at(limit.into(), call).await,
            None => Ok(call.await),
        };
        match answered {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => Answer::Lost(lost(error)),
            Err(_) => Answer::Lost(lost(Error::new(ErrorKind::TimedOut, api))),
        }
    }

    async fn carry(&self, request: Request) -> Result<Answer, Error> {
        let client = &self.client;
        let version = self.lock().machine.version();
        Ok(match request {
            Request::Init(request) => {
                let version = client.version().await?;
                Answer::Init(version, client.init(request).await?)
            }
            Request::AddPartitions(request) => {
                Answer::AddPartitions(client.add_partitions(request).await?)
            }
            Request::AddOffsets(request) => Answer::AddOffsets(client.add_offsets(request).await?),
            Request::CommitOffsets(request) => {
                Answer::CommitOffsets(client.commit_offsets(request, version).await?)
            }
            Request::End(request) => Answer::End(client.end(request, version).await?),
        })
    }
}

/// What a failed call says of its request.
fn lost(error: Error) -> Lost {
    // These come before anything is sent.
    let is_unsent = matches!(
        error.kind(),
        ErrorKind::Connect | ErrorKind::Unsupported | ErrorKind::Config | ErrorKind::Authorization
    );
    Lost {
        may_be_done: !is_unsent,
        may_pass: error.is_retriable() || error.kind() == ErrorKind::Protocol,
        error: Arc::new(error),
    }
}
