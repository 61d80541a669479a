//! Fuzz targets: record sets, batches whose checksum is right, each decompressor, and the way there
//! and back. `cargo test` runs each for a moment and the kept corpus; `cargo xtask fuzz` runs them
//! for as long as one likes.
//!
//! What must hold: no panic, and no more memory than a fixed multiple of the input and the limit
//! that the caller names.

#![cfg(all(
    feature = "gzip",
    feature = "snappy",
    feature = "lz4",
    feature = "zstd"
))]
#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use allocation_counter::measure;
use bytes::Bytes;
use common::{batch_of, read_within};
use ottla_record_batch::{
    BATCH_OVERHEAD, BatchBuilder, Compression, Compressor, RecordSet, RecordSetBuilder, RecordView,
};
use ottla_types::{Header, Headers};

/// How often `cargo test` runs each target, besides the corpus.
const ROUNDS: usize = 500;
/// What a reader allows for a batch's records here.
const LIMIT: usize = 1 << 20;
/// What a decompressor keeps besides its output: LZ4 up to three blocks of 4 MiB, others far less.
const WORKING_MEMORY: usize = 13 << 20;
/// A header takes two bytes at least and is two handles of 32 bytes in a list that doubles.
const HEADERS_FACTOR: usize = 128;

/// The input as one batch: length, magic and checksum are made right, so that all else is read.
fn sealed(input: &[u8]) -> Vec<u8> {
    let mut batch = input.to_vec();
    batch.resize(batch.len().max(BATCH_OVERHEAD), 0);
    // Offsets that cannot be would hide the records.
    batch[0] &= 0x7f;
    let length = (batch.len() - 12) as i32;
    batch[8..12].copy_from_slice(&length.to_be_bytes());
    batch[16] = 2;
    let crc = crc32c::crc32c(&batch[21..]);
    batch[17..21].copy_from_slice(&crc.to_be_bytes());
    batch
}

/// Reads all that there is within [`LIMIT`] and within the memory that is right for it.
fn read(bytes: &[u8]) {
    let set = RecordSet::from(Bytes::copy_from_slice(bytes));
    let taken = measure(|| {
        for batch in set.batches().flatten() {
            let _ = (batch.last_offset(), batch.max_timestamp_ms());
            for record in batch.records_within(LIMIT).flatten() {
                assert!(record.size() <= LIMIT.max(bytes.len()));
                let _ = record.headers();
            }
        }
    });
    // A decompressed record can be nothing but headers.
    let compressed = set
        .batches()
        .flatten()
        .any(|batch| batch.compression() != Ok(Compression::None));
    let most = match compressed {
        false => HEADERS_FACTOR * bytes.len() + 4096,
        true => (HEADERS_FACTOR + 2) * LIMIT + WORKING_MEMORY,
    };
    assert!(
        taken.bytes_max <= most as u64,
        "{taken:?}, {most} are right"
    );
}

#[test]
fn fuzz_record_sets() {
    bolero::check!()
        .with_iterations(ROUNDS)
        .for_each(|input: &[u8]| {
            read(input);
            // Two batches that are whole, and one that is cut.
            let (first, second) = input.split_at(input.len() / 2);
            let mut set = sealed(first);
            set.extend(sealed(second));
            set.extend(&sealed(input)[..BATCH_OVERHEAD - 1]);
            read(&set);
        });
}

#[test]
fn fuzz_batches() {
    bolero::check!()
        .with_iterations(ROUNDS)
        .for_each(|input: &[u8]| {
            let set = RecordSet::from(Bytes::from(sealed(input)));
            read(set.bytes());
            // What can be read whole can be written, and is then the same.
            let Ok(records) = read_within(&set, LIMIT) else {
                return;
            };
            let Some(headers) = headers_of(&records) else {
                return;
            };
            let mut builder = RecordSetBuilder::new();
            for (record, headers) in records.iter().zip(&headers) {
                let (key, value) = (record.key.as_deref(), record.value.as_deref());
                let (at, kind) = (record.timestamp_ms, record.timestamp_type);
                builder
                    .push(record.offset, at, kind, key, value, headers)
                    .unwrap();
            }
            let again = read_within(&builder.finish(), LIMIT).unwrap();
            assert_eq!(headers_of(&again).as_ref(), Some(&headers));
            let fields =
                |r: &RecordView| (r.offset, r.timestamp_ms, r.key.clone(), r.value.clone());
            assert!(records.iter().map(fields).eq(again.iter().map(fields)));
        });
}

fn headers_of(records: &[RecordView]) -> Option<Vec<Headers>> {
    records.iter().map(|record| record.headers().ok()).collect()
}

/// One decompressor: its bounds hold for the output and for what it takes on the way.
fn decompress(codec: Compression, payload: &[u8]) {
    for limit in [100, LIMIT] {
        let set = batch_of(codec, 1, payload);
        let taken = measure(|| {
            let read = read_within(&set, limit);
            let size = |records: Vec<RecordView>| records.iter().map(RecordView::size).sum();
            assert!(read.map_or(0, size) <= limit);
        });
        let most = limit + limit / 2 + WORKING_MEMORY;
        assert!(
            taken.bytes_max <= most as u64,
            "{taken:?}, {most} are right"
        );
    }
}

macro_rules! decompressors {
    ($($name:ident: $codec:ident,)+) => {
        $(#[test]
        fn $name() {
            bolero::check!()
                .with_iterations(ROUNDS)
                .for_each(|input: &[u8]| decompress(Compression::$codec, input));
        })+
    };
}

decompressors! {
    fuzz_gzip: Gzip,
    fuzz_snappy: Snappy,
    fuzz_lz4: Lz4,
    fuzz_zstd: Zstd,
}

type Field = Option<Vec<u8>>;
type Input = (i64, Field, Field, Vec<(Vec<u8>, Field)>);

#[test]
fn fuzz_there_and_back() {
    bolero::check!()
        .with_iterations(ROUNDS)
        .with_type::<(u8, Vec<Input>)>()
        .for_each(|(codec, inputs): &(u8, Vec<Input>)| {
            let codec = Compression::ALL[usize::from(*codec) % Compression::ALL.len()];
            let mut builder = BatchBuilder::new(usize::MAX);
            let mut wanted = Vec::new();
            for (at, key, value, pairs) in inputs {
                let headers: Headers = pairs
                    .iter()
                    .map(|(key, value)| Header {
                        key: key.clone().into(),
                        value: value.clone().map(Bytes::from),
                    })
                    .collect();
                let appended = builder.try_append(*at, key.as_deref(), value.as_deref(), &headers);
                // Times too far apart do not fit one batch.
                if appended.is_ok() {
                    let (key, value) =
                        (key.clone().map(Bytes::from), value.clone().map(Bytes::from));
                    wanted.push((wanted.len() as i64, *at, key, value, headers));
                }
            }
            if wanted.is_empty() {
                return;
            }
            let batch = builder.finish_with(&mut Compressor::new(codec).unwrap());
            let records = read_within(&batch.into_record_set(), usize::MAX >> 8).unwrap();
            let read: Vec<_> = records
                .into_iter()
                .map(|r| {
                    let headers = r.headers().unwrap();
                    (r.offset, r.timestamp_ms, r.key, r.value, headers)
                })
                .collect();
            assert_eq!(read, wanted);
        });
}
