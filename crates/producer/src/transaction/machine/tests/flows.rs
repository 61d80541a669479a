//! What is asked, in which order, and what single failures come to.

use super::model::Script;
use super::*;
use TransactErrorKind as Kind;
use TransactionVersion::{V1, V2};

const INIT: &str = "InitProducerId";
const ADD: &str = "AddPartitionsToTxn";
const ADD_OFFSETS: &str = "AddOffsetsToTxn";
const OFFSETS: &str = "TxnOffsetCommit";
const END: &str = "EndTxn";

impl Bed {
    fn calm(version: TransactionVersion) -> Self {
        let mut bed = Self::new(version, 1, Weather::default());
        assert_eq!(bed.asked(), [INIT]);
        bed
    }

    /// What was asked since the last look.
    fn asked(&mut self) -> Vec<&'static str> {
        let asked = std::mem::take(&mut self.network.asked);
        asked.iter().map(Request::api).collect()
    }

    /// A transaction with two records and an offset, up to its end.
    fn fill(&mut self, number: u32) {
        self.begin().unwrap();
        self.write(number, 0).unwrap();
        self.write(number, 0).unwrap();
        self.send_offset(i64::from(number)).unwrap();
        self.asked();
    }

    fn script(&mut self, scripts: impl IntoIterator<Item = Script>) {
        self.network.scripted.extend(scripts);
    }

    fn committed(&self, number: u32) -> u32 {
        let committed = &self.network.coordinator.committed;
        committed.get(&number).copied().unwrap_or(0)
    }
}

fn kind(result: Result<(), TransactError>) -> Kind {
    result.unwrap_err().kind()
}

#[test]
fn version_1_announces_everything_and_keeps_its_epoch() {
    let mut bed = Bed::calm(V1);
    let first = bed.machine.producer();
    for number in 1..=2 {
        bed.begin().unwrap();
        bed.write(number, 0).unwrap();
        bed.write(number, 0).unwrap();
        bed.write(number, 1).unwrap();
        bed.send_offset(i64::from(number)).unwrap();
        bed.send_offset(i64::from(number) + 10).unwrap();
        bed.commit().unwrap();
        let asked = [ADD, ADD, ADD_OFFSETS, OFFSETS, OFFSETS, END];
        assert_eq!(bed.asked(), asked, "transaction {number}");
        assert_eq!(bed.committed(number), 3);
    }
    assert_eq!(bed.machine.producer(), first);
    assert_eq!(bed.network.coordinator.offset, Some(12));
}

#[test]
fn version_2_leaves_the_adding_out_and_takes_its_epoch_from_the_end() {
    let mut bed = Bed::calm(V2);
    for number in 1..=3 {
        let before = bed.machine.producer().unwrap();
        bed.begin().unwrap();
        bed.write(number, 0).unwrap();
        bed.write(number, 1).unwrap();
        bed.send_offset(i64::from(number)).unwrap();
        let is_abort = number == 2;
        let ended = if is_abort { bed.abort() } else { bed.commit() };
        ended.unwrap();
        assert_eq!(bed.asked(), [OFFSETS, END]);
        assert_eq!(bed.committed(number), if is_abort { 0 } else { 2 });
        let after = bed.machine.producer().unwrap();
        assert_eq!((after.id, after.epoch), (before.id, before.epoch + 1));
    }
    assert_eq!(bed.network.coordinator.offset, Some(3));
}

#[test]
fn nothing_is_asked_for_a_transaction_without_anything_in_it() {
    for version in [V1, V2] {
        let mut bed = Bed::calm(version);
        bed.begin().unwrap();
        bed.commit().unwrap();
        bed.begin().unwrap();
        bed.abort().unwrap();
        bed.abort().unwrap();
        assert_eq!(bed.asked(), [""; 0]);
    }
}

#[test]
fn version_1_takes_another_epoch_after_an_abort() {
    let mut bed = Bed::calm(V1);
    let before = bed.machine.producer().unwrap();
    bed.fill(1);
    bed.abort().unwrap();
    assert_eq!(bed.asked(), [END]);
    bed.begin().unwrap();
    assert_eq!(bed.asked(), [INIT]);
    assert!(bed.machine.producer().unwrap().epoch > before.epoch);
    assert_eq!(bed.network.coordinator.offset, None);
}

#[test]
fn calls_that_do_not_fit_are_refused() {
    let mut bed = Bed::uninitialised(V2, 1, Weather::default());
    assert_eq!(kind(bed.begin()), Kind::InvalidState);
    let mut bed = Bed::calm(V2);
    assert_eq!(kind(bed.commit()), Kind::InvalidState);
    assert_eq!(kind(bed.send_offset(1)), Kind::InvalidState);
    assert_eq!(kind(bed.write(1, 0)), Kind::InvalidState);
    bed.begin().unwrap();
    assert_eq!(kind(bed.begin()), Kind::InvalidState);
    let deadline = bed.deadline();
    assert!(bed.machine.initialise(deadline).is_err());
    // The refusals have spoilt nothing.
    bed.write(1, 0).unwrap();
    bed.commit().unwrap();
    assert_eq!(bed.committed(1), 1);
}

#[test]
fn a_record_that_was_not_written_fails_the_commit() {
    for version in [V1, V2] {
        let mut bed = Bed::calm(version);
        bed.fill(1);
        let lost = PublishError::new(
            PublishErrorKind::TimedOut,
            ottla_types::Fate::NotWritten,
            "t",
        );
        bed.machine.write_failed(&lost);
        let error = bed.commit().unwrap_err();
        assert_eq!(error.kind(), Kind::Abortable);
        assert!(!error.may_be_committed());
        assert_eq!(kind(bed.write(1, 0)), Kind::Abortable);
        assert_eq!(kind(bed.begin()), Kind::Abortable);
        bed.abort().unwrap();
        bed.fill(2);
        bed.commit().unwrap();
        assert_eq!((bed.committed(1), bed.committed(2)), (0, 2));
    }
}

#[test]
fn trap_c21_a_server_error_at_the_end_is_no_success() {
    for version in [V1, V2] {
        let mut bed = Bed::calm(version);
        bed.fill(1);
        // Not carried out, however often it is asked: the outcome is unknown to the end.
        bed.script([Script::Refuse(ErrorCode::UNKNOWN_SERVER_ERROR); 200]);
        let error = bed.commit().unwrap_err();
        assert_eq!(error.kind(), Kind::UnknownOutcome);
        assert!(error.may_be_committed());
        assert!(bed.asked().len() > 2);
        assert_eq!(bed.committed(1), 0);
        bed.network.scripted.clear();
        assert_eq!(kind(bed.begin()), Kind::UnknownOutcome);
        bed.abort().unwrap();
        // With version 1 the end is the coordinator's answer to an end, if there is one to make.
        let asked = bed.asked();
        match version {
            V1 => assert_eq!(asked, [END]),
            V2 => assert_eq!((asked[0], asked.contains(&END)), (INIT, false)),
        }
        bed.fill(2);
        bed.commit().unwrap();
        assert_eq!((bed.committed(1), bed.committed(2)), (0, 2));

        // Carried out: the same question tells.
        bed.fill(3);
        bed.script([Script::DoneBut(ErrorCode::UNKNOWN_SERVER_ERROR)]);
        bed.commit().unwrap();
        assert_eq!(bed.asked(), [END, END]);
        assert_eq!(bed.committed(3), 2);
    }
}

#[test]
fn trap_c28_a_late_end_cannot_reach_the_next_transaction() {
    for version in [V1, V2] {
        for lost in [Script::Delay, Script::LoseAnswer, Script::LoseRequest] {
            let mut bed = Bed::calm(version);
            bed.fill(1);
            bed.script([lost, Script::Pass]);
            bed.commit().unwrap();
            assert_eq!(bed.asked(), [END, END]);
            bed.begin().unwrap();
            let between: &[_] = if version == V1 { &[INIT] } else { &[] };
            assert_eq!(bed.asked(), between);
            bed.write(2, 0).unwrap();
            // What was late comes now.
            bed.network.clear_up();
            assert_eq!((bed.committed(1), bed.committed(2)), (2, 0));
            bed.abort().unwrap();
            assert_eq!(bed.committed(2), 0);
        }
    }
}

#[test]
fn a_commit_that_is_never_answered_is_unknown_and_a_restart_of_the_epoch_settles_it() {
    for version in [V1, V2] {
        for (script, committed) in [(Script::LoseRequest, 0), (Script::LoseAnswer, 2)] {
            let mut bed = Bed::calm(version);
            bed.fill(1);
            bed.script([script; 100]);
            let error = bed.commit().unwrap_err();
            assert_eq!(error.kind(), Kind::UnknownOutcome);
            bed.network.scripted.clear();
            bed.abort().unwrap();
            bed.network.clear_up();
            assert_eq!(bed.committed(1), committed);
            bed.fill(2);
            bed.commit().unwrap();
            assert_eq!(bed.committed(2), 2);
        }
    }
}

#[test]
fn trap_c21_a_commit_that_its_coordinator_may_have_in_its_log_is_unknown() {
    for version in [V1, V2] {
        for code in [
            ErrorCode::COORDINATOR_NOT_AVAILABLE,
            ErrorCode::NOT_COORDINATOR,
        ] {
            let mut bed = Bed::calm(version);
            bed.fill(1);
            // Carried out by the log's followers, and then nobody can be asked.
            let loading = Script::Refuse(ErrorCode::COORDINATOR_LOAD_IN_PROGRESS);
            bed.script(std::iter::once(Script::DoneBut(code)).chain([loading; 200]));
            let error = bed.commit().unwrap_err();
            assert_eq!(error.kind(), Kind::UnknownOutcome, "{version:?} {code}");
            assert!(error.may_be_committed());
            bed.network.scripted.clear();
            bed.abort().unwrap();
            assert_eq!(bed.committed(1), 2);
            // The next one has nothing of it.
            bed.fill(2);
            bed.script([Script::Refuse(code), Script::Pass]);
            bed.commit().unwrap();
            bed.fill(3);
            bed.script([loading; 200]);
            assert!(!bed.commit().unwrap_err().may_be_committed());
        }
    }
}

#[test]
fn a_producer_that_was_replaced_hears_it_whatever_it_does_next() {
    for version in [V1, V2] {
        for step in 0..4 {
            let mut bed = Bed::calm(version);
            bed.fill(1);
            bed.network.rival();
            let ended = match step {
                0 => bed.send_offset(5),
                1 => bed.commit(),
                2 => bed.abort(),
                _ => {
                    bed.write(1, 0).unwrap();
                    bed.commit()
                }
            };
            let error = ended.unwrap_err();
            assert_eq!(error.kind(), Kind::Fenced, "{version:?} step {step}");
            assert!(!error.may_be_committed());
            bed.asked();
            // It is over: nothing is asked any more.
            assert_eq!(kind(bed.begin()), Kind::Fenced);
            assert_eq!(kind(bed.abort()), Kind::Fenced);
            assert_eq!(kind(bed.write(2, 0)), Kind::Fenced);
            assert_eq!(bed.asked(), [""; 0]);
            assert_eq!(bed.committed(1), 0);
        }
    }
}

#[test]
fn a_transaction_that_took_too_long_is_told_from_fencing() {
    for version in [V1, V2] {
        for step in 0..3 {
            let mut bed = Bed::calm(version);
            bed.fill(1);
            bed.network.coordinator.fence();
            let error = match step {
                0 => bed.send_offset(5).unwrap_err(),
                1 => bed.commit().unwrap_err(),
                _ => {
                    bed.write(1, 0).unwrap();
                    bed.commit().unwrap_err()
                }
            };
            assert_eq!(error.kind(), Kind::Abortable, "{version:?} step {step}");
            bed.abort().unwrap();
            bed.fill(2);
            bed.commit().unwrap();
            assert_eq!((bed.committed(1), bed.committed(2)), (0, 2));
        }
    }
}

#[test]
fn a_fence_after_an_unclear_commit_says_that_it_may_be_committed() {
    let mut bed = Bed::calm(V1);
    bed.fill(1);
    bed.script([Script::LoseAnswer]);
    let deadline = bed.deadline();
    let ticket = bed.machine.commit(deadline).unwrap();
    assert!(bed.step());
    bed.network.rival();
    let error = bed.run(ticket).unwrap_err();
    assert_eq!(error.kind(), Kind::Fenced);
    assert!(error.may_be_committed());
    assert_eq!(bed.committed(1), 2);
}

#[test]
fn what_passes_is_asked_again_and_what_does_not_is_not() {
    for code in [
        ErrorCode::COORDINATOR_LOAD_IN_PROGRESS,
        ErrorCode::COORDINATOR_NOT_AVAILABLE,
        ErrorCode::NOT_COORDINATOR,
        ErrorCode::CONCURRENT_TRANSACTIONS,
        ErrorCode::UNKNOWN_TOPIC_OR_PARTITION,
        ErrorCode::OPERATION_NOT_ATTEMPTED,
    ] {
        let mut bed = Bed::calm(V1);
        bed.begin().unwrap();
        bed.script([Script::Refuse(code); 2]);
        bed.write(1, 0).unwrap();
        bed.script([Script::Refuse(code), Script::Pass]);
        bed.script([Script::Refuse(code), Script::Pass]);
        bed.send_offset(1).unwrap();
        let asked = [ADD, ADD, ADD, ADD_OFFSETS, ADD_OFFSETS, OFFSETS, OFFSETS];
        assert_eq!(bed.asked(), asked, "{code}");
        bed.commit().unwrap();
    }
    // The member's place is gone: another one handles its records.
    for code in [
        ErrorCode::ILLEGAL_GENERATION,
        ErrorCode::UNKNOWN_MEMBER_ID,
        ErrorCode::FENCED_INSTANCE_ID,
        ErrorCode::STALE_MEMBER_EPOCH,
        ErrorCode::GROUP_AUTHORIZATION_FAILED,
        ErrorCode::TRANSACTION_ABORTABLE,
    ] {
        let mut bed = Bed::calm(V2);
        bed.begin().unwrap();
        bed.write(1, 0).unwrap();
        bed.script([Script::Refuse(code)]);
        assert_eq!(kind(bed.send_offset(1)), Kind::Abortable, "{code}");
        assert_eq!(kind(bed.commit()), Kind::Abortable, "{code}");
        assert_eq!(bed.asked(), [OFFSETS]);
        bed.abort().unwrap();
        assert_eq!(bed.asked(), [END]);
    }
    let mut bed = Bed::calm(V2);
    bed.begin().unwrap();
    let denied = ErrorCode::TRANSACTIONAL_ID_AUTHORIZATION_FAILED;
    bed.script([Script::Refuse(denied)]);
    assert_eq!(kind(bed.send_offset(1)), Kind::Fatal);
    assert_eq!(kind(bed.abort()), Kind::Fatal);
    assert_eq!(bed.asked(), [OFFSETS]);
}

#[test]
fn a_partition_that_is_refused_keeps_its_writes_back() {
    let mut bed = Bed::calm(V1);
    bed.begin().unwrap();
    let denied = ErrorCode::TOPIC_AUTHORIZATION_FAILED;
    bed.script([Script::Refuse(denied)]);
    assert_eq!(kind(bed.write(1, 0)), Kind::Abortable);
    bed.abort().unwrap();
    bed.fill(2);
    bed.commit().unwrap();
    assert_eq!(bed.committed(2), 2);
}

#[test]
fn an_abort_without_an_answer_is_tried_again_by_the_next_call() {
    for version in [V1, V2] {
        let mut bed = Bed::calm(version);
        bed.fill(1);
        bed.script([Script::LoseRequest; 100]);
        assert_eq!(kind(bed.abort()), Kind::Unavailable);
        bed.network.scripted.clear();
        bed.asked();
        bed.abort().unwrap();
        assert_eq!(bed.asked()[0], INIT);
        bed.fill(2);
        bed.commit().unwrap();
        assert_eq!((bed.committed(1), bed.committed(2)), (0, 2));
    }
}

#[test]
fn waits_between_attempts_grow_and_a_call_ends_at_its_deadline() {
    let mut bed = Bed::uninitialised(V2, 1, Weather::default());
    bed.script([Script::Refuse(ErrorCode::COORDINATOR_NOT_AVAILABLE); 1000]);
    let start = bed.now;
    let deadline = bed.deadline();
    let ticket = bed.machine.initialise(deadline).unwrap();
    assert_eq!(kind(bed.run(ticket)), Kind::Unavailable);
    assert!(bed.now >= deadline && bed.now - start < Duration::from_secs(3));
    let asked = bed.asked().len();
    assert!((4..40).contains(&asked), "{asked} attempts");
    bed.network.scripted.clear();
    let deadline = bed.deadline();
    let ticket = bed.machine.initialise(deadline).unwrap();
    bed.run(ticket).unwrap();
}
