//! How long partitions are without somebody who reads them, in a world without faults.

use crate::world::{Mode, Plan, World};
use ottla_group::{Assignor, Input};
use ottla_types::TopicPartition;
use std::collections::BTreeMap;

/// Between two changes of the group.
const SETTLES: i64 = 10_000;

/// The longest gaps in milliseconds.
#[derive(Debug, Default)]
pub(crate) struct Gaps {
    /// Who stopped reading a partition, and when.
    stopped: BTreeMap<TopicPartition, (usize, i64)>,
    /// Of partitions that their process goes on with.
    staying: i64,
    /// Of partitions that move, and how many there were.
    moving: i64,
    moved: usize,
}

impl Gaps {
    /// A process reads nothing more of a partition.
    pub(crate) fn stop(&mut self, at: usize, tp: &TopicPartition, now: i64) {
        self.stopped.insert(tp.clone(), (at, now));
    }

    /// A process knows where to read on.
    pub(crate) fn go_on(&mut self, at: usize, tp: &TopicPartition, now: i64) {
        match self.stopped.remove(tp) {
            Some((before, since)) if before == at => self.staying = self.staying.max(now - since),
            Some((_, since)) => {
                self.moving = self.moving.max(now - since);
                self.moved += 1;
            }
            None => {}
        }
    }
}

/// Members come and go in good order, one after the other.
fn calm(mode: Mode, seed: u64) -> Gaps {
    let mut world = calm_world(mode, seed);
    // What happened while the first ones came together does not count.
    world.gaps = Gaps::default();
    for (end, leaves) in (2..).zip([None, None, Some(0), None, Some(3), Some(1)]) {
        match leaves {
            None => world.start_new(),
            Some(at) => {
                world.processes[at].closing = true;
                world.tell(at, Input::Close);
            }
        }
        world.run_until(end * SETTLES);
    }
    std::mem::take(&mut world.gaps)
}

/// Three members, settled.
fn calm_world(mode: Mode, seed: u64) -> World {
    let mut world = World::new(Plan {
        seed,
        mode,
        members_max: 6,
        members_first: 3,
        partitions: 12,
        unrest: 8 * SETTLES,
        mutant: None,
        keeps_history: false,
    });
    world.calm = true;
    for _ in 0..world.plan.members_first {
        world.start_new();
    }
    world.run_until(SETTLES);
    world
}

#[test]
fn partitions_that_do_not_move_are_read_without_a_gap() {
    let modes = [
        Mode::Cooperative,
        Mode::Kip848,
        Mode::Static(Assignor::CooperativeSticky),
        Mode::Kip848Static,
    ];
    for mode in modes {
        for seed in 0..50 {
            let gaps = calm(mode, seed);
            assert!(gaps.staying <= 100, "{mode:?}, seed {seed}: {gaps:?}");
            assert!(gaps.moved > 10, "{mode:?}, seed {seed}: {gaps:?}");
        }
    }
    // What stops everybody has them.
    let eager = (0..50).map(|seed| calm(Mode::Eager(Assignor::Range), seed).staying);
    assert!(eager.max() > Some(100));
}

/// Members come and go at any moment of the rebalances that this brings about. Static ones do not say
/// that they go, and the others may lose what they have over the wait for them.
#[test]
fn what_is_given_up_in_good_order_is_committed() {
    for mode in Mode::ALL.into_iter().filter(|mode| !mode.is_static()) {
        for seed in 0..100 {
            let mut world = calm_world(mode, seed);
            let mut rng = fastrand::Rng::with_seed(seed);
            for at in 0..3 {
                world.start_new();
                let now = world.now;
                world.run_until(now + rng.i64(1..5_000));
                world.processes[at].closing = true;
                world.tell(at, Input::Close);
                let now = world.now;
                world.run_until(now + rng.i64(1..5_000));
            }
            let now = world.now;
            world.run_until(now + SETTLES);
            for (at, process) in world.processes.iter().enumerate() {
                let left = process
                    .past
                    .iter()
                    .find(|(_, p)| p.tracker.has_uncommitted());
                let left = left.map(|(tp, _)| tp);
                assert_eq!(left, None, "{mode:?}, seed {seed}, process {at}");
            }
        }
    }
}
