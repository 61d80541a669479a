//! Java's `RangeAssignor` without racks: each topic on its own, in consecutive ranges.

use super::{Assignments, Member, TopicCounts, java_member_order};
use ottla_types::TopicPartition;
use std::collections::BTreeSet;
use std::sync::Arc;

/// For each topic, its subscribers in order (static members first, by instance id, then by member
/// id) get consecutive ranges; the first ones get one partition more when it does not divide.
pub fn range(members: &[Member], topics: &TopicCounts) -> Assignments {
    let mut ordered: Vec<(&Member, BTreeSet<&Arc<str>>)> = members
        .iter()
        .map(|m| (m, m.topics.iter().collect()))
        .collect();
    ordered.sort_by(|(a, _), (b, _)| java_member_order(a, b));
    let mut result = super::empty(members);
    for (topic, &count) in topics {
        let subscribers: Vec<&Member> = ordered
            .iter()
            .filter(|(_, wanted)| wanted.contains(topic))
            .map(|(member, _)| *member)
            .collect();
        let (Ok(count), false) = (usize::try_from(count), subscribers.is_empty()) else {
            continue;
        };
        let (each, extra) = (count / subscribers.len(), count % subscribers.len());
        let mut next = 0;
        for (at, member) in subscribers.iter().enumerate() {
            let end = next + each + usize::from(at < extra);
            let partitions = (next..end).map(|p| TopicPartition::new(topic.clone(), p as i32));
            result
                .entry(member.id.clone())
                .or_default()
                .extend(partitions);
            next = end;
        }
    }
    result
}
