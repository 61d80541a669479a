//! Zstandard (RFC 8878).

use super::Failure;
use bytes::buf::{Chain, Reader};
use bytes::{Buf, Bytes};
use std::io::{self, Read};
use zrip::frame::MAX_BLOCK_SIZE;
use zrip::frame::header::parse_frame_header;
use zrip::{CompressContext, DecompressContext, DecompressError, FrameDecoder, compress_bound};

/// Measured on JSON events, this encoder's level 1 is both faster and smaller than its 3 and 4.
const LEVEL: i32 = 1;
/// The largest window that is read: what zstd itself reads by default, 128 MiB.
const MAX_WINDOW: u64 = 128 << 20;
/// The window of a stream, which keeps up to two of them. Encoders rarely look back further, also
/// where a frame's header allows it, as that of every frame does which states its size.
const STREAM_WINDOW_LOG: u8 = 21;
const STREAM_WINDOW: u64 = 1 << STREAM_WINDOW_LOG;
const BLOCK_HEADER: usize = 3;
const CHECKSUM: usize = 4;
/// A skippable frame's number is this with the lowest four bits of any value.
const SKIPPABLE: u32 = 0x184d_2a50;
const RLE: u32 = 1;
/// In a frame's descriptor: the window is the content, and is not stated.
const SINGLE_SEGMENT: u8 = 0x20;
const MIN_WINDOW_LOG: u8 = 10;
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
    out.reserve_exact(survey(data)?.most.min(most_read).saturating_add(SLACK));
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

/// Only the first frame can be given a smaller window: where another one states a large window, all
/// is decompressed at once.
pub(super) fn stream(data: Bytes, limit: usize) -> Result<Box<dyn Read + Send>, Failure> {
    if survey(&data)?.has_wide_window_later {
        let plain = decompress(&data, limit)?;
        return Ok(Box::new(Bytes::from(plain).reader()));
    }
    Ok(Box::new(Stream {
        decoder: Some(FrameDecoder::with_limit(
            narrowed(&data)?.reader(),
            usize::MAX,
        )),
        given: 0,
        plain: Bytes::new(),
        data,
        limit,
    }))
}

/// Decompresses with a small window. Where that is not enough it does so anew and at once.
struct Stream {
    data: Bytes,
    limit: usize,
    decoder: Option<FrameDecoder<Reader<Chain<Bytes, Bytes>>>>,
    /// The bytes that the decoder gave.
    given: usize,
    /// What was decompressed at once.
    plain: Bytes,
}

impl Read for Stream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if let Some(decoder) = &mut self.decoder {
            if let Ok(read) = decoder.read(buf) {
                self.given += read;
                return Ok(read);
            }
            self.decoder = None;
            let plain = decompress(&self.data, self.limit).map_err(|failure| match failure {
                Failure::TooLarge => io::ErrorKind::FileTooLarge,
                _ => io::ErrorKind::InvalidData,
            })?;
            self.plain = Bytes::from(plain);
            self.plain.advance(self.given.min(self.plain.len()));
        }
        let read = buf.len().min(self.plain.len());
        self.plain.copy_to_slice(&mut buf[..read]);
        Ok(read)
    }
}

/// The frames, the first one with a window that is not above a stream's.
fn narrowed(data: &Bytes) -> Result<Chain<Bytes, Bytes>, Failure> {
    let as_it_is = || Ok(Bytes::new().chain(data.clone()));
    let Ok(header) = parse_frame_header(data) else {
        // A skippable frame, or one whose error the decoder finds.
        return as_it_is();
    };
    // A frame with a dictionary is refused before it takes any memory.
    if header.window_size <= STREAM_WINDOW || header.dict_id.is_some() {
        return as_it_is();
    }
    // Magic, descriptor, the window unless the frame is one segment, the content's size.
    let size_at = if header.single_segment { 5 } else { 6 };
    let size = data.get(size_at..header.header_size);
    let (magic, size) = (data.get(..4), size.ok_or(Failure::Corrupt)?);
    let mut head = magic.ok_or(Failure::Corrupt)?.to_vec();
    head.push(data[4] & !SINGLE_SEGMENT);
    head.push((STREAM_WINDOW_LOG - MIN_WINDOW_LOG) << 3);
    head.extend_from_slice(size);
    Ok(Bytes::from(head).chain(data.slice(header.header_size..)))
}

/// What the headers of frames and of their blocks say.
#[derive(Default)]
struct Survey {
    /// The most bytes that the frames can hold.
    most: usize,
    /// Whether a frame that is not the very first thing states a window above a stream's.
    has_wide_window_later: bool,
}

fn survey(all: &[u8]) -> Result<Survey, Failure> {
    let mut survey = Survey::default();
    let mut data = all;
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
        survey.has_wide_window_later |=
            header.window_size > STREAM_WINDOW && data.len() < all.len();
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
        let stated = stated.unwrap_or(usize::MAX);
        survey.most = survey.most.saturating_add(blocks.min(stated));
        let checksum = if header.content_checksum { CHECKSUM } else { 0 };
        data = data.get(checksum..).ok_or_else(cut)?;
    }
    Ok(survey)
}
