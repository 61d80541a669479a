//! What is known of the cluster: its brokers, its controller and its topics.
//!
//! Owns the connector and, through the brokers, every connection. What must hold: a refresh of a
//! topic asks the cluster after it was called, yet callers at the same time share one request;
//! nothing waits beyond the deadline that it was given.

mod asking;

use crate::broker::Broker;
use crate::connection::{Api, Connector, FrameBytes, Security, Tasks};
use crate::metadata::{ReadTopic, read_topics};
use crate::{Backoff, ClientConfig, Error, ErrorKind, TopicMetadata};
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::{MetadataRequest, MetadataResponse, TopicName};
use kafka_protocol::protocol::StrBytes;
use ottla_types::ErrorCode;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

/// How long an unknown topic is remembered for the callers that wait for the same answer.
const UNKNOWN_TOPIC_AGE: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub(crate) struct Cluster {
    pub config: ClientConfig,
    pub connector: Connector,
    state: Mutex<State>,
    /// Held while topics are asked for.
    refreshing: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct State {
    brokers: BTreeMap<i32, Arc<Broker>>,
    controller: Option<i32>,
    topics: HashMap<Arc<str>, CachedTopic>,
    /// Topics that the next refresh asks for.
    wanted: BTreeSet<Arc<str>>,
    /// Refreshes that were begun so far.
    round: u64,
}

#[derive(Debug)]
struct CachedTopic {
    round: u64,
    at: Instant,
    found: Result<Arc<TopicMetadata>, ErrorCode>,
}

impl Cluster {
    /// Finds the cluster through any of the bootstrap addresses, within the connect timeout.
    pub(crate) async fn connect(config: ClientConfig) -> Result<Self, Error> {
        let cluster = Self::new(config).await?;
        cluster.start().await?;
        Ok(cluster)
    }

    /// The same, as if every broker spoke no version above these, by API key.
    #[cfg(test)]
    pub(crate) async fn connect_capped(
        config: ClientConfig,
        caps: HashMap<i16, i16>,
    ) -> Result<Self, Error> {
        let mut cluster = Self::new(config).await?;
        cluster.connector.version_caps = caps;
        cluster.start().await?;
        Ok(cluster)
    }

    async fn new(config: ClientConfig) -> Result<Self, Error> {
        let connector = Connector {
            client_id: config.client_id.clone(),
            connect_timeout: config.connect_timeout,
            idle_max: config.connections_max_idle,
            response_bytes_max: config.max_response_bytes,
            security: Security::prepare(&config.security).await?,
            tasks: Tasks::default(),
            frames: FrameBytes::default(),
            #[cfg(test)]
            version_caps: HashMap::new(),
        };
        Ok(Self {
            config,
            connector,
            state: Mutex::default(),
            refreshing: tokio::sync::Mutex::default(),
        })
    }

    async fn start(&self) -> Result<(), Error> {
        self.bootstrap(Instant::now() + self.config.connect_timeout)
            .await
            .map(drop)
    }

    /// Ends all connections and their tasks.
    pub(crate) async fn close(&self) {
        self.connector.tasks.close().await;
    }

    pub(crate) fn backoff(&self) -> Backoff {
        Backoff::new(self.config.retry_backoff, self.config.retry_backoff_max)
    }

    pub(crate) fn request_deadline(&self) -> Instant {
        Instant::now() + self.config.request_timeout
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn check_open(&self, operation: &'static str) -> Result<(), Error> {
        if self.connector.tasks.is_closed() {
            return Err(Error::new(ErrorKind::Closed, operation));
        }
        Ok(())
    }

    /// The broker that administration goes to, if there is one.
    pub(crate) fn controller(&self) -> Option<Arc<Broker>> {
        let state = self.state();
        state.brokers.get(&state.controller?).cloned()
    }

    /// The broker with this id at this address; a new one if it was not known there.
    pub(crate) fn broker_at(&self, id: i32, host: &str, port: i32) -> Arc<Broker> {
        known_or_new(&mut self.state().brokers, id, host, port)
    }

    /// A broker that can be asked what every broker knows: one with a connection if there is one.
    pub(crate) fn any_broker(&self) -> Option<Arc<Broker>> {
        self.candidates().into_iter().next()
    }

    /// The ids of the brokers that are known.
    pub(crate) fn broker_ids(&self) -> Vec<i32> {
        self.state().brokers.keys().copied().collect()
    }

    /// The broker with this id, if it is known.
    pub(crate) fn broker(&self, id: i32) -> Option<Arc<Broker>> {
        self.state().brokers.get(&id).cloned()
    }

    /// The broker with this id. One that is named before the metadata lists it, such as a replica that
    /// has just come back, is an error that passes.
    pub(crate) fn known_broker(
        &self,
        id: i32,
        operation: &'static str,
    ) -> Result<Arc<Broker>, Error> {
        self.broker(id).ok_or_else(|| {
            let unknown = format!("no broker has the id {id}");
            Error::new(ErrorKind::Connect, operation).with_source(unknown)
        })
    }

    /// The topic from the cache, if it is not too old.
    pub(crate) fn cached_topic(&self, name: &str) -> Option<Arc<TopicMetadata>> {
        match self.state().topics.get(name) {
            Some(cached) if cached.at.elapsed() < self.config.metadata_max_age => {
                cached.found.clone().ok()
            }
            _ => None,
        }
    }

    /// The topic from the cache, or else from the cluster.
    pub(crate) async fn topic(&self, name: &str) -> Result<Arc<TopicMetadata>, Error> {
        match self.cached_topic(name) {
            Some(topic) => Ok(topic),
            None => self.refresh_topic(name).await,
        }
    }

    /// The topic as the cluster describes it now.
    pub(crate) async fn refresh_topic(&self, name: &str) -> Result<Arc<TopicMetadata>, Error> {
        ottla_types::validate_topic_name(name)?;
        let deadline = self.request_deadline();
        let found = match timeout_at(deadline, self.refresh_shared(name, deadline)).await {
            Ok(found) => found?,
            Err(_) => {
                return Err(Error::new(ErrorKind::TimedOut, MetadataRequest::NAME).with_topic(name));
            }
        };
        found.map_err(|code| Error::from_code(code, MetadataRequest::NAME).with_topic(name))
    }

    /// Takes the answer of a refresh that began after this call, by whichever caller.
    async fn refresh_shared(
        &self,
        name: &str,
        deadline: Instant,
    ) -> Result<Result<Arc<TopicMetadata>, ErrorCode>, Error> {
        let called_in = {
            let mut state = self.state();
            state.wanted.insert(name.into());
            state.round
        };
        let _refreshing = self.refreshing.lock().await;
        let (wanted, round) = {
            let mut state = self.state();
            if let Some(cached) = state.topics.get(name)
                && cached.round > called_in
            {
                return Ok(cached.found.clone());
            }
            state.round += 1;
            let mut wanted = std::mem::take(&mut state.wanted);
            wanted.insert(name.into());
            (wanted, state.round)
        };
        let answer = self.ask_about(Some(&wanted), deadline).await?;
        self.keep_topics(&wanted, round, answer)?;
        let state = self.state();
        let cached = state.topics.get(name).map(|cached| cached.found.clone());
        Ok(cached.unwrap_or(Err(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION)))
    }

    fn keep_topics(
        &self,
        wanted: &BTreeSet<Arc<str>>,
        round: u64,
        answer: MetadataResponse,
    ) -> Result<(), Error> {
        let read = read_topics(answer.topics).map_err(protocol_error)?;
        let at = Instant::now();
        let mut state = self.state();
        let known = |name: &str| match state.topics.get(name)?.found {
            Ok(ref known) => Some(known.clone()),
            Err(_) => None,
        };
        let newest = |(name, found): ReadTopic| {
            let found = match (found, known(&name)) {
                (Ok(read), Some(known)) => {
                    Ok(Arc::new(Arc::unwrap_or_clone(read).with_newer_of(&known)))
                }
                (found, _) => found,
            };
            (name, found)
        };
        let read: Vec<_> = read.into_iter().map(newest).collect();
        state.topics.retain(|_, cached| match cached.found {
            Ok(_) => cached.at.elapsed() < self.config.metadata_max_age,
            Err(_) => cached.at.elapsed() < UNKNOWN_TOPIC_AGE,
        });
        for name in wanted {
            let found = Err(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION);
            state
                .topics
                .insert(name.clone(), CachedTopic { round, at, found });
        }
        for (name, found) in read {
            if let Some(cached) = state.topics.get_mut(&name) {
                *cached = CachedTopic { round, at, found };
            }
        }
        Ok(())
    }

    /// Every topic that can be described now.
    pub(crate) async fn list_topics(&self) -> Result<Vec<Arc<TopicMetadata>>, Error> {
        let answer = self.ask_about(None, self.request_deadline()).await?;
        let read = read_topics(answer.topics).map_err(protocol_error)?;
        let mut topics: Vec<_> = read
            .into_iter()
            .filter_map(|(_, found)| found.ok())
            .collect();
        topics.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        Ok(topics)
    }

    /// Asks for the brokers and the controller again.
    pub(crate) async fn refresh_brokers(&self, deadline: Instant) -> Result<(), Error> {
        self.ask_about(Some(&BTreeSet::new()), deadline)
            .await
            .map(drop)
    }

    async fn ask_about(
        &self,
        topics: Option<&BTreeSet<Arc<str>>>,
        deadline: Instant,
    ) -> Result<MetadataResponse, Error> {
        let (answer, _) = self.ask_any(deadline, |_| metadata_request(topics)).await?;
        self.keep_brokers(&answer);
        Ok(answer)
    }

    fn keep_brokers(&self, answer: &MetadataResponse) {
        if answer.brokers.is_empty() {
            // A broker that has just started may not know even itself yet.
            return;
        }
        let mut state = self.state();
        let mut known = std::mem::take(&mut state.brokers);
        for broker in &answer.brokers {
            let id = broker.node_id.0;
            let broker = known_or_new(&mut known, id, &broker.host, broker.port);
            state.brokers.insert(id, broker);
        }
        state.controller = (answer.controller_id.0 >= 0).then_some(answer.controller_id.0);
    }
}

fn known_or_new(
    known: &mut BTreeMap<i32, Arc<Broker>>,
    id: i32,
    host: &str,
    port: i32,
) -> Arc<Broker> {
    let bare_v6 = host.contains(':') && !host.starts_with('[');
    let address = if bare_v6 {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    };
    match known.get(&id) {
        Some(broker) if broker.address == address => broker.clone(),
        _ => {
            let broker = Arc::new(Broker::new(id, address));
            known.insert(id, broker.clone());
            broker
        }
    }
}

fn metadata_request(topics: Option<&BTreeSet<Arc<str>>>) -> MetadataRequest {
    let topics = topics.map(|names| {
        let topic = |name: &Arc<str>| {
            let name = TopicName(StrBytes::from_string(name.as_ref().to_owned()));
            MetadataRequestTopic::default().with_name(Some(name))
        };
        names.iter().map(topic).collect()
    });
    MetadataRequest::default()
        .with_topics(topics)
        .with_allow_auto_topic_creation(false)
}

fn protocol_error(cause: crate::metadata::BadTopic) -> Error {
    Error::new(ErrorKind::Protocol, MetadataRequest::NAME).with_source(cause)
}
