//! Where configurations come from beside files of TOML and JSON: the environment, and Java's
//! properties.

use super::keys::{Configuration, UnknownKey};
use serde::de::value::{Error as ValueError, MapDeserializer};
use std::collections::BTreeMap;
use std::ffi::OsString;

/// Why a configuration could not be read. No text of it repeats the value of a secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigReadError {
    /// A key that the configuration does not have.
    #[error(transparent)]
    Unknown(#[from] UnknownKey),
    /// A value that its key cannot have; names both.
    #[error("{0}")]
    Value(String),
    /// A variable whose value is no Unicode.
    #[error("the environment variable `{0}` is not Unicode")]
    NotUnicode(String),
    /// A line of a properties file with an escape that is none.
    #[error("line {line}: `\\u` is not followed by four hexadecimal digits")]
    Escape {
        /// The line's number, from 1.
        line: usize,
    },
}

/// Reads a configuration from a map of texts, such as Java's properties. Every key must be one of
/// the configuration's.
///
/// # Errors
/// Names the first key that is not known or whose value is not of its kind; ranges are checked by
/// the configuration's own `validate`.
pub fn from_properties<T: Configuration>(
    properties: impl IntoIterator<Item = (String, String)>,
) -> Result<T, ConfigReadError> {
    let properties: BTreeMap<String, String> = properties.into_iter().collect();
    for key in properties.keys() {
        if let Some(unknown) = UnknownKey::check(key, T::KEYS) {
            return Err(unknown.into());
        }
    }
    let read = T::deserialize(MapDeserializer::new(properties.into_iter()));
    read.map_err(|error: ValueError| ConfigReadError::Value(error.to_string()))
}

/// Reads a configuration from the environment's variables that begin with `prefix`: with
/// `OTTLA_CLIENT_`, `bootstrap.servers` is `OTTLA_CLIENT_BOOTSTRAP_SERVERS`. What is not set has its
/// default.
///
/// # Errors
/// As [`from_properties`]; a variable with the prefix that stands for no key is refused too.
pub fn from_env<T: Configuration>(prefix: &str) -> Result<T, ConfigReadError> {
    from_vars(prefix, std::env::vars_os())
}

/// [`from_env`] with variables of the caller's.
///
/// # Errors
/// As [`from_env`].
pub fn from_vars<T: Configuration>(
    prefix: &str,
    vars: impl IntoIterator<Item = (OsString, OsString)>,
) -> Result<T, ConfigReadError> {
    let mut properties = BTreeMap::new();
    for (name, value) in vars {
        let Some(name) = name.to_str() else { continue };
        let Some(rest) = name.strip_prefix(prefix) else {
            continue;
        };
        let dotted = rest.to_ascii_lowercase().replace('_', ".");
        let mut known = T::KEYS.iter();
        let known = known.find(|key| key.name.replace('_', ".") == dotted);
        let key = known.map_or(dotted, |key| key.name.to_owned());
        let value = value.into_string();
        let value = value.map_err(|_| ConfigReadError::NotUnicode(name.to_owned()))?;
        properties.insert(key, value);
    }
    from_properties(properties)
}

/// Parses the text of a Java `.properties` file: a key and a value a line, comments with `#` and
/// `!`, lines that go on behind a `\`, and the escapes of `java.util.Properties`. A key that stands
/// twice has its last value.
///
/// # Errors
/// For a `\u` without four hexadecimal digits.
pub fn parse_properties(text: &str) -> Result<BTreeMap<String, String>, ConfigReadError> {
    let mut properties = BTreeMap::new();
    let mut lines = (1..).zip(text.lines());
    while let Some((number, line)) = lines.next() {
        let mut line = line.trim_start().to_owned();
        if line.is_empty() || line.starts_with(['#', '!']) {
            continue;
        }
        while line.chars().rev().take_while(|c| *c == '\\').count() % 2 == 1 {
            line.pop();
            let Some((_, next)) = lines.next() else { break };
            line.push_str(next.trim_start());
        }
        let (key, value) = parts(&line);
        let unescaped = |text| unescape(text).ok_or(ConfigReadError::Escape { line: number });
        properties.insert(unescaped(key)?, unescaped(value)?);
    }
    Ok(properties)
}

/// The key ends at the first `=`, `:` or blank that is not escaped.
fn parts(line: &str) -> (&str, &str) {
    let mut escaped = false;
    let end = line.char_indices().find(|(_, c)| {
        let ends = !escaped && matches!(c, '=' | ':' | ' ' | '\t' | '\u{c}');
        escaped = *c == '\\' && !escaped;
        ends
    });
    let Some((end, _)) = end else {
        return (line, "");
    };
    let (key, rest) = line.split_at(end);
    let blank = [' ', '\t', '\u{c}'];
    let rest = rest.trim_start_matches(blank);
    let rest = rest.strip_prefix(['=', ':']).unwrap_or(rest);
    (key, rest.trim_start_matches(blank))
}

fn unescape(text: &str) -> Option<String> {
    let mut out = String::with_capacity(text.len());
    // Escapes are UTF-16 units: two of them may be one character.
    let mut units: Vec<u16> = Vec::new();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        let next = if c == '\\' { chars.next() } else { None };
        if next == Some('u') {
            let digits: String = chars.by_ref().take(4).collect();
            let is_hex = digits.len() == 4 && digits.bytes().all(|b| b.is_ascii_hexdigit());
            units.push(u16::from_str_radix(&digits, 16).ok().filter(|_| is_hex)?);
            continue;
        }
        out.push_str(&String::from_utf16_lossy(&std::mem::take(&mut units)));
        match (c, next) {
            ('\\', Some('t')) => out.push('\t'),
            ('\\', Some('n')) => out.push('\n'),
            ('\\', Some('r')) => out.push('\r'),
            ('\\', Some('f')) => out.push('\u{c}'),
            ('\\', Some(other)) => out.push(other),
            ('\\', None) => {}
            (other, _) => out.push(other),
        }
    }
    out.push_str(&String::from_utf16_lossy(&units));
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ConfigKey;
    use serde::{Deserialize, Serialize};
    use std::num::NonZeroU32;

    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Default)]
    #[serde(remote = "Self", default)]
    struct Sample {
        #[serde(rename = "linger.ms")]
        linger: u64,
        #[serde(rename = "is.on")]
        is_on: bool,
        names: Vec<String>,
        limit: Option<NonZeroU32>,
        max_delay: f64,
        mode: Mode,
    }

    #[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, Default)]
    #[serde(rename_all = "lowercase")]
    enum Mode {
        #[default]
        Off,
        Warn,
    }

    const fn key(name: &'static str) -> ConfigKey {
        ConfigKey::new(name, "", "", "")
    }

    crate::configuration!(
        Sample,
        &[
            key("linger.ms"),
            key("is.on"),
            key("names"),
            key("limit"),
            key("max_delay"),
            key("mode"),
        ]
    );

    fn sample() -> Sample {
        Sample {
            linger: 500,
            is_on: true,
            names: vec!["a".into(), "b".into()],
            limit: NonZeroU32::new(7),
            max_delay: 0.5,
            mode: Mode::Warn,
        }
    }

    #[test]
    fn texts_and_values_of_the_format_mean_the_same() {
        let texts = r#"{"linger.ms":"500","is.on":"True","names":"a, b","limit":" 7","max_delay":"0.5","mode":"warn"}"#;
        let values = serde_json::to_string(&sample()).unwrap();
        for json in [texts, &values] {
            assert_eq!(serde_json::from_str::<Sample>(json).unwrap(), sample());
        }
        let none = serde_json::from_str::<Sample>(r#"{"limit":"","names":""}"#);
        assert_eq!(none.unwrap(), Sample::default());
    }

    #[test]
    fn trap_d_an_unknown_key_is_refused_with_the_nearest_one() {
        let json = serde_json::from_str::<Sample>(r#"{"linger": 5}"#).unwrap_err();
        let text = "config `linger` is not known: did you mean `linger.ms`?";
        assert!(json.to_string().starts_with(text), "{json}");
        let map = [("linger".to_owned(), "5".to_owned())];
        let error = from_properties::<Sample>(map).unwrap_err();
        assert_eq!(error.to_string(), text);
    }

    #[test]
    fn trap_d_a_value_of_another_kind_is_refused_with_its_key() {
        for (key, value, part) in [
            (
                "linger.ms",
                "soon",
                "`soon` is not allowed: expected a whole number",
            ),
            ("linger.ms", "-1", "whole number"),
            ("is.on", "yes", "`true` or `false`"),
            ("limit", "0", "nonzero"),
            ("mode", "loud", "loud"),
        ] {
            let map = [(key.to_owned(), value.to_owned())];
            let error = from_properties::<Sample>(map).unwrap_err().to_string();
            assert!(error.contains(&format!("config `{key}`")), "{error}");
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn the_environment_has_its_own_spelling() {
        let vars = |pairs: &[(&str, &str)]| {
            let pairs = pairs.iter();
            let pairs: Vec<(OsString, OsString)> =
                pairs.map(|(k, v)| (k.into(), v.into())).collect();
            from_vars::<Sample>("APP_", pairs)
        };
        let given = [
            ("APP_LINGER_MS", "500"),
            ("APP_IS_ON", "true"),
            ("APP_NAMES", "a,b"),
            ("APP_LIMIT", "7"),
            ("APP_MAX_DELAY", "0.5"),
            ("APP_MODE", "warn"),
            ("PATH", "/bin"),
        ];
        assert_eq!(vars(&given), Ok(sample()));
        let unknown = vars(&[("APP_LINGER", "5")]).unwrap_err();
        let nearest = UnknownKey {
            key: "linger".to_owned(),
            nearest: Some("linger.ms"),
        };
        assert_eq!(unknown, ConfigReadError::Unknown(nearest));
    }

    #[test]
    fn properties_are_parsed_as_java_does() {
        let text = "# comment\n! too\n\n a.b = c d \nkey:value\nplain\nsp  word\n\
                    long = one,\\\n    two\nback\\=slash = a\\\\\nuni=\\u00e9\\uD83D\\uDE00\\t.\nb=\n";
        let parsed = parse_properties(text).unwrap();
        let pairs: Vec<_> = parsed.iter().map(|(k, v)| (&**k, &**v)).collect();
        let expected = [
            ("a.b", "c d "),
            ("b", ""),
            ("back=slash", "a\\"),
            ("key", "value"),
            ("long", "one,two"),
            ("plain", ""),
            ("sp", "word"),
            ("uni", "é😀\t."),
        ];
        assert_eq!(pairs, expected);
        let bad = parse_properties("a=b\nc=\\u12");
        assert_eq!(bad, Err(ConfigReadError::Escape { line: 2 }));
    }
}
