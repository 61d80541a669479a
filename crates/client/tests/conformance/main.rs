//! One set of tests for every transport. What a transport cannot do, it must refuse by its type of
//! error or say in its capabilities; each test says which.
//!
//! Those of the first list need nothing but a broker and run on a real one too:
//!
//! ```text
//! OTTLA_TEST_BOOTSTRAP=localhost:9092 cargo test -p ottla-client --test conformance -- --ignored
//! ```

#![allow(clippy::unwrap_used, reason = "tests")]

mod bed;
mod carrying;
mod connections;
mod failing;
mod hostile;
mod hostile_wire;
mod leading;
mod liar;
mod prefetching;
mod racks;
mod refusing;
mod secured;
mod transactions;
mod truncated;
mod txn;
mod verdict;
mod versions;

use ottla_client::TransportKind;

async fn on_mock(kind: TransportKind) -> bed::MockBed {
    bed::MockBed::new(kind).await
}

async fn on_real_broker(kind: TransportKind) -> bed::Bed {
    let bootstrap = std::env::var("OTTLA_TEST_BOOTSTRAP").expect("OTTLA_TEST_BOOTSTRAP=host:port");
    bed::Bed::at(kind, &bootstrap).await
}

/// Tests that take a client on any cluster.
macro_rules! on_any_cluster {
    ($($module:ident :: $test:ident,)+) => {
        on_any_cluster!(@mock rskafka_on_mock, Rskafka, $($module::$test,)+);
        on_any_cluster!(@mock native_on_mock, Native, $($module::$test,)+);
        on_any_cluster!(@real rskafka_on_real_broker, Rskafka, $($module::$test,)+);
        on_any_cluster!(@real native_on_real_broker, Native, $($module::$test,)+);
    };
    (@mock $name:ident, $kind:ident, $($module:ident :: $test:ident,)+) => {
        mod $name {
            $(#[tokio::test]
            async fn $test() {
                let test = stringify!($module::$test);
                crate::verdict::of(stringify!($name), test, async {
                    let bed = crate::on_mock(super::TransportKind::$kind).await;
                    crate::$module::$test(&bed).await;
                })
                .await;
            })+
        }
    };
    (@real $name:ident, $kind:ident, $($module:ident :: $test:ident,)+) => {
        mod $name {
            $(#[tokio::test]
            #[ignore = "needs a broker at OTTLA_TEST_BOOTSTRAP: cargo xtask e2e --scenario client-conformance"]
            async fn $test() {
                let test = stringify!($module::$test);
                crate::verdict::of(stringify!($name), test, async {
                    let bed = crate::on_real_broker(super::TransportKind::$kind).await;
                    crate::$module::$test(&bed).await;
                })
                .await;
            })+
        }
    };
}

on_any_cluster! {
    carrying::what_is_written_is_read,
    carrying::trap_a11_headers_keep_order_repetition_and_bytes,
    carrying::trap_a4_null_header_values_are_read,
    carrying::trap_a12_the_brokers_time_is_seen,
    carrying::trap_a14_every_codec_is_carried_or_refused,
    carrying::partitions_are_answered_on_their_own_and_in_order,
    carrying::every_kind_of_acks_is_carried_or_refused,
    carrying::offsets_are_looked_up,
    carrying::reading_starts_within_a_batch,
    carrying::small_limits_slow_down_but_lose_nothing,
    refusing::a_topic_that_does_not_exist_is_an_error,
    refusing::a_batch_that_is_too_large_is_an_error,
    refusing::a_position_out_of_range_is_an_error,
    refusing::a_batch_that_the_broker_calls_invalid_is_an_error,
    prefetching::a_fetch_ends_with_its_waiting_time,
    prefetching::readers_at_different_positions_do_not_disturb_each_other,
    prefetching::readers_that_went_do_not_hold_up_those_that_are_there,
    transactions::trap_a2_a3_a5_only_committed_records_are_read,
    transactions::an_open_transaction_holds_committed_readers_back,
    transactions::uncommitted_records_are_read_by_those_who_ask_for_them,
    truncated::trap_c15_a_topic_that_is_deleted_and_created_again,
}

/// Tests that start a mock cluster of their own.
macro_rules! with_own_mock {
    ($($module:ident :: $test:ident,)+) => {
        mod rskafka_with_own_mock {
            $(#[tokio::test]
            async fn $test() {
                let run = crate::$module::$test(super::TransportKind::Rskafka);
                crate::verdict::of("rskafka_on_mock", stringify!($module::$test), run).await;
            })+
        }
        mod native_with_own_mock {
            $(#[tokio::test]
            async fn $test() {
                let run = crate::$module::$test(super::TransportKind::Native);
                crate::verdict::of("native_on_mock", stringify!($module::$test), run).await;
            })+
        }
    };
}

with_own_mock! {
    failing::trap_a1_a_throttled_batch_is_written_once,
    failing::trap_a1_a_throttled_reader_loses_nothing,
    failing::trap_a7_a_request_without_an_answer_ends_in_time,
    failing::trap_a9_codes_that_pass_are_retried,
    failing::trap_a9_a_code_that_stays_says_what_became_of_the_batch,
    failing::trap_a10_a_lost_answer_is_repeated_and_idempotence_makes_it_harmless,
    failing::calls_that_are_dropped_do_no_harm,
    failing::a_closed_transport_refuses_everything,
    leading::trap_a6_a_leader_that_moves_is_found,
    leading::trap_a6_a_broker_that_dies_and_comes_back_is_found,
    leading::trap_a6_nothing_is_lost_or_reordered_while_leaders_move_and_brokers_die,
    leading::fenced_and_unknown_epochs_are_mended,
    leading::leader_hints_spare_a_look_at_the_metadata,
    connections::trap_a13_many_partitions_need_few_connections,
    connections::one_request_is_for_all_partitions_of_a_broker,
    connections::batches_that_wait_share_a_request,
    connections::a_dropped_client_leaves_no_connection,
    prefetching::the_next_records_are_fetched_in_advance,
    prefetching::a_partition_that_becomes_ready_does_not_wait_for_the_others,
    prefetching::a_partition_does_not_wait_for_three_long_polls,
    prefetching::sessions_are_used_and_lost_ones_begin_anew,
    transactions::trap_a5_positions_move_over_compacted_batches,
    racks::the_replica_in_the_readers_rack_is_read_from,
    racks::a_replica_is_read_from_for_a_while_only,
    racks::trap_c5_out_of_range_from_a_replica_is_asked_at_the_leader,
    racks::a_replica_that_dies_leads_back_to_the_leader,
    truncated::trap_c20_a_truncated_log_is_noticed,
    truncated::trap_c20_a_reader_at_the_end_notices_that_the_end_is_cut,
    truncated::leaders_that_change_without_a_word_are_no_truncation,
    truncated::trap_c7_nothing_is_read_while_a_position_is_validated,
    truncated::trap_c6_a_position_survives_a_validation_that_fails,
    truncated::trap_c6_a_broker_that_cannot_be_reached_is_no_reset,
    truncated::trap_c15_a_topic_made_anew_is_noticed,
    truncated::trap_c15_a_waiting_reader_notices_a_topic_made_anew,
    truncated::topics_with_and_without_ids_are_read_together,
    secured::every_mechanism_carries_everything,
    secured::wrong_credentials_fail_at_once,
    secured::brokers_that_lie_are_found_out,
    secured::kip_368_renewed_sessions_lose_nothing,
    versions::every_kind_of_broker_is_spoken_to,
    versions::trap_a15_every_version_of_the_data_path_works,
    hostile::trap_d_offsets_that_cannot_be_are_typed_errors,
    hostile::trap_d_a_batch_whose_offsets_overflow_meets_the_reader,
}
