//! SyncGroup: waits until the leader has assigned.

use bytes::Bytes;
use kafka_protocol::messages::{SyncGroupRequest, SyncGroupResponse};

use super::shape::{BLOB, Field, I32, TEXT, structs};
use super::{Api, Call, NEVER_ANSWERED, Names, Outcome, Range, owned};
use crate::ApiKey;
use crate::group::{Answer, MemberCall, SyncAnswer, SyncRequest};
use crate::shared::Data;

pub(super) struct SyncGroup;

impl Api for SyncGroup {
    const KEY: ApiKey = ApiKey::SyncGroup;
    const VERSIONS: Range = Range { min: 0, max: 5 };
    const FLEXIBLE: i16 = 4;
    const SHAPE: &'static [Field] = &[
        TEXT,
        I32,
        TEXT,
        TEXT.from(3),
        TEXT.from(5),
        TEXT.from(5),
        structs(&[TEXT, BLOB]),
    ];
    type Request = SyncGroupRequest;
    type Response = SyncGroupResponse;

    fn names(request: &Self::Request) -> Names {
        Names::group(&request.group_id)
    }

    fn refuse(_: &Self::Request, version: i16, code: i16) -> Option<Self::Response> {
        Some(response(SyncAnswer::refused(code), version))
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
                Ok(group) => group.sync(sync_request(&request), ticket, now),
                Err(code) => {
                    coordinators.withdraw(ticket);
                    return Outcome::Answer(response(SyncAnswer::refused(code), call.version));
                }
            }
            coordinators.deliver(&request.group_id);
            waiting
        };
        call.shared.timer.notify_one();
        let answer = match waiting.await {
            Ok(Answer::Sync(answer)) => answer,
            _ => SyncAnswer::refused(NEVER_ANSWERED),
        };
        Outcome::Answer(response(answer, call.version))
    }
}

fn sync_request(request: &SyncGroupRequest) -> SyncRequest {
    let assignments = request.assignments.iter().map(|assigned| {
        (
            assigned.member_id.to_string(),
            Bytes::copy_from_slice(&assigned.assignment),
        )
    });
    SyncRequest {
        caller: MemberCall {
            member_id: request.member_id.to_string(),
            instance_id: owned(request.group_instance_id.as_ref()),
            generation: request.generation_id,
        },
        protocol_type: owned(request.protocol_type.as_ref()),
        protocol: owned(request.protocol_name.as_ref()),
        assignments: assignments.collect(),
    }
}

fn response(answer: SyncAnswer, version: i16) -> SyncGroupResponse {
    let response = SyncGroupResponse::default()
        .with_error_code(answer.error)
        .with_assignment(answer.assignment);
    if version < 5 {
        return response;
    }
    response
        .with_protocol_type(answer.protocol_type.map(Into::into))
        .with_protocol_name(answer.protocol.map(Into::into))
}
