//! Batches written out by hand from the format's description, and the edges of the format.

#![allow(clippy::unwrap_used, reason = "tests")]

use bytes::{BufMut, Bytes, BytesMut};
use ottla_record_batch::{
    AppendError, BATCH_OVERHEAD, BatchBuilder, BatchView, Compression, DecodeError, Problem,
    RecordSet, RecordSetBuilder, RecordView, record_size,
};
use ottla_types::{Header, Headers, TimestampType};
use std::sync::Arc;

/// One record, `a` = `b` with the header `h` = null, at 1,000 ms.
fn golden_batch() -> Vec<u8> {
    let mut bytes = vec![
        0, 0, 0, 0, 0, 0, 0, 0, // base offset 0
        0, 0, 0, 61, // what follows: 49 bytes of header and 12 of the record
        0xff, 0xff, 0xff, 0xff, // leader epoch -1
        2,    // magic
        0, 0, 0, 0, // CRC, set below
        0, 0, // attributes: no codec, CreateTime
        0, 0, 0, 0, // last offset delta 0
        0, 0, 0, 0, 0, 0, 0x03, 0xe8, // base timestamp 1,000
        0, 0, 0, 0, 0, 0, 0x03, 0xe8, // max timestamp 1,000
        0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, // producer id -1
        0xff, 0xff, // producer epoch -1
        0xff, 0xff, 0xff, 0xff, // base sequence -1
        0, 0, 0, 1,  // one record
        22, // its length, 11, as a zigzag varint
        0,  // attributes
        0,  // timestamp delta 0
        0,  // offset delta 0
        2, b'a', // key: length 1
        2, b'b', // value: length 1
        2,    // one header
        2, b'h', // its key: length 1
        1,    // its value: length -1, null
    ];
    let crc = crc32c::crc32c(&bytes[21..]);
    bytes[17..21].copy_from_slice(&crc.to_be_bytes());
    bytes
}

/// Rewrites a batch's checksum after its bytes were changed.
fn fix_crc(batch: &mut [u8]) {
    let crc = crc32c::crc32c(&batch[21..]);
    batch[17..21].copy_from_slice(&crc.to_be_bytes());
}

fn set(bytes: impl Into<Bytes>) -> RecordSet {
    RecordSet::from(bytes.into())
}

fn only_batch(set: &RecordSet) -> BatchView {
    let mut batches = set.batches();
    let batch = batches.next().unwrap().unwrap();
    assert!(batches.next().is_none());
    batch
}

fn records(set: &RecordSet) -> Result<Vec<RecordView>, DecodeError> {
    let mut all = Vec::new();
    for batch in set.batches() {
        for record in batch?.records() {
            all.push(record?);
        }
    }
    Ok(all)
}

fn null_header() -> Headers {
    let mut headers = Headers::new();
    headers.push("h", None);
    headers
}

#[test]
fn the_builder_writes_the_bytes_that_the_format_asks_for() {
    let mut builder = BatchBuilder::new(1024);
    let index = builder.try_append(1_000, Some(b"a"), Some(b"b"), &null_header());
    assert_eq!(index, Ok(0));
    assert_eq!(&builder.finish().bytes()[..], &golden_batch()[..]);
}

#[test]
fn the_golden_batch_is_read_field_by_field() {
    let set = set(golden_batch());
    let batch = only_batch(&set);
    assert_eq!((batch.base_offset(), batch.last_offset()), (0, 0));
    assert_eq!(batch.leader_epoch(), None);
    assert_eq!(batch.producer_id(), None);
    assert_eq!(batch.compression(), Ok(Compression::None));
    assert!(!batch.is_control() && !batch.is_transactional());
    let record = batch.records().next().unwrap().unwrap();
    let record = record.into_consumed(Arc::from("t"), 3).unwrap();
    assert_eq!(record.offset, 0);
    assert_eq!(record.timestamp_ms, 1_000);
    assert_eq!(record.key.as_deref(), Some(&b"a"[..]));
    assert_eq!(record.value.as_deref(), Some(&b"b"[..]));
    assert_eq!(record.headers, null_header());
}

#[test]
fn the_checksum_is_crc_32c() {
    // The check value of CRC-32/ISCSI in the catalogue of CRC algorithms.
    assert_eq!(crc32c::crc32c(b"123456789"), 0xe306_9283);
}

#[test]
fn keys_and_values_share_the_bytes_of_the_set() {
    let set = set(golden_batch());
    let record = records(&set).unwrap().remove(0);
    let all = set.bytes().as_ptr_range();
    assert!(all.contains(&record.key.unwrap().as_ptr()));
    assert!(all.contains(&record.value.unwrap().as_ptr()));
    let headers = records(&set).unwrap()[0].headers().unwrap();
    assert!(all.contains(&headers.iter().next().unwrap().key.as_ptr()));
}

#[test]
fn a_batch_that_is_cut_off_ends_the_iteration_without_error() {
    let whole = golden_batch();
    let mut two = whole.clone();
    two.extend_from_slice(&whole);
    for end in whole.len()..two.len() {
        let set = set(two[..end].to_vec());
        let batches: Vec<_> = set.batches().collect();
        assert_eq!(batches.len(), 1, "cut at {end}");
        assert!(batches[0].is_ok());
    }
    assert_eq!(set(two).batches().count(), 2);
}

#[test]
fn a_flipped_bit_is_a_bad_checksum_and_an_old_format_is_named() {
    let mut bad = golden_batch();
    *bad.last_mut().unwrap() ^= 1;
    let error = set(bad).batches().next().unwrap().unwrap_err();
    assert!(matches!(error, DecodeError::BadCrc { base_offset: 0, .. }));

    let mut old = golden_batch();
    old[16] = 1;
    let error = set(old).batches().next().unwrap().unwrap_err();
    assert_eq!(
        error,
        DecodeError::UnknownMagic {
            base_offset: 0,
            magic: 1
        }
    );
}

#[test]
fn illegal_lengths_counts_and_offsets_are_refused_before_anything_is_reserved() {
    type Change = (usize, &'static [u8], Problem);
    let changes: [Change; 8] = [
        (8, &[0xff, 0xff, 0xff, 0xff], Problem::BatchLength),
        (8, &[0, 0, 0, 48], Problem::BatchLength),
        (57, &[0x7f, 0xff, 0xff, 0xff], Problem::RecordCount),
        (57, &[0xff, 0xff, 0xff, 0xff], Problem::RecordCount),
        (23, &[0xff, 0xff, 0xff, 0xff], Problem::BatchOffsets),
        (0, &[0x80, 0, 0, 0, 0, 0, 0, 0], Problem::BatchOffsets),
        // Above i64::MAX together with the last offset delta.
        (23, &[0, 0, 0, 1], Problem::BatchOffsets),
        (57, &[0, 0, 0, 2], Problem::RecordCount),
    ];
    for (i, (at, bytes, problem)) in changes.into_iter().enumerate() {
        let mut batch = golden_batch();
        if i == 6 {
            batch[0..8].copy_from_slice(&i64::MAX.to_be_bytes());
        }
        batch[at..at + bytes.len()].copy_from_slice(bytes);
        fix_crc(&mut batch);
        let error = set(batch).batches().next().unwrap().unwrap_err();
        assert!(
            matches!(error, DecodeError::Malformed { problem: p, .. } if p == problem),
            "case {i}: {error}"
        );
    }
}

#[test]
fn illegal_record_fields_are_refused_with_the_rule_they_break() {
    let changes: [(usize, u8, Problem); 7] = [
        (61, 0x01, Problem::RecordLength), // length -1
        (61, 0x7e, Problem::RecordLength), // length 63, more than is left
        (61, 20, Problem::TrailingBytes),  // one byte short
        (63, 0xff, Problem::RecordOffset), // a longer timestamp shifts the fields
        (64, 0x02, Problem::RecordOffset), // offset delta 1 in a batch of one
        (65, 0x03, Problem::FieldLength),  // key length -2
        (67, 0x7e, Problem::FieldLength),  // value length 63
    ];
    for (at, byte, problem) in changes {
        let mut batch = golden_batch();
        batch[at] = byte;
        fix_crc(&mut batch);
        let error = records(&set(batch)).unwrap_err();
        assert!(
            matches!(error, DecodeError::Malformed { problem: p, .. } if p == problem),
            "byte {at}: {error}"
        );
    }
}

#[test]
fn a_bad_header_fails_alone_and_leaves_the_record_readable() {
    let changes: [(usize, u8, Problem); 5] = [
        (69, 0x7e, Problem::HeaderCount),   // 63 headers
        (69, 0x01, Problem::HeaderCount),   // -1 headers
        (69, 0x00, Problem::TrailingBytes), // none, but bytes follow
        (70, 0x01, Problem::Header),        // null key
        (72, 0x02, Problem::Header),        // value of one byte that is not there
    ];
    for (at, byte, problem) in changes {
        let mut batch = golden_batch();
        batch[at] = byte;
        fix_crc(&mut batch);
        let record = records(&set(batch)).unwrap().remove(0);
        assert_eq!(record.key.as_deref(), Some(&b"a"[..]));
        let error = record.headers().unwrap_err();
        assert_eq!(error, DecodeError::Malformed { offset: 0, problem });
    }
}

#[test]
fn trap_b_duplicate_ordered_null_empty_and_non_utf8_headers_are_kept() {
    let mut headers = Headers::new();
    headers.push("b", Some(Bytes::from_static(b"1")));
    headers.push("a", None);
    headers.push("b", Some(Bytes::new()));
    headers.push("", Some(Bytes::from_static(b"2")));
    headers.push_raw(Header {
        key: Bytes::from_static(&[0xff, 0x00, 0xfe]),
        value: Some(Bytes::from_static(&[0xff])),
    });
    let mut builder = BatchBuilder::new(1024);
    builder.try_append(0, None, None, &headers).unwrap();
    let record = records(&builder.finish().into()).unwrap().remove(0);
    assert_eq!(record.headers().unwrap(), headers);
}

#[test]
fn null_and_empty_keys_and_values_differ() {
    let none = Headers::new();
    let mut builder = BatchBuilder::new(1024);
    builder.try_append(1, None, Some(b""), &none).unwrap();
    builder.try_append(1, Some(b""), None, &none).unwrap();
    let all = records(&builder.finish().into()).unwrap();
    assert_eq!((&all[0].key, &all[0].value), (&None, &Some(Bytes::new())));
    assert_eq!((&all[1].key, &all[1].value), (&Some(Bytes::new()), &None));
}

#[test]
fn timestamps_may_be_absent_go_back_and_span_all_that_fits_one_delta() {
    let none = Headers::new();
    let mut builder = BatchBuilder::new(1024);
    for ts in [-1, 5, i64::MAX - 1, -1, 0] {
        builder.try_append(ts, None, None, &none).unwrap();
    }
    // -1 to i64::MIN is in range; a first record at i64::MAX and one at -2 are not.
    builder.try_append(i64::MIN, None, None, &none).unwrap();
    let batch = builder.finish();
    assert_eq!(batch.max_timestamp_ms(), i64::MAX - 1);
    let times: Vec<_> = records(&batch.into())
        .unwrap()
        .iter()
        .map(|r| r.timestamp_ms)
        .collect();
    assert_eq!(times, [-1, 5, i64::MAX - 1, -1, 0, i64::MIN]);

    let mut builder = BatchBuilder::new(1024);
    builder.try_append(i64::MAX, None, None, &none).unwrap();
    let too_far = builder.try_append(-2, None, None, &none);
    assert_eq!(too_far, Err(AppendError::Full));
    assert_eq!(builder.len(), 1);
}

#[test]
fn an_overflowing_timestamp_from_the_wire_wraps_and_stops_nothing() {
    let mut batch = golden_batch();
    batch[27..35].copy_from_slice(&i64::MAX.to_be_bytes());
    batch[63] = 2; // delta 1
    fix_crc(&mut batch);
    assert_eq!(records(&set(batch)).unwrap()[0].timestamp_ms, i64::MIN);
}

#[test]
fn trap_a12_log_append_time_gives_every_record_the_batchs_time() {
    let mut batch = golden_batch();
    batch[22] = 1 << 3;
    batch[35..43].copy_from_slice(&7_777i64.to_be_bytes());
    fix_crc(&mut batch);
    let record = records(&set(batch)).unwrap().remove(0);
    assert_eq!(record.timestamp_ms, 7_777);
    assert_eq!(record.timestamp_type, TimestampType::LogAppendTime);
}

#[test]
fn codecs_that_are_not_known_are_a_typed_error_and_can_be_passed_over() {
    for codec in 5..8 {
        let mut bytes = golden_batch();
        bytes[22] = codec;
        // More records than the bytes could hold uncompressed.
        bytes[57..61].copy_from_slice(&1_000i32.to_be_bytes());
        bytes[23..27].copy_from_slice(&999i32.to_be_bytes());
        fix_crc(&mut bytes);
        bytes.extend_from_slice(&golden_batch());
        let set = set(bytes);
        let first = set.batches().next().unwrap().unwrap();
        assert_eq!(first.last_offset(), 999);
        let mut iter = first.records();
        let wanted = DecodeError::UnsupportedCodec {
            base_offset: 0,
            last_offset: 999,
            codec,
        };
        assert_eq!(first.compression(), Err(wanted));
        assert_eq!((wanted.offset(), wanted.skip_to()), (0, Some(1_000)));
        assert_eq!(iter.next().unwrap().unwrap_err(), wanted);
        assert!(iter.next().is_none());
        assert_eq!(set.batches().count(), 2);
    }
}

#[test]
fn an_empty_batch_has_no_records_but_covers_offsets() {
    let mut bytes = golden_batch();
    bytes.truncate(BATCH_OVERHEAD);
    bytes[0..8].copy_from_slice(&40i64.to_be_bytes());
    bytes[8..12].copy_from_slice(&49i32.to_be_bytes());
    bytes[23..27].copy_from_slice(&9i32.to_be_bytes());
    bytes[57..61].copy_from_slice(&0i32.to_be_bytes());
    fix_crc(&mut bytes);
    let set = set(bytes);
    let batch = only_batch(&set);
    assert_eq!((batch.record_count(), batch.last_offset()), (0, 49));
    assert_eq!(batch.records().count(), 0);
}

#[test]
fn trap_a2_a_control_batch_is_marked_and_its_record_is_readable() {
    let mut bytes = BytesMut::from(&golden_batch()[..BATCH_OVERHEAD]);
    // Attributes: transactional and control.
    bytes[22] = (1 << 4) | (1 << 5);
    bytes[43..51].copy_from_slice(&12i64.to_be_bytes());
    // Length 16; attributes and deltas 0; key of 4 bytes: version 0, type 1 (commit);
    // value of 6 bytes: version 0, coordinator epoch 0; no headers.
    bytes.put_slice(&[32, 0, 0, 0, 8, 0, 0, 0, 1, 12, 0, 0, 0, 0, 0, 0, 0]);
    let length = (bytes.len() - 12) as i32;
    bytes[8..12].copy_from_slice(&length.to_be_bytes());
    fix_crc(&mut bytes);
    let set = set(bytes.freeze());
    let batch = only_batch(&set);
    assert!(batch.is_control() && batch.is_transactional());
    assert_eq!(batch.producer_id(), Some(12));
    let marker = batch.records().next().unwrap().unwrap();
    assert_eq!(marker.key.as_deref(), Some(&[0, 0, 0, 1][..]));
}

#[test]
fn a_producers_id_is_patched_in_with_a_valid_checksum() {
    let mut builder = BatchBuilder::new(1024);
    builder
        .try_append(1, Some(b"k"), None, &Headers::new())
        .unwrap();
    let plain = builder.finish();
    let shared = plain.clone();
    let patched = plain.with_producer(77, 3, 41);
    let set = RecordSet::from(patched.clone());
    let batch = only_batch(&set);
    assert_eq!(batch.producer_id(), Some(77));
    assert_eq!((batch.producer_epoch(), batch.base_sequence()), (3, 41));
    assert_eq!(batch.records().count(), 1);
    // Again, now that the bytes are not shared with anybody.
    drop(set);
    let again = RecordSet::from(patched.with_producer(78, 0, 0));
    assert_eq!(only_batch(&again).producer_id(), Some(78));
    // The other owner of the bytes sees nothing of it.
    assert_eq!(only_batch(&shared.into()).producer_id(), None);
}

#[test]
fn a_batch_is_full_at_its_limit_and_a_record_above_it_is_too_large() {
    let none = Headers::new();
    let value = vec![7u8; 100];
    let one = BATCH_OVERHEAD + record_size(None, Some(&value), &none);
    let mut builder = BatchBuilder::new(one);
    assert!(builder.is_empty());
    assert_eq!(builder.try_append(0, None, Some(&value), &none), Ok(0));
    let full = builder.try_append(0, None, Some(&value), &none);
    assert_eq!(full, Err(AppendError::Full));
    assert!(builder.size() <= one);
    let huge = vec![7u8; one];
    let too_large = builder.try_append(0, None, Some(&huge), &none);
    assert_eq!(too_large, Err(AppendError::TooLarge));
    assert_eq!(builder.finish().record_count(), 1);
    assert_eq!(
        BatchBuilder::new(0).try_append(0, None, None, &none),
        Err(AppendError::TooLarge)
    );
}

#[test]
fn a_built_set_keeps_offsets_with_gaps_and_both_kinds_of_time() {
    let none = Headers::new();
    let mut builder = RecordSetBuilder::new();
    let far = 7 + i64::from(i32::MAX) + 1;
    let wanted = [
        (7, -1, TimestampType::CreateTime),
        (9, i64::MAX - 1, TimestampType::CreateTime),
        (far, 5, TimestampType::CreateTime),
        (far + 1, 6, TimestampType::LogAppendTime),
        (far + 2, 6, TimestampType::LogAppendTime),
        (far + 3, 8, TimestampType::LogAppendTime),
        (far + 4, i64::MIN, TimestampType::CreateTime),
        (far + 5, i64::MAX, TimestampType::CreateTime),
    ];
    for (offset, ts, kind) in wanted {
        builder
            .push(offset, ts, kind, None, Some(b"v"), &none)
            .unwrap();
    }
    let refused = builder.push(far, 0, TimestampType::CreateTime, None, None, &none);
    assert_eq!(refused, Err(AppendError::OffsetOrder));
    let set = builder.finish();
    assert_eq!(set.batches().count(), 6);
    let read: Vec<_> = records(&set)
        .unwrap()
        .iter()
        .map(|r| (r.offset, r.timestamp_ms, r.timestamp_type))
        .collect();
    assert_eq!(read, wanted);
    assert!(RecordSetBuilder::new().finish().is_empty());
}
