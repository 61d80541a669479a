//! Administration on the mock cluster, and what only faults can show.

use crate::scenarios::admin::{codes, commit};
use crate::{cluster, end, scenarios};
use ottla_client::NewTopic;
use ottla_client::admin::{
    AlterConfigs, ConfigResource, DeleteUpTo, DurabilityDemands, DurabilityMode, Finding,
    GroupFilter, Severity,
};
use ottla_client::transport::Acks;
use ottla_client::{Client, ClientConfig, ErrorKind};
use ottla_mock_cluster::{Action, ApiKey, Fault, MockCluster, Versions};
use ottla_types::{ErrorCode, Fate, TopicPartition};

use std::time::Duration;

fn refuse(cluster: &MockCluster, api: ApiKey, code: ErrorCode, times: u32) {
    let refused = Fault::on(api).times(times).action(Action::Refuse(code.0));
    cluster.faults().add(refused);
}

#[tokio::test]
async fn topics_and_cluster_are_described() {
    let (cluster, client) = cluster().await;
    scenarios::admin::topics_and_cluster_are_described(&client).await;
    end(cluster, client).await;
}

#[tokio::test]
async fn settings_are_altered_and_read_back() {
    let (cluster, client) = cluster().await;
    scenarios::admin::settings_are_altered_and_read_back(&client).await;
    end(cluster, client).await;
}

#[tokio::test]
async fn settings_of_each_broker_are_told() {
    let (cluster, client) = cluster().await;
    scenarios::admin::settings_of_each_broker_are_told(&client).await;
    end(cluster, client).await;
}

#[tokio::test]
async fn partitions_are_added() {
    let (cluster, client) = cluster().await;
    scenarios::admin::partitions_are_added(&client).await;
    end(cluster, client).await;
}

#[tokio::test]
async fn records_are_deleted() {
    let (cluster, client) = cluster().await;
    scenarios::admin::records_are_deleted(&client).await;
    end(cluster, client).await;
}

#[tokio::test]
async fn a_group_is_described_listed_and_deleted() {
    let (cluster, client) = cluster().await;
    scenarios::admin::a_group_is_described_listed_and_deleted(&client).await;
    end(cluster, client).await;
}

#[tokio::test]
async fn a_group_of_kip_848_is_described() {
    let (cluster, client) = cluster().await;
    scenarios::admin::a_group_of_kip_848_is_described(&client).await;
    // Members that speak KIP-848, and nobody who describes them.
    for version in [6, 5] {
        let versions = Versions::kafka_4_3().without(ApiKey::ConsumerGroupDescribe);
        let versions = versions.with(ApiKey::DescribeGroups, 0, version);
        let old = MockCluster::builder().versions(versions).start().await;
        let old = old.unwrap();
        let client = scenarios::connect(&old.bootstrap()).await;
        let (_, beat) = scenarios::admin::beat_of(&client).await;
        let group = client.group("g");
        let joined = group.consumer_heartbeat(beat, Duration::from_secs(5));
        assert_eq!(joined.await.unwrap().error, ErrorCode::NONE);
        let described = client.admin().describe_groups(vec!["g".to_owned()]).await;
        assert_eq!(codes(&described), [ErrorCode::GROUP_ID_NOT_FOUND]);
        end(old, client).await;
    }
    refuse(
        &cluster,
        ApiKey::ConsumerGroupDescribe,
        ErrorCode::GROUP_AUTHORIZATION_FAILED,
        1,
    );
    let described = client.admin().describe_groups(vec!["g".to_owned()]).await;
    assert_eq!(codes(&described), [ErrorCode::GROUP_AUTHORIZATION_FAILED]);
    end(cluster, client).await;
}

#[tokio::test]
async fn offsets_of_a_group_are_read_altered_and_deleted() {
    let (cluster, client) = cluster().await;
    scenarios::admin::offsets_of_a_group_are_read_altered_and_deleted(&client).await;
    end(cluster, client).await;
}

#[tokio::test]
async fn without_describe_cluster_the_metadata_says_it() {
    let builder = MockCluster::builder()
        .brokers(3)
        .versions(Versions::redpanda());
    let cluster = builder.start().await.unwrap();
    let client = scenarios::connect(&cluster.bootstrap()).await;
    scenarios::admin::topics_and_cluster_are_described(&client).await;
    assert_eq!(cluster.requests(ApiKey::DescribeCluster), 0);
    end(cluster, client).await;
}

fn orders(partition: i32) -> TopicPartition {
    TopicPartition::new("orders", partition)
}

#[tokio::test]
async fn what_passes_is_asked_again() {
    let (cluster, client) = cluster().await;
    cluster.create_topic("orders", 2).unwrap();
    let admin = client.admin();
    refuse(
        &cluster,
        ApiKey::CreatePartitions,
        ErrorCode::NOT_CONTROLLER,
        2,
    );
    let made = admin
        .create_partitions(vec![("orders".to_owned(), 3)])
        .await;
    assert_eq!(codes(&made), [ErrorCode::NONE]);
    refuse(
        &cluster,
        ApiKey::IncrementalAlterConfigs,
        ErrorCode::THROTTLING_QUOTA_EXCEEDED,
        1,
    );
    let topic = ConfigResource::Topic("orders".to_owned());
    let change = AlterConfigs::new(topic).set("retention.ms", "1");
    assert_eq!(
        codes(&admin.alter_configs(vec![change]).await),
        [ErrorCode::NONE]
    );
    for code in [
        ErrorCode::COORDINATOR_LOAD_IN_PROGRESS,
        ErrorCode::NOT_COORDINATOR,
    ] {
        for api in [
            ApiKey::OffsetCommit,
            ApiKey::OffsetDelete,
            ApiKey::OffsetFetch,
            ApiKey::DeleteGroups,
        ] {
            refuse(&cluster, api, code, 1);
        }
        let committed = admin
            .alter_group_offsets("g", vec![commit(&orders(0), 5)])
            .await;
        assert_eq!(codes(&committed), [ErrorCode::NONE]);
        assert_eq!(admin.group_offsets("g", None).await.unwrap().len(), 1);
        let deleted = admin.delete_group_offsets("g", vec![orders(0)]).await;
        assert_eq!(codes(&deleted), [ErrorCode::NONE]);
        admin
            .alter_group_offsets("g", vec![commit(&orders(0), 5)])
            .await;
        let deleted = admin.delete_groups(vec!["g".to_owned()]).await;
        assert_eq!(codes(&deleted), [ErrorCode::NONE]);
    }
    assert_eq!(cluster.faults().pending(), 0);
    end(cluster, client).await;
}

#[tokio::test]
async fn a_moved_leader_or_coordinator_is_found_again() {
    let (cluster, client) = cluster().await;
    cluster.create_topic("orders", 1).unwrap();
    let admin = client.admin();
    client.topic("orders").await.unwrap();
    scenarios::admin::write(&client, &orders(0), 9).await;
    for (round, broker) in [1, 2, 3].into_iter().enumerate() {
        cluster.move_leader("orders", 0, broker).unwrap();
        cluster.move_coordinator("g", broker).unwrap();
        let offset = i64::try_from(round).unwrap();
        let deleted = admin
            .delete_records(vec![(orders(0), DeleteUpTo::Offset(offset))])
            .await;
        assert_eq!(deleted[0].1.as_ref().unwrap(), &offset);
        let committed = admin
            .alter_group_offsets("g", vec![commit(&orders(0), offset)])
            .await;
        assert_eq!(codes(&committed), [ErrorCode::NONE]);
    }
    assert_eq!(cluster.committed("g", "orders", 0).unwrap().0, 2);
    end(cluster, client).await;
}

#[tokio::test]
async fn a_lost_answer_to_a_change_is_told_and_to_a_question_asked_again() {
    let (cluster, client) = cluster().await;
    cluster.create_topic("orders", 2).unwrap();
    let admin = client.admin();
    let lose = |api| {
        cluster
            .faults()
            .add(Fault::on(api).action(Action::DropReply))
    };
    lose(ApiKey::CreatePartitions);
    let made = admin
        .create_partitions(vec![("orders".to_owned(), 3)])
        .await;
    let error = made[0].1.as_ref().unwrap_err();
    assert_eq!(
        (error.kind(), error.fate()),
        (ErrorKind::ConnectionLost, Fate::MaybeWritten)
    );
    assert_eq!(
        (error.topic(), error.is_retriable()),
        (Some("orders"), true)
    );
    assert_eq!(cluster.partitions("orders"), Some(3));
    assert_eq!(cluster.requests(ApiKey::CreatePartitions), 1);

    lose(ApiKey::OffsetCommit);
    let committed = admin
        .alter_group_offsets("g", vec![commit(&orders(0), 5)])
        .await;
    assert_eq!(
        committed[0].1.as_ref().unwrap_err().fate(),
        Fate::MaybeWritten
    );
    lose(ApiKey::OffsetFetch);
    let offsets = admin.group_offsets("g", None).await.unwrap();
    assert_eq!(offsets[0].1.as_ref().unwrap().as_ref().unwrap().offset, 5);
    lose(ApiKey::DescribeConfigs);
    let resource = ConfigResource::Topic("orders".to_owned());
    assert_eq!(
        codes(&admin.describe_configs(vec![resource]).await),
        [ErrorCode::NONE]
    );
    end(cluster, client).await;
}

#[tokio::test]
async fn a_broker_that_is_silent_takes_nothing_from_the_others() {
    let cluster = MockCluster::builder().brokers(3).start().await.unwrap();
    let config = ClientConfig {
        request_timeout: Duration::from_secs(2),
        ..ClientConfig::new(&cluster.bootstrap())
    };
    let client = Client::connect(config).await.unwrap();
    cluster.create_topic("orders", 1).unwrap();
    let admin = client.admin();
    for broker in 1..=3 {
        let group = format!("g{broker}");
        cluster.move_coordinator(&group, broker).unwrap();
        let committed = admin
            .alter_group_offsets(&group, vec![commit(&orders(0), 5)])
            .await;
        assert_eq!(codes(&committed), [ErrorCode::NONE]);
    }
    let silent = Fault::on(ApiKey::ListGroups).at_broker(2).forever();
    cluster.faults().add(silent.action(Action::Hang));
    let listed = admin.list_groups(GroupFilter::default()).await.unwrap();
    let names: Vec<_> = listed.groups.iter().map(|group| &*group.group_id).collect();
    assert_eq!(names, ["g1", "g3"]);
    assert_eq!(listed.failures[0].0, 2);
    assert_eq!(listed.failures[0].1.kind(), ErrorKind::TimedOut);
    end(cluster, client).await;
}

#[tokio::test]
async fn a_refusal_for_good_is_not_asked_again() {
    let (cluster, client) = cluster().await;
    cluster.create_topic("orders", 1).unwrap();
    let admin = client.admin();
    for (api, code) in [
        (
            ApiKey::CreatePartitions,
            ErrorCode::TOPIC_AUTHORIZATION_FAILED,
        ),
        (ApiKey::DeleteGroups, ErrorCode::GROUP_AUTHORIZATION_FAILED),
    ] {
        refuse(&cluster, api, code, 1);
        let result = if api == ApiKey::DeleteGroups {
            admin.delete_groups(vec!["g".to_owned()]).await.remove(0).1
        } else {
            admin
                .create_partitions(vec![("orders".to_owned(), 3)])
                .await
                .remove(0)
                .1
        };
        let error = result.unwrap_err();
        assert_eq!(
            (error.kind(), error.code()),
            (ErrorKind::Authorization, Some(code))
        );
        assert_eq!((error.fate(), cluster.requests(api)), (Fate::NotWritten, 1));
    }
    refuse(
        &cluster,
        ApiKey::CreatePartitions,
        ErrorCode::REQUEST_TIMED_OUT,
        1,
    );
    let error = admin
        .create_partitions(vec![("orders".to_owned(), 3)])
        .await
        .remove(0)
        .1
        .unwrap_err();
    assert_eq!(error.fate(), Fate::MaybeWritten, "{error}");
    end(cluster, client).await;
}

#[tokio::test]
async fn durability_is_judged_from_what_the_cluster_says() {
    let (cluster, client) = cluster().await;
    let weak = NewTopic::new("weak", 1).replication(1);
    let stiff = NewTopic::new("stiff", 1)
        .replication(2)
        .config("min.insync.replicas", "2");
    let good = NewTopic::new("good", 1)
        .replication(3)
        .config("min.insync.replicas", "2");
    client.ensure_topics(vec![weak, stiff, good]).await.unwrap();
    let topics = ["weak", "stiff", "good", "none"].map(str::to_owned);
    let report = client.check_durability(topics.to_vec(), Acks::All).await;
    let found: Vec<_> = report.topics[..3]
        .iter()
        .map(|(_, found)| found.as_ref().unwrap().clone())
        .collect();
    let stiff = Finding::MinInsyncReplicasAll {
        min_insync: 2,
        replication: 2,
    };
    assert_eq!(
        found,
        [vec![Finding::OneCopy], vec![stiff], vec![]],
        "{report}"
    );
    let unknown = report.topics[3].1.as_ref().unwrap_err();
    assert_eq!(unknown.kind(), ErrorKind::UnknownTopic);
    let retention = DurabilityDemands {
        acks: Acks::All,
        retention: Some(Duration::from_secs(14 * 86_400)),
    };
    let report = client
        .check_durability(vec!["good".to_owned()], retention)
        .await;
    assert_eq!(report.worst(), Some(Severity::Loss), "{report}");

    let admin = client.admin();
    let ensure = async |topic, mode| admin.ensure_durable(topic, mode, Acks::All.into()).await;
    ensure("good", DurabilityMode::Refuse).await.unwrap();
    ensure("stiff", DurabilityMode::Refuse).await.unwrap();
    ensure("weak", DurabilityMode::Warn).await.unwrap();
    ensure("none", DurabilityMode::Off).await.unwrap();
    let refused = ensure("weak", DurabilityMode::Refuse).await.unwrap_err();
    assert_eq!(
        (refused.kind(), refused.topic()),
        (ErrorKind::NotDurable, Some("weak"))
    );
    let why = std::error::Error::source(&refused).unwrap().to_string();
    assert_eq!(why, "weak: loss: one copy only (replication factor 1)");
    let unknown = ensure("none", DurabilityMode::Refuse).await.unwrap_err();
    assert_eq!(unknown.kind(), ErrorKind::UnknownTopic);
    end(cluster, client).await;
}
