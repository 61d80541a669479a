//! [`Compression`]: the codecs of the format, and which of them this build has.

use std::fmt;

/// `compression.type`: how the records of a batch are compressed.
///
/// Each codec but [`None`](Self::None) is behind the Cargo feature of its name; all are on by
/// default. A build without one cannot read its batches
/// ([`UnsupportedCodec`](crate::DecodeError::UnsupportedCodec)) nor write them
/// ([`UnsupportedCompression`]).
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, Default, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Compression {
    /// As it is.
    #[default]
    None,
    /// RFC 1952.
    Gzip,
    /// Snappy: written in the framing of xerial's library, read with and without it.
    Snappy,
    /// LZ4 frame.
    Lz4,
    /// Zstandard (RFC 8878, KIP-110).
    Zstd,
}

impl Compression {
    /// Every codec that the format knows.
    pub const ALL: [Self; 5] = [Self::None, Self::Gzip, Self::Snappy, Self::Lz4, Self::Zstd];

    /// Those that this build can read and write.
    pub const SUPPORTED: &'static [Self] = &[
        Self::None,
        #[cfg(feature = "gzip")]
        Self::Gzip,
        #[cfg(feature = "snappy")]
        Self::Snappy,
        #[cfg(feature = "lz4")]
        Self::Lz4,
        #[cfg(feature = "zstd")]
        Self::Zstd,
    ];

    /// Whether this build can read and write it.
    pub fn is_supported(self) -> bool {
        Self::SUPPORTED.contains(&self)
    }

    /// The name that `compression.type` takes.
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Gzip => "gzip",
            Self::Snappy => "snappy",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
        }
    }

    /// The bits in a batch's attributes.
    pub(crate) const fn bits(self) -> i16 {
        match self {
            Self::None => 0,
            Self::Gzip => 1,
            Self::Snappy => 2,
            Self::Lz4 => 3,
            Self::Zstd => 4,
        }
    }

    /// The codec of a batch, or the bits if the format does not define them.
    pub(crate) fn from_attributes(attributes: i16) -> Result<Self, u8> {
        match attributes & 0x7 {
            0 => Ok(Self::None),
            1 => Ok(Self::Gzip),
            2 => Ok(Self::Snappy),
            3 => Ok(Self::Lz4),
            4 => Ok(Self::Zstd),
            other => Err(other as u8),
        }
    }
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The codec was not built in: its Cargo feature is off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
#[error("codec {0} is not part of this build")]
pub struct UnsupportedCompression(pub Compression);
