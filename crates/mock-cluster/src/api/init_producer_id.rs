//! InitProducerId: a fresh id for an idempotent producer. There are no transactions: a
//! transactional id is refused.

use kafka_protocol::messages::{InitProducerIdRequest, InitProducerIdResponse, ProducerId};

use super::shape::{BOOL, Field, I16, I32, I64, TEXT};
use super::{Api, Call, Outcome, Versions};
use crate::{ApiKey, codes};

pub(super) struct InitProducerId;

impl Api for InitProducerId {
    const KEY: ApiKey = ApiKey::InitProducerId;
    const VERSIONS: Versions = Versions { min: 0, max: 5 };
    const FLEXIBLE: i16 = 2;
    const SHAPE: &'static [Field] = &[
        TEXT,
        I32,
        I64.from(3),
        I16.from(3),
        BOOL.from(6),
        BOOL.from(6),
    ];
    type Request = InitProducerIdRequest;
    type Response = InitProducerIdResponse;

    fn refuse(_: &Self::Request, _: i16, code: i16) -> Option<Self::Response> {
        let none = InitProducerIdResponse::default().with_producer_id(ProducerId(-1));
        Some(none.with_producer_epoch(-1).with_error_code(code))
    }

    async fn handle(call: &Call<'_>, request: Self::Request) -> Outcome<Self::Response> {
        if request.transactional_id.is_some() {
            let refused = Self::refuse(&request, call.version, codes::INVALID_REQUEST);
            return refused.map_or(Outcome::Close, Outcome::Answer);
        }
        let id = ProducerId(call.shared.data().new_producer_id());
        let fresh = InitProducerIdResponse::default().with_producer_id(id);
        Outcome::Answer(fresh.with_producer_epoch(0))
    }
}
