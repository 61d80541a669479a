//! Bugs that a driver or an application can have, planted one at a time: the invariants must find
//! each. They are here, between the state machines and the network, and not in the shipped code.

use crate::consumer::topic_id;
use ottla_group::protocol::{Assignment, Subscription};
use ottla_group::{Assignor, Input, RequestBody, ResponseBody, TopicCounts};
use ottla_types::ErrorCode;
use ottla_types::coordinator::JoinGroupMember;

/// A planted bug.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mutant {
    /// Goes on with partitions that were lost.
    KeepsLost,
    /// Acknowledges a revocation before it has stopped.
    AcknowledgesAtOnce,
    /// Hands out what was read before a revocation (C24).
    HandlesAfterRevoke,
    /// Commits what was read, not what was handled (C4).
    CommitsPosition,
    /// Commits one offset too many (C26).
    CommitsOneMore,
    /// Commits the last handled offset instead of the next one (C26).
    CommitsOneLess,
    /// Takes a failed handler for a good one.
    TakesFailureForDone,
    /// Goes on from the offsets of an earlier assignment (C3).
    KeepsTracker,
    /// Begins one record too late.
    SkipsFirst,
    /// Begins at the end when nothing is committed (C14).
    BeginsAtEnd,
    /// Restores no gaps (C9).
    IgnoresGaps,
    /// Has two commits in flight, which overtake each other (C17).
    TwoCommits,
    /// Sends a refused commit again, whoever owns the partition by then (C12).
    RepeatsOldCommit,
    /// Does not hear that the coordinator forgot the member (C18).
    DeafToUnknown,
    /// Does not hear that the group rebalances.
    DeafToRebalance,
    /// Does not let time pass while the network is away.
    StopsClock,
    /// Takes any answer for the answer to the newest request.
    AcceptsStale,
    /// Does not report broken connections.
    SwallowsFailures,
    /// Does not report what became of a commit.
    SwallowsCommits,
    /// As a leader, gives a partition to two members.
    GivesTwice,
    /// As a leader, forgets a partition.
    Forgets,
    /// As a cooperative leader, gives away what is not given up yet.
    GivesTooEarly,
    /// Does not look again for a topic that metadata does not know yet (C22).
    DropsUnnamed,
    /// Tells the coordinator that a partition is given up which is not.
    OwnsLess,
    /// Every process uses the same member id.
    SharesMemberId,
    /// Sends heartbeats after the end.
    SpeaksAfterEnd,
}

impl Mutant {
    pub(crate) const ALL: [Self; 26] = [
        Self::KeepsLost,
        Self::AcknowledgesAtOnce,
        Self::HandlesAfterRevoke,
        Self::CommitsPosition,
        Self::CommitsOneMore,
        Self::CommitsOneLess,
        Self::TakesFailureForDone,
        Self::KeepsTracker,
        Self::SkipsFirst,
        Self::BeginsAtEnd,
        Self::IgnoresGaps,
        Self::TwoCommits,
        Self::RepeatsOldCommit,
        Self::DeafToUnknown,
        Self::DeafToRebalance,
        Self::StopsClock,
        Self::AcceptsStale,
        Self::SwallowsFailures,
        Self::SwallowsCommits,
        Self::GivesTwice,
        Self::Forgets,
        Self::GivesTooEarly,
        Self::DropsUnnamed,
        Self::OwnsLess,
        Self::SharesMemberId,
        Self::SpeaksAfterEnd,
    ];

    /// Spoils a request.
    pub(crate) fn spoil_request(
        self,
        body: &mut RequestBody,
        members: &[JoinGroupMember],
        counts: &TopicCounts,
        assignor: Assignor,
    ) {
        match (self, body) {
            (Self::OwnsLess, RequestBody::ConsumerHeartbeat(beat)) => {
                for (_, partitions) in beat.owned.iter_mut().flatten() {
                    partitions.pop();
                }
            }
            (Self::GivesTwice, RequestBody::Sync(sync)) if sync.assignments.len() > 1 => {
                let first = Assignment::decode(&sync.assignments[0].1).unwrap();
                let mut second = Assignment::decode(&sync.assignments[1].1).unwrap();
                second.partitions.extend(first.partitions);
                sync.assignments[1].1 = second.encode();
            }
            (Self::Forgets, RequestBody::Sync(sync)) => {
                for (_, blob) in &mut sync.assignments {
                    let mut given = Assignment::decode(blob).unwrap();
                    given
                        .partitions
                        .retain(|tp| (&*tp.topic, tp.partition) != ("a", 0));
                    *blob = given.encode();
                }
            }
            (Self::GivesTooEarly, RequestBody::Sync(sync)) if !sync.assignments.is_empty() => {
                let read = members.iter().map(|m| {
                    let subscription = Subscription::decode(&m.metadata).unwrap();
                    let claim = assignor.claim(&subscription);
                    ottla_group::Member {
                        id: m.member_id.clone(),
                        instance_id: m.instance_id.clone(),
                        topics: subscription.topics,
                        owned: claim.partitions,
                        generation: claim.generation,
                    }
                });
                let given = Assignor::Sticky.assign(&read.collect::<Vec<_>>(), counts);
                let given = given.into_iter().map(|(id, partitions)| {
                    let user_data = None;
                    (
                        id,
                        Assignment {
                            partitions,
                            user_data,
                        }
                        .encode(),
                    )
                });
                sync.assignments = given.collect();
            }
            _ => {}
        }
    }

    /// Spoils what the member is told; `None` keeps it from the member.
    pub(crate) fn spoil_input(self, mut input: Input) -> Option<Input> {
        match (self, &mut input) {
            (Self::SwallowsFailures, Input::Failed { .. }) => return None,
            (Self::DropsUnnamed, Input::TopicNames { names }) => {
                names.remove(&topic_id("b"));
            }
            (Self::DeafToUnknown, Input::Response { body, .. }) => match body {
                ResponseBody::Heartbeat(code) => hear_not(code, &[25, 22]),
                ResponseBody::ConsumerHeartbeat(answer) => {
                    let before = answer.error;
                    hear_not(&mut answer.error, &[25, 110]);
                    if before != answer.error {
                        (answer.member_epoch, answer.heartbeat_interval_ms) = (1, 1_500);
                    }
                }
                _ => {}
            },
            (Self::DeafToRebalance, Input::Response { body, .. }) => match body {
                ResponseBody::Heartbeat(code) => hear_not(code, &[27]),
                ResponseBody::ConsumerHeartbeat(answer) if answer.member_epoch > 1 => {
                    answer.assignment = None;
                }
                _ => {}
            },
            _ => {}
        }
        Some(input)
    }
}

fn hear_not(code: &mut ErrorCode, deaf_to: &[i16]) {
    if deaf_to.contains(&code.0) {
        *code = ErrorCode::NONE;
    }
}
