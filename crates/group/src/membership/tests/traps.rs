//! Bugs that other clients had, by their number in the list of known traps.

use super::*;

#[test]
fn trap_c1_illegal_generation_on_a_commit_while_rebalancing_keeps_the_assignment() {
    let mut rig = Rig::cooperative().stable(&[0, 1]);
    rig.beat(ErrorCode::REBALANCE_IN_PROGRESS);
    let (id, _) = rig.join();
    let verdict = rig.commit(ErrorCode::ILLEGAL_GENERATION);
    assert_eq!(verdict, CommitVerdict::RetryAfterRebalance);
    rig.answer_join(id, 2);
    let (id, _) = rig.sync();
    let identity = rig.member.commit_identity().unwrap();
    assert_eq!(
        identity.generation, 1,
        "the assignment's, until the new one is known"
    );
    let verdict = rig.commit(ErrorCode::ILLEGAL_GENERATION);
    assert_eq!(verdict, CommitVerdict::RetryAfterRebalance);
    rig.answer_sync(id, &[0, 1]);
    let late = rig
        .member
        .commit_result(&identity, ErrorCode::ILLEGAL_GENERATION, rig.now);
    assert_eq!(late, CommitVerdict::Retry, "the rebalance is over");
    assert_eq!(rig.member.phase(), Phase::Stable);
    assert_eq!(rig.events().len(), 1, "nothing lost, nothing revoked");
    assert_eq!(rig.request(), None, "no rejoin");
    assert_eq!(rig.member.commit_identity().unwrap().generation, 2);
}

#[test]
fn trap_c1_a_refusal_that_a_new_assignment_overtook_does_not_wait_for_another() {
    use ErrorCode as Code;
    for code in [Code::ILLEGAL_GENERATION, Code::REBALANCE_IN_PROGRESS] {
        for rig in [Rig::cooperative(), Rig::eager()] {
            let mut rig = rig.stable(&[0]);
            let old = rig.member.commit_identity().unwrap();
            rig.pass(SESSION);
            rig.lost(&[0]);
            let late = rig.member.commit_result(&old, code, rig.now);
            assert_eq!(late, CommitVerdict::Abandoned, "nothing is owned");
            let (id, _) = rig.join();
            rig.answer_join(id, 2);
            let (id, _) = rig.sync();
            rig.answer_sync(id, &[0]);
            rig.events();
            let late = rig.member.commit_result(&old, code, rig.now);
            assert_eq!(late, CommitVerdict::Retry);
            assert_eq!((rig.member.phase(), rig.request()), (Phase::Stable, None));
        }
    }
}

#[test]
fn trap_c2_a_poll_expiry_is_a_loss_in_every_state() {
    let stable = Rig::cooperative().stable(&[0]);
    let mut joining = Rig::cooperative().stable(&[0]);
    joining.beat(ErrorCode::REBALANCE_IN_PROGRESS);
    let (join, _) = joining.join();
    let mut revoking = Rig::eager().stable(&[0]);
    revoking.beat(ErrorCode::REBALANCE_IN_PROGRESS);
    let revocation = revoking.revoked(&[0]);
    for mut rig in [stable, joining, revoking] {
        rig.input(Input::PollExpired);
        rig.lost(&[0]);
        assert_eq!(rig.member.commit_identity(), None);
        assert_eq!(rig.member.phase(), Phase::Stale);
        rig.leave();
        assert_eq!(rig.request(), None);
        rig.answer_join(join, 2);
        rig.acknowledge(revocation);
        rig.pass(BEAT);
        assert_eq!((rig.request(), rig.events()), (None, vec![]));
        rig.input(Input::Polled);
        assert_eq!(rig.join().1.member_id, "");
    }
}

#[test]
fn trap_c3_nothing_can_be_committed_for_what_was_revoked() {
    let mut rig = Rig::eager().stable(&[0]);
    rig.beat(ErrorCode::REBALANCE_IN_PROGRESS);
    let id = rig.revoked(&[0]);
    assert!(rig.member.owns(&tp(0)), "the last commit is still taken");
    rig.acknowledge(id);
    assert!(!rig.member.owns(&tp(0)));
    assert_eq!(rig.member.commit_identity(), None);
}

#[test]
fn trap_c12_a_commit_of_a_past_generation_is_not_sent_again_as_it_was() {
    let mut rig = Rig::eager().stable(&[0]);
    let past = rig.member.commit_identity().unwrap();
    rig.beat(ErrorCode::REBALANCE_IN_PROGRESS);
    let id = rig.revoked(&[0]);
    rig.acknowledge(id);
    let (id, _) = rig.join();
    rig.answer_join(id, 2);
    let (id, _) = rig.sync();
    rig.answer_sync(id, &[]);
    let late = rig
        .member
        .commit_result(&past, ErrorCode::ILLEGAL_GENERATION, rig.now);
    assert_eq!(late, CommitVerdict::Abandoned, "somebody else has it");
    assert_eq!(rig.member.phase(), Phase::Stable);
}

#[test]
fn trap_c13_pending_commits_go_out_before_the_generation_ends() {
    for closes in [false, true] {
        let mut rig = Rig::eager().stable(&[0]);
        match closes {
            true => rig.input(Input::Close),
            false => rig.beat(ErrorCode::REBALANCE_IN_PROGRESS),
        }
        let id = rig.revoked(&[0]);
        assert_eq!(rig.member.commit_identity().unwrap().generation, 1);
        assert_eq!(rig.commit(ErrorCode::NONE), CommitVerdict::Committed);
        assert!(
            !matches!(
                rig.request().map(|r| r.body),
                Some(RequestBody::Join(_) | RequestBody::Leave(_))
            ),
            "not before the application has committed"
        );
        rig.acknowledge(id);
        assert_eq!(rig.member.commit_identity(), None);
    }
}

#[test]
fn trap_c16_heartbeats_go_on_while_the_application_gives_up() {
    let mut rig = Rig::eager().stable(&[0]);
    rig.beat(ErrorCode::REBALANCE_IN_PROGRESS);
    let id = rig.revoked(&[0]);
    for _ in 0..15 {
        rig.beat(ErrorCode::REBALANCE_IN_PROGRESS);
    }
    assert_eq!(
        rig.events(),
        vec![],
        "five sessions later it is still a member"
    );
    rig.acknowledge(id);
    rig.join();
}

#[test]
fn giving_up_may_not_take_longer_than_the_rebalance() {
    let mut rig = Rig::eager().stable(&[0]);
    rig.beat(ErrorCode::REBALANCE_IN_PROGRESS);
    let id = rig.revoked(&[0]);
    for _ in 0..REBALANCE / BEAT - 2 {
        rig.beat(ErrorCode::REBALANCE_IN_PROGRESS);
    }
    rig.pass(BEAT);
    rig.lost(&[0]);
    rig.acknowledge(id);
    rig.join();
    assert_eq!(rig.request(), None);
}

#[test]
fn trap_c17_there_is_one_request_of_a_kind_at_a_time() {
    let (mut rig, _) = Rig::cooperative().joining();
    rig.pass(BEAT);
    assert_eq!(rig.request(), None);
    let mut rig = Rig::cooperative().stable(&[0]);
    rig.pass(BEAT);
    rig.heartbeat();
    rig.pass(BEAT);
    assert_eq!(rig.request(), None, "the first has no answer yet");
}

#[test]
fn trap_c18_an_unknown_member_stops_at_once() {
    let mut rig = Rig::eager().stable(&[0]);
    rig.beat(ErrorCode::REBALANCE_IN_PROGRESS);
    rig.revoked(&[0]);
    rig.beat(ErrorCode::UNKNOWN_MEMBER_ID);
    rig.lost(&[0]);
    assert_eq!(rig.member.commit_identity(), None);
    assert_eq!(rig.join().1.member_id, "");
}

#[test]
fn trap_c23_a_fenced_instance_is_fatal_and_a_lost_answer_does_not_fence_it() {
    let mut rig = Rig::with(Assignor::Range, Some("i"));
    rig.subscribe(&["t"]);
    let (first, _) = rig.join();
    rig.input(Input::Failed { id: first });
    rig.back_off();
    let (second, join) = rig.join();
    assert_eq!(join.member_id, "", "no id is known, so none can be fenced");
    rig.answer_join_error(first, ErrorCode::FENCED_INSTANCE_ID, "");
    assert_eq!(
        rig.member.phase(),
        Phase::Joining,
        "the answer to the lost one is stale"
    );
    rig.answer_join(second, 1);
    assert_eq!(rig.member.member_id(), Some("m1"));
    let (id, _) = rig.sync();
    rig.answer_sync(id, &[0]);
    rig.events();
    rig.beat(ErrorCode::FENCED_INSTANCE_ID);
    rig.is_fatal(Operation::Heartbeat, ErrorCode::FENCED_INSTANCE_ID);
}

#[test]
fn without_an_answered_heartbeat_the_partitions_are_lost_after_the_session() {
    let mut rig = Rig::cooperative().stable(&[0]);
    rig.beat(ErrorCode::NONE);
    let good = rig.now;
    rig.pass(BEAT);
    rig.heartbeat();
    rig.pass(SESSION - BEAT - 1);
    assert_eq!((rig.now - good, rig.events()), (SESSION - 1, vec![]));
    rig.pass(1);
    rig.lost(&[0]);
    assert_eq!(rig.join().1.member_id, "m1");
}

/// Kafka answers a follower that joins with the metadata that it has with the generation that it
/// has: a transaction of that generation, begun before the loss, could still commit.
#[test]
fn trap_c12_after_a_loss_the_join_differs_from_the_one_before() {
    for rig in [Rig::cooperative(), Rig::eager()] {
        let (mut rig, id) = rig.joining();
        let metadata = |rig: &mut Rig| {
            let (id, join) = rig.join();
            let metadata = join.protocols.into_iter().map(|(_, metadata)| metadata);
            (id, metadata.collect::<Vec<_>>())
        };
        rig.input(Input::Failed { id });
        rig.pass(SESSION);
        let (mut id, mut before) = metadata(&mut rig);
        for generation in 1..=3 {
            rig.answer_join(id, generation);
            let (sync, _) = rig.sync();
            rig.answer_sync(sync, &[0]);
            rig.pass(SESSION);
            let (next, after) = metadata(&mut rig);
            for (before, after) in before.iter().zip(&after) {
                assert_ne!(before, after, "after generation {generation}");
            }
            // A join that is only repeated stays as it is.
            rig.input(Input::Failed { id: next });
            rig.pass(SESSION);
            let (next, again) = metadata(&mut rig);
            assert_eq!(after, again);
            (id, before) = (next, again);
        }
    }
}

#[test]
fn an_answer_that_comes_after_the_session_does_not_renew_it() {
    let mut rig = Rig::cooperative().stable(&[0]);
    rig.pass(BEAT);
    let (id, _) = rig.heartbeat();
    rig.now += SESSION;
    rig.respond(id, ResponseBody::Heartbeat(ErrorCode::NONE));
    rig.lost(&[0]);
}

#[test]
fn a_join_that_waits_for_others_does_not_cost_the_session() {
    let mut rig = Rig::cooperative().stable(&[0]);
    rig.beat(ErrorCode::REBALANCE_IN_PROGRESS);
    let (id, _) = rig.join();
    rig.pass(3 * SESSION);
    assert_eq!(rig.events(), vec![]);
    rig.answer_join(id, 2);
    let (id, _) = rig.sync();
    rig.answer_sync(id, &[0]);
    assert_eq!(rig.events().len(), 1);
}

#[test]
fn a_join_that_broke_after_the_session_costs_the_partitions() {
    let mut rig = Rig::cooperative().stable(&[0]);
    rig.beat(ErrorCode::REBALANCE_IN_PROGRESS);
    let (id, _) = rig.join();
    rig.pass(2 * SESSION);
    rig.input(Input::Failed { id });
    rig.lost(&[0]);
}
