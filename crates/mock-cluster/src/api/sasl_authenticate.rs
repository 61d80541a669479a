//! SaslAuthenticate: one token of the mechanism (KIP-152), and how long the session lasts (KIP-368).

use kafka_protocol::messages::{SaslAuthenticateRequest, SaslAuthenticateResponse};

use super::shape::{BLOB, Field};
use super::{Api, Call, Outcome, Range, text};
use crate::ApiKey;

/// The first version that tells the lifetime.
const LIFETIME_FROM: i16 = 1;

pub(super) struct SaslAuthenticate;

impl Api for SaslAuthenticate {
    const KEY: ApiKey = ApiKey::SaslAuthenticate;
    const VERSIONS: Range = Range { min: 0, max: 2 };
    const FLEXIBLE: i16 = 2;
    const SHAPE: &'static [Field] = &[BLOB];
    type Request = SaslAuthenticateRequest;
    type Response = SaslAuthenticateResponse;

    fn refuse(_: &Self::Request, _: i16, code: i16) -> Option<Self::Response> {
        Some(SaslAuthenticateResponse::default().with_error_code(code))
    }

    async fn handle(call: &Call<'_>, request: Self::Request) -> Outcome<Self::Response> {
        let said = call.session.authenticate(&request.auth_bytes);
        let response = SaslAuthenticateResponse::default()
            .with_error_code(said.code)
            .with_error_message(said.message.as_deref().map(text))
            .with_auth_bytes(said.bytes);
        Outcome::Answer(match call.version {
            LIFETIME_FROM.. => response.with_session_lifetime_ms(said.lifetime_ms),
            _ => response,
        })
    }
}
