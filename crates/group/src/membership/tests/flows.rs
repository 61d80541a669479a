//! Whole flows: leading, cooperative hand-over, subscriptions, closing, static members.

use super::*;

fn assigned(generation: i32, added: &[i32], all: &[i32]) -> MembershipEvent {
    MembershipEvent::Assigned {
        generation,
        added: tps(added),
        all: tps(all),
    }
}

/// A leader with a sync out in generation 1.
fn leading() -> (Rig, RequestId) {
    let (mut rig, id) = Rig::cooperative().joining();
    rig.respond_join(id, 1, "m1", vec![joins("m1", &[]), joins("m2", &[])]);
    assert_eq!(
        rig.one_event(),
        MembershipEvent::NeedMetadata {
            topics: vec!["t".into()]
        }
    );
    rig.input(Input::Metadata { counts: counts(4) });
    let (id, sync) = rig.sync();
    assert_eq!(sync.assignments.len(), 2);
    let first = Assignment::decode(&sync.assignments[0].1).unwrap();
    assert_eq!(first.partitions, tps(&[0, 2]));
    (rig, id)
}

#[test]
fn the_leader_asks_for_metadata_and_assigns() {
    let (mut rig, id) = leading();
    rig.answer_sync(id, &[0, 2]);
    assert_eq!(rig.events(), vec![assigned(1, &[0, 2], &[0, 2])]);
    assert!(rig.member.is_leader());
    assert_eq!(rig.member.watched_topics(), vec![Arc::from("t")]);
}

#[test]
fn the_leader_beats_while_it_waits_for_metadata_and_asks_again() {
    let (mut rig, id) = Rig::cooperative().joining();
    rig.respond_join(id, 1, "m1", vec![joins("m1", &[])]);
    rig.events();
    rig.beat(ErrorCode::NONE);
    rig.input(Input::MetadataFailed);
    rig.back_off();
    assert!(matches!(
        rig.one_event(),
        MembershipEvent::NeedMetadata { .. }
    ));
    rig.input(Input::Metadata { counts: counts(0) });
    let (_, sync) = rig.sync();
    let none = Assignment::decode(&sync.assignments[0].1).unwrap();
    assert_eq!(none.partitions, vec![], "the topic does not exist yet");
}

#[test]
fn a_member_whose_subscription_cannot_be_read_gets_nothing() {
    let (mut rig, id) = Rig::cooperative().joining();
    let mut broken = joins("m2", &[]);
    broken.metadata = bytes::Bytes::from_static(&[0, 1, 0x7f]);
    rig.respond_join(id, 1, "m1", vec![joins("m1", &[]), broken]);
    rig.input(Input::Metadata { counts: counts(2) });
    let (_, sync) = rig.sync();
    let sizes = sync
        .assignments
        .iter()
        .map(|(_, a)| Assignment::decode(a).unwrap().partitions);
    assert_eq!(sizes.map(|p| p.len()).collect::<Vec<_>>(), [2, 0]);
}

#[test]
fn growth_of_a_topic_makes_the_leader_rejoin() {
    let (mut rig, id) = leading();
    rig.answer_sync(id, &[0, 2]);
    rig.events();
    rig.input(Input::Metadata { counts: counts(4) });
    assert_eq!(rig.request(), None);
    rig.input(Input::Metadata { counts: counts(6) });
    assert_eq!(
        rig.join().1.reason.as_deref(),
        Some("topics have more partitions")
    );
}

#[test]
fn growth_during_the_sync_is_not_forgotten() {
    let (mut rig, id) = leading();
    rig.input(Input::Metadata { counts: counts(5) });
    rig.answer_sync(id, &[0, 2]);
    rig.join();
}

#[test]
fn growth_does_not_move_a_follower() {
    let mut rig = Rig::cooperative().stable(&[0]);
    rig.input(Input::Metadata { counts: counts(9) });
    assert_eq!(rig.request(), None);
}

#[test]
fn a_cooperative_member_gives_up_what_it_must_then_rejoins() {
    let mut rig = Rig::cooperative().stable(&[0, 1]);
    rig.beat(ErrorCode::REBALANCE_IN_PROGRESS);
    let (id, join) = rig.join();
    let claim = Subscription::decode(&join.protocols[0].1).unwrap();
    assert_eq!((claim.owned, claim.generation), (tps(&[0, 1]), Some(1)));
    assert_eq!(claim.user_data.as_deref(), Some(&[0, 0, 0, 1][..]));
    rig.answer_join(id, 2);
    let (id, _) = rig.sync();
    rig.answer_sync(id, &[1, 2]);
    let events = rig.events();
    let MembershipEvent::Revoked { id, partitions } = &events[0] else {
        panic!("{events:?}");
    };
    assert_eq!(*partitions, tps(&[0]));
    assert_eq!(events[1], assigned(2, &[2], &[1, 2]));
    assert!(rig.member.owns(&tp(0)) && rig.member.owns(&tp(2)));
    rig.acknowledge(*id);
    assert!(!rig.member.owns(&tp(0)));
    let (_, join) = rig.join();
    let claim = Subscription::decode(&join.protocols[0].1).unwrap();
    assert_eq!((claim.owned, claim.generation), (tps(&[1, 2]), Some(2)));
}

#[test]
fn a_claim_that_was_lost_in_the_meantime_still_leads_to_a_second_round() {
    let mut rig = Rig::cooperative().stable(&[0, 1]);
    rig.beat(ErrorCode::REBALANCE_IN_PROGRESS);
    let (id, _) = rig.join();
    rig.pass(REBALANCE);
    rig.lost(&[0, 1]);
    rig.answer_join(id, 2);
    let (id, _) = rig.sync();
    rig.answer_sync(id, &[0]);
    assert_eq!(rig.events(), vec![assigned(2, &[0], &[0])]);
    rig.join();
}

#[test]
fn topics_that_are_not_wanted_any_more_are_revoked_before_the_join() {
    let mut rig = Rig::cooperative().stable(&[0]);
    rig.subscribe(&["u"]);
    let id = rig.revoked(&[0]);
    assert_eq!(rig.request(), None);
    rig.acknowledge(id);
    let claim = Subscription::decode(&rig.join().1.protocols[0].1).unwrap();
    assert_eq!((claim.topics, claim.owned), (vec![Arc::from("u")], vec![]));
}

#[test]
fn a_subscription_that_changes_during_a_join_is_joined_afterwards() {
    let (mut rig, id) = Rig::cooperative().joining();
    rig.subscribe(&["u"]);
    rig.answer_join(id, 1);
    let (id, _) = rig.sync();
    rig.answer_sync(id, &[0]);
    assert_eq!(
        rig.events(),
        vec![assigned(1, &[], &[])],
        "t is not wanted any more"
    );
    let claim = Subscription::decode(&rig.join().1.protocols[0].1).unwrap();
    assert_eq!(claim.topics, vec![Arc::from("u")]);
}

#[test]
fn no_topics_mean_leaving_until_there_are_some() {
    let mut rig = Rig::cooperative().stable(&[0]);
    rig.subscribe(&[]);
    let id = rig.revoked(&[0]);
    rig.acknowledge(id);
    assert_eq!(rig.member.phase(), Phase::Unsubscribed);
    rig.leave();
    assert_eq!(rig.request(), None);
    rig.subscribe(&["t"]);
    assert_eq!(rig.join().1.member_id, "");
}

#[test]
fn closing_revokes_then_leaves_then_says_so() {
    for answered in [true, false] {
        let mut rig = Rig::eager().stable(&[0]);
        rig.input(Input::Close);
        let id = rig.revoked(&[0]);
        assert!(rig.member.commit_identity().is_some(), "the last commit");
        assert_eq!(rig.request(), None);
        rig.acknowledge(id);
        assert_eq!(rig.member.commit_identity(), None);
        let id = rig.leave();
        assert_eq!(rig.events(), vec![]);
        if answered {
            rig.respond(id, ResponseBody::Leave(ErrorCode::UNKNOWN_MEMBER_ID));
        } else {
            rig.input(Input::Failed { id });
        }
        assert_eq!(rig.events(), vec![MembershipEvent::Left]);
        assert_eq!((rig.request(), rig.member.next_timeout()), (None, None));
    }
}

#[test]
fn a_second_close_does_not_wait_for_the_application() {
    let mut rig = Rig::eager().stable(&[0]);
    rig.input(Input::Close);
    let id = rig.revoked(&[0]);
    rig.input(Input::Close);
    rig.lost(&[0]);
    rig.leave();
    rig.acknowledge(id);
    assert_eq!(rig.member.phase(), Phase::Leaving);
}

#[test]
fn closing_before_the_first_join_ends_at_once() {
    let mut rig = Rig::eager();
    rig.input(Input::Close);
    assert_eq!(rig.events(), vec![MembershipEvent::Left]);
    let mut rig = Rig::eager();
    rig.subscribe(&["t"]);
    rig.join();
    rig.input(Input::Close);
    assert_eq!(
        (rig.events(), rig.request()),
        (vec![MembershipEvent::Left], None)
    );
}

#[test]
fn closing_during_a_revocation_replaces_it() {
    let mut rig = Rig::cooperative().stable(&[0, 1]);
    rig.subscribe(&["t", "u"]);
    let (id, _) = rig.join();
    rig.answer_join(id, 2);
    let (id, _) = rig.sync();
    rig.answer_sync(id, &[0]);
    let events = rig.events();
    let MembershipEvent::Revoked { id: old, .. } = events[0] else {
        panic!("{events:?}");
    };
    rig.input(Input::Close);
    let new = rig.revoked(&[0, 1]);
    rig.acknowledge(old);
    assert_eq!(rig.member.phase(), Phase::Revoking);
    rig.acknowledge(new);
    rig.leave();
}

/// The coordinator takes the last commit in the old generation until the new one begins, and then only
/// in the new one, from a member that has its assignment.
#[test]
fn closing_in_a_cooperative_rebalance_gets_to_a_generation_that_takes_commits() {
    let mut rig = Rig::cooperative().stable(&[0, 1]);
    rig.beat(ErrorCode::REBALANCE_IN_PROGRESS);
    let (id, _) = rig.join();
    rig.input(Input::Close);
    let revoked = rig.revoked(&[0, 1]);
    let generation = |rig: &Rig| rig.member.commit_identity().unwrap().generation;
    assert_eq!(generation(&rig), 1);
    rig.answer_join(id, 2);
    let refused = rig.commit(ErrorCode::ILLEGAL_GENERATION);
    assert_eq!(refused, CommitVerdict::RetryAfterRebalance);
    let (id, sync) = rig.sync();
    assert_eq!(sync.generation, 2);
    rig.answer_sync(id, &[0, 7]);
    assert_eq!((rig.events(), generation(&rig)), (vec![], 2));
    assert!(rig.member.owns(&tp(1)), "until it is acknowledged");
    rig.beat(ErrorCode::REBALANCE_IN_PROGRESS);
    assert_eq!(rig.request(), None, "no other join");
    rig.acknowledge(revoked);
    let id = rig.leave();
    rig.respond(id, ResponseBody::Leave(ErrorCode::NONE));
    assert_eq!(rig.events(), vec![MembershipEvent::Left]);
}

#[test]
fn closing_in_a_rebalance_does_not_wait_for_it() {
    // What is done with what is owned, while the join is out; whether it is lost.
    type End = fn(&mut Rig, RevocationId);
    let ends: [(End, bool); 5] = [
        (|rig, id| rig.acknowledge(id), false),
        (|rig, _| rig.input(Input::Close), true),
        (|rig, _| rig.input(Input::PollExpired), true),
        (|rig, _| rig.pass(REBALANCE), true),
        (
            |rig, _| {
                rig.commit(ErrorCode::UNKNOWN_MEMBER_ID);
            },
            true,
        ),
    ];
    for (at, (end, is_lost)) in ends.into_iter().enumerate() {
        let mut rig = Rig::cooperative().stable(&[0]);
        rig.beat(ErrorCode::REBALANCE_IN_PROGRESS);
        rig.join();
        rig.input(Input::Close);
        let id = rig.revoked(&[0]);
        end(&mut rig, id);
        let events = rig.events();
        assert!(
            events
                .iter()
                .all(|e| matches!(e, MembershipEvent::Lost { .. }) || *e == MembershipEvent::Left),
            "{at}: {events:?}"
        );
        assert_eq!(
            events.len() > usize::from(rig.member.phase() == Phase::Left),
            is_lost,
            "{at}"
        );
        assert!(
            matches!(rig.member.phase(), Phase::Leaving | Phase::Left),
            "{at}"
        );
        assert_eq!(rig.member.commit_identity(), None);
        rig.acknowledge(id);
    }
}

#[test]
fn a_static_member_does_not_leave_and_keeps_its_id() {
    let mut rig = Rig::with(Assignor::Range, Some("i")).stable(&[0]);
    rig.input(Input::PollExpired);
    rig.lost(&[0]);
    assert_eq!(rig.request(), None);
    rig.input(Input::Polled);
    let (_, join) = rig.join();
    assert_eq!(
        (join.member_id.as_str(), join.instance_id.as_deref()),
        ("m1", Some("i"))
    );
    rig.input(Input::Close);
    assert_eq!(
        (rig.events(), rig.request()),
        (vec![MembershipEvent::Left], None)
    );
}

#[test]
fn a_static_leader_that_came_back_leaves_the_assignment_alone() {
    let (mut rig, id) = Rig::with(Assignor::Range, Some("i")).joining();
    let answer = JoinGroupResponse {
        error: ErrorCode::NONE,
        generation: 5,
        protocol: Some("range".to_owned()),
        leader: "m1".to_owned(),
        member_id: "m1".to_owned(),
        members: vec![joins("m1", &[])],
        skip_assignment: true,
    };
    rig.respond(id, ResponseBody::Join(answer));
    let (id, sync) = rig.sync();
    assert_eq!(sync.assignments, vec![]);
    rig.answer_sync(id, &[0]);
    assert_eq!(rig.events(), vec![assigned(5, &[0], &[0])]);
    rig.input(Input::Metadata { counts: counts(1) });
    assert_eq!(rig.request(), None, "the first counts are the base");
    rig.input(Input::Metadata { counts: counts(2) });
    rig.revoked(&[0]);
}

#[test]
fn answers_to_earlier_or_unknown_requests_are_ignored() {
    let (mut rig, first) = Rig::cooperative().joining();
    rig.input(Input::Failed { id: first });
    rig.back_off();
    let (second, _) = rig.join();
    rig.answer_join(first, 1);
    assert_eq!(rig.member.phase(), Phase::Joining);
    rig.answer_join(second, 2);
    rig.answer_join(second, 2);
    let (sync, _) = rig.sync();
    rig.answer_sync(sync, &[0]);
    rig.answer_sync(sync, &[5]);
    rig.input(Input::Failed { id: sync });
    assert_eq!(rig.events(), vec![assigned(2, &[0], &[0])]);
    assert_eq!(rig.member.generation(), Some(2));
}

#[test]
fn an_answer_of_the_wrong_kind_is_a_failure() {
    let (mut rig, id) = Rig::cooperative().joining();
    rig.respond(id, ResponseBody::Heartbeat(ErrorCode::NONE));
    rig.back_off();
    rig.join();
}
