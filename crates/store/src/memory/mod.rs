//! In-memory stores: for tests, and for deduplication that need not survive a restart. Each has a
//! bound and refuses with [`StoreErrorKind::Full`](crate::StoreErrorKind::Full) above it.

mod dedup;
mod outbox;

pub use dedup::MemoryDedup;
pub use outbox::{MemoryOutbox, MemoryTransaction};

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks; a panic elsewhere leaves the data usable, because no lock is held over a half-made change.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
