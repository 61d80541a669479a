//! `cargo xtask demo`: builds the order flow and becomes it.

use crate::process;
use std::ffi::OsString;

pub(crate) fn run(passed_on: &[OsString]) -> Result<(), String> {
    let mut command = process::cargo();
    command.args([
        "run",
        "--locked",
        "--package",
        "ottla-integration",
        "--bin",
        "order-flow",
        "--",
    ]);
    command.args(passed_on);
    become_(command)
}

/// Replaces this process, so that a signal reaches the demo and its exit status is the command's.
#[cfg(unix)]
pub(crate) fn become_(mut command: std::process::Command) -> Result<(), String> {
    use std::os::unix::process::CommandExt;
    let line = process::shown(&command);
    Err(format!("`{line}` did not start: {}", command.exec()))
}

#[cfg(not(unix))]
pub(crate) fn become_(mut command: std::process::Command) -> Result<(), String> {
    process::run(&mut command)
}
