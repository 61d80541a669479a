//! Our two hand-written messages against kafka-protocol's, in every version.

use super::outbox::{Order, Terms};
use super::wire::WireError;
use super::{fetch_message as fetch, produce_message as produce};
use crate::connection::RequestFrame;
use crate::transport::{Acks, answers};
use bytes::{Buf, Bytes, BytesMut};
use kafka_protocol::messages::{
    BrokerId, FetchRequest, FetchResponse, ProduceRequest, ProduceResponse, ProducerId, TopicName,
    fetch_response as fr, produce_response as pr,
};
use kafka_protocol::protocol::{Decodable, Encodable, StrBytes};
use ottla_record_batch::{BatchBuilder, EncodedBatch};
use ottla_types::{ErrorCode, Headers, TopicPartition};
use uuid::Uuid;

fn name(text: &'static str) -> TopicName {
    TopicName(StrBytes::from_static_str(text))
}

fn partitions() -> [TopicPartition; 3] {
    [("a", 1), ("a", 7), ("b", 0)].map(|(topic, n)| TopicPartition::new(topic, n))
}

/// A batch of so many pieces after the first, each with a record of so many bytes.
fn batch_in_pieces(more: usize, bytes: usize) -> EncodedBatch {
    let mut builder = BatchBuilder::new(1 << 30);
    for piece in 0..=more {
        if piece > 0 {
            builder.go_on_in(BytesMut::new());
        }
        let value = vec![piece as u8; bytes];
        let added = builder.try_append(7, None, Some(&value), &Headers::new());
        assert_eq!(added, Ok(piece as u32));
    }
    builder.finish()
}

#[test]
fn produce_requests_are_read_as_they_were_written() {
    let partitions = partitions();
    let batches: Vec<_> = (0..3).map(|n| batch_in_pieces(n, 200 << (6 * n))).collect();
    assert!(
        batches
            .iter()
            .enumerate()
            .all(|(n, batch)| batch.pieces().count() == n + 1)
    );
    let (sink, _answers) = answers();
    let terms = |id: Option<&str>, version_2| Terms {
        acks: Acks::All,
        transactional_id: id.map(Into::into),
        transaction_version_2: version_2,
    };
    assert_eq!(produce::versions(&terms(Some("id"), false)), 3..=11);
    assert_eq!(produce::versions(&terms(Some("id"), true)), 12..=12);
    let orders = |terms: &Terms| -> Vec<_> {
        let all = partitions.iter().zip(&batches);
        let order = |(partition, batch): (&TopicPartition, &EncodedBatch)| Order {
            partition: partition.clone(),
            terms: terms.clone(),
            batch: batch.clone(),
            deadline: tokio::time::Instant::now(),
            reply: sink.reply(0, partition.clone()),
        };
        all.map(order).collect()
    };
    for (version, id) in produce::VERSIONS.zip([None, Some("id")].into_iter().cycle()) {
        let mut frame = RequestFrame::new(BytesMut::new());
        let terms = terms(id, false);
        produce::write(&mut frame, version, &terms, 1234, &orders(&terms));
        let mut frame = frame.to_bytes();
        let read = ProduceRequest::decode(&mut frame, version).unwrap();
        assert!(!frame.has_remaining(), "v{version}");
        assert_eq!((read.acks, read.timeout_ms), (-1, 1234));
        let read_id = read.transactional_id.as_ref().map(|id| id.as_str());
        assert_eq!(read_id, id);
        let parts = read.topic_data.iter().flat_map(|topic| {
            let of_topic = topic.partition_data.iter();
            of_topic.map(|part| (&**topic.name, part.index, part.records.clone().unwrap()))
        });
        let expected = [("a", 1), ("a", 7), ("b", 0)];
        let expected = expected.iter().zip(&batches);
        let expected = expected.map(|((topic, n), batch)| (*topic, *n, batch.bytes()));
        assert!(parts.eq(expected), "v{version}");
    }
}

fn produce_answer(version: i16) -> ProduceResponse {
    let mut part = pr::PartitionProduceResponse::default()
        .with_index(7)
        .with_error_code(6)
        .with_base_offset(55)
        .with_log_append_time_ms(66);
    if version >= 5 {
        part = part.with_log_start_offset(3);
    }
    if version >= 8 {
        let error = pr::BatchIndexAndErrorMessage::default().with_batch_index(1);
        part = part
            .with_record_errors(vec![error; 2])
            .with_error_message(Some(StrBytes::from_static_str("no")));
    }
    let topic = |part| {
        pr::TopicProduceResponse::default()
            .with_name(name("a"))
            .with_partition_responses(vec![part; 2])
    };
    let mut answer = ProduceResponse::default().with_throttle_time_ms(9);
    if version >= 10 {
        let leader = pr::LeaderIdAndEpoch::default()
            .with_leader_id(BrokerId(3))
            .with_leader_epoch(4);
        part = part.with_current_leader(leader);
        let endpoint = pr::NodeEndpoint::default()
            .with_node_id(BrokerId(3))
            .with_host(StrBytes::from_static_str("h"))
            .with_port(99);
        answer = answer.with_node_endpoints(vec![endpoint]);
    }
    answer.with_responses(vec![topic(part); 2])
}

/// The body of an answer, behind its header's tagged fields where it has them.
fn body(answer: &impl Encodable, version: i16, is_flexible: bool) -> Bytes {
    let mut body = BytesMut::new();
    if is_flexible {
        body.extend_from_slice(&[1, 9, 2, 7, 7]);
    }
    answer.encode(&mut body, version).unwrap();
    body.freeze()
}

#[test]
fn produce_answers_are_read_in_every_version_and_no_cut_of_them() {
    for version in produce::VERSIONS {
        let whole = body(
            &produce_answer(version),
            version,
            produce::is_flexible(version),
        );
        let read = produce::read(whole.clone(), version, 4).unwrap();
        assert_eq!((read.partitions.len(), read.throttle_ms), (4, 9));
        let part = &read.partitions[3];
        assert_eq!((part.topic.as_str(), part.partition), ("a", 7));
        assert_eq!((part.code, part.base_offset), (ErrorCode(6), 55));
        assert_eq!(part.log_append_time_ms, 66);
        assert_eq!(part.log_start_offset, (version >= 5).then_some(3));
        let message = part.message.as_ref().map(|text| text.as_str());
        assert_eq!(message, (version >= 8).then_some("no"));
        assert_eq!(part.leader, (version >= 10).then_some((3, 4)));
        let endpoints: Vec<_> = read
            .endpoints
            .iter()
            .map(|e| (e.id, e.host.as_str(), e.port))
            .collect();
        assert_eq!(endpoints.len(), usize::from(version >= 10));
        assert!(endpoints.iter().all(|e| *e == (3, "h", 99)));
        for end in 0..whole.len() {
            let cut = produce::read(whole.slice(..end), version, 4);
            assert!(cut.is_err(), "v{version} cut at {end}");
        }
        for asked in 0..4 {
            let unasked = produce::read(whole.clone(), version, asked).unwrap_err();
            assert!(matches!(unasked, WireError::Unasked { .. }), "v{version}");
        }
    }
}

#[test]
fn fetch_requests_are_read_as_they_were_written() {
    let partitions = partitions();
    let wanted = fetch::Wanted {
        offset: 1 << 40,
        leader_epoch: 5,
        last_epoch: 4,
        max_bytes: 1000,
        topic_id: [0; 16],
    };
    let terms = fetch::Terms {
        max_wait_ms: 500,
        min_bytes: 1,
        max_bytes: 1 << 20,
        read_committed: true,
        session_id: 77,
        session_epoch: 8,
    };
    let id = |p: &TopicPartition| p.topic.as_bytes()[0];
    for version in fetch::VERSIONS {
        let has_ids = version > fetch::NAMES_UNTIL;
        let topic_id = |p: &_| if has_ids { [id(p); 16] } else { fetch::NO_ID };
        let asked = |p| {
            let topic_id = topic_id(p);
            (p, fetch::Wanted { topic_id, ..wanted })
        };
        let all: Vec<_> = partitions.iter().map(asked).collect();
        let forgotten: Vec<_> = partitions
            .iter()
            .map(|p| (p.clone(), topic_id(p)))
            .collect();
        let mut frame = RequestFrame::new(BytesMut::new());
        fetch::write(&mut frame, version, terms, &all, &forgotten, "west");
        let mut frame = frame.to_bytes();
        let read = FetchRequest::decode(&mut frame, version).unwrap();
        assert!(!frame.has_remaining(), "v{version}");
        let limits = (read.max_wait_ms, read.min_bytes, read.max_bytes);
        assert_eq!(limits, (500, 1, 1 << 20));
        assert_eq!((read.replica_id.0, read.isolation_level), (-1, 1));
        if version >= fetch::SESSIONS_FROM {
            assert_eq!((read.session_id, read.session_epoch), (77, 8));
            let forgotten = read.forgotten_topics_data.iter();
            let forgotten: Vec<_> = forgotten
                .map(|t| (topic(&t.topic, t.topic_id), &*t.partitions))
                .collect();
            assert_eq!(forgotten, [(b'a', &[1, 7][..]), (b'b', &[0])]);
        }
        let topics: Vec<_> = read
            .topics
            .iter()
            .map(|t| (topic(&t.topic, t.topic_id), t.partitions.len()))
            .collect();
        assert_eq!(topics, [(b'a', 2), (b'b', 1)]);
        assert_eq!(&*read.rack_id, if version >= 11 { "west" } else { "" });
        let part = &read.topics[0].partitions[1];
        assert_eq!((part.partition, part.fetch_offset), (7, 1 << 40));
        assert_eq!(part.partition_max_bytes, 1000);
        let epoch = if version >= 9 { 5 } else { -1 };
        assert_eq!(part.current_leader_epoch, epoch);
        let last_epoch = if version >= 12 { 4 } else { -1 };
        let epochs = (part.last_fetched_epoch, part.log_start_offset);
        assert_eq!(epochs, (last_epoch, -1));
    }
}

/// The letter that a topic is called by, or all bytes of its id are.
fn topic(name: &TopicName, id: Uuid) -> u8 {
    let of_id = (!id.is_nil()).then(|| id.as_bytes()[0]);
    of_id.or_else(|| name.bytes().next()).unwrap()
}

fn fetch_answer(version: i16) -> FetchResponse {
    let aborted = fr::AbortedTransaction::default()
        .with_producer_id(ProducerId(11))
        .with_first_offset(12);
    let mut part = fr::PartitionData::default()
        .with_partition_index(7)
        .with_error_code(6)
        .with_high_watermark(100)
        .with_last_stable_offset(90)
        .with_aborted_transactions(Some(vec![aborted; 2]))
        .with_records(Some(Bytes::from_static(b"records")));
    if version >= 5 {
        part = part.with_log_start_offset(3);
    }
    if version >= 12 {
        let leader = fr::LeaderIdAndEpoch::default()
            .with_leader_id(BrokerId(3))
            .with_leader_epoch(4);
        let end = fr::EpochEndOffset::default()
            .with_epoch(1)
            .with_end_offset(2);
        part = part.with_current_leader(leader).with_diverging_epoch(end);
    }
    let empty = fr::PartitionData::default()
        .with_aborted_transactions(None)
        .with_records(None);
    if version >= 11 {
        part = part.with_preferred_read_replica(BrokerId(8));
    }
    let mut topic = fr::FetchableTopicResponse::default().with_partitions(vec![empty, part]);
    topic = if version > fetch::NAMES_UNTIL {
        topic.with_topic_id(Uuid::from_bytes([b'a'; 16]))
    } else {
        topic.with_topic(name("a"))
    };
    let mut answer = FetchResponse::default()
        .with_throttle_time_ms(9)
        .with_responses(vec![topic; 2]);
    if version >= fetch::SESSIONS_FROM {
        answer = answer.with_session_id(77).with_error_code(70);
    }
    if version >= 16 {
        let endpoint = fr::NodeEndpoint::default()
            .with_node_id(BrokerId(3))
            .with_host(StrBytes::from_static_str("h"))
            .with_port(99);
        answer = answer.with_node_endpoints(vec![endpoint]);
    }
    answer
}

#[test]
fn fetch_answers_are_read_in_every_version_and_no_cut_of_them() {
    for version in fetch::VERSIONS {
        let whole = body(&fetch_answer(version), version, fetch::is_flexible(version));
        let read = fetch::read(whole.clone(), version, 4).unwrap();
        assert_eq!((read.partitions.len(), read.throttle_ms), (4, 9));
        let session = if version >= fetch::SESSIONS_FROM {
            (77, ErrorCode(70))
        } else {
            (0, ErrorCode::NONE)
        };
        assert_eq!((read.session_id, read.code), session);
        assert!(read.partitions[2].records.is_empty());
        let part = &read.partitions[3];
        match &part.topic {
            fetch::Topic::Name(name) => assert_eq!((name.as_str(), version < 13), ("a", true)),
            fetch::Topic::Id(id) => assert_eq!((*id, version >= 13), ([b'a'; 16], true)),
        }
        assert_eq!(part.partition, 7);
        assert_eq!(part.preferred, (version >= 11).then_some(8));
        assert_eq!(part.diverging, (version >= 12).then_some((1, 2)));
        let endpoints = read
            .endpoints
            .iter()
            .map(|e| (e.id, e.host.as_str(), e.port));
        let expected = (version >= 16).then_some((3, "h", 99));
        assert!(endpoints.eq(expected));
        let offsets = (part.high_watermark, part.last_stable_offset);
        assert_eq!((part.code, offsets), (ErrorCode(6), (100, 90)));
        let log_start = if version >= 5 { 3 } else { -1 };
        assert_eq!(part.log_start_offset, log_start);
        assert_eq!(part.aborted, [(11, 12); 2]);
        assert_eq!(&part.records[..], b"records");
        assert_eq!(part.leader, (version >= 12).then_some((3, 4)));
        // The records are a part of the frame, not a copy of it.
        let frame = whole.as_ptr_range();
        assert!(frame.contains(&part.records.as_ptr()));
        for end in 0..whole.len() {
            let cut = fetch::read(whole.slice(..end), version, 4);
            assert!(cut.is_err(), "v{version} cut at {end}");
        }
        for asked in 0..4 {
            let unasked = fetch::read(whole.clone(), version, asked).unwrap_err();
            assert!(matches!(unasked, WireError::Unasked { .. }), "v{version}");
        }
    }
}
