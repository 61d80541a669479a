//! Between the plain structs of the coordinator calls and the messages of each version.
//!
//! Pure. Everything that differs between versions of these messages stands here.

pub(crate) mod consumer;
pub(crate) mod transactions;

use crate::connection::Api;
use crate::place::KeyType;
use crate::{Error, ErrorKind};
use kafka_protocol::messages as m;
use kafka_protocol::messages::{GroupId, TopicName};
use kafka_protocol::messages::{
    join_group_request::JoinGroupRequestProtocol,
    leave_group_request::MemberIdentity,
    offset_commit_request::{OffsetCommitRequestPartition, OffsetCommitRequestTopic},
    offset_fetch_request::{
        OffsetFetchRequestGroup, OffsetFetchRequestTopic, OffsetFetchRequestTopics,
    },
    sync_group_request::SyncGroupRequestAssignment,
};
use kafka_protocol::protocol::StrBytes;
use ottla_types::coordinator::{
    FetchedOffset, HeartbeatRequest, JoinGroupMember, JoinGroupRequest, JoinGroupResponse,
    LeaveGroupRequest, OffsetCommitRequest, OffsetCommitResponse, OffsetFetchRequest,
    OffsetFetchResponse, SyncGroupRequest, SyncGroupResponse,
};
use ottla_types::{ErrorCode, ProducerId, TopicPartition};
use std::collections::HashMap;
use std::sync::Arc;

/// What an answer left out, or has in it that cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadAnswer {
    #[error("the answer says nothing about partition {0}")]
    NoPartition(TopicPartition),
    #[error("partition {0} is assigned")]
    BadPartition(i32),
    #[error("the answer says nothing about group {0}")]
    NoGroup(Arc<str>),
    #[error("the answer says nothing about the coordinator of {0}")]
    NoKey(Arc<str>),
    #[error("the answer grants the producer id {id} with epoch {epoch}")]
    BadProducerId { id: i64, epoch: i16 },
    #[error("the answer grants the producer id and epoch that the producer had: {0}")]
    SameEpoch(ProducerId),
    #[error("the coordinator is said to be broker {id} at `{host}`:{port}")]
    BadCoordinator { id: i32, host: String, port: i32 },
}

fn protocol_error<A: Api>(cause: BadAnswer) -> Error {
    Error::new(ErrorKind::Protocol, A::NAME).with_source(cause)
}

fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

fn group(id: &str) -> GroupId {
    GroupId(text(id))
}

pub(crate) fn find_request(
    key_type: KeyType,
    key: &str,
    version: i16,
) -> m::FindCoordinatorRequest {
    let request = m::FindCoordinatorRequest::default().with_key_type(key_type.wire());
    if version >= 4 {
        request.with_coordinator_keys(vec![text(key)])
    } else {
        request.with_key(text(key))
    }
}

/// What FindCoordinator said of one key.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct FoundCoordinator<'a> {
    pub error: ErrorCode,
    pub id: i32,
    pub host: &'a str,
    pub port: i32,
}

pub(crate) fn found_coordinator<'a>(
    answer: &'a m::FindCoordinatorResponse,
    version: i16,
    wanted: &Arc<str>,
) -> Result<FoundCoordinator<'a>, Error> {
    let found = if version >= 4 {
        let mut coordinators = answer.coordinators.iter();
        let ours = coordinators.find(|coordinator| *coordinator.key == **wanted);
        let missing =
            || protocol_error::<m::FindCoordinatorRequest>(BadAnswer::NoKey(wanted.clone()));
        let ours = ours.ok_or_else(missing)?;
        FoundCoordinator {
            error: ErrorCode(ours.error_code),
            id: ours.node_id.0,
            host: &ours.host,
            port: ours.port,
        }
    } else {
        FoundCoordinator {
            error: ErrorCode(answer.error_code),
            id: answer.node_id.0,
            host: &answer.host,
            port: answer.port,
        }
    };
    let is_place = found.id >= 0 && !found.host.is_empty() && (1..=65_535).contains(&found.port);
    if found.error.is_ok() && !is_place {
        let (id, host, port) = (found.id, found.host.to_owned(), found.port);
        let cause = BadAnswer::BadCoordinator { id, host, port };
        return Err(protocol_error::<m::FindCoordinatorRequest>(cause));
    }
    Ok(found)
}

pub(crate) fn join_request(
    group_id: &str,
    request: JoinGroupRequest,
    version: i16,
) -> m::JoinGroupRequest {
    let protocols = request.protocols.into_iter().map(|(name, metadata)| {
        JoinGroupRequestProtocol::default()
            .with_name(text(&name))
            .with_metadata(metadata)
    });
    m::JoinGroupRequest::default()
        .with_group_id(group(group_id))
        .with_session_timeout_ms(request.session_timeout_ms)
        .with_rebalance_timeout_ms(request.rebalance_timeout_ms)
        .with_member_id(text(&request.member_id))
        .with_group_instance_id(request.instance_id.as_deref().map(text))
        .with_protocol_type(text(&request.protocol_type))
        .with_protocols(protocols.collect())
        .with_reason(request.reason.as_deref().filter(|_| version >= 8).map(text))
}

pub(crate) fn join_answer(answer: m::JoinGroupResponse) -> JoinGroupResponse {
    let members = answer.members.into_iter().map(|member| JoinGroupMember {
        member_id: member.member_id.to_string(),
        instance_id: member.group_instance_id.map(|id| id.to_string()),
        metadata: member.metadata,
    });
    JoinGroupResponse {
        error: ErrorCode(answer.error_code),
        generation: answer.generation_id,
        // Below v7 there is no null; an empty name then stands for it.
        protocol: answer
            .protocol_name
            .filter(|name| !name.is_empty())
            .map(|name| name.to_string()),
        leader: answer.leader.to_string(),
        member_id: answer.member_id.to_string(),
        members: members.collect(),
        skip_assignment: answer.skip_assignment,
    }
}

pub(crate) fn sync_request(group_id: &str, request: SyncGroupRequest) -> m::SyncGroupRequest {
    let assignments = request.assignments.into_iter().map(|(member, assignment)| {
        SyncGroupRequestAssignment::default()
            .with_member_id(text(&member))
            .with_assignment(assignment)
    });
    m::SyncGroupRequest::default()
        .with_group_id(group(group_id))
        .with_generation_id(request.generation)
        .with_member_id(text(&request.member_id))
        .with_group_instance_id(request.instance_id.as_deref().map(text))
        .with_protocol_type(Some(text(&request.protocol_type)))
        .with_protocol_name(Some(text(&request.protocol)))
        .with_assignments(assignments.collect())
}

pub(crate) fn sync_answer(answer: m::SyncGroupResponse) -> SyncGroupResponse {
    SyncGroupResponse {
        error: ErrorCode(answer.error_code),
        assignment: answer.assignment,
    }
}

pub(crate) fn heartbeat_request(group_id: &str, request: HeartbeatRequest) -> m::HeartbeatRequest {
    m::HeartbeatRequest::default()
        .with_group_id(group(group_id))
        .with_generation_id(request.generation)
        .with_member_id(text(&request.member_id))
        .with_group_instance_id(request.instance_id.as_deref().map(text))
}

pub(crate) fn leave_request(
    group_id: &str,
    request: LeaveGroupRequest,
    version: i16,
) -> m::LeaveGroupRequest {
    let message = m::LeaveGroupRequest::default().with_group_id(group(group_id));
    let member_id = text(&request.member_id);
    if version < 3 {
        return message.with_member_id(member_id);
    }
    let member = MemberIdentity::default()
        .with_member_id(member_id)
        .with_group_instance_id(request.instance_id.as_deref().map(text))
        .with_reason(request.reason.as_deref().filter(|_| version >= 5).map(text));
    message.with_members(vec![member])
}

/// The first error of the answer, be it for the request or for the member.
pub(crate) fn leave_answer(answer: &m::LeaveGroupResponse) -> ErrorCode {
    let of_member = answer.members.first().map_or(0, |member| member.error_code);
    match answer.error_code {
        0 => ErrorCode(of_member),
        code => ErrorCode(code),
    }
}

pub(crate) fn commit_request(
    group_id: &str,
    request: OffsetCommitRequest,
) -> m::OffsetCommitRequest {
    let mut topics: Vec<OffsetCommitRequestTopic> = Vec::new();
    let mut places: HashMap<Arc<str>, usize> = HashMap::new();
    for offset in request.offsets {
        let topic = offset.partition.topic;
        let place = *places.entry(topic.clone()).or_insert_with(|| {
            topics.push(OffsetCommitRequestTopic::default().with_name(TopicName(text(&topic))));
            topics.len() - 1
        });
        let partition = OffsetCommitRequestPartition::default()
            .with_partition_index(offset.partition.partition)
            .with_committed_offset(offset.offset)
            .with_committed_leader_epoch(offset.leader_epoch.unwrap_or(-1))
            .with_committed_metadata(Some(text(&offset.metadata)));
        topics[place].partitions.push(partition);
    }
    m::OffsetCommitRequest::default()
        .with_group_id(group(group_id))
        .with_generation_id_or_member_epoch(request.generation)
        .with_member_id(text(&request.member_id))
        .with_group_instance_id(request.instance_id.as_deref().map(text))
        .with_topics(topics)
}

pub(crate) fn commit_answer(
    answer: m::OffsetCommitResponse,
    wanted: Vec<TopicPartition>,
) -> Result<OffsetCommitResponse, Error> {
    let codes: HashMap<(&str, i32), i16> = answer
        .topics
        .iter()
        .flat_map(|topic| {
            let partitions = topic.partitions.iter();
            partitions.map(|p| ((topic.name.as_str(), p.partition_index), p.error_code))
        })
        .collect();
    let code =
        |partition: TopicPartition| match codes.get(&(&*partition.topic, partition.partition)) {
            Some(&code) => Ok((partition, ErrorCode(code))),
            None => Err(protocol_error::<m::OffsetCommitRequest>(
                BadAnswer::NoPartition(partition),
            )),
        };
    wanted.into_iter().map(code).collect()
}

pub(crate) fn fetch_request(
    group_id: &str,
    request: &OffsetFetchRequest,
    version: i16,
) -> m::OffsetFetchRequest {
    let mut topics: Vec<(TopicName, Vec<i32>)> = Vec::new();
    let mut places: HashMap<&str, usize> = HashMap::new();
    for partition in &request.partitions {
        let place = *places.entry(&partition.topic).or_insert_with(|| {
            topics.push((TopicName(text(&partition.topic)), Vec::new()));
            topics.len() - 1
        });
        topics[place].1.push(partition.partition);
    }
    let message = m::OffsetFetchRequest::default().with_require_stable(request.require_stable);
    if version >= 8 {
        let topics = topics.into_iter().map(|(name, partitions)| {
            OffsetFetchRequestTopics::default()
                .with_name(name)
                .with_partition_indexes(partitions)
        });
        let group = OffsetFetchRequestGroup::default()
            .with_group_id(group(group_id))
            .with_topics(Some(topics.collect()));
        // The fields of v7 and below must be left empty, and not null.
        return message
            .with_topics(Some(Vec::new()))
            .with_groups(vec![group]);
    }
    let topics = topics.into_iter().map(|(name, partitions)| {
        OffsetFetchRequestTopic::default()
            .with_name(name)
            .with_partition_indexes(partitions)
    });
    message
        .with_group_id(group(group_id))
        .with_topics(Some(topics.collect()))
}

/// Asks for everything that the group has; version 1 has no way to say that.
pub(crate) fn fetch_all_request(group_id: &str, version: i16) -> m::OffsetFetchRequest {
    let message = m::OffsetFetchRequest::default();
    if version >= 8 {
        let group = OffsetFetchRequestGroup::default()
            .with_group_id(group(group_id))
            .with_topics(None);
        return message
            .with_topics(Some(Vec::new()))
            .with_groups(vec![group]);
    }
    message.with_group_id(group(group_id)).with_topics(None)
}

/// The answer to [`fetch_all_request`], ordered by partition.
pub(crate) fn fetch_all_answer(
    answer: m::OffsetFetchResponse,
    version: i16,
    group_id: &Arc<str>,
) -> Result<OffsetFetchResponse, Error> {
    let (error, found) = stored_offsets(answer, version, group_id)?;
    let offsets = found.into_iter().map(|((topic, partition), stored)| {
        stored.read(TopicPartition::new(topic.as_str(), partition))
    });
    let mut offsets: Vec<_> = offsets.collect();
    offsets.sort_unstable_by(|a, b| a.partition.cmp(&b.partition));
    Ok(OffsetFetchResponse { error, offsets })
}

pub(crate) fn fetch_answer(
    answer: m::OffsetFetchResponse,
    version: i16,
    group_id: &Arc<str>,
    wanted: &[TopicPartition],
) -> Result<OffsetFetchResponse, Error> {
    let (error, mut found) = stored_offsets(answer, version, group_id)?;
    let mut offsets = Vec::with_capacity(wanted.len());
    for partition in wanted {
        match found.remove(&(text(&partition.topic), partition.partition)) {
            Some(stored) => offsets.push(stored.read(partition.clone())),
            // A failed request need not name its partitions.
            None if !error.is_ok() => {}
            None => {
                let cause = BadAnswer::NoPartition(partition.clone());
                return Err(protocol_error::<m::OffsetFetchRequest>(cause));
            }
        }
    }
    Ok(OffsetFetchResponse { error, offsets })
}

/// The error of the whole answer, and what it says by topic and partition.
fn stored_offsets(
    answer: m::OffsetFetchResponse,
    version: i16,
    group_id: &Arc<str>,
) -> Result<(ErrorCode, StoredByPartition), Error> {
    let mut found = StoredByPartition::new();
    if version < 8 {
        for topic in answer.topics {
            for p in topic.partitions {
                let stored = Stored {
                    error: p.error_code,
                    offset: p.committed_offset,
                    leader_epoch: p.committed_leader_epoch,
                    metadata: p.metadata,
                };
                found.insert((topic.name.0.clone(), p.partition_index), stored);
            }
        }
        return Ok((ErrorCode(answer.error_code), found));
    }
    let mut groups = answer.groups.into_iter();
    let ours = groups.find(|group| *group.group_id.0 == **group_id);
    let missing = || protocol_error::<m::OffsetFetchRequest>(BadAnswer::NoGroup(group_id.clone()));
    let ours = ours.ok_or_else(missing)?;
    for topic in ours.topics {
        for p in topic.partitions {
            let stored = Stored {
                error: p.error_code,
                offset: p.committed_offset,
                leader_epoch: p.committed_leader_epoch,
                metadata: p.metadata,
            };
            found.insert((topic.name.0.clone(), p.partition_index), stored);
        }
    }
    Ok((ErrorCode(ours.error_code), found))
}

type StoredByPartition = HashMap<(StrBytes, i32), Stored>;

struct Stored {
    error: i16,
    offset: i64,
    leader_epoch: i32,
    metadata: Option<StrBytes>,
}

impl Stored {
    fn read(self, partition: TopicPartition) -> FetchedOffset {
        FetchedOffset {
            partition,
            error: ErrorCode(self.error),
            // -1: nothing was committed.
            offset: (self.offset >= 0).then_some(self.offset),
            leader_epoch: (self.leader_epoch >= 0).then_some(self.leader_epoch),
            metadata: self.metadata.unwrap_or_default().to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kafka_protocol::messages::find_coordinator_response::Coordinator;
    use kafka_protocol::messages::offset_fetch_response::OffsetFetchResponseGroup;

    fn partitions() -> Vec<TopicPartition> {
        vec![TopicPartition::new("orders", 0)]
    }

    #[test]
    fn a_partition_without_an_answer_is_not_taken_for_committed() {
        let error = commit_answer(m::OffsetCommitResponse::default(), partitions()).unwrap_err();
        assert_eq!(
            (error.kind(), error.operation()),
            (ErrorKind::Protocol, "OffsetCommit")
        );
        let group_id: Arc<str> = "g".into();
        for version in [7, 9] {
            let answer = m::OffsetFetchResponse::default().with_groups(vec![
                OffsetFetchResponseGroup::default().with_group_id(group("g")),
            ]);
            let error = fetch_answer(answer, version, &group_id, &partitions()).unwrap_err();
            assert_eq!(
                (error.kind(), error.operation()),
                (ErrorKind::Protocol, "OffsetFetch")
            );
        }
        let nothing = m::OffsetFetchResponse::default();
        assert!(fetch_answer(nothing, 9, &group_id, &partitions()).is_err());
    }

    #[test]
    fn a_failed_offset_fetch_need_not_name_its_partitions() {
        let group_id: Arc<str> = "g".into();
        let code = ErrorCode::COORDINATOR_LOAD_IN_PROGRESS;
        let old = m::OffsetFetchResponse::default().with_error_code(code.0);
        let ours = OffsetFetchResponseGroup::default()
            .with_group_id(group("g"))
            .with_error_code(code.0);
        let new = m::OffsetFetchResponse::default().with_groups(vec![ours]);
        for (version, answer) in [(7, old), (8, new)] {
            let answer = fetch_answer(answer, version, &group_id, &partitions()).unwrap();
            assert_eq!((answer.error, answer.offsets), (code, Vec::new()));
        }
    }

    #[test]
    fn trap_d_a_coordinator_without_a_place_is_refused() {
        let group_id: Arc<str> = "g".into();
        let found = Coordinator::default()
            .with_key(text("g"))
            .with_node_id(m::BrokerId(1));
        let places = [("", 9092), ("host", 0), ("host", 70_000)];
        for (host, port) in places {
            let found = found.clone().with_host(text(host)).with_port(port);
            let new = m::FindCoordinatorResponse::default().with_coordinators(vec![found]);
            let old = m::FindCoordinatorResponse::default()
                .with_host(text(host))
                .with_port(port);
            for (version, answer) in [(4, new), (3, old)] {
                let error = found_coordinator(&answer, version, &group_id).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Protocol);
            }
        }
        let none = m::FindCoordinatorResponse::default().with_error_code(15);
        let found = found_coordinator(&none, 3, &group_id).unwrap();
        assert_eq!(found.error, ErrorCode::COORDINATOR_NOT_AVAILABLE);
        assert!(found_coordinator(&none, 4, &group_id).is_err());
    }

    #[test]
    fn leaving_tells_the_members_error_too() {
        use kafka_protocol::messages::leave_group_response::MemberResponse;
        let member = MemberResponse::default().with_error_code(25);
        let answer = m::LeaveGroupResponse::default().with_members(vec![member]);
        assert_eq!(leave_answer(&answer), ErrorCode::UNKNOWN_MEMBER_ID);
        assert_eq!(
            leave_answer(&answer.with_error_code(16)),
            ErrorCode::NOT_COORDINATOR
        );
    }
}
