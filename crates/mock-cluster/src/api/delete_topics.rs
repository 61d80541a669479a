//! DeleteTopics: by name, from version 6 on by id too. Committed offsets go with the topic.

use kafka_protocol::messages::delete_topics_response::DeletableTopicResult;
use kafka_protocol::messages::{DeleteTopicsRequest, DeleteTopicsResponse, TopicName};
use uuid::Uuid;

use super::shape::{Field, I32, TEXT, TEXTS, UUID, structs};
use super::{Api, Call, Names, Outcome, Range, text};
use crate::{ApiKey, codes};

pub(super) struct DeleteTopics;

impl Api for DeleteTopics {
    const KEY: ApiKey = ApiKey::DeleteTopics;
    const VERSIONS: Range = Range { min: 1, max: 6 };
    const FLEXIBLE: i16 = 4;
    const SHAPE: &'static [Field] = &[structs(&[TEXT, UUID]).from(6), TEXTS.to(5), I32];
    type Request = DeleteTopicsRequest;
    type Response = DeleteTopicsResponse;

    fn names(request: &Self::Request) -> Names {
        let by_id = request
            .topics
            .iter()
            .filter_map(|topic| topic.name.as_ref());
        Names::topics(
            request
                .topic_names
                .iter()
                .chain(by_id)
                .map(|name| name.as_str()),
        )
    }

    fn refuse(request: &Self::Request, version: i16, code: i16) -> Option<Self::Response> {
        let refused = asked(request)
            .into_iter()
            .map(|(name, id)| result(name, id.unwrap_or_default(), version, code));
        Some(DeleteTopicsResponse::default().with_responses(refused.collect()))
    }

    async fn handle(call: &Call<'_>, request: Self::Request) -> Outcome<Self::Response> {
        let mut data = call.shared.data();
        let mut results = Vec::new();
        for (name, id) in asked(&request) {
            let found = match (&name, id) {
                (Some(name), _) => Ok(name.to_string()),
                (None, Some(id)) => data
                    .topics
                    .name_of(id)
                    .map(str::to_owned)
                    .ok_or(codes::UNKNOWN_TOPIC_ID),
                (None, None) => Err(codes::INVALID_REQUEST),
            };
            let known_id = found
                .as_ref()
                .ok()
                .and_then(|name| data.topics.by_name.get(name));
            let id = id.or(known_id.map(|topic| topic.id)).unwrap_or_default();
            let shown = name.or_else(|| found.as_ref().ok().map(|name| text(name).into()));
            let deleted = found.and_then(|name| data.delete_topic(&name));
            let code = deleted.err().unwrap_or(codes::NONE);
            results.push(result(shown, id, call.version, code));
        }
        Outcome::Answer(DeleteTopicsResponse::default().with_responses(results))
    }
}

fn asked(request: &DeleteTopicsRequest) -> Vec<(Option<TopicName>, Option<Uuid>)> {
    let names = request
        .topic_names
        .iter()
        .map(|name| (Some(name.clone()), None));
    let states = request.topics.iter().map(|topic| {
        let id = topic.name.is_none().then_some(topic.topic_id);
        (topic.name.clone(), id)
    });
    names.chain(states).collect()
}

fn result(name: Option<TopicName>, id: Uuid, version: i16, code: i16) -> DeletableTopicResult {
    let name = if version >= 6 {
        name
    } else {
        Some(name.unwrap_or_default())
    };
    let result = DeletableTopicResult::default()
        .with_name(name)
        .with_error_code(code);
    if version >= 6 {
        result.with_topic_id(id)
    } else {
        result
    }
}
