//! The Docker commands that put Redpanda up and take it down.

use crate::args::Nodes;

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Plan {
    /// Arguments of `docker`: start and wait until every node is healthy.
    pub(super) up: Vec<String>,
    /// Arguments of `docker`: the end of the brokers' logs.
    pub(super) logs: Vec<String>,
    /// Arguments of `docker`: stop and forget the data.
    pub(super) down: Vec<String>,
    /// Where clients on this machine find the cluster.
    pub(super) bootstrap: String,
}

/// `None` is one node, which has all that most scenarios need.
pub(super) fn plan(nodes: Option<Nodes>) -> Plan {
    let three = nodes == Some(Nodes::Three);
    let compose = |command: &str| {
        let profile = if three { "--profile three " } else { "" };
        let line = format!("compose -f compose/redpanda.yml {profile}{command}");
        line.split(' ').map(str::to_owned).collect()
    };
    let ports: &[u16] = if three {
        &[19092, 29092, 39092]
    } else {
        &[19092]
    };
    let addresses: Vec<String> = ports
        .iter()
        .map(|port| format!("localhost:{port}"))
        .collect();
    Plan {
        up: compose("up --detach --wait --wait-timeout 120"),
        logs: compose("logs --no-color --tail 200"),
        down: compose("down --volumes --timeout 10"),
        bootstrap: addresses.join(","),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_node() {
        let plan = plan(None);
        assert_eq!(
            plan.up.join(" "),
            "compose -f compose/redpanda.yml up --detach --wait --wait-timeout 120"
        );
        assert_eq!(
            plan.down.join(" "),
            "compose -f compose/redpanda.yml down --volumes --timeout 10"
        );
        assert_eq!(plan.bootstrap, "localhost:19092");
    }

    #[test]
    fn three_nodes_are_a_profile_of_the_same_file() {
        let plan = plan(Some(Nodes::Three));
        assert_eq!(
            plan.up.join(" "),
            "compose -f compose/redpanda.yml --profile three up --detach --wait --wait-timeout 120"
        );
        assert_eq!(
            plan.logs.join(" "),
            "compose -f compose/redpanda.yml --profile three logs --no-color --tail 200"
        );
        assert_eq!(
            plan.bootstrap,
            "localhost:19092,localhost:29092,localhost:39092"
        );
    }

    #[test]
    fn the_compose_file_has_what_the_plan_names() {
        let file = crate::workspace::root().join("compose/redpanda.yml");
        let text = std::fs::read_to_string(file).unwrap();
        for port in plan(Some(Nodes::Three)).bootstrap.split(',') {
            assert!(text.contains(&format!("external://{port}")), "{port}");
        }
        assert_eq!(text.matches("profiles: [three]").count(), 2);
    }
}
