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

/// What a Kafka 3 has as a preview only, switched off.
const NOT_IN_3: &str = "a_group_of_kip_848_is_described";

pub(super) async fn run(context: &mut Context) -> Outcome {
    let skipped = context.is_kafka_3().then_some(NOT_IN_3);
    if let Some(skipped) = skipped {
        println!("left out on a Kafka 3, where groups of KIP-848 are a preview: {skipped}");
    }
    for (targets, results, filter) in SETS {
        let skip = skipped.iter().flat_map(|name| ["--skip", name]);
        let arguments: Vec<&str> = filter.iter().copied().chain(skip).collect();
        test(&context.bootstrap(), targets, results, &arguments).await?;
    }
    Ok(())
}

/// `arguments` are those of the tests themselves.
async fn test(bootstrap: &str, targets: &[&str], expected: usize, arguments: &[&str]) -> Outcome {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(env!("CARGO_MANIFEST_DIR"));
    command.args(["test", "--locked", "--package", "ottla-client"]);
    command.args(targets).arg("--").args(arguments);
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
