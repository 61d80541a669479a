//! What the shop tells the world about an order.

use serde::{Deserialize, Serialize};

/// What happened to an order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EventKind {
    /// The customer placed it.
    Created,
    /// The customer paid.
    Paid,
    /// Nobody paid in time.
    Closed,
}

impl EventKind {
    /// The kind as it stands in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Paid => "paid",
            Self::Closed => "closed",
        }
    }
}

/// One event of one order; the value of a record in the `orders` topic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrderEvent {
    /// `<order>/<kind>`: an order has each kind of event at most once.
    pub event_id: String,
    /// What happened.
    pub kind: EventKind,
    /// The order.
    pub order_id: String,
    /// The customer: the record's key, so that a customer's events stay in order.
    pub customer: String,
    /// The event's place among the customer's events, from 1 without gaps.
    pub seq: u64,
    /// The order's amount in cents.
    pub amount_cents: u64,
}

impl OrderEvent {
    /// The id of the event of `kind` for `order_id`.
    pub fn id(order_id: &str, kind: EventKind) -> String {
        format!("{order_id}/{}", kind.as_str())
    }
}

/// The value of a delayed record: close the order unless it is paid by now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CloseUnpaid {
    /// The order.
    pub order_id: String,
}

impl CloseUnpaid {
    /// The message id of the record that closes `order_id`.
    pub fn message_id(order_id: &str) -> String {
        format!("{order_id}/close")
    }
}
