//! A Produce request in flight: its answer is read, judged and handed out to its batches.

use super::failure::{BrokerMessage, Cure, Failure, fate_of};
use super::leaders::Leaders;
use super::outbox::{Order, fail_all, first_deadline};
use super::produce_message as message;
use crate::connection::Connection;
use crate::transport::{Produced, Together};
use crate::{Error, ErrorKind};
use bytes::Bytes;
use ottla_types::{ErrorCode, Fate};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

pub(super) struct Request {
    connection: Connection,
    version: i16,
    batches: usize,
    is_answered: bool,
    /// When the connection gives the request up.
    limit: Instant,
    pending: Mutex<Pending>,
}

struct Pending {
    /// Ordered by partition. Empty once they are answered.
    orders: Vec<Order>,
    /// When the first of them is to be answered, where that is before the limit.
    first: Option<Instant>,
}

impl Pending {
    fn new(orders: Vec<Order>, limit: Instant) -> Self {
        Self {
            first: first_deadline(&orders).filter(|first| *first < limit),
            orders,
        }
    }
}

/// The answer to a request.
pub(super) enum Answer {
    /// The broker gives none.
    Sent,
    Came(message::Answer),
    Failed(Error),
}

impl Request {
    /// `limit` is when the connection gives the request up.
    pub(super) fn new(
        connection: Connection,
        version: i16,
        is_answered: bool,
        limit: Instant,
        orders: Vec<Order>,
    ) -> Arc<Self> {
        Arc::new(Self {
            connection,
            version,
            batches: orders.len(),
            is_answered,
            limit,
            pending: Mutex::new(Pending::new(orders, limit)),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// When the first of its batches is to be answered, if that is before the connection gives up.
    pub(super) fn first(&self) -> Option<Instant> {
        self.lock().first
    }

    /// The batches, to be answered.
    pub(super) fn take(&self) -> Vec<Order> {
        let mut pending = self.lock();
        pending.first = None;
        std::mem::take(&mut pending.orders)
    }

    /// Takes out the batches whose own time has passed: nobody knows what becomes of them.
    pub(super) fn expired(&self, now: Instant) -> Vec<Order> {
        let mut pending = self.lock();
        if pending.first.is_none_or(|first| first > now) {
            return Vec::new();
        }
        let (late, left) = std::mem::take(&mut pending.orders)
            .into_iter()
            .partition(|order| order.deadline <= now);
        *pending = Pending::new(left, self.limit);
        late
    }

    pub(super) fn read(&self, answer: Result<Bytes, Error>) -> Answer {
        match answer {
            Ok(_) if !self.is_answered => Answer::Sent,
            Ok(body) => match message::read(body, self.version, self.batches) {
                Ok(answer) => Answer::Came(answer),
                Err(cause) => Answer::Failed(self.connection.refuse(message::NAME, cause)),
            },
            Err(error) => Answer::Failed(error),
        }
    }
}

impl Answer {
    /// How long the broker wants no request.
    pub(super) fn throttle(&self) -> Option<Duration> {
        match self {
            Self::Came(answer) => {
                let millis = u64::try_from(answer.throttle_ms).unwrap_or_default();
                Some(Duration::from_millis(millis)).filter(|throttle| !throttle.is_zero())
            }
            Self::Sent | Self::Failed(_) => None,
        }
    }

    /// Tells the request's batches.
    pub(super) fn hand_out(self, request: &Request, leaders: &Leaders) {
        let orders = request.take();
        match self {
            Self::Sent => {
                let mut answers = Together::default();
                for order in orders {
                    let nothing = Produced {
                        base_offset: None,
                        log_append_time_ms: None,
                    };
                    order.succeed(nothing, &mut answers);
                }
            }
            Self::Came(answer) => hand_out(orders, answer, request.connection.broker(), leaders),
            Self::Failed(error) => {
                let error = Arc::new(error.with_fate(Fate::MaybeWritten));
                fail_all(orders, &error, leaders);
            }
        }
    }
}

/// Gives each batch the answer for its partition.
fn hand_out(orders: Vec<Order>, answer: message::Answer, broker: &str, leaders: &Leaders) {
    let mut parts: Vec<Option<&message::PartitionAnswer>> = vec![None; orders.len()];
    for part in &answer.partitions {
        let wanted = (part.topic.as_str(), part.partition);
        let name =
            |order: &Order| (&*order.partition.topic, order.partition.partition).cmp(&wanted);
        if let Ok(at) = orders.binary_search_by(name) {
            // The first word on a partition counts.
            parts[at].get_or_insert(part);
        }
    }
    let mut answers = Together::default();
    let mut left_out = Vec::new();
    for (order, part) in orders.into_iter().zip(parts) {
        let Some(part) = part else {
            left_out.push(order);
            continue;
        };
        match judge(part, &order, broker, &answer.endpoints, leaders) {
            Ok(produced) => order.succeed(produced, &mut answers),
            Err(failure) => order.fail(failure, leaders, &mut answers),
        }
    }
    drop(answers);
    if !left_out.is_empty() {
        let error = Error::new(ErrorKind::Protocol, message::NAME)
            .with_broker(broker)
            .with_fate(Fate::MaybeWritten)
            .with_source("the answer leaves the partition out");
        fail_all(left_out, &Arc::new(error), leaders);
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
        ErrorCode::NONE => match offset_of_first(part.base_offset, order.batch.record_count()) {
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
            let fate = fate_of(code);
            let code = meaning(code, part.log_start_offset);
            let mut error = error(Error::from_code(code, message::NAME)).with_fate(fate);
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

/// What the code is to be taken for. UNKNOWN_PRODUCER_ID without the log's start says that the partition
/// left the broker before the answer was written (KIP-360): nothing is known of the batch's number, so
/// it is sent again as it is, to whoever leads now.
fn meaning(code: ErrorCode, log_start_offset: Option<i64>) -> ErrorCode {
    match (code, log_start_offset) {
        (ErrorCode::UNKNOWN_PRODUCER_ID, Some(-1)) => ErrorCode::NOT_LEADER_OR_FOLLOWER,
        _ => code,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_producer_is_judged_by_the_start_of_the_log() {
        let unknown = ErrorCode::UNKNOWN_PRODUCER_ID;
        for start in [None, Some(0), Some(40)] {
            assert_eq!(meaning(unknown, start), unknown);
        }
        assert_eq!(
            meaning(unknown, Some(-1)),
            ErrorCode::NOT_LEADER_OR_FOLLOWER
        );
        let refused = ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER;
        assert_eq!(meaning(refused, Some(-1)), refused);
    }
}
