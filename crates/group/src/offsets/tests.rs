//! The tracker's rules, and the traps that belong to it.

use super::*;
use proptest::prelude::*;
use std::collections::BTreeSet;

fn assigned(position: Offset, limit: usize) -> OffsetTracker {
    let mut tracker = OffsetTracker::new(limit);
    tracker.assign(position, Some(position));
    tracker
}

#[test]
fn what_is_done_out_of_order_waits_for_what_is_below() {
    let mut tracker = assigned(10, 8);
    let tickets: Vec<_> = (10..14).map(|o| tracker.dispatched(o).unwrap()).collect();
    assert!(tracker.done(tickets[2]) && tracker.done(tickets[1]));
    assert_eq!((tracker.committable(), tracker.in_flight()), (Some(10), 2));
    assert!(tracker.done(tickets[0]));
    assert_eq!(tracker.committable(), Some(13));
    assert!(!tracker.done(tickets[0]), "done twice");
    assert!(tracker.done_through(tickets[3]));
    assert_eq!((tracker.committable(), tracker.in_flight()), (Some(14), 0));
}

#[test]
fn done_through_covers_everything_before() {
    let mut tracker = assigned(0, 8);
    let tickets: Vec<_> = [0, 4, 9].map(|o| tracker.dispatched(o).unwrap()).to_vec();
    assert!(tracker.done_through(tickets[1]));
    assert_eq!(tracker.committable(), Some(5));
    assert!(tracker.done_through(tickets[0]), "of no effect");
    assert_eq!((tracker.committable(), tracker.in_flight()), (Some(5), 1));
}

#[test]
fn gaps_in_the_log_are_no_holes() {
    let mut tracker = assigned(0, 8);
    let a = tracker.dispatched(3).unwrap();
    let b = tracker.dispatched(7).unwrap();
    tracker.done(a);
    assert_eq!(tracker.committable(), Some(4));
    tracker.done(b);
    assert_eq!(tracker.committable(), Some(8));
}

#[test]
fn the_bound_holds_while_the_lowest_record_is_out() {
    let mut tracker = assigned(0, 2);
    let low = tracker.dispatched(0).unwrap();
    let high = tracker.dispatched(1).unwrap();
    assert_eq!(tracker.dispatched(2), Err(TrackError::Full { limit: 2 }));
    tracker.done(high);
    assert_eq!((tracker.room(), tracker.in_flight()), (0, 1));
    tracker.done(low);
    assert_eq!(tracker.room(), 2);
    tracker.dispatched(2).unwrap();
}

#[test]
fn offsets_must_ascend() {
    let mut tracker = assigned(5, 4);
    let refused = |offset, expected| Err(TrackError::OutOfOrder { offset, expected });
    assert_eq!(tracker.dispatched(4), refused(4, 5));
    tracker.dispatched(5).unwrap();
    assert_eq!(tracker.dispatched(5), refused(5, 6));
}

#[test]
fn trap_c3_a_new_assignment_forgets_the_old_one_and_refuses_its_handlers() {
    let mut tracker = assigned(100, 4);
    let old = tracker.dispatched(100).unwrap();
    tracker.unassign();
    assert!(!tracker.done(old) && !tracker.done_through(old));
    assert_eq!(tracker.committable(), None);
    assert_eq!(tracker.start_commit(), None);
    assert_eq!(tracker.dispatched(101), Err(TrackError::NotAssigned));
    tracker.assign(100, Some(100));
    let new = tracker.dispatched(100).unwrap();
    assert!(!tracker.done(old), "the handler of the earlier assignment");
    assert_eq!(tracker.committable(), Some(100));
    assert!(tracker.done(new));
    assert_eq!(tracker.start_commit(), Some(101));
}

#[test]
fn trap_c4_only_handled_or_absent_records_move_the_committable_offset() {
    let mut tracker = assigned(0, 4);
    let first = tracker.dispatched(0).unwrap();
    tracker.advance_to(50);
    assert_eq!(tracker.committable(), Some(0));
    tracker.advance_to(3);
    tracker.done(first);
    assert_eq!(tracker.committable(), Some(50));
    tracker.advance_to(10);
    assert_eq!(tracker.committable(), Some(50), "never backwards");
}

#[test]
fn trap_c17_one_commit_is_in_flight() {
    let mut tracker = assigned(0, 4);
    let a = tracker.dispatched(0).unwrap();
    assert_eq!(tracker.start_commit(), None, "nothing new");
    tracker.done(a);
    assert_eq!(tracker.start_commit(), Some(1));
    let b = tracker.dispatched(1).unwrap();
    tracker.done(b);
    assert_eq!(tracker.start_commit(), None, "one is in flight");
    tracker.committed(7);
    assert_eq!(tracker.last_committed(), Some(0), "not the one in flight");
    tracker.commit_failed();
    assert_eq!(tracker.start_commit(), Some(2));
    tracker.committed(2);
    assert_eq!(tracker.last_committed(), Some(2));
    assert_eq!(tracker.start_commit(), None);
}

#[test]
fn trap_c24_what_was_read_before_a_revocation_is_not_handed_out_after_it() {
    let mut tracker = assigned(0, 4);
    let out = tracker.dispatched(0).unwrap();
    tracker.unassign();
    assert_eq!(tracker.dispatched(1), Err(TrackError::NotAssigned));
    assert_eq!(tracker.admit(1), Err(TrackError::NotAssigned));
    assert!(!tracker.done(out), "and what was out counts for nothing");
    tracker.assign(5, Some(5));
    let refused = TrackError::OutOfOrder {
        offset: 1,
        expected: 5,
    };
    assert_eq!(tracker.admit(1), Err(refused));
}

#[test]
fn trap_c26_the_committed_offset_is_the_next_one_to_read() {
    let mut tracker = assigned(41, 4);
    let only = tracker.dispatched(41).unwrap();
    tracker.done(only);
    assert_eq!(tracker.start_commit(), Some(42));
}

#[test]
fn trap_c14_a_resolved_start_without_a_commit_is_worth_one() {
    let mut tracker = OffsetTracker::new(4);
    tracker.assign(77, None);
    assert_eq!(tracker.start_commit(), Some(77));
    tracker.committed(77);
    assert_eq!(tracker.start_commit(), None);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nothing_below_the_committable_offset_is_unhandled(
        steps in proptest::collection::vec((0..4u8, 0..5i64, any::<prop::sample::Index>()), 0..120),
    ) {
        let mut tracker = assigned(0, 6);
        let (mut next, mut last) = (0, 0);
        let mut out: Vec<Ticket> = Vec::new();
        let mut done = BTreeSet::new();
        let mut all = BTreeSet::new();
        for (kind, gap, which) in steps {
            match kind {
                0 | 1 => if let Ok(ticket) = tracker.dispatched(next + gap) {
                    next = ticket.offset() + 1;
                    all.insert(ticket.offset());
                    out.push(ticket);
                },
                2 if !out.is_empty() => {
                    let ticket = out.swap_remove(which.index(out.len()));
                    prop_assert!(tracker.done(ticket));
                    done.insert(ticket.offset());
                }
                _ => { next += gap; tracker.advance_to(next); }
            }
            let committable = tracker.committable().unwrap();
            prop_assert!(committable >= last);
            last = committable;
            prop_assert!(all.iter().all(|o| *o >= committable || done.contains(o)));
            prop_assert_eq!(tracker.in_flight(), out.len());
            if out.is_empty() {
                prop_assert_eq!(committable, next);
            }
        }
    }
}

/// A tracker that remembers gaps, with what a restart at `committed` finds.
fn restarted(limit: usize, committed: Offset, metadata: &str) -> OffsetTracker {
    let mut tracker = OffsetTracker::with_gaps(limit, METADATA_MAX);
    tracker.assign_with_gaps(committed, metadata);
    tracker
}

fn handle(tracker: &mut OffsetTracker, offset: Offset) -> Ticket {
    match tracker.admit(offset) {
        Ok(Admission::Handle(ticket)) => ticket,
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_is_handled_above_the_commit_is_not_handled_again_after_a_restart() {
    let mut tracker = restarted(8, 10, "");
    let tickets: Vec<_> = (10..16).map(|o| handle(&mut tracker, o)).collect();
    for at in [1, 2, 4] {
        tracker.done(tickets[at]);
    }
    let (offset, text) = tracker.start_commit_with_gaps().unwrap();
    assert_eq!(
        (offset, tracker.gaps().unwrap().handled()),
        (10, &[11..13, 14..15][..])
    );
    tracker.committed(offset);
    assert_eq!(tracker.start_commit_with_gaps(), None, "nothing new");
    tracker.done(tickets[5]);
    assert!(tracker.start_commit_with_gaps().is_some(), "a gap is news");

    let mut again = restarted(8, offset, &text);
    let handled = (10..16).filter(|o| again.admit(*o) != Ok(Admission::HandledBefore));
    assert_eq!(handled.collect::<Vec<_>>(), [10, 13, 15]);
    assert_eq!(
        again.start_commit_with_gaps(),
        None,
        "the same is committed already"
    );
}

#[test]
fn runs_that_are_not_read_yet_are_not_forgotten_by_the_next_commit() {
    let text = Gaps::from_runs(std::iter::once(50..60)).encode(10, METADATA_MAX);
    let mut tracker = restarted(8, 10, &text);
    let first = handle(&mut tracker, 10);
    tracker.done(first);
    let (offset, text) = tracker.start_commit_with_gaps().unwrap();
    let read = Gaps::decode(&text, offset).unwrap();
    assert_eq!(read, Gaps::from_runs(std::iter::once(50..60)));
}

#[test]
fn the_tracker_says_when_more_gaps_might_not_fit() {
    let mut tracker = OffsetTracker::with_gaps(100_000, 64);
    tracker.assign_with_gaps(0, "");
    let mut out = Vec::new();
    let limit = loop {
        let next = 2 * out.len() as Offset;
        assert_eq!(
            tracker.is_gaps_full(next),
            tracker.clone().admit(next).is_err()
        );
        match tracker.admit(next) {
            Ok(Admission::Handle(ticket)) => out.push(ticket),
            Err(error) => break error,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(limit, TrackError::GapsFull { limit: 64 });
    assert!(out.len() > 10, "{}", out.len());
    for ticket in out.iter().skip(1).step_by(2) {
        tracker.done(*ticket);
    }
    let gaps = tracker.gaps().unwrap();
    let (offset, text) = tracker.start_commit_with_gaps().unwrap();
    assert_eq!(
        Gaps::decode(&text, offset),
        Some(gaps),
        "nothing is left out"
    );
    tracker.done_through(out[out.len() - 1]);
    assert!(!tracker.is_gaps_full(1_000), "there is room again");
}

#[test]
fn a_text_that_is_full_lets_the_lowest_record_through() {
    let many = Gaps::from_runs((0..2_000).map(|i| 2 * i + 1..2 * i + 2));
    let text = many.encode(0, METADATA_MAX);
    let mut tracker = restarted(8, 0, &text);
    let lowest = handle(&mut tracker, 0);
    assert!(tracker.is_gaps_full(2));
    assert_eq!(tracker.admit(1), Ok(Admission::HandledBefore));
    tracker.done(lowest);
    assert_eq!(tracker.committable(), Some(2));
    handle(&mut tracker, 2);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// A life of restarts: whatever finished before a commit is never handled again, everything is
    /// handled at last, and the text never leaves anything out.
    #[test]
    fn after_a_clean_restart_nothing_is_handled_twice(
        lives in proptest::collection::vec(
            proptest::collection::vec((0..3u8, any::<prop::sample::Index>()), 0..60), 1..5,
        ),
        holes in proptest::collection::btree_set(0..80i64, 0..20),
    ) {
        let log: Vec<Offset> = (0..80).filter(|o| !holes.contains(o)).collect();
        let (mut committed, mut text) = (0, String::new());
        let mut handled: BTreeSet<Offset> = BTreeSet::new();
        for life in lives {
            let mut tracker = OffsetTracker::with_gaps(12, 90);
            tracker.assign_with_gaps(committed, &text);
            let mut next = log.partition_point(|o| *o < committed);
            let mut out: Vec<Ticket> = Vec::new();
            for (step, which) in life {
                if step == 0 && !out.is_empty() {
                    let ticket = out.swap_remove(which.index(out.len()));
                    prop_assert!(tracker.done(ticket));
                    prop_assert!(handled.insert(ticket.offset()), "handled twice");
                } else if let Some(offset) = log.get(next) {
                    match tracker.admit(*offset) {
                        Ok(Admission::Handle(ticket)) => out.push(ticket),
                        Ok(Admission::HandledBefore) => prop_assert!(handled.contains(offset)),
                        Err(error) => {
                            let full = matches!(error, TrackError::Full { .. } | TrackError::GapsFull { .. });
                            prop_assert!(full, "{}", error);
                            continue;
                        }
                    }
                    next += 1;
                }
            }
            if let Some((offset, gaps)) = tracker.start_commit_with_gaps() {
                prop_assert!(gaps.len() <= 90);
                let read = Gaps::decode(&gaps, offset).unwrap_or_default();
                prop_assert_eq!(Some(read), tracker.gaps());
                prop_assert!(offset >= committed);
                (committed, text) = (offset, gaps);
            }
            prop_assert!(log.iter().all(|o| *o >= committed || handled.contains(o)));
        }
    }
}
