//! ApiVersions: what this broker speaks. A version above ours is answered as version 0 with
//! UNSUPPORTED_VERSION and our range (KIP-511). The one finalised feature is transaction version 2
//! (KIP-584, KIP-890); version 1 goes without saying.

use kafka_protocol::messages::api_versions_response::{
    ApiVersion, FinalizedFeatureKey, SupportedFeatureKey,
};
use kafka_protocol::messages::{ApiVersionsRequest, ApiVersionsResponse};

use super::shape::{Field, TEXT};
use super::{Api, Call, Outcome, Range, advertised, taken, text};
use crate::versions::Versions;
use crate::{ApiKey, codes};

/// The first version that tells features.
const FEATURES_FROM: i16 = 3;

pub(super) struct ApiVersions;

impl Api for ApiVersions {
    const KEY: ApiKey = ApiKey::ApiVersions;
    const VERSIONS: Range = Range { min: 0, max: 4 };
    const FLEXIBLE: i16 = 3;
    const SHAPE: &'static [Field] = &[TEXT.from(3), TEXT.from(3)];
    type Request = ApiVersionsRequest;
    type Response = ApiVersionsResponse;

    fn refuse(_: &Self::Request, _: i16, code: i16) -> Option<Self::Response> {
        Some(answer(code, Vec::new()))
    }

    async fn handle(call: &Call<'_>, _: Self::Request) -> Outcome<Self::Response> {
        let config = &call.shared.config;
        let response = answer(codes::NONE, advertised(&config.versions));
        let level = config.transaction_version();
        if call.version < FEATURES_FROM || level < 2 {
            return Outcome::Answer(response);
        }
        let name = text("transaction.version");
        let supported = SupportedFeatureKey::default()
            .with_name(name.clone())
            .with_max_version(level);
        let finalized = FinalizedFeatureKey::default()
            .with_name(name)
            .with_max_version_level(level)
            .with_min_version_level(level);
        Outcome::Answer(
            response
                .with_supported_features(vec![supported])
                .with_finalized_features_epoch(1)
                .with_finalized_features(vec![finalized]),
        )
    }
}

/// The answer to a version that we do not know.
pub(super) fn unsupported(versions: &Versions) -> ApiVersionsResponse {
    let own = taken::<ApiVersions>(versions).unwrap_or(ApiVersions::VERSIONS);
    let key = ApiVersions::KEY.key();
    answer(codes::UNSUPPORTED_VERSION, vec![(key, own.min, own.max)])
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
