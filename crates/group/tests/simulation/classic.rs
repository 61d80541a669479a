//! A model of the broker's side of the classic protocol, after the rules of Kafka's group
//! coordinator: written from the protocol, it shares no code with the member.

use crate::broker::{Answer, Caller, REBALANCE, SESSION};
use bytes::Bytes;
use ottla_group::{RequestBody, ResponseBody};
use ottla_types::ErrorCode;
use ottla_types::coordinator::{
    JoinGroupMember, JoinGroupRequest, JoinGroupResponse, SyncGroupRequest, SyncGroupResponse,
};
use std::collections::BTreeMap;

const FIRST_DELAY: i64 = 300;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    Empty,
    Preparing { since: i64, not_before: i64 },
    Completing,
    Stable,
}

#[derive(Clone)]
struct Known {
    instance: Option<String>,
    protocol: String,
    metadata: Bytes,
    expires: i64,
    joining: Option<Caller>,
    syncing: Option<Caller>,
    assignment: Bytes,
}

#[derive(Clone)]
pub(crate) struct Coordinator {
    stage: Stage,
    generation: i32,
    leader: String,
    members: BTreeMap<String, Known>,
    named: u64,
    saved: Option<Box<Coordinator>>,
}

impl Coordinator {
    pub(crate) fn new() -> Self {
        Self {
            stage: Stage::Empty,
            generation: 0,
            leader: String::new(),
            members: BTreeMap::new(),
            named: 0,
            saved: None,
        }
    }

    pub(crate) fn receive(&mut self, from: Caller, body: RequestBody, now: i64) -> Vec<Answer> {
        let mut out = Vec::new();
        match body {
            RequestBody::Join(join) => self.join(from, join, now, &mut out),
            RequestBody::Sync(sync) => self.sync(from, sync, now, &mut out),
            RequestBody::Heartbeat(h) => {
                let mut code = self.check(&h.member_id, h.instance_id.as_deref(), h.generation);
                if code.is_ok() {
                    self.touch(&h.member_id, now);
                    if matches!(self.stage, Stage::Preparing { .. }) {
                        code = ErrorCode::REBALANCE_IN_PROGRESS;
                    }
                }
                out.push((from, Some(ResponseBody::Heartbeat(code))));
            }
            RequestBody::Leave(leave) => {
                let code = match self.members.contains_key(&leave.member_id) {
                    true => ErrorCode::NONE,
                    false => ErrorCode::UNKNOWN_MEMBER_ID,
                };
                self.remove(&leave.member_id, now, &mut out);
                out.push((from, Some(ResponseBody::Leave(code))));
            }
            RequestBody::ConsumerHeartbeat(_) => unreachable!("a classic group"),
        }
        self.advance(now, &mut out);
        out
    }

    pub(crate) fn commit(
        &mut self,
        member: &str,
        instance: Option<&str>,
        generation: i32,
    ) -> ErrorCode {
        let code = self.check(member, instance, generation);
        if code.is_ok() && self.stage == Stage::Completing {
            return ErrorCode::REBALANCE_IN_PROGRESS;
        }
        code
    }

    /// Expiries up to `now`.
    pub(crate) fn tick(&mut self, now: i64) -> Vec<Answer> {
        let mut out = Vec::new();
        let waits = |m: &Known| m.joining.is_some() || m.syncing.is_some();
        let expired: Vec<String> = self
            .members
            .iter()
            .filter(|(_, m)| !waits(m) && m.expires <= now)
            .map(|(id, _)| id.clone())
            .collect();
        for id in expired {
            self.remove(&id, now, &mut out);
        }
        self.advance(now, &mut out);
        out
    }

    pub(crate) fn next_timeout(&self) -> Option<i64> {
        let waits = |m: &&Known| m.joining.is_none() && m.syncing.is_none();
        let expiry = self.members.values().filter(waits).map(|m| m.expires).min();
        match self.stage {
            Stage::Preparing { since, not_before } => {
                let ends = if self.all_joined() {
                    not_before
                } else {
                    since + REBALANCE
                };
                Some(expiry.map_or(ends, |e| e.min(ends)))
            }
            _ => expiry,
        }
    }

    /// Another broker takes over with what was written down: the last stable generation.
    pub(crate) fn fail_over(&mut self, now: i64) -> Vec<Answer> {
        let mut out = Vec::new();
        for member in self.members.values_mut() {
            refuse(member, ErrorCode::NOT_COORDINATOR, &mut out);
        }
        let (named, saved) = (self.named, self.saved.take());
        *self = match saved {
            Some(saved) => Self {
                saved: Some(saved.clone()),
                ..*saved
            },
            None => Self::new(),
        };
        self.named = named;
        for member in self.members.values_mut() {
            (member.joining, member.syncing) = (None, None);
            member.expires = now + SESSION;
        }
        out
    }

    fn check(&self, member: &str, instance: Option<&str>, generation: i32) -> ErrorCode {
        if let Some((id, _)) = instance.and_then(|i| self.by_instance(i))
            && id != member
        {
            return ErrorCode::FENCED_INSTANCE_ID;
        }
        if !self.members.contains_key(member) {
            ErrorCode::UNKNOWN_MEMBER_ID
        } else if generation != self.generation {
            ErrorCode::ILLEGAL_GENERATION
        } else {
            ErrorCode::NONE
        }
    }

    fn by_instance(&self, instance: &str) -> Option<(&String, &Known)> {
        self.members
            .iter()
            .find(|(_, m)| m.instance.as_deref() == Some(instance))
    }

    fn touch(&mut self, member: &str, now: i64) {
        if let Some(member) = self.members.get_mut(member) {
            member.expires = now + SESSION;
        }
    }

    fn new_id(&mut self) -> String {
        self.named += 1;
        format!("member-{:03}", self.named)
    }

    fn join(&mut self, from: Caller, join: JoinGroupRequest, now: i64, out: &mut Vec<Answer>) {
        let (protocol, metadata) = join.protocols[0].clone();
        let mut id = join.member_id.clone();
        let replaced = join
            .instance_id
            .as_deref()
            .and_then(|i| self.by_instance(i));
        let replaced = replaced.map(|(id, _)| id.clone());
        if id.is_empty() && join.instance_id.is_none() {
            let answer = join_error(ErrorCode::MEMBER_ID_REQUIRED, self.new_id());
            out.push((from, Some(answer)));
            return;
        }
        if id.is_empty() {
            id = self.new_id();
            if let Some(old_id) = replaced {
                if let Some(mut old) = self.members.remove(&old_id) {
                    refuse(&mut old, ErrorCode::FENCED_INSTANCE_ID, out);
                }
                // The new id of a static member is written down at once.
                if let Some(saved) = &mut self.saved
                    && let Some(old) = saved.members.remove(&old_id)
                {
                    saved.members.insert(id.clone(), old);
                }
            }
        } else if replaced.as_ref().is_some_and(|current| *current != id) {
            out.push((from, Some(join_error(ErrorCode::FENCED_INSTANCE_ID, id))));
            return;
        } else if join.instance_id.is_some() && !self.members.contains_key(&id) {
            out.push((from, Some(join_error(ErrorCode::UNKNOWN_MEMBER_ID, id))));
            return;
        }
        let number: u64 = id.trim_start_matches("member-").parse().unwrap();
        assert!(number <= self.named, "an id nobody gave: {id}");
        let known = self.members.get(&id);
        let same = known.is_some_and(|m| m.metadata == metadata);
        let current = match self.stage {
            Stage::Completing => same,
            Stage::Stable => same && id != self.leader,
            _ => false,
        };
        let mut member = known.cloned().unwrap_or(Known {
            instance: join.instance_id,
            protocol: String::new(),
            metadata: Bytes::new(),
            expires: now + SESSION,
            joining: None,
            syncing: None,
            assignment: Bytes::new(),
        });
        // A newer join takes the place of an older one, whose connection is gone.
        if let Some(old) = member.joining.take() {
            out.push((old, None));
        }
        (member.protocol, member.metadata) = (protocol, metadata);
        member.joining = Some(from);
        self.members.insert(id.clone(), member);
        if current {
            self.answer_join(&id, now, out);
        } else {
            self.prepare(now, out);
        }
    }

    fn prepare(&mut self, now: i64, out: &mut Vec<Answer>) {
        let not_before = match self.stage {
            Stage::Preparing { .. } => return,
            Stage::Empty => now + FIRST_DELAY,
            _ => now,
        };
        for member in self.members.values_mut() {
            if let Some(caller) = member.syncing.take() {
                member.expires = now + SESSION;
                out.push((
                    caller,
                    Some(sync_answer(ErrorCode::REBALANCE_IN_PROGRESS, Bytes::new())),
                ));
            }
        }
        self.stage = Stage::Preparing {
            since: now,
            not_before,
        };
    }

    fn remove(&mut self, id: &str, now: i64, out: &mut Vec<Answer>) {
        let Some(mut gone) = self.members.remove(id) else {
            return;
        };
        refuse(&mut gone, ErrorCode::UNKNOWN_MEMBER_ID, out);
        if self.stage != Stage::Empty {
            self.prepare(now, out);
        }
    }

    fn all_joined(&self) -> bool {
        self.members.values().all(|m| m.joining.is_some())
    }

    fn advance(&mut self, now: i64, out: &mut Vec<Answer>) {
        let Stage::Preparing { since, not_before } = self.stage else {
            return;
        };
        let over = now >= since + REBALANCE;
        if !(over || self.all_joined() && now >= not_before) {
            return;
        }
        self.members.retain(|_, m| m.joining.is_some());
        self.generation += 1;
        if self.members.is_empty() {
            self.stage = Stage::Empty;
            return;
        }
        if !self.members.contains_key(&self.leader) {
            self.leader = self.members.keys().next().cloned().unwrap_or_default();
        }
        self.stage = Stage::Completing;
        for id in self.members.keys().cloned().collect::<Vec<_>>() {
            self.answer_join(&id, now, out);
        }
    }

    fn answer_join(&mut self, id: &str, now: i64, out: &mut Vec<Answer>) {
        let all = self.members.iter().map(|(id, m)| JoinGroupMember {
            member_id: id.clone(),
            instance_id: m.instance.clone(),
            metadata: m.metadata.clone(),
        });
        let members = if id == self.leader {
            all.collect()
        } else {
            Vec::new()
        };
        let Some(member) = self.members.get_mut(id) else {
            return;
        };
        member.expires = now + SESSION;
        let Some(caller) = member.joining.take() else {
            return;
        };
        let answer = JoinGroupResponse {
            error: ErrorCode::NONE,
            generation: self.generation,
            protocol: Some(member.protocol.clone()),
            leader: self.leader.clone(),
            member_id: id.to_owned(),
            members,
            skip_assignment: false,
        };
        out.push((caller, Some(ResponseBody::Join(answer))));
    }

    fn sync(&mut self, from: Caller, sync: SyncGroupRequest, now: i64, out: &mut Vec<Answer>) {
        let mut code = self.check(
            &sync.member_id,
            sync.instance_id.as_deref(),
            sync.generation,
        );
        if code.is_ok() && matches!(self.stage, Stage::Preparing { .. }) {
            code = ErrorCode::REBALANCE_IN_PROGRESS;
        }
        let Some(member) = self
            .members
            .get_mut(&sync.member_id)
            .filter(|_| code.is_ok())
        else {
            out.push((from, Some(sync_answer(code, Bytes::new()))));
            return;
        };
        if let Some(old) = member.syncing.replace(from) {
            out.push((old, None));
        }
        if self.stage == Stage::Completing && sync.member_id == self.leader {
            let mut given: BTreeMap<String, Bytes> = sync.assignments.into_iter().collect();
            for (id, member) in &mut self.members {
                member.assignment = given.remove(id).unwrap_or_default();
            }
            self.stage = Stage::Stable;
            self.saved = None;
            self.saved = Some(Box::new(self.clone()));
        }
        if self.stage == Stage::Stable {
            for member in self.members.values_mut() {
                if let Some(caller) = member.syncing.take() {
                    member.expires = now + SESSION;
                    let answer = sync_answer(ErrorCode::NONE, member.assignment.clone());
                    out.push((caller, Some(answer)));
                }
            }
        }
    }
}

fn refuse(member: &mut Known, code: ErrorCode, out: &mut Vec<Answer>) {
    if let Some(caller) = member.joining.take() {
        out.push((caller, Some(join_error(code, String::new()))));
    }
    if let Some(caller) = member.syncing.take() {
        out.push((caller, Some(sync_answer(code, Bytes::new()))));
    }
}

pub(crate) fn join_error(error: ErrorCode, member_id: String) -> ResponseBody {
    ResponseBody::Join(JoinGroupResponse {
        error,
        generation: -1,
        protocol: None,
        leader: String::new(),
        member_id,
        members: Vec::new(),
        skip_assignment: false,
    })
}

pub(crate) fn sync_answer(error: ErrorCode, assignment: Bytes) -> ResponseBody {
    ResponseBody::Sync(SyncGroupResponse { error, assignment })
}
