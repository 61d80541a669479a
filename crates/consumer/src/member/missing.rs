//! Partitions that the application named itself and that the cluster does not have: its caller hears of
//! them, once each, and they are looked for on.
//!
//! A broker that starts, or whose metadata lags, misses what is there. So it counts only when no answer
//! has known the partition for a while, and the cluster, asked for the topic then, does not know it either.

use super::core::Member;
use crate::lane::Desk;
use crate::status::MemberBoard;
use crate::{Error, ErrorKind};
use ottla_client::{Client, Error as ClientError, ErrorKind as Kind};
use ottla_types::TopicPartition;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// By then a partition that was just made is known everywhere.
const PATIENCE: Duration = Duration::from_secs(2);

/// Asks the cluster for a partition's topic, and tells the caller if it has none of that number.
pub(super) struct Check {
    client: Client,
    desk: Arc<Desk>,
    board: Arc<MemberBoard>,
    partition: TopicPartition,
}

impl Member {
    /// A look-up or a fetch failed; it is tried again in any case. Says whether the caller knows already
    /// that the partition is missing.
    pub(super) fn missed(
        &mut self,
        partition: &TopicPartition,
        error: &ClientError,
        now: Instant,
    ) -> bool {
        let (Some(owned), Some(desk)) = (self.partitions.get_mut(partition), self.spec.work.desk())
        else {
            return false;
        };
        if error.kind() != Kind::UnknownTopic {
            return false;
        }
        let since = *owned.missed.get_or_insert(now);
        let is_told = desk.is_told_missing(partition);
        if now >= since + PATIENCE && is_told == Some(false) {
            let check = Check {
                client: self.spec.client.clone(),
                desk: desk.clone(),
                board: self.spec.board.clone(),
                partition: partition.clone(),
            };
            self.check(check);
        }
        is_told == Some(true)
    }
}

impl Check {
    pub(super) async fn run(self) {
        let (topic, number) = (&self.partition.topic, self.partition.partition);
        let cause = match self.client.refresh_topic(topic).await {
            Ok(found) if found.partition(number).is_some() => return,
            Ok(found) => {
                let cause = NoSuchPartition {
                    partitions: found.partitions.len(),
                };
                Error::new(ErrorKind::UnknownTopic).with_source(cause)
            }
            Err(error) if error.kind() == Kind::UnknownTopic => error.into(),
            // Nobody knows: there are other times to ask.
            Err(_) => return,
        };
        let error = cause.with_partition(self.partition.clone());
        tracing::error!(%error, "the partition is not there; it is looked for on");
        self.board.set_last_error(&error);
        self.desk.report_missing(error);
    }
}

/// The topic is there.
#[derive(Debug, thiserror::Error)]
#[error("the topic has {partitions} partitions")]
struct NoSuchPartition {
    partitions: usize,
}
