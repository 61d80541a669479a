//! JoinGroup: waits until the rebalance lets the member in.

use bytes::Bytes;
use kafka_protocol::messages::join_group_response::JoinGroupResponseMember;
use kafka_protocol::messages::{JoinGroupRequest, JoinGroupResponse};
use uuid::Uuid;

use super::shape::{BLOB, Field, I32, TEXT, structs};
use super::{Api, Call, NEVER_ANSWERED, Names, Outcome, Range, owned, text};
use crate::ApiKey;
use crate::group::{Answer, JoinAnswer, JoinRequest};
use crate::shared::Data;

pub(super) struct JoinGroup;

impl Api for JoinGroup {
    const KEY: ApiKey = ApiKey::JoinGroup;
    const VERSIONS: Range = Range { min: 0, max: 9 };
    const FLEXIBLE: i16 = 6;
    const SHAPE: &'static [Field] = &[
        TEXT,
        I32,
        I32.from(1),
        TEXT,
        TEXT.from(5),
        TEXT,
        structs(&[TEXT, BLOB]),
        TEXT.from(8),
    ];
    type Request = JoinGroupRequest;
    type Response = JoinGroupResponse;

    fn names(request: &Self::Request) -> Names {
        Names::group(&request.group_id)
    }

    fn refuse(request: &Self::Request, version: i16, code: i16) -> Option<Self::Response> {
        Some(response(
            JoinAnswer::refused(code, &request.member_id),
            version,
        ))
    }

    async fn handle(call: &Call<'_>, request: Self::Request) -> Outcome<Self::Response> {
        let waiting = {
            let now = call.shared.now_ms();
            let mut data = call.shared.data();
            let Data {
                topics,
                coordinators,
                ..
            } = &mut *data;
            let (ticket, waiting) = coordinators.ticket();
            match coordinators.at(call.broker, &request.group_id, topics) {
                Ok(group) => group.join(join_request(call, &request), ticket, now),
                Err(code) => {
                    coordinators.withdraw(ticket);
                    return Self::refuse(&request, call.version, code)
                        .map_or(Outcome::Close, Outcome::Answer);
                }
            }
            coordinators.deliver(&request.group_id);
            waiting
        };
        call.shared.timer.notify_one();
        let answer = match waiting.await {
            Ok(Answer::Join(answer)) => answer,
            _ => JoinAnswer::refused(NEVER_ANSWERED, &request.member_id),
        };
        Outcome::Answer(response(answer, call.version))
    }
}

fn join_request(call: &Call<'_>, request: &JoinGroupRequest) -> JoinRequest {
    // Copies: a slice would keep its whole frame alive for as long as the member lives.
    let protocols = request.protocols.iter().map(|protocol| {
        (
            protocol.name.to_string(),
            Bytes::copy_from_slice(&protocol.metadata),
        )
    });
    let instance_id = owned(request.group_instance_id.as_ref());
    let prefix = instance_id.as_deref().unwrap_or(call.client_id);
    let rebalance = request.rebalance_timeout_ms;
    JoinRequest {
        member_id: request.member_id.to_string(),
        protocol_type: request.protocol_type.to_string(),
        protocols: protocols.collect(),
        session_timeout_ms: request.session_timeout_ms,
        rebalance_timeout_ms: if call.version >= 1 {
            rebalance
        } else {
            request.session_timeout_ms
        },
        client_id: call.client_id.to_owned(),
        client_host: format!("/{}", call.host),
        candidate_id: format!("{prefix}-{}", Uuid::now_v7()),
        instance_id,
        requires_known_id: call.version >= 4,
        can_skip_assignment: call.version >= 9,
    }
}

fn response(answer: JoinAnswer, version: i16) -> JoinGroupResponse {
    let members = answer.members.into_iter().map(|(id, instance, metadata)| {
        let member = JoinGroupResponseMember::default()
            .with_member_id(text(&id))
            .with_metadata(metadata);
        if version >= 5 {
            member.with_group_instance_id(instance.map(Into::into))
        } else {
            member
        }
    });
    // Null only from version 7 on.
    let null_before_7 = |value: Option<String>| {
        if version >= 7 {
            value
        } else {
            Some(value.unwrap_or_default())
        }
    };
    let response = JoinGroupResponse::default()
        .with_error_code(answer.error)
        .with_generation_id(answer.generation)
        .with_protocol_name(null_before_7(answer.protocol).map(Into::into))
        .with_leader(text(&answer.leader))
        .with_member_id(text(&answer.member_id))
        .with_members(members.collect());
    let response = if version >= 7 {
        response.with_protocol_type(answer.protocol_type.map(Into::into))
    } else {
        response
    };
    if version >= 9 {
        response.with_skip_assignment(answer.skip_assignment)
    } else {
        response
    }
}
