//! The programs that a broker needs on this machine.

use crate::args::Broker;
use crate::process;
use std::process::Command;

/// A program, how to see that it is there, and the Debian package that has it.
#[derive(Debug, PartialEq, Eq)]
struct Prerequisite {
    program: &'static str,
    probe: &'static str,
    package: &'static str,
}

const JAVA: Prerequisite = Prerequisite {
    program: "java",
    probe: "-version",
    package: "openjdk-17-jre-headless",
};
const MAVEN: Prerequisite = Prerequisite {
    program: "mvn",
    probe: "--version",
    package: "maven",
};
const KCAT: Prerequisite = Prerequisite {
    program: "kcat",
    probe: "-V",
    package: "kcat",
};

/// What must be there. The Kafka jars are the runner's own matter: it knows where they are kept.
fn needed(broker: Broker) -> &'static [Prerequisite] {
    match broker {
        Broker::Kafka => &[JAVA, MAVEN],
        Broker::Mock => &[KCAT],
        Broker::Redpanda | Broker::External => &[],
    }
}

/// What a Kafka of our own needs.
pub(crate) fn ensure_kafka(provision: bool) -> Result<(), String> {
    ensure(Broker::Kafka, provision)
}

pub(super) fn ensure(broker: Broker, provision: bool) -> Result<(), String> {
    if broker == Broker::Redpanda && !super::docker_answers() {
        return Err(
            "--broker redpanda needs a Docker engine, and `docker info` fails here; \
                    install Docker with compose, or use --broker kafka"
                .to_owned(),
        );
    }
    let there = |it: &Prerequisite| process::succeeds(Command::new(it.program).arg(it.probe));
    let missing: Vec<&Prerequisite> = needed(broker).iter().filter(|it| !there(it)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    if !provision {
        return Err(explain(&missing));
    }
    let packages: Vec<&str> = missing.iter().map(|it| it.package).collect();
    install(&packages)?;
    let still: Vec<&Prerequisite> = missing.into_iter().filter(|it| !there(it)).collect();
    if still.is_empty() {
        Ok(())
    } else {
        Err(explain(&still))
    }
}

fn explain(missing: &[&Prerequisite]) -> String {
    let programs: Vec<&str> = missing.iter().map(|it| it.program).collect();
    let packages: Vec<&str> = missing.iter().map(|it| it.package).collect();
    format!(
        "missing: {}; run with --provision, or `apt-get install {}`",
        programs.join(", "),
        packages.join(" ")
    )
}

/// Installs Debian packages.
pub(crate) fn install(packages: &[&str]) -> Result<(), String> {
    process::run(&mut apt(&["update"]))?;
    let mut command = apt(&["install", "--yes", "--no-install-recommends"]);
    process::run(command.args(packages))
}

fn apt(arguments: &[&str]) -> Command {
    let root = process::output(Command::new("id").arg("-u")).is_ok_and(|id| id.trim() == "0");
    let mut command = Command::new(if root { "apt-get" } else { "sudo" });
    if !root {
        // A question for a password would hang an unattended run.
        command.args(["--non-interactive", "apt-get"]);
    }
    command
        .args(arguments)
        .env("DEBIAN_FRONTEND", "noninteractive");
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_says_what_to_install() {
        let text = explain(&[&JAVA, &MAVEN]);
        assert!(
            text.contains("apt-get install openjdk-17-jre-headless maven"),
            "{text}"
        );
    }

    #[test]
    fn an_external_cluster_needs_nothing_here() {
        assert_eq!(needed(Broker::External), &[]);
    }
}
