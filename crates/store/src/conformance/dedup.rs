//! The cases for deduplication.

use crate::{Claim, DedupStore, StoreErrorKind};

async fn claim(store: &impl DedupStore, id: &str, owner: &str, now_ms: i64) -> Claim {
    let claim = store.claim("group", id, owner, now_ms, 100).await;
    claim.expect("the store answers")
}

/// One owner at a time; after the lease the next one may.
pub async fn a_claim_is_exclusive_until_its_lease_ends(store: &impl DedupStore) {
    assert_eq!(claim(store, "m", "one", 1000).await, Claim::Acquired);
    let busy = Claim::Busy { until_ms: 1100 };
    assert_eq!(claim(store, "m", "two", 1099).await, busy);
    assert_eq!(claim(store, "m", "two", 1100).await, Claim::Acquired);
    assert_eq!(
        claim(store, "m", "one", 1101).await,
        Claim::Busy { until_ms: 1200 }
    );
}

/// Claiming again renews.
pub async fn the_same_owner_renews_its_claim(store: &impl DedupStore) {
    assert_eq!(claim(store, "m", "one", 1000).await, Claim::Acquired);
    assert_eq!(claim(store, "m", "one", 1090).await, Claim::Acquired);
    let busy = Claim::Busy { until_ms: 1190 };
    assert_eq!(claim(store, "m", "two", 1100).await, busy);
}

/// Done is final, for the owner too, and long after the lease.
pub async fn a_done_message_stays_done(store: &impl DedupStore) {
    assert_eq!(claim(store, "m", "one", 1000).await, Claim::Acquired);
    store.done("group", "m", "one", 1050).await.expect("done");
    store.done("group", "m", "one", 1051).await.expect("twice");
    assert_eq!(claim(store, "m", "one", 1060).await, Claim::AlreadyDone);
    assert_eq!(claim(store, "m", "two", 1500).await, Claim::AlreadyDone);
}

/// An owner whose lease ran out and went to another cannot mark the message.
pub async fn a_fenced_owner_cannot_finish(store: &impl DedupStore) {
    assert_eq!(claim(store, "m", "one", 1000).await, Claim::Acquired);
    assert_eq!(claim(store, "m", "two", 1100).await, Claim::Acquired);
    let fenced = store.done("group", "m", "one", 1101).await;
    let error = fenced.expect_err("the claim is another's");
    assert_eq!(error.kind(), StoreErrorKind::Fenced);
    store.done("group", "m", "two", 1102).await.expect("done");
    let late = store.done("group", "m", "one", 1103).await;
    let error = late.expect_err("it is done by another");
    assert_eq!(error.kind(), StoreErrorKind::Fenced);
}

/// A failed attempt gives its claim back.
pub async fn a_released_claim_is_free_at_once(store: &impl DedupStore) {
    assert_eq!(claim(store, "m", "one", 1000).await, Claim::Acquired);
    store.release("group", "m", "one").await.expect("released");
    assert_eq!(claim(store, "m", "two", 1001).await, Claim::Acquired);
}

/// Release touches nothing else.
pub async fn release_leaves_others_and_done_alone(store: &impl DedupStore) {
    store
        .release("group", "none", "one")
        .await
        .expect("nothing there");
    assert_eq!(claim(store, "m", "one", 1000).await, Claim::Acquired);
    store.release("group", "m", "two").await.expect("ignored");
    let busy = Claim::Busy { until_ms: 1100 };
    assert_eq!(claim(store, "m", "two", 1001).await, busy);
    store.done("group", "m", "one", 1002).await.expect("done");
    store.release("group", "m", "one").await.expect("ignored");
    assert_eq!(claim(store, "m", "two", 1003).await, Claim::AlreadyDone);
}

/// Each group handles the message once.
pub async fn scopes_are_apart(store: &impl DedupStore) {
    assert_eq!(claim(store, "m", "one", 1000).await, Claim::Acquired);
    store.done("group", "m", "one", 1001).await.expect("done");
    let other = store.claim("other", "m", "one", 1002, 100).await;
    assert_eq!(other.expect("an answer"), Claim::Acquired);
    // The boundary between scope and id counts.
    let shifted = store.claim("groupm", "", "one", 1002, 100).await;
    assert_eq!(shifted.expect("an answer"), Claim::Acquired);
}

/// Purging forgets what was done, and claimed, before a time.
pub async fn purge_forgets_only_the_old(store: &impl DedupStore) {
    for (id, now_ms) in [("old", 1000), ("new", 2000)] {
        assert_eq!(claim(store, id, "one", now_ms).await, Claim::Acquired);
        store.done("group", id, "one", now_ms).await.expect("done");
    }
    assert_eq!(claim(store, "stale", "one", 1000).await, Claim::Acquired);
    assert_eq!(claim(store, "held", "one", 1950).await, Claim::Acquired);
    assert_eq!(store.purge(2000).await.expect("purged"), 2);
    assert_eq!(claim(store, "old", "two", 2000).await, Claim::Acquired);
    assert_eq!(claim(store, "new", "two", 2000).await, Claim::AlreadyDone);
    let busy = Claim::Busy { until_ms: 2050 };
    assert_eq!(claim(store, "held", "two", 2000).await, busy);
}

/// Of several claims at once, one wins.
pub async fn one_of_many_claims_wins(store: &impl DedupStore) {
    let (a, b, c, d) = tokio::join!(
        claim(store, "m", "a", 1000),
        claim(store, "m", "b", 1000),
        claim(store, "m", "c", 1000),
        claim(store, "m", "d", 1000),
    );
    let won = [a, b, c, d]
        .iter()
        .filter(|c| **c == Claim::Acquired)
        .count();
    assert_eq!(won, 1);
}
