//! [`Decode`]: how the bytes of a value become a `T`.

use super::HandlerError;
use bytes::Bytes;
use serde::de::DeserializeOwned;

/// The class of the error when a record's value cannot be decoded.
pub const CLASS_UNDECODABLE: &str = "Undecodable";

/// A format of values. [`Json`] and `Protobuf` (feature `protobuf`) are here; a format of one's own
/// takes one method:
///
/// ```
/// use ottla_consumer::{CLASS_UNDECODABLE, Decode, HandlerError, typed_handler};
/// use ottla_types::Bytes;
///
/// struct Text;
///
/// impl Decode<String> for Text {
///     fn decode(&self, value: Option<&Bytes>) -> Result<String, HandlerError> {
///         let bytes = value.map(|v| v.to_vec()).unwrap_or_default();
///         String::from_utf8(bytes)
///             .map_err(|e| HandlerError::permanent(CLASS_UNDECODABLE, "no text").with_source(e))
///     }
/// }
///
/// let handler = typed_handler(Text, |_context, text: String| async move {
///     println!("{text}");
///     Ok::<_, HandlerError>(())
/// });
/// ```
pub trait Decode<T>: Send + Sync + 'static {
    /// Decodes `value`; `None` is null.
    ///
    /// # Errors
    /// A permanent one of class [`CLASS_UNDECODABLE`] for what can never be decoded.
    fn decode(&self, value: Option<&Bytes>) -> Result<T, HandlerError>;
}

/// JSON, by serde. Null is read as JSON's `null`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Json;

impl<T: DeserializeOwned> Decode<T> for Json {
    fn decode(&self, value: Option<&Bytes>) -> Result<T, HandlerError> {
        let value = value.map_or(&b"null"[..], |value| value);
        serde_json::from_slice(value).map_err(|e| {
            HandlerError::permanent(CLASS_UNDECODABLE, "the value is not the JSON expected")
                .with_source(e)
        })
    }
}

/// Protobuf, by [prost]: for every `prost::Message`, whether generated or derived by hand. Null is
/// no message; the empty value is one whose fields have their defaults.
///
/// [prost]: https://docs.rs/prost
#[cfg(feature = "protobuf")]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Protobuf;

#[cfg(feature = "protobuf")]
impl<T: prost::Message + Default> Decode<T> for Protobuf {
    fn decode(&self, value: Option<&Bytes>) -> Result<T, HandlerError> {
        let undecodable = |text: &str| HandlerError::permanent(CLASS_UNDECODABLE, text);
        let value = value.ok_or_else(|| undecodable("a null value is no message"))?;
        // A cheap clone, so that fields of type `Bytes` share the record's buffer.
        T::decode(value.clone())
            .map_err(|e| undecodable("the value is not the message expected").with_source(e))
    }
}
