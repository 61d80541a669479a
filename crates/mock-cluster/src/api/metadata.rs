//! Metadata: brokers, controller, topics with their leaders; creates topics when allowed.

use kafka_protocol::messages::metadata_response::{
    MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
};
use kafka_protocol::messages::{BrokerId, MetadataRequest, MetadataResponse, TopicName};
use uuid::Uuid;

use super::shape::{BOOL, Field, TEXT, UUID, structs};
use super::{Api, Call, Names, Outcome, Range, text};
use crate::shared::{CLUSTER_ID, Data, HOST};
use crate::topics::Topic;
use crate::{ApiKey, codes};

/// The topics that Kafka keeps for itself.
const INTERNAL: [&str; 2] = ["__consumer_offsets", "__transaction_state"];

pub(super) struct Metadata;

impl Api for Metadata {
    const KEY: ApiKey = ApiKey::Metadata;
    const VERSIONS: Range = Range { min: 0, max: 13 };
    const FLEXIBLE: i16 = 9;
    const SHAPE: &'static [Field] = &[
        structs(&[UUID.from(10), TEXT]),
        BOOL.from(4),
        BOOL.from(8).to(10),
        BOOL.from(8),
    ];
    type Request = MetadataRequest;
    type Response = MetadataResponse;

    fn names(request: &Self::Request) -> Names {
        let topics = request.topics.iter().flatten();
        Names::topics(topics.filter_map(|topic| Some(topic.name.as_ref()?.as_str())))
    }

    /// The code is put on each topic; from version 13 on at the top, too.
    fn refuse(request: &Self::Request, version: i16, code: i16) -> Option<Self::Response> {
        let topics = request.topics.iter().flatten().map(|topic| {
            let name = topic.name.clone().or_else(|| Some(TopicName::default()));
            MetadataResponseTopic::default()
                .with_error_code(code)
                .with_name(name)
        });
        let response = MetadataResponse::default().with_topics(topics.collect());
        Some(if version >= 13 {
            response.with_error_code(code)
        } else {
            response
        })
    }

    async fn handle(call: &Call<'_>, request: Self::Request) -> Outcome<Self::Response> {
        let mut data = call.shared.data();
        let may_create = call.shared.config.auto_create_topics
            && (call.version < 4 || request.allow_auto_topic_creation);
        let all = match &request.topics {
            None => true,
            Some(topics) => topics.is_empty() && call.version == 0,
        };
        let topics = if all {
            let names: Vec<String> = data.topics.by_name.keys().cloned().collect();
            names.iter().map(|name| by_name(&data, name)).collect()
        } else {
            let asked = request.topics.into_iter().flatten();
            let answers = asked.map(|topic| match topic.name {
                Some(name) => named(&mut data, &name, may_create),
                None => by_id(&data, topic.topic_id),
            });
            answers.collect()
        };
        let live = data.ports.iter().filter(|(id, _)| data.topics.is_up(**id));
        let brokers = live.map(|(id, port)| {
            MetadataResponseBroker::default()
                .with_node_id(BrokerId(*id))
                .with_host(text(HOST))
                .with_port(i32::from(*port))
                .with_rack(call.shared.config.rack(*id).map(text))
        });
        let response = MetadataResponse::default()
            .with_brokers(brokers.collect())
            .with_cluster_id(Some(text(CLUSTER_ID)))
            .with_controller_id(BrokerId(data.topics.controller()))
            .with_topics(topics);
        Outcome::Answer(response)
    }
}

fn named(data: &mut Data, name: &str, may_create: bool) -> MetadataResponseTopic {
    if !data.topics.by_name.contains_key(name) {
        let created = if may_create {
            data.create_default_topic(name)
        } else {
            Err(codes::UNKNOWN_TOPIC_OR_PARTITION)
        };
        if let Err(code) = created {
            return MetadataResponseTopic::default()
                .with_error_code(code)
                .with_name(Some(text(name).into()));
        }
    }
    by_name(data, name)
}

fn by_id(data: &Data, id: Uuid) -> MetadataResponseTopic {
    match data.topics.name_of(id) {
        Some(name) => by_name(data, name),
        None => MetadataResponseTopic::default()
            .with_error_code(codes::UNKNOWN_TOPIC_ID)
            .with_name(Some(TopicName::default()))
            .with_topic_id(id),
    }
}

fn by_name(data: &Data, name: &str) -> MetadataResponseTopic {
    let answer = MetadataResponseTopic::default().with_name(Some(text(name).into()));
    match data.topics.by_name.get(name) {
        Some(topic) => answer
            .with_is_internal(INTERNAL.contains(&name))
            .with_topic_id(topic.id)
            .with_partitions(partitions(data, topic)),
        None => answer.with_error_code(codes::UNKNOWN_TOPIC_OR_PARTITION),
    }
}

fn partitions(data: &Data, topic: &Topic) -> Vec<MetadataResponsePartition> {
    let described = (0..).zip(&topic.partitions).map(|(index, partition)| {
        let replicas: Vec<BrokerId> = data
            .topics
            .replicas(topic, partition)
            .into_iter()
            .map(BrokerId)
            .collect();
        let (live, down): (Vec<_>, Vec<_>) =
            replicas.iter().partition(|id| data.topics.is_up(id.0));
        let code = match partition.leader {
            Some(_) => codes::NONE,
            None => codes::LEADER_NOT_AVAILABLE,
        };
        MetadataResponsePartition::default()
            .with_error_code(code)
            .with_partition_index(index)
            .with_leader_id(BrokerId(partition.leader.unwrap_or(-1)))
            .with_leader_epoch(partition.leader_epoch)
            .with_replica_nodes(replicas)
            .with_isr_nodes(live)
            .with_offline_replicas(down)
    });
    described.collect()
}
