//! The task that writes to one broker: it makes one request of all batches that wait, and keeps a
//! few requests in flight on one connection.
//!
//! What must hold: requests leave in the order in which their batches came; a request holds a
//! partition at most once; a batch is put into one request and never into a second one here, whatever
//! the answer says about throttling (a throttle time only delays the next request); every batch gets
//! its answer.

use super::leaders::Leaders;
use super::outbox::{self, Order, OutboxEnd, fail_all, first_deadline};
use super::produce_message as message;
use super::request::Request;
use crate::connection::Connection;
use crate::transport::Acks;
use crate::{Error, ErrorKind};
use futures_util::stream::{FuturesUnordered, StreamExt};
use std::collections::VecDeque;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep_until, timeout_at};
use tokio_util::sync::CancellationToken;

/// Requests that wait for an answer; Kafka keeps the sequences of five batches (KIP-98).
const IN_FLIGHT_MAX: usize = 5;
/// An unused connection is closed before the broker does it (after ten minutes), because a request
/// that meets the closing has an unknown fate.
const IDLE_LIMIT: Duration = Duration::from_secs(240);

pub(super) struct Sender {
    pub(super) broker: i32,
    pub(super) leaders: Arc<Leaders>,
    pub(super) outbox: OutboxEnd,
    pub(super) closed: CancellationToken,
    pub(super) connection: Option<Connection>,
}

/// Batches that came and are not yet in a request.
type Waiting = VecDeque<Order>;

impl Sender {
    /// Runs until the transport is closed or dropped.
    pub(super) async fn run(mut self) {
        let closed = self.closed.clone();
        let mut in_flight = FuturesUnordered::new();
        let mut waiting = Waiting::new();
        let mut not_before = Instant::now();
        let mut used = Instant::now();
        loop {
            self.outbox.take(&mut waiting);
            let is_throttled = not_before > Instant::now();
            let may_send = in_flight.len() < IN_FLIGHT_MAX && !is_throttled;
            if may_send && !waiting.is_empty() {
                if self.connection.as_ref().is_none_or(Connection::is_closed) {
                    // They have failed with the connection, and shall not wait for the next one.
                    while in_flight.next().await.is_some() {}
                }
                let sending = closed.run_until_cancelled(self.send(&mut waiting));
                match sending.await {
                    Some(Some(request)) => in_flight.push(request.settle(self.leaders.clone())),
                    Some(None) => {}
                    None => return,
                }
                used = Instant::now();
                continue;
            }
            outbox::expire(&mut waiting);
            let first = first_deadline(&waiting);
            tokio::select! {
                () = closed.cancelled() => return,
                Some(throttle) = in_flight.next(), if !in_flight.is_empty() => {
                    not_before = not_before.max(Instant::now() + throttle);
                }
                () = self.outbox.filled() => {}
                () = sleep_until(first.unwrap_or(not_before)), if first.is_some() => {}
                () = sleep_until(not_before), if is_throttled => {}
                () = sleep_until(used + IDLE_LIMIT), if self.connection.is_some() => {
                    if in_flight.is_empty() {
                        self.connection = None;
                    }
                    used = Instant::now();
                }
            }
        }
    }

    /// Sends one request with what waits; `None` if there was nothing to send, or no connection.
    async fn send(&mut self, waiting: &mut Waiting) -> Option<Request> {
        let connection = match self.connect(waiting).await {
            Ok(connection) => connection,
            Err(error) => {
                fail_all(waiting.drain(..), &Arc::new(error), &self.leaders);
                return None;
            }
        };
        let mut orders = outbox::pick(waiting);
        let terms = orders.first()?.terms.clone();
        let versions = message::versions(&terms);
        let version = match connection.agreed(message::KEY, message::NAME, versions) {
            Ok(version) => version,
            Err(error) => {
                fail_all(orders, &Arc::new(error), &self.leaders);
                return None;
            }
        };
        outbox::refuse_too_new(&mut orders, version, &self.leaders);
        let last = orders.iter().map(|order| order.deadline).max()?;
        let now = Instant::now();
        let timeout = self.leaders.cluster.config.request_timeout;
        let limit = now + timeout;
        let left = last.saturating_duration_since(now);
        let mut frame = connection.frame(message::KEY, version, message::is_flexible(version));
        let timeout_ms = broker_timeout_ms(left.min(timeout));
        message::write(&mut frame, version, &terms, timeout_ms, &orders);
        let is_answered = terms.acks != Acks::None;
        let submitted = connection
            .submit(message::NAME, frame, limit, is_answered)
            .await;
        match submitted {
            Ok(submitted) => {
                for order in &mut orders {
                    order.reply.sent();
                }
                Some(Request {
                    connection,
                    version,
                    is_answered,
                    limit,
                    orders,
                    submitted,
                })
            }
            Err(error) => {
                fail_all(orders, &Arc::new(error), &self.leaders);
                None
            }
        }
    }

    /// The connection, made if need be, within the time that those that wait have.
    async fn connect(&mut self, waiting: &mut Waiting) -> Result<Connection, Error> {
        if let Some(connection) = &self.connection {
            if !connection.is_closed() {
                return Ok(connection.clone());
            }
            metrics::counter!("ottla_client_reconnects_total").increment(1);
        }
        let cluster = &self.leaders.cluster;
        let broker = cluster.known_broker(self.broker, message::NAME)?;
        let last = waiting.iter().map(|order| order.deadline).max();
        let connector = &cluster.connector;
        let connecting = connector.connect(
            broker.name.clone(),
            &broker.address,
            last.unwrap_or_else(Instant::now),
        );
        let mut connecting = pin!(connecting);
        let connection = loop {
            let first = first_deadline(&*waiting).unwrap_or_else(Instant::now);
            match timeout_at(first, &mut connecting).await {
                Ok(connected) => break connected?,
                Err(_) if waiting.is_empty() => {
                    return Err(Error::new(ErrorKind::TimedOut, message::NAME));
                }
                Err(_) => outbox::expire(waiting),
            }
        };
        Ok(self.connection.insert(connection).clone())
    }
}

/// The broker's time limit: a little below ours, so that its answer is not too late.
fn broker_timeout_ms(limit: Duration) -> i32 {
    let margin = Duration::min(limit / 10, Duration::from_secs(1));
    let millis = (limit - margin).as_millis();
    i32::try_from(millis).unwrap_or(i32::MAX).max(1)
}
