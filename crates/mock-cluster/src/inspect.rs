//! What a test can see of the cluster: counts, logs, offsets, groups. Nothing here goes over the
//! network, and it works after a shutdown, too.

use std::sync::atomic::Ordering;

use crate::group::GroupState;
use crate::txn::Transaction;
use crate::{ApiKey, MockBatch, MockCluster, MockRecord, TransactionState};

impl MockCluster {
    /// How many requests of this API arrived whole at any broker, those that met a fault too.
    pub fn requests(&self, api: ApiKey) -> u64 {
        self.shared.counted(api)
    }

    /// How many connections are open, at all brokers.
    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }

    /// How many tasks of the mock ended by a panic: a defect of the mock when it is not 0.
    pub fn failed_tasks(&self) -> usize {
        self.shared.failed_tasks.load(Ordering::SeqCst)
    }

    /// The records of a topic, by partition, then offset, those of open and aborted transactions
    /// too; those in compressed batches are left out (see [`MockCluster::batches`]). Empty when
    /// there is no such topic.
    pub fn records(&self, topic: &str) -> Vec<MockRecord> {
        self.records_of(topic, false)
    }

    /// As [`MockCluster::records`], without open and aborted transactions, and nothing above the
    /// last stable offset.
    pub fn committed_records(&self, topic: &str) -> Vec<MockRecord> {
        self.records_of(topic, true)
    }

    fn records_of(&self, topic: &str, only_committed: bool) -> Vec<MockRecord> {
        let data = self.shared.data();
        let Some(topic) = data.topics.by_name.get(topic) else {
            return Vec::new();
        };
        let logs = (0..).zip(&topic.partitions);
        logs.flat_map(|(index, partition)| partition.log.records(index, only_committed))
            .collect()
    }

    /// The batches of a partition as they stand in the log. Empty when there is no such partition.
    pub fn batches(&self, topic: &str, partition: i32) -> Vec<MockBatch> {
        let data = self.shared.data();
        let topic = data.topics.by_name.get(topic);
        let found = topic.and_then(|topic| topic.partition(partition));
        found
            .map(|partition| partition.log.batches())
            .unwrap_or_default()
    }

    /// The offset after the last record; `None` when there is no such partition.
    pub fn high_watermark(&self, topic: &str, partition: i32) -> Option<i64> {
        let data = self.shared.data();
        Some(
            data.topics
                .by_name
                .get(topic)?
                .partition(partition)?
                .log
                .high_watermark(),
        )
    }

    /// The offset that readers of committed data do not pass; `None` when there is no such
    /// partition.
    pub fn last_stable_offset(&self, topic: &str, partition: i32) -> Option<i64> {
        let data = self.shared.data();
        let partition = data.topics.by_name.get(topic)?.partition(partition)?;
        Some(partition.log.last_stable_offset())
    }

    /// The leader epoch of a partition; `None` when there is no such partition.
    pub fn leader_epoch(&self, topic: &str, partition: i32) -> Option<i32> {
        let data = self.shared.data();
        let partition = data.topics.by_name.get(topic)?.partition(partition)?;
        Some(partition.leader_epoch)
    }

    /// The state of a transactional id; `None` when no producer was initialised for it.
    pub fn transaction_state(&self, id: &str) -> Option<TransactionState> {
        let data = self.shared.data();
        data.transactions.get(id).map(Transaction::state)
    }

    /// The producer id and epoch that a transactional id has now; `None` when no producer was
    /// initialised for it.
    pub fn transaction_producer(&self, id: &str) -> Option<(i64, i16)> {
        let data = self.shared.data();
        let producer = data.transactions.get(id)?.producer();
        Some((producer.id, producer.epoch))
    }

    /// How many fetch sessions a broker keeps.
    pub fn fetch_sessions(&self, broker: i32) -> usize {
        self.shared.data().fetch_sessions(broker).len()
    }

    /// The first readable offset; `None` when there is no such partition.
    pub fn log_start(&self, topic: &str, partition: i32) -> Option<i64> {
        let data = self.shared.data();
        Some(
            data.topics
                .by_name
                .get(topic)?
                .partition(partition)?
                .log
                .start(),
        )
    }

    /// The offset that a group committed for a partition, and the text that came with it.
    pub fn committed(&self, group: &str, topic: &str, partition: i32) -> Option<(i64, String)> {
        let data = self.shared.data();
        let committed = data.coordinators.get(group)?.committed(topic, partition)?;
        Some((committed.offset, committed.metadata.clone()))
    }

    /// The leader epoch that came with a committed offset, -1 when none did.
    pub fn committed_leader_epoch(&self, group: &str, topic: &str, partition: i32) -> Option<i32> {
        let data = self.shared.data();
        Some(
            data.coordinators
                .get(group)?
                .committed(topic, partition)?
                .leader_epoch,
        )
    }

    /// The state of a group; [`GroupState::Dead`] when there is no such group.
    pub fn group_state(&self, group: &str) -> GroupState {
        let data = self.shared.data();
        data.coordinators
            .get(group)
            .map_or(GroupState::Dead, |group| group.state())
    }

    /// The generation of a group; `None` when there is no such group.
    pub fn group_generation(&self, group: &str) -> Option<i32> {
        let data = self.shared.data();
        data.coordinators.get(group).map(|group| group.generation())
    }

    /// The member ids of a group, of either protocol.
    pub fn group_members(&self, group: &str) -> Vec<String> {
        let data = self.shared.data();
        let Some(group) = data.coordinators.get(group) else {
            return Vec::new();
        };
        let classic = group.members().into_iter().map(|member| member.member_id);
        let consumer = group.describe_consumer().members.into_iter();
        classic
            .chain(consumer.map(|member| member.member_id))
            .collect()
    }
}
