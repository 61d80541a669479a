//! Deduplication: claim, handle, done.

mod attempts;

use crate::durations::{millis, text};
use crate::identity::{claim_owner, message_id};
use attempts::{Attempt, Attempts, Left, finished};
use ottla_consumer::{Context, Handler, HandlerError, Outcome};
use ottla_store::{Claim, DedupStore, StoreError, StoreErrorKind, SystemClock};
use ottla_types::{Clock, ConfigError, ConsumedRecord};
use serde::{Deserialize, Serialize};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::sleep;

/// The class of the error in a registration that handles exactly once: the mark in the store would
/// stay when the transaction is aborted, and the outputs of the message would be lost. The partition
/// waits, and says so.
pub const CLASS_IN_TRANSACTION: &str = "dedup_in_transaction";

/// The class of the error when the store does not answer. It is an outage: the partition waits.
pub const CLASS_DEDUP_STORE: &str = "dedup_store";

/// How often a mark is tried before the record waits for the store.
const MARK_TRIES: u32 = 5;
const MARK_BACKOFF: Duration = Duration::from_millis(50);

/// How a [`Deduplicated`] handler claims. In configuration files durations are texts such as `30s`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(remote = "Self", default, deny_unknown_fields)]
pub struct DedupConfig {
    /// How long a claim lasts unless renewed; it is renewed after each third of it while the handler
    /// runs. After a crash, the message waits for the rest of it. 1 s to 1 h, default 30 s.
    #[serde(with = "text")]
    pub lease: Duration,
    /// The longest time after which a copy of a message can still come: retries, delays, a replay
    /// after an outage. The store must remember at least as long. Default 1 day.
    #[serde(with = "text")]
    pub replay_window: Duration,
}

impl Default for DedupConfig {
    fn default() -> Self {
        Self {
            lease: Duration::from_secs(30),
            replay_window: Duration::from_secs(24 * 3600),
        }
    }
}

/// A handler that handles each message once a group, by [`message_id`].
///
/// A duplicate of a message that is done is passed over; of one that another member is at, it waits
/// for that claim's end. A failure gives the claim back; an attempt that is dropped (its time limit,
/// a lost partition) leaves it until the lease ends, because work that it began may still go on.
///
/// The effect happens once as long as this process lives until the mark is written: while the store
/// is away the record waits, and its handler, which has finished, is not called again. For an effect in a database,
/// the handler can put the mark into the effect's own transaction (an inbox: for redb,
/// `ottla_store_redb::RedbDedup::done_in` with [`message_id`] and [`claim_owner`]); then it happens
/// once whatever crashes. Without that, a crash between effect and mark repeats the effect.
///
/// If another member took the claim over while this one was handling (it was paused for longer than
/// the lease), the late one is stopped if it still runs. If it has finished, its effect stands, its
/// record is done and nothing is lost; but the effect may have happened twice, which is counted
/// (`ottla_dedup_fenced_total`) and logged.
pub struct Deduplicated<H> {
    inner: H,
    store: Arc<dyn DedupStore>,
    config: DedupConfig,
    clock: Arc<dyn Clock>,
    attempts: Attempts,
}

impl<H: Handler> Deduplicated<H> {
    /// Wraps `inner`.
    ///
    /// # Errors
    /// Names the value that is not allowed; a store that forgets within the replay window is refused.
    pub fn new(
        inner: H,
        store: Arc<dyn DedupStore>,
        config: DedupConfig,
    ) -> Result<Self, ConfigError> {
        if !(Duration::from_secs(1)..=Duration::from_secs(3600)).contains(&config.lease) {
            let given = format!("{:?}", config.lease);
            return Err(ConfigError::new("lease", given, "1s to 1h"));
        }
        if let Some(retention_ms) = store.retention_ms()
            && retention_ms < millis(config.replay_window)
        {
            let given = format!("{:?}", config.replay_window);
            let expected = format!("at most the store's retention of {retention_ms} ms");
            return Err(ConfigError::new("replay_window", given, expected));
        }
        Ok(Self {
            inner,
            store,
            config,
            clock: Arc::new(SystemClock),
            attempts: Attempts::default(),
        })
    }

    /// Takes the time from `clock`.
    #[must_use]
    pub fn with_clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    fn lease_end(&self) -> i64 {
        let now_ms = self.clock.now_ms();
        now_ms.saturating_add(millis(self.config.lease))
    }

    async fn claim(&self, key: &Key<'_>) -> Result<Claim, StoreError> {
        let lease_ms = millis(self.config.lease);
        let now_ms = self.clock.now_ms();
        let claim = self
            .store
            .claim(key.scope, key.id, key.owner, now_ms, lease_ms);
        claim.await
    }

    /// Runs the handler while renewing the claim; `Err` when another owner has it now.
    async fn handle_claimed(
        &self,
        context: &Context,
        record: &ConsumedRecord,
        key: &Key<'_>,
        attempt: &mut Attempt<'_>,
    ) -> Result<Outcome, i64> {
        let mut work = pin!(self.inner.handle(context, record));
        loop {
            tokio::select! {
                biased;
                outcome = &mut work => return Ok(outcome),
                () = sleep(self.config.lease / 3) => {}
            }
            let until_ms = self.lease_end();
            let mut renewal = pin!(self.claim(key));
            let claim = tokio::select! {
                biased;
                outcome = &mut work => {
                    // A renewal that comes after the mark or the release would undo it.
                    if let Err(error) = renewal.await {
                        tracing::warn!(id = key.id, %error, "claim not renewed");
                    }
                    return Ok(outcome);
                }
                claim = &mut renewal => claim,
            };
            match claim {
                Ok(Claim::Acquired) => attempt.renewed(until_ms),
                // A message that is done may have been marked by the handler itself.
                Ok(Claim::AlreadyDone) => {}
                Ok(Claim::Busy { until_ms }) => return Err(until_ms),
                Err(error) => tracing::warn!(id = key.id, %error, "claim not renewed"),
            }
        }
    }

    async fn mark(&self, key: &Key<'_>, attempt: Attempt<'_>) -> Outcome {
        let mut tries = 0;
        loop {
            let done = self
                .store
                .done(key.scope, key.id, key.owner, self.clock.now_ms());
            match done.await {
                Ok(()) => {
                    attempt.over();
                    return Outcome::Done;
                }
                Err(error) if error.kind() == StoreErrorKind::Fenced => {
                    attempt.over();
                    fenced(key, "its effect may have happened twice");
                    return Outcome::Done;
                }
                Err(error) => {
                    tries += 1;
                    if tries == MARK_TRIES {
                        return Outcome::Failed(unavailable(error));
                    }
                    tracing::warn!(id = key.id, %error, tries, "message not marked as done yet");
                    sleep(MARK_BACKOFF * 2u32.pow(tries)).await;
                }
            }
        }
    }

    async fn give_back(&self, key: &Key<'_>) {
        if let Err(error) = self.store.release(key.scope, key.id, key.owner).await {
            // The claim runs out by itself.
            tracing::warn!(id = key.id, %error, "claim not given back");
        }
    }
}

struct Key<'a> {
    scope: &'a str,
    id: &'a str,
    owner: &'a str,
}

fn unavailable(error: StoreError) -> HandlerError {
    HandlerError::outage(CLASS_DEDUP_STORE, error.to_string()).with_source(error)
}

fn fenced(key: &Key<'_>, what: &str) {
    metrics::counter!("ottla_dedup_fenced_total", "group" => key.scope.to_owned()).increment(1);
    tracing::warn!(
        group = key.scope,
        id = key.id,
        "another member took the message over: {what}"
    );
}

impl<H: Handler> Handler for Deduplicated<H> {
    async fn handle(&self, context: &Context, record: &ConsumedRecord) -> Outcome {
        if context.is_transactional() {
            let text = "a message that is marked as done stays so when its transaction is aborted";
            return Outcome::Failed(HandlerError::outage(CLASS_IN_TRANSACTION, text));
        }
        let (id, owner) = (message_id(record), claim_owner(context, record));
        let key = Key {
            scope: context.group(),
            id: &id,
            owner: &owner,
        };
        let name = format!("{owner} {id}");
        let now_ms = self.clock.now_ms();
        match self.attempts.left(&name, now_ms) {
            None => {}
            Some(Left::Running { until_ms }) => return Outcome::NotBefore(until_ms),
            Some(Left::Finished { .. }) => {
                let attempt = self.attempts.begin(name, now_ms, finished(now_ms));
                return self.mark(&key, attempt).await;
            }
        }
        let until_ms = self.lease_end();
        match self.claim(&key).await {
            Ok(Claim::Acquired) => {}
            Ok(Claim::AlreadyDone) => {
                let group = key.scope.to_owned();
                metrics::counter!("ottla_dedup_duplicates_total", "group" => group).increment(1);
                tracing::debug!(group = key.scope, id, "duplicate passed over");
                return Outcome::Done;
            }
            Ok(Claim::Busy { until_ms }) => return Outcome::NotBefore(until_ms),
            Err(error) => return Outcome::Failed(unavailable(error)),
        }
        let left = Left::Running { until_ms };
        let mut attempt = self.attempts.begin(name, now_ms, left);
        let handled = self.handle_claimed(context, record, &key, &mut attempt);
        match handled.await {
            Ok(Outcome::Done) => {
                attempt.finished(self.clock.now_ms());
                self.mark(&key, attempt).await
            }
            Ok(outcome) => {
                attempt.over();
                self.give_back(&key).await;
                outcome
            }
            Err(until_ms) => {
                attempt.over();
                fenced(&key, "the handler was stopped");
                Outcome::NotBefore(until_ms)
            }
        }
    }
}

impl<H> std::fmt::Debug for Deduplicated<H> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Deduplicated")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}
