//! A member with either protocol behind one interface, and the choice between them.

use crate::assigned::Assigned;
use crate::consumer_group::{ConsumerMembership, ConsumerMembershipConfig};
use crate::membership::{
    CommitIdentity, CommitVerdict, Input, Membership, MembershipConfig, MembershipError,
    MembershipEvent, Phase, Request, RequestBody,
};
use ottla_types::{ConfigError, ErrorCode, TopicPartition};
use std::sync::Arc;

/// `group.protocol`: how a member of a group gets its partitions, with the settings for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GroupProtocol {
    /// The members assign (JoinGroup, SyncGroup); every broker has it.
    Classic(MembershipConfig),
    /// The coordinator assigns (KIP-848).
    Consumer(ConsumerMembershipConfig),
    /// KIP-848 where the broker has it, else the classic protocol.
    Auto(ConsumerMembershipConfig, MembershipConfig),
    /// No membership: the application names its partitions. What is committed belongs to no
    /// generation; a group that has members refuses it.
    Assigned(Vec<TopicPartition>),
}

/// One member of a group, whatever its protocol. The order of the calls is that of
/// [`membership`](crate::membership).
#[derive(Debug)]
pub struct GroupMembership {
    active: Active,
    fallback: Option<Fallback>,
}

#[derive(Debug)]
enum Active {
    Classic(Box<Membership>),
    Consumer(Box<ConsumerMembership>),
    Assigned(Assigned),
}

/// What the classic member is made of if the broker has no other protocol.
#[derive(Debug)]
struct Fallback {
    member: Box<Membership>,
    /// What is subscribed.
    subscribe: Option<Input>,
    now_ms: i64,
}

macro_rules! either {
    ($of:expr, $member:ident => $do:expr, $assigned:ident => $fixed:expr) => {
        match $of {
            Active::Classic($member) => $do,
            Active::Consumer($member) => $do,
            Active::Assigned($assigned) => $fixed,
        }
    };
}

impl GroupMembership {
    /// A member without topics. `seed` drives the jitter of the back-off: give each member its own.
    ///
    /// # Errors
    /// As [`MembershipConfig::validate`] and [`ConsumerMembershipConfig::validate`].
    pub fn new(protocol: GroupProtocol, seed: u64) -> Result<Self, ConfigError> {
        let classic = |config| Membership::new(config, seed).map(Box::new);
        let consumer = |config| {
            let member = ConsumerMembership::new(config, seed)?;
            Ok(Active::Consumer(Box::new(member)))
        };
        let (active, fallback) = match protocol {
            GroupProtocol::Classic(config) => (Active::Classic(classic(config)?), None),
            GroupProtocol::Consumer(config) => (consumer(config)?, None),
            GroupProtocol::Assigned(partitions) => {
                (Active::Assigned(Assigned::new(partitions)), None)
            }
            GroupProtocol::Auto(config, instead) => {
                let fallback = Fallback {
                    member: classic(instead)?,
                    subscribe: None,
                    now_ms: i64::MIN,
                };
                (consumer(config)?, Some(fallback))
            }
        };
        Ok(Self { active, fallback })
    }

    /// As [`Membership::handle`].
    pub fn handle(&mut self, input: Input, now_ms: i64) {
        if let Some(fallback) = &mut self.fallback {
            fallback.now_ms = fallback.now_ms.max(now_ms);
            if let Input::Subscribe { .. } = &input {
                fallback.subscribe = Some(input.clone());
            }
        }
        match &mut self.active {
            Active::Classic(member) => member.handle(input, now_ms),
            Active::Consumer(member) => member.handle(input, now_ms),
            Active::Assigned(assigned) => assigned.handle(&input),
        }
    }

    /// As [`Membership::poll_event`]. A broker without KIP-848 is no event if there is another
    /// protocol to use.
    pub fn poll_event(&mut self) -> Option<MembershipEvent> {
        let event = either!(&mut self.active, m => m.poll_event(), a => a.poll_event())?;
        let error = MembershipError::NotOffered;
        if event != (MembershipEvent::Fatal { error }) {
            return Some(event);
        }
        match self.fallback.take() {
            Some(fallback) => {
                let mut member = fallback.member;
                if let Some(subscribe) = fallback.subscribe {
                    member.handle(subscribe, fallback.now_ms);
                }
                self.active = Active::Classic(member);
                self.poll_event()
            }
            None => Some(event),
        }
    }

    /// As [`Membership::poll_request`].
    pub fn poll_request(&mut self) -> Option<Request> {
        either!(&mut self.active, m => m.poll_request(), _a => None)
    }

    /// As [`Membership::next_timeout`].
    pub fn next_timeout(&self) -> Option<i64> {
        either!(&self.active, m => m.next_timeout(), _a => None)
    }

    /// As [`Membership::phase`].
    pub fn phase(&self) -> Phase {
        either!(&self.active, m => m.phase(), a => a.phase())
    }

    /// As [`Membership::commit_identity`].
    pub fn commit_identity(&self) -> Option<CommitIdentity> {
        either!(&self.active, m => m.commit_identity(), a => a.commit_identity())
    }

    /// As [`Membership::commit_result`].
    pub fn commit_result(
        &mut self,
        identity: &CommitIdentity,
        code: ErrorCode,
        now_ms: i64,
    ) -> CommitVerdict {
        either!(
            &mut self.active,
            m => m.commit_result(identity, code, now_ms),
            a => a.commit_result(code)
        )
    }

    /// As [`Membership::owned_until`].
    pub fn owned_until(&self) -> Option<i64> {
        either!(&self.active, m => m.owned_until(), _a => None)
    }

    /// As [`Membership::owns`].
    pub fn owns(&self, partition: &TopicPartition) -> bool {
        either!(&self.active, m => m.owns(partition), a => a.owned().contains(partition))
    }

    /// Everything owned, in order.
    pub fn owned(&self) -> Vec<TopicPartition> {
        either!(&self.active, m => m.owned().cloned().collect(), a => a.owned().iter().cloned().collect())
    }

    /// As [`Membership::watched_topics`]; empty with KIP-848, where the coordinator watches, and
    /// without a membership.
    pub fn watched_topics(&self) -> Vec<Arc<str>> {
        match &self.active {
            Active::Classic(member) => member.watched_topics(),
            Active::Consumer(_) | Active::Assigned(_) => Vec::new(),
        }
    }

    /// As [`Membership::pattern`]; `None` with KIP-848, where the broker matches, and without a
    /// membership.
    pub fn pattern(&self) -> Option<&str> {
        match &self.active {
            Active::Classic(member) => member.pattern(),
            Active::Consumer(_) | Active::Assigned(_) => None,
        }
    }

    /// Whether the classic protocol is in use.
    pub fn is_classic(&self) -> bool {
        matches!(self.active, Active::Classic(_))
    }

    /// What to send, for the sake of the others, when the member is dropped without a close; `None`
    /// for one that never joined. A static member keeps its place for its next start: the classic
    /// one says nothing, that of KIP-848 releases it, so that its successor is not refused.
    pub fn abrupt_leave(&self) -> Option<RequestBody> {
        either!(&self.active, m => m.abrupt_leave(), _a => None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::membership::ResponseBody;
    use crate::protocol::Subscription;
    use ottla_types::coordinator::ConsumerHeartbeatResponse;

    fn auto() -> GroupMembership {
        let consumer = ConsumerMembershipConfig::new("m");
        let protocol = GroupProtocol::Auto(consumer, MembershipConfig::default());
        let mut member = GroupMembership::new(protocol, 1).unwrap();
        subscribe(&mut member, "");
        member
    }

    /// To `t`, and to what matches.
    fn subscribe(member: &mut GroupMembership, pattern: &str) {
        let (topics, pattern) = (vec!["t".into()], pattern.to_owned());
        member.handle(Input::Subscribe { topics, pattern }, 0);
    }

    fn refuse(member: &mut GroupMembership, error: ErrorCode) {
        let request = member.poll_request().unwrap();
        assert!(matches!(request.body, RequestBody::ConsumerHeartbeat(_)));
        let answer = ConsumerHeartbeatResponse {
            error,
            message: None,
            member_id: None,
            member_epoch: 0,
            heartbeat_interval_ms: 0,
            assignment: None,
        };
        let body = ResponseBody::ConsumerHeartbeat(answer);
        let id = request.id;
        member.handle(Input::Response { id, body }, 5);
    }

    #[test]
    fn a_broker_that_refuses_the_version_gets_the_classic_protocol() {
        let mut member = auto();
        refuse(&mut member, ErrorCode::UNSUPPORTED_VERSION);
        assert_eq!(member.poll_event(), None);
        assert!(member.is_classic());
        let request = member.poll_request().unwrap();
        assert!(matches!(request.body, RequestBody::Join(_)));
    }

    #[test]
    fn a_broker_that_does_not_offer_it_gets_the_classic_protocol() {
        let mut member = auto();
        let id = member.poll_request().unwrap().id;
        member.handle(Input::NotOffered { id }, 5);
        assert_eq!(member.poll_event(), None);
        assert_eq!(
            (member.is_classic(), member.phase()),
            (true, Phase::Joining)
        );
    }

    #[test]
    fn an_expression_is_matched_here_where_the_broker_does_not() {
        let mut member = auto();
        subscribe(&mut member, "t.*");
        assert_eq!(member.pattern(), None);
        refuse(&mut member, ErrorCode::UNSUPPORTED_VERSION);
        assert_eq!(member.poll_event(), None);
        assert_eq!(
            member.poll_request(),
            None,
            "nobody has said what matches yet"
        );
        let pattern = member.pattern().unwrap().to_owned();
        let topics = vec!["t1".into()];
        member.handle(Input::Matched { pattern, topics }, 6);
        let body = member.poll_request().unwrap().body;
        let RequestBody::Join(join) = body else {
            panic!("{body:?}");
        };
        let said = Subscription::decode(&join.protocols[0].1).unwrap();
        assert_eq!(said.topics, ["t".into(), "t1".into()]);
    }

    #[test]
    fn other_refusals_stay_what_they_are() {
        let mut member = auto();
        refuse(&mut member, ErrorCode::GROUP_AUTHORIZATION_FAILED);
        assert!(matches!(
            member.poll_event(),
            Some(MembershipEvent::Fatal { .. })
        ));
        assert!(!member.is_classic());
    }
}
