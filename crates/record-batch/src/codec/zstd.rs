//! Zstandard (RFC 8878).

use super::Failure;
use zrip::frame::MAX_BLOCK_SIZE;
use zrip::frame::header::parse_frame_header;
use zrip::{CompressContext, DecompressContext, DecompressError, compress_bound};

/// Measured on JSON events, this encoder's level 1 is both faster and smaller than its 3 and 4.
const LEVEL: i32 = 1;
/// The largest window that is read: what zstd itself reads by default, 128 MiB.
const MAX_WINDOW: u64 = 128 << 20;
const BLOCK_HEADER: usize = 3;
const CHECKSUM: usize = 4;
/// A skippable frame's number is this with the lowest four bits of any value.
const SKIPPABLE: u32 = 0x184d_2a50;
const RLE: u32 = 1;
/// The decoder wants room for a whole block, and a little more, behind what it has.
const SLACK: usize = MAX_BLOCK_SIZE + 64;

pub(super) struct Zstd(CompressContext);

impl Zstd {
    pub(super) fn new() -> Option<Self> {
        CompressContext::new(LEVEL).ok().map(Self)
    }

    pub(super) fn compress(&mut self, data: &[u8], out: &mut Vec<u8>) -> Option<()> {
        out.resize(compress_bound(data.len()), 0);
        let written = self.0.compress_into(data, out).ok()?;
        out.truncate(written);
        Some(())
    }
}

pub(super) fn decompress(data: &[u8], limit: usize) -> Result<Vec<u8>, Failure> {
    // The decoder may end up to one block above the limit: it answers a block that crosses its own
    // limit as it answers a corrupt one.
    let most_read = limit.saturating_add(MAX_BLOCK_SIZE);
    let mut out = Vec::new();
    // Reserved once, so that it is not doubled while it grows.
    out.reserve_exact(most(data)?.min(most_read).saturating_add(SLACK));
    let result = DecompressContext::new().decompress_into_with_limit(data, &mut out, most_read);
    if out.len() > limit {
        return Err(Failure::TooLarge);
    }
    match result {
        Ok(_) => Ok(out),
        Err(DecompressError::OutputTooSmall) => Err(Failure::TooLarge),
        Err(DecompressError::WindowTooLarge { requested, .. }) => {
            Err(Failure::WindowTooLarge(requested))
        }
        Err(_) => Err(Failure::Corrupt),
    }
}

/// The most bytes that the frames in `data` can hold, by what their headers and the headers of
/// their blocks say.
fn most(mut data: &[u8]) -> Result<usize, Failure> {
    let mut sum = 0_usize;
    while !data.is_empty() {
        let cut = || Failure::Corrupt;
        let magic = u32::from_le_bytes(*data.first_chunk().ok_or_else(cut)?);
        if magic & !0xf == SKIPPABLE {
            let length = data
                .get(4..8)
                .and_then(|b| b.first_chunk())
                .ok_or_else(cut)?;
            let length = u32::from_le_bytes(*length) as usize;
            data = data
                .get(8..)
                .and_then(|d| d.get(length..))
                .ok_or_else(cut)?;
            continue;
        }
        let header = parse_frame_header(data).map_err(|_| Failure::Corrupt)?;
        if header.window_size > MAX_WINDOW && !header.single_segment {
            return Err(Failure::WindowTooLarge(header.window_size));
        }
        data = data.get(header.header_size..).ok_or_else(cut)?;
        let mut blocks = 0_usize;
        loop {
            let (block, rest) = data.split_first_chunk::<BLOCK_HEADER>().ok_or_else(cut)?;
            let block = u32::from_le_bytes([block[0], block[1], block[2], 0]);
            let length = if (block >> 1) & 0b11 == RLE {
                1
            } else {
                (block >> 3) as usize
            };
            data = rest.get(length..).ok_or_else(cut)?;
            blocks = blocks.saturating_add(MAX_BLOCK_SIZE);
            if block & 1 != 0 {
                break;
            }
        }
        let stated = header
            .frame_content_size
            .map(|n| usize::try_from(n).unwrap_or(usize::MAX));
        sum = sum.saturating_add(blocks.min(stated.unwrap_or(usize::MAX)));
        let checksum = if header.content_checksum { CHECKSUM } else { 0 };
        data = data.get(checksum..).ok_or_else(cut)?;
    }
    Ok(sum)
}
