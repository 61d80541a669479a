//! The batches that wait for a request to one broker, and which of them go into the next one.
//!
//! What must hold: batches leave in the order in which they came, one of a partition in a request.

use super::failure::{Cure, Failure, share};
use super::leaders::Leaders;
use super::produce_message as message;
use crate::transport::{Acks, Produced, Reply, Together};
use crate::{Error, ErrorKind};
use ottla_record_batch::{Compression, EncodedBatch};
use ottla_types::{Fate, TopicPartition};
use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use tokio::time::Instant;

/// A request is not made larger than this, unless by a single batch.
const REQUEST_BYTES_MAX: usize = 8 << 20;
/// The first version whose brokers know zstd (KIP-110).
const ZSTD_FROM: i16 = 7;

/// What batches must have in common to stand in one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Terms {
    pub(super) acks: Acks,
    pub(super) transactional_id: Option<Arc<str>>,
    pub(super) transaction_version_2: bool,
}

/// One batch on its way.
pub(super) struct Order {
    pub(super) partition: TopicPartition,
    pub(super) terms: Terms,
    pub(super) batch: EncodedBatch,
    /// When it is answered at the latest.
    pub(super) deadline: Instant,
    pub(super) reply: Reply,
}

impl Order {
    pub(super) fn succeed(self, produced: Produced, answers: &mut Together) {
        metrics::counter!("ottla_client_produced_records_total")
            .increment(self.batch.record_count().into());
        // First the bytes go: whoever hears of it may want to use them again.
        drop(self.batch);
        answers.send(self.reply, Ok(produced));
    }

    /// Answers with a failure, and remembers what has to be mended before the next attempt.
    pub(super) fn fail(self, failure: Failure, leaders: &Leaders, answers: &mut Together) {
        match failure.cure {
            Cure::AtOnce => return answers.fail_over(self.reply, failure.error),
            Cure::Refresh => leaders.doubt(self.partition),
            Cure::None | Cure::Wait => {}
        }
        answers.send(self.reply, Err(failure.error));
    }

    fn time_out(self, fate: Fate) {
        let error = Error::new(ErrorKind::TimedOut, message::NAME)
            .with_partition(self.partition)
            .with_fate(fate);
        self.reply.send(Err(error));
    }
}

/// Answers all with the same error.
pub(super) fn fail_all(
    orders: impl IntoIterator<Item = Order>,
    error: &Arc<Error>,
    leaders: &Leaders,
) {
    let mut answers = Together::default();
    for order in orders {
        let error = share(error, &order.partition);
        order.fail(Failure::new(error), leaders, &mut answers);
    }
}

/// Takes out those whose time has passed.
pub(super) fn expired(orders: &mut VecDeque<Order>) -> Vec<Order> {
    let now = Instant::now();
    if orders.iter().all(|order| order.deadline > now) {
        return Vec::new();
    }
    let mut late = Vec::new();
    for order in std::mem::take(orders) {
        if order.deadline > now {
            orders.push_back(order);
        } else {
            late.push(order);
        }
    }
    late
}

/// Answers those whose time has passed.
pub(super) fn time_out_all(late: impl IntoIterator<Item = Order>, fate: Fate) {
    for order in late {
        order.time_out(fate);
    }
}

/// The time at which the first of them has to be answered.
pub(super) fn first_deadline<'a>(orders: impl IntoIterator<Item = &'a Order>) -> Option<Instant> {
    orders.into_iter().map(|order| order.deadline).min()
}

/// Takes the batches of the next request out, ordered by partition: as many as fit from the front,
/// on the same terms, one for each partition.
pub(super) fn pick(waiting: &mut VecDeque<Order>) -> Vec<Order> {
    let terms = match waiting.front() {
        Some(first) if waiting.len() > 1 => first.terms.clone(),
        _ => return std::mem::take(waiting).into(),
    };
    let mut picked: Vec<Order> = Vec::with_capacity(waiting.len());
    let mut left = Vec::new();
    let mut seen = HashSet::with_capacity(waiting.len());
    let mut bytes = 0;
    for order in waiting.drain(..) {
        let fits = order.terms == terms
            && (picked.is_empty() || bytes + order.batch.size() <= REQUEST_BYTES_MAX);
        // What comes behind a batch that has to wait must not overtake it.
        if seen.insert(order.partition.clone()) && fits {
            bytes += order.batch.size();
            picked.push(order);
        } else {
            left.push(order);
        }
    }
    waiting.extend(left);
    picked.sort_unstable_by(|a, b| a.partition.cmp(&b.partition));
    picked
}

/// Takes out what a broker that speaks no later version cannot read.
pub(super) fn too_new(orders: &mut Vec<Order>, version: i16) -> Vec<(Order, Error)> {
    if version >= ZSTD_FROM {
        return Vec::new();
    }
    let refused = orders.extract_if(.., |order| order.batch.compression() == Compression::Zstd);
    let with_error = |order: Order| {
        let error = Error::new(ErrorKind::Unsupported, message::NAME)
            .with_partition(order.partition.clone())
            .with_source("the broker is too old for zstd");
        (order, error)
    };
    refused.map(with_error).collect()
}
