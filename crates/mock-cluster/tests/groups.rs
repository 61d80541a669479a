//! The group protocol over sockets: several members, several connections, coordinators that move.
#![allow(clippy::unwrap_used, reason = "a helper of a test may end it")]

mod support;

use std::time::Duration;

use bytes::Bytes;
use kafka_protocol::messages::join_group_request::JoinGroupRequestProtocol;
use kafka_protocol::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use kafka_protocol::messages::sync_group_request::SyncGroupRequestAssignment;
use kafka_protocol::messages::{
    HeartbeatRequest, JoinGroupRequest, JoinGroupResponse, OffsetCommitRequest, SyncGroupRequest,
};
use ottla_mock_cluster::{Action, ApiKey, Fault, GroupState, MockCluster};
use support::{Peer, eventually, text, topic};

const GROUP: &str = "g";

async fn cluster() -> MockCluster {
    let cluster = MockCluster::builder().brokers(2).start().await.unwrap();
    cluster.create_topic("t", 2).unwrap();
    cluster.move_coordinator(GROUP, 1).unwrap();
    cluster
}

fn join(member: &str, session_ms: i32) -> JoinGroupRequest {
    let protocol = JoinGroupRequestProtocol::default()
        .with_name(text("range"))
        .with_metadata(Bytes::from_static(b"meta"));
    JoinGroupRequest::default()
        .with_group_id(text(GROUP).into())
        .with_session_timeout_ms(session_ms)
        .with_rebalance_timeout_ms(10_000)
        .with_member_id(text(member))
        .with_protocol_type(text("consumer"))
        .with_protocols(vec![protocol])
}

/// Gets an id and sends the join with it; the answer comes later.
async fn start_join(peer: &mut Peer, session_ms: i32) -> String {
    let given = peer.call(5, &join("", session_ms)).await;
    assert_eq!(given.error_code, 79);
    let member = given.member_id.to_string();
    peer.send(5, &join(&member, session_ms)).await;
    member
}

async fn joined(peer: &mut Peer) -> JoinGroupResponse {
    let (_, answer) = peer.receive::<JoinGroupRequest>(5).await.unwrap();
    assert_eq!(answer.error_code, 0);
    answer
}

fn sync(member: &str, generation: i32, assignments: &[(&str, &str)]) -> SyncGroupRequest {
    let assignments = assignments.iter().map(|(member, assignment)| {
        SyncGroupRequestAssignment::default()
            .with_member_id(text(member))
            .with_assignment(Bytes::copy_from_slice(assignment.as_bytes()))
    });
    SyncGroupRequest::default()
        .with_group_id(text(GROUP).into())
        .with_member_id(text(member))
        .with_generation_id(generation)
        .with_assignments(assignments.collect())
}

fn beat(member: &str, generation: i32) -> HeartbeatRequest {
    HeartbeatRequest::default()
        .with_group_id(text(GROUP).into())
        .with_member_id(text(member))
        .with_generation_id(generation)
}

/// Two members, stable in one generation; the first leads. The second one's session lasts so long.
async fn pair(cluster: &MockCluster, session_ms: i32) -> (Peer, String, Peer, String, i32) {
    let mut one = Peer::connect(cluster, 1).await;
    let mut two = Peer::connect(cluster, 1).await;
    let first = start_join(&mut one, 10_000).await;
    assert_eq!(joined(&mut one).await.generation_id, 1);
    assert_eq!(
        one.call(4, &sync(&first, 1, &[(&first, "all")]))
            .await
            .error_code,
        0
    );

    let second = start_join(&mut two, session_ms).await;
    eventually("a rebalance", || {
        cluster.group_state(GROUP) == GroupState::PreparingRebalance
    })
    .await;
    assert_eq!(one.call(4, &beat(&first, 1)).await.error_code, 27);
    one.send(5, &join(&first, 10_000)).await;
    let (leads, follows) = (joined(&mut one).await, joined(&mut two).await);
    assert_eq!((leads.generation_id, follows.generation_id), (2, 2));
    assert_eq!(
        (leads.leader.as_str(), follows.leader.as_str()),
        (&*first, &*first)
    );
    assert_eq!((leads.members.len(), follows.members.len()), (2, 0));
    two.send(4, &sync(&second, 2, &[])).await;
    let parts = [(first.as_str(), "left"), (second.as_str(), "right")];
    assert_eq!(
        &one.call(4, &sync(&first, 2, &parts)).await.assignment[..],
        b"left"
    );
    let (_, answer) = two.receive::<SyncGroupRequest>(4).await.unwrap();
    assert_eq!(&answer.assignment[..], b"right");
    assert_eq!(cluster.group_state(GROUP), GroupState::Stable);
    assert_eq!(cluster.group_members(GROUP).len(), 2);
    (one, first, two, second, 2)
}

#[tokio::test]
async fn two_members_share_a_group() {
    let cluster = cluster().await;
    let (mut one, first, mut two, second, generation) = pair(&cluster, 10_000).await;
    assert_eq!(one.call(4, &beat(&first, generation)).await.error_code, 0);
    assert_eq!(two.call(4, &beat(&second, generation)).await.error_code, 0);
    assert_eq!(two.call(4, &beat(&second, 1)).await.error_code, 22);
    assert_eq!(
        two.call(4, &beat("stranger", generation)).await.error_code,
        25
    );
    let mut elsewhere = Peer::connect(&cluster, 2).await;
    assert_eq!(
        elsewhere
            .call(4, &beat(&first, generation))
            .await
            .error_code,
        16
    );
    cluster.shutdown().await;
    assert_eq!(cluster.failed_tasks(), 0);
}

#[tokio::test]
async fn a_silent_member_expires_and_the_other_takes_over() {
    let cluster = cluster().await;
    let (mut one, first, _two, second, generation) = pair(&cluster, 1500).await;
    assert_eq!(one.call(4, &beat(&first, generation)).await.error_code, 0);
    eventually("the expiry", || cluster.group_members(GROUP) == [&*first]).await;
    assert_eq!(one.call(4, &beat(&first, generation)).await.error_code, 27);
    one.send(5, &join(&first, 10_000)).await;
    assert_eq!(joined(&mut one).await.members.len(), 1);
    assert_eq!(one.call(4, &beat(&second, 3)).await.error_code, 25);
}

#[tokio::test]
async fn a_waiting_join_holds_back_only_its_own_connection() {
    let cluster = cluster().await;
    let (mut one, first, _two, _second, _) = pair(&cluster, 10_000).await;
    let mut three = Peer::connect(&cluster, 1).await;
    let third = start_join(&mut three, 10_000).await;
    eventually("the join", || cluster.group_members(GROUP).contains(&third)).await;
    assert_eq!(one.call(4, &beat(&first, 2)).await.error_code, 27);
    // Its own later request is answered after the join.
    three.send(4, &beat(&third, 3)).await;
    cluster.move_coordinator(GROUP, 2).unwrap();
    let (_, answer) = three.receive::<JoinGroupRequest>(5).await.unwrap();
    assert_eq!(answer.error_code, 16);
    let (_, answer) = three.receive::<HeartbeatRequest>(4).await.unwrap();
    assert_eq!(answer.error_code, 16);
}

#[tokio::test]
async fn a_group_survives_the_kill_of_its_coordinator() {
    let cluster = cluster().await;
    let (one, first, _two, second, generation) = pair(&cluster, 10_000).await;
    cluster.kill(1).await.unwrap();
    drop(one);
    assert_eq!(cluster.coordinator(GROUP), Some(2));
    let mut peer = Peer::connect(&cluster, 2).await;
    assert_eq!(peer.call(4, &beat(&first, generation)).await.error_code, 0);
    assert_eq!(peer.call(4, &beat(&second, generation)).await.error_code, 0);
    assert_eq!(cluster.group_state(GROUP), GroupState::Stable);
    cluster.restart(1).await.unwrap();
    assert_eq!(cluster.coordinator(GROUP), Some(2));
}

fn commit(member: &str, generation: i32, offset: i64) -> OffsetCommitRequest {
    let partition = |index| {
        OffsetCommitRequestPartition::default()
            .with_partition_index(index)
            .with_committed_offset(offset)
            .with_committed_leader_epoch(3)
    };
    let asked = OffsetCommitRequestTopic::default()
        .with_name(topic("t"))
        .with_partitions(vec![partition(0), partition(9)]);
    OffsetCommitRequest::default()
        .with_group_id(text(GROUP).into())
        .with_generation_id_or_member_epoch(generation)
        .with_member_id(text(member))
        .with_topics(vec![asked])
}

async fn commit_codes(peer: &mut Peer, request: &OffsetCommitRequest) -> (i16, i16) {
    let answer = peer.call(8, request).await;
    let partitions = &answer.topics[0].partitions;
    (partitions[0].error_code, partitions[1].error_code)
}

#[tokio::test]
async fn commits_are_taken_from_members_of_the_generation_alone() {
    let cluster = cluster().await;
    // A consumer outside the protocol, while the group is empty.
    let mut peer = Peer::connect(&cluster, 1).await;
    assert_eq!(commit_codes(&mut peer, &commit("", -1, 5)).await, (0, 3));
    assert_eq!(cluster.committed(GROUP, "t", 0), Some((5, String::new())));
    assert_eq!(cluster.committed_leader_epoch(GROUP, "t", 0), Some(3));
    let (mut one, first, _two, _second, generation) = pair(&cluster, 10_000).await;
    assert_eq!(commit_codes(&mut peer, &commit("", -1, 6)).await, (25, 25));
    assert_eq!(
        commit_codes(&mut one, &commit(&first, generation - 1, 6)).await,
        (22, 22)
    );
    assert_eq!(
        commit_codes(&mut one, &commit("stranger", generation, 6)).await,
        (25, 25)
    );
    assert_eq!(
        commit_codes(&mut one, &commit(&first, generation, 7)).await,
        (0, 3)
    );
    assert_eq!(cluster.committed(GROUP, "t", 0), Some((7, String::new())));
    let mut long = commit(&first, generation, 8);
    long.topics[0].partitions[0].committed_metadata = Some(text(&"m".repeat(5000)));
    assert_eq!(commit_codes(&mut one, &long).await, (12, 3));
    cluster.delete_topic("t").unwrap();
    assert_eq!(cluster.committed(GROUP, "t", 0), None);
}

#[tokio::test]
async fn a_join_that_was_applied_but_not_answered_leaves_a_member_behind() {
    let cluster = cluster().await;
    let mut peer = Peer::connect(&cluster, 1).await;
    let given = peer.call(5, &join("", 1000)).await.member_id.to_string();
    let lost = Fault::on(ApiKey::JoinGroup)
        .group(GROUP)
        .action(Action::DropReply);
    cluster.faults().add(lost);
    assert!(peer.try_call(5, &join(&given, 1000)).await.is_none());
    assert_eq!(cluster.group_members(GROUP), [given]);
    eventually("its session to end", || {
        cluster.group_state(GROUP) == GroupState::Empty
    })
    .await;
}

#[tokio::test]
async fn the_first_generation_can_wait_for_more_members() {
    let delay = Duration::from_millis(150);
    let cluster = MockCluster::builder()
        .initial_rebalance_delay(delay)
        .start()
        .await
        .unwrap();
    let (mut one, mut two) = (
        Peer::connect(&cluster, 1).await,
        Peer::connect(&cluster, 1).await,
    );
    start_join(&mut one, 10_000).await;
    start_join(&mut two, 10_000).await;
    let generations = (
        joined(&mut one).await.generation_id,
        joined(&mut two).await.generation_id,
    );
    assert_eq!(generations, (1, 1));
    assert_eq!(cluster.group_generation(GROUP), Some(1));
}
