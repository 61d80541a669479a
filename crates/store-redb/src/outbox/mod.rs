//! The outbox: a row is pending, sent or parked, by the table that holds it.

mod port;

use crate::database::{Failure, Shared};
use crate::row;
use ottla_store::{OutboxId, StoreError, StoreErrorKind, SystemClock, ensure_message_id};
use ottla_types::{Clock, Record};
use redb::{
    Database, Durability, ReadableTable, ReadableTableMetadata, TableDefinition, WriteTransaction,
};
use std::path::Path;
use std::sync::Arc;
use tokio::sync::Notify;

/// Id to row.
const PENDING: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("ottla_outbox_pending");
/// Id to time of the mark, error (empty for sent rows) and row.
type SettledTable = TableDefinition<'static, u64, (i64, &'static str, &'static [u8])>;
const SENT: SettledTable = TableDefinition::new("ottla_outbox_sent");
const PARKED: SettledTable = TableDefinition::new("ottla_outbox_parked");
/// Shard to token, end and owner.
const LEASES: TableDefinition<'_, &str, (u64, i64, Option<&str>)> =
    TableDefinition::new("ottla_outbox_leases");
const COUNTERS: TableDefinition<'_, &str, u64> = TableDefinition::new("ottla_outbox_counters");
const LAST_ID: &str = "last_id";

/// An [`OutboxStore`](ottla_store::OutboxStore) in a redb database. Clones share everything; so that commits wake the relay,
/// the application and the relay use clones of one `RedbOutbox`.
///
/// Rows are pending until the relay marks them. Sent rows are kept until the relay purges them, and
/// at most [`sent_kept`](Self::sent_kept) of them.
#[derive(Clone)]
pub struct RedbOutbox {
    shared: Shared,
    changed: Arc<Notify>,
    clock: Arc<dyn Clock>,
    max_pending: u64,
    sent_kept: u64,
}

impl RedbOutbox {
    /// Opens or creates the database at `path`.
    ///
    /// # Errors
    /// [`StoreErrorKind::Unavailable`] when it cannot be opened or another process has it open,
    /// [`StoreErrorKind::Corrupt`] when it cannot be read.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, StoreError> {
        Self::create(Shared::open(path.as_ref())?)
    }

    /// Uses a database that the application has opened, and makes its tables there if need be.
    /// Waits for a write transaction.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn new(database: Arc<Database>) -> Result<Self, StoreError> {
        Self::create(Shared::new(database))
    }

    fn create(shared: Shared) -> Result<Self, StoreError> {
        shared
            .write_here(|transaction| {
                transaction.open_table(PENDING)?;
                transaction.open_table(SENT)?;
                transaction.open_table(PARKED)?;
                transaction.open_table(LEASES)?;
                transaction.open_table(COUNTERS)?;
                Ok(())
            })
            .map_err(|e| e.in_operation("create the outbox tables"))?;
        Ok(Self {
            shared,
            changed: Arc::new(Notify::new()),
            clock: Arc::new(SystemClock),
            max_pending: 10_000_000,
            sent_kept: 100_000,
        })
    }

    /// Takes the time of enqueueing from `clock`.
    #[must_use]
    pub fn with_clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Whether commits wait for the disk (default: [`Durability::Immediate`]). With
    /// [`Durability::None`] a crash may lose committed rows with the business data beside them, and
    /// may send again what was marked.
    #[must_use]
    pub fn durability(mut self, durability: Durability) -> Self {
        self.shared.durability = durability;
        self
    }

    /// How many rows may be pending before [`enqueue`](Self::enqueue) refuses (default 10,000,000).
    #[must_use]
    pub fn max_pending(mut self, rows: u64) -> Self {
        self.max_pending = rows;
        self
    }

    /// How many sent rows are kept at most (default 100,000); the lowest ids go first.
    #[must_use]
    pub fn sent_kept(mut self, rows: u64) -> Self {
        self.sent_kept = rows;
        self
    }

    /// The database, for the application's own tables and for [`RedbDedup`](crate::RedbDedup).
    pub fn database(&self) -> &Arc<Database> {
        self.shared.database()
    }

    /// Opens a write transaction with the chosen durability. Blocks while another one is open.
    ///
    /// # Errors
    /// The database's, as a [`StoreError`].
    pub fn begin(&self) -> Result<WriteTransaction, StoreError> {
        self.shared
            .begin()
            .map_err(|e| e.in_operation("begin a transaction"))
    }

    /// Adds a row in the caller's own transaction: it is published if and only if that commits.
    /// A record without a `message_id` header gets one.
    ///
    /// Tell the relay after the commit, with [`commit`](Self::commit) or [`notify`](Self::notify);
    /// without it the row waits for the relay's next poll.
    ///
    /// # Errors
    /// [`StoreErrorKind::Full`] at [`max_pending`](Self::max_pending) rows; the database's.
    pub fn enqueue(
        &self,
        transaction: &WriteTransaction,
        mut record: Record,
    ) -> Result<OutboxId, StoreError> {
        ensure_message_id(&mut record.headers);
        let bytes = row::encode(&record, self.clock.now_ms())?;
        self.insert(transaction, &bytes)
            .map_err(|e| e.in_operation("enqueue an outbox row"))
    }

    fn insert(&self, transaction: &WriteTransaction, bytes: &[u8]) -> Result<OutboxId, Failure> {
        let mut pending = transaction.open_table(PENDING)?;
        if pending.len()? >= self.max_pending {
            return Err(StoreError::new(StoreErrorKind::Full, "enqueue an outbox row").into());
        }
        let mut counters = transaction.open_table(COUNTERS)?;
        let id = counters.get(LAST_ID)?.map_or(0, |last| last.value()) + 1;
        counters.insert(LAST_ID, id)?;
        pending.insert(id, bytes)?;
        Ok(OutboxId(id))
    }

    /// Commits the transaction and wakes the relay. Blocks for the disk.
    ///
    /// # Errors
    /// The database's; the transaction is then rolled back.
    pub fn commit(&self, transaction: WriteTransaction) -> Result<(), StoreError> {
        transaction
            .commit()
            .map_err(|e| Failure::from(e).in_operation("commit"))?;
        self.notify();
        Ok(())
    }

    /// Tells the relay that rows were committed.
    pub fn notify(&self) {
        self.changed.notify_one();
    }

    /// Runs `work` in a transaction on a blocking thread, commits it if `work` succeeds, and wakes
    /// the relay: begin, [`enqueue`](Self::enqueue) and commit for async code.
    ///
    /// # Errors
    /// Those of `work`, with the transaction rolled back, and the database's.
    ///
    /// Cancellation: once begun it runs to its end even if the future is dropped.
    pub async fn transaction<T, E>(
        &self,
        work: impl FnOnce(&WriteTransaction) -> Result<T, E> + Send + 'static,
    ) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
    {
        let outbox = self.clone();
        let run = tokio::task::spawn_blocking(move || {
            let transaction = outbox.begin()?;
            let value = work(&transaction)?;
            outbox.commit(transaction)?;
            Ok(value)
        });
        run.await.unwrap_or_else(|panicked| {
            let error = StoreError::new(StoreErrorKind::Refused, "run a transaction");
            Err(error.with_source(panicked).into())
        })
    }
}

impl std::fmt::Debug for RedbOutbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RedbOutbox").finish_non_exhaustive()
    }
}
