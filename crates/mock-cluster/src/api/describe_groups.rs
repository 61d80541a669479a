//! DescribeGroups: state, protocol and members. A group that does not exist is `Dead`; from version
//! 6 on with GROUP_ID_NOT_FOUND (KIP-1043).

use kafka_protocol::messages::describe_groups_response::{DescribedGroup, DescribedGroupMember};
use kafka_protocol::messages::{DescribeGroupsRequest, DescribeGroupsResponse};

use super::shape::{BOOL, Field, TEXTS};
use super::{Api, Call, Names, Outcome, Range, text};
use crate::group::{DescribedMember, Group, GroupState};
use crate::{ApiKey, codes};

pub(super) struct DescribeGroups;

impl Api for DescribeGroups {
    const KEY: ApiKey = ApiKey::DescribeGroups;
    const VERSIONS: Range = Range { min: 0, max: 6 };
    const FLEXIBLE: i16 = 5;
    const SHAPE: &'static [Field] = &[TEXTS, BOOL.from(3)];
    type Request = DescribeGroupsRequest;
    type Response = DescribeGroupsResponse;

    fn names(request: &Self::Request) -> Names {
        Names::groups(request.groups.iter().map(|group| group.as_str()))
    }

    fn refuse(request: &Self::Request, _: i16, code: i16) -> Option<Self::Response> {
        let refused = request.groups.iter().map(|group| {
            DescribedGroup::default()
                .with_group_id(group.clone())
                .with_error_code(code)
        });
        Some(DescribeGroupsResponse::default().with_groups(refused.collect()))
    }

    async fn handle(call: &Call<'_>, request: Self::Request) -> Outcome<Self::Response> {
        let mut data = call.shared.data();
        let groups = request.groups.into_iter().map(|name| {
            let answer = DescribedGroup::default().with_group_id(name.clone());
            if data.coordinators.get(&name).is_none() {
                return missing(answer, call.version);
            }
            match data.group(call.broker, &name) {
                Ok(group) if group.is_consumer() => missing(answer, call.version),
                Ok(group) => describe(answer, group, call.version),
                Err(code) => answer.with_error_code(code),
            }
        });
        Outcome::Answer(DescribeGroupsResponse::default().with_groups(groups.collect()))
    }
}

/// A group that is not there, or none of the classic protocol.
fn missing(answer: DescribedGroup, version: i16) -> DescribedGroup {
    let dead = answer.with_group_state(text(GroupState::Dead.name()));
    match version {
        ..6 => dead,
        _ => dead.with_error_code(codes::GROUP_ID_NOT_FOUND),
    }
}

fn describe(answer: DescribedGroup, group: &Group, version: i16) -> DescribedGroup {
    let members = group
        .members()
        .into_iter()
        .map(|member| describe_member(member, version));
    answer
        .with_group_state(text(group.state().name()))
        .with_protocol_type(text(group.protocol_type().unwrap_or_default()))
        .with_protocol_data(text(group.protocol().unwrap_or_default()))
        .with_members(members.collect())
}

fn describe_member(member: DescribedMember, version: i16) -> DescribedGroupMember {
    let described = DescribedGroupMember::default()
        .with_member_id(text(&member.member_id))
        .with_client_id(text(&member.client_id))
        .with_client_host(text(&member.client_host))
        .with_member_metadata(member.metadata)
        .with_member_assignment(member.assignment);
    if version >= 4 {
        described.with_group_instance_id(member.instance_id.map(Into::into))
    } else {
        described
    }
}
