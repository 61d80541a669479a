//! Topic administration: creating and deleting topics, and waiting until they can be used.

use crate::broker::Purpose;
use crate::cluster::Cluster;
use crate::connection::Api;
use crate::{Error, ErrorKind};
use kafka_protocol::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig};
use kafka_protocol::messages::{
    CreateTopicsRequest, DeleteTopicsRequest, MetadataRequest, TopicName,
};
use kafka_protocol::protocol::StrBytes;
use ottla_types::{ErrorCode, Fate};
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::time::Duration;
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

/// What the broker said about a topic that it did not create or delete.
#[derive(Debug, Clone, PartialEq, Eq)]
struct BrokerMessage(String);

impl fmt::Display for BrokerMessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for BrokerMessage {}

/// The answer for each topic, by name.
type Codes = HashMap<String, (ErrorCode, Option<String>)>;
/// The outcome for each topic, in the order that was asked.
pub(crate) type Outcomes = Vec<(String, Result<(), Error>)>;

/// Creates the topics at the controller; the answers stand in the order of `topics`.
pub(crate) async fn create_topics(
    cluster: &Cluster,
    topics: &[NewTopic],
    deadline: Instant,
) -> Result<Outcomes, Error> {
    let names = topics.iter().map(|topic| topic.name.clone()).collect();
    let wanted = Change::Create(topics);
    change(cluster, names, wanted, deadline).await
}

/// Deletes the topics at the controller; the answers stand in the order of `names`.
pub(crate) async fn delete_topics(
    cluster: &Cluster,
    names: Vec<String>,
    deadline: Instant,
) -> Result<Outcomes, Error> {
    change(cluster, names, Change::Delete, deadline).await
}

/// What is asked of the controller for a list of topics.
#[derive(Clone, Copy)]
enum Change<'a> {
    Create(&'a [NewTopic]),
    Delete,
}

impl Change<'_> {
    fn api(self) -> &'static str {
        match self {
            Self::Create(_) => CreateTopicsRequest::NAME,
            Self::Delete => DeleteTopicsRequest::NAME,
        }
    }

    async fn ask(
        self,
        cluster: &Cluster,
        deadline: Instant,
        names: &[String],
    ) -> Result<Codes, Error> {
        match self {
            Self::Create(topics) => {
                let wanted = topics.iter().filter(|topic| names.contains(&topic.name));
                let request = CreateTopicsRequest::default()
                    .with_topics(wanted.map(creatable).collect())
                    .with_timeout_ms(millis_until(deadline));
                let answer = ask_controller(cluster, deadline, request).await?;
                let codes = answer.topics.into_iter().map(|topic| {
                    let message = topic.error_message.map(|message| message.to_string());
                    let code = ErrorCode(topic.error_code);
                    (topic.name.to_string(), (code, message))
                });
                Ok(codes.collect())
            }
            Self::Delete => {
                let topic_names = names.iter().map(|name| topic_name(name)).collect();
                let request = DeleteTopicsRequest::default()
                    .with_topic_names(topic_names)
                    .with_timeout_ms(millis_until(deadline));
                let answer = ask_controller(cluster, deadline, request).await?;
                let codes = answer.responses.into_iter().map(|topic| {
                    let name = topic.name.map(|name| name.to_string()).unwrap_or_default();
                    let message = topic.error_message.map(|message| message.to_string());
                    (name, (ErrorCode(topic.error_code), message))
                });
                Ok(codes.collect())
            }
        }
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

/// Asks for a change of `names`, and again for those whose controller has moved (code 41).
async fn change(
    cluster: &Cluster,
    names: Vec<String>,
    wanted: Change<'_>,
    deadline: Instant,
) -> Result<Outcomes, Error> {
    let mut outcomes: HashMap<String, Result<(), Error>> = HashMap::new();
    let mut open = Vec::new();
    for name in &names {
        match ottla_types::validate_topic_name(name) {
            Ok(()) if open.contains(name) => {}
            Ok(()) => open.push(name.clone()),
            Err(error) => drop(outcomes.insert(name.clone(), Err(error.into()))),
        }
    }
    let mut backoff = cluster.backoff();
    while !open.is_empty() {
        let mut codes = wanted.ask(cluster, deadline, &open).await?;
        let delay = backoff.next_delay();
        let may_wait = Instant::now() + delay < deadline;
        open.retain(|name| {
            let (code, message) = codes
                .remove(name)
                .unwrap_or((ErrorCode::UNKNOWN_SERVER_ERROR, None));
            if code == ErrorCode::NOT_CONTROLLER && may_wait {
                return true;
            }
            outcomes.insert(name.clone(), outcome(code, message, wanted.api(), name));
            false
        });
        if !open.is_empty() {
            sleep(delay).await;
            cluster.refresh_brokers(deadline).await?;
        }
    }
    let outcome = |name: String| outcomes.remove(&name).map(|outcome| (name, outcome));
    Ok(names.into_iter().filter_map(outcome).collect())
}

fn outcome(
    code: ErrorCode,
    message: Option<String>,
    api: &'static str,
    name: &str,
) -> Result<(), Error> {
    code.into_result().map_err(|code| {
        let error = Error::from_code(code, api).with_topic(name);
        match message {
            Some(message) => error.with_source(BrokerMessage(message)),
            None => error,
        }
    })
}

/// Sends to the controller, found again when it is unknown or cannot be reached. A request that was
/// sent is not repeated: it may have been carried out.
async fn ask_controller<A: Api + Clone>(
    cluster: &Cluster,
    deadline: Instant,
    request: A,
) -> Result<A::Answer, Error> {
    let mut backoff = cluster.backoff();
    loop {
        let error = match cluster.controller() {
            Some(controller) => {
                let request = request.clone();
                let call =
                    controller.call(&cluster.connector, Purpose::Control, deadline, |_| request);
                match call.await {
                    Ok((answer, _)) => return Ok(answer),
                    Err(error) if error.kind() == ErrorKind::Connect => error,
                    Err(error) => return Err(error.with_fate(Fate::MaybeWritten)),
                }
            }
            None => Error::from_code(ErrorCode::NOT_CONTROLLER, A::NAME),
        };
        let delay = backoff.next_delay();
        if Instant::now() + delay >= deadline {
            return Err(error);
        }
        sleep(delay).await;
        cluster.refresh_brokers(deadline).await?;
    }
}

fn topic_name(name: &str) -> TopicName {
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

/// The broker's time limit: a little below ours, so that its answer is not too late.
fn millis_until(deadline: Instant) -> i32 {
    let left = deadline.saturating_duration_since(Instant::now());
    let millis = left
        .saturating_sub(Duration::min(left / 10, Duration::from_secs(1)))
        .as_millis();
    i32::try_from(millis).unwrap_or(i32::MAX)
}
