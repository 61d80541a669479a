//! [`AutoOffsetReset`]: where a partition starts without a usable committed offset.

use ottla_client::transport::OffsetSpec;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::fmt;
use std::str::FromStr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Where a partition starts when the group has no usable committed offset for it
/// (`auto.offset.reset`). The texts are those of the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum AutoOffsetReset {
    /// `earliest`: with the first record that is still there.
    Earliest,
    /// `latest`: with the next record to be written. The offset found is committed at once by a
    /// runner, and by a plain consumer with `enable.auto.commit`, so that records written before the
    /// first commit are not missed after a reconnect.
    #[default]
    Latest,
    /// `by_duration:PT24H` (KIP-1106), with a duration of ISO 8601 in days, hours, minutes and
    /// seconds: with the first record that was written so long ago or later; at the end if there is
    /// none.
    ByDuration(Duration),
    /// `timestamp:1767225600000`: with the first record that was written at or after this time
    /// (milliseconds since the Unix epoch); at the end if there is none.
    Timestamp(i64),
    /// `error` (or `none`, Kafka's word): not at all, the partition stops and its error says so.
    Error,
}

/// What [`AutoOffsetReset`] is read from.
pub(crate) const EXPECTED: &str = "earliest, latest, by_duration:PT24H, timestamp:<ms> or error";

impl AutoOffsetReset {
    /// What is asked for at this moment; `None` for an error.
    pub(crate) fn spec(self) -> Option<OffsetSpec> {
        Some(match self {
            Self::Earliest => OffsetSpec::Earliest,
            Self::Latest => OffsetSpec::Latest,
            Self::ByDuration(ago) => {
                let now = SystemTime::now().duration_since(UNIX_EPOCH);
                let then = now.unwrap_or_default().saturating_sub(ago);
                OffsetSpec::Timestamp(i64::try_from(then.as_millis()).unwrap_or(i64::MAX))
            }
            Self::Timestamp(ms) => OffsetSpec::Timestamp(ms),
            Self::Error => return None,
        })
    }
}

/// A text that names no [`AutoOffsetReset`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not allowed: expected {EXPECTED}")]
pub struct UnknownReset(String);

impl FromStr for AutoOffsetReset {
    type Err = UnknownReset;

    fn from_str(text: &str) -> Result<Self, UnknownReset> {
        let read = match text.split_once(':') {
            None => match text {
                "earliest" => Some(Self::Earliest),
                "latest" => Some(Self::Latest),
                "error" | "none" => Some(Self::Error),
                _ => None,
            },
            Some(("by_duration", duration)) => read_duration(duration).map(Self::ByDuration),
            Some(("timestamp", ms)) => ms.parse().ok().filter(|ms| *ms >= 0).map(Self::Timestamp),
            Some(_) => None,
        };
        read.ok_or_else(|| UnknownReset(text.to_owned()))
    }
}

impl fmt::Display for AutoOffsetReset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Earliest => f.write_str("earliest"),
            Self::Latest => f.write_str("latest"),
            Self::ByDuration(ago) => {
                write!(f, "by_duration:PT{}", ago.as_secs())?;
                match ago.subsec_nanos() {
                    0 => f.write_str("S"),
                    nanos => write!(f, ".{nanos:09}S"),
                }
            }
            Self::Timestamp(ms) => write!(f, "timestamp:{ms}"),
            Self::Error => f.write_str("error"),
        }
    }
}

impl Serialize for AutoOffsetReset {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for AutoOffsetReset {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

/// A duration of ISO 8601, of what has a fixed length: `P1DT2H30M`, `PT0.5S`.
fn read_duration(text: &str) -> Option<Duration> {
    let rest = text.strip_prefix(['P', 'p'])?;
    let (days, time) = match rest.split_once(['T', 't']) {
        Some((_, "")) => return None,
        Some((days, time)) => (days, time),
        None => (rest, ""),
    };
    let mut total = Duration::ZERO;
    let mut parts = 0;
    for (mut text, units) in [
        (days, &[('D', 86_400)][..]),
        (time, &[('H', 3_600), ('M', 60), ('S', 1)][..]),
    ] {
        for &(unit, seconds) in units {
            let Some(at) = text.find([unit, unit.to_ascii_lowercase()]) else {
                continue;
            };
            let number = read_number(&text[..at], unit == 'S')?;
            total = total.checked_add(number.checked_mul(seconds)?)?;
            text = &text[at + 1..];
            parts += 1;
        }
        if !text.is_empty() {
            return None;
        }
    }
    (parts > 0).then_some(total)
}

/// As many seconds; only some may have a fraction.
fn read_number(text: &str, may_be_fraction: bool) -> Option<Duration> {
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let (whole, fraction) = match text.split_once('.') {
        Some((whole, fraction)) if may_be_fraction => (whole, fraction),
        Some(_) => return None,
        None => (text, "0"),
    };
    if !is_number(whole) || !is_number(fraction) || fraction.len() > 9 {
        return None;
    }
    let nanos = format!("{fraction:0<9}").parse().ok()?;
    Some(Duration::new(whole.parse().ok()?, nanos))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        for (text, reset, written) in [
            ("earliest", AutoOffsetReset::Earliest, "earliest"),
            ("none", AutoOffsetReset::Error, "error"),
            (
                "timestamp:17",
                AutoOffsetReset::Timestamp(17),
                "timestamp:17",
            ),
            (
                "by_duration:P1DT2H3M4.5S",
                AutoOffsetReset::ByDuration(Duration::from_millis(93_784_500)),
                "by_duration:PT93784.500000000S",
            ),
            (
                "by_duration:pt10m",
                AutoOffsetReset::ByDuration(Duration::from_secs(600)),
                "by_duration:PT600S",
            ),
        ] {
            assert_eq!(text.parse(), Ok(reset));
            assert_eq!(reset.to_string(), written);
            assert_eq!(written.parse(), Ok(reset));
        }
    }

    #[test]
    fn what_means_nothing_is_refused() {
        for text in [
            "first",
            "Latest",
            "timestamp:",
            "timestamp:-1",
            "by_duration:",
            "by_duration:P",
            "by_duration:PT",
            "by_duration:P1DT",
            "by_duration:PT1",
            "by_duration:PT1.5H",
            "by_duration:PT1M1H",
            "by_duration:P1M",
            "by_duration:PT-1S",
            "by_duration:PT99999999999999999999S",
            "by_duration:P999999999999999D",
        ] {
            let refused = text.parse::<AutoOffsetReset>().unwrap_err();
            assert!(refused.to_string().contains(EXPECTED), "{text}");
        }
    }
}
