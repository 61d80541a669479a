//! ConsumerGroupDescribe (KIP-848): epochs, members and assignments of groups of that protocol. Any
//! other group is not found.

use kafka_protocol::messages::consumer_group_describe_response::{
    Assignment, DescribedGroup, Member, TopicPartitions,
};
use kafka_protocol::messages::{ConsumerGroupDescribeRequest, ConsumerGroupDescribeResponse};
use std::collections::BTreeMap;
use uuid::Uuid;

use super::shape::{BOOL, Field, TEXTS};
use super::{Api, Call, Names, Outcome, Range, text};
use crate::consumer_group::{Description, MemberDescription, Set};
use crate::{ApiKey, codes};

pub(super) struct ConsumerGroupDescribe;

/// What `member_type` says of a member that speaks KIP-848.
const CONSUMER: i8 = 1;

impl Api for ConsumerGroupDescribe {
    const KEY: ApiKey = ApiKey::ConsumerGroupDescribe;
    const VERSIONS: Range = Range { min: 0, max: 1 };
    const FLEXIBLE: i16 = 0;
    const SHAPE: &'static [Field] = &[TEXTS, BOOL];
    type Request = ConsumerGroupDescribeRequest;
    type Response = ConsumerGroupDescribeResponse;

    fn names(request: &Self::Request) -> Names {
        Names::groups(request.group_ids.iter().map(|group| group.as_str()))
    }

    fn refuse(request: &Self::Request, _: i16, code: i16) -> Option<Self::Response> {
        let refused = request.group_ids.iter().map(|group| {
            DescribedGroup::default()
                .with_group_id(group.clone())
                .with_error_code(code)
        });
        Some(ConsumerGroupDescribeResponse::default().with_groups(refused.collect()))
    }

    async fn handle(call: &Call<'_>, request: Self::Request) -> Outcome<Self::Response> {
        if !call.shared.config.versions.has_consumer_groups {
            let refused = Self::refuse(&request, call.version, codes::UNSUPPORTED_VERSION);
            return Outcome::Answer(refused.unwrap_or_default());
        }
        let mut data = call.shared.data();
        let topics = data.topics.by_name.iter();
        let names: BTreeMap<Uuid, String> = topics
            .map(|(name, topic)| (topic.id, name.clone()))
            .collect();
        let groups = request.group_ids.into_iter().map(|id| {
            let answer = DescribedGroup::default().with_group_id(id.clone());
            if data.coordinators.get(&id).is_none() {
                return answer.with_error_code(codes::GROUP_ID_NOT_FOUND);
            }
            match data.group(call.broker, &id) {
                Ok(group) if group.is_consumer() => {
                    describe(answer, group.describe_consumer(), &names, call.version)
                }
                Ok(_) => answer.with_error_code(codes::GROUP_ID_NOT_FOUND),
                Err(code) => answer.with_error_code(code),
            }
        });
        Outcome::Answer(ConsumerGroupDescribeResponse::default().with_groups(groups.collect()))
    }
}

fn describe(
    answer: DescribedGroup,
    group: Description,
    names: &BTreeMap<Uuid, String>,
    version: i16,
) -> DescribedGroup {
    let members = group.members.into_iter();
    let members = members.map(|member| describe_member(member, names, version));
    answer
        .with_group_state(text(group.state))
        .with_group_epoch(group.epoch)
        .with_assignment_epoch(group.assignment_epoch)
        .with_assignor_name(text(group.assignor))
        .with_members(members.collect())
}

fn describe_member(
    member: MemberDescription,
    names: &BTreeMap<Uuid, String>,
    version: i16,
) -> Member {
    let pattern = Some(member.pattern).filter(|pattern| !pattern.is_empty());
    let topics = member.topics.iter().map(|topic| text(topic).into());
    let described = Member::default()
        .with_member_id(text(&member.member_id))
        .with_instance_id(member.instance_id.map(Into::into))
        .with_member_epoch(member.epoch)
        .with_client_id(text(&member.client_id))
        .with_client_host(text(&member.client_host))
        .with_subscribed_topic_names(topics.collect())
        .with_subscribed_topic_regex(pattern.map(Into::into))
        .with_assignment(assignment(&member.assigned, names))
        .with_target_assignment(assignment(&member.target, names));
    match version {
        0 => described,
        _ => described.with_member_type(CONSUMER),
    }
}

fn assignment(set: &Set, names: &BTreeMap<Uuid, String>) -> Assignment {
    let mut topics: BTreeMap<Uuid, Vec<i32>> = BTreeMap::new();
    for (id, partition) in set {
        topics.entry(*id).or_default().push(*partition);
    }
    let topics = topics.into_iter().map(|(id, partitions)| {
        let name = names.get(&id).map(String::as_str).unwrap_or_default();
        TopicPartitions::default()
            .with_topic_id(id)
            .with_topic_name(text(name).into())
            .with_partitions(partitions)
    });
    Assignment::default().with_topic_partitions(topics.collect())
}
