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
use ottla_record_batch::{Compression, DecodeError};
use peak_alloc::PeakAlloc;

#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

const LIMIT: usize = 8 << 20;
/// What a decoder keeps besides its output: LZ4 up to two blocks of 4 MiB, others far less.
const WORKING_MEMORY: usize = 9 << 20;

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
}
