//! Lanes with several calls, on virtual time.

use super::call::Caller;
use super::{Chunk, LaneEnd, LaneHandle, LaneLimits, LaneSetup, Progress, WINDOW_PARTS, lane};
use crate::handler::{BoxHandler, Context, HandlerError, Outcome, handler_fn};
use crate::latch::Latch;
use crate::status::MemberBoard;
use crate::work::Work;
use bytes::Bytes;
use ottla_record_batch::{BatchBuilder, Compression, Compressor, RecordSet};
use ottla_types::{ConsumedRecord, Headers, Offset, TopicPartition};
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::time::Instant;

const PART: usize = 1 << 20;

/// What the handler of a test saw.
#[derive(Default)]
struct Log {
    /// The keys that are with the handler now.
    running: HashMap<Bytes, Offset>,
    most: usize,
    /// What was handled of each key, in order.
    handled: HashMap<Bytes, Vec<Offset>>,
    failures: usize,
}

impl Log {
    fn begin(&mut self, record: &ConsumedRecord) {
        let key = record.key.clone().unwrap_or_default();
        let before = self.running.insert(key, record.offset);
        assert_eq!(before, None, "two calls for one key");
        self.most = self.most.max(self.running.len());
    }

    fn end(&mut self, record: &ConsumedRecord) {
        let key = record.key.clone().unwrap_or_default();
        self.running.remove(&key);
        self.handled.entry(key).or_default().push(record.offset);
    }

    fn count(&self) -> usize {
        self.handled.values().map(Vec::len).sum()
    }

    fn assert_order(&self) {
        for (key, offsets) in &self.handled {
            assert!(offsets.is_sorted(), "{key:?}: {offsets:?}");
        }
    }
}

type Shared = Arc<Mutex<Log>>;

/// Starts a lane whose handler does `work` for each record.
fn start<F, Fut>(
    concurrency: usize,
    log: &Shared,
    work: F,
) -> (LaneHandle, Arc<Progress>, impl Future<Output = LaneEnd>)
where
    F: Fn(ConsumedRecord) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Outcome> + Send + 'static,
{
    start_with("", concurrency, log, work)
}

/// The same behind a commit of 0 with this metadata.
fn start_with<F, Fut>(
    metadata: &str,
    concurrency: usize,
    log: &Shared,
    work: F,
) -> (LaneHandle, Arc<Progress>, impl Future<Output = LaneEnd>)
where
    F: Fn(ConsumedRecord) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Outcome> + Send + 'static,
{
    let log = log.clone();
    let handler = handler_fn(move |_, record: ConsumedRecord| {
        let (log, work) = (log.clone(), work(record.clone()));
        async move {
            log.lock().unwrap().begin(&record);
            let outcome = work.await;
            let mut log = log.lock().unwrap();
            match outcome {
                Outcome::Done => log.end(&record),
                _ => {
                    log.failures += 1;
                    log.running.remove(&record.key.clone().unwrap_or_default());
                }
            }
            outcome
        }
    });
    let work = Work::Each {
        handler: BoxHandler::new(handler),
        concurrency,
    };
    let progress = Arc::new(Progress::new(work.in_flight_max(), Arc::default()));
    progress.located_with(0, metadata);
    let (handle, run) = lane(setup(work, &progress));
    (handle, progress, run)
}

fn setup(work: Work, progress: &Arc<Progress>) -> LaneSetup {
    LaneSetup {
        partition: TopicPartition::new("t", 0),
        incarnation: 1,
        position: 0,
        work,
        context: Context::new("g", "m"),
        outputs: crate::output::Outputs::Plain,
        progress: progress.clone(),
        board: Arc::new(MemberBoard::new("m".into())),
        limits: LaneLimits {
            processing: Duration::from_secs(60),
            backoff: Duration::from_millis(10),
            backoff_max: Duration::from_millis(10),
            part_bytes: PART,
        },
    }
}

fn send(lane: &LaneHandle, progress: &Progress, keys: &[Option<String>]) {
    let mut batch = BatchBuilder::new(4 << 20);
    for key in keys {
        let key = key.as_deref().map(str::as_bytes);
        batch
            .try_append(1, key, Some(b"v"), &Headers::new())
            .unwrap();
    }
    let records = batch.finish().into_record_set();
    send_records(lane, progress, keys.len() as i64, records);
}

fn send_records(lane: &LaneHandle, progress: &Progress, next_offset: Offset, records: RecordSet) {
    let chunk = Chunk {
        records,
        next_offset,
        reading: 0,
    };
    progress.add_buffered(chunk.bytes());
    assert!(lane.send(chunk));
}

async fn until(mut condition: impl FnMut() -> bool) {
    while !condition() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn keys_are_handled_side_by_side_within_1_3_of_the_ideal_time() {
    const RECORDS: usize = 10_000;
    const CALLS: usize = 100;
    let mut random = fastrand::Rng::with_seed(7);
    let keys: Vec<_> = (0..RECORDS)
        .map(|_| Some(format!("key-{}", random.u32(0..200))))
        .collect();
    let millis: Arc<Vec<u64>> = Arc::new((0..RECORDS).map(|_| random.u64(0..=5)).collect());
    let log = Shared::default();
    let took = millis.clone();
    let (lane, progress, run) = start(CALLS, &log, move |record| {
        let took = took[record.offset as usize];
        async move {
            tokio::time::sleep(Duration::from_millis(took)).await;
            Outcome::Done
        }
    });
    send(&lane, &progress, &keys);
    let begun = Instant::now();
    let (_, elapsed) = tokio::join!(run, async {
        until(|| progress.handled() == Some(RECORDS as i64)).await;
        lane.drain();
        begun.elapsed()
    });
    let mut of_key: HashMap<_, u64> = HashMap::new();
    for (key, millis) in keys.iter().zip(&*millis) {
        *of_key.entry(key).or_default() += millis;
    }
    let longest = of_key.values().max().copied().unwrap();
    let ideal = longest.max(millis.iter().sum::<u64>() / CALLS as u64);
    let log = log.lock().unwrap();
    log.assert_order();
    assert_eq!(log.count(), RECORDS);
    assert!(log.most > CALLS / 2 && log.most <= CALLS, "{}", log.most);
    let most = Duration::from_millis(ideal * 13 / 10);
    assert!(elapsed <= most, "{elapsed:?} of {most:?}");
    assert_eq!(progress.buffered(), 0);
}

#[tokio::test(start_paused = true)]
async fn an_offset_counts_as_handled_when_all_below_it_is() {
    let (log, gate) = (Shared::default(), Arc::new(Semaphore::new(0)));
    let pass = gate.clone();
    let (lane, progress, run) = start(4, &log, move |record| {
        let pass = pass.clone();
        async move {
            if record.offset == 2 {
                pass.acquire().await.unwrap().forget();
            }
            Outcome::Done
        }
    });
    let keys: Vec<_> = ["a", "b", "slow", "a", "slow", "b"]
        .map(|k| Some(k.to_owned()))
        .into();
    send(&lane, &progress, &keys);
    tokio::join!(run, async {
        until(|| log.lock().unwrap().count() == 4).await;
        assert_eq!(
            progress.handled(),
            Some(2),
            "the slow one and what is behind it"
        );
        gate.add_permits(1);
        until(|| progress.handled() == Some(6)).await;
        lane.drain();
    });
    log.lock().unwrap().assert_order();
    assert_eq!(log.lock().unwrap().count(), 6);
}

#[tokio::test(start_paused = true)]
async fn a_record_that_fails_holds_up_its_key_only() {
    let log = Shared::default();
    let seen = log.clone();
    let (lane, progress, run) = start(4, &log, move |record| {
        let fails = record.offset == 0 && seen.lock().unwrap().failures < 3;
        async move {
            match fails {
                true => Outcome::Failed(HandlerError::transient("Down", "not now")),
                false => Outcome::Done,
            }
        }
    });
    let keys: Vec<_> = ["bad", "good", "bad", "good"]
        .map(|k| Some(k.to_owned()))
        .into();
    send(&lane, &progress, &keys);
    tokio::join!(run, async {
        until(|| log.lock().unwrap().count() == 2).await;
        assert_eq!(log.lock().unwrap().handled[&Bytes::from("good")], [1, 3]);
        until(|| progress.handled() == Some(4)).await;
        lane.drain();
    });
    let log = log.lock().unwrap();
    assert_eq!(
        (log.failures, &log.handled[&Bytes::from("bad")][..]),
        (3, &[0, 2][..])
    );
}

#[tokio::test(start_paused = true)]
async fn a_drained_lane_finishes_its_calls_and_begins_no_other() {
    let (log, gate) = (Shared::default(), Arc::new(Semaphore::new(0)));
    let pass = gate.clone();
    let (lane, progress, run) = start(3, &log, move |_| {
        let pass = pass.clone();
        async move {
            pass.acquire().await.unwrap().forget();
            Outcome::Done
        }
    });
    send(&lane, &progress, &[Some("a".to_owned())]);
    let (end, ()) = tokio::join!(run, async {
        until(|| log.lock().unwrap().running.len() == 1).await;
        let more = ["above", "b", "c"].map(|k| Some(k.to_owned()));
        send(&lane, &progress, &more);
        lane.drain();
        tokio::time::sleep(Duration::from_secs(1)).await;
        gate.add_permits(9);
    });
    assert!(!end.call_dropped);
    assert_eq!(log.lock().unwrap().count(), 1);
    assert_eq!(progress.handled(), Some(1));
}

/// Their bytes are free at once, not with the next call that ends.
#[tokio::test(start_paused = true)]
async fn records_that_were_handled_before_a_restart_fill_no_window() {
    const RECORDS: i64 = 200;
    let value = vec![0; 64 << 10];
    // All but the first record and the last one.
    let before = Progress::new(RECORDS as usize, Arc::default());
    before.located(0, Some(0));
    let all: Vec<_> = (0..RECORDS - 1)
        .map(|at| crate::test_record("t", 0, at))
        .collect();
    let tickets = before.dispatch(&all).unwrap().into_iter().flatten();
    tickets.skip(1).for_each(|ticket| before.done(ticket));
    let metadata = before.start_commit().unwrap().metadata;
    let log = Shared::default();
    let (lane, progress, run) = start_with(&metadata, 4, &log, async |_| Outcome::Done);
    let mut batch = BatchBuilder::new(20 << 20);
    for _ in 0..RECORDS {
        let value = Some(&value[..]);
        batch.try_append(1, None, value, &Headers::new()).unwrap();
    }
    let mut zstd = Compressor::new(Compression::Zstd).unwrap();
    let records = batch.finish_with(&mut zstd);
    assert!(RECORDS as usize * value.len() > 2 * WINDOW_PARTS * PART);
    send_records(&lane, &progress, RECORDS, records.into_record_set());
    let handles = async {
        until(|| progress.handled() == Some(RECORDS)).await;
        lane.drain();
    };
    let limit = Duration::from_secs(60);
    tokio::time::timeout(limit, futures_util::future::join(run, handles))
        .await
        .expect("it goes on");
    let handled = &log.lock().unwrap().handled[&Bytes::new()];
    assert_eq!(handled[..], [0, RECORDS - 1]);
}

/// Each call of a lane has its own future, so its size counts as often as there are calls.
#[test]
fn a_call_in_progress_takes_less_than_a_kilobyte() {
    let handler = BoxHandler::new(handler_fn(async |_, _| Outcome::Done));
    let work = Work::Each {
        handler: handler.clone(),
        concurrency: 4,
    };
    let progress = Arc::new(Progress::new(4, Arc::default()));
    let caller = Caller::new(setup(work, &progress), Latch::default());
    let record = crate::test_record("t", 0, 0);
    let size = size_of_val(&caller.until_handled(&handler, &record));
    assert!(size < 1024, "{size}");
}
