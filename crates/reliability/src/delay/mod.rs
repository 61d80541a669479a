//! Delayed messages by levels: a topic for each delay, in which the records come due in the order
//! in which they stand.
//!
//! [`DelayProducer`] writes a record to the topic of a level, [`DelayForwarder`] sends it on to its
//! target when it is due, never earlier. A time between two levels is reached in hops: the longest
//! level that fits, and again with what is left.

mod forwarder;
mod levels;
mod plan;
mod producer;

pub use forwarder::{CLASS_FORWARD_REFUSED, CLASS_INVALID_DELAY, DelayForwarder};
pub use levels::{DelayLevel, DelayLevels};
pub use producer::{DelayError, DelayProducer, Delayed};
