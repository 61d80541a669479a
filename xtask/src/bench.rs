//! `cargo xtask bench`: builds the bench for release and becomes it.
//!
//! The bench itself starts Kafka and builds the peers; what it takes is its own matter.

use crate::e2e::provision;
use crate::{demo, process};
use std::ffi::OsString;

/// For the contenders in C and Java. Go is not among them: Debian's is too old for the Go clients.
const PEER_PACKAGES: [&str; 4] = [
    "gcc",
    "libc6-dev",
    "librdkafka-dev",
    "openjdk-17-jdk-headless",
];

pub(crate) fn run(passed_on: &[OsString]) -> Result<(), String> {
    let has = |flag: &str| {
        let value = format!("{flag}=");
        let mut words = passed_on.iter().map(|word| word.to_string_lossy());
        words.any(|word| word == flag || word.starts_with(&value))
    };
    let may_install = has("--provision");
    if may_install {
        provision::install(&PEER_PACKAGES)?;
    }
    if !has("--bootstrap") && !has("--help") && !has("-h") {
        provision::ensure_kafka(may_install)?;
    }
    let mut command = process::cargo();
    command.args([
        "run",
        "--locked",
        "--release",
        "--package",
        "ottla-integration",
        "--bin",
        "bench",
        "--",
    ]);
    command.args(passed_on);
    demo::become_(command)
}
