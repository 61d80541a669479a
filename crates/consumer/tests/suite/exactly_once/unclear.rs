//! Commits of which nobody knows whether they were carried out.

use super::{exactly_once, numbers, outputs, start, start_with, transform};
use crate::bed::{Bed, stop, wait_for};
use ottla_client::{Client, ClientConfig, IsolationLevel};
use ottla_consumer::{
    App, Assigned, ConsumerConfig, ErrorKind, GroupProtocol, HandlerError, RebalanceListener,
    RunningApp, SeekTo,
};
use ottla_mock_cluster::{Action, ApiKey, Fault};
use ottla_producer::{ProducerConfig, TransactionalProducers};
use std::sync::Arc;
use std::time::Duration;

/// Has every partition begin at its first record.
struct FromTheBeginning;

impl RebalanceListener for FromTheBeginning {
    async fn on_assigned(&self, assigned: &Assigned) -> Result<(), HandlerError> {
        for partition in assigned.partitions() {
            let begun = assigned.start_at(partition, SeekTo::Beginning);
            begun.map_err(|e| HandlerError::transient("Start", e.to_string()))?;
        }
        Ok(())
    }
}

async fn again_from_the_beginning(bed: &Bed) -> RunningApp {
    let producers = TransactionalProducers::new(&bed.client, ProducerConfig::default());
    let producers = producers.max_block(Duration::from_millis(300));
    let mut app = App::new(&bed.client, exactly_once()).transactions(Arc::new(producers));
    app.topic("in")
        .listener(FromTheBeginning)
        .listen("g", transform());
    app.start().await.unwrap()
}

#[tokio::test]
async fn after_an_unclear_commit_the_listeners_place_holds_unless_the_group_is_elsewhere() {
    // Not carried out at all, and carried out without an answer.
    for action in [Action::Disconnect, Action::DropReply] {
        let bed = start().await;
        bed.write("in", 0, numbers(0..4)).await;
        let first = start_with(&bed, exactly_once(), transform()).await;
        wait_for("the first time", || outputs(&bed) == [0, 1, 2, 3]).await;
        stop(first).await;
        bed.write("in", 0, numbers(4..6)).await;
        let fault = Fault::on(ApiKey::EndTxn).forever().action(action.clone());
        let fault = bed.cluster.faults().add(fault);
        let second = again_from_the_beginning(&bed).await;
        let twice = [0, 0, 1, 1, 2, 2, 3, 3, 4, 5];
        // Some are handled, and were again if that did not count.
        let written = || bed.cluster.records("out").len();
        wait_for("another try", || {
            written() >= 7 || outputs(&bed).len() >= twice.len()
        })
        .await;
        fault.remove();
        wait_for("all of them", || outputs(&bed).len() >= twice.len()).await;
        stop(second).await;
        assert_eq!(outputs(&bed), twice, "{action:?}");
        assert_eq!(bed.committed("g", "in", 0), Some(6));
    }
}

#[tokio::test]
async fn inputs_that_may_be_aborted_later_are_refused() {
    let bed = start().await;
    let config = ClientConfig {
        isolation_level: IsolationLevel::ReadUncommitted,
        ..ClientConfig::new(&bed.cluster.bootstrap())
    };
    let client = Client::connect(config).await.unwrap();
    let mut app = super::app(&client, exactly_once());
    app.topic("in").listen("g", transform());
    let error = app.start().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    let cause = std::error::Error::source(&error).unwrap().to_string();
    assert!(cause.contains("`isolation.level`"), "{cause}");
}

#[tokio::test]
async fn trap_c25_a_member_that_waits_in_vain_for_its_last_commit_leaves_all_the_same() {
    for protocol in [GroupProtocol::Classic, GroupProtocol::Consumer] {
        let bed = start().await;
        let config = ConsumerConfig {
            group_protocol: protocol,
            ..exactly_once()
        };
        let running = start_with(&bed, config, transform()).await;
        wait_for("the beginning", || bed.committed("g", "in", 0).is_some()).await;
        let hangs = Fault::on(ApiKey::EndTxn).forever().action(Action::Hang);
        let hangs = bed.cluster.faults().add(hangs);
        bed.write("in", 0, numbers(0..4)).await;
        wait_for("the commit", || hangs.hits() > 0).await;
        let report = running.shutdown(Duration::from_millis(200)).await;
        assert!(!report.clean, "{report:?}");
        let members = bed.cluster.group_members("g");
        assert!(members.is_empty(), "{protocol:?}: {members:?}");
    }
}
