//! Outputs that are not taken.

use super::{
    INPUTS, PARTITIONS, app, exactly_once, is_all_committed, output, outputs, start, start_with,
    write_inputs,
};
use crate::bed::{Bed, SHUTDOWN, config, stop, text, wait_for};
use ottla_client::{Client, ClientConfig, TransportKind};
use ottla_consumer::{
    CLASS_OUTPUT_FAILED, ConsumedRecord, ConsumerConfig, Context, Handler, HandlerError, Outcome,
    ProcessingGuarantee, RunningApp, handler_fn,
};
use ottla_mock_cluster::{Action, ApiKey, Fault, MockCluster};
use ottla_producer::{Producer, ProducerConfig};
use ottla_types::{PublishErrorKind, Record};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A handler that looks at no delivery.
fn careless() -> impl Handler {
    handler_fn(|context: Context, record: ConsumedRecord| async move {
        drop(context.publish(output(&record)));
        Outcome::Done
    })
}

#[tokio::test]
async fn at_least_once_outputs_are_acknowledged_before_the_offset_is_committed() {
    let bed = Bed::over(TransportKind::Rskafka).await;
    for topic in ["in", "out"] {
        bed.cluster.create_topic(topic, 1).unwrap();
    }
    let config = ConsumerConfig {
        processing_guarantee: ProcessingGuarantee::ExactlyOnceIfPossible,
        ..config()
    };
    let native = ClientConfig::new(&bed.cluster.bootstrap());
    let native = Client::connect(native).await.unwrap();
    let producer = Producer::new(&native, ProducerConfig::default()).unwrap();
    let mut app = app(&bed.client, config).outputs(Arc::new(producer.clone()));
    app.topic("in").listen("g", careless());
    let held = bed.cluster.faults().add(
        Fault::on(ApiKey::Produce)
            .topic("out")
            .forever()
            .action(Action::Refuse(19)), // NOT_ENOUGH_REPLICAS
    );
    bed.write("in", 0, ["0"]).await;
    let running = app.start().await.unwrap();
    wait_for("a try", || held.hits() > 0).await;
    let handled = || running.status().registrations[0].handled();
    assert_eq!(
        (handled(), bed.committed("g", "in", 0).unwrap_or(0)),
        (0, 0)
    );
    held.remove();
    wait_for("the commit", || bed.committed("g", "in", 0) == Some(1)).await;
    assert_eq!(bed.cluster.records("out").len(), 1);
    stop(running).await;
}

#[tokio::test]
async fn an_output_that_is_not_taken_fails_the_call_though_nobody_looks() {
    let bed = start().await;
    let calls = Arc::new(AtomicUsize::new(0));
    let count = calls.clone();
    let handler = handler_fn(move |context: Context, record: ConsumedRecord| {
        let is_first = count.fetch_add(1, Ordering::SeqCst) == 0;
        let topic = if is_first { "no/topic" } else { "out" };
        let value = format!("<{}>", text(&record));
        drop(context.publish(Record::new(topic).value(value)));
        async { Outcome::Done }
    });
    let running = start_with(&bed, exactly_once(), handler).await;
    bed.write("in", 0, ["0"]).await;
    wait_for("the output", || outputs(&bed) == [0]).await;
    assert_eq!(calls.load(Ordering::SeqCst), 2);
    let member = running.status().registrations[0].members[0].clone();
    assert!(member.last_error.unwrap().starts_with(CLASS_OUTPUT_FAILED));
    stop(running).await;
}

/// The outputs of every 50th record are too large for the topic; a handler that hears of it writes a
/// small record elsewhere.
async fn too_large(hears: bool) -> (Bed, RunningApp) {
    let bed = Bed::start_with(MockCluster::builder()).await;
    bed.cluster.create_topic("in", PARTITIONS).unwrap();
    let small = [("max.message.bytes", "1000")];
    bed.cluster
        .create_topic_with("out", PARTITIONS, &small)
        .unwrap();
    bed.cluster.create_topic("dead", 1).unwrap();
    let handler = handler_fn(move |context: Context, record: ConsumedRecord| async move {
        let number: usize = text(&record).parse().unwrap();
        let mut output = output(&record);
        if number.is_multiple_of(50) {
            output.value = Some(vec![b'x'; 2_000].into());
        }
        let written = context.publish(output);
        if !hears {
            return Outcome::Done;
        }
        let dead = match written.await {
            Ok(_) => return Outcome::Done,
            Err(error) if error.kind() == PublishErrorKind::RecordTooLarge => {
                context.publish(Record::new("dead").value(text(&record)))
            }
            Err(error) => {
                return Outcome::Failed(HandlerError::transient("Publish", error.to_string()));
            }
        };
        match dead.await {
            Ok(_) => Outcome::Done,
            Err(error) => Outcome::Failed(HandlerError::transient("Dead", error.to_string())),
        }
    });
    write_inputs(&bed).await;
    let running = start_with(&bed, exactly_once(), handler).await;
    (bed, running)
}

#[tokio::test]
async fn trap_d_an_output_that_is_too_large_is_dealt_with_by_the_handler_and_not_for_ever() {
    let (bed, running) = too_large(true).await;
    wait_for("the offsets", || is_all_committed(&bed)).await;
    let is_large = |n: &usize| n.is_multiple_of(50);
    let (large, rest): (Vec<_>, Vec<_>) = (0..INPUTS).partition(is_large);
    wait_for("the rest", || outputs(&bed) == rest).await;
    let dead = bed.cluster.committed_records("dead");
    let mut dead: Vec<usize> = dead
        .iter()
        .map(|r| r.value_text().unwrap().parse().unwrap())
        .collect();
    dead.sort_unstable();
    assert_eq!(dead, large);
    stop(running).await;
}

#[tokio::test]
async fn an_output_that_is_too_large_and_not_looked_at_holds_up_its_partition_alone() {
    let (bed, running) = too_large(false).await;
    // The last records of partitions 1 and 3 are odd.
    let share = (INPUTS / PARTITIONS as usize) as i64;
    wait_for("the others", || {
        [1, 3].map(|p| bed.committed("g", "in", p)) == [Some(share); 2]
    })
    .await;
    assert_eq!(bed.committed("g", "in", 0).unwrap_or(0), 0);
    let member = running.status().registrations[0].members[0].clone();
    let error = member.last_error.unwrap();
    assert!(error.starts_with(CLASS_OUTPUT_FAILED), "{error}");
    let report = running.shutdown(SHUTDOWN).await;
    assert!(report.in_flight.is_empty(), "{report:?}");
}
