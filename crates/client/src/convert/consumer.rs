//! The message of the consumer group protocol (KIP-848).

use super::{group, protocol_error, text};
use crate::Error;
use crate::connection::Api;
use kafka_protocol::messages as m;
use kafka_protocol::messages::TopicName;
use kafka_protocol::messages::consumer_group_heartbeat_request::TopicPartitions;
use ottla_types::ErrorCode;
use ottla_types::coordinator::{
    ConsumerHeartbeatRequest, ConsumerHeartbeatResponse, TopicIdPartitions,
};
use std::ops::RangeInclusive;
use uuid::Uuid;

/// The first version with a regular expression.
const PATTERN_SINCE: i16 = 1;
/// The rebalance timeout that says that it did not change.
const UNCHANGED: i32 = -1;

/// The versions that can say this.
pub(crate) fn versions(request: &ConsumerHeartbeatRequest) -> RangeInclusive<i16> {
    let (oldest, newest) = m::ConsumerGroupHeartbeatRequest::VERSIONS.into_inner();
    match request.pattern {
        Some(_) => PATTERN_SINCE..=newest,
        None => oldest..=newest,
    }
}

pub(crate) fn request(
    group_id: &str,
    request: &ConsumerHeartbeatRequest,
) -> m::ConsumerGroupHeartbeatRequest {
    let topics = request.topics.as_ref();
    let names = topics.map(|topics| topics.iter().map(|t| TopicName(text(t))).collect());
    let owned = request.owned.as_ref().map(|owned| {
        let owned = owned.iter().map(|(id, partitions)| {
            TopicPartitions::default()
                .with_topic_id(Uuid::from_bytes(*id))
                .with_partitions(partitions.clone())
        });
        owned.collect()
    });
    m::ConsumerGroupHeartbeatRequest::default()
        .with_group_id(group(group_id))
        .with_member_id(text(&request.member_id))
        .with_member_epoch(request.member_epoch)
        .with_instance_id(request.instance_id.as_deref().map(text))
        .with_rack_id(request.rack.as_deref().map(text))
        .with_rebalance_timeout_ms(request.rebalance_timeout_ms.unwrap_or(UNCHANGED))
        .with_subscribed_topic_names(names)
        .with_subscribed_topic_regex(request.pattern.as_deref().map(text))
        .with_server_assignor(request.assignor.as_deref().map(text))
        .with_topic_partitions(owned)
}

/// # Errors
/// Of kind `Protocol` for a partition below 0.
pub(crate) fn answer(
    answer: m::ConsumerGroupHeartbeatResponse,
) -> Result<ConsumerHeartbeatResponse, Error> {
    let assignment = answer.assignment.map(|assignment| {
        let topics = assignment.topic_partitions.into_iter();
        let each = topics.map(|topic| (topic.topic_id.into_bytes(), topic.partitions));
        each.collect::<TopicIdPartitions>()
    });
    let below_0 = assignment
        .iter()
        .flatten()
        .flat_map(|(_, partitions)| partitions)
        .find(|partition| **partition < 0);
    if let Some(partition) = below_0 {
        let cause = super::BadAnswer::BadPartition(*partition);
        return Err(protocol_error::<m::ConsumerGroupHeartbeatRequest>(cause));
    }
    let words = |text: &kafka_protocol::protocol::StrBytes| text.to_string();
    Ok(ConsumerHeartbeatResponse {
        error: ErrorCode(answer.error_code),
        message: answer.error_message.as_ref().map(words),
        member_id: answer.member_id.as_ref().map(words),
        member_epoch: answer.member_epoch,
        heartbeat_interval_ms: answer.heartbeat_interval_ms,
        assignment,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;
    use bytes::BytesMut;
    use kafka_protocol::protocol::{Decodable, Encodable};
    use m::consumer_group_heartbeat_response as response;

    fn full() -> ConsumerHeartbeatRequest {
        ConsumerHeartbeatRequest {
            member_id: "m".to_owned(),
            member_epoch: 3,
            instance_id: Some("i".to_owned()),
            rack: Some("r".to_owned()),
            rebalance_timeout_ms: Some(7),
            topics: Some(vec!["a".into(), "b".into()]),
            pattern: Some("x.*".to_owned()),
            assignor: Some("uniform".to_owned()),
            owned: Some(vec![([7; 16], vec![0, 2])]),
        }
    }

    #[test]
    fn every_field_is_written_and_unchanged_ones_are_null() {
        let written = |said: &ConsumerHeartbeatRequest, version| {
            let mut bytes = BytesMut::new();
            request("g", said).encode(&mut bytes, version).unwrap();
            m::ConsumerGroupHeartbeatRequest::decode(&mut bytes.freeze(), version).unwrap()
        };
        let read = written(&full(), 1);
        assert_eq!(
            (&**read.group_id, &*read.member_id, read.member_epoch),
            ("g", "m", 3)
        );
        assert_eq!(read.instance_id.as_deref(), Some("i"));
        assert_eq!(
            (read.rack_id.as_deref(), read.rebalance_timeout_ms),
            (Some("r"), 7)
        );
        assert_eq!(read.subscribed_topic_names.unwrap().len(), 2);
        assert_eq!(read.subscribed_topic_regex.as_deref(), Some("x.*"));
        assert_eq!(read.server_assignor.as_deref(), Some("uniform"));
        let owned = read.topic_partitions.unwrap();
        assert_eq!(owned[0].topic_id.as_bytes(), &[7; 16]);
        assert_eq!(owned[0].partitions, [0, 2]);
        let quiet = ConsumerHeartbeatRequest {
            instance_id: None,
            rack: None,
            rebalance_timeout_ms: None,
            topics: None,
            pattern: None,
            assignor: None,
            owned: None,
            ..full()
        };
        for version in 0..=1 {
            let read = written(&quiet, version);
            assert_eq!((read.rebalance_timeout_ms, read.member_epoch), (-1, 3));
            assert!(read.subscribed_topic_names.is_none() && read.topic_partitions.is_none());
        }
    }

    #[test]
    fn an_expression_needs_version_1() {
        assert_eq!(versions(&full()), 1..=1);
        let pattern = None;
        assert_eq!(
            versions(&ConsumerHeartbeatRequest { pattern, ..full() }),
            0..=1
        );
    }

    #[test]
    fn an_assignment_is_read_and_one_that_cannot_be_is_refused() {
        let give = |partition| {
            let topic = response::TopicPartitions::default()
                .with_topic_id(Uuid::from_bytes([7; 16]))
                .with_partitions(vec![0, partition]);
            let given = response::Assignment::default().with_topic_partitions(vec![topic]);
            answer(
                m::ConsumerGroupHeartbeatResponse::default()
                    .with_member_id(Some(text("m")))
                    .with_member_epoch(4)
                    .with_assignment(Some(given)),
            )
        };
        let read = give(2).unwrap();
        assert_eq!(
            (read.member_id.as_deref(), read.member_epoch),
            (Some("m"), 4)
        );
        assert_eq!(read.assignment, Some(vec![([7; 16], vec![0, 2])]));
        assert_eq!(give(-2).unwrap_err().kind(), ErrorKind::Protocol);
        let unchanged = answer(m::ConsumerGroupHeartbeatResponse::default()).unwrap();
        assert_eq!(unchanged.assignment, None);
    }
}
