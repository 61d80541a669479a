//! Runs the end-to-end scenarios. `cargo xtask e2e` starts it; it can be started by hand too.
//!
//! Ends with `N passed, N failed`; the exit status is 1 when a scenario failed and 2 when nothing
//! could be run.

use lexopt::prelude::*;
use ottla_integration::harness::{Fetch, KAFKA_VERSION};
use ottla_integration::scenarios::runner::{self, Options};
use ottla_integration::scenarios::{Broker, Suite};
use std::process::ExitCode;
use tracing_subscriber::EnvFilter;

#[tokio::main]
async fn main() -> ExitCode {
    // `RUST_LOG` says what is to be seen of the clients; nothing by default.
    tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::from_default_env())
        .with_writer(std::io::stderr)
        .init();
    let options = match parse() {
        Ok(options) => options,
        Err(error) => {
            eprintln!("error: {error}\n\nscenarios:{}", runner::list());
            return ExitCode::from(2);
        }
    };
    // Ctrl-C drops the run, and with it every process that it started.
    let ended = tokio::select! {
        ended = runner::run(&options) => ended,
        _ = tokio::signal::ctrl_c() => {
            eprintln!("stopped");
            return ExitCode::FAILURE;
        }
    };
    match ended {
        Ok(tally) => {
            println!("\n{} passed, {} failed", tally.passed, tally.failed);
            if tally.failed == 0 {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            }
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(2)
        }
    }
}

fn parse() -> Result<Options, lexopt::Error> {
    let mut options = Options {
        broker: Broker::Kafka,
        bootstrap: None,
        kafka: KAFKA_VERSION.to_owned(),
        nodes: None,
        scenario: None,
        suite: Suite::Full,
        transport: None,
        fetch: Fetch::Forbidden,
    };
    let mut parser = lexopt::Parser::from_env();
    while let Some(argument) = parser.next()? {
        match argument {
            Long("broker") => options.broker = parser.value()?.parse_with(broker)?,
            Long("bootstrap") => options.bootstrap = Some(parser.value()?.string()?),
            Long("kafka") => options.kafka = parser.value()?.string()?,
            Long("nodes") => options.nodes = Some(parser.value()?.parse()?),
            Long("scenario") => options.scenario = Some(parser.value()?.string()?),
            Long("suite") => options.suite = parser.value()?.parse_with(suite)?,
            Long("transport") => options.transport = Some(parser.value()?.parse()?),
            Long("provision") => options.fetch = Fetch::Allowed,
            other => return Err(other.unexpected()),
        }
    }
    Ok(options)
}

fn broker(name: &str) -> Result<Broker, String> {
    let all = [
        Broker::Kafka,
        Broker::Redpanda,
        Broker::Mock,
        Broker::External,
    ];
    let found = all.into_iter().find(|broker| broker.name() == name);
    found.ok_or_else(|| format!("no broker {name}"))
}

fn suite(name: &str) -> Result<Suite, String> {
    match name {
        "ci" => Ok(Suite::Ci),
        "full" => Ok(Suite::Full),
        _ => Err(format!("no suite {name}")),
    }
}
