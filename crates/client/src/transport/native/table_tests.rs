//! The table of cursors, driven by hand.

use super::cursor::{Answered, Outcome, Picked};
use super::leaders::Leader;
use super::table::{Answers, Caller, Job, Placed, Table};
use crate::transport::{FetchLimits, FetchPosition, Fetched};
use crate::{Backoff, Error, ErrorKind};
use bytes::Bytes;
use futures_util::FutureExt;
use ottla_record_batch::RecordSet;
use ottla_types::{ErrorCode, TopicPartition};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

const SECOND: Duration = Duration::from_secs(1);
const REPLICA_AGE: Duration = Duration::from_secs(300);
const LIMITS: FetchLimits = FetchLimits {
    max_wait: SECOND,
    min_bytes: 1,
    max_partition_bytes: 100,
    max_bytes: 1000,
    read_ahead_bytes: 500,
};
const ANSWERED: Answered = Answered {
    was_alone: true,
    frame_bytes: 64,
};

/// A table, and what its tests do to it.
struct Hand {
    table: Table,
    now: Instant,
    caller: Caller,
    leader: Leader,
}

fn p(partition: i32) -> TopicPartition {
    TopicPartition::new("t", partition)
}

fn at(offset: i64) -> FetchPosition {
    offset.into()
}

/// A position that was read in a topic with this id.
fn of_topic(offset: i64, id: u8) -> FetchPosition {
    FetchPosition {
        topic_id: Some([id; 16]),
        ..at(offset)
    }
}

fn error(code: ErrorCode) -> Error {
    Error::from_code(code, "Fetch")
}

fn fetched(next: FetchPosition, bytes: usize) -> Outcome {
    Outcome::Done(Ok(Fetched {
        records: RecordSet::from(Bytes::from(vec![0; bytes])),
        next_offset: next.offset,
        leader_epoch: next.leader_epoch,
        topic_id: next.topic_id,
        high_watermark: 100,
        last_stable_offset: None,
        log_start_offset: None,
    }))
}

impl Hand {
    fn new() -> Self {
        Self {
            table: Table::new(Backoff::with_seed(SECOND, SECOND, 1), REPLICA_AGE),
            now: Instant::now(),
            caller: Caller::default(),
            leader: Leader {
                broker: 1,
                epoch: 5,
                topic_id: Some([1; 16]),
            },
        }
    }

    fn ask(&mut self, wanted: &[(i32, FetchPosition)]) -> Answers {
        let wanted: Vec<_> = wanted.iter().map(|(n, at)| (p(*n), *at)).collect();
        let (answers, has_new) = self.table.collect(&wanted, LIMITS, &self.caller, self.now);
        if has_new {
            let leader = self.leader;
            assert_eq!(self.table.place(|_| Some(leader), self.now), Placed::All);
        }
        answers
    }

    fn pick_at(&mut self, broker: i32) -> Option<Job> {
        self.table.pick(broker, self.now, 0)
    }

    fn pick(&mut self) -> Job {
        self.pick_at(1).expect("something to ask for")
    }

    fn settle(&mut self, picked: &Picked, outcome: Outcome) -> bool {
        self.table.settle(picked, outcome, &ANSWERED, self.now)
    }

    /// Asks for partition 0 there, and settles its request with `outcome`.
    fn ask_and_settle(&mut self, position: FetchPosition, outcome: Outcome) -> Picked {
        assert_eq!(self.ask(&[(0, position)]).len(), 0);
        self.settle_next(outcome)
    }

    fn settle_next(&mut self, outcome: Outcome) -> Picked {
        let job = self.pick();
        assert_eq!(job.cursors.len(), 1);
        self.settle(&job.cursors[0], outcome);
        job.cursors[0].clone()
    }

    /// The lost cursors get this leader, as the resolver finds it.
    fn resolve(&mut self, leader: Leader) {
        let (due, _) = self.table.due(self.now);
        assert!(!due.is_empty());
        for (partition, _) in due {
            self.table.resolved(&partition, &Ok(leader), self.now);
        }
    }

    fn is_woken(&self) -> bool {
        self.caller.notified().now_or_never().is_some()
    }
}

#[test]
fn a_result_is_for_its_position_and_the_cursor_goes_on_behind_it() {
    let mut hand = Hand::new();
    let next = FetchPosition {
        leader_epoch: Some(4),
        ..of_topic(7, 1)
    };
    let picked = hand.ask_and_settle(at(5), fetched(next, 10));
    assert_eq!((picked.position, picked.epoch), (at(5), -1));
    assert!(hand.is_woken());
    assert!(hand.pick_at(1).is_none(), "not before it was taken");
    let answers = hand.ask(&[(0, at(5))]);
    assert_eq!(answers[0].1.as_ref().unwrap().next_offset, 7);
    // In advance, and with the epoch of what was read.
    let ahead = hand.settle_next(fetched(of_topic(9, 1), 10));
    assert_eq!((ahead.position, ahead.epoch), (next, 4));
    // By its whole position, or by the bare offset, but by no other.
    let other = FetchPosition {
        leader_epoch: Some(3),
        ..next
    };
    assert_eq!(hand.ask(&[(0, other)]).len(), 0);
    assert_eq!(hand.ask(&[(0, at(7))]).len(), 1);
}

#[test]
fn a_cursor_is_in_one_request_and_a_request_has_a_partition_once() {
    let mut hand = Hand::new();
    hand.ask(&[(0, at(1)), (1, at(1))]);
    hand.ask(&[(0, at(2))]);
    let job = hand.pick();
    let partitions: Vec<_> = job.cursors.iter().map(|c| c.partition.partition).collect();
    assert_eq!(partitions, [0, 1]);
    let other = hand.pick();
    assert_eq!((other.cursors.len(), other.cursors[0].position), (1, at(2)));
    assert!(hand.pick_at(1).is_none());
    assert!(hand.pick_at(2).is_none());
}

#[test]
fn trap_c4_an_error_is_told_once_and_moves_nothing() {
    let mut hand = Hand::new();
    let refused = error(ErrorCode::TOPIC_AUTHORIZATION_FAILED);
    hand.ask_and_settle(at(5), Outcome::Done(Err(refused)));
    assert!(hand.ask(&[(0, at(5))])[0].1.is_err());
    let again = hand.ask_and_settle(at(5), fetched(at(6), 1));
    assert_eq!(again.position, at(5));
}

#[test]
fn an_error_that_passes_waits_and_is_the_reason_of_a_caller_whose_time_is_over() {
    let mut hand = Hand::new();
    let why = error(ErrorCode::NOT_LEADER_OR_FOLLOWER);
    hand.ask_and_settle(at(5), Outcome::Lost { why, refresh: true });
    assert!(hand.pick_at(1).is_none());
    let reasons = hand.table.reasons(&[(p(0), at(5))]);
    let reason = reasons[0].1.as_ref().unwrap_err();
    assert_eq!(reason.code(), Some(ErrorCode::NOT_LEADER_OR_FOLLOWER));
    assert_eq!(hand.table.reasons(&[(p(0), at(5))]).len(), 0);
    let (due, next) = hand.table.due(hand.now);
    assert!(due.is_empty() && next > Some(hand.now));
    hand.now = next.unwrap();
    let moved = Leader {
        broker: 2,
        epoch: 6,
        ..hand.leader
    };
    hand.resolve(moved);
    assert_eq!(hand.pick_at(2).unwrap().cursors[0].leader, moved);
}

#[test]
fn a_leader_that_cannot_be_found_is_looked_for_again_or_told() {
    let mut hand = Hand::new();
    hand.ask_and_settle(at(5), Outcome::Moved);
    for (passes, answers) in [(true, 0), (false, 1)] {
        let (due, _) = hand.table.due(hand.now);
        assert_eq!(due.len(), 1);
        let failed = Err((Arc::new(error(ErrorCode::LEADER_NOT_AVAILABLE)), passes));
        hand.table.resolved(&p(0), &failed, hand.now);
        assert_eq!(hand.ask(&[(0, at(5))]).len(), answers);
        hand.now += 2 * SECOND;
    }
}

#[test]
fn trap_c7_a_position_is_compared_before_anything_is_read_for_it() {
    let mut hand = Hand::new();
    let position = FetchPosition {
        leader_epoch: Some(4),
        ..of_topic(5, 1)
    };
    hand.ask(&[(0, position)]);
    let job = hand.pick();
    let picked = &job.cursors[0];
    // Below 12 by a request of its own, once for each leader.
    assert!(picked.wants_check(11) && !picked.wants_check(12));
    assert!(hand.pick_at(1).is_none(), "nothing is read meanwhile");
    hand.settle(picked, Outcome::Checked);
    let checked = hand.settle_next(Outcome::Moved);
    assert!(!checked.wants_check(11));
    hand.resolve(Leader {
        epoch: 6,
        ..hand.leader
    });
    assert!(hand.pick().cursors[0].wants_check(11));
}

#[test]
fn an_epoch_that_left_no_trace_is_exchanged_for_one_that_did() {
    let mut hand = Hand::new();
    let position = FetchPosition {
        leader_epoch: Some(4),
        ..at(5)
    };
    hand.ask_and_settle(position, Outcome::Adopted(2));
    let picked = hand.settle_next(fetched(at(6), 1));
    assert_eq!((picked.epoch, picked.position), (2, position));
    assert!(!picked.wants_check(11), "it was just compared");
    assert_eq!(hand.ask(&[(0, position)]).len(), 1);
}

#[test]
fn trap_c20_a_bare_offset_is_one_of_this_log_as_soon_as_the_leader_has_it() {
    let mut hand = Hand::new();
    hand.ask_and_settle(at(5), Outcome::Nothing);
    let picked = hand.settle_next(Outcome::Nothing);
    assert_eq!((picked.position, picked.epoch), (at(5), 5));
    // From a replica, or without an epoch of the leader, nothing is known.
    let mut hand = Hand::new();
    hand.leader.epoch = -1;
    hand.ask_and_settle(at(5), Outcome::Nothing);
    assert_eq!(hand.settle_next(Outcome::Nothing).epoch, -1);
}

#[test]
fn trap_c15_a_position_is_none_in_a_topic_made_anew() {
    let anew = |leader: Leader| Leader {
        epoch: 0,
        topic_id: Some([2; 16]),
        ..leader
    };
    let mut hand = Hand::new();
    let why = error(ErrorCode::OFFSET_OUT_OF_RANGE);
    hand.ask_and_settle(of_topic(5, 1), Outcome::Doubted(why));
    hand.resolve(anew(hand.leader));
    let answers = hand.ask(&[(0, of_topic(5, 1))]);
    let error = answers[0].1.as_ref().unwrap_err();
    assert_eq!(
        (error.kind(), error.offset()),
        (ErrorKind::TopicRecreated, Some(5))
    );
    // A bare offset is none of any topic, until it was found in one.
    let mut hand = Hand::new();
    hand.ask_and_settle(at(5), Outcome::Moved);
    hand.resolve(anew(hand.leader));
    hand.settle_next(Outcome::Nothing);
    hand.settle_next(Outcome::Moved);
    hand.resolve(hand.leader);
    let answers = hand.ask(&[(0, at(5))]);
    let error = answers[0].1.as_ref().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TopicRecreated);
}

#[test]
fn a_doubted_position_is_compared_whatever_the_version() {
    let mut hand = Hand::new();
    let position = FetchPosition {
        leader_epoch: Some(5),
        ..of_topic(5, 1)
    };
    let why = error(ErrorCode::OFFSET_OUT_OF_RANGE);
    hand.ask_and_settle(position, Outcome::Doubted(why));
    hand.resolve(hand.leader);
    let picked = hand.settle_next(Outcome::Checked);
    assert!(picked.wants_check(18) && picked.is_doubted);
    let picked = hand.settle_next(Outcome::Nothing);
    assert!(!picked.wants_check(18) && picked.is_doubted);
    assert!(!hand.settle_next(Outcome::Nothing).is_doubted);
}

#[test]
fn a_replica_is_read_from_until_it_fails_or_its_time_is_over() {
    let mut hand = Hand::new();
    hand.ask_and_settle(at(5), Outcome::Elsewhere(3));
    assert_eq!(hand.table.ready_brokers(hand.now), [3]);
    let job = hand.pick_at(3).unwrap();
    assert!(job.cursors[0].is_elsewhere);
    hand.settle(&job.cursors[0], Outcome::Nothing);
    assert!(hand.pick_at(1).is_none());
    hand.now += REPLICA_AGE;
    hand.ask(&[(0, at(5))]);
    assert!(!hand.settle_next(Outcome::Elsewhere(3)).is_elsewhere);
    let job = hand.pick_at(3).unwrap();
    let why = error(ErrorCode::OFFSET_OUT_OF_RANGE);
    let lost = Outcome::Lost {
        why,
        refresh: false,
    };
    hand.settle(&job.cursors[0], lost);
    hand.now += SECOND;
    hand.resolve(hand.leader);
    assert!(!hand.settle_next(Outcome::Elsewhere(3)).is_elsewhere);
    // A leader that is named as its own replica is none.
    let job = hand.pick_at(3).unwrap();
    hand.settle(&job.cursors[0], Outcome::Moved);
    hand.resolve(hand.leader);
    hand.settle_next(Outcome::Elsewhere(1));
    assert_eq!(hand.table.ready_brokers(hand.now), [1]);
}

#[test]
fn who_is_suspected_of_an_unreadable_answer_is_asked_alone() {
    let mut hand = Hand::new();
    hand.ask(&[(0, at(1)), (1, at(1))]);
    let together = Answered {
        was_alone: false,
        ..ANSWERED
    };
    let unreadable = || Outcome::Unreadable(Error::new(ErrorKind::Protocol, "Fetch"));
    for picked in hand.pick().cursors {
        hand.table
            .settle(&picked, unreadable(), &together, hand.now);
    }
    let first = hand.settle_next(unreadable());
    let second = hand.settle_next(fetched(at(2), 1));
    assert_ne!(first.partition, second.partition);
    let answers = hand.ask(&[(0, at(1)), (1, at(1))]);
    assert_eq!(answers.len(), 2);
    assert_eq!(
        answers.iter().filter(|(_, result)| result.is_err()).count(),
        1
    );
}

#[test]
fn what_is_read_ahead_is_bounded_by_the_frames_that_it_keeps() {
    let mut hand = Hand::new();
    hand.ask(&[(0, at(1)), (1, at(1)), (2, at(1))]);
    let job = hand.pick();
    assert_eq!(job.max_bytes, LIMITS.max_bytes, "somebody waits for it");
    // Two partitions have a part of one frame each.
    let of = Answered {
        was_alone: false,
        frame_bytes: 300,
    };
    for (picked, next) in job.cursors.iter().zip([2, 2, 1]) {
        let outcome = if next > 1 {
            fetched(at(next), 100)
        } else {
            Outcome::Nothing
        };
        hand.table.settle(picked, outcome, &of, hand.now);
    }
    assert_eq!(hand.ask(&[(0, at(1))]).len(), 1);
    hand.caller = Caller::default();
    // The frame is still there for the other one: 200 bytes are left of 500.
    let job = hand.pick();
    assert_eq!((job.cursors.len(), job.max_bytes), (2, 200));
    for picked in &job.cursors {
        hand.settle(picked, Outcome::Nothing);
    }
    // What callers hold counts by half; with that much nothing is read ahead.
    let with = |hand: &mut Hand, in_use| hand.table.pick(1, hand.now, in_use);
    assert!(with(&mut hand, 1000).is_none());
    let asked = hand.ask(&[(2, at(1))]);
    assert_eq!(asked.len(), 0);
    let job = with(&mut hand, 1_000_000).unwrap();
    let partitions: Vec<_> = job.cursors.iter().map(|c| c.partition.partition).collect();
    assert_eq!((partitions, job.max_bytes), (vec![2], LIMITS.max_bytes));
}

#[test]
fn records_that_are_copied_out_of_a_frame_do_not_count_as_the_frame() {
    let mut hand = Hand::new();
    hand.ask(&[(0, at(1)), (1, at(1))]);
    let job = hand.pick();
    let of = Answered {
        was_alone: false,
        frame_bytes: 1 << 20,
    };
    hand.table
        .settle(&job.cursors[0], fetched(at(2), 100), &of, hand.now);
    hand.table
        .settle(&job.cursors[1], Outcome::Nothing, &of, hand.now);
    hand.caller = Caller::default();
    assert_eq!(hand.pick().max_bytes, 400);
}

#[test]
fn what_nobody_asks_for_is_forgotten() {
    let mut hand = Hand::new();
    for n in 0..20 {
        hand.ask_and_settle(at(n), Outcome::Nothing);
        hand.caller = Caller::default();
    }
    assert!(hand.table.cursors[&p(0)].len() <= 9);
    hand.now += 11 * SECOND;
    assert!(hand.pick_at(1).is_none());
    assert_eq!(hand.table.cursors.len(), 0);
}
