//! Hostile batches take no more memory than the reader allows. One test, alone in its process: it
//! reads the allocator's high-water mark.

#![cfg(all(
    feature = "gzip",
    feature = "snappy",
    feature = "lz4",
    feature = "zstd"
))]
#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use common::{CODECS, batch_of, bomb, read_within, zstd_zeros};
use ottla_record_batch::{BatchBuilder, Compression, Compressor, DecodeError};
use ottla_types::Headers;
use peak_alloc::PeakAlloc;

#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

const LIMIT: usize = 8 << 20;
/// What a decoder keeps besides its output: LZ4 up to three blocks of 4 MiB, others far less.
const WORKING_MEMORY: usize = 13 << 20;

#[test]
fn trap_d_bombs_stay_within_the_memory_that_is_allowed() {
    let mut hostile: Vec<_> = CODECS.map(|codec| (codec, bomb(codec, 64 << 20))).into();
    hostile.push((Compression::Zstd, zstd_zeros(512 << 20, Some(512 << 20))));
    hostile.push((Compression::Zstd, zstd_zeros(128 << 10, Some(1 << 40))));
    // Many frames, each far below the limit.
    hostile.push((Compression::Zstd, zstd_zeros(128 << 10, None).repeat(4_096)));
    for (codec, payload) in hostile {
        let set = batch_of(codec, 1_000_000, &payload);
        let before = ALLOCATOR.current_usage();
        ALLOCATOR.reset_peak_usage();
        let error = read_within(&set, LIMIT).unwrap_err();
        let peak = ALLOCATOR.peak_usage() - before;
        assert!(
            matches!(error, DecodeError::TooLarge { .. }),
            "{codec}: {error}"
        );
        // While the output grows, the smaller one is there as well: half of it at most.
        let most = LIMIT + LIMIT / 2 + WORKING_MEMORY;
        assert!(peak <= most, "{codec}: {peak} bytes of {most}");
    }
    parts_of_a_large_batch_take_little();
    wide_windows_of_later_frames_take_no_more();
}

/// Frames that state a window of 128 MiB and give 200 MiB, behind something else: a stream would keep
/// up to two windows, however little the reader allows.
fn wide_windows_of_later_frames_take_no_more() {
    let mut wide = zstd_zeros(200 << 20, None);
    wide[5] = (27 - 10) << 3;
    let mut skippable = 0x184d_2a50_u32.to_le_bytes().to_vec();
    skippable.extend([4, 0, 0, 0, 1, 2, 3, 4]);
    for before in [skippable, zstd_zeros(128 << 10, None)] {
        let set = batch_of(
            Compression::Zstd,
            1_000_000,
            &[before, wide.clone()].concat(),
        );
        let batch = set.batches().next().unwrap().unwrap();
        let before = ALLOCATOR.current_usage();
        ALLOCATOR.reset_peak_usage();
        let last = batch.parts(256 << 10, LIMIT).last().unwrap();
        let peak = ALLOCATOR.peak_usage() - before;
        assert!(
            matches!(last, Err(DecodeError::TooLarge { .. })),
            "{last:?}"
        );
        let most = LIMIT + (1 << 20);
        assert!(peak <= most, "{peak} bytes of {most}");
    }
}

/// 64 MiB of zeros in records of 1 KiB are read to their end in parts of 256 KiB.
fn parts_of_a_large_batch_take_little() {
    const PART: usize = 256 << 10;
    const RECORDS: usize = 64 << 10;
    for codec in CODECS {
        let mut builder = BatchBuilder::new(80 << 20);
        let value = [0; 1 << 10];
        for _ in 0..RECORDS {
            let headers = Headers::new();
            builder.try_append(1, None, Some(&value), &headers).unwrap();
        }
        let mut compressor = Compressor::new(codec).unwrap();
        let set = builder.finish_with(&mut compressor).into_record_set();
        drop(compressor);
        let before = ALLOCATOR.current_usage();
        ALLOCATOR.reset_peak_usage();
        let batch = set.batches().next().unwrap().unwrap();
        let mut count = 0;
        for part in batch.parts(PART, LIMIT) {
            let part = part.unwrap();
            assert!(part.decompressed <= PART + 2_048, "{codec}");
            for record in part.records {
                assert_eq!(record.unwrap().offset, count, "{codec}");
                count += 1;
            }
        }
        assert_eq!(count, RECORDS as i64, "{codec}");
        let peak = ALLOCATOR.peak_usage() - before;
        // A part, what is read for the next one, and the decoder: zstd keeps two windows of 2 MiB, and
        // one that it grows out of.
        let most = 3 * PART + (9 << 20);
        assert!(peak <= most, "{codec}: {peak} bytes of {most}");
    }
}
