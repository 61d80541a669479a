//! AddOffsetsToTxn: the group whose offsets a transaction of version 1 is about to commit.

use kafka_protocol::messages::{AddOffsetsToTxnRequest, AddOffsetsToTxnResponse};

use super::shape::{Field, I16, I64, TEXT};
use super::{Api, Call, Names, Outcome, Range};
use crate::txn::{Part, ProducerAt};
use crate::{ApiKey, codes};

const SAYS_FENCED_FROM: i16 = 2;

pub(super) struct AddOffsetsToTxn;

impl Api for AddOffsetsToTxn {
    const KEY: ApiKey = ApiKey::AddOffsetsToTxn;
    const VERSIONS: Range = Range { min: 0, max: 4 };
    const FLEXIBLE: i16 = 3;
    const SHAPE: &'static [Field] = &[TEXT, I64, I16, TEXT];
    type Request = AddOffsetsToTxnRequest;
    type Response = AddOffsetsToTxnResponse;

    fn names(request: &Self::Request) -> Names {
        Names::group(&request.group_id).and_transaction(Some(&request.transactional_id))
    }

    fn refuse(_: &Self::Request, _: i16, code: i16) -> Option<Self::Response> {
        Some(AddOffsetsToTxnResponse::default().with_error_code(code))
    }

    async fn handle(call: &Call<'_>, request: Self::Request) -> Outcome<Self::Response> {
        let producer = ProducerAt {
            id: request.producer_id.0,
            epoch: request.producer_epoch,
        };
        let now = call.shared.now_ms();
        let mut data = call.shared.data();
        let data = &mut *data;
        let name = &request.transactional_id;
        let added = data
            .transactions
            .at(call.broker, name, &data.topics)
            .and_then(|transaction| {
                transaction.add(producer, Part::Group(&request.group_id), false, now)
            });
        call.shared.timer.notify_one();
        let code = call.fenced(added.err().unwrap_or(codes::NONE), SAYS_FENCED_FROM);
        Outcome::Answer(AddOffsetsToTxnResponse::default().with_error_code(code))
    }
}
