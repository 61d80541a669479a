//! The two requests of SASL: their versions and what their answers look like.

use crate::connection::Api;
use crate::connection::layout::{Kind, Layout, Struct, always, array, since};
use kafka_protocol::messages as m;
use std::ops::RangeInclusive;

// v0 is followed by tokens without a frame.
impl Api for m::SaslHandshakeRequest {
    type Answer = m::SaslHandshakeResponse;
    const KEY: i16 = 17;
    const NAME: &'static str = "SaslHandshake";
    const VERSIONS: RangeInclusive<i16> = 1..=1;
    const LAYOUT: Layout = Layout {
        flexible_from: i16::MAX,
        body: Struct {
            fields: &[always(Kind::Fixed(2)), always(array(&[always(Kind::Text)]))],
            tags: &[],
        },
    };
}

impl Api for m::SaslAuthenticateRequest {
    type Answer = m::SaslAuthenticateResponse;
    const KEY: i16 = 36;
    const NAME: &'static str = "SaslAuthenticate";
    const VERSIONS: RangeInclusive<i16> = 0..=2;
    const LAYOUT: Layout = Layout {
        flexible_from: 2,
        body: Struct {
            fields: &[
                always(Kind::Fixed(2)),
                always(Kind::Text),
                always(Kind::Blob),
                since(1, Kind::Fixed(8)),
            ],
            tags: &[],
        },
    };
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::{Bytes, BytesMut};
    use kafka_protocol::protocol::{Encodable, StrBytes};

    fn check<A: Api>(answer: &A::Answer, version: i16)
    where
        A::Answer: Encodable,
    {
        let mut body = BytesMut::new();
        answer.encode(&mut body, version).unwrap();
        assert_eq!(A::LAYOUT.check(&body, version, usize::MAX), Ok(()));
        for end in 0..body.len() {
            assert!(
                A::LAYOUT.check(&body[..end], version, usize::MAX).is_err(),
                "{end}"
            );
        }
    }

    #[test]
    fn the_layouts_fit_every_version() {
        let text = || StrBytes::from_static_str("some text");
        let handshake = m::SaslHandshakeResponse::default().with_mechanisms(vec![text(); 2]);
        check::<m::SaslHandshakeRequest>(&handshake, 1);
        for version in <m::SaslAuthenticateRequest as Api>::VERSIONS {
            let mut answer = m::SaslAuthenticateResponse::default()
                .with_error_message(Some(text()))
                .with_auth_bytes(Bytes::from_static(b"blob"));
            if version >= 1 {
                answer = answer.with_session_lifetime_ms(7);
            }
            check::<m::SaslAuthenticateRequest>(&answer, version);
        }
    }
}
