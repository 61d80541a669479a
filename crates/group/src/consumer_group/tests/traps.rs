//! Bugs that other clients had, by their number in the list of known traps.

use super::*;
use ErrorCode as Code;

#[test]
fn trap_c2_c10_a_poll_expiry_loses_everything_and_leaves_with_the_right_epoch() {
    for (instance, epoch) in [(None, -1), (Some("i"), -2)] {
        let stable = Rig::with(instance).stable(&[0]);
        let mut revoking = Rig::with(instance).stable(&[0]);
        let (out, _) = revoking.beat();
        revoking.assign(out, 1, &[]);
        let revocation = revoking.revoked(&[0]);
        for mut rig in [stable, revoking] {
            rig.input(Input::PollExpired);
            rig.lost(&[0]);
            assert_eq!(rig.member.commit_identity(), None);
            let (out, leave) = rig.request();
            assert_eq!(leave.member_epoch, epoch);
            rig.acknowledge(revocation);
            rig.pass(10 * BEAT);
            rig.nothing();
            rig.input(Input::Polled);
            rig.fine(out, epoch);
            let (_, join) = rig.request();
            assert_eq!((join.member_epoch, &*join.member_id), (0, "m1"));
        }
    }
}

#[test]
fn trap_c10_a_permanent_error_is_not_retried() {
    let mut rig = Rig::new().stable(&[0]);
    let (out, _) = rig.beat();
    rig.refuse(out, Code::GROUP_AUTHORIZATION_FAILED);
    let code = Code::GROUP_AUTHORIZATION_FAILED;
    rig.is_fatal(refused(Operation::ConsumerHeartbeat, code));
}

#[test]
fn trap_c11_a_stale_epoch_asks_for_the_newest_instead_of_giving_up() {
    let mut rig = Rig::new().stable(&[0]);
    let old = rig.member.commit_identity().unwrap();
    let verdict = rig
        .member
        .commit_result(&old, Code::STALE_MEMBER_EPOCH, rig.now);
    assert_eq!(verdict, CommitVerdict::Retry);
    assert_eq!(rig.events(), vec![], "nothing is lost");
    let (out, _) = rig.request();
    rig.fine(out, 5);
    assert_eq!(rig.member.commit_identity().unwrap().generation, 5);
}

#[test]
fn trap_c12_a_late_refusal_of_a_past_epoch_does_not_end_the_present_one() {
    let mut rig = Rig::new().stable(&[0]);
    let old = rig.member.commit_identity().unwrap();
    let (out, _) = rig.beat();
    rig.fine(out, 2);
    let late = rig
        .member
        .commit_result(&old, Code::UNKNOWN_MEMBER_ID, rig.now);
    assert_eq!(late, CommitVerdict::Retry);
    assert!(rig.member.owns(&tps(&[0])[0]));
}

#[test]
fn trap_c16_heartbeats_go_on_while_the_application_gives_up() {
    let mut rig = Rig::new().stable(&[0]);
    let (out, _) = rig.beat();
    rig.assign(out, 1, &[]);
    let revocation = rig.revoked(&[0]);
    for _ in 0..15 {
        let (out, _) = rig.beat();
        rig.fine(out, 1);
    }
    rig.nothing();
    rig.acknowledge(revocation);
    assert_eq!(rig.request().1.owned, Some(vec![]));
}

#[test]
fn giving_up_may_not_take_longer_than_the_rebalance() {
    let mut rig = Rig::new().stable(&[0, 1]);
    let (out, _) = rig.beat();
    rig.assign(out, 1, &[1]);
    rig.revoked(&[0]);
    for _ in 0..REBALANCE / BEAT - 1 {
        let (out, _) = rig.beat();
        rig.fine(out, 1);
    }
    rig.pass(2 * BEAT);
    rig.lost(&[0, 1]);
}

#[test]
fn trap_c17_there_is_one_heartbeat_at_a_time() {
    let mut rig = Rig::new().stable(&[0]);
    let (out, _) = rig.beat();
    rig.subscribe(&["t", "u"]);
    rig.pass(BEAT);
    rig.nothing();
    rig.fine(out, 1);
    assert!(
        rig.request().1.topics.is_some(),
        "the change waited for the answer"
    );
}

#[test]
fn trap_c18_an_unknown_member_stops_at_once_also_while_it_gives_up() {
    let mut rig = Rig::new().stable(&[0]);
    let (out, _) = rig.beat();
    rig.assign(out, 1, &[]);
    rig.revoked(&[0]);
    let (out, _) = rig.beat();
    rig.refuse(out, Code::UNKNOWN_MEMBER_ID);
    rig.lost(&[0]);
    assert_eq!(rig.request().1.member_epoch, 0);
}

#[test]
fn trap_c22_a_topic_is_consumed_once_its_name_is_known_however_late() {
    let (mut rig, out) = Rig::new().joining();
    rig.answer(
        out,
        good(1, Some(vec![(id("t"), vec![0]), (id("u"), vec![1])])),
    );
    let asks = |rig: &mut Rig, wanted: &[&str]| {
        let ids = wanted.iter().map(|t| id(t)).collect();
        let event = rig.events().pop();
        assert_eq!(event, Some(MembershipEvent::NeedTopicNames { ids }));
    };
    asks(&mut rig, &["t", "u"]);
    let names = BTreeMap::from([(id("t"), "t".into())]);
    rig.input(Input::TopicNames { names });
    rig.assigned(&[0], &[0]);
    let (out, _) = rig.request();
    rig.fine(out, 1);
    rig.pass(200);
    asks(&mut rig, &["u"]);
    rig.input(Input::MetadataFailed);
    rig.pass(200);
    asks(&mut rig, &["u"]);
    let names = BTreeMap::from([(id("u"), "u".into())]);
    rig.input(Input::TopicNames { names });
    let added = vec![TopicPartition::new("u", 1)];
    let all = vec![TopicPartition::new("t", 0), added[0].clone()];
    let generation = 1;
    let assigned = MembershipEvent::Assigned {
        generation,
        added,
        all,
    };
    assert_eq!(rig.one_event(), assigned);
    let owned = rig.member.owned().count();
    assert_eq!(owned, 2);
}

#[test]
fn trap_c23_a_fenced_instance_is_fatal() {
    let mut rig = Rig::with(Some("i")).stable(&[0]);
    let (out, _) = rig.beat();
    rig.refuse(out, Code::FENCED_INSTANCE_ID);
    let code = Code::FENCED_INSTANCE_ID;
    rig.is_fatal(refused(Operation::ConsumerHeartbeat, code));
}

#[test]
fn trap_c23_a_lost_join_reply_does_not_fence_the_static_member_against_itself() {
    let (mut rig, out) = Rig::with(Some("i")).joining();
    rig.input(Input::Failed { id: out });
    let (out, again) = rig.beat();
    assert_eq!(again.member_epoch, 0);
    rig.refuse(out, Code::UNRELEASED_INSTANCE_ID);
    let (out, release) = rig.request();
    assert_eq!(release.member_epoch, LEAVE_STATIC_EPOCH);
    rig.fine(out, LEAVE_STATIC_EPOCH);
    let (out, join) = rig.beat();
    assert_eq!(join.member_epoch, 0);
    rig.assign(out, 2, &[]);
    assert_eq!(rig.member.phase(), Phase::Stable);
}

#[test]
fn trap_c23_a_place_that_somebody_else_took_is_fatal() {
    let (mut rig, out) = Rig::with(Some("i")).joining();
    rig.input(Input::Failed { id: out });
    let (out, _) = rig.beat();
    rig.refuse(out, Code::UNRELEASED_INSTANCE_ID);
    let (out, _) = rig.request();
    rig.refuse(out, Code::FENCED_INSTANCE_ID);
    let (out, join) = rig.beat();
    assert_eq!(join.member_epoch, 0, "the other one may have released it");
    rig.refuse(out, Code::UNRELEASED_INSTANCE_ID);
    let code = Code::UNRELEASED_INSTANCE_ID;
    rig.is_fatal(refused(Operation::ConsumerHeartbeat, code));
}

#[test]
fn trap_c23_a_static_member_that_was_away_too_long_releases_its_place_before_it_joins() {
    let mut rig = Rig::with(Some("i")).stable(&[0]);
    let (out, _) = rig.beat();
    rig.pass(SESSION);
    rig.lost(&[0]);
    let (release, request) = rig.request();
    assert_eq!(request.member_epoch, LEAVE_STATIC_EPOCH);
    assert_eq!(rig.member.poll_request(), None);
    rig.fine(out, 1);
    assert_eq!(rig.member.epoch(), None, "the answer comes too late");
    rig.input(Input::Failed { id: release });
    let (release, _) = rig.beat();
    rig.fine(release, LEAVE_STATIC_EPOCH);
    assert_eq!(rig.request().1.member_epoch, 0);
}

#[test]
fn without_an_answered_heartbeat_the_partitions_are_lost_after_the_session() {
    let mut rig = Rig::new().stable(&[0]);
    let (out, _) = rig.beat();
    rig.pass(SESSION - BEAT);
    rig.lost(&[0]);
    assert_eq!(rig.request().1.member_epoch, 0);
    rig.fine(out, 1);
    rig.nothing();
}
