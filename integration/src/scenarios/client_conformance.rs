//! The client's own scenarios, run by its tests, with this cluster as the judge of how it speaks.

use super::{Context, Outcome};
use crate::harness::Worker;
use std::time::Duration;
use tokio::process::Command;

const WITHIN: Duration = Duration::from_secs(280);
/// The sets of tests: the client's scenarios, and those of its transports.
const SETS: usize = 2;

pub(super) async fn run(context: &mut Context) -> Outcome {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(env!("CARGO_MANIFEST_DIR"));
    command.args([
        "test",
        "--locked",
        "--package",
        "ottla-client",
        "--test",
        "external",
        "--test",
        "conformance",
    ]);
    command.args(["--", "--ignored", "--test-threads", "1"]);
    command.env("OTTLA_TEST_BOOTSTRAP", context.bootstrap());
    let mut tests = Worker::spawn("cargo test", command)?;
    let status = tests.wait(WITHIN).await?;
    let lines = tests.lines();
    let results: Vec<_> = lines
        .iter()
        .filter(|line| line.starts_with("test result:"))
        .collect();
    // No test at all would be a silent pass.
    let is_run = results.len() == SETS && results.iter().all(|line| !line.contains(" 0 passed"));
    if !status.success() || !is_run {
        return Err(format!("{status}\n{}", tests.tail(60)).into());
    }
    for line in results {
        println!("{line}");
    }
    Ok(())
}
