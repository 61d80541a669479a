//! The rounds: one process after the other, each measured from outside.

use super::broker::Broker;
use super::contenders::{self, Program};
use super::figures::Sample;
use super::summary::Summary;
use super::workload::Workload;
use super::{BenchError, Mode, Task, machine, measure};
use crate::harness::{Fetch, Guard, Jars, KAFKA_VERSION};
use serde::Deserialize;
use std::fs::File;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::time::timeout;

/// A run that is stuck does not hold the others up for longer.
const RUN_WITHIN: Duration = Duration::from_secs(300);
const CLOSE_WITHIN: Duration = Duration::from_secs(30);
/// What the last records left behind (metadata, commits, flushes) has passed by then.
const SETTLE: Duration = Duration::from_secs(1);
/// As many as there are different keys.
const PARTITIONS_FILL: u64 = 10_000;
const IDLE: Duration = Duration::from_secs(3);

/// What to measure and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// What; at least one.
    pub modes: Vec<Mode>,
    /// Whom; all if there are none.
    pub contenders: Vec<String>,
    /// Rounds that count; the mode's own number if there is none.
    pub rounds: Option<u32>,
    /// Records of one run; the mode's own number if there is none.
    pub records: Option<u64>,
    /// A cluster of the user's own.
    pub bootstrap: Option<String>,
    /// One line of JSON for each contender in place of tables.
    pub json: bool,
    /// Writes tables and charts to `integration/bench`.
    pub write: bool,
    /// Whether Kafka may be fetched.
    pub fetch: Fetch,
}

/// How it went.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Contenders of ours that were to be measured and failed.
    pub failed: usize,
}

/// Measures what `options` ask for, and prints and writes it.
///
/// # Errors
/// When nothing can be measured at all; a contender that fails is told in its place.
pub async fn run(options: &Options) -> Result<Tally, BenchError> {
    let names = contenders::select(&options.contenders)?;
    let jars = Jars::locate(KAFKA_VERSION, options.fetch).await;
    let reason = jars.as_ref().map(Clone::clone).map_err(ToString::to_string);
    let programs = contenders::prepare(&names, &reason).await;
    let machine = machine::describe(options.bootstrap.as_deref())?;
    let broker = match &options.bootstrap {
        Some(bootstrap) => Broker::external(bootstrap),
        None => Broker::start(jars?).await?,
    };
    let mut tally = Tally::default();
    for mode in &options.modes {
        let names = names
            .iter()
            .copied()
            .filter(|name| contenders::takes_part(name, *mode));
        let names: Vec<_> = names.collect();
        if names.is_empty() {
            let problem = format!("none of the named contenders takes part in {mode}");
            return Err(BenchError::Usage(problem));
        }
        let mut bench = Bench::new(options, *mode, &broker, &machine);
        for name in &names {
            bench.summary.add(name, &programs[name]);
        }
        let ready = names
            .into_iter()
            .filter_map(|name| Some((name, programs[name].as_ref().ok()?)));
        bench.rounds(&ready.collect::<Vec<_>>()).await?;
        print(&bench.summary, options)?;
        tally.failed += bench.summary.failed(contenders::is_ours);
    }
    broker.stop().await?;
    Ok(tally)
}

fn print(summary: &Summary, options: &Options) -> Result<(), BenchError> {
    if options.json {
        print!("{}", summary.json());
    } else {
        println!("\n{}", summary.table());
    }
    if options.write {
        summary.write(&Path::new(env!("CARGO_MANIFEST_DIR")).join("bench"))?;
    }
    Ok(())
}

struct Bench<'a> {
    broker: &'a Broker,
    /// What every run begins with.
    task: Task,
    rounds: u32,
    /// Names topics and groups that nobody had before.
    prefix: String,
    summary: Summary,
}

impl<'a> Bench<'a> {
    fn new(options: &Options, mode: Mode, broker: &'a Broker, machine: &str) -> Self {
        let prefix = format!("ottla-bench-{:08x}-{mode}", fastrand::u32(..));
        let mut task = Task::new(mode, broker.bootstrap(), format!("{prefix}-filled"));
        task.records = options.records.unwrap_or(task.records);
        let rounds = options.rounds.unwrap_or(mode.rounds());
        Self {
            broker,
            summary: Summary::new(task.clone(), rounds, machine),
            task,
            rounds,
            prefix,
        }
    }

    async fn rounds(&mut self, programs: &[(&'static str, &Program)]) -> Result<(), BenchError> {
        if self.shares_a_topic() {
            eprintln!("{}: filling a topic", self.task.mode);
            self.broker
                .create(&self.task.topic, self.task.partitions)
                .await?;
            let mut fill = self.task.clone();
            if fill.mode == Mode::Partitions {
                // Only so that every partition has its files.
                fill.records = PARTITIONS_FILL;
            }
            self.broker.fill(&fill).await?;
        }
        // Round 0 warms the broker up and does not count.
        for round in 0..=self.rounds {
            // In another order each time: who comes after whom shows in the figures.
            let mut programs = programs.to_vec();
            fastrand::Rng::with_seed(round.into()).shuffle(&mut programs);
            for (name, program) in &programs {
                if self.summary.has_failed(name) {
                    continue;
                }
                let sample = self.sample(round, name, program).await;
                match &sample {
                    Ok(sample) => eprintln!(
                        "{} {round}/{} {name}: {sample}",
                        self.task.mode, self.rounds
                    ),
                    Err(error) => eprintln!(
                        "{} {round}/{} {name}: {}",
                        self.task.mode,
                        self.rounds,
                        error.chain()
                    ),
                }
                self.summary
                    .take(name, round > 0, sample.map_err(|error| error.chain()));
            }
        }
        if self.shares_a_topic() {
            self.broker.delete(&self.task.topic).await?;
        }
        Ok(())
    }

    /// Whether all runs have one topic. The first write to a partition costs the broker much, which a
    /// thousand partitions would show in place of the client.
    fn shares_a_topic(&self) -> bool {
        !matches!(self.task.mode, Mode::Produce | Mode::Latency)
    }

    async fn sample(
        &self,
        round: u32,
        name: &str,
        program: &Program,
    ) -> Result<Sample, BenchError> {
        let mut task = self.task.clone();
        task.group = format!("{}-{round}-{name}", self.prefix);
        if !task.mode.writes() {
            let (sample, sum) = run_one(name, program, &task).await?;
            if task.mode != Mode::Consume {
                return self.all_committed(name, &task).await.map(|()| sample);
            }
            let expected = Workload::new(task.value_bytes).sum(task.records);
            return if sum == Some(expected) {
                Ok(sample)
            } else {
                Err(wrong(
                    name,
                    format!("read something else: {sum:?}, not {expected}"),
                ))
            };
        }
        let mut before = 0;
        if self.shares_a_topic() {
            before = self.broker.count(&task.topic, task.partitions).await?;
        } else {
            task.topic.clone_from(&task.group);
            self.broker.create(&task.topic, task.partitions).await?;
        }
        let outcome = run_one(name, program, &task).await;
        let there = self.broker.count(&task.topic, task.partitions).await;
        if !self.shares_a_topic() {
            self.broker.delete(&task.topic).await?;
        }
        let ((mut sample, _), there) = (outcome?, there?.saturating_sub(before));
        let wanted = task.records + task.warm_up;
        if there < wanted {
            return Err(wrong(
                name,
                format!("{there} of {wanted} records are in the topic"),
            ));
        }
        sample.duplicates = there - wanted;
        Ok(sample)
    }
}

impl Bench<'_> {
    /// What a client left behind: the offsets of all records.
    async fn all_committed(&self, name: &str, task: &Task) -> Result<(), BenchError> {
        let committed = self.broker.committed(&task.group).await?;
        if committed == task.records {
            return Ok(());
        }
        let problem = format!("committed {committed} of {} records", task.records);
        Err(wrong(name, problem))
    }
}

fn wrong(name: &str, problem: String) -> BenchError {
    BenchError::Wrong {
        contender: name.to_owned(),
        problem,
    }
}

/// What a program says of itself.
#[derive(Debug, Deserialize)]
struct Line {
    version: String,
    records: u64,
    seconds: f64,
    sum: Option<u64>,
    p50_us: Option<f64>,
    p99_us: Option<f64>,
    ideal_s: Option<f64>,
    note: Option<String>,
}

async fn run_one(
    name: &str,
    program: &Program,
    task: &Task,
) -> Result<(Sample, Option<u64>), BenchError> {
    let log = tempfile::NamedTempFile::new().map_err(BenchError::io("make a log file"))?;
    let file = log.reopen().map_err(BenchError::io("open a log file"))?;
    let mut child = start(program, task, file).map_err(BenchError::io(format!("start {name}")))?;
    let _guard = Guard::of(&child)?;
    let ended = |status: String| BenchError::Ended {
        contender: name.to_owned(),
        status,
        tail: tail(log.path()),
    };
    let late = |within| BenchError::TimedOut {
        contender: name.to_owned(),
        within,
        tail: tail(log.path()),
    };

    let line = timeout(RUN_WITHIN, first_line(&mut child)).await;
    let line = line.map_err(|_| late(RUN_WITHIN))?;
    let Some(line) = line.map_err(BenchError::io(format!("read from {name}")))? else {
        let status = timeout(CLOSE_WITHIN, child.wait())
            .await
            .map_err(|_| late(CLOSE_WITHIN))?;
        let status = status.map_err(BenchError::io(format!("wait for {name}")))?;
        return Err(ended(status.to_string()));
    };
    let said: Line = serde_json::from_str(&line)
        .map_err(|error| wrong(name, format!("said {line}: {error}")))?;
    if said.records != task.records {
        return Err(wrong(
            name,
            format!("did {} records of {}", said.records, task.records),
        ));
    }
    let pid = child.id().ok_or_else(|| ended("too early".to_owned()))?;
    let sum = said.sum;
    let sample = measured(pid, said, task).await?;

    // The end of its input tells it to close.
    drop(child.stdin.take());
    let status = timeout(CLOSE_WITHIN, child.wait())
        .await
        .map_err(|_| late(CLOSE_WITHIN))?;
    let status = status.map_err(BenchError::io(format!("wait for {name}")))?;
    if !status.success() {
        return Err(ended(status.to_string()));
    }
    Ok((sample, sum))
}

fn start(program: &Program, task: &Task, log: File) -> std::io::Result<Child> {
    Command::new(&program.path)
        .args(&program.arguments)
        .args(task.arguments())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(log)
        .kill_on_drop(true)
        .spawn()
}

/// The line with the figures; what a client prints besides is not ours.
async fn first_line(child: &mut Child) -> std::io::Result<Option<String>> {
    let Some(stdout) = child.stdout.as_mut() else {
        return Ok(None);
    };
    let mut lines = BufReader::new(stdout).lines();
    while let Some(line) = lines.next_line().await? {
        if line.starts_with('{') {
            return Ok(Some(line));
        }
    }
    Ok(None)
}

async fn measured(pid: u32, said: Line, task: &Task) -> Result<Sample, BenchError> {
    let cpu = measure::cpu(pid)?;
    let mut sample = Sample {
        version: said.version,
        note: said.note,
        records_per_s: said.records as f64 / said.seconds,
        cpu_s_per_million: cpu.as_secs_f64() * 1e6 / (said.records + task.warm_up) as f64,
        peak_mb: measure::peak_mib(pid)?,
        p50_us: said.p50_us,
        p99_us: said.p99_us,
        sockets: None,
        idle_cpu_percent: None,
        seconds: said.seconds,
        ideal_s: said.ideal_s,
        duplicates: 0,
    };
    if task.mode == Mode::Partitions {
        sample.sockets = Some(measure::sockets(pid)? as f64);
        tokio::time::sleep(SETTLE).await;
        let before = measure::cpu(pid)?;
        tokio::time::sleep(IDLE).await;
        let spent = measure::cpu(pid)?.saturating_sub(before);
        sample.idle_cpu_percent = Some(spent.as_secs_f64() / IDLE.as_secs_f64() * 100.0);
    }
    Ok(sample)
}

fn tail(log: &Path) -> String {
    let text = std::fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(6)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Program {
        Program {
            path: "sh".into(),
            arguments: ["-c", script, "sh"].map(str::to_owned).into(),
        }
    }

    fn task() -> Task {
        let mut task = Task::new(Mode::Consume, "127.0.0.1:1", "t");
        task.records = 10;
        task
    }

    #[tokio::test]
    async fn a_program_is_measured_while_it_waits() {
        let said = r#"echo noise; i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done
            echo '{"version":"1","records":10,"seconds":0.5,"sum":7}'; read -r _; exit 0"#;
        let (sample, sum) = run_one("sh", &shell(said), &task()).await.unwrap();
        assert_eq!(sample.records_per_s, 20.0);
        assert_eq!(sum, Some(7));
        assert!(
            sample.cpu_s_per_million > 0.0 && sample.peak_mb > 0.1,
            "{sample:?}"
        );
    }

    #[tokio::test]
    async fn bad_ends_are_told() {
        let fails = |script: &'static str| async move {
            run_one("sh", &shell(script), &task())
                .await
                .unwrap_err()
                .to_string()
        };
        let error = fails("echo why >&2; exit 3").await;
        assert!(
            error.contains("exit status: 3") && error.contains("why"),
            "{error}"
        );
        let error = fails(r#"echo '{"records":10}'; read -r _"#).await;
        assert!(error.contains("version"), "{error}");
        let error = fails(r#"echo '{"version":"1","records":9,"seconds":1}'; read -r _"#).await;
        assert!(error.contains("9 records of 10"), "{error}");
        let error =
            fails(r#"echo '{"version":"1","records":10,"seconds":1}'; read -r _; exit 4"#).await;
        assert!(error.contains("exit status: 4"), "{error}");
    }
}
