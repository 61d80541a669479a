//! DescribeCluster (KIP-700): the brokers and the controller.

use kafka_protocol::messages::describe_cluster_response::DescribeClusterBroker;
use kafka_protocol::messages::{DescribeClusterRequest, DescribeClusterResponse};

use super::shape::{BOOL, Field, I8};
use super::{Api, Call, Outcome, Range, text};
use crate::shared::{CLUSTER_ID, HOST};
use crate::{ApiKey, codes};

/// Asks about brokers; 2 would be controllers, which answer at a port of their own.
const BROKERS: i8 = 1;

pub(super) struct DescribeCluster;

impl Api for DescribeCluster {
    const KEY: ApiKey = ApiKey::DescribeCluster;
    const VERSIONS: Range = Range { min: 0, max: 2 };
    const FLEXIBLE: i16 = 0;
    const SHAPE: &'static [Field] = &[BOOL, I8.from(1), BOOL.from(2)];
    type Request = DescribeClusterRequest;
    type Response = DescribeClusterResponse;

    fn refuse(_: &Self::Request, _: i16, code: i16) -> Option<Self::Response> {
        Some(DescribeClusterResponse::default().with_error_code(code))
    }

    async fn handle(call: &Call<'_>, request: Self::Request) -> Outcome<Self::Response> {
        if call.version >= 1 && request.endpoint_type != BROKERS {
            let code = codes::MISMATCHED_ENDPOINT_TYPE;
            return Outcome::Answer(DescribeClusterResponse::default().with_error_code(code));
        }
        let data = call.shared.data();
        let live = data.topics.brokers.iter().filter(|(_, up)| **up);
        let brokers = live.map(|(id, _)| {
            DescribeClusterBroker::default()
                .with_broker_id((*id).into())
                .with_host(text(HOST))
                .with_port(data.port(*id))
                .with_rack(call.shared.config.rack(*id).map(text))
        });
        let response = DescribeClusterResponse::default()
            .with_cluster_id(text(CLUSTER_ID))
            .with_controller_id(data.topics.controller().into())
            .with_brokers(brokers.collect());
        Outcome::Answer(response)
    }
}
