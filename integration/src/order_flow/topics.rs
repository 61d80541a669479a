//! The topics and groups of the order flow.

use ottla::client::NewTopic;
use ottla::types::names;
use std::time::Duration;

/// The two groups that tell customers about their orders.
pub const NOTIFY_GROUPS: [&str; 2] = ["order-pay-sms", "order-pay-wx"];
/// The group that closes unpaid orders.
pub const CLOSE_GROUP: &str = "order-close";
/// The group that forwards delayed messages when they are due.
pub const DELAY_GROUP: &str = "order-delay";
/// How long a customer may take to pay.
pub const PAYMENT_WINDOW: Duration = Duration::from_secs(2);

/// The topics' names. A prefix keeps runs on a shared cluster apart.
#[derive(Debug, Clone)]
pub struct Topics {
    prefix: String,
}

impl Topics {
    /// Names that begin with `prefix` (which may be empty).
    pub fn new(prefix: impl Into<String>) -> Self {
        Self {
            prefix: prefix.into(),
        }
    }

    /// Order events.
    pub fn orders(&self) -> String {
        format!("{}orders", self.prefix)
    }

    /// Where delayed messages go when they are due.
    pub fn timeouts(&self) -> String {
        format!("{}order_timeouts", self.prefix)
    }

    /// Where events that failed for good go.
    pub fn dead_letters(&self) -> String {
        names::dead_letter_topic(&self.orders())
    }

    /// A group's name in this run.
    pub fn group(&self, group: &str) -> String {
        format!("{}{group}", self.prefix)
    }

    /// The delay topic in which unpaid orders wait to be closed.
    pub fn payment_delay(&self) -> String {
        format!("{}{}", self.prefix, names::delay_topic("2s"))
    }

    /// What every name begins with.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The topics to create before the flow starts, besides those that retries and delays name.
    pub fn to_create(&self, partitions: i32, replication: i16) -> Vec<NewTopic> {
        [self.orders(), self.timeouts()]
            .into_iter()
            .map(|name| NewTopic::new(name, partitions).replication(replication))
            .collect()
    }
}
