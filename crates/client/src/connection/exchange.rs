//! What those who ask and the task of a connection have in common: the writing half, and who waits for
//! which answer.
//!
//! Whoever asks writes itself what the socket takes at once, so that a request need not wait for the
//! task to run; the task writes the rest. A broker answers in the order of the requests, so the oldest
//! request is always the next to be answered. What must hold: requests are written in the order in which
//! they were admitted; at most [`IN_FLIGHT_MAX`] wait; each has a deadline, and the task looks at the
//! earliest in time; replies are sent without the lock, once each.

use super::frame::FrameError;
use super::idleness::Idleness;
use super::outflow::Outflow;
use super::request_frame::RequestFrame;
use crate::{Error, ErrorKind};
use bytes::Bytes;
use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use tokio::io::AsyncWrite;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Requests that wait for an answer on one connection; more wait for their turn.
pub(super) const IN_FLIGHT_MAX: usize = 64;

/// The largest answer that is read before the broker has agreed on versions and authentication is
/// through; what is sent then takes a few KiB.
const GREETING_BYTES_MAX: usize = 1 << 20;

/// Hears of the answer: the whole frame, or why there is none. Called by the connection's task, so it
/// shall be quick. One that is dropped hears nothing.
pub(crate) type Reply = Box<dyn FnOnce(Result<Bytes, Error>) + Send>;

/// The right to one request.
pub(super) type Room = OwnedSemaphorePermit;

/// A request on its way out.
pub(super) struct Request {
    /// The whole frame, its length included; the correlation id is filled in here.
    pub frame: RequestFrame,
    pub api: &'static str,
    pub deadline: Instant,
    /// Whether the broker answers; else the reply comes, empty, when the frame is written.
    pub is_answered: bool,
    pub reply: Reply,
}

/// A request that was not sent.
pub(crate) struct Refused {
    pub(crate) error: Error,
    /// For the caller to drop when it likes.
    pub(crate) reply: Reply,
}

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum Ending {
    #[error("the connection was closed here")]
    Closed,
    #[error("nobody used the connection for connections.max.idle.ms")]
    Idle,
    #[error("the broker closed the connection")]
    ByBroker,
    #[error("the connection failed")]
    Io(#[source] io::Error),
    #[error("the connection was closed after an answer that breaks the protocol")]
    Protocol(#[source] FrameError),
    #[error("the connection was closed because a request on it had no answer in time")]
    TimedOut,
}

/// Who may end a connection from this side.
#[derive(Debug, Clone)]
pub(super) struct Closed {
    /// Ends this connection; a child of `client`.
    pub connection: CancellationToken,
    /// Ends the whole client.
    pub client: CancellationToken,
}

impl Closed {
    /// The kind of error that a request gets on a connection that was ended here.
    pub(super) fn kind(&self) -> ErrorKind {
        if self.client.is_cancelled() {
            ErrorKind::Closed
        } else {
            ErrorKind::ConnectionLost
        }
    }
}

pub(super) struct Exchange {
    pub(super) broker: Arc<str>,
    pub(super) closed: Closed,
    pub(super) idleness: Idleness,
    /// The largest answer that is read.
    answer_bytes_max: AtomicUsize,
    room: Arc<Semaphore>,
    state: Mutex<State>,
    /// The task has something to look at.
    task: Notify,
}

struct State {
    /// Nothing when the connection has ended.
    writer: Option<Box<dyn AsyncWrite + Send + Unpin>>,
    outflow: Outflow,
    waiting: VecDeque<Waiting>,
    /// Requests without an answer that are not yet written.
    unanswered: Vec<Waiting>,
    next_id: i32,
    /// When the task looks at the deadlines, at the latest.
    armed: Instant,
    /// Why nothing more can be written.
    failed: Option<io::Error>,
}

struct Waiting {
    correlation_id: i32,
    api: &'static str,
    deadline: Instant,
    reply: Reply,
    _room: Room,
}

/// What the task does next.
pub(super) struct Next {
    /// Looks at the deadlines then.
    pub(super) at: Instant,
    /// Writes what is left.
    pub(super) writes: bool,
}

impl Exchange {
    pub(super) fn new(
        writer: impl AsyncWrite + Send + Unpin + 'static,
        broker: Arc<str>,
        closed: Closed,
        idleness: Idleness,
        answer_bytes_max: usize,
    ) -> Self {
        Self {
            broker,
            closed,
            answer_bytes_max: AtomicUsize::new(answer_bytes_max.min(GREETING_BYTES_MAX)),
            room: Arc::new(Semaphore::new(IN_FLIGHT_MAX)),
            state: Mutex::new(State {
                writer: Some(Box::new(writer)),
                outflow: Outflow::default(),
                waiting: VecDeque::new(),
                unanswered: Vec::new(),
                next_id: 0,
                // The task comes to look first.
                armed: Instant::now(),
                failed: None,
            }),
            idleness,
            task: Notify::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // After a panic the order of requests may be broken: then the stream ends at the next answer.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The largest answer that is read now.
    pub(super) fn answer_bytes_max(&self) -> usize {
        self.answer_bytes_max.load(Ordering::Relaxed)
    }

    /// The broker is the one that was meant: from now on its answers may be so large.
    pub(super) fn trust(&self, answer_bytes_max: usize) {
        self.answer_bytes_max
            .store(answer_bytes_max, Ordering::Relaxed);
    }

    fn error(&self, kind: ErrorKind, api: &'static str) -> Error {
        Error::new(kind, api).with_broker(&*self.broker)
    }

    /// Waits for the right to one more request; those who wait get it in order.
    ///
    /// # Errors
    /// The connection has ended.
    pub(super) async fn room(&self, api: &'static str) -> Result<Room, Error> {
        let room = self.room.clone().acquire_owned().await;
        room.map_err(|_| self.error(self.closed.kind(), api))
    }

    /// The same if there is room now.
    pub(super) fn try_room(&self) -> Option<Room> {
        self.room.clone().try_acquire_owned().ok()
    }

    /// Takes a request, and writes what the socket takes at once.
    ///
    /// # Errors
    /// The connection has ended, or the deadline has passed: nothing is sent, and the reply comes back.
    pub(super) fn admit(&self, mut request: Request, room: Room) -> Result<(), Refused> {
        let refused = |request: Request, kind| Refused {
            error: self.error(kind, request.api),
            reply: request.reply,
        };
        if request.deadline <= Instant::now() {
            return Err(refused(request, ErrorKind::TimedOut));
        }
        let mut state = self.lock();
        if state.writer.is_none() {
            drop(state);
            return Err(refused(request, self.closed.kind()));
        }
        let correlation_id = state.next_id;
        state.next_id = correlation_id.wrapping_add(1) & i32::MAX;
        request.frame.set_correlation_id(correlation_id);
        // Else the task writes already, and goes on with this. Replies are the task's too.
        let writes = request.is_answered && state.outflow.is_done() && state.failed.is_none();
        state.outflow.push(request.frame);
        self.idleness.ends();
        let waiting = Waiting {
            correlation_id,
            api: request.api,
            deadline: request.deadline,
            reply: request.reply,
            _room: room,
        };
        if request.is_answered {
            state.waiting.push_back(waiting);
        } else {
            state.unanswered.push(waiting);
        }
        let mut calls = request.deadline < state.armed || !request.is_answered;
        state.armed = state.armed.min(request.deadline);
        if writes {
            match state.write(&mut Context::from_waker(Waker::noop())) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(error)) => {
                    state.failed = Some(error);
                    calls = true;
                }
                // The task has to leave its waker with the socket.
                Poll::Pending => calls = true,
            }
        }
        drop(state);
        if calls {
            self.task.notify_one();
        }
        Ok(())
    }

    fn note_idleness(&self, state: &mut State) {
        if state.waiting.is_empty() && state.unanswered.is_empty() {
            self.idleness.begins();
            let end = self.idleness.deadline();
            if end < state.armed {
                state.armed = end;
                self.task.notify_one();
            }
        }
    }

    /// Resolves when the task has something to look at.
    pub(super) async fn called(&self) {
        self.task.notified().await;
    }

    /// What the task does next.
    ///
    /// # Errors
    /// Nothing more can be written.
    pub(super) fn next(&self) -> Result<Next, Ending> {
        let mut state = self.lock();
        if let Some(error) = state.failed.take() {
            return Err(Ending::Io(error));
        }
        Ok(Next {
            at: state.armed,
            writes: !state.outflow.is_done(),
        })
    }

    /// Writes for the task, until everything is written.
    pub(super) fn poll_write(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut state = self.lock();
        ready!(state.write(cx))?;
        let written = std::mem::take(&mut state.unanswered);
        if !written.is_empty() {
            self.note_idleness(&mut state);
        }
        drop(state);
        // That is all for those that wait for no answer.
        for waiting in written {
            (waiting.reply)(Ok(Bytes::new()));
        }
        Poll::Ready(Ok(()))
    }

    /// Looks at the deadlines: when to look again, or why the connection ends.
    pub(super) fn look(&self) -> Result<Instant, Ending> {
        let now = Instant::now();
        let mut state = self.lock();
        let everything = state.waiting.iter().chain(&state.unanswered);
        let first = everything.map(|waiting| waiting.deadline).min();
        let (next, ending) = match first {
            Some(deadline) => (deadline, Ending::TimedOut),
            None => (self.idleness.deadline(), Ending::Idle),
        };
        if next <= now {
            if matches!(ending, Ending::Idle) {
                // From now on nobody can ask for anything.
                state.writer = None;
            }
            return Err(ending);
        }
        state.armed = next;
        Ok(next)
    }

    /// Gives an answer to the request that it is for.
    pub(super) fn answer(&self, frame: Bytes) -> Result<(), FrameError> {
        let Some(&head) = frame.first_chunk::<4>() else {
            return Err(FrameError::TooShort(frame.len()));
        };
        let got = i32::from_be_bytes(head);
        let mut state = self.lock();
        match state.waiting.front().map(|waiting| waiting.correlation_id) {
            None => return Err(FrameError::Unasked(got)),
            Some(expected) if expected != got => {
                return Err(FrameError::WrongCorrelationId { expected, got });
            }
            Some(_) => {}
        }
        let waiting = state.waiting.pop_front();
        self.note_idleness(&mut state);
        drop(state);
        if let Some(Waiting { reply, _room, .. }) = waiting {
            // Whoever hears of it may have something more to send.
            drop(_room);
            reply(Ok(frame));
        }
        Ok(())
    }

    /// Nothing is taken or answered any more; fails everything that still waits.
    pub(super) fn end(&self, ending: Ending) {
        self.closed.connection.cancel();
        let mut state = self.lock();
        state.writer = None;
        state.outflow = Outflow::default();
        let waiting = std::mem::take(&mut state.waiting);
        let unanswered = std::mem::take(&mut state.unanswered);
        drop(state);
        self.room.close();
        let now = Instant::now();
        let ending = Arc::new(ending);
        for (position, waiting) in waiting.into_iter().chain(unanswered).enumerate() {
            let error = |kind| self.error(kind, waiting.api);
            let error = match &*ending {
                // The oldest request is the one that the bad answer was for.
                Ending::Protocol(cause) if position == 0 => {
                    error(ErrorKind::Protocol).with_source(*cause)
                }
                Ending::TimedOut if waiting.deadline <= now => error(ErrorKind::TimedOut),
                Ending::Closed => error(self.closed.kind()),
                _ => error(ErrorKind::ConnectionLost).with_source(ending.clone()),
            };
            (waiting.reply)(Err(error));
        }
    }
}

impl State {
    /// Writes what waits.
    fn write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.writer {
            Some(writer) => self.outflow.poll_write(writer, cx),
            None => Poll::Ready(Ok(())),
        }
    }
}

impl fmt::Debug for Exchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exchange")
            .field("broker", &self.broker)
            .finish_non_exhaustive()
    }
}
