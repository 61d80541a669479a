//! Expressions over the names of topics, which the application matches.

use super::*;

impl Rig {
    fn matched(&mut self, pattern: &str, topics: &[&str]) {
        let pattern = pattern.to_owned();
        let topics = topics.iter().map(|t| Arc::from(*t)).collect();
        self.input(Input::Matched { pattern, topics });
    }

    /// The topics that a join names.
    fn joins_for(&mut self) -> (RequestId, Vec<String>) {
        let (id, join) = self.join();
        let said = Subscription::decode(&join.protocols[0].1).unwrap();
        (id, said.topics.iter().map(|t| t.to_string()).collect())
    }

    /// In generation 1 with partitions 0 and 1 of `t`, which matches `t.*`.
    fn matching() -> Self {
        let mut rig = Self::cooperative();
        rig.want(&[], "t.*");
        assert_eq!(rig.request(), None, "nobody knows yet what matches");
        rig.matched("t.*", &["t"]);
        let (id, topics) = rig.joins_for();
        assert_eq!(topics, ["t"]);
        rig.answer_join(id, 1);
        let (id, _) = rig.sync();
        rig.answer_sync(id, &[0, 1]);
        rig.one_event();
        rig
    }
}

#[test]
fn a_topic_that_begins_to_match_is_joined_for_and_the_others_stay() {
    let mut rig = Rig::matching();
    rig.matched("t.*", &["t"]);
    assert_eq!(rig.request(), None, "no news");
    rig.matched("t.*", &["t", "t2"]);
    assert_eq!(rig.events(), vec![]);
    let (_, topics) = rig.joins_for();
    assert_eq!(topics, ["t", "t2"]);
    assert!(rig.member.owns(&tp(0)) && rig.member.owns(&tp(1)));
}

#[test]
fn a_topic_that_is_gone_is_revoked_and_an_expression_without_matches_is_in_the_group() {
    let mut rig = Rig::matching();
    rig.matched("t.*", &[]);
    let id = rig.revoked(&[0, 1]);
    rig.acknowledge(id);
    let (id, topics) = rig.joins_for();
    assert!(topics.is_empty());
    rig.answer_join(id, 2);
    let (id, _) = rig.sync();
    rig.answer_sync(id, &[]);
    assert_eq!(rig.member.phase(), Phase::Stable);
    rig.matched("t.*", &["t3"]);
    assert_eq!(rig.joins_for().1, ["t3"]);
}

#[test]
fn what_matched_another_expression_is_not_taken() {
    let mut rig = Rig::matching();
    rig.want(&[], "u.*");
    assert_eq!(rig.member.pattern(), Some("u.*"));
    assert_eq!(rig.events(), vec![], "until it is known what matches");
    rig.matched("t.*", &["t", "t2"]);
    assert_eq!((rig.request(), rig.events()), (None, vec![]));
    rig.matched("u.*", &["u"]);
    let id = rig.revoked(&[0, 1]);
    rig.acknowledge(id);
    assert_eq!(rig.joins_for().1, ["u"]);
}

#[test]
fn names_and_an_expression_are_one_subscription() {
    let mut rig = Rig::matching();
    rig.want(&["u"], "t.*");
    let (id, topics) = rig.joins_for();
    assert_eq!(topics, ["t", "u"]);
    rig.answer_join(id, 2);
    let (id, _) = rig.sync();
    rig.answer_sync(id, &[0, 1]);
    rig.one_event();
    rig.subscribe(&["u"]);
    assert_eq!(rig.member.pattern(), None);
    let id = rig.revoked(&[0, 1]);
    rig.acknowledge(id);
    assert_eq!(rig.joins_for().1, ["u"]);
}

#[test]
fn without_names_and_expression_the_member_leaves_until_it_is_known_what_it_wants() {
    let mut rig = Rig::matching();
    rig.subscribe(&[]);
    let id = rig.revoked(&[0, 1]);
    rig.matched("t.*", &["t"]);
    rig.acknowledge(id);
    assert_eq!(rig.member.phase(), Phase::Unsubscribed);
    rig.leave();
    rig.want(&[], "t.*");
    assert_eq!(rig.request(), None);
    rig.matched("t.*", &["t"]);
    assert_eq!(rig.joins_for().1, ["t"]);
}

#[test]
fn a_member_that_polls_again_before_it_is_known_what_matches_waits() {
    let mut rig = Rig::cooperative();
    rig.want(&["u"], "t.*");
    rig.input(Input::PollExpired);
    rig.input(Input::Polled);
    rig.matched("t.*", &["t"]);
    assert_eq!(rig.joins_for().1, ["t", "u"]);
}

/// As with a close, the last commit may have to go with the new generation.
#[test]
fn unsubscribing_in_a_cooperative_rebalance_gets_to_a_generation_that_takes_commits() {
    for again in [false, true] {
        let mut rig = Rig::cooperative().stable(&[0, 1]);
        rig.beat(ErrorCode::REBALANCE_IN_PROGRESS);
        let (id, _) = rig.join();
        rig.subscribe(&[]);
        let revoked = rig.revoked(&[0, 1]);
        if again {
            rig.subscribe(&["u"]);
        }
        rig.answer_join(id, 2);
        let (id, _) = rig.sync();
        rig.answer_sync(id, &[0, 1]);
        assert_eq!(rig.events(), vec![]);
        let identity = rig.member.commit_identity().unwrap();
        assert_eq!(identity.generation, 2);
        rig.acknowledge(revoked);
        assert_eq!(rig.member.commit_identity(), None);
        if again {
            let (_, join) = rig.join();
            let claim = Subscription::decode(&join.protocols[0].1).unwrap();
            assert_eq!((claim.topics, claim.owned), (vec!["u".into()], vec![]));
        } else {
            assert_eq!(rig.member.phase(), Phase::Unsubscribed);
            rig.leave();
        }
    }
}
