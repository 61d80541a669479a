//! What a database must offer to ottla, and in-memory stores that offer it.
//!
//! The relay of `ottla-outbox` needs an [`OutboxStore`], the deduplication of `ottla-reliability` a
//! [`DedupStore`]. This crate owns the ports and the in-memory versions; one crate a database
//! implements them elsewhere.

mod clock;
mod dedup;
mod error;
mod outbox;

pub use clock::SystemClock;
pub use dedup::{Claim, DedupStore};
pub use error::{StoreError, StoreErrorKind};
pub use outbox::{Lease, OutboxCounts, OutboxId, OutboxRow, OutboxStore};
