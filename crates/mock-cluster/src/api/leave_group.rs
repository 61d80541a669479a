//! LeaveGroup: one member, or from version 3 on several (KIP-345).

use kafka_protocol::messages::leave_group_response::MemberResponse;
use kafka_protocol::messages::{LeaveGroupRequest, LeaveGroupResponse};

use super::shape::{Field, TEXT, structs};
use super::{Api, Call, Names, Outcome, Range, owned, text};
use crate::group::LeaveRequest;
use crate::{ApiKey, codes};

pub(super) struct LeaveGroup;

impl Api for LeaveGroup {
    const KEY: ApiKey = ApiKey::LeaveGroup;
    const VERSIONS: Range = Range { min: 0, max: 5 };
    const FLEXIBLE: i16 = 4;
    const SHAPE: &'static [Field] = &[
        TEXT,
        TEXT.to(2),
        structs(&[TEXT, TEXT, TEXT.from(5)]).from(3),
    ];
    type Request = LeaveGroupRequest;
    type Response = LeaveGroupResponse;

    fn names(request: &Self::Request) -> Names {
        Names::group(&request.group_id)
    }

    fn refuse(_: &Self::Request, _: i16, code: i16) -> Option<Self::Response> {
        Some(LeaveGroupResponse::default().with_error_code(code))
    }

    async fn handle(call: &Call<'_>, request: Self::Request) -> Outcome<Self::Response> {
        let now = call.shared.now_ms();
        let mut data = call.shared.data();
        let group = match data.group(call.broker, &request.group_id) {
            Ok(group) => group,
            Err(code) => {
                return Outcome::Answer(LeaveGroupResponse::default().with_error_code(code));
            }
        };
        let mut results = Vec::new();
        for leaving in leaving(&request, call.version) {
            let code = group.leave(&leaving, now);
            let result = MemberResponse::default()
                .with_member_id(text(&leaving.member_id))
                .with_group_instance_id(leaving.instance_id.map(Into::into))
                .with_error_code(code);
            results.push(result);
        }
        data.coordinators.deliver(&request.group_id);
        call.shared.timer.notify_one();
        Outcome::Answer(if call.version >= 3 {
            LeaveGroupResponse::default().with_members(results)
        } else {
            let code = results
                .first()
                .map_or(codes::NONE, |result| result.error_code);
            LeaveGroupResponse::default().with_error_code(code)
        })
    }
}

fn leaving(request: &LeaveGroupRequest, version: i16) -> Vec<LeaveRequest> {
    if version < 3 {
        let member_id = request.member_id.to_string();
        return vec![LeaveRequest {
            member_id,
            instance_id: None,
        }];
    }
    let members = request.members.iter().map(|member| LeaveRequest {
        member_id: member.member_id.to_string(),
        instance_id: owned(member.group_instance_id.as_ref()),
    });
    members.collect()
}
