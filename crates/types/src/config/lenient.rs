//! Values that may be texts: what an environment and Java's properties hold.
//!
//! A configuration is first read as a map of whatever values its format has, its keys are checked,
//! and then each value is given to its field: a text is parsed if the field wants a number, a truth
//! value or a list. No error repeats a value that a field took as a text, which may be a secret.

use super::keys::{ConfigKey, UnknownKey};
use serde::de::value::{MapDeserializer, SeqDeserializer};
use serde::de::{self, IntoDeserializer, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};
use std::marker::PhantomData;

/// A deserializer over values that may be texts.
pub struct Lenient<E> {
    /// The key that the value belongs to; empty for the whole configuration.
    key: String,
    value: Value,
    error: PhantomData<E>,
}

impl<E: de::Error> Lenient<E> {
    /// Reads a map and checks its keys.
    ///
    /// # Errors
    /// When the input is no map, or has a key that is not `known`.
    pub fn read<'de, D>(deserializer: D, known: &[ConfigKey]) -> Result<Self, E>
    where
        D: Deserializer<'de, Error = E>,
    {
        let map = Map::<String, Value>::deserialize(deserializer)?;
        match map.keys().find_map(|key| UnknownKey::check(key, known)) {
            Some(unknown) => Err(E::custom(unknown)),
            None => Ok(Self::new(String::new(), Value::Object(map))),
        }
    }

    fn new(key: String, value: Value) -> Self {
        Self {
            key,
            value,
            error: PhantomData,
        }
    }

    /// Adds the key to an error of the field's own.
    fn named<T>(key: &str, result: Result<T, E>) -> Result<T, E> {
        if key.is_empty() {
            return result;
        }
        result.map_err(|error| E::custom(format_args!("config `{key}`: {error}")))
    }

    /// A text, parsed; whatever else there is goes on as it is.
    fn parsed<T: std::str::FromStr>(&self, expected: &str) -> Result<Option<T>, E> {
        let Value::String(text) = &self.value else {
            return Ok(None);
        };
        let refused = || {
            let key = &self.key;
            let text = text.escape_debug();
            E::custom(format_args!(
                "config `{key}` = `{text}` is not allowed: expected {expected}"
            ))
        };
        text.trim().parse().map(Some).map_err(|_| refused())
    }
}

impl<'de, E: de::Error> IntoDeserializer<'de, E> for Lenient<E> {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

macro_rules! number {
    ($($method:ident $type:ty => $visit:ident, $expected:literal;)*) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, E> {
            match self.parsed::<$type>($expected)? {
                Some(number) => Self::named(&self.key, visitor.$visit(number)),
                None => self.deserialize_any(visitor),
            }
        })*
    };
}

impl<'de, E: de::Error> Deserializer<'de> for Lenient<E> {
    type Error = E;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, E> {
        let key = self.key;
        let result = match self.value {
            Value::Null => visitor.visit_unit(),
            Value::Bool(value) => visitor.visit_bool(value),
            Value::String(text) => visitor.visit_string(text),
            Value::Number(number) => match (number.as_u64(), number.as_i64(), number.as_f64()) {
                (Some(number), _, _) => visitor.visit_u64(number),
                (None, Some(number), _) => visitor.visit_i64(number),
                (None, None, Some(number)) => visitor.visit_f64(number),
                (None, None, None) => Err(E::custom("a number out of range")),
            },
            Value::Array(items) => {
                let items = items.into_iter();
                let mut items =
                    SeqDeserializer::new(items.map(|item| Self::new(String::new(), item)));
                let read = visitor.visit_seq(&mut items);
                read.and_then(|read| items.end().map(|()| read))
            }
            Value::Object(map) => {
                let entries = map.into_iter().map(|(name, value)| {
                    let key = match &*key {
                        "" => name.clone(),
                        key => format!("{key}.{name}"),
                    };
                    (name, Self::new(key, value))
                });
                let mut entries = MapDeserializer::new(entries);
                let read = visitor.visit_map(&mut entries);
                // The fields' errors name their keys themselves.
                return read.and_then(|read| entries.end().map(|()| read));
            }
        };
        Self::named(&key, result)
    }

    number! {
        deserialize_u8 u8 => visit_u8, "a whole number";
        deserialize_u16 u16 => visit_u16, "a whole number";
        deserialize_u32 u32 => visit_u32, "a whole number";
        deserialize_u64 u64 => visit_u64, "a whole number";
        deserialize_i8 i8 => visit_i8, "a whole number";
        deserialize_i16 i16 => visit_i16, "a whole number";
        deserialize_i32 i32 => visit_i32, "a whole number";
        deserialize_i64 i64 => visit_i64, "a whole number";
        deserialize_f32 f32 => visit_f32, "a number";
        deserialize_f64 f64 => visit_f64, "a number";
    }

    fn deserialize_bool<V: Visitor<'de>>(mut self, visitor: V) -> Result<V::Value, E> {
        if let Value::String(text) = &self.value {
            self.value = Value::String(text.to_ascii_lowercase());
        }
        match self.parsed::<bool>("`true` or `false`")? {
            Some(value) => Self::named(&self.key, visitor.visit_bool(value)),
            None => self.deserialize_any(visitor),
        }
    }

    /// A text without content is none: so an environment says it.
    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, E> {
        match &self.value {
            Value::Null => visitor.visit_none(),
            Value::String(text) if text.is_empty() => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    /// A text is a list of what its commas part.
    fn deserialize_seq<V: Visitor<'de>>(mut self, visitor: V) -> Result<V::Value, E> {
        if let Value::String(text) = &self.value {
            let items = text
                .split(',')
                .map(str::trim)
                .filter(|item| !item.is_empty());
            self.value = Value::Array(items.map(|item| Value::String(item.to_owned())).collect());
        }
        self.deserialize_any(visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, E> {
        let key = self.key;
        let result = match self.value {
            Value::String(text) => visitor.visit_enum(text.into_deserializer()),
            other => other
                .deserialize_enum(name, variants, visitor)
                .map_err(E::custom),
        };
        Self::named(&key, result)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, E> {
        visitor.visit_newtype_struct(self)
    }

    serde::forward_to_deserialize_any! {
        i128 u128 char str string bytes byte_buf unit unit_struct tuple tuple_struct map struct
        identifier ignored_any
    }
}
