//! What is known of one run, and the figures that are told of it.

use super::Mode;
use std::fmt;

/// One run.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Sample {
    pub(super) version: String,
    pub(super) note: Option<String>,
    pub(super) records_per_s: f64,
    pub(super) cpu_s_per_million: f64,
    pub(super) peak_mb: f64,
    pub(super) p50_us: Option<f64>,
    pub(super) p99_us: Option<f64>,
    pub(super) sockets: Option<f64>,
    pub(super) idle_cpu_percent: Option<f64>,
    /// From the first call to the last result, and what it would take at the least.
    pub(super) seconds: f64,
    pub(super) ideal_s: Option<f64>,
    /// Records in the topic beyond those that were sent.
    pub(super) duplicates: u64,
}

impl fmt::Display for Sample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, field) in FIELDS.iter().enumerate() {
            if let Some(value) = (field.of)(self) {
                let comma = if at > 0 { ", " } else { "" };
                write!(f, "{comma}{} {}", field.shown(value), field.title)?;
            }
        }
        Ok(())
    }
}

/// One figure of a run.
pub(super) struct Field {
    pub(super) key: &'static str,
    pub(super) title: &'static str,
    pub(super) decimals: usize,
    pub(super) of: fn(&Sample) -> Option<f64>,
}

pub(super) const FIELDS: [Field; 10] = [
    field("records_per_s", "records/s", 0, |s| Some(s.records_per_s)),
    field("cpu_s_per_million", "CPU s/million", 3, |s| {
        Some(s.cpu_s_per_million)
    }),
    field("peak_mb", "peak MB", 1, |s| Some(s.peak_mb)),
    field("p50_us", "p50 us", 1, |s| s.p50_us),
    field("p99_us", "p99 us", 1, |s| s.p99_us),
    field("sockets", "sockets", 0, |s| s.sockets),
    field("idle_cpu_percent", "idle CPU %", 2, |s| s.idle_cpu_percent),
    field("seconds", "s", 3, |s| s.ideal_s.map(|_| s.seconds)),
    field("ideal_s", "ideal s", 3, |s| s.ideal_s),
    field("times_ideal", "times ideal", 2, |s| {
        s.ideal_s.map(|ideal| s.seconds / ideal)
    }),
];

const fn field(
    key: &'static str,
    title: &'static str,
    decimals: usize,
    of: fn(&Sample) -> Option<f64>,
) -> Field {
    Field {
        key,
        title,
        decimals,
        of,
    }
}

impl Field {
    pub(super) fn shown(&self, value: f64) -> String {
        let text = format!("{value:.*}", self.decimals);
        let (whole, rest) = text.split_at(text.find('.').unwrap_or(text.len()));
        let mut grouped = String::new();
        for (at, digit) in whole.char_indices() {
            if at > 0 && (whole.len() - at).is_multiple_of(3) {
                grouped.push(',');
            }
            grouped.push(digit);
        }
        grouped + rest
    }

    pub(super) fn median(&self, samples: &[Sample]) -> Option<f64> {
        median(samples.iter().filter_map(self.of).collect())
    }
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_unstable_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() % 2 {
        _ if values.is_empty() => None,
        1 => Some(values[middle]),
        _ => Some((values[middle - 1] + values[middle]) / 2.0),
    }
}

/// The figures that a chart shows.
pub(super) fn charted(mode: Mode) -> impl Iterator<Item = &'static Field> {
    let keys: &[&str] = match mode {
        Mode::Latency => &["p50_us", "p99_us"],
        Mode::Produce | Mode::Consume | Mode::Runner => {
            &["cpu_s_per_million", "records_per_s", "peak_mb"]
        }
        Mode::Partitions => &["records_per_s", "sockets", "idle_cpu_percent"],
        Mode::Parallel => &["times_ideal", "seconds", "cpu_s_per_million"],
    };
    FIELDS.iter().filter(|field| keys.contains(&field.key))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in super::super) fn sample(records_per_s: f64) -> Sample {
        Sample {
            version: "1".to_owned(),
            note: None,
            records_per_s,
            cpu_s_per_million: 1.5,
            peak_mb: 20.0,
            p50_us: None,
            p99_us: None,
            sockets: None,
            idle_cpu_percent: None,
            seconds: 1.0,
            ideal_s: None,
            duplicates: 0,
        }
    }

    #[test]
    fn medians_of_odd_and_even_counts() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), Some(2.5));
        assert_eq!(median(Vec::new()), None);
    }

    #[test]
    fn numbers_are_grouped() {
        assert_eq!(FIELDS[0].shown(1_234_567.4), "1,234,567");
        assert_eq!(FIELDS[1].shown(1_000.5), "1,000.500");
        assert_eq!(FIELDS[0].shown(999.0), "999");
    }
}
