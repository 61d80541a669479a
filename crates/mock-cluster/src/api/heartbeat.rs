//! Heartbeat: keeps a member's session, and tells it of a rebalance.

use kafka_protocol::messages::{HeartbeatRequest, HeartbeatResponse};

use super::shape::{Field, I32, TEXT};
use super::{Api, Call, Names, Outcome, Range, owned};
use crate::ApiKey;
use crate::group::MemberCall;

pub(super) struct Heartbeat;

impl Api for Heartbeat {
    const KEY: ApiKey = ApiKey::Heartbeat;
    const VERSIONS: Range = Range { min: 0, max: 4 };
    const FLEXIBLE: i16 = 4;
    const SHAPE: &'static [Field] = &[TEXT, I32, TEXT, TEXT.from(3)];
    type Request = HeartbeatRequest;
    type Response = HeartbeatResponse;

    fn names(request: &Self::Request) -> Names {
        Names::group(&request.group_id)
    }

    fn refuse(_: &Self::Request, _: i16, code: i16) -> Option<Self::Response> {
        Some(HeartbeatResponse::default().with_error_code(code))
    }

    async fn handle(call: &Call<'_>, request: Self::Request) -> Outcome<Self::Response> {
        let caller = MemberCall {
            member_id: request.member_id.to_string(),
            instance_id: owned(request.group_instance_id.as_ref()),
            generation: request.generation_id,
        };
        let now = call.shared.now_ms();
        let mut data = call.shared.data();
        let code = match data.group(call.broker, &request.group_id) {
            Ok(group) => group.heartbeat(&caller, now),
            Err(code) => code,
        };
        Outcome::Answer(HeartbeatResponse::default().with_error_code(code))
    }
}
