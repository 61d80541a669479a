//! Tells when the flow has nothing left to do, from the outside: every order is paid or closed, the
//! outbox is empty and every group has committed to the end of every topic that it reads.

use crate::read_back::bounds;
use ottla::client::{Client, Error};
use ottla::types::TopicPartition;
use ottla::types::coordinator::OffsetFetchRequest;
use std::collections::BTreeMap;
use std::time::Duration;

/// A group and the topics that it reads.
pub type Subscription = (String, Vec<String>);

/// What a group has committed, and the ends of what it reads.
#[derive(Debug, Clone, Default)]
pub struct GroupProgress {
    /// The committed offset of each partition that has one.
    pub committed: BTreeMap<TopicPartition, i64>,
    /// How many records the group has not committed as handled.
    pub lag: i64,
}

/// Asks the cluster how far `group` is in `topics`.
///
/// # Errors
/// The client's; a coordinator that moves or loads is an error that the caller may try again.
pub async fn progress(
    client: &Client,
    group: &str,
    topics: &[String],
    timeout: Duration,
) -> Result<GroupProgress, Error> {
    let mut ends = Vec::new();
    for topic in topics {
        ends.extend(bounds(client, topic, timeout).await?);
    }
    let request = OffsetFetchRequest {
        partitions: ends.iter().map(|(p, _, _)| p.clone()).collect(),
        require_stable: true,
    };
    let answer = client.group(group).fetch_offsets(request).await?;
    answer
        .error
        .into_result()
        .map_err(|code| Error::from_code(code, "OffsetFetch"))?;
    let mut found = GroupProgress::default();
    for fetched in answer.offsets {
        fetched
            .error
            .into_result()
            .map_err(|code| Error::from_code(code, "OffsetFetch"))?;
        if let Some(offset) = fetched.offset {
            found.committed.insert(fetched.partition, offset);
        }
    }
    found.lag = ends
        .iter()
        .map(|(partition, first, next)| {
            next - found
                .committed
                .get(partition)
                .copied()
                .unwrap_or(*first)
                .max(*first)
        })
        .sum();
    Ok(found)
}

/// The lag of all the flow's groups together.
///
/// # Errors
/// As [`progress`].
pub async fn total_lag(
    client: &Client,
    subscriptions: &[Subscription],
    timeout: Duration,
) -> Result<i64, Error> {
    let mut lag = 0;
    for (group, topics) in subscriptions {
        lag += progress(client, group, topics, timeout).await?.lag;
    }
    Ok(lag)
}

/// What the shop says of itself at `GET /status`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ShopStatus {
    /// Orders that are neither paid nor closed.
    pub open_orders: u64,
    /// Orders in all.
    pub orders: u64,
    /// Outbox rows that wait to be published.
    pub pending_rows: u64,
    /// Outbox rows that were set aside.
    pub parked_rows: u64,
}

impl ShopStatus {
    /// Whether the shop has nothing left to do.
    pub fn is_settled(&self) -> bool {
        self.open_orders == 0 && self.pending_rows == 0
    }
}
