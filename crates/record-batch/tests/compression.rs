//! The codecs: round trips, what a compressed batch says of itself, and hostile input.

#![cfg(all(
    feature = "gzip",
    feature = "snappy",
    feature = "lz4",
    feature = "zstd"
))]
#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use bytes::Bytes;
use common::{BASE_OFFSET, CODECS, batch_of, bits, bomb, orders, read_within, zstd_zeros};
use ottla_record_batch::{
    BATCH_OVERHEAD, BatchBuilder, Compression, Compressor, DEFAULT_MAX_DECOMPRESSED, DecodeError,
    EncodedBatch, Problem, RecordSet, RecordView,
};
use ottla_types::Headers;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};

const LIMIT: usize = 1 << 20;

type Plain = (i64, i64, Option<Bytes>, Option<Bytes>, Headers);

fn plain(records: Vec<RecordView>) -> Vec<Plain> {
    let field = |r: RecordView| {
        let headers = r.headers().unwrap();
        (r.offset, r.timestamp_ms, r.key, r.value, headers)
    };
    records.into_iter().map(field).collect()
}

fn read(set: &RecordSet) -> Vec<Plain> {
    plain(read_within(set, DEFAULT_MAX_DECOMPRESSED).unwrap())
}

fn compressor(codec: Compression) -> Compressor {
    Compressor::new(codec).unwrap()
}

/// The compressed records of `orders(count)`, without the header.
fn payload(codec: Compression, count: usize) -> Vec<u8> {
    let batch = orders(count).finish_with(&mut compressor(codec));
    assert_eq!(batch.compression(), codec);
    batch.bytes()[BATCH_OVERHEAD..].to_vec()
}

#[test]
fn every_codec_reads_what_it_wrote_and_writes_less() {
    for codec in CODECS {
        let mut compressor = compressor(codec);
        assert_eq!(compressor.compression(), codec);
        // One compressor, batches of any size: below and above every codec's block.
        for count in [1_000, 30, 5_000, 31, 200] {
            let uncompressed = orders(count).finish();
            let batch = orders(count).finish_with(&mut compressor);
            assert!(batch.bytes().len() * 3 < uncompressed.bytes().len() * 2);
            assert_eq!(batch.compression(), codec);
            assert_eq!(batch.record_count() as usize, count);
            assert_eq!(batch.max_timestamp_ms(), uncompressed.max_timestamp_ms());
            let set = batch.into_record_set();
            let view = set.batches().next().unwrap().unwrap();
            assert_eq!(view.compression(), Ok(codec));
            assert_eq!(view.record_count() as usize, count);
            assert_eq!(read(&set), read(&uncompressed.into_record_set()), "{codec}");
        }
    }
}

#[test]
fn a_finished_batch_is_compressed_to_the_same_bytes() {
    for codec in CODECS {
        let at_once = orders(300).finish_with(&mut compressor(codec));
        let finished = orders(300).finish();
        let shared = finished.clone();
        let later = finished.compressed(&mut compressor(codec));
        assert_eq!(at_once.bytes(), later.bytes());
        assert_eq!(shared.compression(), Compression::None);
        assert_eq!(shared.into_record_set(), orders(300).finish().into());
        // Once more changes nothing.
        let again = later.clone().compressed(&mut compressor(Compression::Gzip));
        assert_eq!(again.bytes(), later.bytes());
        assert_eq!(again.compression(), codec);
    }
}

#[test]
fn a_compressed_batch_takes_a_producer_and_keeps_its_checksum() {
    for codec in CODECS {
        let batch = orders(100).finish_with(&mut compressor(codec));
        let set = batch.with_producer(7, 2, 30).into_record_set();
        let view = set.batches().next().unwrap().unwrap();
        assert_eq!((view.producer_id(), view.base_sequence()), (Some(7), 30));
        assert_eq!(view.compression(), Ok(codec));
        assert_eq!(read(&set).len(), 100);
    }
}

#[test]
fn what_does_not_get_smaller_is_left_as_it_is() {
    let mut random = fastrand::Rng::with_seed(1);
    let noise: Vec<u8> = std::iter::repeat_with(|| random.u8(..))
        .take(5_000)
        .collect();
    let batch = |value: &[u8]| {
        let mut builder = BatchBuilder::new(10_000);
        let headers = Headers::new();
        builder.try_append(1, None, Some(value), &headers).unwrap();
        builder
    };
    for codec in CODECS {
        for value in [&noise[..], b"short"] {
            let wanted = batch(value).finish();
            for got in [
                batch(value).finish_with(&mut compressor(codec)),
                batch(value).finish().compressed(&mut compressor(codec)),
            ] {
                assert_eq!(got.compression(), Compression::None);
                assert_eq!(got.bytes(), wanted.bytes());
            }
        }
        let empty = BatchBuilder::new(100).finish_with(&mut compressor(codec));
        assert_eq!(empty.bytes(), BatchBuilder::new(100).finish().bytes());
    }
    let none = orders(50).finish_with(&mut compressor(Compression::None));
    assert_eq!(none.bytes(), orders(50).finish().bytes());
}

#[test]
fn the_framing_is_what_the_java_client_reads() {
    // xerial's magic and two versions, then blocks with their length in front.
    let snappy = payload(Compression::Snappy, 400);
    assert!(snappy.starts_with(b"\x82SNAPPY\0\0\0\0\x01\0\0\0\x01"));
    let block = u32::from_be_bytes(*snappy[16..].first_chunk().unwrap()) as usize;
    assert_eq!(snap_len(&snappy[20..20 + block]), 32 << 10);
    // Magic; version 1 with independent blocks and no checksums or sizes; blocks of 64 KiB.
    let lz4 = payload(Compression::Lz4, 400);
    assert_eq!(lz4[..6], [0x04, 0x22, 0x4d, 0x18, 0x60, 0x40]);
    let gzip = payload(Compression::Gzip, 400);
    assert_eq!(gzip[..4], [0x1f, 0x8b, 8, 0]);
    let zstd = payload(Compression::Zstd, 400);
    assert_eq!(zstd[..4], [0x28, 0xb5, 0x2f, 0xfd]);
}

/// The length that a raw snappy block starts with.
fn snap_len(block: &[u8]) -> usize {
    let bytes = block.iter().enumerate().take(3);
    bytes.fold(0, |sum, (i, b)| sum | usize::from(b & 0x7f) << (7 * i))
}

#[test]
fn parts_that_were_joined_are_read_to_the_end() {
    let orders = orders(600).finish();
    let records = &orders.bytes()[BATCH_OVERHEAD..];
    let wanted = read(&batch_of(Compression::None, 600, records));
    let (a, b) = records.split_at(records.len() / 3);
    for codec in CODECS {
        let part = |bytes: &[u8]| {
            let mut out = Vec::new();
            let mut rest = bytes;
            // Small parts, so that several of them are joined.
            while !rest.is_empty() {
                let (now, later) = rest.split_at(rest.len().min(30_000));
                out.extend(compress(codec, now));
                rest = later;
            }
            out
        };
        let mut joined = part(a);
        if codec == Compression::Zstd {
            joined.extend([0x51, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3]);
        }
        joined.extend(part(b));
        assert_eq!(read(&batch_of(codec, 600, &joined)), wanted, "{codec}");
    }
}

/// `bytes` compressed by the crate, by way of a batch with them as its only value.
fn compress(codec: Compression, bytes: &[u8]) -> Vec<u8> {
    match codec {
        Compression::Gzip => {
            use std::io::Write;
            let level = flate2::Compression::new(1);
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), level);
            encoder.write_all(bytes).unwrap();
            encoder.finish().unwrap()
        }
        Compression::Snappy => {
            let raw = snap::raw::Encoder::new().compress_vec(bytes).unwrap();
            let mut out = b"\x82SNAPPY\0\0\0\0\x01\0\0\0\x01".to_vec();
            out.extend((raw.len() as u32).to_be_bytes());
            out.extend(raw);
            out
        }
        Compression::Lz4 => {
            use lz4_flex::frame::{BlockMode, BlockSize, FrameEncoder, FrameInfo};
            use std::io::Write;
            // What other clients may use and we do not write.
            let info = FrameInfo::new()
                .block_mode(BlockMode::Linked)
                .block_size(BlockSize::Max256KB)
                .block_checksums(true)
                .content_checksum(true)
                .content_size(Some(bytes.len() as u64));
            let mut encoder = FrameEncoder::with_frame_info(info, Vec::new());
            encoder.write_all(bytes).unwrap();
            encoder.finish().unwrap()
        }
        _ => zrip::compress(bytes, 3).unwrap(),
    }
}

#[test]
fn a_raw_snappy_block_is_read_as_librdkafka_writes_it() {
    let batch = orders(300).finish();
    let records = &batch.bytes()[BATCH_OVERHEAD..];
    let raw = snap::raw::Encoder::new().compress_vec(records).unwrap();
    let wanted = read(&batch_of(Compression::None, 300, records));
    assert_eq!(read(&batch_of(Compression::Snappy, 300, &raw)), wanted);
}

#[test]
fn the_limit_is_exact() {
    let batch = orders(300).finish();
    let size = batch.bytes().len() - BATCH_OVERHEAD;
    for codec in CODECS {
        let set = batch_of(codec, 300, &payload(codec, 300));
        assert_eq!(read_within(&set, size).unwrap().len(), 300, "{codec}");
        let error = read_within(&set, size - 1).unwrap_err();
        let wanted = DecodeError::TooLarge {
            base_offset: BASE_OFFSET,
            last_offset: BASE_OFFSET + 299,
            limit: size - 1,
        };
        assert_eq!(error, wanted, "{codec}");
        assert_eq!(error.skip_to(), Some(BASE_OFFSET + 300));
    }
}

#[test]
fn trap_d_a_bomb_is_one_error_with_its_offset() {
    for codec in CODECS {
        let set = batch_of(codec, 9, &bomb(codec, 24 << 20));
        let batch = set.batches().next().unwrap().unwrap();
        for limit in [0, 1, 1_000, LIMIT, 16 << 20] {
            let wanted = DecodeError::TooLarge {
                base_offset: BASE_OFFSET,
                last_offset: BASE_OFFSET + 8,
                limit,
            };
            let mut records = batch.records_within(limit);
            assert_eq!(records.next().unwrap().unwrap_err(), wanted, "{codec}");
            assert!(records.next().is_none());
        }
    }
    let set = batch_of(Compression::Zstd, 9, &zstd_zeros(65 << 20, None));
    let batch = set.batches().next().unwrap().unwrap();
    let error = batch.records().next().unwrap().unwrap_err();
    let limit = DEFAULT_MAX_DECOMPRESSED;
    assert!(matches!(error, DecodeError::TooLarge { limit: l, .. } if l == limit));
}

#[test]
fn trap_d_zstd_sizes_and_windows_that_are_only_claimed() {
    let read =
        |payload: &[u8]| read_within(&batch_of(Compression::Zstd, 1, payload), LIMIT).unwrap_err();
    // Terabytes are stated, 128 KiB come; and the other way round.
    let error = read(&zstd_zeros(128 << 10, Some(1 << 42)));
    assert!(matches!(error, DecodeError::TooLarge { .. }), "{error}");
    let error = read(&zstd_zeros(256 << 10, Some(5)));
    assert!(
        matches!(error, DecodeError::BadCompression { .. }),
        "{error}"
    );
    // Windows of 256 MiB and of 3.75 TiB.
    for (descriptor, window) in [(18 << 3, 256 << 20), (0xff, 15 << 38)] {
        let mut frame = zstd_zeros(128 << 10, None);
        frame[5] = descriptor;
        let wanted = DecodeError::WindowTooLarge {
            base_offset: BASE_OFFSET,
            last_offset: BASE_OFFSET,
            window,
        };
        assert_eq!(read(&frame), wanted);
        assert_eq!(wanted.skip_to(), Some(BASE_OFFSET + 1));
    }
    // 128 MiB is what zstd itself allows; the content is what is bounded.
    let mut frame = zstd_zeros(128 << 10, None);
    frame[5] = 17 << 3;
    let error = read(&frame);
    assert!(
        !matches!(error, DecodeError::WindowTooLarge { .. }),
        "{error}"
    );
}

#[test]
fn trap_d_lengths_that_cannot_be() {
    let header = b"\x82SNAPPY\0\0\0\0\x01\0\0\0\x01".to_vec();
    let with = |tail: &[u8]| [&header[..], tail].concat();
    let snappy = [
        vec![0xff, 0xff, 0xff, 0xff, 0x0f, 0x00], // 4 GiB in one byte
        with(&[0xff, 0xff, 0xff, 0xff]),          // a block of -1 bytes
        with(&[0x7f, 0xff, 0xff, 0xff, 0, 0]),    // a block of 2 GiB
        with(&[0, 0, 0]),                         // half a length
        header[..12].to_vec(),                    // half a header
        with(&[0, 0, 0, 0]),                      // a block of no bytes
        with(&[0, 0, 0, 3, 0x05, 0x00, 0x61]),    // says 5 bytes, holds 1
    ];
    for payload in snappy {
        let error = read_within(&batch_of(Compression::Snappy, 1, &payload), LIMIT).unwrap_err();
        assert!(
            matches!(error, DecodeError::BadCompression { .. }),
            "{payload:?}: {error}"
        );
    }
    // The length and the checksum at gzip's end.
    for from_end in [1, 5] {
        let mut gzip = payload(Compression::Gzip, 50);
        let at = gzip.len() - from_end;
        gzip[at] ^= 0x10;
        let set = batch_of(Compression::Gzip, 50, &gzip);
        let error = read_within(&set, LIMIT).unwrap_err();
        assert!(
            matches!(error, DecodeError::BadCompression { .. }),
            "{error}"
        );
    }
    let mut lz4 = compress(Compression::Lz4, &[1; 10_000]);
    let last = lz4.len() - 1;
    lz4[last] ^= 1;
    let error = read_within(&batch_of(Compression::Lz4, 1, &lz4), LIMIT).unwrap_err();
    assert!(
        matches!(error, DecodeError::BadCompression { .. }),
        "{error}"
    );
}

#[test]
fn more_records_than_the_bytes_can_hold_are_refused() {
    for codec in CODECS {
        let set = batch_of(codec, i32::MAX, &payload(codec, 50));
        let error = read_within(&set, LIMIT).unwrap_err();
        assert_eq!(
            error,
            DecodeError::Malformed {
                offset: BASE_OFFSET,
                problem: Problem::RecordCount
            }
        );
        // And fewer: what is left over is not dropped in silence.
        let error = read_within(&batch_of(codec, 49, &payload(codec, 50)), LIMIT).unwrap_err();
        assert!(matches!(error, DecodeError::Malformed { .. }), "{error}");
    }
}

#[test]
fn a_batch_that_compaction_emptied_has_no_records() {
    for codec in CODECS {
        let mut records = read_within(&batch_of(codec, 0, &[]), LIMIT).unwrap();
        assert!(records.pop().is_none());
        assert!(read_within(&batch_of(codec, 1, &[]), LIMIT).is_err());
    }
}

#[test]
fn trap_d_no_truncated_payload_passes_for_a_whole_one() {
    for codec in CODECS {
        let whole = payload(codec, 40);
        for cut in 0..whole.len() {
            let set = batch_of(codec, 40, &whole[..cut]);
            // An LZ4 frame may lack its end mark or a part of it: every record is there then.
            let complete = codec == Compression::Lz4 && cut >= whole.len() - 4;
            let read = read_within(&set, LIMIT).map(|records| records.len());
            assert_eq!(read.ok(), complete.then_some(40), "{codec} cut at {cut}");
        }
    }
}

fn mutate(batch: &EncodedBatch, changes: &[(Index, u8)]) -> Vec<u8> {
    let mut payload = batch.bytes()[BATCH_OVERHEAD..].to_vec();
    for (at, byte) in changes {
        let at = at.index(payload.len());
        payload[at] = *byte;
    }
    payload
}

proptest! {
    #[test]
    fn trap_d_random_payloads_never_panic(
        codec in select(&CODECS[..]),
        bytes in vec(any::<u8>(), 0..300),
        with_magic in any::<bool>(),
    ) {
        let mut data = Vec::new();
        if with_magic {
            data.extend(&payload(codec, 10)[..6]);
        }
        data.extend(bytes);
        let _ = read_within(&batch_of(codec, 3, &data), LIMIT);
    }

    #[test]
    fn trap_d_mutated_payloads_never_panic_and_stay_within_the_limit(
        codec in select(&CODECS[..]),
        changes in vec((any::<Index>(), any::<u8>()), 1..8),
    ) {
        let batch = orders(60).finish_with(&mut compressor(codec));
        let set = batch_of(codec, 60, &mutate(&batch, &changes));
        if let Ok(records) = read_within(&set, LIMIT) {
            let size: usize = records.iter().map(RecordView::size).sum();
            prop_assert!(size <= LIMIT);
        }
    }

    #[test]
    fn whatever_is_appended_is_read_back_through_every_codec(
        values in vec((any::<u8>(), 0usize..3_000, vec(any::<u8>(), 0..200)), 1..40),
    ) {
        let build = || {
            let mut builder = BatchBuilder::new(usize::MAX);
            for (byte, repeat, noise) in &values {
                let mut value = vec![*byte; *repeat];
                value.extend(noise);
                builder.try_append(5, Some(noise), Some(&value), &Headers::new()).unwrap();
            }
            builder
        };
        let wanted = read(&build().finish().into_record_set());
        for codec in CODECS {
            let batch = build().finish_with(&mut compressor(codec));
            prop_assert!([codec, Compression::None].contains(&batch.compression()));
            prop_assert_eq!(batch.bytes()[22], bits(batch.compression()));
            prop_assert_eq!(&read(&batch.into_record_set()), &wanted);
        }
    }
}
