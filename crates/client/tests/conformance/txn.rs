//! A transactional producer of the test's own: messages of kafka-protocol over a plain socket, so
//! that nothing of the client under test writes what it has to read.

use bytes::{Buf, Bytes, BytesMut};
use kafka_protocol::messages::add_partitions_to_txn_request::AddPartitionsToTxnTopic;
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::{
    AddPartitionsToTxnRequest, AddPartitionsToTxnResponse, EndTxnRequest, EndTxnResponse,
    FindCoordinatorRequest, FindCoordinatorResponse, InitProducerIdRequest, InitProducerIdResponse,
    MetadataRequest, MetadataResponse, ProduceRequest, ProduceResponse, ProducerId, RequestHeader,
    ResponseHeader, TopicName, TransactionalId,
};
use kafka_protocol::protocol::{Decodable, Encodable, HeaderVersion, StrBytes};
use ottla_record_batch::EncodedBatch;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};

/// Codes that pass: 14, 15, 16 of a coordinator, 51 while the transaction before ends, 3 and 6 of a
/// topic that is new.
const PASSING: [i16; 6] = [3, 6, 14, 15, 16, 51];

struct Wire(TcpStream);

impl Wire {
    async fn to(address: &str) -> Self {
        Self(TcpStream::connect(address).await.unwrap())
    }

    async fn call<Q, A>(&mut self, key: i16, version: i16, request: &Q) -> A
    where
        Q: Encodable + HeaderVersion,
        A: Decodable + HeaderVersion,
    {
        let mut frame = BytesMut::new();
        RequestHeader::default()
            .with_request_api_key(key)
            .with_request_api_version(version)
            .encode(&mut frame, Q::header_version(version))
            .unwrap();
        request.encode(&mut frame, version).unwrap();
        self.0.write_i32(frame.len() as i32).await.unwrap();
        self.0.write_all(&frame).await.unwrap();
        let mut answer = vec![0; self.0.read_i32().await.unwrap() as usize];
        self.0.read_exact(&mut answer).await.unwrap();
        let mut answer = Bytes::from(answer);
        ResponseHeader::decode(&mut answer, A::header_version(version)).unwrap();
        let message = A::decode(&mut answer, version).unwrap();
        assert!(!answer.has_remaining());
        message
    }
}

pub(crate) struct TxnProducer {
    id: TransactionalId,
    topic: TopicName,
    coordinator: Wire,
    leader: Wire,
    producer_id: i64,
    epoch: i16,
    sequence: i32,
    is_open: bool,
}

fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

/// Asks until the answer's code is not one that passes.
macro_rules! insist {
    ($ask:expr, $code:expr) => {{
        let limit = Instant::now() + Duration::from_secs(30);
        loop {
            let answer = $ask;
            let code: i16 = $code(&answer);
            if code == 0 {
                break answer;
            }
            assert!(PASSING.contains(&code) && Instant::now() < limit, "{code}");
            sleep(Duration::from_millis(20)).await;
        }
    }};
}

impl TxnProducer {
    /// A producer for partition 0 of the topic.
    pub(crate) async fn new(bootstrap: &str, topic: &str, id: &str) -> Self {
        let address = bootstrap.split(',').next().unwrap();
        let mut any = Wire::to(address).await;
        let topic = TopicName(text(topic));
        let wanted = MetadataRequestTopic::default().with_name(Some(topic.clone()));
        let metadata = MetadataRequest::default().with_topics(Some(vec![wanted]));
        let metadata: MetadataResponse = any.call(3, 4, &metadata).await;
        let leader = metadata.topics[0].partitions[0].leader_id;
        let broker = metadata.brokers.iter().find(|b| b.node_id == leader);
        let broker = broker.unwrap();
        let leader = Wire::to(&format!("{}:{}", &*broker.host, broker.port)).await;

        let find = FindCoordinatorRequest::default()
            .with_key(text(id))
            .with_key_type(1);
        let found: FindCoordinatorResponse = insist!(
            any.call(10, 3, &find).await,
            |a: &FindCoordinatorResponse| { a.error_code }
        );
        let mut coordinator = Wire::to(&format!("{}:{}", &*found.host, found.port)).await;
        let id = TransactionalId(text(id));
        let init = InitProducerIdRequest::default()
            .with_transactional_id(Some(id.clone()))
            .with_transaction_timeout_ms(60_000);
        let ready: InitProducerIdResponse = insist!(
            coordinator.call(22, 3, &init).await,
            |a: &InitProducerIdResponse| a.error_code
        );
        Self {
            id,
            topic,
            coordinator,
            leader,
            producer_id: ready.producer_id.0,
            epoch: ready.producer_epoch,
            sequence: 0,
            is_open: false,
        }
    }

    /// Writes a batch in the open transaction, or in a new one.
    pub(crate) async fn write(&mut self, batch: EncodedBatch) {
        let producer_id = ProducerId(self.producer_id);
        if !self.is_open {
            let topic = AddPartitionsToTxnTopic::default()
                .with_name(self.topic.clone())
                .with_partitions(vec![0]);
            let add = AddPartitionsToTxnRequest::default()
                .with_v3_and_below_transactional_id(self.id.clone())
                .with_v3_and_below_producer_id(producer_id)
                .with_v3_and_below_producer_epoch(self.epoch)
                .with_v3_and_below_topics(vec![topic]);
            insist!(
                self.coordinator.call(24, 3, &add).await,
                |a: &AddPartitionsToTxnResponse| {
                    let topic = &a.results_by_topic_v3_and_below[0];
                    topic.results_by_partition[0].partition_error_code
                }
            );
            self.is_open = true;
        }
        let count = batch.record_count() as i32;
        let batch = batch.with_producer(self.producer_id, self.epoch, self.sequence);
        self.sequence += count;
        let part = PartitionProduceData::default()
            .with_index(0)
            .with_records(Some(transactional(&batch)));
        let topic = TopicProduceData::default()
            .with_name(self.topic.clone())
            .with_partition_data(vec![part]);
        let produce = ProduceRequest::default()
            .with_transactional_id(Some(self.id.clone()))
            .with_acks(-1)
            .with_timeout_ms(10_000)
            .with_topic_data(vec![topic]);
        insist!(
            self.leader.call(0, 9, &produce).await,
            |a: &ProduceResponse| { a.responses[0].partition_responses[0].error_code }
        );
    }

    /// Ends the open transaction.
    pub(crate) async fn end(&mut self, commit: bool) {
        let end = EndTxnRequest::default()
            .with_transactional_id(self.id.clone())
            .with_producer_id(ProducerId(self.producer_id))
            .with_producer_epoch(self.epoch)
            .with_committed(commit);
        insist!(
            self.coordinator.call(26, 3, &end).await,
            |a: &EndTxnResponse| a.error_code
        );
        self.is_open = false;
    }
}

/// The batch as a part of a transaction.
fn transactional(batch: &EncodedBatch) -> Bytes {
    let mut bytes = BytesMut::from(&batch.bytes()[..]);
    bytes[22] |= 1 << 4;
    let crc = crc32c::crc32c(&bytes[21..]);
    bytes[17..21].copy_from_slice(&crc.to_be_bytes());
    bytes.freeze()
}
