//! The transaction coordinator's calls as plain structs, so that state machines and simulators need
//! no wire format. Fields follow the protocol's messages; see the
//! [protocol guide](https://kafka.apache.org/protocol.html).

use crate::coordinator::CommitOffset;
use crate::{ErrorCode, ProducerId, TopicPartition};

/// Which of the two protocols of transactions is spoken
/// ([KIP-890](https://cwiki.apache.org/confluence/display/KAFKA/KIP-890%3A+Transactions+Server-Side+Defense)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum TransactionVersion {
    /// The client announces every partition and group (`AddPartitionsToTxn`, `AddOffsetsToTxn`),
    /// and keeps its epoch from one transaction to the next.
    V1,
    /// What is written joins the transaction by itself, and every end raises the epoch.
    V2,
}

/// A member of a consumer group, whose offsets a transaction carries
/// ([KIP-447](https://cwiki.apache.org/confluence/display/KAFKA/KIP-447%3A+Producer+scalability+for+exactly+once+semantics)).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupMetadata {
    /// `group.id`.
    pub group_id: String,
    /// The generation, or the member epoch of KIP-848; -1 outside of membership.
    pub generation: i32,
    /// The member id; empty outside of membership.
    pub member_id: String,
    /// `group.instance.id` of a static member.
    pub instance_id: Option<String>,
}

impl GroupMetadata {
    /// A group without a member: no generation stands guard over the offsets.
    pub fn outside_of_membership(group_id: impl Into<String>) -> Self {
        Self {
            group_id: group_id.into(),
            generation: -1,
            member_id: String::new(),
            instance_id: None,
        }
    }
}

/// InitProducerId (key 22) of a transactional id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InitProducerIdRequest {
    /// How long a transaction may stay open before the coordinator aborts it, in milliseconds.
    pub transaction_timeout_ms: i32,
    /// The id and epoch that the producer has, if it goes on after an error (KIP-360); a producer
    /// that starts anew has none, and shuts out whoever had the transactional id before.
    pub current: Option<ProducerId>,
}

/// The answer to [`InitProducerIdRequest`]: what the producer goes on with, or why not.
pub type InitProducerIdResponse = Result<ProducerId, ErrorCode>;

/// AddPartitionsToTxn (key 24), with version 1 only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddPartitionsRequest {
    /// Who writes.
    pub producer: ProducerId,
    /// What the open transaction is about to write to; the first opens it.
    pub partitions: Vec<TopicPartition>,
}

/// The answer to [`AddPartitionsRequest`]: an error code for each partition.
pub type AddPartitionsResponse = Vec<(TopicPartition, ErrorCode)>;

/// AddOffsetsToTxn (key 25), with version 1 only; the answer is an [`ErrorCode`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddOffsetsRequest {
    /// Who commits.
    pub producer: ProducerId,
    /// The group whose offsets the open transaction is about to carry.
    pub group_id: String,
}

/// TxnOffsetCommit (key 28), which goes to the group's coordinator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TxnOffsetCommitRequest {
    /// Who commits.
    pub producer: ProducerId,
    /// The member that read up to these offsets.
    pub group: GroupMetadata,
    /// What to commit when the transaction commits.
    pub offsets: Vec<CommitOffset>,
}

/// The answer to [`TxnOffsetCommitRequest`]: an error code for each partition.
pub type TxnOffsetCommitResponse = Vec<(TopicPartition, ErrorCode)>;

/// EndTxn (key 26).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EndTxnRequest {
    /// Whose transaction it is.
    pub producer: ProducerId,
    /// Commit, or else abort.
    pub commit: bool,
}

/// The answer to [`EndTxnRequest`]: what the producer goes on with (with version 1 what it had), or
/// why not.
pub type EndTxnResponse = Result<ProducerId, ErrorCode>;
