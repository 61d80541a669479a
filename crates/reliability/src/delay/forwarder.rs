//! The service that forwards records when they are due.

use super::levels::DelayLevels;
use super::plan::{HOPS, Plan, plan};
use crate::dead_letter::{count_dead_letter, publish_dead_letter};
use crate::durations::millis;
use crate::identity::message_id;
use crate::stamp::{Failed, copy_for};
use ottla_client::{Client, NewTopic};
use ottla_consumer::{Context, Handler, HandlerError, Outcome, Registration};
use ottla_store::SystemClock;
use ottla_types::{
    Clock, ConfigError, ConsumedRecord, Publish, PublishError, PublishErrorKind, Record, names,
};
use std::sync::Arc;
use std::time::Duration;

/// The class of a dead letter whose delay headers make no sense.
pub const CLASS_INVALID_DELAY: &str = "invalid_delay";
/// The class of a dead letter that its target topic cannot take.
pub const CLASS_FORWARD_REFUSED: &str = "forward_refused";
/// The class of the failure while the cluster cannot take a record: the partition waits.
const CLASS_FORWARD_FAILED: &str = "forward_failed";

/// A handler for the delay topics: sends each record to its `target_topic` when it is due, with key,
/// value and headers as they were (without `target_topic` and `not_before`).
///
/// A record is done when its copy is acknowledged; a crash in between forwards it twice, with the
/// same `message_id`. A record without a sensible target or due time, or whose target cannot take
/// it, goes to `delay_<level>_dlq`.
pub struct DelayForwarder {
    levels: DelayLevels,
    publish: Arc<dyn Publish>,
    clock: Arc<dyn Clock>,
    max_ahead: Duration,
}

impl DelayForwarder {
    /// Forwards through `publish`, which should be set to `acks=all`.
    pub fn new(levels: DelayLevels, publish: Arc<dyn Publish>) -> Self {
        Self {
            levels,
            publish,
            clock: Arc::new(SystemClock),
            max_ahead: Duration::from_secs(30 * 24 * 3600),
        }
    }

    /// Takes the time from `clock`.
    #[must_use]
    pub fn with_clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// A due time further away than this is refused (default 30 days).
    #[must_use]
    pub fn max_ahead(mut self, max_ahead: Duration) -> Self {
        self.max_ahead = max_ahead;
        self
    }

    /// The topics to subscribe to, and to create.
    pub fn topics(&self) -> impl Iterator<Item = &str> {
        self.levels.topics()
    }

    /// Creates the delay topics and their dead letter topics, if they do not exist.
    ///
    /// # Errors
    /// The client's.
    pub async fn ensure_topics(
        &self,
        client: &Client,
        partitions: i32,
        copies: i16,
    ) -> Result<(), ottla_client::Error> {
        let new = |topic: String| NewTopic::new(topic, partitions).replication(copies);
        let wanted = self
            .topics()
            .flat_map(|topic| [topic.to_owned(), names::dead_letter_topic(topic)]);
        client.ensure_topics(wanted.map(new).collect()).await
    }

    /// The registration for an [`App`](ottla_consumer::App). All forwarders of a cluster share one
    /// group.
    ///
    /// # Errors
    /// For a group id that is not allowed.
    pub fn into_registration(self, group: &str) -> Result<Registration, ConfigError> {
        ottla_types::validate_group_id(group)?;
        let topics: Vec<String> = self.topics().map(str::to_owned).collect();
        Ok(Registration::new(group, topics, self))
    }

    fn copy(record: &ConsumedRecord, topic: &str) -> Record {
        let mut copy = record.to_record(topic);
        copy.headers.set(names::MESSAGE_ID, message_id(record));
        copy
    }

    async fn forward(
        &self,
        context: &Context,
        record: &ConsumedRecord,
        target: &str,
        due_ms: i64,
    ) -> Outcome {
        let mut copy = Self::copy(record, target);
        for header in [names::TARGET_TOPIC, names::NOT_BEFORE, HOPS] {
            copy.headers.remove(header);
        }
        if let Err(error) = context.publisher(&self.publish).publish(copy).await {
            return self.not_forwarded(context, record, error).await;
        }
        let late_ms = self.clock.now_ms().saturating_sub(due_ms).max(0);
        metrics::counter!("ottla_delay_forwarded_total").increment(1);
        metrics::histogram!("ottla_delay_lateness_seconds").record(late_ms as f64 / 1000.0);
        Outcome::Done
    }

    async fn not_forwarded(
        &self,
        context: &Context,
        record: &ConsumedRecord,
        error: PublishError,
    ) -> Outcome {
        let text = error.to_string();
        match error.kind() {
            PublishErrorKind::RecordTooLarge
            | PublishErrorKind::InvalidRecord
            | PublishErrorKind::UnknownTopic
            | PublishErrorKind::Refused => {
                let error = HandlerError::permanent(CLASS_FORWARD_REFUSED, text);
                self.dead_letter(context, record, &error).await
            }
            _ => {
                Outcome::Failed(HandlerError::outage(CLASS_FORWARD_FAILED, text).with_source(error))
            }
        }
    }

    async fn dead_letter(
        &self,
        context: &Context,
        record: &ConsumedRecord,
        error: &HandlerError,
    ) -> Outcome {
        let failed = Failed {
            group: context.group(),
            error,
            attempts: 1,
            now_ms: self.clock.now_ms(),
            is_first: true,
        };
        let topic = names::dead_letter_topic(&record.topic);
        let due = record.headers.last(names::NOT_BEFORE).cloned();
        let mut copy = copy_for(&topic, record, &failed);
        if let Some(due) = due {
            // A dead letter is taken back with all that it came with.
            copy.headers.push_raw(due);
        }
        let publish = context.publisher(&self.publish);
        match publish_dead_letter(&*publish, copy, record).await {
            Ok(()) => {
                count_dead_letter(context.group(), &record.topic);
                tracing::warn!(topic, %error, "delayed record dead-lettered");
                Outcome::Done
            }
            Err(e) => {
                tracing::error!(topic, error = %e, "dead letter not published: the partition waits");
                let text = e.to_string();
                Outcome::Failed(HandlerError::outage(CLASS_FORWARD_FAILED, text).with_source(e))
            }
        }
    }
}

impl Handler for DelayForwarder {
    async fn handle(&self, context: &Context, record: &ConsumedRecord) -> Outcome {
        let Some(level) = self.levels.of_topic(&record.topic) else {
            let text = format!("topic {} is no delay topic", record.topic);
            return Outcome::Failed(HandlerError::permanent("unknown_topic", text));
        };
        let now_ms = self.clock.now_ms();
        match plan(record, level, &self.levels, now_ms, self.max_ahead) {
            Plan::Wait(until_ms) => Outcome::NotBefore(until_ms),
            Plan::Forward { target, due_ms } => self.forward(context, record, target, due_ms).await,
            Plan::Hop { level, hops } => {
                let mut copy = Self::copy(record, level.topic());
                copy.headers.set(HOPS, hops.to_string());
                copy.timestamp_ms = Some(now_ms);
                match context.publisher(&self.publish).publish(copy).await {
                    Ok(_) => Outcome::Done,
                    Err(error) => self.not_forwarded(context, record, error).await,
                }
            }
            Plan::Refuse(why) => {
                let error = HandlerError::permanent(CLASS_INVALID_DELAY, why);
                self.dead_letter(context, record, &error).await
            }
        }
    }
}

impl std::fmt::Debug for DelayForwarder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DelayForwarder")
            .field("levels", &self.levels)
            .field("max_ahead_ms", &millis(self.max_ahead))
            .finish_non_exhaustive()
    }
}
