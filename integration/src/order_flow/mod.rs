//! The order flow: the product's main job as one small application.
//!
//! An HTTP endpoint takes orders. The order and its outbox rows are one transaction; the relay
//! publishes them; two groups (`order-pay-sms` and `order-pay-wx`) tell the customer, each once for
//! every event, although handlers fail, records come twice and processes die; an order that nobody
//! pays is closed by a delayed message. What happened is judged from what the stores and topics
//! hold, never from what the code believes it did: see [`ledger`].
//!
//! The parts can run in one process (the demo) or in several (the e2e scenarios):
//!
//! - [`shop`]: orders, their events and the outbox, in one database;
//! - [`http`]: the endpoint in front of it;
//! - [`notify`]: the handler of the two groups, with its own database of effects;
//! - [`service`]: wires them to a cluster as the roles `shop` and `notifier`;
//! - [`load`]: the customers; [`extras`]: trouble that is made on purpose;
//! - [`ledger`]: reads everything back and hands it to the history checker.

/// Lets `?` turn redb's errors into the `Database` variant of the given error.
macro_rules! from_redb {
    ($error:ty) => {
        $crate::order_flow::from_redb!($error:
            redb::DatabaseError redb::TransactionError redb::TableError redb::StorageError
            redb::CommitError);
    };
    ($error:ty: $($cause:ty)*) => {
        $(impl From<$cause> for $error {
            fn from(cause: $cause) -> Self {
                Self::Database(Box::new(cause.into()))
            }
        })*
    };
}
use from_redb;

pub mod demo;
pub mod event;
pub mod extras;
pub mod faults;
pub mod http;
pub mod ledger;
pub mod load;
pub mod notify;
pub mod progress;
mod promises;
pub mod service;
pub mod settle;
pub mod shop;
pub mod topics;
