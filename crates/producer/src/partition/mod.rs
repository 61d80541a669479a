//! Which partition a record goes to.
//!
//! This module is pure: a [`Partitioner`] sees the record, all partitions of the topic and those
//! that have a leader now, and names one. It owns the state that a rule needs (a sticky choice, a
//! counter, a seeded generator), one instance a topic.
//!
//! What must hold: for the same key and the same number of partitions, [`HashPartitioner`] answers
//! what the client that the rule is named after answers, null and empty keys included; the test
//! vectors in `tests/data` were made by running those clients. Adding partitions to a topic moves
//! keys under every one of these rules: records of a key that were written before stay where they
//! are, later ones may go elsewhere, and the key's order is lost across that moment.

mod business;
mod hash;
mod kind;
mod spread;

pub use business::BusinessKeyPartitioner;
pub use hash::{HashFn, HashPartitioner, Hasher, SignRule, Unkeyed};
pub use kind::PartitionerKind;
pub use spread::{
    LeastBytesPartitioner, ManualPartitioner, RandomPartitioner, RoundRobinPartitioner, Spread,
};

use ottla_types::RecordRef;
use std::sync::Arc;

/// The partitions of a topic, as a [`Partitioner`] sees them.
#[derive(Debug, Clone, Copy)]
pub struct Partitions<'a> {
    all: &'a [i32],
    available: &'a [i32],
}

impl<'a> Partitions<'a> {
    /// `all` partitions of a topic (at least one, in ascending order), and those of them that are
    /// `available` because they have a leader.
    pub fn new(all: &'a [i32], available: &'a [i32]) -> Self {
        Self { all, available }
    }

    /// Every partition, in ascending order; never empty.
    pub fn all(&self) -> &'a [i32] {
        self.all
    }

    /// The partitions that have a leader now; empty while none has.
    pub fn available(&self) -> &'a [i32] {
        self.available
    }

    /// The available partitions, or all where none is available.
    pub fn usable(&self) -> &'a [i32] {
        if self.available.is_empty() {
            self.all
        } else {
            self.available
        }
    }
}

/// A rule that chooses partitions. The producer keeps one instance a topic, made by
/// [`for_topic`](Self::for_topic), and calls it for every record whose partition the caller left
/// open, in the order of the calls to `enqueue`.
///
/// Calls are made under the producer's lock: keep them short and do not call the producer from
/// within.
pub trait Partitioner: Send + 'static {
    /// Chooses one of `partitions.all()` for `record`.
    ///
    /// # Errors
    /// The record fails alone, with
    /// [`PublishErrorKind::InvalidRecord`](ottla_types::PublishErrorKind::InvalidRecord).
    fn partition(
        &mut self,
        record: &RecordRef<'_>,
        partitions: &Partitions<'_>,
    ) -> Result<i32, PartitionError>;

    /// Whether records with the same non-null key always get the same partition while the number of
    /// partitions stays. APIs that promise an order refuse a partitioner that says no.
    fn keeps_keys_together(&self) -> bool;

    /// A fresh instance of the same rule, for the records of `topic`.
    fn for_topic(&self, topic: &str) -> Box<dyn Partitioner>;

    /// A batch of this topic was closed for `partition`: the moment to move on for a rule that
    /// wants to fill batches.
    fn batch_closed(&mut self, partition: i32) {
        let _ = partition;
    }
}

/// Why a partitioner chose nothing.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PartitionError {
    /// The manual partitioner needs [`RecordRef::partition`].
    #[error("the manual partitioner needs the record's partition")]
    MissingPartition,
    /// The business key partitioner found no id in the record.
    #[error("the record has no business key ({0})")]
    MissingId(Arc<str>),
    /// A partitioner of the user's own panicked.
    #[error("the partitioner panicked")]
    Panicked,
    /// A partitioner of the user's own refused.
    #[error("the partitioner refused the record")]
    Refused(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// A partitioner from a closure: see [`from_fn`].
pub struct FnPartitioner<F> {
    choose: Arc<F>,
    keeps_keys_together: bool,
}

/// A partitioner that asks `choose`. The caller says whether the closure keeps the records of a key
/// together.
///
/// ```
/// use ottla_producer::partition::{Partitions, from_fn};
/// use ottla_types::RecordRef;
///
/// let vip_first = from_fn(false, |record: &RecordRef<'_>, partitions: &Partitions<'_>| {
///     let vip = record.headers.last("vip").is_some();
///     if vip { partitions.all()[0] } else { *partitions.usable().last().unwrap_or(&0) }
/// });
/// # let _ = vip_first;
/// ```
pub fn from_fn<F>(keeps_keys_together: bool, choose: F) -> FnPartitioner<F>
where
    F: Fn(&RecordRef<'_>, &Partitions<'_>) -> i32 + Send + Sync + 'static,
{
    FnPartitioner {
        choose: Arc::new(choose),
        keeps_keys_together,
    }
}

impl<F> Partitioner for FnPartitioner<F>
where
    F: Fn(&RecordRef<'_>, &Partitions<'_>) -> i32 + Send + Sync + 'static,
{
    fn partition(
        &mut self,
        record: &RecordRef<'_>,
        partitions: &Partitions<'_>,
    ) -> Result<i32, PartitionError> {
        Ok((self.choose)(record, partitions))
    }

    fn keeps_keys_together(&self) -> bool {
        self.keeps_keys_together
    }

    fn for_topic(&self, _topic: &str) -> Box<dyn Partitioner> {
        Box::new(Self {
            choose: Arc::clone(&self.choose),
            keeps_keys_together: self.keeps_keys_together,
        })
    }
}
