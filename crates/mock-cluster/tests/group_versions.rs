//! Every API of the groups answers in every version that it advertises.
#![allow(clippy::unwrap_used, reason = "a helper of a test may end it")]

mod support;

use kafka_protocol::messages::leave_group_request::MemberIdentity;
use kafka_protocol::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use kafka_protocol::messages::offset_fetch_request::{
    OffsetFetchRequestGroup, OffsetFetchRequestTopic, OffsetFetchRequestTopics,
};
use kafka_protocol::messages::*;
use ottla_mock_cluster::MockCluster;
use support::{Peer, join_request, text, topic};

/// One member joins, syncs, beats, commits, fetches, is described, and leaves.
#[tokio::test]
async fn group_apis_in_every_version() {
    let cluster = MockCluster::builder().start().await.unwrap();
    cluster.create_topic("t", 2).unwrap();
    let mut peer = Peer::connect(&cluster, 1).await;
    for version in 0..=9 {
        let group = format!("g{version}");
        let id = || -> GroupId { text(&group).into() };
        let capped = |max: i16| version.min(max);
        let by_key = FindCoordinatorRequest::default();
        let by_key = if capped(6) >= 4 {
            by_key.with_coordinator_keys(vec![text(&group)])
        } else {
            by_key.with_key(text(&group))
        };
        let found = peer.call(capped(6), &by_key).await;
        let node = found
            .coordinators
            .first()
            .map_or(found.node_id, |c| c.node_id);
        assert_eq!(node, BrokerId(1));

        let mut joined = peer.call(version, &join_request(&group, "")).await;
        if version >= 4 {
            assert_eq!(joined.error_code, 79);
            joined = peer
                .call(version, &join_request(&group, &joined.member_id))
                .await;
        }
        assert_eq!((joined.error_code, joined.generation_id), (0, 1));
        assert_eq!(
            (&joined.leader, joined.members.len()),
            (&joined.member_id, 1)
        );
        let member = joined.member_id;

        let assignment = sync_group_request::SyncGroupRequestAssignment::default()
            .with_member_id(member.clone())
            .with_assignment("all".into());
        let sync = SyncGroupRequest::default()
            .with_group_id(id())
            .with_generation_id(1)
            .with_member_id(member.clone())
            .with_assignments(vec![assignment]);
        let synced = peer.call(capped(5), &sync).await;
        assert_eq!(
            (synced.error_code, &synced.assignment[..]),
            (0, &b"all"[..])
        );

        let beat = HeartbeatRequest::default()
            .with_group_id(id())
            .with_generation_id(1)
            .with_member_id(member.clone());
        assert_eq!(peer.call(capped(4), &beat).await.error_code, 0);

        let commit = version.max(2);
        let partition = OffsetCommitRequestPartition::default()
            .with_partition_index(1)
            .with_committed_offset(42)
            .with_committed_leader_epoch(if commit >= 6 { 0 } else { -1 })
            .with_committed_metadata(Some(text("note")));
        let asked = OffsetCommitRequestTopic::default()
            .with_name(topic("t"))
            .with_partitions(vec![partition]);
        let request = OffsetCommitRequest::default()
            .with_group_id(id())
            .with_generation_id_or_member_epoch(1)
            .with_member_id(member.clone())
            .with_topics(vec![asked]);
        assert_eq!(
            peer.call(commit, &request).await.topics[0].partitions[0].error_code,
            0
        );
        assert_eq!(
            cluster.committed(&group, "t", 1),
            Some((42, "note".to_owned()))
        );

        fetch_offsets(&mut peer, version.max(1), &group).await;
        describe_and_list(&mut peer, version, &group).await;

        let leave = LeaveGroupRequest::default().with_group_id(id());
        let leave = if capped(5) >= 3 {
            leave.with_members(vec![MemberIdentity::default().with_member_id(member)])
        } else {
            leave.with_member_id(member)
        };
        let left = peer.call(capped(5), &leave).await;
        assert_eq!(
            left.members
                .first()
                .map_or(left.error_code, |member| member.error_code),
            0
        );
        assert_eq!(cluster.group_state(&group).name(), "Empty");
    }
    cluster.shutdown().await;
    assert_eq!(cluster.failed_tasks(), 0);
}

async fn fetch_offsets(peer: &mut Peer, version: i16, group: &str) {
    let request = OffsetFetchRequest::default();
    let request = if version >= 8 {
        let asked = OffsetFetchRequestTopics::default().with_name(topic("t"));
        let asked = asked.with_partition_indexes(vec![0, 1]);
        let group = OffsetFetchRequestGroup::default()
            .with_group_id(text(group).into())
            .with_topics(Some(vec![asked]));
        request.with_groups(vec![group])
    } else {
        let asked = OffsetFetchRequestTopic::default().with_name(topic("t"));
        let asked = asked.with_partition_indexes(vec![0, 1]);
        request
            .with_group_id(text(group).into())
            .with_topics(Some(vec![asked]))
    };
    let answer = peer.call(version, &request).await;
    let found: Vec<i64> = if version >= 8 {
        let partitions = answer.groups[0].topics[0].partitions.iter();
        partitions
            .map(|partition| partition.committed_offset)
            .collect()
    } else {
        answer.topics[0]
            .partitions
            .iter()
            .map(|partition| partition.committed_offset)
            .collect()
    };
    assert_eq!(found, [-1, 42]);
}

async fn describe_and_list(peer: &mut Peer, version: i16, group: &str) {
    let request =
        DescribeGroupsRequest::default().with_groups(vec![text(group).into(), text("?").into()]);
    let answer = peer.call(version.min(6), &request).await;
    assert_eq!(answer.groups[0].group_state.as_str(), "Stable");
    assert_eq!(&answer.groups[0].members[0].member_assignment[..], b"all");
    assert_eq!(answer.groups[1].group_state.as_str(), "Dead");
    let answer = peer
        .call(version.min(5), &ListGroupsRequest::default())
        .await;
    assert!(
        answer
            .groups
            .iter()
            .any(|listed| listed.group_id.as_str() == group)
    );
}
