//! Fuzz targets: the answers that this transport decodes itself, and what a reader sees of the
//! batches in them.

use super::scan::scan;
use super::{fetch_message, produce_message};
use allocation_counter::measure;
use bytes::Bytes;
use ottla_record_batch::RecordSet;

/// How often `cargo test` runs each target, besides the corpus.
const ROUNDS: usize = 1000;
/// Partitions that are asked for.
const ASKED: usize = 50;
/// What an answer of nothing but the smallest elements takes, a byte.
const FACTOR: usize = 24;
/// What a decompressor takes besides its output.
const DECOMPRESSOR: usize = 13 << 20;

/// The version that the first byte asks for, and the rest.
fn versioned(input: &[u8], versions: std::ops::RangeInclusive<i16>) -> Option<(i16, Bytes)> {
    let (&first, body) = input.split_first()?;
    let count = versions.end() - versions.start() + 1;
    let version = versions.start() + i16::from(first) % count;
    Some((version, Bytes::copy_from_slice(body)))
}

fn within<T>(size: usize, read: impl FnOnce() -> T) -> Option<T> {
    within_and(size, 0, read)
}

/// With so much working memory besides.
fn within_and<T>(size: usize, besides: usize, read: impl FnOnce() -> T) -> Option<T> {
    let mut result = None;
    let taken = measure(|| result = Some(read()));
    let most = FACTOR * size + 1024 + besides;
    assert!(
        taken.bytes_max <= most as u64,
        "{taken:?}, {most} are right"
    );
    result
}

#[test]
fn fuzz_fetch_answers() {
    bolero::check!()
        .with_iterations(ROUNDS)
        .for_each(|input: &[u8]| {
            let Some((version, body)) = versioned(input, fetch_message::VERSIONS) else {
                return;
            };
            let read = within(body.len(), || {
                fetch_message::read(body.clone(), version, ASKED)
            });
            if let Some(Ok(answer)) = read {
                assert!(answer.partitions.len() <= ASKED.min(body.len() / 24));
                let records = answer.partitions.iter().map(|part| part.records.len());
                assert!(records.sum::<usize>() <= body.len());
            }
        });
}

#[test]
fn fuzz_produce_answers() {
    bolero::check!()
        .with_iterations(ROUNDS)
        .for_each(|input: &[u8]| {
            let Some((version, body)) = versioned(input, produce_message::VERSIONS) else {
                return;
            };
            let read = within(body.len(), || {
                produce_message::read(body.clone(), version, ASKED)
            });
            if let Some(Ok(answer)) = read {
                assert!(answer.partitions.len() <= ASKED.min(body.len() / 22));
                assert!(answer.endpoints.len() <= body.len() / 10);
            }
        });
}

#[test]
fn fuzz_scans() {
    bolero::check!()
        .with_iterations(ROUNDS)
        .for_each(|input: &[u8]| {
            let Some((&[position, producer, how], batches)) = input.split_first_chunk::<3>() else {
                return;
            };
            let (records, compressed_markers) = sealed(batches);
            let position = i64::from(position);
            // With or without committed reading; the producers of seeds have small ids.
            let aborted = (how % 2 == 1).then(|| vec![(i64::from(producer), i64::from(how) / 2)]);
            let besides = if compressed_markers { DECOMPRESSOR } else { 0 };
            let look = || scan(&records, position, aborted.clone());
            let scanned = within_and(records.len(), besides, look);
            let Some(scanned) = scanned else { return };
            assert!(scanned.next_offset >= position);
            assert!(scanned.records.len() <= records.len());
            // What is shown ends below the place where reading goes on, unless it is there for its
            // reader to meet an error.
            let set = RecordSet::from(scanned.records.clone());
            let mut batches = set.batches();
            let is_whole = batches.all(|batch| batch.is_ok_and(|b| b.records().all(|r| r.is_ok())));
            let last = set
                .batches()
                .flatten()
                .map(|batch| batch.last_offset())
                .max();
            assert!(!is_whole || last.is_none_or(|last| last < scanned.next_offset));
            // Looking again at what is shown shows the same.
            let again = scan(&scanned.records, position, aborted);
            assert!(again.records.len() <= scanned.records.len());
        });
}

/// The input as batches with lengths, magics and checksums that are right: the first byte of each
/// says how long it is. And whether one of them is a control batch that is compressed, which no broker
/// writes.
fn sealed(mut input: &[u8]) -> (Bytes, bool) {
    let (mut all, mut compressed_markers) = (Vec::new(), false);
    while let Some((&size, rest)) = input.split_first() {
        let (body, rest) = rest.split_at(rest.len().min(usize::from(size) + 61));
        input = rest;
        let mut batch = body.to_vec();
        if batch.len() >= 61 {
            // Offsets that cannot be would hide the rest.
            batch[..6].fill(0);
            let length = (batch.len() - 12) as i32;
            batch[8..12].copy_from_slice(&length.to_be_bytes());
            batch[16] = 2;
            let crc = crc32c::crc32c(&batch[21..]);
            batch[17..21].copy_from_slice(&crc.to_be_bytes());
            compressed_markers |= batch[22] & 0x20 != 0 && batch[22] & 7 != 0;
        }
        all.extend(batch);
    }
    (all.into(), compressed_markers)
}
