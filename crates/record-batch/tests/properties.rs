//! What holds for all batches: round trips, and no panic whatever the bytes are.

#![allow(clippy::unwrap_used, reason = "tests")]

use bytes::{Bytes, BytesMut};
use ottla_record_batch::{
    AppendError, BATCH_OVERHEAD, BatchBuilder, Compression, Compressor, RecordSet,
    RecordSetBuilder, Stamp, record_size,
};
use ottla_types::{Header, Headers, ProducerId, TimestampType};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

#[derive(Debug, Clone)]
struct Input {
    timestamp_ms: i64,
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
    headers: Headers,
}

fn header() -> impl Strategy<Value = Header> {
    (vec(any::<u8>(), 0..8), option::of(vec(any::<u8>(), 0..16))).prop_map(|(key, value)| Header {
        key: key.into(),
        value: value.map(Bytes::from),
    })
}

fn timestamp() -> impl Strategy<Value = i64> {
    prop_oneof![
        4 => 0i64..4_000_000_000_000,
        1 => Just(-1),
        1 => any::<i64>(),
    ]
}

fn input() -> impl Strategy<Value = Input> {
    (
        timestamp(),
        option::of(vec(any::<u8>(), 0..40)),
        option::of(vec(any::<u8>(), 0..200)),
        vec(header(), 0..4),
    )
        .prop_map(|(timestamp_ms, key, value, headers)| Input {
            timestamp_ms,
            key,
            value,
            headers: headers.into_iter().collect(),
        })
}

/// Reads everything there is to read; what it finds does not matter.
fn read_all(bytes: Bytes) {
    for batch in RecordSet::from(bytes).batches() {
        let Ok(batch) = batch else { continue };
        let _ = (
            batch.last_offset(),
            batch.compression(),
            batch.producer_id(),
        );
        for record in batch.records().flatten() {
            let _ = record.headers();
        }
    }
}

fn some_batch(inputs: &[Input]) -> Vec<u8> {
    let mut builder = BatchBuilder::new(usize::MAX);
    for i in inputs {
        let _ = builder.try_append(
            i.timestamp_ms,
            i.key.as_deref(),
            i.value.as_deref(),
            &i.headers,
        );
    }
    builder.finish().bytes().to_vec()
}

proptest! {
    #[test]
    fn what_is_appended_is_read_back(inputs in vec(input(), 1..40), max in 70usize..4_000) {
        let mut builder = BatchBuilder::new(max);
        let mut taken = Vec::new();
        for i in &inputs {
            let (key, value) = (i.key.as_deref(), i.value.as_deref());
            let size = record_size(key, value, &i.headers);
            let before = builder.size();
            match builder.try_append(i.timestamp_ms, key, value, &i.headers) {
                Ok(index) => {
                    prop_assert_eq!(index as usize, taken.len());
                    prop_assert!(builder.size() - before <= size);
                    taken.push(i.clone());
                }
                Err(AppendError::TooLarge) => prop_assert!(BATCH_OVERHEAD + size > max),
                Err(AppendError::Full) => prop_assert!(!builder.is_empty()),
                Err(e) => prop_assert!(false, "{}", e),
            }
            prop_assert!(builder.size() <= max);
        }
        prop_assert_eq!(builder.len() as usize, taken.len());
        let batch = builder.finish();
        prop_assert_eq!(batch.bytes().len(), batch.clone().into_record_set().size());
        let set = batch.with_producer(5, 1, 9).into_record_set();
        let mut read = Vec::new();
        for batch in set.batches() {
            for record in batch.unwrap().records() {
                let record = record.unwrap();
                read.push((record.offset, record.timestamp_ms, record.key.clone(), record.value.clone(), record.headers().unwrap()));
            }
        }
        let wanted: Vec<_> = taken
            .into_iter()
            .enumerate()
            .map(|(n, i)| (n as i64, i.timestamp_ms, i.key.map(Bytes::from), i.value.map(Bytes::from), i.headers))
            .collect();
        prop_assert_eq!(read, wanted);
    }

    #[test]
    fn a_batch_in_pieces_is_the_same_batch(
        inputs in vec((input(), any::<bool>()), 1..40),
        max in 200usize..8_000,
        stamps in vec(option::of((0i64..9, 0i16..9, 0i32..9)), 1..4),
    ) {
        let (mut whole, mut pieces) = (BatchBuilder::new(max), BatchBuilder::new(max));
        let mut count = 1;
        for (i, goes_on) in &inputs {
            if *goes_on {
                // One that was used before, and is too small for most.
                pieces.go_on_in(BytesMut::from(&b"what was there before"[..]));
                count += 1;
            }
            let (key, value) = (i.key.as_deref(), i.value.as_deref());
            let added = pieces.try_append(i.timestamp_ms, key, value, &i.headers);
            prop_assert_eq!(added, whole.try_append(i.timestamp_ms, key, value, &i.headers));
            prop_assert_eq!((pieces.len(), pieces.size()), (whole.len(), whole.size()));
            prop_assert!(pieces.capacity() >= pieces.size() + pieces.free());
        }
        let (mut whole, mut pieces) = (whole.seal(), pieces.seal());
        for stamp in stamps {
            let stamp = stamp.map(|(id, epoch, base_sequence)| Stamp {
                producer: ProducerId { id, epoch },
                base_sequence,
                transactional: epoch > 4,
            });
            let (a, b) = (whole.encode(stamp), pieces.encode(stamp));
            prop_assert_eq!(b.pieces().count(), count);
            prop_assert_eq!((a.bytes(), a.size()), (b.bytes(), b.size()));
            let mut compressor = Compressor::new(Compression::Lz4).unwrap();
            prop_assert_eq!(a.compressed(&mut compressor).bytes(), b.compressed(&mut compressor).bytes());
        }
        let read = pieces.encode(None);
        let kept = read.bytes();
        prop_assert!(pieces.into_buffers().count() < count, "the first is read by somebody");
        prop_assert_eq!(kept, read.bytes());
    }

    #[test]
    fn a_record_set_is_read_back_with_its_offsets(
        inputs in vec((input(), 1i64..3_000_000_000, any::<bool>()), 1..20)
    ) {
        let mut builder = RecordSetBuilder::new();
        let mut offset = 0;
        let mut wanted = Vec::new();
        for (i, step, log_append) in inputs {
            offset += step;
            let kind = if log_append { TimestampType::LogAppendTime } else { TimestampType::CreateTime };
            builder.push(offset, i.timestamp_ms, kind, i.key.as_deref(), i.value.as_deref(), &i.headers).unwrap();
            wanted.push((offset, i.timestamp_ms, kind, i.value.map(Bytes::from), i.headers));
        }
        let set = builder.finish();
        let mut read = Vec::new();
        for batch in set.batches() {
            for r in batch.unwrap().records() {
                let r = r.unwrap();
                read.push((r.offset, r.timestamp_ms, r.timestamp_type, r.value.clone(), r.headers().unwrap()));
            }
        }
        prop_assert_eq!(read, wanted);
    }

    #[test]
    fn random_bytes_never_panic(bytes in vec(any::<u8>(), 0..300)) {
        read_all(bytes.into());
    }

    #[test]
    fn a_valid_frame_around_random_records_never_panics(
        records in vec(any::<u8>(), 0..200),
        fields in vec(any::<u8>(), 40),
        count in 0i32..40,
    ) {
        let mut batch = some_batch(&[]);
        batch[21..61].copy_from_slice(&fields);
        batch[22] &= !0x7;
        batch[23..27].copy_from_slice(&100i32.to_be_bytes());
        batch[57..61].copy_from_slice(&count.to_be_bytes());
        batch.extend_from_slice(&records);
        let length = (batch.len() - 12) as i32;
        batch[8..12].copy_from_slice(&length.to_be_bytes());
        let crc = crc32c::crc32c(&batch[21..]);
        batch[17..21].copy_from_slice(&crc.to_be_bytes());
        read_all(batch.into());
    }

    #[test]
    fn mutated_batches_never_panic(
        inputs in vec(input(), 1..6),
        changes in vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in any::<prop::sample::Index>(),
        fix_crc in any::<bool>(),
    ) {
        let mut batch = some_batch(&inputs);
        for (at, byte) in changes {
            let at = at.index(batch.len());
            batch[at] = byte;
        }
        if fix_crc {
            let crc = crc32c::crc32c(&batch[21..]);
            batch[17..21].copy_from_slice(&crc.to_be_bytes());
        }
        read_all(batch.clone().into());
        batch.truncate(cut.index(batch.len()));
        read_all(batch.into());
    }
}
