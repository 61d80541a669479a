//! Medians, and the three forms in which they are told: a table, JSON lines, a chart.

use super::contenders::{Program, is_ours};
use super::{BenchError, Mode, Task, chart};
use serde_json::{Map, Value, json};
use std::fmt::{self, Write};
use std::path::Path;

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
    key: &'static str,
    pub(super) title: &'static str,
    decimals: usize,
    pub(super) of: fn(&Sample) -> Option<f64>,
}

pub(super) const FIELDS: [Field; 7] = [
    field("records_per_s", "records/s", 0, |s| Some(s.records_per_s)),
    field("cpu_s_per_million", "CPU s/million", 3, |s| {
        Some(s.cpu_s_per_million)
    }),
    field("peak_mb", "peak MB", 1, |s| Some(s.peak_mb)),
    field("p50_us", "p50 us", 0, |s| s.p50_us),
    field("p99_us", "p99 us", 0, |s| s.p99_us),
    field("sockets", "sockets", 0, |s| s.sockets),
    field("idle_cpu_percent", "idle CPU %", 2, |s| s.idle_cpu_percent),
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

    fn median(&self, samples: &[Sample]) -> Option<f64> {
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

#[derive(Debug)]
enum State {
    /// Runs so far that count.
    Runs(Vec<Sample>),
    /// Cannot be built here.
    Missing(String),
    /// Was built, and a run went wrong.
    Failed(String),
}

/// All contenders of one mode.
#[derive(Debug)]
pub(super) struct Summary {
    task: Task,
    rounds: u32,
    rows: Vec<(&'static str, State)>,
}

impl Summary {
    pub(super) fn new(task: Task, rounds: u32) -> Self {
        Self {
            task,
            rounds,
            rows: Vec::new(),
        }
    }

    pub(super) fn add(&mut self, name: &'static str, program: &Result<Program, String>) {
        let state = match program {
            Ok(_) => State::Runs(Vec::new()),
            Err(reason) => State::Missing(reason.clone()),
        };
        self.rows.push((name, state));
    }

    pub(super) fn take(&mut self, name: &str, counts: bool, sample: Result<Sample, String>) {
        let Some((_, state)) = self.rows.iter_mut().find(|(own, _)| *own == name) else {
            return;
        };
        match (sample, &mut *state) {
            (Ok(sample), State::Runs(samples)) if counts => samples.push(sample),
            (Ok(_), _) => {}
            (Err(reason), _) => *state = State::Failed(reason),
        }
    }

    pub(super) fn has_failed(&self, name: &str) -> bool {
        let failed =
            |(own, state): &(&str, State)| *own == name && matches!(state, State::Failed(_));
        self.rows.iter().any(failed)
    }

    /// How many of those that `which` accepts failed.
    pub(super) fn failed(&self, which: impl Fn(&str) -> bool) -> usize {
        let failed = self
            .rows
            .iter()
            .filter(|(name, state)| which(name) && matches!(state, State::Failed(_)));
        failed.count()
    }

    /// Contenders with runs.
    pub(super) fn measured(&self) -> impl Iterator<Item = (&'static str, &[Sample])> {
        self.rows.iter().filter_map(|(name, state)| match state {
            State::Runs(samples) if !samples.is_empty() => Some((*name, samples.as_slice())),
            _ => None,
        })
    }

    pub(super) fn title(&self) -> String {
        format!(
            "{}: medians of {} interleaved rounds",
            self.task.mode, self.rounds
        )
    }

    /// `(name, median)` of every contender that has the field.
    pub(super) fn medians(&self, field: &Field) -> Vec<(&'static str, f64)> {
        let all = self.measured();
        all.filter_map(|(name, samples)| Some((name, field.median(samples)?)))
            .collect()
    }

    fn fields(&self) -> impl Iterator<Item = &'static Field> {
        FIELDS
            .iter()
            .filter(|field| !self.medians(field).is_empty())
    }

    /// One line a contender.
    pub(super) fn json(&self) -> String {
        let mut text = String::new();
        for (name, state) in &self.rows {
            let mut line = Map::new();
            line.insert("bench".to_owned(), json!(self.task.mode.name()));
            line.insert("contender".to_owned(), json!(name));
            match state {
                State::Missing(reason) => line.insert("missing".to_owned(), json!(reason)),
                State::Failed(reason) => line.insert("failed".to_owned(), json!(reason)),
                State::Runs(samples) => {
                    figures(&mut line, samples);
                    line.insert("rounds".to_owned(), json!(samples.len()))
                }
            };
            text.push_str(&Value::Object(line).to_string());
            text.push('\n');
        }
        text
    }

    /// In Markdown, with the settings above and what is missing below.
    pub(super) fn table(&self) -> String {
        let mut text = format!("## {}\n\n{}.\n\n", self.title(), self.task.stated());
        text.push_str(METHOD);
        let fields: Vec<&Field> = self.fields().collect();
        let mut rows = vec![vec!["contender".to_owned(), "version".to_owned()]];
        rows[0].extend(fields.iter().map(|field| field.title.to_owned()));
        for (name, samples) in self.measured() {
            let mut row = vec![name.to_owned(), samples[0].version.clone()];
            let shown = |field: &&Field| {
                field
                    .median(samples)
                    .map_or(String::new(), |value| field.shown(value))
            };
            row.extend(fields.iter().map(shown));
            rows.push(row);
        }
        text.push_str(&aligned(&rows));
        for line in self.remarks() {
            text.push_str(&format!("\n- {line}"));
        }
        text.push('\n');
        text
    }

    fn remarks(&self) -> Vec<String> {
        let mut lines = self.compared();
        for (name, samples) in self.measured() {
            lines.extend(samples[0].note.iter().map(|note| format!("{name}: {note}")));
            let twice: u64 = samples.iter().map(|sample| sample.duplicates).sum();
            if twice > 0 {
                lines.push(format!("{name}: {twice} records were written twice"));
            }
        }
        for (name, state) in &self.rows {
            match state {
                State::Missing(reason) => {
                    lines.push(format!("missing: {name} ({})", one_line(reason)))
                }
                State::Failed(reason) => {
                    lines.push(format!("failed: {name} ({})", one_line(reason)))
                }
                State::Runs(_) => {}
            }
        }
        lines
    }

    /// Ours beside the best peer, figure by figure.
    fn compared(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for field in self.fields() {
            let medians = self.medians(field);
            let more_is_better = field.key == "records_per_s";
            let peers = medians.iter().filter(|(name, _)| !is_ours(name));
            let best = peers
                .copied()
                .reduce(|a, b| if (b.1 > a.1) == more_is_better { b } else { a });
            let Some((peer, best)) = best.filter(|(_, value)| *value > 0.0) else {
                continue;
            };
            let ours = medians.iter().filter(|(name, _)| is_ours(name));
            let ratios: Vec<String> = ours
                .map(|(name, value)| format!("{name} {:.2}", value / best))
                .collect();
            if !ratios.is_empty() {
                lines.push(format!(
                    "{} beside {peer}'s: {}",
                    field.title,
                    ratios.join(", ")
                ));
            }
        }
        lines
    }

    /// Writes `NAME.md` and `NAME.svg`.
    pub(super) fn write(&self, folder: &Path) -> Result<(), BenchError> {
        std::fs::create_dir_all(folder)
            .map_err(BenchError::io(format!("create {}", folder.display())))?;
        let name = self.task.mode.name();
        let files = [
            (format!("{name}.md"), self.table()),
            (format!("{name}.svg"), chart::draw(self, self.task.mode)),
        ];
        for (name, text) in files {
            let path = folder.join(name);
            std::fs::write(&path, text)
                .map_err(BenchError::io(format!("write {}", path.display())))?;
        }
        Ok(())
    }
}

const METHOD: &str = "\
CPU: user and system time of the whole process, its start and its runtime's included, up to the \
last result. Peak: VmHWM then. Records/s: from the first call, or the first record read, to the last \
result.\n\n";

fn figures(line: &mut Map<String, Value>, samples: &[Sample]) {
    for field in &FIELDS {
        if let Some(value) = field.median(samples) {
            // No more digits than mean something.
            let digits = 10_f64.powi(field.decimals.cast_signed() as i32);
            line.insert(
                field.key.to_owned(),
                json!((value * digits).round() / digits),
            );
        }
    }
    if let Some(first) = samples.first() {
        line.insert("version".to_owned(), json!(first.version));
    }
    let twice: u64 = samples.iter().map(|sample| sample.duplicates).sum();
    if twice > 0 {
        line.insert("duplicates".to_owned(), json!(twice));
    }
}

fn one_line(text: &str) -> String {
    text.split('\n')
        .map(str::trim)
        .collect::<Vec<_>>()
        .join("; ")
}

/// A Markdown table whose columns line up; all but the first two are numbers.
fn aligned(rows: &[Vec<String>]) -> String {
    let columns = rows.first().map_or(0, Vec::len);
    let width = |at: usize| {
        rows.iter()
            .map(|row| row[at].len())
            .max()
            .unwrap_or(0)
            .max(3)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for (index, row) in rows.iter().enumerate() {
        for (at, cell) in row.iter().enumerate() {
            let width = widths[at];
            // Writing to a string does not fail.
            let _ = if at < 2 {
                write!(text, "| {cell:<width$} ")
            } else {
                write!(text, "| {cell:>width$} ")
            };
        }
        text.push_str("|\n");
        if index == 0 {
            for (at, width) in widths.iter().enumerate() {
                let (dashes, end) = ("-".repeat(*width), if at < 2 { "-" } else { ":" });
                let _ = write!(text, "|-{dashes}{end}");
            }
            text.push_str("|\n");
        }
    }
    text
}

/// The figures that a chart shows.
pub(super) fn charted(mode: Mode) -> impl Iterator<Item = &'static Field> {
    let keys: &[&str] = match mode {
        Mode::Latency => &["p50_us", "p99_us"],
        Mode::Produce | Mode::Consume => &["cpu_s_per_million", "records_per_s", "peak_mb"],
        Mode::Partitions => &["records_per_s", "sockets", "idle_cpu_percent"],
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
            duplicates: 0,
        }
    }

    pub(in super::super) fn summary() -> Summary {
        let mut summary = Summary::new(Task::new(Mode::Produce, "h:1", "t"), 3);
        let program = Program {
            path: "x".into(),
            arguments: Vec::new(),
        };
        for name in ["ottla", "franz-go", "java"] {
            summary.add(name, &Ok(program.clone()));
        }
        summary.add("librdkafka", &Err("no headers".to_owned()));
        for rate in [3000.0, 1000.0, 2000.0] {
            summary.take("ottla", true, Ok(sample(rate)));
            summary.take("franz-go", true, Ok(sample(rate * 2.0)));
        }
        summary.take("ottla", false, Ok(sample(9e9)));
        summary.take("java", true, Err("it fell\nover".to_owned()));
        summary
    }

    #[test]
    fn medians_of_odd_and_even_counts() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), Some(2.5));
        assert_eq!(median(Vec::new()), None);
    }

    #[test]
    fn nobody_is_left_out() {
        let json = summary().json();
        let lines: Vec<Value> = json
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(lines.len(), 4);
        assert_eq!(lines[0]["contender"], "ottla");
        assert_eq!(lines[0]["records_per_s"], 2000.0);
        assert_eq!(lines[0]["cpu_s_per_million"], 1.5);
        assert_eq!(lines[0]["rounds"], 3);
        assert_eq!(lines[0].get("p50_us"), None);
        assert_eq!(lines[2]["failed"], "it fell\nover");
        assert_eq!(lines[3]["missing"], "no headers");

        let table = summary().table();
        for wanted in [
            "missing: librdkafka (no headers)",
            "failed: java (it fell; over)",
            "acks=all",
            "linger 5 ms",
            "records/s beside franz-go's: ottla 0.50",
        ] {
            assert!(table.contains(wanted), "{wanted}: {table}");
        }
    }

    #[test]
    fn only_our_own_failures_count() {
        assert_eq!(summary().failed(is_ours), 0);
        let mut summary = summary();
        summary.take("ottla", true, Err("no".to_owned()));
        assert_eq!(summary.failed(is_ours), 1);
        assert!(summary.has_failed("ottla") && !summary.has_failed("franz-go"));
    }

    #[test]
    fn numbers_are_grouped() {
        assert_eq!(FIELDS[0].shown(1_234_567.4), "1,234,567");
        assert_eq!(FIELDS[1].shown(1_000.5), "1,000.500");
        assert_eq!(FIELDS[0].shown(999.0), "999");
    }
}
