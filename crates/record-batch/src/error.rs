//! What can go wrong while encoding ([`AppendError`]) and decoding ([`DecodeError`]).

use crate::compression::Compression;
use std::fmt;

/// Why a record was not taken into a batch. The batch is as it was before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum AppendError {
    /// It fits a new batch, not this one: finish the batch and start another.
    #[error("the batch is full")]
    Full,
    /// It fits no batch of this size.
    #[error("the record is larger than a batch may be")]
    TooLarge,
    /// A length is above what the format can express (2^31 - 1).
    #[error("a length is above the format's range")]
    Overflow,
    /// The offset is negative or not above the one before it (record sets only).
    #[error("the offset is not above the one before it")]
    OffsetOrder,
}

/// Which rule of the format the bytes break.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Problem {
    /// The batch's length is negative or below the header's size.
    BatchLength,
    /// The record count is negative or above what the bytes can hold.
    RecordCount,
    /// The base offset or last offset delta is negative, or their sum overflows.
    BatchOffsets,
    /// A record's length is negative, cut off or above what is left.
    RecordLength,
    /// A record's fields end before they are complete, or a varint overflows.
    RecordFields,
    /// A record's offset is outside of its batch, or not above the one before it.
    RecordOffset,
    /// A key's or value's length is below -1 or above what is left.
    FieldLength,
    /// The header count is negative or above what the bytes can hold.
    HeaderCount,
    /// A header's key or value is null where it may not be, or longer than what is left.
    Header,
    /// Bytes are left over after the last record or header.
    TrailingBytes,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::BatchLength => "illegal batch length",
            Self::RecordCount => "illegal record count",
            Self::BatchOffsets => "illegal base offset or last offset delta",
            Self::RecordLength => "illegal record length",
            Self::RecordFields => "the record's fields are cut off or overflow",
            Self::RecordOffset => "the record's offset is outside of its batch or out of order",
            Self::FieldLength => "illegal length of a key or value",
            Self::HeaderCount => "illegal header count",
            Self::Header => "illegal header",
            Self::TrailingBytes => "bytes are left over",
        })
    }
}

/// Why bytes could not be read as batches and records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// The batch is of another format than magic 2.
    #[error("batch at offset {base_offset} has magic {magic}, expected 2")]
    UnknownMagic {
        /// The batch's first offset.
        base_offset: i64,
        /// The format's number.
        magic: i8,
    },
    /// The checksum does not fit the bytes.
    #[error("batch at offset {base_offset} has CRC {actual:#010x}, expected {expected:#010x}")]
    BadCrc {
        /// The batch's first offset.
        base_offset: i64,
        /// What the header says.
        expected: u32,
        /// What the bytes give.
        actual: u32,
    },
    /// The batch is compressed with a codec that the format does not define, or that this build
    /// does not have.
    #[error(
        "batch at offset {base_offset} is compressed with codec {}, which is not supported",
        codec_name(*codec)
    )]
    UnsupportedCodec {
        /// The batch's first offset.
        base_offset: i64,
        /// The batch's last offset.
        last_offset: i64,
        /// The codec's number in the format.
        codec: u8,
    },
    /// The records take more bytes when decompressed than the reader allows.
    #[error("batch at offset {base_offset} takes more than {limit} bytes when decompressed")]
    TooLarge {
        /// The batch's first offset.
        base_offset: i64,
        /// The batch's last offset.
        last_offset: i64,
        /// The bytes that are allowed.
        limit: usize,
    },
    /// The records are compressed with a zstd window above 128 MiB.
    #[error("batch at offset {base_offset} has a zstd window of {window} bytes, above 128 MiB")]
    WindowTooLarge {
        /// The batch's first offset.
        base_offset: i64,
        /// The batch's last offset.
        last_offset: i64,
        /// The bytes that the frame asks for.
        window: u64,
    },
    /// The records break a rule of their codec, although the batch's checksum is right.
    #[error("the {codec} data of the batch at offset {base_offset} cannot be decompressed")]
    BadCompression {
        /// The batch's first offset.
        base_offset: i64,
        /// The batch's last offset.
        last_offset: i64,
        /// The codec.
        codec: Compression,
    },
    /// The bytes break a rule of the format.
    #[error("malformed data at offset {offset}: {problem}")]
    Malformed {
        /// The record's offset, or the batch's first one where no record is concerned.
        offset: i64,
        /// The rule.
        problem: Problem,
    },
}

impl DecodeError {
    /// The offset that the error is about: the record's, or its batch's first one.
    pub fn offset(&self) -> i64 {
        match self {
            Self::UnknownMagic { base_offset, .. }
            | Self::BadCrc { base_offset, .. }
            | Self::UnsupportedCodec { base_offset, .. }
            | Self::TooLarge { base_offset, .. }
            | Self::WindowTooLarge { base_offset, .. }
            | Self::BadCompression { base_offset, .. } => *base_offset,
            Self::Malformed { offset, .. } => *offset,
        }
    }

    /// Where a reader goes on that gives the whole batch up; `None` where the error is about a
    /// single record or the bytes may be different when they are fetched again. An error that
    /// tells an offset here comes back on every fetch.
    pub fn skip_to(&self) -> Option<i64> {
        match self {
            Self::UnsupportedCodec { last_offset, .. }
            | Self::TooLarge { last_offset, .. }
            | Self::WindowTooLarge { last_offset, .. }
            | Self::BadCompression { last_offset, .. } => Some(last_offset.saturating_add(1)),
            Self::UnknownMagic { .. } | Self::BadCrc { .. } | Self::Malformed { .. } => None,
        }
    }

    pub(crate) fn malformed(offset: i64, problem: Problem) -> Self {
        Self::Malformed { offset, problem }
    }
}

fn codec_name(bits: u8) -> String {
    match Compression::from_attributes(i16::from(bits)) {
        Ok(codec) => codec.to_string(),
        Err(bits) => format!("{bits} (unknown)"),
    }
}
