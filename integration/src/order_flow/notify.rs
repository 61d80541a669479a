//! The two groups' handler: tell the customer, once for each event.
//!
//! The message that a customer gets is a row in a redb database. The row and the mark that the event
//! was handled commit together, so a crash between them cannot tell the customer twice.

use super::event::OrderEvent;
use super::faults::{Plan, plan};
use crate::history::{Delivery, Entry, Journal};
use ottla::consumer::{ConsumedRecord, Context, Handler, HandlerError, Outcome};
use ottla::reliability::{claim_owner, message_id};
use ottla::store::StoreError;
use ottla::store_redb::RedbDedup;
use ottla::types::names;
use redb::{Database, ReadableDatabase, ReadableTable, ReadableTableMetadata, TableDefinition};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

const EFFECTS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("effects");

/// One message to a customer, as it is stored. The rows' order is the order of the messages.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Effect {
    /// The group (without a run's prefix) that sent it.
    pub group: String,
    /// The event that it tells of.
    pub event: OrderEvent,
    /// How many attempts had failed before.
    pub retry_count: u32,
}

/// Why an effect was not stored.
#[derive(Debug, thiserror::Error)]
pub enum EffectError {
    /// The mark was refused: somebody else has handled the event.
    #[error("deduplication")]
    Dedup(#[from] StoreError),
    /// The database.
    #[error("database")]
    Database(#[source] Box<redb::Error>),
    /// A stored effect that cannot be read.
    #[error("stored effect")]
    Stored(#[from] serde_json::Error),
}

super::from_redb!(EffectError);

/// The messages that were sent. Cloning shares the database; the methods block on the disk.
#[derive(Clone)]
pub struct Effects {
    database: Arc<Database>,
    dedup: RedbDedup,
}

impl Effects {
    /// The effects in `database`, with the marks of `dedup` (in the same database).
    ///
    /// # Errors
    /// When the table cannot be made.
    pub fn open(database: Arc<Database>, dedup: RedbDedup) -> Result<Self, EffectError> {
        let transaction = database.begin_write()?;
        transaction.open_table(EFFECTS)?;
        transaction.commit()?;
        Ok(Self { database, dedup })
    }

    /// The store of the marks.
    pub fn dedup(&self) -> &RedbDedup {
        &self.dedup
    }

    /// How many effects there are.
    ///
    /// # Errors
    /// What the database says.
    pub fn count(&self) -> Result<u64, EffectError> {
        Ok(self.database.begin_read()?.open_table(EFFECTS)?.len()?)
    }

    /// Stores the effect and marks `message_id` as handled by `owner` in one transaction.
    fn apply(
        &self,
        scope: &str,
        message_id: &str,
        owner: &str,
        effect: &Effect,
    ) -> Result<(), EffectError> {
        let transaction = self.database.begin_write()?;
        {
            let mut table = transaction.open_table(EFFECTS)?;
            let next = table.last()?.map_or(0, |(id, _)| id.value() + 1);
            table.insert(next, serde_json::to_vec(effect)?.as_slice())?;
        }
        self.dedup.done_in(&transaction, scope, message_id, owner)?;
        transaction.commit()?;
        Ok(())
    }
}

/// All effects in `database`, in the order in which they happened.
///
/// # Errors
/// What the database says.
pub fn all_effects(database: &Database) -> Result<Vec<Effect>, EffectError> {
    let transaction = database.begin_read()?;
    let table = transaction.open_table(EFFECTS)?;
    table
        .iter()?
        .map(|row| Ok(serde_json::from_slice(row?.1.value())?))
        .collect()
}

/// Handles the order events of one group.
pub struct Notify {
    /// The group's name without a run's prefix: the fault plan goes by it.
    pub group: &'static str,
    /// Where the effects go.
    pub effects: Effects,
    /// Where every delivery is written down before anything else happens.
    pub journal: Arc<Journal>,
}

impl Handler for Notify {
    async fn handle(&self, context: &Context, record: &ConsumedRecord) -> Outcome {
        self.notify(context, record).await.into()
    }
}

impl Notify {
    async fn notify(&self, context: &Context, record: &ConsumedRecord) -> Result<(), HandlerError> {
        let event: OrderEvent = serde_json::from_slice(record.value.as_deref().unwrap_or_default())
            .map_err(|e| HandlerError::permanent("Undecodable", "no order event").with_source(e))?;
        let retry_count = record
            .headers
            .last(names::RETRY_COUNT)
            .and_then(|h| names::parse_retry_count(h.value.as_deref().unwrap_or_default()))
            .unwrap_or(0);
        let failure = match plan(self.group, &event.event_id) {
            Plan::FailAlways => Some(("NumberNotInService", "nobody is there")),
            Plan::FailFirst(attempts) if retry_count < attempts => {
                Some(("GatewayBusy", "the gateway is busy"))
            }
            _ => None,
        };
        self.note_delivery(context, &event, retry_count, failure.is_some())?;
        if let Some((class, message)) = failure {
            return Err(HandlerError::transient(class, message));
        }
        context
            .check_lease()
            .map_err(|e| HandlerError::transient("LeaseLost", e.to_string()))?;
        let effects = self.effects.clone();
        let (scope, owner) = (context.group().to_owned(), claim_owner(context, record));
        let id = message_id(record);
        let effect = Effect {
            group: self.group.to_owned(),
            event,
            retry_count,
        };
        tokio::task::spawn_blocking(move || effects.apply(&scope, &id, &owner, &effect))
            .await
            .map_err(|e| HandlerError::transient("EffectPanicked", e.to_string()))?
            .map_err(|e| HandlerError::transient("EffectStore", e.to_string()).with_source(e))
    }

    fn note_delivery(
        &self,
        context: &Context,
        event: &OrderEvent,
        retry_count: u32,
        fails: bool,
    ) -> Result<(), HandlerError> {
        let at = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let entry = Entry::Delivery(Delivery {
            group: context.group().to_owned(),
            id: event.event_id.clone(),
            key: Some(event.customer.clone()),
            seq: event.seq,
            retried: retry_count > 0 || fails,
            attempt: retry_count,
            at_ns: u64::try_from(at.as_nanos()).unwrap_or(u64::MAX),
        });
        self.journal
            .write(&entry)
            .map_err(|e| HandlerError::outage("Journal", e.to_string()).with_source(e))
    }
}
