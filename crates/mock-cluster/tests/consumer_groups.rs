//! KIP-848 over sockets: two members, the versions of its heartbeat, and commits by member epoch.
#![allow(clippy::unwrap_used, reason = "a helper of a test may end it")]

mod support;

use std::time::Duration;

use kafka_protocol::messages::consumer_group_describe_response::Assignment;
use kafka_protocol::messages::consumer_group_heartbeat_request::TopicPartitions;
use kafka_protocol::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use kafka_protocol::messages::{
    ConsumerGroupDescribeRequest, ConsumerGroupHeartbeatRequest, ConsumerGroupHeartbeatResponse,
    DescribeGroupsRequest, JoinGroupRequest, OffsetCommitRequest,
};
use ottla_mock_cluster::{GroupState, MockCluster, Versions};
use support::{Peer, eventually, text, topic};

const GROUP: &str = "g";

async fn cluster() -> MockCluster {
    let session = Duration::from_millis(400);
    let builder = MockCluster::builder().consumer_session(session, Duration::from_millis(50));
    let cluster = builder.start().await.unwrap();
    cluster.create_topic("t", 4).unwrap();
    cluster
}

fn join(member: &str) -> ConsumerGroupHeartbeatRequest {
    beat(member, 0)
        .with_rebalance_timeout_ms(10_000)
        .with_subscribed_topic_names(Some(vec![topic("t")]))
        .with_topic_partitions(Some(Vec::new()))
}

fn beat(member: &str, epoch: i32) -> ConsumerGroupHeartbeatRequest {
    ConsumerGroupHeartbeatRequest::default()
        .with_group_id(text(GROUP).into())
        .with_member_id(text(member))
        .with_member_epoch(epoch)
}

fn given(answer: &ConsumerGroupHeartbeatResponse) -> Vec<i32> {
    let topics = answer.assignment.iter().flat_map(|a| &a.topic_partitions);
    topics.flat_map(|t| t.partitions.clone()).collect()
}

#[tokio::test]
async fn two_members_share_a_topic_and_a_silent_one_is_forgotten() {
    let cluster = cluster().await;
    let mut peer = Peer::connect(&cluster, 1).await;
    let first = peer.call(1, &join("a")).await;
    assert_eq!((first.error_code, given(&first).len()), (0, 4));
    assert_eq!(first.heartbeat_interval_ms, 50);
    assert_eq!(cluster.group_state(GROUP), GroupState::Stable);
    let second = peer.call(0, &join("b")).await;
    assert_eq!(given(&second).len(), 0);
    assert_eq!(cluster.group_members(GROUP), ["a", "b"]);
    let told = peer.call(1, &beat("a", first.member_epoch)).await;
    let kept = given(&told);
    assert_eq!(kept.len(), 2);
    let id = told.assignment.unwrap().topic_partitions[0].topic_id;
    let owned = TopicPartitions::default()
        .with_topic_id(id)
        .with_partitions(kept);
    let ack = beat("a", first.member_epoch).with_topic_partitions(Some(vec![owned]));
    let done = peer.call(1, &ack).await;
    assert_eq!(
        (done.error_code, done.member_epoch),
        (0, second.member_epoch)
    );
    let got = peer.call(1, &beat("b", second.member_epoch)).await;
    assert_eq!(given(&got).len(), 2);
    eventually("the group is empty", || {
        cluster.group_state(GROUP) == GroupState::Empty
    })
    .await;
    assert_eq!(
        peer.call(1, &beat("a", done.member_epoch)).await.error_code,
        25
    );
}

#[tokio::test]
async fn groups_are_described_with_epochs_and_targets() {
    let cluster = cluster().await;
    let mut peer = Peer::connect(&cluster, 1).await;
    let first = peer.call(1, &join("a")).await;
    let mut described = async |version| {
        let ids = [GROUP, "?"].map(|id| text(id).into());
        let request = ConsumerGroupDescribeRequest::default().with_group_ids(ids.into());
        let mut groups = peer.call(version, &request).await.groups;
        assert_eq!(groups.pop().unwrap().error_code, 69);
        groups.remove(0)
    };
    let partitions = |assignment: &Assignment| -> Vec<i32> {
        let topics = assignment.topic_partitions.iter();
        let topics = topics.inspect(|t| assert_eq!(t.topic_name.as_str(), "t"));
        topics.flat_map(|t| t.partitions.clone()).collect()
    };
    for version in 0..=1 {
        let group = described(version).await;
        let shown = (group.group_state.as_str(), group.assignor_name.as_str());
        assert_eq!((group.error_code, shown), (0, ("Stable", "uniform")));
        assert_eq!(group.group_epoch, first.member_epoch);
        let member = &group.members[0];
        assert_eq!(partitions(&member.assignment), [0, 1, 2, 3]);
        assert_eq!(member.subscribed_topic_names, [topic("t")]);
        assert_eq!(member.client_host.as_str(), "/127.0.0.1");
    }
    let mut other = Peer::connect(&cluster, 1).await;
    other.call(1, &join("b")).await;
    let group = described(1).await;
    assert_eq!(group.group_state.as_str(), "Reconciling");
    let [a, b] = &group.members[..] else {
        panic!("{group:?}");
    };
    assert_eq!(partitions(&a.assignment).len(), 4);
    assert_eq!(partitions(&b.assignment).len(), 0);
    assert_eq!(partitions(&a.target_assignment).len(), 2);
    assert_eq!(partitions(&b.target_assignment).len(), 2);
    // To the classic protocol it is not there.
    let request = DescribeGroupsRequest::default().with_groups(vec![text(GROUP).into()]);
    for (version, code) in [(5, 0), (6, 69)] {
        let answer = other.call(version, &request).await;
        let shown = (
            answer.groups[0].group_state.as_str(),
            answer.groups[0].error_code,
        );
        assert_eq!(shown, ("Dead", code));
    }
}

#[tokio::test]
async fn commits_go_by_the_member_epoch() {
    let cluster = cluster().await;
    let mut peer = Peer::connect(&cluster, 1).await;
    let first = peer.call(1, &join("a")).await;
    for (version, epoch, code) in [
        (9, first.member_epoch, 0),
        (9, first.member_epoch + 1, 113),
        (8, first.member_epoch + 1, 35),
    ] {
        let partition = OffsetCommitRequestPartition::default()
            .with_committed_offset(5)
            .with_committed_metadata(Some(text("")));
        let topic = OffsetCommitRequestTopic::default()
            .with_name(topic("t"))
            .with_partitions(vec![partition]);
        let request = OffsetCommitRequest::default()
            .with_group_id(text(GROUP).into())
            .with_generation_id_or_member_epoch(epoch)
            .with_member_id(text("a"))
            .with_topics(vec![topic]);
        let answer = peer.call(version, &request).await;
        assert_eq!(
            answer.topics[0].partitions[0].error_code, code,
            "v{version}"
        );
    }
}

#[tokio::test]
async fn who_may_not_speak_it_is_told_so() {
    let cluster = cluster().await;
    let mut peer = Peer::connect(&cluster, 1).await;
    assert_eq!(peer.call(1, &join("")).await.error_code, 42);
    let named = peer.call(0, &join("")).await;
    assert!(
        !named.member_id.unwrap().is_empty(),
        "the coordinator makes one"
    );
    let classic = JoinGroupRequest::default()
        .with_group_id(text(GROUP).into())
        .with_session_timeout_ms(10_000)
        .with_rebalance_timeout_ms(10_000)
        .with_protocol_type(text("consumer"));
    assert_eq!(peer.call(5, &classic).await.error_code, 23);
    let old = MockCluster::builder().versions(Versions::kafka_3_9());
    let old = old.start().await.unwrap();
    let mut peer = Peer::connect(&old, 1).await;
    assert_eq!(peer.call(0, &join("a")).await.error_code, 35);
    let ids = vec![text(GROUP).into()];
    let request = ConsumerGroupDescribeRequest::default().with_group_ids(ids);
    assert_eq!(peer.call(0, &request).await.groups[0].error_code, 35);
}
