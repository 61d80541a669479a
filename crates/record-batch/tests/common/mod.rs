//! Batches with a payload of the test's choice.

#![allow(dead_code, clippy::unwrap_used, reason = "tests use what they need")]

use bytes::Bytes;
use ottla_record_batch::{BatchBuilder, Compression, DecodeError, RecordSet, RecordView};
use ottla_types::Headers;

pub(crate) const CODECS: [Compression; 4] = [
    Compression::Gzip,
    Compression::Snappy,
    Compression::Lz4,
    Compression::Zstd,
];

pub(crate) fn bits(codec: Compression) -> u8 {
    Compression::ALL.iter().position(|c| *c == codec).unwrap() as u8
}

/// The offset of the batches that [`batch_of`] makes.
pub(crate) const BASE_OFFSET: i64 = 40;

/// A batch at [`BASE_OFFSET`] whose records are `payload`, whatever that is; its checksum is right.
pub(crate) fn batch_of(codec: Compression, count: i32, payload: &[u8]) -> RecordSet {
    let mut batch = BatchBuilder::new(100).finish().bytes().to_vec();
    batch[..8].copy_from_slice(&BASE_OFFSET.to_be_bytes());
    batch[22] = bits(codec);
    batch[23..27].copy_from_slice(&(count - 1).max(0).to_be_bytes());
    batch[57..61].copy_from_slice(&count.to_be_bytes());
    batch.extend_from_slice(payload);
    let length = (batch.len() - 12) as i32;
    batch[8..12].copy_from_slice(&length.to_be_bytes());
    let crc = crc32c::crc32c(&batch[21..]);
    batch[17..21].copy_from_slice(&crc.to_be_bytes());
    RecordSet::from(Bytes::from(batch))
}

pub(crate) fn read_within(set: &RecordSet, limit: usize) -> Result<Vec<RecordView>, DecodeError> {
    let mut all = Vec::new();
    for batch in set.batches() {
        for record in batch?.records_within(limit) {
            all.push(record?);
        }
    }
    Ok(all)
}

/// Order events, about 300 bytes each.
pub(crate) fn orders(count: usize) -> BatchBuilder {
    let mut random = fastrand::Rng::with_seed(count as u64);
    let mut builder = BatchBuilder::new(usize::MAX);
    for i in 0..count {
        let key = format!("order-{i}");
        let value = format!(
            r#"{{"type":"order.created","event_id":"{:032x}","order_id":"order-{i}","customer_id":"c-{:07}","created_at":"2026-05-01T10:{:02}:{:02}.{:03}Z","currency":"EUR","status":"created","items":[{{"sku":"SKU-{:06}","quantity":{},"unit_price_cents":{}}}]}}"#,
            random.u128(..),
            random.u32(0..400_000),
            random.u32(0..60),
            random.u32(0..60),
            random.u32(0..1_000),
            random.u32(0..50_000),
            random.u32(1..6),
            random.u32(199..99_999),
        );
        let headers = Headers::new().with("trace", format!("{:016x}", random.u64(..)));
        builder
            .try_append(
                1_700_000_000_000 + i as i64,
                Some(key.as_bytes()),
                Some(value.as_bytes()),
                &headers,
            )
            .unwrap();
    }
    builder
}

/// `bytes` equal bytes, as small as the codec makes them.
pub(crate) fn bomb(codec: Compression, bytes: usize) -> Vec<u8> {
    match codec {
        Compression::Gzip => {
            use std::io::Write;
            let level = flate2::Compression::new(6);
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), level);
            let zeros = vec![0; 1 << 16];
            for _ in 0..bytes / zeros.len() {
                encoder.write_all(&zeros).unwrap();
            }
            encoder.finish().unwrap()
        }
        Compression::Snappy => {
            // Blocks of 64 KiB: one literal byte, then copies of 64 bytes from one byte back.
            let block: &[u8] = &[0x80, 0x80, 0x04, 0x00, 0x00];
            let mut block = block.to_vec();
            block.extend([0xfe, 0x01, 0x00].repeat(1_023));
            block.extend([(62 << 2) | 0x02, 0x01, 0x00]);
            let mut out = b"\x82SNAPPY\0\0\0\0\x01\0\0\0\x01".to_vec();
            for _ in 0..bytes / (1 << 16) {
                out.extend((block.len() as u32).to_be_bytes());
                out.extend(&block);
            }
            out
        }
        Compression::Lz4 => {
            use std::io::Write;
            let info =
                lz4_flex::frame::FrameInfo::new().block_size(lz4_flex::frame::BlockSize::Max4MB);
            let mut encoder = lz4_flex::frame::FrameEncoder::with_frame_info(info, Vec::new());
            let zeros = vec![0; 1 << 16];
            for _ in 0..bytes / zeros.len() {
                encoder.write_all(&zeros).unwrap();
            }
            encoder.finish().unwrap()
        }
        Compression::Zstd => zstd_zeros(bytes, None),
        other => panic!("no bomb for {other}"),
    }
}

/// A zstd frame of run-length blocks of 128 KiB, with a window of 1 MiB; `stated` is the content
/// size that its header claims, if any.
pub(crate) fn zstd_zeros(bytes: usize, stated: Option<u64>) -> Vec<u8> {
    let mut out = 0xfd2f_b528_u32.to_le_bytes().to_vec();
    out.push(if stated.is_some() { 0xc0 } else { 0 });
    out.push(10 << 3);
    if let Some(size) = stated {
        out.extend(size.to_le_bytes());
    }
    let blocks = bytes / (128 << 10);
    for block in 0..blocks {
        let last = u32::from(block + 1 == blocks);
        let header = (128 << 10 << 3) | (1 << 1) | last;
        out.extend(&header.to_le_bytes()[..3]);
        out.push(0);
    }
    out
}
