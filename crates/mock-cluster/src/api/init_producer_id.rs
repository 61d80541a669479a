//! InitProducerId: a fresh id for an idempotent producer; for a transactional one its id with the
//! next epoch, which fences whoever had it before.

use kafka_protocol::messages::{InitProducerIdRequest, InitProducerIdResponse, ProducerId};

use super::shape::{BOOL, Field, I16, I32, I64, TEXT};
use super::{Api, Call, Names, Outcome, Range};
use crate::shared::Data;
use crate::txn::ProducerAt;
use crate::{ApiKey, codes};

/// `transaction.max.timeout.ms`, Kafka's default.
const MAX_TIMEOUT_MS: i32 = 900_000;
/// Older versions are told INVALID_PRODUCER_EPOCH (KIP-588).
const SAYS_FENCED_FROM: i16 = 4;

pub(super) struct InitProducerId;

impl Api for InitProducerId {
    const KEY: ApiKey = ApiKey::InitProducerId;
    const VERSIONS: Range = Range { min: 0, max: 5 };
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

    fn names(request: &Self::Request) -> Names {
        Names::default().and_transaction(request.transactional_id.as_ref().map(|id| id.as_str()))
    }

    fn refuse(_: &Self::Request, _: i16, code: i16) -> Option<Self::Response> {
        let none = InitProducerIdResponse::default().with_producer_id(ProducerId(-1));
        Some(none.with_producer_epoch(-1).with_error_code(code))
    }

    async fn handle(call: &Call<'_>, request: Self::Request) -> Outcome<Self::Response> {
        let mut data = call.shared.data();
        let initialised = init(&mut data, call, &request);
        // An open transaction may have been aborted.
        data.settle();
        drop(data);
        call.shared.timer.notify_one();
        match initialised {
            Ok(producer) => Outcome::Answer(
                InitProducerIdResponse::default()
                    .with_producer_id(ProducerId(producer.id))
                    .with_producer_epoch(producer.epoch),
            ),
            Err(code) => {
                let code = call.fenced(code, SAYS_FENCED_FROM);
                Self::refuse(&request, call.version, code).map_or(Outcome::Close, Outcome::Answer)
            }
        }
    }
}

fn init(
    data: &mut Data,
    call: &Call<'_>,
    request: &InitProducerIdRequest,
) -> Result<ProducerAt, i16> {
    let expected = match (request.producer_id.0, request.producer_epoch) {
        (-1, -1) => None,
        (-1, _) | (_, -1) => return Err(codes::INVALID_REQUEST),
        (id, epoch) => Some(ProducerAt { id, epoch }),
    };
    let ids = &mut data.producer_ids;
    let Some(name) = &request.transactional_id else {
        let id = ids.fresh();
        return Ok(ProducerAt { id, epoch: 0 });
    };
    if name.is_empty() {
        return Err(codes::INVALID_REQUEST);
    }
    let timeout = request.transaction_timeout_ms;
    if !(1..=MAX_TIMEOUT_MS).contains(&timeout) {
        return Err(codes::INVALID_TRANSACTION_TIMEOUT);
    }
    let transaction = data
        .transactions
        .at_or_new(call.broker, name, &data.topics, ids)?;
    transaction.init(expected, timeout as u64, ids)
}
