//! One long poll of one partition.

use super::cluster::{Call, Cluster, Purpose};
use super::convert;
use super::failure::{Failure, is_undecodable};
use crate::transport::Fetched;
use crate::{Error, ErrorKind};
use ::rskafka::client::error::Result as RsResult;
use ::rskafka::client::partition::{OffsetAt, PartitionClient};
use ::rskafka::record::RecordAndOffset;
use ottla_types::{Fate, Offset, TopicPartition};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep_until};

pub(super) const FETCH: &str = "Fetch";

/// How much a poll may bring and how long it may wait.
#[derive(Debug, Clone, Copy)]
pub(super) struct PollLimits {
    pub(super) max_wait: Duration,
    pub(super) min_bytes: u32,
    pub(super) max_bytes: u32,
    /// For a single batch that is larger than `max_bytes`.
    pub(super) largest_batch: usize,
}

/// What a broker said.
enum Answer {
    Records(Vec<RecordAndOffset>, Offset),
    /// There is nothing above the position that may be read.
    Nothing,
    /// There is something, but rskafka does not show it.
    Hidden,
}

/// Reads from the position. `None` if there is nothing to read. Failures that pass are retried until
/// the poll's waiting time, but at least the longest backoff, is over.
#[tracing::instrument(level = "debug", skip_all, fields(%partition, position))]
pub(super) async fn poll(
    cluster: &Cluster,
    partition: &TopicPartition,
    position: Offset,
    limits: PollLimits,
) -> Option<Result<Fetched, Error>> {
    let started = Instant::now();
    let settings = &cluster.settings;
    let budget = limits.max_wait.max(settings.retry_backoff_max);
    let attempt = limits.max_wait + settings.request_timeout;
    let call = Call {
        name: FETCH,
        partition,
        purpose: Purpose::Read,
        attempt,
        give_up: started + budget,
        deadline: started + budget + settings.connect_timeout + attempt,
    };
    let answer = cluster
        .run(call, |client| read(client, position, limits))
        .await;
    let error = |kind| {
        Error::new(kind, FETCH)
            .with_partition(partition.clone())
            .with_offset(position)
    };
    match answer {
        Ok(Answer::Records(records, high_watermark)) => {
            metrics::counter!("ottla_client_fetched_records_total").increment(records.len() as u64);
            let set = convert::to_record_set(records, position);
            Some(set.map_or_else(
                || Err(error(ErrorKind::Protocol)),
                |(records, next_offset)| {
                    Ok(Fetched {
                        records,
                        next_offset,
                        leader_epoch: None,
                        topic_id: None,
                        high_watermark,
                        last_stable_offset: None,
                        log_start_offset: None,
                    })
                },
            ))
        }
        Ok(Answer::Nothing) => {
            // Whatever the reason for an early answer, it must not become a hot loop.
            sleep_until(started + limits.max_wait).await;
            None
        }
        Ok(Answer::Hidden) => {
            metrics::counter!("ottla_client_fetch_gaps_total").increment(1);
            Some(Err(error(ErrorKind::Gap)))
        }
        Err(failure) => Some(Err(to_error(failure, partition, position))),
    }
}

/// An answer that rskafka cannot read holds a control batch, a null header value, a codec that it
/// does not have or a bad checksum. It does not say which: only its text would tell.
fn to_error(failure: Failure, partition: &TopicPartition, position: Offset) -> Error {
    let failure = Failure {
        kind: if failure.undecodable {
            ErrorKind::Unsupported
        } else {
            failure.kind
        },
        fate: Fate::NotWritten,
        ..failure
    };
    failure.into_error(FETCH, partition).with_offset(position)
}

async fn read(
    client: Arc<PartitionClient>,
    position: Offset,
    limits: PollLimits,
) -> RsResult<Answer> {
    let wait = i32::try_from(limits.max_wait.as_millis()).unwrap_or(i32::MAX);
    let range = bytes(limits.min_bytes as usize, limits.max_bytes as usize);
    match client.fetch_records(position, range, wait).await {
        Ok((records, high_watermark)) if !records.is_empty() => {
            Ok(Answer::Records(records, high_watermark))
        }
        Ok((_, high_watermark)) if position >= high_watermark => Ok(Answer::Nothing),
        Ok(_) => look_closer(client, position, limits).await,
        Err(e) if is_undecodable(&e) => {
            // A broker gives one batch however small the limit is: what stands before the bad one
            // can be read, and in the end the error's offset is that of the bad one.
            match client.fetch_records(position, bytes(1, 1), 0).await? {
                (records, _) if records.is_empty() => Err(e),
                (records, high_watermark) => Ok(Answer::Records(records, high_watermark)),
            }
        }
        Err(e) => Err(e),
    }
}

/// Nothing was shown below the high watermark: an open transaction, a limit that was too small for a
/// broker that cuts batches, or batches that rskafka hides.
async fn look_closer(
    client: Arc<PartitionClient>,
    position: Offset,
    limits: PollLimits,
) -> RsResult<Answer> {
    // rskafka asks as a reader of committed records, so that this is the last stable offset.
    let last_stable = client.get_offset(OffsetAt::Latest).await?;
    if position >= last_stable {
        return Ok(Answer::Nothing);
    }
    let (records, high_watermark) = client
        .fetch_records(position, bytes(1, limits.largest_batch), 0)
        .await?;
    if records.is_empty() {
        return Ok(Answer::Hidden);
    }
    Ok(Answer::Records(records, high_watermark))
}

/// rskafka's range of bytes excludes its end.
fn bytes(min: usize, max: usize) -> Range<i32> {
    let max = i32::try_from(max)
        .unwrap_or(i32::MAX - 1)
        .clamp(1, i32::MAX - 1);
    let min = i32::try_from(min).unwrap_or(max).clamp(1, max);
    min..max + 1
}
