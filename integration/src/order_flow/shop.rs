//! The shop: orders and the outbox in one redb database.
//!
//! Every change of an order and the events that tell of it commit together or not at all. Nothing
//! here talks to Kafka: the relay reads the outbox.

use super::event::{CloseUnpaid, EventKind, OrderEvent};
use super::topics::{PAYMENT_WINDOW, Topics};
use ottla::reliability::{DelayError, DelayLevels};
use ottla::store::{StoreError, SystemClock};
use ottla::store_redb::RedbOutbox;
use ottla::types::{Clock, Record, names};
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition, WriteTransaction};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

const ORDERS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("orders");
const SEQUENCES: TableDefinition<'_, &str, u64> = TableDefinition::new("customer_sequences");

/// Where an order stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Placed, not paid yet.
    Created,
    /// Paid.
    Paid,
    /// Closed because nobody paid.
    Closed,
}

impl Status {
    /// The state as it stands in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Paid => "paid",
            Self::Closed => "closed",
        }
    }
}

/// An order as it is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// Chosen by the customer's client, so that a repeated request is the same order.
    pub order_id: String,
    /// Who ordered.
    pub customer: String,
    /// How much, in cents; 0 is refused.
    pub amount_cents: u64,
    /// Where it stands.
    pub status: Status,
    /// Its events so far, oldest first.
    pub events: Vec<OrderEvent>,
}

/// Why the shop refused.
#[derive(Debug, thiserror::Error)]
pub enum ShopError {
    /// A rule of the shop.
    #[error("{0}")]
    Refused(&'static str),
    /// There is no such order.
    #[error("no such order")]
    NotFound,
    /// The order is in a state that does not allow it.
    #[error("the order is {0:?}")]
    Conflict(Status),
    /// The outbox.
    #[error("outbox")]
    Outbox(#[from] StoreError),
    /// The message that closes it later.
    #[error("delay")]
    Delay(#[from] DelayError),
    /// The database.
    #[error("database")]
    Database(#[source] Box<redb::Error>),
    /// A stored order that cannot be read.
    #[error("stored order")]
    Stored(#[from] serde_json::Error),
}

super::from_redb!(ShopError);

/// The shop. Cloning shares the database. The methods block on the disk.
#[derive(Clone)]
pub struct Shop {
    database: Arc<Database>,
    outbox: RedbOutbox,
    topics: Topics,
    levels: DelayLevels,
}

impl Shop {
    /// A shop on `database`, whose outbox is `outbox`.
    ///
    /// # Errors
    /// When the tables cannot be made.
    pub fn open(
        database: Arc<Database>,
        outbox: RedbOutbox,
        topics: Topics,
        levels: DelayLevels,
    ) -> Result<Self, ShopError> {
        let transaction = database.begin_write()?;
        transaction.open_table(ORDERS)?;
        transaction.open_table(SEQUENCES)?;
        transaction.commit()?;
        Ok(Self {
            database,
            outbox,
            topics,
            levels,
        })
    }

    /// Places an order; placing it again changes nothing. True if it is new.
    ///
    /// The amount is looked at last, after everything was written: a refused order shows that
    /// outbox rows of a transaction that rolls back are never sent.
    ///
    /// # Errors
    /// [`ShopError::Refused`] for an amount of 0, or what the database says.
    pub fn place(
        &self,
        order_id: &str,
        customer: &str,
        amount_cents: u64,
    ) -> Result<bool, ShopError> {
        let transaction = self.database.begin_write()?;
        if read(&transaction, order_id)?.is_some() {
            return Ok(false);
        }
        let mut order = Order {
            order_id: order_id.to_owned(),
            customer: customer.to_owned(),
            amount_cents,
            status: Status::Created,
            events: Vec::new(),
        };
        self.append(&transaction, &mut order, EventKind::Created)?;
        self.outbox
            .enqueue(&transaction, self.close_later(&order)?)?;
        if amount_cents == 0 {
            transaction.abort()?;
            return Err(ShopError::Refused("an order needs an amount"));
        }
        self.commit(transaction)?;
        Ok(true)
    }

    /// Marks an order as paid; paying twice changes nothing.
    ///
    /// # Errors
    /// [`ShopError::NotFound`], [`ShopError::Conflict`] when it is closed, or what the database says.
    pub fn pay(&self, order_id: &str) -> Result<bool, ShopError> {
        self.finish(order_id, EventKind::Paid)
    }

    /// Closes an order unless it is paid. True if it was closed by this call.
    ///
    /// # Errors
    /// [`ShopError::NotFound`], or what the database says.
    pub fn close_unpaid(&self, order_id: &str) -> Result<bool, ShopError> {
        match self.finish(order_id, EventKind::Closed) {
            Err(ShopError::Conflict(Status::Paid)) => Ok(false),
            other => other,
        }
    }

    /// How many orders there are, and how many of them are neither paid nor closed.
    ///
    /// # Errors
    /// What the database says.
    pub fn count_orders(&self) -> Result<(u64, u64), ShopError> {
        let orders = all_orders(&self.database)?;
        let open = orders
            .iter()
            .filter(|o| o.status == Status::Created)
            .count();
        Ok((orders.len() as u64, open as u64))
    }

    /// The outbox, for the relay and the ledger.
    pub fn outbox(&self) -> &RedbOutbox {
        &self.outbox
    }

    fn finish(&self, order_id: &str, kind: EventKind) -> Result<bool, ShopError> {
        let wanted = if kind == EventKind::Paid {
            Status::Paid
        } else {
            Status::Closed
        };
        let transaction = self.database.begin_write()?;
        let mut order = read(&transaction, order_id)?.ok_or(ShopError::NotFound)?;
        match order.status {
            Status::Created => {}
            status if status == wanted => return Ok(false),
            status => return Err(ShopError::Conflict(status)),
        }
        order.status = wanted;
        self.append(&transaction, &mut order, kind)?;
        self.commit(transaction)?;
        Ok(true)
    }

    /// Adds an event to the order, stores the order and enqueues the event.
    fn append(
        &self,
        transaction: &WriteTransaction,
        order: &mut Order,
        kind: EventKind,
    ) -> Result<(), ShopError> {
        let seq = {
            let mut sequences = transaction.open_table(SEQUENCES)?;
            let last = sequences
                .get(order.customer.as_str())?
                .map_or(0, |v| v.value());
            sequences.insert(order.customer.as_str(), last + 1)?;
            last + 1
        };
        let event = OrderEvent {
            event_id: OrderEvent::id(&order.order_id, kind),
            kind,
            order_id: order.order_id.clone(),
            customer: order.customer.clone(),
            seq,
            amount_cents: order.amount_cents,
        };
        order.events.push(event.clone());
        transaction.open_table(ORDERS)?.insert(
            order.order_id.as_str(),
            serde_json::to_vec(order)?.as_slice(),
        )?;
        self.outbox
            .enqueue(transaction, event_record(&self.topics, &event)?)?;
        Ok(())
    }

    fn close_later(&self, order: &Order) -> Result<Record, ShopError> {
        let close = CloseUnpaid {
            order_id: order.order_id.clone(),
        };
        let record = Record::new(self.topics.timeouts())
            .key(order.customer.clone())
            .value(serde_json::to_vec(&close)?)
            .header("order_id", order.order_id.clone())
            .header(names::MESSAGE_ID, CloseUnpaid::message_id(&order.order_id));
        let now_ms = SystemClock.now_ms();
        Ok(self.levels.delay(record, PAYMENT_WINDOW, now_ms)?)
    }

    fn commit(&self, transaction: WriteTransaction) -> Result<(), ShopError> {
        transaction.commit()?;
        self.outbox.notify();
        Ok(())
    }
}

/// The record that tells of `event`. Its message id is the event's id, so that a second copy from
/// anywhere is recognised.
///
/// # Errors
/// When the event has no JSON form, which does not happen.
pub fn event_record(topics: &Topics, event: &OrderEvent) -> Result<Record, serde_json::Error> {
    Ok(Record::new(topics.orders())
        .key(event.customer.clone())
        .value(serde_json::to_vec(event)?)
        // A header of the sender's own: every copy of the record must keep it.
        .header("event_kind", event.kind.as_str())
        .header(names::MESSAGE_ID, event.event_id.clone()))
}

/// All orders in `database`, by id.
///
/// # Errors
/// What the database says.
pub fn all_orders(database: &Database) -> Result<Vec<Order>, ShopError> {
    let transaction = database.begin_read()?;
    let table = transaction.open_table(ORDERS)?;
    table
        .iter()?
        .map(|row| Ok(serde_json::from_slice(row?.1.value())?))
        .collect()
}

fn read(transaction: &WriteTransaction, order_id: &str) -> Result<Option<Order>, ShopError> {
    let table = transaction.open_table(ORDERS)?;
    let row = table.get(order_id)?;
    Ok(row
        .map(|bytes| serde_json::from_slice(bytes.value()))
        .transpose()?)
}
