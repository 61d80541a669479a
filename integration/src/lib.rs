//! What proves that the whole works: the harness that starts and kills real brokers and worker
//! processes, the checker that judges what they left behind, and the scenarios.

pub mod bench;
pub mod harness;
pub mod history;
pub mod member;
pub mod order_flow;
pub mod read_back;
pub mod scenarios;
pub mod transform;

/// Why a scenario, a measurement or a program of theirs failed.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

/// The programs in README.md, which the tests compile.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
pub struct Readme;
