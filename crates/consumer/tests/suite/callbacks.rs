//! What a listener hears, when, and what its failures do.

use crate::bed::{Bed, Seen, config, numbers, owned, short_session, stop, wait_for};
use ottla_consumer::{
    App, Assigned, ConsumerConfig, GroupProtocol, HandlerError, Rebalance, RebalanceListener,
    Revoked, RunningApp, SeekTo,
};
use ottla_mock_cluster::{Action, ApiKey, Fault, MockCluster};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::Semaphore;

type Then = fn(&str) -> Result<(), HandlerError>;

/// Notes what it hears; a call ends well when the gate lets it.
#[derive(Clone)]
struct Log {
    heard: Arc<Mutex<Vec<String>>>,
    gate: Arc<Semaphore>,
    then: Then,
    start_at: Option<SeekTo>,
}

impl Log {
    fn new() -> Self {
        Self {
            heard: Arc::default(),
            gate: Arc::new(Semaphore::new(1_000)),
            then: |_| Ok(()),
            start_at: None,
        }
    }

    fn gated() -> Self {
        Self {
            gate: Arc::new(Semaphore::new(0)),
            ..Self::new()
        }
    }

    fn heard(&self) -> Vec<String> {
        self.heard.lock().unwrap().clone()
    }

    async fn note(&self, what: &str, of: &Rebalance) -> Result<(), HandlerError> {
        let place = |p| {
            let of = (of.position(p), of.last_committed(p));
            of.0.map_or(String::new(), |at| {
                format!(" at {at}, committed {:?}", of.1)
            })
        };
        let partitions: Vec<_> = of
            .partitions()
            .iter()
            .map(|p| format!("{p}{}", place(p)))
            .collect();
        let heard = format!("{what} {}", partitions.join(", "));
        self.heard.lock().unwrap().push(heard);
        if what == "revoked" {
            self.gate.acquire().await.unwrap().forget();
        }
        (self.then)(what)
    }
}

impl RebalanceListener for Log {
    async fn on_assigned(&self, assigned: &Assigned) -> Result<(), HandlerError> {
        if let Some(place) = self.start_at {
            for partition in assigned.partitions() {
                assigned.start_at(partition, place).unwrap();
            }
        }
        self.note("assigned", assigned).await
    }

    async fn on_revoked(&self, revoked: &Revoked) -> Result<(), HandlerError> {
        self.note("revoked", revoked).await
    }

    async fn on_lost(&self, lost: &Rebalance) -> Result<(), HandlerError> {
        self.note("lost", lost).await
    }
}

/// Commits only when partitions are given up.
fn rarely(config: ConsumerConfig) -> ConsumerConfig {
    ConsumerConfig {
        commit_interval: Duration::from_secs(3600),
        ..config
    }
}

async fn start(bed: &Bed, config: ConsumerConfig, seen: &Seen, log: &Log) -> RunningApp {
    let mut app = App::new(&bed.client, config);
    app.topic("t")
        .listener(log.clone())
        .listen("g", seen.handler());
    app.start().await.unwrap()
}

fn failures(running: &RunningApp) -> u64 {
    running.status().registrations[0].members[0].callback_failures
}

async fn a_revocation_is_told_before_the_last_commit(protocol: GroupProtocol) {
    let heartbeat = Duration::from_millis(100);
    let builder = MockCluster::builder().consumer_session(Duration::from_millis(1500), heartbeat);
    let bed = Bed::start_with(builder).await;
    bed.cluster.create_topic("t", 2).unwrap();
    for partition in 0..2 {
        bed.write("t", partition, numbers(0..10)).await;
    }
    let config = || ConsumerConfig {
        group_protocol: protocol,
        ..rarely(short_session())
    };
    let (seen, log) = (Seen::default(), Log::gated());
    let first = start(&bed, config(), &seen, &log).await;
    seen.wait_len(20).await;
    // Where a partition had no committed offset, its beginning is committed at once.
    wait_for("the first commit", || bed.committed("g", "t", 1) == Some(0)).await;
    let other = Log::new();
    let second = start(&bed, config(), &seen, &other).await;
    wait_for("the revocation", || log.heard().len() == 2).await;
    assert_eq!(log.heard()[0], "assigned t-0, t-1");
    let moved = if log.heard()[1].contains("t-0") { 0 } else { 1 };
    let told = format!("revoked t-{moved} at 10, committed Some(0)");
    assert_eq!(log.heard()[1], told);
    // C16: the member keeps its place, and the partition, as long as the callback takes.
    let api = match protocol {
        GroupProtocol::Classic => ApiKey::Heartbeat,
        _ => ApiKey::ConsumerGroupHeartbeat,
    };
    let (before, beats) = (bed.cluster.requests(api), 2 * 2 * 15);
    wait_for("two sessions of heartbeats", || {
        bed.cluster.requests(api) >= before + beats
    })
    .await;
    bed.write("t", moved, ["later"]).await;
    assert!(other.heard().is_empty());
    assert_eq!(bed.committed("g", "t", moved), Some(0));
    log.gate.add_permits(1);
    wait_for("the assignment", || !other.heard().is_empty()).await;
    assert_eq!(other.heard(), [format!("assigned t-{moved}")]);
    seen.wait_len(21).await;
    assert_eq!(seen.offsets(moved), (0..11).collect::<Vec<_>>());
    // The commit named both partitions.
    let kept = 1 - moved;
    bed.write("t", kept, ["later"]).await;
    seen.wait_len(22).await;
    log.gate.add_permits(1);
    stop(first).await;
    assert_eq!(
        log.heard()[2..],
        [format!("revoked t-{kept} at 11, committed Some(10)")]
    );
    assert_eq!(bed.committed("g", "t", kept), Some(11));
    stop(second).await;
}

#[tokio::test]
async fn trap_c16_a_revocation_is_told_before_the_last_commit_classic() {
    a_revocation_is_told_before_the_last_commit(GroupProtocol::Classic).await;
}

#[tokio::test]
async fn trap_c16_a_revocation_is_told_before_the_last_commit_kip848() {
    a_revocation_is_told_before_the_last_commit(GroupProtocol::Consumer).await;
}

#[tokio::test]
async fn a_callback_that_takes_too_long_is_left_behind() {
    let bed = Bed::start().await;
    bed.cluster.create_topic("t", 2).unwrap();
    bed.write("t", 0, numbers(0..3)).await;
    bed.write("t", 1, numbers(0..3)).await;
    let limited = ConsumerConfig {
        rebalance_callback_timeout: Duration::from_millis(200),
        ..rarely(config())
    };
    let (seen, log) = (Seen::default(), Log::gated());
    let first = start(&bed, limited, &seen, &log).await;
    seen.wait_len(6).await;
    let second = start(&bed, config(), &seen, &Log::new()).await;
    wait_for("the share", || owned(&second) == [1]).await;
    let member = &first.status().registrations[0].members[0];
    assert_eq!((member.callback_failures, member.restarts), (1, 0));
    let error = member.last_error.as_deref().unwrap();
    assert!(error.contains("longer than 200 ms"), "{error}");
    stop(second).await;
    stop(first).await;
    assert_eq!(seen.len(), 6, "what was handled was committed all the same");
    assert_eq!(log.gate.available_permits(), 0);
}

#[tokio::test]
async fn trap_c25_a_callback_does_not_hold_up_a_shutdown() {
    let bed = Bed::start().await;
    bed.cluster.create_topic("t", 1).unwrap();
    bed.write("t", 0, numbers(0..3)).await;
    let (seen, log) = (Seen::default(), Log::gated());
    let running = start(&bed, rarely(config()), &seen, &log).await;
    seen.wait_len(3).await;
    let begun = std::time::Instant::now();
    let report = running.shutdown(Duration::from_millis(100)).await;
    assert!(report.clean, "what was handled is committed: {report:?}");
    assert!(begun.elapsed() < Duration::from_secs(5));
    assert_eq!(log.heard().len(), 2);
}

#[tokio::test]
async fn errors_and_panics_of_callbacks_are_reported_and_stop_nothing() {
    let failing: [Then; 2] = [
        |what| Err(HandlerError::transient("Refused", what.to_owned())),
        |what| panic!("{what}"),
    ];
    for (round, then) in failing.into_iter().enumerate() {
        let bed = Bed::start().await;
        bed.cluster.create_topic("t", 1).unwrap();
        bed.write("t", 0, numbers(0..3)).await;
        let (seen, log) = (Seen::default(), Log { then, ..Log::new() });
        let running = start(&bed, config(), &seen, &log).await;
        seen.wait_len(3).await;
        assert_eq!(failures(&running), 1, "round {round}");
        let last = running.status().registrations[0].members[0]
            .last_error
            .clone();
        assert!(last.unwrap().contains("assigned"));
        stop(running).await;
        assert_eq!(log.heard().len(), 2);
        assert_eq!(bed.committed("g", "t", 0), Some(3));
    }
}

#[tokio::test]
async fn trap_c18_lost_is_not_revoked() {
    let bed = Bed::start().await;
    bed.cluster.create_topic("t", 1).unwrap();
    bed.write("t", 0, numbers(0..3)).await;
    let (seen, log) = (Seen::default(), Log::new());
    let running = start(&bed, rarely(short_session()), &seen, &log).await;
    seen.wait_len(3).await;
    let forgotten = Fault::on(ApiKey::Heartbeat).action(Action::Refuse(25));
    bed.cluster.faults().add(forgotten);
    wait_for("the next assignment", || log.heard().len() == 3).await;
    // A lost partition has no position that could be committed.
    assert_eq!(log.heard(), ["assigned t-0", "lost t-0", "assigned t-0"]);
    seen.wait_len(6).await;
    stop(running).await;
    assert_eq!(log.heard()[3], "revoked t-0 at 3, committed Some(0)");
}

#[tokio::test]
async fn a_member_that_fails_for_good_tells_the_loss() {
    let bed = Bed::start().await;
    bed.cluster.create_topic("t", 1).unwrap();
    let (seen, log) = (Seen::default(), Log::new());
    let running = start(&bed, config(), &seen, &log).await;
    wait_for("the assignment", || owned(&running) == [1]).await;
    let fenced = Fault::on(ApiKey::Heartbeat).action(Action::Refuse(82));
    bed.cluster.faults().add(fenced);
    running.failed().await;
    assert_eq!(log.heard(), ["assigned t-0", "lost t-0"]);
}

#[tokio::test]
async fn the_listener_decides_where_a_partition_begins() {
    for (place, first) in [
        (SeekTo::Offset(2), 2),
        (SeekTo::Beginning, 0),
        (SeekTo::End, 4),
        (SeekTo::Timestamp(i64::MAX), 4),
    ] {
        let bed = Bed::start().await;
        bed.cluster.create_topic("t", 1).unwrap();
        bed.write("t", 0, numbers(0..4)).await;
        let seen = Seen::default();
        let log = Log {
            start_at: Some(place),
            ..Log::new()
        };
        let running = start(&bed, config(), &seen, &log).await;
        wait_for("the place", || bed.committed("g", "t", 0).is_some()).await;
        bed.write("t", 0, ["last"]).await;
        wait_for("the last record", || seen.offsets(0).last() == Some(&4)).await;
        assert_eq!(seen.offsets(0), (first..5).collect::<Vec<_>>(), "{place:?}");
        stop(running).await;
    }
}
