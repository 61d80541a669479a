//! SaslHandshake: which mechanism. Version 0 is not spoken: bare tokens without frames follow it.

use kafka_protocol::messages::{SaslHandshakeRequest, SaslHandshakeResponse};

use super::shape::{Field, TEXT};
use super::{Api, Call, Outcome, Range, text};
use crate::ApiKey;

pub(super) struct SaslHandshake;

impl Api for SaslHandshake {
    const KEY: ApiKey = ApiKey::SaslHandshake;
    const VERSIONS: Range = Range { min: 1, max: 1 };
    const FLEXIBLE: i16 = i16::MAX;
    const SHAPE: &'static [Field] = &[TEXT];
    type Request = SaslHandshakeRequest;
    type Response = SaslHandshakeResponse;

    fn refuse(_: &Self::Request, _: i16, code: i16) -> Option<Self::Response> {
        Some(SaslHandshakeResponse::default().with_error_code(code))
    }

    async fn handle(call: &Call<'_>, request: Self::Request) -> Outcome<Self::Response> {
        let shaken = call.session.handshake(&request.mechanism);
        let mechanisms = shaken.mechanisms.into_iter().map(text).collect();
        Outcome::Answer(
            SaslHandshakeResponse::default()
                .with_error_code(shaken.code)
                .with_mechanisms(mechanisms),
        )
    }
}
