//! Reads topics back into a [`History`]: what the cluster really holds.

use crate::history::{History, LogRecord};
use ottla_client::transport::{FetchLimits, OffsetSpec};
use ottla_client::{Client, Error, ErrorKind};
use ottla_record_batch::{DecodeError, RecordSet};
use ottla_types::{ConsumedRecord, Offset, TopicPartition, names};
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

const LIMITS: FetchLimits = FetchLimits {
    max_wait: Duration::from_millis(500),
    min_bytes: 1,
    max_partition_bytes: 1 << 20,
    max_bytes: 16 << 20,
};

/// Adds every record that `topic` holds now to `history`. A record's identity is its `message_id`
/// header, else `topic-partition-offset`.
///
/// # Errors
/// The client's, or `TimedOut` when the end is not reached within `within`.
pub async fn read_into(
    history: &mut History,
    client: &Client,
    topic: &str,
    within: Duration,
) -> Result<(), Error> {
    let deadline = Instant::now() + within;
    history.topics.entry(topic.to_owned()).or_default();
    let mut open = bounds(client, topic, within).await?;
    loop {
        open.retain(|(_, from, to)| from < to);
        if open.is_empty() {
            return Ok(());
        }
        let positions = open
            .iter()
            .map(|(place, from, _)| (place.clone(), *from))
            .collect();
        let answers = timeout_at(deadline, client.transport().fetch(LIMITS, positions)).await;
        let late = |_| Error::new(ErrorKind::TimedOut, "read a topic").with_topic(topic);
        for (place, answer) in answers.map_err(late)? {
            let Some(position) = open.iter_mut().find(|(known, _, _)| *known == place) else {
                continue;
            };
            let fetched = match answer {
                Ok(fetched) => fetched,
                Err(error) if error.is_retriable() && Instant::now() < deadline => continue,
                Err(error) => return Err(error),
            };
            let added = add(history, &place, position.1, &fetched.records);
            added.map_err(|error| {
                let unreadable = Error::new(ErrorKind::Protocol, "read a topic");
                unreadable.with_partition(place.clone()).with_source(error)
            })?;
            position.1 = position.1.max(fetched.next_offset);
        }
    }
}

/// The first and the next offset of each partition.
async fn bounds(
    client: &Client,
    topic: &str,
    within: Duration,
) -> Result<Vec<(TopicPartition, Offset, Offset)>, Error> {
    let metadata = client.refresh_topic(topic).await?;
    let ids = metadata.partitions.iter().map(|partition| partition.id);
    let places: Vec<_> = ids
        .map(|id| TopicPartition::new(metadata.name.clone(), id))
        .collect();
    let wanted = |spec| places.iter().map(|place| (place.clone(), spec)).collect();
    let first = client
        .transport()
        .list_offsets(within, wanted(OffsetSpec::Earliest))
        .await;
    let next = client
        .transport()
        .list_offsets(within, wanted(OffsetSpec::Latest))
        .await;
    let both = first.into_iter().zip(next);
    both.map(|((place, first), (_, next))| Ok((place, first?, next?)))
        .collect()
}

fn add(
    history: &mut History,
    place: &TopicPartition,
    from: Offset,
    records: &RecordSet,
) -> Result<(), DecodeError> {
    for batch in records.batches() {
        for record in batch?.records() {
            let record = record?.into_consumed(place.topic.clone(), place.partition)?;
            if record.offset >= from {
                history.add_record(&place.topic, place.partition, log_record(&record));
            }
        }
    }
    Ok(())
}

/// A record as the checker wants it.
pub fn log_record(record: &ConsumedRecord) -> LogRecord {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let headers = record.headers.iter().map(|header| {
        let value = header.value.as_deref().map(text).unwrap_or_default();
        (header.key_str().into_owned(), value)
    });
    let place = || format!("{}-{}-{}", record.topic, record.partition, record.offset);
    LogRecord {
        offset: record.offset,
        timestamp_ms: record.timestamp_ms,
        key: record.key.as_deref().map(text),
        id: record
            .headers
            .last_str(names::MESSAGE_ID)
            .map_or_else(place, str::to_owned),
        headers: headers.collect(),
    }
}
