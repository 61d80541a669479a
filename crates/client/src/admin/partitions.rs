//! More partitions for a topic, and records that are deleted before their time.

use super::ask::{Answers, Call, Refusal, Task};
use super::places::Route;
use super::topics::topic_name;
use crate::Error;
use crate::connection::Api;
use kafka_protocol::messages::create_partitions_request::CreatePartitionsTopic;
use kafka_protocol::messages::delete_records_request::{
    DeleteRecordsPartition, DeleteRecordsTopic,
};
use kafka_protocol::messages::{CreatePartitionsRequest, DeleteRecordsRequest};
use ottla_types::{Offset, TopicPartition};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Which records of a partition are deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DeleteUpTo {
    /// Those before this offset.
    Offset(Offset),
    /// All that are there now: those before the high watermark.
    End,
}

/// The new number of partitions by topic.
pub(super) struct CreatePartitions;

impl Task for CreatePartitions {
    type Item = (String, i32);
    type Key = String;
    type Done = ();
    const NAME: &'static str = CreatePartitionsRequest::NAME;
    const CHANGES: bool = true;

    fn key(&self, (topic, _): &(String, i32)) -> String {
        topic.clone()
    }

    fn route(&self, _: &(String, i32)) -> Route {
        Route::Controller
    }

    fn mark(&self, (topic, _): &(String, i32), error: Error) -> Error {
        error.with_topic(topic)
    }

    fn check(&self, (topic, _): &(String, i32)) -> Result<(), Error> {
        Ok(ottla_types::validate_topic_name(topic)?)
    }

    async fn ask(&self, call: Call<'_>, items: &[&(String, i32)]) -> Result<Answers<Self>, Error> {
        let topics = items.iter().map(|(topic, count)| {
            CreatePartitionsTopic::default()
                .with_name(topic_name(topic))
                .with_count(*count)
                .with_assignments(None)
        });
        let request = CreatePartitionsRequest::default()
            .with_topics(topics.collect())
            .with_timeout_ms(call.timeout_ms());
        let (answer, _) = call.send(|_| request).await?;
        let answers = answer.results.into_iter().map(|topic| {
            let made = Refusal::read(topic.error_code, topic.error_message, ());
            (topic.name.to_string(), made)
        });
        Ok(answers.collect())
    }
}

/// Done is the low watermark: the first offset that is still there.
pub(super) struct DeleteRecords;

impl Task for DeleteRecords {
    type Item = (TopicPartition, DeleteUpTo);
    type Key = TopicPartition;
    type Done = Offset;
    const NAME: &'static str = DeleteRecordsRequest::NAME;
    const CHANGES: bool = true;

    fn key(&self, (partition, _): &Self::Item) -> TopicPartition {
        partition.clone()
    }

    fn route(&self, (partition, _): &Self::Item) -> Route {
        Route::Leader(partition.clone())
    }

    fn mark(&self, (partition, _): &Self::Item, error: Error) -> Error {
        error.with_partition(partition.clone())
    }

    async fn ask(&self, call: Call<'_>, items: &[&Self::Item]) -> Result<Answers<Self>, Error> {
        let mut topics: BTreeMap<&Arc<str>, Vec<DeleteRecordsPartition>> = BTreeMap::new();
        for (partition, up_to) in items {
            let offset = match up_to {
                // Below zero the number means something else.
                DeleteUpTo::Offset(offset) => (*offset).max(0),
                DeleteUpTo::End => -1,
            };
            let asked = DeleteRecordsPartition::default()
                .with_partition_index(partition.partition)
                .with_offset(offset);
            topics.entry(&partition.topic).or_default().push(asked);
        }
        let topics = topics.into_iter().map(|(topic, partitions)| {
            DeleteRecordsTopic::default()
                .with_name(topic_name(topic))
                .with_partitions(partitions)
        });
        let request = DeleteRecordsRequest::default()
            .with_topics(topics.collect())
            .with_timeout_ms(call.timeout_ms());
        let (answer, _) = call.send(|_| request).await?;
        let answers = answer.topics.into_iter().flat_map(|topic| {
            let name: Arc<str> = topic.name.as_str().into();
            topic.partitions.into_iter().map(move |p| {
                let deleted = Refusal::read(p.error_code, None, p.low_watermark);
                (
                    TopicPartition::new(name.clone(), p.partition_index),
                    deleted,
                )
            })
        });
        Ok(answers.collect())
    }
}
