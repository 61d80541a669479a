//! gzip (RFC 1952).

use super::Failure;
use super::read::read_to_limit;
use bytes::{Buf, Bytes};
use flate2::bufread::MultiGzDecoder;
use flate2::{Compress, Crc, FlushCompress, Status};
use std::io::Read;

/// What Java, librdkafka and zlib mean by gzip unless they are told otherwise.
const LEVEL: u32 = 6;
/// Deflate, no name, no time, an unknown file system.
const HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff];
/// Deflate gives at most so many bytes for one.
const MAX_RATIO: usize = 1032;
/// Room that is given to the encoder at a time.
const STEP: usize = 16 * 1024;

pub(super) struct Gzip(Compress);

impl Gzip {
    pub(super) fn new() -> Self {
        Self(Compress::new(flate2::Compression::new(LEVEL), false))
    }

    pub(super) fn compress(&mut self, data: &[u8], out: &mut Vec<u8>) -> Option<()> {
        self.0.reset();
        out.extend_from_slice(&HEADER);
        loop {
            let taken = usize::try_from(self.0.total_in()).ok()?;
            let rest = data.get(taken..)?;
            out.reserve((rest.len() / 4).max(STEP));
            match self.0.compress_vec(rest, out, FlushCompress::Finish).ok()? {
                Status::StreamEnd => break,
                Status::Ok | Status::BufError => {}
            }
        }
        let mut crc = Crc::new();
        crc.update(data);
        out.extend_from_slice(&crc.sum().to_le_bytes());
        out.extend_from_slice(&(data.len() as u32).to_le_bytes());
        Some(())
    }
}

pub(super) fn decompress(data: &[u8], limit: usize) -> Result<Vec<u8>, Failure> {
    // The last four bytes say how long the last member is.
    let expected = data
        .last_chunk()
        .map_or(0, |size| u32::from_le_bytes(*size));
    let expected = (expected as usize).min(data.len().saturating_mul(MAX_RATIO));
    let mut out = Vec::new();
    read_to_limit(&mut MultiGzDecoder::new(data), &mut out, expected, limit)?;
    Ok(out)
}

pub(super) fn stream(data: Bytes) -> Box<dyn Read + Send> {
    Box::new(MultiGzDecoder::new(data.reader()))
}
