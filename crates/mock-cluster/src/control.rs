//! What a test does to data: cut, delete, compact; to coordinators and transactions; to sessions.

use crate::cluster::check_live;
use crate::shared::Data;
use crate::topics::Partition;
use crate::{MockCluster, MockError};

impl MockCluster {
    /// Changes a partition, and counts the bytes that it set free.
    fn change<T>(
        &self,
        topic: &str,
        partition: i32,
        change: impl FnOnce(&mut Partition) -> T,
    ) -> Result<T, MockError> {
        let mut data = self.shared.data();
        let Data {
            topics, log_bytes, ..
        } = &mut *data;
        let found =
            topics
                .partition_mut(topic, partition)
                .ok_or_else(|| MockError::UnknownPartition {
                    topic: topic.to_owned(),
                    partition,
                })?;
        let before = found.log.bytes();
        let done = change(found);
        *log_bytes -= before - found.log.bytes();
        Ok(done)
    }

    /// Makes everything below `offset` unreadable, as retention would; -1 is the high watermark.
    ///
    /// # Errors
    /// [`MockError::UnknownPartition`]; [`MockError::Topic`] for an offset above the watermark.
    pub fn delete_records(
        &self,
        topic: &str,
        partition: i32,
        offset: i64,
    ) -> Result<(), MockError> {
        let deleted = self.change(topic, partition, |partition| {
            partition.log.delete_before(offset)
        })?;
        deleted.map(|_| ()).map_err(|code| MockError::Topic {
            topic: topic.to_owned(),
            code,
        })
    }

    /// Compacts a partition, whatever its `cleanup.policy`: of each key the last record stays, at
    /// its offset; records without a key and those of aborted transactions go. The last batch,
    /// what lies above the last stable offset, compressed batches and markers stay as they are. A
    /// batch that lost all its records stays as an empty one when it is the last of its producer.
    ///
    /// # Errors
    /// [`MockError::UnknownPartition`].
    pub fn compact(&self, topic: &str, partition: i32) -> Result<(), MockError> {
        self.change(topic, partition, |partition| {
            partition.log.compact();
        })
    }

    /// Cuts off everything from `offset` on, whole batches, as an unclean election does; the
    /// leader epoch goes up by one, the leader stays. An offset above the end cuts nothing.
    ///
    /// # Errors
    /// [`MockError::UnknownPartition`].
    pub fn truncate(&self, topic: &str, partition: i32, offset: i64) -> Result<(), MockError> {
        self.change(topic, partition, |partition| partition.truncate(offset))
    }

    /// Makes a live broker the coordinator of a transactional id; the transaction stays as it is.
    ///
    /// # Errors
    /// An unknown broker, one that is down, or too many transactional ids
    /// ([`MockError::Transaction`]).
    pub fn move_transaction_coordinator(&self, id: &str, broker: i32) -> Result<(), MockError> {
        let mut data = self.shared.data();
        let Data {
            topics,
            transactions,
            ..
        } = &mut *data;
        check_live(topics, broker)?;
        let moved = transactions.move_to(id, broker, topics);
        data.settle();
        self.shared.timer.notify_one();
        moved.map_err(|code| MockError::Transaction {
            id: id.to_owned(),
            code,
        })
    }

    /// The coordinator of a transactional id; `None` while it is down.
    pub fn transaction_coordinator(&self, id: &str) -> Option<i32> {
        let mut data = self.shared.data();
        let Data {
            topics,
            transactions,
            ..
        } = &mut *data;
        transactions.find(id, topics).ok()
    }

    /// Whether the markers of decided transactions are held back. While they are, the last stable
    /// offset stands still, and the producer's next transaction is answered
    /// CONCURRENT_TRANSACTIONS; with false, all are written at once. Default false.
    pub fn hold_markers(&self, on: bool) {
        let mut data = self.shared.data();
        data.transactions.holds_markers = on;
        data.settle();
    }

    /// Makes a broker forget all its fetch sessions, as a full cache may: their next step is
    /// answered FETCH_SESSION_ID_NOT_FOUND.
    pub fn evict_fetch_sessions(&self, broker: i32) {
        self.shared.data().fetch_sessions(broker).evict_all();
    }
}
