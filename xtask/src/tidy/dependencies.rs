//! Which crate may depend on which.

use super::PURE;
use crate::workspace::{self, Dependency, Kind, Package};

/// What each crate may name of ours among its normal dependencies. Development dependencies are
/// free, but for the mock cluster, which may name none at all.
const ALLOWED: [(&str, &[&str]); 11] = [
    ("ottla-types", &[]),
    ("ottla-record-batch", &["ottla-types"]),
    ("ottla-group", &["ottla-types"]),
    ("ottla-client", &["ottla-record-batch", "ottla-types"]),
    (
        "ottla-producer",
        &["ottla-client", "ottla-record-batch", "ottla-types"],
    ),
    (
        "ottla-consumer",
        &[
            "ottla-client",
            "ottla-group",
            "ottla-record-batch",
            "ottla-types",
        ],
    ),
    (
        "ottla-reliability",
        &[
            "ottla-client",
            "ottla-consumer",
            "ottla-store",
            "ottla-types",
        ],
    ),
    ("ottla-outbox", &["ottla-store", "ottla-types"]),
    ("ottla-store", &["ottla-types"]),
    ("ottla-store-", &["ottla-store", "ottla-types"]),
    ("ottla-mock-cluster", &[]),
];
/// The facade and the command line stand on top: they may name every crate.
const TOP: [&str; 2] = ["ottla", "ottla-cli"];

/// Foreign crates that only these of ours may name.
const KEPT_IN: [(&str, &[&str]); 2] = [
    ("rskafka", &["ottla-client"]),
    ("kafka-protocol", &["ottla-client", "ottla-mock-cluster"]),
];

/// What must not be found below a pure crate.
const NOT_PURE: [&str; 12] = [
    "async-std",
    "chrono",
    "fastrand",
    "getrandom",
    "hyper",
    "metrics",
    "mio",
    "quanta",
    "rand",
    "rskafka",
    "socket2",
    "tokio",
];

/// What must not be found below a crate that a user links alone.
const NOT_BELOW: [(&str, &[&str]); 3] = [
    (
        "ottla-outbox",
        &[
            "ottla-client",
            "ottla-consumer",
            "ottla-group",
            "ottla-producer",
        ],
    ),
    (
        "ottla-producer",
        &[
            "ottla-consumer",
            "ottla-group",
            "ottla-reliability",
            "ottla-store",
        ],
    ),
    (
        "ottla-mock-cluster",
        &["ottla-client", "ottla-record-batch", "rskafka"],
    ),
];

/// The edges that the manifests name.
pub(super) fn directions(packages: &[Package]) -> Vec<String> {
    let mut complaints = Vec::new();
    for package in packages {
        for dependency in &package.dependencies {
            complaints.extend(edge(package, dependency));
        }
        if package.is_product() && !known(&package.name) {
            let name = &package.name;
            complaints.push(format!("{name}: say in xtask's tidy what it may depend on"));
        }
    }
    complaints
}

fn known(name: &str) -> bool {
    TOP.contains(&name) || allowed(name).is_some()
}

fn allowed(name: &str) -> Option<&'static [&'static str]> {
    let exact = ALLOWED.iter().find(|(known, _)| *known == name);
    let family = || {
        ALLOWED
            .iter()
            .find(|(known, _)| known.ends_with('-') && name.starts_with(known))
    };
    exact.or_else(family).map(|(_, list)| *list)
}

fn edge(package: &Package, dependency: &Dependency) -> Option<String> {
    let (from, to) = (package.name.as_str(), dependency.name.as_str());
    if let Some((_, owners)) = KEPT_IN.iter().find(|(kept, _)| *kept == to)
        && !owners.contains(&from)
    {
        return Some(format!(
            "{from} names {to}; only {} may",
            owners.join(" and ")
        ));
    }
    let ours = to == "ottla" || to.starts_with("ottla-");
    let judged = dependency.kind != Kind::Dev || from == "ottla-mock-cluster";
    if !ours || !judged || !package.is_product() || TOP.contains(&from) {
        return None;
    }
    let may = allowed(from)?;
    (!may.contains(&to)).then(|| format!("{from} must not depend on {to}"))
}

/// What each crate really pulls in, with every feature.
pub(super) fn graphs(packages: &[Package]) -> Result<Vec<String>, String> {
    let mut complaints = Vec::new();
    let pure = PURE.iter().map(|name| (*name, &NOT_PURE[..]));
    for (name, banned) in pure.chain(NOT_BELOW) {
        if !packages.iter().any(|package| package.name == name) {
            complaints.push(format!(
                "{name} is in tidy's tables and not in the workspace"
            ));
            continue;
        }
        let below = workspace::tree(&["-p", name, "-e", "normal", "--all-features", "--locked"])?;
        let found = below
            .iter()
            .filter(|found| banned.contains(&found.as_str()));
        complaints.extend(found.map(|found| format!("{name} pulls in {found}")));
    }
    Ok(complaints)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    fn package(name: &str, dependencies: &[(&str, Kind)]) -> Package {
        let of = |(name, kind): &(&str, Kind)| Dependency {
            name: (*name).to_owned(),
            kind: *kind,
        };
        Package {
            name: name.to_owned(),
            folder: PathBuf::from("crates/x"),
            publish: true,
            description: true,
            license: true,
            readme: true,
            features: Vec::new(),
            dependencies: dependencies.iter().map(of).collect(),
        }
    }

    fn complaints(name: &str, dependency: &str, kind: Kind) -> usize {
        directions(&[package(name, &[(dependency, kind)])]).len()
    }

    #[test]
    fn edges_against_the_direction_are_flagged() {
        assert_eq!(complaints("ottla-types", "ottla-client", Kind::Normal), 1);
        assert_eq!(complaints("ottla-outbox", "ottla-consumer", Kind::Build), 1);
        assert_eq!(
            complaints("ottla-store-redb", "ottla-client", Kind::Normal),
            1
        );
        assert_eq!(complaints("ottla-consumer", "ottla-producer", Kind::Dev), 0);
        assert_eq!(
            complaints("ottla-store-redb", "ottla-store", Kind::Normal),
            0
        );
        assert_eq!(complaints("ottla", "ottla-mock-cluster", Kind::Normal), 0);
    }

    #[test]
    fn the_mock_cluster_shares_nothing_of_ours_even_in_tests() {
        assert_eq!(
            complaints("ottla-mock-cluster", "ottla-client", Kind::Dev),
            1
        );
    }

    #[test]
    fn foreign_types_are_kept_in_their_crates() {
        assert_eq!(complaints("ottla-producer", "rskafka", Kind::Dev), 1);
        assert_eq!(
            complaints("ottla-consumer", "kafka-protocol", Kind::Normal),
            1
        );
        assert_eq!(complaints("ottla-client", "rskafka", Kind::Normal), 0);
    }

    #[test]
    fn a_crate_that_no_table_knows_is_flagged() {
        assert_eq!(directions(&[package("ottla-surprise", &[])]).len(), 1);
    }
}
