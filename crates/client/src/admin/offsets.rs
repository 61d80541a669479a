//! The offsets of a group, read and changed from outside of it.

use super::ask::{Answer, Answers, Call, Refusal, Task};
use super::places::Route;
use super::topics::topic_name;
use crate::connection::Api;
use crate::{Error, convert};
use kafka_protocol::messages::offset_delete_request::{
    OffsetDeleteRequestPartition, OffsetDeleteRequestTopic,
};
use kafka_protocol::messages::{
    GroupId, OffsetCommitRequest, OffsetDeleteRequest, OffsetFetchRequest,
};
use kafka_protocol::protocol::StrBytes;
use ottla_types::coordinator::{self, CommitOffset, FetchedOffset};
use ottla_types::{Offset, TopicPartition};
use std::collections::BTreeMap;
use std::sync::Arc;

/// An offset that a group has committed.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct CommittedOffset {
    /// The next offset to read.
    pub offset: Offset,
    /// The leader epoch that was committed with it.
    pub leader_epoch: Option<i32>,
    /// The text that was committed with it.
    pub metadata: String,
}

/// What one group has committed: for these partitions, or for all.
pub(super) struct Fetch(pub(super) Option<Vec<TopicPartition>>);

impl Task for Fetch {
    type Item = Arc<str>;
    type Key = ();
    type Done = Vec<FetchedOffset>;
    const NAME: &'static str = OffsetFetchRequest::NAME;
    const CHANGES: bool = false;

    fn key(&self, _: &Arc<str>) {}

    fn route(&self, group: &Arc<str>) -> Route {
        Route::Coordinator(group.clone())
    }

    fn mark(&self, group: &Arc<str>, error: Error) -> Error {
        error.with_group(&**group)
    }

    async fn ask(&self, call: Call<'_>, groups: &[&Arc<str>]) -> Result<Answers<Self>, Error> {
        let mut answers = Answers::<Self>::new();
        for group in groups {
            let wanted = self.0.as_deref();
            let build = |version| match wanted {
                Some(partitions) => {
                    let request = coordinator::OffsetFetchRequest {
                        partitions: partitions.to_vec(),
                        require_stable: false,
                    };
                    convert::fetch_request(group, &request, version)
                }
                None => convert::fetch_all_request(group, version),
            };
            let (answer, version) = call.send(build).await?;
            let answer = match wanted {
                Some(wanted) => convert::fetch_answer(answer, version, group, wanted)?,
                None => convert::fetch_all_answer(answer, version, group)?,
            };
            answers.insert((), Refusal::read(answer.error.0, None, answer.offsets));
        }
        Ok(answers)
    }
}

/// Commits as a group without members.
pub(super) struct Commit(pub(super) Arc<str>);

impl Task for Commit {
    type Item = CommitOffset;
    type Key = TopicPartition;
    type Done = ();
    const NAME: &'static str = OffsetCommitRequest::NAME;
    const CHANGES: bool = true;

    fn key(&self, offset: &CommitOffset) -> TopicPartition {
        offset.partition.clone()
    }

    fn route(&self, _: &CommitOffset) -> Route {
        Route::Coordinator(self.0.clone())
    }

    fn mark(&self, offset: &CommitOffset, error: Error) -> Error {
        error
            .with_group(&*self.0)
            .with_partition(offset.partition.clone())
    }

    async fn ask(&self, call: Call<'_>, offsets: &[&CommitOffset]) -> Result<Answers<Self>, Error> {
        let request = coordinator::OffsetCommitRequest {
            generation: -1,
            member_id: String::new(),
            instance_id: None,
            offsets: offsets.iter().map(|offset| (*offset).clone()).collect(),
        };
        let request = convert::commit_request(&self.0, request);
        let (answer, _) = call.send(|_| request).await?;
        let answers = answer.topics.into_iter().flat_map(|topic| {
            let name: Arc<str> = topic.name.as_str().into();
            topic.partitions.into_iter().map(move |p| {
                let partition = TopicPartition::new(name.clone(), p.partition_index);
                (partition, Refusal::read(p.error_code, None, ()))
            })
        });
        Ok(answers.collect())
    }
}

pub(super) struct Delete(pub(super) Arc<str>);

impl Task for Delete {
    type Item = TopicPartition;
    type Key = TopicPartition;
    type Done = ();
    const NAME: &'static str = OffsetDeleteRequest::NAME;
    const CHANGES: bool = true;

    fn key(&self, partition: &TopicPartition) -> TopicPartition {
        partition.clone()
    }

    fn route(&self, _: &TopicPartition) -> Route {
        Route::Coordinator(self.0.clone())
    }

    fn mark(&self, partition: &TopicPartition, error: Error) -> Error {
        error.with_group(&*self.0).with_partition(partition.clone())
    }

    async fn ask(
        &self,
        call: Call<'_>,
        partitions: &[&TopicPartition],
    ) -> Result<Answers<Self>, Error> {
        let mut topics: BTreeMap<&Arc<str>, Vec<OffsetDeleteRequestPartition>> = BTreeMap::new();
        for partition in partitions {
            let asked = OffsetDeleteRequestPartition::default();
            let asked = asked.with_partition_index(partition.partition);
            topics.entry(&partition.topic).or_default().push(asked);
        }
        let topics = topics.into_iter().map(|(topic, partitions)| {
            OffsetDeleteRequestTopic::default()
                .with_name(topic_name(topic))
                .with_partitions(partitions)
        });
        let group = GroupId(StrBytes::from_string(self.0.to_string()));
        let request = OffsetDeleteRequest::default()
            .with_group_id(group)
            .with_topics(topics.collect());
        let (answer, _) = call.send(|_| request).await?;
        let whole: Answer<()> = Refusal::read(answer.error_code, None, ());
        if whole.is_err() {
            let all = partitions.iter();
            return Ok(all.map(|p| ((*p).clone(), whole.clone())).collect());
        }
        let answers = answer.topics.into_iter().flat_map(|topic| {
            let name: Arc<str> = topic.name.as_str().into();
            topic.partitions.into_iter().map(move |p| {
                let partition = TopicPartition::new(name.clone(), p.partition_index);
                (partition, Refusal::read(p.error_code, None, ()))
            })
        });
        Ok(answers.collect())
    }
}
