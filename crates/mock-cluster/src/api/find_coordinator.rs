//! FindCoordinator: the broker of a group or a transactional id. There are no share groups: their
//! key type is refused.

use kafka_protocol::messages::find_coordinator_response::Coordinator;
use kafka_protocol::messages::{BrokerId, FindCoordinatorRequest, FindCoordinatorResponse};
use kafka_protocol::protocol::StrBytes;

use super::shape::{Field, I8, TEXT, TEXTS};
use super::{Api, Call, Names, Outcome, Range, text};
use crate::shared::{Data, HOST};
use crate::{ApiKey, codes};

const GROUP: i8 = 0;
const TRANSACTION: i8 = 1;

pub(super) struct FindCoordinator;

impl Api for FindCoordinator {
    const KEY: ApiKey = ApiKey::FindCoordinator;
    const VERSIONS: Range = Range { min: 0, max: 6 };
    const FLEXIBLE: i16 = 3;
    const SHAPE: &'static [Field] = &[TEXT.to(3), I8.from(1), TEXTS.from(4)];
    type Request = FindCoordinatorRequest;
    type Response = FindCoordinatorResponse;

    fn names(request: &Self::Request) -> Names {
        let keys = request.coordinator_keys.iter().chain([&request.key]);
        let groups = keys
            .filter(|key| !key.is_empty())
            .map(|key| key.to_string());
        if request.key_type == TRANSACTION {
            return Names::default().and_transaction(groups.last().as_deref());
        }
        Names {
            groups: groups.collect(),
            ..Names::default()
        }
    }

    fn refuse(request: &Self::Request, version: i16, code: i16) -> Option<Self::Response> {
        Some(answer(request, version, |_| Err(code)))
    }

    async fn handle(call: &Call<'_>, request: Self::Request) -> Outcome<Self::Response> {
        let mut data = call.shared.data();
        let response = answer(&request, call.version, |key| {
            let Data {
                topics,
                coordinators,
                transactions,
                ..
            } = &mut *data;
            let broker = match request.key_type {
                GROUP => coordinators.find(key, topics)?,
                TRANSACTION => transactions.find(key, topics)?,
                _ => return Err(codes::INVALID_REQUEST),
            };
            Ok((broker, data.port(broker)))
        });
        Outcome::Answer(response)
    }
}

fn answer(
    request: &FindCoordinatorRequest,
    version: i16,
    mut find: impl FnMut(&str) -> Result<(i32, i32), i16>,
) -> FindCoordinatorResponse {
    let mut found = |key: &StrBytes| match find(key) {
        Ok((broker, port)) => Coordinator::default()
            .with_node_id(BrokerId(broker))
            .with_host(text(HOST))
            .with_port(port),
        Err(code) => Coordinator::default()
            .with_node_id(BrokerId(-1))
            .with_port(-1)
            .with_error_code(code),
    };
    if version >= 4 {
        let all = request
            .coordinator_keys
            .iter()
            .map(|key| found(key).with_key(key.clone()));
        return FindCoordinatorResponse::default().with_coordinators(all.collect());
    }
    let only = found(&request.key);
    FindCoordinatorResponse::default()
        .with_error_code(only.error_code)
        .with_node_id(only.node_id)
        .with_host(only.host)
        .with_port(only.port)
}
