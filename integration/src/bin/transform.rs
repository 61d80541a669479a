//! One transforming process of the scenario `exactly-once`: prints `ready`, then how many records it
//! has handled, and stops gracefully on SIGINT or SIGTERM.

use lexopt::prelude::*;
use ottla::consumer::shutdown_signal;
use ottla_integration::transform::{self, Transform};
use std::process::ExitCode;
use tracing_subscriber::EnvFilter;

#[tokio::main]
async fn main() -> ExitCode {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("warn"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .init();
    let transform = match parse() {
        Ok(transform) => transform,
        Err(error) => {
            eprintln!(
                "error: {error}\nusage: transform --bootstrap HOST:PORT --group NAME --input TOPIC \
                 --output TOPIC --transactional-id NAME [--fail-every CALLS]"
            );
            return ExitCode::from(2);
        }
    };
    println!("ready");
    let stop = async {
        if let Err(error) = shutdown_signal().await {
            eprintln!("error: {error}");
        }
    };
    let told = |count| println!("handled {count}");
    match transform::run(&transform, stop, told).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("failed: {}", ottla::types::with_causes(&*error));
            ExitCode::FAILURE
        }
    }
}

fn parse() -> Result<Transform, lexopt::Error> {
    let mut transform = Transform {
        bootstrap: String::new(),
        group: String::new(),
        input: String::new(),
        output: String::new(),
        transactional_id: String::new(),
        fail_every: 0,
    };
    let mut parser = lexopt::Parser::from_env();
    while let Some(argument) = parser.next()? {
        let field = match argument {
            Long("bootstrap") => &mut transform.bootstrap,
            Long("group") => &mut transform.group,
            Long("input") => &mut transform.input,
            Long("output") => &mut transform.output,
            Long("fail-every") => {
                transform.fail_every = parser.value()?.parse()?;
                continue;
            }
            Long("transactional-id") => &mut transform.transactional_id,
            other => return Err(other.unexpected()),
        };
        *field = parser.value()?.string()?;
    }
    Ok(transform)
}
