//! Dead letters for batch handlers: one record that can never be handled does not hold up the rest.

use crate::dead_letter::{count_dead_letter, ensure_derived, publish_dead_letter};
use crate::retry::CLASS_PUBLISH_FAILED;
use crate::stamp::{Failed, copy_for};
use ottla_client::Client;
use ottla_consumer::{BatchHandler, BatchOutcome, Context, Failure, HandlerError};
use ottla_store::SystemClock;
use ottla_types::{Clock, ConsumedRecord, Publish, PublishError, names};
use std::sync::Arc;

/// A batch handler whose permanent failures end in a dead letter topic: a record at which a call
/// ended with [`BatchOutcome::FailedAt`] and [`Failure::Permanent`] is copied to `<topic>_dlq`, and
/// the handler is called for those behind it. So goes a record that cannot be decoded, with a typed
/// batch handler inside.
///
/// Other failures are left to the runner, which hands the rest of the batch over again. While the
/// copy cannot be published the record is not done and the partition waits.
#[derive(Clone)]
pub struct DeadLettered<H> {
    inner: H,
    publish: Arc<dyn Publish>,
    clock: Arc<dyn Clock>,
}

impl<H: BatchHandler> DeadLettered<H> {
    /// Wraps `handler`; copies are published through `publish`, which should be set to `acks=all`.
    pub fn new(handler: H, publish: Arc<dyn Publish>) -> Self {
        Self {
            inner: handler,
            publish,
            clock: Arc::new(SystemClock),
        }
    }

    /// Takes the time from `clock`.
    #[must_use]
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Creates the dead letter topics of `topics` that do not exist, each with as many partitions and
    /// copies as its main topic, which must exist.
    ///
    /// # Errors
    /// The client's: a main topic that does not exist, or a topic that cannot be created.
    pub async fn ensure_topics(
        &self,
        client: &Client,
        topics: &[&str],
    ) -> Result<(), ottla_client::Error> {
        let derived = topics
            .iter()
            .map(|t| (*t, vec![names::dead_letter_topic(t)]));
        ensure_derived(client, derived).await
    }

    async fn dead_letter(
        &self,
        context: &Context,
        record: &ConsumedRecord,
        error: &HandlerError,
    ) -> Result<(), PublishError> {
        let topic = names::dead_letter_topic(&record.topic);
        let failed = Failed {
            group: context.group(),
            error,
            attempts: 1,
            now_ms: self.clock.now_ms(),
            is_first: true,
        };
        let publish = context.publisher(&self.publish);
        publish_dead_letter(&*publish, copy_for(&topic, record, &failed), record).await?;
        count_dead_letter(context.group(), &record.topic);
        tracing::warn!(topic, offset = record.offset, %error, "dead letter");
        Ok(())
    }
}

impl<H: BatchHandler> BatchHandler for DeadLettered<H> {
    async fn handle_batch(&self, context: &Context, records: &[ConsumedRecord]) -> BatchOutcome {
        let mut begin = 0;
        while let Some(left) = records.get(begin..).filter(|left| !left.is_empty()) {
            let failed_at = |index, error| BatchOutcome::FailedAt { index, error };
            match self.inner.handle_batch(context, left).await {
                BatchOutcome::Done => break,
                BatchOutcome::FailedAt { index, error } => {
                    begin += index;
                    let Some(record) = records.get(begin) else {
                        break;
                    };
                    if error.failure() != Failure::Permanent || context.check_lease().is_err() {
                        return failed_at(begin, error);
                    }
                    if let Err(e) = self.dead_letter(context, record, &error).await {
                        let text = e.to_string();
                        let failure = HandlerError::transient(CLASS_PUBLISH_FAILED, text);
                        return failed_at(begin, failure.with_source(e));
                    }
                    begin += 1;
                }
                BatchOutcome::Failed(error) => return failed_at(begin, error),
                outcome @ BatchOutcome::NotBefore(_) if begin == 0 => return outcome,
                // What is dead-lettered is not handed over again; the rest says so once more.
                BatchOutcome::NotBefore(_) => {
                    return failed_at(begin, HandlerError::transient("NotDue", "not due yet"));
                }
            }
        }
        BatchOutcome::Done
    }
}

impl<H> std::fmt::Debug for DeadLettered<H> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DeadLettered").finish_non_exhaustive()
    }
}
