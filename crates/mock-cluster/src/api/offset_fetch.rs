//! OffsetFetch: what a group committed; from version 8 on for several groups at once. Without
//! topics, all it has. An offset that was never committed is -1, without an error.

use kafka_protocol::messages::offset_fetch_response::{
    OffsetFetchResponseGroup, OffsetFetchResponsePartition, OffsetFetchResponsePartitions,
    OffsetFetchResponseTopic, OffsetFetchResponseTopics,
};
use kafka_protocol::messages::{OffsetFetchRequest, OffsetFetchResponse};

use super::shape::{BOOL, Field, I32, I32S, TEXT, structs};
use super::{Api, Call, Names, Outcome, Versions, text};
use crate::group::{Committed, Group};
use crate::shared::Data;
use crate::{ApiKey, codes};

pub(super) struct OffsetFetch;

/// Topic names and partitions; `None` is everything.
type Asked = Option<Vec<(String, Vec<i32>)>>;
type Found = Vec<(String, Vec<(i32, Committed)>)>;

impl Api for OffsetFetch {
    const KEY: ApiKey = ApiKey::OffsetFetch;
    const VERSIONS: Versions = Versions { min: 1, max: 9 };
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
        }
    }

    fn refuse(request: &Self::Request, version: i16, code: i16) -> Option<Self::Response> {
        Some(answer(request, version, |_, _| Err(code)))
    }

    async fn handle(call: &Call<'_>, request: Self::Request) -> Outcome<Self::Response> {
        let mut data = call.shared.data();
        let Data {
            topics,
            coordinators,
            ..
        } = &mut *data;
        let response = answer(&request, call.version, |group, asked| {
            Ok(look_up(coordinators.at(call.broker, group, topics)?, asked))
        });
        Outcome::Answer(response)
    }
}

fn look_up(group: &Group, asked: Asked) -> Found {
    let Some(asked) = asked else {
        let mut found: Found = Vec::new();
        for (topic, partition, committed) in group.all_committed() {
            match found.last_mut() {
                Some((last, partitions)) if last == topic => {
                    partitions.push((partition, committed.clone()));
                }
                _ => found.push((topic.to_owned(), vec![(partition, committed.clone())])),
            }
        }
        return found;
    };
    let none = Committed {
        offset: -1,
        leader_epoch: -1,
        metadata: String::new(),
    };
    let of_topic = |(topic, partitions): (String, Vec<i32>)| {
        let committed = partitions.into_iter().map(|partition| {
            let committed = group.committed(&topic, partition).unwrap_or(&none);
            (partition, committed.clone())
        });
        let committed = committed.collect();
        (topic, committed)
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
    let topics = match result {
        Ok(found) => found
            .into_iter()
            .map(|topic| old_topic(topic, version, code))
            .collect(),
        // Version 1 has no room for the code but at the partitions.
        Err(_) => refused_topics(asked, version, code),
    };
    let response = OffsetFetchResponse::default().with_topics(topics);
    if version >= 2 {
        response.with_error_code(code)
    } else {
        response
    }
}

fn refused_topics(asked: Asked, version: i16, code: i16) -> Vec<OffsetFetchResponseTopic> {
    let none = Committed {
        offset: -1,
        leader_epoch: -1,
        metadata: String::new(),
    };
    let topics = asked.into_iter().flatten().map(|(topic, partitions)| {
        let partitions = partitions
            .into_iter()
            .map(|index| (index, none.clone()))
            .collect();
        old_topic((topic, partitions), version, code)
    });
    topics.collect()
}

fn old_topic(
    (topic, partitions): (String, Vec<(i32, Committed)>),
    version: i16,
    code: i16,
) -> OffsetFetchResponseTopic {
    let partitions = partitions.into_iter().map(|(index, committed)| {
        let answer = OffsetFetchResponsePartition::default()
            .with_partition_index(index)
            .with_committed_offset(committed.offset)
            .with_metadata(Some(text(&committed.metadata)))
            .with_error_code(code);
        if version >= 5 {
            answer.with_committed_leader_epoch(committed.leader_epoch)
        } else {
            answer
        }
    });
    OffsetFetchResponseTopic::default()
        .with_name(text(&topic).into())
        .with_partitions(partitions.collect())
}

fn new_topic((topic, partitions): (String, Vec<(i32, Committed)>)) -> OffsetFetchResponseTopics {
    let partitions = partitions.into_iter().map(|(index, committed)| {
        OffsetFetchResponsePartitions::default()
            .with_partition_index(index)
            .with_committed_offset(committed.offset)
            .with_committed_leader_epoch(committed.leader_epoch)
            .with_metadata(Some(text(&committed.metadata)))
    });
    OffsetFetchResponseTopics::default()
        .with_name(text(&topic).into())
        .with_partitions(partitions.collect())
}
