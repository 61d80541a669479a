//! The task that writes to one broker: it makes one request of all batches that wait, and keeps a
//! few requests in flight on one connection.
//!
//! What must hold: requests leave in the order in which their batches came; a request holds a
//! partition at most once; a batch is put into one request and never into a second one here, whatever
//! the answer says about throttling (a throttle time only delays the next request); every batch gets
//! its answer or hears that the task has ended.

use super::failure::{BrokerMessage, Cure, Failure, fate_of, share};
use super::leaders::Leaders;
use super::produce_message as message;
use crate::connection::{Connection, Submitted};
use crate::transport::{Acks, Produced};
use crate::{Error, ErrorKind};
use bytes::Bytes;
use futures_util::stream::{FuturesUnordered, StreamExt};
use ottla_record_batch::Compression;
use ottla_types::{ErrorCode, Fate, TopicPartition};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

/// Requests that wait for an answer; Kafka keeps the sequences of five batches (KIP-98).
const IN_FLIGHT_MAX: usize = 5;
/// Batches that wait for a request.
pub(super) const QUEUE_MAX: usize = 1024;
/// A request is not made larger than this, unless by a single batch.
const REQUEST_BYTES_MAX: usize = 8 << 20;
/// An unused connection is closed before the broker does it (after ten minutes), because a request
/// that meets the closing has an unknown fate.
const IDLE_LIMIT: Duration = Duration::from_secs(240);
/// The first version whose brokers know zstd (KIP-110).
const ZSTD_FROM: i16 = 7;

/// Whether a batch was put into a request; the sender and a caller that gives up decide it once.
#[derive(Debug, Default)]
pub(super) struct Ticket(AtomicU8);

const SENT: u8 = 1;
const WITHDRAWN: u8 = 2;

impl Ticket {
    fn decide(&self, fate: u8) -> bool {
        let decided = self
            .0
            .compare_exchange(0, fate, Ordering::AcqRel, Ordering::Acquire);
        decided.is_ok()
    }

    /// The caller gives up; `false` if the batch was sent.
    pub(super) fn withdraw(&self) -> bool {
        self.decide(WITHDRAWN)
    }
}

/// One batch on its way.
pub(super) struct Order {
    pub(super) partition: TopicPartition,
    pub(super) acks: Acks,
    pub(super) compression: Compression,
    pub(super) records: Bytes,
    /// How many records these are.
    pub(super) count: u32,
    pub(super) deadline: Instant,
    pub(super) ticket: Arc<Ticket>,
    pub(super) reply: oneshot::Sender<Result<Produced, Failure>>,
}

impl Order {
    fn fail(self, failure: Failure) {
        let _ = self.reply.send(Err(failure));
    }
}

pub(super) struct Sender {
    pub(super) broker: i32,
    pub(super) leaders: Arc<Leaders>,
    pub(super) queue: mpsc::Receiver<Order>,
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
            tokio::select! {
                () = closed.cancelled() => return,
                Some(throttle) = in_flight.next(), if !in_flight.is_empty() => {
                    not_before = not_before.max(Instant::now() + throttle);
                }
                order = self.queue.recv(), if may_send => {
                    let Some(order) = order else { return };
                    waiting.push_back(order);
                    self.gather(&mut waiting).await;
                }
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

    /// Takes what else is there; those that are about to hand a batch over get the chance to.
    async fn gather(&mut self, waiting: &mut Waiting) {
        let mut before = 0;
        while before < waiting.len() && waiting.len() < QUEUE_MAX {
            before = waiting.len();
            tokio::task::yield_now().await;
            while let Ok(order) = self.queue.try_recv() {
                waiting.push_back(order);
            }
        }
    }

    /// Sends one request with what waits; `None` if there was nothing to send, or no connection.
    async fn send(&mut self, waiting: &mut Waiting) -> Option<Request> {
        let connection = match self.connect(waiting).await {
            Ok(connection) => connection,
            Err(error) => {
                fail_all(waiting.drain(..), error);
                return None;
            }
        };
        let version = match connection.agreed(message::KEY, message::NAME, message::VERSIONS) {
            Ok(version) => version,
            Err(error) => {
                fail_all(waiting.drain(..), error);
                return None;
            }
        };
        let orders = pick(waiting, version);
        let first = orders.first()?;
        let acks = match first.acks {
            Acks::None => 0,
            Acks::Leader => 1,
            Acks::All => -1,
        };
        let limit = self.leaders.cluster.config.request_timeout;
        let now = Instant::now();
        let last = orders.iter().map(|order| order.deadline).max();
        let left = last.unwrap_or(now).saturating_duration_since(now);
        let batches: Vec<_> = orders
            .iter()
            .map(|order| (&order.partition, &order.records))
            .collect();
        let mut frame = connection.frame(message::KEY, version, message::is_flexible(version));
        let timeout = broker_timeout_ms(left.min(limit));
        message::write(&mut frame, version, acks, timeout, &batches);
        let submitted = connection
            .submit(message::NAME, frame, now + limit, acks != 0)
            .await;
        match submitted {
            Ok(submitted) => Some(Request {
                connection,
                version,
                is_answered: acks != 0,
                orders,
                submitted,
            }),
            Err(error) => {
                fail_all(orders.into_iter(), error);
                None
            }
        }
    }

    /// The connection, made if need be, within the time that the last of those that wait has.
    async fn connect(&mut self, waiting: &Waiting) -> Result<Connection, Error> {
        if let Some(connection) = &self.connection {
            if !connection.is_closed() {
                return Ok(connection.clone());
            }
            metrics::counter!("ottla_client_reconnects_total").increment(1);
        }
        let cluster = &self.leaders.cluster;
        let broker = cluster
            .broker(self.broker)
            .ok_or_else(|| Error::from_code(ErrorCode::BROKER_NOT_AVAILABLE, message::NAME))?;
        let deadlines = waiting.iter().map(|order| order.deadline);
        let deadline = deadlines.max().unwrap_or_else(Instant::now);
        let connection = cluster
            .connector
            .connect(broker.name.clone(), &broker.address, deadline)
            .await?;
        Ok(self.connection.insert(connection).clone())
    }
}

/// The broker's time limit: a little below ours, so that its answer is not too late.
fn broker_timeout_ms(limit: Duration) -> i32 {
    let margin = Duration::min(limit / 10, Duration::from_secs(1));
    let millis = (limit - margin).as_millis();
    i32::try_from(millis).unwrap_or(i32::MAX).max(1)
}

/// Takes the batches of the next request out, ordered by partition: as many as fit from the front,
/// those with the same `acks`, one for each partition. What was withdrawn is dropped.
fn pick(waiting: &mut Waiting, version: i16) -> Vec<Order> {
    let mut picked: Vec<Order> = Vec::with_capacity(waiting.len());
    let mut bytes = 0;
    let mut seen = std::collections::HashSet::new();
    let mut left = Waiting::new();
    for order in waiting.drain(..) {
        let fits = picked.first().is_none_or(|first| {
            first.acks == order.acks && bytes + order.records.len() <= REQUEST_BYTES_MAX
        });
        // What comes behind a batch that has to wait must not overtake it.
        if !seen.insert(order.partition.clone()) || !fits {
            left.push_back(order);
            continue;
        }
        if order.reply.is_closed() || !order.ticket.decide(SENT) {
            seen.remove(&order.partition);
            continue;
        }
        if order.compression == Compression::Zstd && version < ZSTD_FROM {
            let error = Error::new(ErrorKind::Unsupported, message::NAME)
                .with_partition(order.partition.clone())
                .with_source("the broker is too old for zstd");
            order.fail(Failure::new(error));
            continue;
        }
        bytes += order.records.len();
        picked.push(order);
    }
    *waiting = left;
    picked.sort_unstable_by(|a, b| a.partition.cmp(&b.partition));
    picked
}

fn fail_all(orders: impl ExactSizeIterator<Item = Order>, error: Error) {
    let error = Arc::new(error);
    for order in orders {
        let error = share(&error, &order.partition);
        order.fail(Failure::new(error));
    }
}

/// A request in flight.
struct Request {
    connection: Connection,
    version: i16,
    is_answered: bool,
    orders: Vec<Order>,
    submitted: Submitted,
}

impl Request {
    /// Waits for the answer and hands it out; the time that the broker wants no request for.
    async fn settle(self, leaders: Arc<Leaders>) -> Duration {
        let answer = match self.submitted.answer().await {
            Ok(body) if self.is_answered => message::read(body, self.version)
                .map_err(|cause| self.connection.refuse(message::NAME, cause)),
            Ok(_) => {
                for order in self.orders {
                    let _ = order.reply.send(Ok(Produced {
                        base_offset: None,
                        log_append_time_ms: None,
                    }));
                }
                return Duration::ZERO;
            }
            Err(error) => Err(error),
        };
        match answer {
            Ok(answer) => {
                let throttle = u64::try_from(answer.throttle_ms).unwrap_or_default();
                hand_out(self.orders, answer, self.connection.broker(), &leaders);
                Duration::from_millis(throttle)
            }
            Err(error) => {
                fail_all(self.orders.into_iter(), error.with_fate(Fate::MaybeWritten));
                Duration::ZERO
            }
        }
    }
}

/// Gives each batch the answer for its partition.
fn hand_out(orders: Vec<Order>, answer: message::Answer, broker: &str, leaders: &Leaders) {
    let names: Vec<_> = orders.iter().map(|order| order.partition.clone()).collect();
    let mut orders: Vec<_> = orders.into_iter().map(Some).collect();
    for part in &answer.partitions {
        let wanted = (part.topic.as_str(), part.partition);
        let at = names.binary_search_by(|name| (&*name.topic, name.partition).cmp(&wanted));
        let Some(order) = at.ok().and_then(|at| orders[at].take()) else {
            continue;
        };
        let result = judge(part, &order, broker, &answer.endpoints, leaders);
        let _ = order.reply.send(result);
    }
    let missing: Vec<_> = orders.into_iter().flatten().collect();
    if !missing.is_empty() {
        let error = Error::new(ErrorKind::Protocol, message::NAME)
            .with_broker(broker)
            .with_fate(Fate::MaybeWritten)
            .with_source("the answer leaves the partition out");
        fail_all(missing.into_iter(), error);
    }
}

fn judge(
    part: &message::PartitionAnswer,
    order: &Order,
    broker: &str,
    endpoints: &[message::Endpoint],
    leaders: &Leaders,
) -> Result<Produced, Failure> {
    let error = |error: Error| {
        error
            .with_broker(broker)
            .with_partition(order.partition.clone())
    };
    match part.code {
        ErrorCode::NONE => match offset_of_first(part.base_offset, order.count) {
            Ok(base_offset) => Ok(Produced {
                base_offset,
                log_append_time_ms: Some(part.log_append_time_ms).filter(|ms| *ms >= 0),
            }),
            Err(cause) => {
                let refused = error(Error::new(ErrorKind::Protocol, message::NAME));
                let refused = refused.with_fate(Fate::MaybeWritten).with_source(cause);
                Err(Failure::new(refused))
            }
        },
        // The batch stands in the log since an earlier attempt, too long ago for the broker to know
        // where.
        ErrorCode::DUPLICATE_SEQUENCE_NUMBER => Ok(Produced {
            base_offset: None,
            log_append_time_ms: None,
        }),
        code => {
            let mut error = error(Error::from_code(code, message::NAME)).with_fate(fate_of(code));
            if let Some(text) = &part.message {
                error = error.with_source(BrokerMessage(text.as_str().to_owned()));
            }
            let mut failure = Failure::new(error);
            if let Some(leader) = part.leader
                && failure.cure == Cure::Refresh
                && leaders.hint(&order.partition, leader, endpoints)
            {
                failure.cure = Cure::AtOnce;
            }
            Err(failure)
        }
    }
}

/// Offsets that a batch cannot have.
#[derive(Debug, thiserror::Error)]
#[error("{count} records are said to begin at offset {base}")]
struct BadOffset {
    base: i64,
    count: u32,
}

/// The offset of a batch's first record; `None` where the broker says -1.
fn offset_of_first(base: i64, count: u32) -> Result<Option<i64>, BadOffset> {
    let last = base.checked_add(i64::from(count) - 1);
    match base {
        -1 => Ok(None),
        0.. if last.is_some() => Ok(Some(base)),
        _ => Err(BadOffset { base, count }),
    }
}
