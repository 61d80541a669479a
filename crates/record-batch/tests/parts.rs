//! Batches that are read in parts: the same records, whatever the size of a part.

#![cfg(all(
    feature = "gzip",
    feature = "snappy",
    feature = "lz4",
    feature = "zstd"
))]
#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use common::{BASE_OFFSET, CODECS, batch_of, bomb, orders};
use ottla_record_batch::{
    BATCH_OVERHEAD, BatchBuilder, BatchView, Compression, Compressor, DecodeError, EncodedBatch,
    Problem, RecordSet, RecordView,
};
use ottla_types::Headers;
use proptest::prelude::*;

const LIMIT: usize = 1 << 20;

fn view(set: &RecordSet) -> BatchView {
    set.batches().next().unwrap().unwrap()
}

/// What the parts hold, how many there are, and the error that ended them.
struct Read {
    records: Vec<RecordView>,
    /// The bytes that each part took.
    parts: Vec<usize>,
    error: Option<DecodeError>,
}

fn read(set: &RecordSet, part_bytes: usize) -> Read {
    let (mut records, mut parts) = (Vec::new(), Vec::new());
    for part in view(set).parts(part_bytes, LIMIT) {
        let part = match part {
            Ok(part) => part,
            Err(error) => {
                return Read {
                    records,
                    parts,
                    error: Some(error),
                };
            }
        };
        parts.push(part.decompressed);
        for record in part.records {
            match record {
                Ok(record) => records.push(record),
                Err(error) => {
                    return Read {
                        records,
                        parts,
                        error: Some(error),
                    };
                }
            }
        }
    }
    Read {
        records,
        parts,
        error: None,
    }
}

fn compressed(builder: BatchBuilder, codec: Compression) -> EncodedBatch {
    builder.finish_with(&mut Compressor::new(codec).unwrap())
}

fn facts(record: &RecordView) -> impl PartialEq + std::fmt::Debug + '_ {
    let headers = record.headers().unwrap();
    let (key, value) = (record.key.as_deref(), record.value.as_deref());
    (record.offset, record.timestamp_ms, key, value, headers)
}

fn assert_same(got: &[RecordView], wanted: &[RecordView], what: &str) {
    assert_eq!(got.len(), wanted.len(), "{what}");
    for (got, wanted) in got.iter().zip(wanted) {
        assert_eq!(facts(got), facts(wanted), "{what}");
    }
}

#[test]
fn parts_hold_all_records_in_order_and_none_is_much_larger_than_asked_for() {
    let wanted = read(&orders(1_000).finish().into_record_set(), 1);
    assert_eq!((wanted.records.len(), &wanted.parts[..]), (1_000, &[0][..]));
    for codec in CODECS {
        let set = compressed(orders(1_000), codec).into_record_set();
        for part_bytes in [1, 700, 10_000, 64 << 10, 1 << 20] {
            let what = format!("{codec}, parts of {part_bytes}");
            let got = read(&set, part_bytes);
            assert_eq!(got.error, None, "{what}");
            assert_same(&got.records, &wanted.records, &what);
            // A record of about 330 bytes may have to be read in one step of 64 KiB.
            let most = part_bytes.max(65 << 10) + 1_024;
            assert!(got.parts.iter().all(|size| *size <= most), "{what}");
            let is_one = got.parts.len() == 1;
            assert_eq!(is_one, part_bytes == 1 << 20, "{what}");
        }
    }
}

#[test]
fn a_record_that_is_larger_than_a_part_comes_whole_and_above_the_limit_not_at_all() {
    for codec in CODECS {
        for (size, fits) in [(LIMIT - 1_000, true), (LIMIT + 1_000, false)] {
            let mut builder = BatchBuilder::new(4 << 20);
            for value in [&b"small"[..], &vec![7; size], b"after"] {
                builder
                    .try_append(1, None, Some(value), &Headers::new())
                    .unwrap();
            }
            let got = read(&compressed(builder, codec).into_record_set(), 1_000);
            let lengths = got.records.iter().map(|r| r.value.as_ref().unwrap().len());
            let lengths: Vec<_> = lengths.collect();
            if fits {
                assert_eq!((lengths, got.error), (vec![5, size, 5], None), "{codec}");
            } else {
                assert_eq!(lengths, [5], "{codec}");
                let error = got.error.unwrap();
                assert!(
                    matches!(error, DecodeError::TooLarge { limit: LIMIT, .. }),
                    "{error}"
                );
                assert_eq!(error.skip_to(), Some(3));
            }
        }
    }
}

#[test]
fn a_raw_snappy_block_is_one_part_up_to_the_limit() {
    let plain = orders(1_000).finish();
    let records = &plain.bytes()[BATCH_OVERHEAD..];
    let raw = snap::raw::Encoder::new().compress_vec(records).unwrap();
    let set = batch_of(Compression::Snappy, 1_000, &raw);
    let got = read(&set, 10_000);
    assert_eq!((got.records.len(), got.error), (1_000, None));
    let mut parts = view(&set).parts(10_000, records.len() - 1);
    let error = parts.next().unwrap().unwrap_err();
    assert!(matches!(error, DecodeError::TooLarge { .. }), "{error}");
    assert!(parts.next().is_none());
}

#[test]
fn trap_d_counts_that_are_wrong_and_data_that_is_cut_end_the_parts_with_an_error() {
    let plain = orders(1_000).finish();
    let records = &plain.bytes()[BATCH_OVERHEAD..];
    for codec in CODECS {
        let whole = compressed(orders(1_000), codec);
        let payload = &whole.bytes()[BATCH_OVERHEAD..];
        for (count, problem) in [(900, Problem::TrailingBytes), (1_100, Problem::RecordCount)] {
            let got = read(&batch_of(codec, count, payload), 10_000);
            assert_eq!(got.records.len(), 1_000.min(count as usize), "{codec}");
            let wanted = DecodeError::Malformed {
                offset: BASE_OFFSET,
                problem,
            };
            assert_eq!(got.error, Some(wanted), "{codec}");
        }
        let got = read(
            &batch_of(codec, 1_000, &payload[..payload.len() / 2]),
            10_000,
        );
        assert!(got.records.len() < 1_000, "{codec}");
        assert!(got.error.is_some(), "{codec}");
    }
    // A record whose end never comes.
    let cut = &records[..records.len() - 10];
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut gzip, cut).unwrap();
    let got = read(
        &batch_of(Compression::Gzip, 1_000, &gzip.finish().unwrap()),
        10_000,
    );
    assert_eq!(got.records.len(), 999);
    let problem = Problem::RecordLength;
    assert_eq!(
        got.error,
        Some(DecodeError::Malformed {
            offset: BASE_OFFSET,
            problem
        })
    );
}

#[test]
fn trap_d_bombs_of_nothing_but_zeros_are_errors_at_once() {
    for codec in CODECS {
        let got = read(&batch_of(codec, 1_000, &bomb(codec, 24 << 20)), 10_000);
        assert_eq!(got.records.len(), 0, "{codec}");
        assert!(
            matches!(got.error, Some(DecodeError::Malformed { .. })),
            "{codec}"
        );
        assert_eq!(got.parts.len(), 1, "{codec}: nothing more is decompressed");
    }
}

#[test]
fn a_zstd_frame_that_looks_far_back_is_read_all_the_same() {
    let mut random = fastrand::Rng::with_seed(1);
    let noise: Vec<u8> = (0..64 << 10).map(|_| random.u8(..)).collect();
    let zeros = vec![0; 1 << 20];
    let mut builder = BatchBuilder::new(8 << 20);
    for value in [&noise, &zeros, &zeros, &zeros, &zeros, &noise] {
        let headers = Headers::new();
        builder.try_append(1, None, Some(value), &headers).unwrap();
    }
    let plain = builder.finish();
    let records = &plain.bytes()[BATCH_OVERHEAD..];
    let options = zrip::Options::default().window_log(23);
    let far = zrip::compress_opts(records, 4, &options).unwrap();
    assert!(far.len() < 100 << 10, "the noise is there once");
    let set = batch_of(Compression::Zstd, 6, &far);
    let parts = view(&set).parts(1 << 20, 8 << 20);
    let got: Vec<_> = parts
        .flat_map(|p| p.unwrap().records)
        .map(Result::unwrap)
        .collect();
    let wanted: Vec<_> = view(&batch_of(Compression::None, 6, records))
        .records()
        .map(Result::unwrap)
        .collect();
    assert_same(&got, &wanted, "far");
    let last = view(&set).parts(1 << 20, 4 << 20).last().unwrap();
    assert!(matches!(last, Err(DecodeError::TooLarge { .. })));
}

proptest! {
    #[test]
    fn parts_of_any_size_hold_any_records(
        sizes in prop::collection::vec(0_usize..3_000, 1..60),
        part_bytes in 1_usize..20_000,
        codec in prop::sample::select(CODECS.to_vec()),
    ) {
        let build = || {
            let mut builder = BatchBuilder::new(1 << 20);
            for (i, size) in sizes.iter().enumerate() {
                let value = vec![(i % 7) as u8; *size];
                builder.try_append(i as i64, None, Some(&value), &Headers::new()).unwrap();
            }
            builder
        };
        let wanted = read(&build().finish().into_record_set(), 1);
        let got = read(&compressed(build(), codec).into_record_set(), part_bytes);
        prop_assert_eq!(got.error, None);
        assert_same(&got.records, &wanted.records, "any");
    }
}
