//! Administration, whichever cluster it is.

use super::{fresh, join_with, leave};
use ottla_client::admin::{
    AlterConfigs, CommittedOffset, ConfigResource, ConfigSource, DeleteUpTo, GroupFilter,
    GroupState, GroupType,
};
use ottla_client::transport::{OffsetSpec, ProduceOptions, produce_all};
use ottla_client::{Client, GroupClient, NewTopic};
use ottla_record_batch::BatchBuilder;
use ottla_types::consumer_protocol::{Assignment, Subscription};
use ottla_types::coordinator::{
    CommitOffset, ConsumerHeartbeatRequest, JoinGroupResponse, SyncGroupRequest,
};
use ottla_types::{ErrorCode, Fate, Headers, TopicPartition};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

pub(crate) fn commit(partition: &TopicPartition, offset: i64) -> CommitOffset {
    CommitOffset {
        partition: partition.clone(),
        offset,
        leader_epoch: None,
        metadata: "by hand".to_owned(),
    }
}

/// The code of an item's error; `NONE` for success.
pub(crate) fn code<D>(result: &Result<D, ottla_client::Error>) -> ErrorCode {
    match result {
        Ok(_) => ErrorCode::NONE,
        Err(error) => error.code().unwrap_or_else(|| panic!("no code: {error}")),
    }
}

pub(crate) fn codes<I, D>(results: &[(I, Result<D, ottla_client::Error>)]) -> Vec<ErrorCode> {
    results.iter().map(|(_, result)| code(result)).collect()
}

async fn topic(client: &Client, partitions: i32) -> String {
    let topic = fresh("admin");
    let new = NewTopic::new(&topic, partitions);
    client.ensure_topics(vec![new]).await.unwrap();
    topic
}

pub(crate) async fn topics_and_cluster_are_described(client: &Client) {
    let admin = client.admin();
    let (topic, unknown) = (topic(client, 3).await, fresh("unknown"));
    let asked = vec![topic.clone(), unknown.clone(), "not a name".to_owned()];
    let described = admin.describe_topics(asked).await;
    assert_eq!(described[0].1.as_ref().unwrap().partitions.len(), 3);
    assert_eq!(code(&described[1].1), ErrorCode::UNKNOWN_TOPIC_OR_PARTITION);
    assert_eq!(
        (&*described[1].0, described[2].1.is_err()),
        (&*unknown, true)
    );

    let cluster = admin.describe_cluster().await.unwrap();
    assert!(cluster.cluster_id.is_some() && cluster.controller.is_some());
    let leader = described[0].1.as_ref().unwrap().partitions[0]
        .leader
        .unwrap();
    assert!(cluster.brokers.iter().any(|broker| broker.id == leader));
}

async fn value(client: &Client, resource: &ConfigResource, name: &str) -> (String, ConfigSource) {
    let names = vec![name.to_owned()];
    let described = client.admin();
    let described = described.describe_configs_named(vec![resource.clone()], names);
    let described = described.await.remove(0).1.unwrap();
    assert_eq!((described.len(), &*described[0].name), (1, name));
    (described[0].value.clone().unwrap(), described[0].source)
}

/// Waits until the brokers tell what the controller has decided; they hear of it a moment later.
async fn told<T: PartialEq + std::fmt::Debug>(expected: T, mut ask: impl AsyncFnMut() -> T) {
    let mut pace = tokio::time::interval(Duration::from_millis(20));
    let mut last = None;
    let asking = async {
        while last.as_ref() != Some(&expected) {
            pace.tick().await;
            last = Some(ask().await);
        }
    };
    let in_time = tokio::time::timeout(Duration::from_secs(15), asking).await;
    assert!(in_time.is_ok(), "{last:?} instead of {expected:?}");
}

pub(crate) async fn settings_are_altered_and_read_back(client: &Client) {
    let admin = client.admin();
    let resource = ConfigResource::Topic(topic(client, 1).await);
    let all = admin
        .describe_configs(vec![resource.clone()])
        .await
        .remove(0);
    let before = value(client, &resource, "retention.ms").await;
    assert!(
        all.1
            .unwrap()
            .iter()
            .any(|entry| entry.name == "cleanup.policy")
    );

    let change = |key, value| AlterConfigs::new(resource.clone()).set(key, value);
    let changes = change("retention.ms", "12345").append("cleanup.policy", "compact");
    let checked = admin.validate_configs(vec![changes.clone()]).await;
    assert_eq!(codes(&checked), [ErrorCode::NONE]);
    assert_eq!(value(client, &resource, "retention.ms").await, before);
    let altered = admin.alter_configs(vec![changes]).await;
    assert_eq!(
        (codes(&altered), &altered[0].0),
        (vec![ErrorCode::NONE], &resource)
    );
    let now = ("12345".to_owned(), ConfigSource::Topic);
    told(now, async || value(client, &resource, "retention.ms").await).await;
    let policy = value(client, &resource, "cleanup.policy").await.0;
    assert!(
        policy.contains("compact") && policy.contains("delete"),
        "{policy}"
    );

    let wrong = change("retention.ms", "soon");
    let error = admin
        .alter_configs(vec![wrong])
        .await
        .remove(0)
        .1
        .unwrap_err();
    assert_eq!(error.code(), Some(ErrorCode::INVALID_CONFIG), "{error}");
    assert_eq!(error.fate(), Fate::NotWritten);
    let back = AlterConfigs::new(resource.clone()).delete("retention.ms");
    assert_eq!(
        codes(&admin.alter_configs(vec![back]).await),
        [ErrorCode::NONE]
    );
    told(before, async || {
        value(client, &resource, "retention.ms").await
    })
    .await;
    let unknown = ConfigResource::Topic(fresh("unknown"));
    let results = admin.describe_configs(vec![unknown, resource]).await;
    assert_eq!(
        codes(&results),
        [ErrorCode::UNKNOWN_TOPIC_OR_PARTITION, ErrorCode::NONE]
    );
}

pub(crate) async fn settings_of_each_broker_are_told(client: &Client) {
    let admin = client.admin();
    let brokers = admin.describe_cluster().await.unwrap().brokers;
    let resources: Vec<_> = brokers
        .iter()
        .map(|b| ConfigResource::Broker(b.id))
        .collect();
    for resource in &resources {
        let size = value(client, resource, "message.max.bytes").await.0;
        assert!(size.parse::<u64>().unwrap() > 0, "{size}");
    }
    let nobody = ConfigResource::Broker(4711);
    let results = admin.describe_configs(vec![nobody]).await;
    assert_eq!(codes(&results), [ErrorCode::BROKER_NOT_AVAILABLE]);
    let change = |value: &str| {
        let of_one = AlterConfigs::new(resources[0].clone());
        vec![of_one.set("log.cleaner.delete.retention.ms", value)]
    };
    assert_eq!(
        codes(&admin.alter_configs(change("77777777")).await),
        [ErrorCode::NONE]
    );
    let undo = AlterConfigs::new(resources[0].clone()).delete("log.cleaner.delete.retention.ms");
    assert_eq!(
        codes(&admin.alter_configs(vec![undo]).await),
        [ErrorCode::NONE]
    );
}

pub(crate) async fn partitions_are_added(client: &Client) {
    let admin = client.admin();
    let (topic, unknown) = (topic(client, 2).await, fresh("unknown"));
    let asked = vec![(topic.clone(), 5), (unknown, 3), (topic.clone(), 6)];
    let results = admin.create_partitions(asked).await;
    let expected = [
        ErrorCode::NONE,
        ErrorCode::UNKNOWN_TOPIC_OR_PARTITION,
        ErrorCode::INVALID_REQUEST,
    ];
    assert_eq!(codes(&results), expected);
    client
        .ensure_topics(vec![NewTopic::new(&topic, 5)])
        .await
        .unwrap();
    told(5, async || {
        client.refresh_topic(&topic).await.unwrap().partitions.len()
    })
    .await;
    let fewer = admin.create_partitions(vec![(topic, 4)]).await;
    assert_eq!(codes(&fewer), [ErrorCode::INVALID_PARTITIONS]);
}

/// Writes this many records to one partition.
pub(crate) async fn write(client: &Client, partition: &TopicPartition, records: usize) {
    let mut batch = BatchBuilder::new(1 << 20);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let now = i64::try_from(now.as_millis()).unwrap();
    for _ in 0..records {
        batch
            .try_append(now, None, Some(b"value"), &Headers::new())
            .unwrap();
    }
    let options = ProduceOptions {
        timeout: Duration::from_secs(15),
        ..ProduceOptions::default()
    };
    let batches = vec![(partition.clone(), batch.finish())];
    let mut written = produce_all(&**client.transport(), &options, batches).await;
    let written = written.remove(0);
    written.1.unwrap();
}

pub(crate) async fn records_are_deleted(client: &Client) {
    let admin = client.admin();
    let topic = topic(client, 3).await;
    let partitions: Vec<_> = (0..3).map(|n| TopicPartition::new(&*topic, n)).collect();
    for partition in &partitions {
        write(client, partition, 10).await;
    }
    let asked = vec![
        (partitions[2].clone(), DeleteUpTo::End),
        (partitions[0].clone(), DeleteUpTo::Offset(4)),
        (partitions[1].clone(), DeleteUpTo::Offset(11)),
        (TopicPartition::new(&*topic, 9), DeleteUpTo::End),
        (TopicPartition::new(fresh("unknown"), 0), DeleteUpTo::End),
    ];
    let deleted = admin.delete_records(asked).await;
    assert_eq!(deleted[0].1.as_ref().unwrap(), &10);
    assert_eq!(deleted[1].1.as_ref().unwrap(), &4);
    assert_eq!(
        (&deleted[1].0, code(&deleted[2].1)),
        (&partitions[0], ErrorCode::OFFSET_OUT_OF_RANGE)
    );
    assert_eq!(code(&deleted[3].1), ErrorCode::UNKNOWN_TOPIC_OR_PARTITION);
    assert_eq!(code(&deleted[4].1), ErrorCode::UNKNOWN_TOPIC_OR_PARTITION);
    let first = vec![(partitions[0].clone(), OffsetSpec::Earliest)];
    let first = client
        .transport()
        .list_offsets(Duration::from_secs(10), first);
    assert_eq!(first.await.remove(0).1.unwrap().offset, 4);
}

pub(crate) async fn a_group_is_described_listed_and_deleted(client: &Client) {
    let admin = client.admin();
    let topic = topic(client, 2).await;
    let (id, unknown) = (fresh("group"), fresh("unknown"));
    let group = client.group(&*id);
    let (joined, partition) = member(&group, &topic).await;

    let asked = || vec![id.clone(), unknown.clone()];
    let described = admin.describe_groups(asked()).await;
    assert_eq!(
        codes(&described),
        [ErrorCode::NONE, ErrorCode::GROUP_ID_NOT_FOUND]
    );
    assert_eq!(
        described[1].1.as_ref().unwrap_err().group(),
        Some(&*unknown)
    );
    let described = described[0].1.as_ref().unwrap();
    let told = (
        &described.state,
        &*described.protocol_type,
        &*described.protocol,
    );
    assert_eq!(told, (&GroupState::Stable, "consumer", "range"));
    let member = &described.members[0];
    assert_eq!(
        (described.members.len(), &member.member_id),
        (1, &joined.member_id)
    );
    assert_eq!(
        (&*member.topics, &*member.partitions),
        (&[Arc::from(&*topic)][..], &[partition.clone()][..])
    );
    assert_eq!((&*member.client_id, &member.unreadable), ("ottla", &None));

    let listed = |filter: GroupFilter| async {
        let listed = admin.list_groups(filter).await.unwrap();
        assert!(listed.failures.is_empty(), "{:?}", listed.failures);
        listed.groups.into_iter().find(|group| group.group_id == id)
    };
    let filter = |states: &[GroupState], types: &[GroupType]| GroupFilter {
        states: states.to_vec(),
        types: types.to_vec(),
    };
    let found = listed(filter(&[], &[])).await.unwrap();
    assert_eq!(
        (found.state, found.group_type),
        (Some(GroupState::Stable), GroupType::Classic)
    );
    let stable = filter(&[GroupState::Stable], &[GroupType::Classic]);
    assert!(listed(stable).await.is_some());
    assert!(listed(filter(&[GroupState::Empty], &[])).await.is_none());
    assert!(listed(filter(&[], &[GroupType::Consumer])).await.is_none());

    let in_use = admin.delete_groups(vec![id.clone()]).await;
    assert_eq!(codes(&in_use), [ErrorCode::NON_EMPTY_GROUP]);
    let refused = admin
        .alter_group_offsets(&id, vec![commit(&partition, 1)])
        .await;
    assert_eq!(codes(&refused), [ErrorCode::UNKNOWN_MEMBER_ID]);
    let read = admin
        .delete_group_offsets(&id, vec![partition.clone()])
        .await;
    assert_eq!(codes(&read), [ErrorCode::GROUP_SUBSCRIBED_TO_TOPIC]);

    leave(&group, &joined.member_id).await;
    let deleted = admin.delete_groups(asked()).await;
    assert_eq!(
        codes(&deleted),
        [ErrorCode::NONE, ErrorCode::GROUP_ID_NOT_FOUND]
    );
    let gone = admin.describe_groups(vec![id.clone()]).await;
    assert_eq!(codes(&gone), [ErrorCode::GROUP_ID_NOT_FOUND]);
}

/// A group of one member that speaks KIP-848, beside one that is not there.
pub(crate) async fn a_group_of_kip_848_is_described(client: &Client) {
    let (id, unknown) = (fresh("group"), fresh("unknown"));
    let (topic, mut beat) = beat_of(client).await;
    let group = client.group(&*id);
    let limit = Instant::now() + Duration::from_secs(20);
    let described = loop {
        assert!(Instant::now() < limit, "{id} is not stable");
        let answer = group.consumer_heartbeat(beat.clone(), Duration::from_secs(5));
        let answer = answer.await.unwrap();
        if !answer.error.is_ok() {
            assert!(answer.error.is_retriable(), "{answer:?}");
            continue;
        }
        beat.member_epoch = answer.member_epoch;
        let asked = vec![unknown.clone(), id.clone()];
        let mut described = client.admin().describe_groups(asked).await;
        let expected = [ErrorCode::GROUP_ID_NOT_FOUND, ErrorCode::NONE];
        assert_eq!(codes(&described), expected);
        let described = described.remove(1).1.unwrap();
        let is_given = described.members.iter().all(|m| m.partitions.len() == 2);
        if described.state == GroupState::Stable && is_given {
            break described;
        }
    };
    let kind = (&described.group_type, &*described.protocol_type);
    assert_eq!(kind, (&GroupType::Consumer, "consumer"));
    assert_eq!(described.protocol, "uniform");
    assert_eq!(described.epoch, Some(beat.member_epoch));
    assert_eq!(described.assignment_epoch, described.epoch);
    let [member] = &described.members[..] else {
        panic!("{described:?}");
    };
    let partitions: Vec<_> = (0..2).map(|n| TopicPartition::new(&*topic, n)).collect();
    assert_eq!(member.member_id, beat.member_id);
    assert_eq!(member.epoch, described.epoch);
    assert_eq!(member.topics, [Arc::from(&*topic)]);
    assert_eq!((&member.topic_pattern, &member.unreadable), (&None, &None));
    assert_eq!(member.partitions, partitions);
    assert_eq!(member.target.as_ref(), Some(&partitions));
    assert_eq!(&*member.client_id, "ottla");
    beat.member_epoch = -1;
    let left = group.consumer_heartbeat(beat, Duration::from_secs(5)).await;
    assert_eq!(left.unwrap().error, ErrorCode::NONE);
}

/// A topic of two partitions, and the first heartbeat of a member that wants it.
pub(crate) async fn beat_of(client: &Client) -> (String, ConsumerHeartbeatRequest) {
    let topic = topic(client, 2).await;
    let beat = ConsumerHeartbeatRequest {
        member_id: fresh("member"),
        member_epoch: 0,
        instance_id: None,
        rack: None,
        rebalance_timeout_ms: Some(10_000),
        topics: Some(vec![topic.as_str().into()]),
        pattern: None,
        assignor: None,
        owned: Some(Vec::new()),
    };
    (topic, beat)
}

/// Joins with a subscription to `topic` and takes its partition 1.
async fn member(group: &GroupClient, topic: &str) -> (JoinGroupResponse, TopicPartition) {
    let subscription = Subscription {
        topics: vec![topic.into()],
        ..Subscription::default()
    };
    let joined = join_with(group, "", subscription.encode()).await;
    let partition = TopicPartition::new(topic, 1);
    let assignment = Assignment {
        partitions: vec![partition.clone()],
        user_data: None,
    };
    let request = SyncGroupRequest {
        generation: joined.generation,
        member_id: joined.member_id.clone(),
        instance_id: None,
        protocol_type: "consumer".to_owned(),
        protocol: "range".to_owned(),
        assignments: vec![(joined.member_id.clone(), assignment.encode())],
    };
    assert_eq!(group.sync(request).await.unwrap().error, ErrorCode::NONE);
    (joined, partition)
}

pub(crate) async fn offsets_of_a_group_are_read_altered_and_deleted(client: &Client) {
    let admin = client.admin();
    let topic = topic(client, 3).await;
    let id = fresh("group");
    let partitions: Vec<_> = (0..3).map(|n| TopicPartition::new(&*topic, n)).collect();
    let unknown = TopicPartition::new(&*topic, 9);
    let asked = vec![
        commit(&partitions[1], 7),
        commit(&unknown, 1),
        commit(&partitions[0], 0),
    ];
    let altered = admin.alter_group_offsets(&id, asked).await;
    let expected = [
        ErrorCode::NONE,
        ErrorCode::UNKNOWN_TOPIC_OR_PARTITION,
        ErrorCode::NONE,
    ];
    assert_eq!(codes(&altered), expected);
    let told = altered[1].1.as_ref().unwrap_err();
    assert_eq!(
        (told.group(), told.partition()),
        (Some(&*id), Some(&unknown))
    );

    let read = |partitions: Option<Vec<TopicPartition>>| async {
        let offsets = admin.group_offsets(&id, partitions).await.unwrap();
        let offset = |(partition, offset): (TopicPartition, Result<Option<CommittedOffset>, _>)| {
            (
                partition.partition,
                offset.unwrap().map(|committed| committed.offset),
            )
        };
        offsets.into_iter().map(offset).collect::<Vec<_>>()
    };
    assert_eq!(read(None).await, [(0, Some(0)), (1, Some(7))]);
    let some = vec![partitions[2].clone(), partitions[1].clone()];
    assert_eq!(read(Some(some)).await, [(2, None), (1, Some(7))]);
    let committed = admin.group_offsets(&id, None).await.unwrap().remove(1).1;
    assert_eq!(committed.unwrap().unwrap().metadata, "by hand");

    let deleted = admin
        .delete_group_offsets(&id, vec![partitions[1].clone()])
        .await;
    assert_eq!(codes(&deleted), [ErrorCode::NONE]);
    assert_eq!(read(None).await, [(0, Some(0))]);
    assert_eq!(
        codes(&admin.delete_groups(vec![id.clone()]).await),
        [ErrorCode::NONE]
    );
    assert_eq!(read(None).await, []);
    let of_nobody = admin
        .delete_group_offsets(&id, vec![partitions[1].clone()])
        .await;
    assert_eq!(codes(&of_nobody), [ErrorCode::GROUP_ID_NOT_FOUND]);
}
