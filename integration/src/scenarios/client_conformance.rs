//! The client's own scenarios, run by its tests, with this cluster as the judge of how it speaks.

use super::{Context, Outcome};
use crate::harness::Worker;
use std::time::Duration;
use tokio::process::Command;

const WITHIN: Duration = Duration::from_secs(280);
/// The sets of tests, as cargo names them, how many results they give, and which of them are meant:
/// the client's scenarios and those of its transports, and its calls in every version.
const SETS: [(&[&str], usize, &[&str]); 2] = [
    (&["--test", "external", "--test", "conformance"], 2, &[]),
    (&["--lib"], 1, &["old_versions::"]),
];

pub(super) async fn run(context: &mut Context) -> Outcome {
    for (targets, results, filter) in SETS {
        test(&context.bootstrap(), targets, results, filter).await?;
    }
    Ok(())
}

async fn test(bootstrap: &str, targets: &[&str], expected: usize, filter: &[&str]) -> Outcome {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(env!("CARGO_MANIFEST_DIR"));
    command.args(["test", "--locked", "--package", "ottla-client"]);
    command.args(targets).arg("--").args(filter);
    command.args(["--ignored", "--test-threads", "1"]);
    command.env("OTTLA_TEST_BOOTSTRAP", bootstrap);
    let mut tests = Worker::spawn("cargo test", command)?;
    let status = tests.wait(WITHIN).await?;
    let lines = tests.lines();
    let results: Vec<_> = lines
        .iter()
        .filter(|line| line.starts_with("test result:"))
        .collect();
    // No test at all would be a silent pass.
    let is_run =
        results.len() == expected && results.iter().all(|line| !line.contains(" 0 passed"));
    if !status.success() || !is_run {
        return Err(format!("{status}\n{}", what_failed(&lines)).into());
    }
    for line in results {
        println!("{line}");
    }
    Ok(())
}

/// What the tests that failed said themselves; the end of the output if none of them did.
fn what_failed(lines: &[String]) -> String {
    let said = |line: &String| line == "failures:" || line.starts_with("! error");
    let end = || lines.len().saturating_sub(60);
    let from = lines.iter().position(said).unwrap_or_else(end);
    lines[from..].join("\n")
}
