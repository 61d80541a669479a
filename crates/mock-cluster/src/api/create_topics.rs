//! CreateTopics: any broker takes it, as in KRaft, where it is forwarded to the controller.

use std::collections::BTreeMap;

use kafka_protocol::messages::create_topics_request::CreatableTopic;
use kafka_protocol::messages::create_topics_response::{
    CreatableTopicConfigs, CreatableTopicResult,
};
use kafka_protocol::messages::{CreateTopicsRequest, CreateTopicsResponse};

use super::shape::{BOOL, Field, I16, I32, I32S, TEXT, structs};
use super::{Api, Call, Names, Outcome, Range, text};
use crate::shared::Data;
use crate::topics::NewTopic;
use crate::{ApiKey, codes};

/// Where a setting comes from: the topic itself.
const DYNAMIC_TOPIC_CONFIG: i8 = 1;

pub(super) struct CreateTopics;

impl Api for CreateTopics {
    const KEY: ApiKey = ApiKey::CreateTopics;
    const VERSIONS: Range = Range { min: 2, max: 7 };
    const FLEXIBLE: i16 = 5;
    const SHAPE: &'static [Field] = &[
        structs(&[
            TEXT,
            I32,
            I16,
            structs(&[I32, I32S]),
            structs(&[TEXT, TEXT]),
        ]),
        I32,
        BOOL,
    ];
    type Request = CreateTopicsRequest;
    type Response = CreateTopicsResponse;

    fn names(request: &Self::Request) -> Names {
        Names::topics(request.topics.iter().map(|topic| topic.name.as_str()))
    }

    fn refuse(request: &Self::Request, _: i16, code: i16) -> Option<Self::Response> {
        let refused = request.topics.iter().map(|topic| refused(topic, code));
        Some(CreateTopicsResponse::default().with_topics(refused.collect()))
    }

    async fn handle(call: &Call<'_>, request: Self::Request) -> Outcome<Self::Response> {
        let mut data = call.shared.data();
        let mut named: BTreeMap<&str, usize> = BTreeMap::new();
        for topic in &request.topics {
            *named.entry(topic.name.as_str()).or_default() += 1;
        }
        let results = request.topics.iter().map(|topic| {
            let named_twice = named
                .get(topic.name.as_str())
                .is_some_and(|count| *count > 1);
            let created = if named_twice {
                Err(codes::INVALID_REQUEST)
            } else {
                data.topics.create(new_topic(topic), request.validate_only)
            };
            match created {
                Ok(()) => created_result(&data, topic, call.version),
                Err(code) => refused(topic, code),
            }
        });
        Outcome::Answer(CreateTopicsResponse::default().with_topics(results.collect()))
    }
}

/// A manual assignment only gives the number of partitions; the mock places them itself.
fn new_topic(topic: &CreatableTopic) -> NewTopic {
    let assigned = i32::try_from(topic.assignments.len()).unwrap_or(i32::MAX);
    let configs: BTreeMap<String, String> = topic
        .configs
        .iter()
        .filter_map(|config| Some((config.name.to_string(), config.value.as_ref()?.to_string())))
        .collect();
    NewTopic {
        name: topic.name.to_string(),
        partitions: if assigned > 0 {
            assigned
        } else {
            topic.num_partitions
        },
        replication: i32::from(topic.replication_factor),
        configs,
    }
}

fn refused(topic: &CreatableTopic, code: i16) -> CreatableTopicResult {
    let message = match code {
        codes::TOPIC_ALREADY_EXISTS => Some("the topic exists already"),
        codes::INVALID_TOPIC_EXCEPTION => Some("the topic name is not legal"),
        codes::INVALID_PARTITIONS => Some("the number of partitions is not allowed"),
        codes::INVALID_REPLICATION_FACTOR => Some("the replication factor is not 1 to the brokers"),
        codes::INVALID_CONFIG => Some("a setting has a value that is not allowed"),
        codes::INVALID_REQUEST => Some("the topic is named twice"),
        _ => None,
    };
    CreatableTopicResult::default()
        .with_name(topic.name.clone())
        .with_error_code(code)
        .with_error_message(message.map(text))
}

fn created_result(data: &Data, topic: &CreatableTopic, version: i16) -> CreatableTopicResult {
    let result = CreatableTopicResult::default()
        .with_name(topic.name.clone())
        .with_error_message(None);
    let Some(created) = data.topics.by_name.get(topic.name.as_str()) else {
        return result;
    };
    if version < 5 {
        return result;
    }
    let configs = created.configs.iter().map(|(name, value)| {
        CreatableTopicConfigs::default()
            .with_name(text(name))
            .with_value(Some(text(value)))
            .with_config_source(DYNAMIC_TOPIC_CONFIG)
    });
    let result = result
        .with_num_partitions(i32::try_from(created.partitions.len()).unwrap_or(i32::MAX))
        .with_replication_factor(i16::try_from(created.replication).unwrap_or(i16::MAX))
        .with_configs(Some(configs.collect()));
    if version >= 7 {
        result.with_topic_id(created.id)
    } else {
        result
    }
}
