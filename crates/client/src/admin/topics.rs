//! Topic administration: creating and deleting topics, and waiting until they can be used.

use super::ask::{self, Answers, Call, Refusal, Task};
use super::places::Route;
use crate::cluster::Cluster;
use crate::connection::Api;
use crate::{Error, ErrorKind};
use kafka_protocol::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig};
use kafka_protocol::messages::{
    CreateTopicsRequest, DeleteTopicsRequest, MetadataRequest, TopicName,
};
use kafka_protocol::protocol::StrBytes;
use ottla_types::ErrorCode;
use std::collections::BTreeMap;
use tokio::time::{Instant, sleep, timeout_at};

/// A topic to be created.
///
/// ```
/// use ottla_client::NewTopic;
///
/// let topic = NewTopic::new("orders", 6).replication(3).config("retention.ms", "86400000");
/// assert_eq!(topic.partitions, 6);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct NewTopic {
    /// The topic's name.
    pub name: String,
    /// The number of partitions; -1 for the broker's default.
    pub partitions: i32,
    /// The number of copies; -1, the preset, for the broker's default.
    pub replication: i16,
    /// Settings of the topic, such as `cleanup.policy`.
    pub configs: BTreeMap<String, String>,
}

impl NewTopic {
    /// A topic with the broker's default replication and settings.
    pub fn new(name: impl Into<String>, partitions: i32) -> Self {
        Self {
            name: name.into(),
            partitions,
            replication: -1,
            configs: BTreeMap::new(),
        }
    }

    /// Asks for this number of copies.
    #[must_use]
    pub fn replication(mut self, copies: i16) -> Self {
        self.replication = copies;
        self
    }

    /// Adds a setting of the topic.
    #[must_use]
    pub fn config(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.configs.insert(key.into(), value.into());
        self
    }
}

/// The outcome for each topic, in the order that was asked.
pub(crate) type Outcomes = Vec<(String, Result<(), Error>)>;

/// Creates the topics at the controller; the answers stand in the order of `topics`.
pub(crate) async fn create_topics(
    cluster: &Cluster,
    topics: &[NewTopic],
    deadline: Instant,
) -> Result<Outcomes, Error> {
    let results = ask::each(cluster, &Create, topics.to_vec(), deadline).await;
    let named = results.into_iter().map(|(topic, made)| (topic.name, made));
    whole(named.collect())
}

/// Deletes the topics at the controller; the answers stand in the order of `names`.
pub(crate) async fn delete_topics(
    cluster: &Cluster,
    names: Vec<String>,
    deadline: Instant,
) -> Result<Outcomes, Error> {
    whole(ask::each(cluster, &Delete, names, deadline).await)
}

/// A failure of the call is one error, and not one for each topic.
fn whole(mut outcomes: Outcomes) -> Result<Outcomes, Error> {
    let of_call = |outcome: &Result<(), Error>| match outcome {
        Ok(()) => false,
        Err(error) => error.code().is_none() && error.kind() != ErrorKind::Config,
    };
    match outcomes.iter().position(|(_, outcome)| of_call(outcome)) {
        None => Ok(outcomes),
        // All topics go with one request, so what one of them says of the call holds for all.
        Some(at) => match outcomes.swap_remove(at).1 {
            Ok(()) => Ok(outcomes),
            Err(error) => Err(error),
        },
    }
}

struct Create;

impl Task for Create {
    type Item = NewTopic;
    type Key = String;
    type Done = ();
    const NAME: &'static str = CreateTopicsRequest::NAME;
    const CHANGES: bool = true;

    fn key(&self, topic: &NewTopic) -> String {
        topic.name.clone()
    }

    fn route(&self, _: &NewTopic) -> Route {
        Route::Controller
    }

    fn mark(&self, topic: &NewTopic, error: Error) -> Error {
        error.with_topic(&topic.name)
    }

    fn check(&self, topic: &NewTopic) -> Result<(), Error> {
        Ok(ottla_types::validate_topic_name(&topic.name)?)
    }

    async fn ask(&self, call: Call<'_>, topics: &[&NewTopic]) -> Result<Answers<Self>, Error> {
        let topics = topics.iter().map(|topic| creatable(topic)).collect();
        let request = CreateTopicsRequest::default()
            .with_topics(topics)
            .with_timeout_ms(call.timeout_ms());
        let (answer, _) = call.send(|_| request).await?;
        let answers = answer.topics.into_iter().map(|topic| {
            let made = Refusal::read(topic.error_code, topic.error_message, ());
            (topic.name.to_string(), made)
        });
        Ok(answers.collect())
    }
}

struct Delete;

impl Task for Delete {
    type Item = String;
    type Key = String;
    type Done = ();
    const NAME: &'static str = DeleteTopicsRequest::NAME;
    const CHANGES: bool = true;

    fn key(&self, name: &String) -> String {
        name.clone()
    }

    fn route(&self, _: &String) -> Route {
        Route::Controller
    }

    fn mark(&self, name: &String, error: Error) -> Error {
        error.with_topic(name)
    }

    fn check(&self, name: &String) -> Result<(), Error> {
        Ok(ottla_types::validate_topic_name(name)?)
    }

    async fn ask(&self, call: Call<'_>, names: &[&String]) -> Result<Answers<Self>, Error> {
        let names = names.iter().map(|name| topic_name(name)).collect();
        let request = DeleteTopicsRequest::default()
            .with_topic_names(names)
            .with_timeout_ms(call.timeout_ms());
        let (answer, _) = call.send(|_| request).await?;
        let answers = answer.responses.into_iter().map(|topic| {
            let name = topic.name.map(|name| name.to_string()).unwrap_or_default();
            let gone = Refusal::read(topic.error_code, topic.error_message, ());
            (name, gone)
        });
        Ok(answers.collect())
    }
}

/// Creates what is missing and waits until every partition of every topic has a leader.
///
/// Here a topic that exists is as good as one that was created, so every passing error is retried.
pub(crate) async fn ensure_topics(
    cluster: &Cluster,
    topics: &[NewTopic],
    deadline: Instant,
) -> Result<(), Error> {
    let mut backoff = cluster.backoff();
    let mut missing: Vec<NewTopic> = topics.to_vec();
    loop {
        let failure = match create_topics(cluster, &missing, deadline).await {
            Ok(outcomes) => {
                let (retry, failure) = sort_out(outcomes)?;
                missing.retain(|topic| retry.contains(&topic.name));
                failure
            }
            Err(error) => Some(error),
        };
        let Some(failure) = failure else { break };
        let delay = backoff.next_delay();
        if !failure.is_retriable() || Instant::now() + delay >= deadline {
            return Err(failure);
        }
        sleep(delay).await;
    }
    for topic in topics {
        wait_for_leaders(cluster, topic, deadline).await?;
    }
    Ok(())
}

/// The topics to be tried again, with the last of their errors.
fn sort_out(outcomes: Outcomes) -> Result<(Vec<String>, Option<Error>), Error> {
    let (mut retry, mut last) = (Vec::new(), None);
    for (name, outcome) in outcomes {
        match outcome {
            Ok(()) => {}
            Err(error) if error.code() == Some(ErrorCode::TOPIC_ALREADY_EXISTS) => {}
            Err(error) if error.is_retriable() => {
                retry.push(name);
                last = Some(error);
            }
            Err(error) => return Err(error),
        }
    }
    Ok((retry, last))
}

async fn wait_for_leaders(
    cluster: &Cluster,
    topic: &NewTopic,
    deadline: Instant,
) -> Result<(), Error> {
    let mut backoff = cluster.backoff();
    loop {
        let timed_out =
            || Error::new(ErrorKind::TimedOut, MetadataRequest::NAME).with_topic(&topic.name);
        let asked = timeout_at(deadline, cluster.refresh_topic(&topic.name)).await;
        let error = match asked.unwrap_or_else(|_| Err(timed_out())) {
            Ok(found) if found.has_leaders() => return Ok(()),
            Ok(_) => Error::from_code(ErrorCode::LEADER_NOT_AVAILABLE, MetadataRequest::NAME)
                .with_topic(&topic.name),
            Err(error) if error.is_retriable() => error,
            Err(error) => return Err(error),
        };
        let delay = backoff.next_delay();
        if Instant::now() + delay >= deadline {
            return Err(timed_out().with_source(error));
        }
        sleep(delay).await;
    }
}

pub(super) fn topic_name(name: &str) -> TopicName {
    TopicName(StrBytes::from_string(name.to_owned()))
}

fn creatable(topic: &NewTopic) -> CreatableTopic {
    let configs = topic.configs.iter().map(|(key, value)| {
        CreatableTopicConfig::default()
            .with_name(StrBytes::from_string(key.clone()))
            .with_value(Some(StrBytes::from_string(value.clone())))
    });
    CreatableTopic::default()
        .with_name(topic_name(&topic.name))
        .with_num_partitions(topic.partitions)
        .with_replication_factor(topic.replication)
        .with_configs(configs.collect())
}
