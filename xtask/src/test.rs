//! `cargo xtask test`: everything that needs no service.
//!
//! Every step runs even when an earlier one failed, so that one run shows all there is to mend. The
//! last line is `N passed, N failed`: the tests that cargo counted, and each failed step as one
//! more failure.

use crate::{conformance, process, tidy};
use std::time::Instant;

#[derive(Debug, Default, PartialEq, Eq)]
struct Tally {
    passed: u64,
    failed: u64,
    failed_steps: Vec<&'static str>,
}

impl Tally {
    fn step(&mut self, name: &'static str, outcome: Result<(), String>) {
        if let Err(message) = outcome {
            eprintln!("error: step {name}: {message}");
            self.failed_steps.push(name);
        }
    }

    /// Adds a `test result: ok. 12 passed; 0 failed; ...` line; other lines are passed over.
    fn count(&mut self, line: &str) {
        let Some(result) = line.trim().strip_prefix("test result: ") else {
            return;
        };
        let counts = result.split_once(". ").map_or("", |(_, counts)| counts);
        for part in counts.split(';') {
            let mut words = part.split_whitespace();
            let number = words.next().and_then(|word| word.parse::<u64>().ok());
            match (number, words.next()) {
                (Some(number), Some("passed")) => self.passed += number,
                (Some(number), Some("failed")) => self.failed += number,
                _ => {}
            }
        }
    }
}

pub(crate) fn run() -> Result<(), String> {
    let started = Instant::now();
    let mut tally = Tally::default();

    heading("fmt");
    tally.step(
        "fmt",
        process::run(process::cargo().args(["fmt", "--all", "--check"])),
    );

    heading("clippy");
    let mut clippy = process::cargo();
    clippy.args([
        "clippy",
        "--workspace",
        "--all-targets",
        "--all-features",
        "--locked",
    ]);
    tally.step(
        "clippy",
        process::run(clippy.args(["--", "-D", "warnings"])),
    );

    heading("doc");
    let mut doc = process::cargo();
    doc.args([
        "doc",
        "--workspace",
        "--all-features",
        "--no-deps",
        "--locked",
    ]);
    tally.step("doc", process::run(doc.env("RUSTDOCFLAGS", "-D warnings")));

    heading("tests");
    let mut tests = process::cargo();
    tests.args([
        "test",
        "--workspace",
        "--all-features",
        "--no-fail-fast",
        "--locked",
    ]);
    let conformance = conformance::fresh_folder();
    if let Ok(folder) = &conformance {
        tests.env(conformance::FOLDER_VARIABLE, folder);
    }
    let failed_before = tally.failed;
    let outcome = process::run_seeing(&mut tests, |line| tally.count(line));
    // Failed tests are counted one by one; a step that fails without any did not build or died.
    if tally.failed == failed_before {
        tally.step("tests", outcome);
    }

    heading("conformance table");
    let checked = conformance.and_then(|folder| conformance::check(&folder));
    tally.step("conformance table", checked);

    heading("tidy");
    tally.step("tidy", tidy::run());

    report(&tally, started)
}

fn report(tally: &Tally, started: Instant) -> Result<(), String> {
    println!("\ntook {} s", started.elapsed().as_secs());
    if !tally.failed_steps.is_empty() {
        println!("failed steps: {}", tally.failed_steps.join(", "));
    }
    let failed = tally.failed + tally.failed_steps.len() as u64;
    println!("{} passed, {failed} failed", tally.passed);
    if failed == 0 && tally.passed > 0 {
        Ok(())
    } else {
        Err(String::new())
    }
}

fn heading(step: &str) {
    println!("\n== {step}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cargos_lines_are_summed() {
        let mut tally = Tally::default();
        for line in [
            "test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.01s",
            "test result: FAILED. 3 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out",
            "test a_test_named_99_passed ... ok",
        ] {
            tally.count(line);
        }
        assert_eq!(
            tally,
            Tally {
                passed: 15,
                failed: 2,
                failed_steps: Vec::new()
            }
        );
    }

    #[test]
    fn a_failed_step_is_a_failure() {
        let mut tally = Tally {
            passed: 5,
            ..Tally::default()
        };
        assert_eq!(report(&tally, Instant::now()), Ok(()));
        tally.step("clippy", Err("broken".to_owned()));
        assert!(report(&tally, Instant::now()).is_err());
    }

    #[test]
    fn a_run_without_tests_is_no_success() {
        assert!(report(&Tally::default(), Instant::now()).is_err());
    }
}
