//! A transactional producer of raw frames.

use bytes::Bytes;
use kafka_protocol::messages::add_partitions_to_txn_request::AddPartitionsToTxnTopic;
use kafka_protocol::messages::txn_offset_commit_request::{
    TxnOffsetCommitRequestPartition, TxnOffsetCommitRequestTopic,
};
use kafka_protocol::messages::*;
use ottla_mock_cluster::MockCluster;

use super::{Peer, TestBatch, first_result, produce_request, text, topic};

/// The versions of one kind of transaction.
#[derive(Clone, Copy)]
pub(crate) struct Kind {
    pub(crate) produce: i16,
    pub(crate) end: i16,
    pub(crate) commit: i16,
}

pub(crate) const V1: Kind = Kind {
    produce: 11,
    end: 4,
    commit: 4,
};
pub(crate) const V2: Kind = Kind {
    produce: 12,
    end: 5,
    commit: 5,
};

pub(crate) struct Producer {
    pub(crate) peer: Peer,
    pub(crate) id: &'static str,
    pub(crate) kind: Kind,
    pub(crate) producer: i64,
    pub(crate) epoch: i16,
    pub(crate) sequence: i32,
}

pub(crate) fn init_request(id: &str) -> InitProducerIdRequest {
    InitProducerIdRequest::default()
        .with_transactional_id(Some(text(id).into()))
        .with_transaction_timeout_ms(60_000)
}

impl Producer {
    /// Connects to the coordinator, but does not initialise.
    pub(crate) async fn connect(cluster: &MockCluster, id: &'static str, kind: Kind) -> Self {
        let broker = cluster.transaction_coordinator(id).unwrap();
        Self {
            peer: Peer::connect(cluster, broker).await,
            id,
            kind,
            producer: -1,
            epoch: -1,
            sequence: 0,
        }
    }

    /// Connects and initialises.
    pub(crate) async fn start(cluster: &MockCluster, id: &'static str, kind: Kind) -> Self {
        let mut producer = Self::connect(cluster, id, kind).await;
        assert_eq!(producer.init().await, 0);
        producer
    }

    /// InitProducerId; the code.
    pub(crate) async fn init(&mut self) -> i16 {
        let answer = self.peer.call(5, &init_request(self.id)).await;
        if answer.error_code == 0 {
            self.producer = answer.producer_id.0;
            self.epoch = answer.producer_epoch;
            self.sequence = 0;
        }
        answer.error_code
    }

    pub(crate) async fn add(&mut self, name: &str, partition: i32) -> i16 {
        let asked = AddPartitionsToTxnTopic::default()
            .with_name(topic(name))
            .with_partitions(vec![partition]);
        let request = AddPartitionsToTxnRequest::default()
            .with_v3_and_below_transactional_id(text(self.id).into())
            .with_v3_and_below_producer_id(ProducerId(self.producer))
            .with_v3_and_below_producer_epoch(self.epoch)
            .with_v3_and_below_topics(vec![asked]);
        let answer = self.peer.call(3, &request).await;
        answer.results_by_topic_v3_and_below[0].results_by_partition[0].partition_error_code
    }

    pub(crate) fn batch(&self, values: &[&str]) -> Bytes {
        let mut batch = TestBatch::of(values).producer(self.producer, self.epoch, self.sequence);
        batch.attributes = 1 << 4;
        batch.encode()
    }

    /// Produces to the partition, which must be led by the coordinator's broker; code and offset.
    pub(crate) async fn send(&mut self, name: &str, partition: i32, values: &[&str]) -> (i16, i64) {
        let request = produce_request(name, partition, self.batch(values))
            .with_transactional_id(Some(text(self.id).into()));
        let result = first_result(&self.peer.call(self.kind.produce, &request).await);
        if result.0 == 0 {
            self.sequence += values.len() as i32;
        }
        result
    }

    pub(crate) async fn end(&mut self, commit: bool) -> i16 {
        let request = EndTxnRequest::default()
            .with_transactional_id(text(self.id).into())
            .with_producer_id(ProducerId(self.producer))
            .with_producer_epoch(self.epoch)
            .with_committed(commit);
        let answer = self.peer.call(self.kind.end, &request).await;
        if answer.error_code == 0 && self.kind.end >= 5 {
            self.producer = answer.producer_id.0;
            self.epoch = answer.producer_epoch;
            self.sequence = 0;
        }
        answer.error_code
    }

    pub(crate) async fn add_group(&mut self, group: &str) -> i16 {
        let request = AddOffsetsToTxnRequest::default()
            .with_transactional_id(text(self.id).into())
            .with_producer_id(ProducerId(self.producer))
            .with_producer_epoch(self.epoch)
            .with_group_id(text(group).into());
        self.peer.call(3, &request).await.error_code
    }

    pub(crate) async fn commit_offset(&mut self, group: &str, name: &str, offset: i64) -> i16 {
        let partition = TxnOffsetCommitRequestPartition::default()
            .with_committed_offset(offset)
            .with_committed_metadata(Some(text("m")));
        let asked = TxnOffsetCommitRequestTopic::default()
            .with_name(topic(name))
            .with_partitions(vec![partition]);
        let request = TxnOffsetCommitRequest::default()
            .with_transactional_id(text(self.id).into())
            .with_group_id(text(group).into())
            .with_producer_id(ProducerId(self.producer))
            .with_producer_epoch(self.epoch)
            .with_topics(vec![asked]);
        let answer = self.peer.call(self.kind.commit, &request).await;
        answer.topics[0].partitions[0].error_code
    }
}
