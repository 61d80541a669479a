//! Fetch: whole batches from the asked offsets; waits for `min_bytes` up to `max_wait`, woken by
//! appends and by changes of leaders.
//!
//! There are no sessions (KIP-227): the session id is always 0, which tells a client to name its
//! partitions in every request. The isolation level is ignored: nothing is ever uncommitted here.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kafka_protocol::messages::fetch_request::FetchPartition;
use kafka_protocol::messages::fetch_response::{FetchableTopicResponse, PartitionData};
use kafka_protocol::messages::{FetchRequest, FetchResponse};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use super::shape::{Field, I8, I32, I32S, I64, TEXT, structs};
use super::{Api, Call, Names, Outcome, Versions};
use crate::shared::Data;
use crate::topics::Topics;
use crate::{ApiKey, codes};

pub(super) struct Fetch;

impl Api for Fetch {
    const KEY: ApiKey = ApiKey::Fetch;
    const VERSIONS: Versions = Versions { min: 4, max: 12 };
    const FLEXIBLE: i16 = 12;
    const SHAPE: &'static [Field] = &[
        I32,
        I32,
        I32,
        I32,
        I8,
        I32.from(7),
        I32.from(7),
        structs(&[
            TEXT,
            structs(&[I32, I32.from(9), I64, I32.from(12), I64.from(5), I32]),
        ]),
        structs(&[TEXT, I32S]).from(7),
        TEXT.from(11),
    ];
    type Request = FetchRequest;
    type Response = FetchResponse;

    fn names(request: &Self::Request) -> Names {
        Names::topics(request.topics.iter().map(|topic| topic.topic.as_str()))
    }

    fn refuse(request: &Self::Request, _: i16, code: i16) -> Option<Self::Response> {
        Some(answer_each(request, |_, _| refused(code)))
    }

    async fn handle(call: &Call<'_>, request: Self::Request) -> Outcome<Self::Response> {
        if request.session_id != 0 {
            let code = codes::FETCH_SESSION_ID_NOT_FOUND;
            return Outcome::Answer(FetchResponse::default().with_error_code(code));
        }
        let wait = u64::try_from(request.max_wait_ms).unwrap_or_default();
        let deadline = Instant::now() + Duration::from_millis(wait);
        let changed = Arc::new(Notify::new());
        loop {
            let now_or_never = request.min_bytes <= 0 || Instant::now() >= deadline;
            {
                let mut data = call.shared.data();
                let ready = now_or_never || is_ready(&data, call.broker, &request);
                if ready {
                    return Outcome::Answer(read(&mut data, call.broker, &request));
                }
                register(&mut data, &request, &changed);
            }
            let _ = timeout_at(deadline, changed.notified()).await;
        }
    }
}

/// Whether there is enough to send, or an error to tell.
fn is_ready(data: &Data, broker: i32, request: &FetchRequest) -> bool {
    let enough = usize::try_from(request.min_bytes).unwrap_or_default();
    let mut available = 0;
    for topic in &request.topics {
        for asked in &topic.partitions {
            let Ok(partition) = check(data, broker, &topic.topic, asked) else {
                return true;
            };
            available += partition.log.available(asked.fetch_offset, enough);
            if available >= enough {
                return true;
            }
        }
    }
    request.topics.is_empty()
}

fn register(data: &mut Data, request: &FetchRequest, changed: &Arc<Notify>) {
    for topic in &request.topics {
        let Some(known) = data.topics.by_name.get_mut(topic.topic.as_str()) else {
            continue;
        };
        for asked in &topic.partitions {
            if let Some(partition) = known.partition_mut(asked.partition) {
                partition.wake_on_change(changed);
            }
        }
    }
}

fn check<'a>(
    data: &'a Data,
    broker: i32,
    topic: &str,
    asked: &FetchPartition,
) -> Result<&'a crate::topics::Partition, i16> {
    let topic = data
        .topics
        .by_name
        .get(topic)
        .ok_or(codes::UNKNOWN_TOPIC_OR_PARTITION)?;
    let partition = topic
        .partition(asked.partition)
        .ok_or(codes::UNKNOWN_TOPIC_OR_PARTITION)?;
    if partition.leader != Some(broker) {
        return Err(codes::NOT_LEADER_OR_FOLLOWER);
    }
    Topics::check_epoch(partition, asked.current_leader_epoch)?;
    let readable = partition.log.start()..=partition.log.high_watermark();
    if !readable.contains(&asked.fetch_offset) {
        return Err(codes::OFFSET_OUT_OF_RANGE);
    }
    Ok(partition)
}

fn read(data: &mut Data, broker: i32, request: &FetchRequest) -> FetchResponse {
    let mut left = usize::try_from(request.max_bytes).unwrap_or_default();
    let mut is_first = true;
    answer_each(request, |topic, asked| {
        let partition = match check(data, broker, topic, asked) {
            Ok(partition) => partition,
            Err(code) => return refused(code),
        };
        let limit = usize::try_from(asked.partition_max_bytes)
            .unwrap_or_default()
            .min(left);
        let records = match partition.log.read(asked.fetch_offset, limit, is_first) {
            Ok(records) => records,
            Err(code) => return refused(code),
        };
        // KIP-74: the first batch of a response comes whatever its size.
        is_first &= records.is_empty();
        left = left.saturating_sub(records.len());
        let none_aborted = (request.isolation_level == 1).then(Vec::new);
        PartitionData::default()
            .with_high_watermark(partition.log.high_watermark())
            .with_last_stable_offset(partition.log.high_watermark())
            .with_log_start_offset(partition.log.start())
            .with_aborted_transactions(none_aborted)
            .with_records(Some(records))
    })
}

fn refused(code: i16) -> PartitionData {
    PartitionData::default()
        .with_error_code(code)
        .with_high_watermark(-1)
        .with_last_stable_offset(-1)
        .with_log_start_offset(-1)
        .with_aborted_transactions(None)
        .with_records(Some(Bytes::new()))
}

fn answer_each(
    request: &FetchRequest,
    mut answer: impl FnMut(&str, &FetchPartition) -> PartitionData,
) -> FetchResponse {
    let topics = request.topics.iter().map(|topic| {
        let partitions = topic
            .partitions
            .iter()
            .map(|asked| answer(&topic.topic, asked).with_partition_index(asked.partition));
        FetchableTopicResponse::default()
            .with_topic(topic.topic.clone())
            .with_partitions(partitions.collect())
    });
    FetchResponse::default().with_responses(topics.collect())
}
