//! Which broker answers for what.

use super::ask::shared;
use crate::broker::Broker;
use crate::cluster::Cluster;
use crate::connection::Api;
use crate::place::KeyType;
use crate::{Error, ErrorKind, TopicMetadata, convert};
use futures_util::future::join_all;
use kafka_protocol::messages::{FindCoordinatorRequest, MetadataRequest};
use ottla_types::{ErrorCode, TopicPartition};
use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use tokio::time::{Instant, timeout_at};

/// Which broker answers for an item.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Route {
    Any,
    Controller,
    Broker(i32),
    Leader(TopicPartition),
    Coordinator(Arc<str>),
}

type Found<T> = HashMap<Arc<str>, Result<T, Arc<Error>>>;

/// What is known of the places while one question is asked.
#[derive(Default)]
pub(super) struct Places {
    coordinators: Found<Arc<Broker>>,
    topics: Found<Arc<TopicMetadata>>,
    /// Topics whose description did not help.
    stale: HashSet<Arc<str>>,
}

impl Places {
    /// Looks for what is not known yet, all side by side.
    pub(super) async fn find(&mut self, cluster: &Cluster, routes: &[Route], deadline: Instant) {
        let (mut groups, mut topics) = (BTreeSet::new(), BTreeSet::new());
        for route in routes {
            match route {
                Route::Coordinator(group) if !self.coordinators.contains_key(group) => {
                    groups.insert(group.clone());
                }
                Route::Leader(partition) if !self.topics.contains_key(&partition.topic) => {
                    topics.insert(partition.topic.clone());
                }
                Route::Broker(id) if cluster.broker(*id).is_none() => {
                    refresh_brokers(cluster, deadline).await;
                }
                _ => {}
            }
        }
        let coordinators = groups.into_iter().map(|group| async move {
            let found = find_coordinator(cluster, &group, deadline).await;
            (group, found.map_err(Arc::new))
        });
        let stale = &self.stale;
        let topics = topics.into_iter().map(|topic| async move {
            let found = find_topic(cluster, &topic, stale.contains(&topic), deadline).await;
            (topic, found.map_err(Arc::new))
        });
        self.coordinators.extend(join_all(coordinators).await);
        self.topics.extend(join_all(topics).await);
    }

    /// The broker for a route that was looked for.
    pub(super) fn of(
        &self,
        cluster: &Cluster,
        route: &Route,
        operation: &'static str,
    ) -> Result<Arc<Broker>, Error> {
        let none = |code| move || Error::from_code(code, operation);
        match route {
            Route::Any => {
                let none = || Error::new(ErrorKind::Connect, operation);
                cluster.any_broker().ok_or_else(none)
            }
            Route::Controller => {
                let none = none(ErrorCode::NOT_CONTROLLER);
                cluster.controller().ok_or_else(none)
            }
            Route::Broker(id) => {
                let none = none(ErrorCode::BROKER_NOT_AVAILABLE);
                let broker = cluster.broker(*id);
                broker.ok_or_else(|| none().with_broker(id.to_string()))
            }
            Route::Leader(partition) => {
                let topic = known(&self.topics, &partition.topic, operation)?;
                let found = topic.partition(partition.partition);
                let found = found.ok_or_else(none(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION))?;
                let leader = found.leader.and_then(|leader| cluster.broker(leader));
                leader.ok_or_else(none(ErrorCode::LEADER_NOT_AVAILABLE))
            }
            Route::Coordinator(group) => known(&self.coordinators, group, operation),
        }
    }

    /// Forgets what the last attempt stumbled over. What fails here, the next attempt fails with.
    pub(super) async fn look_again(
        &mut self,
        cluster: &Cluster,
        routes: &[Route],
        deadline: Instant,
    ) {
        let mut brokers = false;
        for route in routes {
            match route {
                Route::Any => {}
                Route::Controller | Route::Broker(_) => brokers = true,
                Route::Leader(partition) => {
                    self.topics.remove(&partition.topic);
                    self.stale.insert(partition.topic.clone());
                }
                Route::Coordinator(group) => drop(self.coordinators.remove(group)),
            }
        }
        if brokers {
            refresh_brokers(cluster, deadline).await;
        }
    }
}

fn known<T: Clone>(found: &Found<T>, name: &Arc<str>, operation: &'static str) -> Result<T, Error> {
    match found.get(name) {
        Some(Ok(found)) => Ok(found.clone()),
        Some(Err(error)) => Err(shared(error)),
        None => Err(Error::new(ErrorKind::TimedOut, operation)),
    }
}

async fn refresh_brokers(cluster: &Cluster, deadline: Instant) {
    if let Err(error) = cluster.refresh_brokers(deadline).await {
        let error = &error as &dyn std::error::Error;
        tracing::debug!(error, "no news of the brokers");
    }
}

async fn find_topic(
    cluster: &Cluster,
    topic: &str,
    is_stale: bool,
    deadline: Instant,
) -> Result<Arc<TopicMetadata>, Error> {
    let asked = async {
        if is_stale {
            cluster.refresh_topic(topic).await
        } else {
            cluster.topic(topic).await
        }
    };
    let timed_out = |_| Error::new(ErrorKind::TimedOut, MetadataRequest::NAME);
    timeout_at(deadline, asked).await.map_err(timed_out)?
}

async fn find_coordinator(
    cluster: &Cluster,
    group: &Arc<str>,
    deadline: Instant,
) -> Result<Arc<Broker>, Error> {
    let build = |version| convert::find_request(KeyType::Group, group, version);
    let (answer, version) = cluster.ask_any(deadline, build).await?;
    let found = convert::found_coordinator(&answer, version, group)?;
    let refused = |code| Error::from_code(code, FindCoordinatorRequest::NAME);
    found.error.into_result().map_err(refused)?;
    Ok(cluster.broker_at(found.id, found.host, found.port))
}
