//! Reads records into the lanes.
//!
//! Each partition is in at most one fetch; a few fetches for different partitions may be out at once,
//! so that a busy partition does not wait for the long poll of the quiet ones. Partitions whose lane
//! is full are left out, which bounds the memory. An answer counts only for the assignment and
//! the position that it was asked for (C7, C24).

use super::partition::{Partitions, Position};
use crate::lane::Chunk;
use crate::{ConsumerConfig, Error, ErrorKind};
use ottla_client::transport::{FetchLimits, FetchPosition, Fetched, Transport};
use ottla_record_batch::DecodeError;
use ottla_types::{Offset, TopicPartition};
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
    Some {
        chunk: Chunk,
        /// Where to read on.
        next: FetchPosition,
        high_watermark: Offset,
        /// Why reading ended before the end of what came.
        unreadable: Option<DecodeError>,
    },
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
                max_bytes: config.fetch_max_bytes,
            },
            max_partition_bytes: config.max_partition_fetch_bytes,
        }
    }

    /// Bounds one partition's part of an answer to its share of the buffer.
    pub(super) fn set_share(&mut self, bytes: usize) {
        let share = u32::try_from(bytes).unwrap_or(u32::MAX).max(1024);
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
            Some(Ok(fetched)) => read(&partition, position, &fetched),
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

/// Decodes what is at or above `position`.
fn read(partition: &TopicPartition, position: FetchPosition, fetched: &Fetched) -> Read {
    let mut chunk = Chunk::at(position.offset);
    let unreadable = decode(partition, position.offset, fetched, &mut chunk).err();
    let mut next = fetched.next_position();
    if unreadable.is_none() {
        next.offset = next.offset.max(chunk.next_offset);
        chunk.next_offset = next.offset;
    } else {
        next.offset = chunk.next_offset;
        let last = chunk.records.last().and_then(|last| last.leader_epoch);
        next.leader_epoch = last.or(position.leader_epoch);
    }
    Read::Some {
        chunk,
        next,
        high_watermark: fetched.high_watermark,
        unreadable,
    }
}

fn decode(
    partition: &TopicPartition,
    position: Offset,
    fetched: &Fetched,
    chunk: &mut Chunk,
) -> Result<(), DecodeError> {
    for batch in fetched.records.batches() {
        let batch = batch?;
        if batch.last_offset() < position {
            continue;
        }
        // Control batches are markers of transactions, not records.
        if !batch.is_control() {
            for record in batch.records() {
                let record = record?;
                if record.offset >= position {
                    let topic = partition.topic.clone();
                    chunk.push(record.into_consumed(topic, partition.partition)?);
                }
            }
        }
        chunk.next_offset = chunk.next_offset.max(batch.last_offset().saturating_add(1));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use ottla_record_batch::{BatchBuilder, RecordSet, RecordSetBuilder};
    use ottla_types::{Headers, TimestampType};

    fn records(offsets: &[i64]) -> RecordSet {
        let mut set = RecordSetBuilder::new();
        for offset in offsets {
            let create = TimestampType::CreateTime;
            set.push(*offset, 1, create, None, Some(b"v"), &Headers::new())
                .unwrap();
        }
        set.finish()
    }

    fn read_at(position: Offset, records: RecordSet, next_offset: Offset) -> (Chunk, bool) {
        let fetched = Fetched {
            records,
            next_offset,
            leader_epoch: Some(3),
            topic_id: None,
            high_watermark: 100,
            last_stable_offset: None,
            log_start_offset: None,
        };
        match read(&TopicPartition::new("t", 0), position.into(), &fetched) {
            Read::Some {
                chunk, unreadable, ..
            } => (chunk, unreadable.is_some()),
            _ => panic!("something was read"),
        }
    }

    fn offsets(chunk: &Chunk) -> Vec<i64> {
        chunk.records.iter().map(|r| r.offset).collect()
    }

    #[test]
    fn records_below_the_position_are_left_out() {
        let (chunk, unreadable) = read_at(7, records(&[5, 6, 7, 9]), 10);
        assert_eq!(offsets(&chunk), [7, 9]);
        assert_eq!((chunk.next_offset, unreadable), (10, false));
        assert!(chunk.bytes > 0);
    }

    #[test]
    fn what_holds_no_records_still_moves_the_position() {
        let (chunk, _) = read_at(7, RecordSet::default(), 12);
        assert_eq!((offsets(&chunk), chunk.next_offset), (vec![], 12));
        let (chunk, _) = read_at(7, records(&[7]), 12);
        assert_eq!((offsets(&chunk), chunk.next_offset), (vec![7], 12));
    }

    #[test]
    fn trap_c4_neither_an_end_nor_an_error_moves_the_position() {
        let (chunk, unreadable) = read_at(7, RecordSet::default(), 7);
        assert_eq!((chunk.next_offset, unreadable), (7, false));

        let mut batch = BatchBuilder::new(1 << 10);
        batch
            .try_append(1, None, Some(b"v"), &Headers::new())
            .unwrap();
        let good = batch.finish().bytes().to_vec();
        let mut bytes = good.clone();
        bytes.extend_from_slice(&good);
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        let (chunk, unreadable) = read_at(0, RecordSet::from(bytes::Bytes::from(bytes)), 2);
        assert_eq!(
            (offsets(&chunk), chunk.next_offset, unreadable),
            (vec![0], 1, true)
        );
    }
}
