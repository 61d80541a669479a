use super::*;

const P: Part<'_> = Part::Partition("t", 0);

fn fresh() -> (Transaction, ProducerIds) {
    let mut ids = ProducerIds::new(7);
    (Transaction::new(&mut ids, true), ids)
}

fn at(id: i64, epoch: i16) -> ProducerAt {
    ProducerAt { id, epoch }
}

#[test]
fn each_init_raises_the_epoch_and_fences_the_one_before() {
    let (mut txn, mut ids) = fresh();
    assert_eq!(txn.init(None, 10, &mut ids), Ok(at(7, 0)));
    assert_eq!(txn.init(None, 10, &mut ids), Ok(at(7, 1)));
    assert_eq!(
        txn.add(at(7, 0), P, false, 0),
        Err(codes::PRODUCER_FENCED),
        "the older one"
    );
    assert_eq!(
        txn.add(at(8, 1), P, false, 0),
        Err(codes::INVALID_PRODUCER_ID_MAPPING)
    );
    assert_eq!(txn.add(at(7, 1), P, false, 0), Ok(()));
}

#[test]
fn an_init_with_an_expected_epoch_may_be_repeated_until_another_producer_comes() {
    let (mut txn, mut ids) = fresh();
    txn.init(None, 10, &mut ids).unwrap();
    assert_eq!(txn.init(Some(at(7, 0)), 10, &mut ids), Ok(at(7, 1)));
    assert_eq!(txn.init(Some(at(7, 0)), 10, &mut ids), Ok(at(7, 1)));
    assert_eq!(txn.init(None, 10, &mut ids), Ok(at(7, 2)));
    for stale in [at(7, 0), at(7, 1), at(6, 2)] {
        let answer = txn.init(Some(stale), 10, &mut ids);
        assert_eq!(answer, Err(codes::PRODUCER_FENCED), "{stale:?}");
    }
}

#[test]
fn an_init_aborts_an_open_transaction_with_a_raised_epoch() {
    let (mut txn, mut ids) = fresh();
    txn.init(None, 10, &mut ids).unwrap();
    txn.add(at(7, 0), P, false, 0).unwrap();
    let concurrent = Err(codes::CONCURRENT_TRANSACTIONS);
    assert_eq!(txn.init(None, 10, &mut ids), concurrent);
    assert_eq!(txn.init(None, 10, &mut ids), concurrent, "no marker yet");
    let ending = txn.complete().unwrap();
    assert_eq!((ending.producer, ending.commit), (at(7, 1), false));
    assert_eq!(ending.partitions.len(), 1);
    assert_eq!(txn.complete(), None);
    assert_eq!(txn.init(None, 10, &mut ids), Ok(at(7, 2)));
    let zombie = txn.end(at(7, 0), true, false, &mut ids);
    assert_eq!(zombie, Err(codes::PRODUCER_FENCED));
}

#[test]
fn a_producer_that_lost_track_aborts_its_own_transaction_and_goes_on() {
    for is_v2 in [false, true] {
        let (mut txn, mut ids) = fresh();
        let me = txn.init(None, 10, &mut ids).unwrap();
        txn.add(me, P, is_v2, 0).unwrap();
        let first = txn.init(Some(me), 10, &mut ids);
        assert_eq!(first, Err(codes::CONCURRENT_TRANSACTIONS));
        assert!(!txn.complete().unwrap().commit);
        assert_eq!(txn.init(Some(me), 10, &mut ids), Ok(at(7, 1)));
        assert_eq!(txn.add(me, P, is_v2, 0), Err(codes::PRODUCER_FENCED));
    }
}

#[test]
fn version_1_ends_keep_the_epoch_and_may_be_repeated() {
    let (mut txn, mut ids) = fresh();
    let me = txn.init(None, 10, &mut ids).unwrap();
    let early = txn.end(me, true, false, &mut ids);
    assert_eq!(early, Err(codes::INVALID_TXN_STATE));
    txn.add(me, P, false, 0).unwrap();
    assert_eq!(txn.end(me, true, false, &mut ids), Ok(me));
    let again = txn.end(me, true, false, &mut ids);
    assert_eq!(again, Err(codes::CONCURRENT_TRANSACTIONS));
    let other = txn.end(me, false, false, &mut ids);
    assert_eq!(other, Err(codes::INVALID_TXN_STATE));
    txn.complete().unwrap();
    assert_eq!(txn.end(me, true, false, &mut ids), Ok(me));
    let other = txn.end(me, false, false, &mut ids);
    assert_eq!(other, Err(codes::INVALID_TXN_STATE));
}

#[test]
fn trap_c28_a_late_end_of_version_2_does_not_hit_the_next_transaction() {
    let (mut txn, mut ids) = fresh();
    let first = txn.init(None, 10, &mut ids).unwrap();
    txn.add(first, P, true, 0).unwrap();
    let second = txn.end(first, true, true, &mut ids).unwrap();
    assert_eq!(second, at(7, 1));
    assert_eq!(txn.complete().unwrap().producer, second);
    // The same call again is answered as the first; then the next transaction begins.
    assert_eq!(txn.end(first, true, true, &mut ids), Ok(second));
    let other = txn.end(first, false, true, &mut ids);
    assert_eq!(other, Err(codes::INVALID_TXN_STATE));
    txn.add(second, P, true, 0).unwrap();
    let late = txn.end(first, true, true, &mut ids);
    assert_eq!(late, Err(codes::PRODUCER_FENCED));
    assert_eq!(txn.state(), TransactionState::Ongoing);
}

#[test]
fn a_transaction_that_took_too_long_lets_its_producer_go_on_where_that_is_remembered() {
    for remembers_ended in [true, false] {
        let mut ids = ProducerIds::new(7);
        let mut txn = Transaction::new(&mut ids, remembers_ended);
        let first = txn.init(None, 10, &mut ids).unwrap();
        txn.add(first, P, false, 0).unwrap();
        txn.expire(10);
        txn.complete().unwrap();
        let again = txn.init(Some(first), 10, &mut ids);
        let expected = match remembers_ended {
            true => Ok(at(7, 1)),
            false => Err(codes::PRODUCER_FENCED),
        };
        assert_eq!(again, expected);
        assert_eq!(txn.init(None, 10, &mut ids), Ok(at(7, 2)), "a new one");
    }
}

#[test]
fn version_2_aborts_without_a_partition_and_never_commits_without_one() {
    let (mut txn, mut ids) = fresh();
    let first = txn.init(None, 10, &mut ids).unwrap();
    let commit = txn.end(first, true, true, &mut ids);
    assert_eq!(commit, Err(codes::INVALID_TXN_STATE));
    let second = txn.end(first, false, true, &mut ids).unwrap();
    assert!(txn.complete().unwrap().partitions.is_empty());
    assert_eq!(second, at(7, 1));
    assert_eq!(txn.end(second, false, true, &mut ids), Ok(at(7, 2)));
}

#[test]
fn used_up_epochs_bring_a_new_id() {
    let (mut txn, mut ids) = fresh();
    txn.init(None, 10, &mut ids).unwrap();
    txn.producer.epoch = i16::MAX - 1;
    let last = txn.producer;
    assert_eq!(txn.init(Some(last), 10, &mut ids), Ok(at(8, 0)));
    assert_eq!(txn.init(Some(at(8, 0)), 10, &mut ids), Ok(at(8, 1)));
    txn.producer.epoch = i16::MAX - 1;
    let last = txn.producer;
    txn.add(last, P, true, 0).unwrap();
    assert_eq!(txn.end(last, true, true, &mut ids), Ok(at(9, 0)));
    assert_eq!(txn.complete().unwrap().producer, at(8, i16::MAX));
    assert_eq!(txn.end(last, true, true, &mut ids), Ok(at(9, 0)));
    assert_eq!(txn.add(at(9, 0), P, true, 0), Ok(()));
}

#[test]
fn a_transaction_out_of_time_is_aborted_and_its_producer_fenced() {
    let (mut txn, mut ids) = fresh();
    let me = txn.init(None, 10, &mut ids).unwrap();
    txn.add(me, P, false, 100).unwrap();
    txn.add(me, Part::Group("g"), false, 105).unwrap();
    assert_eq!(txn.deadline(), Some(110));
    txn.expire(109);
    assert_eq!(txn.state(), TransactionState::Ongoing);
    txn.expire(110);
    assert_eq!(txn.state(), TransactionState::PrepareAbort);
    let ending = txn.complete().unwrap();
    assert_eq!((ending.groups.len(), ending.producer), (1, at(7, 1)));
    let late = txn.end(me, true, false, &mut ids);
    assert_eq!(late, Err(codes::PRODUCER_FENCED));
}

#[test]
fn what_was_not_added_is_not_part_of_it() {
    let (mut txn, mut ids) = fresh();
    let me = txn.init(None, 10, &mut ids).unwrap();
    assert_eq!(txn.verify(me, P), Err(codes::TRANSACTION_ABORTABLE));
    txn.add(me, P, false, 0).unwrap();
    assert_eq!(txn.verify(me, P), Ok(()));
    assert!(txn.verify(me, Part::Group("g")).is_err());
    txn.forget_topic("t");
    assert!(txn.verify(me, P).is_err());
}
