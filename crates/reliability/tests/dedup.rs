//! Deduplication over the memory store, and over one with faults.

mod support;

use ottla_consumer::{Context, Failure, Handler, HandlerError, Outcome, handler_fn};
use ottla_reliability::{
    Backoff, CLASS_DEDUP_STORE, DedupConfig, Deduplicated, Reliable, RetryPolicy, claim_owner,
    message_id,
};
use ottla_store::{Claim, DedupStore, MemoryDedup, StoreError, StoreErrorKind};
use ottla_types::{BoxFuture, ConsumedRecord, Headers, ManualClock, names};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use support::{FakeProducer, context, failed, is_done, read_back, record};
use tokio::sync::Notify;

const NOW: i64 = 1_700_000_000_000;

fn config() -> DedupConfig {
    DedupConfig {
        lease: Duration::from_secs(1),
        replay_window: Duration::from_secs(3600),
    }
}

fn memory() -> MemoryDedup {
    MemoryDedup::new(1000, Duration::from_secs(3600))
}

/// Counts its calls and answers as the script says, then `Done`.
#[derive(Clone, Default)]
struct Scripted {
    calls: Arc<AtomicU32>,
    script: Arc<Mutex<Vec<Outcome>>>,
}

impl Scripted {
    fn answering(outcome: Outcome) -> Self {
        let scripted = Self::default();
        scripted.script.lock().expect("no panic").push(outcome);
        scripted
    }

    fn calls(&self) -> u32 {
        self.calls.load(Ordering::SeqCst)
    }
}

impl Handler for Scripted {
    async fn handle(&self, _: &Context, _: &ConsumedRecord) -> Outcome {
        self.calls.fetch_add(1, Ordering::SeqCst);
        let answer = self.script.lock().expect("no panic").pop();
        answer.unwrap_or(Outcome::Done)
    }
}

fn wrap<H: Handler>(handler: H, store: impl DedupStore, clock: &ManualClock) -> Deduplicated<H> {
    let wrapped = Deduplicated::new(handler, Arc::new(store), config());
    wrapped
        .expect("a valid config")
        .with_clock(Arc::new(clock.clone()))
}

fn with_id(topic: &str, offset: i64, id: &'static str) -> ConsumedRecord {
    let mut record = record(topic, offset, NOW);
    record.headers.set(names::MESSAGE_ID, id);
    record
}

#[test]
fn an_identity_is_the_header_or_the_first_place_or_the_place() {
    assert_eq!(message_id(&record("t", 5, 0)), "t-3-5");
    assert_eq!(message_id(&with_id("t", 5, "id")), "id");
    assert_eq!(message_id(&with_id("t", 5, "")), "t-3-5");
    let mut retried = record("t_retry_g_1s", 9, 0);
    retried.headers = Headers::new()
        .with(names::ORIGINAL_TOPIC, "t")
        .with(names::ORIGINAL_PARTITION, "3")
        .with(names::ORIGINAL_OFFSET, "5");
    assert_eq!(message_id(&retried), "t-3-5");
    retried.headers.set(names::ORIGINAL_OFFSET, "junk");
    assert_eq!(message_id(&retried), "t_retry_g_1s-3-9");
}

#[tokio::test]
async fn copies_of_a_message_have_one_effect_a_group() {
    let (handler, clock) = (Scripted::default(), ManualClock::new(NOW));
    let dedup = wrap(handler.clone(), memory(), &clock);
    for offset in 0..3 {
        let outcome = dedup
            .handle(&context(), &with_id("orders", offset, "a"))
            .await;
        assert!(is_done(&outcome));
    }
    assert_eq!(handler.calls(), 1);
    let other = Context::new("wechat", "member-1");
    assert!(is_done(
        &dedup.handle(&other, &with_id("orders", 0, "a")).await
    ));
    assert_eq!(handler.calls(), 2);
}

#[tokio::test]
async fn a_failed_attempt_gives_its_claim_back() {
    for first in [
        Outcome::Failed(HandlerError::transient("C", "x")),
        Outcome::NotBefore(NOW + 1),
    ] {
        let (handler, clock) = (Scripted::answering(first), ManualClock::new(NOW));
        let dedup = wrap(handler.clone(), memory(), &clock);
        assert!(!is_done(
            &dedup.handle(&context(), &with_id("orders", 1, "a")).await
        ));
        // The next attempt is another copy, and need not wait for the lease.
        assert!(is_done(
            &dedup
                .handle(&context(), &with_id("orders_retry", 2, "a"))
                .await
        ));
        assert_eq!(handler.calls(), 2);
    }
}

#[tokio::test]
async fn a_copy_waits_while_another_member_is_at_the_message() {
    let (handler, clock) = (Scripted::default(), ManualClock::new(NOW));
    let store = memory();
    let dedup = wrap(handler.clone(), store.clone(), &clock);
    let claim = store
        .claim("sms", "a", "member-2/x", NOW, 1000)
        .await
        .unwrap();
    assert_eq!(claim, Claim::Acquired);
    let waits = dedup.handle(&context(), &with_id("orders", 1, "a")).await;
    assert!(matches!(waits, Outcome::NotBefore(ms) if ms == NOW + 1000));
    // The other member crashed.
    clock.advance(1000);
    assert!(is_done(
        &dedup.handle(&context(), &with_id("orders", 1, "a")).await
    ));
    assert_eq!(handler.calls(), 1);
}

#[tokio::test]
async fn a_claim_is_renewed_while_the_handler_runs() {
    let clock = ManualClock::new(NOW);
    let store = memory();
    let finish = Arc::new(Notify::new());
    let wait = finish.clone();
    let slow = handler_fn(move |_, _| {
        let wait = wait.clone();
        async move {
            wait.notified().await;
            Outcome::Done
        }
    });
    let dedup = wrap(slow, store.clone(), &clock);
    let (context, source) = (context(), with_id("orders", 1, "a"));
    let running = dedup.handle(&context, &source);
    let watching = async {
        // The renewal shows as a later end of the claim.
        clock.advance(500);
        let limit = tokio::time::Instant::now() + Duration::from_secs(10);
        loop {
            let claim = store
                .claim("sms", "a", "other", NOW + 500, 1)
                .await
                .unwrap();
            if claim
                == (Claim::Busy {
                    until_ms: NOW + 1500,
                })
            {
                break;
            }
            assert!(tokio::time::Instant::now() < limit, "never renewed");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        finish.notify_one();
    };
    let (outcome, ()) = tokio::join!(running, watching);
    assert!(is_done(&outcome));
}

#[tokio::test]
async fn a_handler_whose_message_was_taken_over_is_stopped() {
    let clock = ManualClock::new(NOW);
    let store = memory();
    let dedup = wrap(
        handler_fn(|_, _| std::future::pending()),
        store.clone(),
        &clock,
    );
    let (context, source) = (context(), with_id("orders", 1, "a"));
    let take_over = async {
        let claim = store.claim("sms", "a", "other", NOW + 2000, 5000).await;
        assert_eq!(claim.unwrap(), Claim::Acquired);
    };
    let (outcome, ()) = tokio::join!(dedup.handle(&context, &source), take_over);
    assert!(matches!(outcome, Outcome::NotBefore(ms) if ms == NOW + 7000));
}

#[tokio::test]
async fn an_effect_that_was_finished_late_stands() {
    let clock = ManualClock::new(NOW);
    let store = memory();
    let taken = store.clone();
    let late = handler_fn(move |_, _| {
        let taken = taken.clone();
        async move {
            let claim = taken.claim("sms", "a", "other", NOW + 2000, 5000).await;
            assert_eq!(claim.unwrap(), Claim::Acquired);
            Outcome::Done
        }
    });
    let dedup = wrap(late, store, &clock);
    assert!(is_done(
        &dedup.handle(&context(), &with_id("orders", 1, "a")).await
    ));
}

#[tokio::test]
async fn a_handler_may_mark_the_message_in_its_own_transaction() {
    let clock = ManualClock::new(NOW);
    let store = memory();
    let inbox = store.clone();
    let handler = handler_fn(move |context: Context, record: ConsumedRecord| {
        let inbox = inbox.clone();
        async move {
            let (id, owner) = (message_id(&record), claim_owner(&context, &record));
            let done = inbox.done(context.group(), &id, &owner, NOW);
            Outcome::from(
                done.await
                    .map_err(|e| HandlerError::transient("Inbox", e.to_string())),
            )
        }
    });
    let dedup = wrap(handler, store.clone(), &clock);
    assert!(is_done(
        &dedup.handle(&context(), &with_id("orders", 1, "a")).await
    ));
    let claim = store.claim("sms", "a", "other", NOW, 1).await.unwrap();
    assert_eq!(claim, Claim::AlreadyDone);
}

/// Fails the first calls of `claim` or `done`.
struct Flaky {
    inner: MemoryDedup,
    claims: AtomicU32,
    dones: AtomicU32,
}

fn fails(left: &AtomicU32) -> Result<(), StoreError> {
    let had = left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1));
    match had {
        Ok(_) => Err(StoreError::new(StoreErrorKind::Unavailable, "ask")),
        Err(_) => Ok(()),
    }
}

impl DedupStore for Flaky {
    fn claim<'a>(
        &'a self,
        scope: &'a str,
        id: &'a str,
        owner: &'a str,
        now_ms: i64,
        lease_ms: i64,
    ) -> BoxFuture<'a, Result<Claim, StoreError>> {
        Box::pin(async move {
            fails(&self.claims)?;
            self.inner.claim(scope, id, owner, now_ms, lease_ms).await
        })
    }

    fn done<'a>(
        &'a self,
        scope: &'a str,
        id: &'a str,
        owner: &'a str,
        now_ms: i64,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move {
            fails(&self.dones)?;
            self.inner.done(scope, id, owner, now_ms).await
        })
    }

    fn release<'a>(
        &'a self,
        scope: &'a str,
        id: &'a str,
        owner: &'a str,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        self.inner.release(scope, id, owner)
    }

    fn purge(&self, before_ms: i64) -> BoxFuture<'_, Result<u64, StoreError>> {
        self.inner.purge(before_ms)
    }

    fn retention_ms(&self) -> Option<i64> {
        None
    }
}

#[tokio::test]
async fn a_store_that_is_away_is_an_outage_and_a_mark_is_tried_again() {
    let (handler, clock) = (Scripted::default(), ManualClock::new(NOW));
    let store = Flaky {
        inner: memory(),
        claims: AtomicU32::new(1),
        dones: AtomicU32::new(2),
    };
    let dedup = wrap(handler.clone(), store, &clock);
    let error = failed(dedup.handle(&context(), &with_id("orders", 1, "a")).await);
    assert_eq!(
        (error.class(), error.failure()),
        (CLASS_DEDUP_STORE, Failure::Outage)
    );
    assert_eq!(handler.calls(), 0);
    for _ in 0..2 {
        assert!(is_done(
            &dedup.handle(&context(), &with_id("orders", 1, "a")).await
        ));
    }
    assert_eq!(handler.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_has_finished_is_not_called_again_for_its_mark() {
    let (handler, clock) = (Scripted::default(), ManualClock::new(NOW));
    let store = Flaky {
        inner: memory(),
        claims: AtomicU32::new(0),
        dones: AtomicU32::new(8),
    };
    let dedup = wrap(handler.clone(), store, &clock);
    let source = with_id("orders", 1, "a");
    let error = failed(dedup.handle(&context(), &source).await);
    assert_eq!(error.failure(), Failure::Outage);
    // The claim has ended long ago when the store is back.
    clock.advance(60_000);
    assert!(is_done(&dedup.handle(&context(), &source).await));
    assert!(is_done(&dedup.handle(&context(), &source).await));
    assert_eq!(handler.calls(), 1);
}

#[tokio::test]
async fn an_attempt_that_was_dropped_keeps_the_next_one_off_until_its_claim_ends() {
    let (calls, clock) = (Arc::new(AtomicU32::new(0)), ManualClock::new(NOW));
    let counter = calls.clone();
    let first_hangs = handler_fn(move |_, _| {
        let call = counter.fetch_add(1, Ordering::SeqCst);
        async move {
            if call == 0 {
                std::future::pending::<()>().await;
            }
            Outcome::Done
        }
    });
    let dedup = wrap(first_hangs, memory(), &clock);
    let (context, source) = (context(), with_id("orders", 1, "a"));
    let limit = Duration::from_millis(20);
    let dropped = tokio::time::timeout(limit, dedup.handle(&context, &source)).await;
    assert!(dropped.is_err());
    // What it began may go on: the same place waits as any other copy does.
    for topic in ["orders", "orders_retry"] {
        let waits = dedup.handle(&context, &with_id(topic, 1, "a")).await;
        assert!(matches!(waits, Outcome::NotBefore(ms) if ms == NOW + 1000));
    }
    assert_eq!(calls.load(Ordering::SeqCst), 1);
    clock.advance(1000);
    assert!(is_done(&dedup.handle(&context, &source).await));
    assert_eq!(calls.load(Ordering::SeqCst), 2);
}

/// Grants the first claim; further ones do not answer until they are let through.
struct SlowRenewal {
    inner: MemoryDedup,
    claims: AtomicU32,
    asked: Arc<Notify>,
    answer: Arc<Notify>,
}

impl DedupStore for SlowRenewal {
    fn claim<'a>(
        &'a self,
        scope: &'a str,
        id: &'a str,
        owner: &'a str,
        now_ms: i64,
        lease_ms: i64,
    ) -> BoxFuture<'a, Result<Claim, StoreError>> {
        Box::pin(async move {
            if self.claims.fetch_add(1, Ordering::SeqCst) > 0 {
                self.asked.notify_one();
                self.answer.notified().await;
            }
            self.inner.claim(scope, id, owner, now_ms, lease_ms).await
        })
    }

    fn done<'a>(
        &'a self,
        scope: &'a str,
        id: &'a str,
        owner: &'a str,
        now_ms: i64,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        self.inner.done(scope, id, owner, now_ms)
    }

    fn release<'a>(
        &'a self,
        scope: &'a str,
        id: &'a str,
        owner: &'a str,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        self.inner.release(scope, id, owner)
    }

    fn purge(&self, before_ms: i64) -> BoxFuture<'_, Result<u64, StoreError>> {
        self.inner.purge(before_ms)
    }

    fn retention_ms(&self) -> Option<i64> {
        None
    }
}

#[tokio::test(start_paused = true)]
async fn a_handler_goes_on_while_its_claim_is_being_renewed() {
    let clock = ManualClock::new(NOW);
    let (asked, answer) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let inner = memory();
    let store = SlowRenewal {
        inner: inner.clone(),
        claims: AtomicU32::new(0),
        asked: asked.clone(),
        answer: answer.clone(),
    };
    let went_on = answer.clone();
    let handler = handler_fn(move |_, _| {
        let (asked, went_on) = (asked.clone(), went_on.clone());
        async move {
            // The renewal has begun, and is answered only after this goes on.
            asked.notified().await;
            went_on.notify_one();
            Outcome::Failed(HandlerError::transient("C", "x"))
        }
    });
    let dedup = wrap(handler, store, &clock);
    let (context, source) = (context(), with_id("orders", 1, "a"));
    let limit = Duration::from_secs(60);
    let outcome = tokio::time::timeout(limit, dedup.handle(&context, &source)).await;
    failed(outcome.expect("the handler is not held up by the renewal"));
    // The late renewal did not bring back the claim that was given back.
    assert!(inner.is_empty());
}

#[test]
fn a_store_that_forgets_too_early_and_a_bad_lease_are_refused() {
    let store = || Arc::new(MemoryDedup::new(10, Duration::from_secs(60)));
    let refused = |config| {
        let wrapped = Deduplicated::new(Scripted::default(), store(), config);
        wrapped.map(drop).unwrap_err().key
    };
    assert_eq!(refused(config()), "replay_window");
    let lease = Duration::from_millis(10);
    assert_eq!(refused(DedupConfig { lease, ..config() }), "lease");
}

#[tokio::test]
async fn retries_around_deduplication_have_one_effect() {
    let (producer, clock) = (FakeProducer::default(), ManualClock::new(NOW));
    let fail_once = Outcome::Failed(HandlerError::transient("C", "x"));
    let handler = Scripted::answering(fail_once);
    let dedup = wrap(handler.clone(), memory(), &clock);
    let policy = RetryPolicy::new(3, Backoff::constant(Duration::from_secs(1)));
    let reliable = Reliable::builder("sms", dedup, producer.arc())
        .topic("orders")
        .policy(policy)
        .clock(Arc::new(clock.clone()))
        .build()
        .unwrap();
    let source = record("orders", 1, NOW);
    assert!(is_done(&reliable.handle(&context(), &source).await));
    let copy = read_back(&producer.only(), 0, NOW);
    clock.advance(1100);
    // The copy, the copy again, and the source again after a crash before its commit.
    for again in [&copy, &copy, &source] {
        assert!(is_done(&reliable.handle(&context(), again).await));
    }
    assert_eq!(handler.calls(), 2);
    assert!(producer.take().is_empty());
}
