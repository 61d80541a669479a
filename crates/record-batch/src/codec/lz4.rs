//! LZ4 in its frame format, as KIP-57 asks for: independent blocks of 64 KiB, which is all that the
//! Java client reads.

use super::Failure;
use super::read::read_to_limit;
use lz4_flex::frame::{BlockMode, BlockSize, FrameDecoder, FrameEncoder, FrameInfo};
use std::io::Write;

/// How much is believed to come out; more is read as well.
const USUAL_RATIO: usize = 4;

pub(super) struct Lz4(FrameEncoder<Vec<u8>>);

impl Lz4 {
    pub(super) fn new() -> Self {
        let info = FrameInfo::new()
            .block_mode(BlockMode::Independent)
            .block_size(BlockSize::Max64KB);
        Self(FrameEncoder::with_frame_info(info, Vec::new()))
    }

    pub(super) fn compress(&mut self, data: &[u8], out: &mut Vec<u8>) -> Option<()> {
        std::mem::swap(self.0.get_mut(), out);
        let written = self.0.write_all(data).is_ok() && self.0.try_finish().is_ok();
        std::mem::swap(self.0.get_mut(), out);
        if !written {
            // A frame that is half written must not be gone on with.
            *self = Self::new();
        }
        written.then_some(())
    }
}

pub(super) fn decompress(mut data: &[u8], limit: usize) -> Result<Vec<u8>, Failure> {
    let mut out = Vec::new();
    while !data.is_empty() {
        let before = data.len();
        // A decoder for each frame: its buffers fit one block size only.
        let mut frame = FrameDecoder::new(data);
        let expected = before.saturating_mul(USUAL_RATIO);
        read_to_limit(&mut frame, &mut out, expected, limit)?;
        data = frame.into_inner();
        if data.len() == before {
            return Err(Failure::Corrupt);
        }
    }
    Ok(out)
}
