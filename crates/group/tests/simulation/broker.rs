//! The group's coordinator, whichever protocol it speaks, with the offsets that it keeps.

use crate::classic::{Coordinator as Classic, join_error, sync_answer};
use crate::consumer::{Coordinator as Consumer, refusal};
use bytes::Bytes;
use ottla_group::{CommitIdentity, Gaps, RequestBody, ResponseBody, TopicCounts};
use ottla_types::{ErrorCode, Offset, TopicPartition};
use std::collections::BTreeMap;

pub(crate) const SESSION: i64 = 6_000;
pub(crate) const REBALANCE: i64 = 10_000;

/// Where an answer goes.
pub(crate) type Caller = (usize, u64);

/// An answer; `None` when the connection breaks instead.
pub(crate) type Answer = (Caller, Option<ResponseBody>);

pub(crate) enum Group {
    Classic(Box<Classic>),
    Consumer(Box<Consumer>),
}

/// A committed offset with its metadata.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stored {
    pub(crate) offset: Offset,
    pub(crate) metadata: String,
}

impl Stored {
    pub(crate) fn covers(&self, offset: Offset) -> bool {
        let gaps = || Gaps::decode(&self.metadata, self.offset);
        offset < self.offset || gaps().is_some_and(|gaps| gaps.contains(offset))
    }
}

pub(crate) struct Broker {
    pub(crate) group: Group,
    pub(crate) offsets: BTreeMap<TopicPartition, Stored>,
}

impl Broker {
    pub(crate) fn new(kip848: bool) -> Self {
        let group = match kip848 {
            true => Group::Consumer(Box::default()),
            false => Group::Classic(Box::new(Classic::new())),
        };
        Self {
            group,
            offsets: BTreeMap::new(),
        }
    }

    pub(crate) fn receive(
        &mut self,
        from: Caller,
        body: RequestBody,
        counts: &TopicCounts,
        now: i64,
    ) -> Vec<Answer> {
        match (&mut self.group, body) {
            (Group::Consumer(group), RequestBody::ConsumerHeartbeat(beat)) => {
                let answer = group.heartbeat(beat, counts, now);
                vec![(from, Some(ResponseBody::ConsumerHeartbeat(answer)))]
            }
            (Group::Classic(group), body) => group.receive(from, body, now),
            (Group::Consumer(_), body) => vec![(from, Some(error_for(&body, ErrorCode(69))))],
        }
    }

    /// Whether the identity may commit.
    pub(crate) fn check(&mut self, identity: &CommitIdentity) -> ErrorCode {
        let (member, instance) = (&*identity.member_id, identity.instance_id.as_deref());
        match &mut self.group {
            Group::Classic(group) => group.commit(member, instance, identity.generation),
            Group::Consumer(group) => group.commit(member, instance, identity.generation),
        }
    }

    /// Whether a successor of the static member would be refused with KIP-848.
    pub(crate) fn holds(&self, instance: &str) -> bool {
        match &self.group {
            Group::Classic(_) => false,
            Group::Consumer(group) => group.holds(instance),
        }
    }

    pub(crate) fn tick(&mut self, counts: &TopicCounts, now: i64) -> Vec<Answer> {
        match &mut self.group {
            Group::Classic(group) => group.tick(now),
            Group::Consumer(group) => {
                group.tick(counts, now);
                Vec::new()
            }
        }
    }

    pub(crate) fn next_timeout(&self) -> Option<i64> {
        match &self.group {
            Group::Classic(group) => group.next_timeout(),
            Group::Consumer(group) => group.next_timeout(),
        }
    }

    pub(crate) fn fail_over(&mut self, now: i64) -> Vec<Answer> {
        match &mut self.group {
            Group::Classic(group) => group.fail_over(now),
            Group::Consumer(group) => {
                group.fail_over(now);
                Vec::new()
            }
        }
    }
}

/// An error in place of an answer, before anything is done.
pub(crate) fn error_for(body: &RequestBody, code: ErrorCode) -> ResponseBody {
    match body {
        RequestBody::Join(_) => join_error(code, String::new()),
        RequestBody::Sync(_) => sync_answer(code, Bytes::new()),
        RequestBody::Heartbeat(_) => ResponseBody::Heartbeat(code),
        RequestBody::Leave(_) => ResponseBody::Leave(code),
        RequestBody::ConsumerHeartbeat(_) => ResponseBody::ConsumerHeartbeat(refusal(code)),
    }
}
