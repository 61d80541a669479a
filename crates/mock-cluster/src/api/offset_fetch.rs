//! OffsetFetch: what a group committed; from version 8 on for several groups at once. Without
//! topics, all it has. An offset that was never committed is -1, without an error.

use kafka_protocol::messages::offset_fetch_response::{
    OffsetFetchResponseGroup, OffsetFetchResponsePartition, OffsetFetchResponsePartitions,
    OffsetFetchResponseTopic, OffsetFetchResponseTopics,
};
use kafka_protocol::messages::{OffsetFetchRequest, OffsetFetchResponse};

use super::shape::{BOOL, Field, I32, I32S, TEXT, structs};
use super::{Api, Call, Names, Outcome, Range, text};
use crate::group::{Committed, Group};
use crate::{ApiKey, codes};

pub(super) struct OffsetFetch;

/// Topic names and partitions; `None` is everything.
type Asked = Option<Vec<(String, Vec<i32>)>>;
type Found = Vec<(String, Vec<(i32, Told)>)>;

/// What is told of one partition.
#[derive(Clone, Debug)]
struct Told {
    committed: Committed,
    code: i16,
}

impl Told {
    fn of(committed: &Committed) -> Self {
        Self {
            committed: committed.clone(),
            code: codes::NONE,
        }
    }

    fn nothing(code: i16) -> Self {
        let committed = Committed {
            offset: -1,
            leader_epoch: -1,
            metadata: String::new(),
        };
        Self { committed, code }
    }
}

impl Api for OffsetFetch {
    const KEY: ApiKey = ApiKey::OffsetFetch;
    const VERSIONS: Range = Range { min: 1, max: 9 };
    const FLEXIBLE: i16 = 6;
    const SHAPE: &'static [Field] = &[
        TEXT.to(7),
        structs(&[TEXT, I32S]).to(7),
        structs(&[TEXT, TEXT.from(9), I32.from(9), structs(&[TEXT, I32S])]).from(8),
        BOOL.from(7),
    ];
    type Request = OffsetFetchRequest;
    type Response = OffsetFetchResponse;

    fn names(request: &Self::Request) -> Names {
        let groups = request
            .groups
            .iter()
            .map(|group| group.group_id.to_string());
        let single = Some(request.group_id.to_string()).filter(|group| !group.is_empty());
        let topics = request
            .topics
            .iter()
            .flatten()
            .map(|topic| topic.name.to_string());
        Names {
            topics: topics.collect(),
            groups: groups.chain(single).collect(),
            ..Names::default()
        }
    }

    fn refuse(request: &Self::Request, version: i16, code: i16) -> Option<Self::Response> {
        Some(answer(request, version, |_, _| Err(code)))
    }

    async fn handle(call: &Call<'_>, request: Self::Request) -> Outcome<Self::Response> {
        let mut data = call.shared.data();
        let response = answer(&request, call.version, |group, asked| {
            let member = request.groups.iter().find(|g| group == &**g.group_id);
            let group = data.group(call.broker, group)?;
            if let Some(member) = member.filter(|_| call.version >= 9) {
                match group.check_fetch(member.member_id.as_deref(), member.member_epoch) {
                    codes::NONE => {}
                    code => return Err(code),
                }
            }
            Ok(look_up(group, asked, request.require_stable))
        });
        Outcome::Answer(response)
    }
}

/// An offset that an open transaction may replace is not told to who wants stable ones (KIP-447).
fn told(group: &Group, topic: &str, partition: i32, require_stable: bool) -> Told {
    if require_stable && group.is_unstable(topic, partition) {
        return Told::nothing(codes::UNSTABLE_OFFSET_COMMIT);
    }
    match group.committed(topic, partition) {
        Some(committed) => Told::of(committed),
        None => Told::nothing(codes::NONE),
    }
}

fn look_up(group: &Group, asked: Asked, require_stable: bool) -> Found {
    let Some(asked) = asked else {
        let mut found: Found = Vec::new();
        for (topic, partition, _) in group.all_committed() {
            let told = told(group, topic, partition, require_stable);
            match found.last_mut() {
                Some((last, partitions)) if last == topic => partitions.push((partition, told)),
                _ => found.push((topic.to_owned(), vec![(partition, told)])),
            }
        }
        return found;
    };
    let of_topic = |(topic, partitions): (String, Vec<i32>)| {
        let partitions = partitions.into_iter();
        let found = partitions.map(|index| (index, told(group, &topic, index, require_stable)));
        let found = found.collect();
        (topic, found)
    };
    asked.into_iter().map(of_topic).collect()
}

fn answer(
    request: &OffsetFetchRequest,
    version: i16,
    mut look_up: impl FnMut(&str, Asked) -> Result<Found, i16>,
) -> OffsetFetchResponse {
    if version >= 8 {
        let groups = request.groups.iter().map(|group| {
            let asked = group.topics.as_ref().map(|topics| {
                let topics = topics.iter();
                topics
                    .map(|t| (t.name.to_string(), t.partition_indexes.clone()))
                    .collect()
            });
            let answer = OffsetFetchResponseGroup::default().with_group_id(group.group_id.clone());
            match look_up(&group.group_id, asked) {
                Ok(found) => answer.with_topics(found.into_iter().map(new_topic).collect()),
                Err(code) => answer.with_error_code(code),
            }
        });
        return OffsetFetchResponse::default().with_groups(groups.collect());
    }
    let asked: Asked = request.topics.as_ref().map(|topics| {
        topics
            .iter()
            .map(|t| (t.name.to_string(), t.partition_indexes.clone()))
            .collect()
    });
    let result = look_up(&request.group_id, asked.clone());
    let code = result.as_ref().err().copied().unwrap_or(codes::NONE);
    let found = match result {
        Ok(found) => found,
        // Version 1 has no room for the code but at the partitions.
        Err(_) => refused(asked, code),
    };
    let topics = found.into_iter().map(|topic| old_topic(topic, version));
    let topics = topics.collect();
    let response = OffsetFetchResponse::default().with_topics(topics);
    if version >= 2 {
        response.with_error_code(code)
    } else {
        response
    }
}

fn refused(asked: Asked, code: i16) -> Found {
    let topics = asked.into_iter().flatten().map(|(topic, partitions)| {
        let partitions = partitions.into_iter();
        let refused = partitions.map(|index| (index, Told::nothing(code)));
        (topic, refused.collect())
    });
    topics.collect()
}

fn old_topic(
    (topic, partitions): (String, Vec<(i32, Told)>),
    version: i16,
) -> OffsetFetchResponseTopic {
    let partitions = partitions.into_iter().map(|(index, told)| {
        let answer = OffsetFetchResponsePartition::default()
            .with_partition_index(index)
            .with_committed_offset(told.committed.offset)
            .with_metadata(Some(text(&told.committed.metadata)))
            .with_error_code(told.code);
        if version >= 5 {
            answer.with_committed_leader_epoch(told.committed.leader_epoch)
        } else {
            answer
        }
    });
    OffsetFetchResponseTopic::default()
        .with_name(text(&topic).into())
        .with_partitions(partitions.collect())
}

fn new_topic((topic, partitions): (String, Vec<(i32, Told)>)) -> OffsetFetchResponseTopics {
    let partitions = partitions.into_iter().map(|(index, told)| {
        OffsetFetchResponsePartitions::default()
            .with_partition_index(index)
            .with_committed_offset(told.committed.offset)
            .with_committed_leader_epoch(told.committed.leader_epoch)
            .with_metadata(Some(text(&told.committed.metadata)))
            .with_error_code(told.code)
    });
    OffsetFetchResponseTopics::default()
        .with_name(text(&topic).into())
        .with_partitions(partitions.collect())
}
