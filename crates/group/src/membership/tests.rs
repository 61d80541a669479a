//! Every row of the reaction table, the flows, and the traps that belong to membership.

use super::*;
use crate::assign::Assignor;
use crate::protocol::{Assignment, Subscription};
use ottla_types::ErrorCode;
use ottla_types::coordinator::{
    JoinGroupMember, JoinGroupRequest, JoinGroupResponse, SyncGroupRequest, SyncGroupResponse,
};

mod flows;
mod reactions;
mod subscription;
mod traps;

const SESSION: i64 = 9_000;
const REBALANCE: i64 = 60_000;
const BEAT: i64 = 3_000;

fn tp(number: i32) -> TopicPartition {
    TopicPartition::new("t", number)
}

fn tps(numbers: &[i32]) -> Vec<TopicPartition> {
    numbers.iter().map(|n| tp(*n)).collect()
}

/// A member with a clock, driven by hand.
struct Rig {
    member: Membership,
    now: i64,
}

impl Rig {
    fn with(assignor: Assignor, instance: Option<&str>) -> Self {
        let config = MembershipConfig {
            session_timeout_ms: SESSION as i32,
            rebalance_timeout_ms: REBALANCE as i32,
            heartbeat_interval_ms: BEAT as i32,
            instance_id: instance.map(str::to_owned),
            assignors: vec![assignor],
            ..MembershipConfig::default()
        };
        Self {
            member: Membership::new(config, 1).unwrap(),
            now: 1_000,
        }
    }

    fn eager() -> Self {
        Self::with(Assignor::Range, None)
    }

    fn cooperative() -> Self {
        Self::with(Assignor::CooperativeSticky, None)
    }

    /// Subscribed, with a join out that carries the id `m1`.
    fn joining(mut self) -> (Self, RequestId) {
        self.subscribe(&["t"]);
        let (id, _) = self.join();
        self.answer_join_error(id, ErrorCode::MEMBER_ID_REQUIRED, "m1");
        let (id, join) = self.join();
        assert_eq!(join.member_id, "m1");
        (self, id)
    }

    /// With a sync out in generation 1, as a follower.
    fn syncing(self) -> (Self, RequestId) {
        let (mut rig, id) = self.joining();
        rig.answer_join(id, 1);
        let (id, sync) = rig.sync();
        assert_eq!(sync.generation, 1);
        (rig, id)
    }

    /// In generation 1 with these partitions.
    fn stable(self, partitions: &[i32]) -> Self {
        let (mut rig, id) = self.syncing();
        rig.answer_sync(id, partitions);
        assert_eq!(
            rig.events(),
            vec![MembershipEvent::Assigned {
                generation: 1,
                added: tps(partitions),
                all: tps(partitions),
            }]
        );
        rig
    }

    fn input(&mut self, input: Input) {
        self.member.handle(input, self.now);
    }

    fn subscribe(&mut self, topics: &[&str]) {
        self.want(topics, "");
    }

    fn want(&mut self, topics: &[&str], pattern: &str) {
        let topics = topics.iter().map(|t| Arc::from(*t)).collect();
        let pattern = pattern.to_owned();
        self.input(Input::Subscribe { topics, pattern });
    }

    fn pass(&mut self, ms: i64) {
        self.now += ms;
        self.input(Input::Tick);
    }

    fn request(&mut self) -> Option<Request> {
        self.member.poll_request()
    }

    fn join(&mut self) -> (RequestId, JoinGroupRequest) {
        match self.request() {
            Some(Request {
                id,
                body: RequestBody::Join(join),
            }) => (id, join),
            other => panic!("expected a join, not {other:?}"),
        }
    }

    fn sync(&mut self) -> (RequestId, SyncGroupRequest) {
        match self.request() {
            Some(Request {
                id,
                body: RequestBody::Sync(sync),
            }) => (id, sync),
            other => panic!("expected a sync, not {other:?}"),
        }
    }

    fn heartbeat(&mut self) -> (RequestId, HeartbeatRequest) {
        match self.request() {
            Some(Request {
                id,
                body: RequestBody::Heartbeat(beat),
            }) => (id, beat),
            other => panic!("expected a heartbeat, not {other:?}"),
        }
    }

    fn leave(&mut self) -> RequestId {
        match self.request() {
            Some(Request {
                id,
                body: RequestBody::Leave(_),
            }) => id,
            other => panic!("expected a leave, not {other:?}"),
        }
    }

    /// Waits for the next heartbeat and answers it.
    fn beat(&mut self, code: ErrorCode) {
        self.pass(BEAT);
        let (id, _) = self.heartbeat();
        self.respond(id, ResponseBody::Heartbeat(code));
    }

    /// Waits for the back-off; nothing is sent before.
    fn back_off(&mut self) {
        assert_eq!(self.request(), None);
        let wait = self.member.next_timeout().unwrap() - self.now;
        assert!((1..=1_200).contains(&wait), "{wait}");
        self.pass(wait);
    }

    fn respond(&mut self, id: RequestId, body: ResponseBody) {
        self.input(Input::Response { id, body });
    }

    fn answer_join(&mut self, id: RequestId, generation: i32) {
        self.respond_join(id, generation, "somebody", Vec::new());
    }

    fn respond_join(
        &mut self,
        id: RequestId,
        generation: i32,
        leader: &str,
        members: Vec<JoinGroupMember>,
    ) {
        let assignor = self.member.config.assignors[0];
        let answer = JoinGroupResponse {
            error: ErrorCode::NONE,
            generation,
            protocol: Some(assignor.name().to_owned()),
            leader: leader.to_owned(),
            member_id: "m1".to_owned(),
            members,
            skip_assignment: false,
        };
        self.respond(id, ResponseBody::Join(answer));
    }

    fn answer_join_error(&mut self, id: RequestId, error: ErrorCode, member_id: &str) {
        let answer = JoinGroupResponse {
            error,
            generation: -1,
            protocol: None,
            leader: String::new(),
            member_id: member_id.to_owned(),
            members: Vec::new(),
            skip_assignment: false,
        };
        self.respond(id, ResponseBody::Join(answer));
    }

    fn answer_sync(&mut self, id: RequestId, partitions: &[i32]) {
        let assignment = Assignment {
            partitions: tps(partitions),
            user_data: None,
        };
        self.respond(
            id,
            ResponseBody::Sync(SyncGroupResponse {
                error: ErrorCode::NONE,
                assignment: assignment.encode(),
            }),
        );
    }

    fn answer_sync_error(&mut self, id: RequestId, error: ErrorCode) {
        let assignment = bytes::Bytes::new();
        self.respond(
            id,
            ResponseBody::Sync(SyncGroupResponse { error, assignment }),
        );
    }

    fn events(&mut self) -> Vec<MembershipEvent> {
        std::iter::from_fn(|| self.member.poll_event()).collect()
    }

    fn one_event(&mut self) -> MembershipEvent {
        let mut events = self.events();
        assert_eq!(events.len(), 1, "{events:?}");
        events.remove(0)
    }

    fn revoked(&mut self, partitions: &[i32]) -> RevocationId {
        match self.one_event() {
            MembershipEvent::Revoked {
                id,
                partitions: all,
            } => {
                assert_eq!(all, tps(partitions));
                id
            }
            other => panic!("{other:?}"),
        }
    }

    fn lost(&mut self, partitions: &[i32]) {
        assert_eq!(
            self.one_event(),
            MembershipEvent::Lost {
                partitions: tps(partitions)
            }
        );
    }

    fn acknowledge(&mut self, id: RevocationId) {
        self.input(Input::RevokeCompleted { id });
    }

    fn commit(&mut self, code: ErrorCode) -> CommitVerdict {
        let identity = self.member.commit_identity().unwrap();
        self.member.commit_result(&identity, code, self.now)
    }

    fn is_fatal(&mut self, operation: Operation, code: ErrorCode) {
        let last = self.events().pop();
        let error = MembershipError::Refused { operation, code };
        assert_eq!(last, Some(MembershipEvent::Fatal { error }));
        assert_eq!(self.member.phase(), Phase::Fatal);
        assert_eq!((self.request(), self.member.next_timeout()), (None, None));
        self.input(Input::Polled);
        self.subscribe(&["u"]);
        self.pass(1_000_000);
        assert_eq!((self.request(), self.events()), (None, vec![]));
    }
}

fn joins(id: &str, owned: &[i32]) -> JoinGroupMember {
    let subscription = Subscription {
        topics: vec!["t".into()],
        owned: tps(owned),
        generation: Some(1),
        ..Subscription::default()
    };
    JoinGroupMember {
        member_id: id.to_owned(),
        instance_id: None,
        metadata: subscription.encode(),
    }
}

fn counts(n: i32) -> TopicCounts {
    TopicCounts::from([("t".into(), n)])
}
