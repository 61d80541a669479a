//! The shared database: blocking work on blocking threads, and redb's errors as ours.

use ottla_store::{StoreError, StoreErrorKind};
use redb::{Database, Durability, ReadTransaction, ReadableDatabase, WriteTransaction};
use std::path::Path;
use std::sync::Arc;

/// What happens inside of a redb transaction.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Redb(Box<redb::Error>),
}

macro_rules! from_redb {
    ($($error:ty)*) => {
        $(impl From<$error> for Failure {
            fn from(error: $error) -> Self {
                Self::Redb(Box::new(error.into()))
            }
        })*
    };
}

from_redb!(redb::Error redb::DatabaseError redb::TransactionError redb::TableError
    redb::StorageError redb::CommitError redb::SetDurabilityError);

impl Failure {
    /// The failure as the port's error. An error that is one already keeps its own operation.
    pub(crate) fn in_operation(self, operation: &'static str) -> StoreError {
        let error = match self {
            Self::Store(error) => return error,
            Self::Redb(error) => error,
        };
        let kind = match *error {
            redb::Error::Corrupted(_)
            | redb::Error::UpgradeRequired(_)
            | redb::Error::TableTypeMismatch { .. }
            | redb::Error::TypeDefinitionChanged { .. } => StoreErrorKind::Corrupt,
            redb::Error::Io(_)
            | redb::Error::PreviousIo
            | redb::Error::DatabaseClosed
            | redb::Error::DatabaseAlreadyOpen
            | redb::Error::TransactionInProgress => StoreErrorKind::Unavailable,
            _ => StoreErrorKind::Refused,
        };
        StoreError::new(kind, operation).with_source(error)
    }
}

/// A handle to the database that all of our tables and the application's share.
#[derive(Clone)]
pub(crate) struct Shared {
    pub(crate) database: Arc<Database>,
    pub(crate) durability: Durability,
}

impl Shared {
    pub(crate) fn open(path: &Path) -> Result<Self, StoreError> {
        let database = Database::create(path)
            .map_err(|e| Failure::from(e).in_operation("open the database"))?;
        Ok(Self::new(Arc::new(database)))
    }

    pub(crate) fn new(database: Arc<Database>) -> Self {
        Self {
            database,
            durability: Durability::Immediate,
        }
    }

    pub(crate) fn database(&self) -> &Arc<Database> {
        &self.database
    }

    /// Opens a write transaction: waits while another one runs.
    pub(crate) fn begin(&self) -> Result<WriteTransaction, Failure> {
        let mut transaction = self.database.begin_write()?;
        transaction.set_durability(self.durability)?;
        Ok(transaction)
    }

    /// Runs `work` in a write transaction and commits it if `work` succeeds.
    pub(crate) fn write_here<T>(
        &self,
        work: impl FnOnce(&WriteTransaction) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let transaction = self.begin()?;
        let value = work(&transaction)?;
        transaction.commit()?;
        Ok(value)
    }

    /// [`write_here`](Self::write_here) on a blocking thread. Once begun it runs to its end even if
    /// the future is dropped.
    pub(crate) async fn write<T: Send + 'static>(
        &self,
        operation: &'static str,
        work: impl FnOnce(&WriteTransaction) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, StoreError> {
        let shared = self.clone();
        blocking(operation, move || shared.write_here(work)).await
    }

    /// Runs `work` on a snapshot, on a blocking thread.
    pub(crate) async fn read<T: Send + 'static>(
        &self,
        operation: &'static str,
        work: impl FnOnce(&ReadTransaction) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, StoreError> {
        let shared = self.clone();
        blocking(operation, move || work(&shared.database.begin_read()?)).await
    }
}

async fn blocking<T: Send + 'static>(
    operation: &'static str,
    work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, StoreError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result.map_err(|e| e.in_operation(operation)),
        Err(panicked) => {
            Err(StoreError::new(StoreErrorKind::Refused, operation).with_source(panicked))
        }
    }
}
