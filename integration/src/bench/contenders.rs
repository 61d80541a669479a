//! Who can be measured, and what must be run for each.

use super::peers::{self, Peer};
use super::{BenchError, Mode};
use crate::harness::Jars;
use ottla_client::TransportKind;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// A program and the arguments that come before the task's.
#[derive(Debug, Clone)]
pub(crate) struct Program {
    pub(crate) path: PathBuf,
    pub(crate) arguments: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// This program with these arguments: a transport that is not the default one, or records that are
    /// handed over in slices and not one by one.
    Ours(&'static [&'static str]),
    Peer(Peer),
}

const SLICES: &str = "--slices";

const ALL: [(&str, Kind); 10] = [
    ("ottla", Kind::Ours(&[])),
    ("ottla-slices", Kind::Ours(&[SLICES, "100"])),
    ("ottla-native", Kind::Ours(&["--transport", "native"])),
    (
        "ottla-rskafka-transport",
        Kind::Ours(&["--transport", "rskafka"]),
    ),
    ("rskafka", Kind::Peer(Peer::Rust("rskafka"))),
    ("krafka", Kind::Peer(Peer::Rust("krafka"))),
    ("franz-go", Kind::Peer(Peer::Go("franz-go"))),
    ("sarama", Kind::Peer(Peer::Go("sarama"))),
    ("librdkafka", Kind::Peer(Peer::Librdkafka)),
    ("java", Kind::Peer(Peer::Java)),
];

/// The names of all contenders.
pub fn names() -> Vec<&'static str> {
    ALL.iter().map(|(name, _)| *name).collect()
}

/// Whether it is one of ours.
pub(super) fn is_ours(name: &str) -> bool {
    kind(name).is_some_and(|kind| matches!(kind, Kind::Ours(_)))
}

/// Whether it is ours, on the transport of this name.
fn is_on(kind: Kind, transport: &str) -> bool {
    matches!(kind, Kind::Ours(["--transport", name]) if *name == transport)
}

fn kind(name: &str) -> Option<Kind> {
    ALL.iter()
        .find(|(own, _)| *own == name)
        .map(|(_, kind)| *kind)
}

/// Whether the contender has something to measure there: handlers and commits are compared with the
/// poll loop of one peer, and no peer calls handlers in parallel.
pub(super) fn takes_part(name: &str, mode: Mode) -> bool {
    match (mode, kind(name)) {
        (Mode::Runner, Some(Kind::Peer(peer))) => peer == Peer::Go("franz-go"),
        (Mode::Parallel, Some(Kind::Peer(_))) => false,
        (mode, Some(Kind::Ours([SLICES, ..]))) => {
            matches!(mode, Mode::Produce | Mode::Partitions)
        }
        (_, kind) => kind.is_some(),
    }
}

/// The contenders that the user named, or all of them: then a transport that is the default one is
/// not measured a second time under its own name.
pub(super) fn select(named: &[String]) -> Result<Vec<&'static str>, BenchError> {
    if named.is_empty() {
        let default = TransportKind::default().name();
        let again = |kind: &Kind| is_on(*kind, default) && default != "rskafka";
        let all = ALL.iter().filter(|(_, kind)| !again(kind));
        return Ok(all.map(|(name, _)| *name).collect());
    }
    let mut chosen = Vec::new();
    for name in named {
        let found = ALL.iter().find(|(own, _)| own == name);
        let known = || format!("no contender {name}: it is one of {}", names().join(", "));
        let (name, _) = found.ok_or_else(|| BenchError::Usage(known()))?;
        if !chosen.contains(name) {
            chosen.push(*name);
        }
    }
    Ok(chosen)
}

/// Builds what must be built. A contender that cannot be had says why.
pub(super) async fn prepare(
    names: &[&'static str],
    jars: &Result<Jars, String>,
) -> BTreeMap<&'static str, Result<Program, String>> {
    let wanted = names.iter().filter_map(|name| match kind(name) {
        Some(Kind::Peer(peer)) => Some(peer),
        _ => None,
    });
    let wanted: Vec<Peer> = wanted.collect();
    let built = peers::build(&wanted, jars).await;
    let program = |name: &&'static str| {
        let program = match kind(name) {
            Some(Kind::Ours(arguments)) => ours(arguments),
            Some(Kind::Peer(peer)) => built(peer),
            None => Err("not known".to_owned()),
        };
        (*name, program)
    };
    names.iter().map(program).collect()
}

fn ours(own: &[&str]) -> Result<Program, String> {
    let path = std::env::current_exe().map_err(|error| format!("this program: {error}"))?;
    if let ["--transport", name] = own {
        name.parse::<TransportKind>()
            .map_err(|error| format!("this build has no such transport: {error}"))?;
    }
    let arguments = ["client"].iter().chain(own);
    let arguments = arguments.map(|word| (*word).to_owned()).collect();
    Ok(Program { path, arguments })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_transport_of_the_build_is_measured_once_or_more() {
        let chosen = select(&[]).unwrap();
        assert!(chosen.contains(&"ottla"));
        for transport in TransportKind::ALL {
            let named = chosen
                .iter()
                .any(|name| kind(name).is_some_and(|kind| is_on(kind, transport.name())));
            assert!(
                named || *transport == TransportKind::default(),
                "{transport}"
            );
        }
    }

    #[test]
    fn an_unknown_contender_is_refused_with_the_known_ones() {
        let error = select(&["kafka-go".to_owned()]).unwrap_err().to_string();
        assert!(error.contains("franz-go"), "{error}");
        let twice = ["java", "java"].map(str::to_owned);
        assert_eq!(select(&twice).unwrap(), ["java"]);
    }

    #[test]
    fn the_runner_is_measured_beside_one_poll_loop() {
        let of = |mode| {
            names()
                .into_iter()
                .filter(move |name| takes_part(name, mode))
        };
        assert_eq!(of(Mode::Produce).count(), ALL.len());
        assert!(of(Mode::Consume).all(|name| name != "ottla-slices"));
        let peers: Vec<_> = of(Mode::Runner).filter(|name| !is_ours(name)).collect();
        assert_eq!(peers, ["franz-go"]);
        assert!(of(Mode::Runner).any(|name| name == "ottla"));
        assert!(of(Mode::Parallel).all(is_ours));
        assert!(of(Mode::Parallel).any(|name| name == "ottla"));
    }

    #[test]
    fn a_transport_that_the_build_lacks_is_missing_with_a_reason() {
        assert!(
            ours(&["--transport", "carrier-pigeon"])
                .unwrap_err()
                .contains("carrier-pigeon")
        );
        assert!(ours(&[SLICES, "100"]).is_ok());
    }
}
