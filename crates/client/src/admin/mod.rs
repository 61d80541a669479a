//! Administration: topics, settings, records, groups and their offsets.
//!
//! [`Admin`] is made by [`Client::admin`](crate::Client::admin). Each call asks the brokers that can
//! answer (controller, coordinator, leader or all) and gives a result for each item, in the order
//! that was asked:
//!
//! - An error that passes (a moved controller, leader or coordinator, one that is still loading, a
//!   quota) is asked again until `request.timeout.ms` is over. So is a lost answer to a question.
//! - A lost answer to a change is not asked again: the change may have been carried out, and
//!   [`Error::fate`](crate::Error::fate) is `MaybeWritten`.
//! - An item that is named twice is asked about once; the second has the error INVALID_REQUEST.
//! - All calls are safe to cancel; a change that was sent is not taken back by that.
//!
//! | call | API | versions |
//! |---|---|---|
//! | [`describe_topics`](Admin::describe_topics) | Metadata | 4 to 12 |
//! | [`describe_cluster`](Admin::describe_cluster) | DescribeCluster (KIP-700), else Metadata | 0 to 2 |
//! | [`describe_configs`](Admin::describe_configs) | DescribeConfigs | 1 to 4 |
//! | [`alter_configs`](Admin::alter_configs) | IncrementalAlterConfigs (KIP-339) | 0 to 1 |
//! | [`create_partitions`](Admin::create_partitions) | CreatePartitions | 0 to 3 |
//! | [`delete_records`](Admin::delete_records) | DeleteRecords (KIP-107) | 0 to 2 |
//! | [`describe_groups`](Admin::describe_groups) | DescribeGroups, ConsumerGroupDescribe (KIP-848) | 0 to 6, 0 to 1 |
//! | [`list_groups`](Admin::list_groups) | ListGroups | 0 to 5 |
//! | [`delete_groups`](Admin::delete_groups) | DeleteGroups (KIP-229) | 0 to 2 |
//! | [`group_offsets`](Admin::group_offsets) | OffsetFetch | 1 to 9 |
//! | [`alter_group_offsets`](Admin::alter_group_offsets) | OffsetCommit | 2 to 9 |
//! | [`delete_group_offsets`](Admin::delete_group_offsets) | OffsetDelete (KIP-496) | 0 |
//!
//! [`check_durability`](Admin::check_durability) puts some of these together.

mod ask;
mod cluster;
mod configs;
mod durability;
mod groups;
mod offsets;
mod partitions;
mod places;
pub(crate) mod topics;

pub use cluster::{BrokerDescription, ClusterDescription};
pub use configs::{AlterConfigs, ConfigEntry, ConfigOperation, ConfigResource, ConfigSource};
pub use durability::{DurabilityDemands, DurabilityMode, DurabilityReport, Finding, Severity};
pub use groups::{
    GroupDescription, GroupFilter, GroupListing, GroupListings, GroupState, GroupType,
    MemberDescription,
};
pub use offsets::CommittedOffset;
pub use partitions::DeleteUpTo;

use crate::cluster::Cluster;
use crate::connection::Api;
use crate::{Error, TopicMetadata};
use futures_util::future::join_all;
use kafka_protocol::messages::OffsetFetchRequest;
use ottla_types::coordinator::CommitOffset;
use ottla_types::{ErrorCode, Offset, TopicPartition};
use std::fmt;
use std::sync::Arc;

/// Each item that was asked about, with its result.
pub type Each<I, D> = Vec<(I, Result<D, Error>)>;

/// Administration of a cluster. Cloning is cheap. See the [module](self) for what holds for every
/// call.
#[derive(Clone)]
pub struct Admin {
    cluster: Arc<Cluster>,
}

impl fmt::Debug for Admin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admin").finish_non_exhaustive()
    }
}

impl Admin {
    pub(crate) fn new(cluster: Arc<Cluster>) -> Self {
        Self { cluster }
    }

    async fn each<T: ask::Task>(&self, task: &T, items: Vec<T::Item>) -> ask::Results<T> {
        let deadline = self.cluster.request_deadline();
        ask::each(&self.cluster, task, items, deadline).await
    }

    /// Describes topics as the cluster has them now.
    ///
    /// Errors of a topic are those of [`Client::refresh_topic`](crate::Client::refresh_topic).
    pub async fn describe_topics(&self, topics: Vec<String>) -> Each<String, Arc<TopicMetadata>> {
        let described = topics.into_iter().map(|topic| async move {
            let described = self.cluster.refresh_topic(&topic).await;
            (topic, described)
        });
        join_all(described).await
    }

    /// Describes the cluster: by DescribeCluster, or by Metadata where brokers do not speak that.
    ///
    /// # Errors
    /// When no broker answered in time.
    pub async fn describe_cluster(&self) -> Result<ClusterDescription, Error> {
        cluster::describe(&self.cluster, self.cluster.request_deadline()).await
    }

    /// The settings of topics and brokers, those that are set and the defaults; of
    /// [`ConfigResource::AllBrokers`] only what was set at run time. Any broker answers for topics, from
    /// what it knows: right after a change one may still tell the old value.
    pub async fn describe_configs(
        &self,
        resources: Vec<ConfigResource>,
    ) -> Each<ConfigResource, Vec<ConfigEntry>> {
        self.each(&configs::Describe(None), resources).await
    }

    /// The same for these settings only; one that a resource does not have is left out.
    pub async fn describe_configs_named(
        &self,
        resources: Vec<ConfigResource>,
        names: Vec<String>,
    ) -> Each<ConfigResource, Vec<ConfigEntry>> {
        self.each(&configs::Describe(Some(names)), resources).await
    }

    /// Alters settings; what is not named stays as it is. The changes to one resource are made
    /// together or not at all.
    pub async fn alter_configs(&self, changes: Vec<AlterConfigs>) -> Each<ConfigResource, ()> {
        self.alter(changes, false).await
    }

    /// Asks whether [`alter_configs`](Self::alter_configs) would be taken, and alters nothing.
    pub async fn validate_configs(&self, changes: Vec<AlterConfigs>) -> Each<ConfigResource, ()> {
        self.alter(changes, true).await
    }

    async fn alter(
        &self,
        changes: Vec<AlterConfigs>,
        validate_only: bool,
    ) -> Each<ConfigResource, ()> {
        let altered = self.each(&configs::Alter { validate_only }, changes).await;
        let altered = altered
            .into_iter()
            .map(|(changes, done)| (changes.resource, done));
        altered.collect()
    }

    /// Raises the number of a topic's partitions to the number given, which must be above that of
    /// now. Records of a key may go to another partition from then on.
    pub async fn create_partitions(&self, topics: Vec<(String, i32)>) -> Each<String, ()> {
        let made = self.each(&partitions::CreatePartitions, topics).await;
        let made = made.into_iter().map(|((topic, _), made)| (topic, made));
        made.collect()
    }

    /// Deletes the oldest records of partitions, at each one's leader. Gives the low watermark: the
    /// first offset that is still there.
    pub async fn delete_records(
        &self,
        partitions: Vec<(TopicPartition, DeleteUpTo)>,
    ) -> Each<TopicPartition, Offset> {
        let deleted = self.each(&partitions::DeleteRecords, partitions).await;
        let deleted = deleted
            .into_iter()
            .map(|((partition, _), low)| (partition, low));
        deleted.collect()
    }

    /// Describes groups of either protocol, with what each member wants and has. A group that does
    /// not exist is an error with code GROUP_ID_NOT_FOUND, whatever the broker's version; so is one
    /// of KIP-848 where the coordinator does not speak ConsumerGroupDescribe.
    pub async fn describe_groups(&self, groups: Vec<String>) -> Each<String, GroupDescription> {
        let mut described = self.each(&groups::Describe, arcs(groups)).await;
        // What is no group of the classic protocol is asked for as one of KIP-848.
        let is_missing = |result: &Result<_, Error>| {
            let code = result.as_ref().err().and_then(Error::code);
            code == Some(ErrorCode::GROUP_ID_NOT_FOUND)
        };
        let missing = described.iter().filter(|(_, result)| is_missing(result));
        let missing: Vec<_> = missing.map(|(group, _)| group.clone()).collect();
        let consumers = self.each(&groups::DescribeConsumers, missing).await;
        let mut consumers = consumers.into_iter();
        for (_, result) in described
            .iter_mut()
            .filter(|(_, result)| is_missing(result))
        {
            match consumers.next().map(|(_, found)| found) {
                Some(Ok(found)) => *result = Ok(found),
                // Kafka 3.9 may know the API and have it switched off.
                Some(Err(error)) if groups::is_not_offered(&error) => {}
                Some(Err(error)) => *result = Err(error),
                None => {}
            }
        }
        strings(described)
    }

    /// Lists the groups of every broker. A broker that does not answer takes nothing from the
    /// others: it is told among the failures.
    ///
    /// # Errors
    /// When no broker told which brokers there are.
    pub async fn list_groups(&self, filter: GroupFilter) -> Result<GroupListings, Error> {
        let deadline = self.cluster.request_deadline();
        self.cluster.refresh_brokers(deadline).await?;
        let brokers = self.cluster.broker_ids();
        let listed = ask::each(&self.cluster, &groups::List(filter), brokers, deadline).await;
        let mut listings = GroupListings::default();
        for (broker, listed) in listed {
            match listed {
                Ok(groups) => listings.groups.extend(groups),
                Err(error) => listings.failures.push((broker, error)),
            }
        }
        listings
            .groups
            .sort_unstable_by(|a, b| a.group_id.cmp(&b.group_id));
        // A group that moves meanwhile is named by two brokers.
        listings.groups.dedup_by(|a, b| a.group_id == b.group_id);
        Ok(listings)
    }

    /// Deletes groups without members, with their offsets. One with members has the error
    /// NON_EMPTY_GROUP, one that does not exist GROUP_ID_NOT_FOUND.
    pub async fn delete_groups(&self, groups: Vec<String>) -> Each<String, ()> {
        strings(self.each(&groups::Delete, arcs(groups)).await)
    }

    /// What a group has committed: for these partitions (`None` where nothing is), or with `None`
    /// for every partition that it has an offset for.
    ///
    /// # Errors
    /// When the coordinator could not be asked, or refused the whole question.
    pub async fn group_offsets(
        &self,
        group: &str,
        partitions: Option<Vec<TopicPartition>>,
    ) -> Result<Each<TopicPartition, Option<CommittedOffset>>, Error> {
        let deadline = self.cluster.request_deadline();
        let task = offsets::Fetch(partitions);
        let fetched = ask::one(&self.cluster, &task, group.into(), deadline).await?;
        let read = fetched.into_iter().map(|fetched| {
            let partition = fetched.partition;
            let committed = fetched.offset.map(|offset| CommittedOffset {
                offset,
                leader_epoch: fetched.leader_epoch,
                metadata: fetched.metadata,
            });
            let result = fetched.error.into_result().map(|()| committed);
            let result = result.map_err(|code| {
                let error = Error::from_code(code, OffsetFetchRequest::NAME);
                error.with_group(group).with_partition(partition.clone())
            });
            (partition, result)
        });
        Ok(read.collect())
    }

    /// Commits offsets for a group that has no members now; it is made if it does not exist. A group
    /// with members has the error UNKNOWN_MEMBER_ID: stop them first.
    pub async fn alter_group_offsets(
        &self,
        group: &str,
        offsets: Vec<CommitOffset>,
    ) -> Each<TopicPartition, ()> {
        let done = self.each(&offsets::Commit(group.into()), offsets).await;
        let done = done
            .into_iter()
            .map(|(offset, done)| (offset.partition, done));
        done.collect()
    }

    /// Deletes a group's offsets of partitions. Those of a topic that its members read have the
    /// error GROUP_SUBSCRIBED_TO_TOPIC.
    pub async fn delete_group_offsets(
        &self,
        group: &str,
        partitions: Vec<TopicPartition>,
    ) -> Each<TopicPartition, ()> {
        self.each(&offsets::Delete(group.into()), partitions).await
    }
}

fn arcs(names: Vec<String>) -> Vec<Arc<str>> {
    names.into_iter().map(Arc::from).collect()
}

fn strings<D>(each: Each<Arc<str>, D>) -> Each<String, D> {
    let named = each
        .into_iter()
        .map(|(name, done)| (name.to_string(), done));
    named.collect()
}
