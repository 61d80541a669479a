//! The task of one connection: writes requests in order and gives each answer to its request.
//!
//! Owns both halves of the stream and everything in flight. A broker answers in the order of the
//! requests, so the oldest request is always the next to be answered. What must hold: at most
//! [`IN_FLIGHT_MAX`] requests wait; each has a deadline; when one passes, or when an answer breaks
//! the protocol, the connection ends and every request that waits is told.

use super::frame::FrameError;
use super::intake::{FrameBytes, Intake};
use crate::{Error, ErrorKind};
use bytes::{Bytes, BytesMut};
use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

/// Requests that wait for an answer on one connection; more wait in the queue before it.
pub(super) const IN_FLIGHT_MAX: usize = 64;
/// Bytes of requests that are gathered into one write.
const WRITE_GATHER_BYTES: usize = 64 << 10;
/// Where the correlation id stands: behind the length, the API key and the version.
const CORRELATION_ID_AT: std::ops::Range<usize> = 8..12;

/// A request on its way to the driver.
pub(super) struct Outgoing {
    /// The whole frame, its length included; the driver fills in the correlation id.
    pub frame: BytesMut,
    pub api: &'static str,
    pub deadline: Instant,
    /// Whether the broker answers; else the reply comes, empty, when the frame is written.
    pub is_answered: bool,
    pub reply: oneshot::Sender<Result<Bytes, Error>>,
}

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum Ending {
    #[error("the connection was closed here")]
    Closed,
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

struct Waiting {
    correlation_id: i32,
    api: &'static str,
    deadline: Instant,
    reply: oneshot::Sender<Result<Bytes, Error>>,
}

pub(super) struct Driver<R, W> {
    reader: R,
    writer: W,
    broker: Arc<str>,
    queue: mpsc::Receiver<Outgoing>,
    closed: Closed,
    response_bytes_max: usize,
    waiting: VecDeque<Waiting>,
    /// Requests without an answer that are not yet written.
    unanswered: Vec<Waiting>,
    next_id: i32,
    incoming: Intake,
    outgoing: BytesMut,
    /// The stream may hold bytes back that it took (TLS does) until it is flushed.
    must_flush: bool,
}

impl<R: AsyncRead + Unpin, W: AsyncWrite + Unpin> Driver<R, W> {
    pub(super) fn new(
        (reader, writer): (R, W),
        broker: Arc<str>,
        queue: mpsc::Receiver<Outgoing>,
        closed: Closed,
        response_bytes_max: usize,
        in_use: FrameBytes,
    ) -> Self {
        Self {
            reader,
            writer,
            broker,
            queue,
            closed,
            response_bytes_max,
            waiting: VecDeque::new(),
            unanswered: Vec::new(),
            next_id: 0,
            incoming: Intake::new(in_use),
            outgoing: BytesMut::new(),
            must_flush: false,
        }
    }

    /// Runs until the connection ends, then fails everything that still waits.
    pub(super) async fn run(mut self) {
        let ending = self.drive().await;
        self.closed.connection.cancel();
        if matches!(ending, Ending::Closed) {
            tracing::debug!(broker = &*self.broker, "connection closed");
        } else {
            metrics::counter!("ottla_client_connections_lost_total").increment(1);
            let error = &ending as &dyn std::error::Error;
            tracing::debug!(broker = &*self.broker, error, "connection lost");
        }
        self.fail_everything(ending);
    }

    async fn drive(&mut self) -> Ending {
        loop {
            let has_room = self.waiting.len() + self.unanswered.len() < IN_FLIGHT_MAX
                && self.outgoing.len() < WRITE_GATHER_BYTES;
            let everything = self.waiting.iter().chain(&self.unanswered);
            let deadline = everything.map(|waiting| waiting.deadline).min();
            tokio::select! {
                () = self.closed.connection.cancelled() => return Ending::Closed,
                read = self.incoming.read(&mut self.reader) => match read {
                    Ok(0) => return Ending::ByBroker,
                    Ok(_) => if let Err(error) = self.answer() {
                        return Ending::Protocol(error);
                    },
                    Err(error) => return Ending::Io(error),
                },
                written = write(&mut self.writer, &mut self.outgoing, &mut self.must_flush),
                    if self.must_flush || !self.outgoing.is_empty() =>
                {
                    if let Err(error) = written {
                        return Ending::Io(error);
                    }
                    self.release_unanswered();
                }
                request = self.queue.recv(), if has_room => match request {
                    Some(request) => self.admit(request),
                    None => return Ending::Closed,
                },
                () = wait_until(deadline) => return Ending::TimedOut,
            }
        }
    }

    fn admit(&mut self, mut request: Outgoing) {
        if request.reply.is_closed() {
            return;
        }
        if request.deadline <= Instant::now() {
            let error = Error::new(ErrorKind::TimedOut, request.api).with_broker(&*self.broker);
            let _ = request.reply.send(Err(error));
            return;
        }
        let correlation_id = self.next_id;
        self.next_id = self.next_id.wrapping_add(1) & i32::MAX;
        request.frame[CORRELATION_ID_AT].copy_from_slice(&correlation_id.to_be_bytes());
        if self.outgoing.is_empty() {
            self.outgoing = request.frame;
        } else {
            self.outgoing.extend_from_slice(&request.frame);
        }
        let waiting = Waiting {
            correlation_id,
            api: request.api,
            deadline: request.deadline,
            reply: request.reply,
        };
        if request.is_answered {
            self.waiting.push_back(waiting);
        } else {
            self.unanswered.push(waiting);
        }
    }

    /// Tells those that wait for no answer that everything is written, when it is.
    fn release_unanswered(&mut self) {
        if self.outgoing.is_empty() && !self.must_flush {
            for waiting in self.unanswered.drain(..) {
                let _ = waiting.reply.send(Ok(Bytes::new()));
            }
        }
    }

    fn answer(&mut self) -> Result<(), FrameError> {
        while let Some(frame) = self.incoming.next_frame(self.response_bytes_max)? {
            let Some(&head) = frame.first_chunk::<4>() else {
                return Err(FrameError::TooShort(frame.len()));
            };
            let got = i32::from_be_bytes(head);
            let expected = self.waiting.front().map(|waiting| waiting.correlation_id);
            match expected {
                None => return Err(FrameError::Unasked(got)),
                Some(expected) if expected != got => {
                    return Err(FrameError::WrongCorrelationId { expected, got });
                }
                Some(_) => {}
            }
            if let Some(waiting) = self.waiting.pop_front() {
                let _ = waiting.reply.send(Ok(frame));
            }
        }
        Ok(())
    }

    fn fail_everything(&mut self, ending: Ending) {
        let now = Instant::now();
        let ending = Arc::new(ending);
        let everything = self.waiting.drain(..).chain(self.unanswered.drain(..));
        for (position, waiting) in everything.enumerate() {
            let broker = &*self.broker;
            let error = |kind| Error::new(kind, waiting.api).with_broker(broker);
            let error = match &*ending {
                // The oldest request is the one that the bad answer was for.
                Ending::Protocol(cause) if position == 0 => {
                    error(ErrorKind::Protocol).with_source(*cause)
                }
                Ending::TimedOut if waiting.deadline <= now => error(ErrorKind::TimedOut),
                Ending::Closed => error(self.closed.kind()),
                _ => error(ErrorKind::ConnectionLost).with_source(ending.clone()),
            };
            let _ = waiting.reply.send(Err(error));
        }
        self.queue.close();
        while let Ok(request) = self.queue.try_recv() {
            let error = Error::new(self.closed.kind(), request.api)
                .with_broker(&*self.broker)
                .with_source(ending.clone());
            let _ = request.reply.send(Err(error));
        }
    }
}

/// Writes some of the bytes, and flushes behind the last. Dropping it loses nothing.
async fn write<W: AsyncWrite + Unpin>(
    writer: &mut W,
    outgoing: &mut BytesMut,
    must_flush: &mut bool,
) -> io::Result<()> {
    if !outgoing.is_empty() {
        *must_flush = true;
        writer.write_buf(outgoing).await?;
    }
    if outgoing.is_empty() {
        writer.flush().await?;
        *must_flush = false;
    }
    Ok(())
}

async fn wait_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
