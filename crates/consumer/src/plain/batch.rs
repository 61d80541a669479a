//! [`ConsumedBatch`]: records of one partition, as they are handed out.

use crate::handler::{Context, LeaseLost, PartitionLease};
use crate::lane::Handed;
use ottla_types::transactions::GroupMetadata;
use ottla_types::{ConsumedRecord, Offset, TopicPartition};

/// Records of one partition, in order; at least one.
#[derive(Debug)]
pub struct ConsumedBatch {
    partition: TopicPartition,
    records: Vec<ConsumedRecord>,
    next_offset: Offset,
    context: Context,
}

impl ConsumedBatch {
    pub(super) fn new(handed: Handed) -> Self {
        Self {
            partition: handed.partition,
            // The same memory, unless records were taken from it before.
            records: handed.records.collect(),
            next_offset: handed.next_offset,
            context: handed.context,
        }
    }

    /// The records.
    pub fn records(&self) -> &[ConsumedRecord] {
        &self.records
    }

    /// Takes the records out.
    pub fn into_records(self) -> Vec<ConsumedRecord> {
        self.records
    }

    /// The partition that the records came from.
    pub fn partition(&self) -> &TopicPartition {
        &self.partition
    }

    /// The offset to commit when all of it is handled: where reading goes on. It is above the last
    /// record's, and further if what follows are no records (markers of transactions).
    pub fn next_offset(&self) -> Offset {
        self.next_offset
    }

    /// The right to the partition, to be looked at before an effect that cannot be undone.
    pub fn lease(&self) -> &PartitionLease {
        self.context.lease()
    }

    /// The member as the group's coordinator knows it now, for offsets that go into a transaction: see
    /// [`Context::group_metadata`].
    ///
    /// # Errors
    /// [`LeaseLost`] after a revocation or loss of the partition.
    pub fn group_metadata(&self) -> Result<GroupMetadata, LeaseLost> {
        self.context.group_metadata()
    }
}

impl IntoIterator for ConsumedBatch {
    type Item = ConsumedRecord;
    type IntoIter = std::vec::IntoIter<ConsumedRecord>;

    fn into_iter(self) -> Self::IntoIter {
        self.records.into_iter()
    }
}

impl<'a> IntoIterator for &'a ConsumedBatch {
    type Item = &'a ConsumedRecord;
    type IntoIter = std::slice::Iter<'a, ConsumedRecord>;

    fn into_iter(self) -> Self::IntoIter {
        self.records.iter()
    }
}
