//! What goes into a [`Membership`](super::Membership) and what comes out of it.

use crate::assign::TopicCounts;
use crate::protocol::CodecError;
use ottla_types::coordinator::{
    ConsumerHeartbeatRequest, ConsumerHeartbeatResponse, HeartbeatRequest, JoinGroupRequest,
    JoinGroupResponse, LeaveGroupRequest, SyncGroupRequest, SyncGroupResponse, TopicId,
};
use ottla_types::{ErrorCode, TopicPartition};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// The number of a request. An answer to a request that is no longer awaited is ignored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId(pub(crate) u64);

/// The number of a revocation, so that a late acknowledgement cannot end a newer one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RevocationId(pub(crate) u64);

/// A request to send to the group's coordinator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// To be given back with the answer.
    pub id: RequestId,
    /// What to send.
    pub body: RequestBody,
}

/// The body of a [`Request`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RequestBody {
    /// Answered when the rebalance ends: allow it the rebalance timeout and some seconds more.
    Join(JoinGroupRequest),
    /// Answered when the leader has synced: allow it as long as a join.
    Sync(SyncGroupRequest),
    /// Answered at once.
    Heartbeat(HeartbeatRequest),
    /// Answered at once.
    Leave(LeaveGroupRequest),
    /// Answered at once: everything of the consumer group protocol (KIP-848).
    ConsumerHeartbeat(ConsumerHeartbeatRequest),
}

/// The coordinator's answer to a [`Request`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ResponseBody {
    /// To [`RequestBody::Join`].
    Join(JoinGroupResponse),
    /// To [`RequestBody::Sync`].
    Sync(SyncGroupResponse),
    /// To [`RequestBody::Heartbeat`].
    Heartbeat(ErrorCode),
    /// To [`RequestBody::Leave`].
    Leave(ErrorCode),
    /// To [`RequestBody::ConsumerHeartbeat`].
    ConsumerHeartbeat(ConsumerHeartbeatResponse),
}

/// What a [`Membership`](super::Membership) is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// What to consume; replaces what was said before. Nothing: give everything back and leave.
    ///
    /// Besides the topics that are named, these are all that match a regular expression. In the
    /// consumer group protocol the broker matches (RE2/J). In the classic one the application does:
    /// the member waits for [`Input::Matched`], and is in the group even if nothing matches.
    Subscribe {
        /// Topic names; duplicates are dropped.
        topics: Vec<Arc<str>>,
        /// The expression; empty for none.
        pattern: String,
    },
    /// The partitions to read without a membership; replaces the earlier ones. The protocols of
    /// groups ignore it.
    Assign {
        /// The partitions; duplicates are dropped.
        partitions: Vec<TopicPartition>,
    },
    /// A request was answered.
    Response {
        /// The request's number.
        id: RequestId,
        /// The answer.
        body: ResponseBody,
    },
    /// A request failed without an answer: connection broken, coordinator not found, timed out.
    Failed {
        /// The request's number.
        id: RequestId,
    },
    /// The topics that match an expression now; classic protocol only. Ignored unless it is the
    /// present one.
    Matched {
        /// The expression.
        pattern: String,
        /// All topics that match it.
        topics: Vec<Arc<str>>,
    },
    /// A request was not sent, because the broker does not offer its API.
    NotOffered {
        /// The request's number.
        id: RequestId,
    },
    /// Names of topic ids: the answer to [`MembershipEvent::NeedTopicNames`]. An id that is not
    /// listed is not known yet and asked for again.
    TopicNames {
        /// Names by id.
        names: BTreeMap<TopicId, Arc<str>>,
    },
    /// Partition counts: the answer to [`MembershipEvent::NeedMetadata`], and whenever metadata is
    /// refreshed. A topic that does not exist has count 0; a topic that is not listed is no news.
    Metadata {
        /// Partitions of each topic.
        counts: TopicCounts,
    },
    /// The metadata for [`MembershipEvent::NeedMetadata`] could not be had; it is asked for again.
    MetadataFailed,
    /// The application has stopped handling the partitions of a [`MembershipEvent::Revoked`] and
    /// committed what it wanted to commit.
    RevokeCompleted {
        /// The number in the event.
        id: RevocationId,
    },
    /// The application has not polled for `max.poll.interval.ms`. The partitions are lost at once,
    /// and the member leaves until [`Input::Polled`].
    PollExpired,
    /// The application polls again.
    Polled,
    /// Give everything back, then leave. A second one does not wait for the acknowledgement.
    Close,
    /// Only time has passed.
    Tick,
}

/// What a [`Membership`](super::Membership) tells its owner, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MembershipEvent {
    /// This member leads: answer with [`Input::Metadata`] that names every one of these topics
    /// (0 for one that does not exist).
    NeedMetadata {
        /// Every topic that any member subscribes to.
        topics: Vec<Arc<str>>,
    },
    /// The coordinator assigned topics whose names are not known: answer with
    /// [`Input::TopicNames`], or [`Input::MetadataFailed`] when they could not be asked for.
    NeedTopicNames {
        /// The ids.
        ids: Vec<TopicId>,
    },
    /// A generation was joined. Comes after the [`MembershipEvent::Revoked`] of the same generation.
    Assigned {
        /// The generation to commit with.
        generation: i32,
        /// Partitions to begin with; empty when only the generation is new.
        added: Vec<TopicPartition>,
        /// Everything owned from now on.
        all: Vec<TopicPartition>,
    },
    /// Stop handling these, commit, then answer with [`Input::RevokeCompleted`]. Commits are still
    /// taken, and heartbeats go on meanwhile.
    Revoked {
        /// To be given back.
        id: RevocationId,
        /// What to give up.
        partitions: Vec<TopicPartition>,
    },
    /// Somebody else may own these already: stop at once, commit nothing. Ends a revocation of
    /// the same partitions; no acknowledgement.
    Lost {
        /// What was owned.
        partitions: Vec<TopicPartition>,
    },
    /// The member ended for good; no further request or event.
    Fatal {
        /// Why.
        error: MembershipError,
    },
    /// [`Input::Close`] is done; no further request or event.
    Left,
}

/// The call that an error belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operation {
    /// JoinGroup (11).
    Join,
    /// SyncGroup (14).
    Sync,
    /// Heartbeat (12).
    Heartbeat,
    /// OffsetCommit (8).
    Commit,
    /// ConsumerGroupHeartbeat (68).
    ConsumerHeartbeat,
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Join => "JoinGroup",
            Self::Sync => "SyncGroup",
            Self::Heartbeat => "Heartbeat",
            Self::ConsumerHeartbeat => "ConsumerGroupHeartbeat",
            Self::Commit => "OffsetCommit",
        })
    }
}

/// Why a member ended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MembershipError {
    /// The coordinator refused for good, for example with FENCED_INSTANCE_ID (82).
    #[error("{operation} refused: {code}")]
    Refused {
        /// The call.
        operation: Operation,
        /// The coordinator's answer.
        code: ErrorCode,
    },
    /// The broker cannot read the expression over topic names (INVALID_REGULAR_EXPRESSION, 128).
    #[error("the broker cannot read the expression `{pattern}`{}", reason.as_ref().map(|r| format!(": {r}")).unwrap_or_default())]
    InvalidPattern {
        /// The expression.
        pattern: String,
        /// What the broker says about it.
        reason: Option<String>,
    },
    /// The coordinator chose an assignor that this member does not have.
    #[error("the group uses the assignor `{name}`, which this member does not have")]
    UnknownAssignor {
        /// The assignor's name.
        name: String,
    },
    /// The broker does not speak the consumer group protocol (KIP-848), or has it switched off.
    #[error("the broker does not offer the consumer group protocol")]
    NotOffered,
    /// The leader sent an assignment that cannot be read.
    #[error("the leader's assignment cannot be read")]
    MalformedAssignment(#[from] CodecError),
}

/// As whom to commit offsets; goes into an OffsetCommit request and back into
/// [`Membership::commit_result`](super::Membership::commit_result).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommitIdentity {
    /// The generation of the assignment that the offsets belong to; the member epoch in the consumer
    /// group protocol.
    pub generation: i32,
    /// The own member id.
    pub member_id: String,
    /// `group.instance.id` of a static member.
    pub instance_id: Option<String>,
}

/// What to do about a commit after its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CommitVerdict {
    /// Done.
    Committed,
    /// Back off and send it again with a fresh [`CommitIdentity`].
    Retry,
    /// Wait for the next [`MembershipEvent::Assigned`], then commit what is still owned.
    RetryAfterRebalance,
    /// The offsets cannot be committed: the partitions are not owned in this generation any more.
    Abandoned,
    /// The offset itself was refused (for example metadata too large); the membership goes on.
    Rejected,
    /// The membership ended; see [`MembershipEvent::Fatal`].
    Fatal,
}

/// Where a member stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Phase {
    /// No topics yet, or none any more.
    Unsubscribed,
    /// Wants a new generation: a join is out or waits for its back-off.
    Joining,
    /// Leads, and waits for partition counts.
    AwaitingMetadata,
    /// A sync is out or waits for its back-off.
    Syncing,
    /// In a generation.
    Stable,
    /// In a generation, and the application gives partitions up.
    Revoking,
    /// The application stopped polling.
    Stale,
    /// Waits for the answer to the last request of its life.
    Leaving,
    /// Closed.
    Left,
    /// Ended by an error.
    Fatal,
}
