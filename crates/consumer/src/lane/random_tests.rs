//! Lanes of every kind, one after the other over the same log, on virtual time: handlers that fail,
//! wait and end in any order, lanes that are drained or dropped, commits now and then.
//!
//! What must hold: nothing is lost; records of a key are handled in order; what a commit says is
//! handled was handled, and is not handed over again; after a lane that was drained, a commit says
//! everything that was handled.

use super::{Chunk, LaneLimits, LaneSetup, Progress, lane};
use crate::handler::{
    BatchOutcome, BoxBatchHandler, BoxHandler, Context, HandlerError, Outcome, batch_fn, handler_fn,
};
use crate::output::Outputs;
use crate::status::MemberBoard;
use crate::work::Work;
use fastrand::Rng;
use ottla_group::Gaps;
use ottla_record_batch::RecordSetBuilder;
use ottla_types::{ConsumedRecord, Headers, Offset, TimestampType, TopicPartition};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::time::sleep;

const SEEDS: u64 = 300;
const LIVES: usize = 12;

/// A log with holes, and what became of its records.
#[derive(Default)]
struct World {
    keys: BTreeMap<Offset, Option<u8>>,
    end: Offset,
    handled: BTreeSet<Offset>,
    /// By the present lane.
    handled_here: BTreeSet<Offset>,
    committed: Offset,
    metadata: String,
    seed: u64,
}

impl World {
    fn new(seed: u64, rng: &mut Rng) -> Self {
        let mut world = Self {
            seed,
            ..Self::default()
        };
        for _ in 0..rng.usize(1..400) {
            world.end += if rng.u8(0..10) == 0 {
                rng.i64(1..500)
            } else {
                1
            };
            let key = (rng.u8(0..4) > 0).then(|| rng.u8(0..20));
            world.keys.insert(world.end, key);
        }
        world.end += 1;
        world
    }

    /// What the last commit says.
    fn is_committed(&self, offset: Offset) -> bool {
        let gaps = Gaps::decode(&self.metadata, self.committed).unwrap_or_default();
        offset < self.committed || gaps.contains(offset)
    }

    fn begins(&self, offset: Offset) {
        let seed = self.seed;
        assert!(!self.is_committed(offset), "{seed}: {offset} is committed");
        assert!(
            !self.handled_here.contains(&offset),
            "{seed}: {offset} twice"
        );
        let key = self.keys[&offset];
        let below = self.keys.range(..offset);
        let of_key = below.filter(|(_, other)| key.is_some() && **other == key);
        for (before, _) in of_key {
            assert!(self.handled.contains(before), "{seed}: {before}, {offset}");
        }
    }

    fn handles(&mut self, offset: Offset) {
        self.handled.insert(offset);
        self.handled_here.insert(offset);
    }

    fn commit(&mut self, progress: &Progress) {
        let Some(commit) = progress.start_commit() else {
            return;
        };
        progress.committed(commit.offset);
        (self.committed, self.metadata) = (commit.offset, commit.metadata);
        for offset in self.keys.keys().filter(|at| self.is_committed(**at)) {
            let seed = self.seed;
            assert!(self.handled.contains(offset), "{seed}: {offset}");
        }
    }
}

#[derive(Clone)]
struct Shared(Arc<Mutex<World>>);

impl Shared {
    fn lock(&self) -> MutexGuard<'_, World> {
        self.0.lock().unwrap()
    }

    /// A handler of some kind.
    fn work(&self, rng: &mut Rng, fails: bool) -> Work {
        let (world, random) = (self.clone(), Arc::new(Mutex::new(rng.fork())));
        let chance = move || {
            let mut random = random.lock().unwrap();
            let wait = random
                .bool()
                .then(|| Duration::from_millis(random.u64(0..20)));
            (wait, if fails { random.u8(0..30) } else { u8::MAX })
        };
        let error = || HandlerError::transient("Random", "by chance");
        if rng.u8(0..3) == 0 {
            let handler = batch_fn(move |_, records: Vec<ConsumedRecord>| {
                let (world, (wait, chance)) = (world.clone(), chance());
                async move {
                    records
                        .iter()
                        .take(1)
                        .for_each(|r| world.lock().begins(r.offset));
                    sleep(wait.unwrap_or_default()).await;
                    let (handled, outcome) = match usize::from(chance) {
                        index @ 0..5 if index < records.len() => {
                            let error = error();
                            (index, BatchOutcome::FailedAt { index, error })
                        }
                        5 => (0, BatchOutcome::Failed(error())),
                        6 => (0, BatchOutcome::NotBefore(0)),
                        _ => (records.len(), BatchOutcome::Done),
                    };
                    for record in &records[..handled] {
                        world.lock().begins(record.offset);
                        world.lock().handles(record.offset);
                    }
                    outcome
                }
            });
            return Work::Batch {
                handler: BoxBatchHandler::new(handler),
                max_records: rng.usize(1..50),
                max_wait: Duration::from_millis(rng.u64(0..10)),
            };
        }
        let handler = handler_fn(move |_, record: ConsumedRecord| {
            let (world, (wait, chance)) = (world.clone(), chance());
            async move {
                world.lock().begins(record.offset);
                if let Some(wait) = wait {
                    sleep(wait).await;
                }
                match chance {
                    0 => Outcome::Failed(error()),
                    1 => Outcome::NotBefore(0),
                    _ => {
                        world.lock().handles(record.offset);
                        Outcome::Done
                    }
                }
            }
        });
        Work::Each {
            handler: BoxHandler::new(handler),
            concurrency: [1, 1, 2, 8, 40][rng.usize(0..5)],
        }
    }

    /// One lane, from where the last commit is. `ends`: it is drained or dropped some time.
    async fn live(&self, rng: &mut Rng, ends: bool) {
        let work = self.work(rng, ends);
        let progress = Arc::new(Progress::new(work.in_flight_max(), Arc::default()));
        let (position, end) = {
            let mut world = self.lock();
            world.handled_here.clear();
            progress.located_with(world.committed, &world.metadata);
            (world.committed, world.end)
        };
        let (handle, run) = lane(LaneSetup {
            partition: TopicPartition::new("t", 0),
            incarnation: 1,
            position,
            work,
            context: Context::new("g", "m"),
            outputs: Outputs::Plain,
            progress: progress.clone(),
            board: Arc::new(MemberBoard::new("m".into())),
            limits: LaneLimits {
                processing: Duration::from_secs(60),
                backoff: Duration::from_millis(3),
                backoff_max: Duration::from_millis(3),
                part_bytes: rng.usize(1..64) << 8,
            },
        });
        // A chunk begins with a batch, which may lie below.
        let mut next = position.saturating_sub(rng.i64(0..9)).max(0);
        for last in (0..8).rev() {
            let upto = match last {
                0 => end,
                _ => (next + rng.i64(1..80)).min(end),
            };
            self.send(&handle, &progress, next, upto);
            next = upto;
        }
        let life = match ends {
            true => Duration::from_millis(rng.u64(0..200)),
            false => Duration::from_secs(3600),
        };
        let is_dropped = ends && rng.bool();
        let commits = async {
            loop {
                sleep(Duration::from_millis(rng.u64(1..30))).await;
                self.lock().commit(&progress);
                if progress.last_committed() == Some(end) {
                    return;
                }
            }
        };
        tokio::pin!(run, commits);
        tokio::select! {
            _ = &mut run => panic!("a lane ends when it is told to"),
            _ = tokio::time::timeout(life, &mut commits) => {}
        }
        if is_dropped {
            return;
        }
        handle.drain();
        run.await;
        let mut world = self.lock();
        world.commit(&progress);
        let left: Vec<_> = world
            .handled_here
            .iter()
            .filter(|at| !world.is_committed(**at))
            .collect();
        assert!(left.is_empty(), "{}: {left:?}", world.seed);
    }

    fn send(&self, lane: &super::LaneHandle, progress: &Progress, from: Offset, upto: Offset) {
        let mut set = RecordSetBuilder::new();
        for (offset, key) in self.lock().keys.range(from..upto) {
            let key = key.as_ref().map(std::slice::from_ref);
            let create = TimestampType::CreateTime;
            set.push(*offset, 1, create, key, Some(b"v"), &Headers::new())
                .unwrap();
        }
        let chunk = Chunk {
            records: set.finish(),
            next_offset: upto,
            reading: 0,
        };
        progress.add_buffered(chunk.bytes());
        assert!(lane.send(chunk));
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_is_lost_or_repeated_or_out_of_order_whatever_happens() {
    for seed in 0..SEEDS {
        let mut rng = Rng::with_seed(seed);
        let shared = Shared(Arc::new(Mutex::new(World::new(seed, &mut rng))));
        for _ in 0..rng.usize(0..LIVES) {
            shared.live(&mut rng, true).await;
        }
        shared.live(&mut rng, false).await;
        let world = shared.lock();
        assert_eq!(world.handled.len(), world.keys.len(), "{seed}");
        assert_eq!(
            (world.committed, &*world.metadata),
            (world.end, ""),
            "{seed}"
        );
    }
}
