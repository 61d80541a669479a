//! Topics by a regular expression: what matches is read, also if it comes later, until it goes.

use crate::bed::{Bed, Seen, config, numbers, stop, wait_for};
use crate::plain::{close, in_group, recv};
use ottla_client::Client;
use ottla_consumer::{
    App, Consumer, ConsumerConfig, Error, ErrorKind, GroupProtocol, MemberState, Registration,
};
use ottla_mock_cluster::{ApiKey, MockCluster, Versions};
use ottla_types::ErrorCode;
use std::time::Duration;

/// How old metadata may be, so that new topics are found soon.
const SOON: Duration = Duration::from_millis(100);

async fn bed() -> (Bed, Client) {
    let heartbeat = Duration::from_millis(50);
    let builder = MockCluster::builder().consumer_session(Duration::from_secs(10), heartbeat);
    let bed = Bed::start_with(builder).await;
    let client = bed
        .connect_with(|config| config.metadata_max_age = SOON)
        .await;
    (bed, client)
}

/// A topic with a partition that has a record, its own name.
async fn make(bed: &Bed, topic: &str) {
    bed.cluster.create_topic(topic, 1).unwrap();
    bed.write(topic, 0, [topic]).await;
}

fn speaking(protocol: GroupProtocol) -> ConsumerConfig {
    ConsumerConfig {
        group_protocol: protocol,
        ..in_group("g")
    }
}

fn topics(consumer: &Consumer) -> Vec<String> {
    let owned = consumer.assignment().into_iter();
    owned.map(|p| p.topic.to_string()).collect()
}

async fn new_topics_come_and_deleted_ones_go(protocol: GroupProtocol) {
    let (bed, client) = bed().await;
    for topic in ["eu-1", "us-1", "old-eu-1", "eu-1_dlq"] {
        make(&bed, topic).await;
    }
    let mut consumer = Consumer::subscribe_pattern(&client, speaking(protocol), "eu-[0-9]+")
        .await
        .unwrap();
    assert_eq!(&*recv(&mut consumer).await.partition().topic, "eu-1");
    make(&bed, "us-2").await;
    make(&bed, "eu-2").await;
    assert_eq!(&*recv(&mut consumer).await.partition().topic, "eu-2");
    consumer.commit_sync().await.unwrap();
    assert_eq!(topics(&consumer), ["eu-1", "eu-2"]);
    bed.cluster.delete_topic("eu-1").unwrap();
    wait_for("the end of eu-1", || topics(&consumer) == ["eu-2"]).await;
    bed.write("eu-2", 0, ["more"]).await;
    assert_eq!(recv(&mut consumer).await.records()[0].offset, 1);
    close(consumer).await;
}

#[tokio::test]
async fn new_topics_come_and_deleted_ones_go_classic() {
    new_topics_come_and_deleted_ones_go(GroupProtocol::Classic).await;
}

#[tokio::test]
async fn new_topics_come_and_deleted_ones_go_kip848() {
    new_topics_come_and_deleted_ones_go(GroupProtocol::Consumer).await;
}

async fn a_member_waits_in_the_group_for_the_first_topic(protocol: GroupProtocol) {
    let (bed, client) = bed().await;
    let consumer = Consumer::subscribe_pattern(&client, speaking(protocol), "eu-.*");
    let mut consumer = consumer.await.unwrap();
    let state = |consumer: &Consumer| consumer.status().registrations[0].members[0].state;
    wait_for("membership", || state(&consumer) == MemberState::Stable).await;
    assert_eq!(bed.cluster.group_members("g").len(), 1);
    make(&bed, "eu-1").await;
    assert_eq!(&*recv(&mut consumer).await.partition().topic, "eu-1");
    close(consumer).await;
}

#[tokio::test]
async fn a_member_waits_in_the_group_for_the_first_topic_classic() {
    a_member_waits_in_the_group_for_the_first_topic(GroupProtocol::Classic).await;
}

#[tokio::test]
async fn a_member_waits_in_the_group_for_the_first_topic_kip848() {
    a_member_waits_in_the_group_for_the_first_topic(GroupProtocol::Consumer).await;
}

/// The key and the value of a refused configuration, or what a broker said.
fn why(error: &Error) -> String {
    assert_eq!(error.kind(), ErrorKind::Config);
    std::error::Error::source(error).unwrap().to_string()
}

#[tokio::test]
async fn a_bad_expression_is_refused_at_the_start_or_ends_the_member() {
    let (bed, client) = bed().await;
    for protocol in [GroupProtocol::Classic, GroupProtocol::Auto] {
        let refused = Consumer::subscribe_pattern(&client, speaking(protocol), "eu-(").await;
        let why = why(&refused.unwrap_err());
        assert!(why.contains("`topic pattern` = `eu-(`"), "{why}");
    }
    assert_eq!(bed.cluster.requests(ApiKey::JoinGroup), 0);
    let consumer = Consumer::subscribe_pattern(&client, speaking(GroupProtocol::Consumer), "eu-(");
    let mut consumer = consumer.await.unwrap();
    let error = consumer.recv().await.unwrap_err();
    assert_eq!(error.code(), Some(ErrorCode::INVALID_REGULAR_EXPRESSION));
    let why = why(&error);
    assert!(
        why.contains("`eu-(`") && why.contains("SubscribedTopicRegex"),
        "{why}"
    );
    assert_eq!(
        bed.cluster.requests(ApiKey::ConsumerGroupHeartbeat),
        2,
        "to join, and to say goodbye"
    );
}

#[tokio::test]
async fn what_the_cluster_keeps_for_itself_does_not_match() {
    let (bed, client) = bed().await;
    make(&bed, "__consumer_offsets").await;
    make(&bed, "mine").await;
    let consumer = Consumer::subscribe_pattern(&client, speaking(GroupProtocol::Classic), ".*");
    let mut consumer = consumer.await.unwrap();
    assert_eq!(&*recv(&mut consumer).await.partition().topic, "mine");
    assert_eq!(topics(&consumer), ["mine"]);
    close(consumer).await;
}

#[tokio::test]
async fn where_the_broker_does_not_match_the_member_does() {
    let builder = MockCluster::builder().versions(Versions::kafka_3_9());
    let bed = Bed::start_with(builder).await;
    make(&bed, "eu-1").await;
    let config = speaking(GroupProtocol::Auto);
    let consumer = Consumer::subscribe_pattern(&bed.client, config, "eu-.*");
    let mut consumer = consumer.await.unwrap();
    assert_eq!(&*recv(&mut consumer).await.partition().topic, "eu-1");
    assert_eq!(bed.cluster.requests(ApiKey::SyncGroup), 1, "joined once");
    close(consumer).await;
}

async fn handlers_get_what_matches(protocol: GroupProtocol) {
    let (bed, client) = bed().await;
    for topic in ["named", "eu-1", "us-1"] {
        make(&bed, topic).await;
    }
    let config = ConsumerConfig {
        group_protocol: protocol,
        ..config()
    };
    let mut app = App::new(&client, config);
    let (matched, both) = (Seen::default(), Seen::default());
    app.topic_pattern("eu-.*")
        .instances(2)
        .listen("g", matched.handler());
    let registration = Registration::new("h", ["named"], both.handler());
    app.register(registration.topic_pattern("eu-.*"));
    let running = app.start().await.unwrap();
    assert_eq!(
        running.status().registrations[0].topic_pattern.as_deref(),
        Some("eu-.*")
    );
    matched.wait_len(1).await;
    make(&bed, "eu-2").await;
    bed.write("eu-1", 0, numbers(0..3)).await;
    matched.wait_len(5).await;
    both.wait_len(6).await;
    stop(running).await;
    let sorted = |seen: &Seen| {
        let mut values = seen.values();
        values.sort();
        values
    };
    assert_eq!(sorted(&matched), ["0", "1", "2", "eu-1", "eu-2"]);
    assert_eq!(sorted(&both), ["0", "1", "2", "eu-1", "eu-2", "named"]);
}

#[tokio::test]
async fn handlers_get_what_matches_classic() {
    handlers_get_what_matches(GroupProtocol::Classic).await;
}

#[tokio::test]
async fn handlers_get_what_matches_kip848() {
    handlers_get_what_matches(GroupProtocol::Consumer).await;
}
