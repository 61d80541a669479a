//! The states, the reactions and the traps of the consumer group protocol, on a member that is driven
//! by hand.

use super::*;
use crate::membership::{CommitVerdict, Operation, ResponseBody};
use ottla_types::ErrorCode;
use ottla_types::coordinator::ConsumerHeartbeatResponse;

mod flows;
mod reactions;
mod traps;

const SESSION: i64 = 9_000;
const REBALANCE: i64 = 60_000;
const BEAT: i64 = 3_000;

fn id(topic: &str) -> TopicId {
    let mut id = [0; 16];
    id[..topic.len()].copy_from_slice(topic.as_bytes());
    id
}

fn tps(numbers: &[i32]) -> Vec<TopicPartition> {
    let each = numbers.iter().map(|n| TopicPartition::new("t", *n));
    each.collect()
}

/// A member with a clock, whose topic is `t`.
struct Rig {
    member: ConsumerMembership,
    now: i64,
}

impl Rig {
    fn new() -> Self {
        Self::with(None)
    }

    fn with(instance: Option<&str>) -> Self {
        let config = ConsumerMembershipConfig {
            instance_id: instance.map(str::to_owned),
            session_timeout_ms: SESSION as i32,
            rebalance_timeout_ms: REBALANCE as i32,
            ..ConsumerMembershipConfig::new("m1")
        };
        let member = ConsumerMembership::new(config, 1).unwrap();
        Self { member, now: 1_000 }
    }

    /// With the join out.
    fn joining(mut self) -> (Self, RequestId) {
        self.subscribe(&["t"]);
        let (out, request) = self.request();
        assert_eq!(request.member_epoch, 0);
        (self, out)
    }

    /// In epoch 1 with these partitions, which the coordinator knows to be owned.
    fn stable(self, partitions: &[i32]) -> Self {
        let (mut rig, out) = self.joining();
        rig.assign(out, 1, partitions);
        let names = BTreeMap::from([(id("t"), "t".into())]);
        if partitions.is_empty() {
            rig.assigned(&[], &[]);
        } else {
            let events = rig.events();
            let ids = vec![id("t")];
            assert!(events.contains(&MembershipEvent::NeedTopicNames { ids }));
            rig.input(Input::TopicNames { names });
            rig.assigned(partitions, partitions);
        }
        let (out, request) = rig.request();
        assert_eq!(request.owned, Some(wire(partitions)));
        rig.fine(out, 1);
        rig.nothing();
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

    fn request(&mut self) -> (RequestId, ConsumerHeartbeatRequest) {
        match self.member.poll_request() {
            Some(Request {
                id,
                body: RequestBody::ConsumerHeartbeat(request),
            }) => (id, request),
            other => panic!("expected a heartbeat, not {other:?}"),
        }
    }

    fn nothing(&mut self) {
        assert_eq!(self.member.poll_request(), None);
        assert_eq!(self.events(), vec![]);
    }

    /// Waits for the next heartbeat.
    fn beat(&mut self) -> (RequestId, ConsumerHeartbeatRequest) {
        self.nothing();
        let wait = self.member.next_timeout().unwrap() - self.now;
        self.pass(wait);
        self.request()
    }

    fn answer(&mut self, id: RequestId, answer: ConsumerHeartbeatResponse) {
        let body = ResponseBody::ConsumerHeartbeat(answer);
        self.input(Input::Response { id, body });
    }

    fn fine(&mut self, id: RequestId, epoch: i32) {
        self.answer(id, good(epoch, None));
    }

    fn assign(&mut self, out: RequestId, epoch: i32, partitions: &[i32]) {
        self.answer(out, good(epoch, Some(wire(partitions))));
    }

    fn refuse(&mut self, id: RequestId, error: ErrorCode) {
        let refused = ConsumerHeartbeatResponse {
            error,
            ..good(0, None)
        };
        self.answer(id, refused);
    }

    fn events(&mut self) -> Vec<MembershipEvent> {
        std::iter::from_fn(|| self.member.poll_event()).collect()
    }

    fn one_event(&mut self) -> MembershipEvent {
        let mut events = self.events();
        assert_eq!(events.len(), 1, "{events:?}");
        events.remove(0)
    }

    fn assigned(&mut self, added: &[i32], all: &[i32]) {
        let generation = self.member.epoch().unwrap();
        let (added, all) = (tps(added), tps(all));
        let wanted = MembershipEvent::Assigned {
            generation,
            added,
            all,
        };
        let last = self.events().pop();
        assert_eq!(last, Some(wanted));
    }

    fn revoked(&mut self, numbers: &[i32]) -> RevocationId {
        match self.events().first() {
            Some(MembershipEvent::Revoked { id, partitions }) => {
                assert_eq!(*partitions, tps(numbers));
                *id
            }
            other => panic!("{other:?}"),
        }
    }

    fn lost(&mut self, numbers: &[i32]) {
        let partitions = tps(numbers);
        assert_eq!(self.one_event(), MembershipEvent::Lost { partitions });
    }

    fn acknowledge(&mut self, id: RevocationId) {
        self.input(Input::RevokeCompleted { id });
    }

    fn is_fatal(&mut self, error: MembershipError) {
        let last = self.events().pop();
        assert_eq!(last, Some(MembershipEvent::Fatal { error }));
        assert_eq!(self.member.next_timeout(), None);
        self.subscribe(&["u"]);
        self.input(Input::Polled);
        self.pass(1_000_000);
        self.nothing();
    }
}

fn refused(operation: Operation, code: ErrorCode) -> MembershipError {
    MembershipError::Refused { operation, code }
}

fn good(member_epoch: i32, assignment: Option<TopicIdPartitions>) -> ConsumerHeartbeatResponse {
    ConsumerHeartbeatResponse {
        error: ErrorCode::NONE,
        message: None,
        member_id: None,
        member_epoch,
        heartbeat_interval_ms: BEAT as i32,
        assignment,
    }
}

fn wire(partitions: &[i32]) -> TopicIdPartitions {
    let some = !partitions.is_empty();
    some.then(|| (id("t"), partitions.to_vec()))
        .into_iter()
        .collect()
}
