//! Groups against a model coordinator, on a virtual clock, with a seeded network that loses, delays,
//! doubles and reorders, and with members that join, leave, crash, stall and resubscribe. Behind each
//! member an application reads, handles in any order, and commits with gaps.
//!
//! After every event: no partition has two owners, only its owner handles it, nothing is handled that
//! a commit calls handled, no commit covers what is not handled, goes back, or is taken from somebody
//! who is not the owner, and nothing is sent after the end of a member. In the end, when all is quiet,
//! every partition has an owner, the loads are level, and everything is handled and committed.
//!
//! A failing run says its seed; `OTTLA_SIM_SEED=n` runs that one alone and prints its history, and
//! `OTTLA_SIM_SEEDS=n` runs as many as that.

#![allow(clippy::unwrap_used, reason = "helpers of a test")]

mod application;
mod broker;
mod classic;
mod consumer;
mod gaps;
mod mutant;
mod process;
mod world;

use mutant::Mutant;
use std::sync::atomic::{AtomicU64, Ordering};
use world::{Mode, Plan, World};

const SEEDS: u64 = 2_000;

fn plan(seed: u64) -> Plan {
    let mut rng = fastrand::Rng::with_seed(seed ^ 0x5eed);
    let many = rng.u32(0..8) == 0;
    let members_max = if many {
        rng.usize(7..=20)
    } else {
        rng.usize(2..=6)
    };
    Plan {
        seed,
        mode: Mode::ALL[(seed % Mode::ALL.len() as u64) as usize],
        members_max,
        members_first: rng.usize(1..=members_max),
        partitions: if many { 8 } else { 3 },
        unrest: if many { 20_000 } else { 35_000 },
        mutant: None,
        keeps_history: false,
    }
}

fn run(plan: Plan) -> World {
    let mut world = World::new(plan);
    if let Err(violation) = world.run() {
        panic!("OTTLA_SIM_SEED={}, {:?}: {violation}", plan.seed, plan.mode);
    }
    world
}

/// Every seed, on as many threads as there are cores.
fn run_all(seeds: u64) -> (u64, u64) {
    let threads = std::thread::available_parallelism()
        .map_or(2, usize::from)
        .min(8) as u64;
    let (commits, assigned) = (AtomicU64::new(0), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for first in 0..threads {
            let (commits, assigned) = (&commits, &assigned);
            scope.spawn(move || {
                for seed in (first..seeds).step_by(threads as usize) {
                    let world = run(plan(seed));
                    commits.fetch_add(world.commits, Ordering::Relaxed);
                    assigned.fetch_add(world.assigned, Ordering::Relaxed);
                }
            });
        }
    });
    (commits.into_inner(), assigned.into_inner())
}

#[test]
fn groups_stay_exclusive_lose_nothing_and_become_complete() {
    if let Ok(seed) = std::env::var("OTTLA_SIM_SEED") {
        let mut world = World::new(Plan {
            keeps_history: true,
            ..plan(seed.parse().unwrap())
        });
        let end = world.run();
        println!("{}", world.history);
        assert_eq!(end, Ok(()));
        return;
    }
    let seeds = std::env::var("OTTLA_SIM_SEEDS").map_or(SEEDS, |n| n.parse().unwrap());
    let (commits, assigned) = run_all(seeds);
    assert!(
        commits > 20 * seeds && assigned > 10 * seeds,
        "{commits} commits, {assigned} assignments"
    );
}

#[test]
fn a_group_of_two_hundred_members_settles() {
    for mode in [Mode::Cooperative, Mode::Kip848] {
        let world = run(Plan {
            mode,
            members_max: 200,
            members_first: 190,
            partitions: 200,
            unrest: 15_000,
            ..plan(1)
        });
        let live = world.processes.iter().filter(|p| p.lasts()).count();
        assert!(live > 150, "{live}");
    }
}

#[test]
fn a_seed_gives_the_same_history_byte_for_byte() {
    for seed in [0, 1, 3, 4, 42] {
        let plan = Plan {
            keeps_history: true,
            ..plan(seed)
        };
        let (one, two) = (run(plan).history, run(plan).history);
        assert!(one.len() > 10_000 && one == two, "seed {seed}");
    }
}

#[test]
fn each_planted_bug_is_found() {
    let missed: Vec<_> = Mutant::ALL
        .into_iter()
        .filter(|mutant| {
            let found = (0..400).find_map(|seed| {
                let plan = Plan {
                    mutant: Some(*mutant),
                    ..plan(seed)
                };
                let violation = World::new(plan).run().err()?;
                Some(format!("seed {seed}, {violation}"))
            });
            println!("{mutant:?}: {found:?}");
            found.is_none()
        })
        .collect();
    assert_eq!(missed, vec![]);
}
