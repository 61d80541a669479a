//! Measures clients side by side on a real Kafka: ours over each transport, and the peers of
//! `integration/peers`.
//!
//! Every contender is a process of its own that does a [`Task`], prints one line and then waits with
//! its client still open until its standard input ends. So this side measures all of them in the
//! same way and from outside: the CPU clock of the process, its peak memory, its sockets. Rounds are
//! interleaved, and what is told is the median. A contender that cannot be built or that fails is
//! told as such, never left out.

mod alarm;
mod broker;
mod chart;
pub mod client;
mod contenders;
mod error;
mod figures;
mod machine;
mod measure;
mod parallel;
pub(crate) mod peers;
mod reader;
mod run;
mod summary;
mod task;
mod workload;

pub use contenders::names;
pub use error::BenchError;
pub use run::{Options, Tally, run};
pub use task::{Mode, Task};
