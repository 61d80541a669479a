//! Fetch: whole batches from the asked offsets; waits for `min_bytes` up to `max_wait`, woken by
//! appends, markers and changes of leaders.
//!
//! What is read where: [`read`]; sessions: [`crate::fetch_session`].

mod read;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kafka_protocol::messages::fetch_response::{
    FetchableTopicResponse, NodeEndpoint, PartitionData,
};
use kafka_protocol::messages::{BrokerId, FetchRequest, FetchResponse};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};
use uuid::Uuid;

use super::shape::{Field, I8, I32, I32S, I64, TEXT, UUID, structs};
use super::{Api, Call, Names, Outcome, Range, text};
use crate::fetch_session::{Plan, Step, Told, TopicKey, Wanted};
use crate::shared::{Data, HOST};
use crate::{ApiKey, codes};
use read::Reader;

/// The first version that names topics by id.
const IDS_FROM: i16 = 13;
/// The first version with room for a code of the whole answer.
const CODE_FROM: i16 = 7;
/// The first version that says where the leader is (KIP-951).
const HINTS_FROM: i16 = 16;

pub(super) struct Fetch;

impl Api for Fetch {
    const KEY: ApiKey = ApiKey::Fetch;
    const VERSIONS: Range = Range { min: 4, max: 18 };
    const FLEXIBLE: i16 = 12;
    const SHAPE: &'static [Field] = &[
        I32.to(14),
        I32,
        I32,
        I32,
        I8,
        I32.from(7),
        I32.from(7),
        structs(&[
            TEXT.to(12),
            UUID.from(13),
            structs(&[I32, I32.from(9), I64, I32.from(12), I64.from(5), I32]),
        ]),
        structs(&[TEXT.to(12), UUID.from(13), I32S]).from(7),
        TEXT.from(11),
    ];
    type Request = FetchRequest;
    type Response = FetchResponse;

    fn names(request: &Self::Request) -> Names {
        Names::topics(request.topics.iter().map(|topic| topic.topic.as_str()))
            .and_topic_ids(request.topics.iter().map(|topic| topic.topic_id))
            .and_fetch_session(request.session_id)
    }

    /// The code is put on each partition; a step of a session that names none is refused whole.
    fn refuse(request: &Self::Request, version: i16, code: i16) -> Option<Self::Response> {
        if request.topics.is_empty() && version >= CODE_FROM {
            return Some(FetchResponse::default().with_error_code(code));
        }
        let answers = wanted(request).into_iter();
        let answers = answers.map(|wanted| (wanted, refused(code)));
        Some(assemble(answers.collect(), version))
    }

    async fn handle(call: &Call<'_>, request: Self::Request) -> Outcome<Self::Response> {
        let step = Step {
            id: request.session_id,
            epoch: request.session_epoch,
            uses_ids: call.version >= IDS_FROM,
            wanted: wanted(&request),
            forgotten: forgotten(&request),
        };
        let taken = call.shared.data().fetch_sessions(call.broker).step(step);
        let plan = match taken {
            Ok(plan) => plan,
            Err(code) => return Outcome::Answer(FetchResponse::default().with_error_code(code)),
        };
        if call.is_throttled {
            let empty = FetchResponse::default().with_session_id(plan.session);
            return Outcome::Answer(empty);
        }
        let reader = Reader::new(call, &request);
        let wait = u64::try_from(request.max_wait_ms).unwrap_or_default();
        let deadline = Instant::now() + Duration::from_millis(wait);
        let changed = Arc::new(Notify::new());
        loop {
            let now_or_never = request.min_bytes <= 0 || Instant::now() >= deadline;
            {
                let mut data = call.shared.data();
                if now_or_never || reader.is_ready(&data, &plan.wanted) {
                    return Outcome::Answer(answer(&mut data, call, &reader, plan));
                }
                register(&mut data, &plan.wanted, &changed);
            }
            let _ = timeout_at(deadline, changed.notified()).await;
        }
    }
}

fn key(name: &str, id: Uuid) -> TopicKey {
    TopicKey {
        name: name.into(),
        id,
    }
}

fn wanted(request: &FetchRequest) -> Vec<Wanted> {
    let mut all = Vec::new();
    for topic in &request.topics {
        let topic_key = key(&topic.topic, topic.topic_id);
        all.extend(topic.partitions.iter().map(|asked| Wanted {
            topic: topic_key.clone(),
            index: asked.partition,
            offset: asked.fetch_offset,
            leader_epoch: asked.current_leader_epoch,
            last_fetched_epoch: asked.last_fetched_epoch,
            max_bytes: asked.partition_max_bytes,
        }));
    }
    all
}

fn forgotten(request: &FetchRequest) -> Vec<(TopicKey, i32)> {
    let mut all = Vec::new();
    for topic in &request.forgotten_topics_data {
        let topic_key = key(&topic.topic, topic.topic_id);
        let partitions = topic.partitions.iter();
        all.extend(partitions.map(|index| (topic_key.clone(), *index)));
    }
    all
}

fn register(data: &mut Data, wanted: &[Wanted], changed: &Arc<Notify>) {
    for wanted in wanted {
        if let Some(name) = read::name_of(data, &wanted.topic).map(str::to_owned)
            && let Some(partition) = data.topics.partition_mut(&name, wanted.index)
        {
            partition.wake_on_change(changed);
        }
    }
}

fn answer(data: &mut Data, call: &Call<'_>, reader: &Reader, plan: Plan) -> FetchResponse {
    let answers = reader.read_all(data, &plan.wanted);
    let mut leaders: Vec<i32> = answers
        .iter()
        .map(|answer| answer.current_leader.leader_id.0)
        .filter(|leader| *leader >= 0)
        .collect();
    leaders.sort_unstable();
    leaders.dedup();
    let endpoints = leaders.into_iter().map(|leader| {
        NodeEndpoint::default()
            .with_node_id(BrokerId(leader))
            .with_host(text(HOST))
            .with_port(data.port(leader))
    });
    let endpoints = endpoints.collect();
    let sessions = data.fetch_sessions(call.broker);
    let told = plan
        .wanted
        .iter()
        .zip(answers)
        .filter_map(|(wanted, answer)| {
            let is_told = sessions.tells(&plan, wanted, told(&answer));
            is_told.then(|| (wanted.clone(), answer))
        });
    let told = told.collect();
    assemble(told, call.version)
        .with_session_id(plan.session)
        .with_node_endpoints(endpoints)
}

fn told(answer: &PartitionData) -> Told {
    let has_records = answer.records.as_ref().is_some_and(|all| !all.is_empty());
    let has_failed = answer.error_code != codes::NONE;
    let points_elsewhere =
        answer.preferred_read_replica.0 >= 0 || answer.diverging_epoch.end_offset >= 0;
    Told {
        has_news: has_records || has_failed || points_elsewhere,
        marks: (!has_failed).then_some((answer.high_watermark, answer.log_start_offset)),
    }
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

/// Partitions of one topic that follow on each other share an entry.
fn assemble(answers: Vec<(Wanted, PartitionData)>, version: i16) -> FetchResponse {
    let mut topics: Vec<FetchableTopicResponse> = Vec::new();
    let mut last: Option<TopicKey> = None;
    for (wanted, data) in answers {
        let data = data.with_partition_index(wanted.index);
        match topics.last_mut() {
            Some(topic) if last.as_ref() == Some(&wanted.topic) => topic.partitions.push(data),
            _ => {
                let topic = FetchableTopicResponse::default().with_partitions(vec![data]);
                topics.push(if version >= IDS_FROM {
                    topic.with_topic_id(wanted.topic.id)
                } else {
                    topic.with_topic(text(&wanted.topic.name).into())
                });
                last = Some(wanted.topic);
            }
        }
    }
    FetchResponse::default().with_responses(topics)
}
