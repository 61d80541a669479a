//! Retries over retry topics, and dead letters.
//!
//! A failed record is copied to the group's own retry topic for the next delay, and its source is
//! done once the copy is acknowledged: the partition goes on. The same handler reads the retry
//! topics, each copy when it is due. After the last attempt the copy goes to the dead letter topic.
//! Nothing is copied to the main topic, where other groups would see it again.

mod backoff;
mod builder;
mod policy;
mod routes;
mod taken_back;

pub use backoff::Backoff;
pub use builder::ReliableBuilder;
pub use policy::{ClassPolicy, InPlace, RetryPolicy};

use crate::dead_letter::{count_dead_letter, count_record, ensure_derived, publish_dead_letter};
use crate::durations::millis;
use crate::stamp::{Failed, copy_for};
use ottla_client::Client;
use ottla_consumer::{Context, Failure, Guard, Handler, HandlerError, Outcome, Registration};
use ottla_types::{Clock, ConsumedRecord, Publish, PublishError, PublishErrorKind, names};
use routes::{Route, Routes, retry_topic};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use taken_back::TakenBack;
use tokio::time::Instant;

/// The class of the error when neither the retry nor the dead letter topic takes a record: the
/// partition waits, and nothing is lost.
pub const CLASS_PUBLISH_FAILED: &str = "retry_publish_failed";

/// The class of the error when an attempt failed after it had published into its transaction.
pub const CLASS_TAKEN_BACK: &str = "retry_taken_back";

/// The handler's limit when the runner sets none.
const LIMIT_WITHOUT_DEADLINE: Duration = Duration::from_secs(3600);

/// A handler whose failures are retried over retry topics and end in a dead letter topic.
///
/// - `Transient` failures are retried by the [`RetryPolicy`]; so are panics of the handler and calls
///   that take more than three quarters of the time that the runner gives.
/// - `Permanent` failures are dead-lettered at once.
/// - An `Outage` makes the partition wait; it counts as no attempt.
///
/// In a registration that handles exactly once
/// ([`ProcessingGuarantee`](ottla_consumer::ProcessingGuarantee)) copies are part of the transaction
/// that has the record's offset. There an attempt that fails after it has published takes its
/// transaction back; the copy follows in the next one, without another attempt.
///
/// Elsewhere, while a copy cannot be published, the source is not done and the partition waits. A copy may be
/// published twice (a lost answer, a crash before the commit); its `message_id` says so to a
/// [`Deduplicated`](crate::Deduplicated) handler inside.
pub struct Reliable<H> {
    inner: Arc<H>,
    group: Arc<str>,
    policy: RetryPolicy,
    routes: Routes,
    publish: Arc<dyn Publish>,
    clock: Arc<dyn Clock>,
    random: Mutex<fastrand::Rng>,
    taken_back: TakenBack,
}

impl<H: Handler> Reliable<H> {
    /// Wraps `handler` for `group`; copies are published through `publish`, which should be set to
    /// `acks=all`.
    pub fn builder(
        group: impl Into<String>,
        handler: H,
        publish: Arc<dyn Publish>,
    ) -> ReliableBuilder<H> {
        ReliableBuilder::new(group.into(), handler, publish)
    }

    /// The registration for an [`App`](ottla_consumer::App): the group with its main and retry
    /// topics, and this handler.
    pub fn into_registration(self) -> Registration {
        let topics = self.routes.subscriptions().to_vec();
        Registration::new(self.group.to_string(), topics, self)
    }
}

impl<H> Reliable<H> {
    /// The group.
    pub fn group(&self) -> &str {
        &self.group
    }

    /// The topics to subscribe to: the main topics and their retry topics.
    pub fn subscriptions(&self) -> &[String] {
        self.routes.subscriptions()
    }

    /// The topics that must exist beside the main ones: retry topics and dead letter topics.
    pub fn derived_topics(&self) -> Vec<String> {
        let derived = self.routes.derived().into_iter();
        derived.flat_map(|(_, topics)| topics).collect()
    }

    /// Creates the retry and dead letter topics that do not exist, each with as many partitions and
    /// copies as its main topic, which must exist.
    ///
    /// # Errors
    /// The client's: a main topic that does not exist, or a topic that cannot be created.
    pub async fn ensure_topics(&self, client: &Client) -> Result<(), ottla_client::Error> {
        ensure_derived(client, self.routes.derived()).await
    }

    /// When the copy on a retry topic may be tried; `None` if it may be now. A due time that is
    /// further away than the topic's delay is no one's of ours and holds nothing up.
    fn not_due(&self, record: &ConsumedRecord, tier: Duration) -> Option<i64> {
        let due_ms = record.headers.last_i64(names::NOT_BEFORE)?;
        let longest = millis(self.policy.with_most_jitter(tier));
        let due_ms = due_ms.min(record.timestamp_ms.saturating_add(longest));
        let now_ms = self.clock.now_ms();
        (due_ms > now_ms && due_ms <= now_ms.saturating_add(longest)).then_some(due_ms)
    }

    /// Attempts of this group that failed before. Only the group's own retry topics can tell: what
    /// stands on a main topic had none, whatever its headers say.
    fn failures_before(&self, record: &ConsumedRecord, route: &Route) -> u32 {
        let of_another = record
            .headers
            .last_str(names::CONSUMER_GROUP)
            .is_some_and(|group| *group != *self.group);
        if route.tier.is_none() || of_another {
            return 0;
        }
        record
            .headers
            .last(names::RETRY_COUNT)
            .and_then(|header| names::parse_retry_count(header.value.as_deref()?))
            .unwrap_or(0)
    }

    fn with_jitter(&self, delay: Duration) -> Duration {
        let mut random = self.random.lock().unwrap_or_else(PoisonError::into_inner);
        let part = random.f64() * self.policy.jitter;
        delay.saturating_add(delay.mul_f64(part))
    }

    async fn failed(
        &self,
        context: &Context,
        record: &ConsumedRecord,
        route: &Route,
        error: &HandlerError,
    ) -> Outcome {
        if let Err(lost) = context.check_lease() {
            // The next owner handles it; a copy by this one would be a second record.
            let text = error.message().to_owned();
            let class = error.class().to_owned();
            return Outcome::Failed(HandlerError::transient(class, text).with_source(lost));
        }
        let now_ms = self.clock.now_ms();
        if error.failure() == Failure::Outage {
            self.count("ottla_retry_outages_total", route);
            tracing::warn!(group = &*self.group, topic = &*record.topic, %error, "outage: the partition waits");
            return Outcome::NotBefore(now_ms.saturating_add(millis(self.policy.outage_wait)));
        }
        let attempts = self.failures_before(record, route).saturating_add(1);
        let failed = Failed {
            group: &self.group,
            error,
            attempts,
            now_ms,
            is_first: route.tier.is_none(),
        };
        let delay = match error.failure() {
            Failure::Permanent => None,
            _ => self.policy.next_delay(error.class(), attempts),
        };
        if let Some(delay) = delay {
            match self.retry(context, record, route, &failed, delay).await {
                Ok(()) => return Outcome::Done,
                // With our headers it no longer fits: more attempts are not possible.
                Err(e) if e.kind() == PublishErrorKind::RecordTooLarge => {}
                Err(e) => return self.not_published(record, e),
            }
        }
        match self.dead_letter(context, record, route, &failed).await {
            Ok(()) => Outcome::Done,
            Err(e) => self.not_published(record, e),
        }
    }

    async fn retry(
        &self,
        context: &Context,
        record: &ConsumedRecord,
        route: &Route,
        failed: &Failed<'_>,
        delay: Duration,
    ) -> Result<(), PublishError> {
        let topic = retry_topic(&route.main, &self.group, delay);
        let mut copy = copy_for(&topic, record, failed);
        let due_ms = failed
            .now_ms
            .saturating_add(millis(self.with_jitter(delay)));
        copy.headers.set(names::NOT_BEFORE, due_ms.to_string());
        context.publisher(&self.publish).publish(copy).await?;
        self.count("ottla_retry_published_total", route);
        tracing::debug!(topic, error = %failed.error, attempts = failed.attempts, "retry");
        Ok(())
    }

    async fn dead_letter(
        &self,
        context: &Context,
        record: &ConsumedRecord,
        route: &Route,
        failed: &Failed<'_>,
    ) -> Result<(), PublishError> {
        let topic = names::dead_letter_topic(&route.main);
        let copy = copy_for(&topic, record, failed);
        let publish = context.publisher(&self.publish);
        publish_dead_letter(&*publish, copy, record).await?;
        count_dead_letter(&self.group, &route.main);
        tracing::warn!(topic, error = %failed.error, attempts = failed.attempts, "dead letter");
        Ok(())
    }

    fn count(&self, name: &'static str, route: &Route) {
        count_record(name, &self.group, &route.main);
    }

    fn not_published(&self, record: &ConsumedRecord, error: PublishError) -> Outcome {
        metrics::counter!("ottla_retry_publish_errors_total", "group" => self.group.to_string())
            .increment(1);
        tracing::error!(
            group = &*self.group,
            partition = %record.topic_partition(),
            offset = record.offset,
            %error,
            "a failed record cannot be published: its partition waits"
        );
        let text = error.to_string();
        let failure = HandlerError::transient(CLASS_PUBLISH_FAILED, text).with_source(error);
        Outcome::Failed(failure)
    }
}

impl<H: Handler> Reliable<H> {
    /// Calls the handler, and again in place if the policy says so.
    async fn attempt(&self, context: &Context, record: &ConsumedRecord) -> Outcome {
        let begun = Instant::now();
        let mut tries_left = self.policy.in_place.as_ref().map_or(0, |p| p.tries);
        loop {
            let outcome = self.call(context, record).await;
            let (Outcome::Failed(error), Some(in_place)) = (&outcome, &self.policy.in_place) else {
                return outcome;
            };
            let in_time = begun.elapsed() + in_place.delay <= in_place.max_time;
            // What is published in a transaction cannot be taken back alone.
            let has_outputs = context.published_in_transaction() > 0;
            if error.failure() != Failure::Transient || tries_left == 0 || !in_time || has_outputs {
                return outcome;
            }
            tries_left -= 1;
            tokio::select! {
                () = context.lease().lost() => return outcome,
                () = tokio::time::sleep(in_place.delay) => {}
            }
        }
    }

    /// One call, within three quarters of the time that is left: the rest is for the copy.
    async fn call(&self, context: &Context, record: &ConsumedRecord) -> Outcome {
        let limit = context
            .deadline()
            .map_or(LIMIT_WITHOUT_DEADLINE, |deadline| {
                deadline.saturating_duration_since(Instant::now()) / 4 * 3
            });
        let guarded = Guard::new(self.inner.clone(), limit);
        guarded.handle(context, record).await
    }
}

impl<H: Handler> Handler for Reliable<H> {
    async fn handle(&self, context: &Context, record: &ConsumedRecord) -> Outcome {
        let Some(route) = self.routes.of(&record.topic) else {
            let text = format!("topic {} is not one of this handler's", record.topic);
            return Outcome::Failed(HandlerError::permanent("unknown_topic", text));
        };
        if let Some(tier) = route.tier
            && let Some(due_ms) = self.not_due(record, tier)
        {
            return Outcome::NotBefore(due_ms);
        }
        if context.is_transactional()
            && let Some(error) = self.taken_back.of(record)
        {
            if error.failure() == Failure::Outage {
                // There is no copy of it: it waits once and is tried again.
                self.taken_back.forget(record);
            }
            return self.failed(context, record, route, &error).await;
        }
        match self.attempt(context, record).await {
            Outcome::Failed(error) if context.published_in_transaction() > 0 => {
                let text = "the attempt had published: its transaction is taken back";
                self.taken_back.keep(record, error);
                Outcome::Failed(HandlerError::transient(CLASS_TAKEN_BACK, text))
            }
            Outcome::Failed(error) => self.failed(context, record, route, &error).await,
            outcome => outcome,
        }
    }
}

impl<H> std::fmt::Debug for Reliable<H> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reliable")
            .field("group", &self.group)
            .field("topics", &self.routes.subscriptions())
            .field("policy", &self.policy)
            .finish_non_exhaustive()
    }
}
