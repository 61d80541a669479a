//! Every row of the reaction table.

use super::*;
use ErrorCode as Code;

#[test]
fn codes_14_15_16_are_retried_with_growing_waits_and_say_everything() {
    for code in [
        Code::COORDINATOR_LOAD_IN_PROGRESS,
        Code::COORDINATOR_NOT_AVAILABLE,
        Code::NOT_COORDINATOR,
    ] {
        let (mut rig, mut out) = Rig::new().joining();
        let mut waits = Vec::new();
        for _ in 0..6 {
            rig.refuse(out, code);
            let before = rig.now;
            out = rig.beat().0;
            waits.push(rig.now - before);
        }
        assert!(waits[0] <= 120 && waits[5] >= 800, "{waits:?}");
        let mut rig = Rig::new().stable(&[0]);
        let (out, _) = rig.beat();
        rig.refuse(out, code);
        assert_eq!(rig.beat().1.owned, Some(wire(&[0])));
    }
}

#[test]
fn codes_110_and_25_lose_everything_and_join_at_once() {
    for code in [Code::FENCED_MEMBER_EPOCH, Code::UNKNOWN_MEMBER_ID] {
        let mut rig = Rig::new().stable(&[0]);
        let (out, _) = rig.beat();
        rig.refuse(out, code);
        rig.lost(&[0]);
        assert_eq!(rig.member.commit_identity(), None);
        let (out, join) = rig.request();
        assert_eq!((join.member_epoch, join.owned), (0, Some(vec![])));
        assert_eq!(join.topics, Some(vec!["t".into()]));
        rig.refuse(out, code);
        assert_eq!(rig.member.poll_request(), None, "no tight loop");
        rig.beat();
    }
}

#[test]
fn codes_111_82_30_42_81_112_are_fatal() {
    for code in [111, 82, 30, 42, 81, 112, 69].map(Code) {
        let (mut rig, out) = Rig::with(Some("i")).joining();
        rig.refuse(out, code);
        rig.is_fatal(refused(Operation::ConsumerHeartbeat, code));
        let mut rig = Rig::new().stable(&[0]);
        let (out, _) = rig.beat();
        rig.refuse(out, code);
        let partitions = tps(&[0]);
        assert_eq!(
            rig.member.poll_event(),
            Some(MembershipEvent::Lost { partitions })
        );
        rig.is_fatal(refused(Operation::ConsumerHeartbeat, code));
    }
}

#[test]
fn code_35_says_that_the_protocol_is_not_offered() {
    let (mut rig, out) = Rig::new().joining();
    rig.refuse(out, Code::UNSUPPORTED_VERSION);
    rig.is_fatal(MembershipError::NotOffered);
    let (mut rig, out) = Rig::new().joining();
    rig.input(Input::NotOffered { id: out });
    rig.is_fatal(MembershipError::NotOffered);
}

#[test]
fn a_commit_with_an_old_epoch_goes_again_with_the_newest() {
    for code in [Code::STALE_MEMBER_EPOCH, Code::UNSUPPORTED_VERSION] {
        let mut rig = Rig::new().stable(&[0]);
        let old = rig.member.commit_identity().unwrap();
        let verdict = rig.member.commit_result(&old, code, rig.now);
        assert_eq!(verdict, CommitVerdict::Retry);
        let (out, _) = rig.request();
        rig.fine(out, 2);
        let verdict = rig.member.commit_result(&old, code, rig.now);
        assert_eq!(verdict, CommitVerdict::Retry);
        rig.nothing();
        assert_eq!(rig.member.commit_identity().unwrap().generation, 2);
    }
}

#[test]
fn a_commit_of_a_forgotten_member_is_abandoned() {
    let mut rig = Rig::new().stable(&[0]);
    let identity = rig.member.commit_identity().unwrap();
    let code = Code::UNKNOWN_MEMBER_ID;
    let verdict = rig.member.commit_result(&identity, code, rig.now);
    assert_eq!(verdict, CommitVerdict::Abandoned);
    rig.lost(&[0]);
    assert_eq!(rig.request().1.member_epoch, 0);
    let late = rig
        .member
        .commit_result(&identity, Code::STALE_MEMBER_EPOCH, rig.now);
    assert_eq!(late, CommitVerdict::Abandoned, "nothing is owned");
}

#[test]
fn other_codes_of_a_commit() {
    let mut rig = Rig::new().stable(&[0]);
    let identity = rig.member.commit_identity().unwrap();
    for (code, verdict) in [
        (Code::NONE, CommitVerdict::Committed),
        (Code::NOT_COORDINATOR, CommitVerdict::Retry),
        (Code::OFFSET_METADATA_TOO_LARGE, CommitVerdict::Rejected),
        (Code::FENCED_INSTANCE_ID, CommitVerdict::Fatal),
        (Code::NOT_COORDINATOR, CommitVerdict::Abandoned),
    ] {
        let given = rig.member.commit_result(&identity, code, rig.now);
        assert_eq!(given, verdict, "{code}");
    }
    rig.is_fatal(refused(Operation::Commit, Code::FENCED_INSTANCE_ID));
}

#[test]
fn a_member_id_that_the_coordinator_made_is_used() {
    let (mut rig, out) = Rig::new().joining();
    let member_id = Some("from-the-broker".to_owned());
    rig.answer(
        out,
        ConsumerHeartbeatResponse {
            member_id,
            ..good(1, None)
        },
    );
    assert_eq!(rig.beat().1.member_id, "from-the-broker");
}
