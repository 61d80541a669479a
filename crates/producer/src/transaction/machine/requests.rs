//! What to ask next.

use super::{Goal, Machine, Phase};
use ottla_types::ErrorCode;
use ottla_types::transactions::{
    AddOffsetsRequest, AddPartitionsRequest, AddPartitionsResponse, EndTxnRequest, EndTxnResponse,
    InitProducerIdRequest, InitProducerIdResponse, TransactionVersion, TxnOffsetCommitRequest,
    TxnOffsetCommitResponse,
};
use std::sync::Arc;
use std::time::Instant;

/// What the coordinator is to be asked; the offsets go to the group's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Request {
    Init(InitProducerIdRequest),
    AddPartitions(AddPartitionsRequest),
    AddOffsets(AddOffsetsRequest),
    CommitOffsets(TxnOffsetCommitRequest),
    End(EndTxnRequest),
}

impl Request {
    pub(crate) fn api(&self) -> &'static str {
        match self {
            Self::Init(_) => "InitProducerId",
            Self::AddPartitions(_) => "AddPartitionsToTxn",
            Self::AddOffsets(_) => "AddOffsetsToTxn",
            Self::CommitOffsets(_) => "TxnOffsetCommit",
            Self::End(_) => "EndTxn",
        }
    }
}

/// The answer to a request.
#[derive(Debug)]
pub(crate) enum Answer {
    /// With the version of transactions that the cluster speaks now.
    Init(TransactionVersion, InitProducerIdResponse),
    AddPartitions(AddPartitionsResponse),
    AddOffsets(ErrorCode),
    CommitOffsets(TxnOffsetCommitResponse),
    End(EndTxnResponse),
    Lost(Lost),
}

/// A request without an answer.
#[derive(Debug)]
pub(crate) struct Lost {
    /// It may have been carried out, or may be later.
    pub(crate) may_be_done: bool,
    /// The same request may be answered another time.
    pub(crate) may_pass: bool,
    pub(crate) error: Arc<ottla_client::Error>,
}

/// What to do now.
#[derive(Debug)]
pub(crate) enum Step {
    /// Ask this and bring the answer, within the time limit if there is one.
    Ask(Request, Option<Instant>),
    /// Come again then.
    WaitUntil(Instant),
    /// Nothing, until something else happens.
    Idle,
}

impl Machine {
    /// What to do now. After a request has been given out, its answer comes first.
    pub(crate) fn poll(&mut self, now: Instant) -> Step {
        if self.in_flight {
            return Step::Idle;
        }
        let deadline = self.operation.as_ref().map(|o| o.deadline);
        if deadline.is_some_and(|deadline| deadline <= now) {
            self.give_up(super::Cause::TimedOut);
        }
        let Some(request) = self.next_request() else {
            return Step::Idle;
        };
        let deadline = self.operation.as_ref().map(|o| o.deadline);
        if let Some(at) = self.retry_at.filter(|at| *at > now) {
            return Step::WaitUntil(deadline.map_or(at, |deadline| at.min(deadline)));
        }
        self.in_flight = true;
        Step::Ask(request, deadline)
    }

    fn next_request(&self) -> Option<Request> {
        if let Phase::Dead(_) = self.phase {
            return None;
        }
        let Some(operation) = &self.operation else {
            return self.add_pending();
        };
        let end = |commit| {
            let producer = self.producer?;
            Some(Request::End(EndTxnRequest { producer, commit }))
        };
        match &operation.goal {
            Goal::Initialise | Goal::Begin => Some(self.init()),
            // A Kafka 3 lets no producer go on whose transaction InitProducerId finds open: it is
            // ended before, and a refusal says that there is nothing to end.
            Goal::Abort
                if self.phase == Phase::Unsettled
                    && !self.in_doubt
                    && self.version == TransactionVersion::V1 =>
            {
                end(false)
            }
            _ if self.in_doubt || self.phase == Phase::Unsettled => Some(self.init()),
            Goal::SendOffsets { group, left } => self.add_pending().or_else(|| {
                let producer = self.producer?;
                let group_id = group.group_id.clone();
                if self.version == TransactionVersion::V1 && !self.groups.contains(&group_id) {
                    return Some(Request::AddOffsets(AddOffsetsRequest {
                        producer,
                        group_id,
                    }));
                }
                let (group, offsets) = (group.clone(), left.clone());
                Some(Request::CommitOffsets(TxnOffsetCommitRequest {
                    producer,
                    group,
                    offsets,
                }))
            }),
            Goal::Commit => end(true),
            Goal::Abort => end(false),
        }
    }

    fn init(&self) -> Request {
        Request::Init(InitProducerIdRequest {
            transaction_timeout_ms: self.timeout_ms,
            current: self.producer,
        })
    }

    fn add_pending(&self) -> Option<Request> {
        if self.phase != Phase::Open || self.pending.is_empty() {
            return None;
        }
        let partitions = self.pending.iter().cloned().collect();
        Some(Request::AddPartitions(AddPartitionsRequest {
            producer: self.producer?,
            partitions,
        }))
    }
}
