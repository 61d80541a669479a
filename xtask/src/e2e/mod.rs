//! `cargo xtask e2e`: scenarios on a real broker, or foreign clients on the mock cluster.
//!
//! This side chooses the broker and sees to the prerequisites; the `e2e` program of
//! `ottla-integration` starts what it can start itself and runs the scenarios. What is missing is
//! an error that says what to install, never a scenario that is passed over.

pub(crate) mod provision;
mod redpanda;

use crate::args::{Broker, E2eOptions};
use crate::process;
use std::ffi::OsStr;
use std::process::Command;

pub(crate) fn run(options: &E2eOptions) -> Result<(), String> {
    run_with(options, &[])
}

/// As [`run`], with variables that the scenarios' processes inherit.
pub(crate) fn run_with(options: &E2eOptions, variables: &[(&str, &OsStr)]) -> Result<(), String> {
    let broker = options.broker.unwrap_or_else(|| choose(docker_answers()));
    println!("e2e on {}", broker.as_str());
    provision::ensure(broker, options.provision)?;
    // Scenarios start other programs of the package: all of them must be built.
    let build = [
        "build",
        "--locked",
        "--package",
        "ottla-integration",
        "--bins",
    ];
    process::run(process::cargo().args(build))?;
    if broker == Broker::Redpanda {
        return on_redpanda(options);
    }
    let mut command = process::cargo();
    command.args(runner(broker, options, options.bootstrap.as_deref()));
    process::run(command.envs(variables.iter().copied()))
}

fn docker_answers() -> bool {
    process::succeeds(Command::new("docker").arg("info"))
}

fn choose(docker: bool) -> Broker {
    if docker {
        Broker::Redpanda
    } else {
        Broker::Kafka
    }
}

/// Compose up, the scenarios, compose down, whatever the scenarios say.
fn on_redpanda(options: &E2eOptions) -> Result<(), String> {
    let plan = redpanda::plan(options.nodes);
    let up = process::run(&mut docker(&plan.up));
    let scenarios = up.and_then(|()| {
        let arguments = runner(Broker::Redpanda, options, Some(&plan.bootstrap));
        process::run(process::cargo().args(arguments))
    });
    if scenarios.is_err() {
        // Only to show what the brokers said; the scenarios' own error is the one that counts.
        let _ = process::run(&mut docker(&plan.logs));
    }
    let down = process::run(&mut docker(&plan.down));
    scenarios.and(down)
}

fn docker(arguments: &[String]) -> Command {
    let mut command = Command::new("docker");
    command
        .args(arguments)
        .current_dir(crate::workspace::root());
    command
}

/// The arguments of cargo that build and start the scenario runner.
fn runner(broker: Broker, options: &E2eOptions, bootstrap: Option<&str>) -> Vec<String> {
    let mut words: Vec<String> = [
        "run",
        "--locked",
        "--package",
        "ottla-integration",
        "--bin",
        "e2e",
        "--",
    ]
    .map(str::to_owned)
    .into();
    let mut flag = |name: &str, value: &str| words.extend([name.to_owned(), value.to_owned()]);
    flag("--broker", broker.as_str());
    if let Some(bootstrap) = bootstrap {
        flag("--bootstrap", bootstrap);
    }
    if let Some(version) = &options.kafka {
        flag("--kafka", version);
    }
    if let Some(nodes) = options.nodes {
        flag("--nodes", nodes.as_str());
    }
    if let Some(scenario) = &options.scenario {
        flag("--scenario", scenario);
    }
    if let Some(suite) = options.suite {
        flag("--suite", suite.as_str());
    }
    if let Some(transport) = options.transport {
        flag("--transport", transport.as_str());
    }
    if options.provision {
        words.push("--provision".to_owned());
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Nodes, Suite};

    #[test]
    fn redpanda_where_docker_answers_else_kafka() {
        assert_eq!(choose(true), Broker::Redpanda);
        assert_eq!(choose(false), Broker::Kafka);
    }

    #[test]
    fn the_runner_is_told_everything() {
        let options = E2eOptions {
            kafka: Some("3.9.2".to_owned()),
            nodes: Some(Nodes::Three),
            suite: Some(Suite::Ci),
            scenario: Some("order-flow".to_owned()),
            provision: true,
            ..E2eOptions::default()
        };
        let words = runner(Broker::Kafka, &options, None).join(" ");
        assert_eq!(
            words,
            "run --locked --package ottla-integration --bin e2e -- --broker kafka --kafka 3.9.2 \
             --nodes 3 --scenario order-flow --suite ci --provision"
        );
    }
}
