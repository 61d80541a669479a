//! The assignors of the coordinator: `uniform` and `range`.

use std::collections::BTreeMap;

use super::{Partition, Set, TopicView};

/// An assignor by Kafka's name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum ServerAssignor {
    /// Level over all topics together, and members keep what they have.
    #[default]
    Uniform,
    /// Runs of partitions, level over each topic; the same members get the same numbers.
    Range,
}

impl ServerAssignor {
    pub(super) fn named(name: &str) -> Option<Self> {
        let all = [Self::Uniform, Self::Range];
        all.into_iter().find(|assignor| assignor.name() == name)
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Uniform => "uniform",
            Self::Range => "range",
        }
    }

    /// A target for every member that reads something; `old` is the target before.
    pub(super) fn assign<'a>(
        self,
        topics: &[TopicView],
        subscribers: impl Fn(&str) -> Vec<&'a str>,
        old: &BTreeMap<String, Set>,
    ) -> BTreeMap<String, Set> {
        let readers: Vec<(&TopicView, Vec<&str>)> =
            topics.iter().map(|t| (t, subscribers(&t.name))).collect();
        match self {
            Self::Uniform => uniform(&readers, old),
            Self::Range => range(&readers),
        }
    }
}

fn range(readers: &[(&TopicView, Vec<&str>)]) -> BTreeMap<String, Set> {
    let mut target: BTreeMap<String, Set> = BTreeMap::new();
    for (topic, members) in readers {
        let count = i32::try_from(members.len()).unwrap_or(i32::MAX).max(1);
        let (each, extra) = (topic.partitions / count, topic.partitions % count);
        let mut next = 0;
        for (at, member) in (0..).zip(members) {
            let end = next + each + i32::from(at < extra);
            let run = (next..end).map(|partition| (topic.id, partition));
            target.entry((*member).to_owned()).or_default().extend(run);
            next = end;
        }
    }
    target
}

fn uniform(
    readers: &[(&TopicView, Vec<&str>)],
    old: &BTreeMap<String, Set>,
) -> BTreeMap<String, Set> {
    let mut target: BTreeMap<&str, Set> = BTreeMap::new();
    for (_, members) in readers {
        for member in members {
            target.entry(member).or_default();
        }
    }
    let mut left: Vec<(Partition, &Vec<&str>)> = Vec::new();
    for (topic, members) in readers {
        for partition in (0..topic.partitions).map(|number| (topic.id, number)) {
            let keeps = |m: &&&str| old.get(**m).is_some_and(|set| set.contains(&partition));
            match members.iter().find(keeps) {
                Some(keeper) => {
                    target.entry(keeper).or_default().insert(partition);
                }
                None => left.push((partition, members)),
            }
        }
    }
    for (partition, members) in left {
        let load = |m: &&&str| target.get(**m).map_or(0, Set::len);
        if let Some(least) = members.iter().min_by_key(load) {
            target.entry(least).or_default().insert(partition);
        }
    }
    while let Some((from, to, partition)) = uneven(readers, &target) {
        if let Some(set) = target.get_mut(from) {
            set.remove(&partition);
        }
        target.entry(to).or_default().insert(partition);
    }
    let owned = target.into_iter();
    owned.map(|(id, set)| (id.to_owned(), set)).collect()
}

/// A partition whose move to another of its readers makes the loads more level.
fn uneven<'a>(
    readers: &[(&TopicView, Vec<&'a str>)],
    target: &BTreeMap<&'a str, Set>,
) -> Option<(&'a str, &'a str, Partition)> {
    let load = |member: &str| target.get(member).map_or(0, Set::len);
    for (topic, members) in readers {
        let least = members.iter().min_by_key(|m| load(m))?;
        let has = |m: &&&str| {
            let mut set = target.get(**m).into_iter().flatten();
            set.any(|(id, _)| *id == topic.id)
        };
        let most = members.iter().filter(has).max_by_key(|m| load(m));
        if let Some(most) = most
            && load(most) > load(least) + 1
        {
            let mut set = target.get(most).into_iter().flatten().rev();
            let partition = set.find(|(id, _)| *id == topic.id)?;
            return Some((most, least, *partition));
        }
    }
    None
}
