//! What must hold for transactions whatever happens between two steps.

use super::super::partition::Lookup;
use super::rig::{Instead, Rig, t0, t1};
use crate::SeekTo;
use ottla_types::TransactErrorKind;
use std::time::Duration;

/// Longer than `transaction.interval.ms` and every wait between steps.
const LATER: Duration = Duration::from_secs(2);

#[tokio::test]
async fn a_call_that_fails_while_the_others_are_waited_for_is_not_committed() {
    let mut rig = Rig::open().await;
    rig.begin_at(&t0(), 5).await;
    rig.begin_at(&t1(), 5).await;
    rig.handle(&t0(), 6);
    let last = rig.call(&t1());
    rig.pass(LATER);
    rig.settle().await;
    assert!(rig.script.take().is_empty(), "a call is in progress");
    // It fails when the member has just looked whether one did.
    drop(last);
    rig.end_transaction();
    rig.settle().await;
    assert_eq!(rig.script.take()[0], "abort");
    assert_eq!(rig.wanted(&t0()), Lookup::Committed);
    assert_eq!(rig.wanted(&t1()), Lookup::Committed);
}

#[tokio::test]
async fn trap_c2_what_a_lane_handled_that_was_lost_meanwhile_is_not_committed() {
    let mut rig = Rig::open().await;
    rig.begin_at(&t0(), 5).await;
    rig.begin_at(&t1(), 5).await;
    rig.handle(&t1(), 6);
    // The call ends well after its partition has gone, and before it is dropped.
    let call = rig.call(&t0());
    rig.member.on_lost(&[t0()]);
    call.done(1);
    rig.pass(LATER);
    rig.settle().await;
    assert_eq!(rig.script.take()[0], "abort");
}

#[tokio::test]
async fn trap_c12_an_abort_does_not_go_back_to_where_an_earlier_assignment_began() {
    let mut rig = Rig::open().await;
    rig.assign(&t0());
    rig.found(&t0(), Lookup::Committed, 5, None).await;
    // Lost before its beginning was committed; the next owner came to 9.
    rig.member.on_lost(&[t0()]);
    rig.begin_at(&t0(), 9).await;
    drop(rig.call(&t0()));
    rig.settle().await;
    assert_eq!(rig.script.take()[0], "abort");
    assert_eq!(rig.wanted(&t0()), Lookup::Committed);
}

#[tokio::test]
async fn an_abort_goes_back_to_where_the_listener_had_the_partition_begin() {
    for committed in [None, Some(9)] {
        let mut rig = Rig::open().await;
        rig.assign(&t0());
        rig.found(&t0(), Lookup::Start(SeekTo::Beginning), 2, committed)
            .await;
        drop(rig.call(&t0()));
        rig.settle().await;
        assert_eq!(rig.script.take()[0], "abort");
        assert_eq!(rig.wanted(&t0()), Lookup::Start(SeekTo::Offset(2)));
    }
}

#[tokio::test]
async fn a_revocation_that_waits_for_the_end_of_a_commit_does_not_spin() {
    let mut rig = Rig::open().await;
    rig.begin_at(&t0(), 5).await;
    rig.handle(&t0(), 6);
    rig.pass(LATER);
    rig.script.next("commit", Instead::Hang);
    rig.settle().await;
    assert_eq!(rig.script.take(), ["t-0@6", "commit"]);
    rig.revoke(&[t0()]);
    rig.lane_ends(&t0());
    let (mut turns, end) = (0, rig.now + Duration::from_secs(120));
    while rig.now < end {
        assert!(rig.member.turn(rig.now).unwrap().is_continue());
        rig.now = rig.member.next_wake(rig.now).max(rig.now);
        turns += 1;
        assert!(turns < 1_000, "it spins");
    }
    // Its offset may still be committed: somebody else must not begin before that.
    assert!(rig.member.revocation.is_some());
}

#[tokio::test]
async fn trap_c14_a_beginning_that_is_found_while_a_commit_is_out_is_committed_next() {
    let mut rig = Rig::open().await;
    rig.begin_at(&t0(), 5).await;
    rig.handle(&t0(), 6);
    rig.pass(LATER);
    rig.transact();
    rig.assign(&t1());
    rig.found(&t1(), Lookup::Committed, 3, None).await;
    rig.settle().await;
    let steps = ["t-0@6", "commit", "begin", "t-1@3", "commit", "begin"];
    assert_eq!(rig.script.take(), steps);
}

#[tokio::test]
async fn what_was_committed_is_not_read_again_when_no_transaction_can_be_begun() {
    let mut rig = Rig::open().await;
    rig.begin_at(&t0(), 5).await;
    rig.handle(&t0(), 6);
    rig.pass(LATER);
    let refused = Instead::Fail(TransactErrorKind::Abortable);
    rig.script.next("begin", refused);
    let before = rig.owned(&t0()).incarnation;
    rig.settle().await;
    rig.pass(LATER);
    rig.settle().await;
    let steps = ["t-0@6", "commit", "begin", "abort", "begin"];
    assert_eq!(rig.script.take(), steps);
    assert_eq!(rig.owned(&t0()).incarnation, before);
}

#[tokio::test]
async fn after_an_unclear_commit_the_groups_offset_says_whether_the_beginning_holds() {
    let mut rig = Rig::open().await;
    rig.assign(&t0());
    let beginning = Lookup::Start(SeekTo::Beginning);
    rig.found(&t0(), beginning, 2, None).await;
    rig.handle(&t0(), 3);
    rig.pass(LATER);
    let unclear = Instead::Fail(TransactErrorKind::UnknownOutcome);
    rig.script.next("commit", unclear);
    rig.settle().await;
    assert_eq!(rig.script.take()[..3], ["t-0@3", "commit", "abort"]);
    assert_eq!(rig.wanted(&t0()), Lookup::Committed);
    let pin = rig.member.pins[&t0()];
    assert_eq!((pin.offset, pin.tried), (2, Some(3)));
}

#[tokio::test]
async fn no_call_begins_that_could_outlast_the_transaction() {
    let mut rig = Rig::open().await;
    rig.begin_at(&t0(), 5).await;
    rig.begin_at(&t1(), 5).await;
    let (patience, limit) = {
        let config = &rig.member.spec.config;
        (config.transaction_patience(), config.max_processing_time)
    };
    // A first call that takes all the time that it has.
    let first = rig.call(&t0());
    rig.pass(patience / 2);
    rig.settle().await;
    let (second, _) = rig.quiet_call(&t1());
    rig.pass(patience);
    rig.settle().await;
    assert!(!rig.may_call(&t1()), "with {limit:?} it would end too late");
    assert!(rig.script.take().is_empty());
    rig.done(&t1(), second, 6);
    rig.done(&t0(), first, 6);
    rig.settle().await;
    assert_eq!(rig.script.take(), ["t-0@6 t-1@6", "commit", "begin"]);
    // Calls that leave nothing behind do not make a transaction old.
    for _ in 0..3 {
        drop(rig.quiet_call(&t0()));
        rig.pass(patience);
        rig.settle().await;
    }
    assert!(rig.may_call(&t0()) && rig.script.take().is_empty());
}
