//! The task of one connection: reads answers and gives each to its request, writes what those who asked
//! could not write themselves, and keeps the deadlines.
//!
//! What must hold: when a deadline passes, or when an answer breaks the protocol, the connection ends
//! and every request that waits is told; so they are when the task is dropped.

use super::exchange::{Ending, Exchange};
use super::frame::FrameError;
use super::intake::{FrameBytes, Intake};
use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use tokio::io::AsyncRead;
use tokio::time::{Instant, sleep_until};

pub(super) struct Driver<R> {
    reader: R,
    exchange: Arc<Exchange>,
    incoming: Intake,
}

impl<R: AsyncRead + Unpin> Driver<R> {
    pub(super) fn new(reader: R, exchange: Arc<Exchange>, in_use: FrameBytes) -> Self {
        Self {
            reader,
            exchange,
            incoming: Intake::new(in_use),
        }
    }

    /// Runs until the connection ends, then fails everything that still waits.
    pub(super) async fn run(mut self) {
        let ending = match self.drive().await {
            Ok(never) => match never {},
            Err(ending) => ending,
        };
        let broker = &*self.exchange.broker;
        let why = &ending as &dyn std::error::Error;
        if matches!(ending, Ending::Closed | Ending::Idle) {
            tracing::debug!(broker, why, "connection closed");
        } else {
            metrics::counter!("ottla_client_connections_lost_total").increment(1);
            tracing::debug!(broker, error = why, "connection lost");
        }
        self.exchange.end(ending);
    }

    async fn drive(&mut self) -> Result<Infallible, Ending> {
        let exchange = self.exchange.clone();
        tokio::select! {
            // Closing comes first. Answers do not hold the rest up for long: so many come at most as
            // requests may wait, and what is left to write lets no others go out.
            biased;
            () = exchange.closed.connection.cancelled() => Err(Ending::Closed),
            ended = self.read() => ended,
            ended = keep(&exchange) => ended,
        }
    }

    /// Reads answers and hands them out.
    async fn read(&mut self) -> Result<Infallible, Ending> {
        loop {
            match self.incoming.read(&mut self.reader).await {
                Ok(0) => return Err(Ending::ByBroker),
                Ok(_) => self.answer().map_err(Ending::Protocol)?,
                Err(error) => return Err(Ending::Io(error)),
            }
        }
    }

    fn answer(&mut self) -> Result<(), FrameError> {
        loop {
            let limit = self.exchange.answer_bytes_max();
            let Some(frame) = self.incoming.next_frame(limit)? else {
                return Ok(());
            };
            self.exchange.answer(frame)?;
        }
    }
}

/// Writes what is left to write, and keeps the deadlines.
async fn keep(exchange: &Exchange) -> Result<Infallible, Ending> {
    let mut timer = pin!(sleep_until(Instant::now()));
    let mut writes = false;
    loop {
        tokio::select! {
            () = exchange.called() => {
                let next = exchange.next()?;
                timer.as_mut().reset(next.at);
                writes = next.writes;
            }
            written = poll_fn(|cx| exchange.poll_write(cx)), if writes => {
                written.map_err(Ending::Io)?;
                writes = false;
            }
            () = &mut timer => timer.as_mut().reset(exchange.look()?),
        }
    }
}

impl<R> Drop for Driver<R> {
    fn drop(&mut self) {
        // Aborted, or ended, when there is nothing left to tell.
        self.exchange.end(Ending::Closed);
    }
}

#[cfg(test)]
mod tests {
    use super::super::exchange::{Closed, Request};
    use super::super::idleness::Idleness;
    use super::super::request_frame::RequestFrame;
    use super::*;
    use crate::{Error, ErrorKind};
    use bytes::{Bytes, BytesMut};
    use futures_util::FutureExt as _;
    use std::time::Duration;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
    use tokio::sync::oneshot;
    use tokio::task::JoinSet;
    use tokio::time::sleep;
    use tokio_util::sync::CancellationToken;

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
        exchange: Arc<Exchange>,
        _tasks: JoinSet<()>,
    }

    impl Bed {
        fn new(late: Duration) -> Self {
            let (ours, theirs) = tokio::io::duplex(1 << 10);
            let closed = Closed {
                connection: CancellationToken::new(),
                client: CancellationToken::new(),
            };
            let (reader, writer) = tokio::io::split(ours);
            let idleness = Idleness::new(LIMIT);
            let exchange = Arc::new(Exchange::new(writer, "b".into(), closed, idleness, 1 << 10));
            let driver = Driver::new(reader, exchange.clone(), FrameBytes::default());
            let mut tasks = JoinSet::new();
            tasks.spawn(driver.run());
            tasks.spawn(answer_all(theirs, late));
            Self {
                exchange,
                _tasks: tasks,
            }
        }

        /// Whether the request was answered; `None` if it could not be handed over.
        async fn ask(&self) -> Option<bool> {
            let asked = self.put(8, 10 * LIMIT, true)?;
            Some(asked.await.unwrap().is_ok())
        }

        /// Hands over a request of so many bytes.
        fn put(
            &self,
            bytes: u32,
            limit: Duration,
            is_answered: bool,
        ) -> Option<oneshot::Receiver<Result<Bytes, Error>>> {
            let mut frame = BytesMut::from(&bytes.to_be_bytes()[..]);
            frame.resize(4 + bytes as usize, 0);
            let (reply, answer) = oneshot::channel();
            let request = Request {
                frame: RequestFrame::new(frame),
                api: "Test",
                deadline: Instant::now() + limit,
                is_answered,
                reply: Box::new(|answer| reply.send(answer).unwrap()),
            };
            let room = self.exchange.try_room()?;
            self.exchange.admit(request, room).ok()?;
            Some(answer)
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
            assert_eq!(bed.exchange.idleness.is_ending(), pause >= 9_000, "{pause}");
            assert_ne!(bed.ask().await, Some(false), "{pause}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn k1_a_connection_ends_when_it_was_idle_and_not_while_a_request_waits() {
        // A request may take longer than the limit.
        let bed = Bed::new(3 * LIMIT);
        assert_eq!(bed.ask().await, Some(true));
        let started = Instant::now();
        bed.exchange.closed.connection.cancelled().await;
        assert_eq!(started.elapsed().as_secs(), LIMIT.as_secs());
        assert_eq!(bed.ask().await, None);
        assert_eq!(bed.exchange.closed.kind(), ErrorKind::ConnectionLost);
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_is_written_by_whoever_asks_as_far_as_the_socket_takes_it() {
        let bed = Bed::new(Duration::ZERO);
        tokio::task::yield_now().await;
        let small = bed.put(100, LIMIT, true).unwrap();
        assert!(!bed.exchange.next().unwrap().writes, "all of it is written");
        // The stream takes a KiB at a time.
        let large: Vec<_> = [5_000, 8, 3_000]
            .map(|bytes| bed.put(bytes, LIMIT, true).unwrap())
            .into();
        assert!(bed.exchange.next().unwrap().writes);
        for answer in std::iter::once(small).chain(large) {
            assert!(answer.await.unwrap().is_ok());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_without_an_answer_is_over_when_it_is_written() {
        let bed = Bed::new(Duration::ZERO);
        let mut unanswered = bed.put(5_000, LIMIT, false).unwrap();
        assert!((&mut unanswered).now_or_never().is_none());
        assert_eq!(unanswered.await.unwrap().unwrap(), Bytes::new());
    }

    #[tokio::test(start_paused = true)]
    async fn the_earliest_deadline_ends_the_connection_whenever_it_came() {
        let bed = Bed::new(100 * LIMIT);
        let patient = bed.put(8, 3 * LIMIT, true).unwrap();
        tokio::task::yield_now().await;
        let hasty = bed.put(8, LIMIT / 2, true).unwrap();
        let started = Instant::now();
        let kind = |error: Error| error.kind();
        assert_eq!(
            patient.await.unwrap().map_err(kind),
            Err(ErrorKind::ConnectionLost)
        );
        assert_eq!(hasty.await.unwrap().map_err(kind), Err(ErrorKind::TimedOut));
        assert_eq!(started.elapsed().as_secs(), (LIMIT / 2).as_secs());
        assert!(bed.put(8, LIMIT, true).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_is_told_when_the_task_is_aborted() {
        let mut bed = Bed::new(100 * LIMIT);
        let asked = bed.put(8, LIMIT, true).unwrap();
        tokio::task::yield_now().await;
        bed._tasks.shutdown().await;
        assert!(asked.await.unwrap().is_err());
        assert!(bed.exchange.room("Test").await.is_err());
    }
}
