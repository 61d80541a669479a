//! Groups: which there are, who is in them, and their end.

use super::ask::{Answers, Call, Refusal, Task};
use super::places::Route;
use crate::connection::Api;
use crate::{Error, ErrorKind};
use kafka_protocol::messages::consumer_group_describe_response as consumers;
use kafka_protocol::messages::describe_groups_response::{DescribedGroup, DescribedGroupMember};
use kafka_protocol::messages::list_groups_response::ListedGroup;
use kafka_protocol::messages::{
    ConsumerGroupDescribeRequest, DeleteGroupsRequest, DescribeGroupsRequest, GroupId,
    ListGroupsRequest,
};
use kafka_protocol::protocol::StrBytes;
use ottla_types::consumer_protocol::{Assignment, CodecError, Subscription};
use ottla_types::{ErrorCode, TopicPartition};
use std::fmt;
use std::sync::Arc;

/// The protocol type of consumer groups.
const CONSUMER: &str = "consumer";
/// The first version of ListGroups that filters by state (KIP-518).
const STATES_FROM: i16 = 4;
/// The first version of ListGroups that filters by type (KIP-848); before it all are classic.
const TYPES_FROM: i16 = 5;

/// What a group is doing.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum GroupState {
    /// No members; only offsets.
    Empty,
    /// Waiting for its members to join again.
    PreparingRebalance,
    /// Waiting for the leader's assignment.
    CompletingRebalance,
    /// Every member has its assignment.
    Stable,
    /// An assignment is being computed (KIP-848).
    Assigning,
    /// Members are moving to a new assignment (KIP-848).
    Reconciling,
    /// There is no such group, or it is being deleted.
    Dead,
    /// Another, as the broker writes it.
    Other(String),
}

impl GroupState {
    const KNOWN: [Self; 7] = [
        Self::Empty,
        Self::PreparingRebalance,
        Self::CompletingRebalance,
        Self::Stable,
        Self::Assigning,
        Self::Reconciling,
        Self::Dead,
    ];

    /// The name that brokers use.
    pub fn name(&self) -> &str {
        match self {
            Self::Empty => "Empty",
            Self::PreparingRebalance => "PreparingRebalance",
            Self::CompletingRebalance => "CompletingRebalance",
            Self::Stable => "Stable",
            Self::Assigning => "Assigning",
            Self::Reconciling => "Reconciling",
            Self::Dead => "Dead",
            Self::Other(name) => name,
        }
    }

    fn read(name: &str) -> Self {
        let known = Self::KNOWN.into_iter().find(|state| state.name() == name);
        known.unwrap_or_else(|| Self::Other(name.to_owned()))
    }
}

impl fmt::Display for GroupState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Which protocol a group speaks.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum GroupType {
    /// JoinGroup and SyncGroup.
    Classic,
    /// KIP-848.
    Consumer,
    /// Another, as the broker writes it.
    Other(String),
}

impl GroupType {
    /// The name that brokers use.
    pub fn name(&self) -> &str {
        match self {
            Self::Classic => "classic",
            Self::Consumer => "consumer",
            Self::Other(name) => name,
        }
    }

    fn read(name: &str) -> Self {
        match name.to_ascii_lowercase().as_str() {
            "classic" => Self::Classic,
            "consumer" => Self::Consumer,
            other => Self::Other(other.to_owned()),
        }
    }
}

/// A group.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct GroupDescription {
    /// The group's id.
    pub group_id: String,
    /// Its type.
    pub group_type: GroupType,
    /// What it is doing.
    pub state: GroupState,
    /// `consumer` for groups of consumers.
    pub protocol_type: String,
    /// The assignor: the one that the members agreed on, empty unless the group is stable; or the
    /// broker's (KIP-848).
    pub protocol: String,
    /// The group's epoch (KIP-848); `None` for the classic protocol, which does not tell its
    /// generation.
    pub epoch: Option<i32>,
    /// The epoch that the assignment was made for (KIP-848): below `epoch` a new one is to come.
    pub assignment_epoch: Option<i32>,
    /// The members, ordered by id.
    pub members: Vec<MemberDescription>,
}

/// A member of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct MemberDescription {
    /// The id that the coordinator gave it.
    pub member_id: String,
    /// `group.instance.id` of a static member.
    pub instance_id: Option<String>,
    /// `client.id`.
    pub client_id: String,
    /// Where it comes from.
    pub host: String,
    /// Its rack, where it told one (KIP-848).
    pub rack: Option<String>,
    /// Its epoch (KIP-848).
    pub epoch: Option<i32>,
    /// The topics that it wants; of the classic protocol only while the group is stable and of
    /// consumers.
    pub topics: Vec<Arc<str>>,
    /// The expression over names of topics that it wants (KIP-848).
    pub topic_pattern: Option<String>,
    /// The partitions that it has, ordered; of the classic protocol only while the group is stable
    /// and of consumers.
    pub partitions: Vec<TopicPartition>,
    /// The partitions that it is to have, ordered (KIP-848); as `partitions` once the group is
    /// stable.
    pub target: Option<Vec<TopicPartition>>,
    /// Why `topics` or `partitions` could not be read from what the members exchange.
    pub unreadable: Option<CodecError>,
}

/// A group in a list.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct GroupListing {
    /// The group's id.
    pub group_id: String,
    /// `consumer` for groups of consumers; empty for one that was only ever committed to.
    pub protocol_type: String,
    /// What it is doing; `None` where the broker does not tell (ListGroups below version 4).
    pub state: Option<GroupState>,
    /// Its type.
    pub group_type: GroupType,
}

/// Which groups are listed: all, unless something is named.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GroupFilter {
    /// In one of these states. Brokers below version 4 of ListGroups cannot tell: an error.
    pub states: Vec<GroupState>,
    /// Of one of these types.
    pub types: Vec<GroupType>,
}

/// The groups of the cluster.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct GroupListings {
    /// The groups, ordered by id.
    pub groups: Vec<GroupListing>,
    /// The brokers, by id, whose groups are missing, and why.
    pub failures: Vec<(i32, Error)>,
}

fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

/// A question about groups: each goes to its coordinator, and its error names it.
pub(super) trait OfGroup: Sync {
    /// What is known, or done, when the coordinator has answered well.
    type Done: Send;
    const NAME: &'static str;
    const CHANGES: bool;

    fn check(_: &str) -> Result<(), Error> {
        Ok(())
    }

    fn ask(
        call: Call<'_>,
        groups: &[&Arc<str>],
    ) -> impl Future<Output = Result<Answers<Self>, Error>> + Send
    where
        Self: Sized;
}

impl<T: OfGroup> Task for T {
    type Item = Arc<str>;
    type Key = String;
    type Done = T::Done;
    const NAME: &'static str = T::NAME;
    const CHANGES: bool = T::CHANGES;

    fn key(&self, group: &Arc<str>) -> String {
        group.to_string()
    }

    fn route(&self, group: &Arc<str>) -> Route {
        Route::Coordinator(group.clone())
    }

    fn mark(&self, group: &Arc<str>, error: Error) -> Error {
        error.with_group(&**group)
    }

    fn check(&self, group: &Arc<str>) -> Result<(), Error> {
        T::check(group)
    }

    async fn ask(&self, call: Call<'_>, groups: &[&Arc<str>]) -> Result<Answers<Self>, Error> {
        T::ask(call, groups).await
    }
}

pub(super) struct Describe;

impl OfGroup for Describe {
    type Done = GroupDescription;
    const NAME: &'static str = DescribeGroupsRequest::NAME;
    const CHANGES: bool = false;

    async fn ask(call: Call<'_>, groups: &[&Arc<str>]) -> Result<Answers<Self>, Error> {
        let groups = groups.iter().map(|group| GroupId(text(group))).collect();
        let request = DescribeGroupsRequest::default().with_groups(groups);
        let (answer, _) = call.send(|_| request).await?;
        let answers = answer.groups.into_iter().map(|group| {
            let id = group.group_id.to_string();
            // Before version 6 a group that is not there is told as a dead one, without an error.
            let missing = group.error_code == 0 && &*group.group_state == GroupState::Dead.name();
            let code = if missing {
                ErrorCode::GROUP_ID_NOT_FOUND.0
            } else {
                group.error_code
            };
            let message = group.error_message.clone();
            (id, Refusal::read(code, message, describe(group)))
        });
        Ok(answers.collect())
    }
}

fn describe(group: DescribedGroup) -> GroupDescription {
    let of_consumers = &*group.protocol_type == CONSUMER;
    let members = group.members.into_iter();
    let mut members: Vec<_> = members
        .map(|member| describe_member(member, of_consumers))
        .collect();
    members.sort_unstable_by(|a, b| a.member_id.cmp(&b.member_id));
    GroupDescription {
        group_id: group.group_id.to_string(),
        group_type: GroupType::Classic,
        state: GroupState::read(&group.group_state),
        protocol_type: group.protocol_type.to_string(),
        protocol: group.protocol_data.to_string(),
        epoch: None,
        assignment_epoch: None,
        members,
    }
}

fn describe_member(member: DescribedGroupMember, of_consumers: bool) -> MemberDescription {
    let (mut topics, mut partitions, mut unreadable) = (Vec::new(), Vec::new(), None);
    // A group that is not stable shows neither.
    if of_consumers && !member.member_metadata.is_empty() {
        match Subscription::decode(&member.member_metadata) {
            Ok(subscription) => topics = subscription.topics,
            Err(error) => unreadable = Some(error),
        }
    }
    if of_consumers {
        match Assignment::decode(&member.member_assignment) {
            Ok(assignment) => partitions = assignment.partitions,
            Err(error) => unreadable = Some(error),
        }
    }
    partitions.sort_unstable();
    MemberDescription {
        member_id: member.member_id.to_string(),
        instance_id: member.group_instance_id.map(|id| id.to_string()),
        client_id: member.client_id.to_string(),
        host: member.client_host.to_string(),
        rack: None,
        epoch: None,
        topics,
        topic_pattern: None,
        partitions,
        target: None,
        unreadable,
    }
}

/// Groups of KIP-848; any other is not found.
pub(super) struct DescribeConsumers;

impl OfGroup for DescribeConsumers {
    type Done = GroupDescription;
    const NAME: &'static str = ConsumerGroupDescribeRequest::NAME;
    const CHANGES: bool = false;

    async fn ask(call: Call<'_>, groups: &[&Arc<str>]) -> Result<Answers<Self>, Error> {
        let groups = groups.iter().map(|group| GroupId(text(group))).collect();
        let request = ConsumerGroupDescribeRequest::default().with_group_ids(groups);
        let (answer, _) = call.send(|_| request).await?;
        let answers = answer.groups.into_iter().map(|group| {
            let (id, message) = (group.group_id.to_string(), group.error_message.clone());
            let described = Refusal::read(group.error_code, message, describe_consumers(group));
            (id, described)
        });
        Ok(answers.collect())
    }
}

fn describe_consumers(group: consumers::DescribedGroup) -> GroupDescription {
    let optional = |text: Option<StrBytes>| text.map(|text| text.to_string());
    let describe = |member: consumers::Member| MemberDescription {
        member_id: member.member_id.to_string(),
        instance_id: optional(member.instance_id),
        client_id: member.client_id.to_string(),
        host: member.client_host.to_string(),
        rack: optional(member.rack_id),
        epoch: Some(member.member_epoch),
        topics: member
            .subscribed_topic_names
            .iter()
            .map(|topic| Arc::from(topic.as_str()))
            .collect(),
        topic_pattern: optional(member.subscribed_topic_regex).filter(|p| !p.is_empty()),
        partitions: places(member.assignment),
        target: Some(places(member.target_assignment)),
        unreadable: None,
    };
    let mut members: Vec<_> = group.members.into_iter().map(describe).collect();
    members.sort_unstable_by(|a, b| a.member_id.cmp(&b.member_id));
    GroupDescription {
        group_id: group.group_id.to_string(),
        group_type: GroupType::Consumer,
        state: GroupState::read(&group.group_state),
        protocol_type: CONSUMER.to_owned(),
        protocol: group.assignor_name.to_string(),
        epoch: Some(group.group_epoch),
        assignment_epoch: Some(group.assignment_epoch),
        members,
    }
}

fn places(assignment: consumers::Assignment) -> Vec<TopicPartition> {
    let mut places = Vec::new();
    for topic in assignment.topic_partitions {
        let name: Arc<str> = Arc::from(topic.topic_name.as_str());
        let partitions = topic.partitions.into_iter();
        places.extend(partitions.map(|number| TopicPartition::new(name.clone(), number)));
    }
    places.sort_unstable();
    places
}

/// The groups that one broker coordinates.
pub(super) struct List(pub(super) GroupFilter);

impl Task for List {
    type Item = i32;
    type Key = i32;
    type Done = Vec<GroupListing>;
    const NAME: &'static str = ListGroupsRequest::NAME;
    const CHANGES: bool = false;

    fn key(&self, broker: &i32) -> i32 {
        *broker
    }

    fn route(&self, broker: &i32) -> Route {
        Route::Broker(*broker)
    }

    fn mark(&self, _: &i32, error: Error) -> Error {
        error
    }

    async fn ask(&self, call: Call<'_>, brokers: &[&i32]) -> Result<Answers<Self>, Error> {
        let filter = &self.0;
        let build = |version| {
            let request = ListGroupsRequest::default();
            // Encoding refuses states that the version has no room for.
            let states = filter.states.iter().map(|state| text(state.name()));
            let types = filter.types.iter().filter(|_| version >= TYPES_FROM);
            request
                .with_states_filter(states.collect())
                .with_types_filter(types.map(|kind| text(kind.name())).collect())
        };
        let (answer, version) = call.send(build).await?;
        let groups = answer.groups.into_iter();
        let groups = groups.map(|group| listing(group, version));
        let groups = groups
            .filter(|group| filter.types.is_empty() || filter.types.contains(&group.group_type));
        let listed = Refusal::read(answer.error_code, None, groups.collect());
        let broker = brokers.first().map(|broker| **broker);
        Ok(broker.into_iter().zip([listed]).collect())
    }
}

fn listing(group: ListedGroup, version: i16) -> GroupListing {
    GroupListing {
        group_id: group.group_id.to_string(),
        protocol_type: group.protocol_type.to_string(),
        state: (version >= STATES_FROM).then(|| GroupState::read(&group.group_state)),
        group_type: if version >= TYPES_FROM {
            GroupType::read(&group.group_type)
        } else {
            GroupType::Classic
        },
    }
}

pub(super) struct Delete;

impl OfGroup for Delete {
    type Done = ();
    const NAME: &'static str = DeleteGroupsRequest::NAME;
    const CHANGES: bool = true;

    fn check(group: &str) -> Result<(), Error> {
        if group.is_empty() {
            let none = Error::new(ErrorKind::Config, DeleteGroupsRequest::NAME);
            return Err(none.with_source("the empty id is no group's"));
        }
        Ok(())
    }

    async fn ask(call: Call<'_>, groups: &[&Arc<str>]) -> Result<Answers<Self>, Error> {
        let groups = groups.iter().map(|group| GroupId(text(group))).collect();
        let request = DeleteGroupsRequest::default().with_groups_names(groups);
        let (answer, _) = call.send(|_| request).await?;
        let answers = answer.results.into_iter().map(|group| {
            let gone = Refusal::read(group.error_code, None, ());
            (group.group_id.to_string(), gone)
        });
        Ok(answers.collect())
    }
}

/// Whether a broker does not describe groups of KIP-848.
pub(super) fn is_not_offered(error: &Error) -> bool {
    error.kind() == ErrorKind::Unsupported || error.code() == Some(ErrorCode::UNSUPPORTED_VERSION)
}
