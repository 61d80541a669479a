//! Java's `RoundRobinAssignor`: all partitions of all topics in turn.

use super::{Assignments, Member, TopicCounts, java_member_order};
use ottla_types::TopicPartition;

/// Deals the partitions, by topic and number, to the members in order, passing over those that do
/// not subscribe to the topic.
pub fn round_robin(members: &[Member], topics: &TopicCounts) -> Assignments {
    let mut ordered: Vec<&Member> = members.iter().collect();
    ordered.sort_by(|a, b| java_member_order(a, b));
    let mut result = super::empty(members);
    let mut turn = 0;
    for (topic, &count) in topics {
        if !ordered.iter().any(|m| m.topics.contains(topic)) {
            continue;
        }
        for partition in 0..count {
            while !ordered[turn % ordered.len()].topics.contains(topic) {
                turn += 1;
            }
            let member = ordered[turn % ordered.len()];
            result
                .entry(member.id.clone())
                .or_default()
                .push(TopicPartition::new(topic.clone(), partition));
            turn += 1;
        }
    }
    result
}
