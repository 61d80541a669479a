//! The eager assignors give what the Java client's give, on groups that the Java client assigned.

use ottla_group::{Assignor, Member, TopicCounts};
use std::collections::BTreeMap;

fn list(text: &str) -> Vec<&str> {
    text.split(',').filter(|t| !t.is_empty()).collect()
}

#[test]
fn range_and_round_robin_give_what_java_gives() {
    let vectors = include_str!("data/java_assignors.txt");
    let mut checked = 0;
    for line in vectors.lines().filter(|l| !l.starts_with('#')) {
        let mut words = line.split(' ');
        let assignor = Assignor::from_name(words.next().unwrap()).unwrap();
        let topics: TopicCounts = list(words.next().unwrap())
            .iter()
            .map(|t| t.split_once('=').unwrap())
            .map(|(t, n)| (t.into(), n.parse().unwrap()))
            .collect();
        let mut members = Vec::new();
        let mut expected = BTreeMap::new();
        for word in words {
            let [id, wants, gets] = word.split('/').collect::<Vec<_>>()[..] else {
                panic!("{word}");
            };
            let (instance, wants) = wants.split_once(':').unwrap();
            members.push(Member {
                id: id.to_owned(),
                instance_id: Some(instance.to_owned()).filter(|i| !i.is_empty()),
                topics: list(wants).into_iter().map(Into::into).collect(),
                ..Member::default()
            });
            let gets: Vec<String> = list(gets).into_iter().map(str::to_owned).collect();
            expected.insert(id.to_owned(), gets);
        }
        let given: BTreeMap<String, Vec<String>> = assignor
            .assign(&members, &topics)
            .into_iter()
            .map(|(id, all)| {
                let mut all: Vec<String> = all
                    .iter()
                    .map(|tp| format!("{}.{}", tp.topic, tp.partition))
                    .collect();
                all.sort();
                (id, all)
            })
            .collect();
        assert_eq!(given, expected, "{line}");
        checked += 1;
    }
    assert_eq!(checked, 24);
}
