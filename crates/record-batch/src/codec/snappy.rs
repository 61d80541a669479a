//! Snappy: written in blocks with the framing of xerial's library, as the Java client does; read
//! with that framing, and as one raw block, as librdkafka writes it.

use super::Failure;
use snap::raw::{Decoder, Encoder, decompress_len, max_compress_len};

/// The framing's first bytes; two versions of four bytes each follow.
const MAGIC: [u8; 8] = *b"\x82SNAPPY\0";
const HEADER_LEN: usize = 16;
const VERSIONS: [u8; 8] = [0, 0, 0, 1, 0, 0, 0, 1];
/// xerial's block size.
const BLOCK: usize = 32 * 1024;
/// A copy of 64 bytes takes three.
const MAX_RATIO: usize = 22;

pub(super) struct Snappy(Encoder);

impl Snappy {
    pub(super) fn new() -> Self {
        Self(Encoder::new())
    }

    pub(super) fn compress(&mut self, data: &[u8], out: &mut Vec<u8>) -> Option<()> {
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&VERSIONS);
        for block in data.chunks(BLOCK) {
            let at = out.len();
            out.resize(at + 4 + max_compress_len(block.len()), 0);
            let written = self.0.compress(block, &mut out[at + 4..]).ok()?;
            out[at..at + 4].copy_from_slice(&(written as u32).to_be_bytes());
            out.truncate(at + 4 + written);
        }
        Some(())
    }
}

/// The raw blocks of `data`, in order.
struct Blocks<'a> {
    rest: &'a [u8],
    framed: bool,
}

impl<'a> Blocks<'a> {
    fn new(data: &'a [u8]) -> Self {
        Self {
            rest: data,
            framed: data.starts_with(&MAGIC),
        }
    }

    fn next(&mut self) -> Result<Option<&'a [u8]>, Failure> {
        if !self.framed {
            return Ok(Some(std::mem::take(&mut self.rest)).filter(|block| !block.is_empty()));
        }
        // Streams may be joined: a header can stand wherever a block can.
        while self.rest.starts_with(&MAGIC) {
            self.rest = self.rest.get(HEADER_LEN..).ok_or(Failure::Corrupt)?;
        }
        if self.rest.is_empty() {
            return Ok(None);
        }
        let (length, rest) = self.rest.split_first_chunk().ok_or(Failure::Corrupt)?;
        let length = usize::try_from(i32::from_be_bytes(*length)).map_err(|_| Failure::Corrupt)?;
        let (block, rest) = rest.split_at_checked(length).ok_or(Failure::Corrupt)?;
        self.rest = rest;
        Ok(Some(block))
    }
}

pub(super) fn decompress(data: &[u8], limit: usize) -> Result<Vec<u8>, Failure> {
    let mut total = 0_usize;
    let mut blocks = Blocks::new(data);
    while let Some(block) = blocks.next()? {
        let length = decompress_len(block).map_err(|_| Failure::Corrupt)?;
        if length > block.len().saturating_mul(MAX_RATIO) {
            return Err(Failure::Corrupt);
        }
        total = total.saturating_add(length);
        if total > limit {
            return Err(Failure::TooLarge);
        }
    }
    let mut out = vec![0; total];
    let mut at = 0;
    let mut decoder = Decoder::new();
    let mut blocks = Blocks::new(data);
    while let Some(block) = blocks.next()? {
        let written = decoder.decompress(block, &mut out[at..]);
        at += written.map_err(|_| Failure::Corrupt)?;
    }
    Ok(out)
}
