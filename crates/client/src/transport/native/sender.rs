//! Writes to one broker: makes one request of all batches that wait, and keeps a few requests in flight
//! on one connection.
//!
//! Whoever brings batches sends them, if that needs no waiting, and so does the answer to a request with
//! what waited for it; a task connects, waits for the connection and keeps the deadlines. What must
//! hold: requests leave in the order in which their batches came; a request holds a partition at most
//! once; a batch is put into one request and never into a second one here, whatever the answer says
//! about throttling (a throttle time only delays the next request); every batch gets its answer, none
//! of them under the lock.

use super::leaders::Leaders;
use super::outbox::{self, Order, expired, fail_all, first_deadline, time_out_all};
use super::produce_message as message;
use super::request::Request;
use crate::connection::{Connection, Refused, Reply, Slot};
use crate::transport::Acks;
use crate::{Error, ErrorKind};
use bytes::Bytes;
use ottla_types::Fate;
use std::collections::VecDeque;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until, timeout_at};
use tokio_util::sync::CancellationToken;

/// Requests that wait for an answer; Kafka keeps the sequences of five batches (KIP-98).
const IN_FLIGHT_MAX: usize = 5;
/// An unused connection is closed before the broker does it (after ten minutes), because a request
/// that meets the closing has an unknown fate.
const IDLE_LIMIT: Duration = Duration::from_secs(240);

pub(super) struct Sender {
    broker: i32,
    leaders: Arc<Leaders>,
    closed: CancellationToken,
    state: Mutex<State>,
    /// The task has something to look at.
    task: Notify,
}

struct State {
    /// Batches that are not yet in a request.
    waiting: VecDeque<Order>,
    in_flight: Vec<Arc<Request>>,
    connection: Option<Connection>,
    /// The broker wants no request before.
    not_before: Instant,
    /// When the connection was used last.
    used: Instant,
    /// When the task looks at the deadlines, at the latest.
    armed: Instant,
    /// Nothing is taken any more.
    is_over: bool,
}

/// Why what waits is not sent.
enum Lack {
    /// Nothing waits, or an answer has to come first.
    Nothing,
    Time,
    Connection,
    Room(Connection),
}

/// Batches that are answered when the lock is released.
#[derive(Default)]
struct Failed {
    orders: Vec<(Vec<Order>, Arc<Error>)>,
    /// Of requests that were not sent: dropping one takes the lock.
    replies: Vec<Reply>,
}

impl Failed {
    fn add(&mut self, orders: Vec<Order>, error: Error) {
        self.orders.push((orders, Arc::new(error)));
    }

    fn tell(self, leaders: &Leaders) {
        for (orders, error) in self.orders {
            fail_all(orders, &error, leaders);
        }
        drop(self.replies);
    }
}

/// A request whose answer is awaited. One that is dropped, because of a panic on the way, is over too.
struct Asked {
    sender: Arc<Sender>,
    request: Arc<Request>,
    is_over: bool,
}

impl Asked {
    fn answered(mut self, answer: Result<Bytes, Error>) {
        self.sender.answered(&self.request, answer);
        self.is_over = true;
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        if self.is_over {
            return;
        }
        let mut state = self.sender.lock();
        state.land(&self.request);
        drop(state);
        // Each says when it is dropped that it may be written.
        drop(self.request.take());
        self.sender.task.notify_one();
    }
}

impl Sender {
    /// Starts the sender of a broker. If the client is closed it takes nothing.
    pub(super) fn start(
        broker: i32,
        leaders: Arc<Leaders>,
        closed: CancellationToken,
    ) -> Arc<Self> {
        let now = Instant::now();
        let sender = Arc::new(Self {
            broker,
            leaders,
            closed,
            state: Mutex::new(State {
                waiting: VecDeque::new(),
                in_flight: Vec::new(),
                connection: None,
                not_before: now,
                used: now,
                armed: now,
                is_over: false,
            }),
            task: Notify::new(),
        });
        // Made here, so that it is dropped also when the task never runs.
        let end = End(sender.clone());
        let tasks = &sender.leaders.cluster.connector.tasks;
        tasks.spawn(end.run());
        sender
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Batches are moved whole, from one list to another.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes batches, for [`send`](Self::send) to send; gives them back if nothing is sent any more.
    pub(super) fn put(&self, orders: Vec<Order>) -> Result<(), Vec<Order>> {
        let mut state = self.lock();
        if state.is_over {
            return Err(orders);
        }
        if state.waiting.is_empty() {
            state.waiting = orders.into();
        } else {
            state.waiting.extend(orders);
        }
        Ok(())
    }

    /// Sends what can be sent now, and sees to it that the task does the rest.
    pub(super) fn send(self: &Arc<Self>) {
        let mut failed = Failed::default();
        let mut state = self.lock();
        let lack = self.pump(&mut state, None, &mut failed);
        let is_early = state.next_look().is_some_and(|at| at < state.armed);
        drop(state);
        failed.tell(&self.leaders);
        if is_early || !matches!(lack, Lack::Nothing) {
            self.task.notify_one();
        }
    }

    /// Sends request after request, the first of them with the right that was waited for.
    fn pump(
        self: &Arc<Self>,
        state: &mut State,
        mut slot: Option<Slot>,
        failed: &mut Failed,
    ) -> Lack {
        while !state.waiting.is_empty() && state.in_flight.len() < IN_FLIGHT_MAX {
            if state.not_before > Instant::now() {
                return Lack::Time;
            }
            let open = state.connection.as_ref().filter(|open| !open.is_closed());
            let Some(connection) = open.cloned() else {
                return Lack::Connection;
            };
            let Some(slot) = slot.take().or_else(|| connection.try_slot()) else {
                return Lack::Room(connection);
            };
            self.send_one(state, &connection, slot, failed);
        }
        Lack::Nothing
    }

    /// Sends one request with what waits.
    fn send_one(
        self: &Arc<Self>,
        state: &mut State,
        connection: &Connection,
        slot: Slot,
        failed: &mut Failed,
    ) {
        let mut orders = outbox::pick(&mut state.waiting);
        let Some(terms) = orders.first().map(|first| first.terms.clone()) else {
            return;
        };
        let versions = message::versions(&terms);
        let version = match connection.agreed(message::KEY, message::NAME, versions) {
            Ok(version) => version,
            Err(error) => return failed.add(orders, error),
        };
        for (order, error) in outbox::too_new(&mut orders, version) {
            failed.add(vec![order], error);
        }
        let Some(last) = orders.iter().map(|order| order.deadline).max() else {
            return;
        };
        let now = Instant::now();
        let timeout = self.leaders.cluster.config.request_timeout;
        let limit = now + timeout;
        let left = last.saturating_duration_since(now);
        let mut frame = connection.frame(
            message::KEY,
            version,
            message::is_flexible(version),
            message::about_bytes(&terms, &orders),
        );
        let timeout_ms = broker_timeout_ms(left.min(timeout));
        message::write(&mut frame, version, &terms, timeout_ms, &orders);
        let is_answered = terms.acks != Acks::None;
        for order in &mut orders {
            // Before it is: the answer may be there at once.
            order.reply.sent();
        }
        let request = Request::new(connection.clone(), version, is_answered, limit, orders);
        let asked = Asked {
            sender: self.clone(),
            request: request.clone(),
            is_over: false,
        };
        let answered = move |answer| asked.answered(answer);
        state.used = now;
        match slot.send(&message::METERS, frame, limit, is_answered, answered) {
            Ok(()) => state.in_flight.push(request),
            Err(Refused { error, reply }) => {
                failed.add(request.take(), error);
                failed.replies.push(reply);
            }
        }
    }

    /// Hands an answer out, and sends what waited for it.
    fn answered(self: &Arc<Self>, request: &Arc<Request>, answer: Result<Bytes, Error>) {
        let answer = request.read(answer);
        let mut state = self.lock();
        state.land(request);
        if let Some(throttle) = answer.throttle() {
            state.not_before = state.not_before.max(Instant::now() + throttle);
        }
        drop(state);
        answer.hand_out(request, &self.leaders);
        self.send();
    }

    /// Does what is due now; says what is lacking, and when to look again.
    fn look(self: &Arc<Self>, slot: Option<Slot>) -> (Lack, Instant) {
        let now = Instant::now();
        let mut failed = Failed::default();
        let mut state = self.lock();
        let late = expired(&mut state.waiting);
        let mut lack = self.pump(&mut state, slot, &mut failed);
        if matches!(lack, Lack::Connection) && !state.in_flight.is_empty() {
            // They have failed with the connection, and are told before there is another one.
            lack = Lack::Nothing;
        }
        let doubtful: Vec<_> = state
            .in_flight
            .iter()
            .flat_map(|r| r.expired(now))
            .collect();
        if state.in_flight.is_empty() && now >= state.used + IDLE_LIMIT {
            state.connection = None;
        }
        let mut next = state.next_look().unwrap_or(now + IDLE_LIMIT);
        if matches!(lack, Lack::Time) {
            next = next.min(state.not_before);
        }
        state.armed = next;
        drop(state);
        time_out_all(late, Fate::NotWritten);
        time_out_all(doubtful, Fate::MaybeWritten);
        failed.tell(&self.leaders);
        (lack, next)
    }

    /// Makes a connection, within the time that those that wait have.
    async fn connect(&self) {
        if self.lock().connection.take().is_some() {
            metrics::counter!("ottla_client_reconnects_total").increment(1);
        }
        let connected = self.connected().await.and_then(|connection| {
            if connection.is_closed() {
                // As if it had ended on the first request: whoever has batches decides when to try again.
                let error = Error::new(ErrorKind::ConnectionLost, message::NAME);
                return Err(error.with_broker(&**connection.broker()));
            }
            Ok(connection)
        });
        let mut state = self.lock();
        match connected {
            Ok(connection) => {
                state.connection = Some(connection);
                state.used = Instant::now();
            }
            Err(error) => {
                let waiting = std::mem::take(&mut state.waiting);
                drop(state);
                fail_all(waiting, &Arc::new(error), &self.leaders);
            }
        }
    }

    async fn connected(&self) -> Result<Connection, Error> {
        let cluster = &self.leaders.cluster;
        let broker = cluster.known_broker(self.broker, message::NAME)?;
        let last = self.lock().waiting.iter().map(|order| order.deadline).max();
        let connecting = cluster.connector.connect(
            broker.name.clone(),
            &broker.address,
            last.unwrap_or_else(Instant::now),
        );
        let mut connecting = pin!(connecting);
        loop {
            let first = first_deadline(&self.lock().waiting);
            let Some(first) = first else {
                return Err(Error::new(ErrorKind::TimedOut, message::NAME));
            };
            match timeout_at(first, &mut connecting).await {
                Ok(connected) => return connected,
                Err(_) => {
                    let late = expired(&mut self.lock().waiting);
                    time_out_all(late, Fate::NotWritten);
                }
            }
        }
    }
}

impl State {
    /// A request is over.
    fn land(&mut self, request: &Arc<Request>) {
        self.in_flight.retain(|other| !Arc::ptr_eq(other, request));
        self.used = Instant::now();
    }

    /// When the first batch has to be answered, or the connection is idle.
    fn next_look(&self) -> Option<Instant> {
        let waiting = first_deadline(&self.waiting);
        let in_flight = self.in_flight.iter().filter_map(|request| request.first());
        let connection = self.connection.as_ref();
        let unused = connection.filter(|_| self.in_flight.is_empty());
        let idle = unused.map(|_| self.used + IDLE_LIMIT);
        in_flight.chain(waiting).chain(idle).min()
    }
}

/// The task's hold on its sender: when it ends, however that is, all batches are answered, and nothing
/// more is taken.
struct End(Arc<Sender>);

impl End {
    /// Runs until the transport is closed or dropped.
    async fn run(self) {
        let sender = &self.0;
        let work = async {
            let mut slot = None;
            loop {
                let (lack, next) = sender.look(slot.take());
                match lack {
                    Lack::Connection => sender.connect().await,
                    Lack::Room(connection) => {
                        let waiting = connection.slot(message::NAME, next);
                        // Without one it is looked at what has happened meanwhile.
                        slot = waiting.await.ok();
                    }
                    Lack::Nothing | Lack::Time => tokio::select! {
                        () = sender.task.notified() => {}
                        () = sleep_until(next) => {}
                    },
                }
            }
        };
        sender.closed.run_until_cancelled(work).await;
    }
}

impl Drop for End {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.is_over = true;
        state.connection = None;
        let waiting = std::mem::take(&mut state.waiting);
        let in_flight = std::mem::take(&mut state.in_flight);
        drop(state);
        drop(waiting);
        for request in in_flight {
            drop(request.take());
        }
    }
}

/// The broker's time limit: a little below ours, so that its answer is not too late.
fn broker_timeout_ms(limit: Duration) -> i32 {
    let margin = Duration::min(limit / 10, Duration::from_secs(1));
    let millis = (limit - margin).as_millis();
    i32::try_from(millis).unwrap_or(i32::MAX).max(1)
}
