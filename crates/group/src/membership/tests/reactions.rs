//! The table of reactions, a test a row; each says which columns it covers.

use super::*;

const RETRIED: [ErrorCode; 3] = [
    ErrorCode::COORDINATOR_LOAD_IN_PROGRESS,
    ErrorCode::COORDINATOR_NOT_AVAILABLE,
    ErrorCode::NOT_COORDINATOR,
];

#[test]
fn codes_14_15_16_are_retried_after_a_back_off() {
    for code in RETRIED {
        let (mut rig, id) = Rig::cooperative().joining();
        rig.answer_join_error(id, code, "");
        rig.back_off();
        assert_eq!(rig.join().1.member_id, "m1");

        let (mut rig, id) = Rig::cooperative().syncing();
        rig.answer_sync_error(id, code);
        rig.back_off();
        assert_eq!(rig.sync().1.generation, 1);

        let mut rig = Rig::cooperative().stable(&[0]);
        rig.beat(code);
        rig.back_off();
        rig.heartbeat();
        assert_eq!(rig.events(), vec![]);

        let mut rig = Rig::cooperative().stable(&[0]);
        assert_eq!(rig.commit(code), CommitVerdict::Retry);
        assert_eq!(rig.member.phase(), Phase::Stable);
    }
    let mut rig = Rig::cooperative().stable(&[0]);
    assert_eq!(
        rig.commit(ErrorCode::REQUEST_TIMED_OUT),
        CommitVerdict::Retry
    );
}

#[test]
fn code_22_rejoins_with_the_same_id() {
    for rig in [Rig::cooperative(), Rig::eager()] {
        let (mut rig, id) = rig.syncing();
        rig.answer_sync_error(id, ErrorCode::ILLEGAL_GENERATION);
        assert_eq!(rig.join().1.member_id, "m1");
    }
    let mut rig = Rig::cooperative().stable(&[0]);
    rig.beat(ErrorCode::ILLEGAL_GENERATION);
    assert_eq!(
        rig.events(),
        vec![],
        "a cooperative member keeps what it has"
    );
    let (_, join) = rig.join();
    let claimed = Subscription::decode(&join.protocols[0].1).unwrap();
    assert_eq!((join.member_id.as_str(), claimed.owned), ("m1", tps(&[0])));

    let mut rig = Rig::eager().stable(&[0]);
    rig.beat(ErrorCode::ILLEGAL_GENERATION);
    rig.lost(&[0]);
    assert_eq!(rig.join().1.member_id, "m1");

    let mut rig = Rig::eager().stable(&[0]);
    assert_eq!(
        rig.commit(ErrorCode::ILLEGAL_GENERATION),
        CommitVerdict::Abandoned
    );
    rig.lost(&[0]);
    assert_eq!(rig.join().1.member_id, "m1");

    let mut rig = Rig::cooperative().stable(&[0]);
    let verdict = rig.commit(ErrorCode::ILLEGAL_GENERATION);
    assert_eq!(verdict, CommitVerdict::RetryAfterRebalance);
    assert_eq!(rig.join().1.member_id, "m1");
}

#[test]
fn codes_22_and_25_are_ignored_once_the_generation_moved_on() {
    for code in [ErrorCode::ILLEGAL_GENERATION, ErrorCode::UNKNOWN_MEMBER_ID] {
        let mut rig = Rig::cooperative().stable(&[0]);
        rig.pass(BEAT);
        let (old, _) = rig.heartbeat();
        rig.subscribe(&["t", "u"]);
        let (id, _) = rig.join();
        rig.respond(old, ResponseBody::Heartbeat(code));
        rig.answer_join(id, 2);
        let (id, _) = rig.sync();
        rig.answer_sync(id, &[0]);
        rig.respond(old, ResponseBody::Heartbeat(code));
        assert_eq!((rig.member.phase(), rig.events().len()), (Phase::Stable, 1));
    }
}

#[test]
fn code_25_clears_the_id_loses_everything_and_rejoins() {
    let (mut rig, id) = Rig::cooperative().joining();
    rig.answer_join_error(id, ErrorCode::UNKNOWN_MEMBER_ID, "");
    rig.back_off();
    assert_eq!(rig.join().1.member_id, "");

    let (mut rig, id) = Rig::cooperative().syncing();
    rig.answer_sync_error(id, ErrorCode::UNKNOWN_MEMBER_ID);
    assert_eq!(rig.join().1.member_id, "");

    let mut rig = Rig::cooperative().stable(&[0, 1]);
    rig.beat(ErrorCode::UNKNOWN_MEMBER_ID);
    rig.lost(&[0, 1]);
    assert_eq!(rig.join().1.member_id, "");

    let mut rig = Rig::cooperative().stable(&[0]);
    assert_eq!(
        rig.commit(ErrorCode::UNKNOWN_MEMBER_ID),
        CommitVerdict::Abandoned
    );
    rig.lost(&[0]);
    assert_eq!(rig.join().1.member_id, "");
}

#[test]
fn code_25_on_a_commit_of_an_earlier_id_is_ignored() {
    let mut rig = Rig::cooperative().stable(&[0]);
    let mut old = rig.member.commit_identity().unwrap();
    old.member_id = "m0".to_owned();
    let verdict = rig
        .member
        .commit_result(&old, ErrorCode::UNKNOWN_MEMBER_ID, rig.now);
    assert_eq!(verdict, CommitVerdict::Retry);
    assert_eq!((rig.member.phase(), rig.events()), (Phase::Stable, vec![]));
}

#[test]
fn code_27_is_retried_by_join_and_rejoins_otherwise() {
    let (mut rig, id) = Rig::cooperative().joining();
    rig.answer_join_error(id, ErrorCode::REBALANCE_IN_PROGRESS, "");
    rig.back_off();
    assert_eq!(rig.join().1.member_id, "m1");

    let (mut rig, id) = Rig::cooperative().syncing();
    rig.answer_sync_error(id, ErrorCode::REBALANCE_IN_PROGRESS);
    assert_eq!(rig.join().1.member_id, "m1");

    let mut rig = Rig::cooperative().stable(&[0]);
    rig.beat(ErrorCode::REBALANCE_IN_PROGRESS);
    assert_eq!(rig.events(), vec![]);
    assert_eq!(rig.join().1.member_id, "m1");

    let mut rig = Rig::cooperative().stable(&[0]);
    let verdict = rig.commit(ErrorCode::REBALANCE_IN_PROGRESS);
    assert_eq!(verdict, CommitVerdict::RetryAfterRebalance);
    assert_eq!(rig.join().1.member_id, "m1");

    let mut rig = Rig::eager().stable(&[0]);
    rig.beat(ErrorCode::REBALANCE_IN_PROGRESS);
    let revocation = rig.revoked(&[0]);
    assert_eq!(rig.request(), None, "not before the application gave up");
    rig.acknowledge(revocation);
    assert_eq!(rig.join().1.member_id, "m1");
}

#[test]
fn code_27_on_a_heartbeat_is_no_news_unless_stable() {
    let mut rig = Rig::eager().stable(&[0]);
    rig.beat(ErrorCode::REBALANCE_IN_PROGRESS);
    rig.revoked(&[0]);
    rig.beat(ErrorCode::REBALANCE_IN_PROGRESS);
    assert_eq!(
        (rig.member.phase(), rig.events()),
        (Phase::Revoking, vec![])
    );
}

#[test]
fn code_79_adopts_the_id_and_joins_at_once() {
    let mut rig = Rig::cooperative();
    rig.subscribe(&["t"]);
    let (id, join) = rig.join();
    assert_eq!(
        (join.member_id.as_str(), rig.member.member_id()),
        ("", None)
    );
    rig.answer_join_error(id, ErrorCode::MEMBER_ID_REQUIRED, "m7");
    assert_eq!(rig.join().1.member_id, "m7");
}

#[test]
fn code_82_is_fatal_everywhere() {
    let code = ErrorCode::FENCED_INSTANCE_ID;
    let (mut rig, id) = Rig::cooperative().joining();
    rig.answer_join_error(id, code, "");
    rig.is_fatal(Operation::Join, code);
    let (mut rig, id) = Rig::cooperative().syncing();
    rig.answer_sync_error(id, code);
    rig.is_fatal(Operation::Sync, code);
    let mut rig = Rig::cooperative().stable(&[0]);
    rig.beat(code);
    rig.is_fatal(Operation::Heartbeat, code);
    let mut rig = Rig::cooperative().stable(&[0]);
    assert_eq!(rig.commit(code), CommitVerdict::Fatal);
    rig.is_fatal(Operation::Commit, code);
}

#[test]
fn codes_23_24_26_30_81_are_fatal_to_a_join_and_30_to_everything() {
    for code in [23, 24, 26, 30, 81].map(ErrorCode) {
        let (mut rig, id) = Rig::cooperative().joining();
        rig.answer_join_error(id, code, "");
        rig.is_fatal(Operation::Join, code);
    }
    let code = ErrorCode::GROUP_AUTHORIZATION_FAILED;
    let (mut rig, id) = Rig::cooperative().syncing();
    rig.answer_sync_error(id, code);
    rig.is_fatal(Operation::Sync, code);
    let mut rig = Rig::cooperative().stable(&[0]);
    rig.beat(code);
    rig.is_fatal(Operation::Heartbeat, code);
    let mut rig = Rig::cooperative().stable(&[0]);
    assert_eq!(rig.commit(code), CommitVerdict::Fatal);
    rig.is_fatal(Operation::Commit, code);
}

#[test]
fn what_is_owned_is_lost_before_a_fatal_error() {
    let mut rig = Rig::cooperative().stable(&[0]);
    rig.beat(ErrorCode::FENCED_INSTANCE_ID);
    assert_eq!(
        rig.events()[0],
        MembershipEvent::Lost {
            partitions: tps(&[0])
        }
    );
    assert_eq!(rig.member.commit_identity(), None);
}

#[test]
fn a_commit_that_is_refused_for_its_content_leaves_the_membership_alone() {
    let mut rig = Rig::cooperative().stable(&[0]);
    assert_eq!(rig.commit(ErrorCode::NONE), CommitVerdict::Committed);
    let verdict = rig.commit(ErrorCode::OFFSET_METADATA_TOO_LARGE);
    assert_eq!(verdict, CommitVerdict::Rejected);
    assert_eq!((rig.member.phase(), rig.events()), (Phase::Stable, vec![]));
}

#[test]
fn broken_connections_are_retried_with_growing_waits() {
    let (mut rig, mut id) = Rig::cooperative().joining();
    let mut waits = Vec::new();
    for _ in 0..6 {
        rig.input(Input::Failed { id });
        waits.push(rig.member.next_timeout().unwrap() - rig.now);
        rig.back_off();
        let (next, join) = rig.join();
        assert_eq!(join.member_id, "m1", "the id outlives lost answers");
        id = next;
    }
    assert!(
        waits[0] <= 120 && waits[3] > waits[1] && waits[5] >= 800,
        "{waits:?}"
    );

    let (mut rig, id) = Rig::cooperative().syncing();
    rig.input(Input::Failed { id });
    rig.back_off();
    rig.sync();

    let mut rig = Rig::cooperative().stable(&[0]);
    rig.pass(BEAT);
    let (id, _) = rig.heartbeat();
    rig.input(Input::Failed { id });
    rig.back_off();
    rig.heartbeat();
}

#[test]
fn an_unknown_assignor_or_an_unreadable_assignment_is_fatal() {
    let (mut rig, id) = Rig::cooperative().joining();
    let answer = JoinGroupResponse {
        error: ErrorCode::NONE,
        generation: 1,
        protocol: Some("sticky".to_owned()),
        leader: "m1".to_owned(),
        member_id: "m1".to_owned(),
        members: Vec::new(),
        skip_assignment: false,
    };
    rig.respond(id, ResponseBody::Join(answer));
    assert_eq!(rig.member.phase(), Phase::Fatal);

    let (mut rig, id) = Rig::cooperative().syncing();
    let assignment = bytes::Bytes::from_static(&[0, 0, 9]);
    let error = ErrorCode::NONE;
    rig.respond(
        id,
        ResponseBody::Sync(SyncGroupResponse { error, assignment }),
    );
    assert!(matches!(
        rig.one_event(),
        MembershipEvent::Fatal {
            error: MembershipError::MalformedAssignment(_)
        }
    ));
}
