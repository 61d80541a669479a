//! Chooses scenarios, gives each its cluster, and counts.

use super::{ALL, Broker, Cluster, Context, Outcome, Scenario, Suite};
use crate::Failure;
use crate::harness::{Fetch, Jars, KafkaCluster, KafkaOptions};
use futures_util::FutureExt;
use ottla_client::TransportKind;
use ottla_types::with_causes;
use std::fmt::Write;
use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::time::Instant;

/// Lines of a process's log that a failure shows.
const LOG_LINES: usize = 100;

/// What to run, and on what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// On what.
    pub broker: Broker,
    /// Where the cluster is, for [`Broker::External`] and [`Broker::Redpanda`].
    pub bootstrap: Option<String>,
    /// Which Apache Kafka is started for [`Broker::Kafka`].
    pub kafka: String,
    /// Only on clusters of this size; for clusters that are there, their size.
    pub nodes: Option<usize>,
    /// Only this one.
    pub scenario: Option<String>,
    /// Which ones.
    pub suite: Suite,
    /// How records are carried; `None`: as each scenario says.
    pub transport: Option<TransportKind>,
    /// Whether Kafka may be fetched.
    pub fetch: Fetch,
}

/// A scenario on a cluster size.
#[derive(Debug, Clone, Copy)]
struct Case {
    scenario: &'static Scenario,
    nodes: usize,
    transport: TransportKind,
}

/// How many scenarios ended how.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Ended well.
    pub passed: usize,
    /// Failed or took too long.
    pub failed: usize,
}

/// Nothing can be run: the message says why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SelectionError(String);

/// Runs what `options` select, one after the other, and prints how each ended.
///
/// # Errors
/// `SelectionError` if nothing fits the options.
pub async fn run(options: &Options) -> Result<Tally, SelectionError> {
    let cases = select(options)?;
    let mut tally = Tally::default();
    let mut spare: Option<(usize, Box<KafkaCluster>)> = None;
    for case in cases {
        let label = format!(
            "{} ({}, {} nodes, {})",
            case.scenario.name,
            options.broker.name(),
            case.nodes,
            case.transport.name()
        );
        println!("\n== {label}: {}", case.scenario.about);
        let started = Instant::now();
        // A cluster of the wrong size makes room before the next one starts.
        spare = spare.filter(|(nodes, _)| *nodes == case.nodes);
        let outcome = match cluster(options, case, spare.take()).await {
            Ok(cluster) => {
                let (outcome, cluster) = run_one(case, options, cluster).await;
                if let Cluster::Harness(cluster) = cluster {
                    spare = Some((case.nodes, cluster));
                }
                outcome
            }
            Err(error) => Err(error),
        };
        let seconds = started.elapsed().as_secs_f32();
        match outcome {
            Ok(()) => {
                tally.passed += 1;
                println!("PASS {label} in {seconds:.1} s");
            }
            Err(error) => {
                tally.failed += 1;
                println!("FAIL {label} in {seconds:.1} s: {}", with_causes(&*error));
                if let Some((_, mut cluster)) = spare.take() {
                    cluster.keep_files();
                }
            }
        }
    }
    Ok(tally)
}

fn select(options: &Options) -> Result<Vec<Case>, SelectionError> {
    let named: Vec<&Scenario> = match &options.scenario {
        None => ALL
            .iter()
            .filter(|one| one.suites.contains(&options.suite))
            .collect(),
        Some(name) => ALL.iter().filter(|one| one.name == name).collect(),
    };
    if let (Some(name), true) = (&options.scenario, named.is_empty()) {
        return Err(SelectionError(format!(
            "no scenario {name}; there are:{}",
            list()
        )));
    }
    let fitting = named
        .into_iter()
        .filter(|one| options.broker.offers(one.needs));
    let mut cases: Vec<Case> = fitting
        .flat_map(|scenario| cases_of(options, scenario))
        .collect();
    // Scenarios of one size share a cluster, so that it starts once.
    cases.sort_by_key(|case| case.nodes);
    if cases.is_empty() {
        let what = options.scenario.as_deref().unwrap_or("no scenario");
        let nodes = options
            .nodes
            .map(|nodes| format!(" with {nodes} nodes"))
            .unwrap_or_default();
        let broker = options.broker.name();
        return Err(SelectionError(format!(
            "{what} runs on {broker}{nodes}; there are:{}",
            list()
        )));
    }
    Ok(cases)
}

fn cases_of(options: &Options, scenario: &'static Scenario) -> Vec<Case> {
    // A cluster that is there has the size that it has.
    let given = !matches!(options.broker, Broker::Kafka);
    let sizes = match options.nodes {
        Some(nodes) if given => vec![nodes],
        None if given => vec![1],
        wanted => {
            let sizes = scenario.nodes.iter().copied();
            sizes
                .filter(|nodes| wanted.is_none_or(|wanted| wanted == *nodes))
                .collect()
        }
    };
    let named = options.transport.as_ref().map(std::slice::from_ref);
    let transports = named.unwrap_or(scenario.transports);
    let of_size = |nodes| {
        transports.iter().map(move |transport| Case {
            scenario,
            nodes,
            transport: *transport,
        })
    };
    sizes.into_iter().flat_map(of_size).collect()
}

/// Every scenario, one a line.
pub fn list() -> String {
    let mut text = String::new();
    for scenario in ALL {
        // Writing to a string does not fail.
        let _ = write!(text, "\n  {:24} {}", scenario.name, scenario.about);
    }
    text
}

async fn cluster(
    options: &Options,
    case: Case,
    spare: Option<(usize, Box<KafkaCluster>)>,
) -> Result<Cluster, Failure> {
    match options.broker {
        Broker::Mock => Ok(Cluster::None),
        Broker::External | Broker::Redpanda => {
            let bootstrap = options.bootstrap.clone();
            Ok(Cluster::External(
                bootstrap.ok_or("--bootstrap is missing")?,
            ))
        }
        Broker::Kafka => {
            if let Some((_, cluster)) = spare {
                return Ok(Cluster::Harness(cluster));
            }
            let jars = Jars::locate(&options.kafka, options.fetch).await?;
            let started = Instant::now();
            let cluster = KafkaCluster::start(case.nodes, KafkaOptions::new(jars)).await?;
            let seconds = started.elapsed().as_secs_f32();
            println!(
                "Kafka {} with {} nodes is up in {seconds:.1} s",
                options.kafka, case.nodes
            );
            Ok(Cluster::Harness(Box::new(cluster)))
        }
    }
}

async fn run_one(case: Case, options: &Options, cluster: Cluster) -> (Outcome, Cluster) {
    let folder = match tempfile::Builder::new().prefix("ottla-e2e-").tempdir() {
        Ok(folder) => folder,
        Err(error) => return (Err(error.into()), cluster),
    };
    let mut context = Context {
        cluster,
        nodes: case.nodes,
        transport: case.transport,
        suite: options.suite,
        kafka: options.kafka.clone(),
        fetch: options.fetch,
        folder,
        run_id: std::iter::repeat_with(fastrand::lowercase)
            .take(6)
            .collect(),
    };
    let within = case.scenario.within;
    let outcome = {
        let running = AssertUnwindSafe((case.scenario.run)(&mut context)).catch_unwind();
        match tokio::time::timeout(within, running).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) => Err("it panicked".into()),
            Err(_) => Err(format!("it took longer than {} s", within.as_secs()).into()),
        }
    };
    if outcome.is_err() {
        let kept = context.folder.keep();
        println!("the scenario's files are in {}", kept.display());
        print_logs(&kept);
    }
    (outcome, context.cluster)
}

/// The ends of the logs that a scenario's processes left, for those who see only this output.
fn print_logs(folder: &Path) {
    let logs = match std::fs::read_dir(folder) {
        Ok(entries) => entries.filter_map(Result::ok).map(|entry| entry.path()),
        Err(error) => return println!("its logs cannot be listed: {error}"),
    };
    for path in logs.filter(|path| path.extension().is_some_and(|e| e == "log")) {
        match std::fs::read(&path) {
            Ok(bytes) => {
                let text = String::from_utf8_lossy(&bytes);
                let lines: Vec<&str> = text.lines().collect();
                let tail = &lines[lines.len().saturating_sub(LOG_LINES)..];
                println!("-- end of {}\n{}", path.display(), tail.join("\n"));
            }
            Err(error) => println!("{} cannot be read: {error}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::harness::KAFKA_VERSION;

    fn options(broker: Broker) -> Options {
        Options {
            broker,
            bootstrap: None,
            kafka: KAFKA_VERSION.to_owned(),
            nodes: None,
            scenario: None,
            suite: Suite::Ci,
            transport: None,
            fetch: Fetch::Forbidden,
        }
    }

    fn names(options: &Options) -> Vec<(&'static str, usize)> {
        select(options)
            .unwrap()
            .iter()
            .map(|case| (case.scenario.name, case.nodes))
            .collect()
    }

    #[test]
    fn names_are_unique() {
        for (index, one) in ALL.iter().enumerate() {
            assert!(
                ALL[..index].iter().all(|other| other.name != one.name),
                "{}",
                one.name
            );
        }
    }

    #[test]
    fn an_unknown_scenario_is_refused_with_the_names() {
        let options = Options {
            scenario: Some("nope".to_owned()),
            ..options(Broker::Kafka)
        };
        let error = select(&options).unwrap_err().to_string();
        assert!(
            error.contains("no scenario nope") && error.contains("broker-smoke"),
            "{error}"
        );
    }

    #[test]
    fn a_scenario_that_does_not_fit_the_broker_is_refused_not_passed_over() {
        let name = Some("kcat-group".to_owned());
        assert!(
            select(&Options {
                scenario: name,
                ..options(Broker::Kafka)
            })
            .is_err()
        );
    }

    #[test]
    fn the_order_flow_runs_on_every_transport_unless_one_is_named() {
        let transports = |transport| {
            let options = Options {
                scenario: Some("order-flow".to_owned()),
                nodes: Some(1),
                transport,
                ..options(Broker::Kafka)
            };
            let cases = select(&options).unwrap();
            cases.iter().map(|case| case.transport).collect::<Vec<_>>()
        };
        assert_eq!(transports(None), TransportKind::ALL);
        let native = TransportKind::Native;
        assert_eq!(transports(Some(native)), [native]);
    }

    #[test]
    fn sizes_run_together_and_smaller_ones_first() {
        let sizes: Vec<usize> = names(&options(Broker::Kafka))
            .iter()
            .map(|case| case.1)
            .collect();
        assert!(sizes.is_sorted());
        assert!(sizes.contains(&1) && sizes.contains(&3));
        let three = Options {
            nodes: Some(3),
            ..options(Broker::Kafka)
        };
        assert!(names(&three).iter().all(|case| case.1 == 3));
    }

    #[test]
    fn foreign_clients_are_for_the_mock_cluster() {
        assert!(
            names(&options(Broker::Mock))
                .iter()
                .all(|case| case.0.starts_with("kcat-") || case.0.starts_with("go-"))
        );
        assert!(names(&options(Broker::External)).contains(&("broker-smoke", 1)));
    }
}
