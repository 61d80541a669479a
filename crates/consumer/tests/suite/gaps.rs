//! How long partitions stand still while members come and go: the whole runner, on virtual time.
//!
//! The cluster is behind real sockets, which a paused clock does not wait for. So the clock does not
//! run ahead by itself: it moves on by a millisecond when all tasks and sockets had turns enough for
//! several requests and their answers. The load of the machine makes no difference.

use crate::bed::{Bed, config};
use ottla_client::Client;
use ottla_client::transport::{ProduceOptions, produce_all};
use ottla_consumer::{
    App, Assignor, ConsumedRecord, ConsumerConfig, Context, GroupProtocol, Outcome, RunningApp,
    handler_fn,
};
use ottla_mock_cluster::MockCluster;
use ottla_record_batch::BatchBuilder;
use ottla_types::{Headers, TopicPartition};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, advance, interval, sleep};

const PARTITIONS: i32 = 12;
/// A record for each partition comes so often.
const PACE: Duration = Duration::from_millis(10);
/// Between two changes of the group.
const SETTLES: Duration = Duration::from_millis(1500);
const HEARTBEAT: Duration = Duration::from_millis(300);
/// Turns of all tasks and sockets in a millisecond.
const TURNS: usize = 10;

/// What handlers saw of each partition: the member, the offset, and when.
type Handled = Arc<Mutex<BTreeMap<i32, Vec<(String, i64, Instant)>>>>;

async fn clock() -> Infallible {
    loop {
        for _ in 0..TURNS {
            tokio::task::yield_now().await;
        }
        advance(Duration::from_millis(1)).await;
    }
}

async fn write(client: Client) -> Infallible {
    let mut pace = interval(PACE);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let options = ProduceOptions {
        timeout: SETTLES,
        ..ProduceOptions::default()
    };
    loop {
        pace.tick().await;
        let batches = (0..PARTITIONS).map(|partition| {
            let mut batch = BatchBuilder::new(1 << 10);
            batch.try_append(1, None, None, &Headers::new()).unwrap();
            (TopicPartition::new("t", partition), batch.finish())
        });
        let results = produce_all(&**client.transport(), &options, batches.collect()).await;
        results.into_iter().for_each(|(_, result)| {
            result.unwrap();
        });
    }
}

/// Members come and go in good order, one after the other. The longest gap of partitions that their
/// member goes on with, and how often a partition moved.
async fn longest_gap(set: impl Fn(&mut ConsumerConfig)) -> (Duration, usize) {
    let mut tasks = JoinSet::new();
    tasks.spawn(clock());
    let builder = MockCluster::builder().consumer_session(config().session_timeout, HEARTBEAT);
    let bed = Bed::start_with(builder).await;
    bed.cluster.create_topic("t", PARTITIONS).unwrap();
    tasks.spawn(write(bed.connect().await));
    let handled = Handled::default();
    let mut random = fastrand::Rng::with_seed(5);
    let mut start = async || -> RunningApp {
        let log = handled.clone();
        let handler = handler_fn(move |context: Context, record: ConsumedRecord| {
            let seen = (context.member().to_owned(), record.offset, Instant::now());
            let mut log = log.lock().unwrap();
            log.entry(record.partition).or_default().push(seen);
            async { Outcome::Done }
        });
        let mut config = ConsumerConfig {
            group_protocol: GroupProtocol::Classic,
            // They do not hear of a rebalance at the same time.
            heartbeat_interval: HEARTBEAT.mul_f32(random.f32() + 0.5),
            ..config()
        };
        set(&mut config);
        let mut app = App::new(&bed.connect().await, config);
        app.topic("t").listen("g", handler);
        let running = app.start().await.unwrap();
        sleep(SETTLES).await;
        running
    };
    let first = start().await;
    let second = start().await;
    let third = start().await;
    assert!(second.shutdown(SETTLES).await.clean);
    sleep(SETTLES).await;
    let fourth = start().await;
    assert!(first.shutdown(SETTLES).await.clean);
    sleep(SETTLES).await;
    for last in [third, fourth] {
        assert!(last.shutdown(SETTLES).await.clean);
    }
    let (mut longest, mut moved) = (Duration::ZERO, 0);
    for (partition, seen) in &*handled.lock().unwrap() {
        assert!(seen.len() > 500, "{partition}: {}", seen.len());
        for pair in seen.windows(2) {
            let ((before, at, since), (member, next, now)) = (&pair[0], &pair[1]);
            assert_eq!(at + 1, *next, "each once");
            match before == member {
                true => longest = longest.max(now.duration_since(*since)),
                false => moved += 1,
            }
        }
    }
    (longest, moved)
}

const BOUND: Duration = Duration::from_millis(100);

#[tokio::test(start_paused = true)]
async fn partitions_that_do_not_move_are_delivered_without_a_gap_cooperative() {
    let (gap, moved) = longest_gap(|config| {
        config.assignors = vec![Assignor::CooperativeSticky];
    })
    .await;
    assert!(gap <= BOUND && moved >= 12, "{gap:?}, {moved}");
}

#[tokio::test(start_paused = true)]
async fn partitions_that_do_not_move_are_delivered_without_a_gap_kip848() {
    let (gap, moved) = longest_gap(|config| config.group_protocol = GroupProtocol::Consumer).await;
    assert!(gap <= BOUND && moved >= 12, "{gap:?}, {moved}");
}

/// Everybody stops, which is what the others are there for.
#[tokio::test(start_paused = true)]
async fn an_eager_rebalance_has_gaps() {
    let (gap, moved) = longest_gap(|config| config.assignors = vec![Assignor::Range]).await;
    assert!(gap > BOUND && moved >= 12, "{gap:?}, {moved}");
}
