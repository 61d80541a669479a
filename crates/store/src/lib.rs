//! What a database must offer to ottla, and in-memory stores that offer it.
//!
//! The relay of `ottla-outbox` needs an [`OutboxStore`], the deduplication of `ottla-reliability` a
//! [`DedupStore`]. This crate owns the ports, the rules that every store applies in its own
//! transactions ([`LeaseState`], [`DedupEntry`]), the in-memory versions ([`MemoryOutbox`],
//! [`MemoryDedup`]) and, behind the feature `conformance`, one suite that shows that a store keeps
//! its promises. One crate a database implements the ports elsewhere.

mod clock;
#[cfg(feature = "conformance")]
pub mod conformance;
mod dedup;
mod error;
mod lease;
mod memory;
mod message_id;
mod outbox;

pub use clock::SystemClock;
pub use dedup::{Claim, DedupEntry, DedupState, DedupStore};
pub use error::{StoreError, StoreErrorKind};
pub use lease::{Lease, LeaseState};
pub use memory::{MemoryDedup, MemoryOutbox, MemoryTransaction};
pub use message_id::ensure_message_id;
pub use outbox::{OutboxCounts, OutboxId, OutboxRow, OutboxStore, Settled, SettledRow};
