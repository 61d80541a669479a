//! Partitions that the application named itself: no membership, no coordinator that assigns. What is
//! committed belongs to no generation.

use crate::membership::{
    CommitIdentity, CommitVerdict, Input, MembershipEvent, Phase, RevocationId,
};
use ottla_types::{ErrorCode, TopicPartition};
use std::collections::{BTreeSet, VecDeque};

/// The generation of commits without a membership, with an empty member id.
const NO_GENERATION: i32 = -1;

/// Has the partitions that were named last, until it is closed. What is not named any more is revoked
/// as in a group; what is new is there at once, unless it is just being given up.
#[derive(Debug)]
pub(crate) struct Assigned {
    wanted: BTreeSet<TopicPartition>,
    /// Includes what is being revoked.
    owned: BTreeSet<TopicPartition>,
    revoking: Option<(RevocationId, BTreeSet<TopicPartition>)>,
    is_closing: bool,
    has_left: bool,
    numbers: u64,
    events: VecDeque<MembershipEvent>,
}

impl Assigned {
    pub(crate) fn new(partitions: Vec<TopicPartition>) -> Self {
        let mut assigned = Self {
            wanted: partitions.into_iter().collect(),
            owned: BTreeSet::new(),
            revoking: None,
            is_closing: false,
            has_left: false,
            numbers: 0,
            events: VecDeque::new(),
        };
        assigned.reconcile();
        assigned
    }

    pub(crate) fn handle(&mut self, input: &Input) {
        match input {
            Input::Assign { partitions } if !self.is_closing => {
                self.wanted = partitions.iter().cloned().collect();
                self.reconcile();
            }
            Input::Close if self.is_closing => self.leave(),
            Input::Close => {
                self.is_closing = true;
                match self.owned.is_empty() {
                    true => self.leave(),
                    false => self.revoke(self.owned.clone()),
                }
            }
            Input::RevokeCompleted { id } => self.on_revoke_completed(*id),
            _ => {}
        }
    }

    fn on_revoke_completed(&mut self, id: RevocationId) {
        let Some((_, gone)) = self.revoking.take_if(|(present, _)| *present == id) else {
            return;
        };
        self.owned = &self.owned - &gone;
        match self.is_closing {
            true => self.leave(),
            false => self.reconcile(),
        }
    }

    /// From what is owned to what is wanted; one revocation at a time.
    fn reconcile(&mut self) {
        let unwanted = &self.owned - &self.wanted;
        if self.revoking.is_none() && !unwanted.is_empty() {
            self.revoke(unwanted);
        }
        let added = &self.wanted - &self.owned;
        if added.is_empty() {
            return;
        }
        self.owned.extend(added.iter().cloned());
        let stays = |p: &&TopicPartition| {
            let revoking = self.revoking.as_ref();
            revoking.is_none_or(|(_, revoking)| !revoking.contains(p))
        };
        let all = self.wanted.iter().filter(stays).cloned().collect();
        self.events.push_back(MembershipEvent::Assigned {
            generation: NO_GENERATION,
            added: added.into_iter().collect(),
            all,
        });
    }

    fn revoke(&mut self, partitions: BTreeSet<TopicPartition>) {
        self.numbers += 1;
        let id = RevocationId(self.numbers);
        self.events.push_back(MembershipEvent::Revoked {
            id,
            partitions: partitions.iter().cloned().collect(),
        });
        self.revoking = Some((id, partitions));
    }

    fn leave(&mut self) {
        if !self.has_left {
            self.has_left = true;
            self.owned.clear();
            self.revoking = None;
            self.events.push_back(MembershipEvent::Left);
        }
    }

    pub(crate) fn poll_event(&mut self) -> Option<MembershipEvent> {
        self.events.pop_front()
    }

    pub(crate) fn phase(&self) -> Phase {
        match self.revoking {
            _ if self.has_left => Phase::Left,
            Some(_) => Phase::Revoking,
            None => Phase::Stable,
        }
    }

    pub(crate) fn owned(&self) -> &BTreeSet<TopicPartition> {
        &self.owned
    }

    pub(crate) fn commit_identity(&self) -> Option<CommitIdentity> {
        (!self.has_left).then(|| CommitIdentity {
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
        let (id, partitions) = (RevocationId(1), all);
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

    fn places(numbers: &[i32]) -> Vec<TopicPartition> {
        let each = numbers.iter().map(|n| TopicPartition::new("t", *n));
        each.collect()
    }

    /// What happened: `+` for what was added, `-` for what is revoked.
    fn told(assigned: &mut Assigned) -> Vec<String> {
        let name = |sign: &str, of: Vec<TopicPartition>| {
            let numbers: Vec<_> = of.iter().map(|p| p.partition.to_string()).collect();
            format!("{sign}{}", numbers.join(" "))
        };
        let events = std::iter::from_fn(|| assigned.poll_event());
        let told = events.map(|event| match event {
            MembershipEvent::Assigned { added, all, .. } => {
                format!("{} of {}", name("+", added), name("", all))
            }
            MembershipEvent::Revoked { partitions, .. } => name("-", partitions),
            other => format!("{other:?}"),
        });
        told.collect()
    }

    fn assign(assigned: &mut Assigned, numbers: &[i32]) {
        let partitions = places(numbers);
        assigned.handle(&Input::Assign { partitions });
    }

    fn acknowledge(assigned: &mut Assigned) {
        let id = assigned.revoking.as_ref().unwrap().0;
        assigned.handle(&Input::RevokeCompleted { id });
    }

    #[test]
    fn other_partitions_may_be_named_and_what_stays_stays() {
        let mut assigned = Assigned::new(places(&[0, 1]));
        assert_eq!(told(&mut assigned), ["+0 1 of 0 1"]);
        assign(&mut assigned, &[1, 2]);
        assert_eq!(told(&mut assigned), ["-0", "+2 of 1 2"]);
        assert!(
            assigned.owned().contains(&places(&[0])[0]),
            "until it is given up"
        );
        // Wanted again before that, and another one dropped: one after the other.
        assign(&mut assigned, &[0, 2]);
        assert_eq!(told(&mut assigned), [""; 0]);
        acknowledge(&mut assigned);
        assert_eq!(told(&mut assigned), ["-1", "+0 of 0 2"]);
        acknowledge(&mut assigned);
        assert_eq!(
            (told(&mut assigned), assigned.phase()),
            (vec![], Phase::Stable)
        );
        assign(&mut assigned, &[]);
        assert_eq!(told(&mut assigned), ["-0 2"]);
        acknowledge(&mut assigned);
        assert!(assigned.owned().is_empty());
        assign(&mut assigned, &[3]);
        assert_eq!(told(&mut assigned), ["+3 of 3"]);
        assign(&mut assigned, &[]);
        assigned.handle(&Input::Close);
        assign(&mut assigned, &[5]);
        assert_eq!(told(&mut assigned), ["-3", "-3"]);
        acknowledge(&mut assigned);
        assert_eq!(told(&mut assigned), ["Left"]);
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
