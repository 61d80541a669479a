//! The state machine alone, on a clock of its own.

use super::*;
use crate::codes;

fn new_group(initial_delay_ms: u64) -> Group {
    let timers = Timers {
        session_ms: 45_000,
        interval_ms: 5_000,
    };
    Group::new(initial_delay_ms, timers)
}

fn request(id: &str, instance: Option<&str>, protocols: &[&str]) -> JoinRequest {
    let protocols = protocols
        .iter()
        .map(|name| ((*name).to_owned(), Bytes::from_static(b"m")));
    JoinRequest {
        member_id: id.to_owned(),
        instance_id: instance.map(str::to_owned),
        protocol_type: "consumer".to_owned(),
        protocols: protocols.collect(),
        session_timeout_ms: 1000,
        rebalance_timeout_ms: 5000,
        client_id: "c".to_owned(),
        client_host: "/h".to_owned(),
        candidate_id: "new".to_owned(),
        requires_known_id: false,
        can_skip_assignment: false,
    }
}

fn named(id: &str) -> JoinRequest {
    JoinRequest {
        candidate_id: id.to_owned(),
        ..request("", None, &["range"])
    }
}

fn fixed(id: &str, instance: &str) -> JoinRequest {
    JoinRequest {
        candidate_id: id.to_owned(),
        ..request("", Some(instance), &["range"])
    }
}

fn call(id: &str, generation: i32) -> MemberCall {
    MemberCall {
        member_id: id.to_owned(),
        instance_id: None,
        generation,
    }
}

fn sync_request(id: &str, generation: i32, assignments: &[(&str, &'static str)]) -> SyncRequest {
    let assignments = assignments
        .iter()
        .map(|(id, a)| ((*id).to_owned(), Bytes::from(*a)));
    SyncRequest {
        caller: call(id, generation),
        protocol_type: None,
        protocol: None,
        assignments: assignments.collect(),
    }
}

fn join_answers(group: &mut Group) -> Vec<(Ticket, JoinAnswer)> {
    let answers = group
        .take_answers()
        .into_iter()
        .map(|(ticket, answer)| match answer {
            Answer::Join(answer) => (ticket, answer),
            Answer::Sync(answer) => panic!("a sync answer: {answer:?}"),
        });
    answers.collect()
}

fn sync_answers(group: &mut Group) -> Vec<(Ticket, i16, Bytes)> {
    let answers = group
        .take_answers()
        .into_iter()
        .map(|(ticket, answer)| match answer {
            Answer::Sync(answer) => (ticket, answer.error, answer.assignment),
            Answer::Join(answer) => panic!("a join answer: {answer:?}"),
        });
    answers.collect()
}

/// Members "a" and "b", stable in generation 2, "a" leads.
fn stable_pair() -> Group {
    let mut group = new_group(0);
    group.join(named("a"), 1, 0);
    group.join(named("b"), 2, 0);
    group.join(request("a", None, &["range"]), 3, 0);
    let answers = join_answers(&mut group);
    assert_eq!(answers.len(), 3);
    group.sync(sync_request("b", 2, &[]), 4, 0);
    group.sync(sync_request("a", 2, &[("a", "1"), ("b", "2")]), 5, 0);
    assert_eq!(sync_answers(&mut group).len(), 2);
    assert_eq!(group.state(), GroupState::Stable);
    group
}

#[test]
fn a_rebalance_waits_for_known_members_up_to_the_timeout() {
    let mut group = stable_pair();
    group.join(named("c"), 10, 100);
    assert_eq!(group.state(), GroupState::PreparingRebalance);
    group.join(request("a", None, &["range"]), 11, 200);
    assert!(group.take_answers().is_empty());
    assert_eq!(
        group.heartbeat(&call("b", 2), 900),
        codes::REBALANCE_IN_PROGRESS
    );
    assert_eq!(group.next_deadline(), Some(1900));
    for beat in [1800, 2700, 3600, 4500] {
        group.tick(beat);
        assert_eq!(
            group.heartbeat(&call("b", 2), beat),
            codes::REBALANCE_IN_PROGRESS
        );
    }
    assert_eq!(group.next_deadline(), Some(5100));
    group.tick(5100);
    let answers = join_answers(&mut group);
    let told: Vec<_> = answers
        .iter()
        .map(|(t, a)| (*t, a.generation, a.members.len()))
        .collect();
    assert_eq!(told, [(11, 3, 2), (10, 3, 0)]);
    assert_eq!(
        group.heartbeat(&call("b", 3), 5100),
        codes::UNKNOWN_MEMBER_ID
    );
}

#[test]
fn a_leave_starts_a_rebalance_and_the_last_one_empties_the_group() {
    let mut group = stable_pair();
    let leave = |id: &str| LeaveRequest {
        member_id: id.to_owned(),
        instance_id: None,
    };
    assert_eq!(group.leave(&leave("a"), 10), codes::NONE);
    assert_eq!(group.leave(&leave("a"), 10), codes::UNKNOWN_MEMBER_ID);
    assert_eq!(group.state(), GroupState::PreparingRebalance);
    group.join(request("b", None, &["range"]), 9, 20);
    let answers = join_answers(&mut group);
    assert_eq!(
        (answers[0].1.leader.as_str(), answers[0].1.generation),
        ("b", 3)
    );
    assert_eq!(group.leave(&leave("b"), 30), codes::NONE);
    assert_eq!((group.state(), group.generation()), (GroupState::Empty, 4));
    assert_eq!(group.next_deadline(), None);
}

#[test]
fn a_follower_that_joins_unchanged_keeps_the_generation_and_the_leader_starts_a_new_one() {
    let mut group = stable_pair();
    group.join(request("b", None, &["range"]), 9, 10);
    let answers = join_answers(&mut group);
    assert_eq!((answers[0].0, answers[0].1.generation), (9, 2));
    assert_eq!(group.state(), GroupState::Stable);
    group.join(request("a", None, &["range"]), 10, 20);
    assert_eq!(group.state(), GroupState::PreparingRebalance);
}

#[test]
fn the_protocol_is_the_one_most_members_prefer_of_those_all_know() {
    let mut group = new_group(50);
    let offers = |id: &str, protocols: &[&str]| JoinRequest {
        candidate_id: id.to_owned(),
        ..request("", None, protocols)
    };
    group.join(offers("a", &["sticky", "range", "old"]), 1, 0);
    group.join(offers("b", &["range", "sticky"]), 2, 0);
    group.join(offers("c", &["range", "sticky"]), 3, 0);
    group.join(offers("d", &["old"]), 4, 0);
    let refused = join_answers(&mut group);
    assert_eq!(
        (refused[0].0, refused[0].1.error),
        (4, codes::INCONSISTENT_GROUP_PROTOCOL)
    );
    group.tick(50);
    let answers = join_answers(&mut group);
    assert_eq!(answers[0].1.protocol.as_deref(), Some("range"));
    group.sync(
        SyncRequest {
            protocol: Some("old".into()),
            ..sync_request("a", 1, &[])
        },
        7,
        60,
    );
    assert_eq!(
        sync_answers(&mut group)[0].1,
        codes::INCONSISTENT_GROUP_PROTOCOL
    );
}

#[test]
fn a_rebalance_refuses_those_who_wait_for_their_assignment() {
    let mut group = new_group(50);
    group.join(named("a"), 1, 0);
    group.join(named("b"), 2, 0);
    group.tick(50);
    assert_eq!(join_answers(&mut group).len(), 2);
    assert_eq!(
        group.check_commit(&call("b", 1), 50),
        codes::REBALANCE_IN_PROGRESS
    );
    group.sync(sync_request("b", 1, &[]), 3, 50);
    assert!(group.take_answers().is_empty());
    group.join(named("c"), 4, 60);
    assert_eq!(
        sync_answers(&mut group),
        [(3, codes::REBALANCE_IN_PROGRESS, Bytes::new())]
    );
}

#[test]
fn a_leader_that_never_assigns_loses_its_place() {
    let mut group = new_group(50);
    group.join(named("a"), 1, 0);
    group.join(named("b"), 2, 0);
    group.tick(50);
    group.take_answers();
    group.sync(sync_request("b", 1, &[]), 3, 50);
    for now in (550..5050).step_by(500) {
        group.tick(now);
        assert_eq!(group.heartbeat(&call("a", 1), now), codes::NONE);
    }
    group.tick(5050);
    assert_eq!(sync_answers(&mut group)[0].1, codes::REBALANCE_IN_PROGRESS);
    assert_eq!(
        group.heartbeat(&call("a", 1), 5050),
        codes::UNKNOWN_MEMBER_ID
    );
    group.join(request("b", None, &["range"]), 4, 5060);
    assert_eq!(join_answers(&mut group)[0].1.leader, "b");
}

#[test]
fn an_id_that_was_given_out_lapses_with_the_session() {
    let mut group = new_group(0);
    group.join(
        JoinRequest {
            requires_known_id: true,
            ..named("p")
        },
        1,
        0,
    );
    let answers = join_answers(&mut group);
    assert_eq!(
        (answers[0].1.error, answers[0].1.member_id.as_str()),
        (79, "p")
    );
    group.join(named("a"), 2, 10);
    assert!(
        group.take_answers().is_empty(),
        "the known id may still come"
    );
    group.tick(1000);
    assert_eq!(join_answers(&mut group).len(), 1);
    group.join(request("p", None, &["range"]), 3, 1000);
    assert_eq!(
        join_answers(&mut group)[0].1.error,
        codes::UNKNOWN_MEMBER_ID
    );
}

#[test]
fn a_static_member_takes_its_place_back_without_a_rebalance() {
    let mut group = new_group(50);
    group.join(fixed("a1", "ia"), 1, 0);
    group.join(fixed("b1", "ib"), 2, 0);
    group.tick(50);
    group.take_answers();
    group.sync(sync_request("b1", 1, &[]), 3, 50);
    group.sync(sync_request("a1", 1, &[("a1", "1"), ("b1", "2")]), 4, 50);
    group.take_answers();

    group.join(fixed("b2", "ib"), 5, 60);
    let answers = join_answers(&mut group);
    assert_eq!(
        (answers[0].1.generation, answers[0].1.member_id.as_str()),
        (1, "b2")
    );
    group.sync(sync_request("b2", 1, &[]), 6, 60);
    assert_eq!(sync_answers(&mut group)[0].2, Bytes::from_static(b"2"));
    let old = MemberCall {
        instance_id: Some("ib".into()),
        ..call("b1", 1)
    };
    assert_eq!(group.heartbeat(&old, 60), codes::FENCED_INSTANCE_ID);

    // The leader, too; it is not told to assign again.
    group.join(fixed("a2", "ia"), 7, 70);
    let answers = join_answers(&mut group);
    assert_eq!(
        (answers[0].1.leader.as_str(), answers[0].1.members.len()),
        ("a1", 0)
    );
    let newer = JoinRequest {
        can_skip_assignment: true,
        ..fixed("a3", "ia")
    };
    group.join(newer, 8, 80);
    let answers = join_answers(&mut group);
    assert!(answers[0].1.skip_assignment && answers[0].1.leader == "a3");
    assert_eq!(group.state(), GroupState::Stable);

    // An administrator takes it out by its instance id alone.
    let leave = LeaveRequest {
        member_id: String::new(),
        instance_id: Some("ib".into()),
    };
    assert_eq!(group.leave(&leave, 90), codes::NONE);
    assert_eq!(group.state(), GroupState::PreparingRebalance);
}

#[test]
fn an_absent_static_member_keeps_its_place_until_its_session_ends() {
    let mut group = new_group(50);
    group.join(fixed("a1", "ia"), 1, 0);
    group.join(fixed("b1", "ib"), 2, 0);
    group.tick(50);
    group.take_answers();
    group.sync(sync_request("a1", 1, &[]), 3, 50);
    group.take_answers();
    let rejoin = request("a1", Some("ia"), &["range"]);
    group.join(rejoin, 4, 100);
    group.tick(1050);
    let answers = join_answers(&mut group);
    assert_eq!((answers[0].0, answers[0].1.members.len()), (4, 1));
}

#[test]
fn a_moved_coordinator_sends_the_waiting_away_and_keeps_the_members() {
    let mut group = stable_pair();
    group.join(named("c"), 9, 100);
    group.resign(200);
    assert_eq!(join_answers(&mut group)[0].1.error, codes::NOT_COORDINATOR);
    for (id, ticket) in [("a", 10), ("b", 11), ("c", 12)] {
        group.join(request(id, None, &["range"]), ticket, 300);
    }
    assert_eq!(join_answers(&mut group).len(), 3);
    assert_eq!(group.generation(), 3);
}

#[test]
fn groups_are_bounded_and_sessions_have_a_range() {
    let mut group = new_group(1000);
    for index in 0..MAX_MEMBERS as u64 {
        group.join(named(&format!("m{index}")), index, 0);
    }
    assert!(group.take_answers().is_empty());
    group.join(named("late"), 5000, 0);
    assert_eq!(
        join_answers(&mut group)[0].1.error,
        codes::GROUP_MAX_SIZE_REACHED
    );
    group.join(
        JoinRequest {
            session_timeout_ms: 0,
            ..named("x")
        },
        5001,
        0,
    );
    assert_eq!(
        join_answers(&mut group)[0].1.error,
        codes::INVALID_SESSION_TIMEOUT
    );
}
