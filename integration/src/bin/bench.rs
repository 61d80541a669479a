//! Measures clients side by side. `cargo xtask bench` builds it for release and starts it.
//!
//! As `bench client [--transport NAME] TASK` it is itself one contender: it does the task, prints one
//! line and ends with its standard input.

use lexopt::prelude::*;

use ottla_integration::bench::client::Way;
use ottla_integration::bench::{self, Mode, Options, Task};
use ottla_integration::harness::Fetch;
use std::process::ExitCode;

const USAGE: &str = "\
Usage: cargo xtask bench [produce] [consume] [latency] [partitions] [runner] [parallel] [flags]

Without a name all of them are run, on a Kafka of its own that goes away.

  --json                one line of JSON for each contender in place of tables
  --rounds N            rounds that count (default: 5; latency 10)
  --records N           records of one run (default: produce 1,000,000; consume and runner
                        2,000,000; latency 20,000; partitions 500,000; parallel 10,000)
  --contenders A,B      only these
  --bootstrap H:P       a cluster of yours; topics named ottla-bench-* come and go there
  --write               tables and charts to integration/bench
  --provision           installs what is missing: Java, Kafka, a C compiler, librdkafka";

#[tokio::main]
async fn main() -> ExitCode {
    let words: Vec<_> = std::env::args_os().skip(1).collect();
    if words.first().is_some_and(|word| word == "client") {
        // As a task, which is what services do, and what the other contenders in Rust do here.
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(async move { client(&words[1..]).await });
        let ended = tasks.join_next().await;
        return ended.map_or(ExitCode::FAILURE, |ended| {
            ended.unwrap_or(ExitCode::FAILURE)
        });
    }
    let options = match parse() {
        Ok(Some(options)) => options,
        Ok(None) => {
            println!("{USAGE}\n\ncontenders: {}", bench::names().join(", "));
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            eprintln!("error: {error}\n\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    // Ctrl-C drops the run, and with it every process that it started.
    let ended = tokio::select! {
        ended = bench::run(&options) => ended,
        _ = tokio::signal::ctrl_c() => {
            eprintln!("stopped");
            return ExitCode::FAILURE;
        }
    };
    match ended {
        Ok(tally) if tally.failed == 0 => ExitCode::SUCCESS,
        Ok(tally) => {
            eprintln!("error: {} of our own contenders failed", tally.failed);
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("error: {}", error.chain());
            ExitCode::from(2)
        }
    }
}

fn parse() -> Result<Option<Options>, lexopt::Error> {
    let mut options = Options {
        modes: Vec::new(),
        contenders: Vec::new(),
        rounds: None,
        records: None,
        bootstrap: None,
        json: false,
        write: false,
        fetch: Fetch::Forbidden,
    };
    let mut parser = lexopt::Parser::from_env();
    while let Some(argument) = parser.next()? {
        match argument {
            Value(name) => options.modes.push(name.parse()?),
            Long("json") => options.json = true,
            Long("write") => options.write = true,
            Long("provision") => options.fetch = Fetch::Allowed,
            Long("rounds") => options.rounds = Some(parser.value()?.parse_with(at_least_one)?),
            Long("records") => options.records = Some(parser.value()?.parse_with(at_least_one)?),
            Long("bootstrap") => options.bootstrap = Some(parser.value()?.string()?),
            Long("contenders") => {
                let names = parser.value()?.string()?;
                let names = names
                    .split(',')
                    .map(str::trim)
                    .filter(|name| !name.is_empty());
                options.contenders.extend(names.map(str::to_owned));
            }
            Short('h') | Long("help") => return Ok(None),
            other => return Err(other.unexpected()),
        }
    }
    if options.modes.is_empty() {
        options.modes = Mode::ALL.into();
    }
    Ok(Some(options))
}

fn at_least_one<T>(text: &str) -> Result<T, String>
where
    T: std::str::FromStr + From<u8> + PartialOrd,
    T::Err: std::fmt::Display,
{
    let number: T = text.parse().map_err(|error: T::Err| error.to_string())?;
    if number < T::from(1) {
        return Err("it is at least 1".to_owned());
    }
    Ok(number)
}

async fn client(words: &[std::ffi::OsString]) -> ExitCode {
    let done = match parse_client(words) {
        Ok((way, task)) => bench::client::run(way, &task).await,
        Err(error) => Err(error.into()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", ottla::types::with_causes(&*error));
            ExitCode::FAILURE
        }
    }
}

fn parse_client(words: &[std::ffi::OsString]) -> Result<(Way, Task), String> {
    let words: Vec<String> = words
        .iter()
        .map(|word| word.to_string_lossy().into_owned())
        .collect();
    match words.split_first_chunk() {
        Some(([flag, name], rest)) if flag == "--transport" => {
            let transport = name.parse().map_err(|error| format!("{error}"))?;
            let way = Way {
                transport,
                ..Way::default()
            };
            Ok((way, Task::parse(rest)?))
        }
        Some(([flag, records], rest)) if flag == "--slices" => {
            let way = Way {
                slices: Some(at_least_one(records)?),
                ..Way::default()
            };
            Ok((way, Task::parse(rest)?))
        }
        _ => Ok((Way::default(), Task::parse(&words)?)),
    }
}
