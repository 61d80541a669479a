//! Durations as people and topic names write them: `500ms`, `5s`, `1m`, `2h`, `7d`.

use std::time::Duration;

/// Units in milliseconds, the largest first.
const UNITS: [(&str, u64); 5] = [
    ("d", 86_400_000),
    ("h", 3_600_000),
    ("m", 60_000),
    ("s", 1_000),
    ("ms", 1),
];

/// The duration in the largest unit that divides it; what is below a millisecond is cut off.
pub(crate) fn label(duration: Duration) -> String {
    let ms = millis(duration).unsigned_abs();
    let fits = |(_, unit): &&(&str, u64)| ms >= *unit && ms.is_multiple_of(*unit);
    match UNITS.iter().find(fits) {
        Some((name, unit)) => format!("{}{name}", ms / unit),
        None => "0ms".to_owned(),
    }
}

/// Reads a [`label`]; `None` for anything else, or above 100 years.
pub(crate) fn parse(text: &str) -> Option<Duration> {
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, name) = text.split_at(digits);
    let (_, unit) = UNITS.iter().find(|(unit, _)| *unit == name)?;
    let ms = number.parse::<u64>().ok()?.checked_mul(*unit)?;
    (ms <= 100 * 365 * 86_400_000).then(|| Duration::from_millis(ms))
}

/// Whole milliseconds, for adding to a time.
pub(crate) fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

/// Serde adapter: a duration as its label.
pub(crate) mod text {
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};
    use std::time::Duration;

    pub(crate) fn serialize<S: Serializer>(
        value: &Duration,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&super::label(*value))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Duration, D::Error> {
        read(&String::deserialize(deserializer)?)
    }

    pub(super) fn read<E: Error>(text: &str) -> Result<Duration, E> {
        super::parse(text).ok_or_else(|| E::custom(format!("`{text}` is no duration such as 5s")))
    }
}

/// Serde adapter: durations as their labels.
pub(crate) mod texts {
    use serde::{Deserialize, Deserializer, Serializer};
    use std::time::Duration;

    pub(crate) fn serialize<S: Serializer>(
        values: &[Duration],
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(values.iter().map(|value| super::label(*value)))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Vec<Duration>, D::Error> {
        let labels = Vec::<String>::deserialize(deserializer)?;
        labels.iter().map(|text| super::text::read(text)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_is_read_as_it_was_written() {
        for text in ["1ms", "1500ms", "1s", "90s", "1m", "20m", "1h", "2h", "7d"] {
            assert_eq!(label(parse(text).unwrap()), text);
        }
        assert_eq!(parse("60s").map(label).as_deref(), Some("1m"));
        assert_eq!(label(Duration::ZERO), "0ms");
    }

    #[test]
    fn other_texts_are_refused() {
        for text in [
            "",
            "s",
            "5",
            "-1s",
            "1.5s",
            "5 s",
            "5S",
            "99999999999999999999s",
            "40000d",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
