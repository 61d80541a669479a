//! Partitions that the application named itself: no membership, no coordinator that assigns. What is
//! committed belongs to no generation.

use crate::membership::{
    CommitIdentity, CommitVerdict, Input, MembershipEvent, Phase, RevocationId,
};
use ottla_types::{ErrorCode, TopicPartition};
use std::collections::VecDeque;

/// The generation of commits without a membership, with an empty member id.
const NO_GENERATION: i32 = -1;
const REVOCATION: RevocationId = RevocationId(1);

/// Has its partitions from the beginning until it is closed.
#[derive(Debug)]
pub(crate) struct Assigned {
    partitions: Vec<TopicPartition>,
    phase: Phase,
    events: VecDeque<MembershipEvent>,
}

impl Assigned {
    pub(crate) fn new(mut partitions: Vec<TopicPartition>) -> Self {
        partitions.sort();
        partitions.dedup();
        let begun = MembershipEvent::Assigned {
            generation: NO_GENERATION,
            added: partitions.clone(),
            all: partitions.clone(),
        };
        Self {
            partitions,
            phase: Phase::Stable,
            events: VecDeque::from([begun]),
        }
    }

    /// Only closing means anything here.
    pub(crate) fn handle(&mut self, input: &Input) {
        match input {
            Input::Close if self.phase == Phase::Stable => {
                self.phase = Phase::Revoking;
                self.events.push_back(MembershipEvent::Revoked {
                    id: REVOCATION,
                    partitions: self.partitions.clone(),
                });
            }
            Input::Close => self.leave(),
            Input::RevokeCompleted { id } if *id == REVOCATION => self.leave(),
            _ => {}
        }
    }

    fn leave(&mut self) {
        if self.phase == Phase::Revoking {
            self.phase = Phase::Left;
            self.partitions.clear();
            self.events.push_back(MembershipEvent::Left);
        }
    }

    pub(crate) fn poll_event(&mut self) -> Option<MembershipEvent> {
        self.events.pop_front()
    }

    pub(crate) fn phase(&self) -> Phase {
        self.phase
    }

    pub(crate) fn owned(&self) -> &[TopicPartition] {
        &self.partitions
    }

    pub(crate) fn commit_identity(&self) -> Option<CommitIdentity> {
        (self.phase != Phase::Left).then(|| CommitIdentity {
            generation: NO_GENERATION,
            member_id: String::new(),
            instance_id: None,
        })
    }

    /// A group that has members refuses (UNKNOWN_MEMBER_ID, code 25): its offsets are theirs.
    pub(crate) fn commit_result(&self, code: ErrorCode) -> CommitVerdict {
        match code {
            code if code.is_ok() => CommitVerdict::Committed,
            code if code.is_retriable() => CommitVerdict::Retry,
            _ => CommitVerdict::Rejected,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitions_are_there_until_what_is_closed_has_committed() {
        let partition = TopicPartition::new("t", 1);
        let mut assigned = Assigned::new(vec![partition.clone(), partition.clone()]);
        let all = vec![partition];
        assert_eq!(
            assigned.poll_event(),
            Some(MembershipEvent::Assigned {
                generation: -1,
                added: all.clone(),
                all: all.clone(),
            })
        );
        assert_eq!(assigned.poll_event(), None);
        let identity = assigned.commit_identity().unwrap();
        assert_eq!((identity.generation, &*identity.member_id), (-1, ""));

        assigned.handle(&Input::Close);
        let (id, partitions) = (REVOCATION, all);
        assert_eq!(
            assigned.poll_event(),
            Some(MembershipEvent::Revoked { id, partitions })
        );
        assert_eq!(assigned.phase(), Phase::Revoking);
        assert!(assigned.commit_identity().is_some());
        let other = RevocationId(7);
        assigned.handle(&Input::RevokeCompleted { id: other });
        assert_eq!(assigned.poll_event(), None);
        assigned.handle(&Input::RevokeCompleted { id });
        assert_eq!(assigned.poll_event(), Some(MembershipEvent::Left));
        assigned.handle(&Input::Close);
        assert_eq!(assigned.poll_event(), None);
        assert!(assigned.commit_identity().is_none() && assigned.owned().is_empty());
    }

    #[test]
    fn a_second_close_does_not_wait() {
        let mut assigned = Assigned::new(vec![TopicPartition::new("t", 0)]);
        assigned.handle(&Input::Close);
        assigned.handle(&Input::Close);
        let events = std::iter::from_fn(|| assigned.poll_event());
        assert_eq!(events.last(), Some(MembershipEvent::Left));
    }

    #[test]
    fn a_group_with_members_takes_no_commits() {
        let assigned = Assigned::new(Vec::new());
        for (code, verdict) in [
            (ErrorCode::NONE, CommitVerdict::Committed),
            (ErrorCode::NOT_COORDINATOR, CommitVerdict::Retry),
            (ErrorCode::UNKNOWN_MEMBER_ID, CommitVerdict::Rejected),
        ] {
            assert_eq!(assigned.commit_result(code), verdict);
        }
    }
}
