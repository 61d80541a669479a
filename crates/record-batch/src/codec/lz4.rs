//! LZ4 in its frame format, as KIP-57 asks for: independent blocks of 64 KiB, which is all that the
//! Java client reads.

use super::Failure;
use super::read::read_to_limit;
use bytes::buf::Reader;
use bytes::{Buf, Bytes};
use lz4_flex::frame::{BlockMode, BlockSize, FrameDecoder, FrameEncoder, FrameInfo};
use std::io::{self, Read, Write};

/// What a frame begins with. The decoder knows the old format without frames too, which no client
/// of Kafka writes and which takes 16 MiB for a block of any size.
const MAGIC: [u8; 4] = 0x184d_2204_u32.to_le_bytes();
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
        if !data.starts_with(&MAGIC) {
            return Err(Failure::Corrupt);
        }
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

pub(super) fn stream(data: Bytes) -> Box<dyn Read + Send> {
    Box::new(Frames {
        before: data.len(),
        frame: Some(FrameDecoder::new(data.reader())),
    })
}

/// Frames one after the other, each with a decoder of its own.
struct Frames {
    frame: Option<FrameDecoder<Reader<Bytes>>>,
    /// What was left when the frame began.
    before: usize,
}

impl Read for Frames {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        while let Some(frame) = &mut self.frame {
            let read = frame.read(buf)?;
            if read > 0 || buf.is_empty() {
                return Ok(read);
            }
            let rest = self.frame.take().map(FrameDecoder::into_inner);
            if let Some(rest) = rest
                && rest.get_ref().has_remaining()
            {
                let left = rest.get_ref().remaining();
                if left == self.before {
                    return Err(io::ErrorKind::InvalidData.into());
                }
                self.before = left;
                self.frame = Some(FrameDecoder::new(rest));
            }
        }
        Ok(0)
    }
}
