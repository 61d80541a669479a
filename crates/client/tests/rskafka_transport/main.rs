//! The rskafka transport against the mock cluster: what it carries, how it mends what breaks, and
//! the traps of the library underneath.

#![allow(clippy::unwrap_used, reason = "tests")]

mod bed;
mod carrying;
mod faults;
mod polls;
mod unreadable;
