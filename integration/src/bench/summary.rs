//! Medians, and the three forms in which they are told: a table, JSON lines, a chart.

use super::contenders::{Program, is_ours};
use super::figures::{FIELDS, Field, Sample};
use super::{BenchError, Task, chart};
use serde_json::{Map, Value, json};
use std::fmt::Write;
use std::path::Path;

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
    machine: String,
    rows: Vec<(&'static str, State)>,
}

impl Summary {
    /// `machine` says what all of it is measured on.
    pub(super) fn new(task: Task, rounds: u32, machine: &str) -> Self {
        Self {
            task,
            rounds,
            machine: machine.to_owned(),
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
        let _ = writeln!(text, "Machine: {}.\n", self.machine);
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

    /// Writes `NAME.md`, which shows `NAME.svg`, and that.
    pub(super) fn write(&self, folder: &Path) -> Result<(), BenchError> {
        std::fs::create_dir_all(folder)
            .map_err(BenchError::io(format!("create {}", folder.display())))?;
        let name = self.task.mode.name();
        let files = [
            (
                format!("{name}.md"),
                format!("{}\n![{}]({name}.svg)\n", self.table(), self.title()),
            ),
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

#[cfg(test)]
pub(super) mod tests {
    use super::super::Mode;
    use super::super::figures::tests::sample;
    use super::*;

    pub(in super::super) fn summary() -> Summary {
        let mut summary = Summary::new(Task::new(Mode::Produce, "h:1", "t"), 3, "4 cores");
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
            "Machine: 4 cores.",
            "medians of 3 interleaved rounds",
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
    fn latency_is_told_in_the_keys_of_the_contract() {
        let mut summary = Summary::new(Task::new(Mode::Latency, "h:1", "t"), 2, "4 cores");
        let program = Program {
            path: "x".into(),
            arguments: Vec::new(),
        };
        summary.add("ottla", &Ok(program));
        for (p50, p99) in [(70.04, 150.0), (72.0, 160.5)] {
            let sample = Sample {
                p50_us: Some(p50),
                p99_us: Some(p99),
                ..sample(1000.0)
            };
            summary.take("ottla", true, Ok(sample));
        }
        let line: Value = serde_json::from_str(&summary.json()).unwrap();
        let keys = [
            "records_per_s",
            "cpu_s_per_million",
            "peak_mb",
            "p50_us",
            "p99_us",
        ];
        let values = keys.map(|key| line[key].as_f64().unwrap());
        assert_eq!(values, [1000.0, 1.5, 20.0, 71.0, 155.3]);
    }

    #[test]
    fn the_written_table_shows_the_written_chart() {
        let folder = tempfile::tempdir().unwrap();
        summary().write(&folder.path().join("new")).unwrap();
        let read = |name: &str| std::fs::read_to_string(folder.path().join("new").join(name));
        let table = read("produce.md").unwrap();
        assert!(
            table.starts_with("## produce: ") && table.contains("(produce.svg)"),
            "{table}"
        );
        let rows: Vec<&str> = table.lines().filter(|line| line.starts_with('|')).collect();
        assert_eq!(rows.len(), 4, "head, rule and those that ran: {table}");
        assert!(rows.iter().all(|row| row.len() == rows[0].len()), "{table}");
        assert!(
            rows[2].contains("ottla") && rows[2].contains("2,000"),
            "{table}"
        );
        let chart = read("produce.svg").unwrap();
        assert!(chart.starts_with("<svg ") && chart.contains(&summary().title()));
    }
}
