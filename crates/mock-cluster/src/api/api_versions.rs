//! ApiVersions: what this broker speaks. A version above ours is answered as version 0 with
//! UNSUPPORTED_VERSION and our range (KIP-511).

use kafka_protocol::messages::api_versions_response::ApiVersion;
use kafka_protocol::messages::{ApiVersionsRequest, ApiVersionsResponse};

use super::shape::{Field, TEXT};
use super::{Api, Call, Outcome, Versions, advertised};
use crate::{ApiKey, codes};

pub(super) struct ApiVersions;

impl Api for ApiVersions {
    const KEY: ApiKey = ApiKey::ApiVersions;
    const VERSIONS: Versions = Versions { min: 0, max: 4 };
    const FLEXIBLE: i16 = 3;
    const SHAPE: &'static [Field] = &[TEXT.from(3), TEXT.from(3)];
    type Request = ApiVersionsRequest;
    type Response = ApiVersionsResponse;

    fn refuse(_: &Self::Request, _: i16, code: i16) -> Option<Self::Response> {
        Some(answer(code, advertised()))
    }

    async fn handle(_: &Call<'_>, _: Self::Request) -> Outcome<Self::Response> {
        Outcome::Answer(answer(codes::NONE, advertised()))
    }
}

/// The answer to a version that we do not know.
pub(super) fn unsupported() -> ApiVersionsResponse {
    let own = (
        ApiVersions::KEY.key(),
        ApiVersions::VERSIONS.min,
        ApiVersions::VERSIONS.max,
    );
    answer(codes::UNSUPPORTED_VERSION, vec![own])
}

fn answer(code: i16, versions: Vec<(i16, i16, i16)>) -> ApiVersionsResponse {
    let keys = versions.into_iter().map(|(key, min, max)| {
        ApiVersion::default()
            .with_api_key(key)
            .with_min_version(min)
            .with_max_version(max)
    });
    ApiVersionsResponse::default()
        .with_error_code(code)
        .with_api_keys(keys.collect())
}
