//! Joining, changing hands, and leaving.

use super::*;

#[test]
fn the_join_says_everything_and_later_heartbeats_what_changed() {
    let mut rig = Rig::new();
    rig.subscribe(&["t"]);
    let (out, join) = rig.request();
    assert_eq!((join.member_epoch, &*join.member_id), (0, "m1"));
    assert_eq!(join.topics, Some(vec!["t".into()]));
    assert_eq!(join.rebalance_timeout_ms, Some(REBALANCE as i32));
    assert_eq!((join.owned, join.pattern), (Some(vec![]), None));
    rig.assign(out, 4, &[]);
    rig.assigned(&[], &[]);
    let (out, quiet) = rig.beat();
    assert_eq!(quiet.member_epoch, 4);
    assert_eq!((quiet.topics, quiet.owned), (None, None));
    assert_eq!((quiet.rebalance_timeout_ms, quiet.pattern), (None, None));
    rig.fine(out, 4);
    rig.subscribe(&["t", "u"]);
    let (_, changed) = rig.request();
    assert_eq!(changed.topics, Some(vec!["t".into(), "u".into()]));
    assert_eq!(changed.owned, None);
}

#[test]
fn an_expression_is_said_and_taken_back() {
    let mut rig = Rig::new();
    rig.want(&[], "t.*");
    let (out, join) = rig.request();
    assert_eq!(
        (join.pattern.as_deref(), join.topics),
        (Some("t.*"), Some(vec![]))
    );
    rig.assign(out, 1, &[]);
    rig.events();
    rig.want(&["t"], "t.*");
    let (out, _) = rig.request();
    rig.fine(out, 1);
    rig.subscribe(&["t"]);
    let (_, said) = rig.request();
    assert_eq!((said.pattern.as_deref(), said.topics), (Some(""), None));
}

#[test]
fn that_there_is_no_expression_any_more_is_said_until_it_is_heard() {
    let mut rig = Rig::new();
    rig.want(&["t"], "t.*");
    let (out, _) = rig.request();
    rig.assign(out, 1, &[]);
    rig.events();
    rig.subscribe(&["t"]);
    let (out, _) = rig.request();
    rig.input(Input::Failed { id: out });
    let (_, again) = rig.beat();
    assert_eq!(again.pattern.as_deref(), Some(""));
}

#[test]
fn an_expression_that_the_broker_cannot_read_is_fatal_and_named() {
    let mut rig = Rig::new();
    rig.want(&[], "t(");
    let (out, _) = rig.request();
    let refused = ConsumerHeartbeatResponse {
        error: ErrorCode::INVALID_REGULAR_EXPRESSION,
        message: Some("missing )".to_owned()),
        ..good(0, None)
    };
    rig.answer(out, refused);
    let error = MembershipError::InvalidPattern {
        pattern: "t(".to_owned(),
        reason: Some("missing )".to_owned()),
    };
    let text = "the broker cannot read the expression `t(`: missing )";
    assert_eq!(error.to_string(), text);
    rig.is_fatal(error);
}

#[test]
fn what_is_taken_back_is_given_up_then_acknowledged_at_once_and_the_rest_stays() {
    let mut rig = Rig::new().stable(&[0, 1]);
    let (out, _) = rig.beat();
    rig.assign(out, 1, &[0]);
    let revocation = rig.revoked(&[1]);
    assert!(rig.member.owns(&tps(&[1])[0]), "until it is given up");
    assert!(rig.member.commit_identity().is_some());
    let (out, meanwhile) = rig.beat();
    assert_eq!(meanwhile.owned, None);
    rig.fine(out, 1);
    rig.acknowledge(revocation);
    let (out, done) = rig.request();
    assert_eq!(done.owned, Some(wire(&[0])));
    rig.fine(out, 2);
    rig.nothing();
    assert_eq!(rig.member.commit_identity().unwrap().generation, 2);
    assert_eq!(rig.member.owned().count(), 1);
}

#[test]
fn what_is_given_beside_a_revocation_is_owned_at_once() {
    let mut rig = Rig::new().stable(&[0, 1]);
    let (out, _) = rig.beat();
    rig.assign(out, 1, &[1, 2]);
    let events = rig.events();
    assert!(matches!(events[0], MembershipEvent::Revoked { .. }));
    let (generation, added, all) = (1, tps(&[2]), tps(&[1, 2]));
    let assigned = MembershipEvent::Assigned {
        generation,
        added,
        all,
    };
    assert_eq!(events[1], assigned);
}

#[test]
fn a_target_that_comes_during_a_revocation_waits_for_its_end() {
    let mut rig = Rig::new().stable(&[0, 1]);
    let (out, _) = rig.beat();
    rig.assign(out, 1, &[0]);
    let first = rig.revoked(&[1]);
    let (out, _) = rig.beat();
    rig.assign(out, 1, &[1]);
    rig.nothing();
    rig.acknowledge(first);
    let events = rig.events();
    let MembershipEvent::Revoked { id: second, .. } = events[0] else {
        panic!("{events:?}");
    };
    assert!(rig.member.poll_request().is_none(), "0 is not given up yet");
    rig.acknowledge(second);
    assert_eq!(rig.request().1.owned, Some(wire(&[1])));
}

#[test]
fn an_assignment_of_what_is_not_named_yet_is_acknowledged_too() {
    let (mut rig, out) = Rig::new().joining();
    rig.assign(out, 1, &[0]);
    rig.events();
    let (out, said) = rig.request();
    assert_eq!(said.owned, Some(vec![]));
    rig.fine(out, 1);
    let (out, quiet) = rig.beat();
    assert_eq!(quiet.owned, None);
    rig.assign(out, 1, &[]);
    rig.assigned(&[], &[]);
    assert_eq!(
        rig.request().1.owned,
        Some(vec![]),
        "the coordinator waits for this"
    );
}

#[test]
fn after_a_lost_answer_everything_is_said_again() {
    let mut rig = Rig::new().stable(&[0]);
    let (out, _) = rig.beat();
    rig.input(Input::Failed { id: out });
    let (out, again) = rig.beat();
    assert_eq!((again.member_epoch, again.owned), (1, Some(wire(&[0]))));
    assert_eq!(again.rebalance_timeout_ms, Some(REBALANCE as i32));
    rig.assign(out, 1, &[0]);
    rig.nothing();
}

#[test]
fn a_topic_that_was_made_anew_is_given_up_and_begun_again() {
    let mut rig = Rig::new().stable(&[0]);
    let names = BTreeMap::from([(id("new"), "t".into())]);
    let (out, _) = rig.beat();
    rig.answer(out, good(1, Some(vec![(id("new"), vec![0])])));
    let first = rig.revoked(&[0]);
    rig.input(Input::TopicNames { names });
    assert_eq!(rig.events(), vec![]);
    rig.acknowledge(first);
    rig.assigned(&[0], &[0]);
    assert_eq!(rig.request().1.owned, Some(vec![(id("new"), vec![0])]));
}

#[test]
fn closing_gives_up_then_leaves_then_says_so() {
    for (instance, epoch) in [(None, LEAVE_EPOCH), (Some("i"), LEAVE_STATIC_EPOCH)] {
        let mut rig = Rig::with(instance).stable(&[0]);
        rig.input(Input::Close);
        let revocation = rig.revoked(&[0]);
        assert!(rig.member.commit_identity().is_some(), "the last commit");
        rig.acknowledge(revocation);
        let (out, leave) = rig.request();
        assert_eq!(
            (leave.member_epoch, leave.instance_id.as_deref()),
            (epoch, instance)
        );
        rig.input(Input::Failed { id: out });
        assert_eq!(rig.one_event(), MembershipEvent::Left);
        rig.nothing();
    }
}

#[test]
fn a_second_close_does_not_wait_and_one_before_the_join_ends_at_once() {
    let mut rig = Rig::new().stable(&[0]);
    rig.input(Input::Close);
    rig.revoked(&[0]);
    rig.input(Input::Close);
    rig.lost(&[0]);
    assert_eq!(rig.request().1.member_epoch, LEAVE_EPOCH);
    let mut fresh = Rig::new();
    fresh.input(Input::Close);
    assert_eq!(fresh.one_event(), MembershipEvent::Left);
}

#[test]
fn no_topics_mean_leaving_until_there_are_some() {
    let mut rig = Rig::new().stable(&[0]);
    rig.subscribe(&[]);
    let revocation = rig.revoked(&[0]);
    rig.acknowledge(revocation);
    let (out, leave) = rig.request();
    assert_eq!(leave.member_epoch, LEAVE_EPOCH);
    rig.subscribe(&["t"]);
    assert_eq!(
        rig.member.poll_request(),
        None,
        "nothing overtakes the farewell"
    );
    rig.fine(out, -1);
    assert_eq!(rig.request().1.member_epoch, 0);
}

#[test]
fn stale_and_foreign_answers_are_ignored() {
    let (mut rig, out) = Rig::new().joining();
    rig.input(Input::Failed { id: out });
    let (second, _) = rig.beat();
    rig.assign(out, 7, &[0]);
    rig.nothing();
    rig.answer(RequestId(999), good(8, None));
    assert_eq!(rig.member.epoch(), None);
    rig.assign(second, 1, &[]);
    assert_eq!(rig.member.epoch(), Some(1));
    rig.events();
    let (third, _) = rig.beat();
    let body = ResponseBody::Heartbeat(ErrorCode::NONE);
    rig.input(Input::Response { id: third, body });
    let everything = Some(REBALANCE as i32);
    rig.events();
    assert_eq!(
        rig.beat().1.rebalance_timeout_ms,
        everything,
        "a wrong kind is a failure"
    );
}

#[test]
fn nothing_more_is_taken_while_the_coordinator_is_told_what_is_owned() {
    let (mut rig, out) = Rig::new().joining();
    rig.assign(out, 1, &[0]);
    rig.events();
    let (out, said) = rig.request();
    assert_eq!(said.owned, Some(vec![]), "so 0 may be given away by now");
    let names = BTreeMap::from([(id("t"), "t".into())]);
    rig.input(Input::TopicNames { names });
    assert_eq!(rig.member.owned().count(), 0);
    let (mut taken, id) = (rig, out);
    taken.assign(id, 2, &[]);
    assert_eq!(taken.member.owned().count(), 0);

    let (mut rig, out) = Rig::new().joining();
    rig.assign(out, 1, &[0]);
    let (out, _) = rig.request();
    let names = BTreeMap::from([(self::id("t"), "t".into())]);
    rig.input(Input::TopicNames {
        names: names.clone(),
    });
    rig.input(Input::Failed { id: out });
    rig.input(Input::TopicNames { names });
    assert_eq!(rig.member.owned().count(), 0, "nobody knows");
    rig.events();
    let (out, _) = rig.beat();
    rig.assign(out, 1, &[0]);
    rig.assigned(&[0], &[0]);
}
