//! A client of raw frames and a maker of batches, for the tests of the mock alone.
#![allow(dead_code, reason = "each test file uses its part")]

use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use kafka_protocol::messages::join_group_request::JoinGroupRequestProtocol;
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::{
    JoinGroupRequest, ProduceRequest, ProduceResponse, RequestHeader, ResponseHeader, TopicName,
};
use kafka_protocol::protocol::{Decodable, Encodable, HeaderVersion, Request, StrBytes};
use ottla_mock_cluster::MockCluster;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

pub(crate) mod txn;

/// The limit of everything that a test waits for.
pub(crate) const LIMIT: Duration = Duration::from_secs(10);

pub(crate) fn text(value: &str) -> StrBytes {
    StrBytes::from_string(value.to_owned())
}

pub(crate) fn topic(value: &str) -> TopicName {
    text(value).into()
}

pub(crate) struct Peer {
    pub(crate) stream: TcpStream,
    next_id: i32,
}

impl Peer {
    pub(crate) async fn connect(cluster: &MockCluster, broker: i32) -> Self {
        Self::at(&cluster.broker_addr(broker).unwrap()).await
    }

    pub(crate) async fn at(addr: &str) -> Self {
        Self {
            stream: TcpStream::connect(addr).await.unwrap(),
            next_id: 0,
        }
    }

    pub(crate) async fn send<R: Request>(&mut self, version: i16, request: &R) -> i32 {
        self.next_id += 1;
        let mut frame = BytesMut::new();
        frame.put_i32(0);
        let header = RequestHeader::default()
            .with_request_api_key(R::KEY)
            .with_request_api_version(version)
            .with_correlation_id(self.next_id)
            .with_client_id(Some(text("test")));
        header
            .encode(&mut frame, R::header_version(version))
            .unwrap();
        request.encode(&mut frame, version).unwrap();
        let length = (frame.len() - 4) as i32;
        frame[..4].copy_from_slice(&length.to_be_bytes());
        self.stream.write_all(&frame).await.unwrap();
        self.next_id
    }

    /// The next answer; `None` when the connection was closed instead.
    pub(crate) async fn receive<R: Request>(&mut self, version: i16) -> Option<(i32, R::Response)> {
        let read = async {
            let mut prefix = [0; 4];
            self.stream.read_exact(&mut prefix).await.ok()?;
            let mut frame = vec![0; i32::from_be_bytes(prefix) as usize];
            self.stream.read_exact(&mut frame).await.ok()?;
            Some(Bytes::from(frame))
        };
        let mut frame = tokio::time::timeout(LIMIT, read)
            .await
            .expect("an answer in time")?;
        let header_version = R::Response::header_version(version);
        let header = ResponseHeader::decode(&mut frame, header_version).unwrap();
        let response = R::Response::decode(&mut frame, version).unwrap();
        assert!(frame.is_empty(), "{} bytes after the answer", frame.len());
        Some((header.correlation_id, response))
    }

    /// Sends and receives; `None` when the connection was closed instead.
    pub(crate) async fn try_call<R: Request>(
        &mut self,
        version: i16,
        request: &R,
    ) -> Option<R::Response> {
        let id = self.send(version, request).await;
        let (answered, response) = self.receive::<R>(version).await?;
        assert_eq!(answered, id);
        Some(response)
    }

    pub(crate) async fn call<R: Request>(&mut self, version: i16, request: &R) -> R::Response {
        self.try_call(version, request).await.expect("an answer")
    }

    /// Produces one batch at version 7; gives error code and base offset.
    pub(crate) async fn produce(
        &mut self,
        topic: &str,
        partition: i32,
        records: Bytes,
    ) -> (i16, i64) {
        let answer = self
            .call(7, &produce_request(topic, partition, records))
            .await;
        first_result(&answer)
    }

    /// Whether the other side closes within the limit.
    pub(crate) async fn is_closed(&mut self) -> bool {
        let mut byte = [0; 1];
        let read = tokio::time::timeout(LIMIT, self.stream.read(&mut byte)).await;
        matches!(read.expect("closed in time"), Ok(0) | Err(_))
    }
}

pub(crate) fn first_result(answer: &ProduceResponse) -> (i16, i64) {
    let partition = &answer.responses[0].partition_responses[0];
    (partition.error_code, partition.base_offset)
}

pub(crate) fn produce_request(name: &str, partition: i32, records: Bytes) -> ProduceRequest {
    let data = PartitionProduceData::default()
        .with_index(partition)
        .with_records(Some(records));
    let topic_data = TopicProduceData::default()
        .with_name(topic(name))
        .with_partition_data(vec![data]);
    ProduceRequest::default()
        .with_acks(-1)
        .with_timeout_ms(1000)
        .with_topic_data(vec![topic_data])
}

pub(crate) fn join_request(group: &str, member: &str) -> JoinGroupRequest {
    let protocol = JoinGroupRequestProtocol::default()
        .with_name(text("range"))
        .with_metadata("m".into());
    JoinGroupRequest::default()
        .with_group_id(text(group).into())
        .with_session_timeout_ms(10_000)
        .with_rebalance_timeout_ms(10_000)
        .with_member_id(text(member))
        .with_protocol_type(text("consumer"))
        .with_protocols(vec![protocol])
}

/// Timestamp delta, key, value.
type TestRecord = (i64, Option<Vec<u8>>, Option<Vec<u8>>);

/// A batch of the record format v2, made field by field.
pub(crate) struct TestBatch {
    pub(crate) attributes: i16,
    pub(crate) base_timestamp: i64,
    pub(crate) producer: (i64, i16, i32),
    pub(crate) records: Vec<TestRecord>,
    pub(crate) headers: Vec<(Vec<u8>, Option<Vec<u8>>)>,
}

impl TestBatch {
    pub(crate) fn of(values: &[&str]) -> Self {
        let records = values
            .iter()
            .map(|v| (0, None, Some(v.as_bytes().to_vec())));
        Self {
            attributes: 0,
            base_timestamp: 1000,
            producer: (-1, -1, -1),
            records: records.collect(),
            headers: Vec::new(),
        }
    }

    pub(crate) fn producer(mut self, id: i64, epoch: i16, sequence: i32) -> Self {
        self.producer = (id, epoch, sequence);
        self
    }

    pub(crate) fn encode(&self) -> Bytes {
        let mut body = Vec::new();
        let mut max_timestamp = self.base_timestamp;
        for (index, (delta, key, value)) in self.records.iter().enumerate() {
            max_timestamp = max_timestamp.max(self.base_timestamp + delta);
            let mut record = vec![0];
            varint(&mut record, *delta);
            varint(&mut record, index as i64);
            blob(&mut record, key.as_deref());
            blob(&mut record, value.as_deref());
            varint(&mut record, self.headers.len() as i64);
            for (key, value) in &self.headers {
                blob(&mut record, Some(key));
                blob(&mut record, value.as_deref());
            }
            varint(&mut body, record.len() as i64);
            body.extend(record);
        }
        let mut batch = BytesMut::new();
        batch.put_i64(0);
        batch.put_i32((49 + body.len()) as i32);
        batch.put_i32(-1);
        batch.put_u8(2);
        batch.put_u32(0);
        batch.put_i16(self.attributes);
        batch.put_i32(self.records.len() as i32 - 1);
        batch.put_i64(self.base_timestamp);
        batch.put_i64(max_timestamp);
        batch.put_i64(self.producer.0);
        batch.put_i16(self.producer.1);
        batch.put_i32(self.producer.2);
        batch.put_i32(self.records.len() as i32);
        batch.extend_from_slice(&body);
        reseal(&mut batch);
        batch.freeze()
    }
}

/// Makes the CRC right again.
pub(crate) fn reseal(batch: &mut BytesMut) {
    let crc = crc32c::crc32c(&batch[21..]);
    batch[17..21].copy_from_slice(&crc.to_be_bytes());
}

fn blob(out: &mut Vec<u8>, value: Option<&[u8]>) {
    match value {
        None => varint(out, -1),
        Some(value) => {
            varint(out, value.len() as i64);
            out.extend_from_slice(value);
        }
    }
}

fn varint(out: &mut Vec<u8>, value: i64) {
    let mut rest = ((value << 1) ^ (value >> 63)) as u64;
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

/// Waits until `done` holds; panics with `what` after the limit.
pub(crate) async fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let started = tokio::time::Instant::now();
    while !done() {
        assert!(started.elapsed() < LIMIT, "{what} did not happen");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
