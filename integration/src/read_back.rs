//! Reads topics back: what the cluster really holds.

use crate::history::{History, LogRecord};
use ottla::client::transport::{FetchLimits, OffsetSpec};
use ottla::client::{Client, Error, ErrorKind};
use ottla::types::{ConsumedRecord, Offset, TopicPartition, names};
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

const LIMITS: FetchLimits = FetchLimits {
    max_wait: Duration::from_millis(500),
    min_bytes: 1,
    max_partition_bytes: 1024 * 1024,
    max_bytes: 16 * 1024 * 1024,
    read_ahead_bytes: 1 << 20,
};

/// All records that `topic` holds now, by partition and offset.
///
/// # Errors
/// The client's, or `TimedOut` when the end is not reached within `deadline`.
pub async fn read_topic(
    client: &Client,
    topic: &str,
    deadline: Duration,
) -> Result<Vec<ConsumedRecord>, Error> {
    let by = Instant::now() + deadline;
    let mut open = bounds(client, topic, deadline).await?;
    let mut records = Vec::new();
    open.retain(|(_, from, to)| from < to);
    while !open.is_empty() {
        let positions = open
            .iter()
            .map(|(p, from, _)| (p.clone(), (*from).into()))
            .collect();
        let answers = timeout_at(by, client.transport().fetch(LIMITS, positions))
            .await
            .map_err(|_| Error::new(ErrorKind::TimedOut, "read a topic").with_topic(topic))?;
        for (partition, answer) in answers {
            let fetched = match answer {
                Ok(fetched) => fetched,
                Err(e) if e.is_retriable() && Instant::now() < by => continue,
                Err(e) => return Err(e),
            };
            let Some(position) = open.iter_mut().find(|(p, _, _)| *p == partition) else {
                continue;
            };
            append(&mut records, &partition, position.1, &fetched.records)?;
            position.1 = position.1.max(fetched.next_offset);
        }
        open.retain(|(_, from, to)| from < to);
    }
    records.sort_by_key(|r| (r.partition, r.offset));
    Ok(records)
}

/// Adds every record that `topic` holds now to `history`.
///
/// # Errors
/// As [`read_topic`].
pub async fn read_into(
    history: &mut History,
    client: &Client,
    topic: &str,
    within: Duration,
) -> Result<(), Error> {
    for record in read_topic(client, topic, within).await? {
        history.add_record(topic, record.partition, log_record(&record));
    }
    Ok(())
}

/// A record as the checker wants it. Its identity is its `message_id` header, else
/// `topic-partition-offset`.
pub fn log_record(record: &ConsumedRecord) -> LogRecord {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let headers = record.headers.iter().map(|header| {
        let value = header.value.as_deref().map(text).unwrap_or_default();
        (header.key_str().into_owned(), value)
    });
    LogRecord {
        offset: record.offset,
        timestamp_ms: record.timestamp_ms,
        key: record.key.as_deref().map(text),
        value_crc: record.value.as_deref().map(crc32fast::hash),
        id: record_id(record),
        headers: headers.collect(),
    }
}

/// The record's `message_id` header, else `topic-partition-offset`.
pub fn record_id(record: &ConsumedRecord) -> String {
    let place = || format!("{}-{}-{}", record.topic, record.partition, record.offset);
    record
        .headers
        .last_str(names::MESSAGE_ID)
        .map_or_else(place, str::to_owned)
}

/// The first and the next offset of each partition of `topic`.
///
/// # Errors
/// The client's.
pub async fn bounds(
    client: &Client,
    topic: &str,
    timeout: Duration,
) -> Result<Vec<(TopicPartition, Offset, Offset)>, Error> {
    let metadata = client.refresh_topic(topic).await?;
    let partitions: Vec<_> = metadata
        .partitions
        .iter()
        .map(|p| TopicPartition::new(metadata.name.clone(), p.id))
        .collect();
    let wanted = |spec| partitions.iter().map(|p| (p.clone(), spec)).collect();
    let earliest = client
        .transport()
        .list_offsets(timeout, wanted(OffsetSpec::Earliest))
        .await;
    let latest = client
        .transport()
        .list_offsets(timeout, wanted(OffsetSpec::Latest))
        .await;
    earliest
        .into_iter()
        .zip(latest)
        .map(|((partition, first), (_, next))| Ok((partition, first?.offset, next?.offset)))
        .collect()
}

fn append(
    records: &mut Vec<ConsumedRecord>,
    partition: &TopicPartition,
    from: Offset,
    set: &ottla::record_batch::RecordSet,
) -> Result<(), Error> {
    let unreadable = |e: ottla::record_batch::DecodeError| {
        Error::new(ErrorKind::Protocol, "Fetch")
            .with_partition(partition.clone())
            .with_source(e)
    };
    for batch in set.batches() {
        for record in batch.map_err(unreadable)?.records() {
            let record = record.map_err(unreadable)?;
            if record.offset >= from {
                records.push(
                    record
                        .into_consumed(partition.topic.clone(), partition.partition)
                        .map_err(unreadable)?,
                );
            }
        }
    }
    Ok(())
}
