//! Reads records into the lanes.
//!
//! Each partition is in at most one fetch; a few fetches for different partitions may be out at once,
//! so that a busy partition does not wait for the long poll of the quiet ones. Partitions whose lane
//! is full are left out, which bounds the memory. An answer counts only for the assignment and
//! the position that it was asked for (C7, C24).
//!
//! `queued.max.bytes` is shared out: a quarter to what the transport reads ahead, an eighth to an
//! answer that is on its way, half to the lanes: a quarter that they may have when more is fetched
//! for them, and as much again for what comes.

use super::partition::{Partitions, Position};
use crate::{ConsumerConfig, Error, ErrorKind};
use ottla_client::transport::{FetchLimits, FetchPosition, Fetched, Transport};
use ottla_types::TopicPartition;
use std::collections::HashMap;
use std::sync::Arc;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// How many fetches may be out.
const CALLS_MAX: usize = 4;

/// The fetches that are out.
pub(super) struct Fetcher {
    tasks: JoinSet<Vec<Answer>>,
    transport: Arc<dyn Transport>,
    limits: FetchLimits,
    max_partition_bytes: u32,
}

/// The answer for one partition.
pub(super) struct Answer {
    pub(super) partition: TopicPartition,
    pub(super) incarnation: u64,
    /// The position that was asked for.
    pub(super) position: FetchPosition,
    pub(super) result: Read,
}

/// What a fetch brought for a partition.
pub(super) enum Read {
    /// Nothing new.
    Nothing,
    /// Records, or at least a later position.
    Some(Fetched),
    Failed(ottla_client::Error),
}

impl Fetcher {
    pub(super) fn new(transport: Arc<dyn Transport>, config: &ConsumerConfig) -> Self {
        Self {
            tasks: JoinSet::new(),
            transport,
            limits: FetchLimits {
                max_wait: config.fetch_max_wait,
                min_bytes: config.fetch_min_bytes,
                max_partition_bytes: config.max_partition_fetch_bytes,
                max_bytes: config
                    .fetch_max_bytes
                    .min(bytes(config.queued_max_bytes / 4)),
                read_ahead_bytes: bytes(config.queued_max_bytes / 4),
            },
            max_partition_bytes: config.max_partition_fetch_bytes,
        }
    }

    /// Bounds one partition's part of an answer to its share of the buffer.
    pub(super) fn set_share(&mut self, bytes: usize) {
        let share = self::bytes(bytes).max(1024);
        self.limits.max_partition_bytes = share.min(self.max_partition_bytes);
    }

    /// Starts a fetch for all partitions that are ready.
    pub(super) fn start(&mut self, partitions: &mut Partitions, now: Instant) {
        if self.tasks.len() >= CALLS_MAX {
            return;
        }
        let mut asked = Vec::new();
        for (partition, owned) in partitions.iter_mut() {
            if let Position::At {
                position,
                not_before,
            } = owned.position
                && not_before <= now
                && owned.has_room()
            {
                owned.position = Position::Fetching(position);
                asked.push((partition.clone(), owned.incarnation, position));
            }
        }
        if !asked.is_empty() {
            let transport = self.transport.clone();
            self.tasks.spawn(fetch(transport, self.limits, asked));
        }
    }

    /// Whether another fetch can be started.
    pub(super) fn has_room(&self) -> bool {
        self.tasks.len() < CALLS_MAX
    }

    /// The next answers; for ever pending when nothing is asked. Safe to cancel.
    pub(super) async fn next(&mut self) -> Result<Vec<Answer>, Error> {
        match self.tasks.join_next().await {
            Some(answers) => {
                answers.map_err(|e| Error::new(ErrorKind::MemberFailed).with_source(e))
            }
            None => std::future::pending().await,
        }
    }
}

fn bytes(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

async fn fetch(
    transport: Arc<dyn Transport>,
    limits: FetchLimits,
    asked: Vec<(TopicPartition, u64, FetchPosition)>,
) -> Vec<Answer> {
    let positions = asked.iter().map(|(p, _, at)| (p.clone(), *at)).collect();
    let fetched = transport.fetch(limits, positions).await;
    let mut fetched: HashMap<_, _> = fetched.into_iter().collect();
    let answer = |(partition, incarnation, position): (TopicPartition, u64, FetchPosition)| {
        let result = match fetched.remove(&partition) {
            None => Read::Nothing,
            Some(Ok(fetched)) => Read::Some(fetched),
            Some(Err(error)) => Read::Failed(error),
        };
        Answer {
            partition,
            incarnation,
            position,
            result,
        }
    };
    asked.into_iter().map(answer).collect()
}
