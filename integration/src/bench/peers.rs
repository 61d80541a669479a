//! Builds the programs of `integration/peers`, each with its own toolchain.
//!
//! They are no part of the workspace: what they need is theirs. A toolchain that is not there makes
//! its contenders missing and nothing else.

use super::contenders::Program;
use crate::harness::Jars;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use tokio::process::Command;

/// A program of another client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Peer {
    /// A binary of `peers/rust`.
    Rust(&'static str),
    /// A command of `peers/go`.
    Go(&'static str),
    /// `peers/c/librdkafka.c`.
    Librdkafka,
    /// `peers/java/Peer.java`.
    Java,
}

/// What is built in one go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Toolchain {
    Rust,
    Go,
    C,
    Java,
}

impl Peer {
    fn toolchain(self) -> Toolchain {
        match self {
            Self::Rust(_) => Toolchain::Rust,
            Self::Go(_) => Toolchain::Go,
            Self::Librdkafka => Toolchain::C,
            Self::Java => Toolchain::Java,
        }
    }
}

/// The Java machine as Kafka's own perf scripts start it.
const JAVA_OPTIONS: [&str; 3] = [
    "-Xmx512M",
    "-XX:+UseG1GC",
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=error",
];

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("peers")
}

fn target() -> PathBuf {
    folder().join("target")
}

/// Builds `wanted`; the answer knows where each program is, or why it is not there.
pub(crate) async fn build(
    wanted: &[Peer],
    jars: &Result<Jars, String>,
) -> impl Fn(Peer) -> Result<Program, String> + use<> {
    let mut ready = BTreeMap::new();
    let toolchains: BTreeSet<Toolchain> = wanted.iter().map(|peer| peer.toolchain()).collect();
    for toolchain in toolchains {
        ready.insert(toolchain, build_one(toolchain, jars).await);
    }
    let class_path = jars.as_ref().map(Jars::class_path).unwrap_or_default();
    move |peer| {
        let built = ready.get(&peer.toolchain()).cloned();
        built.unwrap_or_else(|| Err("was not built".to_owned()))?;
        Ok(program(peer, &class_path))
    }
}

fn program(peer: Peer, class_path: &str) -> Program {
    let native = |path: PathBuf| Program {
        path,
        arguments: Vec::new(),
    };
    match peer {
        Peer::Rust(name) => native(target().join("rust/release").join(name)),
        Peer::Go(name) => native(target().join("go").join(name)),
        Peer::Librdkafka => native(target().join("c/librdkafka")),
        Peer::Java => {
            let classes = target().join("java");
            let mut arguments: Vec<String> = JAVA_OPTIONS.map(str::to_owned).into();
            let class_path = format!("{}:{class_path}", classes.display());
            arguments.extend(["-cp".to_owned(), class_path, "Peer".to_owned()]);
            Program {
                path: PathBuf::from("java"),
                arguments,
            }
        }
    }
}

async fn build_one(toolchain: Toolchain, jars: &Result<Jars, String>) -> Result<(), String> {
    match toolchain {
        Toolchain::Rust => {
            let mut command = tool(std::env::var("CARGO").as_deref().unwrap_or("cargo"), "rust");
            command.args(["build", "--quiet", "--release", "--locked", "--target-dir"]);
            run("cargo", command.arg(target().join("rust"))).await
        }
        Toolchain::Go => {
            let mut command = tool("go", "go");
            // No toolchain other than the one that is here.
            command.env("GOTOOLCHAIN", "local");
            command.args(["build", "-o"]).arg(target().join("go/"));
            run("go", command.arg("./cmd/...")).await
        }
        Toolchain::C => {
            let out = target().join("c");
            make_folder(&out)?;
            let mut command = tool("cc", "c");
            command.args(["-O2", "-Wall", "-Werror", "-o"]);
            command.arg(out.join("librdkafka"));
            run(
                "cc with librdkafka",
                command.args(["librdkafka.c", "-lrdkafka"]),
            )
            .await
        }
        Toolchain::Java => {
            let jars = jars.as_ref().map_err(Clone::clone)?;
            let out = target().join("java");
            make_folder(&out)?;
            let mut command = tool("javac", "java");
            command.args(["--release", "17", "-Xlint:all", "-Werror", "-cp"]);
            command.arg(jars.class_path());
            run("javac", command.arg("-d").arg(out).arg("Peer.java")).await
        }
    }
}

fn make_folder(folder: &Path) -> Result<(), String> {
    std::fs::create_dir_all(folder).map_err(|error| format!("{}: {error}", folder.display()))
}

fn tool(name: &str, folder_name: &str) -> Command {
    let mut command = Command::new(name);
    command
        .current_dir(folder().join(folder_name))
        .stdin(Stdio::null())
        .kill_on_drop(true);
    command
}

async fn run(name: &str, command: &mut Command) -> Result<(), String> {
    eprintln!("building: {name}");
    let output = command.output().await;
    let output = output.map_err(|error| format!("{name} is not here: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let lines: Vec<&str> = said
        .lines()
        .filter(|line| !line.trim().is_empty())
        .collect();
    let tail = lines[lines.len().saturating_sub(4)..].join(" | ");
    Err(format!("{name} cannot build it: {tail}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_missing_tool_is_a_reason() {
        let said = run("gone", &mut tool("no-such-tool-at-all", "rust")).await;
        assert!(said.unwrap_err().starts_with("gone is not here"));
        let said = run("false", &mut tool("false", "rust")).await;
        assert!(said.unwrap_err().starts_with("false cannot build it"));
    }

    #[tokio::test]
    async fn java_without_jars_is_missing() {
        let jars = Err("no jars".to_owned());
        let find = build(&[Peer::Java], &jars).await;
        assert_eq!(find(Peer::Java).unwrap_err(), "no jars");
        assert!(find(Peer::Librdkafka).is_err(), "nobody asked for it");
    }
}
