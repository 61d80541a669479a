//! A build has the codecs of its features, and says so; to be run with any set of them.

#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use common::{BASE_OFFSET, batch_of, bits, read_within};
use ottla_record_batch::{Compression, Compressor, DecodeError, UnsupportedCompression};

#[test]
fn what_is_not_built_in_is_a_typed_error() {
    let features = [
        (Compression::None, true),
        (Compression::Gzip, cfg!(feature = "gzip")),
        (Compression::Snappy, cfg!(feature = "snappy")),
        (Compression::Lz4, cfg!(feature = "lz4")),
        (Compression::Zstd, cfg!(feature = "zstd")),
    ];
    for (codec, on) in features {
        assert_eq!(codec.is_supported(), on);
        let built = Compressor::new(codec).map(|c| c.compression());
        assert_eq!(
            built,
            if on {
                Ok(codec)
            } else {
                Err(UnsupportedCompression(codec))
            }
        );
        let error = read_within(&batch_of(codec, 3, b"not of any codec"), 1_000).unwrap_err();
        let unsupported = DecodeError::UnsupportedCodec {
            base_offset: BASE_OFFSET,
            last_offset: BASE_OFFSET + 2,
            codec: bits(codec),
        };
        assert_eq!(error == unsupported, !on, "{codec}: {error}");
    }
}

#[test]
fn names_are_those_of_the_configuration() {
    for codec in Compression::ALL {
        assert_eq!(codec.to_string(), codec.name());
    }
    assert_eq!(Compression::default(), Compression::None);
}
