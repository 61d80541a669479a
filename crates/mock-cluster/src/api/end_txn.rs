//! EndTxn: commits or aborts. Version 5 is that of KIP-890: each end raises the epoch, and the
//! answer says what the producer goes on with.

use kafka_protocol::messages::{EndTxnRequest, EndTxnResponse, ProducerId};

use super::shape::{BOOL, Field, I16, I64, TEXT};
use super::{Api, Call, Names, Outcome, Range};
use crate::ApiKey;
use crate::shared::Data;
use crate::txn::ProducerAt;

const BUMPS_FROM: i16 = 5;
const SAYS_FENCED_FROM: i16 = 2;

pub(super) struct EndTxn;

impl Api for EndTxn {
    const KEY: ApiKey = ApiKey::EndTxn;
    const VERSIONS: Range = Range { min: 0, max: 5 };
    const FLEXIBLE: i16 = 3;
    const SHAPE: &'static [Field] = &[TEXT, I64, I16, BOOL];
    type Request = EndTxnRequest;
    type Response = EndTxnResponse;

    fn names(request: &Self::Request) -> Names {
        Names::default().and_transaction(Some(&request.transactional_id))
    }

    fn refuse(_: &Self::Request, _: i16, code: i16) -> Option<Self::Response> {
        Some(EndTxnResponse::default().with_error_code(code))
    }

    async fn handle(call: &Call<'_>, request: Self::Request) -> Outcome<Self::Response> {
        let mut data = call.shared.data();
        let ended = end(&mut data, call, &request);
        data.settle();
        let response = match ended {
            Ok(producer) if call.version >= BUMPS_FROM => EndTxnResponse::default()
                .with_producer_id(ProducerId(producer.id))
                .with_producer_epoch(producer.epoch),
            Ok(_) => EndTxnResponse::default(),
            Err(code) => {
                let code = call.fenced(code, SAYS_FENCED_FROM);
                EndTxnResponse::default().with_error_code(code)
            }
        };
        Outcome::Answer(response)
    }
}

fn end(data: &mut Data, call: &Call<'_>, request: &EndTxnRequest) -> Result<ProducerAt, i16> {
    let producer = ProducerAt {
        id: request.producer_id.0,
        epoch: request.producer_epoch,
    };
    let name = &request.transactional_id;
    let transaction = data.transactions.at(call.broker, name, &data.topics)?;
    let bumps = call.version >= BUMPS_FROM;
    transaction.end(producer, request.committed, bumps, &mut data.producer_ids)
}
