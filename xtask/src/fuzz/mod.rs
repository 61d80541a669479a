//! `cargo xtask fuzz`: runs the fuzz targets with feedback from coverage, on the stable toolchain.
//!
//! A target is a test whose name begins with `fuzz_`, in the `tests/fuzz.rs` or in the library of a
//! package that depends on bolero. `cargo test` runs it on the kept inputs and on some random ones;
//! here it is built once more with the compiler's coverage counters and given to libFuzzer, which
//! bolero brings along (in C++: nothing but this command ever compiles it).
//!
//! Inputs that reach new code are kept in the target's `__fuzz__/NAME/corpus`, those that fail in
//! `crashes`, where every later `cargo test` tries them again.

mod corpus;

use crate::workspace::{self, Kind, Package};
use crate::{args::FuzzOptions, process};
pub(crate) use corpus::rules;
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const TARGET_DIR: &str = "target/fuzz";
/// What the compiler must add so that libFuzzer sees where an input leads.
const COVERAGE: &str = "--cfg fuzzing --cfg fuzzing_libfuzzer -Cpasses=sancov-module \
    -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
    -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares";
/// An input that takes longer is a failure.
const SECONDS_AN_INPUT: u32 = 10;

/// One fuzz target.
#[derive(Debug)]
struct Target {
    /// `package/name`, as one asks for it.
    name: String,
    /// The test's path in its binary.
    test: String,
    binary: PathBuf,
    /// Where its `corpus` and `crashes` are, relative to the root.
    folder: PathBuf,
}

pub(crate) fn run(options: &FuzzOptions) -> Result<(), String> {
    let binaries = build(&workspace::packages()?, options.target.as_deref())?;
    let mut targets = Vec::new();
    for (package, binary) in binaries {
        targets.extend(list(&package, &binary)?);
    }
    targets.sort_by(|a, b| a.name.cmp(&b.name));
    let wanted = |target: &Target| {
        options
            .target
            .as_deref()
            .is_none_or(|t| is_in(t, &target.name))
    };
    if !targets.iter().any(wanted) {
        let names: Vec<_> = targets.iter().map(|target| target.name.as_str()).collect();
        return Err(format!("no such target; there are: {}", names.join(", ")));
    }
    let mut failed = Vec::new();
    for target in targets.iter().filter(|target| wanted(target)) {
        match fuzz(target, options.seconds) {
            Ok(()) => corpus::keep(target)?,
            Err(message) => {
                eprintln!("error: {message}");
                failed.push(target.name.as_str());
            }
        }
    }
    if failed.is_empty() {
        Ok(())
    } else {
        Err(format!("failed: {}", failed.join(", ")))
    }
}

/// Whether a target's name is what was asked for, or is of that package.
fn is_in(wanted: &str, name: &str) -> bool {
    name == wanted
        || name
            .strip_prefix(wanted)
            .is_some_and(|rest| rest.starts_with('/'))
}

/// Builds the test binaries that have targets, those of the wanted package if it is one: each with
/// its package's name.
fn build(packages: &[Package], wanted: Option<&str>) -> Result<Vec<(String, PathBuf)>, String> {
    let host = process::output(Command::new("rustc").arg("-vV"))?;
    let host = host.lines().find_map(|line| line.strip_prefix("host: "));
    let host = host.ok_or("rustc does not say which host this is")?;
    let fuzzed = |kind, name: &str| kind == Kind::Dev && name == "bolero";
    let wanted = wanted.and_then(|wanted| wanted.split('/').next());
    let is_wanted = |package: &Package| wanted.is_some_and(|name| short(package) == name);
    let some_is = packages.iter().any(is_wanted);
    let mut binaries = Vec::new();
    for package in packages {
        if some_is && !is_wanted(package)
            || !package.dependencies.iter().any(|d| fuzzed(d.kind, &d.name))
        {
            continue;
        }
        let mut command = process::cargo();
        command.args([
            "test",
            "--no-run",
            "--locked",
            "--all-features",
            "--profile",
            "fuzz",
        ]);
        // Named, so that build scripts and macros are built without the counters.
        command.args(["--target", host, "--target-dir", TARGET_DIR]);
        command.args(["--message-format", "json-render-diagnostics"]);
        command.args(["--package", &package.name]);
        if workspace::root()
            .join(&package.folder)
            .join("tests/fuzz.rs")
            .is_file()
        {
            command.args(["--test", "fuzz"]);
        } else {
            command.arg("--lib");
        }
        command
            .env("RUSTFLAGS", COVERAGE)
            .env("BOLERO_FUZZER", "libfuzzer");
        eprintln!("building the targets of {}", package.name);
        let said = command.stderr(Stdio::inherit()).output();
        let said = said.map_err(|error| format!("cargo did not start: {error}"))?;
        if !said.status.success() {
            return Err(format!("the targets of {} were not built", package.name));
        }
        let said = String::from_utf8_lossy(&said.stdout);
        let binary = said.lines().rev().find_map(executable);
        let binary = binary.ok_or_else(|| format!("no test binary of {}", package.name))?;
        binaries.push((short(package).to_owned(), binary));
    }
    Ok(binaries)
}

/// A package's name as targets have it.
fn short(package: &Package) -> &str {
    package.name.trim_start_matches("ottla-")
}

/// The test binary that a line of cargo's is about.
fn executable(line: &str) -> Option<PathBuf> {
    let message: Value = serde_json::from_str(line).ok()?;
    let is_test = message["profile"]["test"].as_bool() == Some(true);
    is_test.then(|| message["executable"].as_str().map(PathBuf::from))?
}

/// Asks a binary for its targets.
fn list(package: &str, binary: &Path) -> Result<Vec<Target>, String> {
    let mut command = Command::new(binary);
    command.args(["fuzz_", "--nocapture", "--test-threads", "1"]);
    command
        .env("CARGO_BOLERO_SELECT", "all")
        .current_dir(workspace::root());
    let said = process::output(&mut command)?;
    Ok(said
        .lines()
        .filter_map(|line| described(package, binary, line))
        .collect())
}

fn described(package: &str, binary: &Path, line: &str) -> Option<Target> {
    let line = line.strip_prefix('{').map(|_| line)?;
    let value: Value = serde_json::from_str(line).ok()?;
    let test = value["test_name"].as_str()?;
    let name = test.rsplit("::").next()?.trim_start_matches("fuzz_");
    let folder = Path::new(value["work_dir"].as_str()?);
    Some(Target {
        name: format!("{package}/{name}"),
        test: test.to_owned(),
        binary: binary.to_owned(),
        folder: folder.strip_prefix(workspace::root()).ok()?.to_owned(),
    })
}

impl Target {
    fn corpus(&self) -> PathBuf {
        self.folder.join("corpus")
    }

    fn crashes(&self) -> PathBuf {
        self.folder.join("crashes")
    }

    /// A folder of this target's that nothing keeps.
    fn scratch(&self, what: &str) -> PathBuf {
        Path::new(TARGET_DIR)
            .join("work")
            .join(self.name.replace('/', "-"))
            .join(what)
    }

    /// libFuzzer on this target. Its arguments are split at spaces, so the paths are relative ones.
    fn libfuzzer(&self, arguments: &[String]) -> Command {
        let mut command = Command::new(&self.binary);
        command.args([&self.test, "--exact", "--nocapture", "--test-threads", "1"]);
        command.env("BOLERO_LIBFUZZER_ARGS", arguments.join(" "));
        // Where an input is refused would drown why it failed, and take most of the time.
        command.env("RUST_BACKTRACE", "0");
        command.current_dir(workspace::root());
        command
    }
}

/// An empty folder, whatever was there.
fn emptied(folder: PathBuf) -> Result<PathBuf, String> {
    let path = workspace::root().join(&folder);
    let made = match fs::remove_dir_all(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => fs::create_dir_all(&path),
    };
    made.map(|()| folder)
        .map_err(|error| format!("{}: {error}", path.display()))
}

/// Runs a target for so long; what it found is in its scratch folder then.
fn fuzz(target: &Target, seconds: u32) -> Result<(), String> {
    let found = emptied(target.scratch("found"))?;
    for folder in [target.corpus(), target.crashes()] {
        fs::create_dir_all(workspace::root().join(folder)).map_err(|error| error.to_string())?;
    }
    let arguments = [
        found.display().to_string(),
        target.corpus().display().to_string(),
        format!("-artifact_prefix={}/", target.crashes().display()),
        format!("-max_total_time={seconds}"),
        format!("-timeout={SECONDS_AN_INPUT}"),
        format!("-max_len={}", corpus::INPUT_BYTES_MAX),
        "-print_final_stats=1".to_owned(),
    ];
    let said = target.libfuzzer(&arguments).output();
    let said = said.map_err(|error| format!("{} did not start: {error}", target.name))?;
    // Folders that stay empty would only be clutter.
    let _ = fs::remove_dir(workspace::root().join(target.crashes()));
    let log = String::from_utf8_lossy(&said.stderr);
    if !said.status.success() {
        // Where the failure begins, or the end of what was said.
        let last = || log.char_indices().rev().nth(4000).map_or(0, |(at, _)| at);
        let from = log.find("Test Failure").unwrap_or_else(last);
        eprintln!("{}", &log[from..]);
        return Err(format!(
            "{} failed: the input is in {}",
            target.name,
            target.crashes().display()
        ));
    }
    let word_after = |mark: &str| {
        let rest = log.rsplit_once(mark).map_or("", |(_, rest)| rest);
        rest.split_whitespace().next().unwrap_or("?").to_owned()
    };
    println!(
        "{}: {} inputs in {seconds} s, {} edges",
        target.name,
        word_after("stat::number_of_executed_units:"),
        word_after("cov: "),
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_asked_for_by_name_or_package() {
        assert!(is_in("client", "client/frames"));
        assert!(is_in("client/frames", "client/frames"));
        assert!(!is_in("client/fra", "client/frames"));
        assert!(!is_in("cli", "client/frames"));
    }

    #[test]
    fn a_binary_tells_its_targets() {
        let folder = workspace::root().join("crates/x/tests/__fuzz__/gzip");
        let line = format!(
            r#"{{"__bolero_target":"v0.5.0","exe":"/b","work_dir":{:?},"package_name":"ottla-x","is_harnessed":true,"test_name":"a::fuzz_gzip"}}"#,
            folder.display()
        );
        let target = described("x", Path::new("/b"), &line).unwrap();
        assert_eq!((&*target.name, &*target.test), ("x/gzip", "a::fuzz_gzip"));
        assert_eq!(
            target.corpus(),
            Path::new("crates/x/tests/__fuzz__/gzip/corpus")
        );
        assert!(described("x", Path::new("/b"), "test a::fuzz_gzip ... ok").is_none());
    }

    #[test]
    fn the_test_binary_is_found_among_cargos_messages() {
        let line =
            r#"{"reason":"compiler-artifact","profile":{"test":true},"executable":"/b/fuzz"}"#;
        assert_eq!(executable(line), Some(PathBuf::from("/b/fuzz")));
        let other = r#"{"reason":"compiler-artifact","profile":{"test":false},"executable":null}"#;
        assert_eq!(executable(other), None);
    }
}
