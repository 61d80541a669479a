//! Kafka's record batch, magic 2: encoded once while records are added, decoded lazily from shared
//! bytes.
//!
//! This crate is pure: no runtime, no clock, no randomness; it builds for `wasm32-unknown-unknown`.
//!
//! - [`BatchBuilder`] encodes records straight into the buffer that goes on the wire and yields an
//!   [`EncodedBatch`].
//! - [`RecordSet`] is what a fetch brings: any number of batches, the last one perhaps cut off.
//!   [`BatchView`] and [`RecordView`] read it without copying keys and values.
//! - [`RecordSetBuilder`] writes a record set with offsets of the caller's choice, for transports
//!   that get records already decoded.
//!
//! What must hold: whatever is decoded came from outside. Every length and count is compared with
//! the bytes that are left before anything is reserved or sliced, and nothing panics. The format is
//! described at <https://kafka.apache.org/documentation/#recordbatch> (KIP-98, KIP-32, KIP-82).
//!
//! gzip, snappy, lz4 and zstd are read without being asked, and written by
//! [`BatchBuilder::finish_with`]; all in Rust, each behind the Cargo feature of its name, all on by
//! default. A batch that takes more memory than [`BatchView::records_within`] allows is one error;
//! [`BatchView::parts`] reads it a part at a time.
//!
//! ```
//! use ottla_record_batch::BatchBuilder;
//! use ottla_types::Headers;
//!
//! let mut builder = BatchBuilder::new(16 * 1024);
//! builder.try_append(1_700_000_000_000, Some(b"order-1"), Some(b"paid"), &Headers::new())?;
//! let set = builder.finish().into_record_set();
//! for batch in set.batches() {
//!     for record in batch?.records() {
//!         assert_eq!(record?.key.as_deref(), Some(&b"order-1"[..]));
//!     }
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod builder;
mod codec;
mod compression;
mod encoded;
mod error;
mod header;
mod parts;
mod record;
mod set;
mod set_builder;
mod varint;
mod view;

pub use builder::{BatchBuilder, record_size};
pub use codec::{Compressor, DEFAULT_MAX_DECOMPRESSED};
pub use compression::{Compression, UnsupportedCompression};
pub use encoded::{EncodedBatch, SealedBatch, Stamp};
pub use error::{AppendError, DecodeError, Problem};
pub use header::BATCH_OVERHEAD;
pub use parts::{Part, Parts};
pub use record::RecordView;
pub use set::{Batches, RecordSet};
pub use set_builder::RecordSetBuilder;
pub use view::{BatchView, Records};
