//! Outputs and offsets in one transaction (C13, R6): who reads committed records sees the output of
//! each record once, whatever fails in between.

mod refused;
mod unclear;

use crate::bed::{Bed, SHUTDOWN, config, numbers, short_session, stop, text, wait_for};
use ottla_client::{Client, TransportKind};
use ottla_consumer::{
    App, BatchOutcome, ConsumedRecord, ConsumerConfig, Context, ErrorKind, GroupProtocol, Handler,
    HandlerError, MemberState, Outcome, ProcessingGuarantee, Registration, RunningApp, batch_fn,
    handler_fn,
};
use ottla_mock_cluster::{Action, ApiKey, Fault, MockCluster, TransactionState, Versions};
use ottla_producer::{ProducerConfig, TransactionalProducers};
use ottla_types::{PublishErrorKind, Record};
use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

const PARTITIONS: i32 = 4;
const INPUTS: usize = 400;

async fn start() -> Bed {
    start_on(Versions::kafka_4_3()).await
}

async fn start_on(versions: Versions) -> Bed {
    let session = Duration::from_millis(1500);
    let builder = MockCluster::builder().consumer_session(session, Duration::from_millis(100));
    let builder = builder.versions(versions);
    let bed = Bed::start_with(builder).await;
    for topic in ["in", "out"] {
        bed.cluster.create_topic(topic, PARTITIONS).unwrap();
    }
    bed
}

/// `0..INPUTS`, spread over the partitions.
async fn write_inputs(bed: &Bed) {
    for partition in 0..PARTITIONS {
        let own = |n: &usize| n % PARTITIONS as usize == partition as usize;
        let values = (0..INPUTS).filter(own).map(|n| n.to_string());
        bed.write("in", partition, values).await;
    }
}

fn exactly_once() -> ConsumerConfig {
    ConsumerConfig {
        processing_guarantee: ProcessingGuarantee::ExactlyOnce,
        transactional_id_prefix: Some("tx".to_owned()),
        transaction_interval: Duration::from_millis(10),
        ..config()
    }
}

fn producers(client: &Client) -> Arc<TransactionalProducers> {
    let config = ProducerConfig {
        linger: Duration::ZERO,
        ..ProducerConfig::default()
    };
    Arc::new(TransactionalProducers::new(client, config))
}

fn app(client: &Client, config: ConsumerConfig) -> App {
    App::new(client, config).transactions(producers(client))
}

fn output(record: &ConsumedRecord) -> Record {
    Record::new("out").value(format!("<{}>", text(record)))
}

/// Publishes one record for each, and hears that it is written.
fn transform() -> impl Handler {
    handler_fn(|context: Context, record| async move { publish(&context, &record).await })
}

async fn publish(context: &Context, record: &ConsumedRecord) -> Outcome {
    match context.publish(output(record)).await {
        Ok(_) => Outcome::Done,
        Err(error) => Outcome::Failed(HandlerError::transient("Publish", error.to_string())),
    }
}

async fn run(app: &mut Option<App>) -> RunningApp {
    app.take().unwrap().start().await.unwrap()
}

async fn start_with(bed: &Bed, config: ConsumerConfig, handler: impl Handler) -> RunningApp {
    let mut app = app(&bed.client, config);
    app.topic("in").listen("g", handler);
    run(&mut Some(app)).await
}

/// What readers of committed records see, sorted by number.
fn outputs(bed: &Bed) -> Vec<usize> {
    let records = bed.cluster.committed_records("out");
    let number = |text: String| text.trim_matches(['<', '>']).parse().unwrap();
    let mut seen: Vec<usize> = records
        .iter()
        .map(|r| number(r.value_text().unwrap()))
        .collect();
    seen.sort_unstable();
    seen
}

fn is_all_committed(bed: &Bed) -> bool {
    let committed = (0..PARTITIONS).filter_map(|p| bed.committed("g", "in", p));
    committed.sum::<i64>() == INPUTS as i64
}

/// Waits for the last offsets, and judges.
async fn each_once(bed: &Bed) {
    wait_for("the offsets", || is_all_committed(bed)).await;
    wait_for("the outputs", || outputs(bed).len() >= INPUTS).await;
    assert_eq!(outputs(bed), (0..INPUTS).collect::<Vec<_>>());
}

/// Records that stand in the output and do not count.
fn aborted(bed: &Bed) -> usize {
    bed.cluster.records("out").len() - bed.cluster.committed_records("out").len()
}

#[tokio::test]
async fn outputs_and_offsets_are_committed_together() {
    let bed = start().await;
    write_inputs(&bed).await;
    let running = start_with(&bed, exactly_once(), transform()).await;
    each_once(&bed).await;
    assert_eq!(aborted(&bed), 0);
    assert_eq!(bed.cluster.requests(ApiKey::OffsetCommit), 0);
    stop(running).await;
    assert_ne!(
        bed.cluster.transaction_state("tx-g-0"),
        Some(TransactionState::Ongoing)
    );
}

#[tokio::test]
async fn calls_side_by_side_and_batches_are_in_transactions_too() {
    for batch in [false, true] {
        let bed = start().await;
        write_inputs(&bed).await;
        let mut app = app(&bed.client, exactly_once());
        let route = app.topic("in").exactly_once();
        if batch {
            let all = |context: Context, records: Vec<ConsumedRecord>| async move {
                for record in &records {
                    drop(context.publish(output(record)));
                }
                BatchOutcome::Done
            };
            route
                .batch(7, Duration::from_millis(1))
                .listen_batch("g", batch_fn(all));
        } else {
            route.concurrency(16).listen("g", transform());
        }
        let running = app.start().await.unwrap();
        each_once(&bed).await;
        stop(running).await;
    }
}

#[tokio::test]
async fn a_call_that_fails_after_it_published_takes_its_transaction_back() {
    for concurrency in [1, 8] {
        let bed = start().await;
        write_inputs(&bed).await;
        let failed = Arc::new(Mutex::new(HashSet::new()));
        let handler = handler_fn(move |context: Context, record: ConsumedRecord| {
            let number: usize = text(&record).parse().unwrap();
            let is_first = number % 50 == 7 && failed.lock().unwrap().insert(number);
            async move {
                let outcome = publish(&context, &record).await;
                match is_first {
                    true => Outcome::Failed(HandlerError::transient("Later", "not yet")),
                    false => outcome,
                }
            }
        });
        let mut app = app(&bed.client, exactly_once());
        app.topic("in")
            .concurrency(concurrency)
            .listen("g", handler);
        let running = app.start().await.unwrap();
        each_once(&bed).await;
        assert!(aborted(&bed) >= INPUTS / 50, "{}", aborted(&bed));
        stop(running).await;
    }
}

#[tokio::test]
async fn a_call_that_fails_without_outputs_holds_up_its_partition_alone() {
    let bed = start().await;
    write_inputs(&bed).await;
    let is_open = Arc::new(AtomicBool::new(false));
    let opened = is_open.clone();
    let handler = handler_fn(move |context: Context, record: ConsumedRecord| {
        let is_busy = record.partition == 2 && !opened.load(Ordering::SeqCst);
        async move {
            match is_busy {
                true => Outcome::Failed(HandlerError::transient("Busy", "later")),
                false => publish(&context, &record).await,
            }
        }
    });
    let running = start_with(&bed, exactly_once(), handler).await;
    let share = INPUTS / PARTITIONS as usize;
    wait_for("the others", || outputs(&bed).len() == INPUTS - share).await;
    wait_for("their offsets", || {
        bed.committed("g", "in", 3) == Some(share as i64)
    })
    .await;
    assert_eq!(bed.committed("g", "in", 2).unwrap_or(0), 0);
    is_open.store(true, Ordering::SeqCst);
    each_once(&bed).await;
    assert_eq!(aborted(&bed), 0);
    stop(running).await;
}

#[tokio::test]
async fn a_crash_between_output_and_commit_leaves_nothing() {
    let bed = start().await;
    write_inputs(&bed).await;
    // The first life never gets to its commit.
    let never = ConsumerConfig {
        transaction_interval: Duration::from_secs(600),
        transaction_timeout: Some(Duration::from_secs(800)),
        ..exactly_once()
    };
    let first = start_with(&bed, never, transform()).await;
    wait_for("outputs", || bed.cluster.records("out").len() >= INPUTS).await;
    drop(first);
    assert!(outputs(&bed).is_empty());
    let second = start_with(&bed, exactly_once(), transform()).await;
    each_once(&bed).await;
    assert!(aborted(&bed) >= INPUTS);
    stop(second).await;
}

#[tokio::test]
async fn a_graceful_end_commits_what_is_open() {
    let bed = start().await;
    write_inputs(&bed).await;
    let seldom = ConsumerConfig {
        transaction_interval: Duration::from_secs(600),
        transaction_timeout: Some(Duration::from_secs(800)),
        commit_interval: Duration::from_secs(3600),
        ..exactly_once()
    };
    let running = start_with(&bed, seldom, transform()).await;
    wait_for("outputs", || bed.cluster.records("out").len() >= INPUTS).await;
    stop(running).await;
    each_once(&bed).await;
}

#[tokio::test]
async fn whoever_has_the_id_last_shuts_out_the_other_for_good() {
    let bed = start().await;
    let zombie = start_with(&bed, exactly_once(), transform()).await;
    wait_for("the first life", || {
        bed.cluster.transaction_producer("tx-g-0").is_some()
    })
    .await;
    let before = bed.cluster.transaction_producer("tx-g-0");
    let client = bed.connect().await;
    let mut app = app(&client, exactly_once());
    app.topic("in").listen("g", transform());
    let second = app.start().await.unwrap();
    wait_for("the second life", || {
        bed.cluster.transaction_producer("tx-g-0") != before
    })
    .await;
    write_inputs(&bed).await;
    let error = zombie.failed().await;
    assert_eq!(error.kind(), ErrorKind::Transaction, "{error}");
    drop(zombie);
    each_once(&bed).await;
    stop(second).await;
}

/// A Kafka 3 shuts a producer out whose transaction it has ended for its time, as if another one had
/// taken its id. Where nobody else can have it, the member begins anew.
#[tokio::test]
async fn a_transaction_that_took_too_long_is_done_again_on_a_kafka_3() {
    for prefix in [None, Some("tx".to_owned())] {
        let bed = start_on(Versions::kafka_3_9()).await;
        write_inputs(&bed).await;
        let late = Action::Delay(Duration::from_secs(3));
        let late = Fault::on(ApiKey::EndTxn).skip(2).action(late);
        let late = bed.cluster.faults().add(late);
        let config = ConsumerConfig {
            max_processing_time: Duration::from_secs(1),
            transaction_timeout: Some(Duration::from_secs(2)),
            transactional_id_prefix: prefix.clone(),
            transaction_max_records: 20,
            ..exactly_once()
        };
        let running = start_with(&bed, config, transform()).await;
        if prefix.is_some() {
            let error = running.failed().await;
            assert_eq!(error.kind(), ErrorKind::Transaction, "{error}");
            let _ = running.shutdown(SHUTDOWN).await;
        } else {
            each_once(&bed).await;
            assert!(aborted(&bed) > 0);
            stop(running).await;
        }
        assert_eq!(late.hits(), 1);
    }
}

#[tokio::test]
async fn members_that_come_and_go_inside_of_transactions() {
    come_and_go(GroupProtocol::Classic).await;
}

#[tokio::test]
async fn members_that_come_and_go_with_kip_848() {
    come_and_go(GroupProtocol::Consumer).await;
}

async fn come_and_go(group_protocol: GroupProtocol) {
    let bed = start().await;
    let slow = || {
        handler_fn(|context: Context, record: ConsumedRecord| async move {
            tokio::time::sleep(Duration::from_millis(2)).await;
            publish(&context, &record).await
        })
    };
    // Readers wait for what a dead member with an id of its own left open, until its time is over.
    let own_ids = || ConsumerConfig {
        group_protocol,
        session_timeout: Duration::from_millis(1500),
        max_processing_time: Duration::from_secs(1),
        transaction_timeout: Some(Duration::from_secs(2)),
        transactional_id_prefix: None,
        ..exactly_once()
    };
    let first = start_with(&bed, own_ids(), slow()).await;
    write_inputs(&bed).await;
    wait_for("some", || outputs(&bed).len() > 20).await;
    let mut more = Vec::new();
    for _ in 0..2 {
        let client = bed.connect().await;
        let mut app = app(&client, own_ids());
        app.topic("in").listen("g", slow());
        let running = app.start().await.unwrap();
        let status = || running.status().registrations[0].members[0].clone();
        wait_for("its share", || !status().partitions.is_empty()).await;
        more.push((running, client));
    }
    let so_far = outputs(&bed).len();
    wait_for("more", || outputs(&bed).len() > so_far + 20).await;
    // One goes in order, one goes without a word.
    stop(first).await;
    drop(more.remove(0).0);
    each_once(&bed).await;
    stop(more.remove(0).0).await;
}

#[tokio::test]
async fn trap_c18_a_member_that_is_lost_inside_of_a_transaction_takes_it_back() {
    let bed = start().await;
    let open = Arc::new(tokio::sync::Semaphore::new(10));
    let permits = open.clone();
    let handler = handler_fn(move |context: Context, record: ConsumedRecord| {
        let permits = permits.clone();
        async move {
            permits.acquire().await.unwrap().forget();
            publish(&context, &record).await
        }
    });
    let lazy = ConsumerConfig {
        transaction_interval: Duration::from_secs(600),
        transaction_timeout: Some(Duration::from_secs(800)),
        ..short_session()
    };
    let lazy = ConsumerConfig {
        processing_guarantee: ProcessingGuarantee::ExactlyOnce,
        transaction_max_records: INPUTS,
        ..lazy
    };
    let running = start_with(&bed, lazy, handler).await;
    write_inputs(&bed).await;
    wait_for("outputs", || bed.cluster.records("out").len() == 10).await;
    let evicted = Fault::on(ApiKey::Heartbeat).action(Action::Refuse(25)); // UNKNOWN_MEMBER_ID
    let evicted = bed.cluster.faults().add(evicted);
    wait_for("the eviction", || evicted.hits() == 1).await;
    open.add_permits(2 * INPUTS);
    wait_for("the rest", || {
        bed.cluster.records("out").len() >= INPUTS + 10
    })
    .await;
    // The last transaction is not full.
    stop(running).await;
    each_once(&bed).await;
    assert!(aborted(&bed) >= 10);
}

#[tokio::test]
async fn a_publish_after_the_call_or_the_loss_is_refused() {
    let bed = start().await;
    let kept = Arc::new(Mutex::new(None));
    let keep = kept.clone();
    let handler = handler_fn(move |context: Context, _| {
        assert!(context.is_transactional());
        *keep.lock().unwrap() = Some(context);
        async { Outcome::Done }
    });
    let running = start_with(&bed, exactly_once(), handler).await;
    bed.write("in", 0, ["0"]).await;
    wait_for("the call", || bed.committed("g", "in", 0) == Some(1)).await;
    let context: Context = kept.lock().unwrap().take().unwrap();
    let refused = async || {
        context
            .publish(Record::new("out"))
            .await
            .unwrap_err()
            .kind()
    };
    assert_eq!(refused().await, PublishErrorKind::NotOwner);
    stop(running).await;
    assert_eq!(refused().await, PublishErrorKind::NotOwner);
    assert_eq!(bed.cluster.records("out").len(), 0);
}

#[tokio::test]
async fn trap_c28_answers_that_are_lost_or_bad_lose_and_double_nothing() {
    let refuse = |code| Action::Refuse(code);
    let cases = [
        (ApiKey::EndTxn, Action::DropReply),
        (ApiKey::EndTxn, refuse(-1)),
        (ApiKey::EndTxn, refuse(47)),          // INVALID_PRODUCER_EPOCH
        (ApiKey::TxnOffsetCommit, refuse(22)), // ILLEGAL_GENERATION
        (ApiKey::TxnOffsetCommit, Action::DropReply),
        (ApiKey::InitProducerId, refuse(15)), // COORDINATOR_NOT_AVAILABLE
        (ApiKey::Produce, refuse(10)),        // MESSAGE_TOO_LARGE
        (ApiKey::OffsetFetch, refuse(88)),    // UNSTABLE_OFFSET_COMMIT
    ];
    for (api, action) in cases {
        let bed = start().await;
        write_inputs(&bed).await;
        let skip = u32::from(api == ApiKey::EndTxn);
        let fault = Fault::on(api).skip(skip).times(2).action(action.clone());
        let fault = bed.cluster.faults().add(fault);
        let small = ConsumerConfig {
            transaction_max_records: 20,
            ..exactly_once()
        };
        let running = start_with(&bed, small, transform()).await;
        each_once(&bed).await;
        assert!(fault.hits() > 0, "{api:?} {action:?}");
        stop(running).await;
    }
}

#[tokio::test]
async fn where_it_cannot_be_done_the_start_says_so() {
    let bed = Bed::over(TransportKind::Rskafka).await;
    for topic in ["in", "out"] {
        bed.cluster.create_topic(topic, PARTITIONS).unwrap();
    }
    let cause = async |mut app: App| {
        app.topic("in").exactly_once().listen("g", transform());
        let error = app.start().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
        std::error::Error::source(&error).unwrap().to_string()
    };
    let text = cause(app(&bed.client, config())).await;
    assert!(
        text.contains("`transactions`") && text.contains("rskafka"),
        "{text}"
    );
    let text = cause(App::new(&bed.client, config())).await;
    assert!(text.contains("`processing.guarantee`"), "{text}");
}

#[tokio::test]
async fn a_refused_producer_is_an_error_for_good() {
    let bed = start().await;
    let refused = Fault::on(ApiKey::InitProducerId)
        .forever()
        .action(Action::Refuse(50));
    bed.cluster.faults().add(refused); // INVALID_TRANSACTION_TIMEOUT
    let running = start_with(&bed, exactly_once(), transform()).await;
    let error = running.failed().await;
    assert_eq!(error.kind(), ErrorKind::Transaction, "{error}");
    let member = &running.status().registrations[0].members[0];
    assert_eq!(member.state, MemberState::Failed);
    let _ = running.shutdown(SHUTDOWN).await;
}

#[tokio::test]
async fn a_chain_of_two_registrations_reads_what_was_committed() {
    let bed = start().await;
    bed.cluster.create_topic("end", 2).unwrap();
    let failed = Arc::new(AtomicUsize::new(0));
    let failing = failed.clone();
    let first = handler_fn(move |context: Context, record: ConsumedRecord| {
        let fails = failing.fetch_add(1, Ordering::SeqCst) % 97 == 13;
        async move {
            match publish(&context, &record).await {
                Outcome::Done if fails => {
                    Outcome::Failed(HandlerError::transient("Later", "not yet"))
                }
                outcome => outcome,
            }
        }
    });
    let second = handler_fn(|context: Context, record: ConsumedRecord| async move {
        match context
            .publish(Record::new("end").value(text(&record)))
            .await
        {
            Ok(_) => Outcome::Done,
            Err(error) => Outcome::Failed(HandlerError::transient("Publish", error.to_string())),
        }
    });
    // The two share a prefix.
    let mut app = app(&bed.client, exactly_once());
    app.topic("in").listen("g", first);
    app.register(Registration::new("g2", ["out"], second).instances(2));
    let running = app.start().await.unwrap();
    bed.write("in", 1, numbers(0..INPUTS)).await;
    let ends = || {
        let ends = bed.cluster.committed_records("end");
        ends.iter()
            .map(|r| r.value_text().unwrap())
            .collect::<Vec<_>>()
    };
    wait_for("the end", || ends().len() >= INPUTS).await;
    let distinct: HashSet<_> = ends().into_iter().collect();
    assert_eq!((ends().len(), distinct.len()), (INPUTS, INPUTS));
    stop(running).await;
}
