//! Which rows must keep their order.

use ottla_store::{OutboxId, OutboxRow};
use ottla_types::Bytes;
use std::sync::Arc;

/// Rows in the same lane are published one after the other.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Lane {
    /// A partition that the application chose: all rows for it.
    Partition(Arc<str>, i32),
    /// The rows of a key of a topic.
    Key(Arc<str>, Bytes),
    /// A row without key or partition: nothing orders it.
    Alone(OutboxId),
}

impl Lane {
    pub(super) fn of(row: &OutboxRow) -> Self {
        let topic = row.record.topic.clone();
        match (row.record.partition, &row.record.key) {
            (Some(partition), _) => Self::Partition(topic, partition),
            (None, Some(key)) => Self::Key(topic, key.clone()),
            (None, None) => Self::Alone(row.id),
        }
    }
}
