//! [`ConsumerBuilder`]: what a [`Consumer`] is made of.

use super::Consumer;
use crate::app::{App, Registration};
use crate::lane::Desk;
use crate::listener::BoxListener;
use crate::{ConsumerConfig, Error, RebalanceListener, SeekTo};
use ottla_client::Client;
use ottla_types::TopicPartition;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Makes a [`Consumer`]; see [`Consumer::builder`].
#[derive(Debug)]
#[must_use = "a builder does nothing until `subscribe` or `assign`"]
pub struct ConsumerBuilder {
    client: Client,
    config: ConsumerConfig,
    listener: Option<BoxListener>,
}

impl ConsumerBuilder {
    pub(super) fn new(client: &Client, config: ConsumerConfig) -> Self {
        Self {
            client: client.clone(),
            config,
            listener: None,
        }
    }

    /// Who is told when partitions come and go.
    pub fn listener(mut self, listener: impl RebalanceListener) -> Self {
        self.listener = Some(BoxListener::new(listener));
        self
    }

    /// Joins the group `group.id` for `topics`. A partition begins at the group's committed offset,
    /// else where `auto.offset.reset` says.
    ///
    /// # Errors
    /// Those of [`App::start`].
    pub async fn subscribe<T: Into<String>>(
        self,
        topics: impl IntoIterator<Item = T>,
    ) -> Result<Consumer, Error> {
        let topics = topics.into_iter().map(Into::into).collect();
        self.start(topics, None, None).await
    }

    /// As [`subscribe`](Self::subscribe), for every topic whose whole name matches a regular
    /// expression, also one that is created later. [`Registration::topic_pattern`] tells its syntax,
    /// which depends on `group.protocol`.
    ///
    /// # Errors
    /// Those of [`App::start`]. What only the broker can read ends the consumer if it cannot: the next
    /// call tells an error of kind [`Config`](crate::ErrorKind::Config).
    pub async fn subscribe_pattern(self, pattern: impl Into<String>) -> Result<Consumer, Error> {
        self.start(BTreeSet::new(), Some(pattern.into()), None)
            .await
    }

    /// Reads `partitions` without a membership: nobody else is asked, nothing is rebalanced. With a
    /// `group.id` a partition begins at that group's committed offset and commits are taken, as long
    /// as the group has no members; without one, `auto.offset.reset` alone says where it begins.
    ///
    /// A partition that the cluster does not have is told by [`recv`](Consumer::recv), once, as an error
    /// of kind [`UnknownTopic`](crate::ErrorKind::UnknownTopic) that names it. It is looked for on, and
    /// begins when it is there.
    ///
    /// # Errors
    /// Those of [`App::start`].
    pub async fn assign(
        self,
        partitions: impl IntoIterator<Item = TopicPartition>,
    ) -> Result<Consumer, Error> {
        self.place(partitions.into_iter().map(|p| (p, None))).await
    }

    /// As [`assign`](Self::assign), each partition from its own place on.
    ///
    /// # Errors
    /// Those of [`App::start`].
    pub async fn assign_at(
        self,
        places: impl IntoIterator<Item = (TopicPartition, SeekTo)>,
    ) -> Result<Consumer, Error> {
        self.place(places.into_iter().map(|(p, at)| (p, Some(at))))
            .await
    }

    async fn place(
        self,
        places: impl Iterator<Item = (TopicPartition, Option<SeekTo>)>,
    ) -> Result<Consumer, Error> {
        let places: BTreeMap<_, _> = places.collect();
        let topics = places.keys().map(|p| p.topic.to_string()).collect();
        self.start(topics, None, Some(places)).await
    }

    async fn start(
        self,
        topics: BTreeSet<String>,
        pattern: Option<String>,
        places: Option<BTreeMap<TopicPartition, Option<SeekTo>>>,
    ) -> Result<Consumer, Error> {
        let Self {
            client,
            config,
            listener,
        } = self;
        let desk = Desk::new(config.max_poll_records, config.enable_auto_commit, places);
        let desk = Arc::new(desk);
        let mut registration = Registration::pulled(config.group_id.clone(), topics, desk.clone());
        registration.listener = listener;
        registration.topic_pattern = pattern;
        let group = client.group(config.group_id.as_str());
        let (api_timeout, protocol) = (config.default_api_timeout, config.group_protocol);
        let mut app = App::new(&client, config);
        app.register(registration);
        let running = app.start().await?;
        Ok(Consumer {
            running: Some(running),
            desk,
            client,
            current: None,
            group: Some(group).filter(|group| !group.group_id().is_empty()),
            api_timeout,
            protocol,
            has_ended: false,
        })
    }
}

#[cfg(test)]
impl Consumer {
    /// One whose member is the test.
    pub(crate) fn at_desk(client: Client, desk: Arc<Desk>) -> Self {
        Self {
            running: None,
            desk,
            client,
            current: None,
            group: None,
            api_timeout: std::time::Duration::from_secs(1),
            protocol: crate::GroupProtocol::Classic,
            has_ended: false,
        }
    }
}
