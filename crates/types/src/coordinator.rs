//! The group coordinator's calls as plain structs, so that state machines and simulators need no
//! wire format. Fields follow the protocol's messages; see the
//! [protocol guide](https://kafka.apache.org/protocol.html).

use crate::{ErrorCode, Offset, TopicPartition};
use bytes::Bytes;
use std::sync::Arc;

/// JoinGroup (key 11).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JoinGroupRequest {
    /// How long the coordinator waits for a heartbeat, in milliseconds.
    pub session_timeout_ms: i32,
    /// How long the coordinator waits for members to rejoin, in milliseconds.
    pub rebalance_timeout_ms: i32,
    /// The member id; empty on the first join.
    pub member_id: String,
    /// `group.instance.id` of a static member (KIP-345).
    pub instance_id: Option<String>,
    /// `consumer` for consumer groups.
    pub protocol_type: String,
    /// Assignors by name with the subscription for each, the preferred one first.
    pub protocols: Vec<(String, Bytes)>,
    /// Why the member joins, for the broker's log (KIP-800).
    pub reason: Option<String>,
}

/// The answer to [`JoinGroupRequest`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JoinGroupResponse {
    /// 0, or why the join failed.
    pub error: ErrorCode,
    /// The new generation.
    pub generation: i32,
    /// The assignor that the coordinator chose.
    pub protocol: Option<String>,
    /// The leader's member id.
    pub leader: String,
    /// The own member id, also with [`ErrorCode::MEMBER_ID_REQUIRED`].
    pub member_id: String,
    /// All members; empty unless this member leads.
    pub members: Vec<JoinGroupMember>,
    /// Whether the leader must leave the assignment as it is (KIP-814).
    pub skip_assignment: bool,
}

/// A member as the leader sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JoinGroupMember {
    /// The member's id.
    pub member_id: String,
    /// `group.instance.id` of a static member.
    pub instance_id: Option<String>,
    /// The member's subscription.
    pub metadata: Bytes,
}

/// SyncGroup (key 14).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SyncGroupRequest {
    /// The generation that was joined.
    pub generation: i32,
    /// The own member id.
    pub member_id: String,
    /// `group.instance.id` of a static member.
    pub instance_id: Option<String>,
    /// `consumer` for consumer groups.
    pub protocol_type: String,
    /// The chosen assignor.
    pub protocol: String,
    /// Each member's assignment; empty unless this member leads.
    pub assignments: Vec<(String, Bytes)>,
}

/// The answer to [`SyncGroupRequest`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SyncGroupResponse {
    /// 0, or why the sync failed.
    pub error: ErrorCode,
    /// The own assignment.
    pub assignment: Bytes,
}

/// Heartbeat (key 12); the answer is an [`ErrorCode`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeartbeatRequest {
    /// The current generation.
    pub generation: i32,
    /// The own member id.
    pub member_id: String,
    /// `group.instance.id` of a static member.
    pub instance_id: Option<String>,
}

/// LeaveGroup (key 13) for one member; the answer is an [`ErrorCode`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaveGroupRequest {
    /// The own member id.
    pub member_id: String,
    /// `group.instance.id` of a static member.
    pub instance_id: Option<String>,
    /// Why the member leaves, for the broker's log (KIP-800).
    pub reason: Option<String>,
}

/// OffsetCommit (key 8).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OffsetCommitRequest {
    /// The generation in which the offsets were reached; -1 outside of membership.
    pub generation: i32,
    /// The own member id; empty outside of membership.
    pub member_id: String,
    /// `group.instance.id` of a static member.
    pub instance_id: Option<String>,
    /// What to commit.
    pub offsets: Vec<CommitOffset>,
}

/// One partition's offset to commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommitOffset {
    /// The partition.
    pub partition: TopicPartition,
    /// The next offset to read.
    pub offset: Offset,
    /// The leader epoch of the last handled record, if known (KIP-320).
    pub leader_epoch: Option<i32>,
    /// Free text, stored with the offset.
    pub metadata: String,
}

/// The answer to [`OffsetCommitRequest`]: an error code for each partition.
pub type OffsetCommitResponse = Vec<(TopicPartition, ErrorCode)>;

/// OffsetFetch (key 9).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OffsetFetchRequest {
    /// The partitions whose offsets are wanted.
    pub partitions: Vec<TopicPartition>,
    /// Whether to wait until pending transactional commits are settled (KIP-447).
    pub require_stable: bool,
}

/// The answer to [`OffsetFetchRequest`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OffsetFetchResponse {
    /// 0, or why the whole request failed.
    pub error: ErrorCode,
    /// The committed offsets.
    pub offsets: Vec<FetchedOffset>,
}

/// One partition's committed offset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FetchedOffset {
    /// The partition.
    pub partition: TopicPartition,
    /// 0, or why this partition's offset is not known.
    pub error: ErrorCode,
    /// The next offset to read; `None` when nothing was committed.
    pub offset: Option<Offset>,
    /// The leader epoch that was committed with it.
    pub leader_epoch: Option<i32>,
    /// The text that was committed with it.
    pub metadata: String,
}

/// A topic's id (KIP-516), in the bytes of the wire.
pub type TopicId = [u8; 16];

/// Partitions by topic id, as the consumer group protocol names them.
pub type TopicIdPartitions = Vec<(TopicId, Vec<i32>)>;

/// ConsumerGroupHeartbeat (key 68, KIP-848). A `None` below says that nothing changed since the last
/// heartbeat that was answered well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsumerHeartbeatRequest {
    /// The own member id, which the member makes itself.
    pub member_id: String,
    /// The member epoch; 0 joins, -1 leaves, -2 leaves for a while and keeps the static place.
    pub member_epoch: i32,
    /// `group.instance.id` of a static member.
    pub instance_id: Option<String>,
    /// The member's rack.
    pub rack: Option<String>,
    /// How long the coordinator waits for partitions that it takes back, in milliseconds.
    pub rebalance_timeout_ms: Option<i32>,
    /// The topics to consume.
    pub topics: Option<Vec<Arc<str>>>,
    /// A regular expression (RE2) over topic names, from version 1; empty for none any more.
    pub pattern: Option<String>,
    /// The coordinator's assignor to use.
    pub assignor: Option<String>,
    /// What the member owns.
    pub owned: Option<TopicIdPartitions>,
}

/// The answer to [`ConsumerHeartbeatRequest`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsumerHeartbeatResponse {
    /// 0, or why the heartbeat was refused.
    pub error: ErrorCode,
    /// The broker's words for the error.
    pub message: Option<String>,
    /// The member's id, where the coordinator made it.
    pub member_id: Option<String>,
    /// The member's epoch from now on.
    pub member_epoch: i32,
    /// When the next heartbeat is expected, in milliseconds.
    pub heartbeat_interval_ms: i32,
    /// What the member is to own; `None` when that did not change.
    pub assignment: Option<TopicIdPartitions>,
}
