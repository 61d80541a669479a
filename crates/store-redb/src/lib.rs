//! ottla's stores in [redb](https://docs.rs/redb), an embedded database without C.
//!
//! - [`RedbOutbox`]: the application writes its own tables and an outbox row in one redb
//!   transaction; the relay of `ottla-outbox` publishes the row.
//! - [`RedbDedup`]: claims and done marks; [`RedbDedup::done_in`] puts the mark into the transaction
//!   of the effect (an inbox).
//!
//! All share one database with the application. redb has one writer at a time, so the order of
//! the outbox ids is the order of the commits. Reads and writes run on tokio's blocking threads;
//! only the methods that take a transaction of the caller run where they are called.
//!
//! ```
//! use ottla_store_redb::RedbOutbox;
//! use ottla_types::Record;
//! use redb::TableDefinition;
//!
//! const ORDERS: TableDefinition<u64, &str> = TableDefinition::new("orders");
//!
//! # let folder = tempfile::tempdir()?;
//! let outbox = RedbOutbox::open(folder.path().join("app.redb"))?;
//! let transaction = outbox.begin()?;
//! transaction.open_table(ORDERS)?.insert(1, "paid")?;
//! outbox.enqueue(&transaction, Record::new("orders").key("1").value("paid"))?;
//! outbox.commit(transaction)?; // both or neither, and the relay wakes
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod database;
mod dedup;
mod outbox;
mod row;

pub use dedup::RedbDedup;
pub use outbox::RedbOutbox;
pub use redb;
