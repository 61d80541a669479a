//! Sticky (KIP-54) and cooperative-sticky (KIP-429): members keep what they had as far as balance
//! allows. In the cooperative one, what changes its owner is given to nobody until the old owner has
//! given it up.
//!
//! 1. Claims are judged: of several members that claim a partition, the one with the newest
//!    generation owns it; with equal generations nobody does (KIP-792).
//! 2. What is not owned goes to the least loaded subscriber, then partitions move along the
//!    shortest chains of members until no chain leads from a member to one with two fewer. First
//!    only partitions without an owner move, then all. A result with that property has the least
//!    possible sum of squared loads, so with equal subscriptions the loads differ by one at most.
//! 3. Cooperative only: a partition that would go to somebody else than its owner, while another member claims it, is
//!    left out. Its claimant sees that it is missing and rejoins after giving it up. Step 2 then
//!    finds a placing as good as before that moves nothing owned, so the second round is final.

use super::{Assignments, Member, TopicCounts, java_member_order};
use ottla_types::TopicPartition;
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

/// Balanced and sticky, for the eager protocol: everybody has given up everything, so each partition
/// goes to its new owner at once.
pub fn sticky(members: &[Member], topics: &TopicCounts) -> Assignments {
    assign(members, topics, false)
}

/// Balanced, sticky, and safe for the cooperative protocol. See the module's text for the steps.
pub fn cooperative_sticky(members: &[Member], topics: &TopicCounts) -> Assignments {
    assign(members, topics, true)
}

fn assign(members: &[Member], topics: &TopicCounts, cooperative: bool) -> Assignments {
    let mut ordered: Vec<&Member> = members.iter().collect();
    ordered.sort_by(|a, b| java_member_order(a, b));
    let claims = Claims::judge(&ordered, topics);
    let mut plan = Plan::new(&ordered, topics);
    plan.keep_owned(&claims);
    plan.place_rest(&claims);
    plan.balance(Movable::Fresh);
    plan.balance(Movable::All);
    let mut result = super::empty(members);
    for (at, held) in plan.held.into_iter().enumerate() {
        let mut partitions: Vec<_> = held
            .into_iter()
            .flat_map(|(topic, slots)| {
                let name = plan.topics[topic].0.clone();
                let numbers = slots.kept.into_iter().chain(slots.fresh);
                numbers.map(move |number| TopicPartition::new(name.clone(), number))
            })
            .filter(|tp| !cooperative || claims.may_give(tp, at))
            .collect();
        partitions.sort_unstable();
        result.insert(ordered[at].id.clone(), partitions);
    }
    result
}

/// Who says to own what, and who does. Members are numbered by their order.
struct Claims {
    claimants: HashMap<TopicPartition, Vec<usize>>,
    owners: HashMap<TopicPartition, usize>,
}

impl Claims {
    fn judge(ordered: &[&Member], topics: &TopicCounts) -> Self {
        let mut claimants: HashMap<TopicPartition, Vec<usize>> = HashMap::new();
        for (at, member) in ordered.iter().enumerate() {
            for tp in &member.owned {
                let exists = topics.get(&tp.topic).is_some_and(|n| tp.partition < *n);
                if exists && tp.partition >= 0 {
                    let all = claimants.entry(tp.clone()).or_default();
                    if all.last() != Some(&at) {
                        all.push(at);
                    }
                }
            }
        }
        let generation = |at: usize| ordered[at].generation.unwrap_or(-1);
        let mut owners = HashMap::new();
        for (tp, all) in &claimants {
            let newest = all.iter().map(|&at| generation(at)).max();
            let mut best = all.iter().filter(|&&at| Some(generation(at)) == newest);
            if let (Some(&owner), None) = (best.next(), best.next())
                && ordered[owner].topics.contains(&tp.topic)
            {
                owners.insert(tp.clone(), owner);
            }
        }
        Self { claimants, owners }
    }

    fn may_give(&self, tp: &TopicPartition, to: usize) -> bool {
        self.owners.get(tp) == Some(&to)
            || !self
                .claimants
                .get(tp)
                .is_some_and(|all| all.len() > 1 || all.first() != Some(&to))
    }
}

/// A member's partitions of one topic.
#[derive(Default)]
struct Slots {
    /// Owned before.
    kept: Vec<i32>,
    /// Given by this plan.
    fresh: Vec<i32>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Movable {
    Fresh,
    All,
}

struct Plan<'a> {
    topics: Vec<(&'a Arc<str>, i32)>,
    /// Members of each topic, ascending.
    subscribers: Vec<Vec<usize>>,
    /// Each member's partitions by topic number.
    held: Vec<BTreeMap<usize, Slots>>,
    loads: Vec<usize>,
}

impl<'a> Plan<'a> {
    fn new(ordered: &[&Member], topics: &'a TopicCounts) -> Self {
        let topics: Vec<(&Arc<str>, i32)> = topics.iter().map(|(t, n)| (t, *n)).collect();
        let numbers: HashMap<&Arc<str>, usize> = topics
            .iter()
            .enumerate()
            .map(|(i, (t, _))| (*t, i))
            .collect();
        let mut subscribers = vec![Vec::new(); topics.len()];
        for (at, member) in ordered.iter().enumerate() {
            let wanted: BTreeSet<_> = member.topics.iter().collect();
            for topic in wanted.into_iter().filter_map(|t| numbers.get(t)) {
                subscribers[*topic].push(at);
            }
        }
        Self {
            topics,
            subscribers,
            held: ordered.iter().map(|_| BTreeMap::new()).collect(),
            loads: vec![0; ordered.len()],
        }
    }

    fn keep_owned(&mut self, claims: &Claims) {
        for topic in 0..self.topics.len() {
            for (number, owner) in self.partitions(topic, claims) {
                if let Some(owner) = owner {
                    let slots = self.held[owner].entry(topic).or_default();
                    slots.kept.push(number);
                    self.loads[owner] += 1;
                }
            }
        }
    }

    /// Topics with the fewest subscribers first: they have the least choice.
    fn place_rest(&mut self, claims: &Claims) {
        let mut order: Vec<usize> = (0..self.topics.len()).collect();
        order.sort_by_key(|&topic| self.subscribers[topic].len());
        for topic in order {
            for (number, owner) in self.partitions(topic, claims) {
                let least = self.subscribers[topic]
                    .iter()
                    .copied()
                    .min_by_key(|&at| (self.loads[at], at));
                if let (None, Some(at)) = (owner, least) {
                    let slots = self.held[at].entry(topic).or_default();
                    slots.fresh.push(number);
                    self.loads[at] += 1;
                }
            }
        }
    }

    fn partitions(&self, topic: usize, claims: &Claims) -> Vec<(i32, Option<usize>)> {
        let (name, count) = self.topics[topic];
        (0..count)
            .map(|number| {
                let tp = TopicPartition::new(name.clone(), number);
                (number, claims.owners.get(&tp).copied())
            })
            .collect()
    }

    /// Each move lowers the sum of the squared loads, so this ends.
    fn balance(&mut self, movable: Movable) {
        while let Some(chain) = self.improving_chain(movable) {
            // From the end, so that nobody passes on what it has just been given.
            for (from, topic, to) in chain {
                self.pass(from, topic, to, movable);
            }
        }
    }

    fn pass(&mut self, from: usize, topic: usize, to: usize, movable: Movable) {
        let Some(slots) = self.held[from].get_mut(&topic) else {
            return;
        };
        let number = match (slots.fresh.pop(), movable) {
            (None, Movable::All) => slots.kept.pop(),
            (fresh, _) => fresh,
        };
        if let Some(number) = number {
            self.held[to].entry(topic).or_default().fresh.push(number);
            self.loads[from] -= 1;
            self.loads[to] += 1;
        }
    }

    /// Steps `(from, topic, to)`, the last one first, from a member to one with two fewer.
    fn improving_chain(&self, movable: Movable) -> Option<Vec<(usize, usize, usize)>> {
        let least = self.loads.iter().min()?;
        let mut starts: Vec<usize> = (0..self.loads.len())
            .filter(|&at| self.loads[at] >= least + 2)
            .collect();
        starts.sort_by_key(|&at| (std::cmp::Reverse(self.loads[at]), at));
        starts
            .into_iter()
            .find_map(|start| self.chain_from(start, movable))
    }

    fn chain_from(&self, start: usize, movable: Movable) -> Option<Vec<(usize, usize, usize)>> {
        let mut reached: Vec<Option<(usize, usize)>> = vec![None; self.loads.len()];
        let mut used_topics = vec![false; self.topics.len()];
        let mut level = VecDeque::from([start]);
        while !level.is_empty() {
            let mut next = VecDeque::new();
            for from in level {
                for (&topic, slots) in &self.held[from] {
                    let has = !slots.fresh.is_empty()
                        || (movable == Movable::All && !slots.kept.is_empty());
                    if !has || std::mem::replace(&mut used_topics[topic], true) {
                        continue;
                    }
                    for &to in &self.subscribers[topic] {
                        if to != start && reached[to].is_none() {
                            reached[to] = Some((from, topic));
                            next.push_back(to);
                        }
                    }
                }
            }
            let end = next
                .iter()
                .copied()
                .filter(|&at| self.loads[at] + 2 <= self.loads[start])
                .min_by_key(|&at| (self.loads[at], at));
            if let Some(mut to) = end {
                let mut chain = Vec::new();
                while let Some((from, topic)) = reached[to] {
                    chain.push((from, topic, to));
                    to = from;
                }
                return Some(chain);
            }
            level = next;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{Group, counts, member, tps};
    use super::*;

    #[test]
    fn the_first_round_of_a_fresh_group_gives_everything() {
        let members = [member("a", &["t"]), member("b", &["t"])];
        let given = cooperative_sticky(&members, &counts(&[("t", 5)]));
        assert_eq!((given["a"].len(), given["b"].len()), (3, 2));
    }

    #[test]
    fn a_partition_that_changes_its_owner_is_nobodys_for_one_round() {
        let mut group = Group::new(&[("t", 4)], vec![member("a", &["t"])]);
        assert_eq!(group.round(), 4);
        group.join(member("b", &["t"]));
        assert_eq!(group.round(), 2, "two wait for their revocation");
        assert_eq!(group.owned("a"), tps("t", &[0, 1]));
        assert_eq!(group.owned("b"), vec![]);
        assert_eq!(group.round(), 4);
        assert_eq!(group.owned("a"), tps("t", &[0, 1]));
        assert_eq!(group.owned("b"), tps("t", &[2, 3]));
    }

    #[test]
    fn the_newer_of_two_claims_holds() {
        let mut a = member("a", &["t"]);
        let mut b = member("b", &["t"]);
        (a.owned, a.generation) = (tps("t", &[0, 1]), Some(4));
        (b.owned, b.generation) = (tps("t", &[1, 2]), Some(5));
        let given = cooperative_sticky(&[a, b], &counts(&[("t", 3)]));
        assert_eq!(given["a"], tps("t", &[0]));
        assert_eq!(given["b"], tps("t", &[1, 2]));
    }

    #[test]
    fn nobody_holds_what_two_claim_in_one_generation() {
        let mut a = member("a", &["t"]);
        let mut b = member("b", &["t"]);
        (a.owned, a.generation) = (tps("t", &[0, 1]), Some(5));
        (b.owned, b.generation) = (tps("t", &[1, 2]), Some(5));
        let given = cooperative_sticky(&[a, b], &counts(&[("t", 3)]));
        assert_eq!(given["a"], tps("t", &[0]));
        assert_eq!(given["b"], tps("t", &[2]));
    }

    #[test]
    fn claims_on_what_does_not_exist_or_is_not_subscribed_are_dropped() {
        let mut a = member("a", &["t"]);
        a.owned = vec![
            TopicPartition::new("t", 9),
            TopicPartition::new("t", -1),
            TopicPartition::new("u", 0),
            TopicPartition::new("gone", 0),
        ];
        let b = member("b", &["u"]);
        let given = cooperative_sticky(&[a, b], &counts(&[("t", 1), ("u", 1)]));
        assert_eq!(given["a"], tps("t", &[0]));
        assert_eq!(given["b"], vec![], "a still claims u-0");
    }

    #[test]
    fn chains_of_members_balance_what_single_moves_cannot() {
        let mut members = vec![
            member("a", &["t"]),
            member("b", &["t", "u"]),
            member("c", &["u"]),
        ];
        members[0].owned = tps("t", &[0, 1, 2]);
        members[1].owned = tps("u", &[0, 1]);
        members[2].owned = tps("u", &[2]);
        let mut group = Group::new(&[("t", 3), ("u", 3)], members);
        group.round();
        assert_eq!(group.round(), 6);
        for id in ["a", "b", "c"] {
            assert_eq!(group.owned(id).len(), 2, "{id}");
        }
    }
}
