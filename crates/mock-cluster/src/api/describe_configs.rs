//! DescribeConfigs: of topics at any broker, of a broker at that broker, of all brokers together.

use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::describe_configs_response::{
    DescribeConfigsResourceResult, DescribeConfigsResult, DescribeConfigsSynonym,
};
use kafka_protocol::messages::{DescribeConfigsRequest, DescribeConfigsResponse};

use super::shape::{BOOL, Field, I8, TEXT, TEXTS, structs};
use super::{Api, Call, Names, Outcome, Range, text};
use crate::settings::{SETTINGS, Setting};
use crate::shared::Data;
use crate::{ApiKey, codes};

pub(super) const TOPIC: i8 = 2;
pub(super) const BROKER: i8 = 4;

/// Where a value comes from, as the wire numbers it.
#[derive(Clone, Copy)]
enum Source {
    Topic = 1,
    Broker = 2,
    AllBrokers = 3,
    Default = 5,
}

pub(super) struct DescribeConfigs;

impl Api for DescribeConfigs {
    const KEY: ApiKey = ApiKey::DescribeConfigs;
    const VERSIONS: Range = Range { min: 1, max: 4 };
    const FLEXIBLE: i16 = 4;
    const SHAPE: &'static [Field] = &[structs(&[I8, TEXT, TEXTS]), BOOL, BOOL.from(3)];
    type Request = DescribeConfigsRequest;
    type Response = DescribeConfigsResponse;

    fn names(request: &Self::Request) -> Names {
        let topics = request.resources.iter();
        let topics = topics.filter(|resource| resource.resource_type == TOPIC);
        Names::topics(topics.map(|resource| resource.resource_name.as_str()))
    }

    fn refuse(request: &Self::Request, _: i16, code: i16) -> Option<Self::Response> {
        Some(answer_each(request, |_| Err(code)))
    }

    async fn handle(call: &Call<'_>, request: Self::Request) -> Outcome<Self::Response> {
        let data = call.shared.data();
        let response = answer_each(&request, |resource| {
            let wanted = |name: &str| {
                let keys = resource.configuration_keys.as_ref();
                keys.is_none_or(|keys| keys.iter().any(|key| **key == *name))
            };
            let found = values(&data, call.broker, resource)?;
            let found = found.into_iter().filter(|value| wanted(value.name));
            let told = found.map(|value| {
                let version = call.version;
                tell(value, version, request.include_synonyms)
            });
            Ok(told.collect())
        });
        Outcome::Answer(response)
    }
}

struct Value {
    name: &'static str,
    setting: &'static Setting,
    /// The one that counts, then those that it hides.
    values: Vec<(Source, &'static str, String)>,
}

/// The broker that a resource of brokers means; `None` is all of them.
pub(super) fn broker_of(name: &str, asked: i32) -> Result<Option<i32>, i16> {
    match name {
        "" => Ok(None),
        name if name.parse() == Ok(asked) => Ok(Some(asked)),
        _ => Err(codes::INVALID_REQUEST),
    }
}

fn values(data: &Data, broker: i32, resource: &DescribeConfigsResource) -> Result<Vec<Value>, i16> {
    match resource.resource_type {
        TOPIC => {
            let name = resource.resource_name.as_str();
            let topic = data.topics.by_name.get(name);
            let topic = topic.ok_or(codes::UNKNOWN_TOPIC_OR_PARTITION)?;
            let value = |setting: &'static Setting| {
                let own = topic.configs.get(setting.name).cloned();
                let mut values = of_broker(data, Some(broker), setting);
                if let Some(own) = own {
                    values.insert(0, (Source::Topic, setting.name, own));
                }
                let name = setting.name;
                Value {
                    name,
                    setting,
                    values,
                }
            };
            Ok(SETTINGS.iter().map(value).collect())
        }
        BROKER => {
            let broker = broker_of(&resource.resource_name, broker)?;
            let value = |setting: &'static Setting| {
                let mut values = of_broker(data, broker, setting);
                if broker.is_none() {
                    // Of all brokers together only what was set is told.
                    values.retain(|(source, _, _)| matches!(source, Source::AllBrokers));
                }
                let name = setting.broker_name;
                (!values.is_empty()).then_some(Value {
                    name,
                    setting,
                    values,
                })
            };
            Ok(SETTINGS.iter().filter_map(value).collect())
        }
        _ => Err(codes::INVALID_REQUEST),
    }
}

fn of_broker(
    data: &Data,
    broker: Option<i32>,
    setting: &'static Setting,
) -> Vec<(Source, &'static str, String)> {
    let name = setting.broker_name;
    let own = broker.and_then(|broker| data.settings.of(broker)?.get(name));
    let own = own.map(|value| (Source::Broker, name, value.clone()));
    let all = data.settings.of_all.get(name);
    let all = all.map(|value| (Source::AllBrokers, name, value.clone()));
    let default = (Source::Default, name, setting.default.to_owned());
    own.into_iter().chain(all).chain([default]).collect()
}

fn tell(value: Value, version: i16, synonyms: bool) -> DescribeConfigsResourceResult {
    let Value {
        name,
        setting,
        values,
    } = value;
    let mut told = DescribeConfigsResourceResult::default().with_name(text(name));
    if let Some((source, _, value)) = values.first() {
        told = told
            .with_value(Some(text(value)))
            .with_config_source(*source as i8);
    }
    if synonyms {
        let synonyms = values.iter().map(|(source, name, value)| {
            DescribeConfigsSynonym::default()
                .with_name(text(name))
                .with_value(Some(text(value)))
                .with_source(*source as i8)
        });
        told = told.with_synonyms(synonyms.collect());
    }
    if version >= 3 {
        told = told.with_config_type(setting.kind as i8);
    }
    told
}

fn answer_each(
    request: &DescribeConfigsRequest,
    mut describe: impl FnMut(
        &DescribeConfigsResource,
    ) -> Result<Vec<DescribeConfigsResourceResult>, i16>,
) -> DescribeConfigsResponse {
    let results = request.resources.iter().map(|resource| {
        let described = describe(resource);
        DescribeConfigsResult::default()
            .with_error_code(described.as_ref().err().copied().unwrap_or(codes::NONE))
            .with_error_message(None)
            .with_resource_type(resource.resource_type)
            .with_resource_name(resource.resource_name.clone())
            .with_configs(described.unwrap_or_default())
    });
    DescribeConfigsResponse::default().with_results(results.collect())
}
