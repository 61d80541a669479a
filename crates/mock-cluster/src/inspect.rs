//! What a test can see of the cluster: counts, logs, offsets, groups. Nothing here goes over the
//! network, and it works after a shutdown, too.

use std::sync::atomic::Ordering;

use crate::group::GroupState;
use crate::{ApiKey, MockBatch, MockCluster, MockError, MockRecord};

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

    /// The records of a topic, by partition, then offset; those in compressed batches are left
    /// out (see [`MockCluster::batches`]). Empty when there is no such topic.
    pub fn records(&self, topic: &str) -> Vec<MockRecord> {
        let data = self.shared.data();
        let Some(topic) = data.topics.by_name.get(topic) else {
            return Vec::new();
        };
        let logs = (0..).zip(&topic.partitions);
        logs.flat_map(|(index, partition)| partition.log.records(index))
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
        let mut data = self.shared.data();
        let data = &mut *data;
        let found = data
            .topics
            .by_name
            .get_mut(topic)
            .and_then(|t| t.partition_mut(partition));
        let unknown = || MockError::UnknownPartition {
            topic: topic.to_owned(),
            partition,
        };
        let log = &mut found.ok_or_else(unknown)?.log;
        let before = log.bytes();
        let deleted = log.delete_before(offset);
        data.log_bytes -= before - log.bytes();
        deleted.map(|_| ()).map_err(|code| MockError::Topic {
            topic: topic.to_owned(),
            code,
        })
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

    /// The member ids of a group.
    pub fn group_members(&self, group: &str) -> Vec<String> {
        let data = self.shared.data();
        let members = data.coordinators.get(group).map(|group| group.members());
        members
            .into_iter()
            .flatten()
            .map(|member| member.member_id)
            .collect()
    }
}
