//! Reliability patterns around a [`Handler`](ottla_consumer::Handler): each is a handler around a
//! handler, and the consumer knows none of them.
//!
//! - [`Reliable`]: retries without blocking the partition, over retry topics, then a dead letter
//!   topic; nothing is ever sent back to the main topic.
//! - [`Deduplicated`]: a message is claimed, handled, and marked as done; a duplicate is passed over.
//! - [`RateLimited`]: so many records a second, the rest waits in Kafka.
//! - [`DelayProducer`] and [`DelayForwarder`]: messages that are delivered later.
//!
//! From the outside in, the order is `Reliable(RateLimited(Deduplicated(handler)))`: a retry must see
//! the failure, and the deduplication must see each attempt.
//!
//! What must hold: an offset is given up as done only after the record was handled or its copy
//! acknowledged; what cannot be published waits in its partition.
//!
//! ```no_run
//! # async fn example(client: ottla_client::Client, producer: std::sync::Arc<dyn ottla_types::Publish>)
//! # -> Result<(), Box<dyn std::error::Error>> {
//! use ottla_consumer::{App, ConsumerConfig, HandlerError, Outcome, handler_fn};
//! use ottla_reliability::{Backoff, Reliable, RetryPolicy};
//! use std::time::Duration;
//!
//! let send_sms = handler_fn(|_context, _record| async move {
//!     Outcome::Failed(HandlerError::transient("SmsGateway", "no answer"))
//! });
//! let policy = RetryPolicy::new(4, Backoff::exponential(Duration::from_secs(1)));
//! let reliable = Reliable::builder("order-pay-sms", send_sms, producer)
//!     .topic("orders")
//!     .policy(policy)
//!     .build()?;
//! reliable.ensure_topics(&client).await?; // orders_retry_order-pay-sms_1s, _2s, _4s and orders_dlq
//! let mut app = App::new(&client, ConsumerConfig::default());
//! app.register(reliable.into_registration());
//! app.run().await?;
//! # Ok(())
//! # }
//! ```

mod config_keys;
mod dead_letter;
mod dead_letter_batch;
mod dedup;
mod delay;
mod durations;
mod identity;
mod rate;
mod retry;
mod stamp;

pub use dead_letter_batch::DeadLettered;
pub use dedup::{CLASS_DEDUP_STORE, CLASS_IN_TRANSACTION, DedupConfig, Deduplicated};
pub use delay::{
    CLASS_FORWARD_REFUSED, CLASS_INVALID_DELAY, DelayError, DelayForwarder, DelayLevel,
    DelayLevels, DelayProducer, Delayed,
};
pub use identity::{claim_owner, message_id};
pub use rate::RateLimited;
pub use retry::{
    Backoff, CLASS_PUBLISH_FAILED, CLASS_TAKEN_BACK, ClassPolicy, InPlace, Reliable,
    ReliableBuilder, RetryPolicy,
};
