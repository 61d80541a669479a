//! Helpers for the assignors' tests, and the properties that hold for all of them.

use super::*;
use proptest::prelude::*;
use std::collections::BTreeSet;

pub(super) fn member(id: &str, topics: &[&str]) -> Member {
    Member {
        id: id.to_owned(),
        topics: topics.iter().map(|t| Arc::from(*t)).collect(),
        ..Member::default()
    }
}

pub(super) fn counts(topics: &[(&str, i32)]) -> TopicCounts {
    topics.iter().map(|(t, n)| (Arc::from(*t), *n)).collect()
}

pub(super) fn tps(topic: &str, numbers: &[i32]) -> Vec<TopicPartition> {
    let topic: Arc<str> = topic.into();
    numbers
        .iter()
        .map(|n| TopicPartition::new(topic.clone(), *n))
        .collect()
}

/// A cooperative group that goes through its rounds.
pub(super) struct Group {
    topics: TopicCounts,
    members: Vec<Member>,
    generation: i32,
}

impl Group {
    pub(super) fn new(topics: &[(&str, i32)], members: Vec<Member>) -> Self {
        Self {
            topics: counts(topics),
            members,
            generation: 0,
        }
    }

    pub(super) fn join(&mut self, member: Member) {
        self.members.push(member);
    }

    /// Assigns and gives up; how many partitions are owned afterwards.
    pub(super) fn round(&mut self) -> usize {
        self.generation += 1;
        let given = cooperative_sticky(&self.members, &self.topics);
        for member in &mut self.members {
            member.owned = given[&member.id].clone();
            member.generation = Some(self.generation);
        }
        given.values().map(Vec::len).sum()
    }

    pub(super) fn owned(&self, id: &str) -> Vec<TopicPartition> {
        let member = self.members.iter().find(|m| m.id == id);
        member.map(|m| m.owned.clone()).unwrap_or_default()
    }
}

const TOPICS: [&str; 4] = ["t0", "t1", "t2", "t3"];

fn some_topics() -> impl Strategy<Value = TopicCounts> {
    proptest::collection::vec(0..7i32, TOPICS.len())
        .prop_map(|n| TOPICS.iter().map(|t| Arc::from(*t)).zip(n).collect())
}

fn some_members() -> impl Strategy<Value = Vec<Member>> {
    let one = (
        proptest::sample::subsequence(TOPICS.to_vec(), 0..=TOPICS.len()),
        proptest::collection::btree_set((0..TOPICS.len(), 0..8i32), 0..10),
        proptest::option::of(0..3i32),
        any::<bool>(),
    );
    proptest::collection::vec(one, 1..6).prop_map(|all| {
        type Parts = (Vec<&'static str>, BTreeSet<(usize, i32)>, Option<i32>, bool);
        let make = |(at, (topics, owned, generation, is_static)): (usize, Parts)| {
            let mut made = member(&format!("m{at}"), &topics);
            made.owned = owned
                .into_iter()
                .map(|(t, p)| TopicPartition::new(TOPICS[t], p))
                .collect();
            made.generation = generation;
            made.instance_id = bool::then(is_static, || format!("i{}", 9 - at));
            made
        };
        all.into_iter().enumerate().map(make).collect()
    })
}

fn equal(mut members: Vec<Member>) -> Vec<Member> {
    for member in &mut members {
        member.topics = TOPICS.iter().map(|t| Arc::from(*t)).collect();
    }
    members
}

/// Nothing is given twice, given to a stranger, or made up. Returns how many were given.
fn check_legal(members: &[Member], topics: &TopicCounts, given: &Assignments) -> usize {
    assert_eq!(given.len(), members.len());
    let mut seen = BTreeSet::new();
    for member in members {
        for tp in &given[&member.id] {
            assert!(member.topics.contains(&tp.topic), "{tp} to {}", member.id);
            assert!((0..topics[&tp.topic]).contains(&tp.partition), "{tp}");
            assert!(seen.insert(tp.clone()), "{tp} twice");
        }
    }
    seen.len()
}

fn wanted(members: &[Member], topics: &TopicCounts) -> usize {
    let subscribed = |t: &Arc<str>| members.iter().any(|m| m.topics.contains(t));
    let counted = topics.iter().filter(|(t, _)| subscribed(t));
    counted.map(|(_, n)| *n as usize).sum()
}

fn spread(given: &Assignments) -> usize {
    let sizes = || given.values().map(Vec::len);
    sizes().max().unwrap_or(0) - sizes().min().unwrap_or(0)
}

/// The most that can stay when the loads must differ by one at most.
fn most_kept(owned: &[usize], partitions: usize) -> usize {
    let mut owned = owned.to_vec();
    owned.sort_unstable_by(|a, b| b.cmp(a));
    let (each, extra) = (partitions / owned.len(), partitions % owned.len());
    let quota = |at: usize| each + usize::from(at < extra);
    owned
        .iter()
        .enumerate()
        .map(|(at, n)| *n.min(&quota(at)))
        .sum()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn eager_assignors_give_everything_once(members in some_members(), topics in some_topics()) {
        for assignor in Assignor::ALL.into_iter().filter(|a| a.protocol() == RebalanceProtocol::Eager) {
            let given = assignor.assign(&members, &topics);
            prop_assert_eq!(check_legal(&members, &topics, &given), wanted(&members, &topics));
        }
    }

    #[test]
    fn the_order_of_the_members_does_not_matter(
        members in some_members(), topics in some_topics(), turn in 0..6usize,
    ) {
        let mut turned = members.clone();
        turned.rotate_left(turn % members.len());
        for assignor in Assignor::ALL {
            prop_assert_eq!(assignor.assign(&members, &topics), assignor.assign(&turned, &topics));
        }
    }

    #[test]
    fn cooperative_sticky_never_gives_what_another_owns_or_may_own(
        members in some_members(), topics in some_topics(),
    ) {
        let given = cooperative_sticky(&members, &topics);
        check_legal(&members, &topics, &given);
        let newest = |tp: &TopicPartition| {
            let claims = members.iter().filter(|m| m.owned.contains(tp));
            claims.map(|m| m.generation.unwrap_or(-1)).max()
        };
        for member in &members {
            for tp in &given[&member.id] {
                let others = members.iter().filter(|m| m.id != member.id && m.owned.contains(tp));
                let mine = member.owned.contains(tp).then(|| member.generation.unwrap_or(-1));
                prop_assert!(
                    others.clone().next().is_none()
                        || mine.is_some() && mine == newest(tp)
                            && others.clone().all(|m| m.generation.unwrap_or(-1) < mine.unwrap()),
                    "{} to {}", tp, member.id
                );
            }
        }
    }

    #[test]
    fn cooperative_sticky_is_complete_and_still_after_the_second_round(
        members in some_members(), topics in some_topics(),
    ) {
        let all = wanted(&members, &topics);
        let mut group = Group { topics, members, generation: 10 };
        group.round();
        prop_assert_eq!(group.round(), all);
        let second: Vec<_> = group.members.iter().map(|m| m.owned.clone()).collect();
        group.round();
        let third: Vec<_> = group.members.iter().map(|m| m.owned.clone()).collect();
        prop_assert_eq!(second, third);
    }

    #[test]
    fn cooperative_sticky_balances_equal_subscriptions_and_moves_no_more_than_it_must(
        members in some_members(), topics in some_topics(),
    ) {
        let mut group = Group { topics, members: equal(members), generation: 10 };
        group.round();
        group.round();
        let given = cooperative_sticky(&group.members, &group.topics);
        prop_assert!(spread(&given) <= 1);
        for change in ["leave", "join", "grow"] {
            match change {
                "leave" if group.members.len() > 1 => drop(group.members.remove(0)),
                "join" => group.members.push(member("new", &TOPICS)),
                _ => group.topics.values_mut().for_each(|n| *n += 2),
            }
            let before = group.members.clone();
            let sizes: Vec<_> = before.iter().map(|m| m.owned.len()).collect();
            group.round();
            let kept: usize = before
                .iter()
                .map(|m| {
                    let now = group.owned(&m.id);
                    m.owned.iter().filter(|tp| now.contains(tp)).count()
                })
                .sum();
            prop_assert_eq!(kept, most_kept(&sizes, wanted(&before, &group.topics)), "{}", change);
            prop_assert_eq!(group.round(), wanted(&before, &group.topics));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn sticky_balances_equal_subscriptions_and_moves_no_more_than_it_must(
        members in some_members(), topics in some_topics(), leaves in any::<bool>(),
    ) {
        let mut members = equal(members);
        let claim = |members: &mut Vec<Member>, given: &Assignments, generation| {
            for member in members {
                member.owned = given[&member.id].clone();
                member.generation = Some(generation);
            }
        };
        let given = sticky(&members, &topics);
        prop_assert!(spread(&given) <= 1);
        claim(&mut members, &given, 11);
        prop_assert_eq!(&sticky(&members, &topics), &given, "nothing changed, nothing moves");
        if leaves && members.len() > 1 {
            members.remove(0);
        } else {
            members.push(member("new", &TOPICS));
        }
        let sizes: Vec<_> = members.iter().map(|m| m.owned.len()).collect();
        let after = sticky(&members, &topics);
        prop_assert!(spread(&after) <= 1);
        prop_assert_eq!(check_legal(&members, &topics, &after), wanted(&members, &topics));
        let kept: usize = members
            .iter()
            .map(|m| m.owned.iter().filter(|tp| after[&m.id].contains(tp)).count())
            .sum();
        prop_assert_eq!(kept, most_kept(&sizes, wanted(&members, &topics)));
    }
}

/// Everybody joins, a quarter leaves, half comes back; about a second in a debug build.
#[test]
fn two_hundred_members_and_a_thousand_partitions_are_quick() {
    let topics = counts(&[("t0", 400), ("t1", 300), ("t2", 200), ("t3", 100)]);
    let some = |from: usize, to: usize| {
        (from..to).map(|at| member(&format!("m{at:03}"), &TOPICS[..2 + 2 * (at % 2)]))
    };
    let mut group = Group {
        topics,
        members: some(0, 200).collect(),
        generation: 0,
    };
    assert_eq!(group.round(), 1_000);
    group
        .members
        .retain(|m| !m.id.ends_with('7') && !m.id.ends_with('2'));
    group.round();
    assert_eq!(group.round(), 1_000);
    group.members.extend(some(200, 250));
    group.round();
    assert_eq!(group.round(), 1_000);
    let before: Vec<_> = group.members.iter().map(|m| m.owned.clone()).collect();
    group.round();
    assert_eq!(
        before,
        group
            .members
            .iter()
            .map(|m| m.owned.clone())
            .collect::<Vec<_>>()
    );
}

#[test]
fn assignors_are_found_by_their_names() {
    for assignor in Assignor::ALL {
        assert_eq!(Assignor::from_name(assignor.name()), Some(assignor));
    }
    assert_eq!(Assignor::from_name("stick"), None);
}
