//! The project's commands, run as `cargo xtask <command>`.
//!
//! Light on purpose, so that it builds in seconds: it reads arguments, shells out to cargo and to
//! the programs that a check needs, and says what failed.

mod args;
mod bench;
mod conformance;
mod demo;
mod e2e;
mod fuzz;
mod no_c;
mod process;
mod test;
mod tidy;
mod workspace;

use args::{Command, USAGE};
use std::process::ExitCode;

fn main() -> ExitCode {
    let command = match args::parse(std::env::args_os().skip(1)) {
        Ok(command) => command,
        Err(error) => {
            eprintln!("error: {error}\n\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    let outcome = match command {
        Command::Help => {
            println!("{USAGE}");
            Ok(())
        }
        Command::Test => test::run(),
        Command::Tidy => tidy::run(),
        Command::NoC { quick } => no_c::run(quick),
        Command::Demo { passed_on } => demo::run(&passed_on),
        Command::Bench { passed_on } => bench::run(&passed_on),
        Command::Fuzz(options) => fuzz::run(&options),
        Command::E2e(options) => e2e::run(&options),
        Command::Conformance(options) => conformance::run(options),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            // Commands that end with a line of their own have said all.
            if !message.is_empty() {
                eprintln!("error: {message}");
            }
            ExitCode::FAILURE
        }
    }
}
