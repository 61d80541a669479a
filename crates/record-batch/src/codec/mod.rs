//! The codecs: [`Compressor`] for batches on their way out, [`decompress`] for those that come in.
//!
//! Decompression reads what came from outside. It never gives more than the bytes that the caller
//! allows, and reserves memory only for what the compressed bytes can possibly hold; zstd decodes
//! into its output, so that a frame's window costs nothing on top of it.
//!
//! The crates were picked by measuring; the table is in ARCHITECTURE.md.

#[cfg(feature = "gzip")]
mod gzip;
#[cfg(feature = "lz4")]
mod lz4;
#[cfg(any(feature = "gzip", feature = "lz4"))]
mod read;
#[cfg(feature = "snappy")]
mod snappy;
#[cfg(feature = "zstd")]
mod zstd;

use crate::compression::{Compression, UnsupportedCompression};
use crate::header::BATCH_OVERHEAD;
use bytes::{Bytes, BytesMut};
use std::fmt;
use std::io::Read;

/// The bound on a batch's records when the caller names none: 64 MiB.
pub const DEFAULT_MAX_DECOMPRESSED: usize = 64 << 20;

/// Compresses the records of finished batches. It keeps the codec's tables and one output buffer
/// from batch to batch, so it is made once and reused; it takes no memory for
/// [`Compression::None`].
pub struct Compressor {
    compression: Compression,
    state: State,
    out: Vec<u8>,
}

enum State {
    None,
    #[cfg(feature = "gzip")]
    Gzip(Box<gzip::Gzip>),
    #[cfg(feature = "snappy")]
    Snappy(Box<snappy::Snappy>),
    #[cfg(feature = "lz4")]
    Lz4(Box<lz4::Lz4>),
    #[cfg(feature = "zstd")]
    Zstd(Box<zstd::Zstd>),
}

impl Compressor {
    /// # Errors
    /// [`UnsupportedCompression`] if the codec's Cargo feature is off.
    pub fn new(compression: Compression) -> Result<Self, UnsupportedCompression> {
        let state = match compression {
            Compression::None => State::None,
            #[cfg(feature = "gzip")]
            Compression::Gzip => State::Gzip(Box::new(gzip::Gzip::new())),
            #[cfg(feature = "snappy")]
            Compression::Snappy => State::Snappy(Box::new(snappy::Snappy::new())),
            #[cfg(feature = "lz4")]
            Compression::Lz4 => State::Lz4(Box::new(lz4::Lz4::new())),
            #[cfg(feature = "zstd")]
            Compression::Zstd => State::Zstd(Box::new(
                zstd::Zstd::new().ok_or(UnsupportedCompression(compression))?,
            )),
            #[allow(unreachable_patterns, reason = "reachable where a feature is off")]
            other => return Err(UnsupportedCompression(other)),
        };
        Ok(Self {
            compression,
            state,
            out: Vec::new(),
        })
    }

    /// The codec.
    pub fn compression(&self) -> Compression {
        self.compression
    }

    /// Replaces the records in `batch`, which stand behind the room for the header, by their
    /// compressed form, and says which codec the batch has now: none where the records did not get
    /// smaller.
    pub(crate) fn compress_records(&mut self, batch: &mut BytesMut) -> Compression {
        let records = &batch[BATCH_OVERHEAD..];
        let out = &mut self.out;
        out.clear();
        let compressed: Option<()> = match &mut self.state {
            State::None => None,
            #[cfg(feature = "gzip")]
            State::Gzip(codec) => codec.compress(records, out),
            #[cfg(feature = "snappy")]
            State::Snappy(codec) => codec.compress(records, out),
            #[cfg(feature = "lz4")]
            State::Lz4(codec) => codec.compress(records, out),
            #[cfg(feature = "zstd")]
            State::Zstd(codec) => codec.compress(records, out),
        };
        if compressed.is_none() || out.len() >= records.len() {
            return Compression::None;
        }
        batch.truncate(BATCH_OVERHEAD + out.len());
        batch[BATCH_OVERHEAD..].copy_from_slice(out);
        self.compression
    }
}

impl fmt::Debug for Compressor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Compressor")
            .field("compression", &self.compression)
            .finish_non_exhaustive()
    }
}

/// Why records could not be decompressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(dead_code, reason = "without a codec, its ways to fail are not there")]
pub(crate) enum Failure {
    /// The codec's feature is off.
    Unsupported,
    /// More bytes than the caller allows.
    TooLarge,
    /// A zstd window of so many bytes, above what is read.
    WindowTooLarge(u64),
    /// The bytes break a rule of the codec.
    Corrupt,
}

/// Decompresses `data` as it is read. What the codec cannot give in pieces is decompressed at once,
/// into at most `limit` bytes.
#[allow(
    unused_variables,
    reason = "without any codec there is nothing to read"
)]
pub(crate) fn stream(
    compression: Compression,
    data: &Bytes,
    limit: usize,
) -> Result<Box<dyn Read + Send>, Failure> {
    match compression {
        #[cfg(feature = "gzip")]
        Compression::Gzip => Ok(gzip::stream(data.clone())),
        #[cfg(feature = "snappy")]
        Compression::Snappy => Ok(snappy::stream(data.clone(), limit)),
        #[cfg(feature = "lz4")]
        Compression::Lz4 => Ok(lz4::stream(data.clone())),
        #[cfg(feature = "zstd")]
        Compression::Zstd => zstd::stream(data.clone(), limit),
        _ => Err(Failure::Unsupported),
    }
}

/// Decompresses `data` into at most `limit` bytes.
#[allow(
    unused_variables,
    reason = "without any codec there is nothing to read"
)]
pub(crate) fn decompress(
    compression: Compression,
    data: &[u8],
    limit: usize,
) -> Result<Vec<u8>, Failure> {
    let out = match compression {
        #[cfg(feature = "gzip")]
        Compression::Gzip => gzip::decompress(data, limit),
        #[cfg(feature = "snappy")]
        Compression::Snappy => snappy::decompress(data, limit),
        #[cfg(feature = "lz4")]
        Compression::Lz4 => lz4::decompress(data, limit),
        #[cfg(feature = "zstd")]
        Compression::Zstd => zstd::decompress(data, limit),
        _ => Err(Failure::Unsupported),
    };
    let mut out: Vec<u8> = out?;
    // Records keep the buffer for as long as they live: not with much room that nothing uses.
    if out.capacity() - out.len() > out.len() / 4 {
        out.shrink_to_fit();
    }
    Ok(out)
}
