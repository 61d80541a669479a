//! Snappy: written in blocks with the framing of xerial's library, as the Java client does; read
//! with that framing, and as one raw block, as librdkafka writes it.

use super::Failure;
use bytes::Bytes;
use snap::raw::{Decoder, Encoder, decompress_len, max_compress_len};
use std::io::{self, Read};

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

/// How long a block is when it is decompressed.
fn block_len(block: &[u8]) -> Result<usize, Failure> {
    match decompress_len(block) {
        Ok(length) if length <= block.len().saturating_mul(MAX_RATIO) => Ok(length),
        _ => Err(Failure::Corrupt),
    }
}

pub(super) fn decompress(data: &[u8], limit: usize) -> Result<Vec<u8>, Failure> {
    let mut total = 0_usize;
    let mut blocks = Blocks::new(data);
    while let Some(block) = blocks.next()? {
        let length = block_len(block)?;
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

pub(super) fn stream(data: Bytes, limit: usize) -> Box<dyn Read + Send> {
    Box::new(BlockReader {
        data,
        at: 0,
        limit,
        block: Vec::new(),
        given: 0,
    })
}

/// One block after the other, none larger than the limit.
struct BlockReader {
    data: Bytes,
    /// Where the next block begins.
    at: usize,
    limit: usize,
    block: Vec<u8>,
    /// What was given of the block.
    given: usize,
}

impl BlockReader {
    /// Decompresses the next block; false at the end.
    fn next_block(&mut self) -> Result<bool, Failure> {
        let mut blocks = Blocks {
            rest: self.data.get(self.at..).unwrap_or_default(),
            framed: self.data.starts_with(&MAGIC),
        };
        let Some(block) = blocks.next()? else {
            return Ok(false);
        };
        let length = block_len(block)?;
        if length > self.limit {
            return Err(Failure::TooLarge);
        }
        self.block.resize(length, 0);
        self.given = 0;
        let written = Decoder::new().decompress(block, &mut self.block);
        self.block.truncate(written.map_err(|_| Failure::Corrupt)?);
        self.at = self.data.len() - blocks.rest.len();
        Ok(true)
    }
}

impl Read for BlockReader {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        while self.given == self.block.len() {
            match self.next_block() {
                Ok(true) => {}
                Ok(false) => return Ok(0),
                Err(Failure::TooLarge) => return Err(io::ErrorKind::FileTooLarge.into()),
                Err(_) => return Err(io::ErrorKind::InvalidData.into()),
            }
        }
        let left = &self.block[self.given..];
        let read = left.len().min(buf.len());
        buf[..read].copy_from_slice(&left[..read]);
        self.given += read;
        Ok(read)
    }
}
