//! One suite for all stores: what the relay and the deduplication rely on, as cases that panic when
//! a store breaks a promise.
//!
//! A store's tests expand a macro; each case becomes a test of its own with a fresh store:
//!
//! ```text
//! ottla_store::outbox_conformance!(async { MyHarness::new().await });
//! ottla_store::dedup_conformance!(async { MyDedup::new().await });
//! ```

pub mod dedup;
pub mod outbox;

/// Makes a `#[tokio::test]` of each case in [`conformance::outbox`](crate::conformance::outbox).
/// `$make` is a future of an [`OutboxHarness`](crate::conformance::outbox::OutboxHarness).
#[macro_export]
macro_rules! outbox_conformance {
    ($make:expr) => {
        $crate::conformance_cases!(outbox, $make,
            rows_are_pending_in_commit_order
            what_was_enqueued_is_read_back_whole
            a_rolled_back_row_is_not_visible
            a_missing_message_id_is_made_and_a_given_one_stays
            pages_go_on_after_an_id
            one_lease_at_a_time
            trap_c29_a_fenced_owner_changes_nothing
            a_released_lease_is_free_at_once
            marking_twice_is_harmless
            a_parked_row_is_set_aside_with_its_error
            only_old_sent_rows_are_purged
            a_commit_wakes_the_relay
        );
    };
}

/// Makes a `#[tokio::test]` of each case in [`conformance::dedup`](crate::conformance::dedup).
/// `$make` is a future of a [`DedupStore`](crate::DedupStore).
#[macro_export]
macro_rules! dedup_conformance {
    ($make:expr) => {
        $crate::conformance_cases!(dedup, $make,
            a_claim_is_exclusive_until_its_lease_ends
            the_same_owner_renews_its_claim
            a_done_message_stays_done
            a_fenced_owner_cannot_finish
            a_released_claim_is_free_at_once
            release_leaves_others_and_done_alone
            scopes_are_apart
            purge_forgets_only_the_old
            one_of_many_claims_wins
        );
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! conformance_cases {
    ($module:ident, $make:expr, $($case:ident)*) => {
        $(
            #[tokio::test]
            async fn $case() {
                let subject = $make.await;
                $crate::conformance::$module::$case(&subject).await;
            }
        )*
    };
}
