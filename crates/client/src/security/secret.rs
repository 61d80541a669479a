//! Text that is never shown: passwords, private keys, tokens.

use serde::{Deserialize, Deserializer, de};
use std::fmt;
use zeroize::Zeroizing;

/// A text that `Debug` hides and that is wiped from memory when it is dropped. It has no `Display`
/// and is not written by serde.
///
/// ```
/// use ottla_client::security::Secret;
///
/// let secret = Secret::new("pencil");
/// assert_eq!(format!("{secret:?}"), "Secret(***)");
/// assert_eq!(secret.reveal(), "pencil");
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Takes the text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(Zeroizing::new(text.into()))
    }

    /// The text itself: for the wire, never for a log.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(***)")
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self::new(text)
    }
}

impl From<&str> for Secret {
    fn from(text: &str) -> Self {
        Self::new(text)
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // `deserialize_string` would let the format refuse other types, with the value in its error.
        deserializer.deserialize_any(Hidden)
    }
}

/// Refuses what is not a text without repeating it: serde's own errors show the value.
struct Hidden;

macro_rules! refuse {
    ($($method:ident: $type:ty),*) => {
        $(fn $method<E: de::Error>(self, _: $type) -> Result<Secret, E> {
            Err(E::custom("a secret must be a text"))
        })*
    };
}

impl<'de> de::Visitor<'de> for Hidden {
    type Value = Secret;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Secret, E> {
        Ok(Secret::new(text))
    }

    fn visit_string<E: de::Error>(self, text: String) -> Result<Secret, E> {
        Ok(Secret::new(text))
    }

    refuse!(
        visit_bool: bool, visit_i64: i64, visit_u64: u64, visit_i128: i128, visit_u128: u128,
        visit_f64: f64, visit_char: char, visit_bytes: &[u8]
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_of_another_type_is_not_repeated() {
        for json in ["123456", "-123456", "123456.5", "true", "[123456]", "null"] {
            let error = serde_json::from_str::<Secret>(json).unwrap_err();
            assert!(!error.to_string().contains("123456"), "{error}");
        }
        let secret: Secret = serde_json::from_str("\"pencil\"").unwrap();
        assert_eq!(secret, Secret::new("pencil"));
    }
}
