//! What a contender is asked to do: the same words for every program, in every language.

use super::parallel::{CALL_US_MAX, CONCURRENCY, KEYS};
use super::reader::COMMIT_EVERY;
use std::fmt;
use std::str::FromStr;

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Mode {
    /// Records a second and CPU time of a producer that is kept full.
    Produce,
    /// The same of one member of a group that reads a topic from its start.
    Consume,
    /// How long one record takes from the call to its acknowledgement, one at a time.
    Latency,
    /// A producer on a topic of very many partitions, and what it costs when nothing is sent.
    Partitions,
    /// The runner with a handler that does nothing, and offsets committed all the time.
    Runner,
    /// One partition, handlers that take their time, many calls at a time, the order of keys kept.
    Parallel,
}

impl Mode {
    /// All of them, in the order in which they run.
    pub const ALL: [Mode; 6] = [
        Self::Produce,
        Self::Consume,
        Self::Latency,
        Self::Partitions,
        Self::Runner,
        Self::Parallel,
    ];

    /// Its name on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Produce => "produce",
            Self::Consume => "consume",
            Self::Latency => "latency",
            Self::Partitions => "partitions",
            Self::Runner => "runner",
            Self::Parallel => "parallel",
        }
    }

    /// Records of one run unless the user says otherwise.
    pub const fn records(self) -> u64 {
        match self {
            Self::Produce => 1_000_000,
            // What was read ahead of the first record must not weigh much.
            Self::Consume | Self::Runner => 2_000_000,
            // Some seconds: a quarter of one shows how a process starts.
            Self::Latency => 20_000,
            Self::Partitions => 500_000,
            Self::Parallel => 10_000,
        }
    }

    /// Rounds that count unless the user says otherwise.
    pub const fn rounds(self) -> u32 {
        match self {
            Self::Latency => 10,
            _ => 5,
        }
    }

    /// Partitions of the topic.
    pub const fn partitions(self) -> i32 {
        match self {
            Self::Partitions => 1_000,
            Self::Parallel => 1,
            _ => 8,
        }
    }

    const fn linger_ms(self) -> u32 {
        match self {
            Self::Produce | Self::Consume | Self::Runner | Self::Parallel => 5,
            // One record at a time: there is nothing to wait for.
            Self::Latency => 0,
            Self::Partitions => 50,
        }
    }

    /// Whether records are written.
    pub const fn writes(self) -> bool {
        matches!(self, Self::Produce | Self::Latency | Self::Partitions)
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Mode {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|mode| mode.name() == name);
        found.ok_or_else(|| format!("no bench {name}: it is one of {}", list()))
    }
}

fn list() -> String {
    Mode::ALL.map(Mode::name).join(", ")
}

/// One run of one contender.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Task {
    /// What is measured.
    pub mode: Mode,
    /// `host:port` of the broker.
    pub bootstrap: String,
    /// The topic to write to or to read.
    pub topic: String,
    /// The group to read in.
    pub group: String,
    /// How many records.
    pub records: u64,
    /// Records before those that are timed (latency only).
    pub warm_up: u64,
    /// Partitions of the topic.
    pub partitions: i32,
    /// `linger.ms`.
    pub linger_ms: u32,
    /// `batch.size`.
    pub batch_bytes: usize,
    /// `buffer.memory`, or the bound of what was read and not yet handed over.
    pub buffer_bytes: usize,
    /// The size of a value.
    pub value_bytes: usize,
}

impl Task {
    /// The settings of `mode`, which are the same for all contenders.
    pub fn new(mode: Mode, bootstrap: impl Into<String>, topic: impl Into<String>) -> Self {
        Self {
            mode,
            bootstrap: bootstrap.into(),
            topic: topic.into(),
            group: "bench".to_owned(),
            records: mode.records(),
            warm_up: if mode == Mode::Latency { 500 } else { 0 },
            partitions: mode.partitions(),
            linger_ms: mode.linger_ms(),
            batch_bytes: 64 << 10,
            buffer_bytes: 16 << 20,
            value_bytes: 200,
        }
    }

    /// The command line that every contender's program takes.
    pub fn arguments(&self) -> Vec<String> {
        let pairs: [(&str, &dyn fmt::Display); 11] = [
            ("--mode", &self.mode),
            ("--bootstrap", &self.bootstrap),
            ("--topic", &self.topic),
            ("--group", &self.group),
            ("--records", &self.records),
            ("--warm-up", &self.warm_up),
            ("--partitions", &self.partitions),
            ("--linger-ms", &self.linger_ms),
            ("--batch-bytes", &self.batch_bytes),
            ("--buffer-bytes", &self.buffer_bytes),
            ("--value-bytes", &self.value_bytes),
        ];
        let words = pairs.map(|(flag, value)| [flag.to_owned(), value.to_string()]);
        words.into_iter().flatten().collect()
    }

    /// Reads what [`arguments`](Self::arguments) wrote.
    ///
    /// # Errors
    /// Names the flag that is unknown, missing or has a wrong value.
    pub fn parse(words: &[String]) -> Result<Self, String> {
        let mut task = Self::new(Mode::Produce, "", "");
        let pairs = words.chunks_exact(2);
        if !pairs.remainder().is_empty() {
            return Err("flags come with one value each".to_owned());
        }
        for pair in pairs {
            let (flag, value) = (pair[0].as_str(), pair[1].as_str());
            match flag {
                "--mode" => task.mode = value.parse()?,
                "--bootstrap" => value.clone_into(&mut task.bootstrap),
                "--topic" => value.clone_into(&mut task.topic),
                "--group" => value.clone_into(&mut task.group),
                "--records" => task.records = number(flag, value)?,
                "--warm-up" => task.warm_up = number(flag, value)?,
                "--partitions" => task.partitions = number(flag, value)?,
                "--linger-ms" => task.linger_ms = number(flag, value)?,
                "--batch-bytes" => task.batch_bytes = number(flag, value)?,
                "--buffer-bytes" => task.buffer_bytes = number(flag, value)?,
                "--value-bytes" => task.value_bytes = number(flag, value)?,
                _ => return Err(format!("unknown flag {flag}")),
            }
        }
        Ok(task)
    }

    /// The settings in one sentence, for those who read the figures.
    pub fn stated(&self) -> String {
        let Self {
            records,
            partitions,
            value_bytes,
            linger_ms,
            ..
        } = self;
        let (batch, buffer) = (self.batch_bytes >> 10, self.buffer_bytes >> 20);
        let common = format!(
            "{records} records a run, keys of 12 and values of {value_bytes} bytes, {partitions} partitions, one broker, no compression, clients in Rust called from a task of a runtime with all cores"
        );
        let reading = format!(
            "from the earliest offset, batches of {batch} KiB written by ottla, at most {buffer} MiB read ahead where the client can be told"
        );
        let commits = COMMIT_EVERY.as_millis();
        match self.mode {
            Mode::Consume => format!(
                "{common}; one member of a group (rskafka has none: it reads the partitions), {reading}, fetches of 1 MiB a partition, offsets committed as each client does by itself, key and value of every record touched"
            ),
            Mode::Runner => format!(
                "{common}; one member of a group, {reading}, fetches of 1 MiB a partition, offsets committed every {commits} ms and at the end; ours through the runner, which calls a handler that does nothing for each record, the peer in its poll loop, which counts the records"
            ),
            Mode::Parallel => format!(
                "{records} records a run in {partitions} partition, {KEYS} keys, handlers of 0 to {} ms (the same ones in each run), {CONCURRENCY} calls at a time, one call a key in the order of the log; one member of a group, {reading}, offsets committed every {commits} ms and at the end. Ideal: the time of the longest key, or of all calls over {CONCURRENCY}, whichever is larger",
                CALL_US_MAX / 1_000
            ),
            _ => format!(
                "{common}; acks=all, idempotent where the client can (not rskafka, nor ottla on it), linger {linger_ms} ms, batches of {batch} KiB, at most {buffer} MiB buffered where the client can be told, a result for each record looked at"
            ),
        }
    }
}

fn number<T: FromStr<Err: fmt::Display>>(flag: &str, value: &str) -> Result<T, String> {
    value
        .parse()
        .map_err(|error| format!("{flag} {value}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        for mode in Mode::ALL {
            let task = Task::new(mode, "127.0.0.1:1", "t-1");
            assert_eq!(Task::parse(&task.arguments()), Ok(task));
        }
    }

    #[test]
    fn wrong_words_are_named() {
        let parse = |words: &[&str]| {
            let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
            Task::parse(&words).unwrap_err()
        };
        assert!(parse(&["--records", "many"]).starts_with("--records many"));
        assert!(parse(&["--mode", "fly"]).contains("produce, consume"));
        assert!(parse(&["--colour", "red"]).contains("--colour"));
        assert!(parse(&["--records"]).contains("one value"));
    }
}
