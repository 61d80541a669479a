//! What a client does with a cluster, whichever cluster it is.

pub(crate) mod admin;
pub(crate) mod transactions;

use ottla_client::{Client, ClientConfig, ErrorKind, GroupClient, NewTopic};
use ottla_types::coordinator::{
    CommitOffset, HeartbeatRequest, JoinGroupRequest, JoinGroupResponse, LeaveGroupRequest,
    OffsetCommitRequest, OffsetFetchRequest, SyncGroupRequest,
};
use ottla_types::{Bytes, ErrorCode, TopicPartition};
use std::time::{Duration, Instant};

pub(crate) async fn connect(bootstrap: &str) -> Client {
    let config = ClientConfig {
        request_timeout: Duration::from_secs(15),
        ..ClientConfig::new(bootstrap)
    };
    Client::connect(config).await.expect("the cluster is there")
}

/// A name that no other test and no earlier run has.
pub(crate) fn fresh(name: &str) -> String {
    format!("{name}-{:08x}", fastrand::u32(..))
}

pub(crate) async fn topics_are_created_listed_and_deleted(client: &Client) {
    let orders = fresh("orders");
    let missing = client.topic(&orders).await.unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::UnknownTopic, "{missing}");
    assert_eq!(missing.topic(), Some(&*orders));

    let wanted = vec![
        NewTopic::new(&orders, 3).config("cleanup.policy", "compact"),
        NewTopic::new("not a name", 1),
    ];
    let outcomes = client.create_topics(wanted).await.unwrap();
    assert_eq!(outcomes[0].0, orders);
    outcomes[0].1.as_ref().expect("created");
    let illegal = outcomes[1].1.as_ref().unwrap_err();
    assert_eq!(illegal.kind(), ErrorKind::Config);

    client
        .ensure_topics(vec![NewTopic::new(&orders, 3)])
        .await
        .unwrap();
    let topic = client.topic(&orders).await.unwrap();
    let numbers: Vec<_> = topic.partitions.iter().map(|p| p.id).collect();
    assert_eq!(numbers, [0, 1, 2]);
    assert!(topic.has_leaders() && !topic.is_internal);
    let names = client.list_topics().await.unwrap();
    assert!(names.iter().any(|topic| *topic.name == *orders));

    let again = client
        .create_topics(vec![NewTopic::new(&orders, 3)])
        .await
        .unwrap();
    let exists = again[0].1.as_ref().unwrap_err();
    assert_eq!(
        exists.code(),
        Some(ErrorCode::TOPIC_ALREADY_EXISTS),
        "{exists}"
    );

    let none = client
        .create_topics(vec![NewTopic::new(fresh("none"), 0)])
        .await
        .unwrap();
    let none = none[0].1.as_ref().unwrap_err();
    assert_eq!(none.code(), Some(ErrorCode::INVALID_PARTITIONS), "{none}");
    let refused = client
        .ensure_topics(vec![NewTopic::new(fresh("none"), 0)])
        .await;
    assert_eq!(
        refused.unwrap_err().code(),
        Some(ErrorCode::INVALID_PARTITIONS)
    );
}

/// The answer to a dynamic member's join, with its second step (KIP-394).
pub(crate) async fn join(group: &GroupClient, member_id: &str) -> JoinGroupResponse {
    join_with(
        group,
        member_id,
        Bytes::from_static(b"\0\0\0\0\0\0\0\0\0\0"),
    )
    .await
}

/// The same with a subscription of the caller's.
async fn join_with(group: &GroupClient, member_id: &str, metadata: Bytes) -> JoinGroupResponse {
    let mut request = JoinGroupRequest {
        session_timeout_ms: 10_000,
        rebalance_timeout_ms: 20_000,
        member_id: member_id.to_owned(),
        instance_id: None,
        protocol_type: "consumer".to_owned(),
        protocols: vec![("range".to_owned(), metadata)],
        reason: Some("a test".to_owned()),
    };
    // Right after the cluster has started its coordinator may still be loading.
    let limit = Instant::now() + Duration::from_secs(20);
    loop {
        let answer = group.join(request.clone()).await.unwrap();
        match answer.error {
            ErrorCode::MEMBER_ID_REQUIRED => {
                assert!(!answer.member_id.is_empty());
                request.member_id = answer.member_id;
            }
            error if error.is_retriable() => assert!(Instant::now() < limit, "{error}"),
            _ => return answer,
        }
    }
}

async fn sync(group: &GroupClient, joined: &JoinGroupResponse) -> Bytes {
    let assignments = joined.members.iter();
    let assignments = assignments.map(|m| (m.member_id.clone(), Bytes::from(m.member_id.clone())));
    let request = SyncGroupRequest {
        generation: joined.generation,
        member_id: joined.member_id.clone(),
        instance_id: None,
        protocol_type: "consumer".to_owned(),
        protocol: joined.protocol.clone().unwrap(),
        assignments: assignments.collect(),
    };
    let answer = group.sync(request).await.unwrap();
    assert_eq!(answer.error, ErrorCode::NONE);
    answer.assignment
}

pub(crate) async fn heartbeat(group: &GroupClient, joined: &JoinGroupResponse) -> ErrorCode {
    let request = HeartbeatRequest {
        generation: joined.generation,
        member_id: joined.member_id.clone(),
        instance_id: None,
    };
    group.heartbeat(request).await.unwrap()
}

async fn leave(group: &GroupClient, member_id: &str) -> ErrorCode {
    let request = LeaveGroupRequest {
        member_id: member_id.to_owned(),
        instance_id: None,
        reason: Some("the test ends".to_owned()),
    };
    group.leave(request).await.unwrap()
}

fn commit_of(
    joined: &JoinGroupResponse,
    offsets: &[(&TopicPartition, i64)],
) -> OffsetCommitRequest {
    let offsets = offsets.iter().map(|(partition, offset)| CommitOffset {
        partition: (*partition).clone(),
        offset: *offset,
        leader_epoch: Some(0),
        metadata: "from a test".to_owned(),
    });
    OffsetCommitRequest {
        generation: joined.generation,
        member_id: joined.member_id.clone(),
        instance_id: None,
        offsets: offsets.collect(),
    }
}

pub(crate) async fn a_member_joins_commits_and_leaves(client: &Client) {
    let topic = fresh("committed");
    client
        .ensure_topics(vec![NewTopic::new(&topic, 2)])
        .await
        .unwrap();
    let group = client.group(fresh("group"));
    let joined = join(&group, "").await;
    assert_eq!(joined.error, ErrorCode::NONE);
    assert_eq!(joined.leader, joined.member_id);
    assert_eq!(joined.protocol.as_deref(), Some("range"));
    assert_eq!(joined.members.len(), 1);
    assert_eq!(sync(&group, &joined).await, joined.member_id.as_bytes());
    assert_eq!(heartbeat(&group, &joined).await, ErrorCode::NONE);

    let (first, second) = (
        TopicPartition::new(&*topic, 0),
        TopicPartition::new(&*topic, 1),
    );
    let unknown = TopicPartition::new(fresh("unknown"), 0);
    let codes = group
        .commit(commit_of(&joined, &[(&first, 42)]))
        .await
        .unwrap();
    assert_eq!(codes, [(first.clone(), ErrorCode::NONE)]);
    let mut late = commit_of(&joined, &[(&first, 1)]);
    late.generation -= 1;
    let codes = group.commit(late).await.unwrap();
    assert_eq!(codes, [(first.clone(), ErrorCode::ILLEGAL_GENERATION)]);

    let request = OffsetFetchRequest {
        partitions: vec![second.clone(), first.clone(), unknown.clone()],
        require_stable: true,
    };
    let fetched = group.fetch_offsets(request).await.unwrap();
    assert_eq!(fetched.error, ErrorCode::NONE);
    let found: Vec<_> = fetched
        .offsets
        .iter()
        .map(|o| (&o.partition, o.error, o.offset))
        .collect();
    assert_eq!(found[0], (&second, ErrorCode::NONE, None));
    assert_eq!(found[1], (&first, ErrorCode::NONE, Some(42)));
    assert_eq!((found[2].0, found[2].2), (&unknown, None));
    assert_eq!(fetched.offsets[1].metadata, "from a test");
    assert_eq!(fetched.offsets[1].leader_epoch, Some(0));

    assert_eq!(leave(&group, "nobody").await, ErrorCode::UNKNOWN_MEMBER_ID);
    assert_eq!(leave(&group, &joined.member_id).await, ErrorCode::NONE);
    assert_eq!(
        heartbeat(&group, &joined).await,
        ErrorCode::UNKNOWN_MEMBER_ID
    );
}

/// Two members in one process, on clones of one handle: neither join may wait behind the other, and
/// a heartbeat waits behind none.
pub(crate) async fn joins_and_heartbeats_do_not_wait_for_each_other(client: &Client) {
    let group = client.group(fresh("group"));
    let first = join(&group, "").await;
    sync(&group, &first).await;

    let clone = group.clone();
    let mut second = tokio::task::JoinSet::new();
    second.spawn(async move { join(&clone, "").await });
    let limit = Instant::now() + Duration::from_secs(10);
    while heartbeat(&group, &first).await != ErrorCode::REBALANCE_IN_PROGRESS {
        assert!(Instant::now() < limit, "the second member never came");
    }
    let start = Instant::now();
    assert_eq!(
        heartbeat(&group, &first).await,
        ErrorCode::REBALANCE_IN_PROGRESS
    );
    assert!(
        start.elapsed() < Duration::from_secs(5),
        "the heartbeat waited for the join"
    );

    let first = join(&group, &first.member_id).await;
    let second = second.join_next().await.unwrap().unwrap();
    assert_eq!(
        (first.error, second.error),
        (ErrorCode::NONE, ErrorCode::NONE)
    );
    assert_eq!(first.generation, second.generation);
    assert_eq!(first.members.len() + second.members.len(), 2);
    let (of_first, of_second) = tokio::join!(sync(&group, &first), sync(&group, &second));
    assert_eq!(of_first, first.member_id.as_bytes());
    assert_eq!(of_second, second.member_id.as_bytes());
    for member in [&first, &second] {
        assert_eq!(leave(&group, &member.member_id).await, ErrorCode::NONE);
    }
}

/// A static member comes back under a new member id and gets its place without a rebalance.
pub(crate) async fn a_static_member_comes_back(client: &Client) {
    let group = client.group(fresh("group"));
    let request = JoinGroupRequest {
        session_timeout_ms: 10_000,
        rebalance_timeout_ms: 20_000,
        member_id: String::new(),
        instance_id: Some("instance-1".to_owned()),
        protocol_type: "consumer".to_owned(),
        protocols: vec![(
            "range".to_owned(),
            Bytes::from_static(b"\0\0\0\0\0\0\0\0\0\0"),
        )],
        reason: None,
    };
    let first = group.join(request.clone()).await.unwrap();
    assert_eq!(first.error, ErrorCode::NONE);
    assert_eq!(first.members[0].instance_id.as_deref(), Some("instance-1"));
    let sync = SyncGroupRequest {
        generation: first.generation,
        member_id: first.member_id.clone(),
        instance_id: request.instance_id.clone(),
        protocol_type: "consumer".to_owned(),
        protocol: "range".to_owned(),
        assignments: vec![(first.member_id.clone(), Bytes::from_static(b"all"))],
    };
    assert_eq!(group.sync(sync.clone()).await.unwrap().assignment, "all");
    let second = group.join(request.clone()).await.unwrap();
    assert_eq!(
        (second.error, second.generation),
        (ErrorCode::NONE, first.generation)
    );
    assert_ne!(second.member_id, first.member_id);
    // The member id that was replaced is fenced.
    let old = group.sync(sync).await.unwrap();
    assert_eq!(old.error, ErrorCode::FENCED_INSTANCE_ID);
    let leave = LeaveGroupRequest {
        member_id: second.member_id,
        instance_id: request.instance_id,
        reason: None,
    };
    assert_eq!(group.leave(leave).await.unwrap(), ErrorCode::NONE);
}

pub(crate) async fn every_producer_gets_an_id_of_its_own(client: &Client) {
    let first = client.init_producer_id().await.unwrap();
    let second = client.init_producer_id().await.unwrap();
    assert_ne!(first.id, second.id);
    assert_eq!((first.epoch, second.epoch), (0, 0));
}

pub(crate) async fn a_closed_client_refuses_everything(client: Client) {
    let group = client.group(fresh("group"));
    let joined = join(&group, "").await;
    client.close().await;
    let beat = HeartbeatRequest {
        generation: joined.generation,
        member_id: joined.member_id,
        instance_id: None,
    };
    assert_eq!(
        group.heartbeat(beat).await.unwrap_err().kind(),
        ErrorKind::Closed
    );
    let topic = client.refresh_topic("orders").await;
    assert_eq!(topic.unwrap_err().kind(), ErrorKind::Closed);
    client.close().await;
}
