//! The task of one connection: writes requests in order and gives each answer to its request.
//!
//! Owns both halves of the stream and everything in flight. A broker answers in the order of the
//! requests, so the oldest request is always the next to be answered. What must hold: at most
//! [`IN_FLIGHT_MAX`] requests wait; each has a deadline; when one passes, or when an answer breaks
//! the protocol, the connection ends and every request that waits is told.

use super::frame::FrameError;
use super::intake::{FrameBytes, Intake};
use super::outflow::Outflow;
use super::request_frame::RequestFrame;
use crate::{Error, ErrorKind};
use bytes::Bytes;
use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

/// Requests that wait for an answer on one connection; more wait in the queue before it.
pub(super) const IN_FLIGHT_MAX: usize = 64;

/// A request on its way to the driver.
pub(super) struct Outgoing {
    /// The whole frame, its length included; the driver fills in the correlation id.
    pub frame: RequestFrame,
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

/// Since when a connection has nothing to do, and how long it may. What must hold: nobody takes it for
/// a new request shortly before it ends, so that no request meets the end.
#[derive(Debug)]
pub(super) struct Idleness {
    start: Instant,
    /// In ms after `start`; the largest number while requests are under way.
    since_ms: AtomicU64,
    limit: Duration,
}

impl Idleness {
    pub(super) fn new(limit: Duration) -> Self {
        Self {
            start: Instant::now(),
            since_ms: AtomicU64::new(0),
            limit,
        }
    }

    fn begins(&self) {
        let now = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX - 1);
        self.since_ms.store(now, Ordering::Relaxed);
    }

    fn ends(&self) {
        self.since_ms.store(u64::MAX, Ordering::Relaxed);
    }

    fn since(&self) -> Option<Instant> {
        let since = self.since_ms.load(Ordering::Relaxed);
        (since < u64::MAX).then(|| self.start + Duration::from_millis(since))
    }

    /// When the connection ends, if nothing is asked for meanwhile.
    fn deadline(&self) -> Option<Instant> {
        self.since().map(|since| since + self.limit)
    }

    /// Whether it is left alone from now on.
    pub(super) fn is_ending(&self) -> bool {
        let idle = self.since().map(|since| since.elapsed());
        idle.is_some_and(|idle| idle >= self.limit - self.limit / 10)
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
    outgoing: Outflow,
    idleness: Arc<Idleness>,
    /// It was idle for too long: what still comes is answered, then it ends.
    is_ending: bool,
}

impl<R: AsyncRead + Unpin, W: AsyncWrite + Unpin> Driver<R, W> {
    pub(super) fn new(
        (reader, writer): (R, W),
        broker: Arc<str>,
        queue: mpsc::Receiver<Outgoing>,
        closed: Closed,
        response_bytes_max: usize,
        in_use: FrameBytes,
        idleness: Arc<Idleness>,
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
            outgoing: Outflow::default(),
            idleness,
            is_ending: false,
        }
    }

    /// Runs until the connection ends, then fails everything that still waits.
    pub(super) async fn run(mut self) {
        let ending = self.drive().await;
        self.closed.connection.cancel();
        if matches!(ending, Ending::Closed | Ending::Idle) {
            let why = &ending as &dyn std::error::Error;
            tracing::debug!(broker = &*self.broker, why, "connection closed");
        } else {
            metrics::counter!("ottla_client_connections_lost_total").increment(1);
            let error = &ending as &dyn std::error::Error;
            tracing::debug!(broker = &*self.broker, error, "connection lost");
        }
        self.fail_everything(ending);
    }

    async fn drive(&mut self) -> Ending {
        loop {
            let in_flight = self.waiting.len() + self.unanswered.len();
            if self.is_ending && in_flight == 0 {
                return Ending::Idle;
            }
            let has_room = in_flight < IN_FLIGHT_MAX && self.outgoing.has_room() && !self.is_ending;
            let everything = self.waiting.iter().chain(&self.unanswered);
            let deadline = everything.map(|waiting| waiting.deadline).min();
            let deadline = deadline.or_else(|| self.idleness.deadline());
            tokio::select! {
                () = self.closed.connection.cancelled() => return Ending::Closed,
                read = self.incoming.read(&mut self.reader) => match read {
                    Ok(0) => return Ending::ByBroker,
                    Ok(_) => if let Err(error) = self.answer() {
                        return Ending::Protocol(error);
                    },
                    Err(error) => return Ending::Io(error),
                },
                written = self.outgoing.write(&mut self.writer), if !self.outgoing.is_done() => {
                    if let Err(error) = written {
                        return Ending::Io(error);
                    }
                    self.release_unanswered();
                }
                request = self.queue.recv(), if has_room => match request {
                    Some(request) => self.admit(request),
                    None => return Ending::Closed,
                },
                () = wait_until(deadline) => {
                    if in_flight > 0 {
                        return Ending::TimedOut;
                    }
                    self.end_idle();
                }
            }
        }
    }

    /// Nobody can ask for anything any more; who just did is still answered.
    fn end_idle(&mut self) {
        self.is_ending = true;
        self.queue.close();
        while let Ok(request) = self.queue.try_recv() {
            self.admit(request);
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
        request.frame.set_correlation_id(correlation_id);
        self.outgoing.push(request.frame);
        self.idleness.ends();
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
        if self.outgoing.is_done() {
            for waiting in self.unanswered.drain(..) {
                let _ = waiting.reply.send(Ok(Bytes::new()));
            }
            self.note_idleness();
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
        self.note_idleness();
        Ok(())
    }

    fn note_idleness(&self) {
        if self.waiting.is_empty() && self.unanswered.is_empty() {
            self.idleness.begins();
        }
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

async fn wait_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::BytesMut;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
    use tokio::task::JoinSet;
    use tokio::time::sleep;

    const LIMIT: Duration = Duration::from_secs(10);

    /// A broker that answers each request, late, with nothing but its correlation id.
    async fn answer_all(mut peer: DuplexStream, late: Duration) {
        while let Ok(length) = peer.read_u32().await {
            let mut frame = vec![0; length as usize];
            peer.read_exact(&mut frame).await.unwrap();
            sleep(late).await;
            let id = &frame[4..8];
            peer.write_all(&[&4_u32.to_be_bytes()[..], id].concat())
                .await
                .unwrap();
        }
    }

    struct Bed {
        queue: mpsc::Sender<Outgoing>,
        idleness: Arc<Idleness>,
        closed: Closed,
        _tasks: JoinSet<()>,
    }

    impl Bed {
        fn new(late: Duration) -> Self {
            let (ours, theirs) = tokio::io::duplex(1 << 10);
            let (queue, receiver) = mpsc::channel(IN_FLIGHT_MAX);
            let closed = Closed {
                connection: CancellationToken::new(),
                client: CancellationToken::new(),
            };
            let idleness = Arc::new(Idleness::new(LIMIT));
            let driver = Driver::new(
                tokio::io::split(ours),
                "b".into(),
                receiver,
                closed.clone(),
                1 << 10,
                FrameBytes::default(),
                idleness.clone(),
            );
            let mut tasks = JoinSet::new();
            tasks.spawn(driver.run());
            tasks.spawn(answer_all(theirs, late));
            Self {
                queue,
                idleness,
                closed,
                _tasks: tasks,
            }
        }

        /// Whether the request was answered; `None` if it could not be handed over.
        async fn ask(&self) -> Option<bool> {
            let mut frame = BytesMut::from(&8_u32.to_be_bytes()[..]);
            frame.extend_from_slice(&[0; 8]);
            let (reply, answer) = oneshot::channel();
            let request = Outgoing {
                frame: RequestFrame::new(frame),
                api: "Test",
                deadline: Instant::now() + 10 * LIMIT,
                is_answered: true,
                reply,
            };
            self.queue.send(request).await.ok()?;
            Some(answer.await.unwrap().is_ok())
        }
    }

    #[tokio::test(start_paused = true)]
    async fn k1_no_request_meets_the_end_of_an_idle_connection() {
        let second = Duration::from_secs(1);
        for pause in [0, 1, 8_999, 9_000, 9_001, 9_999, 10_000, 10_001, 20_000] {
            let bed = Bed::new(second);
            assert_eq!(bed.ask().await, Some(true));
            sleep(Duration::from_millis(pause)).await;
            // Who looks first does not use it in its last tenth, and who asks is answered.
            assert_eq!(bed.idleness.is_ending(), pause >= 9_000, "{pause}");
            assert_ne!(bed.ask().await, Some(false), "{pause}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn k1_a_connection_ends_when_it_was_idle_and_not_while_a_request_waits() {
        // A request may take longer than the limit.
        let bed = Bed::new(3 * LIMIT);
        assert_eq!(bed.ask().await, Some(true));
        let started = Instant::now();
        bed.closed.connection.cancelled().await;
        assert_eq!(started.elapsed().as_secs(), LIMIT.as_secs());
        assert_eq!(bed.ask().await, None);
        assert_eq!(bed.closed.kind(), ErrorKind::ConnectionLost);
    }
}
