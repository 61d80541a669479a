//! The `{type, data}` envelope: several kinds of events in one topic, told apart by name.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// An event with its type's name. In JSON it is `{"type": "...", "data": "<base64>"}`, the form in
/// which JSON carries bytes in protobuf's JSON mapping and Go's `encoding/json`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelope {
    /// The event's type, by which it is dispatched.
    pub kind: String,
    /// The event itself, encoded.
    pub data: Bytes,
}

/// Why an [`Envelope`] could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EnvelopeError {
    /// The bytes are no JSON object with the two members.
    #[error("the envelope is no JSON object with `type` and `data`")]
    Json(#[source] serde_json::Error),
    /// `data` is not base64.
    #[error("the envelope's `data` is not base64")]
    Base64(#[source] base64::DecodeError),
}

#[derive(Serialize, Deserialize)]
struct Wire<'a> {
    #[serde(rename = "type", borrow)]
    kind: std::borrow::Cow<'a, str>,
    #[serde(borrow)]
    data: std::borrow::Cow<'a, str>,
}

impl Envelope {
    /// An envelope for `data` of type `kind`.
    pub fn new(kind: impl Into<String>, data: impl Into<Bytes>) -> Self {
        Self {
            kind: kind.into(),
            data: data.into(),
        }
    }

    /// An envelope for `data` as JSON. For protobuf, give [`new`](Self::new) the encoded message.
    ///
    /// # Errors
    /// Where `data` has no JSON form, such as a map whose keys are no text.
    pub fn json<T: Serialize + ?Sized>(
        kind: impl Into<String>,
        data: &T,
    ) -> Result<Self, serde_json::Error> {
        Ok(Self::new(kind, serde_json::to_vec(data)?))
    }

    /// The envelope as JSON.
    pub fn to_json(&self) -> Bytes {
        let wire = Wire {
            kind: self.kind.as_str().into(),
            data: STANDARD.encode(&self.data).into(),
        };
        // Two strings always have a JSON form, so the error case cannot be reached.
        serde_json::to_vec(&wire)
            .map(Bytes::from)
            .unwrap_or_default()
    }

    /// Reads an envelope from JSON; members other than `type` and `data` are passed over.
    ///
    /// # Errors
    /// [`EnvelopeError`] says which part could not be read.
    pub fn from_json(bytes: &[u8]) -> Result<Self, EnvelopeError> {
        let wire: Wire<'_> = serde_json::from_slice(bytes).map_err(EnvelopeError::Json)?;
        let data = STANDARD
            .decode(wire.data.as_bytes())
            .map_err(EnvelopeError::Base64)?;
        Ok(Self {
            kind: wire.kind.into_owned(),
            data: data.into(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_envelope_is_read_as_it_was_written() {
        let envelope = Envelope::new("OrderPaid", &b"\x00\xff{}"[..]);
        let json = envelope.to_json();
        assert_eq!(&json[..], br#"{"type":"OrderPaid","data":"AP97fQ=="}"#);
        assert_eq!(Envelope::from_json(&json).unwrap(), envelope);
    }

    #[test]
    fn bad_envelopes_name_the_part_that_is_wrong() {
        assert!(matches!(
            Envelope::from_json(b"no"),
            Err(EnvelopeError::Json(_))
        ));
        assert!(matches!(
            Envelope::from_json(br#"{"type":"a"}"#),
            Err(EnvelopeError::Json(_))
        ));
        let bad = Envelope::from_json(br#"{"type":"a","data":"?"}"#);
        assert!(matches!(bad, Err(EnvelopeError::Base64(_))));
    }
}
