//! What the programs of this folder share: the task, the records, the line at the end.

use std::fmt::Display;
use std::io::{Read, Write};

pub type Failure = Box<dyn std::error::Error + Send + Sync>;

const KEYS: u64 = 10_000;
const VALUES: u64 = 1_000;

#[derive(Debug, Default, Clone)]
pub struct Task {
    pub mode: String,
    pub bootstrap: String,
    pub topic: String,
    pub group: String,
    pub records: u64,
    pub warm_up: u64,
    pub partitions: i32,
    pub linger_ms: u64,
    pub batch_bytes: usize,
    pub buffer_bytes: usize,
    pub value_bytes: u64,
}

impl Task {
    pub fn from_arguments() -> Result<Self, Failure> {
        let mut task = Self::default();
        let mut words = std::env::args().skip(1);
        while let Some(flag) = words.next() {
            let value = words.next().ok_or_else(|| format!("{flag} has no value"))?;
            match flag.as_str() {
                "--mode" => task.mode = value,
                "--bootstrap" => task.bootstrap = value,
                "--topic" => task.topic = value,
                "--group" => task.group = value,
                "--records" => task.records = value.parse()?,
                "--warm-up" => task.warm_up = value.parse()?,
                "--partitions" => task.partitions = value.parse()?,
                "--linger-ms" => task.linger_ms = value.parse()?,
                "--batch-bytes" => task.batch_bytes = value.parse()?,
                "--buffer-bytes" => task.buffer_bytes = value.parse()?,
                "--value-bytes" => task.value_bytes = value.parse()?,
                _ => return Err(format!("unknown flag {flag}").into()),
            }
        }
        Ok(task)
    }
}

pub struct Workload<B> {
    keys: Vec<B>,
    values: Vec<B>,
}

impl<B: From<Vec<u8>>> Workload<B> {
    pub fn new(task: &Task) -> Self {
        let key = |i: u64| B::from(format!("key-{i:08}").into_bytes());
        let value = |v: u64| {
            let bytes: Vec<u8> = (0..task.value_bytes)
                .map(|j| b'a' + ((v + 7 * j) % 26) as u8)
                .collect();
            B::from(bytes)
        };
        Self {
            keys: (0..KEYS).map(key).collect(),
            values: (0..VALUES).map(value).collect(),
        }
    }

    pub fn record(&self, i: u64) -> (&B, &B) {
        (
            &self.keys[(i % KEYS) as usize],
            &self.values[(i % VALUES) as usize],
        )
    }
}

pub fn touch(key: &[u8], value: &[u8]) -> u64 {
    let edge = |byte: Option<&u8>| byte.copied().map_or(0, u64::from);
    key.len() as u64
        + value.len() as u64
        + edge(key.last())
        + edge(value.first())
        + edge(value.last())
}

/// `fields` are names with values that are numbers.
pub fn tell(
    version: &str,
    note: Option<&str>,
    fields: &[(&str, &dyn Display)],
) -> Result<(), Failure> {
    let mut line = format!("{{\"version\":\"{version}\"");
    for (name, value) in fields {
        line.push_str(&format!(",\"{name}\":{value}"));
    }
    if let Some(note) = note {
        line.push_str(&format!(",\"note\":\"{note}\""));
    }
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}}}")?;
    out.flush()?;
    Ok(())
}

pub async fn input_ended() -> Result<(), Failure> {
    tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new())).await??;
    Ok(())
}

/// Nearest rank of p50 and p99.
pub fn percentiles(mut micros: Vec<f64>) -> (f64, f64) {
    micros.sort_unstable_by(f64::total_cmp);
    let at = |share: f64| micros[((share * micros.len() as f64).ceil() as usize).saturating_sub(1)];
    (at(0.50), at(0.99))
}
