//! The settings of topics and brokers.

use super::ask::{Answers, Call, Refusal, Task};
use super::places::Route;
use crate::Error;
use crate::connection::Api;
use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::describe_configs_response::DescribeConfigsResourceResult;
use kafka_protocol::messages::incremental_alter_configs_request::{
    AlterConfigsResource, AlterableConfig,
};
use kafka_protocol::messages::{DescribeConfigsRequest, IncrementalAlterConfigsRequest};
use kafka_protocol::protocol::StrBytes;
use std::fmt;

/// What has settings.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum ConfigResource {
    /// A topic.
    Topic(String),
    /// One broker, by its id.
    Broker(i32),
    /// All brokers together: the cluster's own defaults.
    AllBrokers,
}

impl ConfigResource {
    /// The wire's number for the kind, and the name.
    fn wire(&self) -> (i8, String) {
        match self {
            Self::Topic(name) => (2, name.clone()),
            Self::Broker(id) => (4, id.to_string()),
            Self::AllBrokers => (4, String::new()),
        }
    }

    fn mark(&self, error: Error) -> Error {
        match self {
            Self::Topic(name) => error.with_topic(name),
            Self::Broker(_) | Self::AllBrokers => error,
        }
    }

    fn check(&self) -> Result<(), Error> {
        match self {
            Self::Topic(name) => Ok(ottla_types::validate_topic_name(name)?),
            Self::Broker(_) | Self::AllBrokers => Ok(()),
        }
    }
}

impl fmt::Display for ConfigResource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Topic(name) => write!(f, "topic {name}"),
            Self::Broker(id) => write!(f, "broker {id}"),
            Self::AllBrokers => f.write_str("all brokers"),
        }
    }
}

/// Where a value comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ConfigSource {
    /// Set for the topic.
    Topic,
    /// Set for the broker at run time.
    Broker,
    /// Set for all brokers at run time.
    AllBrokers,
    /// From the broker's own file.
    File,
    /// Kafka's default.
    Default,
    /// Another, by its number.
    Other(i8),
}

impl ConfigSource {
    fn from_wire(number: i8) -> Self {
        match number {
            1 => Self::Topic,
            2 => Self::Broker,
            3 => Self::AllBrokers,
            4 => Self::File,
            5 => Self::Default,
            other => Self::Other(other),
        }
    }
}

/// A setting with its value.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConfigEntry {
    /// The setting's name.
    pub name: String,
    /// The value; `None` where there is none, and for secrets, which brokers do not tell.
    pub value: Option<String>,
    /// Where the value comes from.
    pub source: ConfigSource,
    /// Whether it cannot be altered.
    pub is_read_only: bool,
    /// Whether it is a secret.
    pub is_sensitive: bool,
    /// What else is set, the one that counts first: the value would fall back to the next. Name,
    /// value and source of each.
    pub synonyms: Vec<(String, Option<String>, ConfigSource)>,
}

/// What is done to one setting.
#[derive(Clone, PartialEq, Eq)]
pub enum ConfigOperation {
    /// Gives it this value.
    Set(String),
    /// Takes its value away, so that the default counts again.
    Delete,
    /// Adds to a list.
    Append(String),
    /// Takes out of a list.
    Subtract(String),
}

/// Values may be secrets and are not shown.
impl fmt::Debug for ConfigOperation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Set(_) => "Set(***)",
            Self::Delete => "Delete",
            Self::Append(_) => "Append(***)",
            Self::Subtract(_) => "Subtract(***)",
        })
    }
}

impl ConfigOperation {
    fn wire(&self) -> (i8, Option<StrBytes>) {
        let some = |value: &String| Some(StrBytes::from_string(value.clone()));
        match self {
            Self::Set(value) => (0, some(value)),
            Self::Delete => (1, None),
            Self::Append(value) => (2, some(value)),
            Self::Subtract(value) => (3, some(value)),
        }
    }
}

/// Changes to the settings of one resource, made together or not at all.
///
/// ```
/// use ottla_client::admin::{AlterConfigs, ConfigResource};
///
/// let changes = AlterConfigs::new(ConfigResource::Topic("orders".into()))
///     .set("min.insync.replicas", "2")
///     .delete("retention.ms");
/// assert_eq!(changes.operations.len(), 2);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct AlterConfigs {
    /// Whose settings.
    pub resource: ConfigResource,
    /// What is done, by setting. A setting that stands here twice is refused by the broker.
    pub operations: Vec<(String, ConfigOperation)>,
}

impl AlterConfigs {
    /// No change yet.
    pub fn new(resource: ConfigResource) -> Self {
        Self {
            resource,
            operations: Vec::new(),
        }
    }

    /// Gives a setting this value.
    #[must_use]
    pub fn set(self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.with(key, ConfigOperation::Set(value.into()))
    }

    /// Takes a setting's value away, so that the default counts again.
    #[must_use]
    pub fn delete(self, key: impl Into<String>) -> Self {
        self.with(key, ConfigOperation::Delete)
    }

    /// Adds to a setting that is a list.
    #[must_use]
    pub fn append(self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.with(key, ConfigOperation::Append(value.into()))
    }

    /// Takes out of a setting that is a list.
    #[must_use]
    pub fn subtract(self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.with(key, ConfigOperation::Subtract(value.into()))
    }

    fn with(mut self, key: impl Into<String>, operation: ConfigOperation) -> Self {
        self.operations.push((key.into(), operation));
        self
    }
}

/// All settings, or those with these names.
pub(super) struct Describe(pub(super) Option<Vec<String>>);

impl Task for Describe {
    type Item = ConfigResource;
    type Key = (i8, String);
    type Done = Vec<ConfigEntry>;
    const NAME: &'static str = DescribeConfigsRequest::NAME;
    const CHANGES: bool = false;

    fn key(&self, resource: &ConfigResource) -> Self::Key {
        resource.wire()
    }

    fn route(&self, resource: &ConfigResource) -> Route {
        match resource {
            ConfigResource::Topic(_) | ConfigResource::AllBrokers => Route::Any,
            ConfigResource::Broker(id) => Route::Broker(*id),
        }
    }

    fn mark(&self, resource: &ConfigResource, error: Error) -> Error {
        resource.mark(error)
    }

    fn check(&self, resource: &ConfigResource) -> Result<(), Error> {
        resource.check()
    }

    async fn ask(
        &self,
        call: Call<'_>,
        resources: &[&ConfigResource],
    ) -> Result<Answers<Self>, Error> {
        let text = |name: &String| StrBytes::from_string(name.clone());
        let keys: Option<Vec<_>> = self.0.as_ref().map(|keys| keys.iter().map(text).collect());
        let resources = resources.iter().map(|resource| {
            let (kind, name) = resource.wire();
            DescribeConfigsResource::default()
                .with_resource_type(kind)
                .with_resource_name(text(&name))
                .with_configuration_keys(keys.clone())
        });
        let request = DescribeConfigsRequest::default()
            .with_resources(resources.collect())
            .with_include_synonyms(true);
        let (answer, _) = call.send(|_| request).await?;
        let answers = answer.results.into_iter().map(|result| {
            let entries = result.configs.into_iter().map(entry).collect();
            let described = Refusal::read(result.error_code, result.error_message, entries);
            (
                (result.resource_type, result.resource_name.to_string()),
                described,
            )
        });
        Ok(answers.collect())
    }
}

fn entry(config: DescribeConfigsResourceResult) -> ConfigEntry {
    let text = |value: Option<StrBytes>| value.map(|value| value.to_string());
    let synonyms = config.synonyms.into_iter().map(|synonym| {
        let source = ConfigSource::from_wire(synonym.source);
        (synonym.name.to_string(), text(synonym.value), source)
    });
    ConfigEntry {
        name: config.name.to_string(),
        value: text(config.value),
        source: ConfigSource::from_wire(config.config_source),
        is_read_only: config.read_only,
        is_sensitive: config.is_sensitive,
        synonyms: synonyms.collect(),
    }
}

pub(super) struct Alter {
    /// Whether the changes are only checked.
    pub(super) validate_only: bool,
}

impl Task for Alter {
    type Item = AlterConfigs;
    type Key = (i8, String);
    type Done = ();
    const NAME: &'static str = IncrementalAlterConfigsRequest::NAME;
    const CHANGES: bool = true;

    fn key(&self, changes: &AlterConfigs) -> Self::Key {
        changes.resource.wire()
    }

    fn route(&self, changes: &AlterConfigs) -> Route {
        match changes.resource {
            ConfigResource::Topic(_) | ConfigResource::AllBrokers => Route::Controller,
            ConfigResource::Broker(id) => Route::Broker(id),
        }
    }

    fn mark(&self, changes: &AlterConfigs, error: Error) -> Error {
        changes.resource.mark(error)
    }

    fn check(&self, changes: &AlterConfigs) -> Result<(), Error> {
        changes.resource.check()
    }

    async fn ask(&self, call: Call<'_>, changes: &[&AlterConfigs]) -> Result<Answers<Self>, Error> {
        let resources = changes.iter().map(|changes| {
            let configs = changes.operations.iter().map(|(key, operation)| {
                let (operation, value) = operation.wire();
                AlterableConfig::default()
                    .with_name(StrBytes::from_string(key.clone()))
                    .with_config_operation(operation)
                    .with_value(value)
            });
            let (kind, name) = changes.resource.wire();
            AlterConfigsResource::default()
                .with_resource_type(kind)
                .with_resource_name(StrBytes::from_string(name))
                .with_configs(configs.collect())
        });
        let request = IncrementalAlterConfigsRequest::default()
            .with_resources(resources.collect())
            .with_validate_only(self.validate_only);
        let (answer, _) = call.send(|_| request).await?;
        let answers = answer.responses.into_iter().map(|result| {
            let altered = Refusal::read(result.error_code, result.error_message, ());
            (
                (result.resource_type, result.resource_name.to_string()),
                altered,
            )
        });
        Ok(answers.collect())
    }
}
