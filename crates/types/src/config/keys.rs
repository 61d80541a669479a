//! What a configuration type can be told, as data: the ground for refusing unknown keys, for
//! reading environments and for the documentation.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// A key of a configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConfigKey {
    /// The property's name, in Kafka's spelling where Kafka has it.
    pub name: &'static str,
    /// What a value is: `ms`, `bytes`, `count`, `text`, `list`, `true or false` ...
    pub unit: &'static str,
    /// The default as it is written; empty for none.
    pub default: &'static str,
    /// The range or the set of values that is allowed.
    pub allowed: &'static str,
}

impl ConfigKey {
    /// A key, for tables.
    pub const fn new(
        name: &'static str,
        unit: &'static str,
        default: &'static str,
        allowed: &'static str,
    ) -> Self {
        Self {
            name,
            unit,
            default,
            allowed,
        }
    }
}

/// A configuration type whose keys are known. Made by [`configuration!`](crate::configuration).
pub trait Configuration: DeserializeOwned + Serialize {
    /// The type's name.
    const NAME: &'static str;
    /// Every key.
    const KEYS: &'static [ConfigKey];
}

/// A key that a configuration does not have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnknownKey {
    /// The key.
    pub key: String,
    /// The known one that is spelt most like it.
    pub nearest: Option<&'static str>,
}

impl std::fmt::Display for UnknownKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "config `{}` is not known", self.key)?;
        match self.nearest {
            Some(nearest) => write!(f, ": did you mean `{nearest}`?"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for UnknownKey {}

impl UnknownKey {
    /// `None` if `key` is one of `known`.
    pub(super) fn check(key: &str, known: &[ConfigKey]) -> Option<Self> {
        if known.iter().any(|known| known.name == key) {
            return None;
        }
        let plain = key.to_ascii_lowercase();
        let likeness = |known: &&ConfigKey| {
            // Names are long and alike in parts, so a start that fits counts too.
            let likeness = strsim::jaro_winkler(&plain, known.name);
            (likeness * 1_000_000.0) as u32
        };
        let nearest = known.iter().max_by_key(likeness).map(|known| known.name);
        Some(Self {
            key: key.to_owned(),
            nearest,
        })
    }
}

/// Makes a type with derived serde a [`Configuration`](crate::Configuration): unknown keys are
/// refused with the nearest known one, and values may be texts (`"500"`, `"true"`, `"a,b"`), as all
/// are in an environment and in Java's properties.
///
/// The type derives with `#[serde(remote = "Self", default)]`, which makes the derived functions
/// inherent ones; the traits are implemented here in terms of those.
#[macro_export]
macro_rules! configuration {
    ($type:ident, $keys:expr) => {
        impl $crate::serde::Serialize for $type {
            fn serialize<S: $crate::serde::Serializer>(
                &self,
                serializer: S,
            ) -> Result<S::Ok, S::Error> {
                $type::serialize(self, serializer)
            }
        }

        impl<'de> $crate::serde::Deserialize<'de> for $type {
            fn deserialize<D: $crate::serde::Deserializer<'de>>(
                deserializer: D,
            ) -> Result<Self, D::Error> {
                let known = <$type as $crate::Configuration>::KEYS;
                let lenient = $crate::lenient::Lenient::read(deserializer, known)?;
                $type::deserialize(lenient)
            }
        }

        impl $crate::Configuration for $type {
            const NAME: &'static str = stringify!($type);
            const KEYS: &'static [$crate::ConfigKey] = $keys;
        }
    };
}
