//! ConsumerGroupHeartbeat (KIP-848): everything that a member of a consumer group says.

use kafka_protocol::messages::consumer_group_heartbeat_response::{Assignment, TopicPartitions};
use kafka_protocol::messages::{ConsumerGroupHeartbeatRequest, ConsumerGroupHeartbeatResponse};
use std::collections::BTreeMap;
use uuid::Uuid;

use super::shape::{Field, I32, I32S, TEXT, TEXTS, UUID, structs};
use super::{Api, Call, Names, Outcome, Range, owned, text};
use crate::consumer_group::{Beaten, Heartbeat, Set, TopicView};
use crate::topics::Topics;
use crate::{ApiKey, codes};

pub(super) struct ConsumerGroupHeartbeat;

impl Api for ConsumerGroupHeartbeat {
    const KEY: ApiKey = ApiKey::ConsumerGroupHeartbeat;
    const VERSIONS: Range = Range { min: 0, max: 1 };
    const FLEXIBLE: i16 = 0;
    const SHAPE: &'static [Field] = &[
        TEXT,
        TEXT,
        I32,
        TEXT,
        TEXT,
        I32,
        TEXTS,
        TEXT.from(1),
        TEXT,
        structs(&[UUID, I32S]),
    ];
    type Request = ConsumerGroupHeartbeatRequest;
    type Response = ConsumerGroupHeartbeatResponse;

    fn names(request: &Self::Request) -> Names {
        let topics = request.subscribed_topic_names.iter().flatten();
        Names::group(&request.group_id).and_topics(topics.map(|topic| topic.as_str()))
    }

    fn refuse(_: &Self::Request, _: i16, code: i16) -> Option<Self::Response> {
        Some(ConsumerGroupHeartbeatResponse::default().with_error_code(code))
    }

    async fn handle(call: &Call<'_>, request: Self::Request) -> Outcome<Self::Response> {
        let answer = ConsumerGroupHeartbeatResponse::default();
        if !call.shared.config.versions.has_consumer_groups {
            return Outcome::Answer(answer.with_error_code(codes::UNSUPPORTED_VERSION));
        }
        let group_id = request.group_id.to_string();
        // From version 1 on the member makes its id.
        if request.member_id.is_empty() && call.version >= 1 {
            return Outcome::Answer(answer.with_error_code(codes::INVALID_REQUEST));
        }
        let beat = Heartbeat {
            client_id: call.client_id.to_owned(),
            client_host: format!("/{}", call.host),
            ..read(request)
        };
        let now = call.shared.now_ms();
        let mut data = call.shared.data();
        let views = views(&data.topics);
        let beaten = data
            .group(call.broker, &group_id)
            .and_then(|group| group.consumer_heartbeat(beat, &views, now));
        call.shared.timer.notify_one();
        Outcome::Answer(match beaten {
            Ok(beaten) => write(beaten),
            Err(code) => answer
                .with_error_code(code)
                .with_error_message(message(code).map(text)),
        })
    }
}

/// What Kafka says about a refusal that a user has to understand.
fn message(code: i16) -> Option<&'static str> {
    let is_pattern = code == codes::INVALID_REGULAR_EXPRESSION;
    is_pattern.then_some("SubscribedTopicRegex is not a valid regular expression")
}

fn views(topics: &Topics) -> Vec<TopicView> {
    let each = topics.by_name.iter().map(|(name, topic)| TopicView {
        name: name.clone(),
        id: topic.id,
        partitions: i32::try_from(topic.partitions.len()).unwrap_or(i32::MAX),
    });
    each.collect()
}

fn read(request: ConsumerGroupHeartbeatRequest) -> Heartbeat {
    let names = request.subscribed_topic_names;
    let partitions = request.topic_partitions.map(|topics| {
        let each = topics.into_iter().flat_map(|topic| {
            let id = topic.topic_id;
            topic.partitions.into_iter().map(move |p| (id, p))
        });
        each.collect::<Set>()
    });
    Heartbeat {
        member_id: request.member_id.to_string(),
        epoch: request.member_epoch,
        instance_id: owned(request.instance_id.as_ref()),
        // -1 is unchanged.
        rebalance_ms: u64::try_from(request.rebalance_timeout_ms).ok(),
        topics: names.map(|names| names.iter().map(|name| name.to_string()).collect()),
        pattern: owned(request.subscribed_topic_regex.as_ref()),
        assignor: owned(request.server_assignor.as_ref()),
        owned: partitions,
        client_id: String::new(),
        client_host: String::new(),
        candidate_id: Uuid::now_v7().to_string(),
    }
}

fn write(beaten: Beaten) -> ConsumerGroupHeartbeatResponse {
    let assignment = beaten.assignment.map(|set| {
        let mut topics: BTreeMap<Uuid, Vec<i32>> = BTreeMap::new();
        for (id, partition) in set {
            topics.entry(id).or_default().push(partition);
        }
        let topics = topics.into_iter().map(|(id, partitions)| {
            TopicPartitions::default()
                .with_topic_id(id)
                .with_partitions(partitions)
        });
        Assignment::default().with_topic_partitions(topics.collect())
    });
    ConsumerGroupHeartbeatResponse::default()
        .with_member_id(Some(text(&beaten.member_id)))
        .with_member_epoch(beaten.epoch)
        .with_heartbeat_interval_ms(beaten.interval_ms)
        .with_assignment(assignment)
}
