//! What a reader sees, on batches made by hand.

use super::scan::scan;
use bytes::{Bytes, BytesMut};
use ottla_record_batch::{BatchBuilder, Compression, Compressor, RecordSet};
use ottla_types::Headers;

const TRANSACTIONAL: u8 = 1 << 4;
const CONTROL: u8 = 1 << 5;

/// A batch of `count` records from `offset` on.
fn batch(offset: i64, count: i32, producer: i64, attributes: u8, key: &[u8]) -> BytesMut {
    let mut builder = BatchBuilder::new(1 << 16);
    for _ in 0..count {
        let none = Headers::new();
        builder.try_append(1, Some(key), Some(b"v"), &none).unwrap();
    }
    let batch = builder.finish().with_producer(producer, 0, 0);
    let mut bytes = BytesMut::from(&batch.bytes()[..]);
    bytes[..8].copy_from_slice(&offset.to_be_bytes());
    bytes[22] = attributes;
    seal(&mut bytes);
    bytes
}

fn seal(bytes: &mut BytesMut) {
    let crc = crc32c::crc32c(&bytes[21..]);
    bytes[17..21].copy_from_slice(&crc.to_be_bytes());
}

fn plain(offset: i64, count: i32) -> BytesMut {
    batch(offset, count, -1, 0, b"k")
}

fn txn(offset: i64, count: i32, producer: i64) -> BytesMut {
    batch(offset, count, producer, TRANSACTIONAL, b"k")
}

fn marker(offset: i64, producer: i64, is_commit: bool) -> BytesMut {
    let key = [0, 0, 0, u8::from(is_commit)];
    batch(offset, 1, producer, TRANSACTIONAL | CONTROL, &key)
}

fn all(batches: &[BytesMut]) -> Bytes {
    batches.concat().into()
}

/// The first offsets of the batches that are shown, and the next offset.
fn see(records: &Bytes, position: i64, aborted: Option<&[(i64, i64)]>) -> (Vec<i64>, i64) {
    let scanned = scan(records, position, aborted.map(<[_]>::to_vec));
    let batches = RecordSet::from(scanned.records).batches();
    let offsets = batches.map(|batch| batch.map_or(-1, |batch| batch.base_offset()));
    (offsets.collect(), scanned.next_offset)
}

#[test]
fn plain_batches_are_shown_without_a_copy() {
    let records = all(&[plain(5, 3), plain(8, 1)]);
    assert_eq!(see(&records, 6, None), (vec![5, 8], 9));
    let scanned = scan(&records, 6, Some(Vec::new()));
    assert_eq!(scanned.records.as_ptr(), records.as_ptr());
    // Those below the position are left out, and still nothing is copied.
    let scanned = scan(&records, 8, None);
    assert!(records.as_ptr_range().contains(&scanned.records.as_ptr()));
    assert_eq!(see(&records, 8, None), (vec![8], 9));
    assert_eq!(see(&records, 9, None), (vec![], 9));
    assert_eq!(see(&Bytes::new(), 4, None), (vec![], 4));
}

#[test]
fn trap_a5_the_position_moves_over_what_holds_no_records() {
    let mut empty = plain(3, 4);
    empty.truncate(61);
    empty[8..12].copy_from_slice(&49_i32.to_be_bytes());
    empty[57..61].copy_from_slice(&0_i32.to_be_bytes());
    seal(&mut empty);
    assert_eq!(see(&all(&[empty.clone()]), 3, None), (vec![], 7));
    let control = all(&[marker(7, 1, true)]);
    assert_eq!(see(&control, 7, None), (vec![], 8));
    let between = all(&[plain(0, 3), empty, marker(7, 1, false), plain(8, 1)]);
    assert_eq!(see(&between, 0, None), (vec![0, 8], 9));
}

#[test]
fn trap_a3_aborted_transactions_are_left_out_whatever_the_order_of_the_list() {
    // Producer 1 aborts, then commits; producer 2 commits around it; producer 3 aborts last.
    let records = all(&[
        txn(0, 2, 1),
        txn(2, 1, 2),
        txn(3, 1, 1),
        marker(4, 1, false),
        txn(5, 1, 1),
        marker(6, 2, true),
        marker(7, 1, true),
        txn(8, 1, 3),
        plain(9, 1),
        marker(10, 3, false),
        txn(11, 1, 3),
    ]);
    let aborted = [(3, 8), (1, 0)];
    assert_eq!(see(&records, 0, Some(&aborted)), (vec![2, 5, 9, 11], 12));
    let (everything, next) = see(&records, 0, None);
    assert_eq!((everything, next), (vec![0, 2, 3, 5, 8, 9, 11], 12));
    // A list that begins before the position.
    let later = all(&[txn(3, 1, 1), marker(4, 1, false), txn(5, 1, 1)]);
    assert_eq!(see(&later, 3, Some(&[(1, 0)])), (vec![5], 6));
    // A batch of the same producer outside of transactions.
    let outside = all(&[batch(0, 1, 1, 0, b"k")]);
    assert_eq!(see(&outside, 0, Some(&[(1, 0)])), (vec![0], 1));
}

#[test]
fn trap_d_offsets_that_go_back_do_not_lead_back() {
    let mut far = plain(2, 1);
    far[23..27].copy_from_slice(&1_000_i32.to_be_bytes());
    seal(&mut far);
    let records = all(&[plain(0, 2), far, plain(3, 2), plain(1_003, 1)]);
    for aborted in [None, Some(&[][..])] {
        assert_eq!(see(&records, 0, aborted), (vec![0, 2, 1_003], 1_004));
    }
    let records = records.slice(..records.len() - plain(1_003, 1).len());
    assert_eq!(see(&records, 0, None), (vec![0, 2], 1_003));
}

#[test]
fn trap_d_the_end_of_a_transaction_is_not_decompressed_without_a_bound() {
    let aborts = |value: &[u8]| {
        let mut builder = BatchBuilder::new(1 << 22);
        let (key, none) = ([0; 4], Headers::new());
        builder
            .try_append(1, Some(&key[..]), Some(value), &none)
            .unwrap();
        let mut gzip = Compressor::new(Compression::Gzip).unwrap();
        let batch = builder
            .finish()
            .with_producer(1, 0, 0)
            .compressed(&mut gzip);
        let mut bytes = BytesMut::from(&batch.bytes()[..]);
        bytes[..8].copy_from_slice(&2_i64.to_be_bytes());
        bytes[22] |= TRANSACTIONAL | CONTROL;
        seal(&mut bytes);
        bytes
    };
    let around = |marker| all(&[txn(0, 2, 1), marker, txn(3, 1, 1)]);
    let small = around(aborts(&[0; 6]));
    assert_eq!(see(&small, 0, Some(&[(1, 0)])), (vec![3], 4));
    let bomb = around(aborts(&vec![0; 1 << 20]));
    assert_eq!(see(&bomb, 0, Some(&[(1, 0)])), (vec![2, 3], 2));
}

#[test]
fn a_last_batch_that_is_cut_off_is_dropped() {
    let last = plain(3, 2);
    let whole = all(&[plain(0, 3), last.clone()]);
    for cut in 1..last.len() {
        let records = whole.slice(..whole.len() - cut);
        assert_eq!(see(&records, 0, None), (vec![0], 3), "{cut} missing");
    }
    assert_eq!(see(&whole.slice(..20), 0, None), (vec![], 0));
}

#[test]
fn trap_d_what_is_malformed_is_left_for_the_reader_with_everything_behind_it() {
    type Spoil = fn(&mut BytesMut);
    let spoilers: [Spoil; 6] = [
        |b| b[8] = 0xff,
        |b| b[8..12].copy_from_slice(&10_i32.to_be_bytes()),
        |b| b[16] = 1,
        |b| b[0] = 0x80,
        |b| b[23] = 0x80,
        |b| b[..8].copy_from_slice(&i64::MAX.to_be_bytes()),
    ];
    for (n, spoil) in spoilers.into_iter().enumerate() {
        let mut bad = plain(3, 2);
        spoil(&mut bad);
        let records = all(&[plain(0, 3), bad, plain(5, 1)]);
        let (shown, next) = see(&records, 0, Some(&[]));
        assert_eq!((&*shown, next), (&[0, -1][..], 3), "spoiler {n}");
    }
    // What would be left out must be what it says it is.
    for mut bad in [marker(3, 1, false), txn(3, 1, 1)] {
        let last = bad.len() - 1;
        bad[last] ^= 1;
        let records = all(&[plain(0, 3), bad, plain(4, 1)]);
        let (shown, next) = see(&records, 0, Some(&[(1, 0)]));
        assert_eq!((&*shown, next), (&[0, -1][..], 3));
    }
}
