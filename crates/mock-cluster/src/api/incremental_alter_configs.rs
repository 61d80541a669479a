//! IncrementalAlterConfigs (KIP-339): each resource is changed as a whole or not at all. Topics and
//! the settings of all brokers at any broker, those of one broker at that broker.

use kafka_protocol::messages::incremental_alter_configs_request::AlterConfigsResource;
use kafka_protocol::messages::incremental_alter_configs_response::AlterConfigsResourceResponse;
use kafka_protocol::messages::{IncrementalAlterConfigsRequest, IncrementalAlterConfigsResponse};

use super::describe_configs::{BROKER, TOPIC, broker_of};
use super::shape::{BOOL, Field, I8, TEXT, structs};
use super::{Api, Call, Names, Outcome, Range, owned, text};
use crate::settings::{Change, Settings, alter};
use crate::shared::Data;
use crate::{ApiKey, codes};

pub(super) struct IncrementalAlterConfigs;

impl Api for IncrementalAlterConfigs {
    const KEY: ApiKey = ApiKey::IncrementalAlterConfigs;
    const VERSIONS: Range = Range { min: 0, max: 1 };
    const FLEXIBLE: i16 = 1;
    const SHAPE: &'static [Field] = &[structs(&[I8, TEXT, structs(&[TEXT, I8, TEXT])]), BOOL];
    type Request = IncrementalAlterConfigsRequest;
    type Response = IncrementalAlterConfigsResponse;

    fn names(request: &Self::Request) -> Names {
        let topics = request.resources.iter();
        let topics = topics.filter(|resource| resource.resource_type == TOPIC);
        Names::topics(topics.map(|resource| resource.resource_name.as_str()))
    }

    fn refuse(request: &Self::Request, _: i16, code: i16) -> Option<Self::Response> {
        Some(answer_each(request, |_| Err(code)))
    }

    async fn handle(call: &Call<'_>, request: Self::Request) -> Outcome<Self::Response> {
        let mut data = call.shared.data();
        let response = answer_each(&request, |resource| {
            let alike = request.resources.iter().filter(|other| {
                let place = |r: &AlterConfigsResource| (r.resource_type, r.resource_name.clone());
                place(other) == place(resource)
            });
            if alike.count() > 1 {
                return Err(codes::INVALID_REQUEST);
            }
            change(&mut data, call.broker, resource, request.validate_only)
        });
        Outcome::Answer(response)
    }
}

fn change(
    data: &mut Data,
    broker: i32,
    resource: &AlterConfigsResource,
    validate_only: bool,
) -> Result<(), i16> {
    let changes = resource.configs.iter().map(|config| {
        let change = Change::from_wire(config.config_operation, owned(config.value.as_ref()))?;
        Ok((config.name.to_string(), change))
    });
    let changes: Vec<_> = changes.collect::<Result<_, i16>>()?;
    match resource.resource_type {
        TOPIC => {
            let Data {
                topics, settings, ..
            } = data;
            let topic = topics.by_name.get_mut(resource.resource_name.as_str());
            let topic = topic.ok_or(codes::UNKNOWN_TOPIC_OR_PARTITION)?;
            let below = |setting: &_| settings.value(broker, setting);
            let altered = alter(&topic.configs, &changes, |s| s.name, below)?;
            if !validate_only {
                topic.configs = altered;
            }
        }
        BROKER => {
            let meant = broker_of(&resource.resource_name, broker)?;
            let none = Settings::new();
            let now = match meant {
                Some(broker) => data.settings.of(broker).unwrap_or(&none),
                None => &data.settings.of_all,
            };
            let below = |setting: &_| data.settings.value(broker, setting);
            let altered = alter(now, &changes, |s| s.broker_name, below)?;
            if !validate_only {
                data.settings.replace(meant, altered);
            }
        }
        _ => return Err(codes::INVALID_REQUEST),
    }
    Ok(())
}

fn answer_each(
    request: &IncrementalAlterConfigsRequest,
    mut change: impl FnMut(&AlterConfigsResource) -> Result<(), i16>,
) -> IncrementalAlterConfigsResponse {
    let responses = request.resources.iter().map(|resource| {
        let code = change(resource).err().unwrap_or(codes::NONE);
        let message = (code == codes::INVALID_CONFIG).then(|| text("a setting is not allowed"));
        AlterConfigsResourceResponse::default()
            .with_error_code(code)
            .with_error_message(message)
            .with_resource_type(resource.resource_type)
            .with_resource_name(resource.resource_name.clone())
    });
    IncrementalAlterConfigsResponse::default().with_responses(responses.collect())
}
